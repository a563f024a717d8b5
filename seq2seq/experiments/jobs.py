"""The runs of an experiment, done in this process or several, and how far they are."""

import multiprocessing
import os
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext, redirect_stderr, suppress
from itertools import compress
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

DID_ONE = 75  # a worker's exit code: a run is done, and there may be more


def run_all(runs: list[Run], n_jobs: int = 0) -> None:
    """Finish all runs, in this process or in ``n_jobs`` others.

    Waits for what is claimed elsewhere. All that a run prints is in ``seed-N.log`` beside its
    folder. ``UserError`` at the end if some failed; ``TrainingInterrupted`` after a signal.
    """
    progress = Progress(runs)
    for run in progress.pending:
        refuse_links(run.folder.path.parent, run.folder.path, run.log_file)
        make_tandem(run.unseeded.data.path)  # before several processes would
    table = Live(console=progress.console, get_renderable=progress.table, refresh_per_second=1)
    with table if progress.pending and progress.console.is_terminal else nullcontext():
        if n_jobs and progress.pending:
            run_in_workers(progress, n_jobs)
        else:
            begun = bytearray(len(runs))
            try:
                while work(runs, begun, progress.update):
                    pass
            except UserError:
                for run in compress(runs, begun):  # others may be claimed elsewhere
                    remove_traces(run)
                raise


def remove_traces(run: Run) -> None:
    """Of a run that could not begin, nothing stays: the error has been said."""
    if not run.folder.path.exists():
        run.log_file.unlink(missing_ok=True)
        Path(f"{run.folder}.lock").unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            for folder in run.folder.path.parents:
                folder.rmdir()


def work(runs: list[Run], begun: Any, update: Callable[[], object] = bool) -> bool:
    """Do one run, not yet begun, that no other process is at work on; wait if that may come.

    Returns whether there was one.
    """
    parent, pending, is_waiting = multiprocessing.parent_process(), runs, True
    while is_waiting and (parent is None or parent.is_alive()):  # an orphan begins nothing
        pending, is_waiting = unfinished(pending), False
        update()
        for run in pending:
            is_ready, number = not any(x in pending for x in run.tuning), runs.index(run)
            try:
                with FileLock(f"{run.folder}.lock", timeout=0):  # it ends with its process
                    if is_ready and not begun[number] and not run.is_finished:
                        begun[number] = True
                        execute(run)
                        return True
            except Timeout:
                is_waiting = True
        if is_waiting:
            time.sleep(1)
    return False


def execute(run: Run) -> None:
    """Prepare, train and evaluate; a run that diverges is recorded as such.

    A worker goes on after an error, which is in the log.
    """
    with run.log_file.open("a", encoding="utf-8") as log, redirect_stderr(log):
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
        except Exception as error:
            if multiprocessing.parent_process() is None or isinstance(error, TrainingInterrupted):
                raise
            if not isinstance(error, UserError):
                traceback.print_exc()
            warn(str(error))


def run_worker(runs: list[Run], begun: Any, slot: int, n_threads: int) -> None:
    """``work`` in a process of its own: another run would inherit its grown memory."""
    if os.name == "posix":
        os.setpgrp()  # so that Ctrl-C reaches the parent only, which passes it on once
    tune_process()
    torch.set_num_threads(n_threads)
    if torch.cuda.is_available():
        torch.cuda.set_device(slot % torch.cuda.device_count())
    with suppress(TrainingInterrupted, UserError):  # the latter is the parent's as well
        try:
            sys.exit(DID_ONE if work(runs, begun) else 0)
        except OSError as error:  # such as of a read-only folder
            warn(str(error))


def run_in_workers(progress: "Progress", n_jobs: int) -> None:
    """Do all runs, ``n_jobs`` at a time, until nothing is left or a signal stops them."""
    # Where processes can be forked, a server loads torch once, and every worker has it at once.
    can_fork = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if can_fork else "spawn")
    if can_fork:
        context.set_forkserver_preload([__name__])
    runs = progress.runs
    begun, n_threads = context.RawArray("b", len(runs)), max(1, torch.get_num_threads() // n_jobs)

    def start(slot: int) -> multiprocessing.process.BaseProcess:
        args = (runs, begun, slot, n_threads)
        worker = context.Process(target=run_worker, args=args, daemon=True)
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # while it starts
        worker.start()
        signal.signal(signal.SIGINT, before)
        return worker

    with stop_requests() as signals:
        workers, n_killed = {slot: start(slot) for slot in range(n_jobs)}, 0
        try:
            while workers and not signals:
                progress.update()
                time.sleep(0.5)
                codes = [(slot, worker.exitcode) for slot, worker in workers.items()]
                for slot, code in [(slot, code) for slot, code in codes if code is not None]:
                    n_killed += code < 0
                    # What kills a worker before it begins a run would kill the next one too.
                    if code == DID_ONE or (code < 0 and n_killed <= sum(begun)):
                        workers[slot] = start(slot)
                    else:
                        del workers[slot]
        finally:
            for worker in workers.values():
                worker.terminate()
            for worker in workers.values():
                worker.join()
    if signals:
        raise TrainingInterrupted("stopped; the same command continues from there", signals[0])
    for run in (failed := progress.update()):
        *_, last = "nothing", *(read_lines(run.log_file) if run.log_file.exists() else [])
        warn(f"{run}: failed; {run.log_file} ends with: {last}")
    if failed:
        how = "the same command tries them again"
        raise UserError(f"{len(failed)} of {len(runs)} runs failed; {how}")


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
                how = "diverged" if run.has_diverged else "finished"
                warn(f"{run}: {how}; {self.time_left()}")
        return self.pending

    def share(self, run: Run) -> float | None:
        """Of its steps, at the last validation; none if nothing is at work on it."""
        if not run.log_file.exists() or run.log_file.stat().st_mtime < self.began:
            return None
        text = run.log_file.read_text(encoding="utf-8").replace(",", "")
        step, n_steps = re.findall(r"step (\d+) of (\d+)", "step 0 of 1" + text)[-1]
        return int(step) / int(n_steps)

    def time_left(self) -> str:
        """With the number of finished runs; at the pace since the start."""
        done = self.n_at_first - len(self.pending) + sum(self.share(x) or 0 for x in self.pending)
        text = f"{len(self.runs) - len(self.pending)} of {len(self.runs)} runs"
        minutes = (time.time() - self.began) / 60 * (self.n_at_first / max(done, 1e-9) - 1)
        return f"{text}, about {minutes:.0f} minutes left" if done and self.pending else text

    def table(self) -> Table:
        table = Table("variant", "finished", "at work", caption=self.time_left())
        for variant in dict.fromkeys(run.variant for run in self.runs):
            n_runs = sum(run.variant == variant for run in self.runs)
            pending = [run for run in self.pending if run.variant == variant]
            shares = [(run.seed, x) for run in pending if (x := self.share(run)) is not None]
            at_work = "\n".join(f"seed {seed}: {x:.0%}" for seed, x in shares)
            table.add_row(variant, f"{n_runs - len(pending)} of {n_runs}", at_work)
        return table
