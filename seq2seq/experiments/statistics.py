"""Is a variant better than the baseline, or is the difference noise?

Another seed gives another model, and other test sentences another score. The difference between
the mean over n runs of a variant and over n₀ of the baseline varies by

    SE² = σ² / n + σ₀² / n₀ + σ²_sentences

over seeds and over test sets. Dunnett's step-down test (Dunnett and Tamhane 1991) corrects for the
number of variants: they share the baseline. ``benchmarks/power.py`` simulates errors and power.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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
    """How each run's BLEU varies with the sentences, from the samples of all runs of all variants.

    Its variance (Koehn 2004), and its mean covariance with the other runs of its variant and with
    those of the baseline, which is the first variant; NaN where there are none.
    """
    member = np.repeat(np.eye(len(samples)), [len(runs) for runs in samples], axis=0)
    covariance = np.atleast_2d(np.cov([run for runs in samples for run in runs]))
    variance = covariance.diagonal()
    with np.errstate(invalid="ignore"):
        mean = (covariance - np.diag(variance)) @ member / (member.sum(axis=0) - member)
    parts = zip(variance.tolist(), mean[member == 1].tolist(), mean[:, 0].tolist(), strict=True)
    return [[next(parts) for _ in runs] for runs in samples]


def seed_variances(own: Array, df: Array) -> tuple[Array, Array, Array]:
    """The variances over seeds to assume, their degrees of freedom, and whether a variant is noisy.

    Few seeds might agree by chance, so a variance is at least the pooled one. Variants much more or
    less noisy than most are not in the pool, and the noisy have their own degrees of freedom.
    """
    if len(own) < 3:
        return own, df, np.ones(len(own), dtype=bool)
    typical = np.median(own) / (1 - 2 / (9 * df.mean())) ** 3  # (Wilson and Hilferty 1931)
    low, middle, high = (typical * fdtri(df, df.sum(), tail) for tail in (0.01, 0.95, 0.999))
    pool = df * (own >= low) * np.clip((high - own) / (high - middle), 0, 1)
    others = pool * (1 - np.eye(len(own)))
    df_others = np.maximum(others.sum(axis=1), 1)
    level = 0.3 / df  # by simulation, as is 1.1: the fewer runs, the less evidence is needed
    noisy = own > others @ own / df_others * fdtri(df, df_others, 1 - level)
    pooled = 1.1 * pool @ own / pool.sum() / (1 - level)  # others may be noisier, too
    return np.maximum(own, pooled), np.where(noisy, df, pool.sum()), noisy


def family_error(p: float, df: Array, sd: Array, shared: Array, separate: Array) -> float:
    """The probability of a p-value up to ``p`` among variants that equal the baseline.

    ``sd`` has each sample SD over the true one at NODES; ``shared`` the baseline's part of each SE,
    products of two being correlations; ``separate`` whose variance is independent of the others'.
    """
    limit = (abs(stdtrit(df, p / 2))[:, None] * sd)[:, None]  # of p = 0 it may be inf, not -inf
    shared = np.minimum(shared, 0.95)[:, None, None]  # smooth enough for the nodes; conservative
    baseline, rest = shared * NODES[15:, None], np.sqrt(1 - shared**2)
    inside = ndtr((limit - baseline) / rest) - ndtr((-limit - baseline) / rest)
    alone = (inside @ WEIGHTS)[:, :, None]
    inside = np.where(separate[:, None, None], alone, inside).prod(axis=0)  # (baseline, sd)
    return float(1 - 2 * WEIGHTS[15:] @ inside @ WEIGHTS)  # symmetric in the baseline


def step_down(p: Array, df: Array, shared: Array, separate: Array) -> tuple[Array, Array]:
    """Corrected p-values, and the level that each uncorrected one is compared with.

    The smallest is tested against all, the next against the remaining; from the first one that is
    not significant on, the level stays. So p < LEVEL if and only if the interval excludes zero.
    """
    sd = np.sqrt(gammaincinv(df[:, None] / 2, ndtr(NODES)) * 2 / df[:, None])
    order, worst, level = p.argsort(), 0.0, 0.0
    corrected, levels = np.zeros((2, len(p)))
    for k, i in enumerate(order):
        family = tuple(values[order[k:]] for values in (df, sd, shared, separate))
        if worst < LEVEL:
            bracket = LEVEL / (len(p) - k) * 0.9, LEVEL * 1.1
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
        return NOT_SHOWN if self.p >= LEVEL else "better" if self.difference > 0 else "worse"


def compare(scores: list[Array], sentences: list[float]) -> list[Comparison]:
    """Compare the runs of every variant, at least two, with those of the baseline, the first.

    ``sentences`` has each difference's variance over test sets, as far as all runs share it.
    """
    n = np.array([len(runs) for runs in scores])
    own = np.array([max(runs.var(ddof=1), 1e-12) for runs in scores])  # runs may be identical
    difference = np.array([runs.mean() - scores[0].mean() for runs in scores[1:]])
    variance, df, separate = seed_variances(own[1:], n[1:] - 1.0)
    variant, baseline = variance / n[1:], own[0] / n[0]
    of_seeds = variant + baseline
    welch = of_seeds**2 / (variant**2 / df + baseline**2 / (n[0] - 1))
    # Welch (1938) trusts a variance that is small by chance too much: hence the limit, and no
    # square of the ratio for the sentences' part, which is known well.
    total = of_seeds + sentences
    df = np.clip(np.minimum(welch, 1.5 * df) * total / of_seeds, 1, 1000)
    error = np.sqrt(total)
    uncorrected = 2 * stdtr(df, -abs(difference) / error)
    p, levels = step_down(uncorrected, df, np.sqrt(baseline / total), separate)
    margin = -stdtrit(df, levels / 2) * error
    # 80% of a noncentral t exceed the limit of the first step (Johnson and Welch 1940).
    t = -stdtrit(df, levels.min() / 2)
    detectable = (t * (1 - 1 / (4 * df)) + 0.8416 * np.sqrt(1 + t * t / (2 * df))) * error
    columns = [difference, difference - margin, difference + margin, p, detectable]
    return [Comparison(*row) for row in np.stack(columns, axis=1).tolist()]
