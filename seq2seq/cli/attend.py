"""``seq2seq attend``: what a model attended to, as a page, a figure or numbers."""

import argparse
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, add_settings, overrides_of, show
from seq2seq.utils import UserError


def add_to(commands: Commands) -> None:
    usage = "(--run FOLDER | --compare FOLDER FOLDER) SENTENCE [-o FILE] [--png | --json] ..."
    text = "translate a sentence and show its attention"
    attend = add_command(commands, run_attend, usage, text)
    attend.add_argument("sentence", metavar="SENTENCE", help="what to translate")
    which = attend.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="folder of a trained run")
    which.add_argument("--compare", type=Path, nargs=2, metavar="FOLDER", help="two runs")
    kind = attend.add_mutually_exclusive_group()
    kind.add_argument("--png", action="store_true", help="a plain figure instead of a page")
    kind.add_argument("--json", action="store_true", help="all arrays instead of a page")
    attend.add_argument(
        "-o", "--output", type=Path, help="file; its ending says what it is (attention.html)"
    )
    views = ("cross", "encoder", "decoder")
    attend.add_argument("--view", choices=views, help="the attention shown first (cross)")
    text = "shown first, from 1; 0 is the mean of all (the best aligning head's, or {})"
    attend.add_argument("--layer", type=int, help=f"layer {text.format('the last')}")
    attend.add_argument("--head", type=int, help=f"head {text.format('the mean')}")
    add_settings(attend, "decoding.")


def run_attend(options: argparse.Namespace) -> None:
    from seq2seq.api import load
    from seq2seq.viewer.page import select_views, write_attention

    kind = ".png" if options.png else ".json" if options.json else ""
    path = options.output or Path(f"attention{kind or '.html'}")
    if not path.suffix.endswith(kind):
        raise UserError(f"{path}: the file's name must end in {kind}")
    folders = options.compare or [options.run]
    runs = [load(x, overrides_of(options)).attend(options.sentence) for x in folders]
    for run in runs:
        show(f"{run.name}: {run.trace.tgt.text}")
    views = select_views(runs, options.view, options.layer, options.head)
    write_attention(views, path)
    show(f"written: {path}")
