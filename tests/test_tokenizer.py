"""Subwords: nothing is lost, nothing is unknown, sampling is reproducible."""

import io
import subprocess
import sys
from itertools import count, islice
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

import seq2seq.data.tokenizer
from seq2seq.config import Config, TokenizerConfig
from seq2seq.data.tokenizer import BOS, EOS, PAD, UNK, Subwords, Tokenizer, clean, split_words
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError

SRC = ["der Hund läuft durch den Garten", "die Katze schläft im Garten", "der Garten ist groß"] * 9
TGT = ["the dog runs through the garden", "the cat sleeps in the garden", "the garden is big"] * 9
JOINT = Config(tokenizer=TokenizerConfig(vocab_size=330))


@pytest.fixture(scope="module")
def subwords() -> Subwords:
    return Tokenizer.train(JOINT.tokenizer, SRC, TGT).tgt


def encode(subwords: Subwords, text: str) -> list[int]:
    return next(subwords.encode([text]))


def test_ids(subwords: Subwords) -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert subwords.decode([PAD, BOS, EOS]) == ""
    ids = encode(subwords, "der Hund")
    assert ids[-1] == EOS
    assert not {PAD, BOS, EOS, UNK} & {*ids[:-1]}
    assert list(subwords.encode(["der Hund"], bos=True)) == [[BOS, *ids]]
    assert encode(subwords, "la\u0308uft") == encode(subwords, "läuft")  # composed


def test_what_cannot_be_seen_changes_nothing(subwords: Subwords) -> None:
    assert clean("a\u00a0b\tc\u3000d\0e\u2028f\u2581g\udcffh") == "a b c d e f g h"
    assert clean("\ufeffwo\u00adrt\u200b\u200f") == "wort"
    assert clean("x² ﬁn Ⅳ") == "x² ﬁn Ⅳ"  # what can be seen stays
    for joined in ("می\u200cخواهم", "\U0001f469\u200d\U0001f373"):
        assert clean(joined) == joined
    assert encode(subwords, "der\u202fHund\u200b") == encode(subwords, "der Hund")


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30), odd=st.text())
def test_round_trip(subwords: Subwords, text: str, odd: str) -> None:
    """What can be seen comes back; surrogates, NULs and line separators do no harm."""
    ids = encode(subwords, text)
    assert UNK not in ids
    assert subwords.decode(ids) == " ".join(clean(text).split())
    assert len(subwords.decode(encode(subwords, odd)).splitlines()) <= 1


def test_words(subwords: Subwords) -> None:
    text = "der  Hund läuft"
    assert split_words(text) == ["der", "Hund", "läuft"]
    ids = [BOS, *encode(subwords, text), PAD]
    pieces = list(zip(subwords.words(ids), subwords.pieces(ids), strict=True))
    assert [pieces[i][0] for i in (0, -2, -1)] == [-1, -1, -1]
    for number, word in enumerate(split_words(text)):
        assert "".join(piece for n, piece in pieces if n == number) == "▁" + word


def train_plainly(sentences: list[str], vocab_size: int, **options: int | str) -> bytes:
    """By sentencepiece alone."""
    model = io.BytesIO()
    options |= {"vocab_size": vocab_size, "model_type": "bpe", "num_threads": 1, "minloglevel": 2}
    train = sentencepiece.SentencePieceTrainer.train
    train(sentence_iterator=iter(sentences), model_writer=model, **options)
    return model.getvalue()


def test_model_of_earlier_versions(subwords: Subwords) -> None:
    """The same subwords with the same scores, without the limits that are set for large corpora."""
    plain = train_plainly(
        SRC + TGT, 330, byte_fallback=True, normalization_rule_name="identity",
        pad_id=0, bos_id=1, eos_id=2, unk_id=3,
    )  # fmt: skip
    ours, theirs = subwords._processor, Subwords(plain)._processor
    ids = list(range(330))
    for what in ("id_to_piece", "get_score"):
        assert getattr(ours, what)(ids) == getattr(theirs, what)(ids)


def test_large_corpus_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    text = [f"{word} {i} {word}" for word in ("dog", "xyz") for i in range(400)]
    whole = Subwords.train(text, 300)
    monkeypatch.setattr(seq2seq.data.tokenizer, "MAX_SENTENCES", 150)
    sample, again = (Subwords.train(iter(text), 300) for _ in range(2))
    assert sample.model == again.model
    assert sample.pieces(range(300)) != whole.pieces(range(300))
    assert {"▁dog", "▁xyz"} <= {*sample.pieces(range(300))}  # from everywhere


@pytest.mark.parametrize("joint", [True, False])
def test_save_and_load(tmp_path: Path, joint: bool) -> None:
    run, config = RunFolder(tmp_path), Config(tokenizer=TokenizerConfig(300, joint=joint))
    trained = Tokenizer.train(config.tokenizer, SRC, TGT)
    trained.save(run)
    loaded = Tokenizer.load(run, config)
    assert loaded.joint == joint
    assert loaded.fingerprint == trained.fingerprint
    assert (loaded.fingerprint == Tokenizer(loaded.src, loaded.src).fingerprint) == joint
    assert (encode(loaded.src, "garten") == encode(loaded.tgt, "garten")) == joint
    assert list(map(loaded.tgt.decode, loaded.tgt.encode(TGT))) == TGT
    for other in (TokenizerConfig(301, joint=joint), TokenizerConfig(300, joint=not joint)):
        with pytest.raises(UserError, match=r"tokenizer\.model.*vocab_size = 30\d.*joint ="):
            Tokenizer.load(run, Config(tokenizer=other))
    Tokenizer.train(JOINT.tokenizer, SRC, TGT).save(run)
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.model"]


def test_damaged_or_foreign_model(tmp_path: Path, subwords: Subwords) -> None:
    not_utf8 = subwords.model.replace(b"Garten", b"Gar\xff\xfe\xff")
    assert not_utf8 != subwords.model
    for model in (b"", b"garbage", b"\x80\x04.", not_utf8, train_plainly(SRC, 30)):
        (tmp_path / "tokenizer.model").write_bytes(model)
        with pytest.raises(UserError, match=r"tokenizer\.model: .*not"):
            Tokenizer.load(RunFolder(tmp_path), JOINT)


def test_vocabulary_that_does_not_fit_the_corpus() -> None:
    with pytest.raises(UserError, match=r"tokenizer.vocab_size = 5000: .* at most \d+"):
        Subwords.train(SRC, 5000)
    with pytest.raises(UserError, match=r"tokenizer.vocab_size = 262: too small"):
        Subwords.train(SRC, 262)


def test_long_lines_are_learned_from() -> None:
    long_line = " ".join(["unvergleichlich"] * 1000)  # sentencepiece skips over 4,192 bytes
    assert len(encode(Subwords.train([long_line] * 2, 280), "unvergleichlich")) < 12


def test_bpe_dropout_is_reproducible(subwords: Subwords) -> None:
    one, same, other = (list(subwords.encode(TGT, False, 0.3, seed)) for seed in (1, 1, 2))
    assert one == same != other
    assert list(map(subwords.decode, one)) == list(map(subwords.decode, other)) == TGT
    assert sum(map(len, one)) > sum(map(len, subwords.encode(TGT)))
    # In a new process as in the old one: training resumes with the same subwords.
    program = (
        "import sys; from seq2seq.data.tokenizer import Subwords\n"
        f"print(list(Subwords(sys.stdin.buffer.read()).encode({TGT}, False, 0.3, 1)))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=subwords.model, stdout=subprocess.PIPE, check=True)
    assert done.stdout.decode().strip() == str(one)


@pytest.mark.parametrize("bpe_dropout", [0.0, 0.1])
def test_text_is_read_in_chunks(subwords: Subwords, bpe_dropout: float) -> None:
    numbers = count()
    endless = (f"der Hund {number}" for number in numbers)
    assert len(list(islice(subwords.encode(endless, False, bpe_dropout), 3))) == 3
    assert next(numbers) == seq2seq.data.tokenizer.CHUNK
