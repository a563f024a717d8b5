"""A first configuration for a corpus: settings that suit its size (docs/recipe-log.md)."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from seq2seq.config import Config, DataConfig, flatten, settings, toml_value
from seq2seq.data.corpus import Pair, open_corpus
from seq2seq.data.tokenizer import clean
from seq2seq.utils import UserError, write_lines

SHAPE = ("d_model", "d_ff", "n_heads", "encoder_layers", "decoder_layers", "dropout")
TRAIN = ("epochs", "max_tokens_per_batch", "learning_rate")
CHOSEN = ["tokenizer.vocab_size", *(f"model.{x}" for x in SHAPE), *(f"train.{x}" for x in TRAIN)]
ALWAYS = ("data.src", "data.tgt", "data.directory", "data.n_held_out")
# The values of CHOSEN for at most so many training pairs, and why.
BY_SIZE: list[tuple[float, str, list[float]]] = [
    (200, "too few to learn to translate", [300, 64, 256, 4, 1, 1, 0.3, 100, 512, 3e-3]),
    (2_000, "few: small, many passes", [1000, 128, 512, 4, 2, 2, 0.3, 60, 1024, 3e-3]),
    (12_000, "rather few: small", [3000, 128, 512, 4, 2, 2, 0.3, 30, 1024, 2e-3]),
    (100_000, "as for Multi30k", [6000, 256, 1024, 4, 3, 3, 0.3, 20, 2048, 1.5e-3]),
    (600_000, "not tried", [10_000, 256, 1024, 4, 4, 4, 0.2, 12, 4096, 1.5e-3]),
    (float("inf"), "not tried, GPU", [16_000, 512, 2048, 8, 6, 6, 0.1, 8, 8192, 7e-4]),
]


class CorpusSize:
    """How much the pairs of a split hold, on the source and on the target side."""

    def __init__(self, pairs: Iterable[Pair]) -> None:
        self.n_pairs, self.n_words, self.n_characters = 0, [0, 0], [0, 0]
        self.alphabet, self.vocabulary = {" "}, set[str]()
        for pair in pairs:
            sides = [clean(side).strip() for side in pair]
            if all(sides):
                self.n_pairs += 1
                for i, text in enumerate(sides):
                    self.n_words[i] += len(text.split())
                    self.n_characters[i] += len(text)
                    if self.n_pairs < 100_000:  # they matter to small vocabularies only
                        self.alphabet.update(text)
                        self.vocabulary.update(re.findall(r"[^\W\d_]{2,}", text))

    def __str__(self) -> str:
        means = [[n / self.n_pairs for n in both] for both in (self.n_words, self.n_characters)]
        words, characters = (f"{src:.1f} and {tgt:.1f}" for src, tgt in means)
        return f"{self.n_pairs:,} training pairs of {words} words, {characters} characters"

    def suitable(self) -> tuple[dict[str, Any], str]:
        """The settings that suit it, and why."""
        why, values = next(row[1:] for row in BY_SIZE if self.n_pairs <= row[0])
        chosen: dict[str, Any] = dict(zip(CHOSEN, values, strict=True))
        # Subwords: every character, and some of the words that their merges end in.
        least = 260 + len(self.alphabet)
        size = max(chosen["tokenizer.vocab_size"], least + 40)
        chosen["tokenizer.vocab_size"] = min(size, least + len(self.vocabulary) // 2)
        n_tokens = max(*(1.4 * n for n in self.n_words), *(n / 4 for n in self.n_characters))
        n_steps = n_tokens * chosen["train.epochs"] / chosen["train.max_tokens_per_batch"]
        chosen["train.warmup_steps"] = min(4000, int(n_steps / 10))
        chosen["train.validate_every"] = 50 * max(1, round(n_steps / 20 / 50))
        return chosen, why


def write_defaults(data: DataConfig, path: Path) -> list[str]:
    """Write a configuration for the corpus of ``data`` to ``path``; returns lines for the user.

    ``UserError`` if the file is there already, or the training split cannot be read or is empty.
    """
    if path.exists() or path.is_symlink():
        raise UserError(f"{path}: is there already: name another file with -o")
    size = CorpusSize(open_corpus(data)["train"]())
    if not size.n_pairs:
        raise UserError(f"{data.directory}: the train split has no sentence pairs")
    chosen, why = size.suitable()
    n_held_out = min(data.n_held_out, max(1, size.n_pairs // 20))
    given = flatten(Config(replace(data, n_held_out=n_held_out)))
    default = flatten(Config())
    named = [key for key in given if key in ALWAYS or given[key] != default[key]]
    lines = [f"# {size}: {why}.", "# Chosen by seq2seq init; see docs/configuration.md."]
    section = ""
    for key, value in ({key: given[key] for key in named} | chosen).items():
        if section != (section := key.rpartition(".")[0]):
            lines += ["", f"[{section}]"]
        meaning = get_args(settings()[key])[-1]
        lines.append(f"{key.rpartition('.')[2]} = {toml_value(value)}  # {meaning}")
    write_lines(path, lines)
    summary = ", ".join(f"{key.rpartition('.')[2]} {value:,}" for key, value in chosen.items())
    return [f"{data.directory}: {size}: {why}", f"{path}: {summary}"]
