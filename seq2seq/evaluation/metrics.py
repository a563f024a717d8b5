"""Scores of translations in per cent: detokenized text against untouched references.

BLEU and chrF are sacreBLEU's; exact match is counted here, over all pairs and by tag.
"""

import re
from collections import defaultdict
from functools import cache
from itertools import chain
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from seq2seq.config import DataConfig, EvaluationConfig
from seq2seq.utils import UserError, warn

LABELS = {"bleu": "BLEU", "bleu_lowercased": "BLEU lowercased", "chrf": "chrF"}
TOKENIZERS = {  # sacreBLEU's, by ISO 639 codes; 13a for all other languages
    "zh": "zh zho chi cmn yue wuu hak gan hsn lzh",
    "ja-mecab": "ja jpn",
    "ko-mecab": "ko kor",
    "char": "th tha lo lao km khm my mya bur bo bod tib dz dzo",
}
N_EXCHANGES = 10_000


@cache  # so that it warns once
def bleu_tokenizer(data: DataConfig, evaluation: EvaluationConfig) -> str:
    """sacreBLEU's name for what splits text; ``UserError`` if it is set and needs a package."""
    setting, code = evaluation.bleu_tokenizer, re.split("[-_]", data.tgt.lower())[0]
    by_code = next((name for name, codes in TOKENIZERS.items() if code in codes.split()), "13a")
    tokenizer = by_code if setting == "auto" else setting
    try:
        BLEU(tokenize=tokenizer)
    except (AssertionError, ImportError, RuntimeError):  # no MeCab, or another dictionary
        needs = f"needs a package: pip install 'sacrebleu[{tokenizer[:2]}]'"
        if setting != "auto":
            raise UserError(f"evaluation.bleu_tokenizer = {setting!r} {needs}") from None
        warn(f"{data.tgt}: BLEU counts characters; to count words it {needs}")
        return "char"
    return tokenizer


def suits_bleu(references: list[str], tokenizer: str) -> bool:
    """Whether most have the four words in a row that BLEU counts, as its tokenizer sees them.

    Numbers and single words have not, nor text without spaces where a tokenizer goes by them.
    """
    tokenize = BLEU(tokenize=tokenizer).tokenizer
    return 2 * sum(len(tokenize(x).split()) >= 4 for x in references) >= len(references)


def score(hypotheses: list[str], references: list[str], tokenizer: str) -> dict[str, Any]:
    """BLEU (Papineni et al. 2002), lowercased BLEU, chrF (Popović 2015) and exact match.

    With sacreBLEU's signatures, such as ``bleu_signature``, that make them comparable (Post 2018).
    """
    lowercased = BLEU(tokenize=tokenizer, lowercase=True)
    metrics = {"bleu": BLEU(tokenize=tokenizer), "bleu_lowercased": lowercased, "chrf": CHRF()}
    scores: dict[str, Any] = {}
    for name, metric in metrics.items():
        scores[name] = float(metric.corpus_score(hypotheses, [references]).score)
        scores[f"{name}_signature"] = str(metric.get_signature())
    return scores | {"exact_match": 100 * float(np.mean(_matches(hypotheses, references)))}


def paired_test(
    hypotheses: list[str], others: list[str], references: list[str], tokenizer: str
) -> dict[str, dict[str, float]]:
    """By how much ``hypotheses`` are better than ``others`` in BLEU and chrF, and ``p``.

    Of random exchanges of sentences between the two, the share that differ as much or more
    (approximate randomization, Riezler and Maxwell 2005). sacreBLEU's own ``PairedTest`` leaves out
    "as much": few different sentences get p = 0.0001 from it, and so do none.
    """
    results = {}
    for name, metric in {"bleu": BLEU(tokenize=tokenizer), "chrf": CHRF()}.items():
        both = (metric._extract_corpus_statistics(x, [references]) for x in (hypotheses, others))
        ours, theirs = map(np.array, both)  # (sentences, counts), whose sums give the score
        gap, rng = theirs - ours, np.random.default_rng(12345)
        moved = [0 * gap[0], *(rng.integers(2, size=len(gap)) @ gap for _ in range(N_EXCHANGES))]
        sums = chain.from_iterable((ours.sum(0) + x, theirs.sum(0) - x) for x in moved)
        scores = np.array([metric._compute_score_from_stats(x.tolist()).score for x in sums])
        differences = scores[::2] - scores[1::2]  # the first without an exchange
        p = np.mean(abs(differences) >= abs(differences[0]))
        results[name] = {"difference": float(differences[0]), "p": float(p)}
    return results


def _matches(hypotheses: list[str], references: list[str]) -> list[bool]:
    return [
        hypothesis == reference
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]


def exact_match_by_tag(
    hypotheses: list[str], references: list[str], tags: list[list[str]]
) -> dict[str, dict[str, float]]:
    """Exact match and number of the pairs with each tag; a pair may have several tags or none."""
    by_tag = defaultdict(list)
    for is_match, names in zip(_matches(hypotheses, references), tags, strict=True):
        for name in set(names):
            by_tag[name].append(is_match)
    return {
        name: {"pairs": len(matches), "exact_match": 100 * float(np.mean(matches))}
        for name, matches in sorted(by_tag.items())
    }
