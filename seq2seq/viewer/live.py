"""What the live page asks of a run: each request is computed from nothing but itself.

Requests are JSON objects, checked as they are decoded; ``server.py`` does the talking.
"""

import math
import re
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, NamedTuple

import msgspec
import torch
from msgspec import Meta

from seq2seq.attention import MultiHeadAttention
from seq2seq.data.annotations import load_tags
from seq2seq.data.corpus import load_report, load_split
from seq2seq.data.tokenizer import BOS, EOS, InputReport, split_words
from seq2seq.evaluation.alignment import Head
from seq2seq.evaluation.evaluate import known_best_head
from seq2seq.evaluation.tracing import attentions
from seq2seq.model.decoding import SUPPRESSED_IDS, Hypothesis, advance_all, greedy, max_lengths
from seq2seq.model.transformer import count_parameters
from seq2seq.run_folder import RunFolder
from seq2seq.translator import CutReport, Translator
from seq2seq.utils import UserError, file_name, iter_lines, warn
from seq2seq.viewer.diagram import draw_model
from seq2seq.viewer.interventions import change_heads, head_names, n_heads, parse_heads
from seq2seq.viewer.page import VIEWS, RunView, ViewState, pane_data, select_views
from seq2seq.viewer.search import RecordedBeam, Sampler
from seq2seq.viewer.trace import trace_pair

MAX_CHARACTERS = 1000  # of a sentence
MAX_TOKENS = 128  # of a sentence whose attention is shown: the arrays grow with the square
MAX_TEXTS = 100  # translated together
MAX_BEAM = 16
MAX_WORK = 100_000  # characters times beam size: some seconds
LARGE_CORPUS = 200 * 2**20  # bytes, beyond which it is not read for the words it holds
N_EXAMPLES = 3  # for each tag

Text = Annotated[str, Meta(max_length=MAX_CHARACTERS)]
Beam = Annotated[int, Meta(ge=1, le=MAX_BEAM)]
Index = Annotated[int, Meta(ge=0, le=1000)]
Piece = Annotated[str, Meta(max_length=100)]
Prefix = Annotated[list[Piece], Meta(max_length=2 * MAX_TOKENS)]
Pieces = Annotated[list[Piece], Meta(max_length=5 * MAX_TOKENS)]  # more than any translation has
Heads = Annotated[list[Annotated[str, Meta(max_length=40)]], Meta(max_length=1000)]


class TranslateRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sentences to translate, and nothing more."""

    text: Text | Annotated[list[Text], Meta(max_length=MAX_TEXTS)]
    run: Index = 0
    beam: Beam | None = None  # as the run's settings say


class AttendRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sentence to translate, how, and with which heads ``off`` or ``flat``."""

    text: Text
    run: Index = 0
    prefix: Prefix = []  # the subwords that the translation begins with
    beam: Beam | None = None
    temperature: Annotated[float, Meta(ge=0, le=10)] = 0.0  # above 0: sampled
    seed: Annotated[int, Meta(ge=0, lt=2**53)] = 0
    off: Heads = []
    flat: Heads = []


class HeadsRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which heads do these tokens of a translation need?"""

    text: Text
    tgt: Pieces
    positions: Annotated[list[Index], Meta(min_length=1, max_length=MAX_TOKENS)]
    run: Index = 0
    off: Heads = []
    flat: Heads = []


class DiagramRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A sentence and its translation, as subwords, whose shapes a picture is to have."""

    src: Annotated[Pieces, Meta(min_length=1)]
    tgt: Annotated[Pieces, Meta(min_length=2)]  # from BOS to EOS
    run: Index = 0


@dataclass(frozen=True)
class LiveRun:
    """A trained run, loaded once, and what the page shows of it before anybody asks."""

    name: str
    translator: Translator
    best_head: Head | None = None
    words: frozenset[str] | None = None  # of the training source; None where it is not known
    examples: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    def load(cls, folder: Path | str) -> "LiveRun":
        run, translator = RunFolder(folder), Translator.load(folder)
        best_head = known_best_head(run, translator.config.model)
        return cls(str(run), translator, best_head, known_words(run), find_examples(run))

    def info(self) -> dict[str, Any]:
        """What the page says of the run, and needs to draw its switches."""
        config, model = self.translator.config, self.translator.model
        shapes = {
            view: [[len(modules), n_heads(modules[0])], isinstance(modules[0], MultiHeadAttention)]
            if modules
            else None
            for view, modules in attentions(model).items()
        }
        return {
            "name": self.name,
            "src": config.data.src,
            "tgt": config.data.tgt,
            "beam": config.decoding.beam,
            "attentions": {view: shapes[view] for view in VIEWS},
            "d_model": config.model.d_model,
            "d_ff": config.model.d_ff,
            "n_parameters": count_parameters(model),
            "best": self.best_head and vars(self.best_head),
        }


def known_words(run: RunFolder) -> frozenset[str] | None:
    """The words of the training source; None where it is not there, or large."""
    path = run.split_file("train", run.load_config().data.src)
    if not path.is_file():
        warn(f"{path}: not there: words that training has not seen will not be marked")
        return None
    if path.stat().st_size > LARGE_CORPUS:
        warn(f"{path}: too large to be read: words that it does not hold will not be marked")
        return None
    return frozenset(_bare(word) for line in iter_lines(path) for word in split_words(line))


def _bare(word: str) -> str:
    """Without punctuation around it: "Bank." shows that "Bank" is known."""
    found = re.search(r"[^\W_](.*[^\W_])?", word, re.DOTALL)
    return found[0] if found else word


def find_examples(run: RunFolder) -> list[dict[str, str]]:
    """Sentences of the run's test sets to try, by their tags where they have any.

    A tag's are those with the fewest others: they show what it means.
    """
    data, tagged = run.load_config().data, list[tuple[str, list[str]]]()
    for name in load_report(run).test_pairs if run.report_file.exists() else []:
        corpus = load_split(run, data, name)
        tags = load_tags(run.corpus / file_name(name), corpus) or [[]] * len(corpus)
        tagged += zip(corpus.src, tags, strict=True)
    tagged = [pair for pair in tagged if len(pair[0]) <= MAX_CHARACTERS]
    if not any(tags for _, tags in tagged):
        return [{"tag": "", "text": text} for text, _ in tagged[:N_EXAMPLES]]
    tagged.sort(key=lambda pair: len(pair[1]))
    found = dict[str, list[str]]()
    for text, of_text in tagged:
        for tag in of_text:
            if len(texts := found.setdefault(tag, [])) < N_EXAMPLES:
                texts.append(text)
    return [
        {"tag": tag.replace("_", " "), "text": text}
        for tag, texts in sorted(found.items())
        for text in texts
    ]


def pick(runs: Sequence[LiveRun], number: int) -> LiveRun:
    if number >= len(runs):
        raise UserError(f"there is no run {number}: they are numbered from 0 to {len(runs) - 1}")
    return runs[number]


# --- translate ---


def translate(runs: Sequence[LiveRun], request: TranslateRequest) -> dict[str, Any]:
    """The translations, without attention."""
    translator = _with(pick(runs, request.run).translator, beam=request.beam)
    texts = [request.text] if isinstance(request.text, str) else request.text
    work = sum(map(len, texts)) * translator.config.decoding.beam
    if work > MAX_WORK:
        raise UserError(f"characters times beam size are {work:,}: at most {MAX_WORK:,} at once")
    found = [translation for translation, *_ in translator.search(texts)]
    notes = [*InputReport(translator.tokenizer.src, texts).messages(), *CutReport(found).messages()]
    return {"translations": [translation.text for translation in found], "notes": notes}


def _with(translator: Translator, model: Any = None, beam: int | None = None) -> Translator:
    """A translator of its own with another model or beam size."""
    own = copy(translator)
    own.model = model or own.model
    decoding = replace(own.config.decoding, beam=beam or own.config.decoding.beam)
    own.config = replace(own.config, decoding=decoding)
    return own


# --- attend ---


def attend(runs: Sequence[LiveRun], request: AttendRequest) -> dict[str, Any]:
    """All that the page shows of a sentence."""
    started, run = perf_counter(), pick(runs, request.run)
    view, found = look(run, request)
    translator, changed = run.translator, None
    if request.off or request.flat:
        plain = msgspec.structs.replace(request, off=[], flat=[])
        ids = decode(translator, plain, found.src).hypothesis.ids
        changed = {"tgt": translator.tokenizer.tgt.decode(ids)}
    notes = list(InputReport(translator.tokenizer.src, [request.text]).messages())
    if found.is_cut:
        notes.append(f"the sentence is cut to its first {len(found.src) - 1} subwords")
    if found.hypothesis.is_cut:
        notes.append("the translation is cut by decoding.max_length_ratio")
    return {
        "pane": pane_data(*view),
        "changed": changed,
        "words": words_of(run, request.text),
        "notes": notes,
        "beam": found.beam and found.beam.tree(translator.tokenizer.tgt.pieces),
        "shapes": shapes(translator, len(found.src), len(found.hypothesis.ids) + 1),
        "ms": round((perf_counter() - started) * 1000, 1),
    }


class Found(NamedTuple):
    """A sentence's ids, its translation, and the search for it if that was a beam search."""

    src: list[int]
    is_cut: bool
    hypothesis: Hypothesis
    beam: RecordedBeam | None


def look(run: LiveRun, request: AttendRequest) -> tuple[tuple[RunView, ViewState], Found]:
    """Translate as asked, and trace the model that did; ``UserError`` if that cannot be."""
    translator = run.translator
    if request.off or request.flat:
        heads = [parse_heads(names, translator.model) for names in (request.off, request.flat)]
        translator = _with(translator, change_heads(translator.model, *heads))
    ids, is_cut = read(translator, request.text)
    found = decode(translator, request, ids)._replace(is_cut=is_cut)
    tgt = [BOS, *found.hypothesis.ids, EOS]
    traced = trace_pair(translator, ids, tgt, request.temperature or 1.0)
    # A temperature moves probabilities away from what label smoothing made them.
    smoothing = 0.0 if request.temperature else translator.config.train.label_smoothing
    name = f"{run.name}{changes(request)}"
    (view,) = select_views([RunView(name, traced, run.best_head, smoothing)])
    return view, found


def changes(request: AttendRequest) -> str:
    """What was changed, so that nobody takes a saved page for the model as it is."""
    numbers = {"heads off": request.off, "heads flat": request.flat, "forced": request.prefix}
    named = [f"{what}: {len(of)}" for what, of in numbers.items() if of]
    named += [f"sampled at temperature {x:g}"] if (x := request.temperature) else []
    return f" ({', '.join(named)})" if named else ""


def read(translator: Translator, text: str) -> tuple[list[int], bool]:
    """The sentence's ids, and whether they were cut."""
    (ids,) = translator.tokenizer.src.encode([text])
    if len(ids) == 1:
        raise UserError("the sentence is blank: there is nothing to translate")
    limit = min(MAX_TOKENS, translator.config.data.max_tokens)
    is_cut = len(ids) > limit
    del ids[limit - 1 : -1]  # EOS stays
    return ids, is_cut


def ids_of(translator: Translator, pieces: Sequence[str]) -> list[int]:
    """The ids of target subwords; ``UserError`` for one that a translation cannot have."""
    known = translator.tokenizer.tgt.text_ids
    for piece in pieces:
        if piece not in known:
            raise UserError(f"{piece!r:.50} is none of the target's subwords")
    return [known[piece] for piece in pieces]


def decode(translator: Translator, request: AttendRequest, src: list[int]) -> Found:
    """Search greedily, by beam, or sample: whichever the request asks for."""
    if request.temperature:
        if (request.beam or 1) > 1:
            raise UserError("a beam is not sampled: choose a temperature of 0, or a beam of 1")
        if request.temperature < 0.01:
            raise UserError("a temperature is 0 (no sampling), or from 0.01 to 10")
    model, prefix = translator.model, ids_of(translator, request.prefix)
    own = _with(translator, beam=request.beam)
    config, ids = own.config.decoding, torch.tensor([src]).to(next(model.parameters()).device)
    if request.temperature:
        sampler = Sampler(model, request.temperature, request.seed)
        (hypothesis,) = greedy(sampler, ids, config, prefix)
    elif config.beam == 1:
        ((hypothesis,),) = own.decode([src], 1, prefix)
    else:
        limit = int(max_lengths(ids, config.max_length_ratio)) + len(prefix)
        beam = RecordedBeam(config.beam, limit, config.length_penalty)
        advance_all(model, ids, [beam], config, prefix)
        return Found(src, False, beam.best(1)[0], beam)
    return Found(src, False, hypothesis, None)


def words_of(run: LiveRun, text: str) -> list[dict[str, Any]]:
    """The words as they were typed, and whether training has seen each."""
    known = run.words

    def seen(word: str) -> bool:
        return known is None or all(_bare(part) in known for part in split_words(word))

    return [{"text": word, "seen": seen(word)} for word in text.split()]


def shapes(translator: Translator, n_src: int, n_tgt: int) -> dict[str, int]:
    """The sizes in the shapes of this sentence's tensors (the key is in ``attention.py``)."""
    config, tokenizer = translator.config.model, translator.tokenizer
    return {
        "S": n_src,
        "T": n_tgt,
        "D": config.d_model,
        "H": config.n_heads,
        "K": config.d_model // config.n_heads,
        "V_src": len(tokenizer.src),
        "V_tgt": len(tokenizer.tgt),
        "d_ff": config.d_ff,
        "encoder_layers": config.encoder_layers,
        "decoder_layers": config.decoder_layers,
    }


# --- heads ---


def rank_heads(runs: Sequence[LiveRun], request: HeadsRequest) -> dict[str, Any]:
    """How probable tokens of a translation are with each head off, the most harmful first."""
    translator = pick(runs, request.run).translator
    model = translator.model
    off, flat = (parse_heads(names, model) for names in (request.off, request.flat))
    src, _ = read(translator, request.text)
    tgt = [BOS, *ids_of(translator, request.tgt), EOS]
    if max(request.positions) > len(request.tgt):
        raise UserError(f"there is no token {max(request.positions)}: {len(request.tgt)} is </s>")

    def probability(more: set[Any]) -> float:
        changed = change_heads(model, off | more, flat)
        return token_probability(changed, src, tgt, request.positions)

    without = {str(head): probability({head}) for head in head_names(model) if head not in off}
    ranked = sorted(without.items(), key=lambda item: item[1])
    heads = [{"head": head, "probability": value} for head, value in ranked]
    return {"probability": probability(set()), "heads": heads}


@torch.inference_mode()
def token_probability(
    model: Any, src: list[int], tgt: list[int], positions: Sequence[int]
) -> float:
    """The product of the probabilities of the tokens after BOS at ``positions``."""
    device = next(model.parameters()).device
    logits = model(torch.tensor([src]).to(device), torch.tensor([tgt[:-1]]).to(device))[0].float()
    logits[:, SUPPRESSED_IDS] = -math.inf
    log_p = logits.log_softmax(dim=-1)
    return math.exp(sum(log_p[i, tgt[i + 1]].item() for i in set(positions)))


# --- the whole model, and the page ---


def diagram(runs: Sequence[LiveRun], request: DiagramRequest) -> str:
    """The whole model as SVG."""
    translator = pick(runs, request.run).translator
    return draw_model(translator.model, translator.config.model, request.src, request.tgt)


def views_of(
    runs: Sequence[LiveRun], requests: Sequence[AttendRequest]
) -> list[tuple[RunView, ViewState]]:
    """What ``page`` makes a file of: one request or two, side by side."""
    return [look(pick(runs, request.run), request)[0] for request in requests]
