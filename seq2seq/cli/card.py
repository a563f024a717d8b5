"""``seq2seq card``: the model card of a run, and the run on the Hugging Face hub."""

import argparse
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, show
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, write_text


def add_to(commands: Commands) -> None:
    usage = "RUN [--license NAME] [--example SENTENCE] [--push OWNER/NAME]"
    card = add_command(commands, run_card, usage, "write a model card, upload a run to the hub")
    card.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    card.add_argument("--license", help="what others may do with the model: apache-2.0, say")
    card.add_argument("--example", metavar="SENTENCE", help="shown with its translation")
    card.add_argument("--push", metavar="OWNER/NAME", help="upload it as this model of the hub")


def run_card(options: argparse.Namespace) -> None:
    from seq2seq.export.card import model_card, push

    run = RunFolder(options.run)
    if not run.card_file.exists():
        name = options.push or run.path.resolve().name
        card = model_card(run, name, options.license, options.example)
        with run.lock():
            write_text(run.card_file, card)
    elif options.license or options.example or not options.push:
        raise UserError(f"{run.card_file}: is there already; change it by hand, or remove it")
    show(f"model card: {run.card_file}")
    if options.push:
        show(f"uploaded: {push(run, options.push)}")
