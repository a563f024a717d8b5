"""Batches: sentence pairs of similar length, padded to rectangles, in reproducible order.

On a CPU each shape of a matrix product needs a kernel of its own, which takes time to make and
memory to keep. So widths are multiples of 4, numbers of pairs of 8: an epoch of Multi30k then has
43 shapes instead of 192 (docs/performance.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import compress
from typing import TypeVar
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seq2seq.config import Config
from seq2seq.data.corpus import iter_split
from seq2seq.data.encoded import EncodedSentences, Ids, load_encoded, write_sentences
from seq2seq.data.tokenizer import PAD, Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError

WIDTHS, PAIRS = 4, 8  # batches are multiples of these

IntArray = NDArray[np.int32]
Length = TypeVar("Length", int, NDArray[np.integer])
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


def round_up(length: Length) -> Length:
    return (length + WIDTHS - 1) // WIDTHS * WIDTHS


def pad(sequences: Sequence[Sequence[int] | Ids], width: int = 0) -> Tensor:
    """(B, ``width`` or longest) ids, short rows filled up with PAD."""
    rows = np.full((len(sequences), width or max(map(len, sequences))), PAD, dtype=np.int64)
    for row, ids in zip(rows, sequences, strict=True):
        row[: len(ids)] = ids
    return torch.from_numpy(rows)


def make_batch(src: Sentences, tgt: Sentences, rows: Sequence[int] | IntArray) -> Batch:
    """The pairs at indices ``rows`` as one batch."""
    chosen_src, chosen_tgt = [src[i] for i in rows], [tgt[i] for i in rows]
    src_width, tgt_width = (max(map(len, side)) for side in (chosen_src, chosen_tgt))
    tgt_width = 1 + round_up(tgt_width - 1)  # the decoder reads one token less
    return Batch(pad(chosen_src, round_up(src_width)), pad(chosen_tgt, tgt_width))


def lengths(sentences: Sentences) -> NDArray[np.integer]:
    """In the smallest type: sorting takes linear time for numbers of 16 bits."""
    if isinstance(sentences, EncodedSentences):
        all_lengths = np.diff(sentences.ends)
    else:
        all_lengths = np.fromiter(map(len, sentences), np.int64)
    return all_lengths.astype(np.min_scalar_type(all_lengths.max(initial=0) + WIDTHS))


def make_token_batches(
    src: Sentences,
    tgt: Sentences,
    max_tokens: int,
    shuffle: tuple[int, int] | None = None,
    chosen: NDArray[np.bool_] | None = None,
) -> list[IntArray]:
    """Indices of pairs of similar length: sentences times the width is at most ``max_tokens``.

    A pair that is longer by itself gets its own batch. The order, but not the shapes, depends on
    ``shuffle``, a (seed, epoch); None for shortest first. ``chosen`` is a mask of pairs.
    """
    order = np.arange(len(src), dtype=np.int32)
    if chosen is not None:
        order = order[chosen]
    src_widths, tgt_widths = round_up(lengths(src)), round_up(lengths(tgt) - 1)  # without BOS
    rng = np.random.default_rng(shuffle) if shuffle else None
    if rng:
        rng.shuffle(order)  # sorting is stable: pairs of equal widths stay shuffled
    order = order[np.lexsort((src_widths[order], tgt_widths[order]))]
    widths, starts, start = np.maximum(src_widths, tgt_widths)[order], list[int](), 0
    while start < len(order):
        starts.append(start)
        widest = np.maximum.accumulate(widths[start : start + max_tokens // int(widths[start])])
        n = int((widest * np.arange(1, len(widest) + 1) <= max_tokens).sum())
        start += n - n % PAIRS if n > PAIRS else max(1, n)
    batches = np.split(order, starts)[1:]  # there is nothing before the first start
    return [batches[i] for i in rng.permutation(len(batches))] if rng else batches


class TrainingData:
    """The training pairs as batches, epoch by epoch.

    Their ids stay in files. With BPE-dropout, memory holds those of one epoch, which reads the
    texts again.
    """

    def __init__(self, config: Config, run: RunFolder, tokenizer: Tokenizer) -> None:
        self.config, self.run, self.tokenizer = config, run, tokenizer
        src, tgt, checksum = load_encoded(run, config.data, tokenizer)
        src_lengths, tgt_lengths = lengths(src), lengths(tgt)
        self._fits = fits = np.maximum(src_lengths, tgt_lengths) <= config.data.max_tokens
        if not fits.any():
            raise UserError(f"data.max_tokens = {config.data.max_tokens}: all pairs are longer")
        self._encoded, self.n_too_long = (src, tgt), int((~fits).sum())
        max_tokens = config.train.max_tokens_per_batch
        self.n_batches = len(make_token_batches(src, tgt, max_tokens, chosen=fits))
        self.n_target_tokens = int((tgt_lengths[fits] - 1).sum())  # an epoch's, without BOS
        # Of 20 sources, 19 are as long or shorter: longer ones are hardly learned.
        self.usual_src_tokens = int(np.percentile(src_lengths[fits], 95))
        # To tell whether two processes, or two runs, have the same data.
        self.checksum = crc32(fits.tobytes(), checksum) if self.n_too_long else checksum

    def epoch(self, number: int) -> tuple[list[IntArray], EncodedSentences, EncodedSentences]:
        """Batches of pair indices, and the ids they point into, of one epoch."""
        train, dropout = self.config.train, self.config.tokenizer.bpe_dropout
        max_tokens, shuffle = train.max_tokens_per_batch, (train.seed, number)
        if not dropout:
            plan = make_token_batches(*self._encoded, max_tokens, shuffle, self._fits)
            return plan, *self._encoded
        seed = (train.seed * 10_000 + number) % 2**32
        src, tgt = (self._sample(side, dropout, seed) for side in (0, 1))
        return make_token_batches(src, tgt, max_tokens, shuffle), src, tgt

    def _sample(self, side: int, dropout: float, seed: int) -> EncodedSentences:
        """The ids of the sources (``side`` 0) or targets (1) of the short pairs, by BPE-dropout."""
        subwords = (self.tokenizer.src, self.tokenizer.tgt)[side]
        pairs = compress(iter_split(self.run, self.config.data, "train"), self._fits)
        ids = subwords.encode((pair[side] for pair in pairs), side == 1, dropout, seed)
        memory = BytesIO()
        write_sentences(memory, ids, len(subwords))
        return EncodedSentences(memory.getbuffer(), len(subwords))
