"""A Transformer for translation, small enough to read in an afternoon.

attention/      the heart: attention in one file, and the catalogue of its variants
model/          layers, encoder and decoder, loss, greedy and beam search
data/           corpora, subwords, batches
training/       the training loop
translator.py   a trained run: text in, text out
evaluation/     BLEU, chrF, exact match, word alignment, how figures look
experiments/    variants times seeds, and what they show
viewer/         attention as a web page, the whole model as a picture
export/         runs for use elsewhere: a model card, and the hub
api.py          what Python programs and notebooks use
run_folder.py, config.py, shipped.py, cpu.py, utils.py    what all of these stand on
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2seq.api import Model, load, train
    from seq2seq.evaluation.evaluate import evaluate
    from seq2seq.utils import TrainingInterrupted, UserError

__version__ = "0.1.0"
__all__ = ["Model", "TrainingInterrupted", "UserError", "evaluate", "load", "train"]
_HOMES = {"evaluate": "evaluation.evaluate", "TrainingInterrupted": "utils", "UserError": "utils"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """What is asked for, imported only then: ``import seq2seq`` stays light."""
        if name not in __all__:
            raise AttributeError(f"module 'seq2seq' has no attribute {name!r}")
        return getattr(import_module(f"seq2seq.{_HOMES.get(name, 'api')}"), name)
