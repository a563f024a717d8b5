"""``seq2seq card``: the model card of a run, and the run on the Hugging Face hub."""

import argparse
import re
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, show
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, read_bytes, write_bytes


def add_to(commands: Commands) -> None:
    usage = "RUN [--license NAME] [--example SENTENCE] [--push OWNER/NAME]"
    card = add_command(commands, run_card, usage, "write a model card, upload a run to the hub")
    card.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    card.add_argument("--license", help="what others may do with the model: apache-2.0, say")
    card.add_argument("--example", metavar="SENTENCE", help="shown with its translation")
    card.add_argument("--push", metavar="OWNER/NAME", help="upload it as this model of the hub")


def run_card(options: argparse.Namespace) -> None:
    from seq2seq.export.card import model_card, push

    run, name = RunFolder(options.run), options.push or options.run.resolve().name
    if options.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise UserError(f"--push {name}: not a name as OWNER/NAME")
    if is_there := run.card_file.exists():
        if options.license or options.example or not options.push:
            raise UserError(f"{run.card_file}: is there already; change it by hand, or remove it")
        card = read_bytes(run.card_file)
    else:
        card = model_card(run, name, options.license, options.example).encode()
    if options.push:
        show(f"uploaded: {push(run, name, card)}")
    if not is_there:  # last: an upload that fails leaves no card with a wrong name
        with run.lock():
            write_bytes(run.card_file, card)
    show(f"model card: {run.card_file}")
