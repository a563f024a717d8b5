"""The statistics against scipy, sacreBLEU's bootstrap, hand-computed values, and simulations."""

import math
import random
import runpy
from pathlib import Path

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from scipy import stats

from seq2seq.experiments import statistics as ours
from seq2seq.experiments.statistics import LEVEL, NOT_SHOWN, RESAMPLES, Array, Comparison, compare

POWER = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "power.py"))


def without_sentences(scores: list[Array]) -> list[Comparison]:
    """Comparisons in which the choice of sentences adds no variance."""
    return compare(scores, [0.0] * (len(scores) - 1))


@pytest.mark.parametrize(("n_baseline", "n_runs", "k"), [(3, 3, 3), (10, 5, 9), (10, 5, 1)])
def test_smallest_p_is_that_of_dunnett(n_baseline: int, n_runs: int, k: int) -> None:
    rng = np.random.default_rng(1)
    baseline, *variants = (rng.normal(0, 1, n) for n in [n_baseline] + [n_runs] * k)
    variants[0] += 2
    expected = stats.dunnett(*variants, control=baseline, rng=rng)
    df = float(n_baseline - 1 + k * (n_runs - 1))
    shared = math.sqrt((1 / n_baseline) / (1 / n_baseline + 1 / n_runs))
    p = 2 * stats.t.sf(abs(expected.statistic), df)
    corrected, _ = ours.step_down(p, np.full(k, df), np.full(k, shared), np.zeros(k, dtype=bool))
    assert corrected.min() == pytest.approx(expected.pvalue.min(), abs=5e-4)


def test_step_down_of_independent_variants_by_hand() -> None:
    """Without a shared baseline or variance, the corrections are Šidák's."""
    p = np.array([0.04, 0.001, 0.03])
    df, shared, separate = np.full(3, 5.0), np.zeros(3), np.ones(3, dtype=bool)
    corrected, levels = ours.step_down(p, df, shared, separate)
    second = 1 - 0.97**2  # not significant: all that follow keep its level
    assert corrected == pytest.approx([second, 1 - 0.999**3, second], rel=0.01)
    assert levels == pytest.approx(1 - 0.95 ** (1 / np.array([2, 3, 2])), rel=0.01)


def test_one_variant_is_welch_test() -> None:
    baseline = np.array([30.0, 31.0, 29.5, 30.2, 30.1, 29.9, 30.4, 30.8, 29.7, 30.0])
    variant = np.array([31.0, 32.5, 30.9, 30.4, 31.9])
    expected = stats.ttest_ind(variant, baseline, equal_var=False)
    (comparison,) = without_sentences([baseline, variant])
    assert comparison.p == pytest.approx(expected.pvalue, rel=1e-3)
    interval = (comparison.low, comparison.high)
    assert interval == pytest.approx(tuple(expected.confidence_interval(0.95)), rel=1e-3)
    assert comparison.verdict == "better"
    (reverse,) = without_sentences([variant, baseline])
    assert (reverse.difference, reverse.verdict) == (-comparison.difference, "worse")


def test_sentences_by_hand() -> None:
    """They add to the variance; degrees of freedom grow by as much, from 1.5 times the variant's."""
    scores = [np.array([30.0, 31.0, 29.5]), np.array([31.0, 31.5, 30.9])]
    of_seeds = (scores[0].var(ddof=1) + scores[1].var(ddof=1)) / 3
    welch = of_seeds**2 / sum((runs.var(ddof=1) / 3) ** 2 / 2 for runs in scores)
    assert welch < 3
    (comparison,) = compare(scores, [0.25])
    t, df = comparison.difference / math.sqrt(of_seeds + 0.25), welch * (1 + 0.25 / of_seeds)
    assert comparison.p == pytest.approx(2 * stats.t.sf(t, df), rel=1e-3)
    (comparison,) = without_sentences([scores[0], scores[0] + 1])  # Welch's df would be 4
    t = 1 / math.sqrt(2 * scores[0].var(ddof=1) / 3)
    assert comparison.p == pytest.approx(2 * stats.t.sf(t, 3), rel=1e-3)


def test_seed_variances_by_hand() -> None:
    df = np.full(6, 4.0)
    level = 0.3 / 4
    pooled = 1.1 * np.mean([1.0, 0.8, 1.2, 0.9]) / (1 - level)
    variances, dfs, noisy = ours.seed_variances(np.array([1.0, 0.8, 1.2, 0.9, 100, 1e-9]), df)
    assert variances == pytest.approx([pooled, pooled, 1.2, pooled, 100, pooled])
    assert dfs.tolist() == [16, 16, 16, 16, 4, 16]
    assert noisy.tolist() == [False, False, False, False, True, False]
    # Where all are alike, the margin is what is left.
    draws = np.random.default_rng(2).chisquare(4, 1000) / 4
    assert ours.seed_variances(draws, np.full(1000, 4.0))[0].min() == pytest.approx(
        1.1 / (1 - level), rel=0.07
    )


def random_scores(rng: np.random.Generator) -> list[Array]:
    """Any number of variants and runs, equally noisy or not, with or without effects."""
    sds = rng.choice([0, 0.4, 3]) * np.exp(rng.normal(0, rng.choice([0, 2]), rng.integers(2, 11)))
    means = 30 + rng.choice([0, 1, 3]) * rng.normal(size=len(sds))
    pairs = zip(means, sds, strict=True)
    return [rng.normal(mean, sd, rng.integers(2, 11)) for mean, sd in pairs]


def test_p_and_interval_agree() -> None:
    rng = np.random.default_rng(3)
    shown = 0
    for _ in range(150):
        scores = random_scores(rng)
        comparisons = compare(scores, rng.choice([0, 0.1, 1], len(scores) - 1).tolist())
        for c in comparisons:
            assert (c.p < LEVEL) == (not c.low <= 0 <= c.high)
            assert (c.verdict == NOT_SHOWN) == (c.p >= LEVEL)
            assert c.low <= c.difference <= c.high
            assert c.detectable > 0
            shown += c.p < LEVEL
    assert 100 < shown < 600


def test_unrelated_variant_changes_little_but_the_correction() -> None:
    """Six instead of five: at most a fifth more, but for what it says about the variance."""
    rng = np.random.default_rng(4)
    ratios: list[list[Array]] = [[], []]
    for _ in range(40):
        scores = [rng.normal(30 + rng.normal(0, 0.3), 0.4, n) for n in [10] + [5] * 5]
        before = np.array([c.p for c in without_sentences(scores)])
        for i, unrelated in enumerate([rng.normal(10, 20, 5), rng.normal(30, 0.4, 5)]):
            after = without_sentences([*scores, unrelated])[:5]
            ratios[i].append(np.array([c.p for c in after]) / before)
    wild, alike = np.array(ratios).reshape(2, -1)
    assert np.quantile(wild, [0.02, 0.5]) == pytest.approx(1, abs=0.03)
    assert np.quantile(wild, 0.95) < 1.4
    assert np.quantile(alike, [0.1, 0.5, 0.9]) == pytest.approx([0.9, 1.1, 1.4], abs=0.15)


def test_equal_runs() -> None:
    for n_variants in (1, 2, 9):
        for comparison in without_sentences([np.full(2, 30.0)] * (n_variants + 1)):
            assert (comparison.difference, comparison.verdict) == (0, NOT_SHOWN)
            assert comparison.p == pytest.approx(1)
            assert 0 < comparison.detectable < 0.01
    constant = without_sentences([np.array([30.0, 30.4, 29.8]), np.full(2, 30.0)])[0]
    assert constant.verdict == NOT_SHOWN
    far = without_sentences([np.full(60, 30.0), *[np.full(60, 40.0)] * 3])  # p underflows
    assert [c.p for c in far] == pytest.approx([0, 0, 0])
    assert {c.verdict for c in far} == {"better"}


@pytest.mark.slow
@pytest.mark.parametrize("runs", POWER["FOR_ERROR"][:2])
@pytest.mark.parametrize(
    ("scenario", "noise"),
    [
        *[("1 equal", ""), ("3 equal", ", heavy tails"), ("9 equal", ", sentences")],
        *[("3, one 3 x as noisy", ""), ("9, one 3 x as noisy", ""), ("9, one 15 x as noisy", "")],
        *[("9, baseline 3 x as noisy", ""), ("9, three with hardly any noise", ", sentences")],
        ("3, all with hardly any noise", ", sentences"),
    ],
)
def test_false_alarms(scenario: str, noise: str, runs: tuple[int, int]) -> None:
    """Where nothing differs, about one experiment in twenty claims anything."""
    sds = POWER["SCENARIOS"][scenario]
    error = POWER["family_wise_error"](sds, runs, 120, **POWER["NOISE"][noise])
    assert error <= 10  # 5%, and two and a half standard errors


@pytest.mark.parametrize(("runs", "k"), [((10, 5), 1), ((10, 5), 3), ((5, 5), 3)])
def test_detectable(runs: tuple[int, int], k: int) -> None:
    sds = [0.4] * (k + 1)
    shown = POWER["shown_difference"](sds, runs, 0.2, 150)
    rng = np.random.default_rng(5)
    estimates = [POWER["simulate"](rng, sds, runs, 0.2)[0].detectable for _ in range(50)]
    assert np.mean(estimates) == pytest.approx(shown, rel=0.15)


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


def test_sentence_parts_by_hand() -> None:
    a, b, c = np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0]), np.array([2.0, 4.0, 9.0])
    (first, second), (third,) = ours.sentence_parts([[a, b], [c]])
    assert first == pytest.approx((1, -1, -1))
    assert second == pytest.approx((1, -1, -1))
    assert third == pytest.approx((13, math.nan, 0), nan_ok=True)


def test_sentence_parts_separate_common_and_own_errors() -> None:
    """A difference of variance 3² + 4² over sentences in all runs; each run errs by 5² more."""
    rng = np.random.default_rng(9)
    draws = rng.multinomial(200, np.full(200, 1 / 200), RESAMPLES).T / 200
    common, own = [], []
    for _ in range(30):
        of_variant = rng.normal(0, [[[3.0]], [[4.0]]], (2, 1, 200))
        errors = of_variant + rng.normal(0, 2, 200) + rng.normal(0, 5, (2, 3, 200))
        parts = ours.sentence_parts([list(runs @ draws) for runs in errors])
        base, variant = np.array(parts).mean(axis=1)
        common.append(variant[1] - 2 * variant[2] + base[2])
        own.append(variant[0] - variant[1])
    assert np.mean(common) == pytest.approx(25 / 200, rel=0.2)
    assert np.mean(own) == pytest.approx(25 / 200, rel=0.2)
