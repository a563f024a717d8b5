"""The command line: one subcommand per stage, each in its file, no logic of their own."""

import argparse
import io
import os
import sys
from importlib import import_module

from seq2seq import __version__
from seq2seq.cli import compare, prepare, train
from seq2seq.config import hint, settings
from seq2seq.utils import TrainingInterrupted, UserError, printable, warn

COMMANDS = ["inspect", "init", "prepare", "train", "evaluate", "predict", "score", "attend"]
COMMANDS += ["serve", "diagram", "compare", "card", "export"]


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    _prepare_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(with_part_names="--help" in arguments or "-h" in arguments)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        name = unknown[0].partition("=")[0].removeprefix("--")
        fixed = ": what a run was trained with cannot change now"
        why = fixed if name in settings() else hint(name)
        parser.error(printable(f"unknown argument {unknown[0]}{why}"))
    try:
        if options.command is not train.run_train and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UserError("torchrun is for seq2seq train; all else runs in one process")
        from seq2seq.cpu import tune_process

        trains = (train.run_train, compare.run_compare, prepare.run_prepare)  # the last, teachers
        tune_process(10_000 if options.command in trains else 512)
        options.command(options)
        sys.stdout.flush()
        return 0
    except UserError as error:
        message, status = str(error), 1
    except TrainingInterrupted as interrupted:
        message, status = str(interrupted), 128 + interrupted.signal_number
    except KeyboardInterrupt:
        message, status = "interrupted", 130
    except BrokenPipeError:  # nobody reads our output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        message, status = f"{error.filename or 'system'}: {error.strerror or error}", 1
    except (MemoryError, RuntimeError) as error:
        from seq2seq.cpu import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        message, status = "out of memory; a smaller model or smaller batches take less", 1
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes that torchrun starts
        warn(message)
    return status


def _prepare_streams() -> None:
    """Replace standard streams that were closed, and accept text that is not UTF-8."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "backslashreplace")


def build_parser(with_part_names: bool = False) -> argparse.ArgumentParser:
    """The subcommands; ``with_part_names`` shows the parts of attention, and loads torch."""
    parser = argparse.ArgumentParser(
        prog="seq2seq",
        description="A small, readable Transformer: train it, score it, translate with it.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in COMMANDS:
        arguments = [with_part_names] if name in ("prepare", "train", "compare") else []
        import_module(f"seq2seq.cli.{name}").add_to(commands, *arguments)
    return parser
