"""What training minimises: from a batch of ids to its loss."""

from torch import Tensor, nn

from seq2seq.batches import Batch
from seq2seq.loss import vocabulary_loss
from seq2seq.model import Seq2Seq
from seq2seq.settings import TrainConfig
from seq2seq.tokenizer import PAD

R_DROP_FROM = 0.5  # of ``epochs``; docs/experiments.md has what reading twice throughout gave


def r_drop_at(config: TrainConfig, progress: float) -> float:
    """R-Drop's α, as soon as a share ``progress`` of the training, in [0, 1], is done."""
    return config.r_drop if progress >= R_DROP_FROM else 0.0


def batch_loss(model: Seq2Seq, batch: Batch, smoothing: float, agreement: float = 0.0) -> Tensor:
    """Loss of a batch, summed over its target tokens (padding does not count).

    Args:
        model: read in the mode that it is in.
        batch: of B pairs.
        smoothing: ε of the labels.
        agreement: R-Drop's α: the batch is read twice, each time with other dropout; 0: once.
    """
    n_passes = 2 if agreement else 1
    src, tgt_in = batch.src.repeat(n_passes, 1), batch.tgt_in.repeat(n_passes, 1)
    x, _ = model.decode(tgt_in, model.start(*model.encode(src)))
    x = x.unflatten(0, (n_passes, -1))  # (P, B, T, D)
    counts = batch.labels != PAD
    return vocabulary_loss(
        x[:, counts], model.output.weight, batch.labels[counts], smoothing, agreement
    )


class Objective(nn.Module):
    """What gradients are taken of: ids in, loss out."""

    def __init__(self, model: Seq2Seq, smoothing: float) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, src: Tensor, tgt: Tensor, agreement: float) -> Tensor:
        """The loss of ``src`` (B, S) and ``tgt`` (B, T + 1); ``agreement``: R-Drop's α, or 0."""
        return batch_loss(self.model, Batch(src, tgt), self.smoothing, agreement)
