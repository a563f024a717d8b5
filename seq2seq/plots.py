"""Pictures, all but the page. No colour stands alone: markers and dashes differ too."""

import io
import sys
import warnings
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from seq2seq.files import write_bytes
from seq2seq.page import Table
from seq2seq.significance import Array

matplotlib.rcParams.update(
    {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "text.parse_math": False,  # a $ in a name is a $
    }
)
# Told apart by people who cannot tell red from green (Okabe and Ito 2008).
COLORS = ["#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C00"]
DASHES: list[Any] = ["-", "--", ":"]
MARKERS = "osD^vPX*<>h"  # with eight colours, 88 pairs


def _style(number: int) -> dict[str, Any]:
    return {
        "color": COLORS[number % len(COLORS)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        figure.savefig(picture, format="png", dpi=110, bbox_inches="tight", facecolor="white")
    if any("missing from font" in str(warning.message) for warning in caught):
        line = f"{path}: boxes stand for characters that the fonts at hand do not have"
        print(f"seq2seq: {line}", file=sys.stderr)
    write_bytes(path, picture.getvalue())


def plot_speed(found: dict[str, tuple[Array, Array]], test: str, path: Path) -> None:
    """BLEU against training speed: a standard deviation over seeds, slowest to fastest round.

    Args:
        found: by variant, the baseline first: its speeds, as multiples of the baseline's in each
            round, and its BLEU by seed.
        test: name of the test set.
        path: of the picture.
    """
    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot()
    axes.axvline(1, color="0.7", linewidth=1, zorder=0)
    for number, (name, (speeds, bleu)) in enumerate(found.items()):
        if number == 0:
            axes.axhline(bleu.mean(), color="0.7", linewidth=1, zorder=0)
        x, y, style = float(np.median(speeds)), bleu.mean(), _style(number)
        axes.plot(x, y, linestyle="", markersize=7, label=name, **style)
        x_error = [[x - speeds.min()], [speeds.max() - x]]
        bars = {"fmt": "none", "ecolor": style["color"], "elinewidth": 1, "capsize": 3}
        axes.errorbar(x, y, xerr=x_error, yerr=bleu.std(ddof=1), **bars)
    axes.set_xlabel("training speed (baseline = 1)")
    axes.set_ylabel(f"BLEU on {test}")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


def plot_curves(found: dict[str, tuple[list[int], Array]], path: Path) -> None:
    """Validation BLEU by step: the mean over seeds, in a band from the lowest to the highest.

    Args:
        found: by variant, steps and BLEU (seeds, steps).
        path: of the picture.
    """
    figure = Figure(figsize=(8, 5))
    axes = figure.add_subplot()
    for number, (name, (steps, bleu)) in enumerate(found.items()):
        style = _style(number) | {"linestyle": DASHES[number // len(COLORS) % len(DASHES)]}
        axes.plot(steps, bleu.mean(axis=0), label=name, markersize=4, linewidth=1.5, **style)
        axes.fill_between(
            steps, bleu.min(axis=0), bleu.max(axis=0), color=style["color"], alpha=0.12, linewidth=0
        )
    axes.set_xlabel("training step")
    axes.set_ylabel("BLEU on the validation set")
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
    _save(figure, path)


def plot_attention(tables: list[Table], path: Path) -> None:
    """Who asks (down) and who answers (across), the darker the more; tables side by side."""
    widths = [1.8 + 0.36 * len(table.across) for table in tables]
    height = 1.8 + 0.3 * max(len(table.down) for table in tables)
    figure = Figure(figsize=(sum(widths), height), layout="constrained")
    grid = figure.subplots(1, len(tables), squeeze=False, width_ratios=widths)
    for axes, table in zip(grid[0], tables, strict=True):
        shades = axes.imshow(table.values, cmap="Blues", vmin=0, vmax=1)
        across = range(len(table.across))
        axes.set_xticks(across, table.across, rotation=60, ha="right", rotation_mode="anchor")
        axes.set_yticks(range(len(table.down)), table.down)
        axes.grid(visible=False)
        axes.tick_params(length=0)
        axes.set_title(table.title, fontsize=10)
    figure.colorbar(shades, ax=grid[0], shrink=0.6, label="weight")
    _save(figure, path)


def plot_training(lines: list[dict[str, Any]], path: Path) -> None:
    """How a training went: losses, BLEU and learning rate by step.

    Args:
        lines: those of ``metrics.jsonl``.
        path: of the picture.
    """
    figure = Figure(figsize=(7, 7.5), layout="constrained")
    losses, bleu, rate = figure.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
    curves = (
        (losses, "loss", "training (labels smoothed, dropout on; R-Drop, if any, from half on)"),
        (losses, "valid_loss", "validation"),
        (bleu, "valid_bleu", "validation"),
        (rate, "learning_rate", ""),
    )
    for number, (axes, key, label) in enumerate(curves):
        pairs = [(line.get("step"), line.get(key)) for line in lines]
        points = [pair for pair in pairs if all(isinstance(x, int | float) for x in pair)]
        style = {"markersize": 4, "linewidth": 1.5} | _style(number)
        axes.plot([x for x, _ in points], [y for _, y in points], label=label, **style)
    losses.set_ylabel("loss a token, nats")
    losses.legend(frameon=False)
    bleu.set_ylabel("BLEU on the validation set")
    rate.set_ylabel("learning rate")
    rate.set_xlabel("training step")
    _save(figure, path)


def plot_heat_map(table: list[list[str]], path: Path) -> None:
    """Exact match by phenomenon (down) and variant (across), with its numbers.

    Args:
        table: the first row and the first column are names, the rest per cent.
        path: of the picture.
    """
    names, tags = table[0][1:], [row[0] for row in table[1:]]
    values = np.array([[float(cell) for cell in row[1:]] for row in table[1:]])
    figure = Figure(figsize=(2.2 + 0.72 * len(names), 1.4 + 0.34 * len(tags)))
    axes = figure.add_subplot()
    axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    axes.set_xticks(range(len(names)), names, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(tags)), tags)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(values):
        color = "white" if value < 60 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_title("exact match, per cent", fontsize=10)
    _save(figure, path)
