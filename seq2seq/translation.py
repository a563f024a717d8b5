"""What a translation is: its parts, how probable it is, and what was cut or split for it."""

import html
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import compress
from typing import NamedTuple

from seq2seq.model.decoding import Hypothesis
from seq2seq.utils import warn

# Up to a stop, what it closes and the spaces after it, unless an initial comes before or a small
# letter after them; the stops of Chinese and Japanese need no space.
SENTENCE = re.compile(
    r"""\S.*?(?:(?<!\b\w)[.!?…]["'”’»)\]]*+\s++(?![a-zß-ÿ])|[。！？][”’」』）]*+(?![。！？])\s*+|$)""",
    re.DOTALL,
)


# What may happen to a line, by the setting that is the reason.
FLAGS = {
    "input cut": "data.max_tokens",
    "input split": "sentence, as longer than 19 in 20 sources of training",
    "output cut": "decoding.max_length_ratio",
}


class Part(NamedTuple):
    """What the model read at once, a line or a sentence of one too long, and its translation."""

    src: str
    src_ids: list[int]  # with EOS
    src_is_cut: bool
    hypothesis: Hypothesis
    text: str  # with the space between it and the next


class Translation(NamedTuple):
    """The translation of a line, in one part unless that was too long; a blank line has none."""

    parts: list[Part]

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts).removesuffix(" ")

    @property
    def flags(self) -> list[str]:
        """Those of ``FLAGS`` that are so."""
        src_is_cut = any(part.src_is_cut for part in self.parts)
        is_cut = any(part.hypothesis.is_cut for part in self.parts)
        return list(compress(FLAGS, (src_is_cut, len(self.parts) > 1, is_cut)))

    def _repr_html_(self) -> str:
        """In a notebook: each part beside its translation, and what happened to the line.

        No text is markup, nor is what stands between dollar signs a formula.
        """
        rows = [(part.src, part.text) for part in self.parts]
        rows += [(flag, f"by {FLAGS[flag]}") for flag in self.flags]
        cells = ([f"<td>{html.escape(text)}</td>" for text in row] for row in rows)
        table = "".join(f"<tr>{src}{tgt}</tr>" for src, tgt in cells)
        return f'<table class="tex2jax_ignore">{table}</table>'


class Score(NamedTuple):
    """log P(tgt | src) in nats: the sum over ``n_tokens`` target tokens, EOS among them."""

    log_probability: float
    n_tokens: int

    @property
    def per_token(self) -> float:
        return self.log_probability / max(1, self.n_tokens)


class CutReport:
    """Which lines were cut or split."""

    def __init__(self, translations: Iterable[Translation] = ()) -> None:
        self.n_lines = 0
        self.lines = defaultdict[str, list[int]](list)  # from 1, by flag
        self.add(translations)

    def add(self, translations: Iterable[Translation]) -> None:
        for translation in translations:
            self.n_lines += 1
            for flag in translation.flags:
                self.lines[flag].append(self.n_lines)

    def warn(self, whose: str = "") -> None:
        for message in self.messages():
            warn(f"{whose}{message}")

    def messages(self) -> Iterator[str]:
        for flag, lines in self.lines.items():
            numbers = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
            yield f"{flag} by {FLAGS[flag]}: {len(lines):,} (line {numbers})"
