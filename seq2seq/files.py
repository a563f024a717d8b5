"""Files: text read strictly, everything written whole or not at all."""

import errno
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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


def stream_lines(path: Path) -> Iterator[str]:
    r"""The lines of a UTF-8 file, split at ``\n`` only, without a byte order mark or ``\r``.

    They are read as they are asked for, so the file may be larger than memory.

    Raises:
        UserError: the file cannot be read, or a line is not UTF-8 (the message has its number).
    """
    number = 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                raw = line if number > 1 else line.removeprefix(b"\xef\xbb\xbf")
                if raw:
                    yield raw.removesuffix(b"\n").rstrip(b"\r").decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}, line {number}: not UTF-8: {error.reason}") from None


def read_lines(path: Path) -> list[str]:
    """All that ``stream_lines`` gives."""
    return list(stream_lines(path))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; ``UserError`` if it cannot be read or is none."""
    return _object(read_bytes(path), path)


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects in a file with one a line; ``UserError`` if it cannot be read or holds others."""
    return [_object(line, path) for line in stream_lines(path)]


def _object(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path}: damaged, or not written by this program; remove it")
    return found


@contextmanager
def written_whole(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Write ``path`` piece by piece; it is at every moment the old file or the new, whole.

    Within the block, the function given writes a piece; when the block ends, the new file takes
    the old one's place. If it ends by an exception, nothing has happened.

    Raises:
        UserError: it cannot be written; what was there before still is.
    """
    with _complaining(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".", suffix=".tmp")
    temporary, file = Path(name), os.fdopen(number, "wb")

    def write(content: bytes) -> None:
        with _complaining(path):
            file.write(content)

    try:
        yield write
        with _complaining(path):
            file.flush()
            os.fsync(number)
            file.close()
            temporary.chmod(0o644)
            temporary.replace(path)
            _flush_folder(path.parent)
    finally:
        with suppress(OSError):  # of what could not be written, and has been complained about
            file.close()
        temporary.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Let the disk know a new name: without it, a power cut may bring the old file back."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network disks cannot
            raise
    finally:
        os.close(number)


def remove_leftovers(folder: Path) -> None:
    """Remove what processes were writing into ``folder`` when they were killed.

    Nobody else may be writing there.
    """
    for leftover in folder.glob("*.????????.tmp"):
        leftover.unlink(missing_ok=True)


@contextmanager
def _complaining(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: cannot be written: {error.strerror or error}") from None


def write_bytes(path: Path, content: bytes) -> None:
    """``written_whole`` in one piece."""
    with written_whole(path) as write:
        write(content)


def write_text(path: Path, text: str) -> None:
    """``write_bytes`` for text, as UTF-8."""
    write_bytes(path, text.encode("utf-8"))


def write_lines(path: Path, lines: list[str]) -> None:
    """``write_bytes`` for lines that hold no line break."""
    write_text(path, "".join(line + "\n" for line in lines))
