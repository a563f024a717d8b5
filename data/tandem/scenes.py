"""What Tandem's sentences are about: words, phrases and clauses that make sense together."""

import random
from collections.abc import Iterable, Sequence
from typing import TypeVar

from grammar import (
    HABIT,
    NONE,
    PAST,
    PERSONS,
    PRESENT,
    THE,
    THIS,
    A,
    Adverbial,
    Clause,
    Complement,
    Coordination,
    Determiner,
    Gap,
    Name,
    NounPhrase,
    Phrase,
    Prepositional,
    Pronoun,
    Relative,
    Tense,
)
from inflection import ACC, DAT, HE, NOM, THEY, I
from lexicon import Adjective, Lexicon, Noun, Verb

Item = TypeVar("Item")

NUMBERS = [
    Determiner(de, en, en, "plain")
    for de, en in zip(
        ["zwei", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun", "zehn", "zwölf"],
        ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"],
        strict=True,
    )
]
PRONOUNS = {  # with the possessive that goes with each
    "ich mich mir": ("I me", I, ("mein", "my")),
    "er ihn ihm": ("he him", HE, ("sein", "his")),
    "sie sie ihr": ("she her", HE, ("ihr", "her")),
    "wir uns uns": ("we us", THEY, ("unser", "our")),
    "sie sie ihnen": ("they them", THEY, ("ihr", "their")),
}
OWNERS = [owner for _, _, owner in PRONOUNS.values()] + [("Ihr", "your")]
ANIMATE = PERSONS | {
    "pet", "wild_animal", "rooster", "ostrich", "swimming_seal", "flying_crane", "flying_bat",
    "digging_mole", "house_fly",
}  # fmt: skip
HIS_OR_HER = {"m": ("sein", "his"), "f": ("ihr", "her")}
HAS_A_PLACE = {
    "human", "kin", "pet", "ingredient", "meal", "hot_drink", "cold_drink", "printed", "hand_tool",
    "standing_tool", "garment", "headwear", "accessory", "leather", "basket", "bin", "vessel",
    "cookware", "toy", "thing", "instrument", "dish",
}  # fmt: skip
PORTABLE = HAS_A_PLACE - {"human", "kin", "hot_drink", "cold_drink"}
LISTED = (HAS_A_PLACE | {"wild_animal", "machine", "plant", "vehicle", "house"}) - {"dish", "bin"}
CARRIED = {"pet", "basket", "vessel", "garment", "headwear", "leather"}
RELATIVES_OF = [("mein", "my"), ("unser", "our"), ("sein", "his")]  # "ihr" says too little
STATES = {"müde", "traurig", "hungrig", "durstig", "krank", "nervös", "faul"}
WORN = {"anziehen", "ausziehen", "aufsetzen", "absetzen", "umbinden", "anprobieren"}
LETTERS = "ABCDEFGHJKLMNPRSTUVWXYZ"


class Scenes:
    """A source of sentence pairs.

    Args:
        lexicon: the words.
        rng: where chance comes from; only its ``random()``, which every Python draws alike.
        richness: 0 for plain sentences, 1 and more for rich ones.
        unseen_names: whether names come from the share that training never draws from.
    """

    def __init__(
        self, lexicon: Lexicon, rng: random.Random, richness: float, unseen_names: bool
    ) -> None:
        self.words, self.rng = lexicon, rng
        self.richness, self.unseen_names = richness, unseen_names
        self.ambiguous = [noun for noun in lexicon.nouns if noun.ambiguous]
        self.transitive = lexicon.verbs["accusative"] + lexicon.verbs["dative"]
        self._nouns: dict[frozenset[str], list[Noun]] = {}  # both by what was asked for
        self._adjectives: dict[tuple[str, bool], list[Adjective]] = {}

    # --- chance ---

    def pick(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[int(self.rng.random() * len(items))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.rng.random() < probability

    def grows(self, probability: float) -> bool:
        """True with a probability that richness raises."""
        return self.chance(probability * (0.6 + 1.6 * self.richness))

    def number(self, low: int, high: int) -> int:
        """A whole number from ``low`` to below ``high``."""
        return low + int(self.rng.random() * (high - low))

    # --- words ---

    def noun(self, kinds: Iterable[str]) -> Noun:
        """A noun of one of these kinds."""
        return self.pick(self.all_of(kinds))

    def all_of(self, kinds: Iterable[str]) -> list[Noun]:
        """Every noun of one of these kinds."""
        wanted = frozenset(kinds)
        if wanted not in self._nouns:
            self._nouns[wanted] = [noun for noun in self.words.nouns if noun.kind in wanted]
        return self._nouns[wanted]

    def adjective(self, noun: Noun, states_only: bool = False) -> Adjective | None:
        """An adjective that may be said of the noun, if there is one."""
        known = self._adjectives
        if (noun.kind, states_only) not in known:
            known[noun.kind, states_only] = [
                adjective
                for adjective in self.words.adjectives
                if noun.kind in adjective.kinds and (adjective.german in STATES or not states_only)
            ]
        # Not "der junge Junge".
        fitting = [a for a in known[noun.kind, states_only] if a.stem not in noun.german.lower()]
        return self.pick(fitting) if fitting else None

    def alike(self, verb: Verb) -> list[Verb]:
        """The other verbs that share its German or its English."""
        english = (verb.english, verb.tail, verb.particle)
        return [
            other
            for group in self.words.verbs.values()
            for other in group
            if other is not verb
            and (
                other.infinitive == verb.infinitive
                or (other.english, other.tail, other.particle) == english
            )
        ]

    def needs_agent(self, verb: Verb) -> bool:
        """Whether only who acts tells it from another verb: "isst" and "frisst" are both "eats"."""
        return any(other.objects & verb.objects for other in self.alike(verb))

    def verb_with(self, kind: str, verbs: Sequence[Verb]) -> Verb | None:
        """One of the verbs that takes objects of this kind, if there is one."""
        fitting = [verb for verb in verbs if kind in verb.objects]
        return self.pick(fitting) if fitting else None

    # --- made-up names and codes ---

    def _made_up(self, *parts: str) -> str:
        """A word of these syllables; a third of all such words is kept from training."""
        while True:
            word = "".join(self.pick(self.words.names[part]) for part in parts)
            if (sum(map(ord, word)) % 3 == 0) == self.unseen_names:
                return word

    def person_name(self) -> Name:
        """Frau Marbek, Herr Tolner."""
        surname = self._made_up("first_syllables", "middle_syllables", "last_syllables")
        german, english = self.pick([("Frau", "Ms"), ("Herr", "Mr")])
        return Name(f"{german}|{surname}", f"{english}|{surname}", ("copy", f"=name {surname}"))

    def town(self) -> str:
        """Marburg, Tolhausen."""
        return self._made_up("first_syllables", "town_endings")

    def code(self) -> str:
        """RB-4471, K7X, 4G-18."""
        letters = self.pick(LETTERS) + (self.pick(LETTERS) if self.chance(0.6) else "")
        digits = str(self.number(1, 10 ** self.number(2, 5)))
        end = self.pick(LETTERS) if self.chance(0.3) else ""
        return letters + self.pick(["", "-"]) + digits + end

    # --- phrases ---

    def noun_phrase(
        self,
        kinds: Iterable[str],
        owner: tuple[str, str] | None = None,
        definite: bool = False,
        noun: Noun | None = None,
        plural: bool | None = None,
    ) -> NounPhrase:
        """A noun with its article and perhaps an adjective.

        Args:
            kinds: what it may be.
            owner: possessives of who may own it ("mein", "my").
            definite: whether it must be.
            noun: the noun, if it is chosen already.
            plural: its number, if it is chosen already.
        """
        noun = noun or self.noun(kinds)
        many = noun.has_plural and (self.chance(0.25) if plural is None else plural)
        many = many or noun.kind == "lentil"  # nobody cooks a single one
        adjective = self.adjective(noun) if self.grows(0.3) else None
        definite = definite or noun.kind == "manager"  # "einen Leiter" could be any leader
        return NounPhrase(noun, many, self.determiner(noun, many, owner, definite), adjective)

    def determiner(
        self, noun: Noun, plural: bool, owner: tuple[str, str] | None, definite: bool
    ) -> Determiner:
        """What stands before a noun; the arguments are those of ``noun_phrase``."""
        if noun.kind == "kin":
            german, english = owner or self.pick(RELATIVES_OF)
            own = Determiner(german, english, english, "ein")
            return THE if self.chance(0.15) else own
        if not definite and self.chance(0.45):
            return self.indefinite(noun, plural)
        if self.chance(0.1):
            return THIS
        if noun.kind in PORTABLE and owner and self.chance(0.35):
            return Determiner(owner[0], owner[1], owner[1], "ein")
        if noun.kind in PORTABLE and not plural and self.chance(0.06):
            name = self.pick(self.words.names["female"] + self.words.names["male"])
            if name[-1] not in "sxzß" and noun.german != noun.german_plural:
                return Determiner(name + "s", name + "'s", name + "'s", "plain")
        return THE

    def indefinite(self, noun: Noun, plural: bool) -> Determiner:
        """An indefinite article, a number, or nothing."""
        if not plural or self.chance(0.3):
            return NONE if noun.is_mass else A
        digits = str(self.number(13, 100))
        many = Determiner(digits, digits, digits, "plain")
        return many if self.chance(0.25) else self.pick(NUMBERS)

    def subject(
        self, kinds: Iterable[str], tense: Tense = PAST
    ) -> tuple[Phrase, tuple[str, str] | None]:
        """A subject, and the possessives that go with it; ``tense`` is that of its verb."""
        people = "human" in kinds
        if people and self.chance(0.35):
            return self.named_or_pronoun()
        phrase = self.noun_phrase(kinds)
        if phrase.plural and phrase.determiner is A:  # "women are reading" would be a custom
            phrase.determiner = THE
        if people and self.chance(0.06):
            other = self.noun_phrase(kinds, definite=True)
            if other.noun != phrase.noun:
                return Coordination([phrase, other]), None
        if self.grows(0.12):
            phrase.after = self.belongings(phrase, now_or_past(tense))
        known = phrase.noun.kind in ("human", "kin") and not phrase.plural
        return phrase, HIS_OR_HER.get(phrase.gender) if known else None

    def named_or_pronoun(self) -> tuple[Phrase, tuple[str, str]]:
        """Anna, Frau Marbek, wir; with the possessives."""
        if self.chance(0.4):
            sex = self.pick(["female", "male"])
            name = self.pick(self.words.names[sex])
            return Name(name, name), HIS_OR_HER["f" if sex == "female" else "m"]
        if self.chance(0.4):
            title = self.person_name()
            return title, HIS_OR_HER["f" if title.german_text.startswith("Frau") else "m"]
        german = self.pick(list(PRONOUNS))
        english, agreement, owner = PRONOUNS[german]
        return Pronoun(german, english, agreement), owner

    def objects(self, verb: Verb, owner: tuple[str, str] | None, tense: Tense) -> Phrase:
        """What a verb acts on: one thing, or a list of two or three."""
        phrase = self.noun_phrase(verb.objects, owner)
        if self.grows(0.08) and phrase.noun.kind in LISTED:
            others = [noun for noun in self.all_of({phrase.noun.kind}) if noun != phrase.noun]
            phrases: list[Phrase] = [phrase]
            for _ in range(self.pick([1, 1, 2])):
                noun = others.pop(self.number(0, len(others)))
                phrases.append(self.noun_phrase([], owner, noun=noun))
            for part in phrases:  # each with a word before it: an article, a number
                if isinstance(part, NounPhrase):
                    bare = part.determiner is NONE or (part.plural and part.determiner is A)
                    part.determiner = THE if bare else part.determiner
            return Coordination(phrases)
        if self.grows(0.08) and not verb.prefix:  # "wirft das Glas, das ..., um" is hard to read
            phrase.after = self.belongings(phrase, now_or_past(tense))
        return phrase

    def belongings(
        self, phrase: NounPhrase, tense: Tense, plural: bool | None = None
    ) -> Prepositional | Relative | None:
        """What tells a person or thing from others: "mit dem roten Hut", "neben dem Schrank"."""
        if self.grows(0.3):
            return self.relative(phrase, tense, plural)
        definite = phrase.determiner in (THE, THIS) and self.chance(0.8)
        if phrase.noun.kind == "human":
            several = True if plural is None and phrase.plural and not definite else plural
            other = self.noun_phrase(CARRIED, definite=definite, plural=several)
            if not definite and other.determiner in (THE, THIS):
                other.determiner = A
            return Prepositional("mit", "with", other, DAT)
        if phrase.noun.kind in PORTABLE:
            if phrase.determiner not in (A, THIS):
                phrase.determiner = THE
            beside = [row for row in self.words.relations if row[0] in ("neben", "hinter")]
            german, english, kinds = self.pick(beside)
            other = self.noun_phrase(kinds, definite=True, plural=plural)
            return Prepositional(german, english, other, DAT)
        return self.relative(phrase, tense, plural)

    def place(self) -> Prepositional:
        """Where something happens."""
        place = self.pick(self.words.places)
        phrase = NounPhrase(place.noun)
        return Prepositional(place.german, place.english, phrase, DAT)

    def relation(self, verb: Verb) -> tuple[str, str, frozenset[str]]:
        """Where things lie, stand or are put: on, under, in what (nothing stands in a bag)."""
        rows = self.words.relations
        stands = verb.stem in ("stehen", "stellen")
        return self.pick([row for row in rows if row[0] != "in"] if stands else rows)

    def time(self, tense: Tense) -> Adverbial | None:
        """When something happens, if the tense leaves a choice."""
        when = "future" if tense.modal and tense.time == "present" else tense.time
        fitting = [(de, en) for de, en, tenses in self.words.times if when in tenses]
        if tense.modal and ("bald", "soon") in fitting:
            fitting.remove(("bald", "soon"))
        return Adverbial(*self.pick(fitting))

    def relative(
        self, head: NounPhrase, tense: Tense, plural: bool | None = None
    ) -> Relative | None:
        """A relative clause about ``head``; ``plural`` is the number of its other noun."""
        if (head.determiner.kind == "ein" and head.determiner is not A) or not head.plural:
            head.determiner = A if head.determiner is A else THE  # not "my uncle who"
        if tense.time == "present" and self.chance(0.5):
            tense = PAST
        # Not "believe": "who believed a man played" would not end there.
        verbs = [v for v in self.transitive if v.infinitive != "glauben"]
        acts = [v for v in verbs if head.noun.kind in v.subjects]
        suffers = [v for v in verbs if head.noun.kind in v.objects and "human" in v.subjects]
        lies = [v for v in self.words.verbs["lying"] if head.noun.kind in v.subjects]
        gap = Gap(head)
        if lies and self.chance(0.3):
            verb = self.pick(lies)
            german, english, kinds = self.relation(verb)
            other = self.noun_phrase(kinds, definite=True, plural=bool(plural))
            where = Prepositional(german, english, other, DAT, ("case",))
            return Relative(Clause(gap, verb, tense, oblique=where), "subject")
        if acts and (not suffers or self.chance(0.5)):
            verb = self.pick(acts)
            other = self.noun_phrase(verb.objects, plural=plural)
            clause = Clause(gap, verb, lasting(tense, verb), object=other)
            if is_clear(verb, head, other) and not self.is_odd(clause):
                return Relative(clause, "subject")
        elif suffers:
            verb = self.pick(suffers)
            who: Phrase = self.noun_phrase(["human", "kin"], definite=True, plural=plural)
            if plural is None and self.chance(0.4):
                who, _ = self.named_or_pronoun()
            described = head.adjective.german if head.adjective else ""
            clash = described in self.words.contradictions[verb.infinitive]
            if is_clear(verb, who, head) and not clash:
                return Relative(Clause(who, verb, lasting(tense, verb), object=gap), "object")
        return None

    def complement(self, noun: Noun, states_only: bool = False) -> Complement | None:
        """A predicate adjective that may be said of the noun."""
        adjective = self.adjective(noun, states_only)
        if not adjective:
            return None
        degrees = adjective.degrees[:2] if states_only else adjective.degrees  # not "too"
        graded = degrees and self.chance(0.4)
        return Complement(adjective, self.pick(degrees) if graded else ("", ""))

    # --- clauses ---

    def tense(self) -> Tense:
        """When something happens, and whether someone can, must or wants to."""
        drawn = self.rng.random()
        if drawn < 0.3:
            return PRESENT
        if drawn < 0.65:
            return PAST
        if drawn < 0.73:
            return HABIT
        if drawn < 0.81:
            return Tense("future", self.pick(["", "", "", "can", "must"]))
        modal = self.pick(["can", "must", "want", "should", "may"])
        # "sollte" is "was supposed to", but "should" too.
        return Tense(self.pick(["present", "past"]) if modal != "should" else "present", modal)

    def clause(
        self,
        tense: Tense | None = None,
        simple: bool = False,
        verb: Verb | None = None,
        someone: tuple[Phrase, tuple[str, str]] | None = None,
    ) -> Clause:
        """Someone does something.

        Args:
            tense: when; drawn if not given.
            simple: without time, place and negation.
            verb: what; drawn if not given.
            someone: who, with the possessives; drawn if not given.
        """
        tense = tense or self.tense()
        wanted, verb = verb, verb or self.verb_for(tense)
        governs = verb.governs
        subject, owner = someone or self.subject(verb.subjects, suited(tense, verb))
        clause = Clause(subject, verb, suited(tense, verb))
        if governs == "accusative":
            clause.object = self.objects(verb, owner, clause.tense)
            if verb.infinitive in WORN and isinstance(clause.object, NounPhrase):
                clause.object.plural |= subject.agreement == THEY  # to each their own
        elif governs == "dative":
            clause.object = self.noun_phrase(verb.objects, owner, definite=self.chance(0.6))
        elif governs == "giving":
            clause.receiver = self.noun_phrase(["human", "kin"], owner, definite=True)
            clause.object = self.noun_phrase(verb.objects, owner)
        elif governs == "prepositional":
            other = self.noun_phrase(verb.objects, owner)
            clause.oblique = Prepositional(verb.preposition, "", other, verb.case, ("case",))
        elif governs == "going":
            place = self.pick(self.words.places)
            clause.oblique = Prepositional(
                place.german, place.english_into, NounPhrase(place.noun), ACC, ("case",)
            )
        elif governs == "putting":
            clause.object = self.noun_phrase(verb.objects, owner, definite=True)
            german, english, kinds = self.relation(verb)
            where = self.noun_phrase(kinds, definite=self.chance(0.8), plural=False)
            clause.oblique = Prepositional(german, english, where, ACC, ("case",))
        if self.is_odd(clause) and not (someone and isinstance(subject, NounPhrase)):
            return self.clause(tense, simple, wanted, someone)
        return clause if simple else self.furnished(clause)

    def is_odd(self, clause: Clause) -> bool:
        """Whether it says a word twice, or what contradicts it: "cracks the nut that she cracks".

        An adjective that contradicts the verb ("fills the full bottle") is taken away.
        """
        parts: list[Phrase | None] = [clause.subject, clause.receiver, clause.object]
        parts += [with_.phrase for with_ in (clause.oblique, clause.agent) if with_]
        verb, what = clause.verb, clause.subject if clause.passive else clause.object
        clashes = self.words.contradictions[verb.infinitive] if verb else set()
        if isinstance(what, NounPhrase) and what.adjective and what.adjective.german in clashes:
            what.adjective = None
        words: list[Noun | Adjective | Verb] = [verb] if verb else []
        for part in parts:
            words += said(part)
        others = {word.infinitive for word in said(what) if isinstance(word, Verb)}
        return bool(others & clashes) or len({id(word) for word in words}) < len(words)

    def verb_for(self, tense: Tense) -> Verb:
        """A verb that goes with the tense."""
        while True:
            verb = self.pick(self.words.verbs[self.pick(GOVERNS)])
            if suited(tense, verb) == tense:
                return verb

    def furnished(self, clause: Clause) -> Clause:
        """The clause with time, place and negation, if chance will have it."""
        if clause.tense.time == "habit":
            clause.time = self.time(clause.tense)
        if ends_in_clause(clause):
            return clause  # a time or place at the end would seem to belong to that
        verb = clause.verb
        timeless = clause.tense.time == "present" or clause.passive
        if self.grows(0.35) and not (verb and (verb.is_state or (verb.is_simple and timeless))):
            clause.time = self.time(clause.tense)
        if self.takes_place(clause) and self.grows(0.3):
            clause.place = self.place()
        clause.negated = self.chance(0.15) and can_be_denied(clause)
        return clause

    def takes_place(self, clause: Clause) -> bool:
        """Whether it makes sense to say where."""
        verb, what = clause.verb, clause.object
        if not verb or verb.is_simple or clause.oblique or clause.receiver:
            return False
        if isinstance(what, NounPhrase):
            return what.noun.kind in HAS_A_PLACE and not what.after
        return what is None and verb.auxiliary == "haben"

    def front(self, clause: Clause) -> str:
        """What stands first in the main clause."""
        if isinstance(clause.subject, NounPhrase) and isinstance(clause.subject.after, Relative):
            return "subject"
        if clause.time and self.chance(0.5):
            return "time"
        if clause.place and self.chance(0.3):
            return "place"
        return "subject"


def suited(tense: Tense, verb: Verb) -> Tense:
    """The tense, or another one if the verb does not go with that one.

    What is done once is no habit, what takes a moment is not going on, and what happens to someone
    is nothing that they can or want.
    """
    if tense.time == "habit" and not verb.is_habit:
        return PAST
    if tense == PRESENT and verb.is_momentary:
        return PAST
    return tense if verb.is_voluntary or not tense.modal else now_or_past(tense)


def said(phrase: Phrase | None) -> list[Noun | Adjective | Verb]:
    """The words in a phrase and in what follows it."""
    if isinstance(phrase, Coordination):
        return [word for part in phrase.phrases for word in said(part)]
    if not isinstance(phrase, NounPhrase):
        return []
    words: list[Noun | Adjective | Verb] = [phrase.noun]
    words += [phrase.adjective] if phrase.adjective else []
    if isinstance(phrase.after, Prepositional):
        words += said(phrase.after.phrase)
    elif phrase.after:
        inner = phrase.after.clause
        words += [inner.verb] if inner.verb else []
        words += said(inner.subject) + said(inner.object)
        words += said(inner.oblique.phrase) if inner.oblique else []
    return words


def ends_in_clause(clause: Clause) -> bool:
    """Whether something follows its object, to which a clause after it would seem to belong."""
    parts = (clause.object, clause.oblique and clause.oblique.phrase, clause.receiver)
    return any(isinstance(part, NounPhrase) and part.after for part in parts)


def now_or_past(tense: Tense) -> Tense:
    """The plain tense that fits beside another."""
    return Tense("past" if tense.time == "past" else "present")


def lasting(tense: Tense, verb: Verb) -> Tense:
    """The tense, or the past if the verb says something that does not go on ("he finds")."""
    return PAST if verb.is_simple else tense


def is_clear(verb: Verb, subject: Phrase, obj: Phrase) -> bool:
    """Whether the forms tell who acts, where a relative pronoun comes first.

    "die Frau, die das Kind sucht" could mean either; "der Mann, den das Kind sucht" could not.
    """
    if verb.case == "dative" or subject.agreement != obj.agreement:
        return True
    forms = [(phrase.german(NOM), phrase.german(ACC)) for phrase in (subject, obj)]
    if any([t.text for t in nom] != [t.text for t in acc] for nom, acc in forms):
        return True
    kinds = [p.noun.kind if isinstance(p, NounPhrase) else "human" for p in (subject, obj)]
    return not ANIMATE.issuperset(kinds)


def can_be_denied(clause: Clause) -> bool:
    """Whether "nicht" or "kein" says clearly what is not so."""
    parts = [clause.subject, clause.receiver, clause.oblique and clause.oblique.phrase]
    obj = clause.object
    if isinstance(obj, NounPhrase) and obj.determiner not in (A, NONE):
        parts.append(obj)
    sure = {THE, THIS} | {Determiner(*own, own[1], "ein") for own in OWNERS}
    phrases = [part for part in parts if isinstance(part, NounPhrase)]
    return not isinstance(obj, Coordination) and all(p.determiner in sure for p in phrases)


GOVERNS = [
    *["none"] * 5, *["accusative"] * 12, *["dative"] * 3, *["giving"] * 3, *["prepositional"] * 4,
    *["going"] * 2, *["putting"] * 2,
]  # fmt: skip
