"""Make the Tandem corpus: python data/tandem/generate.py FOLDER

For each split, four files of which line n belongs together: ``.de`` and ``.en``, ``.de-en.align``
with the word alignment (``i-j``: German word i says what English word j says; words are what
spaces part, counted from 0) and ``.tags`` with the names of the phenomena in the pair.
"""

import random
import sys
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from grammar import Pair
from lexicon import Lexicon
from recipes import draw
from scenes import Scenes

SEED = 1
SIZES = {
    "train": 26_000,
    "valid": 1_000,
    "test": 1_000,
    "test_length": 1_000,
    "test_recombination": 1_000,
}
MORE_TESTS = 3_000  # pairs of "test" after the first 1,000
LONGEST_IN_TRAINING, SHORTEST, LONGEST = 16, 3, 30  # words
AT_LEAST = 50  # of each phenomenon, in every split but train, where it is by far more
PHENOMENA = (
    "verb_second", "verb_last", "separable", "compound", "adjective_ending", "case", "agreement",
    "relative", "pronoun", "ambiguous", "tense_bracket", "negation", "question", "imperative",
    "passive", "copy", "coordination",
)  # fmt: skip

# What training never shows, though it shows every word of it: these nouns as objects, these verbs
# in the perfect (only in the passive), and one in ten combinations of adjective and noun.
NEVER_OBJECT = {
    "Koch", "Touristin", "Tochter", "Nachbar", "Papagei", "Igel", "Eule", "Pullover", "Koffer",
    "Kamera", "Katze", "Pferd", "Elefant", "Lamm",
}  # fmt: skip
NEVER_PERFECT = {
    "malen", "zeichnen", "treffen", "kaufen", "putzen", "aufheben", "abholen", "verkaufen",
    "reparieren", "füttern", "fotografieren", "verstecken", "benutzen",
}  # fmt: skip


def held_out(pair: Pair) -> frozenset[str]:
    """Which kinds of recombination a pair needs that training does not show."""
    kinds = set()
    for fact in pair.tags:
        what, _, words = fact.partition(" ")
        if what == "=object" and words in NEVER_OBJECT:
            kinds.add("new_object")
        elif what == "=perfect" and words in NEVER_PERFECT:
            kinds.add("new_perfect")
        elif what == "=pair" and zlib.crc32(words.encode()) % 10 == 0:
            kinds.add("new_pair")
    return frozenset(kinds)


def belongs(split: str, pair: Pair) -> bool:
    """Whether a pair is of the kind that a split holds."""
    lengths = [len(text.split()) for text in (pair.german, pair.english)]
    if split == "test_length":
        fits = min(lengths) > LONGEST_IN_TRAINING and max(lengths) <= LONGEST
    else:
        fits = min(lengths) >= SHORTEST and max(lengths) <= LONGEST_IN_TRAINING
    return fits and bool(held_out(pair)) == (split == "test_recombination")


def candidates(split: str, lexicon: Lexicon) -> Iterator[Pair]:
    """Pairs without end; every second one for evaluation may hold names unseen in training."""
    rng = random.Random(f"{SEED} {split}")
    richness = 2.4 if split == "test_length" else 0.35
    sources = [Scenes(lexicon, rng, richness, unseen_names=False)]
    if split != "train":
        sources.append(Scenes(lexicon, rng, richness, unseen_names=True))
    while True:
        for source in sources:
            yield draw(source)


def make(split: str, size: int, lexicon: Lexicon, seen: set[str]) -> list[Pair]:
    """Pairs of a split, none of whose sentences has been ``seen``, in either language."""
    chosen: list[Pair] = []
    counts: Counter[str] = Counter()
    for pair in candidates(split, lexicon):
        missing = {tag: AT_LEAST - counts[tag] for tag in PHENOMENA if counts[tag] < AT_LEAST}
        if len(chosen) == size:
            assert not missing, f"{split}: too few of {missing}"
            return chosen
        room = size - len(chosen) > sum(missing.values())
        known = pair.german in seen or pair.english in seen
        if not known and belongs(split, pair) and (room or missing.keys() & pair.tags):
            seen |= {pair.german, pair.english}
            counts.update(pair.tags)
            chosen.append(pair)
    raise AssertionError("candidates never end")


def write(folder: Path, split: str, pairs: list[Pair], names: set[str]) -> None:
    """The four files of a split; ``names`` are those that training shows."""
    columns = {
        "de": [pair.german for pair in pairs],
        "en": [pair.english for pair in pairs],
        "de-en.align": [" ".join(f"{i}-{j}" for i, j in pair.alignment) for pair in pairs],
        "tags": [" ".join(sorted(shown(pair, names))) for pair in pairs],
    }
    for ending, lines in columns.items():
        text = "".join(line + "\n" for line in lines)
        (folder / f"{split}.{ending}").write_text(text, encoding="utf-8", newline="\n")


def names_in(pair: Pair) -> set[str]:
    """The made-up names that a pair copies."""
    return {tag.partition(" ")[2] for tag in pair.tags if tag.startswith("=name ")}


def shown(pair: Pair, names: set[str]) -> set[str]:
    """What a pair shows: phenomena, what is new to training, and names that are."""
    tags = {tag for tag in pair.tags if not tag.startswith("=")} | held_out(pair)
    return tags | ({"copy_unseen"} if names_in(pair) - names else set())


def main() -> None:
    """Write the corpus into the folder that the command line names."""
    if len(sys.argv) != 2:
        sys.exit("usage: python data/tandem/generate.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    lexicon = Lexicon.read(Path(__file__).parent / "lexicon.toml")
    seen: set[str] = set()
    # Tests first: the more frequent sentences are theirs.
    splits = {split: make(split, SIZES[split], lexicon, seen) for split in reversed(SIZES)}
    # Last, so that it changes no other split. A larger test set tells models apart more surely.
    splits["test"] += make("test", MORE_TESTS, lexicon, seen)
    names = {name for pair in splits["train"] for name in names_in(pair)}
    for split, pairs in splits.items():
        write(folder, split, pairs, names)


if __name__ == "__main__":
    main()
