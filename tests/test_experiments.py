"""Experiments: planned, run once, resumed, compared, and reported."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_CONFIG, Capture, Patch, write_corpus, write_lines

from seq2seq.cli import main
from seq2seq.config import flatten
from seq2seq.evaluation.metrics import score
from seq2seq.experiments import runs as runs_module
from seq2seq.experiments.report import Results, collect
from seq2seq.experiments.runs import Run, load_experiment, measure_speed, plan_runs, run_all
from seq2seq.experiments.statistics import RESAMPLES, compare, resampled_bleu
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import train
from seq2seq.utils import (
    TrainingInterrupted,
    UserError,
    read_json,
    read_lines,
    write_json,
    write_text,
)

ROOT = Path(__file__).parent.parent

EXPERIMENT = """
title = "A tiny question"
base = "tiny.toml"
seeds = [1, 2]
baseline = "plain"
[settings]
model.d_model = 32
train.epochs = 2
train.validate_every = 8
[variants.gated]
model.attention.modifiers = "gated"
[variants.plain]
[variants.wild]
train.learning_rate = 2e9
train.max_grad_norm = 0.0
[variants.longer]
train.epochs = 3
"""


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny experiment that has not been run."""
    folder = tmp_path_factory.mktemp("experiment")
    write_corpus(folder / "corpus", {"train": 300, "valid": 20, "test": 40})
    write_lines(folder / "corpus" / "test.tags", ["even", "odd"] * 20)
    (folder / "tiny.toml").write_text(TINY_CONFIG.format(path=str(folder / "corpus")))
    (folder / "tiny-experiment.toml").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="session", params=[pytest.param("run", marks=pytest.mark.slow)])
def folder(files: Path) -> Path:
    """The same, run on the command line."""
    assert run_compare(files) == 0
    return files


def run_compare(folder: Path, out: str | Path = "out") -> int:
    return main(["compare", str(folder / "tiny-experiment.toml"), "--run", str(folder / out)])


def plan(folder: Path, text: str, out: str | Path = "none") -> list[Run]:
    path = folder / "changed.toml"
    path.write_text(text)
    return plan_runs(load_experiment(path), folder / out, {})


def results_of(folder: Path, out: str | Path = "out") -> Results:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    return collect(experiment, plan_runs(experiment, folder / out, {}), folder / out)


def run_folder(folder: Path, variant: str, seed: int) -> RunFolder:
    return RunFolder(folder / "out" / variant / f"seed-{seed}")


def test_weights_to_start_from_are_looked_for_first(files: Path, tmp_path: Path) -> None:
    experiment = load_experiment(files / "tiny-experiment.toml")
    with pytest.raises(UserError, match=r"^train\.init_from: gone: "):
        plan_runs(experiment, tmp_path, {"train.init_from": "gone"})


def test_variants_differ_by_their_settings(folder: Path) -> None:
    runs = [run_folder(folder, variant, seed) for variant in ("plain", "gated") for seed in (1, 2)]
    assert all(run.eval_file.exists() for run in runs)
    plain, other_seed, gated, _ = (flatten(run.load_config()) for run in runs)
    assert {key for key in plain if plain[key] != other_seed[key]} == {"train.seed"}
    keys = [f"model.{section}_attention.modifiers" for section in ("encoder", "decoder", "cross")]
    assert [key for key in plain if plain[key] != gated[key]] == keys


def test_finished_runs_are_not_repeated(folder: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.setattr(runs_module, "train", None)
    monkeypatch.setattr(runs_module, "Trainer", None)  # nor is speed measured again
    report = (folder / "out" / "report.md").read_bytes()
    assert run_compare(folder) == 0
    assert (folder / "out" / "report.md").read_bytes() == report
    shown = capsys.readouterr()
    assert "gated" in shown.out
    assert shown.err == ""  # quiet in a pipe


def test_interrupted_experiment_resumes(folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    runs = [run for run in plan_runs(experiment, tmp_path, {}) if run.variant == "gated"]
    trained: list[str] = []

    def interrupted(config: Any, run: RunFolder) -> None:
        trained.append(run.path.name)
        if len(trained) == 2:
            raise TrainingInterrupted("stopped", 15)
        train(config, run)

    monkeypatch.setattr(runs_module, "train", interrupted)
    with pytest.raises(TrainingInterrupted):
        run_all(runs)
    assert [run.is_finished for run in runs] == [True, False]
    run_all(runs)
    assert trained == ["seed-1", "seed-2", "seed-2"]
    for run in runs:
        expected = run_folder(folder, "gated", run.seed).weights_file
        assert run.folder.weights_file.read_bytes() == expected.read_bytes()


def test_other_decoding_needs_no_training(folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    shutil.copytree(folder / "out" / "plain", tmp_path / "plain")
    run = plan_runs(experiment, tmp_path, {"decoding.beam": "2"})[0]
    assert not run.is_finished
    kept = [run.folder.weights_file, run.folder.summary_file]
    before = [path.read_bytes() for path in kept]
    run.folder.state_file.unlink()  # the biggest file of a run: someone may want the space
    monkeypatch.setattr(runs_module, "train", None)
    run_all([run])
    evaluation = read_json(run.folder.eval_file)
    assert (evaluation["decoding"]["beam"], evaluation.pop("bleu_tokenizer")) == (2, "13a")
    for other, is_finished in (
        ({"bleu_tokenizer": "char"}, False),
        ({}, True),
    ):  # once all were 13a
        write_json(run.folder.eval_file, evaluation | other)
        assert run.is_finished == is_finished
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("validate_every = 8", "validate_every = 9", "train.validate_every = 8, not 9"),
        ("validate_every = 8", "validate_every = 8\ntrain.patience = 9", "train.patience = 0"),
        ("2e9", "1e-3", "train.learning_rate = 2000000000.0, not 0.001"),  # of a diverged run
    ],
)
def test_other_settings_are_refused(folder: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        plan(folder, EXPERIMENT.replace(old, new), "out")


def test_parameters_are_matched(files: Path) -> None:
    text = EXPERIMENT.replace("[settings]", "match_parameters = true\n[settings]")
    runs = plan(files, f"{text}[variants.wide]\nmodel.d_ff = 200\n")
    sizes = {run.variant: count_parameters(empty_model(run.config)) for run in runs}
    widths = {run.variant: run.config.model.d_ff for run in runs}
    assert widths["gated"] < widths["plain"] == 128 < widths["wide"] == 200
    assert sizes["gated"] == pytest.approx(sizes["plain"], rel=0.003)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds: [1, 1]"),
        ("seeds = [1, 2]", "seed = [1, 2]", "did you mean 'seeds'"),
        ("seeds = [1, 2]", "seeds = [1, 2]\nwithin = 1", "called parameter_tolerance now"),
        ("seeds = [1, 2]", "seeds = [1, 2]\npath = 'x'", "'path'"),
        ("seeds = [1, 2]", "seeds = [1, 2]\nparameter_tolerance = nan", "at `parameter_tolerance`"),
        ("train.epochs = 3", "train.seed = 3", "variants.longer: train.seed"),
        ("train.epochs = 3", "data.src = 'de'", "variants.longer: all variants"),
        ("train.epochs = 3", "evaluation.bleu_tokenizer = 'char'", "variants.longer: all variants"),
        ("train.epochs = 3", "train.epochs = 2", "variants.longer: no setting differs"),
        ("train.epochs = 3", "train.average = 0.5", "called train.ema_decay now"),
        ("train.epochs = 3", "train.epochs = 0xHUGE", "not a TOML file"),
        ("train.epochs = 3", "model.n_heads = 3", "variants.longer: model.n_heads = 3"),
        ('"plain"', '"plane"', "did you mean 'plain'"),
        ("[variants.plain]", '[variants."../plain"]', "`key` in `variants`"),
        ("tiny.toml", "nowhere.toml", "nowhere.toml: data.path"),
        (EXPERIMENT[EXPERIMENT.index("[variants.gated]") :], "[variants.plain]", "at `variants`"),
    ],
)  # fmt: skip
def test_errors_name_file_and_key(files: Path, old: str, new: str, expected: str) -> None:
    (files / "nowhere.toml").touch()
    assert old in EXPERIMENT
    with pytest.raises(UserError) as caught:
        plan(files, EXPERIMENT.replace(old, new.replace("HUGE", "F" * 5000), 1))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (files / "none").exists()  # nothing starts before all variants are valid


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "experiments").glob("*.toml")), ids=lambda path: path.stem
)
def test_ready_experiments_are_valid(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    runs = plan_runs(experiment, tmp_path, {})
    assert len(runs) == len(experiment.seeds) * len(experiment.variants)
    sizes = {run.variant: count_parameters(empty_model(run.config)) for run in runs}
    more = {name: 100 * (size / sizes[experiment.baseline] - 1) for name, size in sizes.items()}
    others = {name for name in more if abs(more[name]) > experiment.parameter_tolerance}
    expected = {"attention": {"gaussian", "hard_coded"}, "positions": {"learned"}}
    assert others == expected.get(path.stem, set())


def test_report_names_differences(folder: Path) -> None:
    assert "step" in run_folder(folder, "wild", 1).diverged_file.read_text(encoding="utf-8")
    report = (folder / "out" / "report.md").read_text(encoding="utf-8")
    for text in ("(2 of 2 seeds)", '`model.attention.modifiers = "gated"`', "even (20)",
                 "longer: `train.epochs` is 3, not 2", "wild: `train.max_grad_norm` is 0.0, not 1.0"):  # fmt: skip
        assert text in report
    assert re.search(r"longer, seed 1: steps \d+, not \d+", report)
    assert re.search(r"gated: \+.*% parameters", report)
    assert "gated, seed" not in report


def test_diverged_baseline_is_one_line(files: Path, tmp_path: Path) -> None:
    experiment = load_experiment(files / "tiny-experiment.toml")
    runs = plan_runs(experiment, tmp_path, {})
    for run in runs:
        write_text(run.folder.diverged_file, "")
    with pytest.raises(UserError, match=r"plain/seed-1: the baseline diverged"):
        collect(experiment, runs, tmp_path)
    assert "plain,1,diverged" in (tmp_path / "results.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name", ["eval.json", "training.json", "metrics.jsonl", "hypotheses/test.txt", "../../relative_speed.json"]
)  # fmt: skip
def test_damaged_file_is_named(folder: Path, tmp_path: Path, capsys: Capture, name: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out, ignore=shutil.ignore_patterns("last.pt", "*.safetensors"))
    path = (out / "gated" / "seed-1" / name).resolve()
    path.write_text('{"half', encoding="utf-8")
    os.utime(out / "relative_speed.json")
    assert run_compare(folder, out=out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"seq2seq: {path}")


def test_other_test_sentences_are_not_compared(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    path = RunFolder(tmp_path / "out" / "gated" / "seed-2").split_file("test", "src")
    path.write_text(path.read_text(encoding="utf-8").replace("ba", "du"), encoding="utf-8")
    with pytest.raises(UserError, match=r"seed-2: its test is not that of .*plain/seed-1"):
        results_of(folder, tmp_path / "out")


def test_results_match_files(folder: Path) -> None:
    with (folder / "out" / "results.csv").open(encoding="utf-8") as file:
        rows = {(row["variant"], row["seed"]): row["bleu"] for row in csv.DictReader(file)}
    names = ["plain", "gated", "wild", "longer"]  # the baseline first
    assert list(rows) == [(name, seed) for name in names for seed in ("1", "2")]
    scores, resampled = np.zeros((3, 2)), np.zeros((3, 2, RESAMPLES))
    for i, variant in enumerate(("plain", "gated", "longer")):
        for j, run in enumerate(run_folder(folder, variant, seed) for seed in (1, 2)):
            texts = (run.hypotheses_file("test"), run.split_file("test", "tgt"))
            hypotheses, references = map(read_lines, texts)
            scores[i, j] = score(hypotheses, references, "13a")["bleu"]
            assert float(rows[variant, str(j + 1)]) == scores[i, j]
            resampled[i, j] = resampled_bleu(hypotheses, references, "13a")
    assert list(results_of(folder).comparisons["test"].values()) == compare(scores, resampled)


def test_speed_is_measured_once(folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    results = results_of(folder)
    assert read_json(folder / "out" / "relative_speed.json") == results.speeds
    assert results.speeds["plain"] == {"training": [1], "decoding": [1]}
    for rounds in (*results.speeds["gated"].values(), *results.speeds["longer"].values()):
        assert len(rounds) == runs_module.SPEED_ROUNDS
        assert min(rounds) > 0
    runs = [variant.runs[0] for variant in results.variants[:2]]
    kept = {x: {"training": [3.0], "decoding": [2.0]} for x in ("plain", "gated")}
    path = tmp_path / "relative_speed.json"
    path.write_text(json.dumps(kept), encoding="utf-8")
    assert measure_speed(runs, tmp_path) == kept
    monkeypatch.setattr(runs_module, "SPEED_ROUNDS", 1)
    os.utime(path, (0, 0))  # older than the evaluations
    assert len(measure_speed(runs, tmp_path)["gated"]["training"]) == 1


@pytest.mark.slow
def test_variant_from_outside(files: Path, tmp_path: Path) -> None:
    """The README's example of a part of one's own is trained, compared, used, and tested."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_variant\.py\n.*?)```", readme, re.DOTALL)
    (tmp_path / "my_variant.py").write_text(code, encoding="utf-8")
    experiment = EXPERIMENT.split("[variants.wild]", maxsplit=1)[0]
    experiment = experiment.replace('modifiers = "gated"', 'score = "distance"')
    (files / "outside.toml").write_text(experiment, encoding="utf-8")

    def python(*words: str | Path) -> str:
        return subprocess.check_output([sys.executable, *words], text=True, cwd=tmp_path)

    out = tmp_path / "out"
    assert "gated" in python("my_variant.py", "compare", files / "outside.toml", "--run", out)
    run = out / "gated" / "seed-1"
    assert python("my_variant.py", "predict", "--run", run, "ba du").count("\n") == 1
    options = ["-p", "no:cacheprovider", "-p", "my_variant", "-k", "distance", "--rootdir"]
    tested = python("-m", "pytest", *options, ROOT, ROOT / "tests" / "test_variants.py")
    assert re.search(r"[1-9]\d* passed", tested)
