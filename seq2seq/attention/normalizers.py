"""Step 4 of attention: ways to turn a query's scores into weights.

Each takes scores (B, H, T, S), -inf where masked, with at least one in each row that is not, and
returns weights of the same shape: non-negative, zero where masked. A class is constructed with
its ``Place``. NaN scores give NaN weights: the loss then reports that training diverged.
"""

import math

import torch
from torch import Tensor, nn

from seq2seq.attention.registry import NORMALIZERS, Place


@NORMALIZERS.add("softmax", "w = exp(s) / Σ exp(s)", "arXiv:1706.03762", row_sum="one")
def softmax(scores: Tensor) -> Tensor:
    """As in ``attention`` (Vaswani et al. 2017)."""
    return torch.softmax(scores, dim=-1)


@NORMALIZERS.add(
    "sparsemax", "w = max(0, s - τ), with τ such that Σ w = 1", "arXiv:1602.02068", row_sum="one"
)
def sparsemax(scores: Tensor) -> Tensor:
    """The nearest point of the simplex (Martins and Astudillo 2016)."""
    z = _at_least_float32(scores)
    z = (z - z.amax(dim=-1, keepdim=True)).clamp(min=-2)  # τ ≥ -1: nothing is lost
    ordered = z.sort(dim=-1, descending=True).values
    sums = ordered.cumsum(dim=-1)
    k = torch.arange(1, z.shape[-1] + 1, device=z.device)
    support = (1 + k * ordered > sums).sum(dim=-1, keepdim=True).clamp(min=1)
    tau = (sums.gather(-1, support - 1) - 1) / support
    return torch.relu(z - tau)  # where z = τ, clamp would let a gradient through


@NORMALIZERS.add(
    "entmax15",
    "w = max(0, s / 2 - τ)², with τ such that Σ w = 1",
    "arXiv:1905.05702",
    row_sum="one",
)
def entmax15(scores: Tensor) -> Tensor:
    """Between softmax and sparsemax (Peters et al. 2019).

    The k highest scores, of mean m and variance v, give τ = m - √(1/k - v); k is the largest
    number for which all k stay above it.
    """
    z = _at_least_float32(scores)
    z = ((z - z.amax(dim=-1, keepdim=True)) / 2).clamp(min=-2)  # τ ≥ -1
    ordered = z.sort(dim=-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1, device=z.device)
    mean = ordered.cumsum(dim=-1) / k
    variance = ordered.square().cumsum(dim=-1) / k - mean.square()
    # Above zero, because the root's slope is infinite there.
    taus = mean - (1 / k - variance).clamp(min=1e-12).sqrt()
    support = (taus <= ordered).sum(dim=-1, keepdim=True).clamp(min=1)
    return torch.relu(z - taus.gather(-1, support - 1)).square()


def _at_least_float32(scores: Tensor) -> Tensor:
    """Thresholds are small differences of long sums."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


@NORMALIZERS.add("sigmoid", "w = 1 / (1 + n exp(-s)) for n visible keys", "arXiv:2409.04431")
def sigmoid(scores: Tensor) -> Tensor:
    """Each key by itself; n, fixed in Ramapuram et al. 2024, keeps the first sums near one."""
    n_keys = (scores > -math.inf).sum(dim=-1, keepdim=True)
    return torch.sigmoid(scores - n_keys.log())


@NORMALIZERS.add(
    "softmax_null", "w = exp(s) / (exp(b) + Σ exp(s))", "arXiv:2309.17453", row_sum="at most one"
)
class SoftmaxNull(nn.Module):
    """Softmax with one more key, of value zero (Miller 2023; Xiao et al. 2023).

    The null key's score b is learned, one per head (0 in the papers); its weight is not returned.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(place.n_heads))

    def forward(self, scores: Tensor) -> Tensor:
        null = self.b[:, None, None].to(scores.dtype).expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat([scores, null], dim=-1), dim=-1)[..., :-1]


@NORMALIZERS.add(
    "scalable_softmax",
    "w = exp(g log(n) s) / Σ exp(g log(n) s) for n visible keys",
    "arXiv:2501.19399",
    row_sum="one",
)
class ScalableSoftmax(nn.Module):
    """Softmax that does not flatten as keys become more (SSMax, Nakanishi 2025).

    g is learned, one per head; it starts at 1/3, which is softmax for 20 keys.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.g = nn.Parameter(torch.full((place.n_heads,), 1 / 3))

    def forward(self, scores: Tensor) -> Tensor:
        masked = scores == -math.inf
        factor = self.g[:, None, None] * (~masked).sum(dim=-1, keepdim=True).log()
        # log(1) = 0 times minus infinity would be NaN.
        scaled = factor * scores.masked_fill(masked, 0)
        return torch.softmax(scaled.masked_fill(masked, -math.inf), dim=-1)


@NORMALIZERS.add(
    "top_k", "w = exp(s) / Σ exp(s) over the 8 highest s", "arXiv:2106.06899", row_sum="one"
)
def top_k(scores: Tensor) -> Tensor:
    """Softmax over a query's best keys (Gupta et al. 2021).

    Keys that tie with the eighth count too: which of them come first has no meaning.
    """
    eighth = scores.topk(min(8, scores.shape[-1])).values[..., -1:]
    return torch.softmax(scores.masked_fill(scores < eighth, -math.inf), dim=-1)


@NORMALIZERS.add("relu", "w = max(0, s) / n for n visible keys", "arXiv:2309.08586")
def relu(scores: Tensor) -> Tensor:
    """No exponential and no sum to one (Wortsman et al. 2023, whose n is the same everywhere)."""
    return torch.relu(scores) / (scores > -math.inf).sum(dim=-1, keepdim=True)
