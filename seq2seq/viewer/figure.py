"""Attention as a figure for slides and papers: heat maps, queries down, keys across."""

import textwrap
from pathlib import Path
from typing import Any, NamedTuple

from seq2seq.evaluation import plotting

ENDINGS = (".svg", ".pdf", ".png")
LARGEST = 40  # inches, where no width is asked for: a poster
EM = 1 / 72  # a letter of 1 pt, in inches


class HeatMaps(NamedTuple):
    """The heat maps of one run: those of heads in columns, of layers in rows."""

    title: str
    queries: list[str]
    keys: list[str]
    weights: Any  # layer, head, query, key; a single one may be a mean


def draw(runs: list[HeatMaps], path: Path, width: float | None = None) -> None:
    """Darker for more weight; scaled, letters too, to a ``width`` in centimeters."""
    single = all(run.weights.shape[:2] == (1, 1) for run in runs)
    points, cell = (10, (0.36, 0.3)) if single else (7, (0.13, 0.13))
    letter = 0.6 * points * EM
    sizes = [size(run, letter, cell) for run in runs]
    widths, height = [w for w, _ in sizes], max(h for _, h in sizes)
    widths[-1] += 0.7  # for the bar
    title = textwrap.TextWrapper(int(min(widths) / letter), break_on_hyphens=False)
    scale = (width / 2.54 if width else min(sum(widths), LARGEST)) / sum(widths)
    figsize = scale * sum(widths), scale * height
    options = {"figsize": figsize, "dpi": 220, "layout": "constrained"}
    with plotting.figure(path, bbox=None, **options) as figure:
        parts = figure.subfigures(1, len(runs), squeeze=False, width_ratios=widths)[0]
        for part, run in zip(parts, runs, strict=True):
            part.suptitle(title.fill(run.title), fontsize=scale * points)
            grid = part.subplots(*run.weights.shape[:2], sharex=True, sharey=True, squeeze=False)
            for layer, row in enumerate(grid):
                for head, axes in enumerate(row):
                    which = "" if single else f"layer {layer + 1}, head {head + 1}"
                    axes.set_title(which, fontsize=scale * points)
                    mesh = draw_map(axes, run, run.weights[layer, head], scale * points)
        bar = part.colorbar(mesh, ax=grid, shrink=0.6)
        bar.ax.tick_params(labelsize=scale * points)
        bar.set_label("weight", size=scale * points)


def size(run: HeatMaps, letter: float, cell: tuple[float, float]) -> tuple[float, float]:
    """Inches that the maps and their labels take where a ``letter`` has this width."""
    n_rows, n_columns, n_queries, n_keys = run.weights.shape
    labels = [letter * max(map(len, words)) for words in (run.queries, run.keys)]
    wide = labels[0] + n_columns * (cell[0] * n_keys + 0.15) + 0.2
    return wide, labels[1] + n_rows * (cell[1] * n_queries + 4 * letter) + 0.5


def draw_map(axes: Any, run: HeatMaps, weights: Any, points: float) -> Any:
    """Cells are shapes: viewers blur the pixels of an enlarged image."""
    mesh = axes.pcolormesh(
        weights, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.05 * points
    )
    axes.set_xlim(0, len(run.keys))
    axes.set_ylim(len(run.queries), 0)
    middles = [[i + 0.5 for i in range(len(words))] for words in (run.keys, run.queries)]
    text = {"fontsize": points}
    axes.set_xticks(middles[0], run.keys, rotation=60, ha="right", rotation_mode="anchor", **text)
    axes.set_yticks(middles[1], run.queries, **text)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return mesh
