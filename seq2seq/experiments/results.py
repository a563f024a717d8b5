"""The results of an experiment: ``results.csv``, which has a row for each run."""

import csv
import io
from dataclasses import dataclass, replace
from itertools import chain, groupby, islice
from math import log
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict, get_args

import msgspec
import numpy as np
from filelock import FileLock
from msgspec import Meta
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
from seq2seq.utils import UserError, read_json, read_json_lines, read_lines, warn, write_text

ABOUT = ("variant", "role", "seed", "status", "look", "settings", "tuned")
TEXT = ("device", "precision", "bleu_tokenizer")
ROLES = get_args(Role)
COLUMNS = (
    *ABOUT, "parameters", "train_flops", "minutes", "steps", "threads", *TEXT, "data_checksum",
    *SPEEDS, "valid_bleu", "valid_loss", "guess_loss",
)  # fmt: skip
NEEDED = {"parameters", "steps", "threads", "data_checksum", "device", "precision", "valid_bleu"}

Finite = Annotated[float, Meta(gt=-1e300, lt=1e300)]


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
    numbers: dict[str, Finite]  # by column, without empty ones
    text: dict[str, str]

    @property
    def identity(self) -> tuple[object, ...]:
        """What tells a run from all others."""
        return self.variant, self.role, self.seed, self.role == "tuning" and self.tuned


@dataclass(frozen=True)
class Results:
    """All that the report is made of."""

    experiment: Experiment
    rows: list[RunResult]
    tests: list[str]  # verdicts are about the first

    def runs(self, variant: str, role: str = "run") -> list[RunResult]:
        """The runs of a variant that finished."""
        wanted = variant, role, "finished"
        return [row for row in self.rows if (row.variant, row.role, row.status) == wanted]

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
    with FileLock(folder / "results.lock"):  # another process may have waited for the same runs
        before = read_rows(path) if path.exists() else []
        known = {row.identity: row for row in before}
        new = 1 + max((row.look for row in before if row.role == "run"), default=0)
        rows = [row_of(run) for run in runs]
        olds = [known.pop(row.identity, replace(row, look=new)) for row in rows]
        rows = [replace(row, look=old.look) for row, old in zip(rows, olds, strict=True)]
        if gone := dict.fromkeys(f"{row.variant} seed {row.seed}" for row in known.values()):
            warn(f"{path}: without {', '.join(gone)}, no longer in {experiment.path}")
        merged = [
            replace(x, numbers=y.numbers | x.numbers) for x, y in zip(rows, olds, strict=True)
        ]
        if merged != before:  # which has what was measured, too
            measured = measure(runs)
            for run, row in zip(runs, rows, strict=True):
                row.numbers.update(measured.get(run, {}))
            write_results(path, rows)
        return read_results(path, experiment)


def row_of(run: Run) -> RunResult:
    """What the files of a run say."""
    config, tuned = run.config, in_one_line(run.chosen.tuned)
    settings = in_one_line(run.settings | run.chosen.tuned)
    row = RunResult(run.variant, run.role, run.seed, "finished", 1, settings, tuned, {}, {})
    numbers = row.numbers
    numbers["parameters"] = count_parameters(empty_model(config))
    numbers["guess_loss"] = log(config.tokenizer.vocab_size)
    if run.has_diverged:
        return replace(row, status="diverged")
    training: dict[str, Any] = read_json(run.folder.summary_file, Summary)
    numbers |= {key: training[key] for key in ("minutes", "steps", "threads", "data_checksum")}
    numbers |= {f"valid_{key}": training[f"best_valid_{key}"] for key in ("bleu", "loss")}
    if "target_tokens" in training:
        numbers["train_flops"] = flops_per_token(run.chosen.unseeded) * training["target_tokens"]
    for line in read_json_lines(run.folder.metrics_file, _Validation):
        numbers[f"valid_bleu@{line['step']}"] = line["valid_bleu"]
    tests: dict[str, Scores] = {}
    if run.role != "tuning":
        tests = read_json(run.folder.eval_file, Evaluation)["tests"]
    for name, scores in tests.items():
        columns = {key: scores[key] for key in ("sentences", "bleu", "chrf", "exact_match")}
        if "loss_per_token" in scores:
            columns["log_likelihood"] = -scores["loss_per_token"]
        if "alignment" in scores:
            columns["aer"] = scores["alignment"]["error_rate"]
        for tag, of_tag in scores.get("tags", {}).items():
            columns |= {f"tag/{tag}": of_tag["exact_match"], f"tag_pairs/{tag}": of_tag["pairs"]}
        numbers |= {f"{name}/{key}": value for key, value in columns.items()}
    row.text.update({key: training[key] for key in ("device", "precision")})
    row.text["bleu_tokenizer"] = bleu_tokenizer(config.data, config.evaluation)
    return row


def measure(runs: list[Run]) -> dict[Run, dict[str, float]]:
    """Relative speeds, and what the choice of sentences adds to the variance of each run's BLEU.

    Of variants (and A/A runs) of which no run diverged; nothing if the baseline did.
    """
    scored = [run for run in runs if run.role != "tuning"]
    groups = [list(x) for _, x in groupby(scored, lambda run: (run.variant, run.role))]
    complete = [x for x in groups if not any(run.has_diverged for run in x)]
    if groups[0] not in complete:
        return {}
    first, runs = scored[0], list(chain(*complete))
    speeds = relative_speeds({x[0].variant: x[0].folder for x in complete if x[0].role == "run"})
    columns = {run: dict(speeds[run.variant] if run.role == "run" else {}) for run in runs}
    for test in read_json(first.folder.eval_file, Evaluation)["tests"]:
        bar = iter(tqdm(runs, desc=f"resampling {test}", unit="run", leave=False, disable=None))
        samples = [[resample(run, test, first) for run in islice(bar, len(x))] for x in complete]
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
    """What does not apply to a run is empty."""
    columns = dict.fromkeys([*COLUMNS, *(key for row in rows for key in row.numbers)])
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    for row in rows:
        numbers = {key: f"{float(x)!r}".removesuffix(".0") for key, x in row.numbers.items()}
        table.writerow({key: getattr(row, key) for key in ABOUT} | row.text | numbers)
    write_text(path, text.getvalue())


def read_rows(path: Path) -> list[RunResult]:
    """``UserError`` if the file is damaged, or of another program or version."""
    rows = []
    try:
        for row in csv.DictReader(read_lines(path), strict=True):
            if None in (*row, *row.values()):
                raise ValueError("a row of another length")
            about: dict[str, Any] = {key: row.pop(key) for key in ABOUT}
            about["text"] = {key: x for key in TEXT if (x := row.pop(key))}
            about["numbers"] = {key: x for key, x in row.items() if x}
            result = msgspec.convert(about, RunResult, strict=False)
            known = result.numbers.keys() | result.text.keys()
            if result.status == "finished" and (missing := NEEDED - known):
                raise ValueError(f"a finished run without {min(missing)}")
            rows.append(result)
    except (csv.Error, KeyError, ValueError) as error:
        what = f"damaged, or of another version ({error})"
        raise UserError(f"{path}: {what}: restore or remove it") from None
    return rows


def read_results(path: Path, experiment: Experiment) -> Results:
    """What ``write_results`` wrote.

    ``UserError`` if it is of other runs than the experiment's, or the baseline diverged.
    """
    rows = read_rows(path)
    found = {(row.variant, row.role, row.seed) for row in rows if row.role != "tuning"}
    expected = {(name, *x) for name in experiment.variants for x in experiment.seeds_of(name)}
    if others := sorted(found ^ expected):
        variant, _, seed = others[0]
        where = experiment.path if others[0] in expected else path
        what = f"not of the same runs as {experiment.path}"
        raise UserError(f"{path}: {what}: only {where} has {variant}, seed {seed}")
    for row in rows:
        if (row.variant, row.role, row.status) == (experiment.baseline, "run", "diverged"):
            raise UserError(f"{path}: the baseline, {row.variant}, diverged with seed {row.seed}")
    columns = dict.fromkeys(key for row in rows for key in row.numbers)
    tests = [key.removesuffix("/bleu") for key in columns if key.endswith("/bleu")]
    return Results(experiment, rows, [test for test in tests if "/" not in test])  # nor a tag
