"""The import order stated in the package's docstring is the one its files follow."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

import seq2seq

PACKAGE = Path(seq2seq.__file__).parent


def stated_levels() -> dict[str, int]:
    """Each file's level, from the indented lines of the package's docstring."""
    lines = [line for line in (seq2seq.__doc__ or "").splitlines() if line.startswith("    ")]
    levels: dict[str, int] = {}
    for level, line in enumerate(lines):
        names = line[:44].split()
        levels |= dict.fromkeys(names, level)
    return levels


def imported(path: Path) -> set[str]:
    """The package's own modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seq2seq."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path.name}: relative imports hide the order"
            assert node.module != "seq2seq", f"{path.name}: import from the module itself"
        elif isinstance(node, ast.Import):
            found |= {a.name.split(".")[1] for a in node.names if a.name.startswith("seq2seq.")}
    return found


def test_every_file_is_in_the_order() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")}
    assert files == set(stated_levels())


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_point_up(path: Path) -> None:
    levels = stated_levels()
    own = levels[path.stem]
    wrong = {name for name in imported(path) if levels[name] >= own}
    assert not wrong, f"{path.name} imports {wrong}, which stand on its own line or below"


def test_dependencies_are_those_declared() -> None:
    """Nothing undeclared is imported (the corpus and the tests neither); nothing declared idles."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
    declared = {re.split("[<>=]", text)[0] for text in project["project"]["dependencies"]}
    used = set()
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                used.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.Import):
                used |= {alias.name.split(".")[0] for alias in node.names}
    assert used - sys.stdlib_module_names - {"seq2seq"} == declared
