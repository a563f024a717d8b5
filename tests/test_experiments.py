"""Experiments: planned, run once, continued, compared, and reported as they were."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SACREBLEU, TINY_CONFIG, write_corpus
from safetensors.torch import load_file

import seq2seq.experiments
import seq2seq.speeds
from seq2seq.cli import main
from seq2seq.config import flatten, load_config
from seq2seq.errors import Stopped, UserError
from seq2seq.experiments import (
    Run,
    load_experiment,
    model_size,
    plan_runs,
    run_all,
)
from seq2seq.files import read_lines
from seq2seq.findings import Findings, find, unfair
from seq2seq.metrics import bleu
from seq2seq.preparation import prepare
from seq2seq.report import main_table, markdown_table, summary, write_report
from seq2seq.significance import RESAMPLES, Comparison, resampled_bleu, sentence_statistics
from seq2seq.significance import compare as compare_scores
from seq2seq.speeds import ROUNDS, measure_speed
from seq2seq.training import Trainer, train

ROOT = Path(__file__).parent.parent

EXPERIMENT = """
title = "A tiny question"
base = "tiny.toml"
seeds = [1, 2]
baseline = "plain"
[settings]
train.epochs = 2
train.validate_every = 8
[variants.gated]
model.attention.extras = "gated"
[variants.plain]
[variants.wild]
train.learning_rate = 2e9
train.clip_norm = 0.0
[variants.longer]
train.epochs = 3
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny experiment, run to its end through the command line."""
    folder = tmp_path_factory.mktemp("experiment")
    write_corpus(folder / "corpus", {"train": 300, "valid": 20, "test": 40})
    tags = "".join(f"{'even' if i % 2 else 'odd'}\n" for i in range(40))
    (folder / "corpus" / "test.tags").write_text(tags, encoding="utf-8")
    text = TINY_CONFIG.format(directory=str(folder / "corpus"))
    (folder / "tiny.toml").write_text(text, encoding="utf-8")
    (folder / "tiny-experiment.toml").write_text(EXPERIMENT, encoding="utf-8")
    assert compare(folder) == 0
    return folder


def compare(folder: Path, *more: str) -> int:
    experiment = str(folder / "tiny-experiment.toml")
    return main(["compare", experiment, "--run", str(folder / "out"), *more])


def findings(folder: Path) -> Findings:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    runs = plan_runs(experiment, folder / "out", {})
    return find(experiment, runs, folder / "out")


def test_every_variant_has_a_run_for_each_seed(folder: Path) -> None:
    for variant in ("plain", "gated", "longer"):
        for seed in (1, 2):
            run = folder / "out" / variant / f"seed-{seed}"
            assert (run / "eval.json").exists()
            assert load_config(run / "config.toml").train.seed == seed
    gated = flatten(load_config(folder / "out" / "gated" / "seed-1" / "config.toml"))
    plain = flatten(load_config(folder / "out" / "plain" / "seed-1" / "config.toml"))
    changed = {key for key in plain if plain[key] != gated[key]}
    sections = ("encoder", "decoder", "cross")
    assert changed == {f"model.{section}_attention.extras" for section in sections}


def test_a_run_is_what_training_alone_would_have_made(folder: Path, tmp_path: Path) -> None:
    config = load_config(folder / "out" / "gated" / "seed-2" / "config.toml")
    prepare(config, tmp_path)
    train(config, tmp_path)
    alone = load_file(tmp_path / "model.safetensors")
    within = load_file(folder / "out" / "gated" / "seed-2" / "model.safetensors")
    assert all((alone[name] == within[name]).all() for name in within)


def test_divergence_is_reported_and_the_others_go_on(folder: Path) -> None:
    wild = folder / "out" / "wild" / "seed-1"
    assert "no longer a number at step" in (wild / "diverged.txt").read_text(encoding="utf-8")
    assert not (wild / "eval.json").exists()
    report = (folder / "out" / "report.md").read_text(encoding="utf-8")
    assert "| wild | - |  | **diverged** (2 of 2 seeds) |" in report
    found = findings(folder)
    assert [variant.name for variant in found.whole] == ["plain", "gated", "longer"]
    assert list(found.comparisons["test"]) == ["gated", "longer"]


def test_finished_runs_are_never_repeated(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(seq2seq.experiments, "train", refuse)
    monkeypatch.setattr(seq2seq.speeds, "Trainer", refuse)  # nor is speed measured again
    before = (folder / "out" / "report.md").read_bytes()
    assert compare(folder) == 0
    assert (folder / "out" / "report.md").read_bytes() == before
    shown = capsys.readouterr()
    assert "gated" in shown.out
    assert shown.err == ""  # quiet in a pipe


def test_a_stopped_experiment_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    runs = [run for run in plan_runs(experiment, tmp_path, {}) if run.variant == "gated"]
    trained: list[Run] = []

    def stopping(config: Any, run: Path) -> Any:
        trained.append(next(each for each in runs if each.folder == run))
        if len(trained) == 2:
            raise Stopped("stopped", 15)
        return train(config, run)

    monkeypatch.setattr(seq2seq.experiments, "train", stopping)
    with pytest.raises(Stopped):
        run_all(runs)
    assert [run.is_finished for run in runs] == [True, False]
    run_all(runs)
    assert [run.seed for run in trained] == [1, 2, 2]
    assert all(run.is_finished for run in runs)
    for run in runs:
        expected = folder / "out" / "gated" / f"seed-{run.seed}" / "hypotheses" / "test.txt"
        assert (run.folder / "hypotheses" / "test.txt").read_bytes() == expected.read_bytes()


def test_other_decoding_is_scored_again_without_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    shutil.copytree(folder / "out" / "plain", tmp_path / "plain")
    run = next(
        run
        for run in plan_runs(experiment, tmp_path, {"decoding.beam": "2"})
        if run.variant == "plain"
    )
    assert [run.is_finished, run.has_diverged] == [False, False]
    kept = ["model.safetensors", "training.json"]
    before = [(run.folder / name).read_bytes() for name in kept]
    (run.folder / "last.pt").unlink()  # the biggest file of a run: someone may want the room
    monkeypatch.setattr(Trainer, "step", None)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 99)
    run_all([run])
    assert run.read("eval.json")["decoding"]["beam"] == 2
    assert [(run.folder / name).read_bytes() for name in kept] == before


def test_results_of_other_settings_are_not_taken_for_these(folder: Path, tmp_path: Path) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    shutil.copytree(folder / "out" / "plain", tmp_path / "plain")
    for seed in (1, 2):
        (tmp_path / "plain" / f"seed-{seed}" / "last.pt").unlink()
    with pytest.raises(UserError, match=r"was trained with train.learning_rate = 0.005, not 0.1"):
        plan_runs(experiment, tmp_path, {"train.learning_rate": "0.1"})


@pytest.mark.parametrize(
    "name", ["eval.json", "training.json", "metrics.jsonl", "hypotheses/test.txt", "speed.json"]
)
@pytest.mark.parametrize("content", ['{"half', "3\n"])
def test_a_damaged_file_is_named_in_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    place = out if name == "speed.json" else out / "gated" / "seed-1"
    (place / name).write_text(content, encoding="utf-8")
    os.utime(out / "speed.json")
    assert main(["compare", str(folder / "tiny-experiment.toml"), "--run", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"seq2seq: {place / name}")


def test_advice_that_was_followed_is_not_taken_for_the_run_that_diverged(folder: Path) -> None:
    text = EXPERIMENT.replace("2e9", "1e-3")
    path = folder / "mended.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=r"wild.*train.learning_rate = 2000000000.0, not 0.001"):
        plan_runs(load_experiment(path), folder / "out", {})


def test_runs_tested_on_other_sentences_are_not_compared(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out")
    experiment = load_experiment(folder / "tiny-experiment.toml")
    runs = plan_runs(experiment, tmp_path / "out", {})
    test = tmp_path / "out" / "gated" / "seed-2" / "corpus" / "test.src"
    test.write_text(test.read_text(encoding="utf-8").replace("ba", "du"), encoding="utf-8")
    with pytest.raises(UserError, match=r"seed-2: its test is not that of .*plain/seed-1"):
        find(experiment, runs, tmp_path / "out")


def test_other_settings_need_another_folder(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare(folder, "--train.learning_rate", "0.1") == 1
    assert "was trained with train.learning_rate = 0.005, not 0.1" in capsys.readouterr().err


def test_results_are_those_of_the_runs_and_of_sacrebleu(folder: Path) -> None:
    with (folder / "out" / "results.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["variant"], row["seed"], row["status"]) for row in rows] == [
        *[("plain", "1", "finished"), ("plain", "2", "finished")],
        *[("gated", "1", "finished"), ("gated", "2", "finished")],
        *[("wild", "1", "diverged"), ("wild", "2", "diverged")],
        *[("longer", "1", "finished"), ("longer", "2", "finished")],
    ]
    run = folder / "out" / "gated" / "seed-2"
    files = [str(run / "corpus" / "test.tgt"), "-i", str(run / "hypotheses" / "test.txt")]
    command = [*SACREBLEU, *files]
    done = subprocess.run([*command, "-b", "-w", "4"], capture_output=True, text=True, check=True)
    assert float(rows[3]["bleu"]) == pytest.approx(float(done.stdout), abs=1e-4)
    found = findings(folder)
    expected = compare_by_hand(folder, ["plain", "gated", "longer"])
    assert [found.comparisons["test"][name] for name in ("gated", "longer")] == expected
    tags = found.baseline.phenomena("test")
    halves = [tags["even (20)"], tags["odd (20)"]]
    assert np.mean(halves) == pytest.approx(found.baseline.values("test", "exact_match").mean())


def compare_by_hand(folder: Path, variants: list[str]) -> list[Comparison]:
    """The comparisons, from the files that the runs left."""
    scores, resampled = np.zeros((3, 2)), np.zeros((3, 2, RESAMPLES))
    for i, variant in enumerate(variants):
        for j, seed in enumerate((1, 2)):
            run = folder / "out" / variant / f"seed-{seed}"
            hypotheses = read_lines(run / "hypotheses" / "test.txt")
            references = read_lines(run / "corpus" / "test.tgt")
            scores[i, j] = bleu(hypotheses, references)
            resampled[i, j] = resampled_bleu(sentence_statistics(hypotheses, references))
    return compare_scores(scores, resampled)


def test_what_is_not_alike_is_said(folder: Path) -> None:
    found = findings(folder)
    problems = list(unfair(found))
    assert "longer: `train.epochs` is 3, the baseline's 2" in problems
    assert "wild: `train.learning_rate` is 2000000000.0, the baseline's 0.005" in problems
    assert any(re.fullmatch(r"longer, seed 1: \d+ steps, the baseline \d+", p) for p in problems)
    assert any(p.startswith("gated: +") and p.endswith("% parameters") for p in problems)
    assert any("not alike: gated" in line for line in summary(found))

    other = findings(folder)
    other.variants[1].trainings[0]["data_checksum"] += 1
    other.variants[1].trainings[1]["threads"] += 1
    assert "gated, seed 1: not the same batches in the same order" in list(unfair(other))
    assert "gated, seed 2: not on the same device with as many threads" in list(unfair(other))


def test_report_and_pictures(folder: Path) -> None:
    report = (folder / "out" / "report.md").read_text(encoding="utf-8")
    pictures = re.findall(r"\]\((.+?\.png)\)", report)
    assert pictures == ["speed.png", "curves.png", "phenomena-test.png"]
    for picture in pictures:
        assert (folder / "out" / picture).read_bytes().startswith(b"\x89PNG")
    assert '| gated | `model.attention.extras = "gated"` |' in report
    assert "| longer | `train.epochs = 3` |" in report
    assert "| wild (2 of 2 diverged) | - |" in report
    assert "even (20)" in report
    smallest = [found.smallest for found in findings(folder).comparisons["test"].values()]
    assert f"4 times out of 5 is about **{np.mean(smallest):.1f} BLEU**" in report  # of two


def test_speed_is_compared_round_by_round(folder: Path) -> None:
    speeds = json.loads((folder / "out" / "speed.json").read_text(encoding="utf-8"))
    assert list(speeds) == ["plain", "gated", "longer"]
    assert all(len(rounds) == ROUNDS for kinds in speeds.values() for rounds in kinds.values())
    assert all(speed > 0 for kinds in speeds.values() for each in kinds.values() for speed in each)
    found = findings(folder)
    found.speeds["plain"]["training"] = [100.0, 10.0, 100.0, 100.0, 100.0]  # a pause
    found.speeds["gated"]["training"] = [50.0, 5.0, 60.0, 40.0, 50.0]
    row = next(row for row in main_table(found) if row[0] == "gated")
    assert row[5] == "0.50"


def test_speed_is_measured_again_after_another_training(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run for run in findings(folder).baseline.runs if run.seed == 1]
    (tmp_path / "speed.json").write_text('{"plain": {}}', encoding="utf-8")
    assert measure_speed(runs, tmp_path) == {"plain": {}}
    monkeypatch.setattr(seq2seq.speeds, "ROUNDS", 1)
    os.utime(tmp_path / "speed.json", (0, 0))
    assert len(measure_speed(runs, tmp_path)["plain"]["training"]) == 1


def test_tables_are_markdown() -> None:
    lines = list(markdown_table([["a", "b"], ["1", "2"]]))
    assert lines == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]


def test_a_baseline_that_diverged_ends_in_one_line(folder: Path, tmp_path: Path) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    runs = [
        replace(run, folder=tmp_path / run.variant) for run in plan_runs(experiment, tmp_path, {})
    ]
    for run in runs:
        run.folder.mkdir(exist_ok=True)
        (run.folder / "diverged.txt").touch()
    with pytest.raises(UserError, match=r"plain: the baseline diverged"):
        find(experiment, runs, tmp_path)
    assert "plain,1,diverged" in (tmp_path / "results.csv").read_text(encoding="utf-8")


def test_parameters_can_be_matched(folder: Path) -> None:
    text = EXPERIMENT.replace("[settings]", "match_parameters = true\n[settings]", 1)
    path = folder / "matched.toml"
    path.write_text(text, encoding="utf-8")
    runs = plan_runs(load_experiment(path), folder / "matched", {})
    sizes = {run.variant: model_size(run.config) for run in runs}
    widths = {run.variant: run.config.model.d_ff for run in runs}
    assert widths["plain"] == 128
    assert widths["gated"] < 128
    path.write_text(f"{text}[variants.wide]\nmodel.d_ff = 200\n", encoding="utf-8")
    wide = plan_runs(load_experiment(path), folder / "matched", {})[-1]
    assert (wide.variant, wide.config.model.d_ff) == ("wide", 200)
    assert sizes["gated"] == pytest.approx(sizes["plain"], rel=0.002)


def test_no_run_is_begun_before_all_variants_are_possible(folder: Path) -> None:
    path = folder / "impossible.toml"
    path.write_text(EXPERIMENT + "[variants.odd]\nmodel.n_heads = 3\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        plan_runs(load_experiment(path), folder / "impossible", {})
    message = str(caught.value)
    assert message.endswith("variants.odd: model.n_heads = 3: must divide model.d_model = 64")
    assert not (folder / "impossible").exists()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds = [1, 2]", "seeds = [1]", "seeds: [1] are not two or more different seeds"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "seeds: [1, 1] are not two or more different seeds"),
        ("seeds = [1, 2]", "seed = [1, 2]", "unknown key 'seed'; did you mean 'seeds'?"),
        ("seeds = [1, 2]", "seeds = 3", "seeds: 3 is of the wrong type"),
        ("seeds = [1, 2]", "", "'seeds' is missing"),
        ("seeds = [1, 2]", "seeds = [1, 2]\nwithin = nan", "within: nan is not 0 or more"),
        ("train.epochs = 2", "train.seed = 2", "settings: train.seed: seeds are those of"),
        ("train.epochs = 3", "train.seed = 3", "variants.longer: train.seed: seeds are those of"),
        ("train.epochs = 3", "data.src = 'de'", "variants.longer: all variants are to translate the same data"),
        ("variants.gated", "variants.'report.md'", "variants.report.md: must be a section with a plain name"),
        ("seeds = [1, 2]", "seeds = [-1, 2]", "seeds: -1 is not 0 or more and below 2**32"),
        ('"plain"', '"plane"', "baseline: 'plane' is none of the variants; did you mean 'plain'?"),
        ("[variants.plain]", '[variants."../plain"]', "variants.../plain: must be a section with a plain name"),
        ("extras", "extra", "unknown key 'model.attention.extra'; did you mean 'model.attention.extras'?"),
        ("[settings]", "settings = 1\n[setting]", "settings: 1 is of the wrong type"),
        ("train.epochs = 3", "model = 3", "variants.longer: 'model' is a section, not a value"),
        ("train.epochs = 3", "modle.d_ff = 3", "variants.longer: unknown key 'modle'; did you mean 'model'?"),
        ("tiny.toml", "missing.toml", "missing.toml: No such file or directory"),
        ("title", "title = 1\ntitle", "not a TOML file"),
        ("tiny.toml", "tiny\\u0000.toml", "not a TOML file: embedded null byte"),
        ("tiny.toml", "nowhere.toml", "nowhere.toml: data.directory = \"\": must name a folder"),
        ("variants.gated", "variants._gated", "variants._gated: must be a section with a plain name"),
        ("train.epochs = 3", "train.epochs = 2", "variants.longer: no setting differs from plain's"),
    ],
)  # fmt: skip
def test_complaints(folder: Path, old: str, new: str, expected: str) -> None:
    path = folder / "wrong.toml"
    (folder / "nowhere.toml").write_text("", encoding="utf-8")
    assert old in EXPERIMENT
    path.write_text(EXPERIMENT.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as caught:
        plan_runs(load_experiment(path), folder / "wrong", {})
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_baseline_alone_is_no_experiment(tmp_path: Path) -> None:
    path = tmp_path / "alone.toml"
    path.write_text(EXPERIMENT.split("[variants.gated]", maxsplit=1)[0] + "[variants.plain]\n")
    with pytest.raises(UserError, match="variants: the baseline and at least one more are needed"):
        load_experiment(path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "experiments").glob("*.toml")), ids=lambda path: path.stem
)
def test_ready_experiments_are_possible(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    runs = plan_runs(experiment, tmp_path, {})
    assert len(runs) == len(experiment.seeds) * len(experiment.variants)
    baseline = model_size(runs[0].config)
    more = {run.variant: 100 * (model_size(run.config) / baseline - 1) for run in runs}
    unlike = {name for name, per_cent in more.items() if abs(per_cent) > experiment.within}
    assert unlike == {"attention": {"gaussian", "hard_coded"}, "positions": {"learned"}}.get(
        path.stem, set()
    )


def test_a_report_without_phenomena_or_alignment(folder: Path, tmp_path: Path) -> None:
    found = findings(folder)
    for variant in found.variants:
        for evaluation in variant.evaluations:
            evaluation["tests"]["test"].pop("phenomena")
    write_report(found, tmp_path)
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "phenomena" not in report


# --- a part from outside the package ---


def readme_example() -> str:
    """The code in the README that adds a variant."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_variant\.py\n.*?)```", readme, re.DOTALL)
    return str(code)


def test_a_variant_from_outside_is_trained_compared_and_tested(
    folder: Path, tmp_path: Path
) -> None:
    code = readme_example()
    assert len(code.splitlines()) <= 20
    script = tmp_path / "my_variant.py"
    script.write_text(code, encoding="utf-8")
    experiment = EXPERIMENT.split("[variants.wild]", maxsplit=1)[0].replace("gated", "mine")
    experiment = experiment.replace('extras = "mine"', 'score = "distance"')
    (folder / "outside.toml").write_text(experiment, encoding="utf-8")

    def python(*words: str | Path) -> str:
        command = [sys.executable, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert re.search(r"distance +\+0 +s = -\|q - k\|", python(script, "variants"))
    report = python(script, "compare", folder / "outside.toml", "--run", tmp_path / "out")
    assert "mine" in report
    run = tmp_path / "out" / "mine" / "seed-1"
    assert python(script, "predict", "--run", run, "ba du").count("\n") == 1
    options = ["-vv", "-p", "no:cacheprovider", "-p", "my_variant", "-k", "distance", "--rootdir"]
    shown = python("-m", "pytest", *options, ROOT, ROOT / "tests" / "test_variants.py")
    assert "test_it_learns_to_reverse[score=distance]" in shown
    assert "test_parts_that_are_let_together_work_together[distance-sparsemax]" in shown
