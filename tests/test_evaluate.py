"""``evaluate`` on other test sets and against other runs: what it says, and what it leaves alone."""

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Capture, Patch, write_corpus, write_lines
from sacrebleu.metrics.bleu import BLEU

from seq2seq.cli import main
from seq2seq.evaluation import metrics
from seq2seq.model import decoding
from seq2seq.model.weights import named_tensors
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import read_json, read_lines

pytestmark = pytest.mark.slow  # trained_run takes seconds


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """The prefix of a test set that the run does not hold; the model has seen no such lengths."""
    write_corpus(tmp_path, {"other": 30}, seed=9, longest=6)
    write_lines(tmp_path / "other.tags", ["even", "odd"] * 15)
    write_lines(tmp_path / "other.src-tgt.align", ["0-1 1-0"] * 30)
    return tmp_path / "other"


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def evaluate(run: RunFolder, *words: object) -> int:
    return main(["evaluate", "--run", str(run), *map(str, words)])


def failure(capsys: Capture, run: RunFolder, *words: object) -> str:
    capsys.readouterr()
    assert evaluate(run, *words) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1 + ("other: line by line" in err))
    return err.splitlines()[-1]


def test_on_other_pairs(run: RunFolder, other: Path, tmp_path: Path, capsys: Capture) -> None:
    """Even while another process works in the run, in which nothing changes."""
    n_valid = len(read_lines(run.split_file("valid", "src")))
    write_lines(run.split_file("valid", "src-tgt.align"), ["0-1 1-0"] * n_valid)
    with run.lock():
        before = contents(tmp_path)
        src, references = (read_lines(Path(f"{other}.{side}")) for side in ("src", "tgt"))
        hypotheses = Translator.load(run).translate(src)
        for tokenizer in ("13a", "char"):
            assert evaluate(run, "--on", other, "--evaluation.bleu_tokenizer", tokenizer) == 0
            printed = capsys.readouterr().out
            bleu = BLEU(tokenize=tokenizer).corpus_score(hypotheses, [references]).score
            assert re.search(rf"BLEU +{bleu:.2f}\n", printed)
            assert f"BLEU: nrefs:1|case:mixed|eff:no|tok:{tokenizer}" in printed
            assert re.search(r"\nodd +\d.* \(15\)", printed)
            assert re.search(r"\nalignment error rate +\d", printed)
        assert contents(tmp_path) == before


def test_on_a_table(run: RunFolder, other: Path, tmp_path: Path, capsys: Capture) -> None:
    """Its columns are its own, not those of the run's corpus; what was taken is said."""
    config = run.load_config()
    run.save_config(replace(config, data=replace(config.data, columns="1,2")))
    src, tgt = (read_lines(Path(f"{other}.{side}")) for side in ("src", "tgt"))
    for head, flags in ((["tgt\tsrc"], []), ([], ["--data.columns", "2,1"])):
        rows = [f"{y}\t{x}" for x, y in zip(src, tgt, strict=True)]
        write_lines(tmp_path / "t.tsv", [*head, *rows])
        assert evaluate(run, "--on", tmp_path / "t.tsv", *flags) == 0
        out, err = capsys.readouterr()
        bleu = BLEU().corpus_score(Translator.load(run).translate(src), [tgt]).score
        assert re.search(rf"BLEU +{bleu:.2f}\n", out)
        assert "t.tsv: tab-separated" in err
        assert "30 pairs: src = " in err


def test_against_another_run(
    run: RunFolder, other: Path, tmp_path: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(metrics, "N_EXCHANGES", 999)
    worse, same = RunFolder(tmp_path / "worse"), tmp_path / "same"
    for folder in (worse.path, same):
        shutil.copytree(run.path, folder)
    translator = Translator.load(worse)
    torch.manual_seed(0)
    noisy = {x: y + 0.05 * torch.randn_like(y) for x, y in named_tensors(translator.model).items()}
    worse.save_weights(noisy, translator.tokenizer.fingerprint)
    before = contents(worse.path)
    assert evaluate(run, "--against", worse) == 0
    test: Any = read_json(run.eval_file)["tests"]["test"]
    theirs = Translator.load(worse).translate(read_lines(run.split_file("test", "src")))
    references = read_lines(run.split_file("test", "tgt"))
    gap = test["bleu"] - BLEU().corpus_score(theirs, [references]).score
    against = test["against"]["bleu"]
    assert against["difference"] == pytest.approx(gap)
    assert gap > 10
    assert against["p"] == 0.001 == test["against"]["chrf"]["p"]
    assert f"compared with {worse}" in (out := capsys.readouterr().out)
    assert f"{gap:+.2f} (p = {against['p']:.4f})" in out
    assert contents(worse.path) == before
    assert evaluate(worse, "--against", run, "--on", other) == 0
    assert re.search(r"\nchrF +-\d", capsys.readouterr().out)
    assert evaluate(run, "--on", other, "--against", same) == 0
    assert capsys.readouterr().out.count("+0.00 (p = 1.0000)") == 2

    monkeypatch.setattr(decoding, "max_lengths", lambda src, _: torch.ones(len(src)).long())
    assert evaluate(run, "--against", worse) == 0
    cut = capsys.readouterr().err
    assert all(f"{x}, test: output cut" in cut for x in (run, worse))
    assert "no such run" in failure(capsys, run, "--against", tmp_path / "gone")
    text = worse.config_file.read_text(encoding="utf-8").replace('"tgt"', '"de"')
    worse.config_file.write_text(text, encoding="utf-8")
    assert "src to de" in failure(capsys, run, "--against", worse)


def test_what_cannot_be_scored(run: RunFolder, other: Path, capsys: Capture) -> None:
    before = contents(run.path)
    (other.parent / "t").mkdir()
    for path in (f"{other}/gone", other.parent / "t", "some/set"):
        said = failure(capsys, run, "--on", path)
        assert f"{path}: --on takes a table, or PREFIX" in said
        assert not re.search("data.path|did you mean", said)
    assert "data.columns" in failure(capsys, run, "--data.columns", "2,1")
    assert failure(capsys, run, "--on", "")  # of a script, say: not the run's own test sets
    write_lines(Path(f"{other}.tags"), ["x"])
    assert "other.tags" in failure(capsys, run, "--on", other)
    for lines in ([], ["", " "]):
        write_lines(Path(f"{other}.src"), ["ba du"] * len(lines))
        write_lines(Path(f"{other}.tgt"), lines)
        assert "no references" in failure(capsys, run, "--on", other)
    for ending in ("tags", "src-tgt.align"):
        Path(f"{other}.{ending}").unlink()
    write_lines(Path(f"{other}.tgt"), ["猫在垫子上昨天汤姆", ""])
    for tokenizer, is_said in (("13a", True), ("zh", False)):
        assert evaluate(run, "--on", other, "--evaluation.bleu_tokenizer", tokenizer) == 0
        assert ("set evaluation.bleu_tokenizer" in capsys.readouterr().err) == is_said
    assert contents(run.path) == before
