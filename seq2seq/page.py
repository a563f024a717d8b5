"""Attention as a picture: one self-contained web page, or a plain figure's numbers.

``page.html`` holds the layout and the program; what is written into it are the observations.
Nothing is fetched from anywhere, and text of the user's is never markup.
"""

import base64
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seq2seq.alignment import Head
from seq2seq.errors import UserError
from seq2seq.observation import Array, Attended, Candidate, NamedArray, Observation, Sentence
from seq2seq.parts import Adjustment
from seq2seq.registry import EXTRAS, KINDS, NORMALIZERS, POSITIONS, SCORES
from seq2seq.settings import AttentionConfig
from seq2seq.tokenizer import SPACE

TEMPLATE = Path(__file__).with_name("page.html")
VIEWS = {
    "cross": "cross-attention",
    "encoder": "self-attention in the encoder",
    "decoder": "self-attention in the decoder",
}

OTHER_KINDS = {  # what stands where scored attention has a score and a normalizer
    "linear": ("s = φ(q) · φ(k)", "w = s / Σ s"),
    "average": ("the same for all in sight", "w = 1 / n for n in sight"),
}


@dataclass(frozen=True)
class Choice:
    """Which attention is shown first. Layers and heads count from 1; 0 is their mean."""

    view: str
    layer: int
    head: int
    step: str  # at which a target word asks: one of ``alignment.STEPS``

    @property
    def title(self) -> str:
        """Such as ``cross-attention, layer 2, head 1``."""
        layer = f"layer {self.layer}" if self.layer else "mean of layers"
        head = f"head {self.head}" if self.head else "mean of heads"
        return f"{VIEWS[self.view]}, {layer}, {head}"


@dataclass(frozen=True)
class Shown:
    """What one run did with the sentence."""

    name: str
    observation: Observation
    best: Head | None  # the head that aligns words best, where that is known


@dataclass(frozen=True)
class Item:
    """A word, or a subword, of a side: the queries and the keys that are its own."""

    label: str
    queries: list[int]
    keys: list[int]


class Table(NamedTuple):
    """Weights between words."""

    title: str
    down: list[str]  # who asks
    across: list[str]  # who answers
    values: Array  # (down, across)


def choose_view(runs: list[Shown], view: str | None) -> str:
    """The attention to show first: ``view``, or the first of ``VIEWS`` that there is.

    Raises:
        UserError: none of the runs has it.
    """
    names = " and ".join(shown.name for shown in runs)
    for name in [view] if view else VIEWS:
        if any(getattr(shown.observation, name) for shown in runs):
            return name
    raise UserError(f"there is no {VIEWS[view] if view else 'attention'} in {names}")


def choose(shown: Shown, view: str, layer: int | None, head: int | None) -> Choice:
    """What to show first of a run.

    Args:
        shown: the run.
        view: one of ``VIEWS``; the run need not have it.
        layer: None for that of the best aligning head, or the last one.
        head: None for the best aligning head, or the mean of all.

    Raises:
        UserError: there is no such layer or head.
    """
    step = shown.best.step if shown.best else "writing"
    attended: Attended | None = getattr(shown.observation, view)
    if attended is None:
        return Choice(view, 0, 0, step)
    n_layers, n_heads = attended.weights.values.shape[:2]
    for what, number, n in (("layer", layer, n_layers), ("head", head, n_heads)):
        if number is not None and not 0 <= number <= n:
            raise UserError(
                f"{shown.name} has no {what} {number} in its {VIEWS[view]}: there are {n}, and 0 "
                "is their mean"
            )
    best = shown.best
    if best and view == "cross" and layer is None and head is None:
        return Choice(view, best.layer, best.head, step)
    return Choice(view, n_layers if layer is None else layer, head or 0, step)


# --- words ---


def spelled(pieces: list[str]) -> str:
    """Subwords as text; bytes that spell a character become that character."""
    raw = b""
    for piece in pieces:
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", piece)
        raw += bytes.fromhex(byte.group(1)) if byte else piece.replace(SPACE, "").encode()
    return raw.decode("utf-8", "replace")


def grouped(sentence: Sentence, whole_words: bool) -> list[tuple[str, list[int]]]:
    """Labels of words (or subwords) and the tokens of each; BOS and EOS are by themselves."""
    if not whole_words:
        return [(token, [i]) for i, token in enumerate(sentence.tokens)]
    groups: list[tuple[int, list[int]]] = []
    for i, word in enumerate(sentence.words):
        if groups and word >= 0 and groups[-1][0] == word:
            groups[-1][1].append(i)
        else:
            groups.append((word, [i]))
    return [
        (spelled([sentence.tokens[i] for i in tokens]) or SPACE, tokens) for _, tokens in groups
    ]


def src_items(sentence: Sentence, whole_words: bool) -> list[Item]:
    """Of the source, where every token asks and answers."""
    return [Item(label, tokens, tokens) for label, tokens in grouped(sentence, whole_words)]


def tgt_items(sentence: Sentence, whole_words: bool, step: str) -> list[Item]:
    """Of the target: step t reads token t, which then answers, and writes token t + 1.

    Args:
        sentence: from BOS to EOS.
        whole_words: rather than subwords.
        step: whether a word asks at the step that is ``writing`` it, or has it just read.
    """
    n_steps = len(sentence.tokens) - 1
    shift = 1 if step == "writing" else 0
    return [
        Item(
            label,
            [i - shift for i in tokens if 0 <= i - shift < n_steps],
            [i for i in tokens if i < n_steps],
        )
        for label, tokens in grouped(sentence, whole_words)
    ]


def between(weights: Array, queries: list[Item], keys: list[Item]) -> Array:
    """(T, S) weights between tokens as weights between items: means over queries, sums over keys.

    So each row's sum stays what it was.
    """
    rows = np.stack([weights[item.queries].mean(axis=0) for item in queries])
    return np.stack([rows[:, item.keys].sum(axis=1) for item in keys], axis=1)


def word_table(shown: Shown, choice: Choice) -> Table:
    """The weights between words, for a plain figure."""
    observation = shown.observation
    attended: Attended | None = getattr(observation, choice.view)
    if attended is None:
        raise UserError(f"{shown.name} has no {VIEWS[choice.view]}")
    weights = attended.weights.values
    for axis, number in ((0, choice.layer), (1, choice.head)):
        weights = weights.take([number - 1], axis) if number else weights
    src = src_items(observation.src, True)
    tgt = tgt_items(observation.tgt, True, choice.step)
    asking = [item for item in (src if choice.view == "encoder" else tgt) if item.queries]
    answering = [item for item in (tgt if choice.view == "decoder" else src) if item.keys]
    table = between(weights.mean(axis=(0, 1)), asking, answering)
    down, across = ([item.label for item in side] for side in (asking, answering))
    return Table(f"{shown.name}: {choice.title}", down, across, table)


def arrays(runs: list[Shown]) -> str:
    """Everything that was observed, as JSON: of one run an object, of two a list of them."""
    content = [{"name": shown.name} | shown.observation.to_json() for shown in runs]
    one_or_all = content[0] if len(content) == 1 else content
    return json.dumps(one_or_all, ensure_ascii=False, allow_nan=False) + "\n"


# --- the page ---


def page(runs: list[tuple[Shown, Choice]]) -> str:
    """The page of one run, or of two side by side."""
    data = json.dumps([_pane(*run) for run in runs], ensure_ascii=False, separators=(",", ":"))
    # Inside a script element only a "<" can end it.
    return TEMPLATE.read_text(encoding="utf-8").replace("/*DATA*/", data.replace("<", "\\u003c"))


def _pane(shown: Shown, choice: Choice) -> dict[str, Any]:
    observation, best = shown.observation, shown.best
    src, tgt = observation.src, observation.tgt
    return {
        "name": shown.name,
        "src": src.text,
        "tgt": tgt.text,
        "src_tokens": src.tokens,
        "tgt_tokens": tgt.tokens,
        "items": {
            unit: {"src": _items(src_items(src, whole))}
            | {step: _items(tgt_items(tgt, whole, step)) for step in ("writing", "reading")}
            for unit, whole in (("words", True), ("subwords", False))
        },
        "view": choice.view,
        "layer": choice.layer - 1 if choice.layer else "mean",
        "head": choice.head - 1 if choice.head else "mean",
        "step": choice.step,
        "best": best and {"layer": best.layer, "head": best.head, "step": best.step},
        "views": {view: _view(getattr(observation, view)) for view in VIEWS},
        "written": _probabilities(observation.written),
        "candidates": [_probabilities(step) for step in observation.candidates],
    }


def _items(items: list[Item]) -> list[dict[str, Any]]:
    return [vars(item) for item in items]


def _probabilities(candidates: list[Candidate]) -> list[tuple[str, float]]:
    return [(each.token, round(each.probability, 5)) for each in candidates]


def _view(attended: Attended | None) -> dict[str, Any] | None:
    if attended is None:
        return None
    arrays = {name: x for name, x in vars(attended).items() if isinstance(x, NamedArray)}
    # Scores may be large and close to each other; all else is well served by 16 bits.
    packed = {name: pack(x.values, exactly=name == "scores") for name, x in arrays.items()}
    return packed | explanation(attended.config)


def pack(values: Array, exactly: bool) -> dict[str, Any]:
    """Numbers as text: float32, with scale 0, or whole numbers of 16 bits times a scale."""
    scale = 0.0 if exactly else float(np.abs(values).max(initial=0)) / (2**15 - 1) or 1.0
    numbers = values.astype("<f4") if exactly else np.rint(values / scale).astype("<i2")
    data = base64.b64encode(numbers.tobytes()).decode("ascii")
    return {"shape": list(values.shape), "scale": scale, "data": data}


def explanation(config: AttentionConfig) -> dict[str, str]:
    """The formulas of an attention's parts, in words for the page."""
    if config.kind != "scored":
        formula = KINDS[config.kind].formula
        unknown = formula, "as in that formula"  # a kind of somebody else's
        own_score, own_normalizer = OTHER_KINDS.get(config.kind, unknown)
        return {
            "score": own_score,
            "normalizer": own_normalizer,
            "sums": "The weights sum to one.",
            "after": f"All in all: {formula}.",
        }
    score, normalizer = SCORES[config.score], NORMALIZERS[config.normalizer]
    position = POSITIONS[config.position]
    extras = EXTRAS.chosen(config.extras)
    traits = {trait for part in (normalizer, *extras) for trait in part.traits}
    if "signed" in traits:
        sums = "The weights need not sum to one, and may be negative."
    elif "sums to one" in traits:
        sums = "The weights sum to one."
    elif "sums to less than one" in traits:
        sums = "The weights sum to less than one: the rest goes to nothing."
    else:
        sums = "The weights need not sum to one."
    is_inside = position.is_a(Adjustment)
    adjusting = [*extras, *([position] if is_inside else [])]
    after = "".join(f" Also at work: {part.name} ({part.formula})." for part in adjusting)
    return {
        "score": score.formula,
        "normalizer": normalizer.formula,
        "sums": sums,
        "after": after.strip(),
    }
