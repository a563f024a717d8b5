"""A run folder from a stranger, damaged, or of another version: nothing in it is ever executed."""

import json
import math
import pickle
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_CONFIG, write_corpus
from safetensors.torch import load_file, save_file

from seq2seq.checkpoint import (
    FORMAT,
    build_model,
    load_run_config,
    load_state,
    read_metadata,
    save_state,
    save_weights,
)
from seq2seq.cli import main
from seq2seq.config import load_config
from seq2seq.errors import UserError
from seq2seq.evaluation import evaluate
from seq2seq.preparation import prepare
from seq2seq.tokenizer import Tokenizer
from seq2seq.training import Trainer, train
from seq2seq.translator import Translator

OLD_RUN = Path(__file__).parent / "old_run"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped before its end, so that training would go on."""
    folder = tmp_path_factory.mktemp("folder")
    write_corpus(folder / "corpus", {"train": 200, "valid": 8, "test": 8})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(directory=str(folder / "corpus")), encoding="utf-8")
    config = load_config(path, {"train.epochs": "2", "train.validate_every": "2"})
    prepare(config, folder / "run")
    train(config, folder / "run")
    (folder / "run" / "training.json").unlink()
    last = folder / "run" / "last.pt"
    state = load_state(last)
    save_state(state | {"progress": state["progress"] | {"finished": False, "epoch": 1}}, last)
    return folder / "run"


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


def use(run: Path) -> None:
    """All that reads a run folder."""
    Translator.load(run).translate(["ba du"])
    evaluate(run, {})
    train(load_run_config(run), run)


# --- malice ---


class Evil:
    """What unpickling it would do."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.trace,)


FILES = ["model.safetensors", "last.pt", "tokenizer.model", "config.toml", "metrics.jsonl",
         "corpus/report.json", "corpus/train.src", "corpus/valid.tgt", "corpus/test.src"]  # fmt: skip


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
@pytest.mark.parametrize("name", FILES)
def test_code_in_a_file_is_refused(run: Path, tmp_path: Path, name: str, how: str) -> None:
    trace = tmp_path / "trace"
    if how == "pickle":
        (run / name).write_bytes(pickle.dumps({"model": Evil(trace)}))
    else:
        torch.save({"model": Evil(trace)}, run / name)
    with pytest.raises(UserError, match=Path(name).name):
        use(run)
    assert not trace.exists()
    if how == "pickle":  # it is what it seems
        pickle.loads((run / name).read_bytes())
        assert trace.exists()


# --- what does not belong together ---


def test_a_tokenizer_of_another_training(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It has as many subwords, so nothing else would tell."""
    config = load_run_config(run)
    other = Tokenizer.train(config.tokenizer, ["lorem ipsum dolor sit amet"] * 9, ["ba du"] * 9)
    trained = Tokenizer.load(run)
    assert other.tgt_vocab_size == trained.tgt_vocab_size
    assert other.fingerprint != trained.fingerprint
    other.save(run)
    for command in (["predict", "--run", str(run), "x"], ["evaluate", "--run", str(run)]):
        assert main(command) == 1
        line = capsys.readouterr().err
        assert "model.safetensors: trained with the tokenizer" in line
        assert trained.fingerprint in line
        assert other.fingerprint in line
    with pytest.raises(UserError, match=r"last\.pt: trained with the tokenizer"):
        train(config, run)


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("vocab_size", 300, "has 290 subwords, but .* tokenizer.vocab_size = 300"),
        ("joint", False, "one vocabulary, but .* tokenizer.joint = false"),
    ],
)
def test_a_tokenizer_that_is_not_the_configurations(
    run: Path, key: str, value: int, expected: str
) -> None:
    path = run / "config.toml"
    text = path.read_text(encoding="utf-8")
    before = {"vocab_size": "290", "joint": "true"}[key]
    assert f"{key} = {before}" in text
    path.write_text(text.replace(f"{key} = {before}", f"{key} = {json.dumps(value)}"), "utf-8")
    with pytest.raises(UserError, match=expected):
        Translator.load(run)
    with pytest.raises(UserError, match=expected):
        train(load_run_config(run), run)


def test_fingerprints_tell_tokenizers_apart() -> None:
    config = load_config(OLD_RUN / "config.toml").tokenizer
    texts = ["ba du ke lo"] * 9, ["mi na po ru"] * 9
    one, two = (replace(config, vocab_size=275, joint=joint) for joint in (True, False))
    found = [
        Tokenizer.train(one, *texts),
        Tokenizer.train(two, *texts),
        Tokenizer.train(two, *texts[::-1]),
    ]
    assert len({tokenizer.fingerprint for tokenizer in found}) == 3
    assert Tokenizer.train(one, *texts).fingerprint == found[0].fingerprint


# --- versions ---


def save_noted(path: Path, noted: object) -> None:
    """The same weights, with something else noted."""
    save_file(load_file(path), path, {"made_with": json.dumps(noted)})


@pytest.mark.parametrize("noted", [[], None, 5, {"format": "1"}, {"format": 1, "tokenizer": []}])
def test_what_is_noted_is_not_trusted(run: Path, noted: object) -> None:
    save_noted(run / "model.safetensors", noted)
    with pytest.raises(UserError, match=r"model\.safetensors: damaged"):
        Translator.load(run)
    save_state(load_state(run / "last.pt") | {"made_with": noted}, run / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: damaged"):
        train(load_run_config(run), run)


def test_equal_weights_are_equal_files(made: Path, tmp_path: Path) -> None:
    config = load_run_config(made)
    tokenizer = Tokenizer.load(made)
    model = build_model(config, tokenizer)
    saved = set()
    for _ in range(10):
        save_weights(model, tokenizer, tmp_path / "weights")
        saved.add((tmp_path / "weights").read_bytes())
    assert len(saved) == 1


def test_a_folder_of_a_later_version_says_so(run: Path) -> None:
    path = run / "model.safetensors"
    noted = read_metadata(path.read_bytes())
    assert noted["format"] == FORMAT
    save_noted(path, noted | {"format": FORMAT + 1})
    with pytest.raises(UserError, match=r"model\.safetensors: written by a later version"):
        Translator.load(run)
    state = load_state(run / "last.pt")
    later = state["made_with"] | {"format": FORMAT + 1}
    save_state(state | {"made_with": later}, run / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt: written by a later version"):
        train(load_run_config(run), run)


def test_a_folder_of_the_first_version_is_read_and_trained_on(tmp_path: Path) -> None:
    """``old_run`` was written before formats were noted; ``expected.txt`` is what it said then."""
    shutil.copytree(OLD_RUN, tmp_path / "run")
    run = tmp_path / "run"
    assert "made_with" not in load_state(run / "last.pt")
    src = (run / "corpus" / "test.src").read_text(encoding="utf-8").splitlines()
    expected = (run / "expected.txt").read_text(encoding="utf-8").splitlines()
    assert Translator.load(run).translate(src) == expected
    before = load_state(run / "last.pt")["progress"]["step"]
    assert train(load_run_config(run), run)["steps"] > before
    assert load_state(run / "last.pt")["made_with"]["format"] == FORMAT


# --- damage ---


def damaged(content: bytes, rng: random.Random) -> bytes:
    """``content`` cut, grown, or with some bytes changed or missing."""
    kind = rng.randrange(4)
    if kind == 0:
        return content[: rng.randrange(len(content))]
    if kind == 1:
        return content + rng.randbytes(rng.randint(1, 50))
    found = bytearray(content)
    for _ in range(rng.choice([1, 1, 2, 5, 50])):
        at = rng.randrange(len(found) if rng.random() < 0.5 else min(400, len(found)))
        if kind == 2:
            found[at] = rng.randrange(256)
        elif len(found) > 10:
            del found[at : at + rng.randint(1, 9)]
    return bytes(found)


Tree = dict[str, Any]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(3)),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=5),
        lambda state: state["optimizer"]["state"].pop(0),
        lambda state: state["optimizer"]["state"].update({99: {}}),
        lambda state: state["optimizer"].update(state=5),
        lambda state: state["optimizer"]["param_groups"][0].update(lr="x"),
        lambda state: state["optimizer"]["param_groups"].pop(),
        lambda state: state["progress"].update(step="x"),
        lambda state: state["progress"].update(epoch=-1),
        lambda state: state["progress"].update(loss=None),
        lambda state: state["progress"].update(unheard_of=1),
        lambda state: state["progress"].update(step_seconds=math.nan),
        lambda state: state["progress"].update(seconds=math.inf),
        lambda state: state["progress"].update(labels=10**400),
        lambda state: state["model"].update(tgt_embedding=5),
        lambda state: state["model"].pop("output.weight"),
        lambda state: state["average"].update({"output.weight": torch.zeros(2, 2)}),
        lambda state: state.update(progress=[]),
        lambda state: state.pop("optimizer"),
    ],
)
def test_a_training_state_is_not_trusted(run: Path, spoil: Callable[[Tree], object]) -> None:
    state = load_state(run / "last.pt")
    spoil(state)
    save_state(state, run / "last.pt")
    with pytest.raises(UserError, match=r"last\.pt does not fit this run: \S") as complaint:
        train(load_run_config(run), run)
    assert len(str(complaint.value).splitlines()) == 1


def test_an_optimizers_memory_is_copied_and_its_settings_are_our_own(run: Path) -> None:
    """A tensor that claims more numbers than it has in memory is written to by torch's kernels."""
    state = load_state(run / "last.pt")
    before = train_one_step(run)
    for memory in state["optimizer"]["state"].values():
        assert memory["exp_avg"].any()
        memory["exp_avg_sq"] = torch.ones(1).expand(memory["exp_avg_sq"].shape)
    for group in state["optimizer"]["param_groups"]:
        group |= {"weight_decay": 1e9, "maximize": True, "betas": "x"}
    save_state(state, run / "last.pt")
    after = train_one_step(run)
    assert before.keys() == after.keys()
    for name, weights in after.items():
        assert weights.isfinite().all()
        assert (weights - before[name]).abs().max() < 0.1


def train_one_step(run: Path) -> dict[str, torch.Tensor]:
    trainer = Trainer(load_run_config(run), run)
    trainer.restore(load_state(run / "last.pt"))
    batches, _ = next(trainer.steps())
    trainer.step(batches, 1e-3)
    for memory in trainer.optimizer.state.values():
        assert memory["exp_avg_sq"].is_contiguous()
    return {name: weights.clone() for name, weights in trainer.model.named_parameters()}


def test_reports_that_are_none(run: Path) -> None:
    path = run / "corpus" / "report.json"
    good = json.loads(path.read_text(encoding="utf-8"))
    changes: list[Tree] = [
        {"test_pairs": 5},
        {"test_pairs": [5]},
        {"test_pairs": {}},
        {"train_pairs": "x"},
    ]
    for change in changes:
        path.write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(UserError, match="not a report"):
            evaluate(run, {})
    path.write_text("[" * 10**5, encoding="utf-8")
    with pytest.raises(UserError, match=r"report\.json: damaged"):
        evaluate(run, {})


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_split_that_was_emptied(run: Path, split: str) -> None:
    for ending in ("src", "tgt"):
        (run / "corpus" / f"{split}.{ending}").write_bytes(b"")
    with pytest.raises(UserError, match=rf"{split}\.src: there are no sentence pairs"):
        use(run)


def test_what_a_training_killed_before_its_first_state_left_is_not_taken_for_its_own(
    run: Path,
) -> None:
    (run / "last.pt").unlink()
    (run / "training.json").unlink(missing_ok=True)
    (run / "metrics.jsonl").write_text('{"step": 1}\n', encoding="utf-8")
    train(load_run_config(run), run)
    steps = [json.loads(x)["step"] for x in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert 1 not in steps


@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_a_complaint_or_does_no_harm(made: Path, run: Path, name: str) -> None:
    content = (run / name).read_bytes()
    complaints = []
    for seed in range(15):
        shutil.rmtree(run)
        shutil.copytree(made, run)
        (run / name).write_bytes(damaged(content, random.Random(seed)))
        try:
            use(run)
        except UserError as error:
            complaints.append(str(error))
    assert all(len(complaint.splitlines()) == 1 for complaint in complaints)
    assert complaints or name in ("corpus/train.src", "corpus/test.src", "corpus/valid.tgt")


def test_a_damaged_tokenizer_is_a_complaint_or_does_no_harm(made: Path) -> None:
    """Also one that no fingerprint gives away, for a stranger can leave that out."""
    content = (made / "tokenizer.model").read_bytes()
    complaints = []
    for seed in range(500):
        try:
            tokenizer = Tokenizer(damaged(content, random.Random(seed)))
        except UserError as error:
            complaints.append(str(error))
            continue
        for ids in tokenizer.encode_src(["ba du ke", "\U0001f600 x"]):
            assert max(ids) < tokenizer.src_vocab_size
            tokenizer.src_words(ids)
        assert len(tokenizer.decode_tgt([list(range(tokenizer.tgt_vocab_size)), [5, 6]])) == 2
    assert len(complaints) > 250
    assert all(len(complaint.splitlines()) == 1 for complaint in complaints)
