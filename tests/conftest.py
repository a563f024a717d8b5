"""What several tests need: small models, a small corpus, a run trained through the command line."""

import os
import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from filelock import FileLock

from seq2seq.attention import POSITIONS, REGISTRIES, TYPES, AttentionModifier
from seq2seq.cli import main
from seq2seq.config import AttentionConfig, ModelConfig
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder

if TYPE_CHECKING:
    from playwright.sync_api import Page

SEQ2SEQ = [sys.executable, "-m", "seq2seq"]

Capture = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch

SMALL = ModelConfig(d_model=32, d_ff=64, n_heads=4, encoder_layers=2, decoder_layers=2, dropout=0.0)


def attention_variants() -> dict[str, AttentionConfig]:
    """An attention with each registered part, by name; groups, windows, and parts together.

    The published attention, which several names stand for, is there once.
    """
    plain = AttentionConfig(position="none")
    by_part = {"plain": plain} | {
        f"{registry.setting}={name}": config
        for registry in REGISTRIES
        for name in registry
        if (config := replace(plain, **{registry.setting: name})) != plain  # type: ignore[arg-type]
    }
    return by_part | {
        "kv_heads=1": replace(plain, kv_heads=1),
        "kv_heads=2": replace(plain, kv_heads=2),
        "window=2": replace(plain, window=2),
        "rotary differential": replace(plain, position="rotary", modifiers="differential"),
        "many parts": AttentionConfig(
            score="cosine",
            normalizer="entmax15",
            position="t5",
            kv_heads=2,
            window=3,
            modifiers="gated talking_heads differential",
        ),
    }


def section_of(variant: AttentionConfig) -> str:
    return "decoder_attention" if TYPES[variant.type].needs_causal_mask else "encoder_attention"


def fitting(variant: AttentionConfig, section: str) -> AttentionConfig:
    """The variant, or the default where a part has no meaning."""
    parts = [part for r in REGISTRIES for part in r.selected(getattr(variant, r.setting))]
    across = section == "cross_attention" and any(part.needs_self_attention for part in parts)
    early = section != "decoder_attention" and any(part.needs_causal_mask for part in parts)
    default: AttentionConfig = getattr(ModelConfig(), section)
    return default if across or early else variant


def with_attention(variant: AttentionConfig, config: ModelConfig = SMALL) -> ModelConfig:
    """``config`` with the variant wherever it is possible."""
    is_relative = POSITIONS[variant.position].is_a(AttentionModifier)
    cross = replace(variant, window=0, position=variant.position if is_relative else "none")
    return replace(
        config,
        encoder_attention=fitting(variant, "encoder_attention"),
        decoder_attention=variant,
        cross_attention=fitting(cross, "cross_attention"),
    )


def small_model(config: ModelConfig = SMALL, vocab_size: int = 40, seed: int = 0) -> Seq2Seq:
    torch.manual_seed(seed)
    return Seq2Seq(config, vocab_size, vocab_size, joint=True)


@contextmanager
def single_threaded() -> Iterator[None]:
    """As fast for small models as two threads, and up to ten times as fast on a busy machine."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n_threads)


@pytest.fixture
def one_thread() -> Iterator[None]:
    with single_threaded():
        yield


def write_lines(path: Path, lines: list[str]) -> None:
    path.write_bytes("".join(line + "\n" for line in lines).encode())


def write_corpus(folder: Path, sizes: dict[str, int], seed: int = 0, longest: int = 6) -> None:
    """A corpus whose targets are their sources' words in reverse, from 2 to ``longest`` of them."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["ba", "du", "ke", "lo", "mi", "na", "po", "ru", "si", "to", "vu", "ze"]
    for split, size in sizes.items():
        rows = [rng.choices(words, k=rng.randint(2, longest)) for _ in range(size)]
        write_lines(folder / f"{split}.src", [" ".join(row) for row in rows])
        write_lines(folder / f"{split}.tgt", [" ".join(reversed(row)) for row in rows])


TINY_CONFIG = """
[data]
src = "src"
tgt = "tgt"
path = {path!r}
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
max_tokens_per_batch = 512
learning_rate = 5e-3
warmup_steps = 50
label_smoothing = 0.0
validate_every = 150
select_by = "bleu"
precision = "float32"
"""


# Four seeds of five translate all sentences of the tests right; with fewer or larger steps few do.
LEARNS_TO_REVERSE = """
base = "base.toml"
[tokenizer]
vocab_size = 300
[train]
epochs = 16
max_tokens_per_batch = 300
lr_schedule = "cosine"
"""


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration file for the reversal corpus beside it, the same for all test processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "reverse"
    path = folder / "tiny.toml"
    with FileLock(f"{folder}.lock"):
        if not path.exists():
            write_corpus(folder / "corpus", {"train": 3000, "valid": 60, "test": 100}, longest=4)
            base_text = TINY_CONFIG.format(path=str(folder / "corpus"))
            (folder / "base.toml").write_text(base_text, encoding="utf-8")
            path.write_text(LEARNS_TO_REVERSE, encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained_run(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learned to reverse, through the command line: by the first that needs it."""
    trained = tiny_config.parent / "trained"
    with FileLock(f"{trained}.lock"), single_threaded():
        if not (trained / "training.json").exists():
            assert main(["train", "--config", str(tiny_config), "--run", str(trained)]) == 0
    return shutil.copytree(trained, tmp_path_factory.mktemp("trained") / "run")


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> RunFolder:
    """A copy of that run, to be changed."""
    shutil.copytree(trained_run, tmp_path / "run")
    return RunFolder(tmp_path / "run")


@pytest.fixture(scope="module")
def browser_tab() -> Iterator["Page"]:
    """One for all tests of a file: another takes longer than most of them."""
    from browser import CHROMIUM
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium.new_page()
        chromium.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a trained model are slow: ten seconds for the first of them in a process.

    The files that take longest come first, so that several processes end at the same time.
    """
    longest = ["experiments", "variants", "training", "cli", "export", "parallel", "live", "serve"]
    names = [f"test_{name}" for name in longest]
    items.sort(key=lambda item: item.path.stem not in names)
    for item in items:
        if "trained_run" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
