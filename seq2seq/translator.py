"""The Python interface: a trained run that turns sentences into translations.

model = seq2seq.load("runs/default")
model.translate(["Ein Mann liest ein Buch."])
model.attend("Ein Mann liest ein Buch.").cross.weights
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from seq2seq.batches import pad
from seq2seq.checkpoint import load_model, load_run_config, load_tokenizer
from seq2seq.decoding import beam_search, greedy, stored_for_decoding
from seq2seq.errors import UserError
from seq2seq.machine import (
    FEW_ROWS,
    autocast,
    enough_memory,
    fast_bfloat16,
    float32_products,
    keep_freed_memory,
    pick_device,
    side_by_side,
)
from seq2seq.model import Seq2Seq
from seq2seq.observation import Observation, observe
from seq2seq.settings import Config
from seq2seq.tokenizer import BOS, EOS, Tokenizer, clean


class Translator:
    """A model with its tokenizer: text in, text out.

    Args:
        model: trained weights, copied at the first translation.
        tokenizer: the subwords that they were trained with.
        config: the run's settings; ``decoding`` says how translations are found.
    """

    def __init__(self, model: Seq2Seq, tokenizer: Tokenizer, config: Config) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self._stored: dict[str, Seq2Seq] = {}  # copies for decoding, by precision

    @classmethod
    def load(cls, run: Path | str, overrides: dict[str, str] | None = None) -> "Translator":
        """The best model of a run folder.

        Args:
            run: folder that training wrote.
            overrides: settings to change, such as ``{"decoding.beam": "4"}``.

        Raises:
            UserError: something is missing from the folder or does not fit.
        """
        keep_freed_memory()
        run = Path(run)
        config = load_run_config(run, overrides)
        tokenizer = load_tokenizer(run, config)
        model = load_model(config, tokenizer, run / "model.safetensors")
        return cls(model.to(pick_device()), tokenizer, config)

    def translate(
        self, sentences: Sequence[str], on_cut: Callable[[int, int], None] | None = None
    ) -> list[str]:
        """One translation a sentence, in order; blank sentences stay empty.

        Args:
            sentences: text, one sentence each.
            on_cut: called with the index and the number of tokens of each sentence that is cut
                because it is longer than ``data.max_tokens``.
        """
        translations = [""] * len(sentences)
        encoded = self._encode(sentences, on_cut)
        rows = list(encoded)
        rows.sort(key=lambda i: -len(encoded[i]))  # sentences of one length need no padding
        size = self.config.decoding.batch_size
        batches = [rows[first : first + size] for first in range(0, len(rows), size)]
        n_rows = min(size, len(rows)) * self.config.decoding.beam
        decode = partial(self._decode, self._precision(n_rows))
        with float32_products(n_rows):
            found = side_by_side(decode, [[encoded[i] for i in b] for b in batches])
        for batch, hypotheses in zip(batches, found, strict=True):
            for i, text in zip(batch, self.tokenizer.decode_tgt(hypotheses), strict=True):
                translations[i] = text
        return translations

    def attend(
        self, sentence: str, on_cut: Callable[[int, int], None] | None = None
    ) -> Observation:
        """Translate a sentence, and note who attends to whom, and how, on the way.

        Args:
            sentence: text.
            on_cut: as for ``translate``.

        Raises:
            UserError: the sentence is blank.
        """
        encoded = self._encode([sentence], on_cut)
        if not encoded:
            raise UserError("the sentence is blank: there is nothing to translate")
        src = encoded[0]
        (hypothesis,) = self._decode(self._precision(self.config.decoding.beam), [src])
        model = self.model.eval()
        return observe(model, self.tokenizer, self.config, src, [BOS, *hypothesis, EOS])

    def _encode(
        self, sentences: Sequence[str], on_cut: Callable[[int, int], None] | None
    ) -> dict[int, list[int]]:
        """Ids of the sentences that are not blank, by index, none longer than the model reads."""
        rows = [i for i, sentence in enumerate(sentences) if clean(sentence).strip()]
        all_ids = self.tokenizer.encode_src([sentences[i] for i in rows])
        encoded = dict(zip(rows, all_ids, strict=True))
        longest = self.config.data.max_tokens
        for i, ids in encoded.items():
            if len(ids) > longest:
                encoded[i] = [*ids[: longest - 1], EOS]
                if on_cut:
                    on_cut(i, len(ids))
        return encoded

    def _precision(self, n_rows: int) -> str:
        """The number format for so many hypotheses at a time, its weights made ready."""
        device = next(self.model.parameters()).device
        precision = self.config.decoding.precision
        if precision == "auto":
            bfloat16 = device.type == "cpu" and n_rows >= FEW_ROWS and fast_bfloat16("cpu")
            precision = "bfloat16" if bfloat16 else "float32"
        if precision not in self._stored:
            self._stored[precision] = stored_for_decoding(self.model, precision == "bfloat16")
        return precision

    def _decode(self, precision: str, src: list[list[int]]) -> list[list[int]]:
        decoding, model = self.config.decoding, self._stored[precision]
        batch = pad(src)
        device = next(model.parameters()).device

        def complaint() -> str:
            return (
                f"for {len(src)} sentences of up to {batch.shape[1]} tokens: a lower "
                f"decoding.batch_size (it is {decoding.batch_size}) or decoding.beam takes less"
            )

        with enough_memory(complaint), autocast(precision, device):
            if decoding.beam == 1:
                return greedy(model, batch.to(device), decoding.max_ratio)
            return beam_search(
                model, batch.to(device), decoding.beam, decoding.length_penalty, decoding.max_ratio
            )
