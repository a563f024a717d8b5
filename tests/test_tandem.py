"""The Tandem corpus: its forms against a grammar book's tables, its files against its promises."""

import ast
import random
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import generate
import inflection as forms
import pytest
import recipes
from grammar import NO, NONE, THE, THIS, A, Determiner, NounPhrase, Token, pair, punctuated
from inflection import ACC, DAT, NOM
from lexicon import Adjective, Lexicon, Noun
from scenes import Scenes

FOLDER = Path(generate.__file__).parent
LEXICON = Lexicon.read(FOLDER / "lexicon.toml")
TESTS = ("test", "test_length", "test_recombination")


def text(tokens: list[Token]) -> str:
    return " ".join(token.text for token in tokens)


# --- forms, against tables written by hand ---

MAN = Noun("Mann", "Männer", "man", "men", "m", "", "human")
WOMAN = Noun("Frau", "Frauen", "woman", "women", "f", "", "human")
CHILD = Noun("Kind", "Kinder", "child", "children", "n", "", "human")
BEAR = Noun("Bär", "Bären", "bear", "bears", "m", "en", "wild_animal")
OLD = Adjective("alt", "alt", "old", "old", frozenset(), ())

TABLE = """
der alte Mann | den alten Mann | dem alten Mann
die alte Frau | die alte Frau | der alten Frau
das alte Kind | das alte Kind | dem alten Kind
die alten Männer | die alten Männer | den alten Männern
ein alter Mann | einen alten Mann | einem alten Mann
eine alte Frau | eine alte Frau | einer alten Frau
ein altes Kind | ein altes Kind | einem alten Kind
alte Männer | alte Männer | alten Männern
dieser alte Mann | diesen alten Mann | diesem alten Mann
diese alte Frau | diese alte Frau | dieser alten Frau
dieses alte Kind | dieses alte Kind | diesem alten Kind
diese alten Männer | diese alten Männer | diesen alten Männern
kein alter Mann | keinen alten Mann | keinem alten Mann
keine alte Frau | keine alte Frau | keiner alten Frau
kein altes Kind | kein altes Kind | keinem alten Kind
keine alten Männer | keine alten Männer | keinen alten Männern
mein alter Mann | meinen alten Mann | meinem alten Mann
meine alte Frau | meine alte Frau | meiner alten Frau
mein altes Kind | mein altes Kind | meinem alten Kind
meine alten Männer | meine alten Männer | meinen alten Männern
alter Mann | alten Mann | altem Mann
alte Frau | alte Frau | alter Frau
altes Kind | altes Kind | altem Kind
alte Männer | alte Männer | alten Männern
"""


def test_articles_and_endings() -> None:
    rows = iter(TABLE.strip().splitlines())
    for determiner in (THE, A, THIS, NO, Determiner("mein", "my", "my", "ein"), NONE):
        for noun, many in ((MAN, False), (WOMAN, False), (CHILD, False), (MAN, True)):
            phrase = NounPhrase(noun, many, determiner, OLD)
            made = " | ".join(text(phrase.german(case)) for case in (NOM, ACC, DAT))
            assert made == next(rows)
    assert not list(rows)


def test_weak_nouns_and_dative_plurals() -> None:
    assert [text(NounPhrase(BEAR).german(c)) for c in (NOM, ACC, DAT)] == [
        "der Bär", "den Bären", "dem Bären",
    ]  # fmt: skip
    made = {
        plural: forms.dative_plural(plural) for plural in ("Hunde", "Autos", "Frauen", "Häuser")
    }
    assert made == {"Hunde": "Hunden", "Autos": "Autos", "Frauen": "Frauen", "Häuser": "Häusern"}


def test_relative_and_personal_pronouns() -> None:
    def row(table: dict[str, str], gender: str) -> list[str]:
        return [forms.form(table, gender, case) for case in (NOM, ACC, DAT)]

    assert [row(forms.RELATIVE, g) for g in "mfnp"] == [
        ["der", "den", "dem"], ["die", "die", "der"], ["das", "das", "dem"], ["die", "die", "denen"],
    ]  # fmt: skip
    assert [row(forms.PRONOUN, g) for g in "mfnp"] == [
        ["er", "ihn", "ihm"], ["sie", "sie", "ihr"], ["es", "es", "ihm"], ["sie", "sie", "ihnen"],
    ]  # fmt: skip


def test_verb_forms() -> None:
    made = {
        forms.first_person(infinitive, third)
        for infinitive, third in (
            ("lesen", "liest"), ("streicheln", "streichelt"), ("flüstern", "flüstert"),
            ("wissen", "weiß"),
        )
    }  # fmt: skip
    assert made == {"lese", "streichle", "flüstere", "weiß"}
    assert [forms.third_person(v) for v in ("read", "carry", "play", "go", "wash", "fix")] == [
        "reads", "carries", "plays", "goes", "washes", "fixes",
    ]  # fmt: skip
    assert [forms.past_of(v) for v in ("cook", "smile", "carry", "play")] == [
        "cooked", "smiled", "carried", "played",
    ]  # fmt: skip
    assert [forms.ing_of(v) for v in ("read", "smile", "carry", "see")] == [
        "reading", "smiling", "carrying", "seeing",
    ]  # fmt: skip
    assert [forms.plural_of(n) for n in ("dog", "box", "church", "lady", "boy")] == [
        "dogs", "boxes", "churches", "ladies", "boys",
    ]  # fmt: skip
    words = ("apple", "hour", "uniform", "dog", "old", "honest")
    assert [forms.indefinite_article(w) for w in words] == ["an", "an", "a", "a", "an", "an"]


def test_every_verb_of_the_lexicon_is_well_formed() -> None:
    for verbs in LEXICON.verbs.values():
        for verb in verbs:
            assert verb.stem.endswith("n"), verb
            assert verb.participle.startswith(verb.prefix), verb
            assert verb.participle[-1] in "nt", verb
            doubled = verb.english[3][:-3]  # no consonant is doubled by accident
            assert doubled in (verb.english[0], verb.english[0].removesuffix("e")) or (
                doubled == verb.english[0] + verb.english[0][-1] or verb.english[3].endswith("ying")
            ), verb


def test_punctuation() -> None:
    tokens = [Token(t) for t in ("er", "kommt", ",", ",", "sagt", "sie", ".", "gut", ",")]
    assert text(punctuated(tokens, ".")) == "Er kommt, sagt sie. Gut."


def test_words_are_aligned_where_they_share_a_mark() -> None:
    a, b = (0, "a"), (0, "b")
    german = [Token("x", frozenset([a])), Token("y", frozenset([a, b])), Token("z")]
    english = [Token("u", frozenset([b])), Token("v"), Token("w", frozenset([a]))]
    assert pair(german, english).alignment == ((0, 2), (1, 0), (1, 2))


# --- the files, against the promises of the data card ---


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[str]]]:
    """Every file of the corpus, by split and ending."""
    folder = tmp_path_factory.mktemp("tandem")
    subprocess.run([sys.executable, FOLDER / "generate.py", folder], check=True)
    return {
        split: {
            ending: (folder / f"{split}.{ending}").read_bytes().decode().split("\n")[:-1]
            for ending in ("de", "en", "de-en.align", "tags")
        }
        for split in generate.SIZES
    }


def test_the_same_bytes_whatever_python_hashes(
    corpus: dict[str, dict[str, list[str]]], tmp_path: Path
) -> None:
    """A small corpus, twice, with other hash seeds, as another machine would."""
    code = (
        "import sys, generate; generate.SIZES = {'train': 300, 'test': 300}; "
        "generate.AT_LEAST = 5; generate.main()"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(FOLDER)}
        command = [sys.executable, "-c", code, str(tmp_path / seed)]
        subprocess.run(command, env=environment, check=True)
    assert len(list((tmp_path / "1").iterdir())) == 8
    for path in (tmp_path / "1").iterdir():
        assert path.read_bytes() == (tmp_path / "2" / path.name).read_bytes()


def test_sizes_and_lengths(corpus: dict[str, dict[str, list[str]]]) -> None:
    assert len(corpus["train"]["de"]) >= 25_000
    for split, files in corpus.items():
        assert {len(lines) for lines in files.values()} == {generate.SIZES[split]}
        lengths = [len(line.split()) for ending in ("de", "en") for line in files[ending]]
        assert min(lengths) >= 3
        assert max(lengths) <= 30
    longest = max(len(x.split()) for ending in ("de", "en") for x in corpus["train"][ending])
    shortest = min(len(x.split()) for ending in ("de", "en") for x in corpus["test_length"][ending])
    assert shortest > longest


def test_nothing_leaks(corpus: dict[str, dict[str, list[str]]]) -> None:
    for ending in ("de", "en"):
        every = [line for files in corpus.values() for line in files[ending]]
        assert len(set(every)) == len(every)


def test_each_phenomenon_is_frequent(corpus: dict[str, dict[str, list[str]]]) -> None:
    for split, at_least in (("train", 300), *((test, 50) for test in TESTS)):
        counts = Counter(tag for line in corpus[split]["tags"] for tag in line.split())
        for name in generate.PHENOMENA:
            assert counts[name] >= at_least, (split, name)
    assert "copy_unseen" not in " ".join(corpus["train"]["tags"])


def test_the_lexicon_is_large_and_its_words_ambiguous() -> None:
    entries = len(LEXICON.nouns) + sum(map(len, LEXICON.verbs.values())) + len(LEXICON.adjectives)
    entries += len(LEXICON.times) + len(LEXICON.places) + len(LEXICON.relations)
    assert entries >= 700
    words = {noun.german for noun in LEXICON.nouns if noun.ambiguous}
    english = {noun.english for noun in LEXICON.nouns if noun.ambiguous}
    twice = [w for w in words if len({n.english for n in LEXICON.nouns if n.german == w}) > 1]
    other = [w for w in english if len({n.german for n in LEXICON.nouns if n.english == w}) > 1]
    assert len(twice) + len(other) >= 20


def test_each_sentence_has_one_translation() -> None:
    """Drawn many times over, the plainest sentences never come with two translations."""
    source = Scenes(LEXICON, random.Random("plain"), richness=-0.3, unseen_names=False)
    to_english: dict[str, str] = {}
    to_german: dict[str, str] = {}
    repeated = 0
    for recipe in (recipes.statement, recipes.question, recipes.passive, recipes.two_meanings):
        for _ in range(6000):
            made = recipe(source)
            repeated += made.german in to_english
            assert to_english.setdefault(made.german, made.english) == made.english
            assert to_german.setdefault(made.english, made.german) == made.german
    assert repeated > 1000


def test_an_object_tells_verbs_apart_that_share_a_side() -> None:
    """Two verbs that are one in English, or in German, act on different things, or differ in who acts."""
    verbs = LEXICON.verbs["accusative"]
    for i, one in enumerate(verbs):
        for other in verbs[:i]:
            english = (one.english, one.tail, one.particle)
            if english == (other.english, other.tail, other.particle) or (
                one.infinitive == other.infinitive
            ):
                assert not (one.objects & other.objects and one.subjects & other.subjects)


def test_alignments_are_in_range_and_cover_every_word(
    corpus: dict[str, dict[str, list[str]]],
) -> None:
    """Every English word is aligned; German ones too, but for those that only German says."""
    for split in ("valid", *TESTS):
        files = corpus[split]
        for german, english, line, tags in zip(*files.values(), strict=True):
            links = {tuple(map(int, link.split("-"))) for link in line.split()}
            de, en = german.split(), english.split()
            assert {j for _, j in links} == set(range(len(en)))
            assert {i for i, _ in links} <= set(range(len(de)))
            left = {de[i] for i in set(range(len(de))) - {i for i, _ in links}}
            allowed = {"Sie"} if "imperative" in tags else set()
            if re.search(r"\b(Zug|Bus|Paket)\b", german) and "copy" in tags:
                allowed |= {"Der", "der", "Das", "Uhr"}
            if "spiel" in german.lower():
                allowed |= {"auf"}
            assert left <= allowed, (german, english)


def test_a_pronoun_said_twice_is_aligned_each_with_its_own(
    corpus: dict[str, dict[str, list[str]]],
) -> None:
    checked = 0
    for german, line in zip(corpus["train"]["de"], corpus["train"]["de-en.align"], strict=True):
        words = [word.strip(",.?").lower() for word in german.split()]
        links = [tuple(map(int, link.split("-"))) for link in line.split()]
        for pronoun in ("ich", "wir", "er", "sie"):
            rows = [i for i, word in enumerate(words) if word == pronoun]
            says = [frozenset(j for i, j in links if i == row) for row in rows]
            assert len(set(says)) == len(says), german
            checked += len(rows) > 1
    assert checked > 50


def test_recombination_shows_what_training_never_does(
    corpus: dict[str, dict[str, list[str]]],
) -> None:
    """Seen from the text alone: a held-out noun is never an object, a held-out verb never perfect."""
    text_of = {split: "\n".join(files["de"]) for split, files in corpus.items()}
    as_object = re.compile(
        r"\b(?:den|einen|diesen|meinen|seinen) (?:\w+en )?(Igel|Pullover|Koffer)\b"
    )
    perfect = re.compile(r"\b(?:habe|hat|haben) [^,.?\n]*\b(gemalt|gekauft|repariert)\b")
    for pattern in (as_object, perfect):
        assert pattern.search(text_of["test_recombination"])
        assert not pattern.search(text_of["train"])
        assert not pattern.search(text_of["test"])
    train = set(re.findall(r"\w+", text_of["train"]))
    assert {"Igel", "Pullover", "Koffer", "gemalt", "gekauft", "repariert"} <= train
    new = Counter(tag for line in corpus["test_recombination"]["tags"] for tag in line.split())
    assert min(new["new_object"], new["new_perfect"], new["new_pair"]) >= 100
    assert not {"new_object", "new_perfect", "new_pair"} & set(
        " ".join(corpus["train"]["tags"]).split()
    )


def test_recombination_has_no_new_words(corpus: dict[str, dict[str, list[str]]]) -> None:
    """But for names, codes, and forms of a word: the dative of a noun that is never an object."""
    train = set(re.findall(r"\w+", "\n".join(corpus["train"]["de"])))
    files = corpus["test_recombination"]
    lines = [de for de, tags in zip(files["de"], files["tags"], strict=True) if "copy" not in tags]
    new = {word for line in lines for word in re.findall(r"\w+", line)} - train
    assert len(new) < 40, sorted(new)


def test_unseen_names_are_those_that_training_lacks(
    corpus: dict[str, dict[str, list[str]]],
) -> None:
    name = re.compile(r"\b(?:Frau|Herrn?) ([A-Z]\w+)")
    seen = set(re.findall(r"\w+", "\n".join(corpus["train"]["de"])))
    checked = 0
    for split in TESTS:
        for german, tags in zip(corpus[split]["de"], corpus[split]["tags"], strict=True):
            unseen = set(name.findall(german)) - seen
            assert not unseen or "copy_unseen" in tags.split(), german
            checked += bool(unseen)
            if "copy_unseen" in tags.split():
                assert set(re.findall(r"\w+", german)) - seen, german
    assert checked > 50
    assert "copy_unseen" not in " ".join(corpus["train"]["tags"])


def test_the_programs_need_python_alone() -> None:
    own = {path.stem for path in FOLDER.glob("*.py")}
    for path in FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= own | set(sys.stdlib_module_names)
