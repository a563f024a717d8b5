"""Attention to look at: one self-contained web page, a plain figure, or the arrays as JSON.

``page.html`` holds the layout and the program, and gets the traces as data. The page requests
nothing from a network, and no text of the user's is ever markup.
"""

import base64
import html
import json
import re
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seq2seq.attention import MODIFIERS, NORMALIZERS, POSITIONS, SCORES, TYPES, AttentionModifier
from seq2seq.config import AttentionConfig
from seq2seq.data.tokenizer import SPACE
from seq2seq.evaluation.alignment import OFFSETS, Head
from seq2seq.utils import UserError, printable, write_text
from seq2seq.viewer.figure import ENDINGS, HeatMaps, draw
from seq2seq.viewer.trace import AttentionRecord, Sentence, TranslationTrace

TEMPLATE = Path(__file__).with_name("page.html")
VIEWS = {"cross": "cross-attention"} | {x: f"{x} self-attention" for x in ("encoder", "decoder")}
FORMULAS = {  # by type: score and weights, where they are no parts of their own
    "linear": ("s = φ(q) · φ(k)", "w = s / Σ s"),
    "average": ("s = 0", "w = 1 / n for n visible keys"),
    "hard_coded": ("s = -(j - i - c)² / 2", "w = exp(s) / √(2π)"),
    "ssru": ("s = log w", "wⱼ = (1 - fⱼ) fⱼ₊₁ ⋯ fᵢ, the mean over all dimensions"),
}
SUMS = {"one": "sum to one", "at most one": "sum to less than one", "any": "need not sum to one"}


class ViewState(NamedTuple):
    """Which attention is shown first. Layers and heads count from 1; 0 is their mean."""

    view: str  # one of ``VIEWS``
    layer: int
    head: int
    offset: str  # the step whose query a target token has: one of ``OFFSETS``


@dataclass(frozen=True, repr=False)
class RunView:
    """What one run did with the sentence; a notebook shows it as the page."""

    name: str
    trace: TranslationTrace
    best_head: Head | None = None  # the one that aligns words best, where an evaluation found it
    label_smoothing: float = 0.0  # that it was trained with: why no probability comes near 1

    def __repr__(self) -> str:
        records = [(view, record) for view in VIEWS if (record := getattr(self.trace, view))]
        shapes = ", ".join(f"{view} {record.weights.values.shape}" for view, record in records)
        texts = f"{self.name}: {self.trace.src.text!r} -> {self.trace.tgt.text!r}"
        return printable(f"<Attention of {texts}; layers, heads, queries, keys: {shapes}>")

    def _repr_html_(self) -> str:
        """The page in a frame of its own, which reaches nothing of the notebook around it."""
        style = "width: 100%; height: 44rem; border: 0; resize: vertical"
        source = html.escape(page(select_views([self])))
        return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{source}"></iframe>'

    def write(self, path: Path | str, width: float | None = None, all_heads: bool = False) -> None:
        """Write the page, the arrays or a figure: see ``write_attention``."""
        write_attention(select_views([self]), Path(path), width, all_heads)


def select_views(
    runs: list[RunView], view: str | None = None, layer: int | None = None, head: int | None = None
) -> list[tuple[RunView, ViewState]]:
    """What to show first of each run; a ``UserError`` if there is no such view, layer or head.

    By default the best aligning head of the cross-attention, else the mean of the last layer's.
    """
    views = [name for name in VIEWS if any(getattr(run.trace, name) for run in runs)]
    view = view or (views or ["attention"])[0]
    if view not in views:
        names = " and ".join(run.name for run in runs)
        raise UserError(f"there is no {VIEWS.get(view, view)} in {names}")
    selected = []
    for run in runs:
        best, record = run.best_head, getattr(run.trace, view)
        n_layers, n_heads = record.weights.values.shape[:2] if record else (0, 0)
        for what, number, n in (("layer", layer, n_layers), ("head", head, n_heads)):
            if record and number is not None and not 0 <= number <= n:
                problem = f"{run.name} has no {what} {number} in its {VIEWS[view]}"
                raise UserError(f"{problem}: choose 1 to {n}, or 0 for the mean")
        shown = (n_layers if layer is None else layer), head or 0
        if best and view == "cross" and layer is None and head is None:
            shown = best.layer, best.head
        selected.append((run, ViewState(view, *shown, best.offset if best else "predict")))
    return selected


def write_attention(
    runs: list[tuple[RunView, ViewState]],
    path: Path,
    width: float | None = None,
    all_heads: bool = False,
) -> None:
    """Write one run, or several side by side, as what the ending of the name says.

    A page (.html), arrays (.json) or a figure, of a ``width`` in centimeters, or of all heads.
    """
    if path.suffix in ENDINGS:
        if width is not None and not 1 <= width <= 100:
            raise UserError(f"a width of {width:g} cm: from 1 to 100 are possible")
        draw([heat_maps(run, state, all_heads) for run, state in runs], path, width)
        return
    figures = ", ".join(ENDINGS[:-1]) + f" or {ENDINGS[-1]}"
    if path.suffix not in (".html", ".json"):
        raise UserError(f"{path}: the file's name must end in .html, .json, {figures}")
    if width is not None or all_heads:
        raise UserError(f"{path}: width and all heads are for figures, which end in {figures}")
    if path.suffix == ".html":
        write_text(path, page(runs))
    else:
        arrays = [{"name": run.name} | run.trace.to_json() for run, _ in runs]
        content = arrays if len(arrays) > 1 else arrays[0]
        write_text(path, json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")


class TokenGroup(NamedTuple):
    """A word or a subword, and the queries and keys that belong to it."""

    label: str
    queries: list[int]
    keys: list[int]


def group_tokens(sentence: Sentence, whole_words: bool, offset: str | None) -> list[TokenGroup]:
    """The words or subwords of one side; BOS and EOS are groups of their own.

    Of a target, ``offset`` says which step's query a token has: that of the step that is to
    ``predict`` it (BOS: none), or of the one with it as ``input`` (EOS: none).
    """
    n = len(sentence.tokens) - (offset is not None)
    shift = int(offset == "predict")
    word = [w if w >= 0 and whole_words else -1 - i for i, w in enumerate(sentence.words)]
    groups = []
    for _, indices in groupby(range(len(word)), key=word.__getitem__):
        tokens = list(indices)
        pieces = [sentence.tokens[i] for i in tokens]
        label = (join_pieces(pieces) or SPACE) if whole_words else pieces[0]
        queries = [i - shift for i in tokens if 0 <= i - shift < n]
        groups.append(TokenGroup(label, queries, [i for i in tokens if i < n]))
    return groups


def join_pieces(pieces: list[str]) -> str:
    """Subwords as text; bytes that spell a character become that character."""
    raw = b""
    for piece in pieces:
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        raw += bytes.fromhex(byte.group(1)) if byte else piece.replace(SPACE, "").encode()
    return raw.decode("utf-8", "replace")


def heat_maps(run: RunView, state: ViewState, all_heads: bool) -> HeatMaps:
    """The weights between words: of all layers and heads, or of the chosen one or mean."""
    view, layer, head, offset = state
    record = getattr(run.trace, view)
    if record is None:
        raise UserError(f"{run.name} has no {VIEWS[view]}")
    weights, title = record.weights.values, [f"{run.name}: {VIEWS[view]}"]
    if not all_heads:
        weights = weights[layer - 1 : layer] if layer else weights
        weights = weights[:, head - 1 : head] if head else weights
        weights = weights.mean(axis=(0, 1), keepdims=True)
        where = ("layer", layer), ("head", head)
        title += [f"{x} {n}" if n else f"mean of {x}s" for x, n in where]
    src, tgt = group_tokens(run.trace.src, True, None), group_tokens(run.trace.tgt, True, offset)
    queries = [group for group in (src if view == "encoder" else tgt) if group.queries]
    keys = [group for group in (tgt if view == "decoder" else src) if group.keys]
    # Means over queries, sums over keys: the sum of each row stays what it was.
    rows = np.stack([weights[:, :, x.queries].mean(axis=2) for x in queries], axis=2)
    table = np.stack([rows[..., x.keys].sum(axis=3) for x in keys], axis=3)
    labels = [printable(x.label) for x in queries], [printable(x.label) for x in keys]
    return HeatMaps(printable(", ".join(title)), *labels, table)


def page(runs: list[tuple[RunView, ViewState]]) -> str:
    """The page of one run, or of several side by side."""
    panes = [pane_data(run, state) for run, state in runs]
    data = json.dumps(panes, ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only a "<" can end it.
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", data.replace("<", "\\u003c"))


def pane_data(run: RunView, state: ViewState) -> dict[str, Any]:
    """What the page's program needs to show one run."""
    seen, groups = run.trace, {}
    for unit, whole_words in (("words", True), ("subwords", False)):
        sides = {offset: group_tokens(seen.tgt, whole_words, offset) for offset in OFFSETS}
        sides["src"] = group_tokens(seen.src, whole_words, None)
        groups[unit] = {side: [x._asdict() for x in of_side] for side, of_side in sides.items()}
    return {
        "name": run.name,
        "src": seen.src.text,
        "tgt": seen.tgt.text,
        "groups": groups,
        "state": state._asdict(),
        "best": run.best_head and vars(run.best_head),
        "views": {x: (record := getattr(seen, x)) and pack(x, record) for x in VIEWS},
        "chosen": seen.chosen,
        "top_tokens": seen.top_tokens,
        "label_smoothing": run.label_smoothing,
    }


def pack(view: str, record: AttentionRecord) -> dict[str, Any]:
    """Arrays as text: float32, with scale 0, or 16-bit integers times a scale."""
    packed: dict[str, Any] = explain(record.config, view)
    for name, array in vars(record).items():
        if name == "config" or array is None:
            continue
        values, scale = array.values, 0.0
        if name != "scores":  # which may be large and close to each other
            scale = float(np.abs(values).max(initial=0)) / (2**15 - 1) or 1.0
        numbers = np.rint(values / scale).astype("<i2") if scale else values.astype("<f4")
        data = base64.b64encode(numbers.tobytes()).decode("ascii")
        packed[name] = {"shape": list(values.shape), "scale": scale, "data": data}
    return packed


def explain(config: AttentionConfig, view: str) -> dict[str, str]:
    """What the page says about the steps of an attention."""
    masked = ["later tokens"] if view == "decoder" else []
    masked += [f"tokens more than {config.window} away"] if config.window else []
    if config.type == "multi_head":
        normalizer, position = NORMALIZERS[config.normalizer], POSITIONS[config.position]
        score, weights = SCORES[config.score].formula, normalizer.formula
        modifiers = MODIFIERS.selected(config.modifiers)
        signed = any(part.signed for part in modifiers)
        sums = "need not sum to one, and may be negative" if signed else SUMS[normalizer.row_sum]
        modifiers += [position] if position.is_a(AttentionModifier) else []
        after = " ".join(f"Modified by {part.name}: {part.formula}." for part in modifiers)
    else:
        formula, sums = TYPES[config.type].formula, SUMS[TYPES[config.type].row_sum]
        score, weights = FORMULAS.get(config.type, (formula, "as in that formula"))
        after = f"All in all: {formula}."
    texts = {"score": score, "mask": " and ".join(masked), "normalize": weights}
    return texts | {"sums": f"The weights {sums}.", "after": after}
