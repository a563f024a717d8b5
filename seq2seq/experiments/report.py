"""The report of an experiment, made from its ``results.csv``: Markdown, figures, one HTML file.

``report.md`` and ``report.html`` in this folder are its templates.
"""

import base64
import html
from functools import partial
from pathlib import Path

import numpy as np
from markdown_it import MarkdownIt
from tabulate import tabulate

from seq2seq.config import flatten_toml, toml_value
from seq2seq.experiments import figures, verdicts
from seq2seq.experiments.results import Results
from seq2seq.experiments.statistics import NOT_SHOWN, Array
from seq2seq.experiments.verdicts import Group, compare_all, interval
from seq2seq.utils import markdown, printable, write_text

TEMPLATE, PAGE = (Path(__file__).with_name(f"report.{kind}") for kind in ("md", "html"))
RATE = "train.learning_rate"
NOISE = """\
Runs of a typical variant have a standard deviation of {sd:.2f} BLEU. {small_test:.0%} of this
variance comes from having few test sentences, as each run errs on others; the rest is between
models. Beyond that, the choice of test sentences adds {common:.2f} BLEU to the standard deviation
of a difference, whatever the seeds. What more seeds would show is computed by
`python benchmarks/power.py --sd {sd:.2f} --sentences {common:.2f}`."""

Table = list[dict[str, str]]  # rows of Markdown by the head of their column
as_markdown = partial(tabulate, headers="keys", tablefmt="github", disable_numparse=True)


def write_report(results: Results, folder: Path) -> Path:
    """Write ``report.md``, its figures, and ``report.html``, which needs no other file."""
    experiment, test = results.experiment, results.tests[0]
    run, groups = results.runs(experiment.baseline)[0], compare_all(results, test)
    images, title = draw(groups, folder), printable(experiment.title)
    text = TEMPLATE.read_text(encoding="utf-8").format(
        experiment=experiment,
        run=run,
        title=markdown(title),
        test=markdown(test),
        sentences=run.numbers[f"{test}/sentences"],
        runs=sum(len(group.rows) for group in groups),
        base=code(experiment.base),
        conclusions="\n".join(f"- {line}" for line in conclusions(groups)),
        table=as_markdown(verdict_table(groups)),
        matched=experiment.match or "nothing",
        warnings="\n".join(f"- {markdown(x)}" for x in verdicts.warnings(groups)) or "All are.",
        noise=noise(groups),
        figures="\n\n".join(f"![{x}]({name})\n\n{x}." for name, x in images.items()),
        other_scores=as_markdown(other_scores(groups)),
        settings=as_markdown(settings_table(groups)),
    )
    write_text(folder / "report.md", text)
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    for name in images:
        data = base64.b64encode((folder / name).read_bytes()).decode()
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{data}"')
    page = PAGE.read_text(encoding="utf-8").format(title=html.escape(title), body=body)
    write_text(folder / "report.html", page)
    return folder / "report.md"


def summary(results: Results) -> str:
    """The verdicts, and what makes them doubtful, for a terminal."""
    groups = compare_all(results, results.tests[0])
    table = verdict_table(groups)
    rows = [{x: y.replace("**", "") for x, y in [*row.items()][:5]} for row in table]
    lines = [tabulate(rows, "keys", disable_numparse=True), conclusions(groups)[-1]]
    return "\n".join([x.replace("**", "") for x in lines] + [*verdicts.warnings(groups)])


def draw(groups: list[Group], folder: Path) -> dict[str, str]:
    """Draw the figures; returns a caption for each, by its name."""
    results, images = groups[0].results, {}
    if any(group.comparison for group in groups):
        figures.plot_forest(groups, folder / "forest.png")
        band = "4 of 5 such experiments would show a true difference at the end of the gray band"
        images["forest.png"] = f"Differences with corrected 95% intervals; {band}"
    figures.plot_speed(groups, folder / "speed.png")
    images["speed.png"] = "BLEU and training speed: mean and SD over runs"
    figures.plot_curves(groups, folder / "curves.png")
    images["curves.png"] = "BLEU on the validation set: mean and range over runs"
    for number, test in enumerate(results.tests if "forest.png" in images else [], start=1):
        if figures.tags_of(results, test):
            name = f"phenomena-{number}.png"
            figures.plot_phenomena(groups, test, folder / name)
            images[name] = f"Exact match by tag on {markdown(test)}; tags are not tested"
    return images


def code(settings: str) -> str:
    """Settings as code in Markdown, even in a table: TOML may write these characters so."""
    text = printable(settings).replace("`", r"\u0060").replace("|", r"\u007c")
    return f"`{text}`" if text else ""


def mean_sd(values: Array, digits: int = 2) -> str:
    sd = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{sd}" if len(values) else "-"


def times(ratio: float) -> str:
    return "-" if np.isnan(ratio) else f"×{ratio:.2f}"


def verdict(group: Group) -> str:
    if group.n_diverged:
        return f"**diverged** ({group.n_diverged} of {len(group.rows)} runs)"
    if group.is_baseline or group.role == "again":
        return "baseline" if group.is_baseline else "noise floor"
    shown = group.comparison.verdict if group.comparison else "-"
    return f"**{shown}**" if shown in ("better", "worse") else shown


def at_rate(results: Results) -> str:
    """What limits the verdicts if the learning rate is not tuned."""
    return "" if RATE in results.experiment.tune else " at the baseline's learning rate"


def conclusions(groups: list[Group]) -> list[str]:
    """A line for each verdict, with its variants, and what differences can be seen."""
    results, lines = groups[0].results, []
    if problem := verdicts.no_verdicts(results, results.tests[0]):
        return [f"**No verdicts**: {markdown(problem)}."]
    for shown in ("better than", "worse than", f"{NOT_SHOWN} from"):
        compared = [x for x in groups if verdict(x).strip("*") in shown]
        if differences := ", ".join(f"{x.label} {interval(x.comparison)}" for x in compared):
            baseline = results.experiment.baseline + at_rate(results)
            lines.append(f"**{shown.capitalize()}** {baseline}: {differences}.")
    lines += [f"{x.label}: {verdict(x)}, so no verdict." for x in groups if x.n_diverged]
    n = min(len(group.rows) for group in groups if group.role == "run")
    quick = f" This is a quick look: {n} runs of a variant." if n < 5 else ""
    if (least := verdicts.detectable(groups)) < np.inf:
        what = f"4 of 5 such experiments would show a true difference of **{least:.1f} BLEU**"
        lines.append(f"{what}; smaller ones are often missed.{quick}")
    return lines


def verdict_table(groups: list[Group]) -> Table:
    """The variants, the best first: scores on the first test set, verdict and costs."""
    test, table = groups[0].test, []
    for group in groups:
        c = group.comparison
        row = {
            "variant": f"**{group.label}**" if group.is_baseline else group.label,
            f"BLEU on {markdown(test)} (runs)": f"{mean_sd(group.bleu)} ({len(group.bleu)})",
            "difference [95% interval]": interval(c),
            "p": "-" if c is None else "< 0.001" if c.p < 0.001 else f"{c.p:.3f}",
            f"verdict{at_rate(group.results)}": verdict(group),
            "exact match, %": mean_sd(group.values(f"{test}/exact_match"), 1),
            "log-likelihood per token": mean_sd(group.values(f"{test}/log_likelihood"), 3),
            "parameters": times(group.ratio("parameters")),
            "training FLOPs": times(group.ratio("train_flops")),
            "training time": times(group.ratio("steps") / group.ratio("train_speed")),
            "decoding speed": times(group.ratio("decode_speed")),
        }
        table.append(row)
    return table


def other_scores(groups: list[Group]) -> Table:
    """chrF and alignment on the first test set, and differences on the others."""
    results, (first, *tests) = groups[0].results, groups[0].results.tests
    others = {x: {y.label: y.comparison for y in compare_all(results, x)} for x in tests}
    table = []
    for group in groups:
        chrf, aer = (mean_sd(group.values(f"{first}/{x}")) for x in ("chrf", "aer"))
        row = {"variant": group.label, "chrF": chrf, "AER": aer}
        for x in tests:
            bleu = mean_sd(Group(results, x, group.variant).bleu)
            difference = interval(others[x][group.label])
            row[f"BLEU on {markdown(x)}"] = bleu if group.is_baseline else difference
        table.append(row)
    return table


def settings_table(groups: list[Group]) -> Table:
    """What is changed for all and for each; BLEU on the grid of tuned ones, the chosen bold."""
    experiment, rows = groups[0].results.experiment, groups[0].results.rows
    changes = [f"{x} = {toml_value(y)}" for x, y in flatten_toml(experiment.settings).items()]
    table = [{"variant": "all", "settings": code(", ".join(changes))}]
    for run in (group.rows[0] for group in groups if group.role == "run"):
        row = {"variant": run.variant, "settings": code(run.settings)}
        for x in (x for x in rows if (x.variant, x.role) == (run.variant, "tuning")):
            bleu = f"{x.numbers['valid_bleu']:.2f}" if x.status == "finished" else x.status
            head = f"validation BLEU: {code(x.tuned)}"
            row[head] = f"**{bleu}**" if x.tuned == run.tuned else bleu
        table.append(row)
    return table


def noise(groups: list[Group]) -> str:
    """How much of it comes from few seeds, and how much from few test sentences."""
    compared = [x for x in groups if x.comparison and x.role == "run"]
    if not compared:
        return "Not measured, as nothing is compared."
    several, test = [groups[0].baseline, *compared], groups[0].test
    # The median, as one may be far noisier; made unbiased (Wilson and Hilferty 1931).
    unbiased = [x.bleu.var(ddof=1) / (1 - 2 / (9 * len(x.bleu) - 9)) ** 3 for x in several]
    few = [x.mean(f"{test}/variance") - x.mean(f"{test}/cov_own") for x in several]
    between = max(1e-9, np.median(unbiased))
    small_test = np.clip(np.median(few), 0, between) / between
    common = np.median([verdicts.sentence_variance(x) for x in compared])
    return NOISE.format(sd=between**0.5, small_test=small_test, common=common**0.5)
