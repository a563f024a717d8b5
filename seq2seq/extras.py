"""What may be added to an attention: adjustments between its steps, any number of them."""

import torch
from torch import Tensor, nn

from seq2seq.parts import Adjustment, Places
from seq2seq.registry import EXTRAS


@EXTRAS.add("gated")
class Gated(Adjustment):
    """A gate on every output, set by the query's token: context = sigmoid(W x + b) ⊙ context.

    Qiu et al. 2025, arXiv:2505.06708
    """

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.gate_weights = nn.Linear(n_heads * head_width, n_heads * head_width)

    def mix(self, context: Tensor, weights: Tensor, query: Tensor, places: Places) -> Tensor:
        """Scale each dimension of each head by a number between 0 and 1.

        The first extra in line, so the last to mix: a norm after it would undo the scaling.
        """
        gate = torch.sigmoid(self.gate_weights(query))  # (B, T, D)
        return gate.unflatten(-1, (context.shape[1], -1)).transpose(1, 2) * context


@EXTRAS.add("differential", "splits heads", "signed")
class Differential(Adjustment):
    """Two attentions, one subtracted: context = (1 - λ₀) norm((w₁ - λ w₂) v), λ₀ = 0.8.

    Queries and keys are split in half, each half attends, and what both attend to cancels out.
    λ = exp(l₁ · m₁) - exp(l₂ · m₂) + λ₀ is learned; weights sum to 1 - λ. Until the subtraction a
    half counts as a head, with its own slope, place or temperature where the other parts have one.

    Ye et al. 2024, arXiv:2410.05258
    """

    lambda_0 = 0.8

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.l = nn.Parameter(torch.randn(2, head_width) * 0.1)
        self.m = nn.Parameter(torch.randn(2, head_width) * 0.1)
        self.norm = nn.RMSNorm(2 * head_width)

    def project(self, queries: Tensor, keys: Tensor, places: Places) -> tuple[Tensor, Tensor]:
        """Each head becomes two of half its width."""
        return self._halve(queries), self._halve(keys)

    @staticmethod
    def _halve(x: Tensor) -> Tensor:
        return x.unflatten(-1, (2, -1)).transpose(2, 3).flatten(1, 2)  # (B, 2H, T, K / 2)

    def factor(self) -> Tensor:
        """λ."""
        first, second = (self.l * self.m).sum(dim=-1).exp()
        return first - second + self.lambda_0

    def weigh(self, weights: Tensor) -> Tensor:
        """The first half's weights less λ times the second's: (B, H, T, S)."""
        first, second = weights.unflatten(1, (-1, 2)).unbind(dim=2)
        return first - self.factor() * second

    def mix(self, context: Tensor, weights: Tensor, query: Tensor, places: Places) -> Tensor:
        """Each head's context brought back to length √K, for subtraction shortened it."""
        exact = context.to(self.norm.weight.dtype)  # under autocast torch warns of anything else
        return (1 - self.lambda_0) * self.norm(exact)


@EXTRAS.add("talking_heads", "signed")
class TalkingHeads(Adjustment):
    """Heads that hear each other: s'ₕ = Σ A[h, g] s_g, then w'ₕ = Σ B[h, g] w_g.

    Both maps start as the identity.

    Shazeer et al. 2020, arXiv:2003.02436
    """

    def __init__(self, n_heads: int, head_width: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.eye(n_heads)), nn.Parameter(torch.eye(n_heads))

    def score(self, scores: Tensor, queries: Tensor, places: Places) -> Tensor:
        """Each head's scores become a mixture of all heads' scores."""
        return torch.einsum("hg,bgts->bhts", self.a, scores)

    def weigh(self, weights: Tensor) -> Tensor:
        """The same for weights."""
        return torch.einsum("hg,bgts->bhts", self.b, weights)
