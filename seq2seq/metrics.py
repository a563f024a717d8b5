"""Scores of translations, all by sacreBLEU, on detokenised text against untouched references."""

from dataclasses import dataclass

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF


@dataclass(frozen=True)
class Scores:
    """Corpus scores with the signatures that make them comparable (Post 2018)."""

    bleu: float
    bleu_lowercased: float
    chrf: float
    bleu_signature: str
    bleu_lowercased_signature: str
    chrf_signature: str


def bleu(hypotheses: list[str], references: list[str]) -> float:
    """Corpus BLEU (Papineni et al. 2002) of cased text, tokenisation 13a, in per cent."""
    return float(BLEU().corpus_score(hypotheses, [references]).score)


def score(hypotheses: list[str], references: list[str]) -> Scores:
    """BLEU, lower-cased BLEU (which older papers report) and chrF (Popović 2015), in per cent."""
    metrics = {"bleu": BLEU(), "bleu_lowercased": BLEU(lowercase=True), "chrf": CHRF()}
    values: dict[str, float] = {}
    signatures: dict[str, str] = {}
    for name, metric in metrics.items():
        values[name] = float(metric.corpus_score(hypotheses, [references]).score)
        signatures[f"{name}_signature"] = str(metric.get_signature())
    return Scores(**values, **signatures)  # type: ignore[arg-type]
