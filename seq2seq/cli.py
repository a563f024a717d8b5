"""The command line: one subcommand per stage, no logic of its own."""

import argparse
import codecs
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from seq2seq.config import Config, ModelConfig, flatten, hint, load_config, settings
from seq2seq.run_folder import RunFolder
from seq2seq.utils import TrainingInterrupted, UserError, printable, refuse_utf16, warn

BYTES_AT_A_TIME = 2**16  # of standard input


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
        if options.command is not run_train and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UserError("torchrun is for seq2seq train; all else runs in one process")
        tune_process(10_000 if options.command in (run_train, run_compare) else 512)
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


def tune_process(n_kernels: int = 10_000) -> None:
    """Settings of this whole process that make it faster; for our own commands only.

    glibc keeps freed memory for the next allocation: having the kernel map and zero the same large
    blocks at every step took a fifth of it. oneDNN keeps ``n_kernels``, one per matrix shape,
    unless the user has set a number; it reads it at the first product. An epoch has 5,000 shapes,
    the same in each: with 1,024, making them anew took a third of a step on a Xeon with AMX. Lines
    from a pipe have new ones without end, and memory settles when that many are kept.
    """
    from seq2seq.cpu import call_glibc

    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(n_kernels))
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    call_glibc("mallopt", m_mmap_threshold, largest)
    call_glibc("mallopt", m_trim_threshold, largest)


def build_parser(with_part_names: bool = False) -> argparse.ArgumentParser:
    """The subcommands; ``with_part_names`` shows the parts of attention, and loads torch."""
    parser = argparse.ArgumentParser(
        prog="seq2seq",
        description="A small, readable Transformer: train it, score it, translate with it.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(command: Callable[..., None], usage: str, text: str) -> argparse.ArgumentParser:
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
    attend.add_argument(
        "-o", "--output", type=Path, help="file; its ending says what it is (attention.html)"
    )
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


def _overrides(options: argparse.Namespace) -> dict[str, str]:
    return {key: text for key, text in vars(options).items() if key in settings()}


def _config_and_run(options: argparse.Namespace) -> tuple[Config, RunFolder]:
    from seq2seq.attention import check_attention

    config = load_config(options.config, _overrides(options), check=check_attention)
    return config, RunFolder(options.run or Path("runs") / options.config.stem)


def show(*lines: str) -> None:
    """Print lines, whoever wrote what is in them."""
    print(*map(printable, lines), sep="\n")


def run_prepare(options: argparse.Namespace) -> None:
    from seq2seq.data.prepare import prepare
    from seq2seq.evaluation.annotations import check_annotations

    config, run = _config_and_run(options)
    show(*prepare(config, run, options.stage, check_annotations).split("\n"))


def run_train(options: argparse.Namespace) -> None:
    from seq2seq.data.prepare import is_prepared, prepare
    from seq2seq.evaluation.annotations import check_annotations
    from seq2seq.evaluation.metrics import LABELS
    from seq2seq.training import train
    from seq2seq.training.distributed import init_distributed, rank, rank_zero

    def prepared() -> tuple[Config, RunFolder]:
        config, run = _config_and_run(options)
        if not is_prepared(config, run):
            show(*prepare(config, run, check=check_annotations).split("\n"))
        return config, run

    with init_distributed():
        config, run = rank_zero(prepared)
        summary = train(config, run)
        if rank() == 0:
            by = summary["selected_by"]
            show(
                f"{run}: best validation {LABELS.get(by, by)} {summary[f'best_valid_{by}']:.2f} "
                f"at step {summary['best_step']:,} of {summary['steps']:,}, "
                f"{summary['minutes']:.1f} minutes, {summary['parameters']:,} parameters"
            )


def run_evaluate(options: argparse.Namespace) -> None:
    from seq2seq.evaluation.evaluate import evaluate, format_evaluation

    show(*format_evaluation(evaluate(options.run, _overrides(options))).split("\n"))


def run_predict(options: argparse.Namespace) -> None:
    from seq2seq.cpu import trim_memory
    from seq2seq.data.tokenizer import InputReport
    from seq2seq.translator import Translator

    translator = Translator.load(options.run, _overrides(options))
    longest = translator.config.data.max_tokens
    first, report = 1, InputReport(translator.tokenizer.src)
    if options.sentences:
        chunks = iter([options.sentences])
    else:
        chunks = _prompt() if sys.stdin.isatty() else _arriving(sys.stdin.buffer)

    def warn_of_cut(index: int, n_tokens: int) -> None:
        warn(f"line {first + index}: {n_tokens:,} tokens, cut to {longest} (data.max_tokens)")

    try:
        for chunk in chunks:
            report.add(chunk)
            for translation in translator.translate(chunk, warn_of_cut):
                sys.stdout.buffer.write(translation.encode("utf-8") + b"\n")
            sys.stdout.flush()
            first += len(chunk)
            if first % 100 < len(chunk):  # a hundred lines more
                trim_memory()
    finally:
        report.warn()


def run_attend(options: argparse.Namespace) -> None:
    from seq2seq.viewer.page import RunView, select_views, write_attention

    kind = "png" if options.png else "json" if options.json else None
    path = options.output or Path(f"attention.{kind or 'html'}")
    ending = path.suffix.removeprefix(".")
    if ending not in ((kind,) if kind else ("html", "png", "json")):
        raise UserError(f"{path}: the file's name must end in .{kind or 'html, .png or .json'}")
    folders = options.compare or [options.run]
    runs = [RunView.load(x, options.sentence, _overrides(options)) for x in folders]
    for run in runs:
        show(f"{run.name}: {run.trace.tgt.text}")
    views = select_views(runs, options.view, options.layer, options.head)
    write_attention(views, path, ending)
    show(f"written: {path}")


def run_compare(options: argparse.Namespace) -> None:
    from seq2seq.experiments.report import collect, summary, write_report
    from seq2seq.experiments.runs import load_experiment, plan_runs, run_all

    experiment = load_experiment(options.experiment)
    folder = options.run or Path("runs") / "compare" / options.experiment.stem
    runs = plan_runs(experiment, folder, _overrides(options))
    run_all(runs)
    results = collect(experiment, runs, folder)
    report = write_report(results, folder)
    show(*summary(results).split("\n"), f"report: {report}")


def n_parameters(model: ModelConfig, **parts: Any) -> int:
    """Of one self-attention of these parts, and of the positions added to its embeddings."""
    from seq2seq.attention import build_absolute_position, build_attention

    attention = replace(model.encoder_attention, **{"position": "none"} | parts)
    model, section = replace(model, encoder_attention=attention), "encoder_attention"
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


def _arriving(stream: Any) -> Iterator[list[str]]:
    """The lines of standard input, whatever bytes they hold: those that are there at a time."""
    data = stream.read1(BYTES_AT_A_TIME)
    refuse_utf16(data, "standard input")
    rest, data = b"", data.removeprefix(codecs.BOM_UTF8)
    while data or rest:
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        yield [line.rstrip(b"\r").decode("utf-8", "replace") for line in lines]
        data = stream.read1(BYTES_AT_A_TIME)


def _prompt() -> Iterator[list[str]]:
    """What the user types, line by line, until the end of input (Ctrl-D)."""
    print("One sentence per line; Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield [input()]
        except EOFError:
            print(file=sys.stderr)
            return
