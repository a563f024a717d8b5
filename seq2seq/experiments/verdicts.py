"""What the runs of an experiment say: effects, noise, costs, and what makes a comparison unfair."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from seq2seq.config import flatten_toml, toml_value
from seq2seq.experiments.results import Results
from seq2seq.experiments.statistics import LEVEL, Array, Comparison, compare
from seq2seq.utils import printable

MIN_BLEU = 5.0  # a baseline below has hardly learned
SAME = ("steps", "threads", "data_checksum", "device", "precision")  # expected of each seed


@dataclass
class Group:
    """The runs of a variant, scored on a test set; of role "again", more of the baseline (A/A)."""

    results: Results
    test: str
    variant: str
    role: str = "run"
    comparison: Comparison | None = None  # with the baseline, if there can be one

    def __post_init__(self) -> None:
        key = self.variant, self.role
        self.rows = [row for row in self.results.rows if (row.variant, row.role) == key]
        self.n_diverged = sum(row.status == "diverged" for row in self.rows)
        self.bleu = self.values(f"{self.test}/bleu")
        self.label = self.variant + " again" * (self.role == "again")
        self.is_baseline = self.label == self.results.experiment.baseline

    @property
    def baseline(self) -> "Group":
        return Group(self.results, self.test, self.results.experiment.baseline)

    @property
    def effect(self) -> float:
        unknown = 0.0 if self.is_baseline else -np.inf
        return self.comparison.difference if self.comparison else unknown

    def values(self, column: str) -> Array:
        return self.results.values(self.variant, column, self.role)

    def mean(self, column: str) -> float:
        values = self.values(column)
        return float(values.mean()) if len(values) else np.nan

    def ratio(self, column: str) -> float:
        """The mean, as a multiple of the baseline's."""
        return self.mean(column) / self.baseline.mean(column)


def compare_all(results: Results, test: str) -> list[Group]:
    """Baseline and variants by effect, the best first; those without a verdict; the A/A runs."""
    baseline, *others = (Group(results, test, name) for name in results.experiment.variants)
    again = Group(results, test, baseline.variant, "again")
    for family in (others, [again]) if not no_verdicts(results, test) else ():
        if whole := [x for x in family if x.rows and not x.n_diverged]:
            scores = [baseline.bleu, *(group.bleu for group in whole)]
            found = compare(scores, [sentence_variance(group) for group in whole])
            for group, comparison in zip(whole, found, strict=True):
                group.comparison = comparison
    ranked = sorted([baseline, *others], key=lambda group: -group.effect)
    return [*ranked, again] if again.rows else ranked


def no_verdicts(results: Results, test: str) -> str:
    """Why the baseline, having hardly learned, is no measure on a test set; or nothing."""
    baseline = Group(results, test, results.experiment.baseline)
    bleu, loss, guess = (baseline.mean(x) for x in (f"{test}/bleu", "valid_loss", "guess_loss"))
    if bleu >= MIN_BLEU and loss <= guess:
        return ""
    what = f"BLEU {bleu:.1f}, validation loss {loss:.2f} (of a guess: {guess:.2f})"
    return f"{baseline.variant} hardly learned (on {printable(test)}: {what}); train it longer"


def sentence_variance(group: Group) -> float:
    """The variance over test sets of a difference from the baseline, common to all seeds."""
    own, both = (group.mean(f"{group.test}/{x}") for x in ("cov_own", "cov_baseline"))
    return max(0.0, own - 2 * both + group.baseline.mean(f"{group.test}/cov_own"))


def interval(c: Comparison | None) -> str:
    return f"{c.difference:+.2f} [{c.low:+.2f}, {c.high:+.2f}]" if c else "-"


def detectable(groups: list[Group]) -> float:
    """The smallest difference that 4 of 5 such experiments would show; the median of variants."""
    found = [x.comparison.detectable for x in groups if x.comparison and x.role == "run"]
    return float(np.median(found)) if found else np.inf


def warnings(groups: list[Group]) -> list[str]:
    """What makes verdicts impossible, doubtful or unfair, as plain text."""
    results, variants = groups[0].results, defaultdict[str, list[str]](list)
    others = [no_verdicts(results, test) for test in results.tests[1:]]
    lines = [f"no differences: {problem}" for problem in others if problem]
    for group in groups:
        for doubt in dict.fromkeys(doubts(group)):
            variants[doubt].append(group.label)
    return lines + [f"{', '.join(labels)}: {doubt}" for doubt, labels in variants.items()]


def doubts(group: Group) -> Iterator[str]:
    """Why a comparison may be wrong or unfair, such as another device than the baseline's."""
    experiment, more = group.results.experiment, 100 * (group.ratio("parameters") - 1)
    if group.role == "again" and group.comparison and group.comparison.p < LEVEL:
        chance = "1 of 20 experiments does so by chance; otherwise p-values are too small"
        yield f"differs from {group.variant} although it is the same: {chance}"
    first = min(row.look for row in group.rows)
    if added := ", ".join(str(row.seed) for row in group.rows if row.look > first):
        yield f"added after a look at the results (seed {added}): p-values are too small"
    if group.variant != experiment.baseline:
        for key, value in flatten_toml(experiment.variants[group.variant]).items():
            if not key.startswith("model.") and key not in experiment.tune:
                yield printable(f"sets {key} = {toml_value(value)}")
    if experiment.match in (None, "parameters") and abs(more) > experiment.parameter_tolerance:
        yield f"{more:+.1f}% parameters"
    runs = group.results.runs
    same_seed = {run.seed: run.numbers | run.text for run in runs(experiment.baseline)}
    any_seed = next(iter(same_seed.values()))
    for run in runs(group.variant, group.role):
        ours = run.numbers | run.text
        # Of another seed, batches come in another order.
        theirs = same_seed.get(run.seed, any_seed | {"data_checksum": ours["data_checksum"]})
        for key in SAME:
            if ours[key] != theirs[key]:
                yield f"{key} {ours[key]}, not {theirs[key]}".replace(".0", "")
