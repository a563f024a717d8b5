"""Subwords: nothing is lost, nothing is unknown, sampling is reproducible."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.errors import UserError
from seq2seq.settings import TokenizerConfig
from seq2seq.tokenizer import BOS, EOS, PAD, UNK, Tokenizer, clean

SRC = ["der Hund läuft durch den Garten", "die Katze schläft im Garten", "der Garten ist groß"] * 9
TGT = ["the dog runs through the garden", "the cat sleeps in the garden", "the garden is big"] * 9


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(TokenizerConfig(vocab_size=330), SRC, TGT)


def test_special_ids(tokenizer: Tokenizer) -> None:
    assert (PAD, BOS, EOS, UNK) == (0, 1, 2, 3)
    assert tokenizer.decode_tgt([[PAD, BOS, EOS]]) == [""]
    src, tgt = tokenizer.encode_src(["der Hund"])[0], tokenizer.encode_tgt(["the dog"])[0]
    assert src[-1] == EOS
    assert (tgt[0], tgt[-1]) == (BOS, EOS)
    assert not {PAD, BOS, EOS, UNK} & {*src[:-1], *tgt[1:-1]}


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["C", "Z"]), max_size=30))
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode_tgt([text])[0]
    assert UNK not in ids
    # U+2581 is sentencepiece's own sign for a space.
    assert tokenizer.decode_tgt([ids[1:-1]]) == [clean(text).replace("\u2581", " ").strip()]


@settings(deadline=None)
@given(text=st.text(max_size=50))
def test_no_text_breaks_it(tokenizer: Tokenizer, text: str) -> None:
    """Surrogates, NULs and line separators included."""
    ids = tokenizer.encode_src([text])[0]
    assert ids[-1] == EOS
    decoded = tokenizer.decode_tgt([ids])
    assert len(decoded[0].splitlines()) <= 1


def test_decomposed_characters_are_composed(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode_src(["la\u0308uft"]) == tokenizer.encode_src(["läuft"])


def test_training_is_deterministic(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = Tokenizer.train(TokenizerConfig(vocab_size=330), SRC, TGT)
    for name, one in (("a", tokenizer), ("b", again)):
        (tmp_path / name).mkdir()
        one.save(tmp_path / name)
    a, b = (tmp_path / name / "tokenizer.model" for name in "ab")
    assert a.read_bytes() == b.read_bytes()
    loaded = Tokenizer.load(tmp_path / "a")
    assert loaded.joint
    assert loaded.encode_src(SRC) == tokenizer.encode_src(SRC)


def test_separate_vocabularies(tmp_path: Path) -> None:
    config = TokenizerConfig(vocab_size=300, joint=False)
    Tokenizer.train(config, SRC, TGT).save(tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert not tokenizer.joint
    assert tokenizer.encode_src(["garten"])[0] != tokenizer.encode_tgt(["garten"])[0][1:]
    ids = tokenizer.encode_tgt(TGT[:3])
    assert tokenizer.decode_tgt(ids) == TGT[:3]


def test_a_vocabulary_too_large_for_the_corpus_names_the_limit() -> None:
    with pytest.raises(UserError, match=r"vocab_size = 5000: too large .* at most \d+"):
        Tokenizer.train(TokenizerConfig(vocab_size=5000), SRC, TGT)


def test_long_lines_are_learned_from_too() -> None:
    long_line = " ".join(["unvergleichlich"] * 1000)  # sentencepiece skips over 4,192 bytes
    tokenizer = Tokenizer.train(TokenizerConfig(vocab_size=280), [long_line], [long_line])
    assert len(tokenizer.encode_src(["unvergleichlich"])[0]) < 12


def test_bpe_dropout_is_reproducible_and_spells_the_same_text(tokenizer: Tokenizer) -> None:
    plain = tokenizer.encode_tgt(TGT)
    one, same, other = (tokenizer.encode_tgt(TGT, 0.3, seed) for seed in (1, 1, 2))
    assert one == same
    assert one != other
    assert one != plain
    assert tokenizer.decode_tgt(one) == tokenizer.decode_tgt(other) == TGT
    assert sum(map(len, one)) > sum(map(len, plain))


def test_bpe_dropout_is_the_same_in_another_process(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """So that a training goes on in a new process as it would have in the old one."""
    tokenizer.save(tmp_path)
    program = (
        "from pathlib import Path; from seq2seq.tokenizer import Tokenizer;"
        f"tokenizer = Tokenizer.load(Path({str(tmp_path)!r}));"
        f"print(tokenizer.encode_src({SRC!r}, 0.5, seed=3))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(tokenizer.encode_src(SRC, 0.5, seed=3))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\x80\x04."])
def test_files_that_are_no_tokenizer(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(UserError):
        Tokenizer.load(tmp_path)
