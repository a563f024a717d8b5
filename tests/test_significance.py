"""The statistics: against tables, sacreBLEU's bootstrap, the paired t-test, and made-up worlds."""

import math
import random

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU

from seq2seq.significance import (
    NOT_SHOWN,
    RESAMPLES,
    Array,
    Comparison,
    common_sentence_variance,
    compare,
    holm,
    resampled_bleu,
    seed_noise,
    sentence_statistics,
    t_quantile,
    t_tail,
)


@pytest.mark.parametrize(
    ("df", "tail", "t"),  # from the tables in textbooks
    [(1, 0.05, 12.706), (2, 0.05, 4.303), (4, 0.01, 4.604), (10, 0.1, 1.812), (30, 0.001, 3.646)],
)
def test_students_t(df: int, tail: float, t: float) -> None:
    assert t_quantile(tail, df) == pytest.approx(t, abs=6e-4)
    assert t_tail(t, df) == pytest.approx(tail, rel=1e-3)
    assert t_tail(-t, df) == t_tail(t, df)


def test_students_t_far_out_and_between_the_tables() -> None:
    for t in (0.5, 3.0, 200.0):
        assert t_tail(t, 2) == pytest.approx(1 - t / math.sqrt(2 + t * t), rel=1e-3)
    assert t_tail(1.96, 2) > t_tail(1.96, 2.5) > t_tail(1.96, 3)
    assert t_tail(1.96, 1e4) == pytest.approx(0.05, abs=1e-3)
    assert t_tail(0, 3) == pytest.approx(1)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.001, 0.6]) == pytest.approx([1.0, 0.003, 1.0])
    assert holm([]) == []


def test_one_variant_is_judged_by_the_paired_t_test() -> None:
    scores = np.array([[30.0, 31.0, 29.5, 30.2], [31.0, 31.5, 30.9, 30.9]])
    difference = scores[1] - scores[0]
    variance, df = seed_noise(scores)
    assert variance == pytest.approx([difference.var(ddof=1) / 4])
    assert df == 3
    (found,) = compare(scores, np.zeros((2, 4, RESAMPLES)) + scores[:, :, None])
    t = difference.mean() / math.sqrt(difference.var(ddof=1) / 4)
    assert found.p == found.adjusted_p == pytest.approx(t_tail(t, 3))
    reach = t_quantile(0.05, 3) * math.sqrt(difference.var(ddof=1) / 4)
    assert (found.low, found.high) == pytest.approx(
        (difference.mean() - reach, difference.mean() + reach)
    )


def test_seeds_that_are_easy_for_all_are_no_noise() -> None:
    scores = np.array([[10.0, 20.0, 15.0], [11.0, 21.0, 16.0], [9.0, 19.0, 14.0]])
    assert seed_noise(scores)[0] == pytest.approx([0, 0], abs=1e-9)


def test_no_variant_gets_less_than_is_usual_nor_less_than_its_own() -> None:
    # Differences of a, 0 and -a have the variance a^2 over three seeds, their mean a third of it.
    scores = np.array([[0, 0, 0], [0.1, 0, -0.1], [-1, 0, 1], [0, -7, 7]])
    usual = 1 / 3 / (1 - 1 / 9) ** 3
    variances, df = seed_noise(scores)
    assert variances == pytest.approx([usual, usual, 49 / 3])
    assert df == 4
    variances, df = seed_noise(scores[:3])
    assert variances == pytest.approx([(0.01 + 1) / 2 / 3, 1 / 3])
    assert df == pytest.approx(3.2)


def test_what_is_usual_is_estimated_without_bias() -> None:
    """The median of a variance with few degrees of freedom is far below its mean."""
    rng = np.random.default_rng(2)
    calm_baseline = np.zeros((1, 3))
    draws = np.concatenate([calm_baseline, rng.normal(0, 2, (20_000, 3))])
    assert seed_noise(draws)[0].min() == pytest.approx(4 / 3, rel=0.05)


def sentences(n: int, noise: float, seed: int) -> tuple[list[str], list[str]]:
    """Made-up references, and hypotheses with some words wrong."""
    rng = random.Random(seed)
    words = [f"w{i}" for i in range(50)]
    references = [rng.choices(words, k=rng.randint(5, 15)) for _ in range(n)]
    hypotheses = [[w if rng.random() > noise else "x" for w in row] for row in references]
    return [" ".join(row) for row in hypotheses], [" ".join(row) for row in references]


def test_bootstrap_is_sacrebleus() -> None:
    hypotheses, references = sentences(300, 0.2, seed=1)
    statistics = sentence_statistics(hypotheses, references)
    assert statistics.shape == (300, 10)
    whole = statistics.sum(axis=0).astype(int).tolist()
    expected = BLEU().corpus_score(hypotheses, [references], n_bootstrap=RESAMPLES)
    ours = BLEU.compute_bleu(whole[2:6], whole[6:], whole[0], whole[1], smooth_method="exp")
    assert ours.score == pytest.approx(expected.score)
    resampled = resampled_bleu(statistics)
    low, high = np.quantile(resampled, [0.025, 0.975])
    assert (high - low) / 2 == pytest.approx(expected._ci, rel=0.15)
    assert resampled.mean() == pytest.approx(expected._mean, abs=0.2)
    assert np.array_equal(resampled, resampled_bleu(statistics))


def test_all_runs_are_resampled_alike() -> None:
    """A system that errs on the same sentences a little less is better in every resample."""
    hypotheses, references = sentences(100, 0.2, seed=2)
    better = [*references[:10], *hypotheses[10:]]
    resampled = [resampled_bleu(sentence_statistics(h, references)) for h in (hypotheses, better)]
    assert (resampled[1] >= resampled[0]).all()
    assert resampled[1].mean() > resampled[0].mean() + 1


DRAWS = np.random.default_rng(0).multinomial(200, np.full(200, 1 / 200), RESAMPLES)


def world(
    rng: np.random.Generator,
    effects: list[float],
    seed_sds: list[float],
    sentence_sd: float,
    n_seeds: int = 3,
) -> tuple[Array, Array]:
    """Scores of a made-up experiment, and their bootstrap; a score is a mean over sentences."""
    n_sentences = 200
    shape = (len(effects), n_seeds, n_sentences)
    of_sentence = rng.normal(0, sentence_sd * math.sqrt(n_sentences), (shape[0], 1, n_sentences))
    of_seed = rng.normal(0, 1, (*shape[:2], 1)) * np.array(seed_sds)[:, None, None]
    of_both = rng.normal(0, 0.1, shape)
    block = rng.normal(0, 1, (1, n_seeds, 1))
    values = np.array(effects)[:, None, None] + of_sentence + of_seed + of_both + block
    return values.mean(axis=2), values @ DRAWS.T / n_sentences


@pytest.mark.parametrize("sentence_sd", [0.0, 0.3])
@pytest.mark.parametrize(
    ("n_seeds", "seed_sds"),
    [
        (2, [0.4] * 2),
        (2, [0.4] * 4),
        (3, [0.4] * 2),
        (3, [0.4] * 3),
        (3, [0.4] * 10),
        (5, [0.4] * 3),
        (3, [0.4] * 6 + [1.2]),  # a wild one
        (3, [0.4] * 6 + [0.02] * 3),  # some that are always as bad
        (3, [0.6] + [0.4] * 6),  # a baseline that is wilder than the rest
        (3, [0.001] * 4),
    ],
)
def test_where_nothing_differs_nothing_is_shown(
    n_seeds: int, seed_sds: list[float], sentence_sd: float
) -> None:
    """Whichever kind of luck there is, about one in twenty claims anything, for no variant more."""
    rng = np.random.default_rng(7)
    n_worlds, false_alarms = 100, 0
    misses = np.zeros(len(seed_sds) - 1)
    for _ in range(n_worlds):
        found = compare(*world(rng, [30.0] * len(seed_sds), seed_sds, sentence_sd, n_seeds))
        false_alarms += any(each.verdict != NOT_SHOWN for each in found)
        misses += [not each.low < 0 < each.high for each in found]
    assert false_alarms / n_worlds <= 0.1  # 5%, and a little more than two standard errors
    assert misses.max() / n_worlds <= 0.13  # of up to nine, so nearer four


def test_intervals_are_no_wider_than_they_need_be() -> None:
    """Where all variants are as noisy, about one in twenty misses the truth."""
    rng = np.random.default_rng(10)
    misses = 0
    for _ in range(100):
        found = compare(*world(rng, [30.0] * 10, [0.4] * 10, 0.3))
        misses += sum(not each.low < 0 < each.high for each in found)
    assert misses / 900 > 0.02


@pytest.mark.parametrize("n_seeds", [3, 5])
def test_differences_of_the_size_stated_are_shown_4_times_out_of_5(n_seeds: int) -> None:
    rng = np.random.default_rng(8)

    def verdicts(effect: float, n_worlds: int) -> list[Comparison]:
        effects, sds = [30.0, 30.0 + effect, 30.0 - effect, 30.0], [0.4] * 4
        return [
            found
            for _ in range(n_worlds)
            for found in compare(*world(rng, effects, sds, 0.2, n_seeds))[:2]
        ]

    smallest = np.mean([found.smallest for found in verdicts(0.0, 50)])
    found = verdicts(float(smallest), 100)
    right = [each.verdict == ("better", "worse")[i % 2] for i, each in enumerate(found)]
    assert 0.7 < np.mean(right) < 0.95


def test_what_each_seed_errs_on_is_not_counted_twice() -> None:
    rng = np.random.default_rng(9)
    own = rng.normal(0, 5, (50, 3, 200))  # of every seed's model, no part common to them
    found = np.mean([common_sentence_variance(each @ DRAWS.T / 200) for each in own])
    of_each = 5**2 / 200  # what one seed's model errs on by itself
    assert found < 0.25 * of_each
    common = own + rng.normal(0, 5, (50, 1, 200))
    found = np.mean([common_sentence_variance(each @ DRAWS.T / 200) for each in common])
    assert found == pytest.approx(of_each, rel=0.3)


def test_equal_runs() -> None:
    scores = np.full((2, 2), 30.0)
    (found,) = compare(scores, np.full((2, 2, RESAMPLES), 30.0))
    assert (found.difference, found.verdict) == (0, NOT_SHOWN)
    assert found.p == pytest.approx(1)
    (found,) = compare(np.full((2, 5), 30.0), np.full((2, 5, RESAMPLES), 30.0))
    assert found.p == pytest.approx(1)
    assert math.isfinite(found.smallest)


def test_a_variant_that_copies_the_baseline_lends_nobody_its_calm() -> None:
    scores = np.array([[30.0, 31.0, 29.0], [30.0, 31.0, 29.0], [30.5, 30.9, 29.9]])
    same, other = compare(scores, np.zeros((3, 3, RESAMPLES)) + scores[:, :, None])
    assert same.p == pytest.approx(1)
    assert same.smallest > 0
    own = (scores[2] - scores[0]).var(ddof=1) / 3
    assert other.high - other.low >= t_quantile(0.05, 2) * math.sqrt(own)
