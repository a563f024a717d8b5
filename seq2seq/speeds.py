"""How fast the variants of an experiment train and translate, measured in turn."""

import json
import time
from itertools import islice
from pathlib import Path

import torch
from tqdm import tqdm

from seq2seq.corpus import load_report, load_split
from seq2seq.experiments import Run
from seq2seq.files import read_json, write_text
from seq2seq.objective import r_drop_at
from seq2seq.training import Trainer
from seq2seq.translator import Translator

ROUNDS = 5
STEPS = 4  # training steps a round

Speeds = dict[str, dict[str, list[float]]]  # by variant: "training" and "decoding", round by round


def measure_speed(runs: list[Run], folder: Path) -> Speeds:
    """Training and decoding speed of every variant, in target tokens a second, in several rounds.

    Machines are now faster, now slower; so the variants take turns, and each round compares what
    was measured within seconds. Kept in ``speed.json`` until a run is trained or scored again.

    Args:
        runs: one for each variant; all have the same corpus.
        folder: the experiment's.
    """
    path = folder / "speed.json"
    if path.exists():
        known: Speeds = read_json(path)
        newest = max((run.folder / "eval.json").stat().st_mtime for run in runs)
        if list(known) == [run.variant for run in runs] and path.stat().st_mtime >= newest:
            return known
    racers = [Racer(run) for run in runs]
    speeds: Speeds = {run.variant: {"training": [], "decoding": []} for run in runs}
    for _ in tqdm(range(ROUNDS), desc="speed, in turn", unit="round", disable=None):
        for racer in racers:
            speeds[racer.name]["training"].append(racer.train())
            speeds[racer.name]["decoding"].append(racer.decode())
    write_text(path, json.dumps(speeds, indent=2) + "\n")
    return speeds


class Racer:
    """A variant made ready to be timed: some batches to train on, a test set to translate."""

    def __init__(self, run: Run) -> None:
        self.name = run.variant
        self.trainer = Trainer(run.config, run.folder)
        self.steps = [batches for batches, _ in islice(self.trainer.steps(), STEPS)]
        self.translator = Translator.load(run.folder)
        first = next(iter(load_report(run.folder).test_pairs))
        self.sentences = load_split(run.config.data, run.folder, first).src

    def train(self) -> float:
        """Target tokens a second, in steps that change nothing."""
        began = now()
        config = self.trainer.config.train
        for number, batches in enumerate(self.steps):  # half of them as in either half of it
            self.trainer.step(batches, 0.0, r_drop_at(config, number / len(self.steps)))
        n_labels = sum(batch.n_labels for batches in self.steps for batch in batches)
        return round(n_labels / (now() - began), 1)

    def decode(self) -> float:
        """Tokens written a second, each sentence's EOS counted."""
        began = now()
        hypotheses = self.translator.translate(self.sentences)
        seconds = now() - began
        written = self.translator.tokenizer.encode_tgt(hypotheses)  # from BOS to EOS
        return round(sum(len(ids) - 1 for ids in written) / seconds, 1)


def now() -> float:
    """Seconds on a clock that is read when all work so far is done, on a GPU too."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()
