"""A small German-English corpus made by rules, so that everything works without a network.

    python data/toy.py data/toy

writes train, valid and test as ``.de`` and ``.en``. The sentences are simple scenes, yet hold
what makes German interesting to attention: gender and case in the article and the adjective's
ending, the verb in second place whatever stands first, and the participle at the sentence's end.
The same bytes come out on every machine.
"""

import random
import sys
from collections.abc import Iterable
from pathlib import Path

PAIRS = {"train": 4000, "valid": 300, "test": 300}

# English noun: German noun, gender. (All take the same form in nominative and accusative.)
PEOPLE = {
    "man": ("Mann", "m"), "woman": ("Frau", "f"), "child": ("Kind", "n"),
    "teacher": ("Lehrer", "m"), "doctor": ("Ärztin", "f"), "girl": ("Mädchen", "n"),
    "neighbour": ("Nachbar", "m"), "baker": ("Bäckerin", "f"), "cook": ("Koch", "m"),
}  # fmt: skip
THINGS = {
    "book": ("Buch", "n"), "letter": ("Brief", "m"), "newspaper": ("Zeitung", "f"),
    "picture": ("Bild", "n"), "apple": ("Apfel", "m"), "cup": ("Tasse", "f"),
    "bicycle": ("Fahrrad", "n"), "coat": ("Mantel", "m"), "lamp": ("Lampe", "f"),
    "table": ("Tisch", "m"), "cake": ("Kuchen", "m"), "bag": ("Tasche", "f"),
}  # fmt: skip
READABLE = {name: THINGS[name] for name in ("book", "letter", "newspaper")}
ADJECTIVES_OF_PEOPLE = {
    "old": "alt", "young": "jung", "small": "klein", "tall": "groß", "happy": "glücklich",
}  # fmt: skip
ADJECTIVES_OF_THINGS = {
    "old": "alt", "new": "neu", "small": "klein", "red": "rot", "white": "weiß",
    "beautiful": "schön", "cheap": "billig", "big": "groß",
}  # fmt: skip
# English present and past; German present and participle (all with "haben"); objects.
VERBS = [
    ("reads", "read", "liest", "gelesen", READABLE),
    ("writes", "wrote", "schreibt", "geschrieben", READABLE),
    ("sees", "saw", "sieht", "gesehen", THINGS),
    ("buys", "bought", "kauft", "gekauft", THINGS),
    ("looks for", "looked for", "sucht", "gesucht", THINGS),
    ("finds", "found", "findet", "gefunden", THINGS),
    ("shows", "showed", "zeigt", "gezeigt", THINGS),
    ("paints", "painted", "malt", "gemalt", THINGS),
    ("sells", "sold", "verkauft", "verkauft", THINGS),
    ("forgets", "forgot", "vergisst", "vergessen", THINGS),
]
WHEN = {
    "today": "heute", "in the morning": "am Morgen", "in the evening": "am Abend",
    "in summer": "im Sommer", "on Monday": "am Montag", "sometimes": "manchmal",
}  # fmt: skip
WHERE = {
    "in the garden": "im Garten", "in the city": "in der Stadt", "at home": "zu Hause",
    "in the park": "im Park", "at the station": "am Bahnhof", "at the market": "auf dem Markt",
}  # fmt: skip

ARTICLES = {  # German by definiteness, case, gender
    ("the", "nominative"): {"m": "der", "f": "die", "n": "das"},
    ("the", "accusative"): {"m": "den", "f": "die", "n": "das"},
    ("a", "nominative"): {"m": "ein", "f": "eine", "n": "ein"},
    ("a", "accusative"): {"m": "einen", "f": "eine", "n": "ein"},
}
ENDINGS = {  # of an adjective after that article
    ("the", "nominative"): {"m": "e", "f": "e", "n": "e"},
    ("the", "accusative"): {"m": "en", "f": "e", "n": "e"},
    ("a", "nominative"): {"m": "er", "f": "e", "n": "es"},
    ("a", "accusative"): {"m": "en", "f": "e", "n": "es"},
}


def noun_phrase(
    rng: random.Random, nouns: dict[str, tuple[str, str]], adjectives: dict[str, str], case: str
) -> tuple[str, str]:
    """A German and an English noun phrase of one meaning: "den alten Tisch", "the old table"."""
    english, (german, gender) = rng.choice(list(nouns.items()))
    article = rng.choice(["the", "a"])
    de, en = [ARTICLES[article, case][gender]], [article]
    if rng.random() < 0.5:
        adjective, stem = rng.choice(list(adjectives.items()))
        de.append(stem + ENDINGS[article, case][gender])
        en.append(adjective)
    en.append(english)
    if article == "a" and en[1][0] in "aeiou":
        en[0] = "an"
    return " ".join([*de, german]), " ".join(en)


def pair(rng: random.Random) -> tuple[str, str]:
    """One sentence in both languages."""
    present_en, past_en, present_de, participle_de, objects = rng.choice(VERBS)
    past = rng.random() < 0.5
    subject_de, subject_en = noun_phrase(rng, PEOPLE, ADJECTIVES_OF_PEOPLE, "nominative")
    object_de, object_en = noun_phrase(rng, objects, ADJECTIVES_OF_THINGS, "accusative")
    when_en, when_de = rng.choice([*WHEN.items(), ("", "")])
    where_en, where_de = rng.choice([*WHERE.items(), ("", "")])
    first = rng.choice(
        ["subject", *(["when"] if when_en else []), *(["where"] if where_en else [])]
    )
    # German: whatever stands first, the verb comes second and the participle last.
    german = {"subject": subject_de, "when": when_de, "object": object_de, "where": where_de}
    german = {first: german[first], "verb": "hat" if past else present_de} | german
    german["participle"] = participle_de if past else ""
    # English: time or place may stand first, the rest keeps its order.
    english = {"subject": subject_en, "verb": past_en if past else present_en}
    english |= {"object": object_en, "where": where_en, "when": when_en}
    if first != "subject":
        english = {first: english[first] + ","} | {k: v for k, v in english.items() if k != first}
    return sentence(german.values()), sentence(english.values())


def sentence(parts: Iterable[str]) -> str:
    """The parts that are not empty as a sentence, with a capital and a full stop."""
    text = " ".join(part for part in parts if part)
    return text[0].upper() + text[1:] + "."


def main() -> None:
    """Write the corpus into the folder that the command line names."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(1)
    pairs: dict[str, str] = {}
    while len(pairs) < sum(PAIRS.values()):
        german, english = pair(rng)
        pairs.setdefault(german, english)
    rows = iter(pairs.items())
    for split, size in PAIRS.items():
        chosen = [next(rows) for _ in range(size)]
        for language, lines in zip(("de", "en"), zip(*chosen, strict=True), strict=True):
            text = "".join(line + "\n" for line in lines)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
