"""Training data: the training pairs as batches, epoch by epoch."""

from collections.abc import Iterable, Iterator
from itertools import compress, tee
from pathlib import Path

from seq2seq.batches import EncodedSentences, Ids, Numbers, plan_batches
from seq2seq.corpus import Pair, stream_split
from seq2seq.errors import UserError
from seq2seq.settings import Config
from seq2seq.tokenizer import Tokenizer


class TrainingData:
    """The training pairs as batches, epoch by epoch.

    Their ids are kept in memory, never their text: with BPE-dropout each epoch reads it again.

    Args:
        config: every setting.
        run: the folder with the prepared corpus.
        tokenizer: makes the ids.

    Raises:
        UserError: the corpus cannot be read, or every pair is longer than ``data.max_tokens``.
    """

    def __init__(self, config: Config, run: Path, tokenizer: Tokenizer) -> None:
        self.config, self.run, self.tokenizer = config, run, tokenizer
        limit = config.data.max_tokens
        self._fits = bytearray()  # whether each pair is short enough
        src, tgt = self._nothing()
        for src_ids, tgt_ids in self._encoded(self._text()):
            fits = max(len(src_ids), len(tgt_ids)) <= limit
            self._fits.append(fits)
            if fits:
                src.append(src_ids)
                tgt.append(tgt_ids)
        self.too_long = len(self._fits) - len(src)
        if not src:
            raise UserError(f"data.max_tokens = {limit}: every training pair is longer")
        batch_tokens = config.train.batch_tokens
        self.n_batches = len(plan_batches(src.lengths, tgt.lengths, batch_tokens, shuffle=None))
        self._undropped = None if config.tokenizer.bpe_dropout else (src, tgt)

    def epoch(self, number: int) -> tuple[list[Numbers], EncodedSentences, EncodedSentences]:
        """Batches of pair indices, and the ids they point into, of one epoch."""
        config = self.config
        src, tgt = self._undropped or self._with_dropout(number)
        shuffle = (config.train.seed, number)
        plan = plan_batches(src.lengths, tgt.lengths, config.train.batch_tokens, shuffle)
        return plan, src, tgt

    def _with_dropout(self, number: int) -> tuple[EncodedSentences, EncodedSentences]:
        """The pairs in the spelling of one epoch."""
        draw = (self.config.train.seed * 10_000 + number) % 2**32
        dropout = self.config.tokenizer.bpe_dropout
        src, tgt = self._nothing()
        for src_ids, tgt_ids in self._encoded(compress(self._text(), self._fits), dropout, draw):
            src.append(src_ids)
            tgt.append(tgt_ids)
        return src, tgt

    def _text(self) -> Iterator[Pair]:
        return stream_split(self.config.data, self.run, "train")

    def _nothing(self) -> tuple[EncodedSentences, EncodedSentences]:
        sizes = self.tokenizer.src_vocab_size, self.tokenizer.tgt_vocab_size
        return EncodedSentences(sizes[0]), EncodedSentences(sizes[1])

    def _encoded(
        self, pairs: Iterable[Pair], bpe_dropout: float = 0.0, seed: int = 0
    ) -> Iterator[tuple[Ids, Ids]]:
        """The ids of both sides of each pair; few pairs are in memory at a time."""
        one, other = tee(pairs)
        src = self.tokenizer.stream_src((src for src, _ in one), bpe_dropout, seed)
        tgt = self.tokenizer.stream_tgt((tgt for _, tgt in other), bpe_dropout, seed)
        return zip(src, tgt, strict=True)
