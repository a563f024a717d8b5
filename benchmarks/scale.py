"""Time and memory as the corpus grows: preparing, training and translating.

make scale DATA=PATH

PATH holds Multi30k's files (``train.de`` and so on), which are repeated to ten thousand, a hundred
thousand and a million pairs in a temporary folder. Model and batches are small, so that what grows
with the corpus is visible beside what does not. Every measurement is a separate process; this one
stays small, because a child process starts with its parent's peak. The result is written to
``benchmarks/scale.md``.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from threading import Thread

from seq2seq.utils import write_lines

FOLDER = Path(__file__).parent
LANGUAGES = ("de", "en")
STEPS = 200
TINY = {
    "model.d_model": 64,
    "model.d_ff": 128,
    "model.encoder_layers": 1,
    "model.decoder_layers": 1,
    "model.dropout": 0.0,
    "train.max_tokens_per_batch": 1024,
    "train.learning_rate": 5e-3,
    "train.validate_every": 10**6,
}
SEQ2SEQ = [sys.executable, "-m", "seq2seq"]

Row = list[float]


def repeated(path: Path, n_lines: int) -> Iterator[bytes]:
    """The first lines of a file, which starts over at its end."""
    with path.open("rb") as file:
        lines = file.readlines()
    return islice(cycle(lines), n_lines)


def repeat_corpus(data: Path, folder: Path, n_pairs: int) -> None:
    """The corpus in ``data`` with ``n_pairs`` training pairs."""
    folder.mkdir()
    for language in LANGUAGES:
        for split in ("val", "test_2016_flickr"):
            shutil.copy(data / f"{split}.{language}", folder)
        with (folder / f"train.{language}").open("wb") as file:
            file.writelines(repeated(data / f"train.{language}", n_pairs))


def finish(process: "subprocess.Popen[bytes]") -> float:
    """Wait for a process to end; returns its peak memory in MB."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"failed: {process.args!r}")
    return usage.ru_maxrss / 1000


def settings(data: Path, run: Path) -> list[str]:
    """The arguments of the commands that create a run."""
    flags = [x for key, value in TINY.items() for x in (f"--{key}", str(value))]
    config = ["--config", str(FOLDER / "bench.toml"), "--run", str(run)]
    return [*config, "--data.path", str(data), *flags]


def measure_prepare(data: Path, run: Path) -> Row:
    """Seconds and peak memory."""
    start = time.perf_counter()
    command = [*SEQ2SEQ, "prepare", *settings(data, run)]
    peak = finish(subprocess.Popen(command, stdout=subprocess.DEVNULL))
    return [time.perf_counter() - start, peak]


def measure_training(run: Path) -> Row:
    """Seconds and peak memory until the first step, then of the first steps."""
    command = [sys.executable, __file__, "--first-steps", str(run)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert process.stdout
    result = json.loads(process.stdout.read())
    return [result["start"], result["start_peak"], result["steps"], finish(process)]


def first_steps(run: Path) -> dict[str, float]:
    """What ``measure_training`` measures, in its own process."""
    import resource

    from seq2seq.cpu import tune_process
    from seq2seq.run_folder import RunFolder
    from seq2seq.training.trainer import Trainer

    tune_process()
    began = time.perf_counter()
    trainer = Trainer(RunFolder(run).load_config(), run)
    steps = trainer.steps()
    first, _ = next(steps)
    start = time.perf_counter() - began
    start_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    trainer.step(first, 1e-4)
    for batches, _ in islice(steps, STEPS - 1):
        trainer.step(batches, 1e-4)
    return {
        "start": start,
        "start_peak": start_peak,
        "steps": time.perf_counter() - began - start,
    }


def write_hard_lines(data: Path, path: Path) -> None:
    """500 lines of 1 to 20 sentences, of nearly as many lengths."""
    lines = (data / "train.de").read_text("utf-8").splitlines()
    write_lines(path, [" ".join(lines[i : i + 1 + i % 20]) for i in range(500)])


def measure_predict(run: Path, text: Path, n_lines: int, ratio: int = 0) -> Row:
    """Seconds until the first line comes out of a pipe, lines per second, peak memory."""
    # Ten subwords per line: a model that has hardly learned anything does not know when to stop.
    command = [*SEQ2SEQ, "predict", "--run", str(run), "--decoding.max_length_ratio", str(ratio)]
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=quiet)
    assert process.stdin
    assert process.stdout
    stdin = process.stdin

    def feed() -> None:
        with stdin:
            stdin.writelines(repeated(text, n_lines))

    began = time.perf_counter()
    Thread(target=feed).start()
    process.stdout.readline()
    first = time.perf_counter() - began
    count = 1 + sum(1 for _ in process.stdout)
    seconds = time.perf_counter() - began
    if count != n_lines:
        sys.exit(f"{n_lines:,} lines in, {count:,} lines out")
    return [first, n_lines / seconds, finish(process)]


def growth(sizes: list[int], peaks: list[float]) -> str:
    """Bytes per pair between the last two sizes."""
    if len(sizes) < 2:
        return "-"
    return f"{(peaks[-1] - peaks[-2]) * 1e6 / (sizes[-1] - sizes[-2]):,.0f}"


def tables(
    training: dict[int, Row], translating: dict[int, Row], hard: dict[int, Row]
) -> Iterator[str]:
    """The results as lines of Markdown."""
    yield (
        "`make scale DATA=PATH`: Multi30k repeated; a tiny model, so steps and translations say "
        f"nothing about speed; {os.cpu_count()} cores. Start: time until the first step, which "
        "reads the ids that preparing encoded."
    )
    yield from ("", "| training pairs | prepare, s | MB | start, s | MB | 200 steps, s | MB |")
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for n_pairs, row in training.items():
        yield f"| {n_pairs:,} | " + " | ".join(f"{value:,.1f}" for value in row) + " |"
    sizes = list(training)
    prepare, start, steps = (
        growth(sizes, [row[column] for row in training.values()]) for column in (1, 3, 5)
    )
    yield f"| bytes per additional pair | | {prepare} | | {start} | | {steps} |"
    yield from ("", "| lines from a pipe | first line after, s | lines/s | MB |")
    yield "| --- | --- | --- | --- |"
    rows = [(f"{n_lines:,}", row) for n_lines, row in translating.items()]
    rows += [
        (f"{n_lines:,}, hard: all lengths, to the limit", row) for n_lines, row in hard.items()
    ]
    for name, (first, rate, peak) in rows:
        yield f"| {name} | {first:,.1f} | {rate:,.0f} | {peak:,.1f} |"


def main() -> None:
    """Measure each size, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with Multi30k's files")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--first-steps", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_steps:
        print(json.dumps(first_steps(arguments.first_steps)))
        return
    training: dict[int, Row] = {}
    translating: dict[int, Row] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for n_pairs in arguments.sizes:
            data, run = folder / f"data-{n_pairs}", folder / f"run-{n_pairs}"
            repeat_corpus(arguments.data, data, n_pairs)
            training[n_pairs] = measure_prepare(data, run) + measure_training(run)
            print(f"{n_pairs:,} pairs: {training[n_pairs]}", file=sys.stderr)
        run = folder / "run"
        command = [*SEQ2SEQ, "train", *settings(arguments.data, run), "--train.epochs", "1"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for n_lines in arguments.sizes:
            translating[n_lines] = measure_predict(run, arguments.data / "train.de", n_lines)
            print(f"{n_lines:,} lines: {translating[n_lines]}", file=sys.stderr)
        write_hard_lines(arguments.data, folder / "hard.de")
        hard = {n: measure_predict(run, folder / "hard.de", n, 2) for n in (1000, 4000, 16000)}
    lines = list(tables(training, translating, hard))
    write_lines(FOLDER / "scale.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
