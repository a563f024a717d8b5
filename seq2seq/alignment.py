"""Word alignment: what cross-attention looks at, against what it should look at.

The gold links say which source words a target word says. A head proposes, for each target word,
the one source word that it attends to most; subwords count as their words. Proposals are judged
by alignment error rate, AER = 1 - 2 |A ∩ G| / (|A| + |G|), which for gold links that are all
sure is Och and Ney's (2003, "A Systematic Comparison of Various Statistical Alignment Models").
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from seq2seq.batches import pad
from seq2seq.corpus import Corpus, Links
from seq2seq.translator import Translator

# A target word is read off the step that writes it, or off the next one, which has read it.
STEPS = ("writing", "reading")


@dataclass
class Agreement:
    """Counts of sentence pairs, of proposed links A, gold links G, and both."""

    pairs: int = 0
    proposed: int = 0
    gold: int = 0
    both: int = 0

    def add(self, proposed: Links, gold: Links) -> None:
        """Count one sentence pair."""
        self.pairs += 1
        self.proposed += len(proposed)
        self.gold += len(gold)
        self.both += len(proposed & gold)

    @property
    def error_rate(self) -> float:
        """AER, in per cent."""
        return 100 - 200 * self.both / max(1, self.proposed + self.gold)

    @property
    def precision(self) -> float:
        """The share of proposed links that are right, in per cent."""
        return 100 * self.both / max(1, self.proposed)

    @property
    def recall(self) -> float:
        """The share of gold links that were proposed, in per cent."""
        return 100 * self.both / max(1, self.gold)


@dataclass(frozen=True, order=True)
class Head:
    """One head of one layer, read at one of ``STEPS``; layers and heads count from 1."""

    layer: int
    head: int
    step: str = "writing"


@torch.inference_mode()
def judge_heads(translator: Translator, corpus: Corpus, gold: list[Links]) -> dict[Head, Agreement]:
    """How well every head of the cross-attention agrees with the gold links.

    The model reads each reference after its source, so every head is asked about the same words.
    Pairs longer than ``data.max_tokens``, or blank on a side, are left out; if all are, or if there
    is no cross-attention, the result is empty.
    """
    tokenizer = translator.tokenizer
    agreements: dict[Head, Agreement] = {}
    if translator.config.model.cross_attention.kind == "none":
        return agreements
    for src, tgt, links, weights in _attended_pairs(translator, corpus, gold):
        src_words, tgt_words = tokenizer.src_words(src), tokenizer.tgt_words(tgt)
        for step in STEPS:
            # Row t has read token t and writes the one after it.
            words = tgt_words[1:] if step == "writing" else tgt_words[:-1]
            chosen = attended_words(weights, src_words, words)  # (L, H, target words)
            for layer, heads in enumerate(chosen.tolist(), start=1):
                for head, src_of in enumerate(heads, start=1):
                    proposed = frozenset((i, j) for j, i in enumerate(src_of))
                    key = Head(layer, head, step)
                    agreements.setdefault(key, Agreement()).add(proposed, links)
    return agreements


def attended_words(weights: Tensor, src_words: list[int], tgt_words: list[int]) -> Tensor:
    """The source word that each target word attends to most.

    Args:
        weights: (..., T, S) attention from target to source subwords.
        src_words: of S subwords, each one's word; -1 for none.
        tgt_words: the same of T subwords.

    Returns:
        (..., target words): attention is summed over the subwords of both.
    """
    on_words = weights @ _membership(src_words).T  # (..., T, source words)
    by_words = _membership(tgt_words) @ on_words  # (..., target words, source words)
    return by_words.argmax(dim=-1)


def _membership(words: list[int]) -> Tensor:
    """(words, subwords): 1 where a subword belongs to a word."""
    numbers = torch.arange(max(words) + 1)
    return (numbers[:, None] == torch.tensor(words)).float()


def _attended_pairs(
    translator: Translator, corpus: Corpus, gold: list[Links]
) -> Iterator[tuple[list[int], list[int], Links, Tensor]]:
    """Each pair's ids and links, and the weights (L, H, T, S) for all of the target but its end."""
    tokenizer, limit = translator.tokenizer, translator.config.data.max_tokens
    model = translator.model.eval()
    device = next(model.parameters()).device
    encoded = tokenizer.encode_src(corpus.src), tokenizer.encode_tgt(corpus.tgt)
    pairs = [
        (src, tgt, links)
        for src, tgt, links in zip(*encoded, gold, strict=True)
        if max(len(src), len(tgt)) <= limit and len(src) > 1 and len(tgt) > 2
    ]
    pairs.sort(key=lambda pair: len(pair[0]))  # sentences of one length need little padding
    for first in range(0, len(pairs), translator.config.decoding.batch_size):
        batch = pairs[first : first + translator.config.decoding.batch_size]
        src_ids, tgt_ids = pad([src for src, _, _ in batch]), pad([tgt[:-1] for _, tgt, _ in batch])
        cross = model.attention_steps(src_ids.to(device), tgt_ids.to(device)).cross
        weights = torch.stack([steps.weights for steps in cross], dim=1)  # (B, L, H, T, S)
        weights = weights.float().cpu()
        for (src, tgt, links), of_pair in zip(batch, weights, strict=True):
            yield src, tgt, links, of_pair[:, :, : len(tgt) - 1, : len(src)]
