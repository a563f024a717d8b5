"""A run folder: the name of every file in it, one writer at a time, and safe reading.

``config.toml``, ``corpus/``, ``tokenizer.model`` and ``model.safetensors`` are all that translation
and evaluation need; ``last.pt`` is what training resumes from. Nothing read can execute code.
"""

import io
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from filelock import FileLock, Timeout

from seq2seq.config import (
    RENAMED,
    Config,
    ConfigSource,
    dump_config,
    flatten,
    flatten_toml,
    load_config,
    read_toml,
    toml_value,
)
from seq2seq.utils import UserError, file_name, open_file, refuse_links, write_bytes

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 3  # of model.safetensors and last.pt; raised when older code could not read them

# Settings that may differ when training resumes: they change no step already taken.
MAY_CHANGE = (
    "data.path",  # the run holds its own copy of the corpus
    "train.epochs",
    "train.patience",
    "train.tensorboard",
    "teachers.folder",
    "decoding.",
)


class RunFolder:
    """The folder of one training run."""

    def __init__(self, path: "RunFolder | Path | str") -> None:
        self.path: Path = path.path if isinstance(path, RunFolder) else Path(path)
        self.config_file = self.path / "config.toml"  # every setting, resolved
        self.corpus = self.path / "corpus"
        self.report_file = self.corpus / "report.json"  # there when the corpus is complete
        self.encoded_file = self.corpus / "encoded.json"  # there when the ids beside it are
        self.tokenizer_file = self.path / "tokenizer.model"
        self.tgt_tokenizer_file = self.path / "tokenizer.tgt.model"  # if not joint
        self.weights_file = self.path / "model.safetensors"  # the best on the validation split
        self.state_file = self.path / "last.pt"  # what training resumes from
        self.metrics_file = self.path / "metrics.jsonl"  # one line per validation
        self.curves_file = self.path / "curves.png"
        self.tensorboard = self.path / "tensorboard"
        self.summary_file = self.path / "training.json"  # there when training is done
        self.diverged_file = self.path / "diverged.txt"  # of an experiment's run that diverged
        self.hypotheses = self.path / "hypotheses"
        self.eval_file = self.path / "eval.json"
        self.card_file = self.path / "README.md"

    def __str__(self) -> str:
        return str(self.path)

    def split_file(self, split: str, extension: str) -> Path:
        """One side of a split (``extension``: its language), or an annotation of it."""
        return self.corpus / f"{file_name(split)}.{extension}"

    def hypotheses_file(self, split: str) -> Path:
        return self.hypotheses / f"{file_name(split)}.txt"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Let no other process write here (``UserError``); remove what a killed one left behind.

        All that is written here is written under it, so it refuses folders that are links. It ends
        with its process; filelock uses a marker file where the file system has no locks.
        """
        new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self.path.mkdir(parents=True, exist_ok=True)
        refuse_links(self.path / "lock", self.corpus, self.hypotheses, self.tensorboard)
        try:
            with FileLock(self.path / "lock", timeout=0):
                for folder in (self.path, self.corpus, self.hypotheses):
                    for leftover in folder.glob("*.????????.tmp"):
                        leftover.unlink(missing_ok=True)
                try:
                    yield
                finally:  # of work that could not begin, nothing stays
                    if new and {path.name for path in self.path.rglob("*")} <= {"lock", "corpus"}:
                        shutil.rmtree(self.path, ignore_errors=True)
                        with suppress(OSError):
                            for folder in new[1:]:
                                folder.rmdir()
        except Timeout:
            raise UserError(f"{self}: another process is at work in this folder") from None

    # --- configuration ---

    def load_config(self, overrides: Mapping[str, Any] | None = None) -> Config:
        if not self.path.is_dir():
            raise UserError(f"{self}: no such run folder")
        old = flatten_toml(read_toml(self.config_file))
        # Once, files and the hub had settings of their own, of which one kind was used.
        unused = "data.hub." if old.get("data.directory") else "data.directory"
        values = {RENAMED.get(x, x): value for x, value in old.items() if not x.startswith(unused)}
        return load_config(ConfigSource(str(self.config_file), values), overrides)

    def save_config(self, config: Config) -> None:
        write_bytes(self.config_file, dump_config(config).encode())

    def save_decoding(self, config: Config) -> None:
        """Of a finished run, whose other settings say how it was trained."""
        self.save_config(replace(self.load_config(), decoding=config.decoding))

    @property
    def has_started(self) -> bool:
        """Whether training has started, or there is what it made even if ``last.pt`` is gone."""
        made = (self.state_file, self.weights_file, self.summary_file, self.diverged_file)
        return any(path.exists() for path in made)

    def check_same_config(self, config: Config, fixed: tuple[str, ...] = ()) -> None:
        """``UserError`` if training has started with other settings; ``fixed`` never may change."""
        if not self.has_started:
            return
        saved = flatten(self.load_config())
        for key, value in flatten(config).items():
            if saved[key] != value and (key in fixed or not key.startswith(MAY_CHANGE)):
                raise UserError(
                    f"{self} was trained with {key} = {toml_value(saved[key])}, not "
                    f"{toml_value(value)}: use another folder (--run; make: RUN=), or remove it"
                )

    # --- weights and training state ---

    def save_weights(self, tensors: "dict[str, Tensor]", fingerprint: str) -> None:
        """Write the best model: tensors by name, with the fingerprint of their tokenizer."""
        from safetensors.torch import save

        # One key, because safetensors writes several in any order, and equal files should be equal.
        metadata = {"provenance": json.dumps({"format": FORMAT, "tokenizer": fingerprint})}
        content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        write_bytes(self.weights_file, save(content, metadata))

    def load_weights(self, fingerprint: str) -> "dict[str, Tensor]":
        """What ``save_weights`` wrote; ``UserError`` if damaged, or of another tokenizer.

        The tensors are mapped from the file: they take no memory until they are copied.
        """
        from safetensors import safe_open

        path, what = self.weights_file, "a safetensors file"
        with _errors_of(path, what), safe_open(path, "pt") as file:
            provenance = json.loads((file.metadata() or {}).get("provenance", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        _check_provenance(provenance, fingerprint, self.weights_file)
        return tensors

    def save_state(self, state: dict[str, Any], fingerprint: str) -> None:
        import torch

        buffer = io.BytesIO()
        torch.save({"provenance": {"format": FORMAT, "tokenizer": fingerprint}, **state}, buffer)
        write_bytes(self.state_file, buffer.getvalue())

    def load_state(self, fingerprint: str) -> dict[str, Any]:
        """What ``save_state`` wrote (tensors and plain values, never code); or ``UserError``."""
        import torch

        with _errors_of(self.state_file, "a training state") as file:
            state = dict(torch.load(file, map_location="cpu", weights_only=True))
        _check_provenance(state.pop("provenance", None), fingerprint, self.state_file)
        return state


@contextmanager
def _errors_of(path: Path, what: str) -> Iterator[BinaryIO]:
    """The open file ``path``; a ``UserError`` if whoever reads it says that it is not ``what``."""
    with open_file(path) as file:
        try:
            yield file
        except Exception as error:  # pickle, zip, safetensors and torch each raise their own
            reason = str(error).split("\n")[0]
            raise UserError(f"{path}: not {what}: {reason}") from None


def _check_provenance(saved: Any, fingerprint: str, path: Path) -> None:
    """``UserError`` unless ``path`` was written by this version, for this tokenizer."""
    saved = saved if isinstance(saved, dict) else {}
    version, tokenizer = saved.get("format"), saved.get("tokenizer")  # of any type and size
    if not isinstance(version, int) or version != FORMAT:
        raise UserError(f"{path}: written by another version of seq2seq: train again")
    if not isinstance(tokenizer, str) or tokenizer != fingerprint:
        whose = f"another tokenizer{f' {tokenizer!r:.20}' if isinstance(tokenizer, str) else ''}"
        raise UserError(f"{path}: trained with {whose}, but tokenizer.model is {fingerprint!r}")
