"""Is a variant better than the baseline, or is the difference noise?

Training again with another seed gives another model, and other test sentences another score. The
difference between the mean over n runs of a variant and over n₀ of the baseline varies by

    SE² = σ² / n + σ₀² / n₀ + σ²_sentences

where σ² is the variance over seeds and σ²_sentences the variance over test sets that is common to
all runs. Dunnett's step-down test (Dunnett and Tamhane 1991) corrects for the number of variants:
all differences share the baseline, so their correlation is known. ``benchmarks/power.py``
simulates how often the verdicts are wrong, and which differences they show.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from scipy.optimize import brentq
from scipy.special import fdtri, gammaincinv, ndtr, stdtr, stdtrit

Array = NDArray[np.float64]

LEVEL = 0.05
RESAMPLES = 1000
NOT_SHOWN = "no difference shown"
NODES = np.linspace(-6, 6, 30)  # of a standard normal variable; p is exact to about 0.0001
WEIGHTS = np.exp(-(NODES**2) / 2) / np.exp(-(NODES**2) / 2).sum()


def resampled_bleu(hypotheses: Sequence[str], references: Sequence[str], tokenizer: str) -> Array:
    """(RESAMPLES,) BLEU of sentences drawn with replacement, the same in every call."""
    metric, n = BLEU(tokenize=tokenizer), len(references)
    # BLEU follows from the sums of sacreBLEU's counts for each sentence.
    pairs = zip(hypotheses, references, strict=True)
    scores = [metric.corpus_score([hypothesis], [[reference]]) for hypothesis, reference in pairs]
    counts = np.array([[s.sys_len, s.ref_len, *s.counts, *s.totals] for s in scores])
    draws = np.random.default_rng(12345).multinomial(n, np.full(n, 1 / n), RESAMPLES)
    samples = (draws @ counts).tolist()
    bleu = [BLEU.compute_bleu(x[2:6], x[6:], x[0], x[1], smooth_method="exp") for x in samples]
    return np.array([score.score for score in bleu])


def sentence_parts(samples: list[list[Array]]) -> list[list[tuple[float, float, float]]]:
    """How BLEU varies with the test sentences, for each run of each variant (first: the baseline).

    Returns:
        The variance over the bootstrap samples (Koehn 2004), and the mean covariance with the
        other runs of the variant and of the baseline; NaN where there are none.
    """
    lengths = [len(runs) for runs in samples]
    member = np.repeat(np.eye(len(samples)), lengths, axis=0)  # (runs, variants)
    covariance = np.atleast_2d(np.cov([run for runs in samples for run in runs]))
    variance = covariance.diagonal()
    with np.errstate(invalid="ignore"):
        mean = (covariance - np.diag(variance)) @ member / (member.sum(axis=0) - member)
    parts = np.stack([variance, mean[member == 1], mean[:, 0]], axis=1).tolist()
    return [[tuple(parts.pop(0)) for _ in range(length)] for length in lengths]


def seed_variances(own: Array, df: Array) -> tuple[Array, Array, Array]:
    """The variance over seeds to assume for each variant, from all (variants,) sample variances.

    At least the pooled one, because few seeds might agree by chance. Variants much noisier or much
    less noisy than the others are not in the pool, and a noisy one gets its own degrees of freedom.

    Returns:
        Variances, their degrees of freedom, and whether they are the variant's own.
    """
    if len(own) < 3:
        return own, df, np.ones(len(own), dtype=bool)
    # Unbiased: the median is below the mean (Wilson and Hilferty 1931).
    typical = np.sort(own)[len(own) // 2] / (1 - 2 / (9 * df.mean())) ** 3
    low, high = (typical * fdtri(df, df.sum(), tail) for tail in (0.01, 0.99))
    alike = (own >= low) & (own <= high)
    total = df[alike].sum()
    pooled = (own * df)[alike].sum() / total
    # Fewer runs must look noisier by chance more often: they say less. 0.4 is by simulation.
    noisy = own > pooled * fdtri(df, total, 1 - 0.4 / df)
    return np.maximum(own, pooled), np.where(noisy, df, total), noisy


@lru_cache(1000)
def sd_quantiles(df: float) -> Array:
    """Of the sample SD over the true one, at the probabilities of NODES."""
    return np.sqrt(gammaincinv(df / 2, ndtr(NODES)) * 2 / df)


def family_error(p: float, df: Array, shared: Array, separate: Array) -> float:
    """The probability that the smallest p-value of variants that equal the baseline is below ``p``.

    Args:
        df: (variants,) degrees of freedom.
        shared: (variants,) the baseline's part of SE; the correlation of two differences is the
            product of theirs.
        separate: (variants,) whether the variance is independent of those of other variants.
    """
    shared = np.minimum(shared, 0.95)[:, None, None]  # smooth enough for the nodes; conservative
    sd = np.array([sd_quantiles(of_variant) for of_variant in df.tolist()])
    limit = (-stdtrit(df, p / 2)[:, None] * sd)[:, None]
    baseline, rest = shared * NODES[15:, None], np.sqrt(1 - shared**2)
    inside = ndtr((limit - baseline) / rest) - ndtr((-limit - baseline) / rest)
    alone = (inside @ WEIGHTS)[:, :, None]
    inside = np.where(separate[:, None, None], alone, inside).prod(axis=0)  # (baseline, variance)
    return float(1 - 2 * WEIGHTS[15:] @ inside @ WEIGHTS)  # symmetric in the baseline


def step_down(p: Array, df: Array, shared: Array, separate: Array) -> tuple[Array, Array]:
    """Corrected p-values, and the level that each uncorrected one is compared with.

    The smallest is tested against all, the next against the remaining; from the first one that is
    not significant on, the level stays. So p < LEVEL if and only if the interval excludes zero.
    """
    order = p.argsort()
    corrected, levels = np.zeros((2, len(p)))
    worst = level = 0.0
    for k, i in enumerate(order):
        rest = order[k:]
        family = df[rest], shared[rest], separate[rest]
        if worst < LEVEL:
            bracket = LEVEL / len(rest) * 0.9, LEVEL * 1.1
            level = brentq(lambda q, *args: family_error(q, *args) - LEVEL, *bracket, family, 1e-15)
        worst = max(worst, family_error(p[i], *family))
        corrected[i], levels[i] = worst, level
    return corrected, levels


@dataclass(frozen=True)
class Comparison:
    """A variant against the baseline, in BLEU; corrected for the number of variants."""

    difference: float
    low: float  # 95% confidence interval: excludes 0 if and only if p < 0.05
    high: float
    p: float
    detectable: float  # true difference that 4 of 5 such experiments would show

    @property
    def verdict(self) -> str:
        if self.p >= LEVEL:
            return NOT_SHOWN
        return "better" if self.difference > 0 else "worse"


def compare(scores: list[Array], sentences: list[float]) -> list[Comparison]:
    """Compare every variant with the baseline.

    Args:
        scores: BLEU of the baseline's runs, then of each variant's; at least two runs each.
        sentences: of each variant, the variance of its difference over test sets that is common to
            all runs.
    """
    n = np.array([len(runs) for runs in scores])
    means = np.array([runs.mean() for runs in scores])
    own = np.array([runs.var(ddof=1) for runs in scores])
    variance, df, separate = seed_variances(own[1:], n[1:] - 1.0)
    of_variant, of_baseline = variance / n[1:], own[0] / n[0]
    of_seeds = np.maximum(of_variant + of_baseline, 1e-12)  # identical runs
    df = of_seeds**2 / (of_variant**2 / df + of_baseline**2 / (n[0] - 1) + 1e-30)  # Welch 1938
    # The sentences' part is known well. Satterthwaite (1946) would square the ratio; but where few
    # seeds happen to make theirs look small, that trusts them too much.
    total = of_seeds + sentences
    df = np.clip(df * total / of_seeds, 1, 1000)
    error = np.sqrt(total)
    difference = means[1:] - means[0]
    raw = 2 * stdtr(df, -abs(difference) / error)
    p, levels = step_down(raw, df, np.sqrt(of_baseline / total), separate)
    margin = -stdtrit(df, levels / 2) * error
    # Exceeded 4 times out of 5, by a normal approximation to the noncentral t (Johnson and Welch
    # 1940), at the first step's level.
    t = -stdtrit(df, levels.min() / 2)
    detectable = (t * (1 - 1 / (4 * df)) + 0.8416 * np.sqrt(1 + t * t / (2 * df))) * error
    columns = [difference, difference - margin, difference + margin, p, detectable]
    return [Comparison(*row) for row in np.stack(columns, axis=1).tolist()]
