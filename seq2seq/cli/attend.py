"""``seq2seq attend``: what a model attended to, as a page, a figure or numbers."""

import argparse
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, add_settings, overrides_of, show
from seq2seq.utils import UserError


def add_to(commands: Commands) -> None:
    usage = "(--run FOLDER | --compare FOLDER FOLDER) SENTENCE [-o FILE] ..."
    text = "translate a sentence and show its attention"
    attend = add_command(commands, run_attend, usage, text)
    attend.add_argument("sentence", metavar="SENTENCE", help="what to translate")
    which = attend.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="folder of a trained run")
    which.add_argument("--compare", type=Path, nargs=2, metavar="FOLDER", help="two runs")
    text = "a page (.html), a figure (.svg, .pdf, .png) or all arrays (.json) (attention.html)"
    attend.add_argument("-o", "--output", type=Path, default="attention.html", help=text)
    views = ("cross", "encoder", "decoder")
    attend.add_argument("--view", choices=views, help="the attention shown first (cross)")
    text = "shown first, from 1; 0 is the mean of all (the best aligning head's, or {})"
    attend.add_argument("--layer", type=int, help=f"layer {text.format('the last')}")
    attend.add_argument("--head", type=int, help=f"head {text.format('the mean')}")
    text = "a figure of all heads of all layers"
    attend.add_argument("--all-heads", action="store_true", help=text)
    text = "of a figure, in centimeters (what letters of 10 pt need, or of 7 pt for all heads)"
    attend.add_argument("--width", type=float, metavar="CM", help=text)
    add_settings(attend, "decoding.")


def run_attend(options: argparse.Namespace) -> None:
    from seq2seq.api import load
    from seq2seq.viewer.page import select_views, write_attention

    if options.all_heads and (options.layer, options.head) != (None, None):
        raise UserError("--all-heads: leave --layer and --head out")
    folders = options.compare or [options.run]
    runs = [load(x, overrides_of(options)).attend(options.sentence) for x in folders]
    for run in runs:
        show(f"{run.name}: {run.trace.tgt.text}")
    views = select_views(runs, options.view, options.layer, options.head)
    write_attention(views, options.output, options.width, options.all_heads)
    show(f"written: {options.output}")
