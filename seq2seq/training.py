"""Training: batches in, better weights out.

A step sums the loss over its batches, follows the gradient once, and moves a running average of
the weights along. Every ``validate_every`` steps the average is judged on the validation split;
the best by BLEU is kept as ``model.safetensors``. Everything that the next step depends on is in
``Trainer.state``, so a run that was stopped goes on as if it had not been.

Several processes (``parallel.py``) take the same steps over the same batches; each reads its share
of every batch's rows, and the mean of their gradients is what one process would have found.
"""

import json
import math
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from zlib import crc32

import numpy as np
import torch
from tqdm import tqdm

from seq2seq.batches import Batch, lengths, make_batch, plan_batches
from seq2seq.checkpoint import (
    build_model,
    load_state,
    load_tokenizer,
    made_with,
    refuse_other_settings,
    refuse_others,
    save_run_config,
    save_state,
    save_weights,
)
from seq2seq.corpus import load_split
from seq2seq.diary import Diary
from seq2seq.errors import Diverged, Stopped, UserError
from seq2seq.files import read_json_lines, write_lines, write_text
from seq2seq.lock import locked
from seq2seq.machine import (
    autocast,
    enough_memory,
    float32_products,
    give_back_freed_memory,
    keep_freed_memory,
    keep_kernels,
    pick_device,
)
from seq2seq.metrics import bleu
from seq2seq.model import count_parameters
from seq2seq.objective import Objective, batch_loss, r_drop_at
from seq2seq.optimizer import learning_rate, make_optimizer, restore_optimizer
from seq2seq.parallel import exchange, gather, on_first, rank, replicated, size
from seq2seq.settings import Config
from seq2seq.signals import StopRequest
from seq2seq.tokenizer import EOS, PAD
from seq2seq.training_data import TrainingData
from seq2seq.translator import Translator

MEMORY_IS_KEPT = 100  # steps, see ``keep_freed_memory``
MAX_SKIPPED = 5  # steps in a row without a finite gradient before training ends


def share(batch: Batch, rank: int, size: int) -> Batch:
    """Every ``size``-th row of a batch, from row ``rank`` on.

    Where there is none, a row without labels: a process has to take part in every step.
    """
    src, tgt = batch.src[rank::size], batch.tgt[rank::size]
    if len(src):
        return Batch(src, tgt)
    return Batch(batch.src[:1], torch.full_like(batch.tgt[:1], PAD))


def seed_of(seed: int, step: int, rank: int) -> int:
    """The seed of what is drawn in a step, so that nothing drawn before has to be remembered."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0])


@dataclass
class Progress:
    """Where training stands: all of it that is not a tensor."""

    step: int = 0
    epoch: int = 0
    batch: int = 0  # batches of this epoch already used
    best_bleu: float = -1.0
    best_step: int = 0
    validations_without_gain: int = 0
    loss: float = 0.0  # summed since the last validation
    labels: int = 0  # target tokens since the last validation
    step_seconds: float = 0.0  # spent on steps since the last validation
    seconds: float = 0.0  # spent training, validation included
    data_checksum: int = 0  # of all batches so far, in order
    skipped: int = 0  # steps whose gradient was not finite
    skipped_in_a_row: int = 0
    finished: bool = False

    @classmethod
    def of(cls, values: dict[str, Any]) -> "Progress":
        """What ``asdict`` made of one, maybe of an earlier version's, which had fewer fields.

        Raises:
            TypeError: it has other fields, or one of another type.
            ValueError: a number is negative (but for BLEU before the first validation), endless or
                none.
        """
        progress = cls(**values)
        for key, value in asdict(progress).items():
            if type(value) is not type(getattr(cls, key)):
                raise TypeError(f"{key} is {value!r}")
            if not getattr(cls, key) <= value < 2**53:  # each begins with its least
                raise ValueError(f"{key} is {value!r}")
        return progress


class Trainer:
    """One training run in one run folder.

    Args:
        config: every setting.
        run: the folder; it holds the prepared corpus and the tokenizer.
    """

    def __init__(self, config: Config, run: Path) -> None:
        keep_freed_memory()
        keep_kernels()
        torch.manual_seed(config.train.seed)
        self.config, self.run = config, run
        self.diary = Diary(run, config.train)
        self.device = pick_device()
        self.tokenizer = load_tokenizer(run, config)
        self.data = TrainingData(config, run, self.tokenizer)
        self.valid = load_split(config.data, run, "valid")
        self.model = build_model(config, self.tokenizer).to(self.device)
        # Without averaging, the average is the model itself.
        self.average = deepcopy(self.model) if config.train.average else self.model
        self.average.eval()
        example = torch.full((1, 2), EOS, device=self.device)
        objective = Objective(self.model, config.train.label_smoothing)
        gather(0.0)  # all have come so far: from here on they wait for each other
        self.objective = replicated(objective, example, example, 0.0)
        self.optimizer = make_optimizer(self.model, config.train)
        self.progress = Progress()

    # --- a step ---

    def step(self, batches: list[Batch], rate: float, agreement: float = 0.0) -> float:
        """Follow the gradient of some batches once; not if it is infinite or no number.

        Args:
            batches: counted as one: the loss is averaged over all their target tokens.
            rate: learning rate.
            agreement: R-Drop's α; 0 reads each batch once.

        Returns:
            the loss, summed over the target tokens of this process's share; 0 if skipped.

        Raises:
            Diverged: this was the last of ``MAX_SKIPPED`` steps in a row that could not be taken.
            UserError: a batch needs more memory than there is.
        """
        config, progress = self.config.train, self.progress
        torch.manual_seed(seed_of(config.seed, progress.step, rank()))
        self.model.train()
        n_labels = sum(batch.n_labels for batch in batches)
        total = 0.0
        for number, batch in enumerate(batches, start=1):
            mine = share(batch, rank(), size()).to(self.device)
            is_last = number == len(batches)
            total += self._add_gradient(mine, agreement, n_labels, now=is_last)
            for side in (batch.src, batch.tgt):
                progress.data_checksum = crc32(side.numpy().tobytes(), progress.data_checksum)
        # Gradients are the same in all processes by now, so all decide the same.
        longest = config.clip_norm or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), longest)
        is_finite = math.isfinite(norm)
        progress.step += 1
        if is_finite:
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            self._move_average()
            progress.labels += n_labels
        self.optimizer.zero_grad()
        self._count_skipped(not is_finite)
        return total if is_finite else 0.0

    def _add_gradient(self, batch: Batch, agreement: float, n_labels: int, now: bool) -> float:
        """Add a batch's share of the gradient of a step with ``n_labels``; returns its loss."""
        config = self.config.train

        def complaint() -> str:
            (n_pairs, n_src), n_tgt = batch.src.shape, batch.tgt_in.shape[1]
            twice = " (read twice: train.r_drop)" if agreement else ""
            return (
                f"at step {self.progress.step:,}, for {n_pairs} pairs of {n_src} source and "
                f"{n_tgt} target tokens{twice}: a lower train.batch_tokens (it is "
                f"{config.batch_tokens}) takes less; a higher train.accumulate makes up for it"
            )

        with (
            enough_memory(complaint),
            exchange(self.objective, now),
            float32_products(config.batch_tokens),
        ):
            with autocast(config.precision, self.device):
                loss = self.objective(batch.src, batch.tgt, agreement)
            (loss * size() / n_labels).backward()  # the mean over processes divides by size
            return loss.item()

    def _count_skipped(self, is_skipped: bool) -> None:
        progress = self.progress
        progress.skipped += is_skipped
        progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if is_skipped else 0
        if progress.skipped_in_a_row >= MAX_SKIPPED:
            self._give_up(f"the gradient of {MAX_SKIPPED} steps in a row")

    def _give_up(self, what: str) -> NoReturn:
        progress = self.progress
        best = f"that of step {progress.best_step:,}" if progress.best_step else "not there yet"
        raise Diverged(
            f"{self.run}: {what} is no longer a number at step {progress.step:,}; in another "
            "folder, a lower train.learning_rate or a longer train.warmup_steps may help "
            f"(model.safetensors, the best so far, is {best})"
        )

    def agree(self, loss: float, signal_number: int) -> int:
        """Tell the other processes, once a step, what has to be the same in all of them.

        Args:
            loss: of this process's share; the sum of all is added to ``progress.loss``.
            signal_number: what asked this process to stop, or 0.

        Returns:
            what asked any process to stop, or 0.

        Raises:
            Diverged: the loss is no longer a number.
            UserError: the processes do not read the same batches.
        """
        progress = self.progress
        everyone = gather(loss, signal_number, progress.data_checksum)
        losses, signals, checksums = zip(*everyone, strict=True)
        if len(set(checksums)) > 1:
            raise UserError(f"{self.run}: is not the same folder for all processes")
        progress.loss += sum(losses)
        if not math.isfinite(progress.loss):
            self._give_up("the loss")
        return int(max(signals))

    @torch.no_grad()
    def _move_average(self) -> None:
        """average ← β average + (1 - β) model, with β rising to its value over the first steps."""
        if self.average is self.model:
            return
        step = self.progress.step
        beta = min(self.config.train.average, (1 + step) / (10 + step))
        pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
        for average, new in pairs:
            average.lerp_(new, 1 - beta)

    # --- validation ---

    @torch.inference_mode()
    def validation_loss(self) -> float:
        """Unsmoothed loss a target token on the validation split, in nats; long pairs are cut."""
        limit = self.config.data.max_tokens
        src = [ids[:limit] for ids in self.tokenizer.encode_src(self.valid.src)]
        tgt = [ids[:limit] for ids in self.tokenizer.encode_tgt(self.valid.tgt)]
        self.average.eval()
        loss, labels = 0.0, 0
        for rows in plan_batches(
            lengths(src), lengths(tgt), self.config.train.batch_tokens, shuffle=None
        ):
            batch = make_batch(src, tgt, rows).to(self.device)
            with float32_products(self.config.train.batch_tokens):
                loss += batch_loss(self.average, batch, 0.0).item()
            labels += batch.n_labels
        return loss / labels

    def validate(self) -> dict[str, Any]:
        """Judge the average by loss and greedy BLEU; keep it if it is the best yet.

        Returns:
            a line for ``metrics.jsonl``.

        Raises:
            Diverged: its loss is no number; the best one yet stays.
        """
        progress = self.progress
        valid_loss = self.validation_loss()
        if not math.isfinite(valid_loss):
            self._give_up("the loss on the validation split")
        greedily = replace(self.config, decoding=replace(self.config.decoding, beam=1))
        translator = Translator(self.average, self.tokenizer, greedily)
        valid_bleu = bleu(translator.translate(self.valid.src), self.valid.tgt)
        if valid_bleu > progress.best_bleu:
            progress.best_bleu, progress.best_step = valid_bleu, progress.step
            progress.validations_without_gain = 0
            save_weights(self.average, self.tokenizer, self.run / "model.safetensors")
        else:
            progress.validations_without_gain += 1
        metrics = {
            "step": progress.step,
            "epoch": progress.epoch,
            "loss": round(progress.loss / max(1, progress.labels), 4),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
            "tokens_per_second": round(progress.labels / max(1e-9, progress.step_seconds)),
            "valid_loss": round(valid_loss, 4),
            "valid_bleu": round(valid_bleu, 2),
            "skipped_steps": progress.skipped,
        }
        progress.loss, progress.labels = 0.0, 0
        return metrics

    # --- what a run that was stopped goes on from ---

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "made_with": made_with(self.tokenizer),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": asdict(self.progress),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``.

        Raises:
            UserError: it is of another model, of another tokenizer or of a later version.
        """
        refuse_others(state.get("made_with", {}), self.tokenizer, self.run / "last.pt")
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            restore_optimizer(self.optimizer, state["optimizer"])
            self.progress = Progress.of(state["progress"])
        except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self.run / 'last.pt'} does not fit this run: {reason}") from None

    # --- the loop ---

    def steps(self) -> Iterator[tuple[list[Batch], float]]:
        """The batches of each step from here on, and the share of the training done before it."""
        config, progress = self.config.train, self.progress
        while progress.epoch < config.epochs and not self._out_of_patience():
            plan, src, tgt = self.data.epoch(progress.epoch)
            while progress.batch < len(plan) and not self._out_of_patience():
                done = (progress.epoch + progress.batch / len(plan)) / config.epochs
                chosen = plan[progress.batch : progress.batch + config.accumulate]
                progress.batch += len(chosen)
                yield [make_batch(src, tgt, rows) for rows in chosen], done
            if progress.batch >= len(plan):
                progress.epoch, progress.batch = progress.epoch + 1, 0
            del plan, src, tgt  # before those of the next epoch are made

    def _out_of_patience(self) -> bool:
        patience = self.config.train.patience
        return 0 < patience <= self.progress.validations_without_gain

    def fit(self, stop: StopRequest) -> None:
        """Train until the last epoch, or until BLEU has not risen for ``patience`` validations.

        Raises:
            Stopped: a signal came; everything so far is saved.
        """
        config, progress = self.config.train, self.progress
        n_steps = math.ceil(self.data.n_batches / config.accumulate) * config.epochs
        hidden = None if rank() == 0 else True  # None: where there is no terminal
        bar = tqdm(total=n_steps, initial=progress.step, unit="step", leave=None, disable=hidden)
        with bar:
            for batches, done in self.steps():
                began = time.perf_counter()
                rate = learning_rate(config, progress.step, done)
                loss = self.step(batches, rate, r_drop_at(config, done))
                signal_number = self.agree(loss, stop.signal_number)
                progress.step_seconds += time.perf_counter() - began
                bar.set_postfix_str(self._postfix(), refresh=False)
                bar.update()
                if progress.step % MEMORY_IS_KEPT == 0:
                    give_back_freed_memory()
                if progress.step % config.validate_every == 0:
                    self.checkpoint()
                if signal_number:
                    self.save()
                    how = f"stopped at step {progress.step:,}; the same command goes on from there"
                    raise Stopped(how, signal_number)
        if progress.labels:
            self.checkpoint()
        progress.finished = True
        self.save()
        if signal_number := self.agree(0.0, stop.signal_number):  # no step was left to stop after
            raise Stopped("stopped when training was done; the same command goes on", signal_number)

    def checkpoint(self) -> None:
        """Validate, note the result in ``metrics.jsonl``, save the state: rank 0, for all."""
        vars(self.progress).update(on_first(self._checkpoint))

    def _checkpoint(self) -> dict[str, Any]:
        began = time.perf_counter()
        path = self.run / "metrics.jsonl"
        step = self.progress.step
        lines = read_json_lines(path) if path.exists() else []
        earlier = [line for line in lines if line.get("step") in range(step)]
        metrics = self.validate()
        lines = [*earlier, metrics]
        write_lines(path, [json.dumps(line) for line in lines])
        self.diary.note(lines)
        self.progress.seconds += self.progress.step_seconds + time.perf_counter() - began
        self.progress.step_seconds = 0.0
        self._save()
        return asdict(self.progress)

    def save(self) -> None:
        """Write the state that training continues from: rank 0, while the others wait."""
        on_first(self._save)

    def _save(self) -> None:
        save_state(self.state(), self.run / "last.pt")

    def summary(self) -> dict[str, Any]:
        """How training went: what ``training.json`` holds."""
        progress = self.progress
        return {
            "steps": progress.step,
            "epochs": progress.epoch,
            "best_step": progress.best_step,
            "best_valid_bleu": round(progress.best_bleu, 2),
            "minutes": round(progress.seconds / 60, 2),
            "parameters": count_parameters(self.model),
            "data_checksum": progress.data_checksum,
            "skipped_steps": progress.skipped,
            "device": self.device.type,
            "processes": size(),
            "threads": torch.get_num_threads(),
            "pairs_left_out_as_too_long": self.data.too_long,
        }

    def _postfix(self) -> str:
        progress = self.progress
        skipped = f", {progress.skipped} steps skipped" if progress.skipped else ""
        return (
            f"loss {progress.loss / max(1, progress.labels):.2f}, "
            f"{progress.labels / progress.step_seconds:,.0f} tokens/s, "
            f"BLEU {max(0.0, progress.best_bleu):.1f}{skipped}"
        )


def train(config: Config, run: Path) -> dict[str, Any]:
    """Train the model of a prepared run folder, or go on where a stopped training was.

    Args:
        config: every setting.
        run: folder with the corpus and the tokenizer; gets ``model.safetensors`` (the best by
            validation BLEU), ``metrics.jsonl``, ``curves.png``, ``last.pt`` and, at the end,
            ``training.json``.

    Returns:
        what ``training.json`` holds.

    Raises:
        UserError: the folder is not prepared, the configuration does not fit it, or another
            process is at work in it.
        Diverged: the loss is no longer a number.
        Stopped: a signal ended it early.
    """
    with ExitStack() as stack:
        on_first(lambda: stack.enter_context(locked(run)))
        return _train(config, run)


def _train(config: Config, run: Path) -> dict[str, Any]:
    on_first(lambda: _begin(config, run))
    trainer = Trainer(config, run)
    if trainer.data.too_long and rank() == 0:
        limit = f"data.max_tokens = {config.data.max_tokens}"
        print(
            f"seq2seq: left out {trainer.data.too_long:,} training pairs longer than {limit}",
            file=sys.stderr,
        )
    last = run / "last.pt"
    if last.exists():
        trainer.restore(load_state(last))
    elif not (run / "training.json").exists():  # of one that was killed before its first state
        on_first(lambda: _remove(run / "metrics.jsonl", run / "model.safetensors"))
    if not trainer.progress.finished:
        with StopRequest() as stop:
            trainer.fit(stop)
    summary = trainer.summary()
    on_first(lambda: write_text(run / "training.json", json.dumps(summary, indent=2) + "\n"))
    return summary


def _begin(config: Config, run: Path) -> None:
    refuse_other_settings(run, config)
    save_run_config(run, config)


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
