"""Subwords: learned by byte-pair encoding, ids for text, text for ids.

sentencepiece does the work. Unknown characters fall back to their bytes, so nothing is lost.
Padding, beginning, end and unknown are ids 0 to 3.
"""

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, islice
from pathlib import Path

import sentencepiece

from seq2seq.errors import UserError
from seq2seq.files import read_bytes, write_bytes
from seq2seq.settings import TokenizerConfig

PAD, BOS, EOS, UNK = range(4)
SPACE = "▁"  # how sentencepiece writes a space
SENTENCES_AT_A_TIME = 4096


def clean(line: str) -> str:
    """``line`` as the tokenizer reads it: valid, composed characters (NFC), no NUL."""
    valid = line.encode("utf-8", "replace").decode("utf-8")
    return unicodedata.normalize("NFC", valid).replace("\0", " ")


def words(text: str) -> list[str]:
    """The words of ``text``, parted by plain spaces, as ``src_words`` and ``tgt_words`` count."""
    return [word for word in clean(text).replace(SPACE, " ").split(" ") if word]


class Tokenizer:
    """Two sentencepiece models, source and target; one and the same for a joint vocabulary.

    Args:
        src: bytes of the source language's model.
        tgt: bytes of the target language's model, or None if the languages share ``src``.

    Raises:
        UserError: the bytes are no sentencepiece model.
    """

    def __init__(self, src: bytes, tgt: bytes | None = None) -> None:
        self.joint = tgt is None
        self._bytes = (src, tgt)
        self._src = _processor(src)
        self._tgt = self._src if tgt is None else _processor(tgt)

    @classmethod
    def train(cls, config: TokenizerConfig, src: Iterable[str], tgt: Iterable[str]) -> "Tokenizer":
        """Learn from the training split's sentences.

        Raises:
            UserError: the text is too small for the vocabulary asked for.
        """
        if config.joint:
            return cls(_train(config.vocab_size, [*src, *tgt]))
        return cls(_train(config.vocab_size, src), _train(config.vocab_size, tgt))

    @property
    def src_vocab_size(self) -> int:
        """Subwords of the source language, special ones included."""
        return int(self._src.get_piece_size())

    @property
    def tgt_vocab_size(self) -> int:
        """Subwords of the target language, special ones included."""
        return int(self._tgt.get_piece_size())

    @property
    def fingerprint(self) -> str:
        """Equal for equal tokenizers, and for no others."""
        digest = hashlib.sha256()
        for model in self._bytes:
            digest.update(b"" if model is None else hashlib.sha256(model).digest())
        return digest.hexdigest()[:16]

    def encode_src(
        self, sentences: Iterable[str], bpe_dropout: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """All that ``stream_src`` gives."""
        return list(self.stream_src(sentences, bpe_dropout, seed))

    def encode_tgt(
        self, sentences: Iterable[str], bpe_dropout: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """All that ``stream_tgt`` gives."""
        return list(self.stream_tgt(sentences, bpe_dropout, seed))

    def stream_src(
        self, sentences: Iterable[str], bpe_dropout: float = 0.0, seed: int = 0
    ) -> Iterator[list[int]]:
        """Ids of each source sentence, EOS at the end; few sentences are in memory at a time.

        Args:
            sentences: text.
            bpe_dropout: chance to skip each merge (BPE-dropout, Provilkov et al. 2020).
            seed: the same seed gives the same subwords.
        """
        return ([*ids, EOS] for ids in _encode(self._src, sentences, bpe_dropout, seed))

    def stream_tgt(
        self, sentences: Iterable[str], bpe_dropout: float = 0.0, seed: int = 0
    ) -> Iterator[list[int]]:
        """Ids of each target sentence between BOS and EOS; arguments as in ``stream_src``."""
        return ([BOS, *ids, EOS] for ids in _encode(self._tgt, sentences, bpe_dropout, seed))

    def decode_tgt(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """Text of each sequence of target ids, always one line each."""
        return [" ".join(text.splitlines()) for text in self._tgt.decode([list(i) for i in ids])]

    def decode_src(self, ids: Sequence[int]) -> str:
        """Text of source ids."""
        return str(self._src.decode(list(ids)))

    def src_pieces(self, ids: Sequence[int]) -> list[str]:
        """The subword of each source id, ▁ where a space is."""
        return [self._src.id_to_piece(i) for i in ids]

    def tgt_pieces(self, ids: Sequence[int]) -> list[str]:
        """The same for target ids."""
        return [self._tgt.id_to_piece(i) for i in ids]

    def src_words(self, ids: Sequence[int]) -> list[int]:
        """For each source id the number of its word among ``words``; -1 if it is of none."""
        return _words(self._src, ids)

    def tgt_words(self, ids: Sequence[int]) -> list[int]:
        """The same for target ids."""
        return _words(self._tgt, ids)

    def save(self, folder: Path) -> None:
        """Write ``tokenizer.model``, and ``tokenizer.tgt.model`` if the target has its own."""
        remove_tokenizer(folder)
        src, tgt = self._bytes
        if tgt is not None:
            write_bytes(folder / "tokenizer.tgt.model", tgt)
        write_bytes(folder / "tokenizer.model", src)

    @classmethod
    def load(cls, folder: Path) -> "Tokenizer":
        """The tokenizer that ``save`` wrote into ``folder``; ``UserError`` if there is none."""
        path, tgt = folder / "tokenizer.model", folder / "tokenizer.tgt.model"
        models = read_bytes(path), read_bytes(tgt) if tgt.exists() else None
        try:
            return cls(*models)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None


def remove_tokenizer(folder: Path) -> None:
    """Remove what ``Tokenizer.save`` wrote, if anything."""
    for name in ("tokenizer.model", "tokenizer.tgt.model"):
        (folder / name).unlink(missing_ok=True)


def _processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model)
    except (RuntimeError, ValueError) as error:  # ValueError: its message is not UTF-8
        raise UserError(f"not a sentencepiece model: {error}") from None
    try:
        processor.decode([[i] for i in range(processor.get_piece_size())])
    except (SystemError, ValueError):  # how sentencepiece says that a piece is no text
        raise UserError("not a sentencepiece model: its subwords are not UTF-8") from None
    if (processor.pad_id(), processor.bos_id(), processor.eos_id()) != (PAD, BOS, EOS):
        raise UserError("the sentencepiece model was not made by this program: special ids differ")
    return processor


def _words(processor: sentencepiece.SentencePieceProcessor, ids: Sequence[int]) -> list[int]:
    starts = [processor.id_to_piece(i).startswith(SPACE) for i in ids]
    special = {PAD, BOS, EOS}
    return [
        -1 if i in special else number - 1
        for i, number in zip(ids, accumulate(starts), strict=True)
    ]


def _train(vocab_size: int, sentences: Iterable[str]) -> bytes:
    cleaned = [clean(sentence) for sentence in sentences]
    longest = max((len(sentence.encode()) for sentence in cleaned), default=0)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(cleaned),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            byte_fallback=True,
            normalization_rule_name="identity",  # the scorer sees the text that people wrote
            max_sentence_length=max(10, longest + 1),  # longer ones would be skipped silently
            pad_id=PAD,
            bos_id=BOS,
            eos_id=EOS,
            unk_id=UNK,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise UserError(f"tokenizer.vocab_size = {vocab_size}: {_reason(error)}") from None
    return model.getvalue()


def _reason(error: RuntimeError) -> str:
    """What sentencepiece's message means to a user."""
    if "required_chars" in str(error):
        return "too small: it must hold every character of the corpus"
    limit = re.search(r"<= ?(\d+)", str(error))
    if limit:
        return f"too large for this corpus; it allows at most {limit.group(1)}"
    return f"sentencepiece cannot learn from this corpus: {error}"


def _encode(
    processor: sentencepiece.SentencePieceProcessor,
    sentences: Iterable[str],
    bpe_dropout: float,
    seed: int,
) -> Iterator[list[int]]:
    chunks = _cleaned_chunks(sentences)
    if bpe_dropout == 0:
        for chunk in chunks:
            yield from processor.encode(chunk)
        return

    def sample(chunk: list[str]) -> list[list[int]]:
        return [processor.encode(x, enable_sampling=True, alpha=bpe_dropout) for x in chunk]

    # sentencepiece's random numbers go with the thread that asks, and go on as long as it lives.
    seeding = sentencepiece.set_random_generator_seed
    with ThreadPoolExecutor(1, initializer=seeding, initargs=(seed,)) as thread:
        for chunk in chunks:
            yield from thread.submit(sample, chunk).result()


def _cleaned_chunks(sentences: Iterable[str]) -> Iterator[list[str]]:
    rest = map(clean, sentences)
    while chunk := list(islice(rest, SENTENCES_AT_A_TIME)):
        yield chunk
