"""The loss: how surprised the model is by the reference, token by token.

With vectors x (N, D), output weights W (V, D) and labels y (N), logits are x Wᵀ and

    loss = Σ (log Σ exp(logits) - (1 - ε) logits[y] - ε mean(logits))

which is cross-entropy against labels smoothed by ε (Szegedy et al. 2016). For 4,000 tokens and
8,000 subwords the logits alone take 128 MB, and autograd would make several tables of that size;
moving them took half as long again as the matrix products, or more. ``VocabularyLoss`` therefore
works through the tokens in chunks, and turns each chunk's logits into its gradient in place.
"""

from typing import Any

import torch
from torch import Tensor

CHUNK = 512  # tokens; on two cores 128 to 4,096 were equally fast, 64 slower


class VocabularyLoss(torch.autograd.Function):
    """Summed loss of N tokens from decoder vectors, without ever holding all their logits."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """The loss (a scalar) for x (N, D), weight (V, D), labels (N)."""
        loss = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight)
        mean_weight = weight.mean(dim=0)  # x · mean_weight is the mean of x's logits
        for start in range(0, len(x), CHUNK):
            chunk, label = x[start : start + CHUNK], labels[start : start + CHUNK, None]
            logits = (chunk @ weight.T).float()  # (chunk, V)
            label_logits = logits.gather(1, label)
            highest = logits.amax(dim=1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()  # in place: ``logits`` is gone
            total = exponentials.sum(dim=1, keepdim=True)
            loss += (highest + total.log() - (1 - smoothing) * label_logits).sum()
            loss -= smoothing * (chunk @ mean_weight).float().sum()
            if not any(ctx.needs_input_grad):
                continue
            # d loss / d logits = softmax - (1 - ε) onehot(y) - ε / V; the last part is constant
            # over the vocabulary and goes through mean_weight and the line after the loop.
            grad = exponentials.div_(total)
            grad.scatter_add_(1, label, torch.full_like(label_logits, smoothing - 1))
            grad = grad.to(chunk.dtype)
            grad_x[start : start + CHUNK] = grad @ weight - smoothing * mean_weight
            grad_weight += grad.T @ chunk
        grad_weight -= smoothing / len(weight) * x.sum(dim=0)
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """The gradients that ``forward`` computed, scaled."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_outputs[0], grad_weight * grad_outputs[0], None, None


def vocabulary_loss(x: Tensor, weight: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Label-smoothed cross-entropy, summed over N tokens (equation at the top of this file).

    Args:
        x: (N, D) decoder vectors of the tokens that count, padding left out.
        weight: (V, D) output weights.
        labels: (N) the tokens that follow.
        smoothing: ε, the share of each label spread over the vocabulary.
    """
    loss: Tensor = VocabularyLoss.apply(x, weight, labels, smoothing)
    return loss
