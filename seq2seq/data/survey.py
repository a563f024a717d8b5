"""A look at a corpus before it is believed: its splits, what is left out, what looks wrong."""

import hashlib
import math
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seq2seq.config import DataConfig
from seq2seq.data.annotations import check_annotations
from seq2seq.data.corpus import Corpus, CorpusReport, Pair, file_pairs
from seq2seq.data.sources import open_corpus
from seq2seq.data.tokenizer import NORMALIZATION, TOO_LONG, clean
from seq2seq.utils import UserError, warn

OTHER_COLUMN = "a tab or an attribution in the text: another column?"
RATIO = 3  # one side is suspicious if it is this many times as long as usual beside the other
SLACK = 5  # characters that say nothing about a ratio: "Ja." and "Of course." are fine
CORRELATION = 0.2  # of the lengths of both sides: 0.9 in most corpora, about 0 where lines shifted


class Survey:
    """The splits of the corpus that ``data`` names: training streams by, the others are in memory.

    Training pairs with an empty side are left out and counted; validation and test pairs are kept
    as they are: systems are judged by them. What looks wrong is counted, and refused nowhere.
    ``UserError`` if the corpus, or annotations beside it, cannot be read.
    """

    def __init__(self, data: DataConfig, synthetic: Sequence[tuple[Path, Path]] = ()) -> None:
        self.data, self.readers, self.synthetic = data, open_corpus(data), synthetic
        self.splits = {x: Corpus.of(read()) for x, read in self.readers.items() if x != "train"}
        check_annotations(data, self.splits)
        if empty := [split for split, corpus in self.splits.items() if not corpus]:
            raise UserError(f"{data.path}: the {empty[0]} split has no sentence pairs")
        missing = ["test"] * (self.splits.keys() <= {"valid"})
        missing += ["valid"] * ("valid" not in self.splits)
        read = self.readers["train"]
        self.held_out = choose_held_out(read(), missing, data.n_held_out) if missing else {}
        self.splits |= {split: Corpus([], []) for split in missing}
        self.n_empty = self.n_overlapping = self.n_synthetic = 0
        self.found = Counter[str]()
        self.measures = array("Q")  # the hashes and the lengths of both sides, pair by pair

    def train(self) -> Iterator[Pair]:
        """The training pairs, to be read once; afterwards the splits are complete."""
        found, longest, too_long = self.found, self.data.max_tokens, list[int]()
        dropped = self._sides_of_other_splits() if self.data.drop_overlap else (set(), set())
        real = ((pair, False) for pair in self.readers["train"]())
        synthetic = ((pair, True) for files in self.synthetic for pair in file_pairs(*files))
        for pair, is_synthetic in chain(real, synthetic):
            src, tgt = cleaned = clean(pair[0]), clean(pair[1])
            hashes = sentence_hash(src), sentence_hash(tgt)
            if not (src.strip() and tgt.strip()):
                self.n_empty += 1
            elif (split := self.held_out.get(hashes[0])) and not is_synthetic:
                self.splits[split].src.append(pair[0])
                self.splits[split].tgt.append(pair[1])
            elif split or hashes[0] in dropped[0] or hashes[1] in dropped[1]:
                self.n_overlapping += 1
            else:
                self.n_synthetic += is_synthetic
                self.measures.extend((*hashes, len(src), len(tgt)))
                if len(src) + len(tgt) >= 60_000 and TOO_LONG.search(f"{src} {tgt}"):
                    too_long.append(len(self.measures) // 4)
                n_words = max(src.count(" "), tgt.count(" ")) + 1
                found["source equal to target"] += src == tgt
                found["characters that are read as others, or not at all"] += pair != cleaned
                found[OTHER_COLUMN] += bool(re.search("\t|CC-BY|tatoeba[.]org", "\n".join(pair)))
                found[f"more than {longest} words on a side"] += n_words > longest
                yield pair
        if too_long:
            what = f"no subwords are learned from words so long: lines: {len(too_long):,}"
            warn(f"{self.data.path}: {what}, the first is line {too_long[0]:,} of training")
        if not self.measures:
            raise UserError(f"{self.data.path}: the train split has no sentence pairs")

    def report(self) -> CorpusReport:
        """What was found, once the training pairs were read."""
        data, n_pairs = self.data, {split: len(corpus) for split, corpus in self.splits.items()}
        held_out = {split: n_pairs[split] for split in dict.fromkeys(self.held_out.values())}
        named = {str(Path(data.path) / x) for x in (data.train, data.valid, *data.test.split())}
        src, tgt, *lengths = np.frombuffer(self.measures, np.uint64).reshape(-1, 4).T
        found = {f"training pairs with {what}": n for what, n in self.found.items()}
        src_length, tgt_length = (np.log(side + SLACK) for side in lengths)
        ratios = src_length - tgt_length
        is_far = abs(ratios - np.median(ratios)) > math.log(RATIO)
        found[f"training pairs with a side {RATIO} times as long as usual, or more"] = is_far.sum()
        if len(ratios) >= 100 and src_length.std() > 0 and tgt_length.std() > 0:
            correlation = np.corrcoef(src_length, tgt_length)[0, 1]
            what = f"likely shifted lines, for lengths do not correlate (r = {correlation:.2f})"
            found[what] = len(ratios) * (correlation < CORRELATION)
        pairs = src * 1_000_003 + tgt  # wraps around
        found["training pairs that repeat another one"] = len(pairs) - len(np.unique(pairs))
        for split, corpus in self.splits.items():
            seen = np.isin(_hashes(corpus.src), src) | np.isin(_hashes(corpus.tgt), tgt)
            found[f"pairs of {split} of which training has a side (data.drop_overlap)"] = seen.sum()
        breaks = [reader.n_line_breaks for reader in self.readers.values()]
        found["pairs with a line break in a cell, which is a space now"] = sum(breaks)
        return CorpusReport(
            data.path,
            len(pairs) - self.n_synthetic,
            n_pairs.pop("valid"),
            n_pairs,
            self.n_empty,
            self.n_overlapping,
            [str(reader) for reader in self.readers.values() if reader.path not in named],
            held_out,
            {what: int(n) for what, n in found.items() if n},
            NORMALIZATION,
            self.n_synthetic,
        )

    def _sides_of_other_splits(self) -> tuple[set[int], set[int]]:
        """The hashes of their sources and of their targets."""
        src = {sentence_hash(clean(x)) for corpus in self.splits.values() for x in corpus.src}
        tgt = {sentence_hash(clean(x)) for corpus in self.splits.values() for x in corpus.tgt}
        for x, y in self.readers["train"]() if self.held_out else ():
            if sentence_hash(clean(x)) in self.held_out:
                tgt.add(sentence_hash(clean(y)))
        return src, tgt


def choose_held_out(pairs: Iterable[Pair], splits: list[str], n_sources: int) -> dict[int, str]:
    """The hashes of the source sentences to hold out for each of ``splits``.

    ``n_sources`` or, if that is fewer, a tenth of all. Those with the lowest hashes, so the order
    of the corpus does not matter; with all of their pairs, so a sentence is never on both sides.
    """
    cleaned = ((clean(src), clean(tgt)) for src, tgt in pairs)
    hashes = (sentence_hash(src) for src, tgt in cleaned if src.strip() and tgt.strip())
    lowest = np.unique(np.fromiter(hashes, dtype=np.uint64))  # no text: 8 bytes per pair
    if len(lowest) < 10:
        reason = f"of {len(lowest)} source sentences none are held out for {' and '.join(splits)}"
        raise UserError(f"data.n_held_out = {n_sources}: {reason}: 10 are needed")
    rest = map(int, lowest)
    n_sources = min(n_sources, len(lowest) // 10)
    return {value: split for split in splits for value in islice(rest, n_sources)}


def sentence_hash(cleaned: str) -> int:
    """The same in every process."""
    return int.from_bytes(hashlib.sha256(cleaned.encode()).digest()[:8], "big")


def _hashes(sentences: Iterable[str]) -> NDArray[np.uint64]:
    return np.fromiter((sentence_hash(clean(x)) for x in sentences), np.uint64)
