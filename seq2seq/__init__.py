"""seq2seq: a Transformer for translation, small enough to read in an afternoon.

Where things are. A file imports only from lines above its own (a test holds this):

    errors                                   how work fails
    registry  files  machine  parallel       parts by name; whole files; the computer; several
    settings  lock  signals                  every setting and what it may be; one at a time; Ctrl-C
    tokenizer  metrics  parts                subwords; BLEU and chrF; what parts have in common
    significance                             whether a difference is luck
    corpus                                   sentence pairs, and what may be known of them
    sources  held_out                        where they come from; what training must not see
    scores  normalizers  positions  extras   the parts of attention
    attention  loss                          the heart; surprise at the reference
    replacements                             what can stand where an attention stood
    variants                                 every attention by name
    config  batches  layers                  settings read and checked; padded rectangles; layers
    model  training_data                     encoder and decoder; training pairs as batches
    decoding  checkpoint                     greedy and beam search; what a run folder holds
    objective  optimizer                     what training minimises, and how
    preparation  observation                 a run folder made ready; what a translation looked at
    translator                               text in, text out
    alignment                                attention against gold alignments
    page                                     attention as a web page
    plots                                    pictures
    diary                                    what a training leaves to look at
    training                                 the loop
    evaluation  tables                       the scores; the same as lines for people
    experiments                              variants times seeds
    speeds                                   how fast they are, measured in turn
    findings                                 what an experiment found
    report                                   the same in words
    cli                                      one sub-command a stage
    __main__  __init__                       python -m seq2seq; seq2seq.load
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq2seq.translator import Translator


def load(run: Path | str, overrides: dict[str, str] | None = None) -> "Translator":
    """The best model of a trained run, ready to ``translate`` and to ``attend``.

    Args:
        run: folder that training wrote.
        overrides: settings to change, such as ``{"decoding.beam": "4"}``.

    Raises:
        UserError: something is missing from the folder or does not fit.
    """
    from seq2seq.translator import Translator

    return Translator.load(run, overrides)
