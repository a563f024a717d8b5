"""A first configuration for a corpus: settings that suit its size (docs/recipe-log.md)."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from seq2seq.config import Config, DataConfig, flatten, settings, toml_value
from seq2seq.data.corpus import open_corpus
from seq2seq.data.tokenizer import clean
from seq2seq.utils import UserError, write_lines

DATA = {f"data.{name}" for name in ("src", "tgt", "directory", "n_held_out")}
SHAPE = ("d_model", "d_ff", "n_heads", "encoder_layers", "decoder_layers", "dropout")
TRAIN = ("epochs", "max_tokens_per_batch", "learning_rate")
CHOSEN = ["tokenizer.vocab_size", *(f"model.{x}" for x in SHAPE), *(f"train.{x}" for x in TRAIN)]
# The values of CHOSEN for at most so many training pairs, and why.
BY_SIZE: list[tuple[float, str, list[float]]] = [
    (200, "too few to learn to translate", [300, 64, 256, 4, 1, 1, 0.3, 100, 512, 3e-3]),
    (2_000, "few: small, many passes", [1000, 128, 512, 4, 2, 2, 0.3, 60, 1024, 3e-3]),
    (12_000, "rather few: small", [3000, 128, 512, 4, 2, 2, 0.3, 30, 1024, 2e-3]),
    (100_000, "as for Multi30k", [6000, 256, 1024, 4, 3, 3, 0.3, 20, 2048, 1.5e-3]),
    (600_000, "not tried", [10_000, 256, 1024, 4, 4, 4, 0.2, 12, 4096, 1.5e-3]),
    (float("inf"), "not tried, GPU", [16_000, 512, 2048, 8, 6, 6, 0.1, 8, 8192, 7e-4]),
]


def suitable_settings(n_pairs: int, n_tokens: float, n_characters: int, n_words: int) -> Any:
    """Settings for so many pairs and tokens, different characters and different words."""
    chosen = dict(zip(CHOSEN, next(row[2] for row in BY_SIZE if n_pairs <= row[0]), strict=True))
    # All characters and bytes, and some of the words, which are what merges end in.
    least = 260 + n_characters
    vocab_size = max(chosen["tokenizer.vocab_size"], least + 40)
    chosen["tokenizer.vocab_size"] = min(vocab_size, least + n_words // 2)
    n_steps = n_tokens * chosen["train.epochs"] / chosen["train.max_tokens_per_batch"]
    chosen["train.warmup_steps"] = min(4000, int(n_steps / 10))
    chosen["train.validate_every"] = 50 * max(1, round(n_steps / 20 / 50))
    return chosen


def write_defaults(data: DataConfig, path: Path) -> list[str]:
    """Write a configuration for the corpus of ``data`` to ``path``; returns lines for the user.

    ``UserError`` if the file is there already, or the training split cannot be read or is empty.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already: name another file with -o")
    n_pairs = n_words = length = 0
    characters, words = {" "}, set[str]()
    for pair in open_corpus(data)["train"]():
        src, tgt = (clean(side).strip() for side in pair)
        if src and tgt:
            both = f"{src} {tgt}"
            n_pairs, n_words, length = (
                n_pairs + 1,
                n_words + len(both.split()),
                length + len(both) - 1,
            )
            if n_pairs < 100_000:  # they matter to small vocabularies
                characters.update(both)
                words.update(re.findall(r"[^\W\d_]{2,}", both))
    if not n_pairs:
        raise UserError(f"{data.directory}: the train split has no sentence pairs")
    why = next(row[1] for row in BY_SIZE if n_pairs <= row[0])
    n_tokens = max(0.7 * n_words, length / 8)  # on one side
    chosen = suitable_settings(n_pairs, n_tokens, len(characters), len(words))
    means = f"{n_words / n_pairs / 2:.1f} words ({length / n_pairs / 2:.1f} characters) a side"
    size = f"{n_pairs:,} training pairs, {means}: {why}"
    config = Config(replace(data, n_held_out=min(data.n_held_out, max(1, n_pairs // 20))))
    default, section = flatten(Config()), ""
    given = {k: v for k, v in flatten(config).items() if k in DATA or v != default[k]}
    lines = [f"# {size}", "# Chosen by seq2seq init; all settings: docs/configuration.md."]
    for key, value in (given | chosen).items():
        if section != (section := key.rpartition(".")[0]):
            lines += ["", f"[{section}]"]
        lines.append(
            f"{key.rpartition('.')[2]} = {toml_value(value)}  # {get_args(settings()[key])[-1]}"
        )
    write_lines(path, lines)
    summary = ", ".join(f"{key.rpartition('.')[2]} {value:,}" for key, value in chosen.items())
    return [f"{data.directory}: {size}", f"{path}: {summary}"]
