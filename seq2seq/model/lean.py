"""A decoding step for a few sentences: what ``transformer.py`` computes, without its overhead.

One token of one sentence takes layers of modules longer to call than to compute. Here a step is
plain functions of the same weights, keys and values are written in place, and nothing is masked
where nothing is padded. It knows the published attention, and self-attention by position alone.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.attention import KeyValue, MultiHeadAttention, causal_mask
from seq2seq.attention.registry import Positions
from seq2seq.cpu import Dropout
from seq2seq.model.layers import AttentionSublayer, DecoderLayer, FeedForward, SublayerConnection
from seq2seq.model.transformer import Seq2Seq

BLOCK = 32  # tokens for which a cache makes room at a time
LAYERS = {DecoderLayer, AttentionSublayer, FeedForward, SublayerConnection, MultiHeadAttention}
KNOWN = LAYERS | {nn.ModuleList, nn.Linear, nn.LayerNorm, nn.Identity, Dropout}  # no subclasses
Function = Callable[[Tensor], Tensor]


class LeanCache(NamedTuple):
    """What ``DecoderCache`` holds, with room for more tokens.

    ``LeanDecoder.decode`` writes into it, so a cache can be continued in one way only.
    """

    tgt: list[KeyValue]  # of each layer (n, B, H, K); without keys where there are weights
    weights: list[Tensor | None]  # (BLOCK, H, 1, n) of layers that attend by position alone
    position: Tensor | None  # (BLOCK, D) of the present block of tokens
    memory: list[KeyValue]  # of each layer (B, H, S, K)
    src_mask: Tensor | None  # None where it is all True
    length: int

    def select(self, rows: Tensor) -> "LeanCache":
        """As ``DecoderCache.select``."""
        return self._replace(
            tgt=[KeyValue(key[:, rows], value[:, rows]) for key, value in self.tgt],
            memory=[kv.select(rows) for kv in self.memory],
            src_mask=None if self.src_mask is None else self.src_mask[rows],
        )


class LeanDecoder:
    """Stands in for a model in evaluation mode (``decoding.Decoder``), one token at a time.

    It refers to the model's weights and copies none: making one takes less than a token.
    """

    def __init__(self, model: Seq2Seq) -> None:
        self.model, self.encode, self.logits = model, model.encode, model.logits
        self.layers = [_Layer(layer) for layer in cast(list[DecoderLayer], model.decoder)]
        self.embedding = model.tgt_embedding.weight

    @classmethod
    def of(cls, model: Seq2Seq) -> "LeanDecoder | None":
        """None where the model has a part that is not known here."""
        if type(model) is not Seq2Seq:
            return None
        known = set(KNOWN)
        for layer in cast(list[DecoderLayer], model.decoder):
            own, cross = layer.self_attention.attention, layer.cross_attention.attention
            if not isinstance(own, MultiHeadAttention) or not isinstance(cross, MultiHeadAttention):
                return None
            if not cross.is_published or not (own.is_published or _by_position(own)):
                return None
            known.add(type(own.score))
        return cls(model) if {type(x) for x in model.decoder.modules()} <= known else None

    def start(self, memory: Tensor, src_mask: Tensor) -> LeanCache:
        """As ``Seq2Seq.start``."""
        tgt = [layer.no_tokens(memory) for layer in self.layers]
        kv = [layer.cross.project(memory, memory) for layer in self.layers]
        return LeanCache(tgt, [], None, kv, None if src_mask.all() else src_mask, 0)

    def decode(self, tgt: Tensor, cache: LeanCache) -> tuple[Tensor, LeanCache]:
        """As ``Seq2Seq.decode``, from one token a row (B, 1) to (B, 1, D)."""
        n, i = cache.length, cache.length % BLOCK
        cache = cache if i else self._with_room(cache)
        x = F.embedding(tgt[:, 0], self.embedding) * math.sqrt(self.embedding.shape[1])  # (B, D)
        x = x if cache.position is None else x + cache.position[i]
        parts = zip(self.layers, cache.tgt, cache.weights, cache.memory, strict=True)
        for layer, (keys, values), weights, memory in parts:
            y = layer.pre[0](x)
            values[n] = layer.value(y).view(values.shape[1:])
            if weights is None:
                keys[n] = layer.key(y).view(values.shape[1:])
                key, value = (past[: n + 1].permute(1, 2, 0, 3) for past in (keys, values))
                query = layer.query(y).view(len(x), -1, 1, values.shape[-1])
                output = F.scaled_dot_product_attention(query, key, value, enable_gqa=True)
            else:
                output = weights[i] @ layer.own.repeat_heads(values.permute(1, 2, 0, 3))
            x = layer.post[0](x + layer.output(output.flatten(1)))
            query = layer.cross_query(layer.pre[1](x)).view(len(x), -1, 1, memory.key.shape[-1])
            output = F.scaled_dot_product_attention(query, *memory, cache.src_mask, enable_gqa=True)
            x = layer.post[1](x + layer.cross_output(output.flatten(1)))
            x = layer.post[2](x + layer.down(torch.relu_(layer.up(layer.pre[2](x)))))
        return self.model.decoder_norm(x)[:, None], cache._replace(length=n + 1)

    def _with_room(self, cache: LeanCache) -> LeanCache:
        """For another block of tokens, with what depends on their positions alone."""
        start, end, position = cache.length, cache.length + BLOCK, self.model.tgt_position
        return cache._replace(
            tgt=[KeyValue(*(F.pad(x, (0,) * 7 + (BLOCK,)) for x in kv)) for kv in cache.tgt],
            weights=[layer.weights(start, end) for layer in self.layers],
            position=None if position is None else position(start, end),
        )


class _Layer:
    """The parts of a ``DecoderLayer`` as functions of the vectors (B, D) of one token a row."""

    def __init__(self, layer: DecoderLayer) -> None:
        own, cross = layer.self_attention.attention, layer.cross_attention.attention
        self.own, self.cross = cast(MultiHeadAttention, own), cast(MultiHeadAttention, cross)
        self.by_position = _by_position(self.own)
        if not self.by_position:
            self.query, self.key = _linear(self.own.query_proj), _linear(self.own.key_proj)
        self.value, self.output = _linear(self.own.value_proj), _linear(self.own.output_proj)
        self.cross_query = _linear(self.cross.query_proj)
        self.cross_output = _linear(self.cross.output_proj)
        feed_forward = layer.feed_forward
        self.up, self.down = _linear(feed_forward.up_proj), _linear(feed_forward.down_proj)
        sublayers = layer.self_attention, layer.cross_attention, feed_forward
        norms = [_norm(sublayer.connection.norm) for sublayer in sublayers]
        unchanged: list[Function] = [lambda x: x] * 3
        pre_norm = feed_forward.connection.pre_norm
        self.pre, self.post = (norms, unchanged) if pre_norm else (unchanged, norms)

    def no_tokens(self, memory: Tensor) -> KeyValue:
        """Keys and values of a target that has not begun."""
        value = self.own.split_heads(self.own.value_proj(memory[:, :0])).permute(2, 0, 1, 3)
        return KeyValue(value[:, :, : 0 if self.by_position else None], value)

    def weights(self, start: int, end: int) -> Tensor | None:
        """(T, H, 1, S) of the queries from ``start`` to before ``end``, if they have any."""
        if not self.by_position:
            return None
        n_heads, weight = self.own.n_heads, self.own.value_proj.weight
        # Such scores look at no more than the shapes.
        key = weight.new_zeros(1, n_heads, end, len(self.own.output_proj.weight) // n_heads)
        query, keys = key[:, :, start:], torch.arange(end, device=weight.device)
        scores = self.own.score(query, key, Positions(keys[start:], keys))
        scores = scores.expand(1, n_heads, end - start, end)
        scores = scores.masked_fill(~causal_mask(end - start, end, weight.device), -math.inf)
        return self.own.normalize(scores)[0].transpose(0, 1).unsqueeze(2)


def _by_position(attention: MultiHeadAttention) -> bool:
    """Whether its weights depend on positions alone."""
    is_plain = not attention.modifiers and not attention.window
    return is_plain and isinstance(attention.query_proj, nn.Identity)


def _linear(module: Any) -> Function:
    return partial(F.linear, weight=module.weight, bias=module.bias)


def _norm(module: nn.LayerNorm) -> Function:
    names = "normalized_shape", "weight", "bias", "eps"
    return partial(F.layer_norm, **{name: getattr(module, name) for name in names})
