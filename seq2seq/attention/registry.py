"""The parts of attention by name, and the base classes they derive from.

A part registers itself where it is written, by one line above it:

    @SCORES.add("dot", "s = q · k", "Luong et al. 2015, arXiv:1508.04025", inner_product=True)
    def dot(query, key, positions): ...

The configuration, the tests and the experiments find it by its name. A part is a function, or a
class that is constructed with its ``Place``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

from torch import Tensor, nn

from seq2seq.utils import ConfigError, did_you_mean

Made = TypeVar("Made")


class Place(NamedTuple):
    """What a part is made for: H, K, and where in the model its attention stands."""

    n_heads: int
    head_width: int
    layer: int = 1  # of its stack, the first is 1
    causal: bool = False  # in the decoder's self-attention, which sees no later token


class Positions(NamedTuple):
    """Where tokens stand in their sentences, counted from 0."""

    query: Tensor  # (T,)
    key: Tensor  # (S,)

    @property
    def relative(self) -> Tensor:
        """(T, S): how far to the right of each query each key is; negative to the left."""
        return self.key - self.query[:, None]


class AttentionModifier(nn.Module):
    """Changes what passes between the five steps of attention; each method is optional.

    Modifiers nest: before the mask the first one comes first, after it the first one comes last.
    They come in the order of their registration, then the relative position. If a modifier splits
    heads, there are 2H of half the width until its ``modify_weights`` joins them.
    """

    def modify_qk(self, q: Tensor, k: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        """After step 1: queries (B, H, T, K) and keys (B, H, S, K)."""
        return q, k

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        """After step 2: scores (B, H, T, S), of what ``modify_qk`` returned."""
        return scores

    def modify_weights(self, weights: Tensor) -> Tensor:
        """After step 4: weights (B, H, T, S)."""
        return weights

    def modify_output(
        self, output: Tensor, weights: Tensor, x: Tensor, positions: Positions
    ) -> Tensor:
        """After the sum of step 5: output (B, H, T, K), for the query's tokens x (B, T, D)."""
        return output


class AbsolutePosition(nn.Module):
    """Positions that are added to the embeddings (width D) a stack of layers starts from."""

    def forward(self, start: int, end: int) -> Tensor:
        """(T, D) for the positions from ``start`` to before ``end``."""
        raise NotImplementedError


@dataclass(frozen=True)
class Part:
    """A named piece of attention, and what others may count on."""

    name: str
    make: Any  # a class or a function
    formula: str
    paper: str
    inner_product: bool = False  # a score: q · k, up to scale
    content_based: bool = True  # a score: looks at queries and keys, not at positions alone
    content_heads: int = 0  # a score: how many heads do so; 0 is all
    row_sum: Literal["one", "at most one", "any"] = "any"  # normalizer, type: of a query's weights
    signed: bool = False  # a modifier: weights may become negative
    splits_heads: bool = False  # a modifier: halves queries and keys
    needs_self_attention: bool = False  # queries are keys
    needs_causal_mask: bool = False  # the decoder's self-attention
    needs_inner_product: bool = False
    needs_whole_heads: bool = False
    settings: tuple[str, ...] = ()  # a type: the settings it uses besides ``position``

    def is_a(self, base: type) -> bool:
        return isinstance(self.make, type) and issubclass(self.make, base)


class Registry(dict[str, Part]):
    """The parts that a ``setting`` of ``AttentionConfig`` chooses from, one or ``several``."""

    def __init__(self, setting: str, several: bool = False) -> None:
        super().__init__()
        self.setting, self.several = setting, several

    def add(self, name: str, formula: str, paper: str, **properties: Any) -> Callable[[Made], Made]:
        """A decorator that registers a class or a function; ``Part`` lists the properties."""

        def register(made: Made) -> Made:
            if name in self:
                raise ValueError(f"{self.setting} {name!r} is already {self[name].make}")
            self[name] = Part(name, made, formula, paper, **properties)
            return made

        return register

    def selected(self, names: str) -> list[Part]:
        """The parts that a setting's value names, in the order of registration."""
        wanted = names.split() if self.several else [names]
        for name in wanted:
            if name not in self:
                others = [r.setting for r in REGISTRIES if name in r]
                hint = f"; write {others[0]} = {name!r}" if others else did_you_mean(name, self)
                problem = f"{name!r} is not one of {', '.join(self)}{hint}"
                raise ConfigError(self.setting, problem)
        if len(set(wanted)) < len(wanted):
            raise ConfigError(self.setting, f"{names!r} names a part twice")
        return [part for part in self.values() if part.name in wanted]

    def make(self, name: str, place: Any) -> Any:
        """The part called ``name``: a function as it is, a class constructed with ``place``."""
        (part,) = self.selected(name)
        try:
            return part.make(place) if isinstance(part.make, type) else part.make
        except ValueError as error:
            raise ConfigError(self.setting, str(error)) from None


TYPES = Registry("type")
SCORES = Registry("score")
NORMALIZERS = Registry("normalizer")
POSITIONS = Registry("position")
MODIFIERS = Registry("modifiers", several=True)
REGISTRIES = (SCORES, NORMALIZERS, POSITIONS, MODIFIERS, TYPES)
