"""What a training leaves to look at while it goes on: ``curves.png`` and TensorBoard's events."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from seq2seq.errors import UserError
from seq2seq.plots import plot_training
from seq2seq.settings import TrainConfig


class Diary:
    """The pictures of one run folder.

    Args:
        run: the folder.
        config: whether there are to be events.

    Raises:
        UserError: there are to be, but TensorBoard is not installed.
    """

    def __init__(self, run: Path, config: TrainConfig) -> None:
        self.run, self.wants_events = run, config.tensorboard
        self._writer: Any = None
        if self.wants_events and not find_spec("tensorboard"):
            raise UserError("train.tensorboard needs a package more: pip install tensorboard")

    def note(self, lines: list[dict[str, Any]]) -> None:
        """Draw all validations so far, and add the last one to the events.

        Args:
            lines: those of ``metrics.jsonl``.
        """
        plot_training(lines, self.run / "curves.png")
        if self.wants_events:
            self._add_events(dict(lines[-1]))

    def _add_events(self, line: dict[str, Any]) -> None:
        step = line.pop("step")
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            # What a training that was killed noted of this step or later ones counts no more.
            self._writer = SummaryWriter(str(self.run / "tensorboard"), purge_step=step)
        for name, value in line.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()
