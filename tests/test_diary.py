"""What a training leaves to look at: the picture of its curves, and TensorBoard's events."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import seq2seq.diary
import seq2seq.plots
from seq2seq.cli import main
from seq2seq.diary import Diary
from seq2seq.plots import plot_training
from seq2seq.settings import TrainConfig

LINES: list[dict[str, Any]] = [
    {"step": step, "loss": 9 / step, "valid_loss": 8 / step, "valid_bleu": step / 10.0,
     "learning_rate": step / 1e4, "tokens_per_second": 100}
    for step in (10, 20, 30)
]  # fmt: skip


def drawn(lines: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[list[Any]]:
    """The points of each curve in the picture."""
    figures: list[Figure] = []
    monkeypatch.setattr(seq2seq.plots, "_save", lambda figure, path: figures.append(figure))
    plot_training(lines, Path("any"))
    curves = [line for axes in figures[0].axes for line in axes.lines]
    return [list(zip(*map(list, (c.get_xdata(), c.get_ydata())), strict=True)) for c in curves]  # type: ignore[arg-type]


def test_the_picture_holds_every_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = ["loss", "valid_loss", "valid_bleu", "learning_rate"]
    expected = [[(line["step"], line[key]) for line in LINES] for key in keys]
    assert drawn(LINES, monkeypatch) == expected
    # Lines of another version, or of a stranger, are left out where they say nothing.
    odd: list[dict[str, Any]] = [{}, {"step": "x", "loss": 1}, {"step": 5, "loss": None}]
    assert drawn([*odd, *LINES], monkeypatch) == expected


def test_a_training_leaves_the_picture(trained_run: Path) -> None:
    assert (trained_run / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_it_is_drawn_at_each_validation(
    tiny_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[list[int]] = []
    monkeypatch.setattr(
        seq2seq.diary,
        "plot_training",
        lambda lines, path: steps.append([line["step"] for line in lines]),
    )
    few = ["--train.epochs", "1", "--train.validate_every", "20"]
    run = tmp_path / "run"
    assert main(["train", "--config", str(tiny_config), "--run", str(run), *few]) == 0
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    noted = [json.loads(line)["step"] for line in lines]
    assert len(noted) > 2
    assert steps == [noted[: n + 1] for n in range(len(noted))]
    assert not (run / "tensorboard").exists()


def test_events_are_those_of_the_metrics(tmp_path: Path) -> None:
    config = replace(TrainConfig(), tensorboard=True)
    first = Diary(tmp_path, config)
    first.note(LINES[:1])
    first.note(LINES[:2])
    # Killed before it saved step 20; what goes on reaches it again, otherwise.
    second = Diary(tmp_path, config)
    again = LINES[1] | {"loss": 0.25}
    second.note([LINES[0], again])
    second.note([LINES[0], again, LINES[2]])
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert set(found.Tags()["scalars"]) == set(LINES[0]) - {"step"}
    assert [(x.step, round(x.value, 4)) for x in found.Scalars("loss")] == [
        (10, 0.9), (20, 0.25), (30, 0.3)
    ]  # fmt: skip


def test_events_need_their_package(
    tiny_config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(seq2seq.diary, "find_spec", lambda name: None)
    run = ["--config", str(tiny_config), "--run", str(tmp_path / "run")]
    assert main(["train", *run, "--train.tensorboard", "true"]) == 1
    error = capsys.readouterr().err
    assert error == "seq2seq: train.tensorboard needs a package more: pip install tensorboard\n"
