"""Decoding against plain decoders without a cache, and against exhaustive search."""

import math
import zlib
from dataclasses import replace
from functools import partial
from typing import NamedTuple, cast

import pytest
import torch
from conftest import SMALL, attention_variants, small_model, with_attention

from seq2seq.config import AttentionConfig, DecodingConfig, ModelConfig
from seq2seq.data.batches import pad
from seq2seq.data.tokenizer import BOS, EOS, PAD, UNK
from seq2seq.model.decoding import (
    SUPPRESSED_IDS,
    Hypothesis,
    beam_search,
    greedy,
    in_bfloat16,
    length_normalized,
    max_lengths,
    store_by_columns,
)
from seq2seq.model.ensemble import Ensemble
from seq2seq.model.transformer import DecoderCache, Seq2Seq
from seq2seq.model.weights import named_tensors

SOURCES = [[5, 6, 7, EOS], [8, EOS], [9, 10, 11, 12, 13, 14, EOS], [15, 16, EOS]]


def plain_greedy(
    model: Seq2Seq, ids: list[int], limit: int, prefix: tuple[int, ...] = (), n: int = 0
) -> list[int]:
    """One sentence at a time, the whole target read again for each token; no n-gram twice."""
    tgt = [BOS, *prefix]
    while len(tgt) <= limit + len(prefix):
        logits = model(torch.tensor([ids]), torch.tensor([tgt]))[0, -1]
        logits[SUPPRESSED_IDS] = -torch.inf
        if n:
            logits[[i for i in range(len(logits)) if has_twice([*tgt[1:], i], n)]] = -torch.inf
        token = int(logits.argmax())
        if token == EOS:
            break
        tgt.append(token)
    return tgt[1:]


def has_twice(ids: list[int], n: int) -> bool:
    """Whether the last n-gram is there before."""
    grams = list(zip(*(ids[i:] for i in range(n)), strict=False))
    return grams[-1:] != [] and grams[-1] in grams[:-1]


def eager_to_stop(seed: int, shape: ModelConfig = SMALL) -> Seq2Seq:
    """A random model of which some sentences end early and some at their limit."""
    model = small_model(shape, seed=seed).eval()
    with torch.no_grad():
        model.output.weight *= 3
        model.output.weight[EOS] *= 1.5
    return model


@pytest.mark.parametrize(
    ("prefix", "n"), [((), 0), ((10,), 0), ((), 1), ((), 3), ((10, 9, 10, 9), 2)]
)
@torch.no_grad()
def test_greedy_matches_uncached(prefix: tuple[int, ...], n: int) -> None:
    limits = max_lengths(pad(SOURCES), 1.5).tolist()
    assert limits == [4 * 3 // 2 + 10, 13, 20, 14]
    ended, config = set(), DecodingConfig(1, 0.0, 1.5, n)
    for model in map(eager_to_stop, range(6)):
        expected = [plain_greedy(model, *x, prefix, n) for x in zip(SOURCES, limits, strict=True)]
        hypotheses = greedy(model, pad(SOURCES), config, prefix)
        assert [hypothesis.ids for hypothesis in hypotheses] == expected
        assert greedy(model, pad(SOURCES * 10), config, prefix) == hypotheses * 10
        assert best(beam_search(model, pad(SOURCES), config, 1, prefix)) == hypotheses
        cut = [len(ids) == limit + len(prefix) for ids, limit in zip(expected, limits, strict=True)]
        assert [hypothesis.is_cut for hypothesis in hypotheses] == cut
        ended |= set(cut)
    assert n or ended == {True, False}  # sentences leave the batch early, or stay to their limit


def test_large_batches_have_few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    model, sizes = eager_to_stop(0), list[int]()
    decode = model.decode

    def recording(tgt: torch.Tensor, cache: DecoderCache) -> tuple[torch.Tensor, DecoderCache]:
        sizes.append(len(tgt))
        return decode(tgt, cache)

    monkeypatch.setattr(model, "decode", recording)
    greedy(model, pad(SOURCES * 20), DecodingConfig(max_length_ratio=1.5))
    assert sizes[0] == 80 > sizes[-1]
    assert all(size % 8 == 0 for size in sizes)
    sizes.clear()
    config = DecodingConfig(beam=3, max_length_ratio=1.5)
    beam_search(model, pad(SOURCES * 10), config)
    assert max(sizes[1:]) == 128 > sizes[-1]  # 120 live hypotheses at first
    assert all(size % 32 == 0 or size <= 32 for size in sizes[1:])
    monkeypatch.undo()
    for n in (0, 2):
        config = replace(config, no_repeat=n)
        found = beam_search(model, pad(SOURCES * 10), config)
        assert found == beam_search(model, pad(SOURCES), config) * 10


def best(found: list[list[Hypothesis]]) -> list[Hypothesis]:
    return [hypotheses[0] for hypotheses in found]


VARIANTS = attention_variants()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
@torch.no_grad()
def test_weights_as_decoding_reads_them(variant: AttentionConfig) -> None:
    model = small_model(with_attention(variant)).eval()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    assert named_tensors(model).keys() == before.keys()  # tables of positions are not stored
    src, tgt = pad(SOURCES), torch.tensor([[BOS, 9, 5, 30]] * 4)
    expected = model(src, tgt)
    copy = in_bfloat16(model)
    assert copy.output.weight.dtype == torch.bfloat16
    assert copy.tgt_embedding.weight is model.tgt_embedding.weight  # what all layers add to
    with torch.autocast("cpu", torch.bfloat16):
        near, by_autocast = copy(src, tgt).float(), model(src, tgt).float()
    assert not torch.equal(near, expected)
    assert (near - expected).norm() < 0.03 * expected.norm()
    assert (near - expected).norm() < 2 * (by_autocast - expected).norm()
    store_by_columns(model)
    assert model.output.weight is model.tgt_embedding.weight
    assert model.output.weight.stride() == (1, 40)
    torch.testing.assert_close(model(src, tgt), expected)
    assert all(torch.equal(before[name], parameter) for name, parameter in model.named_parameters())


class History(NamedTuple):
    """The state of a ``HistoryModel``: all that was read."""

    src: torch.Tensor
    tgt: torch.Tensor

    @property
    def length(self) -> int:
        return self.tgt.shape[1]

    def select(self, rows: torch.Tensor) -> "History":
        return History(self.src[rows], self.tgt[rows])


class HistoryModel:
    """What decoding asks of a model, with a random answer to every history.

    A real model with random weights says much the same after any history, and would not show
    that a search continues the wrong hypothesis.
    """

    def __init__(self, seed: int, vocab_size: int = 9) -> None:
        self.seed, self.vocab_size = seed, vocab_size

    def answer(self, src: list[int], tgt: list[int]) -> torch.Tensor:
        words = [self.seed, *(token for token in src if token != PAD), -1, *tgt]
        generator = torch.Generator().manual_seed(zlib.crc32(repr(words).encode()))
        return 2 * torch.randn(self.vocab_size, generator=generator)

    def encode(self, src: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return src, src != PAD

    def start(self, memory: torch.Tensor, src_mask: torch.Tensor) -> History:
        return History(memory, memory[:, :0])

    def decode(self, tgt: torch.Tensor, state: History) -> tuple[torch.Tensor, History]:
        state = History(state.src, torch.cat([state.tgt, tgt], dim=1))
        rows = zip(state.src.tolist(), state.tgt.tolist(), strict=True)
        return torch.stack([self.answer(*row) for row in rows])[:, None], state

    def logits(self, x: torch.Tensor) -> torch.Tensor:
        return x


def log_probabilities(model: HistoryModel, src: list[int], tgt: list[int]) -> torch.Tensor:
    """Of every token that may follow BOS and ``tgt``."""
    logits = model.answer(src, [BOS, *tgt])
    logits[SUPPRESSED_IDS] = -torch.inf
    return logits.log_softmax(dim=-1)


def normalized(total: float, ids: list[int], alpha: float) -> float:
    """The score of ``ids`` if EOS comes next."""
    return total / ((5 + len(ids) + 1) / 6) ** alpha


def plain_beam_search(
    model: HistoryModel, src: list[int], beam: int, alpha: float, limit: int, stop: bool = True
) -> list[Hypothesis]:
    """Beam search as the books have it: one sentence, no cache, all continuations sorted."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    while live and len(live[0][1]) < limit:
        if stop and len(finished) >= beam and max(finished)[0] >= normalized(*live[0], alpha):
            break
        continuations = []
        for total, ids in live:
            steps = log_probabilities(model, src, ids).tolist()
            continuations += [(total + step, ids, token) for token, step in enumerate(steps)]
        continuations.sort(key=lambda c: -c[0])
        live = []
        for rank, (total, ids, token) in enumerate(continuations):
            if token != EOS:
                live.append((total, [*ids, token]))
            elif rank < beam:
                finished.append((normalized(total, ids, alpha), ids))
            if len(live) == beam:
                break
    best = [Hypothesis(ids, False) for _, ids in sorted(finished, reverse=True)]
    return best or [Hypothesis(max(live)[1], True)]


@pytest.mark.parametrize("alpha", [0.0, 1.0, 3.0])
@pytest.mark.parametrize("beam", [1, 2, 4, 7])
def test_beam_search_matches_textbook(beam: int, alpha: float) -> None:
    limits = max_lengths(pad(SOURCES), 0.5).tolist()
    for seed in range(5):
        model = HistoryModel(seed)
        config = DecodingConfig(beam, alpha, 0.5)
        search = partial(beam_search, cast(Seq2Seq, model), pad(SOURCES), config)
        hypotheses = best(search())
        # Without a length penalty, no better hypothesis is missed by not searching on.
        for stop in (True, False) if alpha == 0 else (True,):
            plain = [
                plain_beam_search(model, ids, beam, alpha, limit, stop)
                for ids, limit in zip(SOURCES, limits, strict=True)
            ]
            assert hypotheses == best(plain)
            if stop:
                assert search(n_best=beam) == [found[:beam] for found in plain]
        if (beam, alpha) == (1, 0):
            assert hypotheses == greedy(cast(Seq2Seq, model), pad(SOURCES), config)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("prefix", [(), (5, 4, 4)])
def test_wide_beam_is_exhaustive_search(alpha: float, prefix: tuple[int, ...]) -> None:
    a, b = UNK + 1, UNK + 2  # the only words
    for seed in range(3):
        model = HistoryModel(seed, vocab_size=b + 1)
        scores: dict[tuple[int, ...], float] = {}
        steps = [log_probabilities(model, [EOS], list(prefix[:i])) for i in range(len(prefix))]
        totals = {prefix: sum(x[i].item() for x, i in zip(steps, prefix, strict=True))}
        for _ in range(10):  # the limit: at ratio 0
            longer: dict[tuple[int, ...], float] = {}
            for ids, total in totals.items():
                log_p = log_probabilities(model, [EOS], list(ids)).tolist()
                scores[ids] = normalized(total + log_p[EOS], list(ids), alpha)
                longer |= {(*ids, word): total + log_p[word] for word in (a, b)}
            totals = longer
        ranked = sorted(scores, key=lambda ids: -scores[ids])
        config = DecodingConfig(600, alpha, 0.0)
        search = partial(beam_search, cast(Seq2Seq, model), pad([[EOS]]), config)
        assert search(9, prefix) == [[Hypothesis([*ids], False) for ids in ranked[:9]]]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_beam_search_repeats_no_ngram(n: int) -> None:
    repeating = 0
    for seed in range(5):
        model, src = HistoryModel(seed, vocab_size=8), pad(SOURCES)
        found = beam_search(cast(Seq2Seq, model), src, DecodingConfig(4, 3.0, 1.5, n), 4)
        for hypothesis in (hypothesis for hypotheses in found for hypothesis in hypotheses):
            ids = hypothesis.ids
            assert not any(has_twice(ids[:end], n) for end in range(len(ids) + 1))
        (free, *_), *_ = beam_search(cast(Seq2Seq, model), src, DecodingConfig(4, 3.0, 1.5), 4)
        repeating += any(has_twice(free.ids[:end], n) for end in range(len(free.ids) + 1))
    assert repeating > 0


def test_length_penalty_by_hand() -> None:
    assert length_normalized(-6.0, 7, 0.0) == -6.0
    assert length_normalized(-6.0, 7, 1.0) == -3.0
    assert length_normalized(-8.0, 19, 0.5) == -4.0
    assert math.isfinite(length_normalized(-1e6, 10**6, 10.0))  # the largest that is legal


def test_ensemble_is_the_mean_of_probabilities() -> None:
    """At every step, by cache or at once, of models of different shapes."""
    wide = replace(SMALL, d_model=48, decoder_layers=1, norm="post")
    one, other = eager_to_stop(1), small_model(wide, seed=2).eval()
    both, src = Ensemble([one, other]).eval(), pad(SOURCES)
    tgt = torch.tensor([[BOS, 9, 5, 30]] * 4)
    expected = (one(src, tgt).softmax(-1) + other(src, tgt).softmax(-1)) / 2
    torch.testing.assert_close(both(src, tgt).exp(), expected)
    cache = both.start(*both.encode(src)).select(torch.tensor([3, 1]))
    for step in range(4):
        x, cache = both.decode(tgt[:2, step : step + 1], cache)
        torch.testing.assert_close(both.logits(x)[:, 0].exp(), expected[[3, 1], step])
    same, copy = Ensemble([one, one]), in_bfloat16(both)
    config = DecodingConfig(4, 1.0, 1.5)
    assert greedy(same, src, config) == greedy(one, src, config) != greedy(both, src, config)
    assert beam_search(same, src, config) == beam_search(one, src, config)
    with torch.autocast("cpu", torch.bfloat16):
        near = copy(src, tgt).exp()
    assert not torch.equal(near, expected)
    assert (near - expected).norm() < 0.03 * expected.norm()
