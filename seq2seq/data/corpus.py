"""Parallel corpora, from files, the Hugging Face hub or a run folder."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from seq2seq.config import Count, DataConfig, HubConfig, Line
from seq2seq.run_folder import RunFolder
from seq2seq.shipped import make_tandem
from seq2seq.utils import UserError, iter_lines, read_json

Pair = tuple[str, str]  # a sentence and its translation
PairReader = Callable[[], Iterator[Pair]]  # reads a split, which may be larger than memory


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

    def __str__(self) -> str:
        splits = [("training", self.train_pairs), ("validation", self.valid_pairs)]
        counts = ", ".join(f"{n:,} {split}" for split, n in [*splits, *self.test_pairs.items()])
        left_out = f"left out of training for an empty side: {self.empty_pairs_left_out:,}"
        return f"{self.source}: {counts} pairs; {left_out}"


def load_report(run: RunFolder) -> CorpusReport:
    """The report of the prepared corpus; ``UserError`` if there is none."""
    return read_json(run.report_file, CorpusReport)


def iter_split(run: RunFolder, data: DataConfig, split: str) -> Iterator[Pair]:
    """The pairs of one split: ``train``, ``valid``, or the name of a test set."""
    return _file_pairs(run.split_file(split, data.src), run.split_file(split, data.tgt))


def load_split(run: RunFolder, data: DataConfig, split: str) -> Corpus:
    """All of ``iter_split``; ``UserError`` if that is nothing."""
    if not (corpus := Corpus.of(iter_split(run, data, split))):
        raise UserError(f"{run.split_file(split, data.src)}: there are no sentence pairs")
    return corpus


def open_corpus(data: DataConfig) -> dict[str, PairReader]:
    """A reader of each split that ``data`` names; what is wrong within a split, it finds."""
    if not data.directory:
        names = _split_names(data.hub)
        return {split: partial(_hub_pairs, data, name) for split, name in names.items()}
    make_tandem(data.directory)
    if not Path(data.directory).is_dir():
        raise UserError(f"{data.directory}: no such folder (data.directory)")
    return {
        split: partial(_file_pairs, Path(f"{prefix}.{data.src}"), Path(f"{prefix}.{data.tgt}"))
        for split, prefix in split_prefixes(data).items()
    }


def split_prefixes(data: DataConfig) -> dict[str, Path]:
    """What the names of each split's files start with; nothing for a corpus on the hub."""
    names = _split_names(data) if data.directory else {}
    return {split: Path(data.directory) / name for split, name in names.items()}


def _split_names(names: DataConfig | HubConfig) -> dict[str, str]:
    """What each split is called at its source; valid and test splits may be missing."""
    splits = {"train": names.train, "valid": names.valid} | {x: x for x in names.test.split()}
    return {split: name for split, name in splits.items() if name}


def _file_pairs(src: Path, tgt: Path) -> Iterator[Pair]:
    """Two files of which line n of one translates line n of the other, read side by side."""
    try:
        yield from zip(iter_lines(src), iter_lines(tgt), strict=True)
    except ValueError:
        n_src, n_tgt = (sum(1 for _ in iter_lines(path)) for path in (src, tgt))
        rule = "line n of one must translate line n of the other"
        raise UserError(f"{src} has {n_src:,} lines but {tgt} has {n_tgt:,}: {rule}") from None


def _hub_pairs(data: DataConfig, split: str) -> Iterator[Pair]:
    """A split of a data set on the hub, or in the library's cache if the hub is out of reach."""
    import datasets  # here, because it takes seconds and few commands need it

    datasets.disable_progress_bars()
    name, subset, revision = data.hub.name, data.hub.subset or None, data.hub.revision or None
    try:
        rows = datasets.load_dataset(name, subset, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds, all of them the user's
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, ConnectionError) or "LocalEntryNotFoundError" in reason:
            reason = "neither cached nor reachable: go online, or use --data.directory PATH"
        raise UserError(f"{name}, split {split!r}: {reason}") from None
    return iter_rows(rows, data)


def iter_rows(rows: Iterable[Mapping[str, Any]], data: DataConfig) -> Iterator[Pair]:
    """The pairs of a hub data set; a missing value counts as an empty sentence."""
    for row in rows:
        fields = row["translation"] if isinstance(row.get("translation"), dict) else row
        for language in (data.src, data.tgt):
            if not isinstance(fields.get(language, 0), str | None):
                problem = f"no text in a field {language!r}; there are {', '.join(sorted(fields))}"
                raise UserError(f"{data.hub.name}: {problem}")
        # One sentence per line: a line break within a sentence becomes a space.
        src, tgt = (re.sub(r"[\r\n]", " ", fields[x] or "") for x in (data.src, data.tgt))
        yield src, tgt
