"""The layers that encoder and decoder are stacked from (shapes: see ``attention.py``)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seq2seq.attention import KeyValue, build_attention
from seq2seq.config import ModelConfig
from seq2seq.cpu import Dropout, to_autocast_dtype


class SublayerConnection(nn.Module):
    """What surrounds a sublayer f: residual connection, dropout and layer norm.

    Pre-norm: x + dropout(f(norm(x))), stable without care (Xiong et al. 2020).
    Post-norm: norm(x + dropout(f(x))), as first published.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.pre_norm = config.norm == "pre"

    def pre(self, x: Tensor) -> Tensor:
        """The input of the sublayer, from ``x`` (B, T, D)."""
        return to_autocast_dtype(self.norm(x) if self.pre_norm else x)

    def post(self, x: Tensor, output: Tensor) -> Tensor:
        """``x`` with the sublayer's output added."""
        x = x + self.dropout(output)
        return x if self.pre_norm else self.norm(x)


class FeedForward(nn.Module):
    """W₂ max(0, W₁ x), applied to each token by itself, with what surrounds it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = nn.Linear(config.d_model, config.d_ff)
        self.down_proj = nn.Linear(config.d_ff, config.d_model)
        self.connection = SublayerConnection(config)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.up_proj(self.connection.pre(x)))
        return self.connection.post(x, self.down_proj(hidden))


class AttentionSublayer(nn.Module):
    """An attention with what surrounds it; with ``type = "none"``, x stays x."""

    def __init__(self, model: ModelConfig, section: str, layer: int) -> None:
        super().__init__()
        self.attention = build_attention(model, section, layer)
        if self.attention is not None:
            self.connection = SublayerConnection(model)

    def project(self, x: Tensor) -> KeyValue | None:
        """Keys and values of the tokens x (B, S, D); None where there is no attention."""
        return None if self.attention is None else self.attention.project(x, x)

    def self_attend(
        self, x: Tensor, past: KeyValue | None, mask: Tensor | None, start: int = 0
    ) -> tuple[Tensor, KeyValue | None]:
        """The tokens x (B, T, D) attend to themselves and the past; returns all keys and values."""
        if self.attention is None:
            return x, None
        tokens = self.connection.pre(x)
        kv = self.attention.project(tokens, tokens)
        kv = kv if past is None else past.append(kv)
        return self.connection.post(x, self.attention(tokens, kv, mask, start)), kv

    def cross_attend(self, x: Tensor, kv: KeyValue | None, mask: Tensor, start: int) -> Tensor:
        """The tokens x (B, T, D) attend to the memory's keys and values."""
        if self.attention is None:
            return x
        return self.connection.post(x, self.attention(self.connection.pre(x), kv, mask, start))


class EncoderLayer(nn.Module):
    """Self-attention among the source tokens, then feed-forward."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attention = AttentionSublayer(config, "encoder_attention", layer)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """``x`` (B, S, D) after this layer; mask broadcastable to (B, H, S, S)."""
        x, _ = self.self_attention.self_attend(x, None, mask)
        return self.feed_forward(x)


class LayerCache(NamedTuple):
    """What a decoder layer attends to: the target tokens so far, None at first, and the memory."""

    tgt: KeyValue | None
    memory: KeyValue | None

    def select(self, rows: Tensor) -> "LayerCache":
        return LayerCache(*(None if kv is None else kv.select(rows) for kv in self))


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the memory, then feed-forward."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.self_attention = AttentionSublayer(config, "decoder_attention", layer)
        self.cross_attention = AttentionSublayer(config, "cross_attention", layer)
        self.feed_forward = FeedForward(config)

    def start(self, memory: Tensor) -> LayerCache:
        """The cache before the first target token, for a memory (B, S, D)."""
        return LayerCache(None, self.cross_attention.project(memory))

    def forward(
        self, x: Tensor, cache: LayerCache, tgt_mask: Tensor | None, src_mask: Tensor, start: int
    ) -> tuple[Tensor, LayerCache]:
        """x (B, T, D), T tokens after the ``start`` in the cache, and the cache with them added.

        The masks are broadcastable to (B, H, T, start + T) and (B, H, T, S).
        """
        x, tgt = self.self_attention.self_attend(x, cache.tgt, tgt_mask, start)
        x = self.cross_attention.cross_attend(x, cache.memory, src_mask, start)
        return self.feed_forward(x), LayerCache(tgt, cache.memory)
