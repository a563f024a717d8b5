"""Batches: every pair once, within the limit, in reproducible order; ids in little memory."""

import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from conftest import write_corpus
from hypothesis import given
from hypothesis import strategies as st

import seq2seq.data.tokenizer
from seq2seq.config import Config, DataConfig, TokenizerConfig
from seq2seq.data.batches import EncodedSentences, TrainingData, make_batch, make_token_batches, pad
from seq2seq.data.corpus import load_split
from seq2seq.data.prepare import prepare
from seq2seq.data.tokenizer import BOS, EOS, PAD, Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, write_lines

Lengths = list[tuple[int, int]]
PAIRS = st.lists(st.tuples(st.integers(1, 30), st.integers(2, 30)), max_size=60)
Shuffle = tuple[int, int] | None
SHUFFLE = st.tuples(st.integers(0, 9), st.integers(0, 9)) | st.none()


def make(pairs: Lengths, max_tokens: int, shuffle: Shuffle) -> list[list[int]]:
    src, tgt = ([[0] * pair[side] for pair in pairs] for side in (0, 1))
    return [batch.tolist() for batch in make_token_batches(src, tgt, max_tokens, shuffle)]


def make_plainly(pairs: Lengths, max_tokens: int, shuffle: Shuffle) -> list[list[int]]:
    """The batches of all versions, pair by pair."""
    order = list(range(len(pairs)))
    rng = np.random.default_rng(shuffle) if shuffle else None
    if rng:
        order = rng.permutation(len(pairs)).tolist()
    order.sort(key=lambda i: pairs[i][::-1])
    batches: list[list[int]] = []
    for i in order:
        together = [*(batches[-1] if batches else []), i]
        longest = max(max(pairs[j]) for j in together)
        if batches and len(together) * longest <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return [batches[i] for i in rng.permutation(len(batches))] if rng else batches


@given(pairs=PAIRS, max_tokens=st.integers(1, 200), shuffle=SHUFFLE)
def test_token_batches_match_plain_ones(pairs: Lengths, max_tokens: int, shuffle: Shuffle) -> None:
    batches = make(pairs, max_tokens, shuffle)
    assert batches == make_plainly(pairs, max_tokens, shuffle)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(max(pairs[i]) for i in batch) <= max_tokens


def test_batch_by_hand() -> None:
    batch = make_batch([[5, EOS], [6, 7, EOS]], [[BOS, 8, EOS], [BOS, EOS]], [1, 0])
    assert batch.src.tolist() == [[6, 7, EOS], [5, EOS, PAD]]
    assert batch.tgt_in.tolist() == [[BOS, EOS], [BOS, 8]]
    assert batch.labels.tolist() == [[EOS, PAD], [8, EOS]]
    assert batch.n_target_tokens == 3
    assert pad([[1], [1, 2]]).tolist() == [[1, PAD], [1, 2]]


def lists(sentences: EncodedSentences) -> list[list[int]]:
    return [list(sentences[number]) for number in range(len(sentences))]


@given(sentences=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=5), max_size=30))
def test_encoded_sentences(sentences: list[list[int]]) -> None:
    encoded = EncodedSentences(2**16, sentences)
    assert lists(encoded) == sentences
    with pytest.raises(OverflowError):
        encoded.append([2**16])
    large = EncodedSentences(2**16 + 1)
    large.append([2**16])
    assert lists(large) == [[2**16]]


# --- training data ---

N_PAIRS = 200
Prepared = tuple[Config, RunFolder]


def prepared(folder: Path, n_pairs: int) -> Prepared:
    write_corpus(folder / "corpus", {"train": n_pairs, "valid": 8, "test": 8})
    data = DataConfig(src="src", tgt="tgt", path=str(folder / "corpus"))
    config = Config(data=data, tokenizer=TokenizerConfig(vocab_size=290))
    prepare(config, folder / "run")
    return config, RunFolder(folder / "run")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepared(tmp_path_factory.mktemp("data"), N_PAIRS)


def load(prepared: Prepared, max_tokens: int = 256, bpe_dropout: float = 0.0) -> TrainingData:
    config, run = prepared
    data = replace(config.data, max_tokens=max_tokens)
    tokenizer = replace(config.tokenizer, bpe_dropout=bpe_dropout)
    config = replace(config, data=data, tokenizer=tokenizer)
    return TrainingData(config, run, Tokenizer.load(run, config))


def test_checksum_tells_data_apart(small: Prepared, tmp_path: Path) -> None:
    config, run = small
    assert load(small).checksum == load(small).checksum
    for side in ("src", "tgt"):
        other = RunFolder(shutil.copytree(run.path, tmp_path / side))
        lines = other.split_file("train", side).read_text().splitlines()
        write_lines(other.split_file("train", side), [lines[1], lines[0], *lines[2:]])
        assert load((config, other)).checksum != load(small).checksum


@pytest.mark.parametrize("max_tokens", [10, 256])
def test_ids_of_the_short_pairs(small: Prepared, max_tokens: int) -> None:
    data = load(small, max_tokens)
    corpus = load_split(data.run, data.config.data, "train")
    src = data.tokenizer.src.encode(corpus.src)
    tgt = data.tokenizer.tgt.encode(corpus.tgt, bos=True)
    short = [x for x in zip(src, tgt, strict=True) if max(map(len, x)) <= max_tokens]
    assert data.n_too_long == N_PAIRS - len(short)
    assert (data.n_too_long > 0) == (max_tokens == 10)
    for epoch in (0, 1):
        batches, src_ids, tgt_ids = data.epoch(epoch)
        assert list(zip(lists(src_ids), lists(tgt_ids), strict=True)) == short
        assert len(batches) == data.n_batches
        assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(short)))
    with pytest.raises(UserError, match=r"data\.max_tokens = 2"):
        load(small, max_tokens=2)


def test_memory_holds_ids_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq.data.tokenizer, "CHUNK", 100)
    peaks = []
    for n_pairs in (1000, 5000):
        large = prepared(tmp_path / str(n_pairs), n_pairs)
        tracemalloc.start()
        try:
            data = load(large)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    _, src, tgt = data.epoch(0)
    tokens = (len(src.ids) + len(tgt.ids)) / n_pairs
    assert (peaks[1] - peaks[0]) / 4000 < 2 * tokens + 60  # 60: while batches are made


def test_bpe_dropout(small: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    """As sentencepiece samples the sentences that are short without dropout in one call."""
    monkeypatch.setattr(seq2seq.data.tokenizer, "CHUNK", 7)
    data = load(small, max_tokens=10, bpe_dropout=0.1)
    corpus, subwords = load_split(data.run, data.config.data, "train"), data.tokenizer.src
    plain = zip(subwords.encode(corpus.src), subwords.encode(corpus.tgt, bos=True), strict=True)
    kept = [i for i, ids in enumerate(plain) if max(map(len, ids)) <= 10]
    for epoch in (0, 3):
        _, *sides = data.epoch(epoch)
        for text, ids, start in zip((corpus.src, corpus.tgt), sides, (0, 1), strict=True):
            sentencepiece.set_random_generator_seed(data.config.train.seed * 10_000 + epoch)
            options = {"enable_sampling": True, "alpha": 0.1, "num_threads": 1}
            expected = subwords._processor.encode([text[i] for i in kept], **options)
            assert [x[start:-1] for x in lists(ids)] == expected
    # An epoch that was broken off, and other sampling in between, change nothing.
    next(subwords.encode(corpus.src, False, 0.1, 5))
    again = load(small, max_tokens=10, bpe_dropout=0.1)
    assert lists(data.epoch(0)[1]) == lists(again.epoch(0)[1]) != lists(again.epoch(1)[1])
