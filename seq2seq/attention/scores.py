"""Step 2 of attention: ways to compare a query with a key.

Each takes query (B, H, T, K), key (B, H, S, K) and their positions, i and j in the formulas, and
returns scores that broadcast to (B, H, T, S). A class is constructed with its ``Place``.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.attention.registry import POSITIONS, SCORES, AttentionModifier, Place, Positions


@SCORES.add("scaled_dot", "s = q · k / √K", "arXiv:1706.03762", inner_product=True)
def scaled_dot(query: Tensor, key: Tensor, positions: Positions) -> Tensor:
    """The inner product, as in ``attention`` (Vaswani et al. 2017)."""
    return (query / math.sqrt(query.shape[-1])) @ key.transpose(-2, -1)


@SCORES.add("dot", "s = q · k", "arXiv:1508.04025", inner_product=True)
def dot(query: Tensor, key: Tensor, positions: Positions) -> Tensor:
    """The inner product without the root (Luong et al. 2015)."""
    return query @ key.transpose(-2, -1)


@SCORES.add("additive", "s = vᵀ tanh(q + k)", "arXiv:1409.0473")
class Additive(nn.Module):
    """In each head a network whose first layer is the query and key projections (Bahdanau 2015).

    All pairs at once take K times the memory of an inner product.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.v = nn.Parameter(torch.empty(place.n_heads, place.head_width).uniform_(-1, 1))

    def forward(self, query: Tensor, key: Tensor, positions: Positions) -> Tensor:
        both = torch.tanh(query.unsqueeze(-2) + key.unsqueeze(-3))  # (B, H, T, S, K)
        return (both @ self.v[:, None, :, None]).squeeze(-1)  # (B, H, T, S)


@SCORES.add("cosine", "s = g (q / |q|) · (k / |k|)", "arXiv:2010.04245", inner_product=True)
class Cosine(nn.Module):
    """Cosine similarity times a learned g per head (QK-norm, Henry et al. 2020).

    Lengths cannot saturate the softmax. g starts at 10, near the log₂(L² - L)
    advised for sentences of L = 32 tokens; in the paper all heads share one.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.full((place.n_heads,), 10.0))

    def forward(self, query: Tensor, key: Tensor, positions: Positions) -> Tensor:
        cosine = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        return self.g[:, None, None] * cosine


@POSITIONS.add("gaussian", "s -= (j - c - r i)² / 2σ²", "arXiv:1810.10182")
@SCORES.add("gaussian", "s = -(j - c - r i)² / 2σ²", "arXiv:2005.00742", content_based=False)
class Gaussian(AttentionModifier):
    """Positions alone, learned from c = 0, -1, 1, -2, ..., r = σ = 1; You et al. 2020 fix them.

    Or added to a score of content: Yang et al. 2018 predict center and width from the query.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        heads = torch.arange(place.n_heads)
        self.c = nn.Parameter(((heads + 1) // 2 * (1 - 2 * (heads % 2))).float())
        self.r = nn.Parameter(torch.ones(place.n_heads))
        self.log_sigma = nn.Parameter(torch.zeros(place.n_heads))

    def forward(self, query: Tensor, key: Tensor, positions: Positions) -> Tensor:
        c, r, sigma = (x[:, None, None] for x in (self.c, self.r, self.log_sigma.exp()))
        offset = positions.key - c - r * positions.query[:, None]  # (H, T, S)
        return (-0.5 * (offset / sigma) ** 2).unsqueeze(0)

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        return scores + self(q, k, positions)


@SCORES.add(
    "one_content_head",
    "s = q · k / √K in the last head, -(j - c - r i)² / 2σ² in the others",
    "arXiv:2002.10260",
    content_heads=1,
    needs_whole_heads=True,
)
class OneContentHead(Gaussian):
    """Content in a single head, learned positions in all others (after Raganato et al. 2020).

    Their positional heads are fixed, and in the encoder only. One query and one key are projected.
    """

    def __init__(self, place: Place) -> None:
        super().__init__(place._replace(n_heads=place.n_heads - 1))

    def forward(self, query: Tensor, key: Tensor, positions: Positions) -> Tensor:
        content = scaled_dot(query[:, -1:], key[:, -1:], positions)  # (B, 1, T, S)
        positional = super().forward(query, key, positions).expand(len(query), -1, -1, -1)
        return torch.cat([positional, content], dim=1)


@SCORES.add("uniform", "s = 0", "a control: the mean of the values", content_based=False)
def uniform(query: Tensor, key: Tensor, positions: Positions) -> Tensor:
    """No comparison at all."""
    return query.new_zeros(1, 1, query.shape[-2], key.shape[-2])
