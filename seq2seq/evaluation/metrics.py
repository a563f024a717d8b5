"""Scores of translations in per cent: detokenized text against untouched references.

BLEU and chrF are sacreBLEU's; exact match is counted here, over all pairs and by tag.
"""

from collections import defaultdict
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

LABELS = {"bleu": "BLEU", "bleu_lowercased": "BLEU lowercased", "chrf": "chrF"}


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) of cased text, tokenization 13a."""
    return float(BLEU().corpus_score(hypotheses, [references]).score)


def chrf(hypotheses: list[str], references: list[str]) -> float:
    return float(CHRF().corpus_score(hypotheses, [references]).score)


def suits_bleu(references: list[str]) -> bool:
    """Whether most have the four words in a row that BLEU counts, as its tokenizer sees them.

    Chinese, Japanese and Thai text has not, for want of spaces; nor have numbers and single words.
    """
    tokenize = BLEU().tokenizer
    return 2 * sum(len(tokenize(x).split()) >= 4 for x in references) >= len(references)


def score(hypotheses: list[str], references: list[str]) -> dict[str, Any]:
    """BLEU, lowercased BLEU (which older papers report), chrF (Popović 2015) and exact match.

    With sacreBLEU's signatures, such as ``bleu_signature``, that make them comparable (Post 2018).
    """
    metrics = {"bleu": BLEU(), "bleu_lowercased": BLEU(lowercase=True), "chrf": CHRF()}
    scores: dict[str, Any] = {}
    for name, metric in metrics.items():
        scores[name] = float(metric.corpus_score(hypotheses, [references]).score)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores | {"exact_match": exact_match(list(zip(hypotheses, references, strict=True)))}


def exact_match(pairs: list[tuple[str, str]]) -> float:
    """Share of the hypotheses that equal their references."""
    return 100 * sum(hypothesis == reference for hypothesis, reference in pairs) / len(pairs)


def exact_match_by_tag(
    hypotheses: list[str], references: list[str], tags: list[list[str]]
) -> dict[str, dict[str, float]]:
    """Exact match and number of the pairs with each tag; a pair may have several tags or none."""
    by_tag = defaultdict(list)
    for hypothesis, reference, names in zip(hypotheses, references, tags, strict=True):
        for name in set(names):
            by_tag[name].append((hypothesis, reference))
    return {
        name: {"pairs": len(pairs), "exact_match": exact_match(pairs)}
        for name, pairs in sorted(by_tag.items())
    }
