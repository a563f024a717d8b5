"""``seq2seq inspect``: a corpus looked at before any run; nothing is written."""

import argparse
import heapq
import random

from seq2seq.cli.common import Commands, add_command, add_settings, overrides_of, show
from seq2seq.config import ConfigSource, load_config


def add_to(commands: Commands) -> None:
    usage = "PATH [--data.SETTING VALUE ...]"
    inspect = add_command(commands, run_inspect, usage, "look at a corpus: counts, ten pairs")
    inspect.add_argument("data.path", metavar="PATH", help="file, folder, or data set on the hub")
    add_settings(inspect, "data.")


def run_inspect(options: argparse.Namespace) -> None:
    from seq2seq.data.survey import Survey

    data = load_config(ConfigSource("defaults", {}), overrides_of(options)).data
    survey, rng = Survey(data), random.Random(1)
    examples = heapq.nlargest(10, survey.train(), key=lambda pair: rng.random())
    show(*str(survey.report()).split("\n"))
    for src, tgt in examples:
        show("", f"{data.src}: {src}", f"{data.tgt}: {tgt}")
