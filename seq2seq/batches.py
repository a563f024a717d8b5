"""Batches: sentence pairs of similar length, padded to rectangles, in reproducible order."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from seq2seq.tokenizer import PAD

Ids = list[int]


@dataclass(frozen=True)
class Batch:
    """Padded ids of B pairs."""

    src: Tensor  # (B, S), each row ends with EOS
    tgt: Tensor  # (B, T + 1), each row from BOS to EOS

    @property
    def tgt_in(self) -> Tensor:
        """(B, T) what the decoder reads: BOS and every token but the last."""
        return self.tgt[:, :-1]

    @property
    def labels(self) -> Tensor:
        """(B, T) what it should predict: every token but BOS."""
        return self.tgt[:, 1:]

    @property
    def n_labels(self) -> int:
        """Target tokens to predict, padding not counted."""
        return int((self.labels != PAD).sum())

    def to(self, device: torch.device) -> "Batch":
        """The batch on ``device``."""
        return Batch(self.src.to(device), self.tgt.to(device))


def pad(sequences: Sequence[Ids]) -> Tensor:
    """(B, longest) ids, short rows filled up with PAD."""
    longest = max(len(ids) for ids in sequences)
    rows = [ids + [PAD] * (longest - len(ids)) for ids in sequences]
    return torch.tensor(rows, dtype=torch.long)


def make_batch(src: Sequence[Ids], tgt: Sequence[Ids], rows: Sequence[int]) -> Batch:
    """The pairs at indices ``rows`` as one batch."""
    return Batch(pad([src[i] for i in rows]), pad([tgt[i] for i in rows]))


def plan_batches(
    src: Sequence[Ids], tgt: Sequence[Ids], batch_tokens: int, shuffle: tuple[int, int] | None
) -> list[list[int]]:
    """Divide pairs into batches of similar length.

    Args:
        src: ids of each source sentence.
        tgt: ids of each target sentence.
        batch_tokens: sentences times the longest side of any of them stays within this; a pair
            that is longer by itself gets a batch of its own.
        shuffle: (seed, epoch) that the order depends on; None for shortest first.

    Returns:
        the indices of each batch's pairs; every pair is in exactly one batch.
    """
    lengths = np.array([(len(t), len(s)) for s, t in zip(src, tgt, strict=True)]).reshape(-1, 2)
    order = np.arange(len(lengths))
    generator = np.random.default_rng(shuffle) if shuffle else None
    if generator:
        generator.shuffle(order)  # sorting is stable: pairs of equal length stay shuffled
    order = order[np.lexsort((lengths[order, 1], lengths[order, 0]))]
    longest = lengths.max(axis=1, initial=0)
    batches: list[list[int]] = []
    width = 0
    for i in order.tolist():
        width = max(width, int(longest[i]))
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            width = int(longest[i])
        batches[-1].append(i)
    if generator:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return batches
