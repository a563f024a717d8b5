"""What the parts of attention have in common (shapes: see ``attention.py``)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Places(NamedTuple):
    """Where tokens stand in their sentences, counted from 0."""

    queries: Tensor  # (T,)
    keys: Tensor  # (S,)

    @property
    def distances(self) -> Tensor:
        """(T, S): how far to the right of each query each key stands; negative to the left."""
        return self.keys - self.queries[:, None]

    @classmethod
    def of(cls, n_queries: int, n_keys: int, start: int, device: torch.device) -> "Places":
        """Of queries from place ``start`` on, and of keys from the first place on."""
        return cls(
            torch.arange(start, start + n_queries, device=device),
            torch.arange(n_keys, device=device),
        )


class Adjustment(nn.Module):
    """A part that changes what passes between the steps of attention; here, nothing.

    Positions and extras override what they need. Adjustments are nested: the first in line is
    asked first before the mask and last after it; extras come in the order of ``extras.py``, then
    the position. Where an extra splits heads, there are twice as many of half the width until
    ``weigh`` brings them together.
    """

    def project(self, queries: Tensor, keys: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """After step 1: queries (B, H, T, K) and keys (B, H, S, K)."""
        return queries, keys

    def score(self, scores: Tensor, queries: Tensor, places: Places) -> Tensor:
        """After step 2: scores (B, H, T, S)."""
        return scores

    def weigh(self, weights: Tensor) -> Tensor:
        """After step 4: weights (B, H, T, S)."""
        return weights

    def mix(self, context: Tensor, weights: Tensor, query: Tensor, places: Places) -> Tensor:
        """After the sum in step 5: context (B, H, T, K), for the tokens ``query`` (B, T, D)."""
        return context
