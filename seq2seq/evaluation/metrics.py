"""Scores of translations: detokenized text against untouched references.

BLEU and chrF are sacreBLEU's; exact match is counted here, over all pairs and by tag.
"""

from collections import defaultdict
from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class Scores:
    """Corpus scores in per cent, with the signatures that make them comparable (Post 2018)."""

    bleu: float
    bleu_lowercased: float
    chrf: float
    exact_match: float
    bleu_signature: str
    bleu_lowercased_signature: str
    chrf_signature: str


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) of cased text, tokenization 13a, in per cent."""
    return float(BLEU().corpus_score(hypotheses, [references]).score)


def score(hypotheses: list[str], references: list[str]) -> Scores:
    """BLEU, lowercased BLEU (which older papers report), chrF (Popović 2015) and exact match."""
    metrics = {"bleu": BLEU(), "bleu_lowercased": BLEU(lowercase=True), "chrf": CHRF()}
    values = {"exact_match": exact_match(hypotheses, references)}
    signatures: dict[str, str] = {}
    for name, metric in metrics.items():
        values[name] = float(metric.corpus_score(hypotheses, [references]).score)
        signatures[f"{name}_signature"] = str(metric.get_signature())
    return Scores(**values, **signatures)  # type: ignore[arg-type]


def exact_match(hypotheses: list[str], references: list[str]) -> float:
    """Share of hypotheses that equal their references, in per cent."""
    pairs = zip(hypotheses, references, strict=True)
    return 100 * sum(a == b for a, b in pairs) / len(references)


def sentence_chrf(hypotheses: list[str], references: list[str]) -> list[float]:
    metric = CHRF()
    pairs = zip(hypotheses, references, strict=True)
    return [float(metric.sentence_score(a, [b]).score) for a, b in pairs]


@dataclass(frozen=True)
class TagScore:
    """Number of pairs with a tag, and how many of them are translated exactly, in per cent."""

    pairs: int
    exact_match: float


def exact_match_by_tag(
    hypotheses: list[str], references: list[str], tags: list[list[str]]
) -> dict[str, TagScore]:
    """Exact match on the pairs with each tag; a pair may have several tags or none."""
    rows = defaultdict(list)
    for i, names in enumerate(tags):
        for name in set(names):
            rows[name].append(hypotheses[i] == references[i])
    return {
        name: TagScore(len(matches), 100 * sum(matches) / len(matches))
        for name, matches in sorted(rows.items())
    }
