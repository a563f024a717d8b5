"""``seq2seq export``: a trained model for other programs."""

import argparse
from pathlib import Path

from seq2seq.cli.common import Commands, add_command, show
from seq2seq.config import Config, flatten, toml_value
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, warn


def add_to(commands: Commands) -> None:
    usage = "--run FOLDER --to ctranslate2|onnx NEW_FOLDER"
    export = add_command(commands, run_export, usage, "write a trained model for other programs")
    export.add_argument("folder", type=Path, metavar="NEW_FOLDER", help="where it is written")
    export.add_argument("--run", type=Path, required=True, help="folder of a trained run")
    export.add_argument("--to", required=True, choices=("ctranslate2", "onnx"), help="its format")


def run_export(options: argparse.Namespace) -> None:
    from seq2seq.export.ctranslate2 import export_ctranslate2
    from seq2seq.export.onnx import export_onnx

    export = export_ctranslate2 if options.to == "ctranslate2" else export_onnx
    try:
        export(options.run, options.folder)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise UserError(f"{package}: not installed: pip install 'seq2seq[export]'") from None
    show(f"written: {options.folder}")
    saved, usual = flatten(RunFolder(options.run).load_config()), flatten(Config())
    changed = [x for x in saved if x.startswith("decoding.") and saved[x] != usual[x]]
    if left := ", ".join(f"{key} = {toml_value(saved[key])}" for key in changed):
        warn(f"not in the export, to be set by the program that uses it: {left}")
