"""Preparation: a run folder with everything that training needs, corpus and tokenizer."""

import random
from collections.abc import Iterator
from pathlib import Path

from seq2seq.checkpoint import (
    has_begun,
    load_run_config,
    refuse_other_settings,
    save_run_config,
)
from seq2seq.corpus import Corpus, Pair, load_report, prepare_corpus, stream_split
from seq2seq.errors import UserError
from seq2seq.lock import locked
from seq2seq.settings import Config
from seq2seq.tokenizer import Tokenizer, remove_tokenizer

PAIRS_TO_LEARN_FROM = 200_000  # at most: sentencepiece holds what it learns from in memory


def prepare(config: Config, run: Path, stage: str = "all") -> str:
    """Read the corpus into ``run`` and learn the tokenizer from its training split.

    Of a large corpus ``PAIRS_TO_LEARN_FROM`` pairs are drawn, the same ones each time.

    Args:
        config: names the corpus and the tokenizer's settings.
        run: the folder to prepare; once training has begun in it, it is left as it is.
        stage: ``corpus`` or ``tokenizer`` for that alone (a tokenizer needs the corpus to be
            there), ``all`` for both.

    Returns:
        what was done, for the user.

    Raises:
        UserError: the corpus cannot be read, the run holds another corpus or was trained with
            other settings, or another process is at work in it.
    """
    with locked(run):
        return _prepare(config, run, stage)


def _prepare(config: Config, run: Path, stage: str) -> str:
    refuse_other_settings(run, config)
    if has_begun(run):
        return f"{run}: training has begun; corpus and tokenizer stay as they are"
    done = []
    # What is replaced goes first, the configuration that says what the folder holds comes last.
    if stage in ("corpus", "all"):
        done.append(str(prepare_corpus(config, run)))
        save_run_config(run, config)
    if stage in ("tokenizer", "all"):
        n_pairs = load_report(run).train_pairs  # there when the corpus is complete
        if load_run_config(run).data != config.data:
            raise UserError(f"{run} holds another corpus: prepare it again")
        remove_tokenizer(run)
        pairs = stream_split(config.data, run, "train")
        chosen = Corpus.of(drawn(pairs, n_pairs, PAIRS_TO_LEARN_FROM))
        tokenizer = Tokenizer.train(config.tokenizer, chosen.src, chosen.tgt)
        save_run_config(run, config)
        tokenizer.save(run)
        done.append(f"{run / 'tokenizer.model'}: {tokenizer.tgt_vocab_size:,} subwords")
    return "\n".join(done)


def drawn(pairs: Iterator[Pair], n_pairs: int, most: int) -> Iterator[Pair]:
    """As many of ``n_pairs`` pairs as wanted, in their order; all, if there are no more.

    Each has the same chance (Knuth's algorithm S); none but the one at hand is in memory.
    """
    rng = random.Random(0)
    wanted = most
    for number, pair in enumerate(pairs):
        if rng.random() * (n_pairs - number) < wanted:
            wanted -= 1
            yield pair


def is_prepared(config: Config, run: Path) -> bool:
    """Whether ``run`` holds corpus and tokenizer for this very configuration."""
    if not (run / "tokenizer.model").exists():
        return False
    there = load_run_config(run)
    return (there.data, there.tokenizer) == (config.data, config.tokenizer)
