"""``seq2seq train``."""

import argparse

from seq2seq.cli.common import Commands, add_command, overrides_of
from seq2seq.cli.prepare import MAKING, add_making


def add_to(commands: Commands, with_part_names: bool) -> None:
    text = "train a model, or resume an interrupted training run"
    add_making(add_command(commands, run_train, MAKING, text), with_part_names)


def run_train(options: argparse.Namespace) -> None:
    from seq2seq.api import train

    train(options.config, options.run, overrides_of(options))
