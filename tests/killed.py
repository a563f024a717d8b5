"""Runs ``seq2seq`` and kills it, as ``kill -9`` would, at a given moment.

    python killed.py call:N ARGUMENTS...      at the Nth call that changes a file or the weights
    python killed.py seconds:X ARGUMENTS...   X seconds after the first such call
    python killed.py saved:N ARGUMENTS...     after the training state was saved for the Nth time
    python killed.py never ARGUMENTS...       prints how many there are, how long they take, and
                                              how many come before each saving of the state

Of what is written half has reached the file when the first of two calls is counted.
"""

import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from typing import Any

from seq2seq.cli import main
from seq2seq.training import Trainer


class Moments:
    """Counts calls, and kills when the moment has come."""

    def __init__(self, moment: str) -> None:
        self.kind, _, number = moment.partition(":")
        self.number = float(number or 0)
        self.calls, self.saved, self.began = 0, 0, 0.0
        self.calls_before_saving: list[int] = []

    def count(self) -> None:
        if not self.calls:
            self.began = time.monotonic()
            if self.kind == "seconds":
                timer = Timer(self.number, die)
                timer.daemon = True
                timer.start()
        self.calls += 1
        if self.kind == "call" and self.calls == self.number:
            die()

    def save(self, save: Callable[[], None]) -> None:
        self.calls_before_saving.append(self.calls)
        save()
        self.saved += 1
        if self.kind == "saved" and self.saved == self.number:
            die()

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            self.count()
            return function(*arguments, **named)

        return call


class SlowFile:
    """A file that is written in two halves."""

    def __init__(self, file: Any, moments: Moments) -> None:
        self.file, self.moments = file, moments

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def write(self, content: bytes) -> None:
        for half in (content[: len(content) // 2], content[len(content) // 2 :]):
            self.file.write(half)
            self.file.flush()
            self.moments.count()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    moments = Moments(sys.argv[1])
    fdopen = os.fdopen

    def slow_fdopen(number: int, mode: str, **named: Any) -> Any:
        file = fdopen(number, mode, **named)
        return SlowFile(file, moments) if mode == "wb" else file

    os.fdopen = slow_fdopen  # type: ignore[assignment]
    os.fsync = moments.counted(os.fsync)
    tempfile.mkstemp = moments.counted(tempfile.mkstemp)
    Path.replace = moments.counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = moments.counted(Path.unlink)  # type: ignore[method-assign]
    Trainer.step = moments.counted(Trainer.step)  # type: ignore[method-assign]
    save = Trainer._save
    Trainer._save = lambda self: moments.save(lambda: save(self))  # type: ignore[method-assign]
    status = main(sys.argv[2:])
    if moments.kind == "never":
        seconds = time.monotonic() - moments.began
        print(moments.calls, seconds, *moments.calls_before_saving, file=sys.stderr)
    sys.exit(status)
