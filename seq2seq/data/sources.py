"""The pairs of one split, from wherever they are."""

from functools import partial
from pathlib import Path

from seq2seq.config import DataConfig
from seq2seq.data.corpus import PairReader, _file_pairs


def read_pairs(path: str, data: DataConfig) -> PairReader:
    """A reader of the pairs in ``path.SRC`` and ``path.TGT``."""
    return partial(_file_pairs, Path(f"{path}.{data.src}"), Path(f"{path}.{data.tgt}"))
