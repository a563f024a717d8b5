"""``seq2seq score``: how probable given translations are."""

import argparse
import json
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, arriving
from seq2seq.utils import UserError, iter_lines, warn

PAIRS_AT_A_TIME = 1000  # of files


def add_to(commands: Commands) -> None:
    usage = "--run FOLDER [SRC_FILE TGT_FILE] [--json]"
    text = "the probability of given translations, line by line"
    score = add_command(commands, run_score, usage, text)
    score.description = (
        f"{text}: log-probability (nats, the sum over tokens, EOS included), the same per token, "
        "and the number of tokens, with tabs between them. Nothing is cut."
    )
    text = (
        "line n of one translates line n of the other; without files: standard input, SRC<tab>TGT"
    )
    score.add_argument("files", nargs="*", type=Path, metavar="FILE", help=text)
    text = "folder of a trained run; of several --run the probabilities are averaged"
    score.add_argument("--run", type=Path, required=True, action="append", help=text)
    score.add_argument("--json", action="store_true", help="an object for each line")


def run_score(options: argparse.Namespace) -> None:
    from seq2seq.data.tokenizer import clean
    from seq2seq.translator import Translator

    if len(options.files) not in (0, 2):
        raise UserError("score: two files, SRC_FILE TGT_FILE, or none and pairs on standard input")
    translator, n_blank = Translator.load(options.run), 0
    for pairs in _file_pairs(*options.files) if options.files else _arriving_pairs():
        scores = translator.score([src for src, _ in pairs], [tgt for _, tgt in pairs])
        for (src, tgt), score in zip(pairs, scores, strict=True):
            n_blank += not (clean(src).strip() and clean(tgt).strip())
            values = score.log_probability, score.per_token, score.n_tokens
            line = "{:.4f}\t{:.4f}\t{}".format(*values)
            if options.json:
                names = "source", "translation", "log_probability", "per_token", "tokens"
                about = dict(zip(names, (src, tgt, *values), strict=True))
                line = json.dumps(about, ensure_ascii=False)
            sys.stdout.buffer.write(line.encode() + b"\n")
        sys.stdout.flush()
    if n_blank:
        warn(f"pairs with a blank side, scored all the same: {n_blank:,}")


def _file_pairs(src: Path, tgt: Path) -> Iterator[list[tuple[str, str]]]:
    n_src, n_tgt = (sum(1 for _ in iter_lines(path)) for path in (src, tgt))
    if n_src != n_tgt:
        raise UserError(f"{src} has {n_src:,} lines but {tgt} has {n_tgt:,}: they must correspond")
    pairs = zip(iter_lines(src), iter_lines(tgt), strict=True)
    return iter(lambda: list(islice(pairs, PAIRS_AT_A_TIME)), [])


def _arriving_pairs() -> Iterator[list[tuple[str, str]]]:
    first = 1
    for lines in arriving(sys.stdin.buffer):
        for number, line in enumerate(lines, start=first):
            if line.count("\t") != 1:
                raise UserError(f"standard input, line {number}: not SOURCE<tab>TRANSLATION")
        first += len(lines)
        yield [(src, tgt) for src, _, tgt in (line.partition("\t") for line in lines)]
