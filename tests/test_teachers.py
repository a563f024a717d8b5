"""Synthetic pairs: which they are, and that nothing held out is among them."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import Capture, Patch, write_corpus, write_lines

import seq2seq
from seq2seq.cli import main
from seq2seq.translator import Translator
from seq2seq.utils import read_json

TEACHERS = ("src-tgt-1", "tgt-src-1")


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table without a header, target first: only data.columns says which side is which."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder, {"train": 120})
    rows = zip(lines(folder / "train.tgt"), lines(folder / "train.src"), strict=True)
    write_lines(folder / "pairs.tsv", ["\t".join(row) for row in rows])
    return folder / "pairs.tsv"


@pytest.fixture(scope="module")
def command(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A student with one teacher of each direction, made once, in parts of 40 sentences."""
    run = tmp_path_factory.mktemp("teachers") / "student"
    words = ["prepare", "--config", "tiny", "--run", str(run), "--data.path", str(corpus)]
    words += ["--data.src", "src", "--data.tgt", "tgt", "--data.columns", "2,1"]
    words += ["--tokenizer.vocab_size", "300", "--model.d_model", "32", "--teachers.epochs", "20"]
    words += ["--teachers.n", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("seq2seq.training.teachers.AT_A_TIME", 40)
        assert main(words) == 0
    return words


def pairs_of(run: Path) -> list[tuple[str, ...]]:
    return list(zip(*(lines(run / "corpus" / f"train.{x}") for x in ("src", "tgt")), strict=True))


def run_of(command: list[str]) -> Path:
    return Path(command[command.index("--run") + 1])


@pytest.mark.slow
def test_pairs_are_real_ones_and_translations_of_either_side(command: list[str]) -> None:
    run = run_of(command)
    real = [lines(run / "teachers/corpus" / f"train.{side}") for side in ("src", "tgt")]
    assert real[0] == [" ".join(reversed(x.split())) for x in real[1]]
    assert len(real[0]) == 98  # 11 are held out for each other split
    decoding = {"decoding.beam": 4, "decoding.no_repeat": 0}
    translated = [
        [best.text for best, *_ in seq2seq.load(run / "teachers" / name, decoding).search(x)]
        for name, x in zip(TEACHERS, real, strict=True)
    ]
    expected = [
        *zip(*real, strict=True),
        *zip(real[0], translated[0], strict=True),
        *zip(translated[1], real[1], strict=True),
    ]
    assert pairs_of(run) == [pair for pair in expected if all(map(str.strip, pair))]
    for split in ("valid", "test"):
        held_out = lines(run / "corpus" / f"{split}.src")
        assert len(held_out) == 11
        assert not {*held_out} & {*real[0]}
        for side in ("src", "tgt"):
            runs = [run, run / "teachers", *(run / "teachers" / name for name in TEACHERS)]
            assert len({(x / "corpus" / f"{split}.{side}").read_text() for x in runs}) == 1


@pytest.mark.slow
def test_the_other_direction_has_the_same_teachers(
    command: list[str], tmp_path: Path, monkeypatch: Patch
) -> None:
    for work in ("training.trainer.Trainer.step", "translator.Translator.search"):
        monkeypatch.setattr(f"seq2seq.{work}", Mock(side_effect=AssertionError))
    teachers = run_of(command) / "teachers"
    shutil.copytree(teachers / "corpus", tmp_path / "corpus")
    other = ["--run", str(tmp_path / "run"), "--data.path", str(tmp_path / "corpus")]
    other += ["--data.src", "tgt", "--data.tgt", "src", "--data.columns", ""]
    assert main([*command, *other, "--teachers.folder", str(teachers)]) == 0
    assert sorted(pairs_of(tmp_path / "run")) == sorted(pairs_of(run_of(command)))


@pytest.mark.slow
def test_teachers_of_another_corpus(command: list[str], capsys: Capture) -> None:
    student = ["--run", str(run_of(command).with_name("other"))]
    teachers = ["--teachers.folder", str(run_of(command) / "teachers")]
    assert main([*command, *student, *teachers, "--data.n_held_out", "5"]) == 1
    assert "other pairs" in capsys.readouterr().err
    assert main([*command, *student, *teachers, "--teachers.epochs", "30"]) == 1
    assert "train.epochs" in capsys.readouterr().err
    assert not Path(student[1]).exists()


@pytest.mark.slow
def test_an_interrupted_translation_is_made_again(
    command: list[str], tmp_path: Path, monkeypatch: Patch
) -> None:
    run = tmp_path / "student"
    shutil.copytree(run_of(command), run)
    again = [*command, "--run", str(run)]
    before = pairs_of(run)
    translated = run / "teachers/tgt-src-1/translated.txt"
    translated.unlink()
    shutil.rmtree(run / "corpus")
    with monkeypatch.context() as patch:
        patch.setattr("seq2seq.training.teachers.AT_A_TIME", 40)
        search, calls = Translator.search, Mock(side_effect=[None, KeyboardInterrupt])
        patch.setattr(Translator, "search", lambda *x, **y: calls() or search(*x, **y))
        assert main(again) == 130
    assert not translated.exists()
    assert main(again) == 0
    assert pairs_of(run) == before

    # What a teacher says that is held out is no training pair, nor what says nothing.
    said, held_out = lines(translated), lines(run / "corpus/test.src")
    write_lines(translated, [held_out[0], " ", *said[2:]])
    assert main(again) == 0
    n = len(said)
    assert pairs_of(run) == before[: 2 * n] + before[2 * n + 2 :]
    report = read_json(run / "corpus/report.json")
    assert (report["train_pairs"], report["synthetic_pairs"]) == (n, 2 * n - 2)
