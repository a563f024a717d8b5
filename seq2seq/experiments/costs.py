"""What a variant costs, in parameters, operations and time, and the ``d_ff`` that matches it."""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path
from timeit import timeit
from typing import Literal
from zlib import crc32

import numpy as np
import torch
from filelock import FileLock
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import clip_grad_norm_
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from seq2seq import cpu
from seq2seq.config import Config, dump_config
from seq2seq.data.batches import Batch
from seq2seq.data.corpus import load_report, load_split
from seq2seq.experiments.statistics import Array
from seq2seq.model.loss import batch_loss
from seq2seq.model.transformer import Seq2Seq, count_parameters, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.training.optimizer import r_drop_at
from seq2seq.training.trainer import Trainer
from seq2seq.translator import Translator
from seq2seq.utils import read_json, write_json

ROUNDS, STEPS, SENTENCES = 5, 4, 500  # training steps and decoded sentences of each round
SPEEDS = ("train_speed", "decode_speed")  # columns
PAIRS, TOKENS = 16, 24  # of the batch that stands for a corpus before there is one, on each side

Cost = Literal["parameters", "flops", "time"]


def make_pass(config: Config, n_pairs: int) -> Callable[[], float]:
    """A new model's forward and backward pass over ``n_pairs`` of random tokens."""
    size, device = config.tokenizer.vocab_size, cpu.pick_device()
    model = Seq2Seq(config.model, size, size, config.tokenizer.joint).to(device)
    ids = torch.randint(4, size, (n_pairs, TOKENS))
    batch = Batch(ids, torch.cat([ids[:, :1], ids], dim=1)).to(device)

    def run() -> float:
        model.zero_grad()
        with cpu.float32_matmul(ids.numel()), cpu.autocast(config.train.precision, device):
            batch_loss(model, batch, config.train.label_smoothing).backward()
        return clip_grad_norm_(model.parameters(), 1.0).item()  # waits for a GPU

    return run


@cache
def flops_per_token(config: Config) -> float:
    """Operations in the matrix products of a training step, per target token."""
    # Of the fused kernels for CPUs, the counter knows none.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        make_pass(config, PAIRS)()
    n_passes = 1.5 if config.train.r_drop_alpha else 1  # R-Drop: two in the second half
    return n_passes * counter.get_total_flops() / (PAIRS * TOKENS)


def find_d_ff(config: Config, baseline: Config, cost: Cost) -> int:
    """The ``d_ff`` with which ``config`` costs what another does; below 1 if it never does.

    Every cost is affine in it, so two points tell. Times are those of passes in turn.
    """
    low, high = (config.model.d_ff + 1) // 2, 2 * config.model.d_ff
    models = [replace(config.model, d_ff=d_ff) for d_ff in (low, high)]
    configs = [baseline, *(replace(config, model=model) for model in models)]
    if cost == "parameters":
        costs = [float(count_parameters(empty_model(config))) for config in configs]
    elif cost == "flops":
        costs = [flops_per_token(config) for config in configs]
    else:
        passes = [make_pass(x, x.train.max_tokens_per_batch // TOKENS + 1) for x in configs]
        rounds = [[timeit(x, number=STEPS) for x in passes] for _ in range(ROUNDS + 1)]
        seconds = np.array(rounds[1:])  # without the warm-up
        costs = np.median(seconds / seconds[:, :1], axis=0).tolist()
    return round(low + (costs[0] - costs[1]) * (high - low) / (costs[2] - costs[1]))


def matching_d_ff(config: Config, baseline: Config, cost: Cost, folder: Path) -> int:
    """``find_d_ff``, kept in ``matched.json``: times are not the same when measured again."""
    if cost != "time":
        return find_d_ff(config, baseline, cost)
    key = f"{crc32((dump_config(config) + dump_config(baseline)).encode()):08x}"
    path = folder / "matched.json"
    with FileLock(folder / "matched.lock"):  # another process may be measuring
        known: dict[str, int] = read_json(path, dict[str, int]) if path.exists() else {}
        if key not in known:
            known[key] = find_d_ff(config, baseline, cost)
            write_json(path, known)
        return known[key]


def relative_speeds(runs: dict[str, RunFolder]) -> dict[str, dict[str, float]]:
    """Speeds of each variant, from one run each, as multiples of the baseline's (the first).

    A machine's speed changes with time: so the two take turns, and a round compares what was
    measured within seconds.
    """
    names, measure_baseline = list(runs), speed_test(next(iter(runs.values())))
    speeds = {names[0]: dict.fromkeys(SPEEDS, 1.0)}
    for name in tqdm(names[1:], desc="measuring speed", unit="variant", disable=None):
        measure = speed_test(runs[name])
        ratios = [measure() / measure_baseline() for _ in range(ROUNDS)]
        medians = np.median(ratios, axis=0).round(4).tolist()
        speeds[name] = dict(zip(SPEEDS, medians, strict=True))
        del measure  # and its model, before the next one is built
    return speeds


def speed_test(run: RunFolder) -> Callable[[], Array]:
    """What measures target tokens per second, EOS included: trained on, and decoded.

    A few steps, which change nothing, and the translation of a test set.
    """
    config, test = run.load_config(), next(iter(load_report(run).test_pairs))
    trainer, translator = Trainer(config, run), Translator.load(run)
    steps = [batches for batches, _ in islice(trainer.steps(), STEPS)]
    n_trained = sum(batch.n_target_tokens for batches in steps for batch in batches)
    sentences = load_split(run, config.data, test).src[:SENTENCES]

    def measure() -> Array:
        start = time.perf_counter()
        for number, batches in enumerate(steps):  # half of them in either half of training
            trainer.step(batches, 0.0, r_drop_at(config.train, number / len(steps)))
        trained = time.perf_counter()
        hypotheses = [best.text for best, *_ in translator.search(sentences)]
        seconds = np.array([trained - start, time.perf_counter() - trained])
        n_decoded = sum(map(len, translator.tokenizer.tgt.encode(hypotheses)))
        return np.array([n_trained, n_decoded]) / seconds

    measure()  # warm up
    return measure
