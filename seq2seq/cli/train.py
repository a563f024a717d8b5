"""``seq2seq train``."""

import argparse

from seq2seq.cli.common import Commands, add_command, overrides_of, show
from seq2seq.cli.prepare import MAKING, add_making


def add_to(commands: Commands, with_part_names: bool) -> None:
    text = "train a model, or resume an interrupted training run"
    add_making(add_command(commands, run_train, MAKING, text), with_part_names)


def run_train(options: argparse.Namespace) -> None:
    from seq2seq.api import prepared
    from seq2seq.evaluation.metrics import LABELS
    from seq2seq.training import train
    from seq2seq.training.distributed import init_distributed, rank, rank_zero

    given = options.config, options.run, overrides_of(options)
    with init_distributed():
        config, run = rank_zero(lambda: prepared(*given))
        summary = train(config, run)
        if rank() == 0:
            by = summary["selected_by"]
            show(
                f"{run}: best validation {LABELS.get(by, by)} {summary[f'best_valid_{by}']:.2f} "
                f"at step {summary['best_step']:,} of {summary['steps']:,}, "
                f"{summary['minutes']:.1f} minutes, {summary['parameters']:,} parameters"
            )
