"""The command line: one subcommand per stage, no logic of its own."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from seq2seq.config import RENAMED, Config, ModelConfig, load_config, settings_and_aliases
from seq2seq.run_folder import RunFolder
from seq2seq.utils import TrainingInterrupted, UserError, did_you_mean, warn

if TYPE_CHECKING:
    from seq2seq.translator import Translator

LINES_AT_A_TIME = 1000


def main(arguments: list[str] | None = None) -> int:
    """Run one subcommand; returns the exit status."""
    _prepare_streams()
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = build_parser(with_part_names="--help" in arguments or "-h" in arguments)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_about_unknown(unknown[0]))
    try:
        if options.command is not run_train and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UserError("torchrun is for seq2seq train; all else runs in one process")
        options.command(options)
        sys.stdout.flush()
    except UserError as error:
        _report(str(error))
        return 1
    except TrainingInterrupted as interrupted:
        _report(str(interrupted))
        return 128 + interrupted.signal_number
    except KeyboardInterrupt:
        _report("interrupted")
        return 130
    except BrokenPipeError:  # nobody reads our output any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError, RuntimeError) as error:
        from seq2seq.cpu import is_out_of_memory

        if isinstance(error, OSError):
            _report(f"{error.filename or 'system'}: {error.strerror or error}")
        elif is_out_of_memory(error):
            _report("out of memory; a smaller model or smaller batches take less")
        else:
            raise
        return 1
    return 0


def _prepare_streams() -> None:
    """Replace standard streams that were closed, and accept text that is not UTF-8."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "backslashreplace")


def _report(line: str) -> None:
    """A line on standard error, from one of the processes that torchrun starts on a machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        warn(line)


def _about_unknown(argument: str) -> str:
    """What is wrong with an argument that a subcommand does not take."""
    name = argument.partition("=")[0].removeprefix("--")
    if name in settings_and_aliases():
        return f"--{name} is part of what a run was trained with and cannot change now"
    if name in RENAMED:
        return f"--{name} is called --{RENAMED[name]} now"
    # Another command's flag is no misspelling.
    known = [x for x in ("run", "config", "beam", *settings_and_aliases()) if x != name]
    return f"unknown argument {argument}{did_you_mean(name, known)}"


def build_parser(with_part_names: bool = False) -> argparse.ArgumentParser:
    """The subcommands and their arguments.

    Args:
        with_part_names: list the parts of attention as legal values; that loads torch.
    """
    parser = argparse.ArgumentParser(
        prog="seq2seq",
        description="A small, readable Transformer: train it, score it, translate with it.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        command: Callable[[argparse.Namespace], None], usage: str, text: str
    ) -> argparse.ArgumentParser:
        name = command.__name__.removeprefix("run_")
        usage = f"seq2seq {name} {usage}".rstrip()
        sub = commands.add_parser(
            name, usage=usage, help=text, description=text, allow_abbrev=False
        )
        sub.set_defaults(command=command)
        return sub

    any_setting = "[--SECTION.SETTING VALUE ...]"
    making = f"[--config FILE] [--run FOLDER] {any_setting}"
    prepare = add(run_prepare, f"[STAGE] {making}", "read a corpus and learn its subwords")
    stages = ("corpus", "tokenizer", "all")
    prepare.add_argument("stage", nargs="?", choices=stages, default="all", help="only this")
    train = add(run_train, making, "train a model, or resume an interrupted training run")
    for sub in (prepare, train):
        default = Path("configs/default.toml")
        sub.add_argument("--config", type=Path, default=default, help="settings (%(default)s)")
        sub.add_argument("--run", type=Path, help="run folder (runs/<name of the config>)")
        _add_settings(sub, "", with_part_names)

    usage = f"--run FOLDER {any_setting}"
    evaluate = add(run_evaluate, usage, "translate the test sets and score the result")
    text = "translate sentences, or standard input line by line"
    predict = add(run_predict, f"--run FOLDER [SENTENCE ...] {any_setting}", text)
    predict.add_argument("sentences", nargs="*", metavar="SENTENCE", help="what to translate")
    for sub in (evaluate, predict):
        sub.add_argument("--run", type=Path, required=True, help="folder of a trained run")
        _add_settings(sub, "decoding.")

    usage = "(--run FOLDER | --compare FOLDER FOLDER) SENTENCE [-o FILE] [--png | --json] ..."
    attend = add(run_attend, usage, "translate a sentence and show its attention")
    _add_attend_arguments(attend)
    _add_settings(attend, "decoding.")

    usage = f"EXPERIMENT [--run FOLDER] {any_setting}"
    compare = add(run_compare, usage, "train variants with several seeds, report which are better")
    compare.add_argument("experiment", type=Path, help="the experiment, as TOML")
    compare.add_argument("--run", type=Path, help="folder (runs/compare/<name of the experiment>)")
    _add_settings(compare, "", with_part_names)
    add(run_variants, "", "list the parts that attention can be made of")
    return parser


def _add_attend_arguments(attend: argparse.ArgumentParser) -> None:
    attend.add_argument("sentence", metavar="SENTENCE", help="what to translate")
    which = attend.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="folder of a trained run")
    which.add_argument("--compare", type=Path, nargs=2, metavar="FOLDER", help="two runs")
    kind = attend.add_mutually_exclusive_group()
    kind.add_argument("--png", action="store_true", help="a plain figure instead of a page")
    kind.add_argument("--json", action="store_true", help="all arrays instead of a page")
    attend.add_argument("-o", "--output", type=Path, help="file (attention.html, .png or .json)")
    views = ("cross", "encoder", "decoder")
    attend.add_argument("--view", choices=views, help="the attention shown first (cross)")
    text = "shown first, from 1; 0 is the mean of all (the best aligning head's, or {})"
    attend.add_argument("--layer", type=int, help=f"layer {text.format('the last')}")
    attend.add_argument("--head", type=int, help=f"head {text.format('the mean')}")


def _add_settings(
    parser: argparse.ArgumentParser, prefix: str, with_part_names: bool = False
) -> None:
    """A flag for every setting whose key starts with ``prefix``; ``--beam`` for the most used."""
    legal_parts = {}
    if with_part_names:
        from seq2seq.attention import REGISTRIES

        legal_parts = {registry.setting: "|".join(registry) for registry in REGISTRIES}
    group = parser.add_argument_group("settings (on top of the configuration)")
    for key, setting in settings_and_aliases().items():
        if key.startswith(prefix):
            flags = [f"--{key}", "--beam"] if key == "decoding.beam" else [f"--{key}"]
            name = key.rsplit(".", 1)[1]
            legal = legal_parts.get(name, "") if "attention." in key else ""
            text = f"{setting.help} ({setting.default!r})".replace("%", "%%")
            metavar = (legal or setting.legal).replace("%", "%%")
            group.add_argument(*flags, dest=key, metavar=metavar, default=None, help=text)


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    given = {key: getattr(options, key, None) for key in settings_and_aliases()}
    return {key: text for key, text in given.items() if text is not None}


def _config_and_run(options: argparse.Namespace) -> tuple[Config, RunFolder]:
    from seq2seq.attention import check_attention

    config = load_config(options.config, _overrides(options), check=check_attention)
    return config, RunFolder(options.run or Path("runs") / options.config.stem)


def run_prepare(options: argparse.Namespace) -> None:
    from seq2seq.data.prepare import prepare
    from seq2seq.evaluation.annotations import check_annotations

    config, run = _config_and_run(options)
    print(prepare(config, run, options.stage, check_annotations))


def run_train(options: argparse.Namespace) -> None:
    from seq2seq.cpu import tune_process
    from seq2seq.data.prepare import is_prepared, prepare
    from seq2seq.evaluation.annotations import check_annotations
    from seq2seq.training import train
    from seq2seq.training.distributed import init_distributed, rank, rank_zero

    def prepared() -> tuple[Config, RunFolder]:
        config, run = _config_and_run(options)
        if not is_prepared(config, run):
            print(prepare(config, run, check=check_annotations))
        return config, run

    tune_process()
    with init_distributed():
        config, run = rank_zero(prepared)
        summary = train(config, run)
        if rank() == 0:
            print(
                f"{run}: best validation BLEU {summary['best_valid_bleu']:.2f} at step "
                f"{summary['best_step']:,} of {summary['steps']:,}, {summary['minutes']:.1f} "
                f"minutes, {summary['parameters']:,} parameters"
            )


def run_evaluate(options: argparse.Namespace) -> None:
    from seq2seq.cpu import tune_process
    from seq2seq.evaluation.evaluate import evaluate, format_evaluation

    tune_process()
    print(format_evaluation(evaluate(options.run, _overrides(options))))


def run_predict(options: argparse.Namespace) -> None:
    from seq2seq.cpu import tune_process
    from seq2seq.translator import Translator

    tune_process()
    translator = Translator.load(options.run, _overrides(options))
    if options.sentences:
        _translate_lines(translator, iter(options.sentences), LINES_AT_A_TIME)
    elif sys.stdin.isatty():
        _translate_lines(translator, _prompt(), 1)
    else:
        _translate_lines(translator, _lines(sys.stdin.buffer), LINES_AT_A_TIME)


def run_attend(options: argparse.Namespace) -> None:
    from seq2seq.cpu import tune_process
    from seq2seq.viewer.page import RunView, select_views, write_attention

    tune_process()
    folders = options.compare or [options.run]
    runs = [RunView.load(x, options.sentence, _overrides(options)) for x in folders]
    for run in runs:
        print(f"{run.name}: {run.trace.tgt.text}")
    views = select_views(runs, options.view, options.layer, options.head)
    kind = "png" if options.png else "json" if options.json else "html"
    path = options.output or Path(f"attention.{kind}")
    write_attention(views, path, kind)
    print(f"written: {path}")


def run_compare(options: argparse.Namespace) -> None:
    from seq2seq.cpu import tune_process
    from seq2seq.experiments.report import collect, summary, write_report
    from seq2seq.experiments.runs import load_experiment, plan_runs, run_all

    tune_process()
    experiment = load_experiment(options.experiment)
    folder = options.run or Path("runs") / "compare" / options.experiment.stem
    runs = plan_runs(experiment, folder, _overrides(options))
    run_all(runs)
    results = collect(experiment, runs, folder)
    report = write_report(results, folder)
    print(summary(results))
    print(f"report: {report}")


def run_variants(options: argparse.Namespace) -> None:
    from tabulate import tabulate

    from seq2seq.attention import extra_parameters

    model = ModelConfig()
    rows = [
        [registry.setting, part.name, f"{extra:+,}", part.formula, part.paper]
        for registry, part, extra in extra_parameters(model)
    ]
    headers = ["setting", "name", "parameters", "formula", "paper"]
    align = ("left", "left", "right", "left", "left")
    print(tabulate(rows, headers, tablefmt="plain", colalign=align, disable_numparse=True))
    print(
        "\nSettings of [model.encoder_attention], [model.decoder_attention] and "
        "[model.cross_attention],\nbeside the numbers n_heads, kv_heads and window. Parameters: "
        "those beyond scaled_dot and softmax\nwithout positions, per attention, at "
        f"d_model = {model.d_model} with {model.n_heads} heads."
    )


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    """The lines of standard input, whatever bytes they hold."""
    for number, raw in enumerate(stream):
        line = raw if number else raw.removeprefix(b"\xef\xbb\xbf")
        yield line.rstrip(b"\r\n").decode("utf-8", "replace")


def _prompt() -> Iterator[str]:
    """What the user types, line by line, until the end of input (Ctrl-D)."""
    print("One sentence per line; Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input()
        except EOFError:
            print(file=sys.stderr)
            return


def warn_of_cut(max_tokens: int, first: int, index: int, n_tokens: int) -> None:
    """Say that sentence ``index`` of those from line ``first`` on was cut."""
    warn(f"line {first + index}: {n_tokens:,} tokens, cut to {max_tokens} (data.max_tokens)")


def _translate_lines(translator: "Translator", lines: Iterator[str], at_a_time: int) -> None:
    """One line out for each line in, in order, ``at_a_time`` at a time."""
    first = 1
    while chunk := list(islice(lines, at_a_time)):
        on_cut = partial(warn_of_cut, translator.config.data.max_tokens, first)
        for translation in translator.translate(chunk, on_cut):
            sys.stdout.buffer.write(translation.encode("utf-8") + b"\n")
        sys.stdout.flush()
        first += len(chunk)
