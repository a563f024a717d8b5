"""The layers that encoder and decoder are stacked from (shapes: see ``attention.py``)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seq2seq.attention import AttentionTrace, KeyValue, build_attention
from seq2seq.config import ModelConfig
from seq2seq.cpu import Dropout, to_autocast_dtype


class FeedForward(nn.Module):
    """W₂ max(0, W₁ x), applied to each token by itself."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up_proj = nn.Linear(d_model, d_ff)
        self.down_proj = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(torch.relu(self.up_proj(x)))


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


class AttentionSublayer(nn.Module):
    """An attention with what surrounds it; with ``type = "none"``, x stays x."""

    def __init__(self, model: ModelConfig, section: str) -> None:
        super().__init__()
        self.attention = build_attention(model, section)
        if self.attention is not None:
            self.connection = SublayerConnection(model)

    def project(self, x: Tensor) -> KeyValue:
        """Keys and values of the tokens x (B, S, D); empty where there is no attention."""
        if self.attention is None:
            return KeyValue(x[:, None, :, :0], x[:, None, :, :0])
        return self.attention.project(x, x)

    def self_attend(
        self, x: Tensor, past: KeyValue | None, mask: Tensor | None, start: int, return_trace: bool
    ) -> tuple[Tensor, KeyValue, AttentionTrace | None]:
        """The tokens x (B, T, D) attend to themselves and the past; returns all keys and values."""
        if self.attention is None:
            return x, self.project(x), None
        tokens = self.connection.pre(x)
        kv = self.project(tokens)
        kv = kv if past is None else past.append(kv)
        context, trace = self.attention.attend(tokens, kv, mask, start, return_trace)
        return self.connection.post(x, context), kv, trace

    def cross_attend(
        self, x: Tensor, kv: KeyValue, mask: Tensor, start: int, return_trace: bool
    ) -> tuple[Tensor, AttentionTrace | None]:
        """The tokens x (B, T, D) attend to the memory's keys and values."""
        if self.attention is None:
            return x, None
        tokens = self.connection.pre(x)
        context, trace = self.attention.attend(tokens, kv, mask, start, return_trace)
        return self.connection.post(x, context), trace


class EncoderLayer(nn.Module):
    """Self-attention among the source tokens, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = AttentionSublayer(config, "encoder_attention")
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.feed_forward_connection = SublayerConnection(config)

    def forward(
        self, x: Tensor, mask: Tensor, return_trace: bool
    ) -> tuple[Tensor, AttentionTrace | None]:
        """``x`` (B, S, D) after this layer; mask broadcastable to (B, H, S, S)."""
        x, _, trace = self.self_attention.self_attend(x, None, mask, 0, return_trace)
        output = self.feed_forward(self.feed_forward_connection.pre(x))
        return self.feed_forward_connection.post(x, output), trace


class LayerCache(NamedTuple):
    """What a decoder layer attends to: the target tokens so far, and the memory."""

    tgt: KeyValue
    memory: KeyValue


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the memory, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = AttentionSublayer(config, "decoder_attention")
        self.cross_attention = AttentionSublayer(config, "cross_attention")
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.feed_forward_connection = SublayerConnection(config)

    def start(self, memory: Tensor) -> LayerCache:
        """The cache before the first target token, for a memory (B, S, D)."""
        no_tokens = self.self_attention.project(memory[:, :0])
        return LayerCache(no_tokens, self.cross_attention.project(memory))

    def forward(
        self,
        x: Tensor,
        cache: LayerCache,
        masks: tuple[Tensor | None, Tensor],
        start: int,
        return_trace: bool,
    ) -> tuple[Tensor, LayerCache, AttentionTrace | None, AttentionTrace | None]:
        """One layer further, for T target tokens x (B, T, D) after the ``start`` in the cache.

        The masks of target and source are broadcastable to (B, H, T, start + T) and (B, H, T, S).
        Returns x, the cache with the new tokens, and the traces of self- and cross-attention.
        """
        attend, cross_attend = self.self_attention.self_attend, self.cross_attention.cross_attend
        x, tgt, self_trace = attend(x, cache.tgt, masks[0], start, return_trace)
        x, cross_trace = cross_attend(x, cache.memory, masks[1], start, return_trace)
        output = self.feed_forward(self.feed_forward_connection.pre(x))
        x = self.feed_forward_connection.post(x, output)
        return x, cache._replace(tgt=tgt), self_trace, cross_trace
