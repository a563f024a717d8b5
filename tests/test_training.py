"""Training: the schedule, the step, and runs that are repeated, stopped and continued."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Container, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import SEQ2SEQ, TINY_CONFIG, write_corpus
from safetensors.torch import load_file

from seq2seq.batches import make_batch
from seq2seq.checkpoint import load_state, save_state
from seq2seq.cli import main
from seq2seq.config import load_config
from seq2seq.errors import Diverged, Stopped, UserError
from seq2seq.objective import r_drop_at
from seq2seq.optimizer import learning_rate
from seq2seq.preparation import is_prepared, prepare
from seq2seq.settings import Config, TrainConfig
from seq2seq.signals import StopRequest
from seq2seq.tokenizer import PAD, Tokenizer
from seq2seq.training import MAX_SKIPPED, Trainer, seed_of, train

# Everything that is drawn at random or remembered, in a run of a second or two.
OVERRIDES = {
    "model.dropout": "0.1",
    "tokenizer.bpe_dropout": "0.1",
    "train.average": "0.9",
    "train.epochs": "3",
    "train.validate_every": "4",
    "train.accumulate": "2",
    "train.warmup_steps": "5",
    "train.r_drop": "2.0",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("training")
    write_corpus(folder / "corpus", {"train": 200, "valid": 8, "test": 8})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(directory=str(folder / "corpus")), encoding="utf-8")
    return load_config(path, OVERRIDES)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model.safetensors")


def metrics(run: Path) -> list[dict[str, float]]:
    """The metrics without the one column that measures time."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(x).items() if k != "tokens_per_second"} for x in lines]


@pytest.fixture(scope="module")
def uninterrupted(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("uninterrupted")
    prepare(config, run)
    train(config, run)
    return run


def test_learning_rate_by_hand() -> None:
    config = TrainConfig(learning_rate=1.0, warmup_steps=4, decay="linear")
    assert [learning_rate(config, step, 0.0) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert learning_rate(config, 100, 0.75) == 0.25
    assert learning_rate(config, 1, 0.5) == 0.25  # half way up, half way down
    cosine = replace(config, decay="cosine")
    assert learning_rate(cosine, 100, 0.5) == pytest.approx(0.5)
    assert learning_rate(cosine, 100, 0.25) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert learning_rate(cosine, 100, 1.0) == pytest.approx(0)


def gradients(
    config: Config, run: Path, split: list[list[int]]
) -> tuple[Trainer, float, list[torch.Tensor]]:
    """What one step over these batches follows, with its loss, and the trainer after it."""
    trainer = Trainer(config, run)
    found: list[torch.Tensor] = []
    parameters = list(trainer.model.parameters())
    trainer.optimizer.register_step_pre_hook(
        lambda *_: found.extend(p.grad.clone() for p in parameters if p.grad is not None)
    )
    _, src, tgt = trainer.data.epoch(0)
    batches = [make_batch(src, tgt, rows) for rows in split]
    return trainer, trainer.step(batches, 1e-3, config.train.r_drop), found


def still(config: Config, **train: Any) -> Config:
    """``config`` with nothing drawn at random."""
    return replace(
        config,
        model=replace(config.model, dropout=0.0),
        tokenizer=replace(config.tokenizer, bpe_dropout=0.0),
        train=replace(config.train, **{"r_drop": 0.0} | train),
    )


def test_small_batches_accumulate_to_the_mean_over_all_tokens(
    config: Config, uninterrupted: Path
) -> None:
    config = still(config, clip_norm=0.0, label_smoothing=0.2)
    one, loss, expected = gradients(config, uninterrupted, [[0, 1, 2, 3, 4, 5, 6, 7]])
    two, total, summed = gradients(config, uninterrupted, [[0, 1], [2, 3, 4, 5, 6, 7]])
    assert one.progress.labels == two.progress.labels
    assert total == pytest.approx(loss, rel=1e-5)
    for a, b in zip(expected, summed, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)

    # And both are torch's own gradient of the smoothed mean.
    trainer = Trainer(config, uninterrupted)
    _, src, tgt = trainer.data.epoch(0)
    batch = make_batch(src, tgt, range(8)).to(trainer.device)
    logits = trainer.model(batch.src, batch.tgt_in).flatten(0, 1)
    labels = batch.labels.flatten()
    F.cross_entropy(logits, labels, ignore_index=PAD, label_smoothing=0.2).backward()
    for parameter, a in zip(trainer.model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, a, rtol=1e-3, atol=1e-6)


def test_r_drop_follows_torchs_gradient_of_two_passes(config: Config, uninterrupted: Path) -> None:
    config = replace(
        config,
        model=replace(config.model, dropout=0.3),
        train=replace(config.train, r_drop=4.0, label_smoothing=0.2, clip_norm=0.0),
    )
    _, loss, found = gradients(config, uninterrupted, [[0, 1, 2, 3, 4, 5, 6, 7]])

    trainer = Trainer(config, uninterrupted)
    _, src, tgt = trainer.data.epoch(0)
    batch = make_batch(src, tgt, range(8)).to(trainer.device)
    trainer.model.train()
    torch.manual_seed(seed_of(config.train.seed, 0, 0))
    logits = trainer.model(batch.src.repeat(2, 1), batch.tgt_in.repeat(2, 1))
    counts = (batch.labels != PAD).repeat(2, 1)
    p, q = logits[counts].chunk(2)
    labels = batch.labels[batch.labels != PAD]
    assert not torch.equal(p, q)  # each pass draws dropout of its own
    surprise = sum(F.cross_entropy(x, labels, reduction="sum", label_smoothing=0.2) for x in (p, q))
    log_p, log_q = p.log_softmax(1), q.log_softmax(1)
    apart = ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum()  # KL(p|q) + KL(q|p)
    expected = surprise / 2 + 4.0 / 4 * apart
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    (expected / len(labels)).backward()
    for parameter, gradient in zip(trainer.model.parameters(), found, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-6)


def test_r_drop_begins_half_way(config: Config, tmp_path: Path) -> None:
    """Up to there, a training is the one without it, number by number; from there on it is not."""
    found = []
    for weight in (0.0, 4.0):
        run = tmp_path / f"{weight}"
        train_config = replace(config.train, epochs=2, validate_every=1, r_drop=weight)
        changed = replace(config, model=replace(config.model, dropout=0.3), train=train_config)
        prepare(changed, run)
        train(changed, run)
        found.append(metrics(run))
    for once, twice in zip(*found, strict=True):
        assert (once == twice) == (once["epoch"] == 0)
    assert {line["epoch"] for line in found[0][:-1]} == {0, 1}
    half = [r_drop_at(TrainConfig(r_drop=3.0), share) for share in (0.0, 0.49, 0.5, 1.0)]
    assert half == [0.0, 0.0, 3.0, 3.0]


def test_training_has_kernels_kept(
    config: Config, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.delenv(name, raising=False)
    Trainer(config, uninterrupted)
    assert int(os.environ[name]) > 1024  # what oneDNN keeps by itself


def test_gradients_are_clipped(config: Config, uninterrupted: Path) -> None:
    _, _, found = gradients(still(config, clip_norm=0.01), uninterrupted, [[0, 1, 2]])
    norm = torch.cat([gradient.flatten() for gradient in found]).norm().item()
    assert norm == pytest.approx(0.01, rel=1e-3)


def test_bfloat16_is_near_float32(config: Config, uninterrupted: Path) -> None:
    losses = []
    for precision in ("float32", "bfloat16"):
        trainer = Trainer(
            replace(config, train=replace(config.train, precision=precision)),
            uninterrupted,
        )
        steps = zip(range(4), trainer.steps(), strict=False)
        losses.append(sum(trainer.step(batches, 1e-3) for _, (batches, _) in steps))
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.01)


def test_the_same_seed_gives_identical_weights(
    config: Config, uninterrupted: Path, tmp_path: Path
) -> None:
    prepare(config, tmp_path)
    train(config, tmp_path)
    expected, again = weights(uninterrupted), weights(tmp_path)
    assert expected.keys() == again.keys()
    assert all(torch.equal(expected[name], again[name]) for name in expected)
    assert metrics(tmp_path) == metrics(uninterrupted)

    other = replace(config, train=replace(config.train, seed=2))
    run = tmp_path / "other"
    prepare(other, run)
    train(other, run)
    assert not all(torch.equal(expected[name], weights(run)[name]) for name in expected)


def stop_after(monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Have Ctrl-C come during a step."""
    step = Trainer.step

    def step_and_stop(self: Trainer, *arguments: Any) -> float:
        loss = step(self, *arguments)
        if self.progress.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)
        return loss

    monkeypatch.setattr(Trainer, "step", step_and_stop)


@pytest.mark.parametrize("stops", [[1], [3, 4, 5], [4, 8, 9]])
def test_a_stopped_run_ends_as_if_it_had_not_been(
    config: Config,
    uninterrupted: Path,
    tmp_path: Path,
    stops: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    prepare(config, tmp_path)
    for stop_at in stops:
        with monkeypatch.context() as patch:
            stop_after(patch, stop_at)
            with pytest.raises(Stopped) as stopped:
                train(config, tmp_path)
        assert stopped.value.signal_number == signal.SIGINT
        assert f"step {stop_at}" in str(stopped.value)
    train(config, tmp_path)
    expected, resumed = weights(uninterrupted), weights(tmp_path)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert metrics(tmp_path) == metrics(uninterrupted)
    one, other = load_state(tmp_path / "last.pt"), load_state(uninterrupted / "last.pt")
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])


def test_a_signal_that_comes_when_no_step_is_left_is_not_lost(
    config: Config, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config, tmp_path)
    validate = Trainer.validate

    def validate_and_stop(self: Trainer) -> dict[str, Any]:
        if self.progress.epoch == config.train.epochs:
            os.kill(os.getpid(), signal.SIGINT)
        return validate(self)

    monkeypatch.setattr(Trainer, "validate", validate_and_stop)
    with pytest.raises(Stopped, match="training was done"):
        train(config, tmp_path)
    monkeypatch.setattr(Trainer, "step", None)
    train(config, tmp_path)
    assert metrics(tmp_path) == metrics(uninterrupted)


def test_a_finished_run_is_not_trained_again(
    config: Config, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Trainer, "step", None)
    before = weights(uninterrupted)
    summary = train(config, uninterrupted)
    assert summary["steps"] == metrics(uninterrupted)[-1]["step"]
    assert all(torch.equal(before[name], weights(uninterrupted)[name]) for name in before)


def test_the_best_average_is_kept(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, train=replace(config.train, validate_every=3))
    prepare(config, tmp_path)
    scores, judged = iter([1.0, 3.0, 2.0]), []
    validate = Trainer.validate

    def validate_and_remember(self: Trainer) -> dict[str, Any]:
        judged.append({n: p.detach().clone() for n, p in self.average.named_parameters()})
        return validate(self)

    monkeypatch.setattr(Trainer, "validate", validate_and_remember)
    monkeypatch.setattr("seq2seq.training.bleu", lambda *_: next(scores))
    assert train(config, tmp_path)["best_step"] == 6
    kept = weights(tmp_path)
    same = [
        all(torch.equal(kept[name].to(p), p) for name, p in average.items()) for average in judged
    ]
    assert same == [False, True, False]


def test_early_stopping(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = replace(config, train=replace(config.train, patience=2, validate_every=1))
    prepare(patient, tmp_path)
    scores = iter([1.0, 3.0, 2.0, 3.0, 9.0])
    monkeypatch.setattr("seq2seq.training.bleu", lambda *_: next(scores))
    summary = train(patient, tmp_path)
    assert (summary["steps"], summary["best_step"]) == (4, 2)


def test_the_average_follows_the_weights(config: Config, uninterrupted: Path) -> None:
    trainer = Trainer(config, uninterrupted)
    name = "encoder.0.feed_forward.expand.weight"
    expected = dict(trainer.model.named_parameters())[name].detach().clone()
    for n, (batches, _) in zip(range(3), trainer.steps(), strict=False):
        trainer.step(batches, 1e-2)
        beta = min(0.9, (2 + n) / (11 + n))
        new = dict(trainer.model.named_parameters())[name].detach()
        expected = beta * expected + (1 - beta) * new
    torch.testing.assert_close(dict(trainer.average.named_parameters())[name].detach(), expected)


def test_pairs_that_are_too_long_are_reported_before_training(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def nothing(*_: object) -> None:
        raise Stopped("at once", signal.SIGINT)

    monkeypatch.setattr(Trainer, "fit", nothing)
    short = replace(config, data=replace(config.data, max_tokens=10))
    prepare(short, tmp_path)
    with pytest.raises(Stopped):
        train(short, tmp_path)
    assert "training pairs longer than data.max_tokens = 10" in capsys.readouterr().err


def test_validation_loss_is_torchs_cross_entropy_without_dropout(
    config: Config, uninterrupted: Path
) -> None:
    trainer = Trainer(replace(config, train=replace(config.train, average=0.0)), uninterrupted)
    trainer.model.eval()
    losses = []
    for pair in zip(trainer.valid.src, trainer.valid.tgt, strict=True):
        src = torch.tensor(trainer.tokenizer.encode_src([pair[0]]), device=trainer.device)
        ids = torch.tensor(trainer.tokenizer.encode_tgt([pair[1]]), device=trainer.device)
        logits = trainer.model(src, ids[:, :-1])
        losses.append(F.cross_entropy(logits[0], ids[0, 1:], reduction="none"))
    trainer.model.train()
    assert trainer.validation_loss() == pytest.approx(torch.cat(losses).mean().item(), rel=1e-5)


def test_a_stale_tokenizer_does_not_survive(config: Config, tmp_path: Path) -> None:
    joint = config.tokenizer
    apart = replace(config, tokenizer=replace(joint, joint=False, vocab_size=280))
    prepare(apart, tmp_path)
    assert not Tokenizer.load(tmp_path).joint
    prepare(config, tmp_path)
    assert Tokenizer.load(tmp_path).joint
    # One that could not be learned leaves none behind, and nothing counts as prepared.
    large = replace(config, tokenizer=replace(joint, vocab_size=9999))
    with pytest.raises(UserError, match="too large"):
        prepare(large, tmp_path, "tokenizer")
    assert not is_prepared(large, tmp_path)
    assert not is_prepared(config, tmp_path)
    prepare(config, tmp_path, "tokenizer")
    assert is_prepared(config, tmp_path)


def test_a_tokenizer_is_not_learned_from_another_corpus(config: Config, tmp_path: Path) -> None:
    prepare(config, tmp_path, "corpus")
    moved = replace(config, data=replace(config.data, directory="elsewhere"))
    with pytest.raises(UserError, match="holds another corpus"):
        prepare(moved, tmp_path, "tokenizer")
    assert not is_prepared(moved, tmp_path)


def test_another_configuration_is_refused_once_training_began(
    config: Config, uninterrupted: Path
) -> None:
    other = replace(config, model=replace(config.model, d_ff=64))
    with pytest.raises(UserError, match=r"trained with model\.d_ff = 128, not 64"):
        prepare(other, uninterrupted)
    assert is_prepared(config, uninterrupted)
    decoding = replace(config, decoding=replace(config.decoding, beam=5))
    assert "training has begun" in prepare(decoding, uninterrupted)
    prepare(config, uninterrupted)


def test_what_a_finished_run_was_trained_with_stays_without_its_state(
    config: Config, uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    (run / "last.pt").unlink()
    before = (run / "tokenizer.model").stat().st_mtime_ns
    assert "training has begun" in prepare(config, run)
    assert (run / "tokenizer.model").stat().st_mtime_ns == before


def test_a_state_that_does_not_fit_is_refused(
    config: Config, uninterrupted: Path, tmp_path: Path
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"garbage")
    with pytest.raises(UserError, match="not a training state"):
        load_state(path)
    save_state({"model": {}}, path)
    with pytest.raises(UserError, match="does not fit this run"):
        Trainer(config, uninterrupted).restore(load_state(path))


def test_a_state_of_earlier_versions_goes_on(config: Config, uninterrupted: Path) -> None:
    state = load_state(uninterrupted / "last.pt")
    trainer = Trainer(config, uninterrupted)
    trainer.restore(state | {"random": torch.get_rng_state(), "random_cuda": []})
    assert trainer.progress.finished


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Python's own answer to Ctrl-C, even where the tests run in the background, without it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_signals_ask_once_and_then_do_what_they_did(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.signal_number == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is before
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert "again to stop at once" in capsys.readouterr().err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_real_process_stops_and_goes_on(
    tiny_config: Path, tmp_path: Path, number: int, status: int
) -> None:
    command = [*SEQ2SEQ, "train", "--config", str(tiny_config), "--run", str(tmp_path / "r")]
    process = subprocess.Popen(
        [*command, "--train.validate_every", "20"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "r" / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert b"the same command goes on" in errors
    assert b"Traceback" not in errors
    assert load_state(tmp_path / "r" / "last.pt")["progress"]["step"] >= 20
    assert not (tmp_path / "r" / "training.json").exists()


def changed(code: str, run: Path) -> list[str]:
    """The command that trains in a run folder, with something in the program changed."""
    script = f"import sys; from seq2seq.cli import main\n{code}\nsys.exit(main(sys.argv[1:]))"
    config = str(run / "config.toml")
    return [sys.executable, "-c", script, "train", "--config", config, "--run", str(run)]


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -15)])
def test_a_second_signal_leaves_at_once(
    config: Config, tmp_path: Path, number: int, status: int
) -> None:
    """In the middle of a step that takes a minute. (A shell says 143 for what SIGTERM ended.)"""
    prepare(config, tmp_path)
    code = (
        "import signal, time; from seq2seq.training import Trainer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "Trainer.step = lambda *_: (print('step', flush=True), time.sleep(60))"
    )
    process = subprocess.Popen(
        changed(code, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout
    assert process.stderr
    assert process.stdout.readline() == b"step\n"
    process.send_signal(number)
    assert process.stderr.readline() + process.stderr.readline() == (
        b"\nstopping after this step; again to stop at once\n"
    )
    began = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == status
    assert time.monotonic() - began < 20
    assert b"Traceback" not in process.stderr.read()


def test_a_signal_is_heeded_where_nobody_reads(config: Config, tmp_path: Path) -> None:
    """``train 2>&1 | tee log``: the same Ctrl-C ends ``tee``."""
    prepare(config, tmp_path)
    code = (
        "import os, signal; from seq2seq.training import Trainer\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler); step = Trainer.step\n"
        "def step_and_stop(*a):\n"
        "    read, write = os.pipe(); os.dup2(write, 2); os.close(write); os.close(read)\n"
        "    os.kill(os.getpid(), signal.SIGINT); return step(*a)\n"
        "Trainer.step = step_and_stop"
    )
    assert subprocess.run(changed(code, tmp_path), check=False).returncode == 130
    assert load_state(tmp_path / "last.pt")["progress"]["step"] == 1


def test_training_is_quiet_in_a_pipe(
    config: Config, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    prepare(config, tmp_path)
    path = tmp_path / "config.toml"
    assert main(["train", "--config", str(path), "--run", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    assert "best validation BLEU" in out


# --- training that goes wrong ---


def spoiled(monkeypatch: pytest.MonkeyPatch, steps: Container[int], value: float) -> None:
    """Gradients of these steps (counted from 0) are ``value`` in one place."""
    add_gradient = Trainer._add_gradient

    def add_and_spoil(self: Trainer, *arguments: Any, **named: Any) -> float:
        loss = add_gradient(self, *arguments, **named)
        if self.progress.step in steps:
            gradient = next(iter(self.model.parameters())).grad
            assert gradient is not None
            gradient.view(-1)[3] = value
        return loss

    monkeypatch.setattr(Trainer, "_add_gradient", add_and_spoil)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_step_without_a_finite_gradient_is_skipped_and_counted(
    config: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    value: float,
    clip_norm: float,
) -> None:
    config = replace(config, train=replace(config.train, clip_norm=clip_norm))
    prepare(config, tmp_path)
    spoiled(monkeypatch, {1, 2, 4}, value)
    trainer = Trainer(config, tmp_path)
    batches = [batches for batches, _ in islice(trainer.steps(), 6)]
    states = []
    for number, chosen in enumerate(batches):
        states.append({name: t.clone() for name, t in trainer.model.state_dict().items()})
        labels = trainer.progress.labels
        loss = trainer.step(chosen, 1e-3)
        taken = number not in {1, 2, 4}
        assert (loss > 0) == taken
        n_labels = sum(batch.n_labels for batch in chosen)
        assert trainer.progress.labels == labels + taken * n_labels
        after = trainer.model.state_dict()
        assert taken != all(torch.equal(states[-1][name], after[name]) for name in after)
    assert (trainer.progress.skipped, trainer.progress.step) == (3, 6)
    assert trainer.progress.skipped_in_a_row == 0
    for network in (trainer.model, trainer.average):
        assert all(parameter.isfinite().all() for parameter in network.parameters())
    assert trainer.optimizer.state_dict()["state"][0]["step"] == 3


def test_skipped_steps_are_reported(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config, tmp_path)
    spoiled(monkeypatch, {1, 2, 5}, math.nan)
    assert train(config, tmp_path)["skipped_steps"] == 3
    assert [line["skipped_steps"] for line in metrics(tmp_path)][:2] == [2, 3]
    assert all(math.isfinite(line["loss"]) for line in metrics(tmp_path))


def test_training_ends_after_a_few_bad_steps_in_a_row_and_keeps_the_last_good_state(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, train=replace(config.train, epochs=6))
    prepare(config, tmp_path)
    first_bad = config.train.validate_every + 2
    spoiled(monkeypatch, range(first_bad, 10**6), math.nan)
    message = (
        f"gradient of 5 steps in a row is no longer a number at step {first_bad + MAX_SKIPPED};"
    )
    with pytest.raises(Diverged, match=message):
        train(config, tmp_path)
    kept = (tmp_path / "model.safetensors").read_bytes()
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path).values())
    state = load_state(tmp_path / "last.pt")
    assert all(tensor.isfinite().all() for tensor in state["model"].values())
    with pytest.raises(Diverged, match=r"the best so far, is that of step 4\)"):
        train(config, tmp_path)  # as often as one likes: nothing is lost by it
    assert (tmp_path / "model.safetensors").read_bytes() == kept
    monkeypatch.undo()
    train(config, tmp_path)  # the weights it goes on from are good


def test_a_model_that_is_no_number_is_never_the_best(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config, tmp_path)
    trainer = Trainer(config, tmp_path)
    with torch.no_grad():
        next(iter(trainer.average.parameters())).fill_(math.nan)
    monkeypatch.setattr("seq2seq.training.bleu", lambda *_: 100.0)
    with pytest.raises(Diverged, match="on the validation split"):
        trainer.validate()
    assert not (tmp_path / "model.safetensors").exists()


def test_validation_is_greedy_whatever_the_beam(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(config, decoding=replace(config.decoding, beam=3))
    prepare(config, tmp_path)
    monkeypatch.delattr("seq2seq.translator.beam_search")
    Trainer(config, tmp_path).validate()


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's memory as Linux does")
def test_too_little_memory_names_the_batch_and_what_to_change(
    config: Config, tmp_path: Path
) -> None:
    """For real: with as much memory as torch itself takes, and a little more."""
    prepare(config, tmp_path)
    code = (
        "import resource; from pathlib import Path; from seq2seq import training\n"
        "begin = training.Trainer.step\n"
        "def step(self, batches, *how):\n"
        "    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (used + 2**22, -1))\n"
        "    many = [training.Batch(b.src.repeat(400, 1), b.tgt.repeat(400, 1)) for b in batches]\n"
        "    return begin(self, many, *how)\n"
        "training.Trainer.step = step"
    )
    command = changed(code, tmp_path)
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.count("\n") == 1
    expected = (
        r"out of memory at step 0, for [\d]+ pairs of \d+ source and \d+ target tokens: a lower "
    )
    assert re.search(expected + "train.batch_tokens", ended.stderr)


@pytest.mark.parametrize("command", ["train", "predict"])
def test_a_model_for_which_there_is_too_little_memory(
    config: Config, uninterrupted: Path, tmp_path: Path, command: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(uninterrupted, run)
    for name in ("last.pt", "training.json"):
        (run / name).unlink()
    path = run / "config.toml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("d_ff = 128", "d_ff = 2000000000"), encoding="utf-8")
    arguments = ["--config", str(path)] if command == "train" else ["x"]
    ended = subprocess.run(
        [*SEQ2SEQ, command, "--run", str(run), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
    )
    assert ended.returncode == 1
    assert "out of memory; a smaller model" in ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.skipif(sys.platform != "linux", reason="limits a process's files as Linux does")
def test_a_full_disk_leaves_the_checkpoint_before(
    config: Config, uninterrupted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk on which nothing as large as the state can be written any more."""
    prepare(config, tmp_path)
    with monkeypatch.context() as patch:
        stop_after(patch, 5)
        with pytest.raises(Stopped):
            train(config, tmp_path)
    before = [(tmp_path / name).read_bytes() for name in ("last.pt", "model.safetensors")]
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, -1))"
    command = changed(code, tmp_path)
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert re.search(
        r"(last\.pt|model\.safetensors): cannot be written: File too large", ended.stderr
    )
    assert [(tmp_path / name).read_bytes() for name in ("last.pt", "model.safetensors")] == before
    assert not list(tmp_path.glob("*.tmp"))
    train(config, tmp_path)
    expected, resumed = weights(uninterrupted), weights(tmp_path)
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)
    assert metrics(tmp_path) == metrics(uninterrupted)
