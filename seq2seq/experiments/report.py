"""The report of an experiment: the scores of all runs, compared, and whether that is fair."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tabulate import tabulate

from seq2seq.config import flatten, flatten_toml, load_config, toml_value
from seq2seq.data.corpus import load_split
from seq2seq.evaluation.plotting import figure, line_style
from seq2seq.experiments.runs import Experiment, Run, Speeds, measure_speed
from seq2seq.experiments.statistics import NOT_SHOWN, Array, Comparison, compare, resampled_bleu
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.utils import UserError, read_json, read_json_lines, read_lines, write_text

SCORES = ["bleu", "bleu_lowercased", "chrf", "exact_match"]
COSTS = ["parameters", "steps", "minutes"]
LEGEND: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5), "frameon": False}

Table = list[list[str]]  # the first row is the head


@dataclass(frozen=True)
class VariantResult:
    """The runs of a variant; the ``eval.json`` and ``training.json`` of those that finished."""

    name: str
    runs: list[Run]  # that did not diverge
    diverged: list[Run]
    evaluations: list[dict[str, Any]]
    trainings: list[dict[str, Any]]

    @property
    def settings(self) -> dict[str, Any]:
        """By dotted key, without the seed, which differs from run to run."""
        settings = flatten((self.runs or self.diverged)[0].config)
        del settings["train.seed"]
        return settings

    @property
    def parameters(self) -> int:
        if self.trainings:
            return int(self.trainings[0]["parameters"])
        return count_parameters(empty_model(self.diverged[0].config))

    def values(self, test: str, key: str) -> Array:
        """A score of each run on a test set; ``aer`` is only of runs that have one."""
        tests = [evaluation["tests"][test] for evaluation in self.evaluations]
        if key == "aer":
            return np.array([t["alignment"]["error_rate"] for t in tests if "alignment" in t])
        return np.array([scores[key] for scores in tests])


@dataclass(frozen=True)
class Results:
    """All that the report is made of; the baseline is the first variant."""

    experiment: Experiment
    variants: list[VariantResult]
    comparisons: dict[str, dict[str, Comparison]]  # by test set and variant
    speeds: Speeds

    @property
    def baseline(self) -> VariantResult:
        return self.variants[0]

    @property
    def complete(self) -> list[VariantResult]:
        """The variants of which no run diverged."""
        return [variant for variant in self.variants if not variant.diverged]

    @property
    def tests(self) -> list[str]:
        """The test sets; verdicts are about the first."""
        return list(self.baseline.evaluations[0]["tests"])

    def more_parameters(self, variant: VariantResult) -> float:
        """Than the baseline has, in per cent."""
        return 100 * (variant.parameters / self.baseline.parameters - 1)


def collect(experiment: Experiment, runs: list[Run], folder: Path) -> Results:
    """Read the results of all runs, write ``results.csv``, compare, and measure the speed.

    Raises:
        UserError: the baseline diverged, or the runs were not tested on the same sentences.
    """
    variants = []
    for name in experiment.variants:
        diverged = [run for run in runs if run.variant == name and run.has_diverged]
        finished = [run for run in runs if run.variant == name and not run.has_diverged]
        evaluations = [read_json(run.folder.eval_file) for run in finished]
        trainings = [read_json(run.folder.summary_file) for run in finished]
        variants.append(VariantResult(name, finished, diverged, evaluations, trainings))
    try:
        write_text(folder / "results.csv", results_csv(variants))
    except (KeyError, TypeError, AttributeError):
        raise UserError(f"{folder}: an eval.json or training.json in it is damaged") from None
    results = Results(experiment, variants, {}, {})
    if results.baseline.diverged:
        raise UserError(f"{results.baseline.diverged[0].folder}: the baseline diverged")
    complete = results.complete
    for test in results.tests:
        bleu = np.array([variant.values(test, "bleu") for variant in complete])
        samples = np.array([[resample(r, test, runs[0]) for r in v.runs] for v in complete])
        comparisons = compare(bleu, samples) if len(complete) > 1 else []
        names = (variant.name for variant in complete[1:])
        results.comparisons[test] = dict(zip(names, comparisons, strict=True))
    results.speeds.update(measure_speed([variant.runs[0] for variant in complete], folder))
    return results


def resample(run: Run, test: str, first: Run) -> Array:
    """Bootstrap samples of BLEU; the test set must be the same as in the ``first`` run."""
    corpus, expected = (load_split(r.folder, r.config.data, test) for r in (run, first))
    if corpus != expected:
        raise UserError(f"{run.folder}: its {test} is not that of {first.folder}")
    path = run.folder.hypotheses_file(test)
    hypotheses = read_lines(path)
    if len(hypotheses) != len(corpus):
        raise UserError(f"{path} has {len(hypotheses):,} lines, not {len(corpus):,}")
    return resampled_bleu(hypotheses, corpus.tgt)


def results_csv(variants: list[VariantResult]) -> str:
    """One line per run and test set."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["variant", "seed", "status", "test", *SCORES, "aer", *COSTS])
    for variant in variants:
        finished = zip(variant.runs, variant.evaluations, variant.trainings, strict=True)
        for run, evaluation, training in finished:
            costs = [training[key] for key in COSTS]
            for test, scores in evaluation["tests"].items():
                aer = scores["alignment"]["error_rate"] if "alignment" in scores else ""
                row = [variant.name, run.seed, "finished", test, *(scores[key] for key in SCORES)]
                writer.writerow([*row, aer, *costs])
        for run in variant.diverged:
            writer.writerow([variant.name, run.seed, "diverged", *[""] * 9])
    return text.getvalue()


def comparability_warnings(results: Results) -> Iterator[str]:
    """Whatever differs between a variant and the baseline besides the model."""
    baseline = results.baseline
    same_seed = {r.seed: (r, t) for r, t in zip(baseline.runs, baseline.trainings, strict=True)}
    for variant in results.variants[1:]:
        for key, value in variant.settings.items():
            other = baseline.settings[key]
            if value != other and not key.startswith("model."):
                yield f"{variant.name}: `{key}` is {toml_value(value)}, not {toml_value(other)}"
        more = results.more_parameters(variant)
        if abs(more) > results.experiment.parameter_tolerance:
            yield f"{variant.name}: {more:+.1f}% parameters"
        for run, training in zip(variant.runs, variant.trainings, strict=True):
            name = f"{variant.name}, seed {run.seed}"
            other_run, expected = same_seed[run.seed]
            for key in ("steps", "device", "threads", "precision"):
                if training.get(key) != expected.get(key):
                    yield f"{name}: {key} {training.get(key)}, not {expected.get(key)}"
            if training["data_checksum"] != expected["data_checksum"]:
                yield f"{name}: other training data"
            files = [r.folder.tokenizer_file for r in (run, other_run)]
            if files[0].read_bytes() != files[1].read_bytes():
                yield f"{name}: other subwords"


def mean_std(values: Array) -> str:
    """Mean ± standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if len(values) else "-"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def scores_table(results: Results, test: str) -> Table:
    """One row per variant: its scores on a test set; on the first, with verdict and costs."""
    head = ["variant", f"BLEU on {test}", "difference [95%]", "verdict", "chrF", "exact match"]
    table = [[*head, "AER", "parameters", "training speed", "decoding speed"]]
    for variant in results.variants:
        difference, verdict = "", "baseline"
        if variant.diverged:
            n_runs = len(variant.runs) + len(variant.diverged)
            verdict = f"**diverged** ({len(variant.diverged)} of {n_runs} seeds)"
        elif c := results.comparisons[test].get(variant.name):
            difference = f"{c.difference:+.2f} [{c.low:+.2f}, {c.high:+.2f}]"
            verdict = c.verdict if c.verdict == NOT_SHOWN else f"**{c.verdict}**"
            verdict += " (p < 0.001)" if c.adjusted_p < 0.001 else f" (p = {c.adjusted_p:.3f})"
        bleu, *scores = (
            mean_std(variant.values(test, key)) for key in ("bleu", "chrf", "exact_match", "aer")
        )
        parameters = f"{variant.parameters:,} ({results.more_parameters(variant):+.1f}%)"
        speeds = results.speeds.get(variant.name, {}).values()
        ratios = [f"{np.median(rounds):.2f}" for rounds in speeds] or ["-", "-"]
        table.append([variant.name, bleu, difference, verdict, *scores, parameters, *ratios])
    if test != results.tests[0]:
        return [[*row[:3], *row[4:7]] for row in table]
    return table


def tags_table(results: Results, test: str) -> Table:
    """One row per tag, one column per variant: exact match in per cent, the mean over seeds."""
    variants = [variant for variant in results.variants if variant.runs]
    runs = [[e["tests"][test].get("tags", {}) for e in v.evaluations] for v in variants]
    table = [["exact match (pairs)", *(variant.name for variant in variants)]]
    for tag, scores in runs[0][0].items():
        means = (np.mean([run[tag]["exact_match"] for run in of_variant]) for of_variant in runs)
        table.append([f"{tag} ({scores['pairs']})", *(f"{mean:.1f}" for mean in means)])
    return table


def changes_table(results: Results) -> Table:
    """The settings of each variant as the experiment states them, with a matched ``d_ff``."""
    table = [["variant", "settings"]]
    for variant in results.variants:
        changes = flatten_toml(results.experiment.variants[variant.name], "")
        if variant.settings["model.d_ff"] != results.baseline.settings["model.d_ff"]:
            changes["model.d_ff"] = variant.settings["model.d_ff"]
        texts = [f"`{key} = {toml_value(value)}`" for key, value in changes.items()]
        table.append([variant.name, ", ".join(texts)])
    return table


def markdown(table: Table) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in table]
    return tabulate(cells, "firstrow", tablefmt="github", disable_numparse=True)


def summary(results: Results) -> str:
    """The main results, and what makes them hard to compare, for a terminal."""
    rows = scores_table(results, results.tests[0])
    cells = [[cell.replace("**", "") for cell in row[:4]] for row in rows]
    warnings = [f"not comparable: {warning}" for warning in comparability_warnings(results)]
    return "\n".join([tabulate(cells, "firstrow", disable_numparse=True), *warnings])


def introduction(results: Results) -> str:
    """How the experiment was run."""
    experiment, training = results.experiment, results.baseline.trainings[0]
    base = flatten(load_config(experiment.path.parent / experiment.base))
    settings = results.baseline.settings.items()
    changed = [f"`{key} = {toml_value(value)}`" for key, value in settings if value != base[key]]
    rounds = [rounds for speeds in list(results.speeds.values())[1:] for rounds in speeds.values()]
    spread = np.median([100 * (max(x) / min(x) - 1) for x in rounds] or [0.0])
    return (
        f"`seq2seq compare {experiment.path}`: base `{experiment.base}`, changed: "
        f"{', '.join(changed) or 'nothing'}; seeds {', '.join(map(str, experiment.seeds))}; "
        f"{training['steps']:,} steps ({training['device']}, {training['threads']} threads). The "
        "weights scored are the best on the validation set. Speeds are relative to the baseline's, "
        f"medians of rounds in which the two take turns; rounds differ by {spread:.0f}% (median)."
    )


def confidence(results: Results) -> str:
    """What the verdicts rest on, and what the experiment is too small to show."""
    comparisons = results.comparisons[results.tests[0]].values()
    detectable = [comparison.min_detectable_difference for comparison in comparisons] or [np.nan]
    low, median, high = np.quantile(detectable, [0, 0.5, 1])
    return (
        f"Verdicts are about BLEU on `{results.tests[0]}` at the 5% level, corrected for the "
        "number of variants (Holm). They account for the variance over seeds (paired t-test; for "
        "each variant at least the typical variance) and over sentences (paired bootstrap). An "
        "interval is for its variant alone; that of a far noisier one holds 9 times in 10, not 19 "
        f"in 20. ± is the standard deviation over {len(results.experiment.seeds)} seeds. The "
        "minimum detectable difference, which 4 of 5 such experiments would show, is "
        f"about **{median:.1f} BLEU** (median over variants; {low:.1f} to {high:.1f}): "
        f'"{NOT_SHOWN}" says nothing about smaller ones.'
    )


def write_report(results: Results, folder: Path) -> Path:
    """Write ``report.md`` with its figures; returns its path."""
    plot_speed(results, folder / "speed.png")
    plot_curves(results, folder / "curves.png")
    blocks = [f"# {results.experiment.title}", introduction(results)]
    blocks += [markdown(scores_table(results, results.tests[0])), confidence(results)]
    blocks += [markdown(changes_table(results)), "![BLEU and training speed](speed.png)"]
    blocks += ["![Validation BLEU during training](curves.png)"]
    for test in results.tests[1:]:
        blocks += [f"## {test}", markdown(scores_table(results, test))]
    for test in results.tests:
        if len(table := tags_table(results, test)) > 1:
            blocks += [f"## Exact match by tag on {test}", markdown(table)]
    warnings = [f"- {warning}" for warning in comparability_warnings(results)]
    blocks += [
        "## Comparability",
        "Checked: the same settings but for the model; the same steps, batches in the same order, "
        "subwords, device, threads, precision and test sentences; parameters within "
        f"{results.experiment.parameter_tolerance:g}%.",
        "\n".join(warnings or ["All of it holds."]),
    ]
    write_text(folder / "report.md", "\n\n".join(blocks) + "\n")
    return folder / "report.md"


def plot_speed(results: Results, path: Path) -> None:
    """BLEU (± standard deviation over seeds) and training speed (slowest to fastest round)."""
    with figure(path, figsize=(8, 5)) as drawing:
        axes = drawing.add_subplot()
        for number, variant in enumerate(results.complete):
            bleu = variant.values(results.tests[0], "bleu")
            rounds = results.speeds[variant.name]["training"]
            x, style = np.median(rounds), line_style(number) | {"linestyle": ""}
            ranges = {"xerr": [[x - min(rounds)], [max(rounds) - x]], "yerr": bleu.std(ddof=1)}
            axes.errorbar(x, bleu.mean(), **ranges, label=variant.name, capsize=3, **style)
        axes.set(xlabel="training speed (baseline = 1)", ylabel=f"BLEU on {results.tests[0]}")
        axes.legend(**LEGEND)


def plot_curves(results: Results, path: Path) -> None:
    """Validation BLEU by step: mean over seeds, in a band from the lowest to the highest."""
    with figure(path, figsize=(8, 5)) as drawing:
        axes = drawing.add_subplot()
        for number, variant in enumerate(results.complete):
            curves = [read_json_lines(run.folder.metrics_file) for run in variant.runs]
            shared = list(zip(*curves, strict=False))  # the validations that all runs have
            steps, style = [lines[0]["step"] for lines in shared], line_style(number)
            bleu = np.array([[line["valid_bleu"] for line in lines] for lines in shared])
            axes.plot(steps, bleu.mean(1), label=variant.name, markersize=4, **style)
            axes.fill_between(steps, bleu.min(1), bleu.max(1), color=style["color"], alpha=0.12)
        axes.set(xlabel="training step", ylabel="BLEU on the validation set")
        axes.legend(**LEGEND)
