"""A run killed at any moment and started again by the same command ends as if nothing happened.

``make soak`` kills a hundred times.
"""

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import TINY_CONFIG, write_corpus
from test_training import OVERRIDES, load_state, metrics, same

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("KILLS", "6"))
KILLS_PER_RUN = 5
# Only the first validation is a gain: patience ends the run one step before the last.
SETTINGS = OVERRIDES | {"train.patience": "3", "train.validate_every": "2"}


class Command:
    """``seq2seq train`` with the same settings every time, killed at a given moment."""

    def __init__(self, config: Path, server: "subprocess.Popen[str]") -> None:
        settings = [word for key, value in SETTINGS.items() for word in (f"--{key}", value)]
        self.arguments = ["train", "--config", str(config), *settings]
        self.server = server

    def __call__(self, run: Path, moment: str) -> tuple[int, str]:
        """Exit status and standard error."""
        assert self.server.stdin
        assert self.server.stdout
        print(json.dumps([moment, *self.arguments, "--run", str(run)]), file=self.server.stdin)
        self.server.stdin.flush()
        status, errors = json.loads(self.server.stdout.readline())
        return status, errors


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    folder = tmp_path_factory.mktemp("kill")
    write_corpus(folder / "corpus", {"train": 200, "valid": 8, "test": 8})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(path=str(folder / "corpus")), encoding="utf-8")
    program = [sys.executable, str(Path(__file__).parent / "killed.py")]
    with subprocess.Popen(
        program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        yield Command(path, server)


def everything(run: Path) -> dict[str, Any]:
    """All that training leaves behind, but for what measures time."""
    state = load_state(run)
    del state["state"]["seconds"], state["state"]["step_seconds"]
    summary = json.loads((run / "training.json").read_text(encoding="utf-8"))
    del summary["minutes"]
    files = sorted(str(p.relative_to(run)) for p in run.rglob("*") if p.is_file())
    same_bytes = [name for name in files if not name.endswith((".pt", ".json", ".jsonl"))]
    return {
        "files": files,
        "bytes": {name: (run / name).read_bytes() for name in same_bytes},
        "metrics": metrics(run),
        "summary": summary,
        "state": state,
    }


class Whole(NamedTuple):
    """A run that is not killed."""

    n_calls: int  # that change a file or the weights
    before_saving: list[int]  # calls before each saving of the state
    left: dict[str, Any]


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    run = tmp_path_factory.mktemp("whole") / "run"
    status, errors = command(run, "never")
    assert status == 0, errors
    n_calls, *before_saving = map(int, errors.splitlines()[-1].split())
    left = everything(run)
    assert {"model.safetensors", "tokenizer.model", "config.toml"} <= left["bytes"].keys()
    assert left["state"]["state"]["validations_without_gain"] == 3  # it ended by patience
    return Whole(n_calls, before_saving, left)


def test_killed_anywhere(command: Command, whole: Whole, tmp_path: Path) -> None:
    rng = random.Random(KILLS)
    kills = 0
    while kills < KILLS:
        run = tmp_path / f"run-{kills}"
        moments = []
        for _ in range(min(KILLS_PER_RUN, KILLS - kills)):
            moments.append(f"call:{rng.randint(1, whole.n_calls)}")
            status, errors = command(run, moments[-1])
            if status == 0:  # it was too far for this moment to come
                break
            assert status == -signal.SIGKILL, errors
            kills += 1
        status, errors = command(run, "never")
        assert status == 0, (moments, errors)
        assert same(everything(run), whole.left), moments


def test_killed_after_a_checkpoint(command: Command, whole: Whole, tmp_path: Path) -> None:
    """Also after the last two: what ends training ends it when it resumes."""
    n_checkpoints = len(whole.left["metrics"])
    assert n_checkpoints > 2
    for number in (1, n_checkpoints, n_checkpoints + 1):
        run = tmp_path / f"after-{number}"
        assert command(run, f"saved:{number}")[0] == -signal.SIGKILL
        assert command(run, "never")[0] == 0
        assert same(everything(run), whole.left), number


@pytest.mark.parametrize("calls", [2, 3])  # a file is made, half is written, the other half
def test_killed_while_saving(command: Command, whole: Whole, tmp_path: Path, calls: int) -> None:
    assert command(tmp_path, f"call:{whole.before_saving[1] + calls}")[0] == -signal.SIGKILL
    assert list(tmp_path.glob("last.pt.*.tmp"))
    assert load_state(tmp_path)["state"]["step"] == 2
    assert command(tmp_path, "never")[0] == 0
    assert same(everything(tmp_path), whole.left)
