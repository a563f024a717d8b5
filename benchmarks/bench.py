"""Speed of training and decoding, ours and others', in turn, on the same data and shape.

make bench DATA=PATH

PATH holds Multi30k's files (``train.de`` and so on). A model of the shape in ``bench.toml`` is
trained in ``runs/bench``, once. The peers have their own environment; they get the same subwords,
batches of the same size and, for decoding, our trained weights. The result is written to
``benchmarks/results.md``.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # everything on the CPU

import torch
from torch.utils.flop_counter import FlopCounterMode

from seq2seq.cpu import fast_bfloat16, float32_matmul
from seq2seq.model.loss import batch_loss
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import Trainer
from seq2seq.utils import write_lines

FOLDER = Path(__file__).parent
RUN = Path("runs/bench")
PEERS = RUN / "peers"
ROUNDS = 3

Measure = Callable[[], float]


def call(python: str, script: str, key: str, *words: object) -> Measure:
    """One of the programs in this folder, as a function that returns ``key`` of what it prints."""
    command = [python, str(FOLDER / script), *map(str, words)]

    def measure() -> float:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        return float(json.loads(done.stdout.splitlines()[-1])[key])

    return measure


def matmul_rate(dtype: torch.dtype) -> float:
    """Operations per second in the products that a step consists of: 4,096 tokens, 256 to 1,024."""
    x, w = torch.randn(4096, 256).to(dtype), torch.randn(256, 1024).to(dtype)
    seconds = []
    for _ in range(30):
        with float32_matmul(4096):
            start = time.perf_counter()
            torch.mm(x, w)
            seconds.append(time.perf_counter() - start)
    return 2 * 4096 * 256 * 1024 / median(seconds)


def operations_per_token() -> float:
    """Of the matrix products in a training step, per target token."""
    trainer = Trainer(RunFolder(RUN).load_config(), RUN)
    batches = [batch for step, _ in islice(trainer.steps(), 20) for batch in step]
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            batch_loss(trainer.model, batch, 0.1).backward()
    return counter.get_total_flops() / sum(batch.n_target_tokens for batch in batches)


def training_measures(peers: str) -> dict[str, Measure]:
    """Target tokens per second, by contender."""

    def train(python: str, script: str, *words: object) -> Measure:
        return call(python, script, "tokens_per_second", *words)

    return {
        "seq2seq": train(sys.executable, "ours.py", "train", RUN, 12, "auto"),
        "seq2seq in float32": train(sys.executable, "ours.py", "train", RUN, 12, "float32"),
        "nn.Transformer loop": train(sys.executable, "plain.py", RUN, 12),
        "JoeyNMT 2.3": train(peers, "joeynmt_peer.py", "train", RUN, PEERS / "joeynmt", 12),
    }


def decoding_measures(peers: str) -> dict[str, Measure]:
    """Seconds for the test set, by contender, in batches of the size that suits each best."""
    cores = torch.get_num_threads()

    def ours(batch: int, precision: str) -> Measure:
        path = PEERS / f"ours-{batch}-{precision}.txt"
        return call(sys.executable, "ours.py", "seconds", "decode", RUN, batch, precision, path)

    def ctranslate2(precision: str, *sizes: int) -> Measure:
        path = PEERS / f"ctranslate2-{precision}-{sizes[0]}.txt"
        words = (RUN, PEERS / "ctranslate2", precision, *sizes, path)
        return call(peers, "ctranslate2_peer.py", "seconds", *words)

    joeynmt = ("decode", RUN, PEERS / "joeynmt", 100, PEERS / "joeynmt.txt")
    return {
        "seq2seq": ours(334, "auto"),
        "seq2seq in float32": ours(334, "float32"),
        "CTranslate2 float32": ctranslate2("float32", 100, cores, 1),
        "CTranslate2 int8": ctranslate2("int8", 100, cores, 1),
        "JoeyNMT 2.3": call(peers, "joeynmt_peer.py", "seconds", *joeynmt),
        "seq2seq, one at a time": ours(1, "auto"),
        "CTranslate2 float32, one at a time": ctranslate2("float32", 1, 1, cores),
    }


def table(
    title: str,
    unit: str,
    values: dict[str, list[float]],
    ratio: Callable[[float, float], float],
) -> Iterator[str]:
    """Lines of a table: the median over rounds, the range, and the ratio to ours in each round."""
    ours = next(iter(values.values()))
    yield from ["", f"| {title} | {unit} | range | seq2seq is faster by |"]
    yield "| --- | --- | --- | --- |"
    for name, rounds in values.items():
        factor = median(ratio(mine, theirs) for mine, theirs in zip(ours, rounds, strict=True))
        spread = f"{min(rounds):,.2f} to {max(rounds):,.2f}"
        yield f"| {name} | {median(rounds):,.2f} | {spread} | {factor:.2f} |"


def main() -> None:
    """Measure everything, in turn, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with Multi30k's files")
    parser.add_argument("--peers", required=True, help="python of the peers' environment")
    arguments = parser.parse_args()
    config = ["--config", str(FOLDER / "bench.toml"), "--data.path", arguments.data]
    train = [sys.executable, "-m", "seq2seq", "train", "--run", str(RUN), *config]
    subprocess.run(train, check=True)
    PEERS.mkdir(exist_ok=True)
    operations = operations_per_token()
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    rates: dict[str, list[float]] = {name: [] for name in dtypes}
    measures = (training_measures(arguments.peers), decoding_measures(arguments.peers))
    training, decoding = ({name: list[float]() for name in part} for part in measures)
    for number in range(1, ROUNDS + 1):
        for name, dtype in dtypes.items():
            rates[name].append(matmul_rate(dtype))
        for part, values in zip(measures, (training, decoding), strict=True):
            for name, measure in part.items():
                values[name].append(measure())
                print(f"round {number}: {name}: {values[name][-1]:,.2f}", file=sys.stderr)
    fastest = max(median(values) for values in rates.values())
    precision = "bfloat16" if fast_bfloat16("cpu") else "float32"
    share = median(training["seq2seq"]) * operations / fastest
    alone = {name: values for name, values in decoding.items() if "one at a time" in name}
    batched = {name: values for name, values in decoding.items() if name not in alone}
    lines = [
        f"`make bench DATA=PATH`, {ROUNDS} rounds, {torch.get_num_threads()} threads of a CPU, "
        f"torch {torch.__version__.split('+')[0]}. Matrix products: "
        + ", ".join(f"{name} {median(values) / 1e9:,.0f} GFLOP/s" for name, values in rates.items())
        + f". A training step needs {operations / 1e6:.1f} million operations per target token, so "
        f"the bound is {fastest / operations:,.0f} tokens per second; seq2seq reaches {share:.0%} "
        f"of it. seq2seq trains and, in batches, decodes in {precision}; the peers run in float32 "
        "unless stated otherwise, as they come.",
        *table("training", "target tokens/s", training, lambda mine, theirs: mine / theirs),
        *table("decoding 1,000 sentences", "s", batched, lambda mine, theirs: theirs / mine),
        *table("the same, one at a time", "s", alone, lambda mine, theirs: theirs / mine),
    ]
    write_lines(FOLDER / "results.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
