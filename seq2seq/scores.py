"""Step 2 of attention: ways to compare a query with a key.

Each takes queries (B, H, T, K), keys (B, H, S, K) and the places of both, and returns scores that
broadcast to (B, H, T, S). A class is made with (n_heads, head_width).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.parts import Places
from seq2seq.registry import SCORES


@SCORES.add("scaled_dot", "inner product")
def scaled_dot(queries: Tensor, keys: Tensor, places: Places) -> Tensor:
    """Scaled inner product: s = q · k / √K.

    Without the root the scores of wide heads would grow until the softmax saturates.

    Vaswani et al. 2017, arXiv:1706.03762
    """
    return (queries / math.sqrt(queries.shape[-1])) @ keys.transpose(-2, -1)


@SCORES.add("dot", "inner product")
def dot(queries: Tensor, keys: Tensor, places: Places) -> Tensor:
    """Inner product: s = q · k.

    Luong, Pham and Manning 2015, arXiv:1508.04025
    """
    return queries @ keys.transpose(-2, -1)


@SCORES.add("additive")
class Additive(nn.Module):
    """A small network that reads both: s = vᵀ tanh(q + k).

    Query and key weights are the network's first layer, so only v, one a head, is new.

    Bahdanau, Cho and Bengio 2015, arXiv:1409.0473
    """

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.empty(n_heads, head_width).uniform_(-1, 1))

    def forward(self, queries: Tensor, keys: Tensor, places: Places) -> Tensor:
        """All pairs at once: K times the memory of an inner product."""
        both = torch.tanh(queries.unsqueeze(-2) + keys.unsqueeze(-3))  # (B, H, T, S, K)
        return (both @ self.v[:, None, :, None]).squeeze(-1)  # (B, H, T, S)


@SCORES.add("cosine", "inner product")
class Cosine(nn.Module):
    """Cosine with a learned temperature: s = g (q / |q|) · (k / |k|).

    Lengths cannot saturate the softmax. g, one a head, starts at 10, near the log₂(L² - L) that
    the authors advise for sentences of L = 32 tokens.

    Henry et al. 2020 (QK-norm), arXiv:2010.04245
    """

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.full((n_heads,), 10.0))

    def forward(self, queries: Tensor, keys: Tensor, places: Places) -> Tensor:
        """Both made unit vectors, then compared."""
        unit_queries, unit_keys = F.normalize(queries, dim=-1), F.normalize(keys, dim=-1)
        return self.g[:, None, None] * (unit_queries @ unit_keys.transpose(-2, -1))


@SCORES.add("gaussian", "no content")
class Gaussian(nn.Module):
    """Location only, learned: s = -(j - c - r i)² / 2σ² for the query at i and the key at j.

    The words do not matter, only where they stand. Heads start at c = 0, -1, 1, -2, ...,
    r = 1, σ = 1.

    You, Sun and Iyyer 2020 (there hard-coded), arXiv:2005.00742
    """

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.c = nn.Parameter(_spread(n_heads))
        self.r = nn.Parameter(torch.ones(n_heads))
        self.log_sigma = nn.Parameter(torch.zeros(n_heads))

    def forward(self, queries: Tensor, keys: Tensor, places: Places) -> Tensor:
        """Neither queries nor keys are looked at."""
        c, r, sigma = (x[:, None, None] for x in (self.c, self.r, self.log_sigma.exp()))
        offset = places.keys - c - r * places.queries[:, None]  # (H, T, S)
        return (-0.5 * (offset / sigma) ** 2).unsqueeze(0)


@SCORES.add("hard_coded", "no content")
def hard_coded(queries: Tensor, keys: Tensor, places: Places) -> Tensor:
    """Location only, fixed: s = -(j - c - i)² / 2 for the query at i and the key at j.

    Each head looks at a place of its own: c = 0, -1, 1, -2, ...

    You, Sun and Iyyer 2020, arXiv:2005.00742
    """
    c = _spread(queries.shape[1], queries.device).to(queries.dtype)
    return (-0.5 * (places.distances - c[:, None, None]) ** 2).unsqueeze(0)


def _spread(n_heads: int, device: torch.device | None = None) -> Tensor:
    """(H,) the place beside the query that each head looks at: 0, -1, 1, -2, ..."""
    heads = torch.arange(n_heads, device=device)
    return ((heads + 1) // 2 * (1 - 2 * (heads % 2))).float()


@SCORES.add("uniform", "no content")
def uniform(queries: Tensor, keys: Tensor, places: Places) -> Tensor:
    """No comparison at all: s = 0.

    A control: what remains is the mean of the values.
    """
    return queries.new_zeros(1, 1, queries.shape[-2], keys.shape[-2])
