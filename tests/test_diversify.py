"""More pairs, from own models: which they are, and that nothing held out is among them."""

from pathlib import Path

import pytest
from conftest import Capture, write_corpus

import seq2seq
from seq2seq.cli import main

SETTINGS = ["--data.src", "src", "--data.tgt", "tgt", "--data.n_held_out", "20"]
SETTINGS += ["--tokenizer.vocab_size", "280", "--train.epochs", "1"]
SETTINGS += ["--decoding.max_length_ratio", "0.5"]


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.slow
def test_pairs_are_real_ones_and_translations_of_either_side(
    tmp_path: Path, capsys: Capture
) -> None:
    write_corpus(tmp_path / "corpus", {"train": 100, "valid": 20})  # a test set is held out
    run = tmp_path / "teachers"
    command = ["diversify", "--config", "tiny", "--data.path", str(tmp_path / "corpus")]
    command += ["--run", str(run), "--teachers", "1", *SETTINGS]
    assert main(command) == 0

    src, tgt = lines(run / "src-tgt-1/corpus/train.src"), lines(run / "src-tgt-1/corpus/train.tgt")
    translate = {
        name: seq2seq.load(run / name, {"decoding.beam": 4}).translate
        for name in ("src-tgt-1", "tgt-src-1")
    }
    assert lines(run / "pairs/train.src") == src + src + translate["tgt-src-1"](tgt)
    assert lines(run / "pairs/train.tgt") == tgt + translate["src-tgt-1"](src) + tgt

    held_out = lines(run / "pairs/test.src")
    assert held_out
    assert not {*held_out} & {*src}
    for split in ("valid", "test"):
        for side in ("src", "tgt"):
            copies = [run / "pairs", *(run / name / "corpus" for name in translate)]
            assert len({(copy / f"{split}.{side}").read_text() for copy in copies}) == 1

    # The other direction has the same teachers, and they are not trained again.
    weights = run / "src-tgt-1/model.safetensors"
    before, pairs = weights.stat().st_mtime_ns, lines(run / "pairs/train.tgt")
    assert main([*command, "--data.src", "tgt", "--data.tgt", "src"]) == 0
    assert weights.stat().st_mtime_ns == before
    assert lines(run / "pairs/train.tgt") == pairs
    capsys.readouterr()
    assert main([*command, "--teachers", "0"]) == 1
    assert "--teachers" in capsys.readouterr().err
