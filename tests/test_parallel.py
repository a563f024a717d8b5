"""Two processes that torchrun starts do what one process does, and end as it does."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_CONFIG, write_corpus

from seq2seq.checkpoint import load_state
from seq2seq.cli import main
from seq2seq.config import load_config
from seq2seq.errors import Diverged, Stopped, UserError
from seq2seq.objective import batch_loss
from seq2seq.preparation import prepare
from seq2seq.settings import Config
from seq2seq.signals import StopRequest
from seq2seq.training import Trainer, seed_of, share, train

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

OVERRIDES = {
    "data.max_tokens": "128",
    "tokenizer.bpe_dropout": "0.1",  # the same in all processes
    "train.batch_tokens": "190",
    "train.accumulate": "2",
    "train.label_smoothing": "0.1",
    "train.clip_norm": "0",  # nothing that makes up for gradients of a wrong size
    "train.average": "0.9",
    "train.validate_every": "2",
}
SHORT = {"train.epochs": "1"}  # rounding has no time to grow
LONG = {"train.epochs": "8", "train.validate_every": "1"}  # there is time for a signal


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration; its corpus has a pair so long that it is a batch by itself."""
    folder = tmp_path_factory.mktemp("parallel")
    write_corpus(folder / "corpus", {"train": 130, "valid": 4, "test": 4})
    for side in ("src", "tgt"):
        with (folder / "corpus" / f"train.{side}").open("a", encoding="utf-8") as file:
            file.write("ba du " * 50 + "\n")
    path = folder / "parallel.toml"
    path.write_text(TINY_CONFIG.format(directory=str(folder / "corpus")), encoding="utf-8")
    return path


NOTE_WRITERS = """
import os, pathlib
replace = pathlib.Path.replace
def noted(self, target):
    with open({log!r}, "a") as file:
        file.write(os.environ.get("RANK", "none") + "\\n")
    return replace(self, target)
pathlib.Path.replace = noted  # the last step of whatever is written
"""


def start(path: Path, run: Path, overrides: dict[str, str]) -> subprocess.Popen[str]:
    """``seq2seq train`` in two processes, at work in a group of its own as from a terminal."""
    settings = [word for key, value in overrides.items() for word in (f"--{key}", value)]
    command = ["train", "--config", str(path), "--run", str(run), *settings]
    return subprocess.Popen(
        [*TORCHRUN, "-m", "--", "seq2seq", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, list[str]]:
    """What it wrote to standard output, and this program's own lines on standard error."""
    try:
        out, errors = process.communicate(timeout=300)
    finally:
        with suppress(ProcessLookupError):  # all is well: it has ended
            os.killpg(process.pid, signal.SIGKILL)
    assert "[rank" not in errors, errors  # a traceback of a process that torchrun started
    return out, [line for line in errors.splitlines() if line.startswith(("seq2seq:", "stopping"))]


def alone(config: Config, run: Path) -> dict[str, Any]:
    """What one process makes of it."""
    prepare(config, run)
    return train(config, run)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 300
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists()


def numbers(run: Path) -> list[dict[str, float]]:
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "tokens_per_second"} for x in lines]


def assert_close(found: list[torch.Tensor], expected: list[torch.Tensor], rel: float) -> None:
    """All numbers together: their difference is at most ``rel`` of their length."""
    one = torch.cat([tensor.flatten() for tensor in expected])
    two = torch.cat([tensor.flatten() for tensor in found])
    assert (two - one).norm() <= rel * one.norm()


def test_two_processes_end_where_one_does(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(path, OVERRIDES | SHORT)
    log = str(tmp_path / "writers")
    (tmp_path / "sitecustomize.py").write_text(NOTE_WRITERS.format(log=log), encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        process = start(path, tmp_path / "two", OVERRIDES | SHORT)
    summary = alone(config, tmp_path / "one")
    out, errors = finish(process)
    assert process.returncode == 0, errors
    assert errors == []
    assert out.count("best validation BLEU") == 1

    plan, _, _ = Trainer(config, tmp_path / "one").data.epoch(0)
    assert len(plan) % 2 == 1  # the last step has one batch
    assert min(map(len, plan)) == 1  # which not every process has a row of
    assert any(len(rows) % 2 for rows in plan if len(rows) > 1)

    there = json.loads((tmp_path / "two" / "training.json").read_text(encoding="utf-8"))
    assert (summary["processes"], there["processes"]) == (1, 2)
    same = ("steps", "best_step", "best_valid_bleu", "parameters", "data_checksum")
    assert [there[key] for key in same] == [summary[key] for key in same]
    assert len(numbers(tmp_path / "one")) > 1
    for found, expected in zip(numbers(tmp_path / "two"), numbers(tmp_path / "one"), strict=True):
        assert found == pytest.approx(expected, rel=1e-4)
    files = [sorted(p.name for p in (tmp_path / name).iterdir()) for name in ("one", "two")]
    assert files[0] == files[1]
    assert set((tmp_path / "writers").read_text(encoding="utf-8").split()) == {"0"}

    one, two = (load_state(tmp_path / name / "last.pt") for name in ("one", "two"))
    for part in ("model", "average"):
        assert_close(list(two[part].values()), list(one[part].values()), 1e-4)
    # Adam's steps are as long for gradients of twice the size; what it remembers of them is not.
    for part in ("exp_avg", "exp_avg_sq"):
        ones, twos = ([m[part] for m in x["optimizer"]["state"].values()] for x in (one, two))
        assert_close(twos, ones, 1e-4)


def stop_after_a_step(config: Config, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Trainer.step

    def step_and_stop(self: Trainer, *arguments: Any) -> float:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", step_and_stop)
        with pytest.raises(Stopped):
            train(config, run)


def test_ctrl_c_stops_all_and_any_number_goes_on(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(path, OVERRIDES | LONG)
    run = tmp_path / "two"
    process = start(path, run, OVERRIDES | LONG)
    wait_for(run / "last.pt")
    os.killpg(process.pid, signal.SIGINT)
    _, errors = finish(process)
    assert process.returncode != 0
    assert errors[0] == "stopping after this step"
    assert [line.partition(" at ")[0] for line in errors[1:]] == ["seq2seq: stopped"]
    assert not (run / "training.json").exists()
    stopped_at = load_state(run / "last.pt")["progress"]["step"]

    stop_after_a_step(config, run, monkeypatch)  # alone
    assert load_state(run / "last.pt")["progress"]["step"] == stopped_at + 1
    process = start(path, run, OVERRIDES | LONG)
    one = alone(config, tmp_path / "one")
    finish(process)
    assert process.returncode == 0
    two = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert [two[key] for key in ("steps", "data_checksum")] == [
        one[key] for key in ("steps", "data_checksum")
    ]
    states = [load_state(tmp_path / name / "last.pt")["model"] for name in ("one", "two")]
    # Rounding decides the sign of the smallest gradients, and Adam makes all steps as long.
    assert_close(list(states[1].values()), list(states[0].values()), 0.01)
    for found, expected in zip(numbers(run), numbers(tmp_path / "one"), strict=True):
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-3)


def test_what_fails_in_one_process_ends_all_and_is_said_once(path: Path, tmp_path: Path) -> None:
    process = start(path, tmp_path / "run", {"data.train": "nothing"})
    _, errors = finish(process)
    assert process.returncode != 0
    assert len(errors) == 1
    assert "nothing.src: No such file" in errors[0]


def test_shares_are_the_batch(path: Path, tmp_path: Path) -> None:
    config = load_config(path, OVERRIDES | SHORT)
    prepare(config, tmp_path)
    trainer = Trainer(config, tmp_path)
    batches, _ = next(trainer.steps())
    whole = batches[0].to(trainer.device)
    shares = [share(whole, rank, 3) for rank in range(3)]
    rows = [pair.tolist() for each in shares for pair in torch.cat([each.src, each.tgt], dim=1)]
    assert sorted(rows) == sorted(torch.cat([whole.src, whole.tgt], dim=1).tolist())
    assert sum(each.n_labels for each in shares) == whole.n_labels

    few = share(whole, 0, len(whole.src))  # one row
    idle = share(few, 1, 2)
    assert idle.n_labels == 0
    losses = [batch_loss(trainer.model, idle, 0.1, agreement) for agreement in (0.0, 4.0)]
    for loss in losses:
        loss.backward()
        assert loss.item() == 0
        gradients = [parameter.grad for parameter in trainer.model.parameters()]
        assert all(grad is not None and not grad.any() for grad in gradients)
        trainer.model.zero_grad()


def test_each_step_and_process_draws_its_own() -> None:
    seeds = {
        seed_of(seed, step, rank) for seed in (1, 2) for step in range(50) for rank in range(8)
    }
    assert len(seeds) == 2 * 50 * 8
    assert seed_of(1, 2, 3) == seed_of(1, 2, 3)


def test_torchrun_may_pass_a_signal_on_more_than_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    with StopRequest() as stop:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
    assert stop.signal_number == signal.SIGINT
    assert capsys.readouterr().err == "\nstopping after this step\n"


def test_only_training_is_for_several(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "any")
    assert main(["evaluate", "--run", "any"]) == 1
    assert "torchrun is for seq2seq train" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["evaluate", "--run", "any"]) == 1
    assert capsys.readouterr().err == ""


def test_processes_that_read_other_batches_end(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(path, OVERRIDES | SHORT)
    prepare(config, tmp_path)
    trainer = Trainer(config, tmp_path)
    monkeypatch.setattr("seq2seq.training.gather", lambda *mine: [mine, (0.0, 0, 12345)])
    with pytest.raises(UserError, match="not the same folder"):
        trainer.agree(1.0, 0)
    checksum = trainer.progress.data_checksum
    monkeypatch.setattr("seq2seq.training.gather", lambda *mine: [mine, (2.0, 15, checksum)])
    assert trainer.agree(1.0, 0) == 15
    assert trainer.progress.loss == 3
    monkeypatch.setattr("seq2seq.training.gather", lambda *mine: [mine, (math.nan, 0, checksum)])
    with pytest.raises(Diverged):
        trainer.agree(1.0, 0)
