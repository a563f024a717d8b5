"""``seq2seq predict``: sentences, or standard input, translated line by line."""

import argparse
import codecs
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seq2seq.cli.common import ANY_SETTING, Commands, add_command, add_settings, overrides_of
from seq2seq.utils import refuse_utf16, warn

BYTES_AT_A_TIME = 2**16  # of standard input


def add_to(commands: Commands) -> None:
    usage = f"--run FOLDER [SENTENCE ...] {ANY_SETTING}"
    text = "translate sentences, or standard input line by line"
    predict = add_command(commands, run_predict, usage, text)
    predict.add_argument("sentences", nargs="*", metavar="SENTENCE", help="what to translate")
    predict.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    add_settings(predict, "decoding.")


def run_predict(options: argparse.Namespace) -> None:
    from seq2seq.cpu import trim_memory
    from seq2seq.data.tokenizer import InputReport
    from seq2seq.translator import Translator

    translator = Translator.load(options.run, overrides_of(options))
    longest = translator.config.data.max_tokens
    first, report = 1, InputReport(translator.tokenizer.src)
    if options.sentences:
        chunks = iter([options.sentences])
    else:
        chunks = _prompt() if sys.stdin.isatty() else _arriving(sys.stdin.buffer)

    def warn_of_cut(index: int, n_tokens: int) -> None:
        warn(f"line {first + index}: {n_tokens:,} tokens, cut to {longest} (data.max_tokens)")

    try:
        for chunk in chunks:
            report.add(chunk)
            for translation in translator.translate(chunk, warn_of_cut):
                sys.stdout.buffer.write(translation.encode("utf-8") + b"\n")
            sys.stdout.flush()
            first += len(chunk)
            if first % 100 < len(chunk):  # a hundred lines more
                trim_memory()
    finally:
        report.warn()


def _arriving(stream: Any) -> Iterator[list[str]]:
    """The lines of standard input, whatever bytes they hold: those that are there at a time."""
    data = stream.read1(BYTES_AT_A_TIME)
    refuse_utf16(data, "standard input")
    rest, data = b"", data.removeprefix(codecs.BOM_UTF8)
    while data or rest:
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        yield [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines]
        data = stream.read1(BYTES_AT_A_TIME)


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
