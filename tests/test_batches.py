"""Batches: every pair once, within the limit, in reproducible order; ids in little memory."""

import io
import math
import shutil
import tracemalloc
from collections.abc import Iterable
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
from seq2seq.data.batches import TrainingData, make_batch, make_token_batches, pad
from seq2seq.data.corpus import load_split
from seq2seq.data.encoded import EncodedSentences, write_sentences
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


def width(pair: tuple[int, int]) -> tuple[int, int]:
    """Of target and source, in multiples of 4; BOS is no part of what the decoder reads."""
    return math.ceil((pair[1] - 1) / 4) * 4, math.ceil(pair[0] / 4) * 4


def widest(pairs: Lengths, batch: list[int]) -> int:
    return max(max(width(pairs[i])) for i in batch)


def make_plainly(pairs: Lengths, max_tokens: int, shuffle: Shuffle) -> list[list[int]]:
    """Pair by pair."""
    order = list(range(len(pairs)))
    rng = np.random.default_rng(shuffle) if shuffle else None
    if rng:
        order = rng.permutation(len(pairs)).tolist()
    order.sort(key=lambda i: width(pairs[i]))
    batches: list[list[int]] = []
    while order:
        n = 1
        while n < len(order) and (n + 1) * widest(pairs, order[: n + 1]) <= max_tokens:
            n += 1
        if n > 8:
            n = n // 8 * 8
        batches.append(order[:n])
        order = order[n:]
    return [batches[i] for i in rng.permutation(len(batches))] if rng else batches


@given(pairs=PAIRS, max_tokens=st.integers(1, 200), shuffle=SHUFFLE)
def test_token_batches_match_plain_ones(pairs: Lengths, max_tokens: int, shuffle: Shuffle) -> None:
    batches = make(pairs, max_tokens, shuffle)
    assert batches == make_plainly(pairs, max_tokens, shuffle)
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    for batch in batches:
        src, tgt = ([[9] * pair[side] for pair in pairs] for side in (0, 1))
        made = make_batch(src, tgt, batch)
        n_tokens = max(made.src.numel(), made.tgt_in.numel())  # padding included
        assert n_tokens == len(batch) * widest(pairs, batch)
        assert len(batch) == 1 or n_tokens <= max_tokens


def test_batch_by_hand() -> None:
    batch = make_batch([[5, EOS], [6, 7, EOS]], [[BOS, 8, EOS], [BOS, EOS]], [1, 0])
    assert batch.src.tolist() == [[6, 7, EOS, PAD], [5, EOS, PAD, PAD]]
    assert batch.tgt_in.tolist() == [[BOS, EOS, PAD, PAD], [BOS, 8, EOS, PAD]]
    assert batch.labels.tolist() == [[EOS, PAD, PAD, PAD], [8, EOS, PAD, PAD]]
    assert batch.n_target_tokens == 3
    wider = make_batch([[5, 6, 7, 8, EOS]], [[BOS, 6, 7, 8, EOS]], [0])
    assert wider.src.shape == (1, 8)
    assert wider.tgt_in.shape == (1, 4)
    assert pad([[1], [1, 2]]).tolist() == [[1, PAD], [1, 2]]


def lists(sentences: EncodedSentences) -> list[list[int]]:
    return [sentences[number].tolist() for number in range(len(sentences))]


def in_memory(sentences: Iterable[list[int]], vocab_size: int) -> EncodedSentences:
    file = io.BytesIO()
    write_sentences(file, sentences, vocab_size)
    return EncodedSentences(file.getbuffer(), vocab_size)


@given(sentences=st.lists(st.lists(st.integers(0, 2**16 - 1), max_size=5), max_size=30))
def test_encoded_sentences(sentences: list[list[int]]) -> None:
    encoded = in_memory(sentences, 2**16)
    assert lists(encoded) == sentences
    assert encoded.ids.nbytes == 2 * sum(map(len, sentences))
    with pytest.raises(OverflowError):
        in_memory([[2**16]], 2**16)
    assert lists(in_memory([[2**16], *sentences], 2**16 + 1)) == [[2**16], *sentences]


# --- training data ---

N_PAIRS = 200
Prepared = tuple[Config, RunFolder]


def prepared(folder: Path, n_pairs: int, joint: bool = True) -> Prepared:
    write_corpus(folder / "corpus", {"train": n_pairs, "valid": 8, "test": 8})
    data = DataConfig(src="src", tgt="tgt", path=str(folder / "corpus"))
    config = Config(data=data, tokenizer=TokenizerConfig(290, joint))
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
    assert load(small).checksum == load(small).checksum != load(small, max_tokens=10).checksum
    for side in ("src", "tgt"):
        other = RunFolder(shutil.copytree(run.path, tmp_path / side))
        lines = other.split_file("train", side).read_text().splitlines()
        write_lines(other.split_file("train", side), [lines[1], lines[0], *lines[2:]])
        assert load((config, other)).checksum != load(small).checksum


def test_ids_of_another_tokenizer_or_damaged_are_made_anew(small: Prepared, tmp_path: Path) -> None:
    config, run = small
    other = RunFolder(shutil.copytree(run.path, tmp_path / "other"))
    file = other.split_file("train", "tgt.ids")
    content, expected = file.read_bytes(), load(small).checksum
    for damaged in (content[:-1], content[:9] + b"?" + content[10:], content + b"?", None):
        file.write_bytes(damaged) if damaged else file.unlink()
        assert load((config, other)).checksum == expected
        assert file.read_bytes() == content
    fewer = replace(config, tokenizer=TokenizerConfig(vocab_size=280))
    corpus = load_split(other, config.data, "train")
    tokenizer = Tokenizer.train(fewer.tokenizer, corpus.src, corpus.tgt)
    assert TrainingData(fewer, other, tokenizer).n_target_tokens > load(small).n_target_tokens


@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("max_tokens", [10, 256])
def test_batches_of_the_short_pairs(tmp_path: Path, max_tokens: int, joint: bool) -> None:
    """As by encoding directly, and in a run folder without ids, as earlier versions left it."""
    config, run = prepared(tmp_path, N_PAIRS, joint)
    data = load((config, run), max_tokens)
    corpus = load_split(run, config.data, "train")
    both = data.tokenizer.src.encode(corpus.src), data.tokenizer.tgt.encode(corpus.tgt, bos=True)
    short = [x for x in zip(*both, strict=True) if max(map(len, x)) <= max_tokens]
    src, tgt = [src for src, _ in short], [tgt for _, tgt in short]
    assert data.n_too_long == N_PAIRS - len(short)
    assert (data.n_too_long > 0) == (max_tokens == 10)
    assert data.n_target_tokens == sum(len(ids) - 1 for ids in tgt)
    assert data.usual_src_tokens == int(np.percentile([*map(len, src)], 95))
    run.encoded_file.unlink()
    again, limit = load((config, run), max_tokens), config.train.max_tokens_per_batch // 40
    for epoch in (0, 1):
        shuffle = (config.train.seed, epoch)
        for one in (data, again):
            one.config = replace(config, train=replace(config.train, max_tokens_per_batch=limit))
            batches, src_ids, tgt_ids = one.epoch(epoch)
            plan = make_token_batches(src, tgt, limit, shuffle)
            assert len(plan) > 5
            for rows, expected_rows in zip(batches, plan, strict=True):
                batch = make_batch(src_ids, tgt_ids, rows)
                expected = make_batch(src, tgt, expected_rows)
                assert batch.src.equal(expected.src)
                assert batch.tgt.equal(expected.tgt)
    assert data.checksum == again.checksum
    with pytest.raises(UserError, match=r"data\.max_tokens = 2"):
        load((config, run), max_tokens=2)


def test_memory_holds_ids_not_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq.data.tokenizer, "CHUNK", 100)
    peaks = []
    for n_pairs in (1000, 5000):
        large = prepared(tmp_path / str(n_pairs), n_pairs)
        tracemalloc.start()
        try:
            load(large)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 4000 < 40  # for the order of an epoch; the ids stay in files


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
