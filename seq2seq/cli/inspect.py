"""``seq2seq inspect``: a corpus looked at before any run; nothing is written."""

import argparse
import random

from seq2seq.cli.common import Commands, add_command, add_settings, overrides_of, show
from seq2seq.config import ConfigSource, load_config

N_EXAMPLES = 10


def add_to(commands: Commands) -> None:
    usage = "PATH [--data.SETTING VALUE ...]"
    inspect = add_command(commands, run_inspect, usage, "look at a corpus: counts, ten pairs")
    inspect.add_argument("path", metavar="PATH", help="file, folder, or data set on the hub")
    add_settings(inspect, "data.")


def run_inspect(options: argparse.Namespace) -> None:
    from seq2seq.data.survey import Survey

    path = ConfigSource("command line", {"data.path": options.path})
    config = load_config(path, overrides_of(options))
    survey, rng = Survey(config.data), random.Random(1)
    examples: list[tuple[str, str]] = []
    for number, pair in enumerate(survey.train(), start=1):
        if number <= N_EXAMPLES:
            examples.append(pair)
        elif (place := rng.randrange(number)) < N_EXAMPLES:  # each pair is as likely to stay
            examples[place] = pair
    show(*str(survey.report()).split("\n"))
    for src, tgt in examples:
        show("", f"{config.data.src}: {src}", f"{config.data.tgt}: {tgt}")
