"""Preparation: everything that training needs, corpus and tokenizer, copied into the run folder.

What is replaced is removed first; the file that says that the preparation is complete comes last.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import numpy as np

from seq2seq.config import Config, DataConfig
from seq2seq.data.corpus import Corpus, CorpusReport, load_report, open_corpus, split_prefixes
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, atomic_write, iter_lines, write_json, write_lines

Check = Callable[[DataConfig, Mapping[str, Corpus]], None]  # raises UserError
HeldOut = Mapping[str, set[int]]  # hashes of the source sentences, by split


def prepare(
    config: Config, run: RunFolder | Path | str, stage: str = "all", check: Check | None = None
) -> str:
    """Copy the corpus into ``run`` and learn the tokenizer from its training split.

    Nothing is done once training has started. ``stage`` is ``corpus``, ``tokenizer`` (the corpus
    must be there), or ``all``. ``check`` sees the splits but the training split before anything is
    replaced. Returns what was done, for the user. ``UserError`` if the corpus cannot be read, or
    the run holds another, was trained with other settings, or is in use.
    """
    run, data = RunFolder(run), config.data
    with run.lock():
        run.check_same_config(config)
        if run.has_started:
            return f"{run}: training has started; corpus and tokenizer stay as they are"
        done = []
        if stage in ("corpus", "all"):
            done.append(str(prepare_corpus(data, run, check)))
            run.save_config(config)
        if stage in ("tokenizer", "all"):
            load_report(run)  # there when the corpus is complete
            if run.load_config().data != data:
                raise UserError(f"{run} holds another corpus: prepare it again")
            Tokenizer.remove(run)
            src, tgt = (iter_lines(run.split_file("train", x)) for x in (data.src, data.tgt))
            tokenizer = Tokenizer.train(config.tokenizer, src, tgt)
            run.save_config(config)
            tokenizer.save(run)
            done.append(f"{run.tokenizer_file}: {len(tokenizer.tgt):,} subwords")
        return "\n".join(done)


def is_prepared(config: Config, run: RunFolder | Path | str) -> bool:
    """Whether ``run`` is prepared for ``config``; ``UserError`` if it was trained with another."""
    run = RunFolder(run)
    if not run.tokenizer_file.exists():
        return False
    run.check_same_config(config)
    saved = run.load_config()
    return run.has_started or (saved.data, saved.tokenizer) == (config.data, config.tokenizer)


def prepare_corpus(data: DataConfig, run: RunFolder, check: Check | None = None) -> CorpusReport:
    """Write the splits of the corpus that ``data`` names into ``run``, and the report on them.

    Validation and test pairs are kept as they are, empty ones too: systems are judged by them.
    Training pairs with an empty side are left out and counted. Gold alignments and tags beside a
    split's files are copied along. If the corpus is faulty, the one in the run is still there.
    """
    source = data.directory or data.hub.name
    readers = open_corpus(data)
    read_train = readers.pop("train")
    splits = {split: Corpus.of(read()) for split, read in readers.items()}
    if check:
        check(data, splits)
    for split in (name for name, corpus in splits.items() if not corpus):
        raise UserError(f"{source}: the {split} split has no sentence pairs")

    held_out: dict[str, set[int]] = {}
    missing = ["test"] * (splits.keys() <= {"valid"}) + ["valid"] * ("valid" not in splits)
    for split in missing:
        sources = (src for src, tgt in read_train() if src.strip() and tgt.strip())
        held_out[split] = choose_held_out(sources, split, data.n_held_out, held_out)
        splits[split] = Corpus([], [])
    n_train = n_empty = 0
    src_file, tgt_file = (run.split_file("train", language) for language in (data.src, data.tgt))
    with atomic_write(src_file) as write_src, atomic_write(tgt_file) as write_tgt:
        for src, tgt in read_train():
            if not (src.strip() and tgt.strip()):
                n_empty += 1
            elif held_for := held_out_for(src, held_out):
                splits[held_for].src.append(src)
                splits[held_for].tgt.append(tgt)
            else:
                n_train += 1
                write_src(src.encode() + b"\n")
                write_tgt(tgt.encode() + b"\n")
        if not n_train:
            raise UserError(f"{source}: the train split has no sentence pairs")
        Tokenizer.remove(run)  # it is of the corpus that is replaced now
        run.report_file.unlink(missing_ok=True)

    annotations = (f"{data.src}-{data.tgt}.align", f"{data.tgt}-{data.src}.align", "tags")
    prefixes = split_prefixes(data)
    for split, corpus in splits.items():
        write_lines(run.split_file(split, data.src), corpus.src)
        write_lines(run.split_file(split, data.tgt), corpus.tgt)
        for extension in annotations:
            run.split_file(split, extension).unlink(missing_ok=True)
            original = Path(f"{prefixes.get(split)}.{extension}")
            if split in prefixes and original.exists():
                write_lines(run.split_file(split, extension), iter_lines(original))
    n_pairs = {split: len(corpus) for split, corpus in splits.items()}
    report = CorpusReport(source, n_train, n_pairs.pop("valid"), n_pairs, n_empty)
    write_json(run.report_file, asdict(report))
    return report


def choose_held_out(sources: Iterable[str], split: str, n_pairs: int, taken: HeldOut) -> set[int]:
    """The lowest hashes of the sources of ``n_pairs`` pairs, those for other splits left out.

    So the order of the corpus does not matter, and a sentence is never on both sides.
    """
    hashes = (sentence_hash(split, src) for src in sources if not held_out_for(src, taken))
    ranked = np.sort(np.fromiter(hashes, dtype=np.uint64))  # 8 bytes per pair is all that is kept
    chosen, wanted = set[int](), n_pairs
    for value, copies in groupby(ranked.data):
        if (n_copies := sum(1 for _ in copies)) <= wanted:
            chosen.add(value)
            wanted -= n_copies
        if not wanted:
            break
    if wanted or len(ranked) == n_pairs:
        reason = f"too many for a {split} split from {len(ranked):,} training pairs"
        raise UserError(f"data.n_held_out = {n_pairs}: {reason}")
    return chosen


def held_out_for(src: str, held_out: HeldOut) -> str | None:
    """The split that the pairs with this source sentence are held out for, if any."""
    return next((x for x, hashes in held_out.items() if sentence_hash(x, src) in hashes), None)


def sentence_hash(split: str, sentence: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{split}\0{sentence}".encode()).digest()[:8], "big")
