"""A first configuration for a corpus: settings that suit its size (docs/recipe-log.md)."""

import re
from pathlib import Path
from typing import Any, get_args

from seq2seq.config import Config, DataConfig, flatten, settings, toml_value
from seq2seq.data.sources import open_corpus
from seq2seq.data.tokenizer import clean
from seq2seq.utils import UserError, write_lines

EXPORTS = "gaussian scores better, scaled_dot can be exported to CTranslate2"
SHAPE = ("d_model", "d_ff", "n_heads", "encoder_layers", "decoder_layers", "dropout")
TRAIN = ("epochs", "max_tokens_per_batch", "learning_rate")
CHOSEN = ["tokenizer.vocab_size", *(f"model.{x}" for x in SHAPE), *(f"train.{x}" for x in TRAIN)]
Settings = dict[str, Any]  # by dotted key
# The values of CHOSEN for at most so many training pairs, and why.
BY_SIZE: list[tuple[float, str, list[float]]] = [
    (200, "too few to learn to translate", [300, 64, 256, 4, 1, 1, 0.3, 100, 512, 3e-3]),
    (2_000, "a small model, many passes", [1000, 128, 512, 4, 2, 2, 0.3, 60, 1024, 3e-3]),
    (12_000, "a small model", [3000, 128, 512, 4, 2, 2, 0.3, 30, 1024, 3e-3]),
    (100_000, "as for Multi30k", [6000, 256, 1024, 4, 3, 3, 0.3, 20, 2048, 1.5e-3]),
    (600_000, "untested", [10_000, 256, 1024, 4, 4, 4, 0.2, 12, 4096, 1.5e-3]),
    (float("inf"), "untested; for a GPU", [16_000, 512, 2048, 8, 6, 6, 0.1, 8, 8192, 7e-4]),
]


def suit(n_pairs: int, n_tokens: float, n_characters: int, n_words: int) -> tuple[Settings, str]:
    """What suits so many pairs and tokens, different characters and different words; and why."""
    why, values = next(row[1:] for row in BY_SIZE if n_pairs <= row[0])
    chosen: Settings = dict(zip(CHOSEN, values, strict=True))
    if n_pairs <= 100_000:
        chosen["model.self_attention.score"] = "gaussian"  # less to learn than by content
    # All characters and bytes, and some of the words, which are what merges end in.
    least = 260 + n_characters
    vocab_size = max(chosen["tokenizer.vocab_size"], least + 40)
    chosen["tokenizer.vocab_size"] = min(vocab_size, least + n_words // 2)
    n_steps = n_tokens * chosen["train.epochs"] / chosen["train.max_tokens_per_batch"]
    chosen["train.warmup_steps"] = min(4000, int(n_steps / 10))
    chosen["train.validate_every"] = 50 * max(1, round(n_steps / 20 / 50))
    if n_pairs <= 12_000:
        chosen["decoding.no_repeat"] = 3
    return chosen, why


def write_defaults(data: DataConfig, path: Path) -> list[str]:
    """Write a configuration for the corpus of ``data`` to ``path``; returns lines for the user.

    ``UserError`` if the file is there already, or the training split cannot be read or is empty.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already: name another file with -o")
    read, n_words, n_characters = open_corpus(data)["train"], 0, 0
    characters, words = {" "}, set[str]()
    for pair in read():
        text = clean(" ".join(pair))
        n_words, n_characters = n_words + len(text.split()), n_characters + len(text)
        if read.n_pairs < 100_000:  # they matter to small vocabularies
            characters.update(text)
            words.update(re.findall(r"[^\W\d_]{2,}", text))
    if not n_words:
        raise UserError(f"{data.path}: the train split has no sentence pairs")
    n_tokens = max(0.7 * n_words, n_characters / 8)  # on one side
    chosen, why = suit(read.n_pairs, n_tokens, len(characters), len(words))
    n_sides = 2 * read.n_pairs
    size = f"{n_words / n_sides:.1f} words, {n_characters / n_sides:.0f} characters: {why}"
    lines, default = [f"# For {read.n_pairs:,} pairs of {size} (seq2seq init)."], flatten(Config())
    for key, value in (flatten(Config(data)) | chosen).items():
        section, name = key.rsplit(".", 1)
        if key in chosen or key in ("data.src", "data.tgt") or value != default[key]:
            lines += [] if f"[{section}]" in lines else ["", f"[{section}]"]
            comment = EXPORTS if name == "score" else get_args(settings()[key])[-1]
            lines.append(f"{name} = {toml_value(value)}  # {comment}")
    write_lines(path, lines)
    return [str(read), f"{path}: for {read.n_pairs:,} pairs of {size}"]
