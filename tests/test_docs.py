"""The documents: links lead somewhere, commands and configurations are accepted, snippets run."""

import re
import shlex
from collections.abc import Iterator
from functools import reduce
from itertools import groupby
from pathlib import Path
from typing import get_args

import pytest
from torch.distributed.run import get_args_parser

from seq2seq.cli import build_parser
from seq2seq.cli.common import legal_values
from seq2seq.config import Config, flatten, load_config, settings, toml_value
from seq2seq.experiments.runs import empty_model

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("*.md"), ROOT / "data" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
TEXTS = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in PAGES}


def blocks(text: str, language: str) -> list[str]:
    pairs = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for name, block in pairs if name == language]


def settings_tables() -> Iterator[str]:
    """The tables of docs/configuration.md, for all settings but those of the other attentions."""
    defaults = flatten(Config())
    shown = [key for key in defaults if "decoder_a" not in key and "cross" not in key]
    for section, keys in groupby(shown, lambda key: key.rpartition(".")[0]):
        yield from ["", f"## `[{section}]`", "", "| setting | values | default | meaning |"]
        yield "| --- | --- | --- | --- |"
        for key in keys:
            name, annotation = key.rpartition(".")[2], settings()[key]
            values, meaning = legal_values(annotation).replace("|", ", "), get_args(annotation)[-1]
            yield f"| `{name}` | {values} | `{toml_value(defaults[key])}` | {meaning} |"


@pytest.mark.parametrize("page", TEXTS)
def test_links(page: str) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)\)", TEXTS[page]):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert "://" in target or path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            titles = [re.sub(r"\]\(.*\)", "", heading).lower() for heading in headings]
            assert anchor in [re.sub(r"[^\w\- ]", "", x).replace(" ", "-") for x in titles]
    for file, name in re.findall(r"`(tests/\w+\.py)::(\w+)`", TEXTS[page]):
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), name


@pytest.mark.parametrize("page", TEXTS)
def test_commands(page: str) -> None:
    lines = [line for block in blocks(TEXTS[page], "") for line in block.splitlines() if line]
    for line in lines:
        program, *words = shlex.split(line.split("|")[-1], comments=True)
        if program == "make":
            written = [
                word for word in words if f"-o {word.removeprefix('CONFIG=')}" in TEXTS[page]
            ]
            check_make([word for word in words if word not in written])
        elif program.endswith("torchrun"):
            launcher = get_args_parser().parse_args(words)
            assert launcher.training_script == "seq2seq"
            build_parser().parse_args(launcher.training_script_args)
        elif program.endswith("seq2seq") or words[0] == "my_variant.py":
            words = [word for word in words if word not in ("my_variant.py", "--help")]
            build_parser().parse_args(words)


def check_make(words: list[str]) -> None:
    """The target and the variables exist; the settings in ARGS fit the configuration."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        assert re.search(rf"^{word.split('=')[0]} ?[:?]", makefile, re.MULTILINE), word
    given = dict(word.split("=", 1) for word in words if "=" in word)
    flags = shlex.split(given.get("ARGS", ""))
    build_parser().parse_args(["train", *flags])
    pairs = zip(flags[::2], flags[1::2], strict=True)
    overrides = {flag.removeprefix("--"): value for flag, value in pairs}
    load_config(ROOT / given.get("CONFIG", "configs/default.toml"), overrides, check=empty_model)


def test_every_setting_is_described() -> None:
    lines = TEXTS["docs/configuration.md"].splitlines()
    assert not [row for row in settings_tables() if row not in lines]


def code_lines(text: str) -> list[str]:
    return [x for line in text.splitlines() if (x := line.split("  # ")[0].strip())]


@pytest.mark.parametrize("page", ["docs/attention.md", "docs/variants.md"])
def test_quoted_code_is_that_of_the_package(page: str) -> None:
    """Line by line and in one file, but for what is meant to be typed, which imports something."""
    files = [code_lines(x.read_text(encoding="utf-8")) for x in (ROOT / "seq2seq").rglob("*.py")]
    quoted = [x for x in blocks(TEXTS[page], "python") if "import " not in x]
    assert quoted
    for block in map(code_lines, quoted):
        assert any(set(block) <= set(file) for file in files), block


@pytest.mark.slow
def test_python_snippets(
    tiny_config: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that use the package; test_experiments.py runs the variant."""
    monkeypatch.chdir(tmp_path)
    ours = {'"runs/default"': repr(str(trained_run)), '"default"': repr(str(tiny_config))}
    snippets = [x for text in TEXTS.values() for x in blocks(text, "python")]
    for snippet in [x for x in snippets if x.startswith("import seq2seq")]:
        exec(reduce(lambda text, name: text.replace(name, ours[name]), ours, snippet), {})


if __name__ == "__main__":
    print("\n".join(settings_tables()))
