"""Batches: sentence pairs of similar length, padded to rectangles, in reproducible order."""

from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seq2seq.tokenizer import PAD

Ids = Sequence[int]
Numbers = NDArray[np.int32]
A_BLOCK = 4096  # sentences


class EncodedSentences:
    """The ids of many sentences in little memory: 2 bytes each, and 4 a sentence.

    They are kept in blocks, so that what is there need not be moved while more is added.

    Args:
        vocab_size: all ids are below it; above 65,536 they take 4 bytes.
    """

    def __init__(self, vocab_size: int) -> None:
        self._kind = "H" if vocab_size <= 2**16 else "I"
        self._blocks: list[tuple[array[int], array[int]]] = []  # ids, where each sentence ends

    def append(self, ids: Ids) -> None:
        """Add a sentence at the end."""
        if not self._blocks or len(self._blocks[-1][1]) == A_BLOCK:
            self._blocks.append((array(self._kind), array("I")))
        of_block, ends = self._blocks[-1]
        of_block.extend(ids)
        ends.append(len(of_block))

    def __len__(self) -> int:
        return sum(len(ends) for _, ends in self._blocks)

    def __getitem__(self, number: int) -> "array[int]":
        block, row = divmod(number, A_BLOCK)
        ids, ends = self._blocks[block]
        return ids[ends[row - 1] if row else 0 : ends[row]]

    @property
    def lengths(self) -> Numbers:
        """(N,) tokens of each sentence."""
        ends = [np.frombuffer(ends, dtype=np.uint32) for _, ends in self._blocks]
        each = [np.diff(of_block, prepend=np.uint32(0)) for of_block in ends]
        return np.concatenate([np.empty(0, np.int32), *each], dtype=np.int32, casting="unsafe")


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


def lengths(sentences: Sequence[Ids]) -> Numbers:
    """(N,) tokens of each sentence."""
    return np.array([len(ids) for ids in sentences], dtype=np.int32)


def pad(sequences: Sequence[Ids]) -> Tensor:
    """(B, longest) ids, short rows filled up with PAD."""
    longest = max(len(ids) for ids in sequences)
    rows = np.full((len(sequences), longest), PAD, dtype=np.int64)
    for row, ids in zip(rows, sequences, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(rows)


def make_batch(
    src: Sequence[Ids] | EncodedSentences,
    tgt: Sequence[Ids] | EncodedSentences,
    rows: Iterable[int],
) -> Batch:
    """The pairs at indices ``rows`` as one batch."""
    rows = list(rows)
    return Batch(pad([src[i] for i in rows]), pad([tgt[i] for i in rows]))


def plan_batches(
    src: Numbers, tgt: Numbers, batch_tokens: int, shuffle: tuple[int, int] | None
) -> list[Numbers]:
    """Divide pairs into batches of similar length.

    Args:
        src: (N,) tokens of each source sentence.
        tgt: (N,) tokens of each target sentence.
        batch_tokens: sentences times the longest side of any of them stays within this; a pair
            that is longer by itself gets a batch of its own.
        shuffle: (seed, epoch) that the order depends on; None for shortest first.

    Returns:
        the indices of each batch's pairs; every pair is in exactly one batch. Whatever the
        shuffle, pairs of the same lengths give batches of the same shapes.
    """
    order = np.arange(len(src), dtype=np.int32)
    generator = np.random.default_rng(shuffle) if shuffle else None
    if generator:
        generator.shuffle(order)  # sorting is stable: pairs of equal length stay shuffled
    order = order[np.lexsort((src[order], tgt[order]))]
    longest = np.maximum(src, tgt)[order]
    starts: list[int] = []
    width = 0
    for place, length in enumerate(longest.data):
        width = max(width, length)
        if not starts or (place + 1 - starts[-1]) * width > batch_tokens:
            starts.append(place)
            width = length
    batches = [order[start:end] for start, end in pairwise([*starts, len(order)])]
    if generator:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return batches
