"""Files are read strictly, and written whole or not at all."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq2seq.errors import UserError
from seq2seq.files import read_bytes, read_lines, stream_lines, write_bytes, written_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "file"
    write_bytes(path, b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"file: cannot be written: No space left on device"):
        write_bytes(path, b"new")
    assert read_bytes(path) == b"old"
    assert names(path.parent) == ["file"]
    monkeypatch.undo()
    write_bytes(path, b"new")
    assert read_bytes(path) == b"new"


def test_what_is_written_in_pieces_appears_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")
    with written_whole(path) as write:
        write(b"ne" * 100_000)
        assert read_bytes(path) == b"old"
        write(b"w")
    assert read_bytes(path) == b"ne" * 100_000 + b"w"
    assert names(tmp_path) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_what_is_written_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the name is, before the next thing is done."""
    calls = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(number: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(number).st_mode) else "file"
        calls.append((kind, os.fstat(number).st_size if kind == "file" else 0))
        fsync(number)

    def note_replace(path: Path, target: Path) -> Path:
        calls.append(("rename", path.stat().st_size))
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    write_bytes(tmp_path / "file", b"new")
    assert calls == [("file", 3), ("rename", 3), ("folder", 0)]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, FileNotFoundError])
def test_what_breaks_off_leaves_the_old_file(tmp_path: Path, problem: type[BaseException]) -> None:
    """Also if what broke off is another file: that is not taken for this one's."""
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def break_off() -> None:
        with written_whole(path) as write:
            write(b"new")
            raise problem

    with pytest.raises(problem):
        break_off()
    assert read_bytes(path) == b"old"
    assert names(tmp_path) == ["file"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_is_a_complaint_about_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is met while writing, not only at the end."""
    path = tmp_path / "file"
    fdopen = os.fdopen

    def on_a_full_disk(number: int, mode: str) -> object:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, number)
        os.close(full)
        return fdopen(number, mode)

    monkeypatch.setattr(os, "fdopen", on_a_full_disk)
    done = []

    def write_much() -> None:
        with written_whole(path) as write:
            write(b"x" * 1_000_000)
            done.append(True)

    with pytest.raises(UserError, match=r"file: cannot be written: No space left"):
        write_much()
    assert not done
    assert names(tmp_path) == []


def test_unreadable_files(tmp_path: Path) -> None:
    for read in (read_bytes, read_lines):
        with pytest.raises(UserError, match="No such file"):
            read(tmp_path / "missing")
        with pytest.raises(UserError, match="directory"):
            read(tmp_path)


@given(content=st.lists(st.sampled_from([b"\n", b"\r", b"\xef\xbb\xbf", b"x", b"\xff", b"\x0b"])))
def test_lines_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: list[bytes]) -> None:
    """As the whole file split at once would give them."""
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


def test_lines_are_read_as_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"one\ntwo\n\xff\n")
    lines = stream_lines(path)
    assert [next(lines), next(lines)] == ["one", "two"]
    with pytest.raises(UserError, match="line 3: not UTF-8"):
        next(lines)
