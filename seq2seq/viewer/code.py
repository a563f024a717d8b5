"""The lines of code that do each of the five steps, as the attentions of a model have them."""

import inspect
import re
from functools import partial
from pathlib import Path
from textwrap import dedent
from typing import Any, NamedTuple

from seq2seq.attention import NORMALIZERS, SCORES, TYPES, MultiHeadAttention
from seq2seq.config import AttentionConfig, ModelConfig
from seq2seq.viewer.page import VIEWS

STEPS = ("project", "score", "mask", "normalize", "aggregate")
PACKAGE = Path(__file__).parent.parent


class Code(NamedTuple):
    """Lines of a source file."""

    file: str
    line: int  # of the first
    code: str


def code_of_steps(model: ModelConfig) -> dict[str, list[dict[str, Any]] | None]:
    """Of each attention, the code of its steps; None where there is no attention."""
    return {view: _code_of(getattr(model, f"{view}_attention")) for view in VIEWS}


def _code_of(config: AttentionConfig) -> list[dict[str, Any]] | None:
    kind = TYPES[config.type].make
    if config.type == "none":
        return None
    if kind is MultiHeadAttention:
        step = partial(_marked, MultiHeadAttention.attend_by_parts)
        score, normalizer = SCORES[config.score].make, NORMALIZERS[config.normalizer].make
        parts = [_called(score), step(3), _called(normalizer), step(5)]
    else:  # one method does all of them
        method = "attend_by_parts" if issubclass(kind, MultiHeadAttention) else "forward"
        parts = [_source(getattr(kind, method))] * 4
    steps = zip(STEPS, [_source(kind.project), *parts], strict=True)
    return [{"step": name} | code._asdict() for name, code in steps]


def _called(part: Any) -> Code:
    """What computes: the function itself, or the ``forward`` of a class."""
    return _source(getattr(part, "forward", part))


def _source(function: Any) -> Code:
    """A function without its decorators, which say what it is called."""
    try:
        lines, first = inspect.getsourcelines(function)
        path = Path(inspect.getfile(function))
    except (OSError, TypeError):  # defined in a notebook or an interpreter
        return Code("", 0, "")
    start = next((i for i, line in enumerate(lines) if line.lstrip().startswith("def ")), 0)
    is_ours = path.is_relative_to(PACKAGE)
    name = path.relative_to(PACKAGE.parent).as_posix() if is_ours else path.name
    return Code(name, first + start, dedent("".join(lines[start:])).rstrip())


def _marked(function: Any, step: int) -> Code:
    """The lines of a function from the comment with the step's number to that with the next."""
    whole = _source(function)
    lines = whole.code.split("\n")
    comments = [(re.match(r" *# (\d)\. ", line), i) for i, line in enumerate(lines)]
    marks = {int(found[1]): i for found, i in comments if found}
    start, end = marks[step], marks.get(step + 1, len(lines))
    return Code(whole.file, whole.line + start, dedent("\n".join(lines[start:end])).rstrip())
