"""The results of an experiment: ``results.csv``, which has a row for each run."""

import csv
import io
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from math import isfinite, log
from pathlib import Path
from typing import TypedDict, get_args

import msgspec
import numpy as np
from filelock import FileLock
from tqdm import tqdm

from seq2seq.config import Count
from seq2seq.data.corpus import load_split
from seq2seq.evaluation.evaluate import Evaluation, Percent, Scores
from seq2seq.evaluation.metrics import bleu_tokenizer
from seq2seq.experiments.costs import SPEEDS, flops_per_token, relative_speeds
from seq2seq.experiments.runs import Experiment, Role, Run, in_one_line
from seq2seq.experiments.statistics import Array, resampled_bleu, sentence_parts
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.training.trainer import Summary
from seq2seq.utils import UserError, read_json, read_json_lines, read_lines, write_text

ABOUT = ("variant", "role", "seed", "status", "look", "settings", "tuned")
TEXT = ("device", "precision", "bleu_tokenizer")
COLUMNS = (
    *ABOUT, "parameters", "train_flops", "minutes", "steps", "threads", *TEXT, "data_checksum",
    *SPEEDS, "valid_bleu", "valid_loss", "guess_loss",
)  # fmt: skip


class _Validation(TypedDict):  # a line of metrics.jsonl
    step: Count
    valid_bleu: Percent


@dataclass(frozen=True)
class RunResult:
    """A row of ``results.csv``: what is known of one run."""

    variant: str
    role: str  # run, again or tuning
    seed: int
    status: str  # finished or diverged
    look: int  # the number of the report that it appeared in first
    settings: str
    tuned: str
    numbers: dict[str, float]  # by column, without empty ones
    text: dict[str, str]


@dataclass(frozen=True)
class Results:
    """All that the report is made of."""

    experiment: Experiment
    rows: list[RunResult]
    tests: list[str]  # verdicts are about the first

    def runs(self, variant: str, role: str = "run") -> list[RunResult]:
        """The runs of a variant that finished."""
        rows = [row for row in self.rows if (row.variant, row.role) == (variant, role)]
        return [row for row in rows if row.status == "finished"]

    def values(self, variant: str, column: str, role: str = "run") -> Array:
        """The numbers in a column, of those finished runs that have one."""
        rows = self.runs(variant, role)
        return np.array([row.numbers[column] for row in rows if column in row.numbers])


def collect(experiment: Experiment, runs: list[Run], folder: Path) -> Results:
    """Read the results of all runs, measure speeds unless they are known, write ``results.csv``.

    ``UserError`` if the baseline diverged, or the runs were not tested on the same sentences.
    """
    path, order = folder / "results.csv", (list(experiment.variants), get_args(Role))

    def place(run: Run) -> tuple[int, int]:
        return order[0].index(run.variant), order[1].index(run.role)

    with FileLock(folder / "lock"):  # another process may have waited for the same runs
        before = read_rows(path) if path.exists() else []
        groups = [list(group) for _, group in groupby(sorted(runs, key=place), place)]
        scored = [x for x in groups if x[0].role != "tuning" and not any(r.has_diverged for r in x)]
        more: dict[Run, dict[str, float]] = {}
        if groups[0] in scored:
            more = sentence_columns(scored)
            newest = max(run.folder.eval_file.stat().st_mtime for run in more)
            is_current = path.exists() and path.stat().st_mtime >= newest
            variants = [group for group in scored if group[0].role == "run"]
            speeds = known_speeds(before) if is_current else {}
            if speeds.keys() != {group[0].variant for group in variants}:
                speeds = relative_speeds({x[0].variant: x[0].folder for x in variants})
            for run in chain.from_iterable(variants):
                more[run] |= speeds[run.variant]
        rows = [row_of(run, more.get(run, {})) for group in groups for run in group]
        looks = {_identity(row): row.look for row in before}
        new = 1 + max((row.look for row in before if row.role == "run"), default=0)
        write_results(path, [replace(row, look=looks.get(_identity(row), new)) for row in rows])
        return read_results(path, experiment)


def known_speeds(rows: list[RunResult]) -> dict[str, dict[str, float]]:
    of_rows = {row.variant: row.numbers for row in rows if SPEEDS[0] in row.numbers}
    return {variant: {key: numbers[key] for key in SPEEDS} for variant, numbers in of_rows.items()}


def _identity(row: RunResult) -> tuple[str, str, int, str]:
    return row.variant, row.role, row.seed, row.tuned if row.role == "tuning" else ""


def row_of(run: Run, measured: dict[str, float]) -> RunResult:
    """What the files of a run say, with what was measured beside them."""
    config, files = run.config, run.folder
    settings = in_one_line({**run.settings, **run.chosen.tuned})
    status = "diverged" if run.has_diverged else "finished"
    about = (run.variant, run.role, run.seed, status, 1, settings, in_one_line(run.chosen.tuned))
    numbers = {"parameters": float(count_parameters(empty_model(config)))}
    numbers["guess_loss"] = log(config.tokenizer.vocab_size)
    if run.has_diverged:
        return RunResult(*about, numbers, {})
    training: Summary = read_json(files.summary_file, Summary)
    for key in ("minutes", "steps", "threads", "data_checksum"):
        numbers[key] = training[key]
    if "target_tokens" in training:
        flops = flops_per_token(run.chosen.unseeded)
        numbers["train_flops"] = flops * training["target_tokens"]
    numbers["valid_bleu"] = training["best_valid_bleu"]
    numbers["valid_loss"] = training["best_valid_loss"]
    for line in read_json_lines(files.metrics_file, _Validation):
        numbers[f"valid_bleu@{line['step']}"] = line["valid_bleu"]
    tests = {} if run.role == "tuning" else read_json(files.eval_file, Evaluation)["tests"]
    for name, scores in tests.items():
        numbers |= {f"{name}/{key}": value for key, value in score_columns(scores).items()}
    text = {key: training[key] for key in ("device", "precision")}
    text["bleu_tokenizer"] = bleu_tokenizer(config.data, config.evaluation)
    return RunResult(*about, numbers | measured, text)


def score_columns(scores: Scores) -> dict[str, float]:
    """The columns of one test set, without its name."""
    columns = {key: scores[key] for key in ("sentences", "bleu", "chrf", "exact_match")}
    if "loss_per_token" in scores:
        columns["log_likelihood"] = -scores["loss_per_token"]
    if "alignment" in scores:
        columns["aer"] = scores["alignment"]["error_rate"]
    for tag, values in scores.get("tags", {}).items():
        columns |= {f"tag/{tag}": values["exact_match"], f"tag_pairs/{tag}": values["pairs"]}
    return columns


def sentence_columns(groups: list[list[Run]]) -> dict[Run, dict[str, float]]:
    """What the choice of sentences adds to the variance of each run's BLEU, on each test set."""
    first, runs = groups[0][0], [run for group in groups for run in group]
    columns: dict[Run, dict[str, float]] = {run: {} for run in runs}
    tests = list(read_json(first.folder.eval_file, Evaluation)["tests"])
    for run in runs:
        if list(read_json(run.folder.eval_file, Evaluation)["tests"]) != tests:
            raise UserError(f"{run.folder}: its test sets are not those of {first.folder}")
    for test in tests:
        bar = iter(tqdm(runs, desc=f"resampling {test}", unit="run", leave=False, disable=None))
        samples = [[resample(run, test, first) for run in islice(bar, len(x))] for x in groups]
        for run, parts in zip(runs, chain.from_iterable(sentence_parts(samples)), strict=True):
            keys = (f"{test}/{part}" for part in ("variance", "cov_own", "cov_baseline"))
            columns[run] |= dict(zip(keys, parts, strict=True))
    return columns


def resample(run: Run, test: str, first: Run) -> Array:
    """Bootstrap samples of BLEU; the test set must be the same as in the ``first`` run."""
    corpus, expected = (load_split(r.folder, r.config.data, test) for r in (run, first))
    if corpus != expected:
        raise UserError(f"{run.folder}: its {test} is not that of {first.folder}")
    path = run.folder.hypotheses_file(test)
    hypotheses = read_lines(path)
    if len(hypotheses) != len(corpus):
        raise UserError(f"{path} has {len(hypotheses):,} lines, not {len(corpus):,}")
    tokenizer = bleu_tokenizer(run.config.data, run.config.evaluation)
    return resampled_bleu(hypotheses, corpus.tgt, tokenizer)


def write_results(path: Path, rows: list[RunResult]) -> None:
    """Validations by step, then the test sets in turn; what does not apply to a run is empty."""
    found = dict.fromkeys(key for row in rows for key in row.numbers if key not in COLUMNS)
    steps = {key: int(key.partition("@")[2]) for key in found if key.startswith("valid_bleu@")}
    tests = list(dict.fromkeys(key.partition("/")[0] for key in found))
    others = sorted(found.keys() - steps, key=list(found).index)
    others.sort(key=lambda key: tests.index(key.partition("/")[0]))
    columns, text = [*COLUMNS, *sorted(steps, key=steps.__getitem__), *others], io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        numbers = {key: _number(float(value)) for key, value in row.numbers.items()}
        table.writerow({key: getattr(row, key) for key in ABOUT} | row.text | numbers)
    write_text(path, text.getvalue())


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() else repr(value)


def read_rows(path: Path) -> list[RunResult]:
    """``UserError`` if the file is damaged, or of another program or version."""
    try:
        return [_read_row(row) for row in csv.DictReader(read_lines(path), strict=True)]
    except (csv.Error, KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path}: damaged, or of another version ({reason})") from None


def _read_row(row: dict[str, str]) -> RunResult:
    if None in (*row, *row.values()):
        raise ValueError("a row of another length")
    about = {key: row[key] for key in ABOUT}
    integers = {key: int(row[key]) for key in ("seed", "look")}
    numbers = {key: float(x) for key, x in row.items() if x and key not in (*ABOUT, *TEXT)}
    if row["status"] not in ("finished", "diverged") or not all(map(isfinite, numbers.values())):
        raise ValueError("an illegal value")
    text = {key: row[key] for key in TEXT if row[key]}
    return msgspec.convert(about | integers | {"numbers": numbers, "text": text}, RunResult)


def read_results(path: Path, experiment: Experiment) -> Results:
    """What ``write_results`` wrote.

    ``UserError`` if it is of other variants than the experiment's, or the baseline diverged.
    """
    rows = read_rows(path)
    names = list(dict.fromkeys(row.variant for row in rows))
    if names != list(experiment.variants):
        raise UserError(f"{path}: of the variants {', '.join(names)}, not of {experiment.path}")
    for row in rows:
        if (row.variant, row.role, row.status) == (names[0], "run", "diverged"):
            raise UserError(f"{path}: the baseline, {row.variant}, diverged with seed {row.seed}")
    columns = dict.fromkeys(key for row in rows for key in row.numbers)
    tests = [key.removesuffix("/bleu") for key in columns if key.endswith("/bleu")]
    return Results(experiment, rows, [test for test in tests if "/" not in test])  # nor a tag
