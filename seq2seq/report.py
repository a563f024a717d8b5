"""The report of an experiment: what was found, how sure that is, and whether it was fair."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seq2seq.config import flatten, load_config, toml_value
from seq2seq.corpus import load_split
from seq2seq.errors import UserError
from seq2seq.experiments import Experiment, Run, measure_speed, model_size
from seq2seq.files import file_name, read_lines, write_lines, write_text
from seq2seq.plots import plot_curves, plot_heat_map, plot_speed
from seq2seq.significance import (
    Array,
    Comparison,
    compare,
    resampled_bleu,
    sentence_statistics,
)


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

    def values(self, test: str, key: str) -> Array:
        """A score on a test set, of each run; none where it was not measured."""
        found = [evaluation["tests"][test].get(key) for evaluation in self.evaluations]
        return np.array([value for value in found if value is not None], dtype=np.float64)

    def error_rates(self, test: str) -> Array:
        """The alignment error rates on a test set."""
        found = [evaluation["tests"][test].get("alignment") for evaluation in self.evaluations]
        return np.array([each["error_rate"] for each in found if each])

    def phenomena(self, test: str) -> dict[str, float]:
        """Exact match by phenomenon on a test set, the mean over runs."""
        found = [evaluation["tests"][test].get("phenomena", {}) for evaluation in self.evaluations]
        return {
            tag: float(np.mean([each[tag]["exact_match"] for each in found])) for tag in found[0]
        }

    def curve(self) -> tuple[list[int], Array]:
        """Steps of the validations, and validation BLEU (runs, validations)."""
        lines = [run.metrics() for run in self.runs]
        n_common = min(len(each) for each in lines)
        steps = [line["step"] for line in lines[0][:n_common]]
        return steps, np.array([[line["valid_bleu"] for line in each[:n_common]] for each in lines])


@dataclass(frozen=True)
class Findings:
    """All that the report says, before it is put in words; the baseline is the first variant."""

    experiment: Experiment
    variants: list[Variant]
    comparisons: dict[str, dict[str, Comparison]]  # by test set and variant
    speeds: dict[str, dict[str, float]]

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

    def relative_speed(self, variant: Variant, what: str) -> float | None:
        """``training`` or ``decoding`` speed, as a multiple of the baseline's."""
        if variant.name not in self.speeds:
            return None
        return self.speeds[variant.name][what] / self.speeds[self.baseline.name][what]

    def parameters(self, variant: Variant) -> int:
        """Learned numbers of the model."""
        if variant.trainings:
            return int(variant.trainings[0]["parameters"])
        return model_size(variant.diverged[0].config)


def find(experiment: Experiment, runs: list[Run], folder: Path) -> Findings:
    """Read what all runs left, compare them, and measure their speed.

    Raises:
        UserError: the baseline diverged.
    """
    variants = [Variant.of(name, runs) for name in experiment.variants]
    baseline = variants[0]
    if not baseline.is_whole:
        raise UserError(f"{folder}: the baseline, {baseline.name!r}, diverged")
    whole = [variant for variant in variants if variant.is_whole]
    comparisons = {}
    for test in baseline.evaluations[0]["tests"]:
        scores = np.array([variant.values(test, "bleu") for variant in whole])
        references = load_split(baseline.runs[0].config.data, baseline.runs[0].folder, test).tgt
        resampled = np.array(
            [[_resampled(run, test, references) for run in variant.runs] for variant in whole]
        )
        found = compare(scores, resampled) if len(whole) > 1 else []
        comparisons[test] = dict(zip([each.name for each in whole[1:]], found, strict=True))
    speeds = measure_speed([variant.runs[0] for variant in whole], folder)
    return Findings(experiment, variants, comparisons, speeds)


def _resampled(run: Run, test: str, references: list[str]) -> Array:
    hypotheses = read_lines(run.folder / "hypotheses" / f"{file_name(test)}.txt")
    return resampled_bleu(sentence_statistics(hypotheses, references))


# --- fairness ---


def unfair(findings: Findings) -> Iterator[str]:
    """Whatever a variant has that the baseline has not, besides another model."""
    baseline, within = findings.baseline, findings.experiment.within
    settings = flatten(baseline.runs[0].config)
    size = findings.parameters(baseline)
    for variant in findings.variants[1:]:
        config = flatten((variant.runs or variant.diverged)[0].config)
        for key, value in config.items():
            if value != settings[key] and not key.startswith("model."):
                here, there = toml_value(value), toml_value(settings[key])
                yield f"{variant.name}: `{key}` is {here}, the baseline's {there}"
        more = 100 * (findings.parameters(variant) / size - 1)
        if abs(more) > within:
            yield f"{variant.name}: {more:+.1f}% parameters"
        yield from _other_steps(variant, baseline)


def _other_steps(variant: Variant, baseline: Variant) -> Iterator[str]:
    """Runs that did not take the same steps as the baseline's run with the same seed."""
    expected = {r.seed: t for r, t in zip(baseline.runs, baseline.trainings, strict=True)}
    for run, training in zip(variant.runs, variant.trainings, strict=True):
        of_baseline = expected[run.seed]
        if training["steps"] != of_baseline["steps"]:
            what = f"{training['steps']:,} steps, the baseline {of_baseline['steps']:,}"
            yield f"{variant.name}, seed {run.seed}: {what}"
        elif training["data_checksum"] != of_baseline["data_checksum"]:
            yield f"{variant.name}, seed {run.seed}: not the same batches in the same order"


# --- in words ---


def spread(values: Array) -> str:
    """Mean ± standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if len(values) else "-"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def ratio(value: float | None) -> str:
    """A speed as a multiple of the baseline's."""
    return "-" if value is None else f"{value:.2f}"


def markdown_table(rows: list[list[str]]) -> Iterator[str]:
    """Lines of a table whose first row is the head."""
    for number, row in enumerate(rows):
        yield "| " + " | ".join(row) + " |"
        if number == 0:
            yield "| " + " | ".join(["---"] * len(row)) + " |"


def main_table(findings: Findings) -> list[list[str]]:
    """One row a variant: score on the first test set, verdict, cost."""
    test = findings.tests[0]
    size = findings.parameters(findings.baseline)
    head = f"variant;BLEU on {test};difference [95%];verdict;parameters;training speed"
    rows = [[*head.split(";"), "decoding speed", "AER"]]
    for variant in findings.variants:
        found = findings.comparisons[test].get(variant.name)
        difference, verdict = "", "the baseline"
        if variant.diverged:
            n_seeds = len(findings.experiment.seeds)
            verdict = f"**diverged** ({len(variant.diverged)} of {n_seeds} seeds)"
        elif found:
            difference = f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"
            verdict = f"**{found.verdict}**" if found.adjusted_p < 0.05 else found.verdict
            verdict += " (noisy)" if found.is_noisy else ""
        n_parameters = findings.parameters(variant)
        rows.append(
            [
                variant.name,
                spread(variant.values(test, "bleu")),
                difference,
                verdict,
                f"{n_parameters:,} ({100 * (n_parameters / size - 1):+.1f}%)",
                ratio(findings.relative_speed(variant, "training")),
                ratio(findings.relative_speed(variant, "decoding")),
                spread(variant.error_rates(test)),
            ]
        )
    return rows


def test_table(findings: Findings, test: str) -> list[list[str]]:
    """One row a variant: every score on one test set."""
    rows = [["variant", "BLEU", "difference [95%]", "chrF", "exact match", "AER"]]
    for variant in findings.variants:
        found = findings.comparisons[test].get(variant.name)
        rows.append(
            [
                variant.name,
                spread(variant.values(test, "bleu")),
                f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" if found else "",
                spread(variant.values(test, "chrf")),
                spread(variant.values(test, "exact_match")),
                spread(variant.error_rates(test)),
            ]
        )
    return rows


def phenomena_table(findings: Findings, test: str) -> list[list[str]]:
    """One row a phenomenon, one column a variant: exact match."""
    found = {variant.name: variant.phenomena(test) for variant in findings.variants if variant.runs}
    tags = list(found[findings.baseline.name])
    return [
        ["exact match", *found],
        *([tag, *(f"{by_tag[tag]:.1f}" for by_tag in found.values())] for tag in tags),
    ]


def how_sure(findings: Findings) -> str:
    """What the verdicts rest on, and what they could not have seen."""
    test = findings.tests[0]
    found = findings.comparisons[test].values()
    n_seeds = len(findings.experiment.seeds)
    text = (
        f"Verdicts are about BLEU on `{test}`, at the 5% level, corrected for the number of "
        "variants (Holm). They count two kinds of luck: another seed (what is left of the scores "
        "when the means of variants and seeds are taken away, pooled over variants; a variant "
        "marked noisy is judged by its own) and other sentences (paired bootstrap, 1,000 "
        "resamples, over all seeds at once). The intervals hold for each variant alone. ± is the "
        f"standard deviation over {n_seeds} seeds."
    )
    calm = sorted(each.smallest for each in found if not each.is_noisy)
    if calm:
        text += (
            " The smallest difference that this design shows 4 times out of 5 is "
            f'**{calm[len(calm) // 2]:.1f} BLEU**; about smaller ones, "no difference shown" '
            "says nothing."
        )
    return text


def introduction(findings: Findings) -> str:
    """What was run: the command, the settings that are not the base's, seeds and steps."""
    experiment, config = findings.experiment, flatten(findings.baseline.runs[0].config)
    base = flatten(load_config(experiment.path.parent / experiment.base))
    changed = [
        f"`{key} = {toml_value(value)}`"
        for key, value in config.items()
        if value != base[key] and key != "train.seed"
    ]
    return (
        f"`seq2seq compare {experiment.path}`: base `{experiment.base}`"
        + (f" with {', '.join(changed)}" if changed else "")
        + f"; seeds {', '.join(map(str, experiment.seeds))}; "
        + f"{findings.baseline.trainings[0]['steps']:,} steps each. Speeds are multiples of the "
        + f"baseline's, `{findings.baseline.name}`, measured in turn."
    )


def fairness(findings: Findings) -> Iterator[str]:
    """What was checked, and where it did not hold."""
    experiment = findings.experiment
    matched = " (by a wider or narrower `d_ff`)" if experiment.match_parameters else ""
    yield (
        "Checked of every run: the same settings but for the model, the same number of steps, the "
        "same batches in the same order for each seed, parameters within "
        f"{experiment.within:g}%{matched}."
    )
    yield ""
    yield from [f"- {problem}" for problem in unfair(findings)] or ["Nothing differs."]


def phenomena(findings: Findings, test: str, folder: Path) -> Iterator[str]:
    """Exact match by phenomenon on a test set, if it has tags: a picture, and its numbers."""
    table = phenomena_table(findings, test)
    if len(table) > 1:
        picture = f"phenomena-{file_name(test)}.png"
        plot_heat_map(table, folder / picture)
        yield from [f"![Exact match by phenomenon on {test}]({picture})", ""]
        yield from ["<details><summary>the same in numbers</summary>", ""]
        yield from [*markdown_table(table), "", "</details>", ""]


def write_report(findings: Findings, folder: Path) -> Path:
    """Write ``report.md`` with its pictures, and ``results.csv``; returns the report's path."""
    whole = findings.whole
    points = [_point(findings, variant) for variant in whole]
    plot_speed(points, findings.tests[0], folder / "speed.png")
    plot_curves({variant.name: variant.curve() for variant in whole}, folder / "curves.png")
    lines = [f"# {findings.experiment.title}", "", introduction(findings), ""]
    lines += [*markdown_table(main_table(findings)), "", how_sure(findings), ""]
    lines += ["![BLEU against training speed](speed.png)", ""]
    lines += ["![Validation BLEU while training](curves.png)", ""]
    for test in findings.tests:
        lines += [f"## {test}", "", *markdown_table(test_table(findings, test)), ""]
        lines += phenomena(findings, test, folder)
    lines += ["## Fairness", "", *fairness(findings)]
    write_lines(folder / "report.md", lines)
    write_text(folder / "results.csv", results_csv(findings))
    return folder / "report.md"


def _point(findings: Findings, variant: Variant) -> tuple[str, float, float, float]:
    bleu = variant.values(findings.tests[0], "bleu")
    speed = findings.relative_speed(variant, "training") or 1.0
    return variant.name, speed, float(bleu.mean()), float(bleu.std(ddof=1))


def results_csv(findings: Findings) -> str:
    """One line a run and test set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    scores = ["bleu", "bleu_lowercased", "chrf", "exact_match"]
    writer.writerow(
        ["variant", "seed", "status", "test", *scores, "aer", "parameters", "steps", "minutes"]
    )
    for variant in findings.variants:
        for run, evaluation, training in zip(
            variant.runs, variant.evaluations, variant.trainings, strict=True
        ):
            for test, found in evaluation["tests"].items():
                aer = found["alignment"]["error_rate"] if "alignment" in found else ""
                costs = [training[key] for key in ("parameters", "steps", "minutes")]
                writer.writerow(
                    [
                        variant.name,
                        run.seed,
                        "finished",
                        test,
                        *(found[s] for s in scores),
                        aer,
                        *costs,
                    ]
                )
        for run in variant.diverged:
            writer.writerow([variant.name, run.seed, "diverged", *[""] * 9])
    return text.getvalue()


def summary(findings: Findings) -> Iterator[str]:
    """The main table for a terminal."""
    rows = [row[:4] for row in main_table(findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(cell.replace("**", "").ljust(width) for cell, width in cells).rstrip()
    for problem in unfair(findings):
        yield f"not alike: {problem}"
