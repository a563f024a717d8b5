"""``seq2seq prepare``: a corpus and its subwords, copied into a run folder."""

import argparse
from pathlib import Path

from seq2seq.cli.common import ANY_SETTING, Commands, add_command, add_settings, overrides_of, show

MAKING = f"[--config FILE] [--run FOLDER] {ANY_SETTING}"


def add_to(commands: Commands, with_part_names: bool) -> None:
    text = "read a corpus and learn its subwords"
    prepare = add_command(commands, run_prepare, f"[STAGE] {MAKING}", text)
    stages = ("corpus", "tokenizer", "all")
    prepare.add_argument("stage", nargs="?", choices=stages, default="all", help="only this")
    add_making(prepare, with_part_names)


def add_making(sub: argparse.ArgumentParser, with_part_names: bool) -> None:
    """The arguments of all commands that make a run."""
    text = "settings: a file, or a shipped one by name (%(default)s)"
    sub.add_argument("--config", default="default", metavar="FILE", help=text)
    sub.add_argument("--run", type=Path, help="run folder (runs/<name of the config>)")
    add_settings(sub, "", with_part_names)


def run_prepare(options: argparse.Namespace) -> None:
    from seq2seq.api import config_and_run
    from seq2seq.training.teachers import prepare

    config, run = config_and_run(options.config, options.run, overrides_of(options))
    show(*prepare(config, run, options.stage).split("\n"))
