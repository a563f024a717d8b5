"""``seq2seq score``: how probable given translations are."""

import argparse
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, arriving
from seq2seq.utils import UserError, iter_lines

PAIRS_AT_A_TIME = 1000  # of files


def add_to(commands: Commands) -> None:
    usage = "--run FOLDER [SRC_FILE TGT_FILE]"
    score = add_command(commands, run_score, usage, "say how probable given translations are")
    score.description = (
        "For each line: the log-probability of the translation in nats, the same per token, and "
        "the number of tokens, EOS included. Nothing is cut; what is blank is scored too."
    )
    text = "line n translates line n; without files: standard input, SOURCE<tab>TRANSLATION"
    score.add_argument("files", nargs="*", type=Path, metavar="FILE", help=text)
    text = "folder of a trained run; of several --run the probabilities are averaged"
    score.add_argument("--run", type=Path, required=True, action="append", help=text)


def run_score(options: argparse.Namespace) -> None:
    from seq2seq.data.tokenizer import InputReport
    from seq2seq.translator import Translator

    translator = Translator.load(options.run)
    of_src, of_tgt = map(InputReport, (translator.tokenizer.src, translator.tokenizer.tgt))
    for pairs in _pairs(options.files):
        src, tgt = [src for src, _ in pairs], [tgt for _, tgt in pairs]
        of_src.add(src)
        of_tgt.add(tgt)
        for score in translator.score(src, tgt):
            print(f"{score.log_probability:.4f}\t{score.per_token:.4f}\t{score.n_tokens}")
        sys.stdout.flush()
    of_src.warn("sources: ")
    of_tgt.warn("translations: ")


def _pairs(files: list[Path]) -> Iterator[list[tuple[str, str]]]:
    """The lines of two files side by side, or of standard input as they arrive."""
    if files:
        counts = [sum(1 for _ in iter_lines(path)) for path in files]
        if len(files) != 2 or counts[0] != counts[1]:
            given = " and ".join(f"{x} ({n:,} lines)" for x, n in zip(files, counts, strict=True))
            raise UserError(f"score reads two FILEs with as many lines, or none: not {given}")
        pairs = zip(*map(iter_lines, files), strict=True)
        yield from iter(lambda: list(islice(pairs, PAIRS_AT_A_TIME)), [])
        return
    n_read = 0
    for lines in arriving(sys.stdin.buffer):
        for line in lines:
            n_read += 1
            if line.count("\t") != 1:
                raise UserError(f"standard input, line {n_read}: not SOURCE<tab>TRANSLATION")
        yield [(src, tgt) for src, _, tgt in (line.partition("\t") for line in lines)]
