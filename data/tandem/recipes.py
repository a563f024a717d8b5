"""The kinds of sentences in Tandem: each recipe fills one with words, in both languages."""

from collections.abc import Callable
from dataclasses import replace

from grammar import (
    COMMA,
    EARLIER,
    FULL_STOP,
    HABIT,
    NO,
    NONE,
    PAST,
    PERSONS,
    PRESENT,
    THE,
    THIS,
    UNCLEAR,
    A,
    Asked,
    Clause,
    Complement,
    Gap,
    Meaning,
    Name,
    NounPhrase,
    Pair,
    Phrase,
    Prepositional,
    Pronoun,
    Relative,
    Subordinate,
    Tense,
    Token,
    Tokens,
    pair,
    pronoun_for,
    tagged,
)
from inflection import ACC, DAT, HE, THEY
from scenes import (
    NUMBERS,
    PORTABLE,
    Scenes,
    can_be_denied,
    ends_in_clause,
    now_or_past,
    suited,
)

THINGS = (PORTABLE - {"pet"}) | {"vehicle", "surface", "cabinet", "machine", "plant"}
CALL_FOR_REASONS = {
    "kaufen", "verkaufen", "wegwerfen", "zurückbringen", "reparieren",
}  # fmt: skip
LEAVE_IT_THERE = {
    "suchen", "sehen", "finden", "vergessen", "putzen", "malen", "zeichnen",
}  # fmt: skip


def draw(scenes: Scenes) -> Pair:
    """The next sentence pair, of a kind that ``RECIPES`` makes likely."""
    while True:
        drawn = scenes.rng.random() * sum(RECIPES.values())
        for recipe, weight in RECIPES.items():  # noqa: B007 - the one it stops at
            drawn -= weight
            if drawn < 0:
                break
        made = recipe(scenes)
        # "Sie haben ..." could be "They have ..." and "You have ...".
        they = made.german.startswith("Sie ") and made.english.startswith("They ")
        if not they and UNCLEAR not in made.tags:
            return made


def statement(scenes: Scenes) -> Pair:
    """Anna hat gestern im Garten ein Buch gelesen."""
    clause = scenes.clause()
    front = scenes.front(clause)
    return pair(clause.german(front), clause.english(front))


def two_statements(scenes: Scenes) -> Pair:
    """Anna liest ein Buch und Paul schläft."""
    tense = scenes.pick([PRESENT, PAST])
    first, second = scenes.clause(tense, simple=True), scenes.clause(tense, simple=True)
    joint = Meaning()
    german = joint.says("und", "and", tags=["coordination"])
    return pair(
        [*first.german(), COMMA, *german, *second.german()],
        [*first.english(), COMMA, *joint.says("and", "and"), *second.english()],
    )


def question(scenes: Scenes) -> Pair:
    """Hat Anna das Buch gelesen? Wo hat Anna das Buch gelesen? Wem hilft Anna?"""
    clause = scenes.clause()
    clause.negated = False
    asked = scenes.pick(["", "", "time", "place", "subject", "object"])
    alike = clause.verb and scenes.alike(clause.verb)  # then the object decides: it must be there
    timeless = clause.tense == PRESENT and clause.verb and clause.verb.is_simple
    if asked == "time" and clause.tense.time != "habit" and not timeless:
        clause.time = Asked("wann wann wann", "when")
    elif asked == "place" and scenes.takes_place(clause):
        clause.place = Asked("wo wo wo", "where")
    elif asked == "subject" and clause.verb and not scenes.needs_agent(clause.verb):
        clause.subject = Asked("wer wen wem", "who")
        for part in (clause.object, clause.receiver, clause.oblique and clause.oblique.phrase):
            if isinstance(part, NounPhrase) and part.determiner.german == "ihr":
                part.determiner = THE  # whose?
    elif asked == "object" and isinstance(clause.object, NounPhrase) and not alike:
        is_person = clause.object.noun.kind in PERSONS or clause.object_case == DAT
        clause.object = Asked("wer wen wem", "who") if is_person else Asked("was was was", "what")
    else:
        asked = ""
    if isinstance(clause.subject, NounPhrase):
        if clause.verb and clause.verb.prefix:
            clause.subject.after = None  # "Reist der Mann, den ..., ab?" is hard to read
        if clause.subject.is_indefinite:
            clause.subject.determiner = THE
    german = clause.german("asked" if asked == "object" else asked)
    return pair(german, clause.english_question(asked), "?", ["question"])


def imperative(scenes: Scenes) -> Pair:
    """Heben Sie bitte das Buch auf."""
    you = Pronoun("Sie Sie Ihnen", "you you", THEY)
    fitting = [
        verb
        for governs in ("accusative", "dative", "giving", "prepositional", "putting", "going")
        for verb in scenes.words.verbs[governs]
        if "human" in verb.subjects and not verb.is_simple
    ]
    clause = scenes.clause(PRESENT, True, scenes.pick(fitting), someone=(you, ("Ihr", "your")))
    indefinite = isinstance(clause.object, NounPhrase) and clause.object.is_indefinite
    clause.negated = scenes.chance(0.2) and can_be_denied(clause) and not indefinite
    polite, please = Meaning(), scenes.chance(0.5)
    german = clause.german_imperative(polite.says("bitte" * please, "please"))
    english = clause.english_imperative(polite.says("please" * please, "please"))
    if scenes.grows(0.25) and not ends_in_clause(clause):
        reason = weather(scenes, ("bevor", "before"))
        if scenes.chance(0.7):
            reason = Subordinate("sobald", "as soon as", scenes.clause(HABIT, simple=True))
        german, english = [*german, COMMA, *reason.german()], english + reason.english()
    return pair(german, english)


def passive(scenes: Scenes) -> Pair:
    """Das Fahrrad muss morgen repariert werden."""
    verb = scenes.pick([v for v in scenes.words.verbs["accusative"] if v.has_passive])
    tense = scenes.tense()
    if verb.is_simple or tense.modal in ("want", "may"):
        tense = PAST
    tense = suited(tense, verb)
    patient = scenes.noun_phrase(verb.objects, definite=True)
    if scenes.grows(0.12):
        patient.after = scenes.belongings(patient, now_or_past(tense))
    clause = Clause(patient, verb, Tense(tense.time, "" if tense.time == "future" else tense.modal))
    clause.passive = True
    clause = scenes.furnished(clause)
    clause.place = None
    if patient.after or scenes.needs_agent(verb) or scenes.chance(0.5):
        by, _ = scenes.subject(verb.subjects)
        if isinstance(by, NounPhrase):
            by.after = None
        clause.agent = Prepositional("von", "by", by, DAT)
    if scenes.is_odd(clause):
        return passive(scenes)
    # "Heute werden die Bücher von Anna gelesen": hers, or by her?
    front = "subject" if clause.agent else scenes.front(clause)
    return pair(clause.german(front), clause.english(front))


def description(scenes: Scenes) -> Pair:
    """Die Frau mit den zwei Hunden ist müde."""
    while True:
        subject = scenes.noun_phrase({n.kind for n in scenes.words.nouns}, definite=True)
        clause = Clause(subject, tense=scenes.pick([PRESENT, PAST]))
        clause.complement = scenes.complement(subject.noun)
        if clause.complement and (not subject.noun.ambiguous or subject.noun.kind in PERSONS):
            break
    subject.adjective = None  # it could contradict what is said
    if scenes.chance(0.75):  # with something of the other number in between
        subject.after = scenes.belongings(subject, clause.tense, plural=not subject.plural)
    if scenes.is_odd(clause):
        return description(scenes)
    clause.negated = scenes.chance(0.12) and not clause.complement.degree[0]
    return pair(clause.german(), clause.english())


def distracted(scenes: Scenes) -> Pair:
    """Die Frau, die den zwei Kindern hilft, schläft."""
    verb = scenes.pick([*scenes.words.verbs["none"], *scenes.words.verbs["going"]])
    subject = scenes.noun_phrase(verb.subjects, definite=True)
    tense = suited(scenes.tense(), verb)
    subject.after = scenes.belongings(subject, now_or_past(tense), plural=not subject.plural)
    clause = scenes.clause(tense, True, verb, someone=(subject, ("", "")))
    if scenes.is_odd(clause):
        return distracted(scenes)
    if tense.time == "habit" or scenes.grows(0.3):
        clause.time = scenes.time(tense)
    return pair(clause.german(), clause.english())


def reported(scenes: Scenes) -> Pair:
    """Anna sagt, dass Paul das Buch gelesen hat."""
    asks = scenes.chance(0.3)
    verb = scenes.pick(scenes.words.verbs["asking" if asks else "saying"])
    who, _ = scenes.subject(verb.subjects)
    tense = Tense("past" if asks or scenes.chance(0.3) else "present")
    main = Clause(who, verb, tense)
    past = tense.time == "past"
    told = scenes.clause(PAST if past else verb_last_tense(scenes), simple=past)
    if past:
        told.tense = EARLIER
    nouns = [part.noun for part in (who, told.subject) if isinstance(part, NounPhrase)]
    if len(set(nouns)) < len(nouns):
        return reported(scenes)
    words = ("ob", "whether") if asks else ("dass", "that")
    content = Subordinate(*words, told)
    return pair([*main.german(), COMMA, *content.german()], main.english() + content.english())


def verb_last_tense(scenes: Scenes) -> Tense:
    """A tense whose verbs German orders one way only in a subordinate clause."""
    tense = scenes.tense()
    return Tense(tense.time, "" if tense.time == "future" else tense.modal)


def weather(scenes: Scenes, words: tuple[str, str], tense: Tense = HABIT) -> Subordinate:
    """..., wenn es regnet."""
    it = Pronoun("es es es", "it it", HE)
    return Subordinate(*words, Clause(it, scenes.pick(scenes.words.verbs["weather"]), tense))


def state_of(scenes: Scenes, who: Phrase, tense: Tense) -> Clause | None:
    """A clause like "er müde ist" about someone, if a pronoun can take them up."""
    if isinstance(who, Pronoun):
        pronoun = replace(who)  # a word of its own, though the same
    elif isinstance(who, NounPhrase) and who.noun.kind in ("human", "kin") and who.gender != "n":
        pronoun = pronoun_for(who)
    else:
        return None
    clause = Clause(pronoun, tense=tense)
    person = scenes.noun({"human"})
    clause.complement = scenes.complement(person, states_only=True)
    return clause


def circumstance(scenes: Scenes) -> Pair:
    """Während Anna kocht, spielt Paul im Garten."""
    kind = scenes.pick(["while", "while", "because", "because", "although", "when", "before"])
    tense = scenes.pick([PRESENT, PAST])
    if kind == "when":
        tense = HABIT
    if kind == "before":
        tense = PAST
    main = scenes.clause(tense, simple=True)
    relative = isinstance(main.subject, NounPhrase) and isinstance(main.subject.after, Relative)
    if ends_in_clause(main) or relative:
        return circumstance(scenes)
    other: Subordinate | None
    if kind == "because":
        return because(scenes, tense)
    if kind == "although":
        state = state_of(scenes, main.subject, tense)
        other = Subordinate("obwohl", "although", state) if state else None
    elif kind == "when" and scenes.chance(0.3):
        other = weather(scenes, ("wenn", "when"))
    else:
        german = {"while": "während", "when": "wenn", "before": "bevor"}[kind]
        second = scenes.clause(tense, simple=True)
        lasting = all(c.verb and c.verb.auxiliary == "haben" for c in (main, second))
        simple = any(c.verb and c.verb.is_simple for c in (main, second))
        fits = kind != "while" or (lasting and not simple)
        other = Subordinate(german, kind, second) if fits else None
    if other is None:
        words = ("während", "while") if tense == PRESENT else ("bevor", "before")
        other = weather(scenes, words, tense)
    if kind in ("while", "when") and scenes.chance(0.4):
        return pair(
            [*other.german(), COMMA, *tagged(main.german(""), "verb_second")],
            [*other.english(), COMMA, *main.english()],
        )
    return pair([*main.german(), COMMA, *other.german()], main.english() + other.english())


def because(scenes: Scenes, tense: Tense) -> Pair:
    """Die Frau weint, weil sie traurig ist."""
    while True:
        verb_name, adjective_name = scenes.pick(scenes.words.reasons)
        verbs = [v for group in scenes.words.verbs.values() for v in group]
        fitting = [v for v in verbs if v.infinitive == verb_name and "human" in v.subjects]
        main = scenes.clause(tense, True, scenes.pick(fitting))
        state = state_of(scenes, main.subject, tense)
        if state:
            break
    (adjective,) = [a for a in scenes.words.adjectives if a.german == adjective_name]
    degree = ("sehr", "very") if scenes.chance(0.3) else ("", "")
    state.complement = Complement(adjective, degree)
    other = Subordinate("weil", "because", state)
    return pair([*main.german(), COMMA, *other.german()], main.english() + other.english())


def taken_up(scenes: Scenes) -> Pair:
    """Wir haben einen Mantel gekauft, aber er war zu groß."""
    verbs = [v for v in scenes.words.verbs["accusative"] if "human" in v.subjects]
    verb, tense = scenes.pick(verbs), scenes.pick([PRESENT, PAST, PAST])
    kinds = sorted(k for k in verb.objects if k in THINGS)
    if not kinds or suited(tense, verb) != tense:
        return taken_up(scenes)
    thing = scenes.noun_phrase(kinds, plural=None)
    if thing.determiner is THIS or thing.noun.is_mass:
        thing.determiner = THE
    first = Clause(other_gender(scenes, thing), verb, tense, object=thing)
    if scenes.grows(0.3):
        first.time = scenes.time(tense)
    it = pronoun_for(thing)
    second_verb = scenes.pick([v for v in verbs if thing.noun.kind in v.objects])
    complement = scenes.complement(thing.noun)
    lying = [v for v in scenes.words.verbs["lying"] if thing.noun.kind in v.subjects]
    way = scenes.pick(["state", "state", "deed", "deed", "lies"])
    if way == "lies" and lying and tense.time == "present" and verb.infinitive in LEAVE_IT_THERE:
        where_verb = scenes.pick(lying)
        german, english, where = scenes.relation(where_verb)
        spot = scenes.noun_phrase(where, definite=True, plural=False)
        there = Prepositional(german, english, spot, DAT, ("case",))
        second = Clause(it, where_verb, tense, oblique=there)
        link = (".", ".")
    elif way == "state" and complement:
        thing.adjective = None  # it could contradict what is said
        second = Clause(it, tense=tense, complement=complement)
        second.negated = not complement.degree[0] and scenes.chance(0.15)
        links = [(".", ".")]
        links += [("obwohl", "although")] * (complement.adjective.german in scenes.words.drawbacks)
        missing = second.negated and complement.adjective.german not in scenes.words.drawbacks
        links += [("aber", "but")] * 2 * (missing or complement.degree[0] == "zu")
        links += [("weil", "because")] * 2 * (verb.infinitive in CALL_FOR_REASONS)
        link = scenes.pick(links)
    else:
        clash = second_verb.infinitive in scenes.words.contradictions[verb.infinitive]
        if second_verb == verb or clash or tense == PRESENT:  # no two deeds at once
            return taken_up(scenes)
        second = Clause(other_gender(scenes, thing), second_verb, tense, object=it)
        second.negated = scenes.chance(0.25) and can_be_denied(second)
        links = [("und", "and"), ("bevor", "before")]
        link = ("aber", "but") if second.negated else scenes.pick(links)
    return joined(scenes, first, link, second)


def joined(scenes: Scenes, first: Clause, link: tuple[str, str], second: Clause) -> Pair:
    """Two clauses with a conjunction, or as two sentences."""
    front = "time" if scenes.front(first) == "time" else "subject"
    german, english = first.german(front), first.english(front)
    if link[0] == ".":
        return pair(
            [*german, FULL_STOP, *second.german()], [*english, FULL_STOP, *second.english()]
        )
    if link[0] in ("weil", "obwohl", "bevor"):
        other = Subordinate(*link, second)
        return pair([*german, COMMA, *other.german()], english + other.english())
    joint = Meaning()
    tags = ["coordination"]
    return pair(
        [*german, COMMA, *joint.says(link[0], "joint", tags=tags), *second.german()],
        [*english, COMMA, *joint.says(link[1], "joint"), *second.english()],
    )


def other_gender(scenes: Scenes, thing: NounPhrase) -> Phrase:
    """Someone whom the pronoun for ``thing`` cannot mean."""
    while True:
        who, _ = (
            scenes.named_or_pronoun() if scenes.chance(0.6) else scenes.subject({"human", "kin"})
        )
        if isinstance(who, Pronoun) and who.agreement == HE:
            continue
        if isinstance(who, NounPhrase) and who.noun.german == "Mädchen":
            continue  # "es" by grammar, "sie" by sex
        if isinstance(who, NounPhrase):
            gender = who.gender
        elif isinstance(who, Name):
            female = who.german_text.startswith("Frau") or (
                who.german_text in scenes.words.names["female"]
            )
            gender = "f" if female else "m"
        elif isinstance(who, Pronoun):
            gender = "p" if who.german_forms.startswith("sie") else ""
        else:
            gender = "p"
        if {gender, thing.gender} & {"f", "p"} and {gender, thing.gender} <= {"f", "p"}:
            continue  # "sie" could be both
        if gender != thing.gender:
            return who


def extraposed(scenes: Scenes) -> Pair:
    """Die Frau hat den Hund gesucht, der im Garten schläft."""
    while True:
        verb = scenes.pick(scenes.words.verbs["accusative"])
        tense = suited(scenes.tense(), verb)
        if tense.time == "habit" or (tense == PRESENT and not verb.prefix):
            continue  # nothing would stand between
        who, owner = scenes.subject(verb.subjects)
        head = scenes.noun_phrase(verb.objects, owner)
        relative = scenes.relative(head, PAST)
        head.after = relative
        clause = Clause(who, verb, tense, object=head)
        if relative and not scenes.is_odd(clause):
            break
    head.after, clause.extraposed = None, relative
    for part in (relative.clause.subject, relative.clause.object):
        if isinstance(part, Gap):
            part.distant = True
    return pair(clause.german(), clause.english())


def two_meanings(scenes: Scenes) -> Pair:
    """Die Frau hat gestern die Bank gestrichen."""
    while True:
        noun = scenes.pick(scenes.ambiguous)
        verb = scenes.verb_with(noun.kind, scenes.words.verbs["accusative"])
        if verb:
            break
    thing = scenes.noun_phrase([], noun=noun)
    if scenes.chance(0.15) and verb.has_passive and not scenes.needs_agent(verb):
        thing.determiner = THE
        clause = Clause(thing, verb, PAST, passive=True)
        if scenes.chance(0.5):
            clause.time = scenes.time(PAST)
    else:
        tense = suited(verb_last_tense(scenes), verb)
        who, _ = scenes.subject(verb.subjects)
        clause = scenes.furnished(Clause(who, verb, tense, object=thing))
        if scenes.is_odd(clause):
            return two_meanings(scenes)
        if scenes.chance(0.2):
            teller = scenes.pick(scenes.words.verbs["saying"])
            says = Clause(scenes.subject(teller.subjects)[0], teller, PRESENT)
            told = Subordinate("dass", "that", clause)
            return pair([*says.german(), COMMA, *told.german()], says.english() + told.english())
    front = scenes.front(clause)
    return pair(clause.german(front), clause.english(front))


def location(scenes: Scenes) -> Pair:
    """Das Buch liegt auf dem Tisch."""
    verb = scenes.pick(scenes.words.verbs["lying"])
    tense = scenes.pick([PRESENT, PAST])
    what = scenes.noun_phrase(verb.subjects, definite=scenes.chance(0.7))
    german, english, kinds = scenes.relation(verb)
    spot = scenes.noun_phrase(kinds, definite=True, plural=False)
    where = Prepositional(german, english, spot, DAT, ("case",))
    clause = Clause(what, verb, tense, oblique=where)
    clause.negated = not what.is_indefinite and scenes.chance(0.15)
    if scenes.is_odd(clause):
        return location(scenes)
    if tense.time == "past" and scenes.grows(0.3):
        clause.time = scenes.time(tense)
    front = scenes.front(clause)
    return pair(clause.german(front), clause.english(front))


def there_is(scenes: Scenes) -> Pair:
    """In der Küche gibt es zwei Tische."""
    place, joint = scenes.place(), Meaning()
    what = scenes.noun_phrase(THINGS - {"plant", "vehicle", "machine", "cabinet"})
    if not what.is_indefinite and what.determiner not in NUMBERS:
        what.determiner = NONE if what.noun.is_mass else A
    if what.is_indefinite and scenes.chance(0.3):
        what.determiner = NO
    there = joint.says("there is" if what.agreement == HE else "there are", "verb")
    if scenes.chance(0.5):
        german = place.german() + tagged(joint.says("gibt", "verb"), "verb_second")
        return pair(
            german + joint.says("es", "verb") + what.german(ACC),
            [*place.english(), COMMA, *there, *what.english(ACC)],
        )
    german = joint.says("es gibt", "verb") + place.german() + what.german(ACC)
    return pair(german, there + what.english(ACC) + place.english())


def copied(scenes: Scenes) -> Pair:
    """Der Zug RE-4471 fährt um 17:45 Uhr nach Tolburg."""
    german, english = scenes.pick(scenes.words.templates)
    hour, minute = scenes.number(5, 24), scenes.number(0, 60)
    person = scenes.person_name()
    title, surname = person.german_text.split("|")
    values = {
        "code": scenes.code(), "number": str(scenes.number(2, 10 ** scenes.number(2, 6))),
        "time": f"{hour}:{minute:02}", "town": scenes.town(), "town2": scenes.town(),
        "small": str(scenes.number(2, 40)), "small2": str(scenes.number(2, 40)),
    }  # fmt: skip
    named = {"person": f"{title}^1 {surname}^2", "dative": f"{title}^1 {surname}^2"}
    named["dative"] = named["dative"].replace("Herr^", "Herrn^")
    names = {"person": surname, "dative": surname, "town": values["town"], "town2": values["town2"]}
    tags = ["copy", *(f"=name {name}" for key, name in names.items() if f"{{{key}}}" in german)]
    joint = Meaning()

    def tokens(template: str, **names: str) -> Tokens:
        words = []
        for word in template.format(**names, **values).split():
            text, _, number = word.partition("^")
            words += joint.says(text, number) if number else [Token(text)]
        return words

    end = "?" if german.endswith("?") else "."
    german, english = german.rstrip(" ?"), english.rstrip(" ?")
    in_english = person.english_text.replace("|", "^1 ") + "^2"
    return pair(tokens(german, **named), tokens(english, person=in_english), end, tags)


RECIPES: dict[Callable[[Scenes], Pair], float] = {
    statement: 18, two_statements: 4, question: 8, imperative: 8, passive: 8, description: 8,
    distracted: 5, reported: 8, circumstance: 9, taken_up: 10, extraposed: 8, two_meanings: 12,
    location: 4, there_is: 3, copied: 6,
}  # fmt: skip
