"""``seq2seq evaluate``."""

import argparse
from pathlib import Path

from seq2seq.cli.common import ANY_SETTING, Commands, add_command, add_settings, overrides_of, show


def add_to(commands: Commands) -> None:
    text = "translate the test sets and score the result"
    usage = f"--run FOLDER [--on PATH [--data.columns SRC,TGT]] [--against FOLDER] {ANY_SETTING}"
    evaluate = add_command(commands, run_evaluate, usage, text)
    evaluate.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    text = "other pairs to score, PATH.SRC and PATH.TGT or a table, while the run stays as it is"
    evaluate.add_argument("--on", metavar="PATH", help=text)
    text = "another run of these languages: is the difference significant?"
    evaluate.add_argument("--against", type=Path, metavar="FOLDER", help=text)
    add_settings(evaluate, ("decoding.", "evaluation.", "data.columns"))


def run_evaluate(options: argparse.Namespace) -> None:
    from seq2seq.evaluation.evaluate import evaluate, format_evaluation

    evaluation = evaluate(options.run, overrides_of(options), options.on, options.against)
    show(*format_evaluation(evaluation).split("\n"))
