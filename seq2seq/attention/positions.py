"""Positions: absolute ones are added to embeddings, relative ones work inside an attention.

An ``AbsolutePosition`` is constructed with the width of the model, a relative one, which is an
``AttentionModifier``, with its ``Place``. i is the query's position, j the key's.
"""

import math

import torch
from torch import Tensor, nn

from seq2seq.attention.registry import (
    POSITIONS,
    AbsolutePosition,
    AttentionModifier,
    Place,
    Positions,
)


@POSITIONS.add("sinusoidal", "x₂ₙ += sin(i / 10000^(2n/D)), x₂ₙ₊₁ += cos(...)", "arXiv:1706.03762")
class Sinusoidal(AbsolutePosition):
    """Waves added to embeddings, at D / 2 rates (Vaswani et al. 2017)."""

    rates: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model
        rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        self.register_buffer("rates", rates, persistent=False)

    def forward(self, start: int, end: int) -> Tensor:
        angles = torch.arange(start, end, device=self.rates.device)[:, None] * self.rates
        waves = torch.stack([angles.sin(), angles.cos()], dim=-1)  # (T, D / 2, 2)
        return waves.flatten(1)[:, : self.d_model]


@POSITIONS.add("learned", "x += p[i], i < 512; beyond, p[511]", "arXiv:1705.03122")
class Learned(AbsolutePosition):
    """A learned vector for each position (Gehring et al. 2017)."""

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.randn(512, d_model) * d_model**-0.5)

    def forward(self, start: int, end: int) -> Tensor:
        return self.p[torch.arange(start, end, device=self.p.device).clamp(max=len(self.p) - 1)]


@POSITIONS.add("none", "x += 0", "arXiv:2203.16634")
class NoPosition:
    """A bag of tokens, but for what the causal mask reveals (Haviv et al. 2022)."""


@POSITIONS.add(
    "rotary", "s = q R(j - i) k / √K, R a rotation", "arXiv:2104.09864", needs_inner_product=True
)
class Rotary(AttentionModifier):
    """RoPE: dimensions n and n + K / 2 turn with position, neighbors in Su et al. 2021."""

    rates: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        if place.head_width % 2:
            raise ValueError(
                f"rotary positions turn pairs, but the head width is {place.head_width}"
            )
        rates = 10000.0 ** (-torch.arange(0, place.head_width, 2) / place.head_width)
        self.register_buffer("rates", rates, persistent=False)

    def modify_qk(self, q: Tensor, k: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        return self._rotate(q, positions.query), self._rotate(k, positions.key)

    def _rotate(self, x: Tensor, positions: Tensor) -> Tensor:
        angles = positions[:, None] * self.rates  # (T, K / 2)
        sin, cos = angles.sin().to(x.dtype), angles.cos().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@POSITIONS.add("alibi", "s -= 2^(-8h/H) |j - i| in head h", "arXiv:2108.12409")
class Alibi(AttentionModifier):
    """A fixed penalty for distance, here the same on both sides (Press et al. 2022).

    Between two powers of two, P < H < 2P: the slopes of P heads, then every second one of 2P heads.
    """

    slopes: Tensor

    def __init__(self, place: Place) -> None:
        super().__init__()
        power = 1 << (place.n_heads.bit_length() - 1)
        h = torch.arange(1, place.n_heads + 1)
        slopes = 2.0 ** (-torch.where(h <= power, 8 * h, 8 * (h - power) - 4) / power)
        self.register_buffer("slopes", slopes, persistent=False)

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        return scores - self.slopes[:, None, None] * positions.relative.abs()


@POSITIONS.add("t5", "s += b[bucket(j - i)]", "arXiv:1910.10683")
class T5Buckets(AttentionModifier):
    """A learned score per head for each range of distances (Raffel et al. 2020).

    32 buckets, half of them to the right, except under a causal mask. On each side the first half
    have one distance each, the others grow by a factor up to 128. In the paper layers share b.
    """

    starts: Tensor  # the smallest distance of each bucket but the first

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.causal, n_buckets = place.causal, 32
        exact = n_buckets // 2 if place.causal else n_buckets // 4
        wide = [math.ceil(exact * (128 / exact) ** (n / exact)) for n in range(1, exact)]
        starts = torch.tensor([*range(1, exact + 1), *wide])
        self.register_buffer("starts", starts, persistent=False)
        self.bias = nn.Parameter(torch.zeros(place.n_heads, n_buckets))

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        return scores + self.bias[:, self.bucket(positions.relative)]

    def bucket(self, relative: Tensor) -> Tensor:
        """The bucket of each relative position; those to the right come last."""
        side = torch.bucketize(relative.abs(), self.starts, right=True)
        return side if self.causal else side + (len(self.starts) + 1) * (relative > 0)


@POSITIONS.add(
    "shaw",
    "s += q · a[j - i] / √K, output += Σ w b[j - i]",
    "arXiv:1803.02155",
    needs_inner_product=True,
    needs_whole_heads=True,
)
class Shaw(AttentionModifier):
    """Learned vectors for distances up to 16, shared by all heads (Shaw et al. 2018)."""

    furthest = 16

    def __init__(self, place: Place) -> None:
        super().__init__()
        n_distances, width = 2 * self.furthest + 1, place.head_width
        self.a = nn.Parameter(torch.randn(n_distances, width) * width**-0.5)
        self.b = nn.Parameter(torch.zeros(n_distances, width))

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        by_distance = (q / math.sqrt(q.shape[-1])) @ self.a.T  # (B, H, T, distances)
        return scores + by_distance.gather(-1, self._index(positions).expand(scores.shape))

    def modify_output(
        self, output: Tensor, weights: Tensor, x: Tensor, positions: Positions
    ) -> Tensor:
        by_distance = weights.new_zeros(*weights.shape[:-1], len(self.b))
        index = self._index(positions).expand(weights.shape)
        return output + by_distance.scatter_add(-1, index, weights) @ self.b

    def _index(self, positions: Positions) -> Tensor:
        return positions.relative.clamp(-self.furthest, self.furthest) + self.furthest


@POSITIONS.add("kerple", "s -= a log(1 + b |j - i|)", "arXiv:2205.09921")
class Kerple(AttentionModifier):
    """A penalty that grows ever slower with distance, the same on both sides (Chi et al. 2022).

    a and b are learned as logarithms, one per head; they start as in the authors' code.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.log_a = nn.Parameter(torch.empty(place.n_heads).uniform_(0.01, 2).log())
        self.log_b = nn.Parameter(torch.empty(place.n_heads).uniform_(0.01, 1).log())

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        a, b = (x.exp()[:, None, None] for x in (self.log_a, self.log_b))
        return scores - a * torch.log1p(b * positions.relative.abs())


@POSITIONS.add(
    "cope",
    "s += q · e[p] / √K, p = Σ σ(s) from j to i, up to 32",
    "arXiv:2405.18719",
    needs_self_attention=True,
    needs_inner_product=True,
)
class ContextualPosition(AttentionModifier):
    """CoPE: a distance p counts only the tokens that matter to the query (Golovneva et al. 2024).

    Both ends count, and e is interpolated. The encoder has vectors of its own for keys to the
    right, where the paper has no keys.
    """

    furthest = 32

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.n_sides = 1 if place.causal else 2
        self.e = nn.Parameter(torch.zeros(place.head_width, self.n_sides * (self.furthest + 1)))

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        gates = torch.sigmoid(scores.to(self.e.dtype))
        sums, at = gates.cumsum(dim=-1), positions.query[:, None].expand(*scores.shape[:-1], 1)
        right = positions.relative > 0
        first = torch.where(right, gates.gather(-1, at), gates)  # of what is summed, in neither sum
        p = ((sums - sums.gather(-1, at)).abs() + first).clamp(max=self.furthest)
        below = p.detach().nan_to_num().long()  # NaN stays in p, but can be no index
        above = (below + 1).clamp(max=self.furthest)
        side = right * (self.n_sides - 1) * (self.furthest + 1)
        by_p = (q / math.sqrt(q.shape[-1])) @ self.e  # (B, H, T, sides of e)
        low, high = by_p.gather(-1, below + side), by_p.gather(-1, above + side)
        return scores + low + (p - below) * (high - low)
