"""Subwords: byte-pair encoding by sentencepiece, one vocabulary per language or one for both."""

import hashlib
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from itertools import accumulate, chain, compress, islice

import sentencepiece as spm

from seq2seq.config import Config, TokenizerConfig, toml_value
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, printable, read_bytes, warn, write_bytes

PAD, BOS, EOS, UNK = range(4)
SPACE = "▁"  # how sentencepiece writes a space
CHUNK = 4096  # sentences encoded at a time
TOO_LONG = re.compile(r"(?<!\S)\S{60000,}")  # sentencepiece dies of words of 65,536 characters
MAX_SENTENCES = 400_000  # to learn from, always the same: sentencepiece holds them in memory


# What a reader takes for a space, or cannot see; joiners stay, which Persian and emoji need.
SPACES = rf"[^\S ]|[{SPACE}\0\ud800-\udfff]"  # the last: bytes that were no character
INVISIBLE = r"[\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]"
REPLACED = re.compile(f"({SPACES})|{INVISIBLE}")

NORMALIZATION = "NFC; spaces of any kind, tabs and NUL are spaces; what cannot be seen is left out"


def clean(line: str) -> str:
    """``line`` as the tokenizer reads it: composed (NFC), all spaces plain, nothing invisible."""
    return unicodedata.normalize("NFC", REPLACED.sub(lambda x: " " if x[1] else "", line))


class InputReport:
    """In how many lines of input characters are replaced, or known to no subword."""

    def __init__(self, subwords: "Subwords", lines: Iterable[str] = ()) -> None:
        self.known = subwords.characters - {"\ufffd"}
        self.replaced, self.unknown = Counter[str](), Counter[str]()
        self.add(lines)

    def add(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.replaced.update({found[0] for found in REPLACED.finditer(line)})
            self.unknown.update({*clean(line)} - self.known)

    def warn(self, whose: str = "") -> None:
        for message in self.messages():
            warn(f"{whose}{message}")

    def messages(self) -> Iterator[str]:
        if n := self.unknown.pop("\ufffd", 0):  # as which other bytes are read
            yield f"lines not in UTF-8: {n:,}; iconv -f ENCODING -t UTF-8 converts them"
        kinds = {"read as a space, or not at all": self.replaced, "never learned": self.unknown}
        for what, lines in kinds.items():
            names = [
                f"U+{ord(x):04X} {unicodedata.name(x, 'unnamed').lower()} (lines: {n:,})"
                for x, n in sorted(lines.items(), key=lambda item: (-item[1], item[0]))[:5]
            ]
            if names:
                yield f"characters {what}: {', '.join(names)}{', ...' * (len(lines) > 5)}"


def split_words(text: str) -> list[str]:
    """The words of ``text``, separated by spaces, as ``Subwords.words`` counts them."""
    return clean(text).split()


class Subwords:
    """The vocabulary of one language, or of both; ``UserError`` if ``model`` is damaged."""

    def __init__(self, model: bytes, origin: object = "tokenizer") -> None:
        self.model = model
        self._processor = processor = spm.SentencePieceProcessor()
        try:
            processor.load_from_serialized_proto(model)
            processor.decode([[i] for i in range(len(self))])
        except (RuntimeError, ValueError, SystemError) as error:  # the last two: not UTF-8
            raise UserError(f"{origin}: not a sentencepiece model: {error}") from None
        if (processor.pad_id(), processor.bos_id(), processor.eos_id()) != (PAD, BOS, EOS):
            raise UserError(f"{origin}: not made by this program: its special ids differ")

    @classmethod
    def train(cls, sentences: Iterable[str], vocab_size: int) -> "Subwords":
        """Learn from the sentences; ``UserError`` if they do not fit ``vocab_size``."""
        model = io.BytesIO()
        try:
            spm.SentencePieceTrainer.train(
                sentence_iterator=(TOO_LONG.sub("", clean(x)) for x in sentences),
                model_writer=model,
                model_type="bpe",
                vocab_size=vocab_size,
                byte_fallback=True,  # no character is unknown
                normalization_rule_name="identity",  # the scorer sees the text that people wrote
                input_sentence_size=MAX_SENTENCES,
                max_sentence_length=2**30,  # longer ones would be skipped
                num_threads=1,
                minloglevel=2,
                **{"pad_id": PAD, "bos_id": BOS, "eos_id": EOS, "unk_id": UNK},
            )
        except RuntimeError as error:
            reason = f"sentencepiece cannot learn from this corpus: {error}"
            if "required_chars" in str(error):
                reason = "too small: it must hold every character of the corpus"
            elif limit := re.search(r"value <= (\d+)", str(error)):
                reason = f"too large for this corpus; it allows at most {limit[1]}"
            raise UserError(f"tokenizer.vocab_size = {vocab_size}: {reason}") from None
        return cls(model.getvalue())

    def __len__(self) -> int:
        return int(self._processor.get_piece_size())

    @cached_property
    def characters(self) -> set[str]:
        """Those that subwords are made of; all others are spelled as bytes."""
        ids = [i for i in range(UNK + 1, len(self)) if not self._processor.is_byte(i)]
        return {" ", *"".join(self.pieces(ids))}

    @cached_property
    def text_ids(self) -> dict[str, int]:
        """By subword, without PAD, BOS, EOS and UNK."""
        return {piece: i for i, piece in enumerate(self.pieces(range(len(self)))) if i > UNK}

    def encode(
        self, sentences: Iterable[str], bos: bool = False, bpe_dropout: float = 0.0, seed: int = 0
    ) -> Iterator[list[int]]:
        """The ids of each sentence with EOS, read in chunks; BPE-dropout: Provilkov et al. 2020."""
        rest = map(clean, sentences)
        chunks = iter(lambda: list(islice(rest, CHUNK)), [])
        encode = partial(self._processor.encode, add_bos=bos, add_eos=True)
        if not bpe_dropout:
            yield from chain.from_iterable(map(encode, chunks))
            return
        sample = partial(encode, enable_sampling=True, alpha=bpe_dropout)
        # sentencepiece has a random generator per thread; nobody else draws from this one's.
        with ThreadPoolExecutor(1, "", spm.set_random_generator_seed, (seed,)) as thread:
            for chunk in chunks:
                yield from thread.submit(list, map(sample, chunk)).result()

    def decode(self, ids: Sequence[int]) -> str:
        """One line, whatever a stranger's vocabulary holds."""
        return printable(" ".join(self._processor.decode(list(ids)).splitlines()))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        return self._processor.id_to_piece(list(ids))

    def words(self, ids: Sequence[int]) -> list[int]:
        """For each id the number of its word in ``split_words``; -1 for PAD, BOS and EOS."""
        numbers = list(accumulate(piece.startswith(SPACE) for piece in self.pieces(ids)))
        is_text = [i not in (PAD, BOS, EOS) for i in ids]
        first = next(compress(numbers, is_text), 1)  # 0 where a model begins without a space
        return [n - first if real else -1 for n, real in zip(numbers, is_text, strict=True)]


class Tokenizer:
    """The vocabularies of both languages: the same object twice if they share one."""

    def __init__(self, src: Subwords, tgt: Subwords) -> None:
        self.src, self.tgt, self.joint = src, tgt, src is tgt
        models = [src.model] if self.joint else [src.model, tgt.model]
        digests = b"".join(hashlib.sha256(model).digest() for model in models)
        self.fingerprint = hashlib.sha256(digests).hexdigest()[:16]  # equal for equal tokenizers

    @classmethod
    def train(cls, config: TokenizerConfig, src: Iterable[str], tgt: Iterable[str]) -> "Tokenizer":
        if config.joint:
            both = Subwords.train(chain(src, tgt), config.vocab_size)
            return cls(both, both)
        return cls(*(Subwords.train(side, config.vocab_size) for side in (src, tgt)))

    def save(self, run: RunFolder) -> None:
        run.tgt_tokenizer_file.unlink(missing_ok=True)
        if not self.joint:
            write_bytes(run.tgt_tokenizer_file, self.tgt.model)
        write_bytes(run.tokenizer_file, self.src.model)  # last: where it is, both are

    @classmethod
    def load(cls, run: RunFolder, config: Config) -> "Tokenizer":
        """What ``save`` wrote; ``UserError`` if it is damaged or not what ``config`` asks for."""
        path, tgt_path = run.tokenizer_file, run.tgt_tokenizer_file
        src = Subwords(read_bytes(path), path)
        tgt = Subwords(read_bytes(tgt_path), tgt_path) if tgt_path.exists() else src
        size, joint = config.tokenizer.vocab_size, config.tokenizer.joint
        if (len(src), len(tgt), src is tgt) != (size, size, joint):
            wanted = f"tokenizer.vocab_size = {size}, tokenizer.joint = {toml_value(joint)}"
            raise UserError(f"{path}: not made with {wanted} as in the configuration")
        return cls(src, tgt)
