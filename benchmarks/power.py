"""How often the verdicts of ``seq2seq compare`` are wrong, and which differences they show.

python benchmarks/power.py [--sd SD] [--sentences SD] [--repetitions N]

Simulates experiments and prints two tables. The first has, for several numbers of runs and of
variants, the true difference in BLEU that 4 of 5 experiments show, where seeds vary the BLEU of a
run by ``--sd`` and the choice of test sentences varies each difference by ``--sentences``. The
second has the family-wise error: the percentage of experiments with a verdict other than "no
difference shown" where no variant differs from the baseline; at most 5 is intended. There, seeds
vary BLEU by 1 where nothing else is said, sentences add a variance of 0.3² in the second column
of each design, and the third has heavy tails (Student's t with 4 degrees of freedom).

With 1,000 repetitions, an error of 5% is found within 1.4, twice out of three times within 0.7.
It takes about ten minutes; the real seed SD of an experiment is in its report.
"""

import argparse

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from seq2seq.experiments.statistics import NOT_SHOWN, Comparison, compare

DESIGNS = [(3, 3), (5, 5), (10, 5)]  # runs of the baseline and of each variant
DOUBLE = [(6, 3), (10, 5), (20, 10)]
N_VARIANTS = [1, 3, 9]
SENTENCES = 0.3

SCENARIOS = {  # SDs of the baseline and of the variants
    **{f"{n} equal": [1.0] * (n + 1) for n in (1, 2, 3, 9, 20)},
    **{f"{n}, one {x} x as noisy": [1.0] * n + [x] for n in (1, 2, 3, 9, 20) for x in (3, 15)},
    "9, one twice as noisy": [1.0] * 9 + [2.0],
    "9, three twice as noisy": [1.0] * 7 + [2.0] * 3,
    **{f"{n}, baseline 3 x as noisy": [3.0] + [1.0] * n for n in (1, 3, 9)},
    "9, baseline half as noisy": [0.5] + [1.0] * 9,
    "9, three with hardly any noise": [1.0] * 7 + [0.02] * 3,
    "9, six with hardly any noise": [1.0] * 4 + [0.02] * 6,
    "9, five half as noisy": [1.0] * 5 + [0.5] * 5,
    "3, all with hardly any noise": [0.001] * 4,
}


def simulate(
    rng: np.random.Generator,
    sds: list[float],
    runs: tuple[int, int],
    sentence_sd: float = 0.0,
    heavy_tails: bool = False,
) -> list[Comparison]:
    """An experiment in which no variant differs from the baseline.

    Args:
        sds: SD over seeds of the baseline's and the variants' BLEU.
        runs: of the baseline and of each variant.
        sentence_sd: SD over test sets of each difference, half of its variance due to the baseline.
        heavy_tails: seeds vary BLEU by Student's t with 4 degrees of freedom.
    """
    scores = []
    for i, sd in enumerate(sds):
        size = runs[min(i, 1)]
        noise = rng.standard_t(4, size) / np.sqrt(2) if heavy_tails else rng.normal(size=size)
        scores.append(30 + sd * noise + rng.normal(0, sentence_sd / np.sqrt(2)))
    return compare(scores, [sentence_sd**2] * (len(sds) - 1))


def shown_difference(
    sd: float, n_variants: int, runs: tuple[int, int], sentence_sd: float, repetitions: int
) -> float:
    """The true difference of one variant that 80% of the experiments show."""
    rng = np.random.default_rng(1)
    needed = []
    for _ in range(repetitions):
        first = simulate(rng, [sd] * (n_variants + 1), runs, sentence_sd)[0]
        # With this much more, its interval would exclude zero.
        needed.append((first.high - first.difference) - first.difference)
    return float(np.quantile(needed, 0.8))


def family_wise_error(
    sds: list[float],
    runs: tuple[int, int],
    sentence_sd: float,
    heavy_tails: bool,
    repetitions: int,
) -> float:
    """The percentage of experiments that show any difference where there is none."""
    rng = np.random.default_rng(2)
    errors = 0
    for _ in range(repetitions):
        comparisons = simulate(rng, sds, runs, sentence_sd, heavy_tails)
        errors += any(comparison.verdict != NOT_SHOWN for comparison in comparisons)
    return 100 * errors / repetitions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sd", type=float, default=0.45, help="over seeds, in BLEU")
    parser.add_argument("--sentences", type=float, default=0.0, help="SD over test sets, in BLEU")
    parser.add_argument("--repetitions", type=int, default=1000)
    args = parser.parse_args()

    rows = [
        [f"{base} + {n}"]
        + [shown_difference(args.sd, k, (base, n), args.sentences, args.repetitions) for k in N_VARIANTS]
        for base, n in tqdm(DESIGNS, desc="power", leave=False)
    ]
    print(f"BLEU shown with 80% power; seed SD {args.sd:g}, sentence SD {args.sentences:g}\n")
    header = ["Runs", *(f"{n} variants" for n in N_VARIANTS)]
    print(tabulate(rows, header, "github", floatfmt=".2f"), "\n", flush=True)

    columns = [(runs, *kind) for runs in DOUBLE for kind in ((0.0, False), (SENTENCES, False), (0.0, True))]
    rows = [
        [name, *(family_wise_error(sds, *column, args.repetitions) for column in columns)]
        for name, sds in tqdm(SCENARIOS.items(), desc="error", leave=False)
    ]
    names = [f"{b} + {n}{', t' if heavy else ', sentences' if sd else ''}" for (b, n), sd, heavy in columns]
    print("Experiments that show a difference where there is none, %\n")
    print(tabulate(rows, ["Variants", *names], "github", floatfmt=".1f"))


if __name__ == "__main__":
    main()
