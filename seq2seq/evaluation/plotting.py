"""How figures look, and how they are saved. matplotlib is loaded only when one is drawn."""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from seq2seq.utils import warn, write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# One after the other, for people who cannot tell red from green (Okabe and Ito 2008).
COLORS = ["#000000", "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#8C8C00"]
DASHES = ["-", "--", ":"]
MARKERS = list("osD^vPX*<>h" * 3)[: len(COLORS) * len(DASHES)]

STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "text.parse_math": False,  # a $ in a name is a $
    "figure.dpi": 110,
    "svg.hashsalt": "seq2seq",  # the same names in every file
    "pdf.fonttype": 42,  # letters as journals ask for them
}


@contextmanager
def figure(
    path: Path, bbox: Literal["tight"] | None = "tight", **options: Any
) -> Iterator["Figure"]:
    """A figure to draw on, saved as ``path`` at the end; global settings stay untouched.

    The ending says as what; the same bytes every time. Without ``bbox``, exactly of its size.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.rcsetup import cycler

    curves = cycler(linestyle=DASHES) * cycler(color=COLORS) + cycler(marker=MARKERS)
    style = STYLE | {"axes.prop_cycle": curves}
    with matplotlib.rc_context(style), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        drawing = Figure(**options)
        yield drawing
        picture, kind = io.BytesIO(), path.suffix.removeprefix(".")
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
        drawing.savefig(picture, format=kind, bbox_inches=bbox, facecolor="white", metadata=undated)
    if any("missing from font" in str(warning.message) for warning in caught):
        warn(f"{path}: boxes stand for characters that the installed fonts lack")
    write_bytes(path, picture.getvalue())


def plot_curves(lines: list[dict[str, float]], path: Path) -> None:
    """Losses, BLEU, chrF and learning rate by step, from the lines of ``metrics.jsonl``."""
    panels = {
        "loss per token, nats": ("loss", "valid_loss"),  # the first with smoothing and dropout
        "on the validation set": ("valid_bleu", "valid_chrf"),
        "learning rate": ("learning_rate",),
    }
    with figure(path, figsize=(7, 7.5), layout="constrained") as drawing:
        rows = drawing.subplots(3, 1, sharex=True, height_ratios=[3, 3, 1.6])
        for axes, (label, keys) in zip(rows, panels.items(), strict=True):
            axes.set_ylabel(label)
            for key in keys:
                found = [line for line in lines if key in line]
                x, y = [line["step"] for line in found], [line[key] for line in found]
                axes.plot(x, y, label=key, markersize=4)
        rows[0].legend(["training (labels smoothed, dropout on)", "validation"], frameon=False)
        rows[1].legend(["BLEU", "chrF"], frameon=False)
        rows[2].set_xlabel("training step")
