"""Training pairs held out as validation and test sets, where a corpus brings none."""

import hashlib
from itertools import groupby

import numpy as np

from seq2seq.corpus import Pair, Pairs
from seq2seq.errors import UserError


def has_text(pair: Pair) -> bool:
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
        rest = (src for src, tgt in self.train() if has_text((src, tgt)))
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
