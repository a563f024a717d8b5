"""From text to text: a trained run that translates sentences (``seq2seq.load``)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Any, Self, overload

import torch

from seq2seq import cpu
from seq2seq.config import Config
from seq2seq.data.batches import IntArray, make_batch, make_token_batches, pad
from seq2seq.data.tokenizer import BOS, EOS, PAD, InputReport, Tokenizer
from seq2seq.model import decoding
from seq2seq.model.decoding import Hypothesis
from seq2seq.model.ensemble import Ensemble
from seq2seq.model.lean import LeanDecoder
from seq2seq.model.transformer import Seq2Seq
from seq2seq.model.weights import load_model
from seq2seq.run_folder import RunFolder
from seq2seq.translation import SENTENCE, CutReport, Part, Score, Translation
from seq2seq.utils import UserError, read_json

Run = RunFolder | Path | str
Overrides = Mapping[str, Any] | None
MAX_TOKENS = 2048  # scored together: sentences times the longest


class Translator:
    """A model with its tokenizer and the settings of its run: text in, text out."""

    def __init__(self, model: Seq2Seq, tokenizer: Tokenizer, config: Config) -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        # What is longer is split into sentences: as long as nearly all that the model has learned.
        self.usual_length = config.data.max_tokens

    @classmethod
    def load(cls, run: Run | Sequence[Run], overrides: Overrides = None) -> Self:
        """The best model of a run, with ``overrides`` such as ``{"decoding.beam": "4"}``.

        Several runs are an ensemble, with the settings of the first.
        """
        if not isinstance(run, Run):
            return cls._ensemble([cls.load(each, overrides) for each in run])
        run = RunFolder(run)
        config = run.load_config(overrides)
        for path in (run.tokenizer_file, run.weights_file):
            if not path.exists():
                again = "train again in another folder"
                how = again if run.has_started else f"seq2seq train --run {run} makes it"
                raise UserError(f"{path}: No such file; {how}")
        tokenizer = Tokenizer.load(run, config)
        model = load_model(run, config, tokenizer)
        decoding.store_by_columns(model)
        translator = cls(model.eval().to(cpu.pick_device()), tokenizer, config)
        if run.summary_file.exists():
            usual = read_json(run.summary_file, dict[str, object]).get("usual_src_tokens")
            if isinstance(usual, int):  # of older runs it is not known
                translator.usual_length = min(usual, config.data.max_tokens)
        return translator

    @classmethod
    def _ensemble(cls, members: list[Self]) -> Self:
        kinds = [(x.tokenizer.fingerprint, x.config.data.src, x.config.data.tgt) for x in members]
        if len({*kinds}) != 1:
            languages = ", ".join(f"{src}-{tgt} with tokenizer {by}" for by, src, tgt in kinds)
            what = "no ensemble of different languages or subwords, or of no run"
            raise UserError(f"{what}: {languages or 'none is named'}")
        first, *others = members
        model = Ensemble([member.model for member in members]) if others else first.model
        ensemble = cls(model.eval(), first.tokenizer, first.config)
        ensemble.usual_length = first.usual_length
        return ensemble

    @overload
    def translate(self, sentences: str) -> str: ...  # type: ignore[overload-overlap]
    @overload
    def translate(self, sentences: Iterable[str]) -> list[str]: ...
    def translate(self, sentences: Iterable[str]) -> str | list[str]:
        """One translation per sentence, in order; blank ones stay empty; warns of what is lost."""
        best = self.best(sentences)
        return best[0].text if isinstance(sentences, str) else [x.text for x in best]

    def best(self, sentences: Iterable[str], whose: str = "") -> list[Translation]:
        """Of each sentence, the best translation; warns of what is lost, and ``whose`` it is."""
        texts = as_list(sentences)
        best = [translation for translation, *_ in self.search(texts)]
        InputReport(self.tokenizer.src, texts).warn(whose)
        CutReport(best).warn(whose)
        return best

    def search(
        self, sentences: Iterable[str], n_best: int = 1, prefix: str = "", split: bool = True
    ) -> list[list[Translation]]:
        """Of each sentence, up to ``n_best`` translations that begin with ``prefix``, best first.

        The beam is at least ``n_best``. What is longer than ``usual_length`` is ``split`` into
        sentences, unless there is a prefix; then what is longer than ``data.max_tokens`` is cut.
        """
        if n_best not in range(1, 1001):
            raise UserError(f"n_best is {n_best}: a number from 1 to 1000 is possible")
        limit, subwords, texts = self.config.data.max_tokens, self.tokenizer.src, as_list(sentences)
        lines: list[list[tuple[str, list[int], bool]]] = []
        for text, ids in zip(texts, subwords.encode(texts), strict=True):
            fits = len(ids) <= self.usual_length or prefix or not split
            parts = [text] if fits else SENTENCE.findall(text)
            lines.append([])
            for part, part_ids in zip(
                parts, [ids] if fits else subwords.encode(parts), strict=True
            ):
                is_cut = len(part_ids) > limit
                del part_ids[limit - 1 : -1]  # EOS stays
                lines[-1] += [(part, part_ids, is_cut)] if len(part_ids) > 1 else []
        ((*prefix_ids, _),) = self.tokenizer.tgt.encode([prefix])
        found = iter(self.decode([ids for line in lines for _, ids, _ in line], n_best, prefix_ids))
        translations = []
        for line in lines:
            of_parts = [[Part(*src, x, self._text(x)) for x in next(found)] for src in line]
            # Where a part has fewer, its last stands for the ones after it.
            n = max(map(len, of_parts), default=1)
            ranks = [[part[min(i, len(part) - 1)] for part in of_parts] for i in range(n)]
            translations.append([Translation(parts) for parts in ranks])
        return translations

    def _text(self, hypothesis: Hypothesis) -> str:
        text = self.tokenizer.tgt.decode(hypothesis.ids)
        return text if text.endswith(("。", "！", "？")) else f"{text} "

    def decode(
        self, src_ids: list[list[int]], n_best: int = 1, prefix: Sequence[int] = ()
    ) -> list[list[Hypothesis]]:
        """Up to ``n_best`` hypotheses for the source ids of each sentence, best first."""
        config, device = self.config.decoding, next(self.model.parameters()).device
        config = replace(config, beam=max(config.beam, n_best))
        size = max(1, config.batch_size // config.beam)
        # Sentences of the same length need no padding.
        order = sorted(range(len(src_ids)), key=lambda i: -len(src_ids[i]))
        batches = [order[first : first + size] for first in range(0, len(order), size)]
        n_rows = min(size, len(order)) * config.beam
        precision = cpu.resolve_precision(config.precision, device)
        if config.precision == "auto" and (device.type != "cpu" or n_rows < cpu.SMALL_BATCH):
            precision = "float32"
        model: decoding.Decoder = (plain := self._evaluating())
        if precision == "bfloat16":
            model = decoding.in_bfloat16(plain)
        elif config.lean and device.type == "cpu" and n_rows < cpu.SMALL_BATCH:
            model = LeanDecoder.of(plain) or plain

        def decode_batch(rows: list[int]) -> list[list[Hypothesis]]:
            src = pad([src_ids[i] for i in rows]).to(device)
            what = f"for {len(src)} sentences of up to {src.shape[1]} tokens"
            hint = f"{what}: lower decoding.batch_size (it is {config.batch_size}) or beam"
            with cpu.oom_as_user_error(hint), cpu.autocast(precision, device):
                if config.beam == 1:
                    return [[best] for best in decoding.greedy(model, src, config, prefix)]
                return decoding.beam_search(model, src, config, n_best, prefix)

        with cpu.float32_matmul(n_rows):
            decoded = cpu.thread_map(decode_batch, batches)
        hypotheses = dict(zip(order, chain.from_iterable(decoded), strict=True))
        return [hypotheses[i] for i in range(len(order))]

    def score(self, src: Iterable[str], tgt: Iterable[str]) -> list[Score]:
        """How probable each of ``tgt`` is as the translation of the sentence beside it, uncut."""
        src, tgt = as_list(src), as_list(tgt)
        if len(src) != len(tgt):
            raise ValueError(f"{len(src)} sentences, but {len(tgt)} translations to score")
        src_ids, tgt_ids = self.tokenizer.src.encode(src), self.tokenizer.tgt.encode(tgt, bos=True)
        return self._score_ids(list(zip(src_ids, tgt_ids, strict=True)))

    def rescore(self, translations: Sequence[Translation]) -> list[Score]:
        """What ``score`` says of them, by their own ids; one that was cut has no EOS."""
        pairs = [
            (part.src_ids, [BOS, *part.hypothesis.ids, *[EOS] * (not part.hypothesis.is_cut)])
            for translation in translations
            for part in translation.parts
        ]
        scores = iter(self._score_ids(pairs))
        of_parts = [list(islice(scores, len(translation.parts))) for translation in translations]
        return [Score(sum(x for x, _ in parts), sum(n for _, n in parts)) for parts in of_parts]

    def _score_ids(self, pairs: list[tuple[list[int], list[int]]]) -> list[Score]:
        """By one pass over both sides (teacher forcing), in float32."""
        model, device = self._evaluating(), next(self.model.parameters()).device
        src, tgt = [src for src, _ in pairs], [tgt for _, tgt in pairs]

        @torch.inference_mode()
        def score_batch(rows: IntArray) -> list[float]:
            batch = make_batch(src, tgt, rows).to(device)
            with cpu.oom_as_user_error(f"for pairs of up to {batch.tgt.shape[1]} tokens"):
                log_p = model(batch.src, batch.tgt_in).log_softmax(dim=-1)
            of_labels = log_p.gather(2, batch.labels[..., None])[..., 0]
            return of_labels.where(batch.labels != PAD, 0).sum(dim=1).tolist()

        batches = make_token_batches(src, tgt, MAX_TOKENS)
        with cpu.float32_matmul(MAX_TOKENS):
            totals = chain.from_iterable(cpu.thread_map(score_batch, batches))
        by_row = dict(zip(chain.from_iterable(batches), totals, strict=True))
        return [Score(by_row[i], len(ids) - 1) for i, ids in enumerate(tgt)]

    def _evaluating(self) -> Seq2Seq:
        return decoding.sharing_copy(self.model).eval() if self.model.training else self.model


def as_list(sentences: Iterable[str]) -> list[str]:
    """One sentence, or any series of them; ``TypeError`` for all else."""
    if isinstance(sentences, str):
        return [sentences]
    what = type(sentences).__name__
    is_table = isinstance(sentences, Mapping) or getattr(sentences, "ndim", 1) != 1
    if is_table or not isinstance(sentences, Iterable):
        raise TypeError(f"expected a sentence or an iterable of sentences, not a {what}")
    texts = list(sentences)
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"sentence {i} of this {what} is {text!r:.50}, not a string")
    return texts
