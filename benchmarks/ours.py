"""What seq2seq itself takes. Prints one line of JSON.

python benchmarks/ours.py train RUN STEPS PRECISION
python benchmarks/ours.py decode RUN BATCH PRECISION HYPOTHESES
"""

import json
import sys
import time
from itertools import islice
from pathlib import Path

WARM_UP = 3  # steps, or batches, that do not count


def train(run: Path, n_steps: int, precision: str) -> dict[str, float]:
    """Target tokens a second, of whole training steps."""
    from seq2seq.checkpoint import load_run_config
    from seq2seq.training import Trainer

    trainer = Trainer(load_run_config(run, {"train.precision": precision}), run)
    steps = [batches for batches, _ in islice(trainer.steps(), WARM_UP + n_steps)]
    for batches in steps[:WARM_UP]:
        trainer.step(batches, 1e-4)
    began = time.perf_counter()
    for batches in steps[WARM_UP:]:
        trainer.step(batches, 1e-4)
    seconds = time.perf_counter() - began
    labels = sum(batch.n_labels for batches in steps[WARM_UP:] for batch in batches)
    return {"tokens_per_second": labels / seconds, "seconds_a_step": seconds / n_steps}


def decode(run: Path, batch_size: int, precision: str, hypotheses: Path) -> dict[str, float]:
    """Seconds for the first test set, greedily, tokenisation included, loading not.

    With a batch size of 1, sentence by sentence, as they come.
    """
    from seq2seq.corpus import load_report, load_split
    from seq2seq.translator import Translator

    settings = {"decoding.batch_size": str(batch_size), "decoding.precision": precision}
    translator = Translator.load(run, settings)
    name = next(iter(load_report(run).test_pairs))
    sentences = load_split(translator.config.data, run, name).src
    translator.translate(sentences[:batch_size])
    began = time.perf_counter()
    if batch_size == 1:
        found = [translator.translate([sentence])[0] for sentence in sentences]
    else:
        found = translator.translate(sentences)
    seconds = time.perf_counter() - began
    hypotheses.write_text("\n".join(found) + "\n", encoding="utf-8")
    return {"seconds": seconds, "sentences": len(sentences)}


if __name__ == "__main__":
    what, folder, number, *more = sys.argv[1:]
    if what == "train":
        print(json.dumps(train(Path(folder), int(number), more[0])))
    else:
        print(json.dumps(decode(Path(folder), int(number), more[0], Path(more[1]))))
