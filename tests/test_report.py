"""The report on results written by hand."""

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import pytest

from seq2seq.config import Config, DataConfig, ModelConfig, TrainConfig, dump_config
from seq2seq.experiments import report as reports
from seq2seq.experiments.report import Results, VariantResult, comparability_warnings, scores_table
from seq2seq.experiments.runs import Experiment, Run, Speeds, measure_speed
from seq2seq.experiments.statistics import Comparison
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, write_json, write_lines

BASE = Config(data=DataConfig(path="corpus"))
CONFIGS = {  # what a model is made of does not matter to the report, but for a matched d_ff
    "plain": BASE,
    "small": replace(BASE, model=ModelConfig(d_ff=7)),
    "gated": BASE,
    "wild": replace(BASE, train=TrainConfig(learning_rate=9.0)),
}
GATED = {"model": {"attention": {"modifiers": "gated"}}}
CHANGES: dict[str, Any] = {
    "plain": {},
    "small": {},
    "gated": GATED,
    "wild": {"train": {"learning_rate": 9.0}},
}
PARAMETERS = {"plain": 1000, "small": 900, "gated": 1020, "wild": 1000}
BLEU = {"plain": [30.0, 32.0], "small": [20.0, 21.0], "gated": [40.0, 44.0], "wild": [1.0]}


def evaluation(bleu: float) -> dict[str, Any]:
    scores: dict[str, Any] = {"bleu": bleu, "bleu_lowercased": bleu + 1, "chrf": bleu + 10}
    scores |= {"exact_match": bleu / 2, "sentences": 40}
    scores |= {"bleu_signature": "a|b", "chrf_signature": "c|d"}
    alignment = {"error_rate": bleu + 5}
    tags = {"Case=Nom|$_$": {"pairs": 3, "exact_match": bleu - 1}}
    test = scores | {"alignment": alignment, "tags": tags}
    return {
        "decoding": {"beam": 4},
        "tests": {"test": test, "other": {key: test[key] for key in scores}},
    }


def training(name: str, seed: int) -> dict[str, Any]:
    hardware = {"device": "cpu", "threads": 2, "precision": "float32", "minutes": 2.5}
    best = {
        "best_step": 800,
        "selected_by": "bleu",
        "best_valid_bleu": 30.0,
        "best_valid_loss": 1.5,
    }
    return hardware | best | {"steps": 1200, "parameters": PARAMETERS[name], "data_checksum": seed}


@pytest.fixture
def results(tmp_path: Path) -> Results:
    (tmp_path / "base.toml").write_text(dump_config(BASE), encoding="utf-8")
    variants = []
    for name, config in CONFIGS.items():
        runs = []
        for seed in (1, 2):
            folder = RunFolder(tmp_path / f"{name}-{seed}")
            lines = [json.dumps({"step": s, "valid_bleu": s * seed}) for s in (10, 20, 30)]
            write_lines(folder.metrics_file, lines[: 4 - seed])  # seed 2 stopped earlier
            if seed <= len(BLEU[name]):
                write_json(folder.eval_file, evaluation(BLEU[name][seed - 1]))
                write_json(folder.summary_file, training(name, seed))
            else:
                write_lines(folder.diverged_file, [])
            seeded = replace(config, train=replace(config.train, seed=seed))
            runs.append(Run(name, seed, seeded, folder))
        variants.append(VariantResult(name, runs))
        variants[-1].parameters = PARAMETERS[name]
    path, seeds = tmp_path / "question.toml", (1, 2)
    experiment = Experiment(path, "A question", "base.toml", seeds, "plain", CHANGES, {}, 5.0)
    worse = Comparison(-10.5, -12.0, -9.0, 0.0001, 0.0002, 1.0)
    unsure = Comparison(11.0, -1.25, 23.25, 0.0004, 0.0612, 9.0)
    speeds: Speeds = {
        "plain": {"training": [1.0], "decoding": [1.0]},
        "small": {"training": [0.5, 0.5, 3.0], "decoding": [2.0, 1.0, 2.0]},
        "gated": {"training": [0.9, 0.9, 0.9], "decoding": [0.5, 0.5, 0.5]},
    }
    comparisons = {test: {"small": worse, "gated": unsure} for test in ("test", "other")}
    return Results(experiment, variants, ["test", "other"], comparisons, speeds)


def test_any_value_of_another_type_is_refused(results: Results, tmp_path: Path) -> None:
    runs = results.variants[0].runs
    folder, speed = runs[0].folder, tmp_path / "relative_speed.json"
    write_json(speed, {"plain": {"training": [1.0], "decoding": [1.0]}})
    readers: dict[Path, Callable[[], object]] = {
        folder.eval_file: lambda: VariantResult("plain", runs),
        folder.summary_file: lambda: VariantResult("plain", runs),
        folder.metrics_file: lambda: reports.plot(results, tmp_path),
        speed: lambda: measure_speed(runs[:1], tmp_path),
    }
    for path, read in readers.items():
        text = path.read_text(encoding="utf-8")
        values = list(re.finditer(r'(?<= )[\d.]+|(?<=: )"\w+"', text))
        assert values
        for value, wrong in product(values, ["null", "[1]", "NaN", "9" * 400, r'"a\nb"']):
            content = text[: value.start()] + wrong + text[value.end() :]
            path.write_text(content, encoding="utf-8")
            with pytest.raises(UserError, match=path.name):
                read()
        path.write_text(text, encoding="utf-8")


def test_scores_table(results: Results) -> None:
    head = "variant;BLEU on test;difference [95%];verdict;chrF;exact match;AER;parameters"
    assert scores_table(results, "test") == [
        [*head.split(";"), "training speed", "decoding speed"],
        ["plain", "31.00 ± 1.41", "", "baseline", "41.00 ± 1.41", "15.50 ± 0.71", "36.00 ± 1.41", "1,000 (+0.0%)", "1.00", "1.00"],
        ["small", "20.50 ± 0.71", "-10.50 [-12.00, -9.00]", "**worse** (p < 0.001)", "30.50 ± 0.71", "10.25 ± 0.35", "25.50 ± 0.71", "900 (-10.0%)", "0.50", "2.00"],
        ["gated", "42.00 ± 2.83", "+11.00 [-1.25, +23.25]", "no difference shown (p = 0.061)", "52.00 ± 2.83", "21.00 ± 1.41", "47.00 ± 2.83", "1,020 (+2.0%)", "0.90", "0.50"],
        ["wild", "1.00", "", "**diverged** (1 of 2 seeds)", "11.00", "0.50", "6.00", "1,000 (+0.0%)", "-", "-"],
    ]  # fmt: skip
    other = scores_table(results, "other")
    assert other[0][1:4] == ["BLEU on other", "difference [95%]", "chrF"]
    assert other[2][2:] == ["-10.50 [-12.00, -9.00]", "30.50 ± 0.71", "10.25 ± 0.35", "-"]


def test_other_tables(results: Results) -> None:
    assert reports.tags_table(results, "test") == [
        ["exact match (pairs)", "plain", "small", "gated", "wild"],
        ["Case=Nom|$_$ (3)", "30.0", "19.5", "41.0", "0.0"],
    ]
    assert len(reports.tags_table(results, "other")) == 1
    assert reports.changes_table(results)[1:] == [
        ["plain", ""],
        ["small", "`model.d_ff = 7`"],
        ["gated", '`model.attention.modifiers = "gated"`'],
        ["wild", "`train.learning_rate = 9.0`"],
    ]


def test_comparability_warnings(results: Results) -> None:
    small, wild = "small: -10.0% parameters", "wild: `train.learning_rate` is 9.0, not 0.002"
    assert list(comparability_warnings(results)) == [small, wild]
    scores = results.variants[0].scores[0]["test"]
    bleu, scores["bleu"] = scores["bleu"], -1000.0
    assert next(comparability_warnings(results)).startswith("test: ")
    scores["bleu"] = bleu
    gated = results.variants[2]
    gated.trainings[0] |= {"steps": 1100, "data_checksum": 7, "device": "cuda", "precision": "bf16"}
    gated.trainings[1].update({"data_checksum": 7, "threads": 1})
    assert list(comparability_warnings(results))[1:-1] == [
        "gated, seed 1: steps 1100, not 1200",
        "gated, seed 1: device cuda, not cpu",
        "gated, seed 1: precision bf16, not float32",
        "gated, seed 1: data_checksum 7, not 1",
        "gated, seed 2: threads 1, not 2",
        "gated, seed 2: data_checksum 7, not 2",
    ]


def test_results_csv(results: Results) -> None:
    head, *rows = csv.reader(io.StringIO(reports.results_csv(results.variants)))
    names = "variant,seed,status,test,bleu,bleu_lowercased,chrf,exact_match,aer"
    assert head == [*names.split(","), "parameters", "steps", "minutes"]
    assert rows[6][:9] == ["small", "2", "finished", "test", "21.0", "22.0", "31.0", "10.5", "26.0"]
    assert rows[7][3:] == ["other", "21.0", "22.0", "31.0", "10.5", "", "900", "1200", "2.5"]
    assert rows[-1] == ["wild", "2", "diverged", *[""] * 9]


def test_names_are_no_markdown(results: Results, tmp_path: Path) -> None:
    name = "<img src=x>|`[a](b)\x1b[31m\n# c"
    for variant in results.variants:
        for scores in variant.scores:
            scores["test"]["tags"] = {name: {"pairs": 3, "exact_match": 1.0}}
            scores[name] = scores["other"]
    experiment = msgspec.structs.replace(results.experiment, title=name)
    comparisons = results.comparisons | {name: results.comparisons["other"]}
    tests = ["test", name]
    hostile = replace(results, experiment=experiment, tests=tests, comparisons=comparisons)
    report = reports.write_report(hostile, tmp_path).read_text(encoding="utf-8")
    assert report.count("# c") == report.count("\\n# c") == 4  # title, tag, and test set
    for found in ("<i", "\x1b", "]("):
        assert re.sub(r"\\]|^!\[.*", "", report, flags=re.M).count(found) == 0
    rows = re.findall(r"^\|.*", report, flags=re.M)
    widths = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert widths == [10] * 6 + [2] * 6 + [6] * 6 + [5] * 3


def test_report_holds_all_of_it(results: Results, tmp_path: Path) -> None:
    report = reports.write_report(results, tmp_path).read_text(encoding="utf-8")
    lines = [re.sub(" +", " ", line) for line in report.splitlines()]  # cells are padded
    tables = [scores_table(results, test) for test in results.tests]
    rows = [*tables[0], *tables[1], *reports.changes_table(results)]
    assert {re.sub(" +", " ", f"| {' | '.join(row)} |") for row in rows} < set(lines)
    assert "| Case=Nom\\|$_$ (3) | 30.0 | 19.5 | 41.0 | 0.0 |" in lines
    warnings = [f"- {warning}" for warning in comparability_warnings(results)]
    # Rounds differ by 500% and 100% (small), and by nothing (gated).
    words = ["base.toml", "changed: nothing", "seeds 1, 2", "1,200 steps", "2 threads", "by 50%"]
    for text in (*words, *warnings, "**5.0 BLEU** (median over variants; 1.0 to 9.0)"):
        assert text in report
    shown = reports.summary(results)
    assert "not comparable: small" in shown
    assert "no difference shown (p = 0.061)" in shown
    assert "**" not in shown
    for name in ("speed", "curves"):
        assert f"({name}.png)" in report
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    shipped = replace(
        results, experiment=msgspec.structs.replace(results.experiment, base="default")
    )
    report = reports.write_report(shipped, tmp_path).read_text(encoding="utf-8")
    assert 'base default, changed: `data.path = "corpus"`' in report
