"""``seq2seq diversify``: more pairs, from own models of both directions (Nguyen et al. 2020)."""

import argparse
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, product
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, overrides_of, show
from seq2seq.cli.prepare import MAKING, add_making
from seq2seq.config import DataConfig
from seq2seq.run_folder import RunFolder
from seq2seq.shipped import find_config
from seq2seq.utils import UserError, file_name, iter_lines, new_folder, read_lines, write_lines

BEAM = 4
AT_A_TIME = 2048  # sentences; in a batch are those of a length


def add_to(commands: Commands, with_part_names: bool) -> None:
    text = "train models of both directions, and add their translations to the training set"
    diversify = add_command(commands, run_diversify, f"[--teachers N] {MAKING}", text)
    diversify.description = (
        f"{text}: FOLDER/pairs is a corpus for either direction then, with 1 + 2 N times the "
        "training pairs. What was interrupted resumes."
    )
    text = "models of each direction, with seeds from 1 (%(default)s)"
    diversify.add_argument("--teachers", type=int, default=3, metavar="N", help=text)
    add_making(diversify, with_part_names)


def run_diversify(options: argparse.Namespace) -> None:
    from seq2seq.api import config_and_run, train
    from seq2seq.data.corpus import load_report

    if options.teachers < 1:
        raise UserError(f"--teachers {options.teachers}: must be a positive number")
    given = overrides_of(options)
    config, run = config_and_run(options.config, options.run, given)
    path = find_config(options.config)
    data = in_order_of_language(config.data)
    teachers: list[tuple[RunFolder, DataConfig]] = []
    directions = [(data.src, data.tgt), (data.tgt, data.src)]
    for seed, (src, tgt) in product(range(1, options.teachers + 1), directions):
        teacher, data = RunFolder(run.path / f"{src}-{tgt}-{seed}"), replace(data, src=src, tgt=tgt)
        show(f"teacher {len(teachers) + 1} of {2 * options.teachers}: {teacher}")
        settings = {f"data.{key}": value for key, value in vars(data).items()}
        train(path, teacher.path, given | settings | {"train.seed": seed})
        translate_training_set(teacher, data)
        teachers.append((teacher, data))
        # The others read the first one's copy of the corpus: all hold out the same sentences.
        tests = " ".join(map(file_name, load_report(teacher).test_pairs))
        data = replace(DataConfig(), path=str(teachers[0][0].corpus), test=tests)
        data = replace(data, max_tokens=config.data.max_tokens)
    write_pairs(teachers, run.path / "pairs")
    show(f"{run.path / 'pairs'}: the corpus to train on, with --data.path")


def in_order_of_language(data: DataConfig) -> DataConfig:
    """The corpus from the language that comes first: the other direction has the same teachers."""
    if data.src < data.tgt:
        return data
    columns = ",".join(reversed(data.columns.split(",")))
    return replace(data, src=data.tgt, tgt=data.src, columns=columns)


def translated_file(teacher: RunFolder) -> Path:
    return teacher.path / "translated.txt"


def translate_training_set(teacher: RunFolder, data: DataConfig) -> None:
    from tqdm import tqdm

    from seq2seq.translator import Translator

    file = translated_file(teacher)
    if file.exists() and file.stat().st_mtime >= teacher.weights_file.stat().st_mtime:
        return
    translator = Translator.load(teacher, {"decoding.beam": BEAM})
    lines = read_lines(teacher.split_file("train", data.src))
    show(f"{file}: {len(lines):,} sentences, translated with a beam of {BEAM}")
    starts = tqdm(range(0, len(lines), AT_A_TIME), "translating", disable=None)

    def translations() -> Iterator[str]:
        for i in starts:
            found = translator.search(lines[i : i + AT_A_TIME], split=False)
            yield from (best.text for best, *_ in found)

    write_lines(file, translations())


def write_pairs(teachers: list[tuple[RunFolder, DataConfig]], folder: Path) -> None:
    """Real pairs, then a real sentence and a translation for each; the other splits as they are."""
    first, data = teachers[0]
    shutil.rmtree(folder, ignore_errors=True)
    with new_folder(folder) as new:
        for file in first.corpus.iterdir():
            if not file.name.startswith("train.") and file.suffix != ".json":
                shutil.copy(file, new)
        for language in (data.src, data.tgt):
            files = [real := first.split_file("train", language)]
            files += [translated_file(t) if language == x.tgt else real for t, x in teachers]
            write_lines(new / f"train.{language}", chain.from_iterable(map(iter_lines, files)))
