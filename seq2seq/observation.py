"""What one translation looked at: the steps of every attention, as arrays with their axes named.

A target sentence is read from BOS to its last token and written from its first token to EOS: step
t reads token t and writes token t + 1, and is what asks in the decoder.
"""

from dataclasses import asdict, dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from seq2seq.attention import Steps
from seq2seq.decoding import NEVER_WRITTEN
from seq2seq.model import Seq2Seq
from seq2seq.registry import SCORES
from seq2seq.settings import AttentionConfig, Config
from seq2seq.tokenizer import Tokenizer

N_CANDIDATES = 8  # next tokens that are noted at each step
Array = npt.NDArray[np.float32]


class NamedArray(NamedTuple):
    """Numbers, and what each of their axes counts."""

    axes: tuple[str, ...]
    values: Array


@dataclass(frozen=True)
class Sentence:
    """One side: its text, its subwords, and the number of each one's word (-1: of none)."""

    text: str
    tokens: list[str]
    words: list[int]


@dataclass(frozen=True)
class Attended:
    """One of the three attentions, in all of its layers.

    A ``comparison`` is a head, or half of one where an extra splits heads. Queries and keys are
    left out where the score looks at places alone.
    """

    config: AttentionConfig
    queries: NamedArray | None  # layer, comparison, query, dimension
    keys: NamedArray | None  # layer, comparison, key, dimension
    scores: NamedArray  # layer, comparison, query, key; -inf where a query may not look
    weights: NamedArray  # layer, head, query, key
    values: NamedArray  # layer, head, key, dimension
    value_lengths: NamedArray  # layer, head, key: how much a value adds to the output at weight 1

    @property
    def contributions(self) -> NamedArray:
        """How much each key adds to what each query gets: |weight| times the value's length.

        Weight alone misleads, because values differ in length (Kobayashi et al. 2020,
        arXiv:2004.10102). What an extra does to the sum afterwards is not in it.
        """
        lengths = self.value_lengths.values[:, :, None, :]
        return NamedArray(self.weights.axes, np.abs(self.weights.values) * lengths)


@dataclass(frozen=True)
class Candidate:
    """A token that might have come next."""

    token: str
    probability: float


@dataclass(frozen=True)
class Observation:
    """A sentence, its translation, and who looked at whom.

    An attention of kind ``none`` is None.
    """

    src: Sentence
    tgt: Sentence  # from BOS to EOS
    encoder: Attended | None  # source tokens ask source tokens
    decoder: Attended | None  # steps ask the tokens read so far
    cross: Attended | None  # steps ask source tokens
    written: list[Candidate]  # what each step wrote
    candidates: list[list[Candidate]]  # the likeliest at each step, best first

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists; ``null`` in the place of -inf."""
        return {item.name: _plain(getattr(self, item.name)) for item in fields(self)}


def _plain(value: Any) -> Any:
    match value:
        case NamedArray(axes, values):
            rounded = [None if x == -np.inf else float(f"{x:.6g}") for x in values.ravel().tolist()]
            flat = np.array(rounded, dtype=object)
            return {"axes": list(axes), "values": flat.reshape(values.shape).tolist()}
        case Attended():
            names = [*(item.name for item in fields(value)), "contributions"]
            return {name: _plain(getattr(value, name)) for name in names}
        case AttentionConfig() | Sentence() | Candidate():
            return asdict(value)
        case list():
            return [_plain(each) for each in value]
    return value


@torch.inference_mode()
def observe(
    model: Seq2Seq, tokenizer: Tokenizer, config: Config, src: list[int], tgt: list[int]
) -> Observation:
    """Let ``model`` read a source and the target that belongs to it, and note all it does.

    Args:
        model: in evaluation mode.
        tokenizer: its subwords.
        config: its settings.
        src: source ids, EOS at the end.
        tgt: target ids from BOS to EOS.
    """
    device = next(model.parameters()).device
    src_ids, tgt_ids = (torch.tensor([ids], device=device) for ids in (src, tgt))
    steps = model.attention_steps(src_ids, tgt_ids[:, :-1])
    logits = model.logits(steps.x)[0].float()  # (T, V)
    logits[:, NEVER_WRITTEN] = -torch.inf
    probabilities = logits.softmax(dim=-1).cpu()
    (text,) = tokenizer.decode_tgt([tgt])
    pieces = tokenizer.tgt_pieces
    best = probabilities.topk(min(N_CANDIDATES, probabilities.shape[1]))
    chosen = probabilities[torch.arange(len(tgt) - 1), tgt[1:]]
    return Observation(
        Sentence(tokenizer.decode_src(src), tokenizer.src_pieces(src), tokenizer.src_words(src)),
        Sentence(text, pieces(tgt), tokenizer.tgt_words(tgt)),
        _attended(config.model.encoder_attention, model.encoder, "self_attention", steps.encoder),
        _attended(config.model.decoder_attention, model.decoder, "self_attention", steps.decoder),
        _attended(config.model.cross_attention, model.decoder, "cross_attention", steps.cross),
        _candidates(pieces(tgt[1:]), chosen),
        [
            _candidates(pieces(ids), of_ids)
            for ids, of_ids in zip(best.indices.tolist(), best.values, strict=True)
        ],
    )


def _candidates(tokens: list[str], probabilities: Tensor) -> list[Candidate]:
    return [Candidate(t, p) for t, p in zip(tokens, probabilities.tolist(), strict=True)]


def _attended(
    config: AttentionConfig, stack: nn.ModuleList, name: str, layers: list[Steps]
) -> Attended | None:
    if not layers:
        return None
    compares = config.kind != "average" and "no content" not in SCORES[config.score].traits
    attentions = [getattr(layer, name).attention for layer in stack]
    lengths = [
        attention.through_output(steps.values).norm(dim=-1)
        for attention, steps in zip(attentions, layers, strict=True)
    ]

    def named(tensors: list[Tensor], *axes: str) -> NamedArray:
        values = torch.cat(tensors).float().cpu().numpy()  # the batch of one becomes the layer
        return NamedArray(("layer", *axes), values)

    queries = named([x.queries for x in layers], "comparison", "query", "dimension")
    keys = named([x.keys for x in layers], "comparison", "key", "dimension")
    return Attended(
        config,
        queries if compares else None,
        keys if compares else None,
        named([x.scores for x in layers], "comparison", "query", "key"),
        named([x.weights for x in layers], "head", "query", "key"),
        named([x.values for x in layers], "head", "key", "dimension"),
        named(lengths, "head", "key"),
    )
