"""The results of an experiment: ``results.csv``, which has a row for each run."""

import csv
import io
from dataclasses import dataclass
from itertools import chain, groupby, islice
from math import isfinite, log
from pathlib import Path
from typing import Any, Literal, TypedDict, get_args

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
ROLES = get_args(Role)
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
    role: Role
    seed: int
    status: Literal["finished", "diverged"]
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
    """Write the results of all runs to ``results.csv``, unless they are there, and read it.

    ``UserError`` if the baseline diverged, or the runs were not tested on the same sentences.
    """
    path, names = folder / "results.csv", list(experiment.variants)
    runs = sorted(runs, key=lambda run: (names.index(run.variant), ROLES.index(run.role)))
    files = [run.folder.eval_file for run in runs if run.folder.eval_file.exists()]
    with FileLock(folder / "lock"):  # another process may have waited for the same runs
        before = read_rows(path) if path.exists() else []
        looks = {_identity(row): row.look for row in before}
        newest = max((file.stat().st_mtime for file in files), default=0)
        if looks.keys() != set(map(_identity, runs)) or newest > path.stat().st_mtime:
            new = 1 + max((row.look for row in before if row.role == "run"), default=0)
            rows = {run: row_of(run, looks.get(_identity(run), new)) for run in runs}
            scored = [run for run in runs if run.role != "tuning"]
            groups = [list(x) for _, x in groupby(scored, lambda run: (run.variant, run.role))]
            complete = [x for x in groups if not any(run.has_diverged for run in x)]
            if groups[0] in complete:
                for run, columns in measure(complete).items():
                    rows[run].numbers.update(columns)
            write_results(path, list(rows.values()))
        return read_results(path, experiment)


def _identity(run: Run | RunResult) -> tuple[str, str, int, str]:
    """What tells a run from all others."""
    tuned = run.tuned if isinstance(run, RunResult) else in_one_line(run.tuned)
    return run.variant, run.role, run.seed, tuned if run.role == "tuning" else ""


def row_of(run: Run, look: int) -> RunResult:
    """What the files of a run say."""
    config, tuned, about = run.config, run.chosen.tuned, (run.variant, run.role, run.seed)
    settings = in_one_line(run.settings | tuned), in_one_line(tuned)
    numbers = {"guess_loss": log(config.tokenizer.vocab_size)}
    numbers["parameters"] = count_parameters(empty_model(config))
    if run.has_diverged:
        return RunResult(*about, "diverged", look, *settings, numbers, {})
    training: dict[str, Any] = read_json(run.folder.summary_file, Summary)
    numbers |= {key: training[key] for key in ("minutes", "steps", "threads", "data_checksum")}
    numbers |= {f"valid_{key}": training[f"best_valid_{key}"] for key in ("bleu", "loss")}
    if "target_tokens" in training:
        numbers["train_flops"] = flops_per_token(run.chosen.unseeded) * training["target_tokens"]
    for line in read_json_lines(run.folder.metrics_file, _Validation):
        numbers[f"valid_bleu@{line['step']}"] = line["valid_bleu"]
    if run.role != "tuning":
        tests: dict[str, Scores] = read_json(run.folder.eval_file, Evaluation)["tests"]
        for name, scores in tests.items():
            numbers |= {f"{name}/{key}": value for key, value in score_columns(scores).items()}
    text = {key: training[key] for key in ("device", "precision")}
    text["bleu_tokenizer"] = bleu_tokenizer(config.data, config.evaluation)
    return RunResult(*about, "finished", look, *settings, numbers, text)


def score_columns(scores: Scores) -> dict[str, float]:
    """The columns of one test set, without its name."""
    columns = {key: scores[key] for key in ("sentences", "bleu", "chrf", "exact_match")}
    if "loss_per_token" in scores:
        columns["log_likelihood"] = -scores["loss_per_token"]
    if "alignment" in scores:
        columns["aer"] = scores["alignment"]["error_rate"]
    for tag, of_tag in scores.get("tags", {}).items():
        columns |= {f"tag/{tag}": of_tag["exact_match"], f"tag_pairs/{tag}": of_tag["pairs"]}
    return columns


def measure(groups: list[list[Run]]) -> dict[Run, dict[str, float]]:
    """Relative speeds, and what the choice of sentences adds to the variance of each run's BLEU.

    ``groups`` are the scored runs of each variant, the baseline's first, and its A/A runs.
    """
    first, runs = groups[0][0], list(chain(*groups))
    speeds = relative_speeds({x[0].variant: x[0].folder for x in groups if x[0].role == "run"})
    columns = {run: dict(speeds[run.variant] if run.role == "run" else {}) for run in runs}
    tests = list(read_json(first.folder.eval_file, Evaluation)["tests"])
    for run in runs:
        if list(read_json(run.folder.eval_file, Evaluation)["tests"]) != tests:
            raise UserError(f"{run.folder}: its test sets are not those of {first.folder}")
    for test in tests:
        bar = iter(tqdm(runs, desc=f"resampling {test}", unit="run", leave=False, disable=None))
        samples = [[resample(run, test, first) for run in islice(bar, len(x))] for x in groups]
        for run, parts in zip(runs, chain(*sentence_parts(samples)), strict=True):
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
    found = list(dict.fromkeys(key for row in rows for key in row.numbers if key not in COLUMNS))
    groups = list(dict.fromkeys(key.partition("/")[0] for key in found))  # a test set's name

    def place(key: str) -> tuple[int, int]:
        step = key.removeprefix("valid_bleu@")
        return (-1, int(step)) if step != key else (groups.index(key.partition("/")[0]), 0)

    text = io.StringIO()
    table = csv.DictWriter(text, [*COLUMNS, *sorted(found, key=place)], lineterminator="\n")
    table.writeheader()
    for row in rows:
        numbers = {key: f"{float(x)!r}".removesuffix(".0") for key, x in row.numbers.items()}
        table.writerow({key: getattr(row, key) for key in ABOUT} | row.text | numbers)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[RunResult]:
    """``UserError`` if the file is damaged, or of another program or version."""
    try:
        return list(map(_read_row, csv.DictReader(read_lines(path), strict=True)))
    except (csv.Error, KeyError, ValueError) as error:
        what = f"damaged, or of another version ({error})"
        raise UserError(f"{path}: {what}: restore or remove it") from None


def _read_row(row: dict[str, str]) -> RunResult:
    if None in (*row, *row.values()):
        raise ValueError("a row of another length")
    numbers = {key: float(x) for key, x in row.items() if x and key not in (*ABOUT, *TEXT)}
    if not all(map(isfinite, numbers.values())):
        raise ValueError("a number that is not finite")
    about: dict[str, Any] = {key: row[key] for key in ABOUT}
    about |= {key: int(row[key]) for key in ("seed", "look")}
    text = {key: row[key] for key in TEXT if row[key]}
    return msgspec.convert(about | {"numbers": numbers, "text": text}, RunResult)


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
