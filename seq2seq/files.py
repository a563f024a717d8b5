"""Files: text read strictly, everything written whole or not at all."""

import json
import os
import re
import tempfile
from pathlib import Path
from typing import Any

from seq2seq.errors import UserError


def file_name(split: str) -> str:
    """A split's name as part of a file name; on the hub it may be an expression, ``test[:50%]``."""
    return re.sub(r"[^\w.-]", "_", split)


def read_bytes(path: Path) -> bytes:
    """The content of ``path``; ``UserError`` if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def read_lines(path: Path) -> list[str]:
    r"""The lines of a UTF-8 file, split at ``\n`` only, without a byte order mark or ``\r``.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 (the message has its number).
    """
    raw = read_bytes(path).removeprefix(b"\xef\xbb\xbf")
    lines = raw.split(b"\n")
    if not lines[-1]:
        lines.pop()
    decoded = []
    for number, line in enumerate(lines, start=1):
        try:
            decoded.append(line.rstrip(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise UserError(f"{path}, line {number}: not UTF-8: {error.reason}") from None
    return decoded


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ``UserError`` if it cannot be read or is none."""
    try:
        found = json.loads(read_bytes(path))
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged, or not written by this program; remove it")
    return found


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` so that ``path`` is at every moment the old file or the new, whole.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=path.name + ".", suffix=".tmp", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` for text, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: list[str]) -> None:
    """``write_bytes`` for lines that hold no line break."""
    write_text(path, "".join(line + "\n" for line in lines))
