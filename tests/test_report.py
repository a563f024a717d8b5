"""The report, word for word, on findings written by hand."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seq2seq.config import dump_config
from seq2seq.experiments import Experiment, Run
from seq2seq.findings import Findings, Variant, results_csv, unfair
from seq2seq.report import (
    changes_table,
    fairness,
    how_sure,
    introduction,
    main_table,
    phenomena_table,
    scores_table,
    wobble,
    write_report,
)
from seq2seq.settings import AttentionConfig, Config, DataConfig, ModelConfig, TrainConfig
from seq2seq.significance import Comparison

BASE = Config(data=DataConfig(directory="corpus"))
GATED = AttentionConfig(extras="gated")
CONFIGS = {
    "plain": BASE,
    "small": replace(
        BASE,
        model=ModelConfig(d_ff=7, cross_attention=AttentionConfig(score="cosine", position="none")),
    ),
    "gated": replace(
        BASE,
        model=ModelConfig(
            encoder_attention=GATED,
            decoder_attention=GATED,
            cross_attention=replace(GATED, position="none"),
        ),
    ),
    "wild": replace(BASE, train=TrainConfig(learning_rate=9.0)),
}
PARAMETERS = {"plain": 1000, "small": 900, "gated": 1020, "wild": 1000}
BLEU = {"plain": [30.0, 32.0], "small": [20.0, 21.0], "gated": [40.0, 44.0], "wild": [1.0]}


def evaluation(bleu: float) -> dict[str, object]:
    scores = {"bleu": bleu, "bleu_lowercased": bleu + 1, "chrf": bleu + 10, "exact_match": bleu / 2}
    alignment = {"error_rate": bleu + 5, "precision": 1.0, "recall": 2.0}
    tags = {"hard": {"pairs": 3, "exact_match": bleu - 1}}
    return {"tests": {"test": scores | {"alignment": alignment, "phenomena": tags}}}


def training(name: str, seed: int) -> dict[str, object]:
    same = {"steps": 1200, "minutes": 2.5, "device": "cpu", "threads": 2}
    return same | {"parameters": PARAMETERS[name], "data_checksum": seed}


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    (tmp_path / "base.toml").write_text(dump_config(BASE), encoding="utf-8")
    variants = []
    for name, config in CONFIGS.items():
        runs = [
            Run(
                name,
                seed,
                replace(config, train=replace(config.train, seed=seed)),
                tmp_path / f"{name}-{seed}",
            )
            for seed in (1, 2)
        ]
        for run in runs:
            run.folder.mkdir()
            (run.folder / "tokenizer.model").write_bytes(b"subwords")
            lines = [json.dumps({"step": s, "valid_bleu": s * run.seed}) for s in (10, 20, 30)]
            text = "".join(f"{line}\n" for line in lines[: 4 - run.seed])  # seed 2 stopped earlier
            (run.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
        whole = runs[: len(BLEU[name])]
        variants.append(
            Variant(
                name,
                whole,
                runs[len(whole) :],
                [evaluation(bleu) for bleu in BLEU[name]],
                [training(name, run.seed) for run in whole],
            )
        )
    experiment = Experiment(
        path=tmp_path / "question.toml",
        title="A question",
        base="base.toml",
        seeds=(1, 2),
        baseline="plain",
        variants={name: {} for name in CONFIGS},
        settings={},
        within=5.0,
    )
    worse = Comparison(-10.5, -12.0, -9.0, 0.0001, 0.0002, 1.0)
    unsure = Comparison(11.0, -1.25, 23.25, 0.0004, 0.0612, 9.0)
    speeds = {
        "plain": {"training": [10.0, 10.0, 20.0], "decoding": [4.0, 4.0, 4.0]},
        "small": {"training": [5.0, 5.0, 60.0], "decoding": [8.0, 4.0, 8.0]},
        "gated": {"training": [9.0, 9.0, 18.0], "decoding": [2.0, 2.0, 2.0]},
    }
    return Findings(experiment, variants, {"test": {"small": worse, "gated": unsure}}, speeds)


def test_main_table(findings: Findings) -> None:
    head = (
        "variant;BLEU on test;difference [95%];verdict;parameters;training speed;decoding speed;AER"
    )
    assert main_table(findings) == [
        head.split(";"),
        ["plain", "31.00 ± 1.41", "", "the baseline", "1,000 (+0.0%)", "1.00", "1.00", "36.00 ± 1.41"],
        ["small", "20.50 ± 0.71", "-10.50 [-12.00, -9.00]", "**worse** (p < 0.001)", "900 (-10.0%)", "0.50", "2.00", "25.50 ± 0.71"],
        ["gated", "42.00 ± 2.83", "+11.00 [-1.25, +23.25]", "no difference shown (p = 0.061)", "1,020 (+2.0%)", "0.90", "0.50", "47.00 ± 2.83"],
        ["wild", "1.00", "", "**diverged** (1 of 2 seeds)", "1,000 (+0.0%)", "-", "-", "6.00"],
    ]  # fmt: skip


def test_tables_of_a_test_set(findings: Findings) -> None:
    assert scores_table(findings, "test")[2:] == [
        ["small", "20.50 ± 0.71", "-10.50 [-12.00, -9.00]", "30.50 ± 0.71", "10.25 ± 0.35", "25.50 ± 0.71"],
        ["gated", "42.00 ± 2.83", "+11.00 [-1.25, +23.25]", "52.00 ± 2.83", "21.00 ± 1.41", "47.00 ± 2.83"],
        ["wild (1 of 2 diverged)", "1.00", "", "11.00", "0.50", "6.00"],
    ]  # fmt: skip
    assert phenomena_table(findings, "test") == [
        ["exact match (pairs)", "plain", "small", "gated", "wild (1 of 2 diverged)"],
        ["hard (3)", "30.0", "19.5", "41.0", "0.0"],
    ]


def test_what_each_variant_changes(findings: Findings) -> None:
    assert changes_table(findings)[1:] == [
        ["small", '`model.d_ff = 7`, `model.cross_attention.score = "cosine"`'],
        ["gated", '`model.attention.extras = "gated"`'],
        ["wild", "`train.learning_rate = 9.0`"],
    ]
    both = replace(BASE.model.encoder_attention, position="rotary")
    rotary = replace(BASE, model=ModelConfig(encoder_attention=both, decoder_attention=both))
    run = replace(findings.variants[2].runs[0], config=rotary)
    findings.variants[2].runs[0] = run
    assert changes_table(findings)[2] == ["gated", '`model.self_attention.position = "rotary"`']


def test_fairness(findings: Findings, tmp_path: Path) -> None:
    problems = [
        "small: -10.0% parameters",
        "wild: `train.learning_rate` is 9.0, the baseline's 0.002",
    ]
    assert list(unfair(findings)) == problems
    checked, empty, *listed = fairness(findings)
    assert "parameters within 5%." in checked
    assert empty == ""
    assert listed == [f"- {problem}" for problem in problems]
    gated = findings.variants[2]
    for key, value in (("steps", 1100), ("data_checksum", 7), ("device", "cuda"), ("threads", 1)):
        gated.trainings[0][key] = value
    gated.trainings[1]["data_checksum"] = 7
    (tmp_path / "gated-2" / "tokenizer.model").write_bytes(b"others")
    assert list(unfair(findings))[1:-1] == [
        "gated, seed 1: 1,100 steps, the baseline 1,200",
        "gated, seed 1: not on the same device with as many threads",
        "gated, seed 2: not the same batches in the same order",
        "gated, seed 2: not the same subwords",
    ]


def test_a_fair_experiment_is_called_so(findings: Findings) -> None:
    fair = replace(findings, variants=[findings.variants[i] for i in (0, 2)])
    assert list(fairness(fair))[2:] == ["All of it holds; parameters differ by at most 2.0%."]
    fair.variants[1].trainings[0]["parameters"] = 960
    assert list(fairness(fair))[2:] == ["All of it holds; parameters differ by at most 4.0%."]


def test_words(findings: Findings, tmp_path: Path) -> None:
    experiment = tmp_path / "question.toml"
    # Rounds lie apart by 500% and 100% (small), by nothing (gated).
    assert wobble(findings) == 50
    assert introduction(findings) == (
        f"`seq2seq compare {experiment}`: base `base.toml`; seeds 1, 2; 1,200 steps each, on 2 "
        "threads of a CPU. Of each run the weights are scored that were best on the validation "
        "set. Speeds are multiples of the baseline's, `plain`: medians of rounds in which the "
        "variants took turns; rounds differed by 50% (median)."
    )
    one_more = replace(findings.comparisons["test"]["small"], smallest=2.5)
    findings.comparisons["test"]["another"] = one_more
    assert "is about **2.5 BLEU** (the median over variants: 1.0 to 9.0)" in how_sure(findings)


def test_a_seed_is_no_setting_of_a_variant(findings: Findings) -> None:
    """Where the first seed is lost, another stands for the variant."""
    wild = findings.variants[3]
    lost, whole = wild.runs[0], wild.diverged[0]
    findings.variants[3] = replace(
        wild, runs=[whole], diverged=[lost], trainings=[training("wild", 2)]
    )
    assert changes_table(findings)[3] == ["wild", "`train.learning_rate = 9.0`"]
    assert list(unfair(findings))[1:] == [
        "wild: `train.learning_rate` is 9.0, the baseline's 0.002"
    ]


def test_names_may_hold_what_markdown_and_pictures_read_as_signs(
    findings: Findings, tmp_path: Path
) -> None:
    for variant in findings.variants:
        for found in variant.evaluations:
            found["tests"]["test"]["phenomena"]["Case=Nom|$_$"] = {"pairs": 1, "exact_match": 5}
    report = write_report(findings, tmp_path).read_text(encoding="utf-8")
    assert "| Case=Nom\\|$_$ (1) | 5.0 | 5.0 |" in report


def test_curves_end_with_the_shortest_run(findings: Findings) -> None:
    steps, bleu = findings.variants[0].curve()
    assert steps == [10, 20]
    assert bleu.tolist() == [[10, 20], [20, 40]]


def test_results_csv(findings: Findings) -> None:
    rows = list(csv.DictReader(io.StringIO(results_csv(findings.variants))))
    assert len(rows) == 8
    assert rows[3] == {
        "variant": "small", "seed": "2", "status": "finished", "test": "test",
        "bleu": "21.0", "bleu_lowercased": "22.0", "chrf": "31.0", "exact_match": "10.5",
        "aer": "26.0", "parameters": "900", "steps": "1200", "minutes": "2.5",
    }  # fmt: skip
    assert (rows[7]["variant"], rows[7]["seed"], rows[7]["status"]) == ("wild", "2", "diverged")
    assert set(list(rows[7].values())[3:]) == {""}


def test_the_report_holds_all_of_it(findings: Findings, tmp_path: Path) -> None:
    report = write_report(findings, tmp_path).read_text(encoding="utf-8")
    tables = [main_table(findings), changes_table(findings), scores_table(findings, "test")]
    for row in [row for table in tables for row in table]:
        assert "| " + " | ".join(row) + " |" in report
    for text in (introduction(findings), how_sure(findings), *fairness(findings)):
        assert text in report
    for name in ("speed", "curves", "phenomena-test"):
        assert f"({name}.png)" in report
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_relative_speeds(findings: Findings) -> None:
    ratios = findings.relative_speeds(findings.variants[1], "training")
    assert np.array_equal(ratios, [0.5, 0.5, 3])
