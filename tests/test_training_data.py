"""Training pairs as ids: those of the whole text encoded at once, in little memory."""

import tracemalloc
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
import sentencepiece
from conftest import TINY_CONFIG, write_corpus

import seq2seq.tokenizer
from seq2seq.batches import EncodedSentences
from seq2seq.config import load_config
from seq2seq.corpus import load_split, stream_split
from seq2seq.errors import UserError
from seq2seq.preparation import drawn, prepare
from seq2seq.settings import Config
from seq2seq.tokenizer import Tokenizer
from seq2seq.training_data import TrainingData

PAIRS = 200


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("data")
    write_corpus(folder / "corpus", {"train": PAIRS, "valid": 8, "test": 8})
    path = folder / "short.toml"
    path.write_text(TINY_CONFIG.format(directory=str(folder / "corpus")), encoding="utf-8")
    return load_config(path, {})


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    prepare(config, run)
    return run


@pytest.fixture(autouse=True)
def several_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seq2seq.tokenizer, "SENTENCES_AT_A_TIME", 7)


def with_dropout(config: Config) -> Config:
    return replace(config, tokenizer=replace(config.tokenizer, bpe_dropout=0.1))


def with_limit(config: Config, max_tokens: int) -> Config:
    return replace(config, data=replace(config.data, max_tokens=max_tokens))


def lists(sentences: EncodedSentences) -> list[list[int]]:
    return [list(sentences[number]) for number in range(len(sentences))]


def test_memory_holds_the_ids_and_not_the_text(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seq2seq.tokenizer, "SENTENCES_AT_A_TIME", 100)
    peaks = []
    for n_pairs in (1000, 5000):
        folder = tmp_path / str(n_pairs)
        write_corpus(folder, {"train": n_pairs, "valid": 8, "test": 8})
        here = replace(config, data=replace(config.data, directory=str(folder)))
        prepare(here, folder / "run")
        tokenizer = Tokenizer.load(folder / "run")
        tracemalloc.start()
        try:
            data = TrainingData(here, folder / "run", tokenizer)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    _, src, tgt = data.epoch(0)
    tokens = (src.lengths.sum() + tgt.lengths.sum()) / n_pairs
    assert (peaks[1] - peaks[0]) / 4000 < 2 * tokens + 60  # 60: while batches are planned


@pytest.mark.parametrize("max_tokens", [10, 256])
def test_ids_are_those_of_the_short_pairs(config: Config, run: Path, max_tokens: int) -> None:
    data = TrainingData(with_limit(config, max_tokens), run, Tokenizer.load(run))
    corpus, tokenizer = load_split(config.data, run, "train"), Tokenizer.load(run)
    both = zip(tokenizer.encode_src(corpus.src), tokenizer.encode_tgt(corpus.tgt), strict=True)
    short = [pair for pair in both if max(map(len, pair)) <= max_tokens]
    assert data.too_long == PAIRS - len(short)
    assert (data.too_long > 0) == (max_tokens == 10)
    for epoch in (0, 1):
        plan, src, tgt = data.epoch(epoch)
        assert list(zip(lists(src), lists(tgt), strict=True)) == short
        assert len(plan) == data.n_batches
        assert sorted(i for batch in plan for i in batch.tolist()) == list(range(len(short)))


def test_bpe_dropout_spells_every_epoch_anew(config: Config, run: Path) -> None:
    data = TrainingData(with_dropout(config), run, Tokenizer.load(run))
    first, again, second = (lists(data.epoch(number)[1]) for number in (0, 0, 1))
    assert first == again
    assert first != second
    assert first != lists(TrainingData(config, run, Tokenizer.load(run)).epoch(0)[1])


def test_bpe_dropout_in_chunks_is_that_of_the_whole_text(
    config: Config, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As sentencepiece samples all sentences in one call, in the one thread that it starts.

    Which pairs are too long does not depend on what is drawn.
    """
    config = with_limit(with_dropout(config), 10)
    tokenizer = Tokenizer.load(run)
    data = TrainingData(config, run, tokenizer)
    corpus = load_split(config.data, run, "train")
    src, tgt = tokenizer.encode_src(corpus.src), tokenizer.encode_tgt(corpus.tgt)
    kept = [i for i in range(PAIRS) if max(len(src[i]), len(tgt[i])) <= 10]
    for epoch in (0, 3):
        _, src_ids, tgt_ids = data.epoch(epoch)
        for text, ids, inner in (
            (corpus.src, src_ids, slice(0, -1)),
            (corpus.tgt, tgt_ids, slice(1, -1)),
        ):
            sentencepiece.set_random_generator_seed(config.train.seed * 10_000 + epoch)
            expected = tokenizer._src.encode(
                [text[i] for i in kept], enable_sampling=True, alpha=0.1, num_threads=1
            )
            assert [x[inner] for x in lists(ids)] == expected
    # An epoch that was broken off, and other sampling in between, change nothing.
    begun = tokenizer.stream_src(corpus.src, 0.1, 5)
    next(begun)
    assert lists(data.epoch(0)[1]) == lists(TrainingData(config, run, tokenizer).epoch(0)[1])


def test_no_pair_is_short_enough(config: Config, run: Path) -> None:
    with pytest.raises(UserError, match=r"data\.max_tokens = 2: every training pair is longer"):
        TrainingData(with_limit(config, 2), run, Tokenizer.load(run))


def test_a_corpus_that_was_damaged_is_a_complaint(config: Config, tmp_path: Path) -> None:
    prepare(config, tmp_path)
    path = tmp_path / "corpus" / "train.tgt"
    text = path.read_bytes()
    path.write_bytes(text + b"one more\nand another\n")
    with pytest.raises(UserError, match=r"train\.src has 200 lines but .*train\.tgt has 202"):
        TrainingData(config, tmp_path, Tokenizer.load(tmp_path))
    path.write_bytes(text.replace(b"\n", b"\n\xff", 1))
    with pytest.raises(UserError, match=r"train\.tgt, line 2: not UTF-8"):
        TrainingData(config, tmp_path, Tokenizer.load(tmp_path))


def test_subwords_are_learned_from_a_part_of_a_large_corpus(
    config: Config, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = list(stream_split(config.data, run, "train"))
    assert list(drawn(iter(pairs), PAIRS, PAIRS)) == pairs
    some = list(drawn(iter(pairs), PAIRS, 50))
    assert some == list(drawn(iter(pairs), PAIRS, 50))
    assert len(some) == 50
    rows = sorted(map(pairs.index, some))
    assert rows[0] < 40  # from everywhere
    assert rows[-1] > 160
    assert next(drawn(((str(i), "") for i in iter(int, 1)), 10**9, 10**9)) == ("0", "")

    monkeypatch.setattr("seq2seq.preparation.PAIRS_TO_LEARN_FROM", 50)
    prepare(config, tmp_path)
    (tmp_path / "expected").mkdir()
    src, tgt = ([pair[side] for pair in some] for side in (0, 1))
    Tokenizer.train(config.tokenizer, src, tgt).save(tmp_path / "expected")
    learned = (tmp_path / "tokenizer.model").read_bytes()
    assert learned == (tmp_path / "expected" / "tokenizer.model").read_bytes()
    assert learned != (run / "tokenizer.model").read_bytes()


def test_text_is_read_as_it_is_encoded(run: Path) -> None:
    """Of endless text, a chunk is enough to give its first ids."""
    tokenizer = Tokenizer.load(run)
    taken = []
    text = ("ba du" for i in iter(int, 1) if not taken.append(i))  # type: ignore[func-returns-value]
    for dropout in (0.0, 0.1):
        taken.clear()
        assert len(list(islice(tokenizer.stream_src(text, dropout), 3))) == 3
        assert len(taken) == 7
