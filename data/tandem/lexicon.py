"""The words of ``lexicon.toml``, read."""

import tomllib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from inflection import ing_of, past_of, plural_of

Kinds = Callable[[str], frozenset[str]]  # from names of classes and groups to classes


@dataclass(frozen=True)
class Noun:
    """A noun; ``kind`` is what it means, ``oblique`` what weak nouns add outside the nominative."""

    german: str
    german_plural: str  # empty: it is uncounted; "-": it stays singular
    english: str
    english_plural: str
    gender: str
    oblique: str
    kind: str
    ambiguous: bool = False

    @classmethod
    def read(cls, row: list[str], kind: str) -> "Noun":
        """A row: [German with article, German plural, English, English plural]."""
        article, german = row[0].split()
        german, _, oblique = german.partition("/")
        english_plural = row[3] if len(row) > 3 else plural_of(row[2])
        gender = {"der": "m", "die": "f", "das": "n"}[article]
        return cls(german, row[1], row[2], english_plural, gender, oblique, kind)

    @property
    def has_plural(self) -> bool:
        """Whether there may be several."""
        return self.german_plural not in ("", "-")

    @property
    def is_mass(self) -> bool:
        """Whether it takes no indefinite article: milk."""
        return not self.german_plural

    @property
    def is_compound(self) -> bool:
        """Whether one German word is several English ones."""
        return " " in self.english and " of " not in self.english


@dataclass(frozen=True)
class Adjective:
    """An adjective: ``german`` and ``english_alone`` are predicates, ``stem`` takes endings."""

    german: str
    stem: str
    english: str
    english_alone: str
    kinds: frozenset[str]
    degrees: tuple[tuple[str, str], ...]
    ambiguous: bool = False

    @classmethod
    def read(cls, row: list[str], kinds: Kinds, degrees: dict[str, list[Any]]) -> "Adjective":
        """A row: [German, English, what it is said of]."""
        german, _, stem = row[0].partition("/")
        english, _, alone = row[1].partition("/")
        very, rather, too = ((de, en) for de, en in degrees["all"])
        fitting = [] if german in degrees["none"] else [very, rather]
        fitting += [too] if german in degrees["too"] else []
        return cls(german, stem or german, english, alone or english, kinds(row[2]), tuple(fitting))


@dataclass(frozen=True)
class Verb:
    """A verb; of "aufheben", ``stem`` is "heben" and ``prefix`` "auf"."""

    stem: str
    prefix: str
    third: str
    participle: str
    auxiliary: str
    english: tuple[str, str, str, str]  # base, past, participle, -ing
    tail: str  # English words that stay behind the verb ...
    particle: str  # ... or let a pronoun pass: "picks it up"
    subjects: frozenset[str]
    objects: frozenset[str]
    governs: str
    preposition: str
    case: str
    is_simple: bool  # "he knows", not "he is knowing"
    is_voluntary: bool  # goes with "can" and "want"
    is_state: bool  # no time goes with it: "he loves"
    is_momentary: bool  # nothing that anybody is doing just now: "finds"
    is_habit: bool  # goes with "every day"
    has_passive: bool

    @classmethod
    def read(
        cls, row: list[str], governs: str, kinds: Kinds, lists: dict[str, list[str]]
    ) -> "Verb":
        """A row of the table ``governs``; ``lists`` says what is special about English verbs."""
        prefix, _, stem = row[0].rpartition("|")
        head, _, tail = row[4].partition(" ")
        base, *forms = head.split(":")
        past, participle = forms[:2] or [past_of(base)] * 2
        ing = forms[2] if len(forms) > 2 else ing_of(base)
        particle = tail.startswith("+")
        preposition, case = row[7:9] or ["", governs]
        return cls(
            stem=stem, prefix=prefix, third=row[1], participle=row[2],
            auxiliary={"h": "haben", "s": "sein"}[row[3]], english=(base, past, participle, ing),
            tail="" if particle else tail, particle=tail[1:] if particle else "",
            subjects=kinds(row[5]), objects=kinds(row[6] if len(row) > 6 else ""),
            governs=governs, preposition=preposition, case=case,
            is_simple=base in lists["simple_present"],
            is_voluntary=base not in lists["simple_present"] + lists["involuntary"],
            is_state=base in lists["states"],
            is_momentary=base in lists["momentary"],
            is_habit=governs == "none" or base in lists["habits"],
            has_passive=governs == "accusative" and base not in lists["no_passive"],
        )  # fmt: skip

    @property
    def infinitive(self) -> str:
        """With its prefix: "aufheben"."""
        return self.prefix + self.stem


@dataclass(frozen=True)
class Place:
    """Where something happens: ``noun`` after ``german``; English for being and going there."""

    noun: Noun
    german: str
    english: str
    english_into: str


@dataclass
class Lexicon:
    """All words by what they are good for."""

    nouns: list[Noun]
    verbs: dict[str, list[Verb]]
    adjectives: list[Adjective]
    reasons: list[tuple[str, str]]
    contradictions: dict[str, set[str]]
    drawbacks: frozenset[str]
    times: list[tuple[str, str, frozenset[str]]]
    places: list[Place]
    relations: list[tuple[str, str, frozenset[str]]]
    names: dict[str, list[str]]
    templates: list[tuple[str, str]]

    @classmethod
    def read(cls, path: Path) -> "Lexicon":
        """The lexicon in a TOML file (its comments say what each row holds)."""
        words = tomllib.loads(path.read_text(encoding="utf-8"))

        def kinds(names: str) -> frozenset[str]:
            groups, found = words["groups"], set[str]()
            for name in names.split():
                found |= kinds(" ".join(groups[name])) if name in groups else {name}
            return frozenset(found)

        def place(row: list[str]) -> Place:
            return Place(Noun.read([row[0], "", row[1]], "place"), *row[2:])

        contradictions: dict[str, set[str]] = defaultdict(set)
        for name, what in words["contradictions"]["all"]:
            contradictions[name].add(what)
        nouns = [Noun.read(row, kind) for kind, rows in words["nouns"].items() for row in rows]
        return cls(
            nouns=marked_ambiguous(nouns),
            verbs={
                g: [Verb.read(row, g, kinds, words["english"]) for row in rows]
                for g, rows in words["verbs"].items()
            },
            adjectives=marked_ambiguous(
                Adjective.read(row, kinds, words["degrees"]) for row in words["adjectives"]["all"]
            ),
            contradictions=contradictions,
            reasons=[(verb, adjective) for verb, adjective in words["reasons"]["all"]],
            drawbacks=frozenset(words["drawbacks"]["all"]),
            times=[(de, en, frozenset(when.split())) for de, en, when in words["times"]["all"]],
            places=[place(row) for row in words["places"]["all"]],
            relations=[(de, en, kinds(what)) for de, en, what in words["relations"]["all"]],
            names=words["names"],
            templates=[(de, en) for de, en in words["templates"]["all"]],
        )


def marked_ambiguous(words: Iterable[Any]) -> list[Any]:
    """The words, those marked that share their German or their English with another."""
    words = list(words)
    meanings = defaultdict(set)
    for word in words:
        meanings["de", word.german].add(word.english)
        meanings["en", word.english].add(word.german)
    return [
        replace(word, ambiguous=True)
        if len(meanings["de", word.german]) > 1 or len(meanings["en", word.english]) > 1
        else word
        for word in words
    ]
