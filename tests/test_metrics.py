"""Scores are sacreBLEU's own."""

import json
import subprocess
import sys
from importlib import import_module
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import Capture, Patch, write_lines
from sacrebleu.metrics import bleu as bleu_module
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from seq2seq.config import DataConfig, EvaluationConfig
from seq2seq.evaluation import metrics
from seq2seq.evaluation.metrics import (
    bleu_tokenizer,
    exact_match_by_tag,
    paired_test,
    score,
    suits_bleu,
)
from seq2seq.utils import UserError

REFERENCES = [
    'He said: "The 3.5-year-old dog didn\'t run, did it?"',
    "A Man in Blue walks along the River - slowly.",
    "",
]
HYPOTHESES = [
    'He said "the 3.5 year old dog did not run, did it?"',
    "a man in blue walks slowly along the river.",
    "Etwas",
]


CHINESE = ["昨天汤姆买了3本书。", "猫在垫子上。"], ["昨天汤姆买了两本书。", "猫坐在垫子上。"]


@pytest.mark.parametrize(
    ("tokenizer", "hypotheses", "references"),
    [("13a", HYPOTHESES, REFERENCES), ("zh", *CHINESE)],
)
def test_scores_match_sacrebleu_command(
    tmp_path: Path, tokenizer: str, hypotheses: list[str], references: list[str]
) -> None:
    write_lines(tmp_path / "ref", references)
    write_lines(tmp_path / "hyp", hypotheses)

    def scores(*options: str) -> list[float]:
        command = [sys.executable, "-m", "sacrebleu", str(tmp_path / "ref")]
        command += ["-i", str(tmp_path / "hyp"), "-w", "6", "-tok", tokenizer]
        done = subprocess.run([*command, *options], capture_output=True, check=True)
        return [metric["score"] for metric in json.loads(done.stdout)]

    ours = score(hypotheses, references, tokenizer)
    assert [round(ours["bleu"], 6), round(ours["chrf"], 6)] == scores("-m", "bleu", "chrf")
    assert round(ours["bleu_lowercased"], 6) == scores("-m", "bleu", "chrf", "-lc")[0]
    assert ours["bleu"] <= ours["bleu_lowercased"]
    assert {"case:mixed", f"tok:{tokenizer}"} < set(ours["bleu_signature"].split("|"))
    assert "case:lc" in ours["bleu_lowercased_signature"]
    assert "nc:6" in ours["chrf_signature"]


def test_chinese_is_counted_by_character() -> None:
    precisions = 3 / 4 * 2 / 3 * 1 / 2 * 1 / 2  # the last smoothed
    assert score(["我喜欢猫"], ["我喜欢狗"], "zh")["bleu"] == pytest.approx(100 * precisions**0.25)
    assert score(["我喜欢猫"], ["我喜欢狗"], "13a")["bleu"] == 0


@pytest.mark.parametrize(
    ("languages", "tokenizer"),
    [
        ("zh ZH zh_CN zh-Hans zho cmn_Hant yue wuu", "zh"),
        ("th tha lo km my bo", "char"),
        ("de en fr ru ar he hi tr vi id zu chinese", "13a"),
    ],
)
def test_tokenizer_follows_language(languages: str, tokenizer: str) -> None:
    for language in languages.split():
        data = DataConfig(tgt=language)
        assert bleu_tokenizer(data, EvaluationConfig()) == tokenizer
        assert bleu_tokenizer(data, EvaluationConfig(bleu_tokenizer="intl")) == "intl"


@pytest.mark.parametrize("language", ["ja", "kor"])
def test_words_need_a_dictionary(language: str, monkeypatch: Patch, capsys: Capture) -> None:
    """Of Japanese and Korean; without one, characters are counted, and that is said once."""
    code = language[:2]
    name: Any = f"{code}-mecab"
    module = import_module(f"sacrebleu.tokenizers.tokenizer_{code}_mecab")
    monkeypatch.setattr(module, "MeCab", None)
    bleu_tokenizer.cache_clear()
    auto = [bleu_tokenizer(DataConfig(tgt=x), EvaluationConfig()) for x in (language, language)]
    assert auto == ["char", "char"]
    err = capsys.readouterr().err
    assert (err.count("\n"), err.count(f"sacrebleu[{code}]")) == (1, 1)
    with pytest.raises(UserError, match=rf"{name}.*sacrebleu\[{code}\]"):
        bleu_tokenizer(DataConfig(), EvaluationConfig(bleu_tokenizer=name))
    bleu_tokenizer.cache_clear()
    monkeypatch.setattr(bleu_module, "_get_tokenizer", lambda _: Mock)
    assert bleu_tokenizer(DataConfig(tgt=language), EvaluationConfig()) == name
    bleu_tokenizer.cache_clear()


def test_paired_test_matches_all_exchanges() -> None:
    """For few sentences all exchanges can be made; those that differ as much count."""
    references = [f"a{i} b{i} c{i} d{i} e{i}" for i in range(7)]
    ours = [x.replace("e", "x") if i > 4 else x for i, x in enumerate(references)]
    theirs = [" ".join(x.split()[: 4 - i]) if i < 4 else x for i, x in enumerate(references)]
    for name, metric in (("bleu", BLEU()), ("chrf", CHRF())):

        def gap(exchange: tuple[int, ...], metric: Any = metric) -> float:
            pairs = [
                (b, a) if x else (a, b) for a, b, x in zip(ours, theirs, exchange, strict=True)
            ]
            scores = [metric.corpus_score(x, [references]).score for x in zip(*pairs, strict=True)]
            return float(scores[0] - scores[1])

        gaps = np.array([gap(exchange) for exchange in product((0, 1), repeat=7)])
        result = paired_test(ours, theirs, references, "13a")[name]
        assert result["difference"] == pytest.approx(gaps[0])
        expected = np.mean(abs(gaps) >= abs(gaps[0]) - 1e-9)
        assert 0.01 < expected < 0.9
        assert result["p"] == pytest.approx(expected, abs=0.02)


def test_paired_test_of_equal_and_different(monkeypatch: Patch) -> None:
    monkeypatch.setattr(metrics, "N_EXCHANGES", 999)
    references = [f"a{i} b{i} c{i} d{i} e{i}" for i in range(20)]
    worse = [x.replace("c", "x") for x in references]
    equal = paired_test(worse, worse, references, "13a")
    assert all(x == {"difference": 0, "p": 1} for x in equal.values())
    one = [references[0], *worse[1:]]  # chance makes any difference as large
    assert all(x["p"] == 1 for x in paired_test(one, worse, references, "13a").values())
    better, again = (paired_test(references, worse, references, "13a") for _ in range(2))
    assert better == again
    assert all(x["difference"] > 10 and x["p"] == 0.001 for x in better.values())
    swapped = paired_test(worse, references, references, "13a")
    for name, other in swapped.items():
        assert other["difference"] == -better[name]["difference"]


def test_bleu_suits_references_of_four_words() -> None:
    """As 13a sees them: punctuation is a word, Chinese is one word, and so is a number."""
    long, short = (
        ["A dog, or two.", "A dog runs fast"],
        ["昨天汤姆买了两本书。", "3.5", "A dog!", ""],
    )
    assert score(short, short, "13a")["bleu"] == 0  # all of it right
    assert [suits_bleu(x, "13a") for x in (long, short, long + short[:2])] == [True, False, True]
    assert not suits_bleu(long + short, "13a")
    assert suits_bleu(short[:1], "zh")
    assert not suits_bleu(["狗", "3.5", short[0]], "zh")


def test_exact_match_by_tag() -> None:
    tags = [["even", "a"], ["odd"], ["even", "even"], []]
    scores = exact_match_by_tag(["x", "y", "z", "w"], ["x", "y", "-", "-"], tags)
    once, even = {"pairs": 1, "exact_match": 100}, {"pairs": 2, "exact_match": 50}
    assert scores == {"a": once, "even": even, "odd": once}
