"""Runs ``seq2seq`` again and again, and kills it, as ``kill -9`` would, at given moments.

Each line of standard input is a JSON list of a moment and the arguments of ``seq2seq``:

    call:N      at the Nth call that changes a file or the weights
    saved:N     after the training state was saved for the Nth time
    never       prints how many there are, and how many come before each saving

The answer is a JSON list of exit status and standard error. When the first of two calls of a
write is counted, half of it has reached the file. Processes are forked: importing torch takes
longer than a run.
"""

import json
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seq2seq.cli import main
from seq2seq.data import prepare  # noqa: F401 (imported before the forks)
from seq2seq.evaluation import validation
from seq2seq.training import trainer
from seq2seq.utils import write_text


class Moments:
    """Counts calls, and kills when the moment has come."""

    def __init__(self, moment: str) -> None:
        self.kind, _, number = moment.partition(":")
        self.number = int(number or 0)
        self.calls, self.saved = 0, 0
        self.calls_before_saving: list[int] = []

    def count(self) -> None:
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

    def __enter__(self) -> "SlowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        for half in (content[: len(content) // 2], content[len(content) // 2 :]):
            self.file.write(half)
            self.file.flush()
            self.moments.count()


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run(moment: str, arguments: list[str]) -> int:
    moments, fdopen, save = Moments(moment), os.fdopen, trainer.Trainer.save_checkpoint

    def slow_fdopen(number: int, mode: str, **named: Any) -> Any:
        file = fdopen(number, mode, **named)
        return SlowFile(file, moments) if mode == "wb" else file

    os.fdopen = slow_fdopen  # type: ignore[assignment]
    os.fsync = moments.counted(os.fsync)
    tempfile.mkstemp = moments.counted(tempfile.mkstemp)
    Path.replace = moments.counted(Path.replace)  # type: ignore[method-assign]
    Path.unlink = moments.counted(Path.unlink)  # type: ignore[method-assign]
    trainer.Trainer.step = moments.counted(trainer.Trainer.step)  # type: ignore[method-assign]
    trainer.Trainer.save_checkpoint = lambda self: moments.save(lambda: save(self))  # type: ignore[method-assign]
    validation.score = lambda *_: {"bleu": 1.0, "chrf": 1.0}  # no gain after the first validation
    validation.plot_curves = lambda lines, path: write_text(path, str(len(lines)))
    status = main(arguments)
    if moments.kind == "never":
        print(moments.calls, *moments.calls_before_saving, file=sys.stderr)
    return status


if __name__ == "__main__":
    torch.optim.AdamW([torch.zeros(1)])  # what it imports takes longest
    for line in sys.stdin:
        moment, *arguments = json.loads(line)
        with tempfile.TemporaryFile("w+") as errors:
            if (child := os.fork()) == 0:
                os.dup2(errors.fileno(), 2)
                os.dup2(2, 1)
                sys.stdin = open(os.devnull)  # noqa: SIM115
                status = 1
                try:
                    status = run(moment, arguments)
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            errors.seek(0)
            print(json.dumps([status, errors.read()]), flush=True)
