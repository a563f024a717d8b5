"""A training killed at any moment, and started again by the same command, ends as if it had not been.

``make soak`` kills a hundred times.
"""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from conftest import TINY_CONFIG, write_corpus
from test_training import OVERRIDES, metrics

from seq2seq.checkpoint import load_state

KILLS = int(os.environ.get("KILLS", "6"))
KILLS_A_RUN = 5
# Only the first validation is a gain: patience ends it one step before the last.
SETTINGS = OVERRIDES | {"train.patience": "3", "train.validate_every": "2"}


class Command:
    """The command that is given again and again."""

    def __init__(self, config: Path) -> None:
        self.config = config

    def __call__(self, run: Path, moment: str) -> "subprocess.CompletedProcess[str]":
        program = [sys.executable, str(Path(__file__).parent / "killed.py"), moment]
        settings = [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
        return subprocess.run(
            [*program, "train", "--config", str(self.config), "--run", str(run), *settings],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Command:
    folder = tmp_path_factory.mktemp("kill")
    write_corpus(folder / "corpus", {"train": 200, "valid": 8, "test": 8})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(directory=str(folder / "corpus")), encoding="utf-8")
    return Command(path)


def same(one: Any, two: Any) -> bool:
    """Whether two states are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def everything(run: Path) -> dict[str, Any]:
    """All that a training leaves behind, but for what measures time."""
    state = load_state(run / "last.pt")
    progress = state["progress"]
    timeless = {k: v for k, v in progress.items() if k not in ("seconds", "step_seconds")}
    files = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())
    same_bytes = [name for name in files if not name.endswith((".pt", ".json", ".jsonl"))]
    return {
        "files": files,
        "bytes": {name: (run / name).read_bytes() for name in same_bytes},
        "metrics": metrics(run),
        "state": state | {"progress": timeless},
    }


class Whole(NamedTuple):
    """A training that is not killed."""

    n_calls: int  # that change a file or the weights
    seconds: float  # that they take
    before_saving: list[int]  # calls before each saving of the state
    left: dict[str, Any]


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """A training that is not killed."""
    run = tmp_path_factory.mktemp("whole") / "run"
    ended = command(run, "never")
    assert ended.returncode == 0, ended.stderr
    n_calls, seconds, *before_saving = ended.stderr.split()
    left = everything(run)
    assert {"model.safetensors", "tokenizer.model", "config.toml"} <= left["bytes"].keys()
    assert left["state"]["progress"]["validations_without_gain"] == 3  # it ended by patience
    return Whole(int(n_calls), float(seconds), [int(n) for n in before_saving], left)


def test_killed_anywhere_it_ends_as_if_it_had_not_been(
    command: Command, whole: Whole, tmp_path: Path
) -> None:
    rng = random.Random(KILLS)
    kills = 0
    while kills < KILLS:
        run = tmp_path / f"run-{kills}"
        moments = []
        for _ in range(min(KILLS_A_RUN, KILLS - kills)):
            at_call = f"call:{rng.randint(1, whole.n_calls)}"
            moments.append(rng.choice([at_call, f"seconds:{rng.uniform(0, whole.seconds)}"]))
            ended = command(run, moments[-1])
            if ended.returncode == 0:  # it had got too far for this moment to come
                break
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            kills += 1
        finished = command(run, "never")
        assert finished.returncode == 0, (moments, finished.stderr)
        assert "is at work" not in finished.stderr
        assert same(everything(run), whole.left), moments


def test_killed_after_any_checkpoint(command: Command, whole: Whole, tmp_path: Path) -> None:
    """Also after the last: what ends a training ends it when it goes on."""
    n_checkpoints = len(whole.left["metrics"])
    assert n_checkpoints > 2
    for number in (1, n_checkpoints, n_checkpoints + 1):  # and after the state that says: finished
        run = tmp_path / f"after-{number}"
        assert command(run, f"saved:{number}").returncode == -signal.SIGKILL
        assert command(run, "never").returncode == 0
        assert same(everything(run), whole.left), number


@pytest.mark.parametrize("calls", [2, 3])  # a file is made, one half is written, and the other
def test_killed_while_a_checkpoint_is_written(
    command: Command, whole: Whole, tmp_path: Path, calls: int
) -> None:
    moment = f"call:{whole.before_saving[1] + calls}"
    assert command(tmp_path, moment).returncode == -signal.SIGKILL
    assert list(tmp_path.glob("last.pt.*.tmp"))
    assert load_state(tmp_path / "last.pt")["progress"]["step"] == 2
    assert command(tmp_path, "never").returncode == 0
    assert same(everything(tmp_path), whole.left)
