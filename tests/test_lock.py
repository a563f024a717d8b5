"""A run folder is written to by one process at a time."""

import fcntl
import os
import re
import signal
import subprocess
import sys
import time
from io import TextIOWrapper
from pathlib import Path

import pytest
from conftest import SEQ2SEQ

from seq2seq.errors import UserError
from seq2seq.lock import locked

HOLD = (
    "import sys, time; from pathlib import Path; from seq2seq.lock import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(100)"
)


def hold(run: Path) -> "subprocess.Popen[bytes]":
    """A process that has locked ``run``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE)
    assert process.stdout
    assert process.stdout.readline() == b"held\n"
    return process


def test_the_second_is_refused_and_told_who_is_first(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with locked(run), pytest.raises(UserError, match=f"{run}: process {os.getpid()} on .*, since"):
        locked(run).__enter__()
    with locked(run):  # both are gone
        pass
    assert list(run.iterdir()) == []


def test_a_killed_process_leaves_no_lock(tmp_path: Path) -> None:
    process = hold(tmp_path)
    with pytest.raises(UserError, match=f"process {process.pid} on"):
        locked(tmp_path).__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "last.pt.abcd_123.tmp").write_bytes(b"half")
    (tmp_path / "notes.tmp").write_bytes(b"not ours")
    assert (tmp_path / "lock").exists()
    with locked(tmp_path):
        assert sorted(os.listdir(tmp_path)) == ["lock", "notes.tmp"]
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text(encoding="utf-8")
    assert os.listdir(tmp_path) == ["notes.tmp"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    """A run folder may come from a stranger."""
    (tmp_path / "precious").write_text("mine", encoding="utf-8")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="lock"):
        locked(tmp_path / "run").__enter__()
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "mine"


def test_one_that_was_opened_before_it_was_removed_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last holder may remove the file between another's opening and locking it."""
    flock, opened = fcntl.flock, []

    def lose_and_lock(file: TextIOWrapper, how: int) -> None:
        opened.append(file)
        if len(opened) == 1:
            (tmp_path / "lock").unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", lose_and_lock)
    with locked(tmp_path):
        assert len(opened) == 2
        with pytest.raises(UserError, match="at work"):
            locked(tmp_path).__enter__()


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_two_at_once(tiny_config: Path, tmp_path: Path, command: str) -> None:
    holder = hold(tmp_path)
    try:
        began = time.monotonic()
        second = subprocess.run(
            [*SEQ2SEQ, command, "--config", str(tiny_config), "--run", str(tmp_path)],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
        assert time.monotonic() - began < 60  # it does not wait for the first
    finally:
        holder.kill()
    assert second.returncode == 1
    assert re.fullmatch(
        rf"seq2seq: .*: process {holder.pid} on .*, is at work in this folder\n", second.stderr
    )
    assert os.listdir(tmp_path) == ["lock"]
