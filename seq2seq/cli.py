"""The command line: one sub-command a stage, no logic of its own."""

import argparse
import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq2seq.errors import Stopped, UserError
from seq2seq.settings import Config, ModelConfig, nearest, options, shared_options

if TYPE_CHECKING:
    from seq2seq.page import Shown
    from seq2seq.translator import Translator

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

LINES_AT_A_TIME = 1000


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit status."""
    _mend_streams()
    parser = build_parser()
    chosen, unknown = parser.parse_known_args(arguments)
    if unknown:
        parser.error(_about_unknown(unknown[0]))
    try:
        if chosen.command is not run_train and "TORCHELASTIC_RUN_ID" in os.environ:
            raise UserError("torchrun is for seq2seq train; all else is done by one process")
        chosen.command(chosen)
        sys.stdout.flush()
    except UserError as error:
        _complain(str(error))
        return 1
    except Stopped as stopped:
        _complain(str(stopped))
        return 128 + stopped.signal_number
    except KeyboardInterrupt:
        _complain("interrupted")
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (OSError, MemoryError, RuntimeError) as error:
        if not (complaint := _about_machine(error)):
            raise
        _complain(complaint)
        return 1
    return 0


def _mend_streams() -> None:
    """Give standard streams that were closed a place, and take text that is no UTF-8 anywhere."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))  # noqa: SIM115 (it stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "backslashreplace")


def _complain(line: str) -> None:
    """A line on standard error; of the processes that torchrun starts, one a machine speaks."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        with suppress(OSError):  # nobody reads it
            print(f"seq2seq: {line}", file=sys.stderr, flush=True)


def _about_machine(error: Exception) -> str | None:
    """What an error says of the machine: a folder that cannot be written to, too little memory."""
    from seq2seq.machine import is_out_of_memory

    if isinstance(error, OSError):
        return f"{error.filename or 'system'}: {error.strerror or error}"
    if is_out_of_memory(error):
        return "out of memory; a smaller model or smaller batches take less"
    return None


def _about_unknown(argument: str) -> str:
    """What is wrong with an argument that a sub-command does not take."""
    name = argument.partition("=")[0].removeprefix("--")
    if name in options() | shared_options():
        return f"--{name} is part of what a run was trained with and cannot change now"
    known = ["run", "config", "beam", *options(), *shared_options()]
    return f"unknown argument {argument}{'' if name in known else nearest(name, known)}"


def build_parser() -> argparse.ArgumentParser:
    """The sub-commands and everything they take."""
    parser = argparse.ArgumentParser(
        prog="seq2seq",
        description="A small, readable Transformer: train it, score it, translate with it.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_making_of_runs(commands)
    _add_use_of_runs(commands)
    _add_experiments(commands)
    return parser


def _add(
    commands: "Commands",
    command: Callable[[argparse.Namespace], None],
    usage: str,
    help: str,
) -> argparse.ArgumentParser:
    """A sub-command called as its function is, ``run_`` left out."""
    name = command.__name__.removeprefix("run_")
    usage = f"seq2seq {name} {usage}".rstrip()
    sub = commands.add_parser(name, usage=usage, help=help, description=help, allow_abbrev=False)
    sub.set_defaults(command=command)
    return sub


def _add_making_of_runs(commands: "Commands") -> None:
    settings = "[--config FILE] [--run FOLDER] [--SECTION.SETTING VALUE ...]"
    text = "read a corpus and learn its subwords"
    prepare = _add(commands, run_prepare, f"[STAGE] {settings}", text)
    prepare.add_argument(
        "stage", nargs="?", choices=("corpus", "tokenizer", "all"), default="all", help="only this"
    )
    text = "train a model, or go on where a training was stopped"
    for sub in (prepare, _add(commands, run_train, settings, text)):
        sub.add_argument(
            "--config",
            type=Path,
            default=Path("configs/default.toml"),
            help="settings, as TOML (%(default)s)",
        )
        sub.add_argument("--run", type=Path, help="folder of the run (runs/<name of the config>)")
        _add_options(sub, "")


def _add_use_of_runs(commands: "Commands") -> None:
    text = "translate the test sets and score the result"
    usage = "--run FOLDER [--SECTION.SETTING VALUE ...]"
    evaluate = _add(commands, run_evaluate, usage, text)
    text = "translate sentences, or standard input line by line"
    usage = "--run FOLDER [SENTENCE ...] [--SECTION.SETTING VALUE ...]"
    predict = _add(commands, run_predict, usage, text)
    predict.add_argument("sentences", nargs="*", metavar="SENTENCE", help="what to translate")
    for sub in (evaluate, predict):
        sub.add_argument("--run", type=Path, required=True, help="folder of a trained run")
        _add_options(sub, "decoding.")
    _add_attend(commands)


def _add_attend(commands: "Commands") -> None:
    text = "translate a sentence and show who attends to whom"
    usage = "(--run FOLDER | --compare FOLDER FOLDER) SENTENCE [-o FILE] [--png | --json] ..."
    attend = _add(commands, run_attend, usage, text)
    attend.add_argument("sentence", metavar="SENTENCE", help="what to translate")
    which = attend.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="folder of a trained run")
    which.add_argument("--compare", type=Path, nargs=2, metavar="FOLDER", help="two runs")
    kind = attend.add_mutually_exclusive_group()
    kind.add_argument("--png", action="store_true", help="a plain figure instead of a page")
    kind.add_argument("--json", action="store_true", help="all arrays instead of a page")
    attend.add_argument("-o", "--output", type=Path, help="file (attention.html, .png or .json)")
    text = "the attention shown first (cross, where there is one)"
    attend.add_argument("--view", choices=("cross", "encoder", "decoder"), help=text)
    text = "shown first, counted from 1; 0 is the mean of all (the best aligning head; else the {})"
    attend.add_argument("--layer", type=int, help=f"layer {text.format('last')}")
    attend.add_argument("--head", type=int, help=f"head {text.format('mean')}")
    _add_options(attend, "decoding.")


def _add_experiments(commands: "Commands") -> None:
    text = "train variants with several seeds, and report which are better"
    usage = "EXPERIMENT [--run FOLDER] [--SECTION.SETTING VALUE ...]"
    compare = _add(commands, run_compare, usage, text)
    compare.add_argument("experiment", type=Path, help="the experiment, as TOML")
    compare.add_argument("--run", type=Path, help="folder (runs/compare/<name of the experiment>)")
    _add_options(compare, "")
    _add(commands, run_variants, "", "list the parts that attention can be made of")


def _add_options(parser: argparse.ArgumentParser, prefix: str) -> None:
    """A flag for every setting whose key starts with ``prefix``; ``--beam`` for the handiest."""
    group = parser.add_argument_group("settings (on top of the configuration)")
    for key, option in (options() | shared_options()).items():
        if key.startswith(prefix):
            flags = [f"--{key}", "--beam"] if key == "decoding.beam" else [f"--{key}"]
            text = f"{option.help} ({option.default!r})".replace("%", "%%")
            group.add_argument(*flags, dest=key, metavar="VALUE", default=None, help=text)


def _overrides(chosen: argparse.Namespace) -> dict[str, str]:
    given = {key: getattr(chosen, key, None) for key in options() | shared_options()}
    return {key: text for key, text in given.items() if text is not None}


def _experiment(chosen: argparse.Namespace) -> tuple[Config, Path]:
    from seq2seq.config import load_config

    config = load_config(chosen.config, _overrides(chosen))
    return config, chosen.run or Path("runs") / chosen.config.stem


def run_prepare(chosen: argparse.Namespace) -> None:
    """``seq2seq prepare``"""
    from seq2seq.preparation import prepare

    config, run = _experiment(chosen)
    print(prepare(config, run, chosen.stage))


def run_train(chosen: argparse.Namespace) -> None:
    """``seq2seq train``"""
    from seq2seq.parallel import joined, on_first, rank
    from seq2seq.training import train

    with joined():
        config, run = on_first(lambda: _prepared(chosen))
        summary = train(config, run)
        if rank() == 0:
            _report_training(summary, run)


def _prepared(chosen: argparse.Namespace) -> tuple[Config, Path]:
    from seq2seq.preparation import is_prepared, prepare

    config, run = _experiment(chosen)
    if not is_prepared(config, run):
        print(prepare(config, run))
    return config, run


def _report_training(summary: dict[str, Any], run: Path) -> None:
    print(
        f"{run}: best validation BLEU {summary['best_valid_bleu']:.2f} at step "
        f"{summary['best_step']:,} of {summary['steps']:,}, {summary['minutes']:.1f} minutes, "
        f"{summary['parameters']:,} parameters"
    )


def run_evaluate(chosen: argparse.Namespace) -> None:
    """``seq2seq evaluate``"""
    from seq2seq.evaluation import evaluate
    from seq2seq.tables import evaluation_tables

    result = evaluate(chosen.run, _overrides(chosen))
    for line in evaluation_tables(result):
        print(line)


def run_predict(chosen: argparse.Namespace) -> None:
    """``seq2seq predict``"""
    from seq2seq.translator import Translator

    translator = Translator.load(chosen.run, _overrides(chosen))
    if chosen.sentences:
        _translate_lines(translator, iter(chosen.sentences), LINES_AT_A_TIME)
    elif sys.stdin.isatty():
        _translate_lines(translator, _prompt(), 1)
    else:
        _translate_lines(translator, _lines(sys.stdin.buffer), LINES_AT_A_TIME)


def run_attend(chosen: argparse.Namespace) -> None:
    """``seq2seq attend``"""
    from seq2seq.files import write_text
    from seq2seq.page import arrays, choose, choose_view, page, word_table

    shown = [_attended(chosen, run) for run in chosen.compare or [chosen.run]]
    view = choose_view(shown, chosen.view)
    runs = [(each, choose(each, view, chosen.layer, chosen.head)) for each in shown]
    kind = "png" if chosen.png else "json" if chosen.json else "html"
    path = chosen.output or Path(f"attention.{kind}")
    if chosen.png:
        from seq2seq.plots import plot_attention

        plot_attention([word_table(*run) for run in runs], path)
    else:
        write_text(path, arrays(shown) if chosen.json else page(runs))
    print(f"written: {path}")


def _attended(chosen: argparse.Namespace, run: Path) -> "Shown":
    """What a run did with the sentence."""
    from seq2seq.evaluation import known_best_head
    from seq2seq.page import Shown
    from seq2seq.translator import Translator

    translator = Translator.load(run, _overrides(chosen))

    observation = translator.attend(chosen.sentence, partial(_warn_of_cut, translator, 1))
    print(f"{run}: {observation.tgt.text}")
    return Shown(str(run), observation, known_best_head(run, translator.config.model))


def run_compare(chosen: argparse.Namespace) -> None:
    """``seq2seq compare``"""
    from seq2seq.experiments import load_experiment, plan_runs, run_all
    from seq2seq.findings import find
    from seq2seq.report import summary, write_report

    experiment = load_experiment(chosen.experiment)
    folder = chosen.run or Path("runs") / "compare" / chosen.experiment.stem
    runs = plan_runs(experiment, folder, _overrides(chosen))
    run_all(runs)
    findings = find(experiment, runs, folder)
    report = write_report(findings, folder)
    for line in summary(findings):
        print(line)
    print(f"report: {report}")


def run_variants(chosen: argparse.Namespace) -> None:
    """``seq2seq variants``"""
    from seq2seq.variants import table

    model = ModelConfig()
    rows = list(table(model))
    width = max(len(row.formula) for row in rows)
    place = ""
    for row in rows:
        if row.place != place:
            place = row.place
            print(f"\n[model.encoder_attention] {place} =" if place == "score" else f"\n{place} =")
        print(f"  {row.name:14}{row.extra_parameters:+10,}  {row.formula:{width}}  {row.paper}")
    print(
        "\nThe same settings are in [model.decoder_attention] and [model.cross_attention], and "
        "beside them\nthe numbers n_heads, kv_heads and window. Parameters: those more than "
        f"scaled_dot and softmax without\npositions, an attention, at d_model = {model.d_model} "
        f"with {model.n_heads} heads."
    )


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    """The lines of standard input, whatever bytes they hold."""
    for number, raw in enumerate(stream):
        line = raw if number else raw.removeprefix(b"\xef\xbb\xbf")
        yield line.rstrip(b"\r\n").decode("utf-8", "replace")


def _prompt() -> Iterator[str]:
    """What the user types, line by line, until the end of input (Ctrl-D)."""
    print("One sentence a line; Ctrl-D ends.", file=sys.stderr)
    while True:
        print("> ", end="", file=sys.stderr, flush=True)
        try:
            yield input()
        except EOFError:
            print(file=sys.stderr)
            return


def _warn_of_cut(translator: "Translator", first: int, index: int, n_tokens: int) -> None:
    """Of the sentence ``index`` of those from line ``first`` on."""
    limit = translator.config.data.max_tokens
    what = f"line {first + index}: {n_tokens:,} tokens, cut to {limit} (data.max_tokens)"
    print(f"seq2seq: {what}", file=sys.stderr)


def _translate_lines(translator: "Translator", lines: Iterator[str], at_a_time: int) -> None:
    """One line out for each line in, in order, some at a time."""
    first = 1
    while chunk := list(islice(lines, at_a_time)):
        for translation in translator.translate(chunk, partial(_warn_of_cut, translator, first)):
            sys.stdout.buffer.write(translation.encode("utf-8") + b"\n")
        sys.stdout.flush()
        first += len(chunk)
