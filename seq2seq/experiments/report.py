"""The report of an experiment: the scores of all runs, compared, and whether that is fair."""

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
from tabulate import tabulate

from seq2seq.config import Count, flatten, flatten_toml, load_config, toml_value
from seq2seq.data.corpus import load_split
from seq2seq.evaluation.evaluate import Evaluation, Percent
from seq2seq.evaluation.metrics import bleu_tokenizer
from seq2seq.evaluation.plotting import figure
from seq2seq.experiments.runs import Experiment, Run, Speeds, measure_speed
from seq2seq.experiments.statistics import NOT_SHOWN, Array, Comparison, compare, resampled_bleu
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.shipped import find_config
from seq2seq.training.trainer import Summary
from seq2seq.utils import (
    UserError,
    markdown,
    printable,
    read_json,
    read_json_lines,
    read_lines,
    write_text,
)

SCORES = ["bleu", "bleu_lowercased", "chrf", "exact_match"]
COSTS = ["parameters", "steps", "minutes"]

Table = list[list[str]]  # the first row is the head


class _Validation(TypedDict):  # a line of metrics.jsonl
    step: Count
    valid_bleu: Percent


class VariantResult:
    """A variant's runs, and the scores and summaries of those that did not diverge."""

    def __init__(self, name: str, runs: list[Run]) -> None:
        self.name, self.config = name, runs[0].config  # with the first seed
        self.parameters = count_parameters(empty_model(self.config))
        self.diverged = [run for run in runs if run.has_diverged]
        self.runs = [run for run in runs if not run.has_diverged]
        self.scores = [read_json(run.folder.eval_file, Evaluation)["tests"] for run in self.runs]
        self.trainings = [read_json(run.folder.summary_file, Summary) for run in self.runs]

    def values(self, test: str, key: str) -> Array:
        """A score of each run on a test set; of alignment only where there is one."""
        of_runs = [scores[test] | scores[test].get("alignment", {}) for scores in self.scores]
        return np.array([of_run[key] for of_run in of_runs if key in of_run])


@dataclass(frozen=True)
class Results:
    """All that the report is made of."""

    experiment: Experiment
    variants: list[VariantResult]  # the baseline first
    tests: list[str]  # verdicts are about the first
    comparisons: dict[str, dict[str, Comparison]]  # by test set and variant that never diverged
    speeds: Speeds

    def more_parameters(self, variant: VariantResult) -> float:
        """Than the baseline has, in per cent."""
        return 100 * (variant.parameters / self.variants[0].parameters - 1)


def collect(experiment: Experiment, runs: list[Run], folder: Path) -> Results:
    """Read the results of all runs, write ``results.csv``, compare, and measure the speed.

    ``UserError`` if the baseline diverged, or the runs were not tested on the same sentences.
    """
    variants = [
        VariantResult(name, [run for run in runs if run.variant == name])
        for name in experiment.variants
    ]
    write_text(folder / "results.csv", results_csv(variants))
    if variants[0].diverged:
        raise UserError(f"{variants[0].diverged[0].folder}: the baseline diverged")
    tests, complete = list(variants[0].scores[0]), [x for x in variants if not x.diverged]
    for variant in variants:
        for run, scores in zip(variant.runs, variant.scores, strict=True):
            if list(scores) != tests:
                raise UserError(f"{run.folder}: its test sets are not those of {runs[0].folder}")
    comparisons: dict[str, dict[str, Comparison]] = {test: {} for test in tests}
    for test in tests if len(complete) > 1 else []:
        bleu = np.array([variant.values(test, "bleu") for variant in complete])
        samples = np.array([[resample(r, test, runs[0]) for r in v.runs] for v in complete])
        names = [variant.name for variant in complete[1:]]
        comparisons[test] = dict(zip(names, compare(bleu, samples), strict=True))
    speeds = measure_speed([variant.runs[0] for variant in complete], folder)
    return Results(experiment, variants, tests, comparisons, speeds)


def results_csv(variants: list[VariantResult]) -> str:
    """One line per run and test set."""
    columns, text = ["variant", "seed", "status", "test", *SCORES, "aer", *COSTS], io.StringIO()
    table = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    for variant in variants:
        results = zip(variant.runs, variant.scores, variant.trainings, strict=True)
        for run, tests, training in results:
            about = {"variant": variant.name, "seed": run.seed, "status": "finished"} | training
            for test, scores in tests.items():
                aer = scores.get("alignment", {}).get("error_rate", "")
                table.writerow(about | scores | {"test": test, "aer": aer})
        for run in variant.diverged:
            table.writerow({"variant": variant.name, "seed": run.seed, "status": "diverged"})
    return text.getvalue()


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


def comparability_warnings(results: Results) -> Iterator[str]:
    """Tests that BLEU cannot judge; what differs between variants and baseline but the model."""
    baseline, *others = results.variants
    for test in results.tests:
        if baseline.values(test, "bleu").mean() < 1:
            yield f"{test}: a BLEU below 1 says nothing: see chrF and exact match"
    settings = flatten(baseline.config)
    same_seed = dict(zip(results.experiment.seeds, baseline.trainings, strict=True))
    for variant in others:
        name = variant.name
        for key, value in flatten(variant.config).items():
            if value != settings[key] and not key.startswith("model."):
                yield f"{name}: `{key}` is {toml_value(value)}, not {toml_value(settings[key])}"
        more = results.more_parameters(variant)
        if abs(more) > results.experiment.parameter_tolerance:
            yield f"{name}: {more:+.1f}% parameters"
        for run, training in zip(variant.runs, variant.trainings, strict=True):
            of_run, other = f"{name}, seed {run.seed}", same_seed[run.seed]
            for key in ("steps", "device", "threads", "precision", "data_checksum"):
                if training[key] != other[key]:
                    yield f"{of_run}: {key} {training[key]}, not {other[key]}"


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
        keys = ("bleu", "chrf", "exact_match", "error_rate")
        bleu, *scores = (mean_std(variant.values(test, key)) for key in keys)
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
    table = [["exact match (pairs)", *(variant.name for variant in variants)]]
    runs = [[scores[test].get("tags", {}) for scores in variant.scores] for variant in variants]
    for tag, first in runs[0][0].items():
        of_tag = [[run[tag]["exact_match"] for run in tags if tag in run] for tags in runs]
        means = [f"{np.mean(values):.1f}" if values else "-" for values in of_tag]
        table.append([f"{tag} ({first['pairs']})", *means])
    return table


def changes_table(results: Results) -> Table:
    """The settings of each variant as the experiment states them, with a matched ``d_ff``."""
    table = [["variant", "settings"]]
    for variant in results.variants:
        changes = flatten_toml(results.experiment.variants[variant.name])
        if variant.config.model.d_ff != results.variants[0].config.model.d_ff:
            changes["model.d_ff"] = variant.config.model.d_ff
        table.append([variant.name, ", ".join(map(code, changes, changes.values()))])
    return table


def code(key: str, value: Any) -> str:
    """A setting as code in Markdown; a backtick as TOML may write it."""
    quoted = printable(f"{key} = {toml_value(value)}").replace("`", r"\u0060")
    return f"`{quoted}`"


def markdown_table(table: Table) -> str:
    """Names are in the first row and column; the rest is Markdown of our own."""
    head, *rows = table
    cells = [list(map(markdown, head))]
    cells += [[markdown(name), *(cell.replace("|", "\\|") for cell in row)] for name, *row in rows]
    return tabulate(cells, "firstrow", tablefmt="github", disable_numparse=True)


def summary(results: Results) -> str:
    """The main results, and what makes them hard to compare, for a terminal."""
    rows = scores_table(results, results.tests[0])
    cells = [[cell.replace("**", "") for cell in row[:4]] for row in rows]
    warnings = [f"not comparable: {warning}" for warning in comparability_warnings(results)]
    return "\n".join([tabulate(cells, "firstrow", disable_numparse=True), *warnings])


def write_report(results: Results, folder: Path) -> Path:
    """Write ``report.md`` with its figures; returns its path."""
    plot(results, folder)
    experiment, first_test, baseline = results.experiment, results.tests[0], results.variants[0]
    base = flatten(load_config(find_config(experiment.base, experiment.path.parent)))
    changed = [
        code(key, value)
        for key, value in flatten(baseline.config).items()
        if value != base[key] and key != "train.seed"
    ]
    training = baseline.trainings[0]
    _, *others = results.speeds.values()
    rounds = [rounds for speeds in others for rounds in speeds.values()]
    spread = np.median([100 * (max(x) / min(x) - 1) for x in rounds] or [0.0])
    comparisons = results.comparisons[first_test].values()
    detectable = [comparison.min_detectable_difference for comparison in comparisons] or [np.nan]
    low, median, high = np.quantile(detectable, [0, 0.5, 1])
    blocks = [
        f"# {markdown(experiment.title)}",
        f"seq2seq compare {markdown(str(experiment.path))}: base {markdown(experiment.base)}, "
        f"changed: {', '.join(changed) or 'nothing'}; "
        f"seeds {', '.join(map(str, experiment.seeds))}; "
        f"{training['steps']:,} steps ({training['device']}, {training['threads']} threads). The "
        "weights scored are the best on the validation set. Speeds are relative to the baseline's, "
        f"medians of rounds in which the two take turns; rounds differ by {spread:.0f}% (median).",
        markdown_table(scores_table(results, first_test)),
        f"Verdicts are about BLEU on {markdown(first_test)} at the 5% level, corrected for the "
        "number of variants (Holm). They account for the variance over seeds (paired t-test; for "
        "each variant at least the typical variance) and over sentences (paired bootstrap). An "
        "interval is for its variant alone; that of a far noisier one holds 9 times in 10, not 19 "
        f"in 20. ± is the standard deviation over {len(experiment.seeds)} seeds. The "
        "minimum detectable difference, which 4 of 5 such experiments would show, is "
        f"about **{median:.1f} BLEU** (median over variants; {low:.1f} to {high:.1f}): "
        f'"{NOT_SHOWN}" says nothing about smaller ones.',
        markdown_table(changes_table(results)),
        "![BLEU and training speed](speed.png)",
        "![Validation BLEU during training](curves.png)",
    ]
    for test in results.tests[1:]:
        blocks += [f"## {markdown(test)}", markdown_table(scores_table(results, test))]
    for test in results.tests:
        if len(table := tags_table(results, test)) > 1:
            blocks += [f"## Exact match by tag on {markdown(test)}", markdown_table(table)]
    warnings = [f"- {warning}" for warning in comparability_warnings(results)]
    blocks += [
        "## Comparability",
        "Checked: the same settings but for the model; the same steps, batches in the same order, "
        "subwords, device, threads, precision and test sentences; parameters within "
        f"{experiment.parameter_tolerance:g}%.",
        "\n".join(warnings or ["All of it holds."]),
    ]
    write_text(folder / "report.md", "\n\n".join(blocks) + "\n")
    return folder / "report.md"


def plot(results: Results, folder: Path) -> None:
    """Draw BLEU by training speed, and validation BLEU by step; both over the seeds.

    Bars are the standard deviation, and the slowest to the fastest round; bands are the lowest to
    the highest seed around their mean.
    """
    size, test = (8, 5), results.tests[0]
    with (
        figure(folder / "speed.png", figsize=size) as speed,
        figure(folder / "curves.png", figsize=size) as curves,
    ):
        by_speed, by_step = speed.add_subplot(), curves.add_subplot()
        for variant in results.variants:
            if variant.diverged:
                continue
            bleu, rounds = variant.values(test, "bleu"), results.speeds[variant.name]["training"]
            x = np.median(rounds)
            ranges = {"xerr": [[x - min(rounds)], [max(rounds) - x]], "yerr": bleu.std(ddof=1)}
            by_speed.errorbar(x, bleu.mean(), **ranges, label=variant.name, capsize=3, linestyle="")
            logs = [read_json_lines(run.folder.metrics_file, _Validation) for run in variant.runs]
            shared = list(zip(*logs, strict=False))  # the validations that all runs have
            steps = [lines[0]["step"] for lines in shared]
            bleu = np.array([[line["valid_bleu"] for line in lines] for lines in shared])
            bleu = bleu.reshape(-1, len(logs))  # even if there are none
            (line,) = by_step.plot(steps, bleu.mean(1), label=variant.name, markersize=4)
            color = line.get_color()
            by_step.fill_between(steps, bleu.min(1), bleu.max(1), color=color, alpha=0.12)
        by_speed.set(xlabel="training speed (baseline = 1)", ylabel=f"BLEU on {test}")
        by_step.set(xlabel="training step", ylabel="BLEU on the validation set")
        for axes in (by_speed, by_step):
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
