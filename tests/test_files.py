"""Files are read strictly, and written whole or not at all."""

import errno
import io
import os
import stat
import sys
from pathlib import Path

import pytest
from conftest import Capture, Patch
from hypothesis import given
from hypothesis import strategies as st

from seq2seq import cli, utils
from seq2seq.utils import UserError, atomic_write, read_bytes, read_lines, write_bytes


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "file"
    write_bytes(path, b"old")
    return path


def test_atomic_write_in_pieces(file: Path) -> None:
    with atomic_write(file) as output:
        output.write(b"ne" * 100_000)
        assert read_bytes(file) == b"old"
        output.write(b"w")
    assert read_bytes(file) == b"ne" * 100_000 + b"w"
    assert list(file.parent.iterdir()) == [file]
    assert file.stat().st_mode & 0o777 == 0o644


def test_atomic_write_reaches_the_disk(file: Path, monkeypatch: Patch) -> None:
    """First the content, then its name."""
    calls = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(number: int) -> None:
        status = os.fstat(number)
        calls.append(("folder", 0) if stat.S_ISDIR(status.st_mode) else ("file", status.st_size))
        fsync(number)

    def note_replace(path: Path, target: Path) -> Path:
        calls.append(("rename", path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_bytes(file, b"new!")
    assert calls == [("file", 4), ("rename", 4), ("folder", 0)]


@pytest.mark.parametrize("folders_only", [True, False])
@pytest.mark.parametrize("problem", [errno.EINVAL, errno.ENOTSUP, errno.ENOSPC])
def test_flush_fails(file: Path, monkeypatch: Patch, problem: int, folders_only: bool) -> None:
    """Some network disks cannot flush a folder, which is no reason to stop."""
    fsync = os.fsync

    def fails(number: int) -> None:
        if stat.S_ISDIR(os.fstat(number).st_mode) or not folders_only:
            raise OSError(problem, "refused")
        fsync(number)

    monkeypatch.setattr(os, "fsync", fails)
    if folders_only and problem != errno.ENOSPC:
        write_bytes(file, b"new")
    else:
        with pytest.raises(UserError, match=r"file: .*refused"):
            write_bytes(file, b"new")
    assert read_bytes(file) == (b"new" if folders_only else b"old")
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt])
def test_interrupted_write_leaves_the_old_file(file: Path, problem: type[BaseException]) -> None:
    with pytest.raises(problem), atomic_write(file) as output:  # noqa: PT012
        output.write(b"new")
        raise problem
    assert read_bytes(file) == b"old"
    assert list(file.parent.iterdir()) == [file]


def test_unreadable_files(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "pipe")
    for path in (tmp_path / "missing", tmp_path, pipe, Path("/dev/zero")):
        for read in (read_bytes, read_lines):
            with pytest.raises(UserError, match=f"^{path}: (No such file|.*directory|.*device)"):
                read(path)


ODD = [b"\n", b"\r", b"\xef\xbb\xbf", b"x", b"\xff", b"\x0b", b"\x1c", "\u2028\x85".encode()]


@given(content=st.lists(st.sampled_from(ODD)))
def test_lines_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: list[bytes]) -> None:
    """As the whole file split at newlines gives them, and at nothing else."""
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(b"".join(content))
    expected = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not expected[-1]:
        expected.pop()
    bad = [number for number, line in enumerate(expected, start=1) if b"\xff" in line]
    if bad:
        with pytest.raises(UserError, match=f"line {bad[0]}: not UTF-8"):
            read_lines(path)
    else:
        assert read_lines(path) == [line.rstrip(b"\r").decode() for line in expected]


def test_json(file: Path) -> None:
    utils.write_json(file, {"ä": [1, None]})
    assert utils.read_json(file) == {"ä": [1, None]}
    for text in ("{", "[]", "3", "", "[" * 100_000, '{"a": "\\ud800"}', '{"a": 1e999}'):
        utils.write_text(file, text)
        with pytest.raises(UserError, match="file: damaged"):
            utils.read_json(file)
        utils.write_lines(file, ['{"a": 1}', text])
        with pytest.raises(UserError, match="file: damaged"):
            utils.read_json_lines(file)


def test_text_of_strangers_controls_no_terminal(capsys: Capture) -> None:
    text = "a\r\nb\x1b[31m\x9b\u202e\u2028ä\udcff"
    cli.common.show(text)
    utils.warn(text)
    with pytest.raises(SystemExit):
        cli.main(["predict", f"--{text}"])
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert (out + err).replace("\n", "").isprintable()


def test_warning_that_nobody_can_read(monkeypatch: Patch) -> None:
    monkeypatch.setattr("sys.stderr", io.StringIO())
    sys.stderr.close()
    utils.warn("lost")
