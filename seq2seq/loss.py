"""The loss: how surprised the model is by the reference, token by token.

With vectors x (N, D), output weights W (V, D) and labels y (N), logits are x Wᵀ and

    loss = Σ (log Σ exp(logits) - (1 - ε) logits[y] - ε mean(logits))

which is cross-entropy against labels smoothed by ε (Szegedy et al. 2016). For 4,000 tokens and
8,000 subwords the logits alone take 128 MB, and autograd would make several tables of that size;
moving them took half as long again as the matrix products, or more. ``VocabularyLoss`` therefore
works through the tokens in chunks, and turns each chunk's logits into its gradient at once.

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
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, agreement: float
    ) -> Tensor:
        """The loss (a scalar) for x (P, N, D), weight (V, D), labels (N)."""
        n_passes = len(x)
        loss = torch.zeros((), device=x.device)
        grad_x = torch.empty_like(x)
        grad_weight = torch.zeros_like(weight)
        mean_weight = weight.mean(dim=0)
        weight = in_product_precision(weight)
        for start in range(0, len(labels), CHUNK // n_passes):
            tokens = slice(start, start + CHUNK // n_passes)
            chunk = in_product_precision(x[:, tokens].flatten(0, 1))  # (P chunk, D)
            log_p = (chunk @ weight.T).float().log_softmax(dim=1).unflatten(0, (n_passes, -1))
            label = labels[tokens, None]
            label_log_p = log_p.gather(2, label.expand(n_passes, -1, 1))
            loss -= (1 - smoothing) / n_passes * label_log_p.sum()
            loss -= smoothing / n_passes * log_p.mean(dim=2).sum()
            # By logits, CE has softmax - (1 - ε) onehot(y) - ε / V; the last part is constant over
            # the vocabulary and goes through mean_weight and the line after the loop.
            if n_passes == 1:
                by_logits = [log_p.exp_()[0]]  # in place: ``log_p`` is gone
            else:
                divergence, by_logits = _held_together(log_p, agreement)
                loss += divergence
            if not any(ctx.needs_input_grad):
                continue
            grad = torch.empty_like(log_p, dtype=chunk.dtype)
            of_labels = torch.full_like(label_log_p[0], (smoothing - 1) / n_passes)
            for number, table in enumerate(by_logits):
                grad[number] = table.scatter_add_(1, label, of_labels)
            grad = grad.flatten(0, 1)  # (P chunk, V)
            grad_chunk = grad @ weight - smoothing / n_passes * mean_weight
            grad_x[:, tokens] = grad_chunk.unflatten(0, (n_passes, -1))
            grad_weight += grad.T @ chunk
        grad_weight -= smoothing / n_passes / len(weight) * x.sum(dim=(0, 1))
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        """The gradients that ``forward`` computed, scaled."""
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_outputs[0], grad_weight * grad_outputs[0], None, None, None


def _held_together(log_p: Tensor, agreement: float) -> tuple[Tensor, list[Tensor]]:
    """R-Drop's second term, summed; by the logits of each pass, its gradient plus softmax / 2.

    By p's logits, KL(p‖q) + KL(q‖p) has the gradient p (log p/q - KL(p‖q)) + p - q; by q's
    likewise. Here all of that times α/4.

    Args:
        log_p: (2, tokens, V), used up.
        agreement: α.
    """
    p_over_q = (log_p[0] - log_p[1]).mul_(agreement / 4)  # (tokens, V)
    first, second = log_p.exp_()
    divergences, gradients = [], []
    for p, q, log_ratio in ((first, second, p_over_q), (second, first, -p_over_q)):
        grad = p * log_ratio
        divergence = grad.sum(dim=1, keepdim=True)
        grad.addcmul_(p, 0.5 + agreement / 4 - divergence).sub_(q, alpha=agreement / 4)
        divergences.append(divergence.sum())
        gradients.append(grad)
    return divergences[0] + divergences[1], gradients


def vocabulary_loss(
    x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, agreement: float = 0.0
) -> Tensor:
    """Label-smoothed cross-entropy or R-Drop's loss, summed over N tokens (equations above).

    Args:
        x: (P, N, D) decoder vectors of the tokens that count, padding left out; P passes, 1 or 2.
        weight: (V, D) output weights.
        labels: (N) the tokens that follow.
        smoothing: ε, the share of each label spread over the vocabulary.
        agreement: α, what the disagreement of two passes weighs.
    """
    if not torch.is_grad_enabled():  # autograd asks for a parameter's gradient all the same
        x, weight = x.detach(), weight.detach()
    loss: Tensor = VocabularyLoss.apply(x, weight, labels, smoothing, agreement)
    return loss
