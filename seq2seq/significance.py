"""Is a variant better than the baseline, or was it luck? Two kinds of luck are counted.

Training again with another seed gives another model; testing on other sentences gives another
score. The mean difference over n seeds, on a test set of sentences drawn at random, varies by

    SE² = σ² / n + σ²_sentences

σ² is the variance over seeds of the paired difference (all variants train with the same seeds), see
``seed_noise``; with one variant this is the paired t-test. σ²_sentences is the part of the
bootstrap's variance over sentences (Koehn 2004) that is common to all seeds. Verdicts are corrected
for the number of variants by Holm's (1979) method.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU

Array = NDArray[np.float64]

LEVEL = 0.05
RESAMPLES = 1000
NOT_SHOWN = "no difference shown"


def t_tail(t: float, df: float) -> float:
    """P(|x| > t) for a Student's x with ``df`` degrees of freedom, 1 or more.

    With x = √df tan θ the density becomes cos^(df - 1) θ, which is easy to integrate.
    """
    start = math.atan(abs(t) / math.sqrt(df))
    middles = (np.arange(1000) + 0.5) / 1000 * (math.pi / 2 - start) + start
    area = float(np.mean(np.cos(middles) ** (df - 1))) * (math.pi / 2 - start)
    whole = math.exp(math.lgamma(df / 2) - math.lgamma((df + 1) / 2)) * math.sqrt(math.pi) / 2
    return area / whole


def t_quantile(tail: float, df: float) -> float:
    """The t with P(|x| > t) = ``tail``."""
    low, high = 0.0, 1e5
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if t_tail(middle, df) > tail else (low, middle)
    return high


def holm(p_values: Sequence[float]) -> list[float]:
    """Each p-value corrected for how many there are, in Holm's steps; in the order given."""
    adjusted = [1.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


# --- the seeds' luck ---


def seed_noise(scores: Array) -> tuple[Array, float]:
    """The variance of each variant's mean difference from the baseline, and its degrees of freedom.

    Three seeds tell little about one variant's variance. So each gets its own, but no less than is
    usual among all: the median, over what the median of χ² / d is (Wilson and Hilferty 1931). A
    wild variant so widens no other's interval, and a lucky one does not look sure.

    In simulations of three seeds and nine variants that do not differ, at most about 5% of the
    experiments came to a wrong verdict, were all equally noisy, some wild, or the baseline wild.
    Of the 95% intervals 98% held among equals, but 89% of a variant 15 times as noisy as the rest.
    Its own degrees of freedom would mend that; but then three seeds could show nothing of it.

    Args:
        scores: (variants, seeds); the first row is the baseline.

    Returns:
        variances (variants - 1,), and how much all of them tell of what is usual.
    """
    n, d = len(scores) - 1, scores.shape[1] - 1.0
    own = (scores[1:] - scores[0]).var(axis=1, ddof=1) / scores.shape[1]
    own = np.maximum(own, 1e-12)  # of runs that are the same
    if n == 1:
        return own, d
    usual = own.mean() if n == 2 else np.median(own) / (1 - 2 / (9 * d)) ** 3
    # All differences share the baseline, so n of them tell as much as 4 n / (n + 3) would.
    return np.maximum(own, usual), min(2 * d, 4 * n * d / (n + 3))


# --- the sentences' luck ---


def sentence_statistics(hypotheses: Sequence[str], references: Sequence[str]) -> Array:
    """(sentences, 10): sacreBLEU's counts, from whose sums the BLEU of any selection follows."""
    metric = BLEU()
    rows = []
    for hypothesis, reference in zip(hypotheses, references, strict=True):
        found = metric.corpus_score([hypothesis], [[reference]])
        rows.append([found.sys_len, found.ref_len, *found.counts, *found.totals])
    return np.array(rows, dtype=np.float64)


def resampled_bleu(statistics: Array) -> Array:
    """(RESAMPLES,) BLEU of as many sentences drawn with replacement, always the same draws."""
    n = len(statistics)
    draws = np.random.default_rng(12345).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    sums = (draws @ statistics).round().astype(int).tolist()
    return np.array(
        [
            BLEU.compute_bleu(row[2:6], row[6:10], row[0], row[1], smooth_method="exp").score
            for row in sums
        ]
    )


def common_sentence_variance(differences: Array) -> float:
    """The variance that the choice of sentences gives a mean difference, beyond the seeds' own.

    Each seed's model errs on sentences of its own as well; of that part the seeds' variance
    knows already, so it must not be counted twice.

    Args:
        differences: (seeds, RESAMPLES) of BLEU, variant less baseline.
    """
    n_seeds = len(differences)
    of_mean = float(differences.mean(axis=0).var(ddof=1))
    of_each = float(differences.var(axis=1, ddof=1).mean())
    return max(0.0, (n_seeds * of_mean - of_each) / (n_seeds - 1))


# --- both together ---


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline, in BLEU."""

    difference: float
    low: float  # 95% confidence interval, not corrected
    high: float
    p: float
    adjusted_p: float
    smallest: float  # true difference that 4 of 5 such experiments would show

    @property
    def verdict(self) -> str:
        """What has been shown, in a word or three."""
        if self.adjusted_p >= LEVEL:
            return NOT_SHOWN
        return "better" if self.difference > 0 else "worse"


def compare(scores: Array, resampled: Array) -> list[Comparison]:
    """Every variant against the baseline.

    Args:
        scores: (variants, seeds) BLEU; the first row is the baseline.
        resampled: (variants, seeds, RESAMPLES) BLEU of the bootstrap's selections.

    Returns:
        one for each row but the first.
    """
    found = []
    n_variants = len(scores) - 1
    variances, seeds_df = seed_noise(scores)
    for row, of_seeds in enumerate(variances, start=1):
        total = float(of_seeds) + common_sentence_variance(resampled[row] - resampled[0])
        error = math.sqrt(total)
        # The sentences' part is known well. Satterthwaite (1946) would square the ratio; but where
        # few seeds make their part look small by luck, that trusts them too much.
        df = min(seeds_df * total / float(of_seeds), 1000.0) if seeds_df >= 2 else seeds_df
        difference = float(scores[row].mean() - scores[0].mean())
        reach = t_quantile(LEVEL, df) * error
        found.append(
            Comparison(
                difference=difference,
                low=difference - reach,
                high=difference + reach,
                p=t_tail(difference / error, df),
                adjusted_p=1.0,
                smallest=_detectable(t_quantile(LEVEL / n_variants, df), df) * error,
            )
        )
    adjusted = holm([each.p for each in found])
    return [replace(each, adjusted_p=p) for each, p in zip(found, adjusted, strict=True)]


def _detectable(t: float, df: float) -> float:
    """The true difference, in standard errors, that exceeds ``t`` of them 4 times out of 5.

    By the normal approximation to the noncentral t (Johnson and Welch 1940).
    """
    return t * (1 - 1 / (4 * df)) + 0.8416 * math.sqrt(1 + t * t / (2 * df))
