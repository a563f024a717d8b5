"""A run folder: from a stranger, damaged, of another version, or in use by another process."""

import errno
import json
import math
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_CONFIG, Capture, Patch, write_corpus
from safetensors.torch import load_file, save_file
from test_training import no_curves  # noqa: F401

from seq2seq.cli import main
from seq2seq.config import load_config
from seq2seq.data.prepare import is_prepared, prepare
from seq2seq.data.tokenizer import Subwords, Tokenizer
from seq2seq.evaluation.evaluate import evaluate
from seq2seq.experiments.jobs import run_all
from seq2seq.experiments.runs import Run
from seq2seq.run_folder import FORMAT, RunFolder
from seq2seq.training.trainer import Trainer, train
from seq2seq.translator import Translator
from seq2seq.utils import UserError

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has an epoch left to train; not to be written to."""
    folder = tmp_path_factory.mktemp("folder")
    write_corpus(folder / "corpus", {"train": 100, "valid": 4, "test": 4})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(path=str(folder / "corpus")), encoding="utf-8")
    run = folder / "run"
    config = load_config(path, {"train.epochs": "1", "train.validate_every": "2"})
    prepare(config, run)
    train(config, run)
    RunFolder(run).save_config(replace(config, train=replace(config.train, epochs=2)))
    (run / "training.json").unlink()
    return run


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "run")


def resume(run: Path) -> Tree:
    return train(RunFolder(run).load_config(), run)


def use(run: Path) -> None:
    """All that reads a run folder."""
    Translator.load(run).translate(["ba du"])
    evaluate(run)
    resume(run)


def edit_state(run: Path, edit: Callable[[Tree], object]) -> None:
    state = torch.load(run / "last.pt", weights_only=True)
    edit(state)
    torch.save(state, run / "last.pt")


# --- malice ---


class Evil:
    """Unpickling it would leave a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


FILES = ["model.safetensors", "last.pt", "tokenizer.model", "config.toml", "metrics.jsonl",
         "corpus/report.json", "corpus/train.src", "corpus/encoded.json", "corpus/valid.tgt",
         "corpus/test.src"]  # fmt: skip


@pytest.mark.parametrize(("name", "how"), [(x, "pickle") for x in FILES] + [("last.pt", "torch")])
def test_code_in_a_file_is_refused(run: Path, tmp_path: Path, name: str, how: str) -> None:
    trace = tmp_path / "trace"
    if how == "pickle":
        (run / name).write_bytes(pickle.dumps({"model": Evil(trace)}))
    else:
        torch.save({"model": Evil(trace)}, run / name)
    with pytest.raises(UserError, match=Path(name).name):
        use(run)
    assert not trace.exists()
    if how == "pickle":  # it would have
        pickle.loads((run / name).read_bytes())
        assert trace.exists()


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=5),
        lambda state: state["optimizer"]["state"][0].update(step=torch.zeros(1)),
        lambda state: state["optimizer"]["state"][0].pop("exp_avg"),
        lambda state: state["optimizer"]["state"].update({99: {}}),
        lambda state: state["optimizer"]["state"].update({-1: state["optimizer"]["state"][0]}),
        lambda state: state["optimizer"].update(state=5),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="x"),
        lambda state: state["optimizer"]["param_groups"][0].update(lr=10**400),
        lambda state: state["optimizer"]["param_groups"].pop(),
        lambda state: state["optimizer"]["state"][0]["exp_avg_sq"].fill_(math.inf),
        lambda state: state["model"]["output.weight"].fill_(math.nan),
        lambda state: state["state"].update(step="x"),
        lambda state: state["state"].update(epoch=-1),
        lambda state: state["state"].update(loss=None),
        lambda state: state["state"].update(unheard_of=1),
        lambda state: state["state"].update(step_seconds=math.nan),
        lambda state: state["state"].update(seconds=math.inf),
        lambda state: state["state"].update(target_tokens=10**400),
        lambda state: state["model"].update(tgt_embedding=5),
        lambda state: state["model"].pop("output.weight"),
        lambda state: state["ema"].update({"output.weight": torch.zeros(2, 2)}),
        lambda state: state.update(state=[]),
        lambda state: state.update(model={}),
        lambda state: state.pop("optimizer"),
    ],
)
def test_training_state_is_not_trusted(run: Path, spoil: Callable[[Tree], object]) -> None:
    edit_state(run, spoil)
    with pytest.raises(UserError, match=r"last\.pt does not fit this run: \S") as error:
        resume(run)
    assert len(str(error.value).splitlines()) == 1


def train_one_step(run: Path) -> dict[str, torch.Tensor]:
    trainer = Trainer(RunFolder(run).load_config(), run)
    trainer.load_checkpoint()
    batches, _ = next(trainer.steps())
    trainer.step(batches, 1e-3)
    for state in trainer.optimizer.state.values():
        assert state["exp_avg_sq"].is_contiguous()
    return {name: weights.clone() for name, weights in trainer.model.named_parameters()}


def test_optimizer_state_is_copied(run: Path) -> None:
    """A kernel would write past the end of a tensor that claims more numbers than it has."""

    def forge(state: Tree) -> None:
        for of_one in state["optimizer"]["state"].values():
            assert of_one["exp_avg"].any()
            of_one["exp_avg_sq"] = torch.ones(1).expand(of_one["exp_avg_sq"].shape)
        for group in state["optimizer"]["param_groups"]:
            group |= {"weight_decay": 1e9, "maximize": True, "betas": "x"}

    before = train_one_step(run)
    edit_state(run, forge)
    after = train_one_step(run)
    assert before.keys() == after.keys()
    for name, weights in after.items():
        assert weights.isfinite().all()
        assert (weights - before[name]).abs().max() < 0.1


@pytest.mark.parametrize("name", ["lock", "corpus", "hypotheses", "tensorboard"])
def test_links_are_not_followed(run: Path, tmp_path: Path, name: str) -> None:
    """Not even to remove what a killed process left; the run folder itself may be behind one."""
    config, outside = RunFolder(run).load_config(), tmp_path / "outside"
    shutil.move(run / "corpus", outside) if name == "corpus" else outside.mkdir()
    for file in ("test.txt", "x.abcd_123.tmp"):
        (outside / file).write_text("mine", encoding="utf-8")
    (run / "lock").unlink(missing_ok=True)
    (run / name).symlink_to(outside / "test.txt" if name == "lock" else outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    for work in (resume, evaluate, lambda run: prepare(config, run)):
        with pytest.raises(UserError, match=name):
            work(run)
    assert {path: path.read_bytes() for path in outside.iterdir()} == before
    (run / name).unlink()
    (tmp_path / "link").symlink_to(run)
    with RunFolder(tmp_path / "link").lock():
        pass
    with pytest.raises(UserError, match="link"):  # it may be another experiment's
        run_all([Run("variant", "run", 1, RunFolder(tmp_path / "link"), {}, {}, config)])


@pytest.mark.parametrize("name", ["model.safetensors", "last.pt", "metrics.jsonl"])
def test_pipes_and_devices(run: Path, name: str) -> None:
    """The first would wait for a writer, the second fill the memory."""
    for make in (os.mkfifo, lambda path: Path(path).symlink_to("/dev/zero")):
        (run / name).unlink()
        make(run / name)
        with pytest.raises(UserError, match=name):
            use(run)


# --- what does not belong together ---


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 10**8}, "too little"),
        ({"d_model": 2**31 - 4}, "too little"),
        ({"encoder_layers": 10**9}, "too little"),
        ({"d_ff": 10**8}, r"'\S*down_proj\.weight' is \(64, 128\) .* \(64, 100000000\)"),
        ({"decoder_layers": 2}, r"'decoder\.1\.\S*' is missing"),
    ],
)
def test_weights_are_compared_before_a_model_is_built(run: Path, sizes: Any, message: str) -> None:
    """No machine has the memory for the first of these."""
    config = RunFolder(run).load_config()
    RunFolder(run).save_config(replace(config, model=replace(config.model, **sizes)))
    with pytest.raises(UserError, match=rf"^{run}/model\.safetensors: {message}"):
        Translator.load(run)


def test_numbers_that_are_no_weights(run: Path) -> None:
    translator, folder = Translator.load(run), RunFolder(run)
    fingerprint = translator.tokenizer.fingerprint
    saved = {key: x.clone() for key, x in folder.load_weights(fingerprint).items()}
    name, weights = max(saved.items(), key=lambda item: item[1].numel())
    for value in (math.nan, math.inf, 1e300):
        bad = weights.double()
        bad[1, 1] = value
        folder.save_weights(saved | {name: bad}, fingerprint)
        with pytest.raises(UserError, match=f"{name}.*finite"):
            Translator.load(run)
    for dtype in (torch.int32, torch.float8_e5m2, torch.complex64):
        folder.save_weights(saved | {name: weights.to(dtype)}, fingerprint)
        with pytest.raises(UserError, match=f"{name}.*{dtype}"):
            Translator.load(run)
    for half in (torch.float16, torch.bfloat16):
        folder.save_weights({key: x.to(half) for key, x in saved.items()}, fingerprint)
        loaded = dict(Translator.load(run).model.named_parameters())[name]
        assert torch.equal(loaded.cpu(), weights.to(half).float())


def test_another_tokenizer(run: Path, capsys: Capture) -> None:
    """It has as many subwords: only the fingerprint differs."""
    config = RunFolder(run).load_config()
    trained = Tokenizer.load(RunFolder(run), config)
    other = Tokenizer.train(config.tokenizer, ["lorem ipsum dolor sit amet"] * 9, ["ba du"] * 9)
    assert len(other.tgt) == len(trained.tgt)
    other.save(RunFolder(run))
    for command in (["predict", "--run", str(run), "x"], ["evaluate", "--run", str(run)]):
        assert main(command) == 1
        line = capsys.readouterr().err
        for part in ("model.safetensors", trained.fingerprint, other.fingerprint):
            assert part in line
    with pytest.raises(UserError, match=r"last\.pt: .*tokenizer"):
        resume(run)


def test_other_settings_are_refused(run: Path) -> None:
    """Once training has started; those that change no step already taken may differ."""
    config = RunFolder(run).load_config()
    other = replace(config, model=replace(config.model, d_ff=64))
    for work in (prepare, is_prepared, train):
        with pytest.raises(UserError, match=r"model\.d_ff = 128, not 64"):
            work(other, run)
        assert RunFolder(run).load_config() == config
    harmless = replace(
        config,
        data=replace(config.data, path="moved"),
        train=replace(config.train, epochs=9, patience=1, tensorboard=True),
        decoding=replace(config.decoding, beam=5),
    )
    kept = [run / "tokenizer.model", *(run / "corpus").iterdir()]
    before = [path.stat().st_mtime_ns for path in kept]
    for file in ("metrics.jsonl", "last.pt"):
        assert is_prepared(harmless, run)
        assert "training has started" in prepare(harmless, run)
        (run / "training.json").touch()  # a finished run whose last.pt is removed next
        (run / file).unlink()
    assert [path.stat().st_mtime_ns for path in kept] == before


# --- versions ---


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([], "written by another version"),
        (None, "written by another version"),
        ({}, "written by another version"),
        ({"format": "\n" * 99}, "written by another version"),
        ({"format": FORMAT, "tokenizer": ["\n"]}, "trained with another tokenizer"),
        ({"format": FORMAT - 1, "tokenizer": "x"}, "written by another version"),
        ({"format": FORMAT + 1, "tokenizer": "x"}, "written by another version"),
    ],
)
def test_another_version(run: Path, changes: object, expected: str) -> None:
    weights = run / "model.safetensors"
    save_file(load_file(weights), weights, {"provenance": json.dumps(changes)})
    with pytest.raises(UserError, match=rf"model\.safetensors: {expected}[^\n]*$"):
        Translator.load(run)
    edit_state(run, lambda state: state.update(provenance=changes))
    with pytest.raises(UserError, match=rf"last\.pt: {expected}[^\n]*$"):
        resume(run)


OLD_DATA = """[data]
src = "src"
tgt = "tgt"
directory = {directory!r}
held_out = 7
train = "train"
valid = "val"
test = "flickr"
[data.hub]
name = "a/b"
subset = "s"
revision = ""
train = "t"
valid = "validation"
test = "test"

"""


def test_configuration_before_data_path(run: Path) -> None:
    """Of files or of the hub, it still translates and resumes."""
    text = (run / "config.toml").read_text()
    expected = {"folder": ("train", "", "flickr"), "": ("t", "s", "test")}
    for directory, (train_split, subset, test) in expected.items():
        old = OLD_DATA.format(directory=directory)
        (run / "config.toml").write_text(re.sub(r"(?s)\[data\].*?\n\n", old, text))
        data = RunFolder(run).load_config().data
        assert (data.path, data.train, data.subset) == (directory or "a/b", train_split, subset)
        assert (data.valid, data.test) == ("val" if directory else "validation", test)
        Translator.load(run)
        resume(run)


def test_equal_weights_are_equal_files(run: Path) -> None:
    folder = RunFolder(run)
    fingerprint = Tokenizer.load(folder, folder.load_config()).fingerprint
    tensors, saved = folder.load_weights(fingerprint), {folder.weights_file.read_bytes()}
    for _ in range(10):
        folder.save_weights(tensors, fingerprint)
        saved.add(folder.weights_file.read_bytes())
    assert len(saved) == 1


# --- damage ---


def damaged(content: bytes, rng: random.Random) -> bytes:
    """``content`` cut, grown, or with some bytes changed or missing."""
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return content + rng.randbytes(rng.randint(1, 50))
    changed = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 50])):
        at = rng.randrange(len(changed) if rng.random() < 0.5 else min(400, len(changed)))
        if kind == 2:
            changed[at] = rng.randrange(256)
        elif len(changed) > 10:
            del changed[at : at + rng.randint(1, 9)]
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_damaged_files(made: Path, run: Path, name: str) -> None:
    """They end in one line, or do no harm."""
    content = (run / name).read_bytes()
    messages = []
    for seed in range(8):
        shutil.rmtree(run)
        shutil.copytree(made, run)
        (run / name).write_bytes(damaged(content, random.Random(seed)))
        try:
            use(run)
        except UserError as error:
            messages.append(str(error))
    assert all(len(message.splitlines()) == 1 for message in messages)
    assert messages or name in ("corpus/train.src", "corpus/test.src", "corpus/valid.tgt")


def test_damaged_subwords(made: Path) -> None:
    content = (made / "tokenizer.model").read_bytes()
    messages = []
    for seed in range(300):
        try:
            subwords = Subwords(damaged(content, random.Random(seed)))
        except UserError as error:
            messages.append(str(error))
            continue
        for ids in subwords.encode(["ba du ke", "\U0001f600 x"]):
            assert max(ids) < len(subwords)
            subwords.words(ids)
        subwords.decode(list(range(len(subwords))))
    assert len(messages) > 150
    assert all(len(message.splitlines()) == 1 for message in messages)


@pytest.mark.parametrize("split", ["valid", "test"])
def test_emptied_split(run: Path, split: str) -> None:
    for ending in ("src", "tgt"):
        (run / "corpus" / f"{split}.{ending}").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{split}\.src"):
        use(run)


# --- one writer at a time ---


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("has_locks", [True, False])
def test_lock(tmp_path: Path, monkeypatch: Patch, has_locks: bool) -> None:
    """On Lustre and some NFS a marker file takes the place of the system's lock."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if not has_locks:
        monkeypatch.setattr("fcntl.flock", flock)
    run = RunFolder(tmp_path / "run")
    with run.lock(), pytest.raises(UserError, match=f"{run}: another process"):
        run.lock().__enter__()
    with run.lock():  # both are gone
        pass


HOLD = (
    "import sys, time; from seq2seq.run_folder import RunFolder\n"
    "with RunFolder(sys.argv[1]).lock(): print('held', flush=True); time.sleep(100)"
)


def test_lock_ends_with_its_process(made: Path, run: Path, capsys: Capture) -> None:
    config = RunFolder(made).config_file
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdout.readline() == b"held\n"
    before = sorted(os.listdir(run))
    for command in (["train"], ["prepare"]):  # refused at once
        assert main([*command, "--config", str(config), "--run", str(run)]) == 1
        line = capsys.readouterr().err
        assert f"{run}: another process" in line
        assert line.count("\n") == 1
    assert sorted(os.listdir(run)) == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    (run / "last.pt.abcd_123.tmp").write_bytes(b"half")
    (run / "notes.tmp").write_bytes(b"not ours")
    with RunFolder(run).lock():
        assert sorted(os.listdir(run)) == sorted([*before, "notes.tmp"])
