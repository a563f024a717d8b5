"""``seq2seq compare`` and ``seq2seq variants``: variants of attention, compared or listed."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from seq2seq.cli.common import ANY_SETTING, Commands, add_command, add_settings, overrides_of, show
from seq2seq.config import ModelConfig
from seq2seq.shipped import find_config
from seq2seq.utils import UserError


def add_to(commands: Commands, with_part_names: bool) -> None:
    usage = f"EXPERIMENT [--run FOLDER] [--jobs N] [--report-only] {ANY_SETTING}"
    text = "train variants with several seeds, report which are better"
    compare = add_command(commands, run_compare, usage, text)
    text = "the experiment: a TOML file, or a shipped one by name, such as quick"
    compare.add_argument("experiment", help=text)
    compare.add_argument("--run", type=Path, help="folder (runs/compare/<name of the experiment>)")
    text = "runs at a time, each in a process of its own (one, in this process)"
    compare.add_argument("--jobs", type=int, default=0, metavar="N", help=text)
    text = "write the report again, from results.csv in the folder"
    compare.add_argument("--report-only", action="store_true", help=text)
    add_settings(compare, "", with_part_names)
    add_command(commands, run_variants, "", "list the parts that attention can be made of")


def run_compare(options: argparse.Namespace) -> None:
    from seq2seq.experiments.jobs import run_all
    from seq2seq.experiments.report import summary, write_report
    from seq2seq.experiments.results import collect, read_results
    from seq2seq.experiments.runs import load_experiment, plan_runs

    experiment = load_experiment(find_config(options.experiment, kind="configs/experiments"))
    folder = options.run or Path("runs") / "compare" / experiment.path.stem
    if options.jobs < 0:
        raise UserError(f"--jobs {options.jobs}: must be a positive number")
    if options.report_only and overrides_of(options):
        raise UserError("--report-only: runs nothing, so settings cannot change")
    if options.report_only:
        results = read_results(folder / "results.csv", experiment)
    else:
        runs = plan_runs(experiment, folder, overrides_of(options))
        run_all(runs, options.jobs)
        results = collect(experiment, runs, folder)
    report = write_report(results, folder)
    show(*summary(results).split("\n"), f"report: {report}")


def n_parameters(model: ModelConfig, **parts: Any) -> int:
    """Of one self-attention of these parts, and of the positions added to its embeddings."""
    from seq2seq.attention import build_absolute_position, build_attention

    attention = replace(model.decoder_attention, **{"position": "none"} | parts)
    model, section = replace(model, decoder_attention=attention), "decoder_attention"
    modules = build_attention(model, section), build_absolute_position(model, section)
    return sum(p.numel() for module in modules if module is not None for p in module.parameters())


def run_variants(options: argparse.Namespace) -> None:
    from tabulate import tabulate

    from seq2seq.attention import REGISTRIES

    model, rows = ModelConfig(), []
    for registry in REGISTRIES:
        for part in registry.values():
            extra = n_parameters(model, **{registry.setting: part.name}) - n_parameters(model)
            rows.append([registry.setting, part.name, f"{extra:+,}", part.formula, part.paper])
    headers = ["setting", "name", "parameters", "formula", "paper"]
    align = ("left", "left", "right", "left", "left")
    print(tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True))
    print(
        "\nSettings of [model.encoder_attention], [model.decoder_attention] and "
        "[model.cross_attention],\nbeside the numbers n_heads, kv_heads and window. Parameters: "
        "those beyond scaled_dot and softmax\nwithout positions, per attention, at "
        f"d_model = {model.d_model} with {model.n_heads} heads."
    )
