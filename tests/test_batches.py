"""Batches: every pair once, within the limit, in reproducible order; ids in little memory."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import seq2seq.batches
from seq2seq.batches import EncodedSentences, Numbers, make_batch, pad, plan_batches
from seq2seq.tokenizer import BOS, EOS, PAD

PAIRS = st.lists(st.tuples(st.integers(1, 30), st.integers(2, 30)), max_size=60)


def numbers(values: list[int]) -> Numbers:
    return np.array(values, dtype=np.int32)


def plain_plan(
    lengths: list[tuple[int, int]], limit: int, shuffle: tuple[int, int] | None
) -> list[list[int]]:
    """The plan that runs of all versions follow, pair by pair."""
    order = list(range(len(lengths)))
    generator = np.random.default_rng(shuffle) if shuffle else None
    if generator:
        order = generator.permutation(len(lengths)).tolist()
    order.sort(key=lambda i: lengths[i][::-1])
    batches: list[list[int]] = []
    for i in order:
        together = [*(batches[-1] if batches else []), i]
        longest = max(max(lengths[j]) for j in together)
        if batches and len(together) * longest <= limit:
            batches[-1].append(i)
        else:
            batches.append([i])
    if generator:
        batches = [batches[i] for i in generator.permutation(len(batches))]
    return batches


@given(lengths=PAIRS, limit=st.integers(1, 200), seed=st.integers(0, 9), shuffled=st.booleans())
def test_the_plan_is_the_plain_one(
    lengths: list[tuple[int, int]], limit: int, seed: int, shuffled: bool
) -> None:
    src, tgt = numbers([s for s, _ in lengths]), numbers([t for _, t in lengths])
    shuffle = (seed, 3) if shuffled else None
    plan = [batch.tolist() for batch in plan_batches(src, tgt, limit, shuffle)]
    assert plan == plain_plan(lengths, limit, shuffle)


@given(lengths=PAIRS, limit=st.integers(20, 200), seed=st.integers(0, 9), shuffled=st.booleans())
def test_every_pair_is_in_one_batch_within_the_limit(
    lengths: list[tuple[int, int]], limit: int, seed: int, shuffled: bool
) -> None:
    src, tgt = numbers([s for s, _ in lengths]), numbers([t for _, t in lengths])
    plan = plan_batches(src, tgt, limit, (seed, 0) if shuffled else None)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        longest = max(max(lengths[i]) for i in batch)
        assert longest * len(batch) <= limit or len(batch) == 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    src = numbers([1 + i % 9 for i in range(300)])
    plans = [
        [batch.tolist() for batch in plan_batches(src, src, 40, key)]
        for key in ((1, 0), (1, 0), (1, 1), (2, 0))
    ]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]
    # Not only the order of the batches changes, but who is with whom.
    assert {frozenset(b) for b in plans[0]} != {frozenset(b) for b in plans[2]}


@given(lengths=PAIRS, limit=st.integers(20, 200), shuffle=st.tuples(*2 * [st.integers(0, 9)]))
def test_every_epoch_has_batches_of_the_same_shapes(
    lengths: list[tuple[int, int]], limit: int, shuffle: tuple[int, int]
) -> None:
    """So that what is made for a shape, and kept, serves every epoch."""
    src, tgt = numbers([s for s, _ in lengths]), numbers([t for _, t in lengths])
    epochs = [plan_batches(src, tgt, limit, (shuffle[0], shuffle[1] + i)) for i in range(2)]
    shapes = [sorted((len(b), src[b].max(), *tgt[b]) for b in plan) for plan in epochs]
    assert shapes[0] == shapes[1]


def test_batches_hold_pairs_of_similar_length() -> None:
    src = numbers([1 + (i * 7) % 50 for i in range(1000)])
    plan = plan_batches(src, src, 500, (1, 0))
    padded = sum(src[batch].max() * len(batch) for batch in plan)
    assert padded < 1.05 * src.sum()


def test_a_batch_by_hand() -> None:
    batch = make_batch([[5, EOS], [6, 7, EOS]], [[BOS, 8, EOS], [BOS, EOS]], [1, 0])
    assert batch.src.tolist() == [[6, 7, EOS], [5, EOS, PAD]]
    assert batch.tgt_in.tolist() == [[BOS, EOS], [BOS, 8]]
    assert batch.labels.tolist() == [[EOS, PAD], [8, EOS]]
    assert batch.n_labels == 3
    assert pad([[1], [1, 2]]).tolist() == [[1, PAD], [1, 2]]


@given(
    sentences=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=5), max_size=30),
    block=st.integers(1, 7),
)
def test_encoded_sentences_are_a_list_of_lists(sentences: list[list[int]], block: int) -> None:
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(seq2seq.batches, "A_BLOCK", block)
        encoded = EncodedSentences(2**16)
        for ids in sentences:
            encoded.append(ids)
        assert len(encoded) == len(sentences)
        assert [list(encoded[i]) for i in range(len(encoded))] == sentences
        assert encoded.lengths.tolist() == [len(ids) for ids in sentences]
        assert encoded.lengths.dtype == np.int32


def test_encoded_sentences_of_a_large_vocabulary() -> None:
    encoded = EncodedSentences(2**16 + 1)
    encoded.append([2**16])
    assert list(encoded[0]) == [2**16]
    with pytest.raises(OverflowError):
        EncodedSentences(2**16).append([2**16])
