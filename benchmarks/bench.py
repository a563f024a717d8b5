"""Speed of training and decoding, ours and others', in turn, on the same data and shape.

make bench DATA=PATH

PATH holds Multi30k's files (``train.de`` and so on). A model of the shape in ``bench.toml`` is
trained in ``runs/bench``, once. The peers live in an environment of their own; they get the same
subwords, batches of the same size and, to decode, our trained weights. The result is written to
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

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # all on the CPU

import torch
from torch.utils.flop_counter import FlopCounterMode

from seq2seq.checkpoint import load_run_config
from seq2seq.files import write_lines
from seq2seq.machine import fast_bfloat16, float32_products
from seq2seq.objective import batch_loss
from seq2seq.training import Trainer

HERE = Path(__file__).parent
RUN = Path("runs/bench")
PEERS = RUN / "peers"
ROUNDS = 3

Measure = Callable[[], float]


def call(python: str, script: str, *words: object) -> dict[str, float]:
    """The line of JSON that one of the programs beside this one prints."""
    command = [python, str(HERE / script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second in the products that a step is made of: 4,096 tokens, 256 to 1,024."""
    x, w = torch.randn(4096, 256).to(dtype), torch.randn(256, 1024).to(dtype)
    seconds = []
    for _ in range(30):
        with float32_products(4096):
            began = time.perf_counter()
            torch.mm(x, w)
            seconds.append(time.perf_counter() - began)
    return 2 * 4096 * 256 * 1024 / median(seconds)


def operations_a_token() -> float:
    """Of the matrix products in a training step, for each target token."""
    trainer = Trainer(load_run_config(RUN), RUN)
    batches = [batch for step, _ in islice(trainer.steps(), 20) for batch in step]
    with FlopCounterMode(display=False) as counter:
        for batch in batches:
            batch_loss(trainer.model, batch, 0.1).backward()
    return counter.get_total_flops() / sum(batch.n_labels for batch in batches)


def training_measures(peers: str) -> dict[str, Measure]:
    """Target tokens a second, by contender."""
    rate = "tokens_per_second"
    return {
        "seq2seq": lambda: call(sys.executable, "ours.py", "train", RUN, 12, "auto")[rate],
        "seq2seq in float32": lambda: call(sys.executable, "ours.py", "train", RUN, 12, "float32")[
            rate
        ],
        "nn.Transformer loop": lambda: call(sys.executable, "plain.py", RUN, 12)[rate],
        "JoeyNMT 2.3": lambda: call(peers, "joeynmt_peer.py", "train", RUN, PEERS / "joeynmt", 12)[
            rate
        ],
    }


def decoding_measures(peers: str) -> dict[str, Measure]:
    """Seconds for the test set, by contender, in batches of the size that suits each best."""
    cores = torch.get_num_threads()

    def ours(batch: int, precision: str) -> Measure:
        words = ("decode", RUN, batch, precision, PEERS / f"ours-{batch}-{precision}.txt")
        return lambda: call(sys.executable, "ours.py", *words)["seconds"]

    def ctranslate2(kind: str, *sizes: int) -> Measure:
        name = PEERS / f"ctranslate2-{kind}-{sizes[0]}.txt"
        words = (RUN, PEERS / "ctranslate2", kind, *sizes, name)
        return lambda: call(peers, "ctranslate2_peer.py", *words)["seconds"]

    def joeynmt() -> float:
        words = ("decode", RUN, PEERS / "joeynmt", 100, PEERS / "joeynmt.txt")
        return call(peers, "joeynmt_peer.py", *words)["seconds"]

    return {
        "seq2seq": ours(334, "auto"),
        "seq2seq in float32": ours(334, "float32"),
        "CTranslate2 float32": ctranslate2("float32", 100, cores, 1),
        "CTranslate2 int8": ctranslate2("int8", 100, cores, 1),
        "JoeyNMT 2.3": joeynmt,
        "seq2seq, one at a time": ours(1, "auto"),
        "CTranslate2 float32, one at a time": ctranslate2("float32", 1, 1, cores),
    }


def table(
    title: str, unit: str, found: dict[str, list[float]], better: Callable[[float, float], float]
) -> Iterator[str]:
    """Lines of a table: the median over rounds, the range, and the ratio to ours in each round."""
    ours = next(iter(found.values()))
    yield from ["", f"| {title} | {unit} | lowest to highest | seq2seq is faster by |"]
    yield "| --- | --- | --- | --- |"
    for name, values in found.items():
        ratio = median(better(mine, theirs) for mine, theirs in zip(ours, values, strict=True))
        spread = f"{min(values):,.2f} to {max(values):,.2f}"
        yield f"| {name} | {median(values):,.2f} | {spread} | {ratio:.2f} |"


def main() -> None:
    """Measure all, in turn, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with Multi30k's files")
    parser.add_argument("--peers", required=True, help="python of the peers' environment")
    chosen = parser.parse_args()
    config = ["--config", str(HERE / "bench.toml"), "--data.directory", chosen.data]
    seq2seq = [sys.executable, "-m", "seq2seq", "train", "--run", str(RUN)]
    subprocess.run([*seq2seq, *config], check=True)
    PEERS.mkdir(exist_ok=True)
    operations = operations_a_token()
    training, decoding = training_measures(chosen.peers), decoding_measures(chosen.peers)
    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    both = (training, decoding)
    found: list[dict[str, list[float]]] = [{name: [] for name in each} for each in both]
    for number in range(1, ROUNDS + 1):
        for kind, dtype in kinds.items():
            rates[kind].append(matrix_rate(dtype))
        for measures, values in zip(both, found, strict=True):
            for name, measure in measures.items():
                values[name].append(measure())
                print(f"round {number}: {name}: {values[name][-1]:,.2f}", file=sys.stderr)
    fastest = max(median(values) for values in rates.values())
    precision = "bfloat16" if fast_bfloat16("cpu") else "float32"
    share = median(found[0]["seq2seq"]) * operations / fastest
    alone = {name: values for name, values in found[1].items() if "one at a time" in name}
    together = {name: values for name, values in found[1].items() if name not in alone}
    lines = [
        f"`make bench DATA=PATH`, {ROUNDS} rounds, {torch.get_num_threads()} threads of a CPU, "
        f"torch {torch.__version__.split('+')[0]}. Matrix products: "
        + ", ".join(f"{kind} {median(values) / 1e9:,.0f} GFLOP/s" for kind, values in rates.items())
        + f". A training step needs {operations / 1e6:.1f} million operations a target token: the "
        f"most is {fastest / operations:,.0f} tokens a second; seq2seq is at {share:.0%} of it. "
        f"seq2seq trains and, in batches, decodes in {precision}; the peers are in float32 unless "
        "it is said, as they come.",
        *table("training", "target tokens/s", found[0], lambda mine, theirs: mine / theirs),
        *table("decoding 1,000 sentences", "s", together, lambda mine, theirs: theirs / mine),
        *table("the same, one at a time", "s", alone, lambda mine, theirs: theirs / mine),
    ]
    write_lines(HERE / "results.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
