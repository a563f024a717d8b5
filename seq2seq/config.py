"""A configuration read and checked: a TOML file over the defaults, the command line over that.

Whatever is wrong with it is said in one line that names the source, the key and the nearest valid
name, before any work begins.
"""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from seq2seq.errors import Impossible, UserError
from seq2seq.files import file_name, read_bytes
from seq2seq.settings import (
    MIN_VOCAB_SIZE,
    SHARED,
    Config,
    ModelConfig,
    nearest,
    options,
    shared_options,
)
from seq2seq.variants import check_attention

# --- what the values must satisfy together ---


def _violations(config: Config) -> list[tuple[str, str]]:
    """Every (key, complaint) that makes ``config`` impossible as a whole."""
    data, train = config.data, config.train
    tests = {"data.test": data.test, "data.hub.test": data.hub.test}
    rules = [
        ("data.src", bool(re.fullmatch(r"[\w-]+", data.src)), "must be a name"),
        ("data.tgt", bool(re.fullmatch(r"[\w-]+", data.tgt)), "must be a name"),
        ("data.tgt", data.src != data.tgt, f"must differ from data.src = {data.src!r}"),
        (
            "data.directory",
            bool(data.directory or data.hub.name),
            "must name a folder, or data.hub.name a data set",
        ),
        ("data.train", bool(data.train), "must not be empty"),
        ("data.hub.train", bool(data.hub.train), "must not be empty"),
        *((key, *_test_names(names)) for key, names in tests.items()),
        (
            "tokenizer.vocab_size",
            config.tokenizer.vocab_size > MIN_VOCAB_SIZE,
            f"must be above {MIN_VOCAB_SIZE}: 4 special tokens and 256 bytes come first",
        ),
        *_attention_rules(config.model),
        (
            "train.batch_tokens",
            train.batch_tokens >= data.max_tokens,
            f"must hold the longest pair, data.max_tokens = {data.max_tokens}",
        ),
        (
            "train.r_drop",
            train.r_drop == 0 or config.model.dropout > 0,
            "needs model.dropout above 0: without it, two passes are the same",
        ),
    ]
    return [(key, complaint) for key, holds, complaint in rules if not holds]


def _attention_rules(model: ModelConfig) -> Iterator[tuple[str, bool, str]]:
    for section in ("encoder_attention", "decoder_attention", "cross_attention"):
        key = f"model.{section}"
        try:
            check_attention(model, section)
        except Impossible as error:
            inherited = error.key == "n_heads" and not getattr(model, section).n_heads
            yield "model.n_heads" if inherited else f"{key}.{error.key}", False, str(error)


def _test_names(names: str) -> tuple[bool, str]:
    """Whether the test sets can be told apart by name, and from the other splits."""
    each = [file_name(name) for name in names.split()]
    are_different = len(set(each)) == len(each)
    are_tests = not {"train", "valid"} & set(each)
    return are_different and are_tests, "must be different names, none train or valid"


# --- from TOML and the command line to a Config, and back ---


@cache
def _sections() -> set[str]:
    """The dotted names of the tables that settings stand in."""
    known = {**options(), **shared_options()}
    return {key.rsplit(".", depth)[0] for key in known for depth in (1, 2)}


def flatten(config: Config) -> dict[str, Any]:
    """Every value of ``config`` by its dotted key."""
    return {key: attrgetter(key)(config) for key in options()}


class Layer(NamedTuple):
    """Settings by dotted key, to be laid over others, and where they come from."""

    origin: str
    values: dict[str, Any]
    is_text: bool = False  # from a command line: "3" may mean 3


def load_config(
    path: Path, overrides: dict[str, str] | None = None, changes: Sequence[Layer] = ()
) -> Config:
    """The configuration in the TOML file ``path`` with others on top.

    Args:
        path: the file.
        overrides: settings from the command line, as text; they go on top of all.
        changes: layers between the two.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value is of the wrong type or
            makes the whole impossible. The message names the source and the key.
    """
    values: dict[str, Any] = {}
    source = dict.fromkeys(options(), str(path))
    layers = [
        Layer(str(path), by_key(read_tree(path), str(path))),
        *changes,
        Layer("command line", overrides or {}, is_text=True),
    ]
    for layer in layers:
        accepted = _accept(layer)
        values |= accepted
        source |= dict.fromkeys(accepted, layer.origin)
    config = _build(Config(), values, "")
    for key, complaint in _violations(config):
        raise UserError(f"{source[key]}: {key} = {toml_value(flatten(config)[key])}: {complaint}")
    return config


def _accept(layer: Layer) -> dict[str, Any]:
    """The values of a layer, each of its setting's type; a shared setting stands for several."""
    known = {**options(), **shared_options()}
    own: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for key, value in layer.values.items():
        if key not in known:
            hint = nearest(key, [*known, *_sections()])
            raise UserError(f"{layer.origin}: unknown key {key!r}{hint}")
        try:
            accepted = known[key].parse(value) if layer.is_text else known[key].accept(value)
        except ValueError as error:
            raise UserError(f"{layer.origin}: {key}: {error}") from None
        section, name = key.rsplit(".", 1)
        if section in SHARED:
            shared |= {f"{each}.{name}": accepted for each in SHARED[section]}
        else:
            own[key] = accepted
    return shared | own


def read_tree(path: Path) -> dict[str, Any]:
    """What a TOML file holds; ``UserError`` if it cannot be read or is none."""
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, or no path
        raise UserError(f"{path}: not a TOML file: {error}") from None


def by_key(table: dict[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    """The settings in nested tables by dotted key; what is no section stays as it is.

    Raises:
        UserError: there is a value where a section should be.
    """
    flat: dict[str, Any] = {}
    for name, value in table.items():
        key = prefix + name
        is_section = key in _sections()
        if is_section and not isinstance(value, dict):
            raise UserError(f"{origin}: {key!r} is a section, not a value")
        flat |= by_key(value, origin, key + ".") if is_section else {key: value}
    return flat


def _build(default: Any, values: dict[str, Any], prefix: str) -> Any:
    """``default`` with the ``values`` that its keys, after ``prefix``, have."""
    given: dict[str, Any] = {}
    for item in fields(default):
        value, key = getattr(default, item.name), prefix + item.name
        if is_dataclass(value):
            given[item.name] = _build(value, values, key + ".")
        elif key in values:
            given[item.name] = values[key]
    return replace(default, **given)


def toml_value(value: Any) -> str:
    """``value`` as TOML writes it."""
    return json.dumps(value, ensure_ascii=False)


def dump_config(config: Config) -> str:
    """``config`` as TOML text that ``load_config`` reads back to an equal one."""
    lines: list[str] = []
    section = ""
    for key, value in flatten(config).items():
        parent, name = key.rsplit(".", 1)
        if parent != section:
            lines += ["", f"[{parent}]"]
            section = parent
        lines.append(f"{name} = {toml_value(value)}")
    return "\n".join(lines[1:]) + "\n"
