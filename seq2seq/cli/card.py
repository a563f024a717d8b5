"""``seq2seq card``: the model card of a run, and the run on the Hugging Face hub."""

import argparse
from contextlib import nullcontext
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, show
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, read_bytes, warn, write_text


def add_to(commands: Commands) -> None:
    usage = "RUN [-o FILE] [--license NAME] [--example SENTENCE] [--push OWNER/NAME [--private]]"
    card = add_command(commands, run_card, usage, "write a model card, upload a run to the hub")
    card.add_argument("run", type=Path, metavar="RUN", help="folder of an evaluated run")
    card.add_argument("-o", "--output", type=Path, help="the card (RUN/README.md)")
    card.add_argument("--license", help="what others may do with the model: apache-2.0, say")
    card.add_argument("--example", metavar="SENTENCE", help="shown with its translation")
    card.add_argument("--push", metavar="OWNER/NAME", help="upload it as this model of the hub")
    card.add_argument("--private", action="store_true", help="for you alone to see")


def run_card(options: argparse.Namespace) -> None:
    from seq2seq.export.card import model_card, push

    run = RunFolder(options.run)
    path = options.output or run.path / "README.md"
    if options.private and not options.push:
        raise UserError("--private is for --push")
    if path.exists() and (options.license or options.example or not options.push):
        raise UserError(f"{path}: is there already; remove it, or name another file (-o)")
    if not path.exists():
        name = options.push or run.path.resolve().name
        card = model_card(run, name, options.license, options.example)
        if not options.license:
            warn("without --license, apache-2.0 say, nobody else may use the model")
        with run.lock() if options.output is None else nullcontext():
            write_text(path, card)
    show(f"model card: {path}")
    if options.push:
        show(f"uploaded: {push(run, options.push, read_bytes(path), options.private)}")
