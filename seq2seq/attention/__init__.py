"""Attention: ``attention.py`` is the idea, ``registry.py`` the seam, the rest the catalogue."""

from dataclasses import fields

from seq2seq.attention import alternatives, modifiers, normalizers, positions, scores
from seq2seq.attention.attention import (
    Attention,
    AttentionTrace,
    KeyValue,
    MultiHeadAttention,
    causal_mask,
)
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
    Place,
    Registry,
)
from seq2seq.config import AttentionConfig, ModelConfig
from seq2seq.utils import ConfigError


def build_attention(model: ModelConfig, section: str, layer: int = 1) -> Attention | None:
    """The attention that a section, such as ``cross_attention``, asks for; None for none.

    ``ConfigError`` if its settings do not fit together.
    """
    config: AttentionConfig = getattr(model, section)
    n_heads = config.n_heads or model.n_heads
    place = Place(n_heads, model.d_model // n_heads, layer, section == "decoder_attention")
    try:
        _check_parts(model, section, n_heads)
        make = TYPES[config.type].make
        return None if config.type == "none" else make(model.d_model, config, place)
    except ConfigError as error:
        inherited = error.key == "n_heads" and not config.n_heads
        key = "model.n_heads" if inherited else f"model.{section}.{error.key}"
        raise ConfigError(key, error.problem) from None


def _check_parts(model: ModelConfig, section: str, n_heads: int) -> None:
    """Raise ``ConfigError`` where settings do not fit together."""
    config: AttentionConfig = getattr(model, section)
    chosen = {x.setting: x.selected(getattr(config, x.setting)) for x in REGISTRIES}
    (kind,), (score,), (position,) = chosen["type"], chosen["score"], chosen["position"]
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
    if kind.is_a(MultiHeadAttention) and model.d_model % n_heads:
        raise ConfigError("n_heads", f"must divide model.d_model = {model.d_model}")
    if n_heads % (config.kv_heads or n_heads):
        raise ConfigError("kv_heads", f"must divide n_heads = {n_heads}")
    splits = any(part.splits_heads for part in chosen["modifiers"])
    if splits and (width := model.d_model // n_heads) % 2:
        raise ConfigError("modifiers", f"head width {width} cannot be halved")
    for setting, part in ((x, part) for x, parts in chosen.items() for part in parts):
        product = f"an inner product; score = {score.name!r} is none"
        needs = {
            "self-attention": part.needs_self_attention and section == "cross_attention",
            "the decoder's self-attention": part.needs_causal_mask
            and section != "decoder_attention",
            product: part.needs_inner_product and not score.inner_product,
            f"whole heads, which {config.modifiers!r} splits": part.needs_whole_heads and splits,
        }
        if missing := [need for need, is_missing in needs.items() if is_missing]:
            raise ConfigError(setting, f"{part.name!r} needs {missing[0]}")


def build_absolute_position(model: ModelConfig, section: str) -> AbsolutePosition | None:
    """What is added to the embeddings of a stack of layers with this self-attention."""
    name = getattr(model, section).position
    is_absolute = POSITIONS[name].is_a(AbsolutePosition)
    return POSITIONS.make(name, model.d_model) if is_absolute else None
