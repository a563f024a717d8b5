"""Ctrl-C and SIGTERM: heeded between two steps instead of in the middle of one."""

import signal
import sys
from contextlib import suppress
from types import FrameType
from typing import Any

from seq2seq.parallel import is_launched, rank


class StopRequest:
    """While active, SIGINT (Ctrl-C) and SIGTERM ask for a stop after the step; twice, at once.

    ``torchrun`` passes on what it gets, may do so more than once, and ends by force what takes
    longer than its ``--shutdown-timeout``: where it is at work, once is all that counts.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self._before: dict[int, Any] = {}

    def _note(self, signal_number: int, frame: FrameType | None) -> None:
        if self.signal_number:
            return
        self.signal_number = signal_number
        if not is_launched():
            self.__exit__()  # the next signal does what it did before
            self._say("\nstopping after this step; again to stop at once")
        elif rank() == 0:
            self._say("\nstopping after this step")

    @staticmethod
    def _say(line: str) -> None:
        with suppress(OSError):  # who reads our output may have been stopped by the same Ctrl-C
            print(line, file=sys.stderr, flush=True)

    def __enter__(self) -> "StopRequest":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
