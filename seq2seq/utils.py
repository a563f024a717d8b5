"""Errors that a user can fix, strict reading, and writing that never leaves half a file."""

import codecs
import difflib
import errno
import json
import os
import re
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO


class UserError(Exception):
    """Something the user can fix: the command line prints one line and exits with status 1."""


class ConfigError(UserError):
    """A setting (``key``, such as ``model.n_heads``) whose value has a ``problem``."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}")
        self.key, self.problem = key, problem


class TrainingDiverged(UserError):
    """The loss or the gradients of a training run are no longer finite."""


class TrainingInterrupted(Exception):
    """A signal stopped training after everything was saved; the message says how to continue."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number


def warn(line: str) -> None:
    """Print a line on standard error; never fails, even where nobody reads it."""
    with suppress(OSError, ValueError):
        print(f"seq2seq: {line}\n", end="", file=sys.stderr, flush=True)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A ``; did you mean 'x'?`` for a misspelled dotted name, or nothing."""
    section, _, last = name.rpartition(".")
    by_last = {key.rpartition(".")[2]: key for key in known}
    elsewhere = [key for key in known if key.endswith(f".{last}")]
    is_section = not section or any(key.startswith(f"{section}.") for key in known)
    if elsewhere and (is_section or len(elsewhere) == 1):  # in another section
        return f"; did you mean {min(elsewhere, key=len)!r}?"
    close = difflib.get_close_matches(name, known, 1, 0.7)
    close = close or [by_last[part] for part in difflib.get_close_matches(last, by_last, 1, 0.7)]
    return f"; did you mean {close[0]!r}?" if close else ""


def file_name(split: str) -> str:
    """A split's name as part of a file name; on the hub it may be ``test[:50%]``."""
    return re.sub(r"[^\w.-]", "_", split)


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """Turn what the system says about a file into a ``UserError`` that names it."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None


def read_bytes(path: Path) -> bytes:
    with file_errors(path):
        return path.read_bytes()


def iter_lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, split at ``\n`` only, without a byte order mark or ``\r``.

    ``UserError`` if it cannot be read or a line, named by its number, is not UTF-8.
    """
    with file_errors(path), path.open("rb") as file:
        if file.peek(3).startswith(codecs.BOM_UTF8):
            file.read(3)
        for number, line in enumerate(file, start=1):
            try:
                text = line.removesuffix(b"\n").rstrip(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise UserError(f"{path}, line {number}: not UTF-8: {error.reason}") from None
            yield text


def read_lines(path: Path) -> list[str]:
    return list(iter_lines(path))


def read_json(path: Path, text: str | bytes | None = None) -> dict[str, Any]:
    """The JSON object in a file, or in the ``text`` of one of its lines."""
    try:
        value = json.loads(read_bytes(path) if text is None else text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: damaged, or not written by this program; remove it")
    return value


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    return [read_json(path, line) for line in iter_lines(path)]


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path``, complete and on the disk, at the end."""
    with file_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(descriptor)
            temporary.chmod(0o644)
            temporary.replace(path)
            _fsync_dir(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def _fsync_dir(folder: Path) -> None:
    """Flush a new name to the disk: without it, a power cut may bring the old file back."""
    if os.name == "nt":  # a folder cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    with atomic_write(path) as file:
        file.write(content)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: Iterable[str]) -> None:
    write_text(path, "".join(line + "\n" for line in lines))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
