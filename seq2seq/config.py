"""Every setting: its meaning, its legal values, and how TOML files and the command line set it.

A configuration is a TOML file over the defaults below; ``base = "other.toml"`` puts it over another
file instead, and the command line comes last. Whatever is wrong is reported in one line that names
the source, the key and the legal values before any work begins.
"""

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache, reduce
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from unicodedata import category

import msgspec
from msgspec import Meta

from seq2seq.utils import ConfigError, UserError, did_you_mean, file_name, read_bytes

MIN_VOCAB_SIZE = 4 + 256  # the special tokens and the bytes that every tokenizer holds

# The annotation of a setting is its type, its range and its meaning.
PositiveInt = Annotated[int, Meta(gt=0, lt=2**31)]
NaturalInt = Annotated[int, Meta(ge=0, lt=2**31)]
Natural = Annotated[float, Meta(ge=0, lt=2**31)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
Precision = Literal["auto", "float32", "bfloat16"]


@dataclass(frozen=True)
class HubConfig:
    """A data set on the Hugging Face hub."""

    name: Annotated[str, "data set on the hub, such as bentrevett/multi30k"] = ""
    subset: Annotated[str, "configuration of the data set, where it has several"] = ""
    revision: Annotated[str, "commit, tag or branch of the data set; a commit never changes"] = ""
    train: Annotated[str, "training split"] = "train"
    valid: Annotated[str, "validation split; empty: held out of training"] = "validation"
    test: Annotated[str, "test splits, separated by spaces; empty: held out of training"] = "test"


@dataclass(frozen=True)
class DataConfig:
    """The parallel corpus: files ``directory/PREFIX.LANGUAGE``, or a data set on the hub."""

    src: Annotated[str, "source language: file extension and hub field"] = "de"
    tgt: Annotated[str, "target language: file extension and hub field"] = "en"
    directory: Annotated[str, "folder with the corpus files; empty: use the hub"] = ""
    train: Annotated[str, "prefix of the training files"] = "train"
    valid: Annotated[str, "prefix of the validation files; empty: held out of training"] = "valid"
    test: Annotated[str, "prefixes of test files, separated by spaces; empty: held out"] = "test"
    n_held_out: Annotated[PositiveInt, "training pairs held out for a missing split"] = 1000
    max_tokens: Annotated[PositiveInt, "longer training pairs are dropped, input is cut"] = 256
    hub: HubConfig = field(default_factory=HubConfig)


@dataclass(frozen=True)
class TokenizerConfig:
    """Subwords by byte-pair encoding (sentencepiece), learned from the training split."""

    vocab_size: Annotated[PositiveInt, "subwords, with special tokens and 256 bytes"] = 8000
    joint: Annotated[bool, "one vocabulary for both languages"] = True
    bpe_dropout: Annotated[Fraction, "of skipping a merge (Provilkov 2020)"] = 0.0


@dataclass(frozen=True)
class AttentionConfig:
    """One of the model's three attentions, part by part; ``seq2seq variants`` lists the names."""

    type: Annotated[str, "multi-head attention, or an alternative to it"] = "multi_head"
    score: Annotated[str, "how a query is compared with a key"] = "scaled_dot"
    normalizer: Annotated[str, "how scores become weights"] = "softmax"
    position: Annotated[str, "how positions are encoded"] = "sinusoidal"
    n_heads: Annotated[NaturalInt, "heads; 0: model.n_heads"] = 0
    kv_heads: Annotated[NaturalInt, "heads of keys and values; 0: as many as heads"] = 0
    window: Annotated[NaturalInt, "tokens in reach on either side; 0: all"] = 0
    modifiers: Annotated[str, "additions to the steps, separated by spaces"] = ""


@dataclass(frozen=True)
class ModelConfig:
    """The Transformer's shape."""

    d_model: Annotated[PositiveInt, "width of the model"] = 256
    d_ff: Annotated[PositiveInt, "width inside the feed-forward layers"] = 1024
    n_heads: Annotated[PositiveInt, "attention heads; must divide d_model"] = 4
    encoder_layers: Annotated[PositiveInt, "layers of the encoder"] = 3
    decoder_layers: Annotated[PositiveInt, "layers of the decoder"] = 3
    dropout: Annotated[Fraction, "dropout after embeddings and sublayers"] = 0.1
    norm: Annotated[Literal["pre", "post"], "layer norm before or after each sublayer"] = "pre"
    tie_embeddings: Annotated[bool, "one matrix for all tables of the same vocabulary"] = True
    encoder_attention: AttentionConfig = field(default_factory=AttentionConfig)
    decoder_attention: AttentionConfig = field(default_factory=AttentionConfig)
    cross_attention: AttentionConfig = field(
        default_factory=lambda: AttentionConfig(position="none")
    )


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are learned."""

    seed: Annotated[int, Meta(ge=0, lt=2**32), "seed of weights, dropout and data order"] = 1
    epochs: Annotated[PositiveInt, "passes over the training split"] = 16
    max_tokens_per_batch: Annotated[PositiveInt, "sentences times the longest side"] = 4096
    grad_accum_steps: Annotated[PositiveInt, "batches per optimizer step"] = 1
    learning_rate: Annotated[float, Meta(gt=0, lt=2**31), "peak learning rate"] = 2e-3
    warmup_steps: Annotated[NaturalInt, "linear warm-up steps"] = 600
    lr_schedule: Annotated[Literal["linear", "cosine"], "learning-rate decay to 0"] = "linear"
    adam_beta2: Annotated[Fraction, "AdamW beta2 (second-moment decay)"] = 0.98
    weight_decay: Annotated[Natural, "AdamW weight decay, of matrices only"] = 0.01
    label_smoothing: Annotated[Fraction, "label smoothing (Szegedy 2016)"] = 0.1
    r_drop_alpha: Annotated[Natural, "R-Drop's weight, from half way; 0: off"] = 0.0
    max_grad_norm: Annotated[Natural, "gradient clipping by global norm; 0: off"] = 1.0
    ema_decay: Annotated[Fraction, "exponential moving average of the weights; 0: off"] = 0.0
    validate_every: Annotated[PositiveInt, "steps between validations"] = 500
    patience: Annotated[NaturalInt, "validations without gain before stopping; 0: never"] = 0
    precision: Annotated[Precision, "auto: bfloat16 where the machine is fast at it"] = "auto"
    tensorboard: Annotated[bool, "write TensorBoard events (needs the package)"] = False


@dataclass(frozen=True)
class DecodingConfig:
    """How a translation is searched for."""

    beam: Annotated[PositiveInt, "beam size; 1 is greedy"] = 1
    length_penalty: Annotated[Natural, "beam search's length penalty (Wu 2016)"] = 1.0
    max_length_ratio: Annotated[
        float, Meta(ge=0, le=100), "longest output: this times the input, plus 10 tokens"
    ] = 2.0
    batch_size: Annotated[PositiveInt, "sentences decoded together"] = 256
    precision: Annotated[Precision, "auto: bfloat16 for batches where that is faster"] = "auto"


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


SECTIONS = ("model.encoder_attention", "model.decoder_attention", "model.cross_attention")
ALIASES = {"model.attention": SECTIONS, "model.self_attention": SECTIONS[:2]}  # stand for several
RENAMED = {
    "data.held_out": "data.n_held_out",
    "train.batch_tokens": "train.max_tokens_per_batch",
    "train.accumulate": "train.grad_accum_steps",
    "train.decay": "train.lr_schedule",
    "train.clip_norm": "train.max_grad_norm",
    "train.average": "train.ema_decay",
    "train.r_drop": "train.r_drop_alpha",
    "decoding.max_ratio": "decoding.max_length_ratio",
}
for _section in (*SECTIONS, *ALIASES):
    RENAMED |= {
        f"{_section}.kind": f"{_section}.type",
        f"{_section}.extras": f"{_section}.modifiers",
    }


class Setting(NamedTuple):
    """A setting, described: ``model.dropout``, its annotated type, default and meaning."""

    key: str
    type: Any
    default: Any
    help: str

    @property
    def legal(self) -> str:
        """The legal values, in words, without limits that nobody reaches."""
        return self._legal(2**31 - 1)

    def _legal(self, largest: float) -> str:
        base, *bounds = get_args(self.type)
        if get_origin(base) is Literal:
            return "|".join(get_args(base))
        words = [{bool: "true|false", int: "integer", float: "number", str: "text"}[base]]
        for meta in bounds[:-1]:
            for sign, limit in ((">", meta.gt), (">=", meta.ge), ("<", meta.lt), ("<=", meta.le)):
                words += [f"{sign} {limit}"] if limit is not None and limit <= largest else []
        return " ".join(words)

    def convert(self, value: Any, is_text: bool) -> Any:
        """``value``, or what a command line's text means; ``ValueError`` if it is not legal."""
        try:
            converted = msgspec.convert(value, self.type, strict=not is_text)
        except (ValueError, RecursionError):
            raise ValueError(f"{value!r} is not legal: {self._legal(math.inf)}") from None
        if isinstance(converted, str) and any(category(c) in ("Cc", "Cs") for c in converted):
            raise ValueError(f"{value!r} holds control characters or is not UTF-8")
        return converted


@cache
def settings(section: Any = Config(), prefix: str = "") -> dict[str, Setting]:
    """Every setting by its dotted key, in the order of the dataclasses above."""
    described: dict[str, Setting] = {}
    hints = get_type_hints(type(section), include_extras=True)
    for item in fields(section):
        hint, default, key = hints[item.name], getattr(section, item.name), prefix + item.name
        if is_dataclass(default):
            described |= settings(default, key + ".")  # type: ignore[arg-type]
        else:
            described[key] = Setting(key, hint, default, help=get_args(hint)[-1])
    return described


@cache
def settings_and_aliases() -> dict[str, Setting]:
    """``settings`` and those that stand for the same setting of several sections."""
    described = settings().copy()
    for alias, (first, *_) in ALIASES.items():
        for key, setting in settings().items():
            if key.startswith(first + "."):
                described[key.replace(first, alias)] = setting
    return described


@cache
def _sections() -> set[str]:
    return {key.rsplit(".", depth)[0] for key in settings_and_aliases() for depth in (1, 2)}


class ConfigSource(NamedTuple):
    """Settings by dotted key, and where they come from."""

    origin: str
    values: dict[str, Any]
    is_text: bool = False  # of a command line: "3" may mean 3

    def checked(self) -> dict[str, Any]:
        """The values, converted; an alias sets each of its sections, unless that is set itself.

        ``UserError`` if a key is unknown, or a value has the wrong type or is out of range.
        """
        known = settings_and_aliases()
        direct: dict[str, Any] = {}
        shared: dict[str, Any] = {}
        for key, value in self.values.items():
            if key in RENAMED:
                raise UserError(f"{self.origin}: {key} is called {RENAMED[key]} now")
            if key not in known:
                hint = did_you_mean(key, [*known, *_sections()])
                raise UserError(f"{self.origin}: unknown key {key!r}{hint}")
            try:
                converted = known[key].convert(value, self.is_text)
            except ValueError as error:
                raise UserError(f"{self.origin}: {key}: {error}") from None
            section, name = key.rsplit(".", 1)
            if section in ALIASES:
                shared |= {f"{each}.{name}": converted for each in ALIASES[section]}
            else:
                direct[key] = converted
        return shared | direct


def load_config(
    path: Path,
    overrides: dict[str, str] | None = None,
    changes: Sequence[ConfigSource] = (),
    check: Callable[[Config], object] | None = None,
) -> Config:
    """The configuration in the TOML file ``path``, after its bases, with changes on top.

    Args:
        path: the file.
        overrides: settings from the command line, as text; they come last.
        changes: sources between the two.
        check: raises ``ConfigError`` if settings do not fit together (``check_attention``).

    Raises:
        UserError: something is wrong; the message names the source, the key and the value.
    """
    values = flatten(Config())
    origin = dict.fromkeys(values, str(path))
    command_line = ConfigSource("command line", overrides or {}, is_text=True)
    for source in (*_file_sources(path), *changes, command_line):
        checked = source.checked()
        values |= checked
        origin |= dict.fromkeys(checked, source.origin)
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        reduce(lambda table, section: table.setdefault(section, {}), sections, tree)[name] = value
    config = msgspec.convert(tree, Config)
    try:
        _check_consistency(config)
        if check is not None:
            check(config)
    except ConfigError as error:
        value = toml_value(values.get(error.key))
        where = origin.get(error.key, path)
        raise UserError(f"{where}: {error.key} = {value}: {error.problem}") from None
    return config


def _file_sources(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[ConfigSource]:
    """The file's bases, the furthest first, and the file."""
    table = read_toml(path)  # first: it reports names that cannot be resolved
    if path.resolve() in seen:
        raise UserError(f"{path}: is its own base")
    base = table.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise UserError(f"{path}: base: {base!r} is not the name of a TOML file")
        yield from _file_sources(path.parent / base, (*seen, path.resolve()))
    yield ConfigSource(str(path), flatten_toml(table, str(path)))


def _check_consistency(config: Config) -> None:
    """Raise ``ConfigError`` where settings are impossible together (the model checks its own)."""
    data, train = config.data, config.train
    for key, language in (("data.src", data.src), ("data.tgt", data.tgt)):
        if not re.fullmatch(r"[\w-]+", language):
            raise ConfigError(key, "must be a name")
    if data.src == data.tgt:
        raise ConfigError("data.tgt", f"must differ from data.src = {data.src!r}")
    if not (data.directory or data.hub.name):
        raise ConfigError("data.directory", "must name a folder, or data.hub.name a data set")
    for key, split in (("data.train", data.train), ("data.hub.train", data.hub.train)):
        if not split:
            raise ConfigError(key, "must not be empty")
    for key, splits in (("data.test", data.test), ("data.hub.test", data.hub.test)):
        names = [file_name(name) for name in splits.split()]
        if len(set(names)) < len(names) or {"train", "valid"} & set(names):
            raise ConfigError(key, "must be different names, none of them train or valid")
    if config.tokenizer.vocab_size <= MIN_VOCAB_SIZE:
        problem = f"must be above {MIN_VOCAB_SIZE}: 4 special tokens and 256 bytes come first"
        raise ConfigError("tokenizer.vocab_size", problem)
    if train.max_tokens_per_batch < data.max_tokens:
        problem = f"must hold the longest pair, data.max_tokens = {data.max_tokens}"
        raise ConfigError("train.max_tokens_per_batch", problem)
    if train.r_drop_alpha and not config.model.dropout:
        problem = "needs model.dropout above 0: without it, two passes are the same"
        raise ConfigError("train.r_drop_alpha", problem)


def read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(path).decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or not a path
        raise UserError(f"{path}: not a TOML file: {error}") from None


def flatten_toml(table: dict[str, Any], origin: str, prefix: str = "") -> dict[str, Any]:
    """The settings in nested tables by dotted key; unknown tables stay as they are."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        key = prefix + name
        if key not in _sections():
            flat[key] = value
        elif isinstance(value, dict):
            flat |= flatten_toml(value, origin, key + ".")
        else:
            raise UserError(f"{origin}: {key!r} is a section, not a value")
    return flat


def flatten(config: Config) -> dict[str, Any]:
    """Every value of ``config`` by its dotted key."""
    return {key: attrgetter(key)(config) for key in settings()}


def toml_value(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def dump_config(config: Config) -> str:
    """``config`` as TOML that ``load_config`` reads back to an equal one."""
    lines: list[str] = []
    section = ""
    for key, value in flatten(config).items():
        parent, name = key.rsplit(".", 1)
        if parent != section:
            lines += ["", f"[{parent}]"]
            section = parent
        lines.append(f"{name} = {toml_value(value)}")
    return "\n".join(lines[1:]) + "\n"
