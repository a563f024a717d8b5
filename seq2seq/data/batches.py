"""Batches: sentence pairs of similar length, padded to rectangles, in reproducible order."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress, repeat
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
    """The ids of many sentences in one array: 2 or 4 bytes each, and 8 per sentence."""

    def __init__(self, vocab_size: int, sentences: Iterable[Sequence[int]] = ()) -> None:
        self.ids = array("H" if vocab_size <= 2**16 else "I")
        self.ends = array("Q", [0])  # where each sentence ends, after the start of the first
        for ids in sentences:
            self.append(ids)

    def append(self, ids: Sequence[int]) -> None:
        self.ids.extend(ids)
        self.ends.append(len(self.ids))

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> "array[int]":
        return self.ids[self.ends[number] : self.ends[number + 1]]


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
    src: Sentences, tgt: Sentences, max_tokens: int, shuffle: tuple[int, int] | None = None
) -> list[IntArray]:
    """Indices of pairs of similar length: sentences times the longest is at most ``max_tokens``.

    A pair that is longer by itself gets its own batch. The order, but not the shapes, depends on
    ``shuffle``, a (seed, epoch); None for shortest first.
    """
    order = np.arange(len(src), dtype=np.int32)
    src_lengths, tgt_lengths = (
        np.fromiter((len(side[i]) for i in range(len(side))), np.int32) for side in (src, tgt)
    )
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
    batches = np.split(order, starts)[1:]  # there is nothing before the first start
    return [batches[i] for i in rng.permutation(len(batches))] if rng else batches


class TrainingData:
    """The training pairs as batches, epoch by epoch.

    Memory holds their ids, never their text: with BPE-dropout each epoch reads it again.
    """

    def __init__(self, config: Config, run: RunFolder, tokenizer: Tokenizer) -> None:
        self.config, self.run, self.tokenizer = config, run, tokenizer
        self._fits = bytearray()  # whether each pair is short enough, without BPE-dropout
        src, tgt = EncodedSentences(len(tokenizer.src)), EncodedSentences(len(tokenizer.tgt))
        for src_ids, tgt_ids in zip(self._encode(0), self._encode(1), strict=True):
            self._fits.append(max(len(src_ids), len(tgt_ids)) <= config.data.max_tokens)
            if self._fits[-1]:
                src.append(src_ids)
                tgt.append(tgt_ids)
        if not src:
            raise UserError(f"data.max_tokens = {config.data.max_tokens}: all pairs are longer")
        self.n_too_long = self._fits.count(False)
        self.n_batches = len(make_token_batches(src, tgt, config.train.max_tokens_per_batch))
        self.n_target_tokens = len(tgt.ids) - len(tgt)  # an epoch's, which predicts no BOS
        # Of 20 sources, 19 are as long or shorter: longer ones are hardly learned.
        self.usual_src_tokens = int(np.percentile(np.diff(src.ends), 95))
        self.checksum = 0  # to tell whether two processes, or two runs, have the same data
        for column in (src.ids, src.ends, tgt.ids, tgt.ends):
            self.checksum = crc32(column, self.checksum)
        self._encoded = None if config.tokenizer.bpe_dropout else (src, tgt)

    def epoch(self, number: int) -> tuple[list[IntArray], EncodedSentences, EncodedSentences]:
        """Batches of pair indices, and the ids they point into, of one epoch."""
        train, dropout = self.config.train, self.config.tokenizer.bpe_dropout
        seed = (train.seed * 10_000 + number) % 2**32
        src, tgt = self._encoded or (
            EncodedSentences(len(subwords), self._encode(side, self._fits, dropout, seed))
            for side, subwords in enumerate((self.tokenizer.src, self.tokenizer.tgt))
        )
        shuffle = (train.seed, number)
        return make_token_batches(src, tgt, train.max_tokens_per_batch, shuffle), src, tgt

    def _encode(
        self, side: int, chosen: Iterable[int] = repeat(True), dropout: float = 0.0, seed: int = 0
    ) -> Iterator[list[int]]:
        """The ids of the sources (``side`` 0) or targets (1) of the chosen pairs."""
        subwords = (self.tokenizer.src, self.tokenizer.tgt)[side]
        pairs = compress(iter_split(self.run, self.config.data, "train"), chosen)
        return subwords.encode((pair[side] for pair in pairs), side == 1, dropout, seed)
