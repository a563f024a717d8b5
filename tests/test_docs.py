"""What README, data card and docs/ say is there, is there: links, commands, experiments."""

import csv
import re
import shlex
from pathlib import Path

import pytest
from torch.distributed.run import get_args_parser

from seq2seq.cli import build_parser
from seq2seq.experiments import load_experiment

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / "README.md",
    ROOT / "SECURITY.md",
    ROOT / "data" / "README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
REPORTS = sorted(path.parent for path in (ROOT / "docs" / "experiments").glob("*/report.md"))


def commands(page: Path) -> list[list[str]]:
    """The words of each command in a code block that names no language."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for kind, block in blocks if not kind for line in block.splitlines()]
    return [shlex.split(line.split("|")[-1], comments=True) for line in lines if line]


def settings_of_make(words: list[str]) -> list[str]:
    """What make is given in ARGS."""
    return [x for word in words if word.startswith("ARGS=") for x in shlex.split(word[5:])]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [x for x in links if "://" not in x and not (page.parent / x).exists()]
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_are_ones_that_there_are(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    parser = build_parser()
    for program, *words in commands(page):
        if program == "make":
            for word in words:
                name = word.split("=")[0]
                assert re.search(rf"^{name} ?[:?]", makefile, re.MULTILINE), words
            parser.parse_args(["train", "--config", "any", *settings_of_make(words)])
        elif program.endswith("torchrun"):
            launcher = get_args_parser().parse_args(words)
            assert launcher.module
            assert launcher.training_script == "seq2seq"
            parser.parse_args(launcher.training_script_args)
        elif program.endswith("seq2seq"):
            parser.parse_args([word for word in words if word != "--help"])  # which leaves
        elif program == "diff":  # what two runs wrote, each of which another command makes
            folders = [Path(word).parts for word in words]
            text = page.read_text(encoding="utf-8")
            for top, run, *inside in folders:
                assert (top, inside) == ("runs", ["hypotheses", "test.txt"])
                assert run == "default" or f"make eval RUN=runs/{run} " in text
        else:
            assert program in ("cd", "git") or program.endswith(("python", "pytest")), program


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_configurations_named_are_there(page: Path) -> None:
    named = re.findall(r"\bconfigs/[\w./-]+\.toml", page.read_text(encoding="utf-8"))
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_reports_are_those_of_the_experiments_shipped(folder: Path) -> None:
    experiment = load_experiment(ROOT / "configs" / "experiments" / f"{folder.name}.toml")
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(row["variant"], int(row["seed"])) for row in rows} == {
        (variant, seed) for variant in experiment.variants for seed in experiment.seeds
    }
    assert {row["status"] for row in rows} <= {"finished", "diverged"}


def test_promises_are_held_by_tests_that_there_are() -> None:
    """Every promise in SECURITY.md names one, and each that is named is there."""
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    promises = re.split(r"^- ", text.split("Not promised")[0], flags=re.MULTILINE)[1:]
    assert promises
    for promise in promises:
        named = re.findall(r"`(tests/\w+\.py)::(\w+)`", promise)
        assert named, promise
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text(encoding="utf-8"), name


def code_blocks(page: Path) -> list[str]:
    """The Python in a page."""
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.M)


def bare(code: str) -> list[str]:
    """Its lines, without what stands around the code."""
    return [x for line in code.splitlines() if (x := line.split("  # ")[0].strip())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_shown_is_that_of_the_package(page: Path) -> None:
    """But for what is meant to be typed, which other tests run."""
    package = {line for path in (ROOT / "seq2seq").glob("*.py") for line in bare(path.read_text())}
    for block in code_blocks(page):
        if not block.startswith(("import seq2seq", "# my_variant.py")):
            assert set(bare(block)) <= package


def test_code_to_be_typed_works(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = [
        block for page in PAGES for block in code_blocks(page) if block.startswith("import seq2seq")
    ]
    assert len(blocks) >= 2
    for block in blocks:
        assert '"runs/default"' in block
        exec(block.replace('"runs/default"', repr(str(trained_run))), {})
    assert "('layer', 'head', 'query', 'key')" in capsys.readouterr().out
