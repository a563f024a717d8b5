"""Batches: sentence pairs of similar length, padded to rectangles, in reproducible order."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, pairwise, repeat
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seq2seq.config import Config
from seq2seq.data.corpus import iter_split
from seq2seq.data.tokenizer import PAD, Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError

IntArray = NDArray[np.int32]


class EncodedSentences:
    """The ids of many sentences, all below ``vocab_size``: 2 or 4 bytes each, 8 per sentence."""

    def __init__(self, vocab_size: int, sentences: Iterable[Sequence[int]] = ()) -> None:
        self._ids = array("H" if vocab_size <= 2**16 else "I")
        self._ends = array("Q", [0])  # where each sentence ends, after the start of the first
        for ids in sentences:
            self.append(ids)

    def append(self, ids: Sequence[int]) -> None:
        self._ids.extend(ids)
        self._ends.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, number: int) -> "array[int]":
        return self._ids[self._ends[number] : self._ends[number + 1]]

    @property
    def lengths(self) -> IntArray:
        return np.diff(np.frombuffer(self._ends, dtype=np.uint64)).astype(np.int32)

    def checksum(self, start: int = 0) -> int:
        return crc32(self._ends, crc32(self._ids, start))


Sentences = Sequence[Sequence[int]] | EncodedSentences


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
    def n_target_tokens(self) -> int:
        return int((self.labels != PAD).sum())

    def to(self, device: torch.device) -> "Batch":
        return Batch(self.src.to(device), self.tgt.to(device))


def lengths(sentences: Sequence[Sequence[int]]) -> IntArray:
    return np.array([len(ids) for ids in sentences], dtype=np.int32)


def pad(sequences: Sequence[Sequence[int]]) -> Tensor:
    """(B, longest) ids, short rows filled up with PAD."""
    rows = np.full((len(sequences), max(map(len, sequences))), PAD, dtype=np.int64)
    for row, ids in zip(rows, sequences, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(rows)


def make_batch(src: Sentences, tgt: Sentences, rows: Sequence[int] | IntArray) -> Batch:
    """The pairs at indices ``rows`` as one batch."""
    return Batch(pad([src[i] for i in rows]), pad([tgt[i] for i in rows]))


def make_token_batches(
    src_lengths: IntArray, tgt_lengths: IntArray, max_tokens: int, shuffle: tuple[int, int] | None
) -> list[IntArray]:
    """Indices of pairs of similar length: sentences times the longest is at most ``max_tokens``.

    A pair that is longer by itself gets its own batch. The order, but not the shapes, depends on
    ``shuffle``, a (seed, epoch); None for shortest first.
    """
    order = np.arange(len(src_lengths), dtype=np.int32)
    rng = np.random.default_rng(shuffle) if shuffle else None
    if rng:
        rng.shuffle(order)  # sorting is stable: pairs of equal length stay shuffled
    order = order[np.lexsort((src_lengths[order], tgt_lengths[order]))]
    starts, width = list[int](), 0
    for place, length in enumerate(np.maximum(src_lengths, tgt_lengths)[order].data):
        width = max(width, length)
        if not starts or (place + 1 - starts[-1]) * width > max_tokens:
            starts.append(place)
            width = length
    batches = [order[start:end] for start, end in pairwise([*starts, len(order)])]
    return [batches[i] for i in rng.permutation(len(batches))] if rng else batches


class TrainingData:
    """The training pairs as batches, epoch by epoch.

    Memory holds their ids, never their text: with BPE-dropout each epoch reads it again.
    """

    def __init__(self, config: Config, run: RunFolder, tokenizer: Tokenizer) -> None:
        self.config, self.run, self.tokenizer = config, run, tokenizer
        self._fits = bytearray()  # whether each pair is short enough, without BPE-dropout
        src, tgt = EncodedSentences(len(tokenizer.src)), EncodedSentences(len(tokenizer.tgt))
        sides = [self._encode(side, repeat(True)) for side in (0, 1)]
        for src_ids, tgt_ids in zip(*sides, strict=True):
            fits = max(len(src_ids), len(tgt_ids)) <= config.data.max_tokens
            self._fits.append(fits)
            if fits:
                src.append(src_ids)
                tgt.append(tgt_ids)
        self.n_too_long = len(self._fits) - len(src)
        if not src:
            raise UserError(f"data.max_tokens = {config.data.max_tokens}: all pairs are longer")
        max_tokens = config.train.max_tokens_per_batch
        self.n_batches = len(make_token_batches(src.lengths, tgt.lengths, max_tokens, shuffle=None))
        # Of the ids, to tell whether two processes, or two runs, have the same training data.
        self.checksum = tgt.checksum(src.checksum())
        self._encoded = None if config.tokenizer.bpe_dropout else (src, tgt)

    def epoch(self, number: int) -> tuple[list[IntArray], EncodedSentences, EncodedSentences]:
        """Batches of pair indices, and the ids they point into, of one epoch."""
        train, tokenizer = self.config.train, self.tokenizer
        if self._encoded:
            src, tgt = self._encoded
        else:
            seed = (train.seed * 10_000 + number) % 2**32
            sampling = self._fits, self.config.tokenizer.bpe_dropout, seed
            src = EncodedSentences(len(tokenizer.src), self._encode(0, *sampling))
            tgt = EncodedSentences(len(tokenizer.tgt), self._encode(1, *sampling))
        shuffle = (train.seed, number)
        batches = make_token_batches(src.lengths, tgt.lengths, train.max_tokens_per_batch, shuffle)
        return batches, src, tgt

    def _encode(
        self, side: int, chosen: Iterable[int], bpe_dropout: float = 0.0, seed: int = 0
    ) -> Iterator[list[int]]:
        """The ids of the sources (``side`` 0) or targets (1) of the chosen pairs."""
        subwords = (self.tokenizer.src, self.tokenizer.tgt)[side]
        pairs = compress(iter_split(self.run, self.config.data, "train"), chosen)
        return subwords.encode((pair[side] for pair in pairs), side == 1, bpe_dropout, seed)
