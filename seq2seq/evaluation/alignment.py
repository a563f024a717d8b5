"""Cross-attention as word alignment, scored against gold links.

Gold links say which source words a target word translates. Each head of the cross-attention
proposes, for every target word, the source word that it attends to most; attention is summed over
the subwords of a word. Proposed links A are scored against gold links G by the alignment error
rate, AER = 1 - 2 |A ∩ G| / (|A| + |G|), which for gold links that are all sure is that of Och and
Ney (2003, "A Systematic Comparison of Various Statistical Alignment Models").
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from seq2seq.data.batches import lengths, make_batch, make_token_batches
from seq2seq.data.corpus import Corpus
from seq2seq.evaluation.annotations import Links
from seq2seq.translator import Translator

# A target token's attention is read at the step that predicts it or at the step whose input it is.
OFFSETS = ("predict", "input")
# Sentences times the longest: a trace holds the scores and weights of every attention until the
# cross-attention's are picked out, 5 GB for 256 pairs of 256 tokens, and 160 MB for 8.
MAX_TOKENS = 2048


@dataclass
class AlignmentCounts:
    """Numbers of sentence pairs, of proposed and gold links, and of links that are both."""

    pairs: int = 0
    proposed: int = 0
    gold: int = 0
    correct: int = 0

    def add(self, proposed: Links, gold: Links) -> None:
        self.pairs += 1
        self.proposed += len(proposed)
        self.gold += len(gold)
        self.correct += len(proposed & gold)

    @property
    def error_rate(self) -> float:
        """AER, in per cent."""
        return 100 - 200 * self.correct / max(1, self.proposed + self.gold)

    @property
    def precision(self) -> float:
        return 100 * self.correct / max(1, self.proposed)

    @property
    def recall(self) -> float:
        return 100 * self.correct / max(1, self.gold)


@dataclass(frozen=True, order=True)
class Head:
    """A head of a decoder layer, read at one of ``OFFSETS``; layers and heads count from 1."""

    layer: int
    head: int
    offset: str = "predict"


@torch.inference_mode()
def score_heads(
    translator: Translator, corpus: Corpus, gold: list[Links]
) -> dict[Head, AlignmentCounts]:
    """Compare every head of the cross-attention with the gold links.

    The model reads the references (teacher forcing), so all heads align the same words. Pairs that
    are longer than ``data.max_tokens`` or blank on one side are left out. The result is empty where
    none is left, or where there is no cross-attention.
    """
    config, model = translator.config, translator.model.eval()
    counts: dict[Head, AlignmentCounts] = {}
    if config.model.cross_attention.type == "none":
        return counts
    src_subwords, tgt_subwords = translator.tokenizer.src, translator.tokenizer.tgt
    encoded = src_subwords.encode(corpus.src), tgt_subwords.encode(corpus.tgt, bos=True)
    pairs = [
        (src, tgt, links)
        for src, tgt, links in zip(*encoded, gold, strict=True)
        if max(len(src), len(tgt)) <= config.data.max_tokens and len(src) > 1 and len(tgt) > 2
    ]
    all_src, all_tgt = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    device = next(model.parameters()).device
    for rows in make_token_batches(lengths(all_src), lengths(all_tgt), MAX_TOKENS, shuffle=None):
        batch = make_batch(all_src, all_tgt, rows).to(device)
        trace = model.trace(batch.src, batch.tgt_in)
        weights = torch.stack([cross.weights for cross in trace.cross], dim=1).float().cpu()
        del trace  # before the next one is made
        for row, padded in zip(rows, weights, strict=True):
            src, tgt, links = pairs[row]
            src_words, tgt_words = src_subwords.words(src), tgt_subwords.words(tgt)
            of_pair = padded[:, :, : len(tgt) - 1, : len(src)]  # (L, H, T, S)
            for offset in OFFSETS:
                # Row t of the weights has read token t and predicts token t + 1.
                words = tgt_words[1:] if offset == "predict" else tgt_words[:-1]
                for layer, heads in enumerate(align(of_pair, src_words, words).tolist(), start=1):
                    for number, aligned in enumerate(heads, start=1):
                        head = Head(layer, number, offset)
                        proposed = frozenset((i, j) for j, i in enumerate(aligned))
                        counts.setdefault(head, AlignmentCounts()).add(proposed, links)
    return counts


def align(weights: Tensor, src_words: list[int], tgt_words: list[int]) -> Tensor:
    """The source word that each target word attends to most.

    Args:
        weights: (..., T, S) attention from target to source subwords.
        src_words: the word of each source subword; -1 for a special token.
        tgt_words: the same for the T target subwords.

    Returns:
        (..., target words).
    """

    def membership(words: list[int]) -> Tensor:  # (words, subwords)
        return (torch.arange(max(words) + 1)[:, None] == torch.tensor(words)).float()

    return (membership(tgt_words) @ (weights @ membership(src_words).T)).argmax(dim=-1)
