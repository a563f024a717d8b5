"""Layers, dependencies, light imports, and functions of limited size."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import seq2seq

PACKAGE = Path(seq2seq.__file__).parent
PROJECT = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))
TREES = {
    str(path.relative_to(PACKAGE)): ast.parse(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.rglob("*.py"))
}


def test_layers() -> None:
    """The contracts in pyproject.toml, and each module in one of their layers."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=PACKAGE.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    layers = PROJECT["tool"]["importlinter"]["contracts"][0]["layers"]
    named = {name.strip() for layer in layers for name in layer.split("|")}
    modules = {name.split("/")[0].removesuffix(".py") for name in TREES}
    assert modules == named | {"__init__", "__main__"}


def test_dependencies_are_declared() -> None:
    """Nothing undeclared is imported, nothing declared is unused."""
    project = PROJECT["project"]
    extras = [
        *project["optional-dependencies"]["export"],
        *project["optional-dependencies"]["serve"],
    ]
    extra = {re.split("[<>=]", text)[0] for text in extras}
    declared = {re.split("[<>=]", text)[0] for text in project["dependencies"]}
    declared = declared - {"markdown-it-py"} | {"markdown_it"}  # another name when imported
    imported = set()
    for node in (node for tree in TREES.values() for node in ast.walk(tree)):
        if isinstance(node, ast.ImportFrom):
            imported.add("." if node.level else (node.module or "").split(".")[0])
        elif isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
    assert imported - sys.stdlib_module_names - {"seq2seq"} - extra == declared


def test_size_of_functions() -> None:
    """At most 60 lines, signature and docstring included, and 7 arguments."""
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                args, where = node.args, (file, node.name)
                assert (node.end_lineno or 0) - node.lineno < 60, where
                assert len([*args.posonlyargs, *args.args, *args.kwonlyargs]) <= 7, where


VIEWS = "matplotlib scipy datasets tensorboard seq2seq.viewer seq2seq.experiments"
NOT_LOADED = {  # after each of these imports in turn, and so after none before it
    "seq2seq": "torch numpy msgspec",
    "seq2seq.config": "torch numpy",
    "seq2seq.data.prepare": "torch datasets matplotlib seq2seq.model",
    "seq2seq.api": f"{VIEWS} sacrebleu seq2seq.training seq2seq.evaluation",
    "seq2seq.translator": f"{VIEWS} sacrebleu seq2seq.training",
    "seq2seq.evaluation.evaluate": f"{VIEWS} seq2seq.training",
    "seq2seq.training": VIEWS,
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "not_loaded", [NOT_LOADED, {"seq2seq.viewer.page": "sacrebleu datasets matplotlib"}]
)
def test_light_imports(not_loaded: dict[str, str]) -> None:
    code = ["import sys"]
    for module, names in not_loaded.items():
        code += [f"import {module}", f"print([x for x in {names.split()} if x in sys.modules])"]
    printed = subprocess.check_output([sys.executable, "-c", "\n".join(code)], text=True)
    assert printed == "[]\n" * len(not_loaded)
