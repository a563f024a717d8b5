"""``seq2seq evaluate``."""

import argparse
from pathlib import Path

from seq2seq.cli.common import ANY_SETTING, Commands, add_command, add_settings, overrides_of, show


def add_to(commands: Commands) -> None:
    text = "translate the test sets and score the result"
    evaluate = add_command(commands, run_evaluate, f"--run FOLDER {ANY_SETTING}", text)
    evaluate.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    add_settings(evaluate, "decoding.")


def run_evaluate(options: argparse.Namespace) -> None:
    from seq2seq.evaluation.evaluate import evaluate, format_evaluation

    show(*format_evaluation(evaluate(options.run, overrides_of(options))).split("\n"))
