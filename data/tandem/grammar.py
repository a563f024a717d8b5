"""The synchronous grammar: one meaning, said in German and in English.

A meaning is a small tree: a clause with its verb, its noun phrases, time and place. Each node says
itself in both languages, as tokens. A token carries the marks of what it expresses, and two tokens
of a sentence pair are aligned where they share a mark. It also carries the names of the phenomena
that it shows. Word order and agreement are rules here; forms are in ``inflection.py``, words in
``lexicon.toml``.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from inflection import (
    ACC,
    AUXILIARIES,
    CONTRACTED,
    DAT,
    DER,
    DIES_ENDINGS,
    EIN_ENDINGS,
    HE,
    IRREGULAR,
    MIXED,
    NOM,
    PRONOUN,
    RELATIVE,
    STRONG,
    THEY,
    WEAK,
    I,
    dative_plural,
    first_person,
    form,
    indefinite_article,
    third_person,
)
from lexicon import Adjective, Noun, Verb

PERSONS = {"human", "kin", "manager", "farmer", "runner", "ruling_ruler"}


class Token(NamedTuple):
    """A word; the marks of what it says; what it shows: phenomena, and "=" facts to hold out."""

    text: str
    marks: frozenset[tuple[int, str]] = frozenset()
    tags: frozenset[str] = frozenset()


Tokens = list[Token]
PUNCTUATION = ",.?"
COMMA, FULL_STOP, QUESTION_MARK = map(Token, PUNCTUATION)


def chained(parts: dict[str, Tokens]) -> Tokens:
    """The tokens of all parts, in order."""
    return [token for tokens in parts.values() for token in tokens]


class Meaning:
    """A node of the tree; what it says in both languages is known by the name of the part."""

    def says(self, text: str, *parts: str, tags: Iterable[str] = ()) -> Tokens:
        """The words of ``text``, each marked as saying these parts of the meaning."""
        if not text:
            return []
        marks = frozenset([(id(self), part) for part in parts])
        return [Token(word, marks, frozenset(tags)) for word in text.split()]


class Phrase(Protocol):
    """What can be a subject or an object."""

    @property
    def agreement(self) -> str:
        """The form of its verb: I, HE or THEY."""

    def german(self, case: str) -> Tokens:
        """In German, in a case."""

    def english(self, case: str) -> Tokens:
        """In English: nominative, or any other case."""


# --- noun phrases ---


class Determiner(NamedTuple):
    """An article or what stands in its place; ``kind`` says how German inflects it."""

    german: str
    english: str
    english_plural: str
    kind: str  # der, dies, ein, or plain: never changes

    def form(self, gender: str, case: str) -> str:
        """The German form."""
        if self.kind == "der":
            return form(DER, gender, case)
        endings = {"dies": DIES_ENDINGS, "ein": EIN_ENDINGS}.get(self.kind)
        return self.german + (form(endings, gender, case) if endings else "")


THE = Determiner("der", "the", "the", "der")
THIS = Determiner("dies", "this", "these", "dies")
A = Determiner("ein", "a", "", "ein")
NO = Determiner("kein", "no", "no", "ein")
NONE = Determiner("", "", "", "plain")


@dataclass
class NounPhrase(Meaning):
    """A noun with what belongs to it; ``after`` is a phrase or clause that follows it."""

    noun: Noun
    plural: bool = False
    determiner: Determiner = THE
    adjective: Adjective | None = None
    after: "Prepositional | Relative | None" = None

    @property
    def gender(self) -> str:
        """m, f, n, or p for every plural."""
        return "p" if self.plural else self.noun.gender

    @property
    def agreement(self) -> str:
        """The verb's form with this subject."""
        return THEY if self.plural else HE

    @property
    def is_indefinite(self) -> bool:
        """Whether German negates it with "kein"."""
        return self.determiner in (A, NONE)

    @property
    def distracts(self) -> bool:
        """Whether a noun of the other number stands between this one and its verb."""
        return self.after is not None and self.after.last_number not in ("", self.agreement)

    def german(self, case: str, negative: bool = False) -> Tokens:
        """In German; with "kein" if ``negative``."""
        determiner = NO if negative else self.determiner
        if determiner is A and self.plural:
            determiner = NONE
        endings = {"der": WEAK, "dies": WEAK, "ein": MIXED, "plain": STRONG}[determiner.kind]
        tags = ["copy"] * determiner.german.isdigit() + ["negation"] * (determiner is NO)
        tokens = self.says(determiner.form(self.gender, case), "determiner", tags=tags)
        if self.adjective:
            word = self.adjective.stem + form(endings, self.gender, case)
            tags = ["adjective_ending", f"=pair {self.adjective.german} {self.noun.german}"]
            tags += ["ambiguous"] * self.adjective.ambiguous
            tokens += self.says(word, "adjective", tags=tags)
        tags = ["compound"] * self.noun.is_compound + ["ambiguous"] * self.noun.ambiguous
        tags += [f"=object {self.noun.german}"] * (case != NOM)
        tokens += self.says(self._german_noun(case), "noun", tags=tags)
        return tokens + (self.after.german() if self.after else [])

    def english(self, case: str = NOM, negative: bool = False) -> Tokens:
        """In English; with "any" where a negated one needs it."""
        noun = self.noun.english_plural if self.plural else self.noun.english
        adjective = self.adjective.english if self.adjective else ""
        kind = self.determiner
        article = kind.english_plural if self.plural else kind.english
        if kind is A and not self.plural:
            article = indefinite_article(adjective or noun)
        if negative and not article:
            article = "any"
        tokens = self.says(article, "determiner") + self.says(adjective, "adjective")
        return tokens + self.says(noun, "noun") + (self.after.english() if self.after else [])

    def _german_noun(self, case: str) -> str:
        if self.plural:
            plural = self.noun.german_plural
            return dative_plural(plural) if case == DAT else plural
        return self.noun.german + (self.noun.oblique if case != NOM else "")


@dataclass
class Name(Meaning):
    """A name, or a name with a title; "|" parts what is aligned piece by piece."""

    german_text: str
    english_text: str
    tags: tuple[str, ...] = ()
    agreement: str = HE

    def german(self, case: str = NOM) -> Tokens:
        """In German: "Herr" is a weak noun."""
        text = self.german_text if case == NOM else self.german_text.replace("Herr|", "Herrn|")
        return in_pieces(self, text, self.tags)

    def english(self, case: str = NOM) -> Tokens:
        """In English."""
        return in_pieces(self, self.english_text)


def in_pieces(meaning: Meaning, text: str, tags: Iterable[str] = ()) -> Tokens:
    """The words of ``text``; piece n, between "|", says what piece n of the other language says."""
    pieces = enumerate(text.split("|"))
    return [token for n, piece in pieces for token in meaning.says(piece, str(n), tags=tags)]


@dataclass
class Pronoun(Meaning):
    """A pronoun: German by case, English as subject and object."""

    german_forms: str
    english_forms: str
    agreement: str
    tags: tuple[str, ...] = ()

    def german(self, case: str) -> Tokens:
        """In German."""
        forms = dict(zip((NOM, ACC, DAT), self.german_forms.split(), strict=True))
        return self.says(forms[case], "pronoun", tags=self.tags)

    def english(self, case: str = NOM) -> Tokens:
        """In English."""
        subject, other = self.english_forms.split()
        return self.says(subject if case == NOM else other, "pronoun")


def pronoun_for(antecedent: NounPhrase) -> Pronoun:
    """The pronoun that takes a noun phrase up again: its form follows the German gender."""
    sexes = {"m": "he him", "f": "she her"} if antecedent.noun.kind in PERSONS else {}
    english = "they them" if antecedent.plural else sexes.get(antecedent.gender, "it it")
    return Pronoun(PRONOUN[antecedent.gender], english, antecedent.agreement, ("pronoun",))


@dataclass
class Coordination(Meaning):
    """Two or more phrases: "a, b and c"."""

    phrases: list[Phrase]
    agreement: str = THEY

    def german(self, case: str) -> Tokens:
        """In German."""
        return self._joined([p.german(case) for p in self.phrases], "und")

    def english(self, case: str = NOM) -> Tokens:
        """In English."""
        return self._joined([p.english(case) for p in self.phrases], "and")

    def _joined(self, parts: list[Tokens], word: str) -> Tokens:
        tokens = parts[0]
        for part in parts[1:-1]:
            tokens = [*tokens, COMMA, *part]
        return tokens + self.says(word, "and", tags=["coordination"]) + parts[-1]


@dataclass
class Prepositional(Meaning):
    """A preposition and its phrase, in the German case it asks for."""

    german_word: str
    english_word: str
    phrase: Phrase
    case: str
    tags: tuple[str, ...] = ()

    @property
    def last_number(self) -> str:
        """The number of the noun that ends it."""
        return self.phrase.agreement

    def german(self) -> Tokens:
        """In German: "in dem" is "im"."""
        preposition = self.says(self.german_word, "preposition", tags=self.tags)
        first, *rest = self.phrase.german(self.case)
        contracts = not isinstance(self.phrase, Coordination)  # "von dem Koch und der Tante"
        if contracts and (preposition[0].text, first.text) in CONTRACTED:
            text = CONTRACTED[preposition[0].text, first.text]
            return [Token(text, preposition[0].marks | first.marks, preposition[0].tags), *rest]
        return [*preposition, first, *rest]

    def english(self) -> Tokens:
        """In English."""
        return self.says(self.english_word, "preposition") + self.phrase.english(ACC)


@dataclass
class Adverbial(Meaning):
    """A time, or another fixed phrase; "|" parts what is aligned piece by piece."""

    german_text: str
    english_text: str
    tags: tuple[str, ...] = ()

    def german(self) -> Tokens:
        """In German."""
        return in_pieces(self, self.german_text, self.tags)

    def english(self) -> Tokens:
        """In English."""
        return in_pieces(self, self.english_text)


# --- clauses ---

# German singular and plural, now and then; English, the word that is inflected first.
MODALS = {
    "can": ("kann können konnte konnten", "can"),
    "must": ("muss müssen musste mussten", "have to"),
    "want": ("will wollen wollte wollten", "want to"),
    "should": ("soll sollen sollte sollten", "be supposed to"),
    "may": ("darf dürfen durfte durften", "be allowed to"),
}
FUTURE_MODALS = {"can": ("können", "be able to"), "must": ("müssen", "have to")}
NEEDS_NO_DO = {"be", "can", "will", "had"}


class Tense(NamedTuple):
    """When and how: ``modal`` is a key of MODALS, or empty.

    ``time`` is present, habit, past, earlier (before a past; German makes no difference) or future.
    """

    time: str
    modal: str = ""


PRESENT, PAST, HABIT, EARLIER = map(Tense, ("present", "past", "habit", "earlier"))


@dataclass
class Clause(Meaning):
    """A verb with all that belongs to it.

    In the passive ``subject`` is what the verb acts on, and ``agent`` (if any) who acts. A clause
    with a ``complement`` says that its subject is such; its verb plays no part.
    """

    subject: Phrase
    verb: Verb | None = None
    tense: Tense = PRESENT
    object: Phrase | None = None
    receiver: Phrase | None = None
    oblique: Prepositional | None = None  # what the verb needs besides: "auf den Bus"
    time: "Adverbial | Asked | None" = None
    place: "Prepositional | Asked | None" = None
    complement: "Complement | None" = None
    passive: bool = False
    agent: Prepositional | None = None
    negated: bool = False
    extraposed: "Relative | None" = None  # a relative clause on the object, after the verb

    # German: word order

    def german(self, front: str = "subject") -> Tokens:
        """A main clause: ``front`` ("" for none) stands first, the finite verb second."""
        finite, bracket = self._german_verbs()
        middle = self._german_middle()
        first = middle.pop(front, [])
        if first and front == "subject" and self._subject_distracts:
            finite = tagged(finite, "agreement")
        if first and front in ("time", "place") and not isinstance(getattr(self, front), Asked):
            finite = tagged(finite, "verb_second")
        return first + finite + self._closed(chained(middle), bracket)

    @property
    def _subject_distracts(self) -> bool:
        return isinstance(self.subject, NounPhrase) and self.subject.distracts

    def german_last(self, first: str = "subject") -> Tokens:
        """A subordinate clause: the finite verb stands last."""
        finite, bracket = self._german_verbs()
        middle = self._german_middle()
        tokens = middle.pop(first, []) + chained(middle)
        if self.complement and self._subject_distracts:
            finite = tagged(finite, "agreement")
        if self.verb and bracket and bracket[-1].text == self.verb.prefix:
            finite = [finite[0]._replace(text=bracket[-1].text + finite[0].text)]  # "aufhebt"
            bracket = []
        finite = tagged(finite, "verb_last")
        return tokens + self._closed([], bracket + finite)

    def german_imperative(self, please: Tokens) -> Tokens:
        """A polite command; the subject is whoever hears it."""
        finite, bracket = self._german_verbs()
        middle = self._german_middle()
        middle.pop("subject")
        command = [*tagged(finite, "imperative"), Token("Sie")]
        return command + please + self._closed(chained(middle), bracket)

    def _closed(self, middle: Tokens, bracket: Tokens) -> Tokens:
        relative = self.extraposed.german() if self.extraposed else []
        return middle + bracket + relative

    def _german_middle(self) -> dict[str, Tokens]:
        """The parts between the verbs, by name, in the order in which they stand."""
        obj, is_kein = self.object, self.negated and self._object_is_indefinite
        indefinite = self._object_is_indefinite
        obj_tokens = obj.german(self.object_case) if obj else []
        if is_kein and isinstance(obj, NounPhrase):
            head, *rest = obj.german(self.object_case, negative=True)
            (not_,) = self.says("nicht", "not")
            obj_tokens = [head._replace(marks=head.marks | not_.marks), *rest]
        dative = tagged(self.receiver.german(DAT), "case") if self.receiver else []
        dative = unclear_after_noun(self.receiver, dative)
        if self.object_case == DAT:
            obj_tokens = unclear_after_noun(obj, obj_tokens)
        short = isinstance(obj, Pronoun)
        nicht = self.says("nicht", "not", tags=["negation"]) * (self.negated and not is_kein)
        return {
            "subject": self.subject.german(NOM),
            "asked": obj_tokens if isinstance(obj, Asked) else [],
            "pronoun": obj_tokens if short else [],
            "time": self.time.german() if self.time else [],
            "receiver": dative,
            "object": [] if short or indefinite or isinstance(obj, Asked) else obj_tokens,
            "nicht": nicht,
            "agent": self.agent.german() if self.agent else [],
            "place": self.place.german() if self.place else [],
            "indefinite": obj_tokens if indefinite else [],
            "oblique": self.oblique.german() if self.oblique else [],
        }

    @property
    def _object_is_indefinite(self) -> bool:
        return isinstance(self.object, NounPhrase) and self.object.is_indefinite

    @property
    def object_case(self) -> str:
        """The German case of the object."""
        return DAT if self.verb and self.verb.case == "dative" else ACC

    # German: verbs

    def _german_verbs(self) -> tuple[Tokens, Tokens]:
        """The finite verb, and what closes the clause."""
        who, (time, modal) = self.subject.agreement, self.tense
        past = time in ("past", "earlier")
        if self.complement:
            copula = AUXILIARIES["waren" if past else "sein"][who]
            tags = []
            if isinstance(self.subject, NounPhrase):
                tags = [f"=pair {self.complement.adjective.german} {self.subject.noun.german}"]
            return self.says(copula, "verb", "tense", tags=tags), self.complement.german()
        verb = self.verb
        assert verb
        brackets = ["tense_bracket"]
        if self.passive:
            brackets.append("passive")
            word = self.says(verb.participle, "verb", tags=brackets)
            if time != "future" and not modal:
                auxiliary = AUXILIARIES["wurden" if past else "werden"][who]
                return self.says(auxiliary, "tense"), word
            word += self.says("werden", "passive")
        else:
            word = self.says(verb.infinitive, "verb", tags=brackets)
        if modal and time != "future":
            forms = MODALS[modal][0].split()[2 if past else 0 :]
            return self.says(forms[who == THEY], "tense"), word
        if time == "future":
            word += self.says(FUTURE_MODALS[modal][0], "tense") if modal else []
            return self.says(AUXILIARIES["werden"][who], "future"), word
        if past:
            tags = [*brackets, f"=perfect {verb.infinitive}"]
            word = self.says(verb.participle, "verb", tags=tags)
            return self.says(AUXILIARIES[verb.auxiliary][who], "tense"), word
        first = first_person(verb.stem, verb.third)
        finite = {I: first, HE: verb.third, THEY: verb.stem}[who]
        prefix = self.says(verb.prefix, "verb", tags=["separable"])
        return self.says(finite, "verb", "tense"), prefix

    # English

    def english(self, front: str = "subject") -> Tokens:
        """A statement; with "time" or "place" in front, followed by a comma."""
        parts = self.english_parts()
        first = parts.pop(front) if front in ("time", "place") else []
        return [*first, COMMA] * bool(first) + chained(parts)

    def english_question(self, asked: str = "") -> Tokens:
        """A question; ``asked`` names the part that is asked for, if it is not yes or no."""
        parts = self.english_parts(inverted=asked != "subject")
        first = parts.pop(asked, [])
        if asked == "subject":
            return first + chained(parts)
        auxiliary = parts.pop("auxiliary")
        return first + auxiliary + chained(parts)

    def english_imperative(self, please: Tokens) -> Tokens:
        """A command."""
        parts = self.english_parts()
        del parts["subject"]
        negation = self.says("do not", "not") if self.negated else []
        assert self.verb
        parts |= {"auxiliary": [], "not": [], "verb": self._english_lexical(self.verb.english[0])}
        return please + negation + chained(parts)

    def english_parts(self, inverted: bool = False) -> dict[str, Tokens]:
        """The parts by name, in the order of a statement; ``inverted`` where "do" is needed."""
        first, past, rest = self._english_chain()
        who = self.subject.agreement
        auxiliary: Tokens = []
        lemma, *parts = first
        if lemma in NEEDS_NO_DO:
            auxiliary = self.says(finite_english(lemma, past, who), *parts)
        elif self.negated or inverted:
            auxiliary = self.says(finite_english("do", past, who), "tense")
            rest = self.says(lemma, *[p for p in parts if p != "tense" or self.tense.modal]) + rest
        else:
            assert self.verb
            finite = self.verb.english[1] if past else finite_english(lemma, False, who)
            if lemma in IRREGULAR or self.tense.modal:
                finite = finite_english(lemma, past, who)
            rest = self.says(finite, *parts) + rest
        not_ = self.says("not", "not") if self.negated else []
        if not_ and [token.text for token in auxiliary] == ["can"]:
            auxiliary = [Token("cannot", auxiliary[0].marks | not_[0].marks)]
            not_ = []
        particle = self.says(self.verb.particle, "verb") if self.verb else []
        passed = isinstance(self.object, Pronoun)  # "picks it up"
        return {
            "subject": self.subject.english(NOM),
            "auxiliary": auxiliary,
            "not": not_,
            "verb": rest,
            "particle": [] if passed else particle,
            "receiver": self.receiver.english(ACC) if self.receiver else [],
            "object": self._english_object(),
            "particle after": particle if passed else [],
            "oblique": self._english_oblique(),
            "agent": self.agent.english() if self.agent else [],
            "place": self.place.english() if self.place else [],
            "time": self.time.english() if self.time else [],
        }

    def _english_object(self) -> Tokens:
        if not self.object:
            return []
        if self.negated and self._object_is_indefinite and isinstance(self.object, NounPhrase):
            obj = self.object.english(ACC, negative=True)
        else:
            obj = self.object.english(ACC)
        return obj + (self.extraposed.english() if self.extraposed else [])

    def _english_oblique(self) -> Tokens:
        if self.oblique and self.verb and self.verb.preposition:
            # "wait for": the English preposition is the verb's, said with it.
            return self.oblique.phrase.english(ACC)
        return self.oblique.english() if self.oblique else []

    def _english_lexical(self, form: str, *parts: str) -> Tokens:
        """A form of the verb, with what follows it."""
        assert self.verb
        tokens = self.says(form, *(parts or ["verb"]))
        *words, last = self.verb.tail.split() or [""]
        tokens += self.says(" ".join(words), "verb")
        if self.verb.preposition and self.oblique and last:
            return tokens + self.oblique.says(last, "preposition")
        return tokens + self.says(last, "verb")

    def _english_chain(self) -> tuple[tuple[str, ...], bool, Tokens]:
        """The first verb as (lemma, parts it says), whether it is past, and the verbs after it."""
        time, modal = self.tense
        past = time == "past"
        if self.complement:
            return ("be", "verb", "tense"), past, self.complement.english()
        assert self.verb
        base, _, participle, _ = self.verb.english
        if self.passive:
            core = self.says("be", "passive") + self._english_lexical(participle)
        else:
            core = self._english_lexical(base)
        if time == "future":
            words = FUTURE_MODALS[modal][1] if modal else ""
            return ("will", "future"), False, self.says(words, "tense") + core
        if modal:
            words = "be able to" if past and modal == "can" else MODALS[modal][1]
            first, *rest = words.split()
            return (first, "tense"), past, self.says(" ".join(rest), "tense") + core
        return self._english_unmodified(self.verb)

    def _english_unmodified(self, verb: Verb) -> tuple[tuple[str, ...], bool, Tokens]:
        """The same for a verb without future or modal."""
        time, (base, _, participle, ing) = self.tense.time, verb.english
        progressive = time == "present" and not verb.is_simple
        if time == "earlier":
            return ("had", "tense"), False, self._english_lexical(participle)
        if self.passive:
            being = self.says("being", "tense") if progressive else []
            return ("be", "tense"), time == "past", being + self._english_lexical(participle)
        if progressive:
            return ("be", "tense"), False, self._english_lexical(ing)
        return (base, "verb", "tense"), time == "past", self._english_lexical("")


def unclear_after_noun(phrase: Phrase | None, tokens: Tokens) -> Tokens:
    """The tokens, the first tagged if it would look like a genitive after a noun: "der Frau"."""
    if not tokens or not isinstance(phrase, NounPhrase) or phrase.gender != "f":
        return tokens
    return [*tagged(tokens[:1], "=genitive?"), *tokens[1:]]


def finite_english(lemma: str, past: bool, who: str) -> str:
    """The finite form of a verb: "is", "does", "could", "reads", "wanted"."""
    if lemma in IRREGULAR:
        return IRREGULAR[lemma][past][who]
    if past:
        return lemma + "ed"  # only "want" comes here: verbs of the lexicon know their past
    return third_person(lemma) if who == HE else lemma


def tagged(tokens: Tokens, tag: str) -> Tokens:
    """The tokens, each showing ``tag`` as well."""
    return [token._replace(tags=token.tags | {tag}) for token in tokens]


@dataclass
class Complement(Meaning):
    """A predicate adjective, with a degree: ("zu", "too") or ("", "")."""

    adjective: Adjective
    degree: tuple[str, str] = ("", "")

    def german(self) -> Tokens:
        """In German: no ending."""
        tags = ["ambiguous"] * self.adjective.ambiguous
        return self.says(self.degree[0], "degree") + self.says(
            self.adjective.german, "adjective", tags=tags
        )

    def english(self) -> Tokens:
        """In English."""
        return self.says(self.degree[1], "degree") + self.says(
            self.adjective.english_alone, "adjective"
        )


# --- clauses within clauses ---


@dataclass
class Gap(Meaning):
    """The relative pronoun: stands in its clause for ``head``, which the clause is about."""

    head: NounPhrase
    distant: bool = False  # whether words stand between the two

    @property
    def agreement(self) -> str:
        """That of the head."""
        return self.head.agreement

    def german(self, case: str) -> Tokens:
        """Gender and number of the head, case of its own clause."""
        tags = ["relative"] if self.distant else []
        return self.says(form(RELATIVE, self.head.gender, case), "relative", tags=tags)

    def english(self, case: str) -> Tokens:
        """who, whom or that."""
        person = "who" if case == NOM else "whom"
        return self.says(person if self.head.noun.kind in PERSONS else "that", "relative")


@dataclass
class Relative(Meaning):
    """A clause with a gap; ``role`` says which part of it is the gap: subject or object."""

    clause: Clause
    role: str

    @property
    def last_number(self) -> str:
        """The number of the noun nearest to the verb that follows, or nothing."""
        clause = self.clause
        other: Phrase | None = clause.object if self.role == "subject" else clause.subject
        if clause.oblique and self.role == "subject":
            other = clause.oblique.phrase
        return other.agreement if isinstance(other, NounPhrase) and not clause.place else ""

    def german(self) -> Tokens:
        """Between commas, the pronoun first and the verb last."""
        return [COMMA, *self.clause.german_last(self.role), COMMA]

    def english(self) -> Tokens:
        """Without commas: it says which one."""
        parts = self.clause.english_parts()
        first = parts.pop(self.role)
        return first + chained(parts)


@dataclass
class Subordinate(Meaning):
    """A clause after a conjunction."""

    german_word: str
    english_word: str
    clause: Clause

    def german(self) -> Tokens:
        """The verb last."""
        return self.says(self.german_word, "conjunction") + self.clause.german_last()

    def english(self) -> Tokens:
        """As a statement."""
        return self.says(self.english_word, "conjunction") + self.clause.english()


@dataclass
class Asked(Meaning):
    """A question word in the place of a phrase."""

    german_forms: str
    english_word: str
    agreement: str = HE

    def german(self, case: str = NOM) -> Tokens:
        """wer, wen, wem; was."""
        forms = dict(zip((NOM, ACC, DAT), self.german_forms.split(), strict=True))
        return self.says(forms[case], "asked")

    def english(self, case: str = NOM) -> Tokens:
        """who; what."""
        return self.says(self.english_word, "asked")


# --- sentences ---


UNCLEAR = "=unclear"  # tags a pair that could mean something else


class Pair(NamedTuple):
    """A sentence pair; alignment is (German word, English word), words parted by spaces."""

    german: str
    english: str
    alignment: tuple[tuple[int, int], ...]
    tags: frozenset[str]


def pair(german: Tokens, english: Tokens, end: str = ".", tags: Iterable[str] = ()) -> Pair:
    """Write both sentences down, align their words and collect their phenomena."""
    german, english = punctuated(german, end), punctuated(english, end)
    saying = defaultdict(list)  # the English words that say something, by its mark
    for j, word in enumerate(english):
        for mark in word.marks:
            saying[mark].append(j)
    links = {(i, j) for i, word in enumerate(german) for mark in word.marks for j in saying[mark]}
    for before, word in pairwise(german[1:]):
        if "=genitive?" in word.tags and before.text[0].isupper() and before.text != "Sie":
            tags = [*tags, UNCLEAR]
    shown = frozenset(tags).union(*(token.tags for token in german))
    texts = [" ".join(token.text for token in tokens) for tokens in (german, english)]
    return Pair(texts[0], texts[1], tuple(sorted(links)), shown)


def punctuated(tokens: Tokens, end: str) -> Tokens:
    """Punctuation joined to the word before it, the strongest wins; capitals; ``end`` last."""
    words: Tokens = []
    for token in [*tokens, Token(end)]:
        if token.text in PUNCTUATION:
            words[-1] = words[-1]._replace(text=words[-1].text.rstrip(",") + token.text)
        elif not words or words[-1].text[-1] in ".?":
            words.append(token._replace(text=token.text[0].upper() + token.text[1:]))
        else:
            words.append(token)
    return words
