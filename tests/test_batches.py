"""Batches: every pair once, within the limit, in reproducible order."""

from hypothesis import given
from hypothesis import strategies as st

from seq2seq.batches import make_batch, pad, plan_batches
from seq2seq.tokenizer import BOS, EOS, PAD

PAIRS = st.lists(st.tuples(st.integers(1, 30), st.integers(2, 30)), max_size=60)


def sentences(lengths: list[int]) -> list[list[int]]:
    return [[7] * n for n in lengths]


@given(lengths=PAIRS, limit=st.integers(20, 200), seed=st.integers(0, 9), shuffled=st.booleans())
def test_every_pair_is_in_one_batch_within_the_limit(
    lengths: list[tuple[int, int]], limit: int, seed: int, shuffled: bool
) -> None:
    src, tgt = sentences([s for s, _ in lengths]), sentences([t for _, t in lengths])
    plan = plan_batches(src, tgt, limit, (seed, 0) if shuffled else None)
    assert sorted(i for batch in plan for i in batch) == list(range(len(lengths)))
    for batch in plan:
        longest = max(max(lengths[i]) for i in batch)
        assert longest * len(batch) <= limit or len(batch) == 1


def test_order_depends_on_seed_and_epoch_alone() -> None:
    src = sentences([1 + i % 9 for i in range(300)])
    plans = [plan_batches(src, src, 40, key) for key in ((1, 0), (1, 0), (1, 1), (2, 0))]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0] != plans[3]
    # Not only the order of the batches changes, but who is with whom.
    assert {frozenset(b) for b in plans[0]} != {frozenset(b) for b in plans[2]}


def test_batches_hold_pairs_of_similar_length() -> None:
    src = sentences([1 + (i * 7) % 50 for i in range(1000)])
    plan = plan_batches(src, src, 500, (1, 0))
    padded = sum(max(len(src[i]) for i in batch) * len(batch) for batch in plan)
    assert padded < 1.05 * sum(len(ids) for ids in src)


def test_a_batch_by_hand() -> None:
    batch = make_batch([[5, EOS], [6, 7, EOS]], [[BOS, 8, EOS], [BOS, EOS]], [1, 0])
    assert batch.src.tolist() == [[6, 7, EOS], [5, EOS, PAD]]
    assert batch.tgt_in.tolist() == [[BOS, EOS], [BOS, 8]]
    assert batch.labels.tolist() == [[EOS, PAD], [8, EOS]]
    assert batch.n_labels == 3
    assert pad([[1], [1, 2]]).tolist() == [[1, PAD], [1, 2]]
