"""The report on results written by hand."""

import base64
import html
import re
from dataclasses import replace
from io import BytesIO
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import msgspec
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from seq2seq.experiments import figures, report, verdicts
from seq2seq.experiments.report import summary, write_report
from seq2seq.experiments.results import Results, RunResult
from seq2seq.experiments.runs import Experiment
from seq2seq.experiments.statistics import Comparison
from seq2seq.experiments.verdicts import Group, compare_all, interval, warnings

VARIANTS: dict[str, Any] = {
    "plain": {},
    "small": {},
    "gated": {"train": {"dropout": 0.5}},
    "wild": {},
}
BLEU = {"plain": [30, 31, 32, 31], "small": [20, 21, 22], "gated": [40, 44, 42], "wild": [1, 1]}
PARAMETERS = {"plain": 1000, "small": 900, "gated": 1020, "wild": 1000}
WORSE = Comparison(-10.0, -12.0, -8.0, 0.0002, 1.0)
UNSURE = Comparison(11.0, -1.25, 23.25, 0.0612, 9.0)
AGAIN = Comparison(0.5, -1.0, 2.0, 0.4, 2.5)
TEXT = {"device": "cpu", "precision": "float32"}


def finished(variant: str, role: Any, seed: int, bleu: float) -> RunResult:
    numbers = {"steps": 1200.0, "threads": 2, "data_checksum": 7, "valid_loss": 1, "guess_loss": 9}
    numbers["valid_bleu"] = bleu
    numbers |= {"parameters": PARAMETERS[variant], "train_flops": 5e12 * PARAMETERS[variant]}
    if role == "run":
        numbers["train_speed"] = 1
        numbers |= {"decode_speed": 2 if variant == "small" else 1}
    numbers |= {f"valid_bleu@{step}": bleu * step / 30 for step in (10, 20, 30)[: 4 - seed % 2]}
    for test in ("test", "other"):
        scores = {"sentences": 4000, "bleu": bleu, "chrf": bleu + 10, "aer": bleu + 5}
        scores |= {"exact_match": bleu / 2, "log_likelihood": -bleu / 100, "variance": 0.3}
        scores |= {"cov_own": 0.2, "cov_baseline": 0.15 if variant == "plain" else 0.1}
        numbers |= {f"{test}/{key}": value for key, value in scores.items()}
    numbers |= {"test/tag/Case=Nom|$_$": bleu - 1, "test/tag_pairs/Case=Nom|$_$": 3}
    return RunResult(variant, role, seed, "finished", 1, "x = 1", "", numbers, TEXT)


ROWS = [finished(x, "run", seed, y) for x in BLEU for seed, y in enumerate(BLEU[x], start=1)]
ROWS += [finished("plain", "again", 101 + seed, 31 + seed) for seed in range(3)]
ROWS.append(RunResult("wild", "run", 3, "diverged", 1, "x = 1", "", {"guess_loss": 9.0}, {}))
ABOUT: dict[str, Any] = {"title": "A question", "base": "default", "baseline": "plain", "seeds": 3}
EXPERIMENT = Experiment(path=Path("x.toml"), variants=VARIANTS, **ABOUT)
RESULTS = Results(EXPERIMENT, ROWS, ["test", "other"])


@pytest.fixture(autouse=True)
def compare(monkeypatch: pytest.MonkeyPatch) -> Mock:
    """In place of the statistics."""
    found = Mock(side_effect=lambda scores, _: [WORSE, UNSURE] if len(scores) == 3 else [AGAIN])
    monkeypatch.setattr(verdicts, "compare", found)
    return found


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn; to save them takes a second, so their number is written instead."""
    found: list[Figure] = []

    def save(drawing: Figure, file: BytesIO, **options: Any) -> None:
        found.append(drawing)
        file.write(str(len(found)).encode())

    monkeypatch.setattr(Figure, "savefig", save)
    return found


def change(variant: str, numbers: dict[str, float], **changes: Any) -> Results:
    ours, others = ([x for x in ROWS if (x.variant == variant) == side] for side in (True, False))
    rows = [replace(x, numbers=x.numbers | numbers, **changes) for x in ours]
    return replace(RESULTS, rows=rows + others)


def configure(results: Results, **changes: Any) -> Results:
    return replace(results, experiment=msgspec.structs.replace(EXPERIMENT, **changes))


def test_each_family_is_compared_by_itself(compare: Mock) -> None:
    groups = compare_all(RESULTS, "test")
    scores, sentences = zip(*(call.args for call in compare.call_args_list), strict=True)
    expected = [BLEU["plain"], BLEU["small"], BLEU["gated"]], [BLEU["plain"], [31, 32, 33]]
    assert tuple([x.tolist() for x in family] for family in scores) == expected
    assert np.concatenate(sentences) == pytest.approx([0.2 - 0.2 + 0.2] * 2 + [0.2 - 0.3 + 0.2])
    assert [x.label for x in groups] == ["gated", "plain", "small", "wild", "plain again"]
    assert [x.comparison for x in groups] == [UNSURE, None, WORSE, None, AGAIN]


def test_tables() -> None:
    table = report.verdict_table(compare_all(RESULTS, "test"))
    columns = {key: [row[key] for row in table] for key in table[0]}
    assert dict(list(columns.items())[:5]) == {
        "variant": ["gated", "**plain**", "small", "wild", "plain again"],
        "BLEU on test (runs)": ["42.00 ± 2.00 (3)", "31.00 ± 0.82 (4)", "21.00 ± 1.00 (3)", "1.00 ± 0.00 (2)", "32.00 ± 1.00 (3)"],
        "difference [95% interval]": ["+11.00 [-1.25, +23.25]", "-", "-10.00 [-12.00, -8.00]", "-", "+0.50 [-1.00, +2.00]"],
        "p": ["0.061", "-", "< 0.001", "-", "0.400"],
        "verdict at the baseline's learning rate": ["no difference shown", "baseline", "**worse**", "**diverged** (1 of 3 runs)", "noise floor"],
    }  # fmt: skip
    small, again = list(table[2].values())[5:], list(table[4].values())[-2:]
    assert small == ["10.5 ± 0.5", "-0.210 ± 0.010", "×0.90", "×0.90", "×1.00", "×2.00"]
    assert again == ["-", "-"]  # speeds are measured of one run per variant
    others = {"chrF": "31.00 ± 1.00", "AER": "26.00 ± 1.00", "BLEU on other": interval(WORSE)}
    table = report.other_scores(compare_all(RESULTS, "test"))
    assert table[2] == {"variant": "small"} | others
    assert table[1]["BLEU on other"] == "31.00 ± 0.82"  # the baseline's own


def test_grid() -> None:
    rows = [replace(row, tuned="y = 1") for row in ROWS]
    for name, value in product(BLEU, (1, 2)):
        row = replace(finished(name, "tuning", 0, value), tuned=f"y = {value}")
        diverged = replace(row, status="diverged", numbers={"parameters": 900.0})
        rows.append(diverged if (name, value) == ("small", 2) else row)
    results = configure(replace(RESULTS, rows=rows), settings={"train": {"epochs": 5}})
    table = report.settings_table(compare_all(results, "test"))
    same = {"settings": "`x = 1`", "validation BLEU: `y = 1`": "**1.00**"}
    assert table[0] == {"variant": "all", "settings": "`train.epochs = 5`"}
    assert table[1] == {"variant": "gated", "validation BLEU: `y = 2`": "2.00"} | same
    assert table[3] == {"variant": "small", "validation BLEU: `y = 2`": "diverged"} | same


def test_conclusions() -> None:
    lines = report.conclusions(compare_all(RESULTS, "test"))
    assert lines[:3] == [
        f"**Worse than** plain at the baseline's learning rate: small {interval(WORSE)}.",
        f"**No difference shown from** plain at the baseline's learning rate: gated {interval(UNSURE)}.",
        "wild: **diverged** (1 of 3 runs), so no verdict.",
    ]
    assert "**5.0 BLEU**" in lines[3]  # the median of 1 and 9
    assert "3 runs" in lines[3]
    tuned = configure(RESULTS, tune={"train.learning_rate": [0.1, 0.2]})
    assert "learning rate" not in "".join(report.conclusions(compare_all(tuned, "test")))
    assert "sets" not in summary(configure(RESULTS, tune={"train.dropout": [0.5]}))


def test_noise() -> None:
    text = report.noise(compare_all(RESULTS, "test"))
    variances = [2 / 3 / (1 - 2 / 27) ** 3, 1 / (1 - 2 / 18) ** 3, 4 / (1 - 2 / 18) ** 3]
    between, common = sorted(variances)[1], 0.2
    sds = [f"{between**0.5:.2f}", f"{common**0.5:.2f}"]
    assert re.findall(r"\d+\.\d+", text) == 2 * sds
    assert f"{0.1 / between:.0%}" in text


def test_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    def found(results: Results) -> list[str]:
        return warnings(compare_all(results, "test"))

    sets = "gated: sets train.dropout = 0.5"
    assert found(RESULTS) == [sets, "gated: +2.0% parameters", "small: -10.0% parameters"]
    assert found(configure(RESULTS, match="flops")) == [sets]
    assert found(change("small", {}, look=2)) == found(RESULTS)  # added later as a whole
    other = change("small", {"steps": 1100.0}, text=TEXT | {"device": "cuda"})
    assert found(other)[3:] == ["small: steps 1100, not 1200", "small: device cuda, not cpu"]
    slow = [replace(x, numbers=x.numbers | {"threads": 1}) if x.seed > 100 else x for x in ROWS]
    assert "plain again: threads 1, not 2" in found(replace(RESULTS, rows=slow))
    later = [replace(x, look=2) if x.seed == 3 else x for x in ROWS]
    (added,) = (x for x in found(replace(RESULTS, rows=later)) if "(seed 3)" in x)
    assert added.startswith("gated, plain, small, wild: added")
    monkeypatch.setattr(verdicts, "LEVEL", 0.5)  # above the p of the A/A comparison
    assert any(x.startswith("plain again: differs") for x in found(RESULTS))


@pytest.mark.parametrize("numbers", [{"test/bleu": 4.9}, {"valid_loss": 9.1}])
@pytest.mark.usefixtures("drawn")
def test_baseline_that_learned_nothing(
    numbers: dict[str, float], tmp_path: Path, compare: Mock
) -> None:
    untrained = replace(change("plain", numbers), tests=["test"])
    path = write_report(untrained, tmp_path)
    for text in (path.read_text(), path.with_suffix(".html").read_text(), summary(untrained)):
        assert text.count("hardly learned") == 1
        assert not re.search("better|worse|no difference shown|forest", text)
    compare.assert_not_called()
    hard = compare_all(change("plain", {"other/bleu": 4.9}), "other")
    assert [group.comparison for group in hard] == [None] * 5
    assert "on other: BLEU 4.9" in warnings(hard)[0]


@pytest.mark.usefixtures("drawn")
def test_page_holds_all_of_it(tmp_path: Path) -> None:
    page = write_report(RESULTS, tmp_path).with_suffix(".html").read_text(encoding="utf-8")
    text, groups = html.unescape(re.sub("<[^>]+>", "", page)), compare_all(RESULTS, "test")
    for line in [*report.conclusions(groups), *warnings(groups), report.noise(groups)]:
        assert re.sub(r"\*\*|`", "", line) in text
    pictures = map(base64.b64decode, re.findall('src="data:image/png;base64,(.*?)"', page))
    names = ["forest.png", "speed.png", "curves.png", "phenomena-1.png"]
    assert list(pictures) == [(tmp_path / name).read_bytes() for name in names]
    assert page.count("<table>") == 3


@pytest.mark.slow
def test_names_are_no_markdown(tmp_path: Path) -> None:
    name = '<img src=x onerror="f()">|`[a](b)`![c](d){e}\x1b[31m\n# c'
    numbers = {f"test/tag/{name}": 1.0, f"test/tag_pairs/{name}": 3.0}
    numbers |= {key.replace("other", name): x for key, x in ROWS[0].numbers.items()}
    hostile = change("plain", numbers, settings=f'x = "{name}"', tuned=name)
    hostile = configure(hostile, title=name, settings={"data": {"path": name}}, tune={"y": [1]})
    hostile = replace(hostile, tests=["test", name])
    path = write_report(hostile, tmp_path)
    text, page = (x.read_text(encoding="utf-8") for x in (path, path.with_suffix(".html")))
    assert not re.search("<[^>]*onerror", page)
    assert not {"a", "script"} & set(re.findall(r"<(\w+)", page))
    assert page.count("<img") == page.count('<img src="data:image/png;base64,iVBOR') == 4
    for line in (text, summary(hostile)):
        assert "\x1b" not in line
        assert "\n# c" not in line
    rows = [row for row in text.splitlines() if row.startswith("|")]
    widths = [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]
    assert widths == [11] * 7 + [4] * 7 + [2] * 7


def test_labels_do_not_collide(drawn: list[Figure], tmp_path: Path) -> None:
    names = ["plain", *(f"variant_{number}" for number in range(20))]
    rows = [replace(row, variant=name) for name in names for row in RESULTS.runs("plain")]
    many = configure(replace(RESULTS, rows=rows), variants={name: {} for name in names})
    figures.plot_speed([Group(many, "test", name) for name in names], tmp_path / "x")
    (axes,) = drawn[0].axes
    places = [label.xyann[1] for label in axes.texts if isinstance(label, Annotation)]
    inches = -np.diff(places) * axes.get_position().height * drawn[0].get_figheight()
    assert len(inches) == 20
    assert (inches * 72 > 1.3 * 9).all()  # the height of a line of 9 points


def test_figures_show_the_numbers(drawn: list[Figure], tmp_path: Path) -> None:
    groups = compare_all(RESULTS, "test")
    figures.plot_forest(groups, tmp_path / "x")
    figures.plot_curves(groups, tmp_path / "x")
    figures.plot_phenomena(groups, "test", tmp_path / "x")
    (forest,), curves, (phenomena,) = (drawing.axes for drawing in drawn)
    bars = [line.get_xydata() for line in forest.lines[1::2]]
    assert np.array(bars)[:, :, 0].tolist() == [[-1.25, 23.25], [-12.0, -8.0], [-1.0, 2.0]]
    assert [x.get_text() for x in forest.get_yticklabels()] == ["gated", "small", "plain again"]
    assert [x.get_title() for x in curves if x.get_visible()] == ["gated", "small", "wild"]
    assert np.array(phenomena.images[0].get_array()).tolist() == [[11.0, -10.0, -30.0, 1.0]]
