"""Every setting of an experiment: what it means, what it may be, where it came from.

A configuration is a TOML file laid over the defaults below, with command line overrides
(``--model.dropout 0.2``) laid over that. Whatever is wrong with it is said in one line that
names the source, the key and the nearest valid name, before any work begins.
"""

import difflib
import json
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from unicodedata import category

from seq2seq.errors import UserError

MIN_VOCAB_SIZE = 4 + 256  # the special tokens and the bytes that every tokenizer holds


@dataclass(frozen=True)
class Range:
    """The numbers a setting may be."""

    test: Callable[[float], bool]
    words: str


POSITIVE = Range(lambda x: 0 < x < math.inf, "above 0")
NOT_NEGATIVE = Range(lambda x: 0 <= x < math.inf, "0 or more")
SEED = Range(lambda x: 0 <= x < 2**32, "0 or more and below 2**32")
FRACTION = Range(lambda x: 0 <= x < 1, "at least 0 and below 1")

# --- the settings: one dataclass a concern; each annotation is type, help and range ---


@dataclass(frozen=True)
class HubConfig:
    """A data set on the Hugging Face hub."""

    name: Annotated[str, "data set on the hub, such as bentrevett/multi30k"] = ""
    subset: Annotated[str, "the data set's own configuration, where it has several"] = ""
    revision: Annotated[str, "commit, tag or branch of the data set; a commit never changes"] = ""
    train: Annotated[str, "split to train on"] = "train"
    valid: Annotated[str, "split to choose by; empty: held out of the training split"] = (
        "validation"
    )
    test: Annotated[
        str, "splits to report on, parted by spaces; empty: held out of the training split"
    ] = "test"


@dataclass(frozen=True)
class DataConfig:
    """The parallel corpus: files ``directory/PREFIX.LANGUAGE``, or a data set on the hub."""

    src: Annotated[str, "language translated from: file ending and hub field"] = "de"
    tgt: Annotated[str, "language translated into: file ending and hub field"] = "en"
    directory: Annotated[str, "folder with the corpus as files; empty: take it from the hub"] = ""
    train: Annotated[str, "prefix of the training files"] = "train"
    valid: Annotated[str, "prefix of the validation files; empty: held out of training"] = "valid"
    test: Annotated[
        str, "prefixes of the test files, parted by spaces; empty: held out of training"
    ] = "test"
    held_out: Annotated[
        int, "training pairs held out for a split that the corpus lacks", POSITIVE
    ] = 1000
    max_tokens: Annotated[
        int, "longer training pairs are left out, longer input is cut", POSITIVE
    ] = 256
    hub: HubConfig = field(default_factory=HubConfig)


@dataclass(frozen=True)
class TokenizerConfig:
    """Subwords by byte-pair encoding (sentencepiece), learned from the training split."""

    vocab_size: Annotated[int, "subwords, special tokens and 256 bytes included", POSITIVE] = 8000
    joint: Annotated[bool, "one vocabulary for both languages"] = True
    bpe_dropout: Annotated[
        float, "chance to skip a merge while training (Provilkov 2020)", FRACTION
    ] = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """The Transformer's shape."""

    d_model: Annotated[int, "width of every token's vector", POSITIVE] = 256
    d_ff: Annotated[int, "width inside the feed-forward layers", POSITIVE] = 1024
    n_heads: Annotated[int, "attention heads; must divide d_model", POSITIVE] = 4
    encoder_layers: Annotated[int, "layers of the encoder", POSITIVE] = 3
    decoder_layers: Annotated[int, "layers of the decoder", POSITIVE] = 3
    dropout: Annotated[float, "chance to zero a value after embedding and sub-layers", FRACTION] = (
        0.1
    )
    encoder_attention: Annotated[
        Literal["scaled_dot", "uniform", "none"], "how source tokens look at each other"
    ] = "scaled_dot"
    cross_attention: Annotated[
        Literal["scaled_dot", "uniform"], "how target tokens look at source tokens"
    ] = "scaled_dot"
    norm: Annotated[Literal["pre", "post"], "normalise before or after each sub-layer"] = "pre"
    tie_embeddings: Annotated[bool, "one matrix for every table of the same vocabulary"] = True


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are learned."""

    seed: Annotated[int, "seed of weights, dropout, data order and subword sampling", SEED] = 1
    epochs: Annotated[int, "passes over the training split", POSITIVE] = 16
    batch_tokens: Annotated[int, "tokens a batch: sentences times the longest side", POSITIVE] = (
        4096
    )
    accumulate: Annotated[int, "batches summed into one step", POSITIVE] = 1
    learning_rate: Annotated[
        float, "learning rate, before warm-up and decay lower it", POSITIVE
    ] = 2e-3
    warmup_steps: Annotated[
        int, "steps in which a factor on it rises from 0 to 1", NOT_NEGATIVE
    ] = 600
    decay: Annotated[
        Literal["linear", "cosine"], "how another factor falls from 1 at the start to 0 at the end"
    ] = "linear"
    adam_beta2: Annotated[float, "memory of AdamW's second moment", FRACTION] = 0.98
    weight_decay: Annotated[float, "AdamW's weight decay, on matrices only", NOT_NEGATIVE] = 0.01
    label_smoothing: Annotated[
        float, "share of each target spread over the vocabulary", FRACTION
    ] = 0.1
    clip_norm: Annotated[float, "longest gradient let through; 0: no limit", NOT_NEGATIVE] = 1.0
    average: Annotated[float, "memory of the weights' running average; 0: no average", FRACTION] = (
        0.0
    )
    validate_every: Annotated[int, "steps between validations", POSITIVE] = 500
    patience: Annotated[
        int, "validations without a better BLEU before stopping; 0: never", NOT_NEGATIVE
    ] = 0
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], "auto: bfloat16 where the machine is fast at it"
    ] = "auto"


@dataclass(frozen=True)
class DecodingConfig:
    """How a translation is found."""

    beam: Annotated[int, "hypotheses kept a sentence; 1 is greedy", POSITIVE] = 1
    length_penalty: Annotated[float, "beam search's reward for length (Wu 2016)", NOT_NEGATIVE] = (
        1.0
    )
    max_ratio: Annotated[
        float, "longest output, as a multiple of the input, plus 10", NOT_NEGATIVE
    ] = 2.0
    batch_size: Annotated[int, "sentences decoded together", POSITIVE] = 128


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


# --- what the values must satisfy together ---


def _violations(config: Config) -> list[tuple[str, str]]:
    """Every (key, complaint) that makes ``config`` impossible as a whole."""
    data, model, train = config.data, config.model, config.train
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
        (
            "model.n_heads",
            model.d_model % model.n_heads == 0,
            f"must divide model.d_model = {model.d_model}",
        ),
        ("model.d_model", model.d_model % 2 == 0, "must be even: positions are sine and cosine"),
        (
            "train.batch_tokens",
            train.batch_tokens >= data.max_tokens,
            f"must hold the longest pair, data.max_tokens = {data.max_tokens}",
        ),
    ]
    return [(key, complaint) for key, holds, complaint in rules if not holds]


def file_name(split: str) -> str:
    """A split's name as part of a file name; on the hub it may be an expression, ``test[:50%]``."""
    return re.sub(r"[^\w.-]", "_", split)


def _test_names(names: str) -> tuple[bool, str]:
    """Whether the test sets can be told apart by name, and from the other splits."""
    each = [file_name(name) for name in names.split()]
    are_different = len(set(each)) == len(each)
    are_tests = not {"train", "valid"} & set(each)
    return are_different and are_tests, "must be different names, none train or valid"


# --- from TOML and the command line to a Config, and back ---


@dataclass(frozen=True)
class Option:
    """One setting, described: ``model.dropout``, its type, default and help."""

    key: str
    type: Any
    default: Any
    help: str
    range: Range | None

    @property
    def expects(self) -> str:
        """The legal values, in words."""
        if get_origin(self.type) is Literal:
            return " or ".join(repr(choice) for choice in get_args(self.type))
        names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
        return names[self.type]

    def accept(self, value: Any) -> Any:
        """``value`` as this option's type; ``ValueError`` if it is of another, or out of range."""
        if self.type is float and type(value) is int:
            value = float(value)
        choices = get_args(self.type)
        if value not in choices if choices else type(value) is not self.type:
            raise ValueError(f"{value!r} is not {self.expects}")
        if isinstance(value, str) and any(category(c) in ("Cc", "Cs") for c in value):
            raise ValueError(f"{value!r} holds control characters or is not UTF-8")
        if self.range and not self.range.test(value):
            raise ValueError(f"{value!r} is not {self.range.words}")
        return value

    def parse(self, text: str) -> Any:
        """The value that ``text`` from a command line means; ``ValueError`` if it means none."""
        if self.type is str or get_origin(self.type) is Literal:
            return self.accept(text)
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except (tomllib.TOMLDecodeError, RecursionError):
            value = text
        return self.accept(value)


@cache
def options(section: type = Config, prefix: str = "") -> dict[str, Option]:
    """Every setting by its dotted key, in the order of the dataclasses above."""
    found: dict[str, Option] = {}
    hints = get_type_hints(section, include_extras=True)
    for item in fields(section):
        hint, key = hints[item.name], prefix + item.name
        if is_dataclass(hint):
            found |= options(hint, key + ".")  # type: ignore[arg-type]
        else:
            kind, text, *ranges = get_args(hint)
            found[key] = Option(key, kind, item.default, text, ranges[0] if ranges else None)
    return found


def _sections() -> set[str]:
    """The dotted names of the tables that settings stand in."""
    return {key.rsplit(".", depth)[0] for key in options() for depth in (1, 2)}


def nearest(name: str, known: list[str]) -> str:
    """A ``; did you mean ...?`` for a misspelt ``name``, or nothing."""
    by_last_part = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    last_part = name.rsplit(".", 1)[-1]
    close += [by_last_part[part] for part in difflib.get_close_matches(last_part, by_last_part, 1)]
    return f"; did you mean {close[0]!r}?" if close else ""


def flatten(config: Config) -> dict[str, Any]:
    """Every value of ``config`` by its dotted key."""

    def walk(node: Any, prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for item in fields(node):
            value = getattr(node, item.name)
            deeper = is_dataclass(value)
            flat |= walk(value, f"{prefix}{item.name}.") if deeper else {prefix + item.name: value}
        return flat

    return walk(config, "")


def load_config(path: Path, overrides: dict[str, str] | None = None) -> Config:
    """The configuration in the TOML file ``path`` with ``overrides`` (key to text) on top.

    Raises:
        UserError: the file cannot be read, a key is unknown, a value is of the wrong type or
            makes the whole impossible. The message names the source and the key.
    """
    known = options()
    values: dict[str, Any] = {}
    source = dict.fromkeys(known, str(path))
    layers = [
        (str(path), Option.accept, _read_toml(path)),
        ("command line", Option.parse, overrides or {}),
    ]
    for origin, convert, given in layers:
        for key, value in given.items():
            if key not in known:
                raise UserError(
                    f"{origin}: unknown key {key!r}{nearest(key, [*known, *_sections()])}"
                )
            try:
                values[key], source[key] = convert(known[key], value), origin
            except ValueError as error:
                raise UserError(f"{origin}: {key}: {error}") from None
    config = _build(Config, values, "")
    for key, complaint in _violations(config):
        raise UserError(f"{source[key]}: {key} = {toml_value(flatten(config)[key])}: {complaint}")
    return config


def _read_toml(path: Path) -> dict[str, Any]:
    """The settings in a TOML file by dotted key; what is no section or setting stays as it is."""
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UserError(f"{path}: not a TOML file: {error}") from None
    sections = _sections()

    def leaves(table: dict[str, Any], prefix: str) -> dict[str, Any]:
        flat: dict[str, Any] = {}
        for name, value in table.items():
            key = prefix + name
            if key in sections and not isinstance(value, dict):
                raise UserError(f"{path}: {key!r} is a section: write [{key}]")
            flat |= leaves(value, key + ".") if key in sections else {key: value}
        return flat

    return leaves(tree, "")


def _build(section: type, values: dict[str, Any], prefix: str) -> Any:
    hints = get_type_hints(section)
    given: dict[str, Any] = {}
    for item in fields(section):
        hint, key = hints[item.name], prefix + item.name
        if is_dataclass(hint):
            given[item.name] = _build(hint, values, key + ".")  # type: ignore[arg-type]
        elif key in values:
            given[item.name] = values[key]
    return section(**given)


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
