"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from seq2seq.errors import UserError
from seq2seq.files import read_bytes, write_bytes


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
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    monkeypatch.undo()
    write_bytes(path, b"new")
    assert read_bytes(path) == b"new"


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_bytes(tmp_path / "missing")
    with pytest.raises(UserError, match="directory"):
        read_bytes(tmp_path)
