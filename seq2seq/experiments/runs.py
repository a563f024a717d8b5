"""An experiment: its TOML file, and the training runs it takes.

Each run has its own folder, ``FOLDER/VARIANT/seed-N``, or ``FOLDER/VARIANT/tune-...`` for a point
of the grid of ``tune``. Finished runs are not repeated, and stopped ones resume.
"""

import math
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from seq2seq.config import (
    Config,
    ConfigSource,
    Name,
    flatten_toml,
    load_config,
    read_toml,
    toml_value,
)
from seq2seq.data.prepare import load_inherited
from seq2seq.evaluation.evaluate import score_settings
from seq2seq.experiments.costs import Cost, matching_d_ff
from seq2seq.model.transformer import empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.shipped import find_config
from seq2seq.training.trainer import Summary
from seq2seq.utils import UserError, did_you_mean, file_name, read_json

FIRST_AGAIN = 101  # seed of the first run of the A/A comparison
REPLACED = {"match_parameters": 'write match = "parameters"'}

Role = Literal["run", "again", "tuning"]
SeedCount = Annotated[int, Meta(ge=2, lt=FIRST_AGAIN)]


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment's TOML file: the fields but ``path`` are its keys.

    ``settings`` change the configuration ``base`` for all variants. Each has seeds 1 to ``seeds``;
    the baseline 1 to ``baseline_seeds`` (twice as many), and ``again`` more of them (as many) to
    be compared with itself. Every variant gets those values of the grid ``tune`` that are best on
    the validation set with seed 0. ``match`` adapts the ``d_ff`` of variants that do not set it, so
    that they cost what the baseline does; the report warns of those whose number of parameters
    differs by more than ``parameter_tolerance`` per cent.
    """

    path: Path
    title: str
    base: str
    baseline: str
    seeds: SeedCount
    variants: Annotated[dict[Name, dict[str, Any]], Meta(min_length=2)]
    baseline_seeds: SeedCount = 0
    again: Annotated[int, Meta(ge=0, lt=FIRST_AGAIN)] = 0
    settings: dict[str, Any] = {}
    tune: dict[str, Annotated[list[Any], Meta(min_length=1)]] = {}
    match: Cost | None = None
    parameter_tolerance: Annotated[float, Meta(ge=0)] = 1.0

    def seeds_of(self, variant: str) -> list[tuple[Role, int]]:
        """Roles and seeds of a variant's runs, without tuning."""
        is_baseline = variant == self.baseline
        runs = range(1, 1 + (self.baseline_seeds if is_baseline else self.seeds))
        again = range(FIRST_AGAIN, FIRST_AGAIN + self.again * is_baseline)
        return [*(("run", seed) for seed in runs), *(("again", seed) for seed in again)]


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's TOML file; the baseline becomes the first variant.

    ``UserError`` if it cannot be read, or a key is unknown, missing or has an illegal value.
    """
    table, known = read_toml(path), Experiment.__struct_fields__[1:]
    for key in table.keys() - set(known):
        hint = f"; {REPLACED[key]}" if key in REPLACED else did_you_mean(key, known)
        raise UserError(f"{path}: unknown key {key!r}{hint}")
    seeds, tune = table.get("seeds"), table.get("tune")
    if isinstance(seeds, list):
        raise UserError(f"{path}: seeds: write how many, seeds = {len(seeds)}, not which")
    if isinstance(seeds, int):
        table = {"baseline_seeds": 2 * seeds, "again": seeds} | table
    if isinstance(tune, dict):
        table["tune"] = flatten_toml(tune)
    try:
        experiment = msgspec.convert(table | {"path": path}, Experiment)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {str(error).replace('$.', '')}") from None
    variants, baseline = experiment.variants, experiment.baseline
    if experiment.again == 1:
        raise UserError(f"{path}: again: one run shows no variance: write 0, or 2 and more")
    if baseline not in variants:
        hint = did_you_mean(baseline, variants)
        raise UserError(f"{path}: baseline: {baseline!r} is not one of the variants{hint}")
    return msgspec.structs.replace(experiment, variants={baseline: variants[baseline]} | variants)


@dataclass(frozen=True, eq=False)
class Run:
    """One training run: a variant with a seed, or, of role ``tuning``, a point of the grid."""

    variant: str
    role: Role
    seed: int
    folder: RunFolder
    settings: dict[str, Any]  # those of the variant and the command line, and a matched d_ff
    tuned: dict[str, Any]
    unseeded: Config
    tuning: tuple["Run", ...] = ()  # it takes the settings of the best of these

    def __str__(self) -> str:
        return f"{self.variant}/{self.folder.path.name}"

    @property
    def log_file(self) -> Path:
        """All that training prints."""
        return Path(f"{self.folder}.log")

    def rank(self) -> float:
        """How good it is on the validation set, as training ranks weights."""
        if self.has_diverged:
            return -math.inf
        summary: dict[str, Any] = read_json(self.folder.summary_file, Summary)
        loss, by = summary["best_valid_loss"], summary["selected_by"]
        return -loss if by == "loss" else summary.get(f"best_valid_{by}", -loss)

    @property
    def chosen(self) -> "Run":
        """What its settings are taken from; if tuned, only once that is finished."""
        return max(self.tuning, key=Run.rank, default=self)

    @property
    def config(self) -> Config:
        config = self.chosen.unseeded
        return replace(config, train=replace(config.train, seed=self.seed))

    @property
    def has_diverged(self) -> bool:
        return self.folder.diverged_file.exists()

    @property
    def is_finished(self) -> bool:
        """Whether it is trained, and evaluated with the settings wanted; or diverged.

        ``UserError`` if it was started with other settings.
        """
        self.folder.check_same_config(self.config, fixed=("train.epochs", "train.patience"))
        is_trained = self.folder.summary_file.exists()
        if self.role == "tuning" and is_trained:
            return True
        if not (is_trained and self.folder.eval_file.exists()):
            return self.has_diverged
        saved = {"bleu_tokenizer": "13a"} | read_json(self.folder.eval_file)  # once the only one
        return all(saved.get(x) == y for x, y in score_settings(self.config).items())


def in_one_line(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {toml_value(value)}" for key, value in values.items())


def unfinished(runs: list[Run]) -> list[Run]:
    """Those of ``runs``, where what is tuned comes after its tuning, that are not finished."""
    pending: list[Run] = []
    for run in runs:
        if any(point in pending for point in run.tuning) or not run.is_finished:
            pending.append(run)
    return pending


def plan_runs(experiment: Experiment, folder: Path, overrides: dict[str, str]) -> list[Run]:
    """Every run of the experiment: tuning first, then all variants with the first seed.

    ``UserError`` if a variant's configuration is impossible or equals the baseline's, or a run in
    ``folder`` was started with other settings.
    """
    runs: list[Run] = []
    for name, grid in plan_grids(experiment, folder, overrides).items():
        tuning = tuple(grid) if len(grid) > 1 else ()
        runs += tuning
        for role, seed in experiment.seeds_of(name):
            of_seed = RunFolder(folder / name / f"seed-{seed}")
            runs.append(replace(grid[0], role=role, seed=seed, folder=of_seed, tuning=tuning))
    runs.sort(key=lambda run: run.seed)
    for run in runs:
        if run.unseeded.train.init_from and not run.folder.has_started:
            load_inherited(run.unseeded)
    unfinished(runs)  # checks their settings
    return runs


def plan_grids(
    experiment: Experiment, folder: Path, overrides: dict[str, str]
) -> dict[str, list[Run]]:
    """The runs of each variant with seed 0, one for each point of the grid (or the only one)."""
    path = experiment.path
    base = find_config(experiment.base, path.parent)
    load_config(base)  # must be valid by itself: the report names the differences from it
    common = ConfigSource(f"{path}, settings", flatten_toml(experiment.settings))
    points = [
        dict(zip(experiment.tune, x, strict=True)) for x in product(*experiment.tune.values())
    ]
    grid = [ConfigSource(f"{path}, tune", point) for point in points]
    command_line = ConfigSource("command line", overrides, is_text=True)
    grids: dict[str, list[Run]] = {}
    for name, changes in experiment.variants.items():
        variant = ConfigSource(f"{path}, variants.{name}", flatten_toml(changes))
        for source in (common, variant, grid[0], command_line):
            if "train.seed" in source.values:
                raise UserError(f"{source.origin}: train.seed: seeds are set in {path}")
            if source != grid[0] and (both := source.checked().keys() & grid[0].checked().keys()):
                raise UserError(f"{source.origin}: {min(both)}: is tuned, see tune in {path}")
        config = load_config(base, overrides, [common, variant, grid[0]], empty_model)
        if config.teachers.n:
            raise UserError(f"{path}: teachers.n: an experiment compares runs on real pairs alone")
        baseline = grids[experiment.baseline][0].unseeded if grids else config
        if grids and config == baseline:
            raise UserError(f"{variant.origin}: no setting differs from those of the baseline")
        if grids and experiment.match and "model.d_ff" not in {**variant.values, **overrides}:
            d_ff = matching_d_ff(config, baseline, experiment.match, folder)
            if not 1 <= d_ff < 2**31:
                what = f"no model.d_ff matches the {experiment.match} of the baseline"
                raise UserError(f"{variant.origin}: {what} ({d_ff:,} would)")
            if d_ff != config.model.d_ff:
                variant = variant._replace(values={**variant.values, "model.d_ff": d_ff})
        grids[name] = []
        for point in grid:
            config = load_config(base, overrides, [common, variant, point], empty_model)
            if (config.data, config.evaluation) != (baseline.data, baseline.evaluation):
                what = "all variants must have the same [data] and [evaluation]"
                raise UserError(f"{variant.origin}: {what}")
            label = "-".join(f"{key.rpartition('.')[2]}-{x}" for key, x in point.values.items())
            of_point = RunFolder(folder / name / file_name(f"tune-{label}"))
            settings = {**variant.values, **overrides}
            run = Run(name, "tuning", 0, of_point, settings, dict(point.values), config)
            grids[name].append(run)
    return grids
