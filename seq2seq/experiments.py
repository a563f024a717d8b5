"""Experiments: variants of a configuration, each trained with several seeds, and measured alike.

An experiment is a TOML file that names the base configuration, the seeds, the baseline, and the
variants by the settings that they change. Every training is a run folder of its own,
``FOLDER/VARIANT/seed-N``; one that is finished is never repeated, one that was stopped goes on.
"""

import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from seq2seq.checkpoint import DIVERGED, refuse_other_settings, save_run_config
from seq2seq.config import Layer, by_key, load_config, read_tree
from seq2seq.errors import Diverged, UserError
from seq2seq.evaluation import evaluate
from seq2seq.files import read_json, write_text
from seq2seq.machine import keep_kernels
from seq2seq.model import Seq2Seq, count_parameters
from seq2seq.preparation import is_prepared, prepare
from seq2seq.settings import NOT_NEGATIVE, Config, nearest, options
from seq2seq.training import train


@dataclass(frozen=True)
class Experiment:
    """A question, and the runs that shall answer it; its fields but ``path`` are the file's keys.

    ``settings`` are laid over the base configuration for all variants alike. ``within`` says by
    how many per cent a variant's number of parameters may differ from the baseline's before the
    report calls it unfair; with ``match_parameters``, ``d_ff`` is widened or narrowed until it
    does not, but for variants that set it themselves.
    """

    path: Path
    title: str
    base: str
    seeds: tuple[int, ...]
    baseline: str
    variants: dict[str, dict[str, Any]]
    settings: dict[str, Any]
    within: float = 1.0
    match_parameters: bool = False


NEEDED = {"title": str, "base": str, "seeds": list, "baseline": str, "variants": dict}
OPTIONAL = {"settings": dict, "within": (int, float), "match_parameters": bool}


def load_experiment(path: Path) -> Experiment:
    """The experiment in a TOML file.

    Raises:
        UserError: the file cannot be read, or a key is unknown, missing or of the wrong kind.
    """
    tree = {"settings": {}, **read_tree(path)}
    known: dict[str, Any] = NEEDED | OPTIONAL
    for key, value in tree.items():
        if key not in known:
            raise UserError(f"{path}: unknown key {key!r}{nearest(key, list(known))}")
        if not isinstance(value, known[key]) or (key == "within" and isinstance(value, bool)):
            raise UserError(f"{path}: {key}: {value!r} is of the wrong type")
    for key in NEEDED:
        if key not in tree:
            raise UserError(f"{path}: {key!r} is missing")
    seeds, variants = tree["seeds"], tree["variants"]
    try:
        accepted = {options()["train.seed"].accept(seed) for seed in seeds}
    except ValueError as error:
        raise UserError(f"{path}: seeds: {error}") from None
    if len(accepted) < max(2, len(seeds)):
        raise UserError(f"{path}: seeds: {seeds!r} are not two or more different seeds")
    if not NOT_NEGATIVE.test(tree.get("within", 0)):
        raise UserError(f"{path}: within: {tree['within']!r} is not {NOT_NEGATIVE.words}")
    for name, changes in variants.items():
        if not re.fullmatch(r"[a-zA-Z0-9][\w+-]*", name, re.ASCII) or not isinstance(changes, dict):
            raise UserError(f"{path}: variants.{name}: must be a section with a plain name")
    if len(variants) < 2:
        raise UserError(f"{path}: variants: the baseline and at least one more are needed")
    if tree["baseline"] not in variants:
        close = nearest(tree["baseline"], list(variants))
        raise UserError(f"{path}: baseline: {tree['baseline']!r} is none of the variants{close}")
    baseline = {tree["baseline"]: variants[tree["baseline"]]}
    tree |= {"seeds": tuple(seeds), "variants": baseline | variants}  # the baseline comes first
    return Experiment(path=path, **tree)


@dataclass(frozen=True)
class Run:
    """One training: a variant with a seed."""

    variant: str
    seed: int
    config: Config
    folder: Path

    @property
    def is_finished(self) -> bool:
        """Whether it was trained, and scored as the configuration says; or has diverged."""
        if not (self.is_trained and (self.folder / "eval.json").exists()):
            return self.has_diverged
        return self.read("eval.json").get("decoding") == asdict(self.config.decoding)

    @property
    def is_trained(self) -> bool:
        """Whether its training came to an end."""
        return (self.folder / "training.json").exists()

    @property
    def has_diverged(self) -> bool:
        """Whether its loss stopped being a number."""
        return (self.folder / DIVERGED).exists()

    def read(self, name: str) -> dict[str, Any]:
        """What ``eval.json`` or ``training.json`` holds."""
        return read_json(self.folder / name)


def plan_runs(experiment: Experiment, folder: Path, overrides: dict[str, str]) -> list[Run]:
    """Every run of the experiment, all variants with the first seed first.

    Args:
        experiment: what to compare.
        folder: where the runs are, or will be.
        overrides: settings from the command line, as text, for all variants alike.

    Raises:
        UserError: a variant's configuration is impossible or the baseline's own, or a run was
            begun with another.
    """
    path = experiment.path
    base = path.parent / experiment.base
    load_config(base)  # must be possible by itself: the report says what was changed in it
    common = Layer(f"{path}, settings", by_key(experiment.settings, f"{path}, settings"))
    configs: dict[str, Config] = {}
    for name, changes in experiment.variants.items():
        own = Layer(f"{path}, variants.{name}", by_key(changes, f"{path}, variants.{name}"))
        for layer in (common, own, Layer("command line", overrides)):
            if "train.seed" in layer.values:
                raise UserError(f"{layer.origin}: train.seed: seeds are those of {path}")
        configs[name] = load_config(base, overrides, [common, own])
        baseline = configs[experiment.baseline]
        if configs[name].data != baseline.data:
            raise UserError(f"{own.origin}: all variants are to translate the same data")
        if name != experiment.baseline and configs[name] == baseline:
            raise UserError(f"{own.origin}: no setting differs from {experiment.baseline}'s")
        if experiment.match_parameters and "model.d_ff" not in own.values:
            configs[name] = matched(configs[name], baseline)
    runs = [
        Run(
            name,
            seed,
            replace(config, train=replace(config.train, seed=seed)),
            folder / name / f"seed-{seed}",
        )
        for seed in experiment.seeds
        for name, config in configs.items()
    ]
    for run in runs:
        refuse_other_settings(run.folder, run.config)
    return runs


def matched(config: Config, baseline: Config) -> Config:
    """``config`` with the ``d_ff`` that brings its parameters nearest to the baseline's."""

    def size(d_ff: int) -> int:
        return model_size(replace(config, model=replace(config.model, d_ff=d_ff)))

    a_step = size(2) - size(1)
    d_ff = 1 + round((model_size(baseline) - size(1)) / a_step)
    return replace(config, model=replace(config.model, d_ff=max(1, d_ff)))


def model_size(config: Config) -> int:
    """Parameters of the model that ``config`` describes, before any corpus is read."""
    size = config.tokenizer.vocab_size
    with torch.device("meta"):  # takes no memory
        return count_parameters(Seq2Seq(config.model, size, size, config.tokenizer.joint))


def run_all(runs: list[Run]) -> None:
    """Train and score every run that is not finished.

    A run that diverges is noted as such, and the others go on.

    Raises:
        Stopped: a signal came; the run in progress is saved.
    """
    keep_kernels()  # before a run that only has to be scored
    done = sum(run.is_finished for run in runs)
    with tqdm(total=len(runs), initial=done, unit="run", disable=None) as bar:
        for run in runs:
            if run.is_finished:
                continue
            bar.set_description(f"{run.variant}, seed {run.seed}")
            try:
                if not is_prepared(run.config, run.folder):
                    prepare(run.config, run.folder)
                if run.is_trained:
                    save_run_config(run.folder, run.config)  # its decoding may be another
                else:
                    train(run.config, run.folder)
                evaluate(run.folder)
            except Diverged as error:
                write_text(run.folder / DIVERGED, f"{error}\n")
            bar.update()
