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
Runs of a variant have a standard deviation of {:.2f} BLEU (pooled). {:.0%} of this variance comes
from the small test set, as each run errs on other sentences; the rest is between models. Beyond
that, the choice of test sentences adds {:.2f} BLEU to the standard deviation of a difference,
whatever the seeds. 4 of 5 such experiments would show a difference of {:.2f} BLEU; with twice the
seeds, of {:.2f}; with four times as many test sentences, of {:.2f}."""

Table = list[dict[str, str]]  # rows of Markdown by the head of their column
as_markdown = partial(tabulate, headers="keys", tablefmt="github", disable_numparse=True)


def write_report(results: Results, folder: Path) -> Path:
    """Write ``report.md``, its figures, and ``report.html``, which needs no other file."""
    experiment, test = results.experiment, results.tests[0]
    run, groups = results.runs(experiment.baseline)[0], compare_all(results, test)
    images, title = draw(groups, folder), printable(experiment.title)
    changes = [f"{x} = {toml_value(y)}" for x, y in flatten_toml(experiment.settings).items()]
    text = TEMPLATE.read_text(encoding="utf-8").format(
        experiment=experiment,
        run=run,
        title=markdown(title),
        test=markdown(test),
        sentences=run.numbers[f"{test}/sentences"],
        runs=sum(len(group.rows) for group in groups),
        base=code(experiment.base),
        changes=code(", ".join(changes)) or "no changes",
        conclusions="\n".join(f"- {line}" for line in conclusions(groups)),
        table=as_markdown(verdict_table(groups)),
        matched=experiment.match or "nothing",
        warnings="\n".join(f"- {markdown(x)}" for x in verdicts.warnings(groups)) or "All holds.",
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
    results = groups[0].results
    figures.plot_speed(groups, folder / "speed.png")
    figures.plot_curves(groups, folder / "curves.png")
    images = {
        "speed.png": "BLEU and training speed: SD over runs, slowest to fastest round",
        "curves.png": "BLEU on the validation set: mean and range over runs",
    }
    if any(group.comparison for group in groups):
        figures.plot_forest(groups, folder / "forest.png")
        band = "in the gray band, such an experiment rarely shows a difference"
        images = {"forest.png": f"Differences with corrected 95% intervals; {band}"} | images
        for number, test in enumerate(results.tests, start=1):
            if figures.tags_of(results, test):
                name = f"phenomena-{number}.png"
                figures.plot_phenomena(compare_all(results, test), folder / name)
                images[name] = f"Exact match by tag on {markdown(test)}; A/A shows what noise does"
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


def conclusions(groups: list[Group]) -> list[str]:
    """One line for each variant that differs or diverged, and one for the rest, or for all."""
    results = groups[0].results
    if problem := verdicts.no_verdicts(results, results.tests[0]):
        return [f"**No verdicts**: {markdown(problem)}."]
    tuned = RATE in results.experiment.tune
    rate, lines = "" if tuned else " at the baseline's learning rate", []
    than = f"than {results.experiment.baseline}{rate}"
    for group in groups:
        if group.n_diverged:
            lines.append(f"{group.label} has no verdict: {verdict(group)}.")
        elif "**" in verdict(group):
            difference = f"{interval(group.comparison)} BLEU"
            lines.append(f"{group.label} is {verdict(group)} {than}: {difference}.")
    if rest := [group.label for group in groups if verdict(group) == NOT_SHOWN]:
        lines.append(f"No difference is shown{rate} for {', '.join(rest)}.")
    n = min(len(group.rows) for group in groups if group.role == "run")
    quick = f": with {n} runs of a variant, a quick look cannot see less" if n < 5 else ""
    if (least := verdicts.detectable(groups)) < np.inf:
        what = f"a difference of **{least:.1f} BLEU**{quick}"
        lines.append(f"4 of 5 such experiments would show {what}.")
    return lines


def verdict_table(groups: list[Group]) -> Table:
    """The variants, the best first: scores on the first test set, verdict and costs."""
    test, tune = groups[0].test, groups[0].results.experiment.tune
    rate = "" if RATE in tune else f" at the baseline's {RATE}"
    table = []
    for group in groups:
        c = group.comparison
        row = {
            "variant": f"**{group.label}**" if group.is_baseline else group.label,
            f"BLEU on {markdown(test)} (runs)": f"{mean_sd(group.bleu)} ({len(group.bleu)})",
            "difference [95%]": interval(c),
            "p": "-" if c is None else "< 0.001" if c.p < 0.001 else f"{c.p:.3f}",
            f"verdict{rate}": verdict(group),
            "exact match": mean_sd(group.values(f"{test}/exact_match"), 1),
            "log-likelihood per token": mean_sd(group.values(f"{test}/log_likelihood"), 3),
            "parameters": times(group.ratio("parameters")),
            "training FLOPs": times(group.ratio("train_flops")),
            "training time": times(group.ratio("steps") / group.ratio("train_speed")),
            "decoding speed": times(group.ratio("decode_speed")),
        }
        if tune:
            row[f"tuned {code(', '.join(tune))}"] = code(group.rows[0].tuned.partition(" = ")[2])
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
        row |= {f"BLEU on {markdown(x)}": interval(others[x][group.label]) for x in tests}
        table.append(row)
    return table


def settings_table(groups: list[Group]) -> Table:
    """The settings of each variant; validation BLEU on the grid of tuned ones, the chosen bold."""
    tuning = [row for row in groups[0].results.rows if row.role == "tuning"]
    table = []
    for run in (group.rows[0] for group in groups if group.role == "run"):
        row = {"variant": run.variant, "settings": code(run.settings)}
        for x in (x for x in tuning if x.variant == run.variant):
            bleu = f"{x.numbers['valid_bleu']:.2f}" if x.status == "finished" else x.status
            row[code(x.tuned)] = f"**{bleu}**" if x.tuned == run.tuned else bleu
        table.append(row)
    return table


def noise(groups: list[Group]) -> str:
    """Where it comes from, and what more test sentences or seeds would bring."""
    test, compared = groups[0].test, [x for x in groups if x.comparison and x.role == "run"]
    if not compared:
        return "Not measured, as nothing is compared."
    several = [x for x in groups if x.is_baseline or x.comparison]
    weights = [len(x.bleu) - 1 for x in several]
    few = [x.mean(f"{test}/variance") - x.mean(f"{test}/cov_own") for x in several]
    between = max(1e-9, np.average([x.bleu.var(ddof=1) for x in several], weights=weights))
    small_test = np.clip(np.average(few, weights=weights), 0, between)
    common = np.median([verdicts.sentence_variance(x) for x in compared])
    sizes = [[len(x.bleu) for x in several if x.is_baseline == side] for side in (True, False)]
    per_run, least = sum(1 / np.median(size) for size in sizes), verdicts.detectable(groups)
    seeds = between * per_run / 2 + common
    sentences = (between - 0.75 * small_test) * per_run + common / 4
    more = least * np.sqrt(np.array([seeds, sentences]) / (between * per_run + common))
    return NOISE.format(between**0.5, small_test / between, common**0.5, least, *more)
