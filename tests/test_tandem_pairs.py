"""Forty sentence pairs written and aligned by hand: the grammar must say them exactly so.

Each row is a meaning, the German and the English sentence that a person wrote for it, and for each
German word the numbers of the English words that say the same ("-" for none, counted from 0).
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

# isort: off
from grammar import (
    COMMA, FULL_STOP, HABIT, NO, NONE, PAST, PRESENT, THE, THIS, A, Adverbial, Asked, Clause,
    Complement, Coordination, Determiner, Gap, Meaning, Name, NounPhrase, Pair, Phrase,
    Prepositional, Pronoun, Relative, Subordinate, Tense, pair, pronoun_for,
)  # fmt: skip
from inflection import ACC, DAT, HE, THEY, I
from lexicon import Adjective, Lexicon, Noun, Verb
# isort: on

LEXICON = Lexicon.read(Path(__file__).parent.parent / "data" / "tandem" / "lexicon.toml")
MY = Determiner("mein", "my", "my", "ein")
TWO = Determiner("zwei", "two", "two", "plain")


def noun(german: str, english: str = "") -> Noun:
    return next(n for n in LEXICON.nouns if n.german == german and english in ("", n.english))


def adjective(german: str) -> Adjective:
    return next(a for a in LEXICON.adjectives if a.german == german)


def verb(infinitive: str, english: str = "", governs: str = "") -> Verb:
    return next(
        v
        for kind, verbs in LEXICON.verbs.items()
        for v in verbs
        if v.infinitive == infinitive and english in ("", v.english[0]) and governs in ("", kind)
    )


def np(
    german: str, determiner: Determiner = THE, adj: str = "", many: bool = False, english: str = ""
) -> NounPhrase:
    described = adjective(adj) if adj else None
    return NounPhrase(noun(german, english), many, determiner, described)


def place(german: str) -> Prepositional:
    where = next(p for p in LEXICON.places if p.noun.german == german)
    return Prepositional(where.german, where.english, NounPhrase(where.noun), DAT)


def when(german: str) -> Adverbial:
    row = next((de, en) for de, en, _ in LEXICON.times if de.replace("|", " ") == german)
    return Adverbial(*row)


def say(clause: Clause, front: str = "subject", end: str = ".") -> Pair:
    return pair(clause.german(front), clause.english(front), end)


def ask(clause: Clause, asked: str = "") -> Pair:
    german = clause.german("asked" if asked == "object" else asked)
    return pair(german, clause.english_question(asked), "?")


def command(clause: Clause, please: bool = False) -> Pair:
    polite = Meaning()
    german = clause.german_imperative(polite.says("bitte" * please, "please"))
    return pair(german, clause.english_imperative(polite.says("please" * please, "please")))


def after(main: Clause, conjunction: tuple[str, str], other: Clause, first: bool = False) -> Pair:
    sub = Subordinate(*conjunction, other)
    if first:
        german = [*sub.german(), COMMA, *main.german("")]
        return pair(german, [*sub.english(), COMMA, *main.english()])
    return pair([*main.german(), COMMA, *sub.german()], main.english() + sub.english())


def told(
    head: NounPhrase, what: Verb, other: Phrase, role: str, tense: Tense = PRESENT
) -> NounPhrase:
    """The head with a relative clause in which it plays a role."""
    gap = Gap(head)
    subject, obj = (gap, other) if role == "subject" else (other, gap)
    head.after = Relative(Clause(subject, what, tense, object=obj), role)
    return head


ANNA, WE = Name("Anna", "Anna"), Pronoun("wir uns uns", "we us", THEY)
ICH = Pronoun("ich mich mir", "I me", I)
SHE, YOU = Pronoun("sie sie ihr", "she her", HE), Pronoun("Sie Sie Ihnen", "you you", THEY)


# fmt: off
def cases() -> Iterator[tuple[Pair, str, str, str]]:  # noqa: PLR0915 - forty of them
    # 1: verb second, verb last
    yield (say(Clause(np("Mann"), verb("lesen"), object=np("Buch", A))),
           "Der Mann liest ein Buch.", "The man is reading a book.", "0 1 2,3 4 5")
    yield (say(Clause(ICH, verb("lesen"), PAST, object=np("Zeitung"), time=when("gestern")), "time"),
           "Gestern habe ich die Zeitung gelesen.", "Yesterday, I read the newspaper.", "0 2 1 3 4 2")
    yield (after(Clause(ANNA, verb("sagen")), ("dass", "that"), Clause(np("Kind"), verb("waschen"), PAST,
           object=np("Hemd"), place=place("Garten"))),
           "Anna sagt, dass das Kind das Hemd im Garten gewaschen hat.",
           "Anna says that the child washed the shirt in the garden.", "0 1 2 3 4 6 7 8,9 10 5 5")
    yield (after(Clause(np("Junge"), verb("tanzen", governs="none")), ("während", "while"), Clause(np("Mutter",
           MY, english="mother"), verb("singen")), first=True),
           "Während meine Mutter singt, tanzt der Junge.", "While my mother is singing, the boy is dancing.", "0 1 2 3,4 7,8 5 6")
    # 2: separable verbs
    yield (say(Clause(np("Frau"), verb("aufheben"), object=np("Schlüssel", adj="alt"))),
           "Die Frau hebt den alten Schlüssel auf.", "The woman is picking up the old key.", "0 1 2,3,4 5 6 7 3,4")
    yield (after(Clause(np("Hund"), verb("einschlafen"), HABIT), ("wenn", "when"), Clause(np("Koch"),
           verb("ausschalten"), HABIT, object=np("Radio"))),
           "Der Hund schläft ein, wenn der Koch das Radio ausschaltet.",
           "The dog falls asleep when the cook switches off the radio.", "0 1 2,3 2,3 4 5 6 9 10 7,8")
    # 3: compounds
    yield (say(Clause(np("Tischler"), verb("reparieren"), PAST, object=np("Waschmaschine", MY))),
           "Der Tischler hat meine Waschmaschine repariert.", "The carpenter repaired my washing machine.", "0 1 2 3 4,5 2")
    yield (say(Clause(np("Kirschbaum", adj="alt"), complement=Complement(adjective("schön")))),
           "Der alte Kirschbaum ist schön.", "The old cherry tree is beautiful.", "0 1 2,3 4 5")
    # 4: adjective endings
    yield (say(Clause(np("Hund", A, "müde"), verb("sehen"), PAST, object=np("Pferd", A, "grau"))),
           "Ein müder Hund hat ein graues Pferd gesehen.", "A tired dog saw a grey horse.", "0 1 2 3 4 5 6 3")
    yield (say(Clause(WE, verb("trinken"), object=np("Kaffee", NONE, "heiß"))),
           "Wir trinken heißen Kaffee.", "We are drinking hot coffee.", "0 1,2 3 4")
    yield (say(Clause(np("Gärtner"), verb("helfen"), object=np("Schülerin", THIS, "traurig", many=True))),
           "Der Gärtner hilft diesen traurigen Schülerinnen.", "The gardener is helping these sad pupils.", "0 1 2,3 4 5 6")
    yield (say(Clause(ANNA, verb("finden"), PAST, object=np("Blume", TWO, "rot", many=True))),
           "Anna hat zwei rote Blumen gefunden.", "Anna found two red flowers.", "0 1 2 3 4 1")
    # 5: case
    yield (say(Clause(np("Student"), verb("danken"), object=np("Ärztin", adj="freundlich"))),
           "Der Student dankt der freundlichen Ärztin.", "The student is thanking the friendly doctor.", "0 1 2,3 4 5 6")
    yield (say(Clause(np("Großvater"), verb("geben"), PAST, object=np("Puppe", A), receiver=np("Kind"))),
           "Der Großvater hat dem Kind eine Puppe gegeben.", "The grandfather gave the child a doll.", "0 1 2 3 4 5 6 2")
    for case, what, german, english, links in (
        (DAT, Clause(np("Buch"), verb("liegen")), "Das Buch liegt auf dem Tisch.",
         "The book is lying on the table.", "0 1 2,3 4 5 6"),
        (ACC, Clause(SHE, verb("legen"), object=np("Buch")), "Sie legt das Buch auf den Tisch.",
         "She is putting the book on the table.", "0 1,2 3 4 5 6 7"),
    ):  # fmt: skip
        what.oblique = Prepositional("auf", "on", np("Tisch"), case)
        yield say(what), german, english, links
    bus = Prepositional("auf", "", np("Bus"), ACC)
    yield (say(Clause(np("Prinz", many=True), verb("warten"), PAST, oblique=bus)),
           "Die Prinzen haben auf den Bus gewartet.", "The princes waited for the bus.", "0 1 2 3 4 5 2")
    # 6: agreement
    child = np("Kind")
    child.after = Prepositional("mit", "with", np("Hund", TWO, many=True), DAT)
    yield (say(Clause(child, complement=Complement(adjective("hungrig")))),
           "Das Kind mit zwei Hunden ist hungrig.", "The child with two dogs is hungry.", "0 1 2 3 4 5 6")
    # 7: relative pronouns
    yield (say(Clause(told(np("Mann", many=True), verb("helfen"), np("Bäckerin"), "object"), verb("lachen",
           governs="none"))),
           "Die Männer, denen die Bäckerin hilft, lachen.", "The men whom the baker is helping are laughing.", "0 1 2 3 4 5,6 7,8")
    cake = np("Kuchen")
    relative = told(cake, verb("essen"), np("Dieb", many=True), "object", PAST).after
    cake.after = None
    assert isinstance(relative, Relative)
    yield (say(Clause(np("Koch"), verb("suchen"), PAST, object=cake, extraposed=relative)),
           "Der Koch hat den Kuchen gesucht, den die Diebe gegessen haben.",
           "The cook looked for the cake that the thieves ate.", "0 1 2 4 5 2,3 6 7 8 9 9")
    # 8: pronouns
    coat = np("Mantel", A)
    yield (after(Clause(WE, verb("kaufen"), PAST, object=coat), ("weil", "because"), Clause(pronoun_for(coat),
           tense=PAST, complement=Complement(adjective("billig")))),
           "Wir haben einen Mantel gekauft, weil er billig war.", "We bought a coat because it was cheap.", "0 1 2 3 1 4 5 7 6")
    first = Clause(ANNA, verb("einpacken"), PAST, object=np("Halskette"))
    second = Clause(ICH, verb("reparieren"), PAST, object=pronoun_for(np("Lampe")))
    yield (say(second),
           "Ich habe sie repariert.", "I repaired it.", "0 1 2 1")
    pronoun = Clause(ICH, verb("mitnehmen"), object=pronoun_for(np("Halskette")))
    yield (pair([*first.german(), FULL_STOP, *pronoun.german()], [*first.english(), FULL_STOP,
           *pronoun.english()]),
           "Anna hat die Halskette eingepackt. Ich nehme sie mit.",
           "Anna packed the necklace. I am taking it along.", "0 1 2 3 1 4 5,6,8 7 6,8")
    # 9: words of two meanings
    yield (say(Clause(np("Malerin"), verb("streichen"), PAST, object=np("Bank", english="bench"))),
           "Die Malerin hat die Bank gestrichen.", "The painter painted the bench.", "0 1 2 3 4 2")
    yield (say(Clause(np("Dieb"), verb("überfallen"), PAST, object=np("Bank", english="bank"))),
           "Der Dieb hat die Bank überfallen.", "The thief robbed the bank.", "0 1 2 3 4 2")
    yield (say(Clause(SHE, verb("verscheuchen"), object=np("Fledermaus", A))),
           "Sie verscheucht eine Fledermaus.", "She is chasing away a bat.", "0 1,2,3 4 5")
    # 10: brackets
    yield (say(Clause(WE, verb("besuchen"), Tense("future", "must"), object=np("Onkel", MY),
           time=when("morgen"))),
           "Wir werden morgen meinen Onkel besuchen müssen.", "We will have to visit my uncle tomorrow.", "0 1 7 5 6 4 2,3")
    yield (say(Clause(np("Richterin"), verb("lesen"), Tense("past", "want"), object=np("Roman"))),
           "Die Richterin wollte den Roman lesen.", "The judge wanted to read the novel.", "0 1 2,3 5 6 4")
    # 11: negation
    yield (say(Clause(np("Nachbar"), verb("kaufen"), PAST, object=np("Auto", A), negated=True)),
           "Der Nachbar hat kein Auto gekauft.", "The neighbour did not buy a car.", "0 1 2 3,5 6 4")
    yield (say(Clause(ICH, verb("finden"), object=np("Hut"), negated=True)),
           "Ich finde den Hut nicht.", "I do not find the hat.", "0 1,3 4 5 2")
    yield (say(Clause(ANNA, verb("singen"), Tense("present", "can"), negated=True)),
           "Anna kann nicht singen.", "Anna cannot sing.", "0 1 1 2")
    milk = np("Milch", NO)
    there = Meaning()
    yield (pair(there.says("es gibt", "is") + place("Küche").german() + milk.german(ACC), there.says("there is",
           "is") + milk.english(ACC) + place("Küche").english()),
           "Es gibt in der Küche keine Milch.", "There is no milk in the kitchen.", "0,1 0,1 - - - 2 3")
    # 12: questions, imperatives, passives
    yield (ask(Clause(np("Kapitän"), verb("schlafen"))),
           "Schläft der Kapitän?", "Is the captain sleeping?", "0,3 1 2")
    who = Asked("wer wen wem", "who")
    yield (ask(Clause(np("Kapitän"), verb("vertrauen"), object=who), "object"),
           "Wem vertraut der Kapitän?", "Who does the captain trust?", "0 1,4 2 3")
    yield (ask(Clause(np("Tante"), verb("bügeln"), PAST, object=np("Rock"), time=Asked("wann wann wann",
           "when")), "time"),
           "Wann hat die Tante den Rock gebügelt?", "When did the aunt iron the skirt?", "0 1 2 3 5 6 4")
    yield (command(Clause(YOU, verb("ausziehen"), object=np("Jacke")), please=True),
           "Ziehen Sie bitte die Jacke aus.", "Please take off the jacket.", "1,2 - 0 3 4 1,2")
    yield (command(Clause(YOU, verb("verkaufen", governs="accusative"), object=np("Haus"), negated=True)),
           "Verkaufen Sie das Haus nicht.", "Do not sell the house.", "2 - 3 4 0,1")
    agent = Prepositional("von", "by", np("Gärtner"), DAT)
    yield (say(Clause(np("Fahrrad"), verb("reparieren"), passive=True, agent=agent)),
           "Das Fahrrad wird vom Gärtner repariert.", "The bicycle is being repaired by the gardener.", "0 1 2,3 5,6 7 4")
    both = Coordination([np("Koch"), np("Tante")])
    agents = Prepositional("von", "by", both, DAT)
    yield (say(Clause(np("Käse"), verb("essen"), PAST, passive=True, agent=agents)),
           "Der Käse wurde von dem Koch und der Tante gegessen.", "The cheese was eaten by the cook and the aunt.", "0 1 2 4 5 6 7 8 9 3")
    yield (say(Clause(np("Brief"), verb("vorlesen"), Tense("present", "must"), passive=True)),
           "Der Brief muss vorgelesen werden.", "The letter has to be read out.", "0 1 2,3 5,6 4")
    # 13: copying
    yield (say(Clause(Name("Frau|Tolner", "Ms|Tolner"), verb("besuchen"), PAST, object=Name("Herr|Marbeck",
           "Mr|Marbeck"))),
           "Frau Tolner hat Herrn Marbeck besucht.", "Ms Tolner visited Mr Marbeck.", "0 1 2 3 4 2")
    # 14: coordination
    animals = Coordination([np("Hund"), np("Katze"), np("Pferd", A)])
    yield (say(Clause(np("Bruder", MY), verb("füttern"), PAST, object=animals)),
           "Mein Bruder hat den Hund, die Katze und ein Pferd gefüttert.",
           "My brother fed the dog, the cat and a horse.", "0 1 2 3 4 5 6 7 8 9 2")

# fmt: on


ROWS = list(cases())


@pytest.mark.parametrize(("made", "german", "english", "links"), ROWS, ids=[r[1] for r in ROWS])
def test_pairs_written_by_hand(made: Pair, german: str, english: str, links: str) -> None:
    assert made.german == german
    assert made.english == english
    rows = ((i, j) for i, numbers in enumerate(links.split()) for j in numbers.split(","))
    assert set(made.alignment) == {(i, int(j)) for i, j in rows if j != "-"}
    assert len({row[1] for row in ROWS}) == len(ROWS) >= 40
