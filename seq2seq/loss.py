"""The loss: how surprised the model is by the reference, token by token.

With vectors x (N, D), output weights W (V, D) and labels y (N), logits are x Wᵀ and

    loss = Σ (log Σ exp(logits) - (1 - ε) logits[y] - ε mean(logits))

which is cross-entropy against labels smoothed by ε (Szegedy et al. 2016). For 4,000 tokens and
8,000 subwords the logits alone take 128 MB, and autograd would make several tables of that size;
moving them took half as long again as the matrix products, or more. ``VocabularyLoss`` therefore
works through the tokens in chunks, and turns each chunk's logits into its gradient in place.

R-Drop (Wu et al. 2021, arXiv:2106.14448) reads each batch twice (``objective.py`` says from when
on). Dropout makes the two passes differ, and what they predict, p and q, is to agree all the same:

    loss = Σ ((CE(p) + CE(q)) / 2 + α/4 (KL(p‖q) + KL(q‖p)))
"""

from typing import Any

import torch
from torch import Tensor

from seq2seq.machine import in_product_precision

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
        weight = in_product_precision(weight)
        for start in range(0, len(x), CHUNK):
            chunk = in_product_precision(x[start : start + CHUNK])
            label = labels[start : start + CHUNK, None]
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


class TwoPassLoss(torch.autograd.Function):
    """R-Drop's summed loss of N tokens, from the decoder vectors of both passes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, agreement: float
    ) -> Tensor:
        """The loss (a scalar) for x (2, N, D), weight (V, D), labels (N), agreement α."""
        loss = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight)
        mean_weight = weight.mean(dim=0)
        weight = in_product_precision(weight)
        for start in range(0, len(labels), CHUNK // 2):
            tokens = slice(start, start + CHUNK // 2)
            chunk = in_product_precision(x[:, tokens].flatten(0, 1))  # (2 chunk, D)
            label = labels[tokens, None]
            log_p = (chunk @ weight.T).float().log_softmax(dim=1).unflatten(0, (2, -1))
            label_log_p = log_p.gather(2, label.expand(2, -1, 1))
            loss -= (1 - smoothing) / 2 * label_log_p.sum()
            loss -= smoothing / 2 * log_p.mean(dim=2).sum()
            log_ratio = (log_p[0] - log_p[1]).mul_(agreement / 4)  # (chunk, V)
            grad = torch.empty_like(log_p, dtype=chunk.dtype)
            first, second = log_p.exp_()  # in place: ``log_p`` is gone
            both = (first, second, log_ratio), (second, first, -log_ratio)
            for number, (p, q, log_ratio) in enumerate(both):
                # By p's logits, CE is as above, and KL(p‖q) + KL(q‖p) comes to
                # p (log p/q - KL(p‖q)) + p - q; by q's likewise. Here all of that times α/4.
                grad_p = p * log_ratio
                divergence = grad_p.sum(dim=1, keepdim=True)
                loss += divergence.sum()
                grad_p.addcmul_(p, 0.5 + agreement / 4 - divergence).sub_(q, alpha=agreement / 4)
                grad_p.scatter_add_(1, label, torch.full_like(divergence, (smoothing - 1) / 2))
                grad[number] = grad_p
            grad = grad.flatten(0, 1)  # (2 chunk, V)
            grad_chunk = grad @ weight - smoothing / 2 * mean_weight
            grad_x[:, tokens] = grad_chunk.unflatten(0, (2, -1))
            grad_weight += grad.T @ chunk
        grad_weight -= smoothing / 2 / len(weight) * x.sum(dim=(0, 1))
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients that ``forward`` computed, scaled."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_outputs[0], grad_weight * grad_outputs[0], None, None, None


def two_pass_loss(
    x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, agreement: float
) -> Tensor:
    """R-Drop's loss, summed over N tokens (equation at the top of this file).

    Args:
        x: (2, N, D) what two passes made of the same tokens, padding left out.
        weight: (V, D) output weights.
        labels: (N) the tokens that follow.
        smoothing: ε, the share of each label spread over the vocabulary.
        agreement: α, what the passes' disagreement weighs.
    """
    loss: Tensor = TwoPassLoss.apply(x, weight, labels, smoothing, agreement)
    return loss
