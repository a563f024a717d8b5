"""Additions to an attention, any number of them: changes between its five steps."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.attention.registry import MODIFIERS, AttentionModifier, Place, Positions


@MODIFIERS.add("gated", "output = sigmoid(W x + b) ⊙ output", "arXiv:2505.06708")
class Gated(AttentionModifier):
    """A gate between 0 and 1 on every dimension, from the query's token (Qiu et al. 2025).

    This is their G1, after the sum over values and before the output projection, with a bias.
    It is registered first and so modifies the output last: a norm after it would undo the scaling.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        d_model = place.n_heads * place.head_width
        self.gate_proj = nn.Linear(d_model, d_model)

    def modify_output(
        self, output: Tensor, weights: Tensor, x: Tensor, positions: Positions
    ) -> Tensor:
        gate = torch.sigmoid(self.gate_proj(x))  # (B, T, D)
        return gate.unflatten(-1, (output.shape[1], -1)).transpose(1, 2) * output


@MODIFIERS.add(
    "differential",
    "output = (1 - λ₀) norm((w₁ - λ w₂) v), λ₀ = 0.8 - 0.6 exp(-0.3 (l - 1)) in layer l",
    "arXiv:2410.05258",
    splits_heads=True,
    signed=True,
)
class Differential(AttentionModifier):
    """Two attentions, one subtracted: what both attend to cancels out (Ye et al. 2024).

    Queries and keys are split in half, and each half attends; weights sum to 1 - λ, where
    λ = exp(λq₁ · λk₁) - exp(λq₂ · λk₂) + λ₀ is learned for all heads of a layer together. Until the
    subtraction a half counts as a head, with its own slope, offset or temperature where other parts
    have one. The paper halves ``n_heads`` instead of the halves' width.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.lambda_0 = 0.8 - 0.6 * math.exp(-0.3 * (place.layer - 1))
        self.lambda_query = nn.Parameter(torch.randn(2, place.head_width) * 0.1)
        self.lambda_key = nn.Parameter(torch.randn(2, place.head_width) * 0.1)
        self.norm = nn.RMSNorm(2 * place.head_width, eps=1e-5)

    def modify_qk(self, q: Tensor, k: Tensor, positions: Positions) -> tuple[Tensor, Tensor]:
        return self._halve(q), self._halve(k)

    @staticmethod
    def _halve(x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2)  # (B, 2H, T, K / 2)

    def lambda_(self) -> Tensor:
        first, second = (self.lambda_query * self.lambda_key).sum(dim=-1).exp()
        return first - second + self.lambda_0

    def modify_weights(self, weights: Tensor) -> Tensor:
        first, second = weights.unflatten(1, (-1, 2)).unbind(dim=2)  # (B, H, T, S)
        return first - self.lambda_() * second

    def modify_output(
        self, output: Tensor, weights: Tensor, x: Tensor, positions: Positions
    ) -> Tensor:
        exact = output.to(self.norm.weight.dtype)  # under autocast torch warns of anything else
        return (1 - self.lambda_0) * self.norm(exact)  # the subtraction has shortened it


@MODIFIERS.add(
    "talking_heads",
    "s'ₕ = Σ A[h, g] s_g, then w'ₕ = Σ B[h, g] w_g",
    "arXiv:2003.02436",
    signed=True,
)
class TalkingHeads(AttentionModifier):
    """Heads' scores and weights are mixed, at first by the identity (Shazeer et al. 2020)."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.eye(place.n_heads))
        self.b = nn.Parameter(torch.eye(place.n_heads))

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        return torch.einsum("hg,bgts->bhts", self.a, scores)

    def modify_weights(self, weights: Tensor) -> Tensor:
        return torch.einsum("hg,bgts->bhts", self.b, weights)


@MODIFIERS.add("softcap", "s = 50 tanh(s / 50)", "arXiv:2408.00118")
class SoftCap(AttentionModifier):
    """Scores stay between -50 and 50 (Gemma 2, 2024); relative positions are added after it."""

    def __init__(self, place: Place) -> None:
        super().__init__()

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        return 50 * torch.tanh(scores / 50)


@MODIFIERS.add(
    "forgetting",
    "s += Σ log f from key to query, f = σ(w · k + b)",
    "arXiv:2503.02130",
    needs_self_attention=True,
)
class Forgetting(AttentionModifier):
    """Each token makes what lies beyond it fade, by a gate f per head (FoX, Lin et al. 2025).

    Of key and query the left one's gate is left out. f comes from the token's key (with rotary
    positions, as turned), in the paper from the token. The encoder, which the paper does not have,
    forgets in both directions.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(place.n_heads, place.head_width) * place.head_width**-0.5)
        self.b = nn.Parameter(torch.zeros(place.n_heads))

    def modify_scores(self, scores: Tensor, q: Tensor, k: Tensor, positions: Positions) -> Tensor:
        # Not a matrix product, which autocast would compute in bfloat16: the sums are long.
        log_f = F.logsigmoid((k * self.w[:, None]).sum(dim=-1) + self.b[:, None])  # (B, H, S)
        sums = log_f.cumsum(dim=-1)
        return scores - (sums[..., positions.query, None] - sums[..., None, :]).abs()
