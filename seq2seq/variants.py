"""Every variant of attention by name: made, checked, and listed."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any, NamedTuple

import torch

from seq2seq.attention import Attention
from seq2seq.errors import Impossible
from seq2seq.parts import Adjustment
from seq2seq.positions import AbsolutePosition
from seq2seq.registry import KINDS, POSITIONS, REGISTRIES, Registry
from seq2seq.replacements import AverageAttention
from seq2seq.settings import AttentionConfig, ModelConfig

AnyAttention = Attention | AverageAttention


def make_attention(model: ModelConfig, config: AttentionConfig) -> AnyAttention | None:
    """The attention that ``config`` asks for; None for none.

    Args:
        model: gives the width, and the number of heads where ``config`` leaves it open.
        config: one of the model's three sections.

    Raises:
        Impossible: the parts do not fit together.
    """
    kind = KINDS[config.kind]
    if kind.name == "none":
        return None
    return kind.make(model.d_model, replace(config, n_heads=config.n_heads or model.n_heads))


def make_absolute_position(config: AttentionConfig, d_model: int) -> AbsolutePosition | None:
    """What is added to the embeddings that a stack of layers with such self-attention reads."""
    is_absolute = POSITIONS[config.position].is_a(AbsolutePosition)
    return POSITIONS.make(config.position, d_model) if is_absolute else None


def check_attention(model: ModelConfig, section: str) -> None:
    """Refuse what is impossible in one of the model's attentions, before any work begins.

    Args:
        model: the model's shape.
        section: ``encoder_attention``, ``decoder_attention`` or ``cross_attention``.

    Raises:
        Impossible: names the setting that does not fit.
    """
    config: AttentionConfig = getattr(model, section)
    kind, position = KINDS[config.kind], POSITIONS[config.position]
    is_cross = section == "cross_attention"
    if is_cross and position.is_a(AbsolutePosition):
        raise Impossible("position", "is added to embeddings: set it in the other two sections")
    if is_cross and config.window:
        raise Impossible("window", "is for self-attention: a long target would see no source")
    if "any part" not in kind.traits:
        if position.is_a(Adjustment):
            raise Impossible("position", f"has no place in kind = {kind.name!r}")
        for item in fields(config):
            is_used = item.name in ("kind", "position") or item.name in kind.traits
            if not is_used and getattr(config, item.name) != item.default:
                raise Impossible(item.name, f"has no place in kind = {kind.name!r}")
    make_absolute_position(config, model.d_model)
    with torch.device("meta"):  # takes no memory
        make_attention(model, config)


class Row(NamedTuple):
    """A line of the table of variants."""

    place: str
    name: str
    formula: str
    paper: str
    extra_parameters: int


def table(model: ModelConfig) -> Iterator[Row]:
    """All parts, and how many parameters an attention has more with each than without it."""
    plain = _size(model, AttentionConfig(position="none"))
    for registry in REGISTRIES:
        for part in registry.values():
            config = with_part(registry, part.name)
            extra = _size(model, config) - plain
            if absolute := make_absolute_position(config, model.d_model):
                extra = sum(p.numel() for p in absolute.parameters())
            yield Row(registry.place, part.name, part.formula, part.paper, extra)


def with_part(registry: Registry, name: str) -> AttentionConfig:
    """An attention that differs from the plain one, without positions, by one part."""
    changes: dict[str, Any] = {"position": "none", registry.place: name}
    return AttentionConfig(**changes)


def _size(model: ModelConfig, config: AttentionConfig) -> int:
    attention = make_attention(model, config)
    return sum(p.numel() for p in attention.parameters()) if attention else 0
