"""Training: schedules, the step, validation, and runs that are repeated, stopped and resumed."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from resource import RLIMIT_AS, RLIMIT_FSIZE, getpagesize, getrlimit, setrlimit
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, TINY_CONFIG, Capture, Patch, small_model, write_corpus
from matplotlib.figure import Figure
from safetensors.torch import load_file
from torch import Tensor, nn

from seq2seq import cpu
from seq2seq.attention import NORMALIZERS, Part, Place
from seq2seq.cli import main
from seq2seq.config import AttentionConfig, Config, TrainConfig, load_config
from seq2seq.data.batches import Batch, make_batch
from seq2seq.data.corpus import load_split
from seq2seq.data.prepare import is_prepared, prepare
from seq2seq.data.tokenizer import BOS, PAD
from seq2seq.evaluation import validation
from seq2seq.evaluation.plotting import plot_curves
from seq2seq.evaluation.validation import guess_loss, validation_loss
from seq2seq.model.weights import named_tensors
from seq2seq.run_folder import RunFolder
from seq2seq.training import trainer as trainer_module
from seq2seq.training.optimizer import lr_at, make_optimizer, r_drop_at
from seq2seq.training.trainer import MAX_SKIPPED, Trainer, TrainState, stop_requests, train
from seq2seq.translator import Translator
from seq2seq.utils import TrainingDiverged, TrainingInterrupted, UserError

# Everything that is random or remembered, in a run of a second or two.
OVERRIDES = {
    "model.dropout": "0.1",
    "tokenizer.bpe_dropout": "0.1",
    "train.ema_decay": "0.9",
    "train.epochs": "3",
    "train.validate_every": "4",
    "train.grad_accum_steps": "2",
    "train.warmup_steps": "5",
    "train.r_drop_alpha": "2.0",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("training")
    write_corpus(folder / "corpus", {"train": 200, "valid": 8, "test": 8})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(path=str(folder / "corpus")), encoding="utf-8")
    return load_config(path, OVERRIDES)


@pytest.fixture(autouse=True)
def no_curves(monkeypatch: Patch) -> None:
    """Drawing them takes longer than training."""
    monkeypatch.setattr(validation, "plot_curves", lambda lines, path: None)


@pytest.fixture(scope="module")
def prepared(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder in which nothing has been trained; not to be written to."""
    run = tmp_path_factory.mktemp("prepared")
    prepare(config, run)
    return run


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "run")


@pytest.fixture(scope="module")
def uninterrupted(config: Config, prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(prepared, tmp_path_factory.mktemp("uninterrupted") / "run")
    train(config, run)
    return run


def changed(config: Config, **settings: Any) -> Config:
    """``config`` with other settings of training."""
    return replace(config, train=replace(config.train, **settings))


def deterministic(config: Config, **settings: Any) -> Config:
    """``config`` without anything random."""
    config = replace(config, model=replace(config.model, dropout=0.0))
    config = replace(config, tokenizer=replace(config.tokenizer, bpe_dropout=0.0))
    return changed(config, **{"r_drop_alpha": 0.0} | settings)


def metrics(run: Path) -> list[dict[str, float]]:
    """The metrics without the one that measures time."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "tokens_per_second"} for x in lines]


def load_state(run: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(run / "last.pt", weights_only=True)
    return state


def same(one: Any, two: Any) -> bool:
    """Whether two states are equal to the bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return bool(one == two)


def assert_same_result(run: Path, expected: Path) -> None:
    files = [load_file(x / "model.safetensors") for x in (run, expected)]
    assert same(*files)
    assert metrics(run) == metrics(expected)
    states = [load_state(x) for x in (run, expected)]
    for state in states:
        del state["state"]["seconds"], state["state"]["step_seconds"]
    assert same(*states)


# --- schedules and optimizer ---


def test_lr_by_hand() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=4, lr_schedule="linear")
    assert [lr_at(config, step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert lr_at(config, 100, 0.75) == 0.25
    assert lr_at(config, 1, 0.5) == 0.25  # half way up, half way down
    cosine = replace(config, lr_schedule="cosine")
    assert lr_at(cosine, 100, 0.5) == pytest.approx(0.5)
    assert lr_at(cosine, 100, 0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert lr_at(cosine, 100, 1.0) == pytest.approx(0)
    assert [r_drop_at(TrainConfig(r_drop_alpha=3.0), x) for x in (0.0, 0.49, 0.5)] == [0, 0, 3]


def test_weight_decay_is_for_matrices() -> None:
    """Not for position biases, talking-heads maps or learned positions, two-dimensional too."""
    relative = AttentionConfig(position="t5", modifiers="talking_heads")
    learned = AttentionConfig(position="learned")
    model = small_model(replace(SMALL, encoder_attention=relative, decoder_attention=learned))
    groups = make_optimizer(model, TrainConfig(weight_decay=0.5, adam_beta2=0.75)).param_groups
    assert [group["betas"] for group in groups] == [(0.9, 0.75)] * 2
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    by_decay = {g["weight_decay"]: {names[id(p)] for p in g["params"]} for g in groups}
    assert by_decay.keys() == {0.5, 0.0}
    assert by_decay[0.5] | by_decay[0.0] == set(names.values())
    assert all(re.search(r"(proj|embedding)\.weight$", name) for name in by_decay[0.5])
    assert not any(re.search(r"(proj|embedding)\.weight$", name) for name in by_decay[0.0])
    assert sum(model.get_parameter(name).dim() == 2 for name in by_decay[0.0]) >= 4


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adafactor": torch.optim.Adafactor,
    "nadam": torch.optim.NAdam,
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS.keys())
def test_any_optimizer_resumes(
    config: Config,
    run: Path,
    monkeypatch: Patch,
    make: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
) -> None:
    monkeypatch.setattr(trainer_module, "make_optimizer", lambda m, _: make([*m.parameters()]))
    config = deterministic(config, max_tokens_per_batch=100)
    trainer, resumed = Trainer(config, run), Trainer(config, run)
    batches = [batches for batches, _ in islice(trainer.steps(), 4)]
    for chosen in batches[:2]:
        trainer.step(chosen, 1e-2)
    trainer.state.seconds = 5.0
    trainer.save_checkpoint()
    resumed.load_checkpoint()
    assert resumed.state == trainer.state
    for chosen in batches[2:]:
        trainer.step(chosen, 1e-2)
        resumed.step(chosen, 1e-2)
    assert same(trainer.model.state_dict(), resumed.model.state_dict())
    one, two = trainer.optimizer.state_dict(), resumed.optimizer.state_dict()
    assert same(one["state"], two["state"])


# --- a step ---


def gradients(
    config: Config, run: Path, split: list[list[int]]
) -> tuple[Trainer, float, list[Tensor]]:
    """The trainer after one step over these batches, the loss, and the gradients."""
    trainer = Trainer(config, run)
    grads: list[Tensor] = []
    parameters = list(trainer.model.parameters())
    trainer.optimizer.register_step_pre_hook(
        lambda *_: grads.extend(p.grad.clone() for p in parameters if p.grad is not None)
    )
    _, src, tgt = trainer.data.epoch(0)
    batches = [make_batch(src, tgt, rows) for rows in split]
    return trainer, trainer.step(batches, 1e-3, config.train.r_drop_alpha), grads


def test_accumulated_gradients_match_torch(config: Config, prepared: Path) -> None:
    """Two small batches give the mean over all their tokens, as one large batch does."""
    config = deterministic(config, max_grad_norm=0.0, label_smoothing=0.2)
    one, loss, expected = gradients(config, prepared, [[0, 1, 2, 3, 4, 5, 6, 7]])
    two, total, summed = gradients(config, prepared, [[0, 1], [2, 3, 4, 5, 6, 7]])
    assert one.state.target_tokens == two.state.target_tokens
    assert total == pytest.approx(loss, rel=1e-5)
    for a, b in zip(expected, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)

    trainer = Trainer(config, prepared)
    _, src, tgt = trainer.data.epoch(0)
    batch = make_batch(src, tgt, range(8)).to(trainer.device)
    logits = trainer.model(batch.src, batch.tgt_in).flatten(0, 1)
    labels = batch.labels.flatten()
    F.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=0.2).backward()
    for parameter, a in zip(trainer.model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, a, rtol=1e-3, atol=1e-6)


def test_r_drop_matches_torch(config: Config, prepared: Path) -> None:
    config = replace(config, model=replace(config.model, dropout=0.3))
    config = changed(config, r_drop_alpha=4.0, label_smoothing=0.2, max_grad_norm=0.0)
    _, loss, grads = gradients(config, prepared, [[0, 1, 2, 3, 4, 5, 6, 7]])

    trainer = Trainer(config, prepared)
    _, src, tgt = trainer.data.epoch(0)
    batch = make_batch(src, tgt, range(8)).to(trainer.device)
    trainer.model.train()
    seeds = np.random.SeedSequence((config.train.seed, 0, 0))
    torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
    logits = trainer.model(batch.src.repeat(2, 1), batch.tgt_in.repeat(2, 1))
    counts = (batch.labels != PAD).repeat(2, 1)
    p, q = logits[counts].chunk(2)
    labels = batch.labels[batch.labels != PAD]
    assert not torch.equal(p, q)  # each pass has dropout of its own
    ce = sum(F.cross_entropy(x, labels, reduction="sum", label_smoothing=0.2) for x in (p, q))
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    divergence = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()  # KL(p‖q) + KL(q‖p)
    expected = ce / 2 + 4.0 / 4 * divergence
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    (expected / len(labels)).backward()
    for parameter, gradient in zip(trainer.model.parameters(), grads, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_gradients_are_clipped(config: Config, prepared: Path) -> None:
    _, _, grads = gradients(deterministic(config, max_grad_norm=0.01), prepared, [[0, 1, 2]])
    norm = torch.cat([gradient.flatten() for gradient in grads]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_is_near_float32(config: Config, prepared: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(changed(config, precision=precision), prepared)
        losses.append(sum(trainer.step(b, 1e-3) for b, _ in islice(trainer.steps(), 4)))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_ema_follows_weights(config: Config, prepared: Path) -> None:
    trainer = Trainer(config, prepared)
    name = "encoder.0.feed_forward.up_proj.weight"
    expected = trainer.model.get_parameter(name).detach().clone()
    for n, (batches, _) in enumerate(islice(trainer.steps(), 3)):
        trainer.step(batches, 1e-2)
        beta = min(0.9, (2 + n) / (11 + n))
        expected = beta * expected + (1 - beta) * trainer.model.get_parameter(name).detach()
    torch.testing.assert_close(trainer.ema.get_parameter(name).detach(), expected)


class Running(nn.Module):
    """A normalizer with statistics: what a variant may have, that is neither weight nor table."""

    mean: Tensor
    count: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(place.n_heads))
        self.register_buffer("count", torch.tensor(0))

    def forward(self, scores: Tensor) -> Tensor:
        weights = scores.softmax(-1)
        if self.training:
            new = weights.detach().amax(-1).mean(dim=(0, 2))
            self.mean, self.count = 0.9 * self.mean + 0.1 * new, self.count + 1
        return weights


def test_persistent_buffers(config: Config, run: Path, monkeypatch: Patch) -> None:
    """They are saved with the average's weights, restored, and loaded with the model."""
    monkeypatch.setitem(NORMALIZERS, "running", Part("running", Running, "", ""))
    attention = AttentionConfig(normalizer="running")
    config = replace(config, model=replace(config.model, encoder_attention=attention))
    trainer = Trainer(config, run)
    n_batches = 0
    for batches, _ in islice(trainer.steps(), 3):
        trainer.step(batches, 1e-3)
        n_batches += len(batches)
    trainer.run.save_config(config)
    trainer.validate()
    expected = dict(trainer.model.named_buffers())
    count = "encoder.0.self_attention.attention.normalize.count"
    assert expected[count] == n_batches  # those of validation do not count
    resumed = Trainer(config, run)
    resumed.load_checkpoint()
    loaded = Translator.load(run).model
    for model in (trainer.ema, resumed.model, resumed.ema, loaded):
        buffers = dict(model.named_buffers())
        assert all(same(buffers[name], expected[name]) for name in expected if "normalize." in name)

    tensors = trainer.run.load_weights(trainer.tokenizer.fingerprint)
    assert "output.weight" not in tensors  # tied: stored once
    del tensors[count]
    trainer.run.save_weights(tensors, trainer.tokenizer.fingerprint)
    with pytest.raises(UserError, match=rf"{count}.*missing"):
        Translator.load(run)


# --- validation and what a run leaves behind ---


def test_validation_loss_matches_torch(config: Config, prepared: Path) -> None:
    trainer = Trainer(changed(config, ema_decay=0.0), prepared)
    trainer.model.eval()
    tokenizer, losses = trainer.tokenizer, []
    for src_text, tgt_text in zip(trainer.valid.src, trainer.valid.tgt, strict=True):
        src = torch.tensor(list(tokenizer.src.encode([src_text])), device=trainer.device)
        tgt = torch.tensor(list(tokenizer.tgt.encode([tgt_text], bos=True)), device=trainer.device)
        logits = trainer.model(src, tgt[:, :-1])
        losses.append(F.cross_entropy(logits[0], tgt[0, 1:], reduction="none"))
    trainer.model.train()
    assert validation_loss(trainer.model, tokenizer, config, trainer.valid) == pytest.approx(
        torch.cat(losses).mean().item(), rel=1e-5
    )


def test_validation_is_greedy(config: Config, run: Path, monkeypatch: Patch) -> None:
    config = replace(config, decoding=replace(config.decoding, beam=3))
    monkeypatch.delattr("seq2seq.model.decoding.beam_search")
    Trainer(config, run).validate()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("select_by", "by", "bleu_chrf_loss"),
    [
        ("bleu", "loss", [(0.2, 9.0, 3.0), (0.0, 2.0, 1.0), (0.1, 1.0, 2.0)]),  # all chance
        ("bleu", "bleu", [(0.9, 9.0, 1.0), (3.0, 1.0, 3.0), (2.0, 1.0, 2.0)]),
        ("auto", "chrf", [(9.0, 1.0, 1.0), (0.0, 3.0, 3.0), (1.0, 2.0, 2.0)]),
        ("loss", "loss", [(9.0, 9.0, 3.0), (1.0, 1.0, 1.0), (9.0, 9.0, 2.0)]),
    ],
)
def test_second_average_is_kept(
    config: Config, run: Path, monkeypatch: Patch, select_by: Any, by: str, bleu_chrf_loss: Any
) -> None:
    path = run / "corpus" / "valid.tgt"
    path.write_text(path.read_text(encoding="utf-8").replace(" ", ""), encoding="utf-8")
    validate, averages = Trainer.validate, []

    def validate_and_remember(self: Trainer) -> dict[str, Any]:
        averages.append({n: p.detach().clone() for n, p in self.ema.named_parameters()})
        return validate(self)

    monkeypatch.setattr(Trainer, "validate", validate_and_remember)
    bleu, chrf, loss = map(iter, zip(*bleu_chrf_loss, strict=True))
    scores = [{"bleu": x, "chrf": y} for x, y in zip(bleu, chrf, strict=True)]
    monkeypatch.setattr(validation, "score", Mock(side_effect=scores))
    monkeypatch.setattr(trainer_module, "validation_loss", lambda *_: next(loss))
    summary = train(changed(config, validate_every=3, select_by=select_by), run)
    assert (summary["best_step"], summary["selected_by"]) == (6, by)
    kept = load_file(run / "model.safetensors")
    assert [same(kept, average) for average in averages] == [False, True, False]
    best = dict(zip(("bleu", "chrf", "loss"), bleu_chrf_loss[1], strict=True))
    assert all(summary[f"best_valid_{name}"] == best[name] for name in ("bleu", "loss", by))


def test_early_stopping(config: Config, run: Path, monkeypatch: Patch) -> None:
    scores = [{"bleu": x, "chrf": 50.0} for x in (1.0, 3.0, 2.0, 3.0, 9.0, 1.0)]
    monkeypatch.setattr(validation, "score", Mock(side_effect=scores))
    patient = changed(config, patience=2, validate_every=1)
    summary = train(patient, run)
    assert (summary["steps"], summary["best_step"]) == (4, 2)
    # With more patience it goes on from there.
    summary = train(changed(patient, patience=4, epochs=2), run)
    assert (summary["steps"], summary["best_step"], summary["epochs"]) == (6, 5, 2)


def test_long_pairs_are_reported(
    config: Config, run: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(Trainer, "fit", lambda *_: None)
    train(replace(config, data=replace(config.data, max_tokens=10)), run)
    assert "pairs longer than data.max_tokens = 10" in capsys.readouterr().err


def test_guess_by_frequency(config: Config, run: Path, capsys: Capture, monkeypatch: Patch) -> None:
    trainer = Trainer(config, run)
    seen, valid = load_split(trainer.run, config.data, "train").tgt, trainer.valid
    ids = [list(trainer.tokenizer.tgt.encode(lines)) for lines in (seen, valid.tgt)]
    train_ids, labels = (torch.tensor([i for row in rows for i in row]) for rows in ids)
    scores = (train_ids.bincount(minlength=290) + 1.0).log()
    scores[BOS] = -math.inf  # it is read, and never guessed
    guess = F.cross_entropy(scores.expand(len(labels), -1), labels).item()
    assert guess_loss(trainer.tokenizer, seen, valid) == pytest.approx(guess)
    spoil(monkeypatch, range(3), math.nan)  # all steps are skipped
    for is_said in (True, False):
        loss = train(changed(config, epochs=1), run)["best_valid_loss"]
        assert ("train.learning_rate" in capsys.readouterr().err) == is_said
        monkeypatch.setattr(trainer_module, "guess_loss", lambda *_, x=loss / 0.94: x)


def test_curves(tmp_path: Path, monkeypatch: Patch) -> None:
    figures: list[Any] = []
    original = Figure.savefig

    def savefig(self: Figure, *arguments: Any, **options: Any) -> None:
        figures.append(self)
        original(self, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", savefig)
    keys = ["loss", "valid_loss", "valid_bleu", "valid_chrf", "learning_rate"]
    lines = [{"step": step} | {key: step / len(key) for key in keys} for step in (10, 20, 30)]
    plot_curves([{"step": 5}, *lines], tmp_path / "curves.png")  # what is missing is left out
    curves = [line.get_xydata().tolist() for axes in figures[0].axes for line in axes.lines]
    assert curves == [[[line["step"], line[key]] for line in lines] for key in keys]
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_tensorboard_and_curves(config: Config, run: Path, monkeypatch: Patch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    plotted: list[list[int]] = []
    monkeypatch.setattr(
        validation, "plot_curves", lambda lines, _: plotted.append([x["step"] for x in lines])
    )
    config = changed(config, tensorboard=True)
    # Killed before it saved step 20: what goes on reaches that step again, with another loss.
    for steps, loss in (((10, 20), 0.5), ((20, 30), 0.25)):
        trainer = Trainer(config, run)
        for step in steps:
            trainer.state.step, trainer.state.loss, trainer.state.target_tokens = step, loss, 1
            trainer.validate()
    assert plotted == [[10], [10, 20], [10, 20], [10, 20, 30]]
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(metrics(run)[0]) - {"step"} | {"tokens_per_second"}
    losses = [(x.step, x.value) for x in events.Scalars("loss")]
    assert losses == [(10, 0.5), (20, 0.25), (30, 0.25)]


def test_tensorboard_must_be_installed(config: Config, run: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(trainer_module, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"train\.tensorboard .*pip install tensorboard"):
        train(changed(config, tensorboard=True), run)


# --- what a process of somebody else's may expect ---


def test_process_is_left_alone(
    config: Config, uninterrupted: Path, run: Path, monkeypatch: Patch
) -> None:
    """Neither loading nor training changes the allocator: only our commands may."""
    called: list[str] = []
    monkeypatch.setattr(cpu, "call_glibc", lambda function, *_: called.append(function))
    monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", raising=False)
    Translator.load(uninterrupted).translate(["ba du"])
    work = threading.Thread(target=train, args=(changed(config, epochs=1), run))
    work.start()  # where no signal can be handled
    work.join()
    assert (run / "training.json").exists()
    assert set(called) <= {"malloc_trim"}
    assert "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in os.environ


def test_sentences_of_any_kind(uninterrupted: Path) -> None:
    """What sentences come in: one, several, none, a column of a table; and what is no sentence."""
    translator = Translator.load(uninterrupted)
    texts = ["ba du", "", "ke lo mi"]
    expected = [translator.translate(text) for text in texts]
    assert all(isinstance(text, str) for text in expected)
    for series in (texts, tuple(texts), iter(texts), dict.fromkeys(texts).keys(), np.array(texts)):
        assert translator.translate(series) == expected
    assert translator.translate([]) == []
    wrong: list[Any] = [b"ba", 3, None, {"ba": 1}, ["ba", float("nan")], np.array([texts])]
    for sentences in wrong:
        with pytest.raises(TypeError, match="sentence"):
            translator.translate(sentences)


# --- repeated, stopped and resumed ---


def test_r_drop_starts_half_way(config: Config, run: Path) -> None:
    """Until then, every number is that of a run without it."""
    config = replace(config, model=replace(config.model, dropout=0.3))
    other, results = shutil.copytree(run, run.parent / "other"), []
    for folder, alpha in ((run, 0.0), (other, 4.0)):
        train(changed(config, epochs=2, validate_every=2, r_drop_alpha=alpha), folder)
        results.append(metrics(folder))
    for without, with_r_drop in zip(*results, strict=True):
        assert (without == with_r_drop) == (without["epoch"] == 0)
    assert {line["epoch"] for line in results[0][:-1]} == {0, 1}


def stop_after(monkeypatch: Patch, stop_at: int, number: int = signal.SIGINT) -> None:
    """Let a signal, Ctrl-C if no other, come during a step."""
    step = Trainer.step

    def step_and_stop(self: Trainer, *arguments: Any) -> float:
        loss = step(self, *arguments)
        if self.state.step == stop_at:
            os.kill(os.getpid(), number)
        return loss

    monkeypatch.setattr(Trainer, "step", step_and_stop)


def test_resume_is_exact(
    config: Config, uninterrupted: Path, run: Path, monkeypatch: Patch
) -> None:
    """Stopped before, at and after a validation, within an epoch and at its end."""
    for stop_at in (1, 3, 4, 5, 8, 9):
        with monkeypatch.context() as patch:
            stop_after(patch, stop_at)
            with pytest.raises(TrainingInterrupted, match=f"step {stop_at}") as stopped:
                train(config, run)
        assert stopped.value.signal_number == signal.SIGINT
    train(config, run)
    assert_same_result(run, uninterrupted)


def test_signal_after_the_last_step(
    config: Config, uninterrupted: Path, run: Path, monkeypatch: Patch
) -> None:
    validate = Trainer.validate

    def validate_and_stop(self: Trainer) -> dict[str, Any]:
        if self.state.epoch == config.train.epochs:
            os.kill(os.getpid(), signal.SIGINT)
        return validate(self)

    monkeypatch.setattr(Trainer, "validate", validate_and_stop)
    with pytest.raises(TrainingInterrupted, match="same command"):
        train(config, run)
    monkeypatch.setattr(Trainer, "step", None)
    train(config, run)
    assert_same_result(run, uninterrupted)


@pytest.mark.parametrize("has_state", [True, False])
def test_finished_run_is_not_trained_again(
    config: Config,
    uninterrupted: Path,
    tmp_path: Path,
    monkeypatch: Patch,
    capsys: Capture,
    has_state: bool,
) -> None:
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    monkeypatch.setattr(Trainer, "step", None)
    if not has_state:
        (run / "last.pt").unlink()
    kept = [path for path in run.rglob("*") if path.is_file() and path.name != "last.pt"]
    before = {path: path.read_bytes() for path in kept}
    summary = train(config, run)
    assert summary["steps"] == metrics(run)[-1]["step"]
    written = json.loads((run / "training.json").read_text(encoding="utf-8"))
    assert (written["precision"], written["processes"]) == ("float32", 1)
    assert written["versions"] == {"torch": torch.__version__, "seq2seq": "0.1.0"}
    beam = replace(config, decoding=replace(config.decoding, beam=3))
    train(changed(beam, epochs=1, patience=1), run)
    assert RunFolder(run).load_config() == beam  # what evaluation reads
    for settings in ({}, {"epochs": 1}, {"patience": 1}, *([] if has_state else [{"epochs": 9}])):
        capsys.readouterr()
        train(changed(config, **settings), run)
        how = "train.epochs" if has_state else "init_from"
        assert re.search(f"finished.*{how}", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in kept} == before


def test_harmless_settings_may_change(
    config: Config, uninterrupted: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """Train for longer, with other patience, from a run whose corpus has moved."""
    run = shutil.copytree(uninterrupted, tmp_path / "run")
    longer = changed(config, epochs=4, patience=9)
    longer = replace(longer, data=replace(config.data, path="moved"))
    last = int(metrics(run)[-1]["step"])
    (run / "eval.json").touch()
    with monkeypatch.context() as patch:
        stop_after(patch, last + 1)
        with pytest.raises(TrainingInterrupted):
            train(longer, run)
    expected = f"step {last:,}, epoch {config.train.epochs} of 4\n"
    assert capsys.readouterr().err.count(expected) == 1
    assert not (run / "training.json").exists()  # it is not done any more
    summary = train(longer, run)
    assert summary["epochs"] == 4
    assert summary["best_step"] > last
    assert not (run / "eval.json").exists()  # of weights that are gone
    assert summary["steps"] > metrics(uninterrupted)[-1]["step"]
    assert metrics(run)[: len(metrics(uninterrupted))] == metrics(uninterrupted)
    assert RunFolder(run).load_config() == longer
    with pytest.raises(UserError, match=r"train\.learning_rate"):
        train(changed(longer, learning_rate=0.5), run)


# --- signals ---


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Python's own handler, even where the tests run in the background, without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_second_signal_ends_at_once(number: int, capsys: Capture) -> None:
    """After the first, each signal does what it did before training."""
    before = {x: signal.getsignal(x) for x in (signal.SIGINT, signal.SIGTERM)}
    assert before[signal.SIGTERM] == signal.SIG_DFL
    with stop_requests() as signals:
        os.kill(os.getpid(), number)
        assert signals == [number]
        assert {x: signal.getsignal(x) for x in before} == before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert {x: signal.getsignal(x) for x in before} == before
    assert "again to stop at once" in capsys.readouterr().err


def train_by_command(run: Path) -> int:
    return main(["train", "--config", str(run / "config.toml"), "--run", str(run)])


def test_sigterm_saves(run: Path, monkeypatch: Patch, capsys: Capture) -> None:
    stop_after(monkeypatch, 5, signal.SIGTERM)
    assert train_by_command(run) == 143
    assert "the same command" in capsys.readouterr().err
    assert load_state(run)["state"]["step"] == 5
    assert not (run / "training.json").exists()


@pytest.mark.slow
def test_sigint_with_closed_stderr(run: Path) -> None:
    """``train 2>&1 | tee log``: the same Ctrl-C ends ``tee``."""
    code = (
        "import os, signal, sys; from seq2seq.training import trainer; from seq2seq.cli import main\n"
        "step = trainer.Trainer.step\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def step_and_stop(*a):\n"
        "    read, write = os.pipe(); os.dup2(write, 2); os.close(write); os.close(read)\n"
        "    os.kill(os.getpid(), signal.SIGINT); return step(*a)\n"
        "trainer.Trainer.step = step_and_stop; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "train", "--config", str(run / "config.toml")]
    assert subprocess.run([*command, "--run", str(run)], check=False).returncode == 130
    assert load_state(run)["state"]["step"] == 1


def test_quiet_in_a_pipe(run: Path, capfd: Capture) -> None:
    assert train_by_command(run) == 0
    out, err = capfd.readouterr()
    said = [[*map(float, x)] for x in re.findall(r"step (\d+) of (\d+),.*bleu ([\d.]+)", err)]
    assert said == [[x["step"], said[-1][0], x["valid_bleu"]] for x in metrics(run)]
    assert out.count("\n") == 1
    assert "best validation" in out


def test_time_left(config: Config, prepared: Path) -> None:
    """At the pace since the last validation, however slow another machine was before."""
    config = changed(config, validate_every=4)
    trainer = Trainer(config, prepared)
    trainer.n_steps, trainer.state.step, trainer.state.seconds = 24, 8, 1e6
    for seconds, patience, expected in ((60, 0, " 4.0"), (30, 0, " 2.0"), (60, 2, " at most 4.0")):
        trainer.config = changed(config, patience=patience)
        assert trainer.progress({}, seconds).endswith(f",{expected} minutes left")
    trainer.state.step = 9
    assert trainer.progress({}, 12.0).endswith(" 3.0 minutes left")
    trainer.state.validations_without_gain = 2
    assert trainer.progress({}, 60.0).endswith(" 0.0 minutes left")


# --- from the weights of another run ---


@pytest.fixture
def from_another(config: Config, uninterrupted: Path, tmp_path: Path) -> Config:
    """On a corpus from which other subwords would be learned."""
    old = shutil.copytree(uninterrupted, tmp_path / "old")
    write_corpus(tmp_path / "corpus", {"train": 150, "valid": 8, "test": 8}, seed=9)
    config = replace(config, data=replace(config.data, path=str(tmp_path / "corpus")))
    config = replace(config, model=replace(config.model, dropout=0.2))
    config = replace(config, tokenizer=replace(config.tokenizer, bpe_dropout=0.0))
    return changed(config, init_from=str(old), learning_rate=1e-3)


def test_starts_where_the_other_ended(
    config: Config, from_another: Config, uninterrupted: Path, tmp_path: Path, capsys: Capture
) -> None:
    run, subwords = tmp_path / "run", (uninterrupted / "tokenizer.model").read_bytes()
    prepare(changed(from_another, init_from=""), run)
    assert (run / "tokenizer.model").read_bytes() != subwords
    with pytest.raises(UserError, match=r"old/model\.safetensors: trained with another tokenizer"):
        Trainer(from_another, run).start_from_another_run()
    assert not is_prepared(from_another, run)
    prepare(replace(from_another, data=config.data), run)
    assert (run / "tokenizer.model").read_bytes() == subwords

    trainer = Trainer(from_another, run)
    trainer.start_from_another_run()
    best = load_file(uninterrupted / "model.safetensors")
    for model in (trainer.model, trainer.ema):
        assert same({k: x.detach().cpu() for k, x in named_tensors(model).items()}, best)
    loss = validation_loss(trainer.model, trainer.tokenizer, config, trainer.valid)
    summary = json.loads((uninterrupted / "training.json").read_text(encoding="utf-8"))
    assert loss == pytest.approx(summary["best_valid_loss"], abs=1e-4)
    assert f"{loss:.4f}" in capsys.readouterr().err
    assert trainer.state == TrainState()


@pytest.mark.parametrize("is_first_checkpoint", [True, False])
def test_resumes_without_the_other(
    from_another: Config, tmp_path: Path, monkeypatch: Patch, is_first_checkpoint: bool
) -> None:
    """Once it has a checkpoint; killed before there is one, it starts there again."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    for folder in (whole, run):
        prepare(from_another, folder)
    train(from_another, whole)
    with monkeypatch.context() as patch:
        if is_first_checkpoint:
            patch.setattr(Trainer, "save_checkpoint", Mock(side_effect=KeyboardInterrupt))
        else:
            stop_after(patch, 1)
        with pytest.raises((KeyboardInterrupt, TrainingInterrupted)):
            train(from_another, run)
    if is_first_checkpoint:
        assert {"model.safetensors", "metrics.jsonl"} <= {x.name for x in run.iterdir()}
    else:
        shutil.rmtree(tmp_path / "old")
    assert is_prepared(from_another, run)
    train(from_another, run)
    assert_same_result(run, whole)
    with pytest.raises(UserError, match=r'train\.init_from = ".*old", not ""'):
        train(changed(from_another, init_from=""), run)


@pytest.mark.parametrize(
    ("section", "changes", "expected"),
    [
        (
            "model",
            {"d_model": 32},
            r"old has model\.d_model = 64, not 32.*--config .*old/config\.toml",
        ),
        ("model", {"n_heads": 2}, r"old has model\.n_heads = 4, not 2"),  # of the same shapes
        ("tokenizer", {"vocab_size": 280}, r"old has tokenizer\.vocab_size = 290, not 280"),
        ("tokenizer", {"joint": False}, r"old has tokenizer\.joint = true, not false"),
        ("data", {"src": "tgt", "tgt": "src"}, "data.src"),
        ("train", {"init_from": "gone"}, "gone: no such run"),
        ("train", {"init_from": "."}, "No such file"),  # itself
    ],
)
def test_other_runs_that_do_not_fit(
    from_another: Config,
    tmp_path: Path,
    monkeypatch: Patch,
    section: str,
    changes: Any,
    expected: str,
) -> None:
    config = replace(from_another, **{section: replace(getattr(from_another, section), **changes)})
    run = tmp_path / "run"
    run.mkdir()
    monkeypatch.chdir(run)
    with pytest.raises(UserError, match=f"^train.init_from: .*{expected}"):
        prepare(config, run)
    assert [path.name for path in run.iterdir()] == ["lock"]


def test_other_runs_that_are_damaged(from_another: Config, tmp_path: Path) -> None:
    old, run = tmp_path / "old", tmp_path / "run"
    prepare(from_another, run)
    saved = load_file(old / "model.safetensors")
    name = next(iter(saved))
    spoiled = saved | {name: saved[name] * math.nan}
    RunFolder(old).save_weights(spoiled, Translator.load(old).tokenizer.fingerprint)
    with pytest.raises(UserError, match=rf"old/model\.safetensors: '{name}'"):
        train(from_another, run)
    (old / "model.safetensors").unlink()
    for work in (train, prepare):
        with pytest.raises(UserError, match=r"old/model\.safetensors: No such file"):
            work(from_another, run)
    assert not (run / "last.pt").exists()


# --- training that goes wrong ---


@pytest.mark.parametrize(
    ("loss", "bleu", "said"),
    [(9.0, 0.0, "guessing"), (9.0, 5.0, "guessing"), (0.5, 0.9, "BLEU"), (0.5, 1.0, None)],
)
def test_a_bad_end_is_said_once(
    config: Config, prepared: Path, capsys: Capture, loss: float, bleu: float, said: str | None
) -> None:
    trainer = Trainer(config, prepared)
    trainer.suits_bleu = True
    trainer.state.best_loss, trainer.state.best_bleu = loss, bleu
    trainer.warn_if_little_is_learned()
    lines = capsys.readouterr().err.splitlines()
    assert [str(said) in line for line in lines] == [True] * (said is not None)
    trainer.suits_bleu = False
    trainer.warn_if_little_is_learned()
    assert bool(capsys.readouterr().err) == (said == "guessing")


def spoil(monkeypatch: Patch, steps: Container[int], value: float) -> None:
    """Set one gradient of these steps (counted from 0) to ``value``."""
    step, clip, bad = Trainer.step, trainer_module.clip_grad_norm_, [False]

    def step_and_note(self: Trainer, *arguments: Any) -> float:
        bad[0] = self.state.step in steps
        return step(self, *arguments)

    def spoil_and_clip(parameters: Iterator[nn.Parameter], max_norm: float) -> Tensor:
        tensors = list(parameters)
        if bad[0]:
            assert tensors[0].grad is not None
            tensors[0].grad.view(-1)[3] = value
        return clip(tensors, max_norm)

    monkeypatch.setattr(Trainer, "step", step_and_note)
    monkeypatch.setattr(trainer_module, "clip_grad_norm_", spoil_and_clip)


@pytest.mark.parametrize("max_grad_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_steps_without_finite_gradient_are_skipped(
    config: Config, prepared: Path, monkeypatch: Patch, value: float, max_grad_norm: float
) -> None:
    spoil(monkeypatch, {1, 2, 4}, value)
    trainer = Trainer(changed(config, max_grad_norm=max_grad_norm), prepared)
    for number, (batches, _) in enumerate(islice(trainer.steps(), 6)):
        before = {name: t.clone() for name, t in trainer.model.state_dict().items()}
        n_tokens = trainer.state.target_tokens
        loss = trainer.step(batches, 1e-3)
        taken = number not in {1, 2, 4}
        assert (loss > 0) == taken
        new = sum(batch.n_target_tokens for batch in batches)
        assert trainer.state.target_tokens == n_tokens + taken * new
        assert same(before, trainer.model.state_dict()) != taken
    state = trainer.state
    assert (state.skipped, state.skipped_in_a_row, state.step) == (3, 0, 6)
    for model in (trainer.model, trainer.ema):
        assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert trainer.optimizer.state_dict()["state"][0]["step"] == 3


def test_divergence_keeps_the_last_good_state(
    config: Config, run: Path, monkeypatch: Patch
) -> None:
    config = changed(config, epochs=4)
    first_bad = config.train.validate_every + 2
    spoil(monkeypatch, range(first_bad, 10**6), math.nan)
    message = rf"gradient of 5 steps.*at step {first_bad + MAX_SKIPPED} .*step 8\)"
    with pytest.raises(TrainingDiverged, match=message):
        train(config, run)
    kept = (run / "model.safetensors").read_bytes()
    assert all(tensor.isfinite().all() for tensor in load_file(run / "model.safetensors").values())
    assert all(tensor.isfinite().all() for tensor in load_state(run)["model"].values())
    with pytest.raises(TrainingDiverged, match=message):
        train(config, run)
    assert (run / "model.safetensors").read_bytes() == kept
    monkeypatch.undo()
    assert train(config, run)["skipped_steps"] == 2  # the weights it resumes from are good
    assert [line["skipped_steps"] for line in metrics(run)][:3] == [0, 2, 2]


def test_nan_model_is_never_the_best(config: Config, run: Path, monkeypatch: Patch) -> None:
    trainer = Trainer(config, run)
    with torch.no_grad():
        next(trainer.ema.parameters()).fill_(math.nan)
    monkeypatch.setattr(validation, "score", lambda *_: {"bleu": 100.0, "chrf": 100.0})
    with pytest.raises(TrainingDiverged, match="on the validation split"):
        trainer.validate()
    assert not (run / "model.safetensors").exists()


@contextmanager
def limited(resource: int, most: int) -> Iterator[None]:
    before = getrlimit(resource)
    setrlimit(resource, (most, before[1]))
    try:
        yield
    finally:
        setrlimit(resource, before)


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_out_of_memory_names_the_batch(config: Config, prepared: Path, monkeypatch: Patch) -> None:
    """For real: with the memory that is in use, and a little more."""
    monkeypatch.setattr(cpu, "pick_device", lambda: torch.device("cpu"))
    trainer = Trainer(config, prepared)
    batches, _ = next(trainer.steps())
    many = [Batch(x.src.repeat(4000, 1), x.tgt.repeat(4000, 1)) for x in batches]
    used = int(Path("/proc/self/statm").read_text().split()[0]) * getpagesize()
    expected = (
        r"out of memory at step 0, for \d+ pairs of \d+ source and \d+ .*max_tokens_per_batch"
    )
    with limited(RLIMIT_AS, used + 2**24), pytest.raises(UserError, match=expected):
        trainer.step(many, 1e-3)


@pytest.mark.parametrize("name", ["training.json", "model.safetensors", "metrics.jsonl", "last.pt"])
def test_without_its_state_what_is_there_is_kept(
    config: Config, uninterrupted: Path, run: Path, name: str
) -> None:
    """And without its model, of which the state may say that it is the best, no run goes on."""
    shutil.copy(uninterrupted / name, run)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    missing = r"model\.safetensors" if name == "last.pt" else rf"last\.pt.*{name}"
    with pytest.raises(UserError, match=missing):
        train(config, run)
    other = replace(config, tokenizer=replace(config.tokenizer, vocab_size=280))
    if name != "metrics.jsonl":  # no tokenizer is needed to read it
        with pytest.raises(UserError, match="vocab_size"):
            prepare(other, run)
    assert {path: path.read_bytes() for path in before} == before


def test_out_of_memory_for_the_model(run: Path, capsys: Capture) -> None:
    path = run / "config.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("d_ff = 128", "d_ff = 2000000000"), encoding="utf-8")
    assert train_by_command(run) == 1
    line = capsys.readouterr().err
    assert "out of memory" in line
    assert line.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's files as Linux does")
def test_full_disk_leaves_the_last_checkpoint(
    config: Config, uninterrupted: Path, run: Path, monkeypatch: Patch
) -> None:
    """A disk on which nothing as large as the state can be written any more."""
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(TrainingInterrupted):
            train(config, run)
    before = [(run / name).read_bytes() for name in ("last.pt", "model.safetensors")]
    too_large = pytest.raises(UserError, match=r"(last\.pt|model\.safetensors): .*File too large")
    with limited(RLIMIT_FSIZE, 100_000), too_large:
        train(config, run)
    assert [(run / name).read_bytes() for name in ("last.pt", "model.safetensors")] == before
    assert not list(run.glob("*.tmp"))
    train(config, run)
    assert_same_result(run, uninterrupted)
