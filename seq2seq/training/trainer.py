"""The training loop: steps, validation, checkpoints, and how a run stops and resumes.

Every ``validate_every`` steps the running average of the weights (EMA) is scored on the validation
split; the best, by ``select_by``, is kept as ``model.safetensors``. A checkpoint holds all that the
next step depends on, so an interrupted run continues as if it had not been interrupted.
"""

import math
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import distributions
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import torch
from torch import nn
from torch.nn.utils import clip_grad_norm_
from tqdm import tqdm

from seq2seq import cpu
from seq2seq.config import Config, Count, Name, Number
from seq2seq.data.batches import Batch, TrainingData, make_batch
from seq2seq.data.corpus import iter_split, load_split
from seq2seq.data.encoded import encode_once
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.evaluation.metrics import bleu_tokenizer, suits_bleu
from seq2seq.evaluation.validation import greedy_scores, guess_loss, log_validation, validation_loss
from seq2seq.model.loss import batch_loss
from seq2seq.model.transformer import Seq2Seq, count_parameters
from seq2seq.model.weights import load_model, named_tensors
from seq2seq.run_folder import RunFolder
from seq2seq.training import distributed as dist
from seq2seq.training.optimizer import lr_at, make_optimizer, r_drop_at, restore_optimizer
from seq2seq.utils import (
    TrainingDiverged,
    TrainingInterrupted,
    UserError,
    read_json,
    warn,
    write_json,
)

PACKAGES = ("seq2seq", "torch")
MAX_SKIPPED = 5  # consecutive steps without a finite gradient before training ends


@dataclass
class TrainState:
    """Where training stands: everything that is not a tensor."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already used
    best_rank: float = -math.inf  # BLEU or chrF; below 1, or if the loss selects, that times -1
    best_bleu: float = -1.0
    best_loss: float = 0.0
    best_step: int = 0
    validations_without_gain: int = 0
    loss: float = 0.0  # summed since the last validation
    target_tokens: int = 0  # since the last validation
    step_seconds: float = 0.0  # spent on steps since the last validation
    seconds: float = 0.0  # spent on training, validation included
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_a_row: int = 0

    def __post_init__(self) -> None:
        for key, value in vars(self).items():  # a file's; no number is less than its default
            default = getattr(type(self), key)
            if type(value) is not type(default) or not default <= value < 2**53:
                raise ValueError(f"{key} is {value!r}")


class Summary(TypedDict):
    """What is read again of ``training.json``."""

    steps: Count
    best_step: Count
    selected_by: Name
    best_valid_bleu: Number
    best_valid_loss: Number
    best_valid_chrf: NotRequired[Number]
    minutes: Number
    parameters: Count
    data_checksum: Count
    target_tokens: NotRequired[Count]
    device: Name
    precision: Name
    threads: Count


class Trainer:
    """One training run, in a run folder that holds the prepared corpus and the tokenizer."""

    def __init__(self, config: Config, run: RunFolder | Path | str) -> None:
        torch.manual_seed(config.train.seed)
        self.config, self.run, self.device = config, RunFolder(run), cpu.pick_device()
        self.tokenizer = Tokenizer.load(self.run, config)
        self.data = TrainingData(config, self.run, self.tokenizer)
        self.valid = load_split(self.run, config.data, "valid")
        self.model = Seq2Seq.build(config.model, self.tokenizer).to(self.device)
        self.ema = deepcopy(self.model) if config.train.ema_decay else self.model
        self.state = TrainState()
        by = bleu_tokenizer(config.data, config.evaluation)
        self.suits_bleu, self.select_by = suits_bleu(self.valid.tgt, by), config.train.select_by
        if self.select_by == "auto":
            self.select_by = "bleu" if self.suits_bleu else "chrf"
        steps_per_epoch = math.ceil(self.data.n_batches / config.train.grad_accum_steps)
        self.n_steps = steps_per_epoch * config.train.epochs
        self.optimizer = make_optimizer(self.model, config.train)
        self.is_watched = bool(getattr(sys.stderr, "isatty", bool)())  # by a terminal

    def step(self, batches: list[Batch], lr: float, r_drop_alpha: float = 0.0) -> float:
        """Update the weights once, by the mean loss over all target tokens of ``batches``.

        Returns this process's share of the summed loss; 0 if the gradient is not finite: skipped.
        """
        config, state = self.config.train, self.state
        # Seeded here, no random generator's state has to be saved.
        seeds = np.random.SeedSequence((config.seed, state.step, dist.rank()))
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        self.model.train()
        n_tokens, total = sum(batch.n_target_tokens for batch in batches), 0.0
        for batch in batches:
            part = dist.shard(batch, dist.rank(), dist.world_size()).to(self.device)
            (n_pairs, n_src), n_tgt = part.src.shape, part.tgt_in.shape[1]
            at = f"at step {state.step:,}, for {n_pairs} pairs of {n_src} source and {n_tgt} target"
            hint = f"{at} tokens: lower train.max_tokens_per_batch, raise train.grad_accum_steps"
            with cpu.oom_as_user_error(hint), cpu.float32_matmul(config.max_tokens_per_batch):
                with cpu.autocast(config.precision, self.device):
                    loss = batch_loss(self.model, part, config.label_smoothing, r_drop_alpha)
                (loss / n_tokens).backward()
                total += loss.item()
        dist.sum_gradients(self.model)  # now the same in all processes: so all decide the same
        norm = clip_grad_norm_(self.model.parameters(), config.max_grad_norm or math.inf)
        state.step += 1
        if math.isfinite(norm):
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            if self.ema is not self.model:
                self._update_ema()
            state.target_tokens += n_tokens
            state.skipped_in_a_row = 0
        else:
            total = 0.0
            state.skipped += 1
            state.skipped_in_a_row += 1
            if state.skipped_in_a_row >= MAX_SKIPPED:
                raise self._diverged(f"the gradient of {MAX_SKIPPED} steps in a row")
        self.optimizer.zero_grad()
        return total

    @torch.no_grad()
    def _update_ema(self) -> None:
        """average ← β average + (1 - β) weights, with β rising to ``ema_decay`` at first."""
        beta = min(self.config.train.ema_decay, (1 + self.state.step) / (10 + self.state.step))
        new = named_tensors(self.model)
        for name, average in named_tensors(self.ema).items():
            if isinstance(average, nn.Parameter):
                average.lerp_(new[name], 1 - beta)
            else:  # a persistent buffer: a running statistic is averaged already, a counter never
                average.copy_(new[name])

    def _diverged(self, what: str) -> TrainingDiverged:
        best = f" (the best model is of step {n:,})" if (n := self.state.best_step) else ""
        where = f"at step {self.state.step:,}{best}"
        hint = "in another folder, try a lower train.learning_rate or a longer train.warmup_steps"
        return TrainingDiverged(f"{self.run}: {what} is not finite {where}; {hint}")

    def sync_step(self, loss: float, signals: list[int]) -> int:
        """Add up the losses of all processes; returns a signal that came to any of them, or 0."""
        losses, received = zip(*dist.all_gather(loss, signals[0] if signals else 0), strict=True)
        self.state.loss += sum(losses)
        if not math.isfinite(self.state.loss):
            raise self._diverged("the loss")
        return int(max(received))

    def validate(self) -> dict[str, Any]:
        """Score the average, keep it if it is the best, log and save; returns the new state."""
        began, state = time.perf_counter(), self.state
        to_score = self.ema, self.tokenizer, self.config, self.valid
        valid_loss = validation_loss(*to_score)
        if not math.isfinite(valid_loss):
            raise self._diverged("the loss on the validation split")
        scores = greedy_scores(*to_score)
        score = scores.get(self.select_by, 0.0)
        rank = score if score >= 1 else -valid_loss  # a lower score is chance
        state.validations_without_gain += 1
        if rank > state.best_rank:
            if not self.run.state_file.exists():  # killed before there is one, it starts over
                self.run.save_state({}, self.tokenizer.fingerprint)
            state.best_rank, state.best_step = rank, state.step
            state.best_bleu, state.best_loss = scores["bleu"], valid_loss
            state.validations_without_gain = 0
            self.run.eval_file.unlink(missing_ok=True)  # it is of the weights replaced now
            self.run.save_weights(named_tensors(self.ema), self.tokenizer.fingerprint)
        metrics = {
            "step": state.step,
            "epoch": state.epoch,
            "loss": round(state.loss / max(1, state.target_tokens), 4),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens_per_second": round(state.target_tokens / max(1e-9, state.step_seconds)),
            "valid_loss": round(valid_loss, 4),
            **{f"valid_{name}": round(score, 2) for name, score in scores.items()},
            "skipped_steps": state.skipped,
        }
        log_validation(self.run, metrics, self.config.train.tensorboard)
        seconds = state.step_seconds + time.perf_counter() - began
        state.seconds += seconds
        state.loss, state.target_tokens, state.step_seconds = 0.0, 0, 0.0
        self.save_checkpoint()
        if not self.is_watched:  # where there is no bar
            warn(self.progress(metrics, seconds))
        return asdict(state)

    def progress(self, metrics: dict[str, Any], seconds: float) -> str:
        """A line on a validation, ``seconds`` after the one before: that pace is kept."""
        step, n_steps, config = self.state.step, self.n_steps, self.config.train
        since = step % config.validate_every or config.validate_every
        minutes = 0 if self.is_finished else seconds / since * max(0, n_steps - step) / 60
        shown = metrics.keys() - {"step", "learning_rate"}
        numbers = [f"{key.replace('_', ' ')} {x:,}" for key, x in metrics.items() if key in shown]
        left = f"{'at most ' if config.patience else ''}{minutes:.1f} minutes left"
        return f"step {step:,} of {n_steps:,}, {', '.join(numbers)}, {left}"

    def start_from_another_run(self) -> None:
        """Take the weights of ``train.init_from``, and say how good they are on this corpus."""
        old = RunFolder(self.config.train.init_from)
        weights = load_model(old, self.config, self.tokenizer).state_dict()
        for model in (self.model, self.ema):
            model.load_state_dict(weights)
        if dist.rank() == 0:
            loss = validation_loss(self.ema, self.tokenizer, self.config, self.valid)
            warn(f"{self.run}: starts from {old} with a validation loss of {loss:.4f}")

    def save_checkpoint(self) -> None:
        checkpoint = {
            "model": self.model.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "state": asdict(self.state),
        }
        self.run.save_state(checkpoint, self.tokenizer.fingerprint)

    def load_checkpoint(self) -> None:
        """Continue from ``last.pt``; ``UserError`` if it does not fit."""
        saved = self.run.load_state(self.tokenizer.fingerprint)
        if not saved:  # killed while the first was made
            return
        try:
            if saved["state"].keys() != vars(self.state).keys():
                raise ValueError("written by another version of seq2seq: train again")
            restore_optimizer(self.optimizer, saved["optimizer"])  # first, as it changes weights
            self.model.load_state_dict(saved["model"])
            self.ema.load_state_dict(saved["ema"])
            self.state = TrainState(**saved["state"])
            loaded = self.model.state_dict(), self.ema.state_dict(), *self.optimizer.state.values()
            if not all(x.isfinite().all() for tensors in loaded for x in tensors.values()):
                raise ValueError("it holds numbers that are not finite")
        except Exception as error:  # torch raises many kinds
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self.run.state_file} does not fit this run: {reason}") from None
        if self.state.best_step and not self.run.weights_file.exists():
            raise UserError(f"{self.run.weights_file}: is gone; use another folder (--run)")

    @property
    def best(self) -> tuple[str, float]:
        """What the best weights were selected by in the end, and its value."""
        rank = self.state.best_rank
        return (self.select_by, rank) if rank > 0 else ("loss", -rank)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are done, or ``patience`` validations brought no gain."""
        patience, epochs = self.config.train.patience, self.config.train.epochs
        return self.state.epoch >= epochs or 0 < patience <= self.state.validations_without_gain

    def steps(self) -> Iterator[tuple[list[Batch], float]]:
        """The batches of each remaining step, and the share of training done before it."""
        config, state = self.config.train, self.state
        while not self.is_finished:
            plan, src, tgt = self.data.epoch(state.epoch)
            while state.batch < len(plan):
                progress = (state.epoch + state.batch / len(plan)) / config.epochs
                chosen = plan[state.batch : state.batch + config.grad_accum_steps]
                state.batch += len(chosen)
                yield [make_batch(src, tgt, rows) for rows in chosen], progress
            state.epoch, state.batch = state.epoch + 1, 0
            del plan, src, tgt  # before those of the next epoch are made

    def fit(self, signals: list[int]) -> None:
        """Train until ``is_finished``, or until a signal: ``TrainingInterrupted``, all saved."""
        config, state = self.config.train, self.state
        if len(set(dist.all_gather(self.data.checksum, state.step))) > 1:
            raise UserError(f"{self.run}: is not the same folder for all processes")
        steps, signal_number = self.steps(), 0
        hide = dist.rank() > 0 or not self.is_watched
        with tqdm(steps, total=self.n_steps, initial=state.step, leave=None, disable=hide) as bar:
            for batches, progress in bar:
                began = time.perf_counter()
                lr = lr_at(config, state.step, progress)
                loss = self.step(batches, lr, r_drop_at(config, progress))
                signal_number = self.sync_step(loss, signals)
                state.step_seconds += time.perf_counter() - began
                mean = state.loss / max(1, state.target_tokens)
                by, best = self.best
                bar.set_postfix({"loss": mean, f"best {by}": best}, refresh=False)
                if state.step % 100 == 0:
                    cpu.trim_memory()
                if state.step % config.validate_every == 0:
                    vars(state).update(dist.rank_zero(self.validate))
                if signal_number or self.is_finished:
                    break
        if (state.target_tokens or not state.best_step) and not signal_number:
            vars(state).update(dist.rank_zero(self.validate))
        dist.rank_zero(self.save_checkpoint)
        if signal_number := signal_number or self.sync_step(0.0, signals):  # or after the last step
            how = f"stopped at step {state.step:,}; the same command continues from there"
            raise TrainingInterrupted(how, signal_number)

    def warn_of_data(self) -> None:
        if n := self.data.n_too_long:
            limit = self.config.data.max_tokens
            warn(f"left out {n:,} pairs longer than data.max_tokens = {limit}")
        if self.config.train.select_by in ("auto", "bleu") and not self.suits_bleu:
            what = "few validation references have four words for BLEU"
            warn(f"{what}; train.select_by: the best weights are selected by {self.select_by}")

    def warn_if_little_is_learned(self) -> None:
        loss, bleu = self.state.best_loss, self.state.best_bleu
        seen = (tgt for _, tgt in islice(iter_split(self.run, self.config.data, "train"), 10_000))
        guess = guess_loss(self.tokenizer, seen, self.valid)
        if loss > 0.95 * guess:
            what = f"{loss:.2f}, where guessing by frequency has {guess:.2f}"
            how = "try a lower train.learning_rate or more epochs"
            warn(f"{self.run}: learned next to nothing: a validation loss of {what}; {how}")
        elif bleu < 1 and self.suits_bleu:
            what = f"{self.run}: translates hardly anything: a validation BLEU of {bleu:.2f}"
            warn(f"{what}; do the lines of the corpus translate each other? Or try more epochs")

    def summary(self) -> dict[str, Any]:
        """What ``training.json`` holds."""
        state, (selected_by, best) = self.state, self.best
        epochs = state.step / self.n_steps * self.config.train.epochs
        return {
            "steps": state.step,
            "epochs": state.epoch,
            "best_step": state.best_step,
            "selected_by": selected_by,
            "best_valid_bleu": round(state.best_bleu, 2),  # of the best step, as the loss is
            "best_valid_loss": round(state.best_loss, 4),
            f"best_valid_{selected_by}": round(best, 4 if selected_by == "loss" else 2),
            "minutes": round(state.seconds / 60, 2),
            "parameters": count_parameters(self.model),
            "data_checksum": self.data.checksum,
            "target_tokens": round(self.data.n_target_tokens * epochs),
            "usual_src_tokens": self.data.usual_src_tokens,
            "skipped_steps": state.skipped,
            "pairs_left_out_as_too_long": self.data.n_too_long,
            "device": self.device.type,
            "precision": cpu.resolve_precision(self.config.train.precision, self.device),
            "processes": dist.world_size(),
            "threads": torch.get_num_threads(),
            "versions": {x.name: x.version for name in PACKAGES for x in distributions(name=name)},
        }


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """The SIGINT (Ctrl-C) and SIGTERM so far, none outside the main thread; a second ends at once.

    ``torchrun`` passes a signal on more than once: under it all are noted, and later ones ignored,
    so that each process can say how it ended.
    """
    received: list[int] = []
    launched = dist.is_launched()

    def restore(number: int, before: Any) -> None:
        signal.signal(number, signal.SIG_IGN if launched and received else before)

    with ExitStack() as handlers:

        def request(signal_number: int, _: object) -> None:
            received.append(signal_number)
            if not launched:
                handlers.close()
            if len(received) == 1 and dist.rank() == 0:
                warn(f"stopping after this step{'' if launched else '; again to stop at once'}")

        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handlers.callback(restore, number, signal.signal(number, request))
        yield received


def train(config: Config, run: RunFolder | Path | str) -> dict[str, Any]:
    """Train the model of a prepared run folder, or resume; returns what ``training.json`` holds.

    Raises ``UserError`` if the folder does not fit or is in use, ``TrainingDiverged``, and, after
    a signal and with everything saved, ``TrainingInterrupted``.
    """
    run = RunFolder(run)
    if config.train.tensorboard and not find_spec("tensorboard"):
        raise UserError("train.tensorboard needs a package: pip install tensorboard")
    with ExitStack() as stack:
        dist.rank_zero(lambda: stack.enter_context(run.lock()))
        dist.rank_zero(lambda: run.check_same_config(config))
        made = [x for x in (run.summary_file, run.weights_file, run.metrics_file) if x.exists()]
        if made and not run.state_file.exists():
            how = f"use another folder (with --train.init_from {run} it starts from these weights)"
            if {run.summary_file, run.weights_file} <= set(made):
                dist.rank_zero(lambda: run.save_decoding(config))
                what = "training is finished, and cannot go on without last.pt; to train more"
                dist.rank_zero(lambda: warn(f"{run}: {what}, {how}"))
                return dict(read_json(run.summary_file, Summary))
            names = ", ".join(x.name for x in made)
            raise UserError(f"{run}: cannot go on without last.pt: {how}, or remove {names}")
        # By the first process, so that the others only read the ids.
        dist.rank_zero(lambda: encode_once(run, config.data, Tokenizer.load(run, config)))
        trainer = Trainer(config, run)
        if run.state_file.exists():
            trainer.load_checkpoint()
        if config.train.init_from and not trainer.state.step:
            trainer.start_from_another_run()
        state, is_finished = trainer.state, trainer.is_finished and run.summary_file in made
        dist.rank_zero(lambda: (run.save_decoding if is_finished else run.save_config)(config))
        if dist.rank() == 0 and trainer.is_finished:
            warn(f"{run}: training is finished; a higher train.epochs or train.patience trains on")
        elif dist.rank() == 0:
            if state.step:
                where = f"step {state.step:,}, epoch {state.epoch} of {config.train.epochs}"
                warn(f"{run}: goes on from {where}")
            trainer.warn_of_data()
            for path in [run.summary_file, *([] if trainer.state.step else made)]:
                path.unlink(missing_ok=True)
        with stop_requests() as signals:
            trainer.fit(signals)
        summary = trainer.summary()
        dist.rank_zero(lambda: write_json(run.summary_file, summary))
        dist.rank_zero(trainer.warn_if_little_is_learned)
        return summary
