"""What one translation attended to: the five steps of every attention, as arrays with named axes.

The decoder works in steps: the input of step t is target token t, counted from BOS, and it predicts
token t + 1, up to EOS. So the queries of the decoder and of the cross-attention are its steps.
"""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from seq2seq.attention import SCORES, Attention, AttentionTrace, MultiHeadAttention
from seq2seq.config import AttentionConfig
from seq2seq.data.tokenizer import BOS, EOS, Subwords
from seq2seq.evaluation.tracing import attentions, trace_attentions
from seq2seq.model.decoding import SUPPRESSED_IDS
from seq2seq.translator import CutReport, Translator
from seq2seq.utils import UserError

N_TOP_TOKENS = 8
Array = npt.NDArray[np.float32]


class NamedArray(NamedTuple):
    """Numbers, and what their axes count."""

    axes: tuple[str, ...]
    values: Array


@dataclass(frozen=True)
class Sentence:
    """One side: its text, its subwords, and the number of each one's word (-1: a special token)."""

    text: str
    tokens: list[str]
    words: list[int]


@dataclass(frozen=True)
class AttentionRecord:
    """One of the three attentions in all layers; a comparison is a head, or half of a split one."""

    config: AttentionConfig
    # 1. project; no queries and keys where the score looks at positions alone.
    queries: NamedArray | None  # layer, comparison, query, dimension
    keys: NamedArray | None  # layer, comparison, key, dimension
    values: NamedArray  # layer, head, key, dimension
    scores: NamedArray  # 2. score, 3. mask: layer, comparison, query, key; -inf where masked
    weights: NamedArray  # 4. normalize: layer, head, query, key
    value_norms: NamedArray  # 5. aggregate: layer, head, key; of what a value adds at weight 1

    @property
    def contributions(self) -> NamedArray:
        """How much each key adds to the output of each query: |weight| times the value's norm.

        Weights alone mislead, because values differ in norm: Kobayashi et al. 2020,
        arXiv:2004.10102. What a modifier does to the sum afterwards is not included.
        """
        by_key = self.value_norms.values[:, :, None, :]
        return NamedArray(self.weights.axes, np.abs(self.weights.values) * by_key)


class TopToken(NamedTuple):
    """A token and its probability of being the next one."""

    token: str
    probability: float


@dataclass(frozen=True)
class TranslationTrace:
    """A sentence, its translation, and its attentions; one of type ``none`` is None."""

    src: Sentence
    tgt: Sentence  # from BOS to EOS
    encoder: AttentionRecord | None  # queries and keys are source tokens
    decoder: AttentionRecord | None  # queries are steps, keys their inputs so far
    cross: AttentionRecord | None  # queries are steps, keys source tokens
    chosen: list[TopToken]  # what each step predicted
    top_tokens: list[list[TopToken]]  # the most probable ones at each step, best first

    def to_json(self) -> dict[str, Any]:
        """The same as plain lists, with ``null`` for -inf."""
        return {name: _plain(value) for name, value in vars(self).items()}


def _plain(value: Any) -> Any:
    match value:
        case NamedArray(axes, values):
            rounded = [None if x == -np.inf else float(f"{x:.6g}") for x in values.ravel().tolist()]
            nested = np.array(rounded, dtype=object).reshape(values.shape).tolist()
            return {"axes": list(axes), "values": nested}
        case AttentionRecord():
            return {x: _plain(getattr(value, x)) for x in (*vars(value), "contributions")}
        case TopToken():
            return value._asdict()
        case AttentionConfig() | Sentence():
            return asdict(value)
        case list():
            return [_plain(item) for item in value]
    return value


def trace(translator: Translator, sentence: str) -> TranslationTrace:
    """Translate ``sentence`` and record every attention; warns if it is cut or its translation."""
    ((translation,),) = translator.search([sentence], split=False)
    if not translation.parts:
        raise UserError("the sentence is blank: there is nothing to translate")
    CutReport([translation]).warn()
    part = translation.parts[0]
    return trace_pair(translator, part.src_ids, [BOS, *part.hypothesis.ids, EOS])


@torch.inference_mode()
def trace_pair(
    translator: Translator, src: list[int], tgt: list[int], temperature: float = 1.0
) -> TranslationTrace:
    """Record every attention for source ids, EOS at the end, and target ids from BOS to EOS."""
    model, tokenizer, shape = translator.model, translator.tokenizer, translator.config.model
    device, found = next(model.parameters()).device, attentions(model)
    ids = torch.tensor([src]).to(device), torch.tensor([tgt[:-1]]).to(device)
    traces, x = trace_attentions(model, *ids)
    logits = model.logits(x)[0].float().cpu() / temperature  # (T, V)
    logits[:, SUPPRESSED_IDS] = -torch.inf
    probabilities = logits.softmax(dim=-1)
    top = probabilities.topk(min(N_TOP_TOKENS, probabilities.shape[1]))

    def sentence(subwords: Subwords, ids: list[int]) -> Sentence:
        return Sentence(subwords.decode(ids), subwords.pieces(ids), subwords.words(ids))

    def tokens(ids: list[int], of_ids: Tensor) -> list[TopToken]:
        return list(map(TopToken, tokenizer.tgt.pieces(ids), of_ids.tolist()))

    return TranslationTrace(
        sentence(tokenizer.src, src),
        sentence(tokenizer.tgt, tgt),
        _record(shape.encoder_attention, found["encoder"], traces["encoder"]),
        _record(shape.decoder_attention, found["decoder"], traces["decoder"]),
        _record(shape.cross_attention, found["cross"], traces["cross"]),
        tokens(tgt[1:], probabilities[torch.arange(len(tgt) - 1), tgt[1:]]),
        [tokens(ids, p) for ids, p in zip(top.indices.tolist(), top.values, strict=True)],
    )


def _record(
    config: AttentionConfig, modules: list[Attention], traces: list[AttentionTrace]
) -> AttentionRecord | None:
    if not traces:
        return None

    def stacked(axes: str, tensors: tuple[Tensor, ...]) -> NamedArray:
        values = torch.cat(tensors).float().cpu().numpy()  # the batch of one becomes the layer
        return NamedArray(("layer", *axes.split()), values)

    query, key, scores, weights, value = zip(*traces, strict=True)
    norms = [project_values(a, v).norm(dim=-1) for a, v in zip(modules, value, strict=True)]
    content_based = SCORES[config.score].content_based and query[0].shape[-1] > 0
    return AttentionRecord(
        config,
        stacked("comparison query dimension", query) if content_based else None,
        stacked("comparison key dimension", key) if content_based else None,
        stacked("head key dimension", value),
        stacked("comparison query key", scores),
        stacked("head query key", weights),
        stacked("head key", tuple(norms)),
    )


def project_values(attention: Attention, value: Tensor) -> Tensor:
    """What each value (B, H, S, K) adds to the context where its weight is 1: (B, H, S, D).

    Where the context is not a sum over values (``average``, ``ssru``): the values as they are.
    """
    if not isinstance(attention, MultiHeadAttention):
        return value
    by_head = attention.output_proj.weight.unflatten(1, (attention.n_heads, -1))  # (D, H, K)
    return torch.einsum("bhsk,dhk->bhsd", value, by_head)
