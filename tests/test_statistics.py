"""The statistics against scipy, sacreBLEU's bootstrap, hand-computed values, and simulations."""

import math
import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from scipy import stats

from seq2seq.experiments import statistics as ours
from seq2seq.experiments.statistics import NOT_SHOWN, RESAMPLES, Array, Comparison, compare, holm

DRAWS = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), RESAMPLES)


def without_sentences(scores: Array) -> list[Comparison]:
    """Comparisons in which the choice of sentences adds no variance."""
    return compare(scores, np.zeros((*scores.shape, RESAMPLES)) + scores[:, :, None])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.6]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []


def test_one_variant_is_paired_t_test() -> None:
    scores = np.array([[30.0, 31.0, 29.5, 30.2], [31.0, 31.5, 30.9, 30.9]])
    expected = stats.ttest_rel(scores[1], scores[0])
    (comparison,) = without_sentences(scores)
    assert comparison.p == comparison.adjusted_p == pytest.approx(expected.pvalue)
    interval = (comparison.low, comparison.high)
    assert interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert comparison.difference == pytest.approx(0.9)


def test_comparisons_by_hand() -> None:
    """Variances 1/3 and 1/75 of the mean differences 1 and 4; both get at least the mean of them."""
    scores = np.array([[10.0, 20.0, 30.0], [10.0, 21.0, 32.0], [14.0, 23.8, 34.2]])
    first, second = without_sentences(scores)
    typical = (1 / 3 + 0.04 / 3) / 2
    df = min(4, 4 * 2 * 2 / 5)  # 3.2
    t = np.array([1 / math.sqrt(1 / 3), 4 / math.sqrt(typical)])
    expected = 2 * stats.t.sf(t, df)
    assert [first.p, second.p] == pytest.approx(expected)
    assert [first.adjusted_p, second.adjusted_p] == pytest.approx([expected[0], 2 * expected[1]])
    assert [first.verdict, second.verdict] == [NOT_SHOWN, "better"]
    limit = stats.t.ppf(0.9875, df)  # 5% shared by two variants
    detectable = limit * (1 - 1 / (4 * df)) + 0.8416 * math.sqrt(1 + limit**2 / (2 * df))
    assert first.min_detectable_difference == pytest.approx(detectable * math.sqrt(1 / 3))
    assert second.high - second.low == pytest.approx(2 * stats.t.ppf(0.975, df) * typical**0.5)


def test_seed_variance_by_hand() -> None:
    # Differences of a, 0 and -a have the variance a^2 over three seeds, their mean a third of it.
    scores = np.array([[0, 0, 0], [0.1, 0, -0.1], [-1, 0, 1], [0, -7, 7]])
    typical = 1 / 3 / (1 - 1 / 9) ** 3
    variances, df = ours.seed_variance(scores)
    assert variances == pytest.approx([typical, typical, 49 / 3])
    assert df == 4
    variances, df = ours.seed_variance(scores[:3])
    assert variances == pytest.approx([(0.01 + 1) / 2 / 3, 1 / 3])
    assert df == pytest.approx(3.2)
    shared = np.array([[10.0, 20.0, 15.0], [11.0, 21.0, 16.0], [9.0, 19.0, 14.0]])
    assert ours.seed_variance(shared)[0] == pytest.approx([0, 0], abs=1e-9)
    # Unbiased: the median of variances with few degrees of freedom is far below their mean.
    draws = np.concatenate([np.zeros((1, 3)), np.random.default_rng(2).normal(0, 2, (20_000, 3))])
    assert ours.seed_variance(draws)[0].min() == pytest.approx(4 / 3, rel=0.05)


def test_bootstrap_matches_sacrebleu() -> None:
    rng = random.Random(1)
    words = [[f"w{rng.randrange(50)}" for _ in range(rng.randint(5, 15))] for _ in range(300)]
    references = [" ".join(row) for row in words]
    hypotheses = [" ".join(w if rng.random() > 0.2 else "x" for w in row) for row in words]
    expected = BLEU().corpus_score(hypotheses, [references], n_bootstrap=RESAMPLES)
    resampled = ours.resampled_bleu(hypotheses, references, "13a")
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (high - low) / 2 == pytest.approx(expected._ci, rel=0.15)
    assert resampled.mean() == pytest.approx(expected._mean, abs=0.2)
    # Draws are the same for all: with fewer of the same errors, every resample is better.
    better = ours.resampled_bleu([*references[:30], *hypotheses[30:]], references, "13a")
    assert (better >= resampled).all()
    assert better.mean() > resampled.mean() + 1


def simulate(
    rng: np.random.Generator,
    effects: list[float],
    sds: list[float],
    sentence_sd: float,
    n_seeds: int,
) -> list[Comparison]:
    """A simulated experiment; a score is a mean over sentences."""
    n_sentences = 200
    shape = (len(effects), n_seeds, n_sentences)
    of_sentence = rng.normal(0, sentence_sd * math.sqrt(n_sentences), (shape[0], 1, n_sentences))
    of_seed = rng.normal(0, 1, (*shape[:2], 1)) * np.array(sds)[:, None, None]
    of_both = rng.normal(0, 0.1, shape)
    block = rng.normal(0, 1, (1, n_seeds, 1))
    values = np.array(effects)[:, None, None] + of_sentence + of_seed + of_both + block
    return compare(values.mean(axis=2), values @ DRAWS.T / n_sentences)


@pytest.mark.slow
@pytest.mark.parametrize("sentence_sd", [0.0, 0.3])
@pytest.mark.parametrize(
    ("n_seeds", "sds"),
    [
        *[(2, [0.4] * 2), (2, [0.4] * 4), (3, [0.4] * 2), (3, [0.4] * 10), (5, [0.4] * 3)],
        (3, [0.4] * 6 + [1.2]),  # a noisy one
        *[(3, [0.4] * 6 + [0.02] * 3), (3, [0.001] * 4)],  # some or all with hardly any noise
        (3, [0.6] + [0.4] * 6),  # a baseline noisier than the rest
    ],
)
def test_false_alarms(n_seeds: int, sds: list[float], sentence_sd: float) -> None:
    """Where nothing differs, about one experiment in twenty claims anything."""
    rng = np.random.default_rng(7)
    false_alarms, misses = 0, np.zeros(len(sds) - 1)
    for _ in range(100):
        comparisons = simulate(rng, [30.0] * len(sds), sds, sentence_sd, n_seeds)
        false_alarms += any(comparison.verdict != NOT_SHOWN for comparison in comparisons)
        misses += [not comparison.low < 0 < comparison.high for comparison in comparisons]
    assert false_alarms <= 10  # 5%, and a little more than two standard errors
    assert misses.max() <= 13  # of up to nine, so nearer four
    if sds == [0.4] * 10 and sentence_sd:  # equally noisy: intervals are not too wide either
        assert misses.mean() > 2


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_min_detectable_difference(n_seeds: int) -> None:
    rng = np.random.default_rng(8)

    def differences(effect: float, n_worlds: int) -> list[Comparison]:
        effects, sds = [30.0, 30.0 + effect, 30.0 - effect, 30.0], [0.4] * 4
        worlds = (simulate(rng, effects, sds, 0.2, n_seeds)[:2] for _ in range(n_worlds))
        return [comparison for comparisons in worlds for comparison in comparisons]

    smallest = float(np.mean([c.min_detectable_difference for c in differences(0.0, 50)]))
    verdicts = [comparison.verdict for comparison in differences(smallest, 100)]
    shown = [verdicts[::2].count("better"), verdicts[1::2].count("worse")]
    assert 0.7 < sum(shown) / 200 < 0.95


def test_sentence_variance_counts_only_the_common_part() -> None:
    rng = np.random.default_rng(9)
    separate = rng.normal(0, 5, (50, 3, 200))  # each seed's model errs on other sentences
    mean = np.mean([ours.sentence_variance(errors @ DRAWS.T / 200) for errors in separate])
    assert mean < 0.25 * 5**2 / 200  # of a single seed's variance
    common = separate + rng.normal(0, 5, (50, 1, 200))
    mean = np.mean([ours.sentence_variance(errors @ DRAWS.T / 200) for errors in common])
    assert mean == pytest.approx(5**2 / 200, rel=0.3)


def test_sentences_add_degrees_of_freedom() -> None:
    """All seeds of the variant gain the same on each test set, so its variance adds to theirs."""
    scores = np.array([[30.0, 31.0, 29.5], [31.0, 31.5, 30.9]])
    gain = np.random.default_rng(1).normal(0, 0.5, RESAMPLES)
    resampled = np.stack([np.zeros((3, RESAMPLES)), np.tile(gain, (3, 1))])
    (comparison,) = compare(scores, resampled)
    of_seeds, of_sentences = (scores[1] - scores[0]).var(ddof=1) / 3, gain.var(ddof=1)
    error = math.sqrt(of_seeds + of_sentences)
    df = 2 * (1 + of_sentences / of_seeds)
    assert comparison.p == pytest.approx(2 * stats.t.sf(comparison.difference / error, df))


def test_equal_runs() -> None:
    for n_seeds in (2, 5):
        (comparison,) = without_sentences(np.full((2, n_seeds), 30.0))
        assert (comparison.difference, comparison.verdict) == (0, NOT_SHOWN)
        assert comparison.p == pytest.approx(1)
        assert math.isfinite(comparison.min_detectable_difference)
    # A copy of the baseline narrows no other variant's interval.
    scores = np.array([[30.0, 31.0, 29.0], [30.0, 31.0, 29.0], [30.5, 30.9, 29.9]])
    same, other = without_sentences(scores)
    assert same.p == pytest.approx(1)
    own = (scores[2] - scores[0]).var(ddof=1) / 3
    assert other.high - other.low >= stats.t.ppf(0.975, 2) * math.sqrt(own)
