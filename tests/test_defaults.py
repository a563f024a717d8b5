"""``seq2seq init``: a configuration that works, whatever the corpus."""

import random
import re
import shlex
from itertools import islice
from pathlib import Path

import generate
import pytest
from conftest import Capture, write_corpus, write_lines
from lexicon import Lexicon

from seq2seq.cli import main
from seq2seq.config import Config, load_config, toml_value
from seq2seq.data.corpus import iter_split, load_split
from seq2seq.data.defaults import BY_SIZE, suit
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.run_folder import RunFolder


def init(folder: Path, *more: str) -> tuple[int, Path]:
    path = folder / "first one.toml"
    languages = ["--data.src", "src", "--data.tgt", "tgt"]
    return main(["init", str(folder), "-o", str(path), *languages, *more]), path


def one_word_each(folder: Path) -> None:
    for side in ("src", "tgt"):
        write_lines(folder / f"train.{side}", [f"{side}{i}" for i in range(20)])


def many_characters(folder: Path) -> None:
    rng = random.Random(1)
    for side in ("src", "tgt"):
        rows = ["".join(chr(0x4E00 + rng.randrange(3000)) for _ in range(12)) for _ in range(300)]
        write_lines(folder / f"train.{side}", rows)


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: write_corpus(folder, {"train": 20}),
        lambda folder: write_corpus(folder, {"train": 3000}),  # twelve words
        one_word_each,
        many_characters,
    ],
)
def test_prepares_any_corpus(write: object, tmp_path: Path, capsys: Capture) -> None:
    """Sentencepiece takes the vocabulary, and enough is held out and left to train on."""
    assert callable(write)
    write(tmp_path)
    status, path = init(tmp_path, "--data.valid", "", "--data.test", "")
    assert status == 0
    assert main(["prepare", "--config", str(path), "--run", str(tmp_path / "run")]) == 0
    n_src = len((tmp_path / "run" / "corpus" / "train.src").read_text("utf-8").splitlines())
    n_all = len((tmp_path / "train.src").read_text("utf-8").splitlines())
    assert n_all / 2 < n_src < n_all
    assert capsys.readouterr().err == ""


def test_writes_what_the_corpus_holds(tmp_path: Path, capsys: Capture) -> None:
    write_lines(tmp_path / "train.src", ["a b\u00adc ", "dd"])
    write_lines(tmp_path / "train.tgt", ["e", "f g h i j"])
    status, path = init(tmp_path, "--data.max_tokens", "99")
    assert status == 0
    out = capsys.readouterr().out
    assert "2 pairs of 2.2 words, 5 characters" in out
    assert shlex.split(out)[-2:] == ["--config", str(path)]
    assert re.search("gaussian.*CTranslate2", path.read_text())
    config = load_config(path)
    assert (config.data.path, config.data.max_tokens) == (str(tmp_path), 99)
    before = path.read_bytes()
    assert init(tmp_path)[0] == 1  # never over a file that is there
    assert path.read_bytes() == before
    path.unlink()
    for side in ("src", "tgt"):
        write_lines(tmp_path / f"train.{side}", ["", " ", "\u200b"])
    assert init(tmp_path)[0] == 1
    assert not path.exists()


@pytest.mark.slow
def test_table_for_anki(tmp_path: Path) -> None:
    """configs/tatoeba.toml on a table of its form: English first, then German, an attribution."""
    lexicon = Lexicon.read(Path(generate.__file__).with_name("lexicon.toml"))
    drawn = islice(generate.candidates("train", lexicon), 400)
    pairs = [(pair.german, pair.english) for pair in drawn]
    credit = "CC-BY 2.0 (France) Attribution: tatoeba.org #1 (x) & #2 (y)"
    rows = [f"{english}\t{german}\t{credit}" for german, english in pairs]
    write_lines(tmp_path / "deu.txt", rows)
    small = {"tokenizer.vocab_size": 500, "model.d_model": 16, "model.d_ff": 32, "train.epochs": 1}
    flags = [f"--{key}={value}" for key, value in small.items()]
    run = RunFolder(tmp_path / "run")
    flags += ["--run", str(run), "--data.path", str(tmp_path / "deu.txt")]
    assert main(["train", "--config", "configs/tatoeba.toml", *flags]) == 0
    data = run.load_config().data
    assert set(iter_split(run, data, "train")) < set(pairs)
    n_pairs = [len(load_split(run, data, split)) for split in ("valid", "test")]
    assert min(n_pairs) >= 400 // 20


@pytest.mark.parametrize("row", range(len(BY_SIZE)))
def test_every_size(row: int, tmp_path: Path) -> None:
    """Each row is a legal configuration, and the larger the corpus, the larger the model."""

    def chosen(n_pairs: int) -> Config:
        values = suit(n_pairs, n_pairs * 17, 80, 100_000)[0]
        lines = [f"{key} = {toml_value(value)}" for key, value in values.items()]
        write_lines(path := tmp_path / "size.toml", ["data.path = 'x'", *lines])
        return load_config(path, check=empty_model)

    smallest, largest = int(BY_SIZE[row - 1][0]) + 1 if row else 1, int(min(BY_SIZE[row][0], 5e7))
    config = chosen(smallest)
    assert config.model == chosen(largest).model
    n_steps = smallest * 17 * config.train.epochs / config.train.max_tokens_per_batch
    assert config.train.warmup_steps < n_steps / 4
    sizes = [count_parameters(empty_model(chosen(n))) for n in (largest, largest + 1)]
    assert sizes[0] <= sizes[1]
