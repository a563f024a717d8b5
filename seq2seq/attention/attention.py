"""Attention: each query is compared with every key, and the output is a weighted sum of values.

Queries, keys and values are learned projections of token vectors. In self-attention every token
has all three; in cross-attention the target has the queries, the source the keys and values.
The five steps:

    1. project    vectors become queries, keys and values
    2. score      each query is compared with every key
    3. mask       keys that a query may not attend to are ruled out
    4. normalize  a query's scores become weights
    5. aggregate  the output is the sum of the values, each times its weight

``attention`` is steps 2 to 5 as published. ``MultiHeadAttention`` adds step 1, several heads, and
the seam for variants: a ``score``, a ``normalizer`` and modifiers can be exchanged by name.

Shapes, here and everywhere else: B batch, S source tokens, T target tokens, D model width, H heads,
K = D / H head width, V vocabulary. In this folder T counts queries and S keys, from either side.
A mask is boolean, True where a query may attend.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.attention.registry import (
    MODIFIERS,
    NORMALIZERS,
    POSITIONS,
    SCORES,
    TYPES,
    AttentionModifier,
    Place,
    Positions,
)
from seq2seq.config import AttentionConfig


def attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """softmax(Q Kᵀ / √K) V.

    Args:
        query: (B, H, T, K)
        key: (B, H, S, K)
        value: (B, H, S, K)
        mask: broadcastable to (B, H, T, S); every query needs a key that it may attend to.

    Returns:
        output (B, H, T, K) and weights (B, H, T, S), each query's summing to one.
    """
    # 2. Score. Without the root, scores would grow with K until the softmax saturates.
    scores = (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)
    # 3. Mask. e to the power of minus infinity is 0.
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    # 4. Normalize.
    weights = torch.softmax(scores, dim=-1)
    # 5. Aggregate.
    return weights @ value, weights


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(T, S): T tokens, the last ones of S, may attend to themselves and to those before them."""
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_keys - n_queries)


class KeyValue(NamedTuple):
    """Projected keys and values, each (B, H, S, K); with ``kv_heads``, fewer than H heads."""

    key: Tensor
    value: Tensor

    def append(self, new: "KeyValue") -> "KeyValue":
        return KeyValue(*(torch.cat(pair, dim=2) for pair in zip(self, new, strict=True)))

    def select(self, rows: Tensor) -> "KeyValue":
        """Only these rows of the batch, in this order."""
        return type(self)(self.key[rows], self.value[rows])


class AttentionTrace(NamedTuple):
    """The results of the steps; where a modifier splits heads, the first three have 2H heads."""

    query: Tensor  # (B, H, T, K), as compared
    key: Tensor  # (B, H, S, K)
    scores: Tensor  # (B, H, T, S), -inf where masked
    weights: Tensor  # (B, H, T, S), as used for the sum
    value: Tensor  # (B, H, S, K)


class Attention(nn.Module):
    """What a layer uses: ``project`` for the tokens attended to, ``forward`` for those that attend.

    Where ``recorded`` is a list, ``forward`` appends the results of the steps to it.
    """

    recorded: list[AttentionTrace] | None = None

    def project(self, key: Tensor, value: Tensor) -> KeyValue:
        raise NotImplementedError

    def record(self, *steps: Tensor) -> None:
        if self.recorded is not None:
            self.recorded.append(AttentionTrace(*steps))


@TYPES.add("multi_head", "softmax(Q Kᵀ / √K) V", "Vaswani et al. 2017, arXiv:1706.03762")
class MultiHeadAttention(Attention):
    """H attentions side by side, each on its own slice of the width, with exchangeable parts.

    With fewer heads for keys and values (``kv_heads``), groups of queries share them: Shazeer
    2019, arXiv:1911.02150; Ainslie et al. 2023, arXiv:2305.13245.
    """

    def __init__(self, d_model: int, config: AttentionConfig, place: Place) -> None:
        super().__init__()
        chosen = MODIFIERS.selected(config.modifiers)
        n_halves = 2 if any(part.splits_heads for part in chosen) else 1
        kv_width = place.head_width * (config.kv_heads or place.n_heads)
        # A half is a head of its own until the halves are joined.
        part_place = place._replace(
            n_heads=n_halves * place.n_heads, head_width=place.head_width // n_halves
        )
        score = SCORES[config.score]
        content_based = score.content_based
        query_width = place.head_width * (score.content_heads or place.n_heads)
        key_width = min(kv_width, query_width)
        self.n_heads, self.window = place.n_heads, config.window

        # The matrices of step 1: query weights, key weights and value weights.
        self.query_proj = nn.Linear(d_model, query_width) if content_based else nn.Identity()
        self.key_proj = nn.Linear(d_model, key_width) if content_based else nn.Identity()
        self.value_proj = nn.Linear(d_model, kv_width)
        self.output_proj = nn.Linear(d_model, d_model)

        self.score = SCORES.make(config.score, part_place)
        self.normalize = NORMALIZERS.make(config.normalizer, part_place)
        modifiers = [MODIFIERS.make(part.name, part_place) for part in chosen]
        if POSITIONS[config.position].is_a(AttentionModifier):
            modifiers.append(POSITIONS.make(config.position, part_place))
        self.modifiers = nn.ModuleList(modifiers)
        parts = config.type, config.score, config.normalizer
        published = parts == ("multi_head", "scaled_dot", "softmax")
        self.is_published = published and not modifiers and not config.window

    def project(self, key: Tensor, value: Tensor) -> KeyValue:
        """Step 1 for keys and values (B, S, D), to be attended to now or at later steps."""
        k = self.split_heads(self.key_proj(key))
        v = self.split_heads(self.value_proj(value))
        return KeyValue(k.contiguous(), v.contiguous())  # read often, head by head

    def forward(
        self, query: Tensor, kv: KeyValue, mask: Tensor | None = None, start: int = 0
    ) -> Tensor:
        """Context (B, T, D): steps 1 to 5 for ``query`` (B, T, D) and projected keys and values.

        ``mask`` as for ``attention``. The first key has position 0, the first query ``start``.
        """
        q = self.split_heads(self.query_proj(query))
        q, k, v = map(self.repeat_heads, (q, *kv))  # (B, H, T, K), twice (B, H, S, K)
        # Three ways to the same result: part by part, torch's kernel, or the function above.
        if self.recorded is not None or not self.is_published:
            output = self.attend_by_parts(query, q, k, v, mask, start)
        elif _sdpa_is_faster(q):
            output = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            output, _ = attention(q, k, v, mask)
        return self.output_proj(self.merge_heads(output))

    def attend_by_parts(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int
    ) -> Tensor:
        """``attention`` with exchangeable parts; x (B, T, D) are the tokens of the queries."""
        modifiers = [cast(AttentionModifier, module) for module in self.modifiers]
        queries = torch.arange(start, start + q.shape[2], device=q.device)
        positions = Positions(queries, torch.arange(k.shape[2], device=k.device))
        for modifier in modifiers:
            q, k = modifier.modify_qk(q, k, positions)
        # 2. Score.
        scores = self.score(q, k, positions)
        scores = scores.expand(*q.shape[:2], *scores.shape[-2:])  # (B, H, T, S)
        for modifier in modifiers:
            scores = modifier.modify_scores(scores, q, k, positions)
        # 3. Mask.
        mask = _windowed(mask, positions, self.window) if self.window else mask
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        # 4. Normalize.
        weights = self.normalize(scores)
        for modifier in reversed(modifiers):  # they nest, see AttentionModifier
            weights = modifier.modify_weights(weights)
        # 5. Aggregate.
        output = weights @ v  # (B, H, T, K)
        for modifier in reversed(modifiers):
            output = modifier.modify_output(output, weights, x, positions)
        self.record(q, k, scores, weights, v)
        return output

    def split_heads(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, K): each head gets its own slice of the width."""
        head_width = self.output_proj.in_features // self.n_heads
        return x.unflatten(-1, (-1, head_width)).transpose(1, 2)

    def repeat_heads(self, x: Tensor) -> Tensor:
        """(B, kv_heads, S, K) to (B, H, S, K): each serves a group of neighboring heads."""
        group = self.n_heads // x.shape[1]
        return x if group == 1 else x.repeat_interleave(group, dim=1)

    def merge_heads(self, x: Tensor) -> Tensor:
        """(B, H, T, K) to (B, T, D): the heads' slices side by side again."""
        return x.transpose(1, 2).flatten(-2)


def _sdpa_is_faster(query: Tensor) -> bool:
    """Whether torch's fused kernel was measured to be faster (docs/performance.md).

    On a CPU it is for a single query only, in bfloat16 only for one of a single sentence.
    """
    single = query.shape[2] == 1
    return query.is_cuda or (single and (query.dtype == torch.float32 or len(query) == 1))


def _windowed(mask: Tensor | None, positions: Positions, window: int) -> Tensor:
    """``mask``, and no key further than ``window`` tokens away (Beltagy et al. 2020).

    A token may always attend to itself, even padding that sees nothing else: no row is empty.
    """
    distance = positions.relative.abs()
    near = distance <= window
    return near if mask is None else (mask & near) | (distance == 0)
