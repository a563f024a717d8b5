"""Times seq2seq itself. Prints one line of JSON.

python benchmarks/ours.py train RUN STEPS PRECISION
python benchmarks/ours.py decode RUN BATCH PRECISION HYPOTHESES
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path

from seq2seq.cpu import tune_process
from seq2seq.data.corpus import load_report, load_split
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import Trainer
from seq2seq.translator import Translator

WARM_UP = 3  # steps that do not count


def train(run: RunFolder, n_steps: int, precision: str) -> dict[str, float]:
    """Target tokens per second, in whole training steps."""
    trainer = Trainer(run.load_config({"train.precision": precision}), run)
    steps = [batches for batches, _ in islice(trainer.steps(), WARM_UP + n_steps)]
    for batches in steps[:WARM_UP]:
        trainer.step(batches, 1e-4)
    start = time.perf_counter()
    for batches in steps[WARM_UP:]:
        trainer.step(batches, 1e-4)
    seconds = time.perf_counter() - start
    n_tokens = sum(batch.n_target_tokens for batches in steps[WARM_UP:] for batch in batches)
    return {"tokens_per_second": n_tokens / seconds, "seconds_per_step": seconds / n_steps}


def decode(run: RunFolder, batch_size: int, precision: str, path: Path) -> dict[str, float]:
    """Seconds for the first test set, greedy, with tokenization and without loading.

    With a batch size of 1, sentences are translated one after the other.
    """
    overrides = {"decoding.batch_size": str(batch_size), "decoding.precision": precision}
    translator = Translator.load(run, overrides)
    test = next(iter(load_report(run).test_pairs))
    sentences = load_split(run, translator.config.data, test).src
    translator.translate(sentences[:batch_size])
    start = time.perf_counter()
    if batch_size == 1:
        hypotheses = [translator.translate([sentence])[0] for sentence in sentences]
    else:
        hypotheses = translator.translate(sentences)
    seconds = time.perf_counter() - start
    path.write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
    return {"seconds": seconds, "sentences": len(sentences)}


if __name__ == "__main__":
    tune_process()
    what, folder, number, *more = sys.argv[1:]
    if what == "train":
        print(json.dumps(train(RunFolder(folder), int(number), more[0])))
    else:
        print(json.dumps(decode(RunFolder(folder), int(number), more[0], Path(more[1]))))
