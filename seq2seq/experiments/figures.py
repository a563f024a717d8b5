"""The figures of an experiment's report."""

import math
from pathlib import Path

import numpy as np

from seq2seq.evaluation.plotting import COLORS, figure
from seq2seq.experiments.results import Results
from seq2seq.experiments.statistics import NOT_SHOWN, Array
from seq2seq.experiments.verdicts import Group, detectable, interval

GRAY = "#888888"
VERDICTS = {"better": COLORS[1], "worse": COLORS[4], NOT_SHOWN: COLORS[0]}


def limits(values: list[float], groups: list[Group]) -> tuple[float, float]:
    """Of an axis of differences; any so large that the others could not be told apart is cut."""
    most = 8 * detectable(groups)
    low, high = max(min(values), -most), min(max(values), most)
    return low - 0.05 * (high - low), high + 0.05 * (high - low)


def plot_forest(groups: list[Group], path: Path) -> None:
    """Differences with their intervals; the band is too small for such an experiment to show."""
    compared = [(group, group.comparison) for group in groups if group.comparison]
    low, high = limits([x for _, c in compared for x in (c.low, c.high)], groups)
    with figure(path, figsize=(6, 1 + 0.28 * len(compared))) as drawing:
        axes, band = drawing.add_subplot(), min(detectable(groups), high - low)
        axes.axvspan(-band, band, color=GRAY, alpha=0.15, lw=0)
        axes.axvline(0, color="black", lw=0.8)
        for y, (group, c) in enumerate(compared):
            color = GRAY if group.role == "again" else VERDICTS[c.verdict]
            face = "white" if c.verdict == NOT_SHOWN else color
            marker = "<" if c.difference < low else ">" if c.difference > high else "o"
            x, right = np.clip(c.difference, low, high), axes.get_yaxis_transform()
            axes.plot([c.low, c.high], [y, y], "-", color=color, marker="")
            axes.plot(x, y, marker, color=color, markerfacecolor=face, clip_on=False)
            axes.text(1.03, y, interval(c), transform=right, va="center", size=9)
        axes.set_yticks(range(len(compared)), [group.label for group, _ in compared])
        axes.set(xlim=(low, high), ylim=(len(compared) - 0.5, -0.5))
        axes.set_xlabel("difference from the baseline (BLEU)")
        axes.grid(visible=False, axis="y")


def plot_speed(groups: list[Group], path: Path) -> None:
    """BLEU by training speed: bars are the SD over runs."""
    shown = [x for x in groups if len(x.values("train_speed"))]
    differences = [x.bleu.mean() - x.baseline.bleu.mean() for x in shown]
    low, high = limits([y + side for y in differences for side in (-1, 1)], groups)
    with figure(path, figsize=(5.5, max(3.5, 0.27 * len(shown)))) as drawing:
        axes = drawing.add_subplot()
        for number, (group, y) in enumerate(zip(shown, differences, strict=True)):
            color, place = COLORS[number % len(COLORS)], (1.1, 1 - (number + 0.5) / len(shown))
            x, point = group.mean("train_speed"), np.clip(y, low, high)
            axes.errorbar(x, y, group.bleu.std(ddof=1), marker="", color=color, lw=1)
            axes.plot(x, point, "o" if y == point else "v", color=color, clip_on=False)
            line = {"arrowstyle": "-", "color": color, "lw": 0.6, "relpos": (0, 0.5)}
            text, where = f"{group.label} ({group.bleu.mean():.1f})", "axes fraction"
            axes.annotate(text, (x, point), place, "data", where, line, va="center", size=9)
        axes.set(ylim=(low, high), xlabel="training speed (baseline = 1)")
        axes.set_ylabel("difference from the baseline (BLEU)")


def plot_curves(groups: list[Group], path: Path) -> None:
    """Validation BLEU by step, mean and range over runs: a panel for each variant."""
    baseline = groups[0].baseline
    shown = [x for x in groups if x.role == "run" and len(x.bleu) and not x.is_baseline]
    columns = min(4, max(1, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    size = (2.25 * columns + 0.5, 1.6 * rows + 0.6)
    with figure(path, figsize=size, layout="constrained") as drawing:
        panels = drawing.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in panels[len(shown) :]:
            axes.set_visible(False)
        for axes, group in zip(panels, shown, strict=False):
            axes.set_title(group.label, size=8)
            for either, color in ((baseline, GRAY), (group, COLORS[1])):
                steps, bleu = validations(either)
                axes.plot(steps, bleu.mean(1), "-", color=color, marker="")
                axes.fill_between(steps, bleu.min(1), bleu.max(1), color=color, alpha=0.25, lw=0)
        drawing.supxlabel(f"training step (gray: {baseline.label})", size=10)
        drawing.supylabel("BLEU on the validation set", size=10)


def validations(group: Group) -> tuple[list[int], Array]:
    """The steps at which all runs were validated, and their BLEU, (steps, runs)."""
    runs = [run.numbers for run in group.results.runs(group.variant)]
    shared = set.intersection(*map(set, runs))
    steps = sorted(int(x.partition("@")[2]) for x in shared if x.startswith("valid_bleu@"))
    bleu = [[run[f"valid_bleu@{step}"] for run in runs] for step in steps]
    return steps, np.array(bleu).reshape(len(steps), len(runs))


def tags_of(results: Results, test: str) -> dict[str, int]:
    """The tags of a test set, and how many pairs have each."""
    numbers, prefix = results.runs(results.experiment.baseline)[0].numbers, f"{test}/tag_pairs/"
    return {x.removeprefix(prefix): int(n) for x, n in numbers.items() if x.startswith(prefix)}


def plot_phenomena(groups: list[Group], test: str, path: Path) -> None:
    """Exact match by tag, as differences from the baseline in points."""
    baseline, tags = groups[0].baseline, tags_of(groups[0].results, test)
    shown = [group for group in groups if len(group.bleu) and not group.is_baseline]
    exact = np.array([[x.mean(f"{test}/tag/{tag}") for x in [baseline, *shown]] for tag in tags])
    cells = exact[:, 1:] - exact[:, :1]
    limit = max(5.0, 3 * np.median(abs(cells)))  # less than 5 points are mostly noise
    with figure(path, figsize=(1 + 0.5 * len(shown), 0.5 + 0.25 * len(tags))) as drawing:
        axes = drawing.add_subplot()
        axes.imshow(cells, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
        for (y, x), cell in np.ndenumerate(cells):
            color = "white" if abs(cell) > 0.6 * limit else "black"
            axes.text(x, y, f"{cell:+.1f}", ha="center", va="center", size=8, color=color)
        labels = [group.label for group in shown]
        axes.set_xticks(range(len(shown)), labels, rotation=40, ha="right")
        axes.set_yticks(range(len(tags)), [f"{tag} ({n:,} pairs)" for tag, n in tags.items()])
        axes.set_title(f"{test}: exact match, points above {baseline.label}", size=10)
        axes.grid(visible=False)
