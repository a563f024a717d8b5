"""Attention: ``attention.py`` is the idea, ``registry.py`` the seam, the rest the catalogue."""

from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import torch

from seq2seq.attention import alternatives, modifiers, normalizers, positions, scores
from seq2seq.attention.alternatives import AverageAttention
from seq2seq.attention.attention import AttentionTrace, KeyValue, MultiHeadAttention, causal_mask
from seq2seq.attention.registry import (
    MODIFIERS,
    NORMALIZERS,
    POSITIONS,
    REGISTRIES,
    SCORES,
    TYPES,
    AbsolutePosition,
    AttentionModifier,
    Part,
    Registry,
)
from seq2seq.config import AttentionConfig, Config, ModelConfig
from seq2seq.utils import ConfigError

AnyAttention = MultiHeadAttention | AverageAttention


def build_attention(model: ModelConfig, section: str) -> AnyAttention | None:
    """The attention that a section, such as ``cross_attention``, asks for; None for none.

    ``ConfigError`` if its settings do not fit together.
    """
    config: AttentionConfig = getattr(model, section)
    try:
        (kind,) = TYPES.selected(config.type)
        (position,) = POSITIONS.selected(config.position)
        if section == "cross_attention" and position.is_a(AbsolutePosition):
            raise ConfigError("position", "is added to embeddings: set it in the other sections")
        if section == "cross_attention" and config.window:
            raise ConfigError("window", "is for self-attention: a long target would see no source")
        if kind.name != "multi_head":
            for item in fields(config):
                unused = item.name not in ("type", "position", *kind.settings)
                relative = item.name == "position" and position.is_a(AttentionModifier)
                if relative or (unused and getattr(config, item.name) != item.default):
                    raise ConfigError(item.name, f"is not used by type = {kind.name!r}")
        if kind.name == "none":
            return None
        config = replace(config, n_heads=config.n_heads or model.n_heads)
        return TYPES[kind.name].make(model.d_model, config)
    except ConfigError as error:
        inherited = error.key == "n_heads" and not getattr(model, section).n_heads
        key = "model.n_heads" if inherited else f"model.{section}.{error.key}"
        raise ConfigError(key, error.problem) from None


def check_attention(config: Config) -> None:
    """``ConfigError`` if the settings of an attention do not fit together; takes no memory."""
    with torch.device("meta"):
        for section in ("encoder_attention", "decoder_attention", "cross_attention"):
            build_attention(config.model, section)
            build_absolute_position(config.model, section)


def build_absolute_position(model: ModelConfig, section: str) -> AbsolutePosition | None:
    """What is added to the embeddings of a stack of layers with this self-attention."""
    name = getattr(model, section).position
    try:
        (position,) = POSITIONS.selected(name)
        is_absolute = position.is_a(AbsolutePosition)
        return POSITIONS.make(name, model.d_model) if is_absolute else None
    except ConfigError as error:
        raise ConfigError(f"model.{section}.{error.key}", error.problem) from None


def config_with(registry: Registry, name: str) -> AttentionConfig:
    """An attention without positions that differs from the published one by this part alone."""
    changes: dict[str, Any] = {"position": "none", registry.setting: name}
    return AttentionConfig(**changes)


def extra_parameters(model: ModelConfig) -> Iterator[tuple[Registry, Part, int]]:
    """All parts, and how many parameters an attention has more with each than without."""

    def size(config: AttentionConfig) -> int:
        changed = replace(model, encoder_attention=config)
        built = build_attention(changed, "encoder_attention")
        absolute = build_absolute_position(changed, "encoder_attention")
        return sum(p.numel() for x in (built, absolute) if x is not None for p in x.parameters())

    published = size(AttentionConfig(position="none"))
    for registry in REGISTRIES:
        for part in registry.values():
            yield registry, part, size(config_with(registry, part.name)) - published
