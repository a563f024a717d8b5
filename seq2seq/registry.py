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

Made = TypeVar("Made")


@dataclass(frozen=True)
class Part:
    """A named piece of attention.

    Its traits are words such as ``inner product``; one that starts with ``needs`` names a trait
    that another part of the same attention must have.
    """

    name: str
    make: Any  # a class, made with (n_heads, head_width), or a plain function
    traits: frozenset[str]

    @property
    def needs(self) -> set[str]:
        """Traits that this part cannot do without."""
        return {trait.removeprefix("needs ") for trait in self.traits if trait.startswith("needs ")}

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

    def make(self, name: str, n_heads: int, head_width: int) -> Any:
        """The part called ``name``, fresh."""
        part = self[name].make
        return part(n_heads, head_width) if isinstance(part, type) else part

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
