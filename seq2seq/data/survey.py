"""A look at a corpus before it is believed: its splits, what is left out, what looks wrong."""

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from seq2seq.config import DataConfig
from seq2seq.data.corpus import Corpus, CorpusReport, Pair
from seq2seq.data.sources import open_corpus
from seq2seq.data.tokenizer import NORMALIZATION, clean
from seq2seq.utils import UserError

Check = Callable[[DataConfig, Mapping[str, Corpus]], None]  # raises UserError

RATIO = 3  # one side is suspicious if it is this many times as long as usual beside the other
SLACK = 5  # characters that say nothing about a ratio: "Ja." and "Of course." are fine
CORRELATION = 0.2  # of the lengths of both sides: 0.9 in most corpora, about 0 where lines shifted


class Survey:
    """The splits of the corpus that ``data`` names: training streams by, the others are in memory.

    Training pairs with an empty side are left out and counted; validation and test pairs are kept
    as they are: systems are judged by them. What looks wrong is counted, and refused nowhere.
    ``check`` sees the splits but training. ``UserError`` if the corpus cannot be read.
    """

    def __init__(self, data: DataConfig, check: Check | None = None) -> None:
        self.data, self.readers = data, open_corpus(data)
        others = {split: read for split, read in self.readers.items() if split != "train"}
        self.splits = {split: Corpus.of(read()) for split, read in others.items()}
        if check:
            check(data, self.splits)
        if empty := [split for split, corpus in self.splits.items() if not corpus]:
            raise UserError(f"{data.path}: the {empty[0]} split has no sentence pairs")
        missing = ["test"] * (self.splits.keys() <= {"valid"})
        missing += ["valid"] * ("valid" not in self.splits)
        read = self.readers["train"]
        self.missing = choose_held_out(read(), missing, data.n_held_out) if missing else {}
        self.splits |= {split: Corpus([], []) for split in missing}
        self.counts, self.found = Counter[str](), Counter[str]()
        self.held_out = dict.fromkeys(missing, 0)
        self.hashes, self.lengths = (array("q"), array("q")), (array("i"), array("i"))

    def train(self) -> Iterator[Pair]:
        """The training pairs, to be read once; afterwards the splits are complete."""
        counts, found, held_out = self.counts, self.found, self.missing
        (src_hashes, tgt_hashes), (src_lengths, tgt_lengths) = self.hashes, self.lengths
        dropped = self._sides_of_other_splits() if self.data.drop_overlap else None
        longest = self.data.max_tokens
        for src, tgt in self.readers["train"]():
            src_clean, tgt_clean = clean(src), clean(tgt)
            src_hash, tgt_hash = hash(src_clean), hash(tgt_clean)
            if not (src_clean.strip() and tgt_clean.strip()):
                counts["empty"] += 1
            elif held_out and (split := held_out.get(sentence_hash(src_clean))):
                self.splits[split].src.append(src)
                self.splits[split].tgt.append(tgt)
                self.held_out[split] += 1
            elif dropped and (src_hash in dropped[0] or tgt_hash in dropped[1]):
                counts["overlap"] += 1
            else:
                counts["train"] += 1
                src_hashes.append(src_hash)
                tgt_hashes.append(tgt_hash)
                src_lengths.append(len(src_clean))
                tgt_lengths.append(len(tgt_clean))
                if src_hash == tgt_hash:
                    found["source equal to target"] += 1
                if src_clean != src or tgt_clean != tgt:
                    found["characters that are read as others, or not at all"] += 1
                    if "\t" in src or "\t" in tgt:
                        found["a tab in the text: another column?"] += 1
                if len(src_clean) > longest or len(tgt_clean) > longest:
                    n_spaces = max(src_clean.count(" "), tgt_clean.count(" "))
                    found[f"more than {longest} words on a side"] += n_spaces >= longest
                if "CC-BY" in tgt or "tatoeba.org" in tgt or "CC-BY" in src or "tatoeba.org" in src:
                    found["an attribution in the text: another column?"] += 1
                yield src, tgt
        if not counts["train"]:
            raise UserError(f"{self.data.path}: the train split has no sentence pairs")

    def report(self) -> CorpusReport:
        """What was found, once the training pairs were read."""
        data, n_pairs = self.data, {split: len(corpus) for split, corpus in self.splits.items()}
        named = {str(Path(data.path) / x) for x in (data.train, data.valid, *data.test.split())}
        taken = [str(reader) for reader in self.readers.values() if reader.path not in named]
        found = {f"training pairs with {what}": n for what, n in self.found.items()}
        found |= self._length_findings()
        src, tgt = (np.frombuffer(side, dtype=np.int64) for side in self.hashes)
        pairs = src * 1_000_003 + tgt  # wraps around
        found["training pairs that repeat another one"] = len(pairs) - len(np.unique(pairs))
        for split, corpus in self.splits.items():
            sides = (_hashes(corpus.src), src), (_hashes(corpus.tgt), tgt)
            is_seen = [np.isin(theirs, ours) for theirs, ours in sides]
            n_seen = int((is_seen[0] | is_seen[1]).sum())
            found[f"pairs of {split} of which training has a side (data.drop_overlap)"] = n_seen
        breaks = sum(reader.n_line_breaks for reader in self.readers.values())
        found["pairs with a line break in a cell, which is a space now"] = breaks
        return CorpusReport(
            data.path,
            self.counts["train"],
            n_pairs.pop("valid"),
            n_pairs,
            self.counts["empty"],
            self.counts["overlap"],
            taken,
            self.held_out,
            {what: n for what, n in found.items() if n},
            NORMALIZATION,
        )

    def _length_findings(self) -> dict[str, int]:
        src, tgt = (np.log(np.frombuffer(side, np.intc) + SLACK) for side in self.lengths)
        ratios = src - tgt
        n_far = int((abs(ratios - np.median(ratios)) > math.log(RATIO)).sum())
        findings = {f"training pairs with a side {RATIO} times as long as usual, or more": n_far}
        if len(ratios) >= 100 and src.std() > 0 and tgt.std() > 0:
            correlation = np.corrcoef(src, tgt)[0, 1]
            what = f"likely shifted lines, for lengths do not correlate (r = {correlation:.2f})"
            findings[what] = len(ratios) * int(correlation < CORRELATION)
        return findings

    def _sides_of_other_splits(self) -> tuple[set[int], set[int]]:
        """The hashes of their sources and of their targets."""
        src = {hash(clean(x)) for corpus in self.splits.values() for x in corpus.src}
        tgt = {hash(clean(x)) for corpus in self.splits.values() for x in corpus.tgt}
        for x, y in self.readers["train"]() if self.missing else ():
            if sentence_hash(clean(x)) in self.missing:
                tgt.add(hash(clean(y)))
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


def _hashes(sentences: list[str]) -> NDArray[np.int64]:
    return np.array([hash(clean(sentence)) for sentence in sentences], dtype=np.int64)
