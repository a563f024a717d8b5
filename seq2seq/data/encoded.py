"""The ids of the training pairs: encoded once, in files that all processes of a run map."""

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from seq2seq.config import DataConfig
from seq2seq.data.corpus import file_pairs
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import atomic_write, open_file, read_json, write_json

Ids = NDArray[np.unsignedinteger]


class EncodedSentences:
    """The ids of many sentences, as ``write_sentences`` wrote them: mapped, or in memory."""

    def __init__(self, content: memoryview | np.memmap, vocab_size: int) -> None:
        (n_ids,) = np.frombuffer(content[-8:], "q")
        self.ids: Ids = np.frombuffer(content, id_type(vocab_size), n_ids)
        self.ends = np.frombuffer(content, "q", offset=self.ids.nbytes)

    def __len__(self) -> int:
        return len(self.ends) - 1

    def __getitem__(self, number: int) -> Ids:
        return self.ids[self.ends[number] : self.ends[number + 1]]


def id_type(vocab_size: int) -> str:
    return "H" if vocab_size <= 2**16 else "I"


def write_sentences(file: BinaryIO, sentences: Iterable[Sequence[int]], vocab_size: int) -> None:
    """Their ids, 2 or 4 bytes each; then 0, and in 8 bytes each where every sentence ends."""
    ends = array("q", [0])
    for ids in sentences:
        file.write(array(id_type(vocab_size), ids))
        ends.append(ends[-1] + len(ids))
    file.write(ends)


def encode_once(run: RunFolder, data: DataConfig, tokenizer: Tokenizer) -> int:
    """Encode the training pairs, unless that was done for this corpus and tokenizer.

    Returns the checksum of their ids.
    """
    texts, files, saved = _files(run, data, ""), _files(run, data, ".ids"), run.encoded_file
    made_of = {"tokenizer": tokenizer.fingerprint, "texts": checksum(texts)}
    are_there = saved.exists() and all(path.exists() for path in files)
    if not are_there or read_json(saved) != made_of | {"ids": checksum(files)}:
        for side, subwords in enumerate((tokenizer.src, tokenizer.tgt)):
            ids = subwords.encode((pair[side] for pair in file_pairs(*texts)), bos=side == 1)
            with atomic_write(files[side]) as file:
                write_sentences(file, ids, len(subwords))
        write_json(saved, made_of | {"ids": checksum(files)})
    return checksum(files)


def load_encoded(
    run: RunFolder, data: DataConfig, tokenizer: Tokenizer
) -> tuple[EncodedSentences, EncodedSentences, int]:
    """The sources and the targets of the training pairs, and the checksum of their ids."""
    ids_checksum = encode_once(run, data, tokenizer)
    src, tgt = (
        EncodedSentences(np.memmap(file, mode="r"), len(subwords))
        for file, subwords in zip(
            _files(run, data, ".ids"), (tokenizer.src, tokenizer.tgt), strict=True
        )
    )
    return src, tgt, ids_checksum


def _files(run: RunFolder, data: DataConfig, ending: str) -> tuple[Path, Path]:
    """Of the training pairs' sources and targets."""
    src, tgt = (run.split_file("train", f"{x}{ending}") for x in (data.src, data.tgt))
    return src, tgt


def checksum(paths: Iterable[Path]) -> int:
    """CRC-32 of files, read in blocks: what is mapped and read counts as a process's memory."""
    crc = 0
    for path in paths:
        with open_file(path) as file:
            while block := file.read(2**20):
                crc = crc32(block, crc)
    return crc
