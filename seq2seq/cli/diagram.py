"""``seq2seq diagram``: the whole model as a picture, with the shapes of one sentence."""

import argparse
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, show
from seq2seq.utils import UserError, write_text


def add_to(commands: Commands) -> None:
    usage = "--run FOLDER SENTENCE [-o FILE]"
    text = "draw the whole model, with the shapes of a sentence"
    diagram = add_command(commands, run_diagram, usage, text)
    diagram.add_argument("sentence", metavar="SENTENCE", help="what the model reads")
    diagram.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    diagram.add_argument(
        "-o", "--output", type=Path, default=Path("model.svg"), help="file (model.svg)"
    )


def run_diagram(options: argparse.Namespace) -> None:
    from seq2seq.api import load
    from seq2seq.viewer.diagram import draw_model

    if options.output.suffix != ".svg":
        raise UserError(f"{options.output}: the file's name must end in .svg")
    run = load(options.run)
    seen = run.attend(options.sentence).trace
    write_text(
        options.output, draw_model(run.model, run.config.model, seen.src.tokens, seen.tgt.tokens)
    )
    show(f"written: {options.output}")
