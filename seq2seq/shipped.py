"""What comes with the package: configurations by name, and the corpus that is generated."""

import os
import subprocess
import sys
from pathlib import Path

from seq2seq.utils import UserError, did_you_mean, new_folder, warn

# The repository's configs/ and data/; pyproject.toml puts them into a folder of the wheel.
_IN_WHEEL = Path(__file__).with_name("share")
SHIPPED = _IN_WHEEL if _IN_WHEEL.is_dir() else Path(__file__).parent.parent
TANDEM = Path("data/tandem/corpus")  # where the configurations look for it


def find_config(name: Path | str, beside: Path = Path(), kind: str = "configs") -> Path:
    """The file ``name`` in the folder ``beside``, or else the shipped configuration of that name.

    The latter with or without ``.toml`` and its folder ``kind``, which is ``configs`` or
    ``configs/experiments``. ``UserError`` if there is neither.
    """
    path = beside / name
    if os.path.exists(path) and not os.path.isdir(path):  # of any name, where Path's may raise
        return path
    known = {file.stem: file for file in sorted((SHIPPED / kind).glob("*.toml"))}
    wanted = Path(name).name.removesuffix(".toml")
    if wanted in known and Path(name).parent in (Path(), Path(kind)):
        return known[wanted]
    problem = f"No such file, nor a shipped one ({', '.join(known)})"
    raise UserError(f"{path}: {problem}{did_you_mean(wanted, known)}")


def make_tandem(folder: Path | str) -> None:
    """Generate the bundled corpus if ``folder`` is where it belongs, and is not there."""
    folder = Path(folder)
    if folder != TANDEM or folder.exists():
        return
    warn(f"{folder}: generating the bundled corpus, ten seconds")
    with new_folder(folder) as made:
        command = [sys.executable, str(SHIPPED / "data" / "tandem" / "generate.py"), str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            reason = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
            raise UserError(f"{folder}: cannot be generated: {reason}")
