"""Errors that a user can fix, strict reading, and writing that never leaves half a file."""

import codecs
import difflib
import errno
import gzip
import html
import json
import os
import re
import sys
import tempfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

# C0 and C1 but the tab, line separators, marks that turn the direction of text, half characters,
# and those that XML forbids.
_CONTROL = re.compile(
    "[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


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


def printable(text: str) -> str:
    """``text``, whoever wrote it, as one line that controls no terminal."""
    return _CONTROL.sub(lambda control: ascii(control[0])[1:-1], text)


def markdown(text: str) -> str:
    """``text``, whoever wrote it, in Markdown: no HTML, link, code or cell of a table."""
    return re.sub(r"[\\`*|]|\](?=[(\[])", r"\\\g<0>", html.escape(printable(text), quote=False))


def warn(line: str) -> None:
    """Print a line on standard error; never fails, even where nobody reads it."""
    with suppress(OSError, ValueError, AttributeError):  # the last: it cannot flush
        print(f"seq2seq: {printable(line)}\n", end="", file=sys.stderr, flush=True)


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


@contextmanager
def open_file(path: Path) -> Iterator[BufferedReader]:
    """A file to read; ``UserError`` if it cannot be read, or is a pipe or a device.

    Those may never answer or never end, and much is read twice.
    """
    with file_errors(path):
        if not (path.is_file() or path.is_dir()) and path.exists():
            raise UserError(f"{path}: a pipe or a device: save what it holds as a file")
        with path.open("rb") as file:
            yield file


@contextmanager
def open_packed(path: Path) -> Iterator[BufferedReader | gzip.GzipFile]:
    """``open_file``, and unpacked if its name ends in ``.gz``."""
    with open_file(path) as file:
        try:
            yield gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise UserError(f"{path}: not gzip, or damaged: {error}") from None


def refuse_links(*paths: Path) -> None:
    """``UserError`` if one of these, about to be written to, is a link and so may lead anywhere."""
    if links := [path for path in paths if path.is_symlink()]:
        raise UserError(f"{links[0]}: a link, which is not written through: remove or replace it")


def read_bytes(path: Path) -> bytes:
    with open_file(path) as file:
        return file.read()


def refuse_utf16(start: bytes, origin: object) -> None:
    """``UserError`` if a text with this start is UTF-16: it says so, or much of it is NUL."""
    says_so = start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    if says_so or start.count(0) * 3 > len(start):
        raise UserError(f"{origin}: UTF-16, or damaged: iconv -f UTF-16 -t UTF-8 converts it")


def iter_lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, split at ``\n`` only, without a byte order mark or ``\r``.

    ``UserError`` if it cannot be read or a line, named by its number, is not UTF-8.
    """
    with open_packed(path) as file:
        start = file.peek(3)
        refuse_utf16(start, path)
        if start.startswith(codecs.BOM_UTF8):
            file.read(3)
        for number, line in enumerate(file, start=1):
            try:
                text = line.removesuffix(b"\n").rstrip(b"\r").decode("utf-8")
            except UnicodeDecodeError:
                how = "iconv -f WINDOWS-1252 -t UTF-8 converts it (Excel: save as CSV UTF-8)"
                raise UserError(f"{path}, line {number}: not UTF-8: {how}") from None
            yield text


def read_lines(path: Path) -> list[str]:
    return list(iter_lines(path))


def read_json(path: Path, kind: Any = dict[str, Any], text: str | None = None) -> Any:
    """The JSON in a file, or in the ``text`` of one of its lines; ``UserError`` if not a ``kind``.

    What a ``TypedDict`` does not name is left out.
    """
    try:
        return msgspec.json.decode(read_bytes(path) if text is None else text, type=kind)
    except (ValueError, RecursionError):
        how = "remove it, or use another folder"
        raise UserError(f"{path}: damaged, or of another program: {how}") from None


def read_json_lines(path: Path, kind: Any = dict[str, Any]) -> list[dict[str, Any]]:
    return [read_json(path, kind, line) for line in iter_lines(path)]


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


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``folder`` at the end; ``UserError`` unless that is empty."""
    with file_errors(folder):
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"{folder}: not empty: name a new folder, or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".tmp", f"{folder.name}.", folder.parent) as temporary:
            filled = Path(temporary) / "filled"  # with the usual permissions
            filled.mkdir()
            yield filled
            filled.replace(folder)


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
