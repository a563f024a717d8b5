"""Preparation: a run folder with everything that training needs, corpus and tokenizer."""

from pathlib import Path

from seq2seq.checkpoint import claim_run
from seq2seq.config import Config, load_config
from seq2seq.corpus import load_report, load_split, prepare_corpus
from seq2seq.tokenizer import Tokenizer


def prepare(config: Config, run: Path, stage: str = "all") -> str:
    """Read the corpus into ``run`` and learn the tokenizer from its training split.

    Args:
        config: names the corpus and the tokenizer's settings.
        run: the folder to prepare; once training has begun in it, it is left as it is.
        stage: ``corpus`` or ``tokenizer`` for that alone (a tokenizer needs the corpus to be
            there), ``all`` for both.

    Returns:
        what was done, for the user.

    Raises:
        UserError: the corpus cannot be read, or the run was trained with other settings.
    """
    claim_run(run, config)
    if (run / "last.pt").exists():
        return f"{run}: training has begun; corpus and tokenizer stay as they are"
    done = []
    if stage in ("corpus", "all"):
        # A tokenizer learned from an earlier corpus must not outlive it.
        (run / "tokenizer.model").unlink(missing_ok=True)
        done.append(str(prepare_corpus(config, run)))
    if stage in ("tokenizer", "all"):
        load_report(run)
        train = load_split(config.data, run, "train")
        tokenizer = Tokenizer.train(config.tokenizer, train.src, train.tgt)
        tokenizer.save(run)
        done.append(f"{run / 'tokenizer.model'}: {tokenizer.tgt_vocab_size:,} subwords")
    return "\n".join(done)


def is_prepared(config: Config, run: Path) -> bool:
    """Whether ``run`` holds corpus and tokenizer for this very configuration."""
    if not (run / "tokenizer.model").exists() or not (run / "config.toml").exists():
        return False
    there = load_config(run / "config.toml")
    return (there.data, there.tokenizer) == (config.data, config.tokenizer)
