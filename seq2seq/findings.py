"""What an experiment found: scores of every run, compared with the baseline, and fairness."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seq2seq.config import flatten, toml_value
from seq2seq.corpus import load_split
from seq2seq.errors import UserError
from seq2seq.experiments import Experiment, Run, model_size
from seq2seq.files import file_name, read_bytes, read_json_lines, read_lines, write_text
from seq2seq.significance import (
    Array,
    Comparison,
    compare,
    resampled_bleu,
    sentence_statistics,
)
from seq2seq.speeds import Speeds, measure_speed


@dataclass(frozen=True)
class Variant:
    """All runs of a variant that came to an end, and what they left."""

    name: str
    runs: list[Run]
    diverged: list[Run]
    evaluations: list[dict[str, Any]]
    trainings: list[dict[str, Any]]

    @classmethod
    def of(cls, name: str, runs: list[Run]) -> "Variant":
        """The variant called ``name`` among an experiment's runs."""
        own = [run for run in runs if run.variant == name]
        whole = [run for run in own if not run.has_diverged]
        return cls(
            name,
            whole,
            [run for run in own if run.has_diverged],
            [run.read("eval.json") for run in whole],
            [run.read("training.json") for run in whole],
        )

    @property
    def is_whole(self) -> bool:
        """Whether no run diverged."""
        return not self.diverged

    @property
    def label(self) -> str:
        """Its name, and how many runs are missing."""
        n_runs = len(self.runs) + len(self.diverged)
        missing = f" ({len(self.diverged)} of {n_runs} diverged)" if self.diverged else ""
        return self.name + missing

    @property
    def settings(self) -> dict[str, Any]:
        """By dotted key, but for the seed, which differs from run to run."""
        settings = flatten((self.runs or self.diverged)[0].config)
        del settings["train.seed"]
        return settings

    @property
    def parameters(self) -> int:
        """Learned numbers of the model."""
        if self.trainings:
            return int(self.trainings[0]["parameters"])
        return model_size(self.diverged[0].config)

    def values(self, test: str, key: str) -> Array:
        """A score on a test set, of each run."""
        return np.array([evaluation["tests"][test][key] for evaluation in self.evaluations])

    def error_rates(self, test: str) -> Array:
        """The alignment error rates on a test set."""
        found = [evaluation["tests"][test].get("alignment") for evaluation in self.evaluations]
        return np.array([each["error_rate"] for each in found if each])

    def phenomena(self, test: str) -> dict[str, float]:
        """Exact match by phenomenon, and how many pairs show it; the mean over runs."""
        found = [evaluation["tests"][test].get("phenomena", {}) for evaluation in self.evaluations]
        rows = {
            f"{tag} ({of_first['pairs']})": [each[tag]["exact_match"] for each in found]
            for tag, of_first in found[0].items()
        }
        return {tag: float(np.mean(values)) for tag, values in rows.items()}

    def curve(self) -> tuple[list[int], Array]:
        """Steps of the validations, and validation BLEU (runs, validations)."""
        points = [_validations(run) for run in self.runs]
        n_common = min(len(each) for each in points)
        steps = [step for step, _ in points[0][:n_common]]
        return steps, np.array([[bleu for _, bleu in each[:n_common]] for each in points])


def _validations(run: Run) -> list[tuple[int, float]]:
    """Step and BLEU of each validation."""
    path = run.folder / "metrics.jsonl"
    try:
        return [(line["step"], line["valid_bleu"]) for line in read_json_lines(path)]
    except KeyError:
        raise UserError(f"{path}: damaged, or not written by this program") from None


@dataclass(frozen=True)
class Findings:
    """All that the report says, before it is put in words; the baseline is the first variant."""

    experiment: Experiment
    variants: list[Variant]
    comparisons: dict[str, dict[str, Comparison]]  # by test set and variant
    speeds: Speeds

    @property
    def baseline(self) -> Variant:
        """What the others are compared with."""
        return self.variants[0]

    @property
    def whole(self) -> list[Variant]:
        """The variants of which no run diverged."""
        return [variant for variant in self.variants if variant.is_whole]

    @property
    def tests(self) -> list[str]:
        """The names of the test sets; the verdicts are about the first."""
        return list(self.baseline.evaluations[0]["tests"])

    def relative_speeds(self, variant: Variant, what: str) -> Array:
        """``training`` or ``decoding`` speed as a multiple of the baseline's, round by round."""
        rounds = self.speeds[variant.name][what], self.speeds[self.baseline.name][what]
        return np.array(rounds[0]) / np.array(rounds[1])

    def more_parameters(self, variant: Variant) -> float:
        """Than the baseline has, in per cent."""
        return 100 * (variant.parameters / self.baseline.parameters - 1)


def find(experiment: Experiment, runs: list[Run], folder: Path) -> Findings:
    """Read what all runs left, compare them, and measure their speed.

    What each run scored is written to ``results.csv`` before anything else.

    Raises:
        UserError: the baseline diverged, or the runs were not tested on the same sentences.
    """
    variants = [Variant.of(name, runs) for name in experiment.variants]
    try:
        write_text(folder / "results.csv", results_csv(variants))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: an eval.json or training.json in it is damaged") from None
    baseline = variants[0]
    if not baseline.is_whole:
        lost = baseline.diverged[0].folder
        raise UserError(f"{lost}: the baseline diverged, and nothing can be compared with it")
    whole = [variant for variant in variants if variant.is_whole]
    comparisons = {}
    for test in baseline.evaluations[0]["tests"]:
        scores = np.array([variant.values(test, "bleu") for variant in whole])
        references = common_references(runs, test)
        resampled = np.array(
            [[_resampled(run, test, references) for run in variant.runs] for variant in whole]
        )
        found = compare(scores, resampled) if len(whole) > 1 else []
        comparisons[test] = dict(zip([each.name for each in whole[1:]], found, strict=True))
    speeds = measure_speed([variant.runs[0] for variant in whole], folder)
    return Findings(experiment, variants, comparisons, speeds)


def common_references(runs: list[Run], test: str) -> list[str]:
    """The references of a test set, which must be the same in all run folders that hold it."""
    finished = [run for run in runs if not run.has_diverged]
    first, *others = (load_split(run.config.data, run.folder, test) for run in finished)
    for run, other in zip(finished[1:], others, strict=True):
        if (other.src, other.tgt) != (first.src, first.tgt):
            raise UserError(f"{run.folder}: its {test} is not that of {finished[0].folder}")
    return first.tgt


def _resampled(run: Run, test: str, references: list[str]) -> Array:
    path = run.folder / "hypotheses" / f"{file_name(test)}.txt"
    hypotheses = read_lines(path)
    if len(hypotheses) != len(references):
        raise UserError(f"{path} has {len(hypotheses):,} lines, not {len(references):,}")
    return resampled_bleu(sentence_statistics(hypotheses, references))


# --- fairness ---


def unfair(findings: Findings) -> Iterator[str]:
    """Whatever a variant has that the baseline has not, besides another model."""
    baseline, within = findings.baseline, findings.experiment.within
    for variant in findings.variants[1:]:
        for key, value in variant.settings.items():
            if value != baseline.settings[key] and not key.startswith("model."):
                here, there = toml_value(value), toml_value(baseline.settings[key])
                yield f"{variant.name}: `{key}` is {here}, the baseline's {there}"
        more = findings.more_parameters(variant)
        if abs(more) > within:
            yield f"{variant.name}: {more:+.1f}% parameters"
        yield from _other_trainings(variant, baseline)


def _other_trainings(variant: Variant, baseline: Variant) -> Iterator[str]:
    """Runs that were not trained like the baseline's run with the same seed."""
    expected = {
        run.seed: (run, training)
        for run, training in zip(baseline.runs, baseline.trainings, strict=True)
    }
    for run, training in zip(variant.runs, variant.trainings, strict=True):
        name = f"{variant.name}, seed {run.seed}"
        other, its = expected[run.seed]
        if training["steps"] != its["steps"]:
            yield f"{name}: {training['steps']:,} steps, the baseline {its['steps']:,}"
        elif training["data_checksum"] != its["data_checksum"]:
            yield f"{name}: not the same batches in the same order"
        if (training["device"], training["threads"]) != (its["device"], its["threads"]):
            yield f"{name}: not on the same device with as many threads"
        tokenizers = [read_bytes(r.folder / "tokenizer.model") for r in (run, other)]
        if tokenizers[0] != tokenizers[1]:
            yield f"{name}: not the same subwords"


# --- as numbers ---

SCORES = ["bleu", "bleu_lowercased", "chrf", "exact_match"]
COSTS = ["parameters", "steps", "minutes"]


def results_csv(variants: list[Variant]) -> str:
    """One line a run and test set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "status", "test", *SCORES, "aer", *COSTS])
    for variant in variants:
        for run, evaluation, training in zip(
            variant.runs, variant.evaluations, variant.trainings, strict=True
        ):
            costs = [training[key] for key in COSTS]
            for test, found in evaluation["tests"].items():
                scores = [found[key] for key in SCORES]
                aer = found["alignment"]["error_rate"] if "alignment" in found else ""
                writer.writerow([variant.name, run.seed, "finished", test, *scores, aer, *costs])
        for run in variant.diverged:
            writer.writerow([variant.name, run.seed, "diverged", *[""] * 9])
    return text.getvalue()
