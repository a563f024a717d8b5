"""``seq2seq predict``: sentences, or standard input, translated line by line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq.cli.common import Commands, add_command, add_settings, arriving, overrides_of
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, warn

if TYPE_CHECKING:
    from seq2seq.translator import Translation, Translator


def add_to(commands: Commands) -> None:
    usage = "--run FOLDER [SENTENCE ...] [--n-best N] [--json] ... [--decoding.SETTING VALUE ...]"
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
    predict.add_argument("--n-best", type=int, default=1, metavar="N", help=text)
    predict.add_argument("--scores", action="store_true", help="log-probabilities, in nats")
    text = "which source word each word comes from, as 0-0 1-2 (source-target, split at spaces)"
    predict.add_argument("--alignments", action="store_true", help=text)
    text = "an object for each line: source, translation, scores, n_best, flags, alignment if asked"
    predict.add_argument("--json", action="store_true", help=text)
    predict.add_argument("--prefix", default="", metavar="TEXT", help="how translations begin")
    add_settings(predict, "decoding.")


def run_predict(options: argparse.Namespace) -> None:
    from seq2seq.cpu import trim_memory
    from seq2seq.data.tokenizer import InputReport, clean
    from seq2seq.translator import CutReport, Translator

    translator = Translator.load(options.run, overrides_of(options))
    report, cuts = InputReport(translator.tokenizer.src), CutReport()
    about = _details(translator, options)
    InputReport(translator.tokenizer.tgt, [options.prefix]).warn()
    for file in [x for x in options.sentences if os.path.isfile(x)][:1]:
        warn(f"{file} is translated as text; a file is read by: < {file}")
    if options.sentences:
        chunks = iter([options.sentences])
    else:
        chunks = _prompt() if sys.stdin.isatty() else arriving(sys.stdin.buffer)
    try:
        for chunk in chunks:
            report.add(chunk)
            found = translator.search(chunk, options.n_best, options.prefix)
            cuts.add(best for best, *_ in found)
            rows = iter(about(list(chain.from_iterable(found))))
            for source, best in zip(chunk, found, strict=True):
                of_source, unseen = list(islice(rows, len(best))), {*clean(source)} - report.known
                lines = [_columns(options, *row) for row in enumerate(of_source, start=1)]
                if options.json:
                    flags = best[0].flags + ["characters never seen"] * bool(unseen)
                    content = {"source": source, **of_source[0], "n_best": of_source}
                    lines = [json.dumps(content | {"flags": flags}, ensure_ascii=False)]
                for line in lines:
                    sys.stdout.buffer.write(line.encode("utf-8", "backslashreplace") + b"\n")
            sys.stdout.flush()
            if cuts.n_lines % 100 < len(chunk):  # a hundred lines more
                trim_memory()
    finally:
        report.warn()
        cuts.warn()


def _details(
    translator: "Translator", options: argparse.Namespace
) -> Callable[[list["Translation"]], list[dict[str, Any]]]:
    """What tells of translations what the options ask for."""
    from seq2seq.model.decoding import length_normalized

    if options.alignments:
        from seq2seq.evaluation.alignment import align_words
        from seq2seq.evaluation.evaluate import known_best_head  # loads sacrebleu

        run = RunFolder(options.run[0])
        aligner = type(translator).load(run) if len(options.run) > 1 else translator
        if aligner.config.model.cross_attention.type == "none":
            raise UserError(f"--alignments: {run} has no cross-attention")
        head = known_best_head(run, aligner.config.model)

    def details(translations: list["Translation"]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"translation": x.text} for x in translations]
        if options.scores or options.json:
            penalty = translator.config.decoding.length_penalty
            for row, score in zip(rows, translator.rescore(translations), strict=True):
                row["score"] = length_normalized(*score, penalty)
                row["log_probability"], row["tokens"] = score
        if options.alignments:
            links = align_words(aligner, translations, head)
            rows = [row | {"alignment": x} for row, x in zip(rows, links, strict=True)]
        return rows

    return details


def _columns(options: argparse.Namespace, rank: int, row: dict[str, Any]) -> str:
    columns = [str(rank)] if options.n_best > 1 else []
    columns += [f"{row['log_probability']:.4f}"] if options.scores else []
    columns.append(row["translation"])
    if options.alignments:
        columns.append(" ".join(f"{i}-{j}" for i, j in row["alignment"]))
    return "\t".join(column.replace("\t", " ") for column in columns)


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
