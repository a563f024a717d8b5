"""What several tests need: small models, a small corpus, a run trained through the command line."""

import random
import sys
from pathlib import Path

import pytest
import torch

from seq2seq.cli import main
from seq2seq.config import ModelConfig
from seq2seq.model import Seq2Seq

SEQ2SEQ = [sys.executable, "-m", "seq2seq"]
SACREBLEU = [sys.executable, "-m", "sacrebleu"]

SMALL = ModelConfig(d_model=32, d_ff=64, n_heads=4, encoder_layers=2, decoder_layers=2, dropout=0.0)


def small_model(config: ModelConfig = SMALL, vocab_size: int = 40, seed: int = 0) -> Seq2Seq:
    torch.manual_seed(seed)
    return Seq2Seq(config, vocab_size, vocab_size, joint=True)


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode())


def write_corpus(folder: Path, sizes: dict[str, int], seed: int = 0) -> None:
    """A corpus whose targets are their sources' words in reverse."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["ba", "du", "ke", "lo", "mi", "na", "po", "ru", "si", "to", "vu", "ze"]
    for split, size in sizes.items():
        rows = [rng.choices(words, k=rng.randint(2, 6)) for _ in range(size)]
        write_lines(folder / f"{split}.src", [" ".join(row) for row in rows])
        write_lines(folder / f"{split}.tgt", [" ".join(reversed(row)) for row in rows])


TINY_CONFIG = """
[data]
src = "src"
tgt = "tgt"
directory = {directory!r}
[tokenizer]
vocab_size = 290
[model]
d_model = 64
d_ff = 128
n_heads = 4
encoder_layers = 1
decoder_layers = 1
dropout = 0.0
[train]
epochs = 20
batch_tokens = 512
learning_rate = 5e-3
warmup_steps = 50
label_smoothing = 0.0
validate_every = 150
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file for the reversal corpus beside it."""
    folder = tmp_path_factory.mktemp("reverse")
    write_corpus(folder / "corpus", {"train": 3000, "valid": 60, "test": 100})
    path = folder / "tiny.toml"
    path.write_text(TINY_CONFIG.format(directory=str(folder / "corpus")), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_run(tiny_config: Path) -> Path:
    """A run that has learned to reverse, through the command line."""
    run = tiny_config.parent / "run"
    assert main(["train", "--config", str(tiny_config), "--run", str(run)]) == 0
    return run
