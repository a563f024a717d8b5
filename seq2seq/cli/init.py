"""``seq2seq init``: a first configuration for a corpus."""

import argparse
import shlex
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, add_settings, overrides_of, show
from seq2seq.config import ConfigSource, load_config


def add_to(commands: Commands) -> None:
    usage = "PATH [-o FILE] [--data.SETTING VALUE ...]"
    init = add_command(commands, run_init, usage, "write a configuration that suits a corpus")
    init.add_argument("data.path", metavar="PATH", help="file, folder, or data set on the hub")
    init.add_argument("-o", type=Path, metavar="FILE", help="what to write (NAME-SRC-TGT.toml)")
    add_settings(init, "data.")


def run_init(options: argparse.Namespace) -> None:
    from seq2seq.data.defaults import write_defaults

    data = load_config(ConfigSource("defaults", {}), overrides_of(options)).data
    name = Path(data.path).resolve().name.partition(".")[0]
    file = options.o or Path(f"{name}-{data.src}-{data.tgt}.toml")
    show(*write_defaults(data, file), f"next: seq2seq train --config {shlex.quote(str(file))}")
