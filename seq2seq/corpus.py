"""Parallel corpora as they lie in a run folder, and how files of sentence pairs are read.

Whatever the source (``sources.py``), the result is the same: ``train``, ``valid`` and one or more
test sets as plain text under ``corpus/`` in the run folder, with a report of what was read and what
was left out. A corpus of files may bring gold word alignments (``test.de-en.align``) and the names
of the phenomena in each pair (``test.tags``).

Training pairs are read one by one: there may be more of them than fit into memory.
"""

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from seq2seq.errors import UserError
from seq2seq.files import file_name, read_json, read_lines, stream_lines
from seq2seq.settings import DataConfig
from seq2seq.tokenizer import words

Links = frozenset[tuple[int, int]]  # (source word, target word), counted from 0
Pair = tuple[str, str]  # a sentence and its translation
Pairs = Callable[[], Iterator[Pair]]  # reads them from the beginning


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs: ``tgt[i]`` translates ``src[i]``."""

    src: list[str]
    tgt: list[str]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> "Corpus":
        """All of these pairs."""
        corpus = cls([], [])
        for src, tgt in pairs:
            corpus.src.append(src)
            corpus.tgt.append(tgt)
        return corpus

    def __len__(self) -> int:
        return len(self.src)


@dataclass(frozen=True)
class Report:
    """What ``prepare`` read and what it left out; kept as ``corpus/report.json``."""

    source: str
    train_pairs: int
    valid_pairs: int
    test_pairs: dict[str, int]  # by test set
    empty_pairs_left_out: int

    def __str__(self) -> str:
        tests = ", ".join(f"{pairs:,} {name}" for name, pairs in self.test_pairs.items())
        return (
            f"{self.source}: {self.train_pairs:,} training, {self.valid_pairs:,} validation, "
            f"{tests} pairs; left out of training for an empty side: {self.empty_pairs_left_out:,}"
        )


def report_path(run: Path) -> Path:
    """Where the report lies."""
    return run / "corpus" / "report.json"


def load_report(run: Path) -> Report:
    """The report of the corpus in a run folder."""
    path = report_path(run)
    try:
        values = read_json(path)
        if values.pop("test_name", None):  # written when there was one test set, called "test"
            values["test_pairs"] = {"test": values["test_pairs"]}
        report = Report(**values)
        if sum(report.test_pairs.values()) < 1 or report.train_pairs < 1:
            raise ValueError
    except (ValueError, TypeError, AttributeError, KeyError):
        raise UserError(f"{path}: not a report that this program wrote") from None
    return report


def load_split(data: DataConfig, run: Path, split: str) -> Corpus:
    """All that ``stream_split`` gives; ``UserError`` if that is nothing."""
    corpus = Corpus.of(stream_split(data, run, split))
    if not corpus:
        raise UserError(f"{split_path(run, split, data.src)}: there are no sentence pairs")
    return corpus


def stream_split(data: DataConfig, run: Path, split: str) -> Iterator[Pair]:
    """One split of the corpus in a run folder: train, valid, or the name of a test set."""
    return stream_pairs(split_path(run, split, data.src), split_path(run, split, data.tgt))


def stream_pairs(src: Path, tgt: Path) -> Iterator[Pair]:
    """Two files of which line n of one translates line n of the other, read side by side.

    Raises:
        UserError: a file cannot be read, is not UTF-8, or they differ in their number of lines.
    """
    try:
        yield from zip(stream_lines(src), stream_lines(tgt), strict=True)
    except ValueError:
        n_src, n_tgt = (sum(1 for _ in stream_lines(path)) for path in (src, tgt))
        raise UserError(
            f"{src} has {n_src:,} lines but {tgt} has {n_tgt:,}: "
            "line n of one must translate line n of the other"
        ) from None


def load_alignment(run: Path, split: str, corpus: Corpus) -> list[Links] | None:
    """The gold alignment of each pair of a split, if the corpus brought it.

    Raises:
        UserError: it does not fit the sentences in ``corpus``.
    """
    path = split_path(run, split, "align")
    return read_links(path, corpus, src_first=True) if path.exists() else None


def load_tags(run: Path, split: str, corpus: Corpus) -> list[list[str]] | None:
    """The phenomena of each pair of a split, if the corpus brought them.

    Raises:
        UserError: there are not as many lines as pairs.
    """
    path = split_path(run, split, "tags")
    return [line.split() for line in read_as_many(path, corpus)] if path.exists() else None


def parse_links(line: str) -> Links:
    """``0-0 1-2`` as pairs of numbers (the Pharaoh format); ``ValueError`` if it is none."""
    found = [re.fullmatch(r"(\d+)-(\d+)", link, re.ASCII) for link in line.split()]
    if None in found:
        raise ValueError(line)
    return frozenset((int(link[1]), int(link[2])) for link in found if link)


def split_path(run: Path, split: str, ending: str) -> Path:
    """Where one side of a split (``ending``: its language) or what is known of it lies."""
    return run / "corpus" / f"{file_name(split)}.{ending}"


def read_as_many(path: Path, corpus: Corpus) -> list[str]:
    """The lines of a file that has one for each pair."""
    lines = read_lines(path)
    if len(lines) != len(corpus):
        raise UserError(f"{path} has {len(lines):,} lines for {len(corpus):,} sentence pairs")
    return lines


def read_links(path: Path, corpus: Corpus, src_first: bool) -> list[Links]:
    """The links of each pair, source first, each known to stand within its sentences."""
    alignment = []
    for number, line in enumerate(read_as_many(path, corpus)):
        where = f"{path}, line {number + 1}"
        try:
            links = parse_links(line)
        except ValueError:
            raise UserError(f"{where}: not an alignment like 0-0 1-2: {line[:80]!r}") from None
        links = links if src_first else frozenset((i, j) for j, i in links)
        n_src, n_tgt = len(words(corpus.src[number])), len(words(corpus.tgt[number]))
        for i, j in links:
            if i >= n_src or j >= n_tgt:
                raise UserError(
                    f"{where}: the link {i}-{j} is outside of {n_src} and {n_tgt} words"
                )
        alignment.append(links)
    return alignment
