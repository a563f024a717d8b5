"""What ``seq2seq predict`` tells of each line: the translation, and what its options add."""

import argparse
import json
from collections.abc import Iterator
from itertools import islice
from typing import Any

from seq2seq.data.tokenizer import clean
from seq2seq.model.decoding import length_normalized
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translation, Translator
from seq2seq.utils import UserError


class Details:
    """The lines to print; ``known`` are the characters that training saw."""

    def __init__(
        self, translator: Translator, options: argparse.Namespace, known: set[str]
    ) -> None:
        self.translator, self.options, self.known = translator, options, known
        if options.alignments:
            from seq2seq.evaluation.evaluate import known_best_head  # loads sacrebleu

            several, run = len(options.run) > 1, RunFolder(options.run[0])
            self.aligner = Translator.load(run) if several else translator
            if self.aligner.config.model.cross_attention.type == "none":
                raise UserError(f"--alignments: {run} has no cross-attention")
            self.head = known_best_head(run, self.aligner.config.model)

    def lines(self, sources: list[str], found: list[list[Translation]]) -> Iterator[str]:
        """Columns, or an object for each source; ``found`` are its translations."""
        rows = iter(self._rows([translation for best in found for translation in best]))
        for source, best in zip(sources, found, strict=True):
            of_source = list(islice(rows, len(best)))
            if self.options.json:
                about = {"n_best": of_source, "flags": self._flags(source, best[0])}
                yield json.dumps({"source": source, **of_source[0], **about}, ensure_ascii=False)
                continue
            for rank, row in enumerate(of_source, start=1):
                columns = [str(rank)] if self.options.n_best > 1 else []
                if self.options.scores:
                    columns.append(f"{row['log_probability']:.4f}")
                columns.append(row["translation"])
                if self.options.alignments:
                    columns.append(" ".join(f"{i}-{j}" for i, j in row["alignment"]))
                one = len(columns) == 1
                yield columns[0] if one else "\t".join(x.replace("\t", " ") for x in columns)

    def _rows(self, translations: list[Translation]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{"translation": x.text} for x in translations]
        if self.options.scores or self.options.json:
            penalty = self.translator.config.decoding.length_penalty
            for row, score in zip(rows, self.translator.rescore(translations), strict=True):
                row["score"] = length_normalized(*score, penalty)
                row["log_probability"], row["tokens"] = score
        if self.options.alignments:
            from seq2seq.evaluation.alignment import align_words

            links = align_words(self.aligner, translations, self.head)
            for row, of_row in zip(rows, links, strict=True):
                row["alignment"] = of_row
        return rows

    def _flags(self, source: str, best: Translation) -> list[str]:
        flags = {
            "input cut": best.n_src_cut > 0,
            "input split": len(best.parts) > 1,
            "output cut": best.is_cut,
            "characters never seen": not self.known.issuperset(clean(source)),
        }
        return [flag for flag, is_so in flags.items() if is_so]
