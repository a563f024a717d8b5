"""Preparation: a run folder with everything that training needs, corpus and tokenizer."""

import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from seq2seq.checkpoint import (
    has_begun,
    load_run_config,
    refuse_other_settings,
    save_run_config,
)
from seq2seq.corpus import (
    Corpus,
    Pair,
    Pairs,
    Report,
    load_report,
    report_path,
    split_path,
    stream_split,
)
from seq2seq.errors import UserError
from seq2seq.files import write_lines, write_text, written_whole
from seq2seq.held_out import HeldOut, has_text
from seq2seq.lock import locked
from seq2seq.settings import Config, DataConfig
from seq2seq.sources import open_source, read_annotations
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


def prepare_corpus(config: Config, run: Path) -> Report:
    """Read the corpus that ``config`` names and write its splits into ``run/corpus``.

    Validation and test pairs are kept as they are, whatever they hold: they are what a system
    is judged by. (Only line breaks within a sentence of a hub data set become spaces.) Training
    pairs with an empty side are left out and counted. The tokenizer of the corpus that was there
    before goes with it.

    Raises:
        UserError: the corpus cannot be reached or read, or a split is empty.
    """
    data = config.data
    sources = open_source(data)
    train = sources.pop("train")
    splits = {split: Corpus.of(pairs()) for split, pairs in sources.items()}
    _refuse_empty(data, {split: len(corpus) for split, corpus in splits.items()})
    notes = {split: read_annotations(data, split, corpus) for split, corpus in splits.items()}
    held_out = HeldOut(train, data.held_out)
    if splits.keys() <= {"valid"}:
        held_out.choose("test")
    if "valid" not in splits:
        held_out.choose("valid")
    counts, taken = _write_train(data, run, train, held_out)
    splits |= taken
    n_pairs = {split: len(corpus) for split, corpus in splits.items()}
    for split, corpus in splits.items():
        write_lines(split_path(run, split, data.src), corpus.src)
        write_lines(split_path(run, split, data.tgt), corpus.tgt)
        for ending in ("align", "tags"):
            split_path(run, split, ending).unlink(missing_ok=True)  # it may be of another corpus
        for ending, lines in notes.get(split, {}).items():
            write_lines(split_path(run, split, ending), lines)
    report = Report(
        source=data.directory or data.hub.name,
        train_pairs=counts["train"],
        valid_pairs=n_pairs.pop("valid"),
        test_pairs=n_pairs,
        empty_pairs_left_out=counts["empty"],
    )
    write_text(report_path(run), json.dumps(asdict(report), indent=2) + "\n")
    return report


def _refuse_empty(data: DataConfig, n_pairs: dict[str, int]) -> None:
    for split, number in n_pairs.items():
        if not number:
            source = data.directory or data.hub.name
            raise UserError(f"{source}: the {split} split has no sentence pairs")


def _write_train(
    data: DataConfig, run: Path, train: Pairs, held_out: HeldOut
) -> tuple[Counter[str], dict[str, Corpus]]:
    """Write the training pairs but the empty and the held out into ``run``, if all can be read.

    What was made of the corpus before goes just before this one appears: it must not survive a
    failure as if it were new.

    Returns:
        how many there are of each kind, and those held out, by split.
    """
    counts: Counter[str] = Counter()
    taken: dict[str, list[Pair]] = {split: [] for split in held_out.ranks}
    src_path, tgt_path = (split_path(run, "train", language) for language in (data.src, data.tgt))
    with written_whole(src_path) as write_src, written_whole(tgt_path) as write_tgt:
        for pair in train():
            kind = held_out.split_of(pair[0]) if has_text(pair) else "empty"
            counts[kind] += 1
            if kind == "train":
                write_src(pair[0].encode() + b"\n")
                write_tgt(pair[1].encode() + b"\n")
            elif kind in taken:
                taken[kind].append(pair)
        _refuse_empty(data, {"train": counts["train"]})
        remove_tokenizer(run)
        report_path(run).unlink(missing_ok=True)  # it stands for a complete corpus
    return counts, {split: Corpus.of(pairs) for split, pairs in taken.items()}


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
