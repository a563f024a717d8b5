"""The runs of an experiment, done in this process or several, and how far they are."""

import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from rich.console import Console
from rich.live import Live
from rich.table import Table

from seq2seq.cpu import tune_process
from seq2seq.data.prepare import is_prepared, prepare
from seq2seq.evaluation.evaluate import evaluate
from seq2seq.experiments.runs import Run, unfinished
from seq2seq.shipped import make_tandem
from seq2seq.training.trainer import TrainingDiverged, stop_requests, train
from seq2seq.utils import TrainingInterrupted, UserError, read_lines, refuse_links, warn, write_text


def run_all(runs: list[Run], n_jobs: int = 0) -> None:
    """Finish all runs, in this process or in ``n_jobs`` others.

    Waits for what is claimed elsewhere. All that a run prints is in ``seed-N.log`` beside its
    folder. ``UserError`` at the end if some failed; ``TrainingInterrupted`` after a signal.
    """
    progress = Progress(runs)
    for run in progress.pending:
        refuse_links(run.folder.path.parent, run.folder.path, log_file(run))
        make_tandem(run.unseeded.data.path)  # before several processes would
    table = Live(console=progress.console, get_renderable=progress.table, refresh_per_second=1)
    with table if progress.pending and progress.console.is_terminal else nullcontext():
        if n_jobs and progress.pending:
            run_in_workers(progress, n_jobs)
        else:
            work(runs, [False] * len(runs), progress)


def work(runs: list[Run], begun: Any, progress: "Progress | None" = None) -> None:
    """Do the runs that no other process is at work on, each once, until nothing is left."""
    parent, pending = multiprocessing.parent_process(), runs
    while parent is None or parent.is_alive():  # an orphan begins nothing
        pending, is_waiting = progress.update() if progress else unfinished(pending), False
        for run in pending:
            is_ready, number = not any(x in pending for x in run.tuning), runs.index(run)
            with claim(run) as is_free:
                is_waiting |= not is_free
                if is_free and is_ready and not begun[number] and not run.is_finished:
                    begun[number] = True
                    execute(run)
                    break
        else:
            if not is_waiting:
                return
            time.sleep(1)


def log_file(run: Run) -> Path:
    return run.folder.path.with_name(f"{run.folder.path.name}.log")


@contextmanager
def claim(run: Run) -> Iterator[bool]:
    """Keep other processes from this run; false if one has claimed it. It ends with its process."""
    path = run.folder.path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path.with_name(f"{path.name}.lock"), timeout=0):
            yield True
    except Timeout:
        yield False


def execute(run: Run) -> None:
    """Prepare, train and evaluate; a run that diverges is recorded as such.

    A worker goes on after a ``UserError``, which is in the log.
    """
    with log_file(run).open("a", encoding="utf-8") as log, redirect_stderr(log):
        try:
            if not is_prepared(run.config, run.folder):
                prepare(run.config, run.folder)
            if run.folder.summary_file.exists():
                run.folder.save_config(run.config)  # with the decoding settings wanted now
            else:
                train(run.config, run.folder)
            if run.role != "tuning":
                evaluate(run.folder)
        except TrainingDiverged as error:
            write_text(run.folder.diverged_file, f"{error}\n")
        except UserError as error:
            warn(str(error))
            if multiprocessing.parent_process() is None:
                raise


def run_worker(runs: list[Run], begun: Any, slot: int, n_threads: int) -> None:
    """``work`` in a process of its own."""
    if os.name == "posix":
        os.setpgrp()  # so that Ctrl-C reaches the parent only, which passes it on once
    tune_process()
    torch.set_num_threads(n_threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    with suppress(TrainingInterrupted, UserError):  # the latter is the parent's as well
        work(runs, begun)


def run_in_workers(progress: "Progress", n_jobs: int) -> None:
    """``work`` in ``n_jobs`` processes until all of them end, or a signal stops them."""
    context, runs = multiprocessing.get_context("spawn"), progress.runs
    begun, n_threads = context.RawArray("b", len(runs)), max(1, torch.get_num_threads() // n_jobs)
    about = [(runs, begun, slot, n_threads) for slot in range(n_jobs)]
    workers = [context.Process(target=run_worker, args=args, daemon=True) for args in about]
    with stop_requests() as signals:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # in workers that are starting
        for worker in workers:
            worker.start()
        signal.signal(signal.SIGINT, before)
        try:
            while any(worker.is_alive() for worker in workers) and not signals:
                progress.update()
                time.sleep(0.5)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.join()
    if signals:
        raise TrainingInterrupted("stopped; the same command continues from there", signals[0])
    for run in (failed := progress.update()):
        *_, last = "nothing", *(read_lines(log_file(run)) if log_file(run).exists() else [])
        warn(f"{run}: failed; {log_file(run)} ends with: {last}")
    if failed:
        raise UserError(
            f"{len(failed)} of {len(runs)} runs failed; the same command tries them again"
        )


class Progress:
    """How far the runs are, from their files: whoever is at work on them."""

    def __init__(self, runs: list[Run]) -> None:
        self.runs, self.pending, self.began = runs, unfinished(runs), time.time()
        self.n_at_first = len(self.pending)
        self.console = Console(file=sys.stderr)  # even while it is redirected

    def update(self) -> list[Run]:
        """The runs that are not finished; without a terminal, a line on each finished since."""
        before, self.pending = self.pending, unfinished(self.pending)
        for run in before if not self.console.is_terminal else []:
            if run not in self.pending:
                rank = run.rank()
                valid = f"BLEU {rank:.1f}" if rank > 0 else f"a loss of {-rank:.2f}"
                valid = "diverged" if run.has_diverged else f"{valid} on validation"
                warn(f"{run}: {valid}; {self.time_left()}")
        return self.pending

    def step(self, run: Run) -> tuple[int, int] | None:
        """At the last validation, of how many; 0 of 1 before it; none if nothing is at work."""
        log = log_file(run)
        if not log.exists() or log.stat().st_mtime < self.began:
            return None
        text = log.read_text(encoding="utf-8").replace(",", "")
        step, n_steps = re.findall(r"step (\d+) of (\d+)", "step 0 of 1" + text)[-1]
        return int(step), int(n_steps)

    def time_left(self) -> str:
        """With the number of finished runs; at the pace since the start."""
        done = sum(step / n for step, n in filter(None, map(self.step, self.pending)))
        done += self.n_at_first - len(self.pending)
        text = f"{len(self.runs) - len(self.pending)} of {len(self.runs)} runs"
        minutes = (time.time() - self.began) / 60 * (self.n_at_first / max(done, 1e-9) - 1)
        return f"{text}, about {minutes:.0f} minutes left" if done and self.pending else text

    def table(self) -> Table:
        table = Table("variant", "finished", "at work", caption=self.time_left())
        for variant in dict.fromkeys(run.variant for run in self.runs):
            pending = [run for run in self.pending if run.variant == variant]
            n_runs = sum(run.variant == variant for run in self.runs)
            at_work = [(run, step) for run in pending if (step := self.step(run))]
            texts = [f"seed {run.seed}: step {x:,} ({x / n:.0%})" for run, (x, n) in at_work]
            table.add_row(variant, f"{n_runs - len(pending)} of {n_runs}", "\n".join(texts))
        return table
