"""Decoding: from source ids to target ids, greedily or by beam search.

Both ask of a model only ``encode``, ``start``, ``decode`` and ``logits``; both return, for each
source sentence, the ids between BOS and EOS.
"""

import math
from copy import deepcopy
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from seq2seq.model import DecoderState, Seq2Seq
from seq2seq.tokenizer import BOS, EOS, PAD, UNK

NEVER_WRITTEN = [PAD, BOS, UNK]
SHRINK_AT = 0.8  # the share of a batch still going on at which the rest leaves it


def stored_for_decoding(model: Seq2Seq, bfloat16: bool) -> Seq2Seq:
    """A copy of ``model`` whose weights lie in memory as decoding reads them fastest.

    A step reads every matrix for a few tokens, so it takes as long as reading takes: in bfloat16
    that is half as many bytes; in float32, matrices of more rows than columns are read up to three
    times as fast if they are stored column by column (their products are the same).

    Args:
        model: stays as it is.
        bfloat16: for use under autocast: what autocast would convert at each step is converted.
    """
    stored = deepcopy(model)
    for module in stored.modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight.detach()  # made anew: an embedding may share it
        if bfloat16:
            module.weight = nn.Parameter(weight.to(torch.bfloat16))
        elif module.out_features > module.in_features:
            module.weight = nn.Parameter(weight.T.contiguous().T)
    return stored.eval()


def output_limits(src: Tensor, max_ratio: float) -> Tensor:
    """(B,) the most tokens that may be written for each sentence, an EOS counted."""
    return ((src != PAD).sum(dim=1) * max_ratio).long() + 10


def next_logits(model: Seq2Seq, tokens: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
    """Scores (B, V) of the token after ``tokens`` (B,), and the state after those."""
    x, state = model.decode(tokens[:, None], state)
    logits = model.logits(x[:, -1]).float()
    logits[:, NEVER_WRITTEN] = -math.inf
    return logits, state


@torch.inference_mode()
def greedy(model: Seq2Seq, src: Tensor, max_ratio: float) -> list[list[int]]:
    """The likeliest token at each step, for all sentences at once.

    Finished sentences leave the batch, so that the last few do not pay for the rest; not each at
    once, because that copies what the others attend to.

    Args:
        model: in evaluation mode.
        src: (B, S) source ids, padded.
        max_ratio: see ``DecodingConfig``.

    Returns:
        the ids of each translation.
    """
    limits = output_limits(src, max_ratio)
    written = torch.full((len(src), int(limits.max())), EOS, device=src.device)
    rows = torch.arange(len(src), device=src.device)  # sentences still in the batch
    tokens, going_on = torch.full_like(rows, BOS), torch.ones_like(rows, dtype=torch.bool)
    state = model.start(*model.encode(src))
    while n_going_on := int(going_on.sum()):
        if n_going_on <= SHRINK_AT * len(rows):
            rows, tokens, state = rows[going_on], tokens[going_on], state.select(going_on)
            going_on = going_on[going_on]
        logits, state = next_logits(model, tokens, state)
        tokens = logits.argmax(dim=-1)  # (B,)
        written[rows, state.length - 1] = tokens
        going_on &= (tokens != EOS) & (state.length < limits[rows])
    return [
        until_eos(ids[:limit]) for ids, limit in zip(written.tolist(), limits.tolist(), strict=True)
    ]


def until_eos(ids: list[int]) -> list[int]:
    """``ids`` up to the first EOS."""
    return ids[: ids.index(EOS)] if EOS in ids else ids


def normalized(log_probability: float, length: int, length_penalty: float) -> float:
    """A hypothesis's score: log P(y | x) / ((5 + |y|) / 6)^α (Wu et al. 2016, equation 14)."""
    return log_probability / ((5 + length) / 6) ** length_penalty


@dataclass
class Search:
    """The beam search of one sentence: hypotheses that may go on, and finished ones."""

    beam: int
    limit: int
    length_penalty: float
    live: list[tuple[float, list[int]]] = field(default_factory=lambda: [(0.0, [])])
    finished: list[tuple[float, list[int]]] = field(default_factory=list)

    def advance(self, candidates: list[tuple[float, int, int]]) -> list[int]:
        """One token further.

        Args:
            candidates: (log-probability, index in ``live``, token), best first.

        Returns:
            for each hypothesis now live, the index of the one it continues.
        """
        before, self.live, parents = self.live, [], []
        for rank, (log_probability, parent, token) in enumerate(candidates):
            if log_probability == -math.inf or len(self.live) == self.beam:
                break
            ids = before[parent][1]
            if token != EOS:
                self.live.append((log_probability, [*ids, token]))
                parents.append(parent)
            elif rank < self.beam:
                self._finish(log_probability, ids, len(ids) + 1)
        return parents

    def _finish(self, log_probability: float, ids: list[int], length: int) -> None:
        self.finished.append((normalized(log_probability, length, self.length_penalty), ids))

    @property
    def done(self) -> bool:
        """Whether no live hypothesis is to be followed any further."""
        if not self.live or len(self.finished) >= self.beam:
            return True
        return len(self.live[0][1]) >= self.limit

    def best(self) -> list[int]:
        """The ids of the best finished hypothesis; where none finished, of the best live one."""
        if self.finished:
            return max(self.finished)[1]
        return max(self.live)[1]


@torch.inference_mode()
def beam_search(
    model: Seq2Seq, src: Tensor, beam: int, length_penalty: float, max_ratio: float
) -> list[list[int]]:
    """The likeliest whole translations among ``beam`` kept at each step.

    Args:
        model: in evaluation mode.
        src: (B, S) source ids, padded.
        beam: hypotheses kept a sentence; with 1 this is ``greedy``.
        length_penalty: α of ``normalized``; 0 favours short translations.
        max_ratio: see ``DecodingConfig``.

    Returns:
        the ids of each translation.
    """
    limits = output_limits(src, max_ratio).tolist()
    searches = [Search(beam, limit, length_penalty) for limit in limits]
    active = searches
    state = model.start(*model.encode(src))
    tokens = torch.full((len(src),), BOS, device=src.device)
    while active:
        logits, state = next_logits(model, tokens, state)  # a row a live hypothesis
        candidates = _candidates(logits.log_softmax(dim=-1), active)
        rows: list[int] = []
        first = 0
        for search, choices in zip(active, candidates, strict=True):
            n_before = len(search.live)
            parents = search.advance(choices)
            rows += [] if search.done else [first + parent for parent in parents]
            first += n_before
        active = [search for search in active if not search.done]
        state = state.select(torch.tensor(rows, dtype=torch.long, device=src.device))
        last = [ids[-1] for search in active for _, ids in search.live]
        tokens = torch.tensor(last, dtype=torch.long, device=src.device)
    return [search.best() for search in searches]


def _candidates(
    log_probabilities: Tensor, active: list[Search]
) -> list[list[tuple[float, int, int]]]:
    """The best continuations of each search, twice as many as its beam: half may be EOS.

    Args:
        log_probabilities: (rows, V) of each live hypothesis's next token.
        active: the searches that these rows belong to, in order.
    """
    beam = active[0].beam
    k = min(2 * beam, log_probabilities.shape[1])
    best = log_probabilities.topk(k)  # no hypothesis can contribute more than k
    values, tokens = best.values.tolist(), best.indices.tolist()
    found, row = [], 0
    for search in active:
        choices = []
        for parent, (total, _) in enumerate(search.live):
            choices += [
                (total + v, parent, t) for v, t in zip(values[row], tokens[row], strict=True)
            ]
            row += 1
        found.append(sorted(choices, key=lambda choice: -choice[0])[: 2 * beam])
    return found
