"""Parallel corpora, and the copy of one in a run folder."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from seq2seq.config import Count, DataConfig, Line
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, iter_lines, read_json

Pair = tuple[str, str]  # a sentence and its translation


@dataclass(frozen=True)
class Corpus:
    """Sentence pairs: ``tgt[i]`` translates ``src[i]``."""

    src: list[str]
    tgt: list[str]

    @classmethod
    def of(cls, pairs: Iterable[Pair]) -> "Corpus":
        rows = list(pairs)
        return cls([src for src, _ in rows], [tgt for _, tgt in rows])

    def __len__(self) -> int:
        return len(self.src)


@dataclass(frozen=True)
class CorpusReport:
    """What ``prepare`` read and what it left out; kept as ``corpus/report.json``."""

    source: str
    train_pairs: Count
    valid_pairs: Count
    test_pairs: Annotated[dict[Line, Count], Meta(min_length=1)]  # by test set
    empty_pairs_left_out: Count
    overlapping_pairs_left_out: Count = 0
    taken: list[Line] = field(default_factory=list)  # which columns of which files
    held_out: dict[Line, Count] = field(default_factory=dict)  # pairs for each split that lacked
    found: dict[Line, Count] = field(default_factory=dict)  # what looks wrong, and is kept
    normalization: str = ""  # of what the tokenizer reads, in words
    synthetic_pairs: Count = 0  # of teachers, besides train_pairs

    def __str__(self) -> str:
        splits = [("training", self.train_pairs), ("validation", self.valid_pairs)]
        counts = ", ".join(f"{n:,} {split}" for split, n in [*splits, *self.test_pairs.items()])
        left_out = f"left out of training for an empty side: {self.empty_pairs_left_out:,}"
        lines = [*self.taken, f"{self.source}: {counts} pairs; {left_out}"]
        if self.synthetic_pairs:
            lines.append(f"synthetic training pairs besides: {self.synthetic_pairs:,}")
        if n := self.overlapping_pairs_left_out:
            lines.append(f"left out of training for a side that another split has: {n:,}")
        n_all = self.train_pairs + sum(self.held_out.values())
        for split, n in self.held_out.items():
            lines.append(f"no {split} split: {n:,} pairs ({n / n_all:.1%}) held out of training")
        return "\n".join(lines + [f"{what}: {n:,}" for what, n in self.found.items()])


def load_report(run: RunFolder) -> CorpusReport:
    """The report of the prepared corpus; ``UserError`` if there is none."""
    return read_json(run.report_file, CorpusReport)


def iter_split(run: RunFolder, data: DataConfig, split: str) -> Iterator[Pair]:
    """The pairs of one split: ``train``, ``valid``, or the name of a test set."""
    return file_pairs(run.split_file(split, data.src), run.split_file(split, data.tgt))


def load_split(run: RunFolder, data: DataConfig, split: str) -> Corpus:
    """All of ``iter_split``; ``UserError`` if that is nothing."""
    if not (corpus := Corpus.of(iter_split(run, data, split))):
        raise UserError(f"{run.split_file(split, data.src)}: there are no sentence pairs")
    return corpus


def file_pairs(src: Path, tgt: Path) -> Iterator[Pair]:
    """Two files of which line n of one translates line n of the other, read side by side."""
    try:
        yield from zip(iter_lines(src), iter_lines(tgt), strict=True)
    except ValueError:
        n_src, n_tgt = (sum(1 for _ in iter_lines(path)) for path in (src, tgt))
        rule = "line n of one must translate line n of the other"
        raise UserError(f"{src} has {n_src:,} lines but {tgt} has {n_tgt:,}: {rule}") from None
