"""What ``import seq2seq`` offers: training, and a trained run to work with."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq.config import Config, load_config
from seq2seq.data.tokenizer import InputReport
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.shipped import find_config
from seq2seq.translator import Overrides, Run, Translator
from seq2seq.utils import UserError, printable, warn

if TYPE_CHECKING:
    from seq2seq.viewer.page import RunView


class Model(Translator):
    """A trained run: it translates, scores, and shows what it attends to.

    ``model.model`` is its ``torch.nn.Module``; what is changed in it changes all that follows.
    """

    runs: list[RunFolder]

    def attend(self, sentence: str) -> "RunView":
        """Translate ``sentence`` and record every attention: a page in a notebook.

        The arrays, with named axes, are in its ``trace``; ``write`` saves the page.
        """
        from seq2seq.evaluation.evaluate import known_best_head  # loads sacrebleu
        from seq2seq.viewer.page import RunView
        from seq2seq.viewer.trace import trace

        if len(self.runs) > 1:
            raise UserError("attend shows one run: load it by itself")
        if not isinstance(sentence, str):
            raise TypeError(f"attend shows one sentence, a string, not a {type(sentence).__name__}")
        InputReport(self.tokenizer.src, [sentence]).warn()
        best_head = known_best_head(self.runs[0], self.config.model)
        smoothing = self.config.train.label_smoothing
        return RunView(str(self.runs[0]), trace(self, sentence), best_head, smoothing)

    def __repr__(self) -> str:
        data, size = self.config.data, count_parameters(self.model)
        what = f"{data.src} to {data.tgt}, {size:,} parameters, beam {self.config.decoding.beam}"
        return printable(f"<Model {', '.join(map(str, self.runs))}: {what}>")


def load(run: Run | Sequence[Run], overrides: Overrides = None) -> Model:
    """The best model in the folder of a training run, with its tokenizer and its settings.

    Several runs are an ensemble. ``overrides`` changes settings, such as ``{"decoding.beam": 4}``.
    ``UserError`` if something is missing from a folder or does not fit.
    """
    model = Model.load(run, overrides)
    model.runs = [RunFolder(each) for each in ([run] if isinstance(run, Run) else run)]
    return model


def train(
    config: Path | str = "default", run: Path | str | None = None, overrides: Overrides = None
) -> dict[str, Any]:
    """Prepare and train a model, or resume; prints how it went, returns ``training.json``.

    ``config`` is a TOML file, or a shipped one by name, which names the folder if ``run`` does not:
    ``runs/NAME``. Ctrl-C, or a notebook's "interrupt", saves everything and raises
    ``TrainingInterrupted``; the same call resumes. ``UserError`` if something is wrong.
    """
    from seq2seq.data.prepare import is_prepared
    from seq2seq.evaluation.metrics import LABELS
    from seq2seq.training import train
    from seq2seq.training.distributed import init_distributed, rank_zero, world_size
    from seq2seq.training.teachers import prepare

    with init_distributed():
        settings, folder = rank_zero(lambda: config_and_run(config, run, overrides))
        if not rank_zero(lambda: is_prepared(settings, folder)):
            if settings.teachers.n and world_size() > 1:
                raise UserError("teachers train in one process: first use seq2seq prepare")
            report = rank_zero(lambda: prepare(settings, folder))
            rank_zero(lambda: print(*map(printable, report.split("\n")), sep="\n"))
        summary = train(settings, folder)
        by = summary["selected_by"]
        best = f"best validation {LABELS.get(by, by)} {summary[f'best_valid_{by}']:.2f}"
        how = "at step {best_step:,} of {steps:,}, {minutes:.1f} minutes, {parameters:,} parameters"
        rank_zero(lambda: print(printable(f"{folder}: {best} {how.format(**summary)}")))
        return summary


def config_and_run(
    config: Path | str, run: Path | str | None, overrides: Overrides
) -> tuple[Config, RunFolder]:
    """The settings of the configuration ``config`` under ``overrides``, and the run folder."""
    path = find_config(config)
    settings = load_config(path, overrides, check=empty_model)
    if path != Path(config):
        warn(f"{config}: the configuration that comes with seq2seq")
    return settings, RunFolder(run or Path("runs") / path.stem)
