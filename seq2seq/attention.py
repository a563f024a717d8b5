"""Attention: a query is compared with every key, and the answer is a weighted sum of values.

Queries, keys and values are learned projections of token vectors. In self-attention every
token asks and every token answers; in cross-attention the target's tokens ask and the
source's tokens answer. The steps, in the order in which they stand in ``Attention.attend``:

1. project: vectors become queries, keys and values, one set a head
2. score: each query is compared with every key
3. mask: what a query may not see is ruled out
4. normalise: a query's scores become weights
5. mix: the values are summed by their weights, and the heads are merged

What may vary is a part with a name: ``scores.py`` holds ways to compare, ``normalizers.py`` ways
to make weights; ``positions.py`` and ``extras.py`` hold adjustments between the steps.

Shapes, here and everywhere else: B batch, S source tokens, T target tokens, D model width,
H heads, K = D / H head width, V vocabulary. In these files T counts the tokens that ask and S
those that answer, whichever they are. A mask is boolean, True where a query may attend.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
"""

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import seq2seq.extras
import seq2seq.normalizers
import seq2seq.positions
import seq2seq.scores  # noqa: F401  (each of the four registers its parts)
from seq2seq.errors import Impossible
from seq2seq.parts import Adjustment, Places
from seq2seq.registry import EXTRAS, KINDS, NORMALIZERS, POSITIONS, SCORES
from seq2seq.settings import AttentionConfig


class KeysValues(NamedTuple):
    """What can be attended to, projected once: keys and values, each (B, H, S, K).

    With grouped heads (``kv_heads``) there are fewer than H of them.
    """

    keys: Tensor
    values: Tensor

    def append(self, new: "KeysValues") -> "KeysValues":
        """These, followed by those of the ``new`` tokens."""
        if self.keys.shape[2] == 0:
            return new
        return KeysValues(*(torch.cat(pair, dim=2) for pair in zip(self, new, strict=True)))

    def select(self, rows: Tensor) -> "KeysValues":
        """Only these ``rows`` of the batch, in this order."""
        return KeysValues(self.keys[rows], self.values[rows])


class Steps(NamedTuple):
    """What the steps of an attention came to, for those who want to see it.

    Where an extra splits heads, there are 2H comparisons: queries, keys and scores of two halves.
    """

    queries: Tensor  # (B, H, T, K), as they are compared
    keys: Tensor  # (B, H, S, K)
    scores: Tensor  # (B, H, T, S), -inf where masked
    weights: Tensor  # (B, H, T, S), those that the values are summed by
    values: Tensor  # (B, H, S, K)


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(T, S) mask under which T tokens, the last of S, see themselves and what precedes them."""
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_keys - n_queries)


def windowed(mask: Tensor | None, places: Places, window: int) -> Tensor:
    """``mask`` and: no key is further than ``window`` tokens from the query (Beltagy et al. 2020).

    A token always sees itself, even padding that sees nothing else, so that no row is empty.
    """
    distances = places.distances.abs()
    near = distances <= window
    return near if mask is None else mask & near | (distances == 0)


def fused_is_faster(queries: Tensor) -> bool:
    """Whether torch's fused kernel was measured to be faster than the steps one by one.

    On a CPU only for a single query, as in decoding; in bfloat16, only for one of one sentence.
    See docs/performance.md.
    """
    single = queries.shape[2] == 1
    return queries.is_cuda or (single and (queries.dtype == torch.float32 or len(queries) == 1))


def check_parts(d_model: int, config: AttentionConfig) -> None:
    """Refuse parts that do not fit together.

    Raises:
        Impossible: names the setting that does not fit.
    """
    n_heads, kv_heads = config.n_heads, config.kv_heads or config.n_heads
    if not n_heads or d_model % n_heads:
        raise Impossible("n_heads", f"must divide model.d_model = {d_model}")
    if n_heads % kv_heads:
        raise Impossible("kv_heads", f"must divide n_heads = {n_heads}")
    is_product = "inner product" in SCORES[config.score].traits
    splits = halves(config) == 2
    if splits and d_model // n_heads % 2:
        raise Impossible("extras", f"a head's width, {d_model // n_heads}, cannot be halved")
    for registry in (SCORES, NORMALIZERS, POSITIONS, EXTRAS):
        for part in registry.chosen(getattr(config, registry.place)):
            if "needs inner product" in part.traits and not is_product:
                what = f"an inner product, which score = {config.score!r} is not"
            elif "needs whole heads" in part.traits and splits:
                what = f"whole heads, which extras = {config.extras!r} split"
            else:
                continue
            raise Impossible(registry.place, f"{part.name!r} needs {what}")


def halves(config: AttentionConfig) -> int:
    """In how many parts each head compares: 2 if an extra splits it."""
    return 2 if any("splits heads" in part.traits for part in EXTRAS.chosen(config.extras)) else 1


@KINDS.add("scored", "any part")
class Attention(nn.Module):
    """Queries compared with keys: normalizer(score(Q, K)) V, in H heads side by side.

    With fewer heads for keys and values (``kv_heads``), groups of queries share them: Shazeer
    2019 (one for all), arXiv:1911.02150; Ainslie et al. 2023, arXiv:2305.13245.

    Vaswani et al. 2017, arXiv:1706.03762

    Args:
        d_model: D, the width of the vectors that come in and go out.
        config: the parts, and H, which must divide D.

    Raises:
        Impossible: the parts do not fit together.
    """

    def __init__(self, d_model: int, config: AttentionConfig) -> None:
        super().__init__()
        check_parts(d_model, config)
        self.n_heads, self.window = config.n_heads, config.window
        n_parts = halves(config)
        sizes = n_parts * config.n_heads, d_model // config.n_heads // n_parts
        kv_width = d_model // config.n_heads * (config.kv_heads or config.n_heads)
        reads_content = "no content" not in SCORES[config.score].traits

        self.query_weights = nn.Linear(d_model, d_model) if reads_content else nn.Identity()
        self.key_weights = nn.Linear(d_model, kv_width) if reads_content else nn.Identity()
        self.value_weights = nn.Linear(d_model, kv_width)
        self.output_weights = nn.Linear(d_model, d_model)
        self.compare = SCORES.make(config.score, *sizes)
        self.normalize = NORMALIZERS.make(config.normalizer, *sizes)
        adjusting = [EXTRAS.make(part.name, *sizes) for part in EXTRAS.chosen(config.extras)]
        if POSITIONS[config.position].is_a(Adjustment):
            adjusting.append(POSITIONS.make(config.position, *sizes))
        self.adjustments = nn.ModuleList(adjusting)
        self.is_plain = (config.score, config.normalizer) == ("scaled_dot", "softmax") and not (
            adjusting or config.window
        )

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from ``query`` to ``key`` and ``value``.

        Args:
            query: (B, T, D) the tokens that ask.
            key: (B, S, D) the tokens that are compared with.
            value: (B, S, D) the tokens that are passed on; usually ``key`` itself.
            mask: broadcastable to (B, H, T, S); every query needs one key it may attend to.

        Returns:
            context (B, T, D) and weights (B, H, T, S).
        """
        context, steps = self.attend(query, self.project(key, value), mask)
        return context, steps.weights if steps else None

    def project(self, key: Tensor, value: Tensor) -> KeysValues:
        """Keys and values of the tokens that answer, for ``attend``, now or at later steps."""
        keys = self.split_heads(self.key_weights(key))
        values = self.split_heads(self.value_weights(value))
        return KeysValues(keys.contiguous(), values.contiguous())  # read often, head by head

    def attend(
        self,
        query: Tensor,
        memory: KeysValues,
        mask: Tensor | None = None,
        start: int = 0,
        need_steps: bool = True,
    ) -> tuple[Tensor, Steps | None]:
        """``forward`` for keys and values that are already projected.

        Args:
            query: (B, T, D) the tokens that ask; the first stands at place ``start``.
            memory: of the tokens that answer; the first stands at place 0.
            mask: as for ``forward``.
            start: tokens before the first that asks.
            need_steps: whether the steps are wanted; without them a fused kernel may be faster.

        Returns:
            context (B, T, D) and, if they were taken one by one, the steps.
        """
        queries = self.split_heads(self.query_weights(query))  # (B, H, T, K)
        keys, values = self.share_heads(memory.keys), self.share_heads(memory.values)
        steps = None
        if self.is_plain and not need_steps and fused_is_faster(queries):
            context = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        else:
            context, steps = self.steps(query, queries, keys, values, mask, start)
        return self.output_weights(self.merge_heads(context)), steps

    def steps(
        self,
        query: Tensor,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        mask: Tensor | None,
        start: int,
    ) -> tuple[Tensor, Steps]:
        """Score, mask, normalise and mix; returns context (B, H, T, K) and what led to it."""
        adjustments = [cast(Adjustment, module) for module in self.adjustments]
        places = Places.of(queries.shape[2], keys.shape[2], start, queries.device)
        for adjustment in adjustments:
            queries, keys = adjustment.project(queries, keys, places)

        scores = self.compare(queries, keys, places)
        scores = scores.expand(*queries.shape[:2], *scores.shape[-2:])  # (B, H, T, S)
        for adjustment in adjustments:
            scores = adjustment.score(scores, queries, places)

        mask = windowed(mask, places, self.window) if self.window else mask
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)

        weights = self.normalize(scores)
        for adjustment in reversed(adjustments):
            weights = adjustment.weigh(weights)

        context = weights @ values  # (B, H, T, K)
        for adjustment in reversed(adjustments):
            context = adjustment.mix(context, weights, query, places)
        return context, Steps(queries, keys, scores, weights, values)

    def through_output(self, values: Tensor) -> Tensor:
        """What each value (B, H, S, K) adds to the output where its weight is 1: (B, H, S, D)."""
        by_head = self.output_weights.weight.unflatten(1, (self.n_heads, -1))  # (D, H, K)
        return values @ by_head.permute(1, 2, 0)

    def split_heads(self, vectors: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, K): each head gets its own slice of the width."""
        width = self.output_weights.in_features // self.n_heads
        return vectors.unflatten(-1, (-1, width)).transpose(1, 2)

    def share_heads(self, vectors: Tensor) -> Tensor:
        """(B, kv_heads, S, K) to (B, H, S, K): each serves a group of neighbouring queries."""
        group = self.n_heads // vectors.shape[1]
        return vectors if group == 1 else vectors.repeat_interleave(group, dim=1)

    def merge_heads(self, vectors: Tensor) -> Tensor:
        """(B, H, T, K) to (B, T, D): the heads' slices side by side again."""
        return vectors.transpose(1, 2).flatten(-2)
