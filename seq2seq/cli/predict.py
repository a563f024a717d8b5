"""``seq2seq predict``: sentences, or standard input, translated line by line."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from seq2seq.cli.common import (
    ANY_SETTING,
    Commands,
    add_command,
    add_settings,
    arriving,
    overrides_of,
)


def add_to(commands: Commands) -> None:
    usage = f"--run FOLDER [SENTENCE ...] [--n-best N] [--scores] [--json] ... {ANY_SETTING}"
    text = "translate sentences, or standard input line by line"
    predict = add_command(commands, run_predict, usage, text)
    predict.description = (
        f"{text}. --n-best, --scores and --alignments print columns with tabs between them: rank, "
        "log-probability, translation (its own tabs are spaces), alignment."
    )
    predict.add_argument("sentences", nargs="*", metavar="SENTENCE", help="what to translate")
    text = "folder of a trained run; of several --run the probabilities are averaged"
    predict.add_argument("--run", type=Path, required=True, action="append", help=text)
    text = "up to N translations of each line, a line for each, best first; the beam is at least N"
    predict.add_argument("--n-best", type=_n_best, default=1, metavar="N", help=text)
    text = "the log-probability of each translation, in nats"
    predict.add_argument("--scores", action="store_true", help=text)
    text = "which source word each word comes from, as 0-0 1-2 (source-target, split at spaces)"
    predict.add_argument("--alignments", action="store_true", help=text)
    text = "an object for each line: source, translation, scores, n_best, flags, alignment if asked"
    predict.add_argument("--json", action="store_true", help=text)
    text = "how each translation begins"
    predict.add_argument("--prefix", default="", metavar="TEXT", help=text)
    add_settings(predict, "decoding.")


def _n_best(text: str) -> int:
    if not text.isdecimal() or int(text) not in range(1, 1001):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 1000")
    return int(text)


def run_predict(options: argparse.Namespace) -> None:
    from seq2seq.cli.details import Details
    from seq2seq.cpu import trim_memory
    from seq2seq.data.tokenizer import InputReport
    from seq2seq.translator import CutReport, Translator

    translator = Translator.load(options.run, overrides_of(options))
    report, cuts = InputReport(translator.tokenizer.src), CutReport()
    details = Details(translator, options, report.known)
    if options.sentences:
        chunks = iter([options.sentences])
    else:
        chunks = _prompt() if sys.stdin.isatty() else arriving(sys.stdin.buffer)
    try:
        for chunk in chunks:
            report.add(chunk)
            found = translator.search(chunk, options.n_best, options.prefix)
            cuts.add(best for best, *_ in found)
            for line in details.lines(chunk, found):
                sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")
            sys.stdout.flush()
            if cuts.n_lines % 100 < len(chunk):  # a hundred lines more
                trim_memory()
    finally:
        report.warn()
        cuts.warn()


def _prompt() -> Iterator[list[str]]:
    """What the user types, line by line, until the end of input (Ctrl-D)."""
    print("One sentence per line; Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield [input()]
        except EOFError:
            print(file=sys.stderr)
            return
