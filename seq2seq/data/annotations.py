"""Gold annotations that a corpus of files may bring: word alignments, and tags of each pair.

``PREFIX.de-en.align`` has a line of links for each pair, ``0-0 1-2`` (Pharaoh format): word 0 of
the German sentence with word 0 of the English one, 1 with 2. ``PREFIX.tags`` names the phenomena in
each pair. ``prepare`` copies them into the run folder as they are.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from seq2seq.config import DataConfig
from seq2seq.data.corpus import Corpus
from seq2seq.data.sources import split_prefixes
from seq2seq.data.tokenizer import split_words
from seq2seq.utils import UserError, read_lines

Links = frozenset[tuple[int, int]]  # (source word, target word), counted from 0


def check_annotations(data: DataConfig, splits: Mapping[str, Corpus]) -> None:
    """Check the annotations of ``splits`` where the corpus is, before ``prepare`` copies them."""
    for split, prefix in split_prefixes(data).items():
        if corpus := splits.get(split):
            load_alignment(prefix, data, corpus)
            load_tags(prefix, corpus)


def load_alignment(prefix: Path, data: DataConfig, corpus: Corpus) -> list[Links] | None:
    """The gold alignment of each pair of a split, if any; ``UserError`` if it is faulty."""
    path = Path(f"{prefix}.{data.src}-{data.tgt}.align")
    exchanged = Path(f"{prefix}.{data.tgt}-{data.src}.align")
    if path.exists() and exchanged.exists():
        raise UserError(f"{path} and {exchanged.name}: two alignments of the same: remove one")
    path = path if path.exists() else exchanged
    if not path.exists():
        return None
    alignment = []
    pairs = zip(_read_for(corpus, path), corpus.src, corpus.tgt, strict=True)
    for number, (line, src, tgt) in enumerate(pairs, start=1):
        where, texts = f"{path}, line {number}", line.split()
        if not all(re.fullmatch(r"\d{1,9}-\d{1,9}", text, re.ASCII) for text in texts):
            raise UserError(f"{where}: not an alignment like 0-0 1-2: {line[:80]!r}")
        numbers = [tuple(map(int, text.split("-"))) for text in texts]
        links = [(j, i) if path == exchanged else (i, j) for i, j in numbers]
        n_src, n_tgt = len(split_words(src)), len(split_words(tgt))
        for i, j in links:
            if i >= n_src or j >= n_tgt:
                raise UserError(f"{where}: link {i}-{j} is outside of {n_src} and {n_tgt} words")
        alignment.append(frozenset(links))
    return alignment


def load_tags(prefix: Path, corpus: Corpus) -> list[list[str]] | None:
    """The tags of each pair of a split, if there are any."""
    path = Path(f"{prefix}.tags")
    return [line.split() for line in _read_for(corpus, path)] if path.exists() else None


def _read_for(corpus: Corpus, path: Path) -> list[str]:
    lines = read_lines(path)
    if len(lines) != len(corpus):
        raise UserError(f"{path} has {len(lines):,} lines for {len(corpus):,} sentence pairs")
    return lines
