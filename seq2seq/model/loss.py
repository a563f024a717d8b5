"""The training loss: label-smoothed cross-entropy over the vocabulary, and R-Drop.

With decoder vectors x (N, D), output weights W (V, D) and labels y (N), the logits are x Wᵀ and

    loss = Σ (log Σ exp(logits) - (1 - ε) logits[y] - ε mean(logits))

with labels smoothed by ε (Szegedy et al. 2016). For 4,000 tokens and 8,000 subwords the logits take
128 MB, and autograd would make several tensors of that size; moving them takes longer than the
matrix products. ``ChunkedCrossEntropy`` turns the logits into their gradient in place, a few rows
at a time, in the format of the products.

R-Drop (Wu et al. 2021, arXiv:2106.14448) reads each batch twice. Dropout makes the predictions p
and q differ, and the loss asks them to agree:

    loss = Σ ((CE(p) + CE(q)) / 2 + α/4 (KL(p‖q) + KL(q‖p)))
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seq2seq.cpu import to_autocast_dtype
from seq2seq.data.batches import Batch
from seq2seq.data.tokenizer import PAD
from seq2seq.model.transformer import Seq2Seq

CHUNK = 4096  # rows of logits made by one product, fewer where that is more than 128 MB
ROWS = 64  # of the last chunk are filled up to a multiple of this: few shapes (``batches.py``)
CACHED = 400_000  # logits that a core's cache holds


class ChunkedCrossEntropy(torch.autograd.Function):
    """Summed loss of x (P, N, D), weight (V, D) and labels (N) for P passes over the N tokens."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, r_drop_alpha: float
    ) -> Tensor:
        n_passes = len(x)
        loss = torch.zeros((), device=x.device)
        grad_x, grad_weight = torch.empty_like(x), torch.zeros_like(weight)
        mean_weight, weight = weight.mean(dim=0), to_autocast_dtype(weight)
        n_chunk = min(CHUNK, max(ROWS, 2**25 // len(weight))) // n_passes  # tokens
        n = max(1, CACHED // len(weight) // n_passes) if x.device.type == "cpu" else n_chunk
        for start in range(0, len(labels), n_chunk):
            tokens = slice(start, start + n_chunk)
            chunk = to_autocast_dtype(x[:, tokens].flatten(0, 1))  # (P chunk, D)
            n_rows = len(chunk)
            chunk = F.pad(chunk, (0, 0, 0, -n_rows % ROWS))
            logits = chunk @ weight.T  # 0 for the rows filled up, and so is their gradient
            parts = logits[:n_rows].unflatten(0, (n_passes, -1)).split(n, dim=1)
            for part, label in zip(parts, labels[tokens, None].split(n), strict=True):
                loss += _turn_into_gradient(part, label, smoothing, r_drop_alpha)
            if any(ctx.needs_input_grad):
                grad_chunk = (logits @ weight)[:n_rows] - smoothing / n_passes * mean_weight
                grad_x[:, tokens] = grad_chunk.unflatten(0, (n_passes, -1))
                grad_weight += logits.T @ chunk
        grad_weight -= smoothing / n_passes / len(weight) * x.sum(dim=(0, 1))
        ctx.save_for_backward(grad_x, grad_weight)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        grad_x, grad_weight = ctx.saved_tensors
        return grad_x * grad_outputs[0], grad_weight * grad_outputs[0], None, None, None


def _turn_into_gradient(
    logits: Tensor, labels: Tensor, smoothing: float, r_drop_alpha: float
) -> Tensor:
    """The summed loss of logits (P, N, V) and labels (N, 1); the logits become their gradient.

    That is softmax - (1 - ε) onehot(y) - ε / V, over P. The last term, the same for the whole
    vocabulary, is left to the caller.
    """
    n_passes = len(logits)
    log_p = logits.float().log_softmax(dim=2)
    label_log_p = log_p.gather(2, labels.expand(n_passes, -1, 1))
    loss = -((1 - smoothing) * label_log_p.sum() + smoothing * log_p.mean(dim=2).sum()) / n_passes
    if n_passes == 1:
        gradients = [log_p.exp_()[0]]  # in place: log_p is not needed any more
    else:
        divergence, gradients = _r_drop(log_p, r_drop_alpha)
        loss += divergence
    label_grad = torch.full_like(label_log_p[0], (smoothing - 1) / n_passes)
    for rows, grad in zip(logits, gradients, strict=True):
        rows.copy_(grad.scatter_add_(1, labels, label_grad))
    return loss


def _r_drop(log_p: Tensor, alpha: float) -> tuple[Tensor, list[Tensor]]:
    """R-Drop's second term, and its gradient plus softmax / 2 by the logits of both passes.

    KL(p‖q) + KL(q‖p) has the gradient p (log p/q - KL(p‖q)) + p - q by the logits of p.
    ``log_p`` (2, tokens, V) is overwritten.
    """
    p_over_q = (log_p[0] - log_p[1]).mul_(alpha / 4)  # (tokens, V)
    p, q = log_p.exp_()
    divergences, gradients = [], []
    for one, other, log_ratio in ((p, q, p_over_q), (q, p, -p_over_q)):
        grad = one * log_ratio
        divergence = grad.sum(dim=1, keepdim=True)
        grad.addcmul_(one, 0.5 + alpha / 4 - divergence).sub_(other, alpha=alpha / 4)
        divergences.append(divergence.sum())
        gradients.append(grad)
    return divergences[0] + divergences[1], gradients


def chunked_cross_entropy(
    x: Tensor, weight: Tensor, labels: Tensor, smoothing: float, r_drop_alpha: float = 0.0
) -> Tensor:
    """``ChunkedCrossEntropy``, without gradients where autograd is off."""
    if not torch.is_grad_enabled():  # a custom function is asked for a parameter's all the same
        x, weight = x.detach(), weight.detach()
    return ChunkedCrossEntropy.apply(x, weight, labels, smoothing, r_drop_alpha)


def batch_loss(model: Seq2Seq, batch: Batch, smoothing: float, r_drop_alpha: float = 0.0) -> Tensor:
    """The loss summed over the target tokens of a batch; α = 0 reads it once."""
    n_passes = 2 if r_drop_alpha else 1
    src, tgt_in = batch.src.repeat(n_passes, 1), batch.tgt_in.repeat(n_passes, 1)
    x, _ = model.decode(tgt_in, model.start(*model.encode(src)))
    x = x.unflatten(0, (n_passes, -1))  # (P, B, T, D)
    counts = batch.labels != PAD
    x, labels = x[:, counts], batch.labels[counts]
    return chunked_cross_entropy(x, model.output.weight, labels, smoothing, r_drop_alpha)
