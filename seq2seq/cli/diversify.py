"""``seq2seq diversify``: synthetic pairs by models of both directions (Nguyen et al. 2020)."""

import argparse
from dataclasses import replace
from filecmp import cmp
from itertools import product
from pathlib import Path
from typing import Any

from seq2seq.cli.common import Commands, add_command, overrides_of, show
from seq2seq.cli.prepare import MAKING, add_making
from seq2seq.config import DataConfig, DecodingConfig
from seq2seq.run_folder import RunFolder
from seq2seq.shipped import find_config
from seq2seq.utils import UserError, atomic_write, file_name, read_lines

DECODING = DecodingConfig(beam=4)
AT_A_TIME = 2048  # sentences; those of a length are translated together


def add_to(commands: Commands, with_part_names: bool) -> None:
    text = "prepare a run with synthetic pairs, by teachers that are trained for it"
    usage = f"[--teacher-config FILE] [--teachers FOLDER] [--n-teachers N] {MAKING}"
    diversify = add_command(commands, run_diversify, usage, text)
    diversify.description = (
        f"{text}: N models of each direction are trained on the corpus and translate what they "
        "were trained on. Its 1 + 2 N times as many pairs are what `seq2seq train` then trains the "
        "run on. Run the same command to resume."
    )
    text = "settings of the teachers (those of --config)"
    diversify.add_argument("--teacher-config", metavar="FILE", help=text)
    text = "folder of their runs; the other direction can use them too (RUN/teachers)"
    diversify.add_argument("--teachers", type=Path, metavar="FOLDER", help=text)
    text = "models of each direction, with seeds from 1 (%(default)s)"
    diversify.add_argument("--n-teachers", type=int, default=3, metavar="N", help=text)
    add_making(diversify, with_part_names)


def run_diversify(options: argparse.Namespace) -> None:
    from seq2seq.api import config_and_run, train
    from seq2seq.data.corpus import load_report
    from seq2seq.data.prepare import prepare

    given, n = overrides_of(options), options.n_teachers
    if n < 1:
        raise UserError(f"--n-teachers {n}: must be a positive number")
    config, run = config_and_run(options.config, options.run, given)
    teacher_config = find_config(options.teacher_config or options.config)
    if config.train.init_from:
        raise UserError("train.init_from: teachers start from nothing; leave it out")
    real = RunFolder(options.teachers or run.path / "teachers")
    if run.has_started:
        show(f"{run}: training has started; its corpus stays as it is")
        return
    show(*prepare(config, real, "corpus").split("\n"))

    pairs: list[tuple[Path, Path]] = []
    languages = (config.data.src, config.data.tgt)
    for seed, (src, tgt) in product(range(1, n + 1), (languages, languages[::-1])):
        teacher = RunFolder(real.path / f"{src}-{tgt}-{seed}")
        show(f"{teacher}: teacher {len(pairs) + 1} of {2 * n}")
        # They read the prepared corpus, so that all hold out the same sentences.
        tests = " ".join(map(file_name, load_report(real).test_pairs))
        data = DataConfig(src, tgt, str(real.corpus), test=tests, max_tokens=config.data.max_tokens)
        settings: dict[str, Any] = {f"data.{key}": value for key, value in vars(data).items()}
        settings |= {"train.seed": seed, "evaluation.bleu_tokenizer": "auto"}
        train(teacher_config, teacher.path, given | settings)
        ours, theirs = ([x.split_file("train", y) for y in languages] for x in (real, teacher))
        if not all(cmp(x, y, shallow=False) for x, y in zip(ours, theirs, strict=True)):
            raise UserError(f"{teacher}: was trained on other pairs; remove it, or use --teachers")
        translated = translate_training_set(teacher, data)
        source = real.split_file("train", src)
        pairs.append((source, translated) if src == languages[0] else (translated, source))
    show(*prepare(config, run, more=pairs).split("\n"))


def translate_training_set(teacher: RunFolder, data: DataConfig) -> Path:
    """The file with the translations of the teacher's training sources, made if it is not there."""
    from tqdm import tqdm

    from seq2seq.translator import Translator

    file, weights = teacher.path / "translated.txt", teacher.weights_file
    if file.exists() and file.stat().st_mtime >= weights.stat().st_mtime:
        return file
    translator = Translator.load(teacher)
    translator.config = replace(translator.config, decoding=DECODING)
    lines = read_lines(teacher.split_file("train", data.src))
    show(f"{file}: {len(lines):,} sentences, translated with a beam of {DECODING.beam}")
    with atomic_write(file) as output:
        for i in tqdm(range(0, len(lines), AT_A_TIME), "translating", disable=None):
            found = translator.search(lines[i : i + AT_A_TIME], split=False)
            output.writelines(best.text.encode() + b"\n" for best, *_ in found)
    return file
