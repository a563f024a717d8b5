"""What the subcommands share: how settings become flags, and how text reaches the terminal."""

import argparse
import codecs
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from seq2seq.config import Config, flatten, load_config, settings
from seq2seq.run_folder import RunFolder
from seq2seq.utils import printable, refuse_utf16

ANY_SETTING = "[--SECTION.SETTING VALUE ...]"
BYTES_AT_A_TIME = 2**16  # of standard input
Commands = Any  # argparse's collection of subcommands, a private class


def add_command(
    commands: Commands, command: Callable[..., None], usage: str, text: str
) -> argparse.ArgumentParser:
    """A subcommand called like its function, ``run_NAME``."""
    name = command.__name__.removeprefix("run_")
    usage = f"seq2seq {name} {usage}".rstrip()
    sub: argparse.ArgumentParser = commands.add_parser(
        name, usage=usage, help=text, description=text, allow_abbrev=False
    )
    sub.set_defaults(command=command)
    return sub


def add_settings(
    parser: argparse.ArgumentParser, prefix: str, with_part_names: bool = False
) -> None:
    """A flag for every setting whose key starts with ``prefix``; ``--beam`` for the most used."""
    legal_parts = {}
    if with_part_names:
        from seq2seq.attention import REGISTRIES

        legal_parts = {registry.setting: "|".join(registry) for registry in REGISTRIES}
    title = "settings (on top of the configuration)"
    group = parser.add_argument_group(title, argument_default=argparse.SUPPRESS)
    defaults = flatten(Config())
    for key, annotation in settings().items():
        if key.startswith(prefix):
            flags = [f"--{key}", "--beam"] if key == "decoding.beam" else [f"--{key}"]
            parts = legal_parts.get(key.rpartition(".")[2]) if "attention." in key else None
            default = f" ({defaults[key]!r})" if key in defaults else ""  # an alias has several
            text = (get_args(annotation)[-1] + default).replace("%", "%%")
            metavar = (parts or legal_values(annotation)).replace("%", "%%")
            group.add_argument(*flags, dest=key, metavar=metavar, help=text)


def legal_values(annotation: Any) -> str:
    """The legal values of a setting in words, without limits that nobody reaches."""
    base, *ranges, _ = get_args(annotation)
    if get_origin(base) is Literal:
        return "|".join(get_args(base))
    words = [{bool: "true|false", int: "integer", float: "number", str: "text"}[base]]
    for limits in ranges:
        for name, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<=")):
            limit = getattr(limits, name)
            words += [f"{sign} {limit}"] if limit is not None and limit < 2**31 else []
    return " ".join(words)


def overrides_of(options: argparse.Namespace) -> dict[str, str]:
    """The settings that were given as flags."""
    return {key: text for key, text in vars(options).items() if key in settings()}


def config_and_run(options: argparse.Namespace) -> tuple[Config, RunFolder]:
    from seq2seq.attention import check_attention

    config = load_config(options.config, overrides_of(options), check=check_attention)
    return config, RunFolder(options.run or Path("runs") / options.config.stem)


def show(*lines: str) -> None:
    """Print lines, whoever wrote what is in them."""
    print(*map(printable, lines), sep="\n")


def arriving(stream: Any) -> Iterator[list[str]]:
    """The lines of standard input, whatever bytes they hold: those that are there at a time."""
    data = stream.read1(BYTES_AT_A_TIME)
    refuse_utf16(data, "standard input")
    rest, data = b"", data.removeprefix(codecs.BOM_UTF8)
    while data or rest:
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        yield [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines]
        data = stream.read1(BYTES_AT_A_TIME)
