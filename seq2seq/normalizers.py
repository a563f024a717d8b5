"""Step 4 of attention: ways to turn a query's scores into weights.

Each takes scores (B, H, T, S), -inf where masked, at least one in a row not, and returns weights
of the same shape: non-negative, zero where masked. A class is made with (n_heads, head_width).
Scores that are no numbers give weights that are none: the loss then says that training diverged.
"""

import math

import torch
from torch import Tensor, nn

from seq2seq.registry import NORMALIZERS


@NORMALIZERS.add("softmax", "sums to one")
def softmax(scores: Tensor) -> Tensor:
    """Exponentials: w = exp(s) / Σ exp(s).

    Vaswani et al. 2017, arXiv:1706.03762
    """
    return torch.softmax(scores, dim=-1)


@NORMALIZERS.add("sparsemax", "sums to one")
def sparsemax(scores: Tensor) -> Tensor:
    """The nearest point of the simplex: w = max(0, s - τ), with τ such that Σ w = 1.

    Low scores get exactly nothing.

    Martins and Astudillo 2016, arXiv:1602.02068
    """
    z = _exact(scores)
    z = (z - z.amax(dim=-1, keepdim=True)).clamp(min=-2)  # τ ≥ -1: nothing is lost
    in_order = z.sort(dim=-1, descending=True).values
    sums = in_order.cumsum(dim=-1)
    k = torch.arange(1, z.shape[-1] + 1, device=z.device)
    support = (1 + k * in_order > sums).sum(dim=-1, keepdim=True).clamp(min=1)
    tau = (sums.gather(-1, support - 1) - 1) / support
    return (z - tau).clamp(min=0)


@NORMALIZERS.add("entmax15", "sums to one")
def entmax15(scores: Tensor) -> Tensor:
    """Between softmax and sparsemax: w = max(0, s / 2 - τ)², with τ such that Σ w = 1.

    The k highest scores, of mean m and variance v, give τ = m - √(1/k - v); k is the largest
    number for which all k stay above it.

    Peters, Niculae and Martins 2019, arXiv:1905.05702
    """
    z = _exact(scores)
    z = ((z - z.amax(dim=-1, keepdim=True)) / 2).clamp(min=-2)  # τ ≥ -1
    in_order = z.sort(dim=-1, descending=True).values
    k = torch.arange(1, z.shape[-1] + 1, device=z.device)
    mean = in_order.cumsum(dim=-1) / k
    variance = in_order.square().cumsum(dim=-1) / k - mean.square()
    # Above zero, because the root's slope is infinite there.
    taus = mean - (1 / k - variance).clamp(min=1e-12).sqrt()
    support = (taus <= in_order).sum(dim=-1, keepdim=True).clamp(min=1)
    return (z - taus.gather(-1, support - 1)).clamp(min=0).square()


def _exact(scores: Tensor) -> Tensor:
    """In float32 at least: thresholds are small differences of long sums."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


@NORMALIZERS.add("sigmoid")
def sigmoid(scores: Tensor) -> Tensor:
    """Every key on its own: w = 1 / (1 + n exp(-s)) for n keys in sight.

    Weights need not sum to one; n keeps their first sum near it.

    Ramapuram et al. 2024, arXiv:2409.04431
    """
    n_keys = (scores > -math.inf).sum(dim=-1, keepdim=True)
    return torch.sigmoid(scores - n_keys.log())


@NORMALIZERS.add("softmax_null", "sums to less than one")
class SoftmaxNull(nn.Module):
    """Softmax over one more key, of value zero: w = exp(s) / (exp(b) + Σ exp(s)).

    A query may so attend to nothing. The null key's score b is learned, one a head.

    Miller 2023, "Attention Is Off By One"; Xiao et al. 2023, arXiv:2309.17453
    """

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.zeros(n_heads))

    def forward(self, scores: Tensor) -> Tensor:
        """The null key's own weight is left out of what is returned."""
        null = self.b[:, None, None].to(scores.dtype).expand(*scores.shape[:-1], 1)
        return torch.softmax(torch.cat([scores, null], dim=-1), dim=-1)[..., :-1]
