"""``seq2seq init``: a first configuration for a corpus."""

import argparse
from dataclasses import replace
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, add_settings, overrides_of, show
from seq2seq.config import Config, ConfigSource, check_consistency


def add_to(commands: Commands) -> None:
    usage = "PATH [-o FILE] [--data.SETTING VALUE ...]"
    text = "write a configuration that suits the size of a corpus"
    init = add_command(commands, run_init, usage, text)
    init.add_argument("path", metavar="PATH", help="the corpus: what data.directory may be")
    init.add_argument("-o", type=Path, metavar="FILE", help="what to write (NAME-SRC-TGT.toml)")
    add_settings(init, "data.")


def run_init(options: argparse.Namespace) -> None:
    from seq2seq.data.defaults import write_defaults

    values = overrides_of(options) | {"data.directory": options.path}
    checked = ConfigSource("command line", values, is_text=True).checked()
    data = replace(Config().data, **{key.removeprefix("data."): checked[key] for key in checked})
    check_consistency(Config(data))
    path = options.o or Path(
        f"{Path(options.path).name.partition('.')[0]}-{data.src}-{data.tgt}.toml"
    )
    show(*write_defaults(data, path), f"next: seq2seq train --config {path}")
