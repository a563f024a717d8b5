"""Where a token stands: absolute positions in its vector, relative ones in each comparison.

Absolute positions (``AbsolutePosition``) are added to the embeddings that a stack of layers starts
from, and are made with the width of the model; relative ones (``Adjustment``) are part of an
attention, made with (n_heads, head_width). i is the query's place, j the key's.
"""

import math

import torch
from torch import Tensor, nn

from seq2seq.parts import Adjustment, Places
from seq2seq.registry import POSITIONS


class AbsolutePosition(nn.Module):
    """What is added to a token's embedding because of where it stands.

    Args:
        d_model: D, the width of the embeddings.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.d_model = d_model

    def forward(self, start: int, end: int) -> Tensor:
        """(T, D) for the places from ``start`` to before ``end``."""
        raise NotImplementedError


@POSITIONS.add("sinusoidal")
class Sinusoidal(AbsolutePosition):
    """Waves added to embeddings: x₂ₙ += sin(i / 10000^(2n/D)), x₂ₙ₊₁ += cos of the same.

    Vaswani et al. 2017, arXiv:1706.03762
    """

    table: Tensor

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        if d_model % 2:
            raise ValueError("sinusoidal positions are pairs of sine and cosine: d_model is odd")
        self.register_buffer("table", sinusoids(512, d_model), persistent=False)

    def forward(self, start: int, end: int) -> Tensor:
        """The table grows as sentences do."""
        table = self.table  # several threads may be here
        if end > len(table):
            self.table = table = sinusoids(2 * end, self.d_model).to(table)
        return table[start:end]


def sinusoids(n_positions: int, d_model: int) -> Tensor:
    """(T, D) sines and cosines of each place, at D / 2 rates."""
    places = torch.arange(n_positions, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
    angles = places * rates  # (T, D / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


@POSITIONS.add("learned")
class Learned(AbsolutePosition):
    """A learned vector for each place: x += p[i], i < 512; further on, p[511].

    Gehring et al. 2017, arXiv:1705.03122
    """

    def __init__(self, d_model: int) -> None:
        super().__init__(d_model)
        self.p = nn.Parameter(torch.randn(512, d_model) * d_model**-0.5)

    def forward(self, start: int, end: int) -> Tensor:
        """Rows of the table."""
        return self.p[torch.arange(start, end, device=self.p.device).clamp(max=len(self.p) - 1)]


@POSITIONS.add("none")
class NoPosition:
    """No position: x += 0.

    A bag of tokens, but for what the causal mask gives away (Haviv et al. 2022, arXiv:2203.16634)
    """


@POSITIONS.add("rotary", "needs inner product")
class Rotary(Adjustment):
    """Queries and keys turned by their place: s = q R(j - i) k / √K, R a rotation.

    Pairs of dimensions turn at K / 2 rates, so an inner product feels only the distance.

    Su et al. 2021 (RoPE), arXiv:2104.09864
    """

    rates: Tensor

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"rotary positions turn pairs, but a head's width is {head_width}")
        rates = 10000.0 ** (-torch.arange(0, head_width, 2) / head_width)
        self.register_buffer("rates", rates, persistent=False)

    def project(self, queries: Tensor, keys: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Turn both."""
        return self._turn(queries, places.queries), self._turn(keys, places.keys)

    def _turn(self, x: Tensor, places: Tensor) -> Tensor:
        angles = places[:, None] * self.rates  # (T, K / 2)
        sin, cos = angles.sin().to(x.dtype), angles.cos().to(x.dtype)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


@POSITIONS.add("alibi")
class Alibi(Adjustment):
    """A penalty that grows with distance: s -= 2^(-8h/H) |j - i| in head h.

    Press, Smith and Lewis 2022, arXiv:2108.12409
    """

    slopes: Tensor

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        slopes = 2.0 ** (-8 * torch.arange(1, n_heads + 1) / n_heads)
        self.register_buffer("slopes", slopes, persistent=False)

    def score(self, scores: Tensor, queries: Tensor, places: Places) -> Tensor:
        """The same penalty on both sides; what lies ahead the decoder's mask rules out."""
        return scores - self.slopes[:, None, None] * places.distances.abs()


@POSITIONS.add("t5")
class T5Buckets(Adjustment):
    """A learned score for each range of distances: s += b[bucket(j - i)].

    On each side 16 buckets a head: one for each distance below 8, then wider and wider ones, each
    √2 times the one before; the last holds all from 91 on.

    Raffel et al. 2020, arXiv:1910.10683
    """

    starts: Tensor  # the least distance of each bucket but the first

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        starts = torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 23, 32, 46, 64, 91])
        self.register_buffer("starts", starts, persistent=False)
        self.b = nn.Parameter(torch.zeros(n_heads, 2 * (len(starts) + 1)))

    def score(self, scores: Tensor, queries: Tensor, places: Places) -> Tensor:
        """Look the distances up."""
        return scores + self.b[:, self.bucket(places.distances)]

    def bucket(self, distances: Tensor) -> Tensor:
        """The bucket of each distance; those to the right follow those to the left."""
        side = torch.bucketize(distances.abs(), self.starts, right=True)
        return side + (len(self.starts) + 1) * (distances > 0)


@POSITIONS.add("shaw", "needs inner product", "needs whole heads")
class Shaw(Adjustment):
    """Learned vectors for distances: s += q · a[j - i] / √K, context += Σ w b[j - i].

    Distances beyond 16 count as 16; all heads share the vectors.

    Shaw, Uszkoreit and Vaswani 2018, arXiv:1803.02155
    """

    furthest = 16

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(2 * self.furthest + 1, head_width) * head_width**-0.5)
        self.b = nn.Parameter(torch.zeros(2 * self.furthest + 1, head_width))

    def score(self, scores: Tensor, queries: Tensor, places: Places) -> Tensor:
        """Queries meet the vectors of the distances first, then each key picks its own."""
        met = (queries / math.sqrt(queries.shape[-1])) @ self.a.T  # (B, H, T, distances)
        return scores + met.gather(-1, self._clipped(places).expand(scores.shape))

    def mix(self, context: Tensor, weights: Tensor, query: Tensor, places: Places) -> Tensor:
        """Weights are summed by distance first."""
        by_distance = weights.new_zeros(*weights.shape[:-1], len(self.b))
        index = self._clipped(places).expand(weights.shape)
        return context + by_distance.scatter_add(-1, index, weights) @ self.b

    def _clipped(self, places: Places) -> Tensor:
        return places.distances.clamp(-self.furthest, self.furthest) + self.furthest
