"""Two processes that torchrun starts do what one process does, and end as it does."""

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_CONFIG, Capture, Patch, write_corpus
from test_training import load_state, metrics, no_curves, stop_after  # noqa: F401

from seq2seq.cli import main
from seq2seq.config import Config, load_config
from seq2seq.data.prepare import prepare
from seq2seq.model.loss import batch_loss
from seq2seq.training import distributed
from seq2seq.training.distributed import shard
from seq2seq.training.trainer import Trainer, stop_requests, train
from seq2seq.utils import TrainingDiverged, TrainingInterrupted, UserError

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

OVERRIDES = {
    "data.max_tokens": "128",
    "tokenizer.bpe_dropout": "0.1",  # the same in all processes
    "train.max_tokens_per_batch": "190",
    "train.grad_accum_steps": "2",
    "train.label_smoothing": "0.1",
    "train.max_grad_norm": "0",  # nothing that makes up for gradients of a wrong size
    "train.ema_decay": "0.9",
    "train.validate_every": "2",
}
SHORT = {"train.epochs": "1"}  # rounding has no time to grow
LONG = {"train.epochs": "4", "train.validate_every": "1"}  # there is time for a signal


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration; its corpus has a pair so long that it is a batch by itself."""
    folder = tmp_path_factory.mktemp("parallel")
    write_corpus(folder / "corpus", {"train": 125, "valid": 4, "test": 4})
    for side in ("src", "tgt"):
        with (folder / "corpus" / f"train.{side}").open("a", encoding="utf-8") as file:
            file.write("ba du " * 50 + "\n")
    path = folder / "parallel.toml"
    path.write_text(TINY_CONFIG.format(path=str(folder / "corpus")), encoding="utf-8")
    return path


@pytest.fixture
def trainer(path: Path, tmp_path: Path) -> Trainer:
    config = load_config(path, OVERRIDES | SHORT)
    prepare(config, tmp_path)
    return Trainer(config, tmp_path)


# Notes which process writes, and draws no curves, which takes longer than training.
PROGRAM = """
import os, pathlib, sys
from seq2seq.cli import main
from seq2seq.evaluation import validation
validation.plot_curves = lambda *_: None
replace = pathlib.Path.replace
def noted(self, target):
    with open({log!r}, "a") as file:
        file.write(os.environ["RANK"] + "\\n")
    return replace(self, target)
pathlib.Path.replace = noted  # the last step of whatever is written
sys.exit(main(sys.argv[1:]))
"""


def start(path: Path, run: Path, overrides: dict[str, str]) -> subprocess.Popen[str]:
    """``seq2seq train`` in two processes, in a process group of their own as from a terminal."""
    program = run.parent / "program.py"
    log = str(run.parent / "writers")
    program.write_text(PROGRAM.format(log=log), encoding="utf-8")
    settings = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    command = ["train", "--config", str(path), "--run", str(run), *settings]
    return subprocess.Popen(
        [*TORCHRUN, "--", str(program), *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """What it wrote to standard output, and our own lines on standard error."""
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):  # all is well: it has ended
            os.killpg(process.pid, signal.SIGKILL)
    assert "[rank" not in errors, errors  # a traceback of a process that torchrun started
    lines = [line for line in errors.splitlines() if line.startswith("seq2seq: ")]
    lines = [line for line in lines if not re.search("valid.*loss", line)]  # how it goes
    return out, lines if process.returncode in (0, 130, 143) or lines else [errors]


def train_alone(config: Config, run: Path) -> dict[str, Any]:
    prepare(config, run)
    return train(config, run)


def assert_close(tensors: list[torch.Tensor], expected: list[torch.Tensor], rel: float) -> None:
    """All numbers together: their difference is at most ``rel`` of their norm."""
    one = torch.cat([tensor.flatten() for tensor in expected])
    two = torch.cat([tensor.flatten() for tensor in tensors])
    assert (two - one).norm() <= rel * one.norm()


@pytest.mark.slow
def test_two_processes_match_one(path: Path, tmp_path: Path) -> None:
    config = load_config(path, OVERRIDES | SHORT)
    process = start(path, tmp_path / "two", OVERRIDES | SHORT)
    one = train_alone(config, tmp_path / "one")
    out, errors = finish(process)
    assert process.returncode == 0, errors
    assert errors == []
    assert out.count("parameters") == 1  # one of them says how it ended

    plan, _, _ = Trainer(config, tmp_path / "one").data.epoch(0)
    assert len(plan) % 2 == 1  # the last step has one batch
    assert min(map(len, plan)) == 1  # of which not every process has a row
    assert any(len(rows) % 2 for rows in plan if len(rows) > 1)

    two = json.loads((tmp_path / "two" / "training.json").read_text(encoding="utf-8"))
    assert (one["processes"], two["processes"]) == (1, 2)
    for key in ("steps", "best_step", "best_valid_bleu", "parameters", "data_checksum"):
        assert one[key] == two[key]
    assert len(metrics(tmp_path / "one")) > 1
    for line, expected in zip(metrics(tmp_path / "two"), metrics(tmp_path / "one"), strict=True):
        assert line == pytest.approx(expected, rel=1e-4)
    files = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    assert set((tmp_path / "writers").read_text(encoding="utf-8").split()) == {"0"}

    states = [load_state(tmp_path / name) for name in ("one", "two")]
    for part in ("model", "ema"):
        assert_close(list(states[1][part].values()), list(states[0][part].values()), 1e-4)
    # Adam takes the same steps for gradients of twice the size, but its moments show the size.
    for part in ("exp_avg", "exp_avg_sq"):
        moments = [[m[part] for m in x["optimizer"]["state"].values()] for x in states]
        assert_close(moments[1], moments[0], 1e-4)


@pytest.mark.slow
def test_ctrl_c_stops_all_and_any_number_resumes(
    path: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    config = load_config(path, OVERRIDES | LONG)
    run = tmp_path / "two"
    process = start(path, run, OVERRIDES | LONG)
    deadline = time.monotonic() + 120
    while not (run / "last.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = finish(process)
    assert process.returncode != 0
    assert errors[0] == "seq2seq: stopping after this step"
    assert [line.partition(" at ")[0] for line in errors[1:]] == ["seq2seq: stopped"]
    assert not (run / "training.json").exists()
    stopped_at = load_state(run)["state"]["step"]

    with monkeypatch.context() as patch:  # alone
        stop_after(patch, stopped_at + 1)
        with pytest.raises(TrainingInterrupted):
            train(config, run)
    assert load_state(run)["state"]["step"] == stopped_at + 1
    (run / "corpus" / "encoded.json").unlink()  # as if an earlier version had prepared it
    process = start(path, run, OVERRIDES | LONG)
    one = train_alone(config, tmp_path / "one")
    _, errors = finish(process)
    assert process.returncode == 0, errors
    two = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert all(one[key] == two[key] for key in ("steps", "data_checksum"))
    # Rounding decides the sign of the smallest gradients, which Adam's steps do not shrink.
    weights = [list(load_state(folder)["model"].values()) for folder in (tmp_path / "one", run)]
    assert_close(weights[1], weights[0], 0.01)
    for line, expected in zip(metrics(run), metrics(tmp_path / "one"), strict=True):
        assert line["loss"] == pytest.approx(expected["loss"], rel=1e-3)
    assert set((tmp_path / "writers").read_text(encoding="utf-8").split()) == {"0"}


@pytest.mark.slow
def test_failure_of_one_ends_all(path: Path, tmp_path: Path) -> None:
    process = start(path, tmp_path / "run", {"data.train": "nothing"})
    _, errors = finish(process)
    assert process.returncode != 0
    assert len(errors) == 1
    assert "nothing" in errors[0]


def test_shards_are_the_batch(trainer: Trainer) -> None:
    batches, _ = next(trainer.steps())
    whole = batches[0].to(trainer.device)
    shards = [shard(whole, rank, 3) for rank in range(3)]
    rows = [pair.tolist() for part in shards for pair in torch.cat([part.src, part.tgt], dim=1)]
    assert sorted(rows) == sorted(torch.cat([whole.src, whole.tgt], dim=1).tolist())
    assert sum(part.n_target_tokens for part in shards) == whole.n_target_tokens

    few = shard(whole, 0, len(whole.src))  # one row
    idle = shard(few, 1, 2)
    assert idle.n_target_tokens == 0
    losses = [batch_loss(trainer.model, idle, 0.1, alpha) for alpha in (0.0, 4.0)]
    for loss in losses:
        loss.backward()
        assert loss.item() == 0
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        assert all(grad is not None and not grad.any() for grad in gradients)
        trainer.model.zero_grad()


def test_dropout_differs_by_seed_step_and_process(trainer: Trainer, monkeypatch: Patch) -> None:
    batches, _ = next(trainer.steps())
    config, seeds = trainer.config, set()
    for seed, step, rank in itertools.product((1, 2), (0, 1), range(3)):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        trainer.config = replace(config, train=replace(config.train, seed=seed))
        trainer.state.step = step
        trainer.step(batches, 0.0)
        seeds.add(torch.initial_seed())
    assert len(seeds) == 12


def test_torchrun_repeats_signals(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    with stop_requests() as signals:
        for number in (signal.SIGINT, *before):
            os.kill(os.getpid(), number)
    assert signals[0] == signal.SIGINT
    for number, handler in before.items():
        os.kill(os.getpid(), number)  # ignored: the process is saying how it ended
        signal.signal(number, handler)
    assert capsys.readouterr().err == "seq2seq: stopping after this step\n"


def test_torchrun_is_for_training_alone(monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    assert main(["evaluate", "--run", "any"]) == 1
    assert "torchrun is for seq2seq train" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["evaluate", "--run", "any"]) == 1
    assert capsys.readouterr().err == ""


def test_sync_step(trainer: Trainer, monkeypatch: Patch) -> None:

    def other_sends(*numbers: float) -> None:
        monkeypatch.setattr(distributed, "all_gather", lambda *own: [own, numbers])

    # Of another folder: other training data, or another checkpoint.
    for number, step in ((12345, 0), (trainer.data.checksum, 7)):
        other_sends(number, step)
        with pytest.raises(UserError, match="not the same folder"):
            trainer.fit([])
    other_sends(2.0, 15)
    assert trainer.sync_step(1.0, []) == 15
    assert trainer.state.loss == 3
    other_sends(math.nan, 0)
    with pytest.raises(TrainingDiverged):
        trainer.sync_step(1.0, [])
