"""Cross-attention as word alignment, scored against gold links.

Gold links say which source words a target word translates. Each head of the cross-attention
proposes, for every target word, the source word that it attends to most; attention is summed over
the subwords of a word. Proposed links A are scored against gold links G by the alignment error
rate, AER = 1 - 2 |A ∩ G| / (|A| + |G|), which for gold links that are all sure is that of Och and
Ney (2003, "A Systematic Comparison of Various Statistical Alignment Models").
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seq2seq.data.annotations import Links
from seq2seq.data.batches import make_batch, make_token_batches
from seq2seq.data.corpus import Corpus
from seq2seq.data.tokenizer import BOS, EOS, split_words
from seq2seq.evaluation.tracing import trace_attentions
from seq2seq.translator import Translation, Translator

# A target token's attention is read at the step whose input it is or at the step that predicts it.
OFFSETS = ("input", "predict")
# Sentences times the longest: a trace holds the scores and weights of every layer, more than 1 GB
# for 256 pairs of 256 tokens, and 50 MB for 8.
MAX_TOKENS = 2048


@dataclass(frozen=True)
class Head:
    """A head of a decoder layer, read at one of ``OFFSETS``; layers and heads count from 1."""

    layer: int
    head: int
    offset: str = "predict"


@dataclass(frozen=True)
class AlignmentCounts:
    """Numbers of sentence pairs and links. All heads propose as many: one for each target word."""

    pairs: int
    proposed: int
    gold: int
    correct: NDArray[np.int64]  # (layers, heads, offsets); both proposed and gold

    def best_head(self) -> Head:
        layer, head, offset = np.unravel_index(self.correct.argmax(), self.correct.shape)
        return Head(int(layer) + 1, int(head) + 1, OFFSETS[offset])

    def scores(self, best: Head) -> dict[str, Any]:
        """AER, precision and recall of ``best`` in per cent, and the AER of all at its offset."""
        correct = self.correct[:, :, OFFSETS.index(best.offset)]
        error_rates = (100 - 200 * correct / (self.proposed + self.gold)).tolist()
        n_correct = int(correct[best.layer - 1, best.head - 1])
        return {
            "best_head_on_validation": asdict(best),
            "pairs": self.pairs,
            "error_rate": error_rates[best.layer - 1][best.head - 1],
            "precision": 100 * n_correct / self.proposed,
            "recall": 100 * n_correct / max(1, self.gold),
            "error_rate_by_layer_and_head": error_rates,
        }


@torch.inference_mode()
def score_heads(
    translator: Translator, corpus: Corpus, gold: list[Links]
) -> AlignmentCounts | None:
    """Compare every head of the cross-attention with the gold links.

    The model reads the references (teacher forcing), so all heads align the same words. Pairs that
    are longer than ``data.max_tokens`` or blank on one side are left out; None if none is left, or
    there is no cross-attention.
    """
    config = translator.config
    src_subwords, tgt_subwords = translator.tokenizer.src, translator.tokenizer.tgt
    encoded = src_subwords.encode(corpus.src), tgt_subwords.encode(corpus.tgt, bos=True)
    pairs = [
        (src, tgt, links)
        for src, tgt, links in zip(*encoded, gold, strict=True)
        if max(len(src), len(tgt)) <= config.data.max_tokens and len(src) > 1 and len(tgt) > 2
    ]
    if not pairs or config.model.cross_attention.type == "none":
        return None
    all_src, all_tgt, all_links = zip(*pairs, strict=True)
    n_proposed, correct = 0, []
    for row, weights in cross_weights(translator, all_src, all_tgt):
        src, tgt, links = pairs[row]
        src_words, tgt_words = src_subwords.words(src), tgt_subwords.words(tgt)
        # Row t of the weights has the input t and predicts token t + 1.
        by_offset = [align(weights, src_words, x) for x in (tgt_words[:-1], tgt_words[1:])]
        aligned = torch.stack(by_offset, dim=2)  # (L, H, 2, target words)
        n_words = aligned.shape[-1]
        is_gold = torch.zeros(len(src), n_words, dtype=torch.long)
        for i, j in links:
            is_gold[i, j] = 1
        n_proposed += n_words
        correct.append(is_gold[aligned, torch.arange(n_words)].sum(dim=-1).numpy())
    n_gold = sum(map(len, all_links))
    return AlignmentCounts(len(pairs), n_proposed, n_gold, np.sum(correct, axis=0))


def cross_weights(
    translator: Translator, src: Sequence[list[int]], tgt: Sequence[list[int]]
) -> Iterator[tuple[int, Tensor]]:
    """The weights (L, H, T, S) of each pair of ids, with its number; short ones come first."""
    device = next(translator.model.parameters()).device
    for rows in make_token_batches(src, tgt, MAX_TOKENS):
        batch = make_batch(src, tgt, rows).to(device)
        traces, _ = trace_attentions(translator.model, batch.src, batch.tgt_in, ["cross"])
        weights = torch.stack([cross.weights for cross in traces["cross"]], dim=1).float().cpu()
        for row, padded in zip(rows.tolist(), weights, strict=True):
            yield row, padded[:, :, : len(tgt[row]) - 1, : len(src[row])]


@torch.inference_mode()
def align_words(
    translator: Translator, translations: Iterable[Translation], head: Head | None
) -> list[list[tuple[int, int]]]:
    """The source word of each target word by ``head``, or by the mean of the last layer.

    Pairs (source, target) of the numbers of words in ``split_words``.
    """
    translations, subwords = list(translations), translator.tokenizer
    parts = [part for translation in translations for part in translation.parts]
    src = [part.src_ids for part in parts]
    tgt = [[BOS, *part.hypothesis.ids, EOS] for part in parts]
    shift = OFFSETS.index(head.offset if head else "predict")
    aligned: list[list[int]] = [[] for _ in parts]
    for row, weights in cross_weights(translator, src, tgt):
        chosen = weights[head.layer - 1, head.head - 1] if head else weights[-1].mean(dim=0)
        tgt_words = subwords.tgt.words(tgt[row])[shift : shift + len(chosen)]
        aligned[row] = align(chosen, subwords.src.words(src[row]), tgt_words).tolist()
    of_parts, links = iter(aligned), list[list[tuple[int, int]]]()
    for translation in translations:
        i = j = 0  # words before this part; its last may go on in the next one
        links.append([])
        for part in translation.parts:
            links[-1] += [(i + x, j + y) for y, x in enumerate(next(of_parts))]
            i += len(split_words(part.src + "x")) - 1
            j += len(split_words(part.text + "x")) - 1
    return links


def align(weights: Tensor, src_words: list[int], tgt_words: list[int]) -> Tensor:
    """The source word that each target word attends to most: (..., T, S) to (..., target words).

    ``src_words`` and ``tgt_words`` name the word of each subword; -1 is a special token.
    """

    def membership(words: list[int]) -> Tensor:  # (words, subwords)
        return (torch.arange(max(words) + 1)[:, None] == torch.tensor(words)).float()

    return (membership(tgt_words) @ (weights @ membership(src_words).T)).argmax(dim=-1)
