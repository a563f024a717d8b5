"""A Transformer for translation, small enough to read in an afternoon.

attention/      the heart: attention in one file, and the catalogue of its variants
model/          layers, encoder and decoder, loss, greedy and beam search
data/           corpora, subwords, batches
training/       the training loop
translator.py   a trained run: text in, text out
evaluation/     BLEU, chrF, exact match, word alignment, how figures look
experiments/    variants times seeds, and what they show
viewer/         attention as a web page
run_folder.py, config.py, cpu.py, utils.py    what all of these stand on
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2seq.translator import Translator


def load(
    run: Path | str | Sequence[Path | str], overrides: dict[str, str] | None = None
) -> "Translator":
    """The best model in the folder of a training run, ready to ``translate``.

    Several are an ensemble. ``overrides`` changes settings, such as ``{"decoding.beam": "4"}``.
    ``UserError`` if something is missing from a folder or does not fit.
    """
    from seq2seq.translator import Translator

    return Translator.load(run, overrides)
