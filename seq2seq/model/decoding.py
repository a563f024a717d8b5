"""Decoding: from source ids to target ids, greedily or by beam search.

Both take a model in evaluation mode, or what stands in for it, padded source ids (B, S), and the
ids that every target has to begin with, ``prefix``.
"""

import math
from collections.abc import Sequence
from copy import deepcopy
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from seq2seq.config import DecodingConfig
from seq2seq.data.tokenizer import BOS, EOS, PAD, UNK
from seq2seq.model.transformer import Seq2Seq

SUPPRESSED_IDS = [PAD, BOS, UNK]  # never generated
SHRINK_AT = 0.8  # share of a batch that is left when finished sentences are removed
# oneDNN keeps a kernel per shape (cpu.py): as sentences end, few numbers of rows are left.
MANY_ROWS = 32  # where that matters; of so many, a beam search has a multiple
FEW_SHAPES = 8  # greedily, a multiple of so many


class Decoder(Protocol):
    """What a search uses of a model; a cache has a ``length`` and can ``select`` rows."""

    def encode(self, src: Tensor, /) -> tuple[Tensor, Tensor]: ...
    def start(self, memory: Tensor, src_mask: Tensor, /) -> Any: ...
    def decode(self, tgt: Tensor, cache: Any, /) -> tuple[Tensor, Any]: ...
    def logits(self, x: Tensor, /) -> Tensor: ...


def sharing_copy(model: Seq2Seq) -> Seq2Seq:
    """A copy with the same weights, not equal ones: whoever else uses the model sees no change."""
    return deepcopy(model, {id(t): t for t in (*model.parameters(), *model.buffers())})


def in_bfloat16(model: Seq2Seq) -> Seq2Seq:
    """A copy for decoding under autocast, which would convert the matrices at every step.

    A step takes as long as reading every matrix, so half the bytes take half the time.
    """
    copy = sharing_copy(model)
    for module in copy.modules():
        if isinstance(module, nn.Linear):  # not an embedding, though it may share the weights
            module.weight = nn.Parameter(module.weight.detach().to(torch.bfloat16))
    return copy


def store_by_columns(model: Seq2Seq) -> None:
    """Store matrices by columns: the same numbers and products.

    For one sentence in float32 they are read up to twice as fast, for batches no slower.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.T.contiguous().T


class Hypothesis(NamedTuple):
    """A translation that a search found."""

    ids: list[int]  # between BOS and EOS
    is_cut: bool  # EOS did not come before the limit


def max_lengths(src: Tensor, ratio: float) -> Tensor:
    """(B,) the most tokens generated for each sentence, EOS included."""
    return ((src != PAD).sum(dim=1) * ratio).long() + 10


def constrain(scores: Tensor, ids: list[list[int]], prefix: Sequence[int], n: int) -> None:
    """Set to -inf the scores (B, V) of tokens that may not follow ``ids``, all of the same length.

    Only the next of ``prefix`` may; after it none that repeats an n-gram (Paulus et al. 2018).
    """
    if (step := len(ids[0])) < len(prefix):
        forced = scores[:, prefix[step]].clone()
        scores.fill_(-math.inf)[:, prefix[step]] = forced
    elif n:
        for row, so_far in zip(scores, ids, strict=True):
            last, starts = so_far[step - n + 1 :], range(step - n + 1)
            row[[so_far[i + n - 1] for i in starts if so_far[i : i + n - 1] == last]] = -math.inf


def next_logits(model: Decoder, tokens: Tensor, cache: Any) -> tuple[Tensor, Any]:
    """Logits (B, V) of the token after ``tokens`` (B,), and the cache with ``tokens`` added."""
    x, cache = model.decode(tokens[:, None], cache)
    logits = model.logits(x[:, -1]).float()
    logits[:, SUPPRESSED_IDS] = -math.inf
    return logits, cache


@torch.inference_mode()
def greedy(
    model: Decoder, src: Tensor, config: DecodingConfig, prefix: Sequence[int] = ()
) -> list[Hypothesis]:
    """The most likely token at each step, for all sentences of a batch at once."""
    limits = max_lengths(src, config.max_length_ratio) + len(prefix)
    output = torch.full((len(src), int(limits.max())), EOS, device=src.device)
    rows = torch.arange(len(src), device=src.device)  # the sentences still in the batch
    tokens, unfinished = torch.full_like(rows, BOS), torch.ones_like(rows, dtype=torch.bool)
    cache, multiple = model.start(*model.encode(src)), FEW_SHAPES if len(src) > MANY_ROWS else 1
    while n_unfinished := int(unfinished.sum()):
        # The last few sentences should not pay for the rest. Removing finished ones copies the
        # cache of the others, so it waits until there are several.
        n_kept = math.ceil(n_unfinished / multiple) * multiple
        if n_kept <= SHRINK_AT * len(rows):
            kept = unfinished.argsort(descending=True, stable=True)[:n_kept]
            rows, tokens, unfinished = rows[kept], tokens[kept], unfinished[kept]
            cache = cache.select(kept)
        logits, cache = next_logits(model, tokens, cache)
        if prefix or config.no_repeat:
            ids = output[rows, : cache.length - 1].tolist()
            constrain(logits, ids, prefix, config.no_repeat)
        tokens = logits.argmax(dim=-1)  # (B,)
        output[rows, cache.length - 1] = tokens
        unfinished &= (tokens != EOS) & (cache.length < limits[rows])
    generated = [ids[:n] for ids, n in zip(output.tolist(), limits.tolist(), strict=True)]
    return [
        Hypothesis(ids[: ids.index(EOS)], False) if EOS in ids else Hypothesis(ids, True)
        for ids in generated
    ]


def length_normalized(log_probability: float, length: int, length_penalty: float) -> float:
    """log P(y | x) / ((5 + |y|) / 6)^α (Wu et al. 2016, equation 14); α = 0 favors short ones."""
    return log_probability / ((5 + length) / 6) ** length_penalty


class BeamState:
    """The beam search of one sentence: (log-probability, ids) live, (score, ids) finished."""

    def __init__(self, beam: int, limit: int, length_penalty: float) -> None:
        self.beam, self.limit, self.length_penalty = beam, limit, length_penalty
        self.live: list[tuple[float, list[int]]] = [(0.0, [])]
        self.finished: list[tuple[float, list[int]]] = []

    def candidates(
        self, log_p: list[list[float]], tokens: list[list[int]]
    ) -> list[tuple[float, int, int]]:
        """(log-probability, index of the live hypothesis, next token), the most probable first."""
        extended = [
            (total + value, parent, token)
            for parent, (total, _) in enumerate(self.live)
            for value, token in zip(log_p[parent], tokens[parent], strict=True)
            if value != -math.inf  # of a suppressed id, or not of the prefix
        ]
        return sorted(extended, key=lambda candidate: -candidate[0])

    def advance(self, log_p: list[list[float]], tokens: list[list[int]]) -> list[int]:
        """Extend the live hypotheses by one token; returns the index that each of them had before.

        ``log_p`` and ``tokens``: for each live hypothesis its best next tokens, the best first.
        """
        before, parents = self.live, list[int]()
        candidates = self.candidates(log_p, tokens)
        self.live = []
        for rank, (total, parent, token) in enumerate(candidates):
            ids = before[parent][1]
            if token != EOS:
                self.live.append((total, [*ids, token]))
                parents.append(parent)
            elif rank < self.beam:
                score = length_normalized(total, len(ids) + 1, self.length_penalty)
                self.finished.append((score, ids))
            if len(self.live) == self.beam:
                break
        return parents

    @property
    def done(self) -> bool:
        """Whether ``beam`` have finished and the best live one, ended now, would be no better."""
        if not self.live:  # every token but EOS was a repetition
            return True
        log_probability, ids = self.live[0]
        if len(ids) >= self.limit:
            return True
        ended = length_normalized(log_probability, len(ids) + 1, self.length_penalty)
        return len(self.finished) >= self.beam and ended <= max(self.finished)[0]

    def best(self, n: int) -> list[Hypothesis]:
        """The n best that have finished, or the best live one where the limit came first."""
        finished = sorted(self.finished, reverse=True)[:n]
        best = [Hypothesis(ids, False) for _, ids in finished]
        return best or [Hypothesis(max(self.live)[1], True)]


def beam_search(
    model: Decoder,
    src: Tensor,
    config: DecodingConfig,
    n_best: int = 1,
    prefix: Sequence[int] = (),
) -> list[list[Hypothesis]]:
    """Up to ``n_best`` hypotheses, best ``length_normalized`` first, by a beam of live ones."""
    limits = (max_lengths(src, config.max_length_ratio) + len(prefix)).tolist()
    states = [BeamState(config.beam, limit, config.length_penalty) for limit in limits]
    advance_all(model, src, states, config, prefix)
    return [state.best(n_best) for state in states]


@torch.inference_mode()
def advance_all(
    model: Decoder,
    src: Tensor,
    states: list[BeamState],
    config: DecodingConfig,
    prefix: Sequence[int] = (),
) -> None:
    """Let the search of each sentence advance until it is done."""
    active = states
    tokens, cache = torch.full_like(src[:, 0], BOS), model.start(*model.encode(src))
    while active:
        logits, cache = next_logits(model, tokens, cache)
        live = [ids for state in active for _, ids in state.live]
        scores = logits[: len(live)].log_softmax(dim=-1)  # the other rows only fill up the batch
        constrain(scores, live, prefix, config.no_repeat)
        # Twice the beam: half of the best candidates may be EOS. No hypothesis can give more.
        best = scores.topk(min(2 * config.beam, scores.shape[1]))
        log_p, candidates = best.values.tolist(), best.indices.tolist()
        rows, end = list[int](), 0
        for state in active:
            start, end = end, end + len(state.live)
            parents = state.advance(log_p[start:end], candidates[start:end])
            if not state.done:
                rows += [start + parent for parent in parents]
        active = [state for state in active if not state.done]
        last = [ids[-1] for state in active for _, ids in state.live]
        n_more = -len(rows) % MANY_ROWS if len(rows) > MANY_ROWS else 0
        rows, last = rows + rows[:1] * n_more, last + last[:1] * n_more
        cache = cache.select(torch.tensor(rows, dtype=torch.long, device=src.device))
        tokens = torch.tensor(last, dtype=torch.long, device=src.device)
