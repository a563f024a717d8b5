"""Parallel corpora: from files, or from the Hugging Face hub, into a run folder.

Whatever the source, the result is the same: ``train``, ``valid`` and one or more test sets as
plain text under ``corpus/`` in the run folder, with a report of what was read and what was left
out. A corpus of files may bring gold word alignments (``test.de-en.align``) and the names of the
phenomena in each pair (``test.tags``).

Training pairs are read and written one by one: there may be more of them than fit into memory.
"""

import hashlib
import json
import os
import re
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import chain, groupby, zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from seq2seq.errors import UserError
from seq2seq.files import (
    file_name,
    read_json,
    read_lines,
    stream_lines,
    write_lines,
    write_text,
    written_whole,
)
from seq2seq.settings import Config, DataConfig
from seq2seq.tokenizer import remove_tokenizer, words

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


def prepare_corpus(config: Config, run: Path) -> Report:
    """Read the corpus that ``config`` names and write its splits into ``run/corpus``.

    Validation and test pairs are kept as they are, whatever they hold: they are what a system
    is judged by. (Only line breaks within a sentence of a hub data set become spaces.) Training
    pairs with an empty side are left out and counted. The tokenizer of the corpus that was there
    before goes with it.

    Raises:
        UserError: the corpus cannot be reached or read, or a split is empty.
    """
    data = config.data
    sources = _from_files(data) if data.directory else _from_hub(data)
    train = sources.pop("train")
    splits = {split: Corpus.of(pairs()) for split, pairs in sources.items()}
    _refuse_empty(data, {split: len(corpus) for split, corpus in splits.items()})
    notes = {split: _read_annotations(data, split, corpus) for split, corpus in splits.items()}
    held_out = HeldOut(train, data.held_out)
    if splits.keys() <= {"valid"}:
        held_out.choose("test")
    if "valid" not in splits:
        held_out.choose("valid")
    counts, taken = _write_train(data, run, train, held_out)
    splits |= taken
    n_pairs = {split: len(corpus) for split, corpus in splits.items()}
    for split, corpus in splits.items():
        write_lines(_path(run, split, data.src), corpus.src)
        write_lines(_path(run, split, data.tgt), corpus.tgt)
        for ending in ("align", "tags"):
            _path(run, split, ending).unlink(missing_ok=True)  # it may be of another corpus
        for ending, lines in notes.get(split, {}).items():
            write_lines(_path(run, split, ending), lines)
    report = Report(
        source=data.directory or data.hub.name,
        train_pairs=counts["train"],
        valid_pairs=n_pairs.pop("valid"),
        test_pairs=n_pairs,
        empty_pairs_left_out=counts["empty"],
    )
    write_text(_report_path(run), json.dumps(asdict(report), indent=2) + "\n")
    return report


def _refuse_empty(data: DataConfig, n_pairs: dict[str, int]) -> None:
    for split, number in n_pairs.items():
        if not number:
            source = data.directory or data.hub.name
            raise UserError(f"{source}: the {split} split has no sentence pairs")


def _report_path(run: Path) -> Path:
    return run / "corpus" / "report.json"


def load_report(run: Path) -> Report:
    """The report of the corpus in a run folder."""
    path = _report_path(run)
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
        raise UserError(f"{_path(run, split, data.src)}: there are no sentence pairs")
    return corpus


def stream_split(data: DataConfig, run: Path, split: str) -> Iterator[Pair]:
    """One split of the corpus in a run folder: train, valid, or the name of a test set."""
    return stream_pairs(_path(run, split, data.src), _path(run, split, data.tgt))


def stream_pairs(src: Path, tgt: Path) -> Iterator[Pair]:
    """Two files of which line n of one translates line n of the other, read side by side.

    Raises:
        UserError: a file cannot be read, is not UTF-8, or they differ in their number of lines.
    """
    lines = stream_lines(src), stream_lines(tgt)
    for number, (one, other) in enumerate(zip_longest(*lines)):
        if one is None or other is None:
            n_src, n_tgt = (
                number + (last is not None) + sum(1 for _ in rest)
                for last, rest in zip((one, other), lines, strict=True)
            )
            raise UserError(
                f"{src} has {n_src:,} lines but {tgt} has {n_tgt:,}: "
                "line n of one must translate line n of the other"
            )
        yield one, other


def load_alignment(run: Path, split: str, corpus: Corpus) -> list[Links] | None:
    """The gold alignment of each pair of a split, if the corpus brought it.

    Raises:
        UserError: it does not fit the sentences in ``corpus``.
    """
    path = _path(run, split, "align")
    return _read_links(path, corpus, src_first=True) if path.exists() else None


def load_tags(run: Path, split: str, corpus: Corpus) -> list[list[str]] | None:
    """The phenomena of each pair of a split, if the corpus brought them.

    Raises:
        UserError: there are not as many lines as pairs.
    """
    path = _path(run, split, "tags")
    return [line.split() for line in _as_many(path, corpus)] if path.exists() else None


def parse_links(line: str) -> Links:
    """``0-0 1-2`` as pairs of numbers (the Pharaoh format); ``ValueError`` if it is none."""
    found = [re.fullmatch(r"(\d+)-(\d+)", link, re.ASCII) for link in line.split()]
    if None in found:
        raise ValueError(line)
    return frozenset((int(link[1]), int(link[2])) for link in found if link)


def _path(run: Path, split: str, ending: str) -> Path:
    return run / "corpus" / f"{file_name(split)}.{ending}"


def _from_files(data: DataConfig) -> dict[str, Pairs]:
    folder = Path(data.directory)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (data.directory)")
    paths = {
        split: (folder / f"{prefix}.{data.src}", folder / f"{prefix}.{data.tgt}")
        for split, prefix in _split_names(data.train, data.valid, data.test).items()
    }
    for path in chain(*paths.values()):
        next(stream_lines(path), None)  # a misspelt name is found before the work begins
    return {split: partial(stream_pairs, *both) for split, both in paths.items()}


def _split_names(train: str, valid: str, test: str) -> dict[str, str]:
    """What each split is called at its source; those without a name are left out."""
    named = {"train": train, "valid": valid} | {name: name for name in test.split()}
    return {split: name for split, name in named.items() if name}


def _read_annotations(data: DataConfig, split: str, corpus: Corpus) -> dict[str, list[str]]:
    """The gold alignments and tags that stand beside a split's files, if any: lines by ending.

    ``PREFIX.de-en.align`` links word i of the German with word j of the English sentence; whichever
    language is the source, what is returned begins with the source.

    Raises:
        UserError: they do not fit the sentences.
    """
    if not data.directory:
        return {}
    notes: dict[str, list[str]] = {}
    named = _split_names(data.train, data.valid, data.test)
    prefix = Path(data.directory) / named[split]
    languages = (data.src, data.tgt)
    found = [
        path
        for first, second in (languages, languages[::-1])
        if (path := prefix.with_name(f"{prefix.name}.{first}-{second}.align")).exists()
    ]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]}: two alignments of the same pairs; keep one")
    for path in found:
        links = _read_links(
            path, corpus, src_first=path.name.endswith(f".{data.src}-{data.tgt}.align")
        )
        notes["align"] = [" ".join(f"{i}-{j}" for i, j in sorted(pair)) for pair in links]
    path = prefix.with_name(f"{prefix.name}.tags")
    if path.exists():
        notes["tags"] = _as_many(path, corpus)
    return notes


def _as_many(path: Path, corpus: Corpus) -> list[str]:
    """The lines of a file that has one for each pair."""
    lines = read_lines(path)
    if len(lines) != len(corpus):
        raise UserError(f"{path} has {len(lines):,} lines for {len(corpus):,} sentence pairs")
    return lines


def _read_links(path: Path, corpus: Corpus, src_first: bool) -> list[Links]:
    """The links of each pair, source first, each known to stand within its sentences."""
    alignment = []
    for number, line in enumerate(_as_many(path, corpus)):
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


def _has_text(pair: Pair) -> bool:
    """Whether there is text on both sides."""
    return all(side.strip() for side in pair)


class HeldOut:
    """Training pairs that are held out for other splits.

    Which ones depends on the source sentences alone, so a split is the same in any order, and a
    sentence that occurs several times is never on both sides.

    Args:
        train: the training pairs.
        n_pairs: as many are held out for each split.
    """

    def __init__(self, train: Pairs, n_pairs: int) -> None:
        self.train, self.n_pairs = train, n_pairs
        self.ranks: dict[str, set[int]] = {}  # of the sentences held out, by split

    def split_of(self, sentence: str) -> str:
        """``train``, or what the pairs with this source sentence are held out for."""
        for split, ranks in self.ranks.items():
            if _rank(split, sentence) in ranks:
                return split
        return "train"

    def choose(self, split: str) -> None:
        """Hold out pairs for ``split``, of those that are not held out yet.

        Raises:
            UserError: there are too few.
        """
        rest = (src for src, tgt in self.train() if _has_text((src, tgt)))
        left = (_rank(split, src) for src in rest if self.split_of(src) == "train")
        ranks = np.fromiter(left, dtype=np.uint64)  # 8 bytes a pair is all that is kept
        ranks.sort()
        chosen: set[int] = set()
        wanted = self.n_pairs
        for rank, same in groupby(ranks.data):
            copies = sum(1 for _ in same)
            if copies <= wanted:
                chosen.add(rank)
                wanted -= copies
            if not wanted:
                break
        if wanted or len(ranks) == self.n_pairs:
            raise UserError(
                f"data.held_out = {self.n_pairs}: too many for the {len(ranks):,} training pairs "
                f"that a {split} split has to be held out of"
            )
        self.ranks[split] = chosen


def _rank(split: str, sentence: str) -> int:
    """Where a sentence stands among those that may be held out: as if drawn by lot."""
    digest = hashlib.sha256(f"{split}\0{sentence}".encode()).digest()
    return int.from_bytes(digest[:8], "big")


def _write_train(
    data: DataConfig, run: Path, train: Pairs, held_out: HeldOut
) -> tuple[Counter[str], dict[str, Corpus]]:
    """Write the training pairs but the empty and the held out into ``run``, if all can be read.

    What was made of the corpus before goes just before this one appears: it must not survive a
    failure as if it were new.

    Returns:
        how many there are of each kind, and those held out, by split.
    """
    counts: Counter[str] = Counter()
    taken: dict[str, list[Pair]] = {split: [] for split in held_out.ranks}
    src_path, tgt_path = (_path(run, "train", language) for language in (data.src, data.tgt))
    with written_whole(src_path) as write_src, written_whole(tgt_path) as write_tgt:
        for pair in train():
            kind = held_out.split_of(pair[0]) if _has_text(pair) else "empty"
            counts[kind] += 1
            if kind == "train":
                write_src(pair[0].encode() + b"\n")
                write_tgt(pair[1].encode() + b"\n")
            elif kind in taken:
                taken[kind].append(pair)
        _refuse_empty(data, {"train": counts["train"]})
        remove_tokenizer(run)
        _report_path(run).unlink(missing_ok=True)  # it stands for a complete corpus
    return counts, {split: Corpus.of(pairs) for split, pairs in taken.items()}


def _from_hub(data: DataConfig) -> dict[str, Pairs]:
    hub, datasets = data.hub, _datasets_library()
    sources: dict[str, Pairs] = {}
    for split, name in _split_names(hub.train, hub.valid, hub.test).items():
        try:
            rows = datasets.load_dataset(
                hub.name, hub.subset or None, split=name, revision=hub.revision or None
            )
        except Exception as error:  # the library raises many kinds, all of them the user's
            raise UserError(_hub_complaint(hub.name, name, error)) from None
        sources[split] = partial(pairs_of, rows, data)
    return sources


def pairs_of(rows: Iterable[Any], data: DataConfig) -> Iterator[Pair]:
    """The sentence pairs in rows of a hub data set.

    Args:
        rows: dictionaries with a field a language, or with a ``translation`` dictionary of them.
        data: names the languages.

    A missing value counts as an empty sentence.

    Raises:
        UserError: the rows have neither form.
    """
    for row in rows:
        fields = row["translation"] if isinstance(row.get("translation"), dict) else row
        yield _text_of(fields, data.src, data), _text_of(fields, data.tgt, data)


def _text_of(fields: dict[str, Any], language: str, data: DataConfig) -> str:
    text = "" if fields.get(language, 0) is None else fields.get(language)
    if not isinstance(text, str):
        raise UserError(
            f"{data.hub.name}: no text in a field {language!r}; "
            f"there are {', '.join(sorted(fields))}"
        )
    # One sentence a line: a line break within a sentence becomes a space.
    return text.replace("\r", " ").replace("\n", " ")


def _datasets_library() -> Any:
    """The ``datasets`` library, told to use its cache at once where the hub is out of reach."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    import datasets  # here, because it takes seconds and few commands need it

    datasets.disable_progress_bars()
    return datasets


def _hub_complaint(name: str, split: str, error: Exception) -> str:
    if isinstance(error, ConnectionError):
        return (
            f"{name}: the Hugging Face hub cannot be reached and the data set is not in its cache; "
            "connect to the network, or give the corpus as files with --data.directory PATH"
        )
    return f"{name}, split {split!r}: {' '.join(str(error).split())[:300]}"
