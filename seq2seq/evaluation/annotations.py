"""Gold annotations that a corpus of files may bring: word alignments, and tags of each pair.

``PREFIX.de-en.align`` has a line of links for each pair, ``0-0 1-2`` (Pharaoh format): word 0 of
the German sentence with word 0 of the English one, 1 with 2. ``PREFIX.tags`` names the phenomena in
each pair. ``prepare`` copies them into the run folder as they are.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from seq2seq.config import DataConfig
from seq2seq.data.corpus import Corpus, split_prefixes
from seq2seq.data.tokenizer import split_words
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, file_name, read_lines

Links = frozenset[tuple[int, int]]  # (source word, target word), counted from 0


def load_alignment(
    run: RunFolder, data: DataConfig, split: str, corpus: Corpus
) -> list[Links] | None:
    """The gold alignment of each pair of a split, if any; ``UserError`` if it is faulty."""
    return _read_alignment(run.corpus / file_name(split), data, corpus)


def load_tags(run: RunFolder, split: str, corpus: Corpus) -> list[list[str]] | None:
    """The tags of each pair of a split, if there are any."""
    return _read_tags(run.corpus / file_name(split), corpus)


def check_annotations(data: DataConfig, splits: Mapping[str, Corpus]) -> None:
    """Check the annotations of ``splits`` where the corpus is, before ``prepare`` copies them."""
    for split, prefix in split_prefixes(data).items():
        if corpus := splits.get(split):
            _read_alignment(prefix, data, corpus)
            _read_tags(prefix, corpus)


def _read_alignment(prefix: Path, data: DataConfig, corpus: Corpus) -> list[Links] | None:
    src_first, tgt_first = f"{data.src}-{data.tgt}", f"{data.tgt}-{data.src}"
    paths = [Path(f"{prefix}.{order}.align") for order in (src_first, tgt_first)]
    found = [path for path in paths if path.exists()]
    if len(found) == 2:
        raise UserError(f"{found[0]} and {found[1]}: two alignments of the same pairs; keep one")
    if not found:
        return None
    alignment = []
    pairs = zip(_read_for(corpus, found[0]), corpus.src, corpus.tgt, strict=True)
    for number, (line, src, tgt) in enumerate(pairs, start=1):
        where = f"{found[0]}, line {number}"
        if not re.fullmatch(r"(\d+-\d+)?( +\d+-\d+)*", line.strip(), re.ASCII):
            raise UserError(f"{where}: not an alignment like 0-0 1-2: {line[:80]!r}")
        links = [(int(i), int(j)) for i, j in (link.split("-") for link in line.split())]
        links = links if found[0] == paths[0] else [(j, i) for i, j in links]
        n_src, n_tgt = len(split_words(src)), len(split_words(tgt))
        for i, j in links:
            if i >= n_src or j >= n_tgt:
                raise UserError(f"{where}: link {i}-{j} is outside of {n_src} and {n_tgt} words")
        alignment.append(frozenset(links))
    return alignment


def _read_tags(prefix: Path, corpus: Corpus) -> list[list[str]] | None:
    path = Path(f"{prefix}.tags")
    return [line.split() for line in _read_for(corpus, path)] if path.exists() else None


def _read_for(corpus: Corpus, path: Path) -> list[str]:
    lines = read_lines(path)
    if len(lines) != len(corpus):
        raise UserError(f"{path} has {len(lines):,} lines for {len(corpus):,} sentence pairs")
    return lines
