"""One at a time: a run folder that is being written to is closed to others."""

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from pathlib import Path

from seq2seq.errors import UserError
from seq2seq.files import remove_leftovers


@contextmanager
def locked(run: Path) -> Iterator[None]:
    """Within it, no other process prepares or trains; what a killed one left half written goes.

    The lock is the kernel's (flock) on the file ``run/lock``, which says whose it is. It goes with
    its process, however that ends; a file that a killed one left behind locks nothing.

    Raises:
        UserError: another process is at work in the folder; the message names it.
    """
    run.mkdir(parents=True, exist_ok=True)
    file = _acquire(run / "lock")
    with file:
        host, since = socket.gethostname(), time.strftime("%Y-%m-%d %H:%M:%S")
        file.truncate(0)
        file.write(f"process {os.getpid()} on {host}, since {since}\n")
        file.flush()
        remove_leftovers(run)
        remove_leftovers(run / "corpus")
        try:
            yield
        finally:
            (run / "lock").unlink(missing_ok=True)


def _acquire(path: Path) -> TextIOWrapper:
    while True:
        # No link is followed: where it leads is not ours to write to.
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.fdopen(os.open(path, flags, 0o644), "r+", encoding="utf-8", errors="replace")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read(200).strip() or "another process"
            file.close()
            raise UserError(f"{path.parent}: {holder}, is at work in this folder") from None
        # Its last holder may have removed the file after we opened it: then it is locked in vain.
        with suppress(FileNotFoundError):
            if os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file
        file.close()
