"""How German and English words change: articles, endings, persons, plurals.

German tables have a row for each gender, m, f and n, and p for the plural of all three; a row has
a form for each case.
"""

NOM, ACC, DAT = CASES = ("nominative", "accusative", "dative")

DER = {"m": "der den dem", "f": "die die der", "n": "das das dem", "p": "die die den"}
RELATIVE = DER | {"p": "die die denen"}
PRONOUN = {"m": "er ihn ihm", "f": "sie sie ihr", "n": "es es ihm", "p": "sie sie ihnen"}
# What is added to dies-, and to ein-, kein-, mein- ("-": nothing).
DIES_ENDINGS = {"m": "er en em", "f": "e e er", "n": "es es em", "p": "e e en"}
EIN_ENDINGS = {"m": "- en em", "f": "e e er", "n": "- - em", "p": "e e en"}
# What is added to an adjective: after der and dies-, after ein- and kein-, and where no ending
# has shown the case yet.
WEAK = {"m": "e en en", "f": "e e en", "n": "e e en", "p": "en en en"}
MIXED = {"m": "er en en", "f": "e e en", "n": "es es en", "p": "en en en"}
STRONG = {"m": "er en em", "f": "e e er", "n": "es es em", "p": "e e en"}
CONTRACTED = {
    ("in", "dem"): "im", ("an", "dem"): "am", ("von", "dem"): "vom", ("zu", "dem"): "zum",
    ("zu", "der"): "zur", ("in", "das"): "ins", ("an", "das"): "ans",
}  # fmt: skip

# The person and number of a subject: I, he (she, it), they (we, and all plurals).
I, HE, THEY = "I", "he", "they"  # noqa: E741
AUXILIARIES = {
    "haben": {I: "habe", HE: "hat", THEY: "haben"},
    "sein": {I: "bin", HE: "ist", THEY: "sind"},
    "waren": {I: "war", HE: "war", THEY: "waren"},
    "werden": {I: "werde", HE: "wird", THEY: "werden"},
    "wurden": {I: "wurde", HE: "wurde", THEY: "wurden"},
}
# English verbs of which more than "he -s" must be known: present for I, he, they; past likewise.
IRREGULAR = {
    "be": ({I: "am", HE: "is", THEY: "are"}, {I: "was", HE: "was", THEY: "were"}),
    "have": ({I: "have", HE: "has", THEY: "have"}, dict.fromkeys((I, HE, THEY), "had")),
    "do": ({I: "do", HE: "does", THEY: "do"}, dict.fromkeys((I, HE, THEY), "did")),
    "had": (dict.fromkeys((I, HE, THEY), "had"), dict.fromkeys((I, HE, THEY), "had")),
    "can": (dict.fromkeys((I, HE, THEY), "can"), dict.fromkeys((I, HE, THEY), "could")),
    "will": (dict.fromkeys((I, HE, THEY), "will"), dict.fromkeys((I, HE, THEY), "would")),
}
VOWELS = "aeiou"


def form(table: dict[str, str], gender: str, case: str) -> str:
    """The entry of a German table for a gender and a case."""
    return table[gender].split()[CASES.index(case)].replace("-", "")


def dative_plural(plural: str) -> str:
    """The dative: "Hunde" to "Hunden"; "Autos" and "Frauen" stay."""
    return plural if plural[-1] in "ns" else plural + "n"


def first_person(infinitive: str, third: str) -> str:
    """German with "ich": "lese" for "lesen", "streichle" for "streicheln", "weiß"."""
    if not third.endswith("t"):
        return third
    if infinitive.endswith("eln"):
        return infinitive[:-3] + "le"
    return infinitive.removesuffix("n").removesuffix("e") + "e"


def plural_of(noun: str) -> str:
    """The regular plural of an English noun."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2] not in VOWELS:
        return noun[:-1] + "ies"
    return noun + "s"


def third_person(verb: str) -> str:
    """English with "he": "reads", "carries", "goes"."""
    return verb + "es" if verb.endswith("o") else plural_of(verb)


def past_of(verb: str) -> str:
    """The regular past: "carried", "smiled", "cooked"."""
    if verb.endswith("y") and verb[-2] not in VOWELS:
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def ing_of(verb: str) -> str:
    """The regular -ing form: "reading", "smiling"."""
    silent_e = verb.endswith("e") and not verb.endswith(("ee", "ie"))
    return (verb[:-1] if silent_e else verb) + "ing"


def indefinite_article(word: str) -> str:
    """The article before ``word``: "a" or "an"."""
    silent_h = word.startswith(("hour", "honest"))
    sounds_like_you = word.startswith(("uni", "use"))
    return "an" if silent_h or (word[0].lower() in VOWELS and not sounds_like_you) else "a"
