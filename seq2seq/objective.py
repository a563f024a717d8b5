"""What training minimises: from a batch of ids to its loss."""

from torch import Tensor, nn

from seq2seq.batches import Batch
from seq2seq.loss import two_pass_loss, vocabulary_loss
from seq2seq.model import Seq2Seq
from seq2seq.settings import TrainConfig
from seq2seq.tokenizer import PAD

R_DROP_FROM = 0.5  # of ``epochs``; docs/experiments.md has what reading twice throughout gave


def r_drop_at(config: TrainConfig, progress: float) -> float:
    """R-Drop's α, as soon as a share ``progress`` of the training, in [0, 1], is done."""
    return config.r_drop if progress >= R_DROP_FROM else 0.0


def batch_loss(model: Seq2Seq, batch: Batch, smoothing: float) -> Tensor:
    """Loss of a batch, summed over its target tokens (padding does not count)."""
    x, _ = model.decode(batch.tgt_in, model.start(*model.encode(batch.src)))
    counts = batch.labels != PAD
    return vocabulary_loss(x[counts], model.output.weight, batch.labels[counts], smoothing)


def r_drop_loss(model: Seq2Seq, batch: Batch, smoothing: float, agreement: float) -> Tensor:
    """Loss of a batch read twice at once, each time with other dropout, summed as above."""
    src, tgt_in = batch.src.repeat(2, 1), batch.tgt_in.repeat(2, 1)
    x, _ = model.decode(tgt_in, model.start(*model.encode(src)))
    x = x.unflatten(0, (2, -1))  # (2, B, T, D)
    counts = batch.labels != PAD
    weight = model.output.weight
    return two_pass_loss(x[:, counts], weight, batch.labels[counts], smoothing, agreement)


class Objective(nn.Module):
    """What gradients are taken of: ids in, loss out."""

    def __init__(self, model: Seq2Seq, smoothing: float) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, src: Tensor, tgt: Tensor, agreement: float) -> Tensor:
        """The loss of ``src`` (B, S) and ``tgt`` (B, T + 1); ``agreement``: R-Drop's α, or 0."""
        batch = Batch(src, tgt)
        if agreement:
            return r_drop_loss(self.model, batch, self.smoothing, agreement)
        return batch_loss(self.model, batch, self.smoothing)
