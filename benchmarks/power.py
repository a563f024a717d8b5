"""Which differences the verdicts of ``seq2seq compare`` show, and how often they are wrong.

python benchmarks/power.py [--sd SD] [--sentences SD] [--repetitions N]

Simulates experiments and prints two tables. The first has the true difference in BLEU that 4 of 5
experiments show, for several numbers of runs (of the baseline + of each variant) and of variants:
``--sd`` is the SD of a run's BLEU over seeds, which an experiment's report says, ``--sentences``
that of a difference over test sets, as far as all runs share it.

The second has the family-wise error: the percentage of experiments with a verdict other than "no
difference shown" where no variant differs from the baseline. At most 5 are intended; with 1,000
repetitions, this is measured with a standard error of 0.7. Seeds vary BLEU by 1 where nothing else
is said; the choice of sentences adds an SD of 0.3, or seeds have heavy tails (Student's t with 4
degrees of freedom). It takes about ten minutes.
"""

import argparse

import numpy as np
from tabulate import tabulate
from tqdm import tqdm

from seq2seq.experiments.statistics import NOT_SHOWN, Comparison, compare

Runs = tuple[int, int]  # of the baseline, and of each variant

FOR_POWER: list[Runs] = [(3, 3), (6, 3), (5, 5), (10, 5)]
N_VARIANTS = [1, 3, 9]
FOR_ERROR: list[Runs] = [(6, 3), (10, 5), (20, 10)]
NOISE = {"": {}, ", sentences": {"sentence_sd": 0.3}, ", heavy tails": {"heavy_tails": True}}
SCENARIOS = {  # SDs of the baseline and of the variants
    **{f"{n} equal": [1.0] * (n + 1) for n in (1, 2, 3, 9, 20)},
    **{f"{n}, one {x} x as noisy": [1.0] * n + [x] for n in (1, 2, 3, 9, 20) for x in (3, 15)},
    "9, one twice as noisy": [1.0] * 9 + [2.0],
    "9, three twice as noisy": [1.0] * 7 + [2.0] * 3,
    **{f"{n}, baseline 3 x as noisy": [3.0] + [1.0] * n for n in (1, 3, 9)},
    "9, baseline half as noisy": [0.5] + [1.0] * 9,
    "9, five half as noisy": [1.0] * 5 + [0.5] * 5,
    "9, three with hardly any noise": [1.0] * 7 + [0.02] * 3,
    "9, six with hardly any noise": [1.0] * 4 + [0.02] * 6,
    "3, all with hardly any noise": [0.001] * 4,
}


def simulate(
    rng: np.random.Generator,
    sds: list[float],
    runs: Runs,
    sentence_sd: float = 0.0,
    heavy_tails: bool = False,
) -> list[Comparison]:
    """The comparisons of an experiment in which no variant differs from the baseline."""
    scores = []
    for i, sd in enumerate(sds):
        size = runs[min(i, 1)]
        seeds = rng.standard_t(4, size) / np.sqrt(2) if heavy_tails else rng.normal(size=size)
        scores.append(sd * seeds + rng.normal(0, sentence_sd / np.sqrt(2)))
    return compare(scores, [sentence_sd**2] * (len(sds) - 1))


def shown_difference(sds: list[float], runs: Runs, sentence_sd: float, repetitions: int) -> float:
    """The true difference of one variant that 80% of the experiments show."""
    rng = np.random.default_rng(1)
    needed = []
    for _ in range(repetitions):
        first = simulate(rng, sds, runs, sentence_sd)[0]
        needed.append(-first.low)  # with so much more, its interval excludes zero
    return float(np.quantile(needed, 0.8))


def family_wise_error(sds: list[float], runs: Runs, repetitions: int, **noise: float) -> float:
    """The percentage of experiments that show a difference where there is none."""
    rng = np.random.default_rng(2)
    errors = 0
    for _ in range(repetitions):
        comparisons = simulate(rng, sds, runs, **noise)
        errors += any(comparison.verdict != NOT_SHOWN for comparison in comparisons)
    return 100 * errors / repetitions


def print_power(sd: float, sentence_sd: float, repetitions: int) -> None:
    rows = []
    for runs in tqdm(FOR_POWER, desc="power", leave=False):
        families = [[sd] * (n + 1) for n in N_VARIANTS]
        shown = [shown_difference(sds, runs, sentence_sd, repetitions) for sds in families]
        rows.append([f"{runs[0]} + {runs[1]}", *shown])
    print(f"Shown with 80% power; SD {sd:g} over seeds, {sentence_sd:g} over test sets\n")
    print(tabulate(rows, ["Runs", *(f"of {n}" for n in N_VARIANTS)], "github", floatfmt=".2f"))


def print_errors(repetitions: int) -> None:
    rows = []
    for name, sds in tqdm(SCENARIOS.items(), desc="errors", leave=False):
        columns = [(runs, noise) for runs in FOR_ERROR for noise in NOISE.values()]
        errors = [family_wise_error(sds, runs, repetitions, **noise) for runs, noise in columns]
        rows.append([name, *errors])
    print("\nExperiments that show a difference where there is none, in %\n")
    header = [f"{runs[0]} + {runs[1]}{noise}" for runs in FOR_ERROR for noise in NOISE]
    print(tabulate(rows, ["Variants", *header], "github", floatfmt=".1f"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sd", type=float, default=0.45, help="over seeds, in BLEU")
    parser.add_argument("--sentences", type=float, default=0.0, help="SD over test sets, in BLEU")
    parser.add_argument("--repetitions", type=int, default=1000, help="of each simulation")
    args = parser.parse_args()
    print_power(args.sd, args.sentences, args.repetitions)
    print_errors(args.repetitions)


if __name__ == "__main__":
    main()
