"""Running an experiment: variants of a configuration, each trained with several seeds.

Each run has its own folder, ``FOLDER/VARIANT/seed-N``; finished runs are not repeated, and stopped
ones resume.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from tqdm import tqdm

from seq2seq.config import Config, ConfigSource, Name, flatten_toml, load_config, read_toml
from seq2seq.data.corpus import load_report, load_split
from seq2seq.data.prepare import is_prepared, load_inherited, prepare
from seq2seq.evaluation.evaluate import evaluate, score_settings
from seq2seq.experiments.statistics import Array
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.shipped import find_config
from seq2seq.training.optimizer import r_drop_at
from seq2seq.training.trainer import Trainer, TrainingDiverged, train
from seq2seq.translator import Translator
from seq2seq.utils import UserError, did_you_mean, read_json, refuse_links, write_json, write_text

SPEED_ROUNDS = 5
SPEED_STEPS = 4  # training steps per round

Seed = Annotated[int, Meta(ge=0, lt=2**32)]
Kind = Literal["training", "decoding"]
Rounds = Annotated[list[Annotated[float, Meta(gt=0, lt=2**31)]], Meta(min_length=1)]
Speeds = dict[str, Annotated[dict[Kind, Rounds], Meta(min_length=2)]]  # by variant


class Experiment(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment's TOML file: the fields but ``path`` are its keys.

    ``settings`` change the configuration ``base`` for all variants. The report warns of variants
    whose number of parameters differs from the baseline's by more than ``parameter_tolerance`` per
    cent; ``match_parameters`` adapts the ``d_ff`` of those that do not set it.
    """

    path: Path
    title: str
    base: str
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=2)]
    baseline: str
    variants: Annotated[dict[Name, dict[str, Any]], Meta(min_length=2)]
    settings: dict[str, Any] = {}
    parameter_tolerance: Annotated[float, Meta(ge=0)] = 1.0
    match_parameters: bool = False


def load_experiment(path: Path) -> Experiment:
    """Read an experiment's TOML file; the baseline becomes the first variant.

    ``UserError`` if it cannot be read, or a key is unknown, missing or has an illegal value.
    """
    table, known = read_toml(path), Experiment.__struct_fields__[1:]
    for key in table.keys() - set(known):
        hint = did_you_mean(key, known)
        hint = "; it is called parameter_tolerance now" if key == "within" else hint
        raise UserError(f"{path}: unknown key {key!r}{hint}")
    try:
        experiment = msgspec.convert(table | {"path": path}, Experiment)
    except msgspec.ValidationError as error:
        raise UserError(f"{path}: {str(error).replace('$.', '')}") from None
    seeds, variants, baseline = experiment.seeds, experiment.variants, experiment.baseline
    if len(set(seeds)) < len(seeds):
        raise UserError(f"{path}: seeds: {list(seeds)} are not different")
    if baseline not in variants:
        hint = did_you_mean(baseline, variants)
        raise UserError(f"{path}: baseline: {baseline!r} is not one of the variants{hint}")
    return msgspec.structs.replace(experiment, variants={baseline: variants[baseline]} | variants)


@dataclass(frozen=True)
class Run:
    """One training run: a variant with a seed."""

    variant: str
    seed: int
    config: Config
    folder: RunFolder

    @property
    def has_diverged(self) -> bool:
        return self.folder.diverged_file.exists()

    @property
    def is_finished(self) -> bool:
        """Whether it is trained, and evaluated with the settings wanted; or diverged."""
        if not (self.folder.summary_file.exists() and self.folder.eval_file.exists()):
            return self.has_diverged
        saved = {"bleu_tokenizer": "13a"} | read_json(self.folder.eval_file)  # once the only one
        return all(saved.get(x) == y for x, y in score_settings(self.config).items())


def plan_runs(experiment: Experiment, folder: Path, overrides: dict[str, str]) -> list[Run]:
    """Every run of the experiment, all variants with the first seed first.

    ``UserError`` if a variant's configuration is impossible or equals the baseline's, or a run in
    ``folder`` was started with other settings.
    """
    path = experiment.path
    base = find_config(experiment.base, path.parent)
    load_config(base)  # must be valid by itself: the report names the differences from it
    common = ConfigSource(f"{path}, settings", flatten_toml(experiment.settings))
    configs: dict[str, Config] = {}
    for name, changes in experiment.variants.items():
        variant = ConfigSource(f"{path}, variants.{name}", flatten_toml(changes))
        for source in (common, variant, ConfigSource("command line", overrides)):
            if "train.seed" in source.values:
                raise UserError(f"{source.origin}: train.seed: seeds are set in {path}")
        config = load_config(base, overrides, [common, variant], empty_model)
        baseline = configs.get(experiment.baseline, config)
        if (config.data, config.evaluation) != (baseline.data, baseline.evaluation):
            what = "all variants must have the same [data] and [evaluation]"
            raise UserError(f"{variant.origin}: {what}")
        if configs and config == baseline:
            raise UserError(f"{variant.origin}: no setting differs from those of the baseline")
        if experiment.match_parameters and "model.d_ff" not in variant.values:
            config = match_parameters(config, baseline)
        configs[name] = config
    runs = []
    for seed, (name, unseeded) in product(experiment.seeds, configs.items()):
        config = replace(unseeded, train=replace(unseeded.train, seed=seed))
        run = RunFolder(folder / name / f"seed-{seed}")
        run.check_same_config(config, fixed=("train.epochs", "train.patience"))
        if config.train.init_from and not run.has_started:
            load_inherited(config)
        runs.append(Run(name, seed, config, run))
    return runs


def match_parameters(config: Config, baseline: Config) -> Config:
    """``config`` with the ``d_ff`` that makes it closest in parameters to the baseline."""

    def with_d_ff(d_ff: int) -> Config:
        return replace(config, model=replace(config.model, d_ff=d_ff))

    sizes = [count_parameters(empty_model(c)) for c in (baseline, with_d_ff(1), with_d_ff(2))]
    return with_d_ff(max(1, 1 + round((sizes[0] - sizes[1]) / (sizes[2] - sizes[1]))))


def run_all(runs: list[Run]) -> None:
    """Train and evaluate every run that is not finished; one that diverges is recorded as such."""
    bar = tqdm([run for run in runs if not run.is_finished], unit="run", disable=None)
    for run in bar:
        bar.set_description(f"{run.variant}, seed {run.seed}")
        refuse_links(run.folder.path.parent, run.folder.path)
        try:
            if not is_prepared(run.config, run.folder):
                prepare(run.config, run.folder)
            if run.folder.summary_file.exists():
                run.folder.save_config(run.config)  # with the decoding settings wanted now
            else:
                train(run.config, run.folder)
            evaluate(run.folder)
        except TrainingDiverged as error:
            write_text(run.folder.diverged_file, f"{error}\n")


def measure_speed(runs: list[Run], folder: Path) -> Speeds:
    """Speeds of each variant, from one run each, as multiples of the baseline's (the first run).

    A machine's speed changes with time: so the two take turns, and a round compares what was
    measured within seconds. ``relative_speed.json`` is valid until a run is evaluated again.
    """
    path = folder / "relative_speed.json"
    newest = max(run.folder.eval_file.stat().st_mtime for run in runs)
    if path.exists() and path.stat().st_mtime >= newest:
        known: Speeds = read_json(path, Speeds)
        if list(known) == [run.variant for run in runs]:
            return known
    speeds: Speeds = {runs[0].variant: {"training": [1.0], "decoding": [1.0]}}
    measure_baseline = speed_test(runs[0])
    for run in tqdm(runs[1:], desc="measuring speed", unit="variant", disable=None):
        measure = speed_test(run)
        ratios = np.array([measure() / measure_baseline() for _ in range(SPEED_ROUNDS)])
        training, decoding = ratios.round(4).T.tolist()
        speeds[run.variant] = {"training": training, "decoding": decoding}
        del measure  # and its model, before the next one is built
    write_json(path, speeds)
    return speeds


def speed_test(run: Run) -> Callable[[], Array]:
    """What measures target tokens per second, EOS included: trained on, and decoded.

    A few steps, which change nothing, and the translation of a test set.
    """
    trainer, translator = Trainer(run.config, run.folder), Translator.load(run.folder)
    steps = [batches for batches, _ in islice(trainer.steps(), SPEED_STEPS)]
    n_trained = sum(batch.n_target_tokens for batches in steps for batch in batches)
    test = next(iter(load_report(run.folder).test_pairs))
    sentences = load_split(run.folder, run.config.data, test).src

    def measure() -> Array:
        start = time.perf_counter()
        for number, batches in enumerate(steps):  # half of them in either half of training
            trainer.step(batches, 0.0, r_drop_at(run.config.train, number / len(steps)))
        trained = time.perf_counter()
        hypotheses = [best.text for best, *_ in translator.search(sentences)]
        seconds = np.array([trained - start, time.perf_counter() - trained])
        n_decoded = sum(map(len, translator.tokenizer.tgt.encode(hypotheses)))
        return np.array([n_trained, n_decoded]) / seconds

    measure()  # warm up
    return measure
