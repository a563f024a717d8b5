"""Parts of attention by name: what the configuration, the tests and the experiments choose from.

A part registers itself where it is written, by one line above it, and needs no other:

    @SCORES.add("dot", "inner product")
    def dot(queries, keys, places): ...

The first line of its docstring is ``what it is: formula``, the last paragraph the paper.
"""

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from seq2seq.errors import Impossible

Made = TypeVar("Made")


@dataclass(frozen=True)
class Part:
    """A named piece of attention.

    Its traits say what others may count on:

    - a score: ``inner product``; ``no content``, if it looks at places alone
    - a normalizer: ``sums to one``, ``sums to less than one``
    - an extra: ``splits heads``; ``signed``, if weights may become negative
    - a kind: ``any part``, or the name of each setting it heeds besides ``position``
    - any: ``needs inner product``, ``needs whole heads``
    """

    name: str
    make: Any  # a class or a plain function
    traits: frozenset[str]

    def is_a(self, base: type) -> bool:
        """Whether it is a class derived from ``base``."""
        return isinstance(self.make, type) and issubclass(self.make, base)

    @property
    def formula(self) -> str:
        """What follows the colon on the docstring's first line."""
        return self._paragraphs()[0].partition(": ")[2].rstrip(".")

    @property
    def paper(self) -> str:
        """The docstring's last paragraph, before any list of arguments."""
        return " ".join(self._paragraphs()[-1].split())

    def _paragraphs(self) -> list[str]:
        text = inspect.getdoc(self.make) or ""
        return text.partition("\n\nArgs:")[0].split("\n\n")


class Registry(dict[str, Part]):
    """The parts that can take one place in an attention, by name.

    Args:
        place: the setting that chooses among them.
        several: whether it may choose any number of them, names parted by spaces.
    """

    def __init__(self, place: str, several: bool = False) -> None:
        super().__init__()
        self.place, self.several = place, several

    def add(self, name: str, *traits: str) -> Callable[[Made], Made]:
        """A decorator that registers a class or a function under ``name``."""

        def register(made: Made) -> Made:
            self[name] = Part(name, made, frozenset(traits))
            return made

        return register

    def chosen(self, names: str) -> list[Part]:
        """The parts that a setting's value names, in the order of the registry."""
        wanted = names.split() if self.several else [names]
        return [part for part in self.values() if part.name in wanted]

    def make(self, name: str, *sizes: int) -> Any:
        """The part called ``name``: a function as it is, a class made with ``sizes``.

        Raises:
            Impossible: the part refuses these sizes.
        """
        part = self[name].make
        try:
            return part(*sizes) if isinstance(part, type) else part
        except ValueError as error:
            raise Impossible(self.place, str(error)) from None

    # --- the same questions that the range of a number answers ---

    def test(self, value: str) -> bool:
        """Whether a setting may have this value."""
        names = value.split() if self.several else [value]
        return len(set(names)) == len(names) and all(name in self for name in names)

    @property
    def words(self) -> str:
        """The legal values."""
        names = ", ".join(self)
        return f"some of {names}, parted by spaces" if self.several else f"one of {names}"

    def hint(self, value: str) -> str:
        """A ``; did you mean ...?`` where a name in ``value`` is nearly a legal one."""
        for name in value.split():
            if name not in self and (close := difflib.get_close_matches(name, self, 1)):
                return f"; did you mean {close[0]!r}?"
        return ""


KINDS = Registry("kind")
SCORES = Registry("score")
NORMALIZERS = Registry("normalizer")
POSITIONS = Registry("position")
EXTRAS = Registry("extras", several=True)
REGISTRIES = (SCORES, NORMALIZERS, POSITIONS, EXTRAS, KINDS)
