"""The report of an experiment, in words: what was found, how sure it is, and was it fair?"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seq2seq.config import flatten, load_config, toml_value
from seq2seq.files import file_name, write_lines
from seq2seq.findings import Findings, Variant, unfair
from seq2seq.plots import plot_curves, plot_heat_map, plot_speed
from seq2seq.settings import SHARED
from seq2seq.significance import NOT_SHOWN, Array, Comparison


def spread(values: Array) -> str:
    """Mean ± standard deviation over seeds."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if len(values) else "-"
    return f"{values.mean():.2f} ± {values.std(ddof=1):.2f}"


def markdown_table(rows: list[list[str]]) -> Iterator[str]:
    """Lines of a table whose first row is the head."""
    for number, row in enumerate(rows):
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        if number == 0:
            yield "| " + " | ".join(["---"] * len(row)) + " |"


def changes_table(findings: Findings) -> list[list[str]]:
    """What each variant changes in the baseline's configuration; of sections alike, one name."""
    settings = findings.baseline.settings
    rows = [["variant", "settings that are not the baseline's"]]
    for variant in findings.variants[1:]:
        changed = {k: value for k, value in variant.settings.items() if value != settings[k]}
        for section, sections in reversed(SHARED.items()):
            for key in [key for key in changed if key.startswith(sections[0] + ".")]:
                keys = [key.replace(sections[0], each) for each in sections]
                if len({changed.get(each) for each in keys}) == 1:
                    changed[key.replace(sections[0], section)] = changed[key]
                    changed = {k: value for k, value in changed.items() if k not in keys}
        texts = [f"`{key} = {toml_value(value)}`" for key, value in changed.items()]
        rows.append([variant.name, ", ".join(texts) or "none"])
    return rows


def difference(found: Comparison | None) -> str:
    """In BLEU, with its interval."""
    return f"{found.difference:+.2f} [{found.low:+.2f}, {found.high:+.2f}]" if found else ""


def verdict(findings: Findings, variant: Variant) -> str:
    """What has been shown of a variant, on the first test set."""
    found = findings.comparisons[findings.tests[0]].get(variant.name)
    if variant is findings.baseline:
        return "the baseline"
    if found is None:
        n_seeds = len(findings.experiment.seeds)
        return f"**diverged** ({len(variant.diverged)} of {n_seeds} seeds)"
    p = "p < 0.001" if found.adjusted_p < 0.001 else f"p = {found.adjusted_p:.3f}"
    word = found.verdict if found.verdict == NOT_SHOWN else f"**{found.verdict}**"
    return f"{word} ({p})"


def main_table(findings: Findings) -> list[list[str]]:
    """One row a variant: score on the first test set, verdict, cost."""
    test = findings.tests[0]
    head = ["variant", f"BLEU on {test}", "difference [95%]", "verdict", "parameters"]
    rows = [[*head, "training speed", "decoding speed", "AER"]]
    for variant in findings.variants:
        speeds = ["-", "-"]
        if variant.is_whole:
            ratios = (findings.relative_speeds(variant, what) for what in ("training", "decoding"))
            speeds = [f"{np.median(each):.2f}" for each in ratios]
        rows.append(
            [
                variant.name,
                spread(variant.values(test, "bleu")),
                difference(findings.comparisons[test].get(variant.name)),
                verdict(findings, variant),
                f"{variant.parameters:,} ({findings.more_parameters(variant):+.1f}%)",
                *speeds,
                spread(variant.error_rates(test)),
            ]
        )
    return rows


def scores_table(findings: Findings, test: str) -> list[list[str]]:
    """One row a variant: every score on one test set."""
    rows = [["variant", "BLEU", "difference [95%]", "chrF", "exact match", "AER"]]
    rows += [
        [
            variant.label,
            spread(variant.values(test, "bleu")),
            difference(findings.comparisons[test].get(variant.name)),
            spread(variant.values(test, "chrf")),
            spread(variant.values(test, "exact_match")),
            spread(variant.error_rates(test)),
        ]
        for variant in findings.variants
    ]
    return rows


def phenomena_table(findings: Findings, test: str) -> list[list[str]]:
    """One row a phenomenon, one column a variant: exact match."""
    found = {each.label: each.phenomena(test) for each in findings.variants if each.runs}
    tags = list(found[findings.baseline.label])
    return [
        ["exact match (pairs)", *found],
        *([tag, *(f"{by_tag[tag]:.1f}" for by_tag in found.values())] for tag in tags),
    ]


def introduction(findings: Findings) -> str:
    """What was run: the command, the settings that are not the base's, seeds and steps."""
    experiment, settings = findings.experiment, findings.baseline.settings
    base = flatten(load_config(experiment.path.parent / experiment.base))
    changed = [
        f"`{key} = {toml_value(value)}`" for key, value in settings.items() if value != base[key]
    ]
    trainings = findings.baseline.trainings
    steps = sorted({f"{training['steps']:,}" for training in trainings})
    device = f"{trainings[0]['threads']} threads of a CPU"
    return (
        f"`seq2seq compare {experiment.path}`: base `{experiment.base}`"
        + (f" with {', '.join(changed)}" if changed else "")
        + f"; seeds {', '.join(map(str, experiment.seeds))}; {' or '.join(steps)} steps each, on "
        + (device if trainings[0]["device"] == "cpu" else "a GPU")
        + ". Of each run the weights are scored that were best on the validation set. Speeds are "
        + f"multiples of the baseline's, `{findings.baseline.name}`: medians of rounds in which "
        + f"the variants took turns; rounds differed by {wobble(findings):.0f}% (median)."
    )


def wobble(findings: Findings) -> float:
    """By how many per cent the rounds' relative speeds lie apart, at the median."""
    ratios = [
        findings.relative_speeds(variant, what)
        for variant in findings.whole[1:]
        for what in ("training", "decoding")
    ]
    return float(np.median([100 * (each.max() / each.min() - 1) for each in ratios] or [0.0]))


def how_sure(findings: Findings) -> str:
    """What the verdicts rest on, and what they could not have seen."""
    found = findings.comparisons[findings.tests[0]].values()
    n_seeds = len(findings.experiment.seeds)
    text = (
        f"Verdicts are about BLEU on `{findings.tests[0]}`, at the 5% level; p is corrected for "
        "the number of variants (Holm). They count two kinds of luck: another seed (paired t-test; "
        "each variant's own variance, but no less than is usual among them) and other sentences "
        "(paired bootstrap, 1,000 resamples, over all seeds at once). The intervals hold for each "
        "variant alone; of one far noisier than the rest, 9 times in 10 rather than 19 in 20. "
        f"± is the standard deviation over {n_seeds} seeds."
    )
    if found:
        low, middle, high = np.quantile([each.smallest for each in found], [0, 0.5, 1])
        text += (
            " As far as these runs can tell, the smallest true difference that such an experiment "
            f"shows 4 times out of 5 is about **{middle:.1f} BLEU** (the median over variants: "
            f'{low:.1f} to {high:.1f}); about smaller ones "{NOT_SHOWN}" says nothing.'
        )
    return text


def fairness(findings: Findings) -> Iterator[str]:
    """What was checked, and where it did not hold."""
    experiment = findings.experiment
    matched = " (by a wider or narrower `d_ff`)" if experiment.match_parameters else ""
    yield (
        "Checked: the same settings but for the model; the same number of steps; for each seed "
        "the same batches in the same order; the same subwords; the same device and threads; the "
        f"same test sentences; parameters within {experiment.within:g}%{matched}."
    )
    yield ""
    most = max(abs(findings.more_parameters(variant)) for variant in findings.variants)
    kept = f"All of it holds; parameters differ by at most {most:.1f}%."
    yield from [f"- {problem}" for problem in unfair(findings)] or [kept]


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
    """Write ``report.md`` with its pictures; returns its path."""
    test, whole = findings.tests[0], findings.whole
    speeds = {
        v.name: (findings.relative_speeds(v, "training"), v.values(test, "bleu")) for v in whole
    }
    plot_speed(speeds, test, folder / "speed.png")
    plot_curves({variant.name: variant.curve() for variant in whole}, folder / "curves.png")
    lines = [f"# {findings.experiment.title}", "", introduction(findings), ""]
    lines += [*markdown_table(main_table(findings)), "", how_sure(findings), ""]
    lines += [*markdown_table(changes_table(findings)), ""]
    lines += ["![BLEU against training speed](speed.png)", ""]
    lines += ["![Validation BLEU while training](curves.png)", ""]
    for name in findings.tests:
        lines += [f"## {name}", "", *markdown_table(scores_table(findings, name)), ""]
        lines += phenomena(findings, name, folder)
    lines += ["## Fairness", "", *fairness(findings)]
    write_lines(folder / "report.md", lines)
    return folder / "report.md"


def summary(findings: Findings) -> Iterator[str]:
    """The main table for a terminal."""
    rows = [row[:4] for row in main_table(findings)]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        cells = zip(row, widths, strict=True)
        yield "  ".join(cell.replace("**", "").ljust(width) for cell, width in cells).rstrip()
    for problem in unfair(findings):
        yield f"not alike: {problem}"
