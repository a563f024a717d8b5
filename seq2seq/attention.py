"""Attention: a query is compared with every key, and the answer is a weighted sum of values.

Queries, keys and values are learned projections of token vectors. In self-attention every
token asks and every token answers; in cross-attention the target's tokens ask and the
source's tokens answer. The steps, in the order in which they stand below:

1. project: vectors become queries, keys and values, one set a head
2. score: each query is compared with every key
3. mask: what a query may not see is ruled out
4. normalise: a query's scores become weights that sum to one
5. mix: the values are summed by their weights, and the heads are merged

Shapes, here and everywhere else: B batch, S source tokens, T target tokens, D model width,
H heads, K = D / H head width, V vocabulary. In this file T counts the tokens that ask and S
those that answer, whichever they are. A mask is boolean, True where a query may attend.

Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn


class KeysValues(NamedTuple):
    """What can be attended to, projected once: keys and values, each (B, H, S, K)."""

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


def scaled_dot_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Compare every query with every key: scores = Q Kᵀ / √K.

    Without the root the scores of wide heads would grow until the softmax saturates.

    Args:
        queries: (B, H, T, K)
        keys: (B, H, S, K)

    Returns:
        scores: (B, H, T, S)
    """
    return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-2, -1)


def uniform_scores(queries: Tensor, keys: Tensor) -> Tensor:
    """Compare nothing: every score is 0, so every key gets the same weight (a control).

    Arguments and result as for ``scaled_dot_scores``.
    """
    return queries.new_zeros(*queries.shape[:-1], keys.shape[-2])


SCORES = {"scaled_dot": scaled_dot_scores, "uniform": uniform_scores}


def softmax_weights(scores: Tensor) -> Tensor:
    """Turn each query's scores into weights: non-negative, sum one, zero where a score is -inf."""
    return torch.softmax(scores, dim=-1)


def causal_mask(n_queries: int, n_keys: int, device: torch.device) -> Tensor:
    """(T, S) mask under which T tokens, the last of S, see themselves and what precedes them."""
    ones = torch.ones(n_queries, n_keys, dtype=torch.bool, device=device)
    return ones.tril(diagonal=n_keys - n_queries)


class Attention(nn.Module):
    """Multi-head attention: softmax(Q Kᵀ / √K) V in H heads side by side.

    Args:
        d_model: D, the width of the vectors that come in and go out.
        n_heads: H, which must divide D.
        scores: how queries are compared with keys, a name in ``SCORES``.
    """

    def __init__(self, d_model: int, n_heads: int, scores: str = "scaled_dot") -> None:
        super().__init__()
        self.n_heads = n_heads
        self.compare = SCORES[scores]
        self.query_weights = nn.Linear(d_model, d_model)
        self.key_weights = nn.Linear(d_model, d_model)
        self.value_weights = nn.Linear(d_model, d_model)
        self.output_weights = nn.Linear(d_model, d_model)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Attend from ``query`` to ``key`` and ``value``.

        Args:
            query: (B, T, D) the tokens that ask.
            key: (B, S, D) the tokens that are compared with.
            value: (B, S, D) the tokens that are passed on; usually ``key`` itself.
            mask: broadcastable to (B, H, T, S); every query needs one key it may attend to.

        Returns:
            context (B, T, D) and weights (B, H, T, S).
        """
        return self.attend(query, self.project(key, value), mask)

    def project(self, key: Tensor, value: Tensor) -> KeysValues:
        """Keys and values of the tokens that answer, for ``attend``, now or at later steps."""
        keys = self.split_heads(self.key_weights(key))
        values = self.split_heads(self.value_weights(value))
        return KeysValues(keys, values)

    def attend(
        self, query: Tensor, memory: KeysValues, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """``forward`` for keys and values that are already projected."""
        queries = self.split_heads(self.query_weights(query))  # (B, H, T, K)
        scores = self.compare(queries, memory.keys)  # (B, H, T, S)
        if mask is not None:
            scores = scores.masked_fill(~mask, -math.inf)
        weights = softmax_weights(scores)
        context = weights @ memory.values  # (B, H, T, K)
        return self.output_weights(self.merge_heads(context)), weights

    def split_heads(self, vectors: Tensor) -> Tensor:
        """(B, T, D) to (B, H, T, K): each head gets its own slice of the width."""
        return vectors.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)

    def merge_heads(self, vectors: Tensor) -> Tensor:
        """(B, H, T, K) to (B, T, D): the heads' slices side by side again."""
        return vectors.transpose(1, 2).flatten(-2)
