"""Every setting: its meaning, its legal values, and how TOML files and the command line set it.

A configuration is a TOML file over the defaults below; ``base = "other.toml"`` puts it over another
file instead, and the command line comes last. One line names the source, the key and the legal
values of whatever is wrong, before any work begins.
"""

import csv
import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache, partial, reduce
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_type_hints
from unicodedata import category

import msgspec
from msgspec import Meta

from seq2seq.shipped import find_config
from seq2seq.utils import ConfigError, UserError, did_you_mean, file_name, read_bytes

# The annotation of a setting is its type, its range and its meaning.
PositiveInt = Annotated[int, Meta(gt=0, lt=2**31)]
NaturalInt = Annotated[int, Meta(ge=0, lt=2**31)]
Natural = Annotated[float, Meta(ge=0, lt=2**31)]
Fraction = Annotated[float, Meta(ge=0, lt=1)]
VocabSize = Annotated[int, Meta(gt=4 + 256, lt=2**31)]
Penalty = Annotated[float, Meta(ge=0, le=10)]
Ratio = Annotated[float, Meta(ge=0, le=100)]
Language = Annotated[str, Meta(pattern=r"^[\w-]+$")]
SelectBy = Literal["auto", "bleu", "chrf", "loss"]
Precision = Literal["auto", "float32", "bfloat16"]
BleuTokenizer = Literal["auto", "13a", "intl", "zh", "ja-mecab", "ko-mecab", "char"]  # sacreBLEU's

# Of what is read from JSON files: numbers that arithmetic bears, names that stay on a line.
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Number = Annotated[float, Meta(gt=-(2.0**53), lt=2.0**53)]
Name = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9_+-]*\Z")]  # a folder may have it
Line = Annotated[str, Meta(pattern=r"^[^\n]*\Z")]

toml_value = partial(json.dumps, ensure_ascii=False)


@dataclass(frozen=True)
class DataConfig:
    """The parallel corpus, and how it is split."""

    src: Annotated[Language, "source language: file extension, column, TMX language"] = "de"
    tgt: Annotated[Language, "target language: file extension, column, TMX language"] = "en"
    path: Annotated[str, "file, folder, or OWNER/NAME of a data set on the hub"] = ""
    columns: Annotated[str, "SOURCE,TARGET: their names, or numbers from 1; empty: found out"] = ""
    subset: Annotated[str, "configuration of the hub's data set, where it has several"] = ""
    revision: Annotated[str, "commit, tag or branch on the hub; a commit never changes"] = ""
    train: Annotated[str, Meta(min_length=1), "training split: of files, their prefix"] = "train"
    valid: Annotated[str, "validation split, or val, dev; empty: held out"] = "valid"
    test: Annotated[str, "test splits, separated by spaces; empty: held out"] = "test"
    n_held_out: Annotated[PositiveInt, "source sentences held out for a split, at most"] = 1000
    drop_overlap: Annotated[bool, "drop training pairs that share a side with others"] = False
    max_tokens: Annotated[PositiveInt, "longer training pairs are dropped, input is cut"] = 256


@dataclass(frozen=True)
class TokenizerConfig:
    """Subwords by byte-pair encoding (sentencepiece), learned from the training split."""

    vocab_size: Annotated[VocabSize, "subwords, with special tokens and 256 bytes"] = 8000
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
    encoder_attention: AttentionConfig = AttentionConfig()
    decoder_attention: AttentionConfig = AttentionConfig()
    cross_attention: AttentionConfig = AttentionConfig(position="none")


@dataclass(frozen=True)
class TrainConfig:
    """How the weights are learned."""

    seed: Annotated[int, Meta(ge=0, lt=2**32), "seed of weights, dropout and data order"] = 1
    init_from: Annotated[str, "run whose weights and subwords to start from; empty: none"] = ""
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
    select_by: Annotated[SelectBy, "what is best; auto: BLEU, or chrF for short targets"] = "auto"
    patience: Annotated[NaturalInt, "validations without gain before stopping; 0: never"] = 0
    precision: Annotated[Precision, "auto: bfloat16 where the machine is fast at it"] = "auto"
    tensorboard: Annotated[bool, "write TensorBoard events (needs the package)"] = False


@dataclass(frozen=True)
class TeachersConfig:
    """Models of both directions that make synthetic training pairs (Nguyen et al. 2020)."""

    n: Annotated[NaturalInt, "models of each direction; 0: no synthetic pairs"] = 0
    epochs: Annotated[PositiveInt, "of each, on the real pairs"] = 16
    r_drop_alpha: Annotated[Natural, "R-Drop's weight in them, from half way; 0: off"] = 0.0
    folder: Annotated[str, "where they are, for several runs; empty: in the run folder"] = ""


@dataclass(frozen=True)
class DecodingConfig:
    """How a translation is searched for."""

    beam: Annotated[int, Meta(gt=0, le=1000), "beam size; 1 is greedy"] = 1
    length_penalty: Annotated[Penalty, "beam search's length penalty (Wu 2016)"] = 1.0
    max_length_ratio: Annotated[Ratio, "longest output: this times the input, plus 10 tokens"] = 2.0
    no_repeat: Annotated[NaturalInt, "no output has an n-gram of so many tokens twice; 0: any"] = 0
    batch_size: Annotated[PositiveInt, "hypotheses decoded together: sentences times beam"] = 256
    precision: Annotated[Precision, "auto: bfloat16 for batches where that is faster"] = "auto"
    lean: Annotated[bool, "less overhead for few sentences on CPUs, in float32"] = True


@dataclass(frozen=True)
class EvaluationConfig:
    """How translations are scored."""

    bleu_tokenizer: Annotated[BleuTokenizer, "what BLEU counts; auto: as data.tgt needs"] = "auto"


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment."""

    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    teachers: TeachersConfig = TeachersConfig()
    decoding: DecodingConfig = DecodingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


SECTIONS = ("model.encoder_attention", "model.decoder_attention", "model.cross_attention")
ALIASES = {"model.attention": SECTIONS, "model.self_attention": SECTIONS[:2]}  # stand for several
RENAMED = {
    "data.held_out": "data.n_held_out",
    "data.directory": "data.path",
    "data.hub.name": "data.path",
    "train.batch_tokens": "train.max_tokens_per_batch",
    "train.accumulate": "train.grad_accum_steps",
    "train.decay": "train.lr_schedule",
    "train.clip_norm": "train.max_grad_norm",
    "train.average": "train.ema_decay",
    "train.r_drop": "train.r_drop_alpha",
    "decoding.max_ratio": "decoding.max_length_ratio",
}
for _name in ("subset", "revision", "train", "valid", "test"):
    RENAMED[f"data.hub.{_name}"] = f"data.{_name}"
for _section in (*SECTIONS, *ALIASES):
    RENAMED[f"{_section}.kind"] = f"{_section}.type"
    RENAMED[f"{_section}.extras"] = f"{_section}.modifiers"


@cache
def settings(section: type = Config, prefix: str = "") -> dict[str, Any]:
    """The annotation of every setting by its dotted key, in the order above; aliases at the end."""
    annotations: dict[str, Any] = {}
    for name, annotation in get_type_hints(section, include_extras=True).items():
        if is_dataclass(annotation):
            annotations |= settings(annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            annotations[prefix + name] = annotation
    for alias in ALIASES if section is Config else ():
        annotations |= settings(AttentionConfig, f"{alias}.")
    return annotations


def hint(key: str) -> str:
    """What may be meant by ``key``, which is no setting."""
    if key in RENAMED:
        return f": it is called {RENAMED[key]} now"
    if any(known.startswith(f"{key}.") for known in settings()):
        return ": it is a section"
    guess = did_you_mean(key, [*settings(), *RENAMED])
    for old, new in RENAMED.items():
        guess = guess.replace(repr(old), repr(new))
    return guess


class ConfigSource(NamedTuple):
    """Settings by dotted key, and where they come from."""

    origin: str
    values: Mapping[str, Any]
    is_text: bool = False  # of a command line: "3" may mean 3

    def checked(self) -> dict[str, Any]:
        """The values, converted; an alias sets each of its sections, unless that is set itself.

        ``UserError`` if a key is unknown, or a value has the wrong type or is out of range.
        """
        direct: dict[str, Any] = {}
        aliased: dict[str, Any] = {}
        for key, value in self.values.items():
            if value == {} and hint(key) == ": it is a section":
                continue
            if key not in settings():
                raise UserError(f"{self.origin}: unknown key {key!r}{hint(key)}")
            choices = get_args(get_args(settings()[key])[0])  # of a Literal
            try:
                converted = msgspec.convert(value, settings()[key], strict=not self.is_text)
                if isinstance(value, str) and any(category(c) in ("Cc", "Cs") for c in value):
                    raise ValueError("holds control characters or is not UTF-8")
            except ValueError as error:
                problem = f"must be one of {', '.join(choices)}" if choices else error
                raise UserError(f"{self.origin}: {key} = {value!r}: {problem}") from None
            section, name = key.rsplit(".", 1)
            target = aliased if section in ALIASES else direct
            target |= {f"{each}.{name}": converted for each in ALIASES.get(section, (section,))}
        return aliased | direct


def load_config(
    file: "Path | ConfigSource",
    overrides: Mapping[str, Any] | None = None,
    changes: Sequence[ConfigSource] = (),
    check: Callable[[Config], object] = lambda config: None,
) -> Config:
    """The configuration in a TOML file, over its bases, or in another source, under ``changes``.

    ``overrides`` are the command line's settings, text or not, and come last. ``check`` raises
    ``ConfigError`` if settings do not fit together (``empty_model``). ``UserError`` if
    something is wrong; the message names the source, the key and the value.
    """
    tree, origins = asdict(Config()), dict[str, str]()
    command_line = ConfigSource("command line", overrides or {}, is_text=True)
    sources = _file_sources(file) if isinstance(file, Path) else [file]
    for source in (*sources, *changes, command_line):
        for key, value in source.checked().items():
            *sections, name = key.split(".")
            reduce(getitem, sections, tree)[name] = value
            origins[key] = source.origin
    config = msgspec.convert(tree, Config)
    try:
        _check_consistency(config)
        check(config)
    except ConfigError as error:
        where = origins.get(error.key, file if isinstance(file, Path) else file.origin)
        value = toml_value(flatten(config)[error.key])
        raise UserError(f"{where}: {error.key} = {value}: {error.problem}") from None
    return config


def _file_sources(path: Path, seen: tuple[Path, ...] = ()) -> Iterator[ConfigSource]:
    """The file's bases, the furthest first, and the file."""
    table = read_toml(path)  # first: it reports names that cannot be resolved
    if path.resolve() in seen:
        raise UserError(f"{path}: is its own base")
    if "base" in table:
        base = table.pop("base")
        if not isinstance(base, str):
            raise UserError(f"{path}: base: must be text, the name of another file")
        yield from _file_sources(find_config(base, path.parent), (*seen, path.resolve()))
    yield ConfigSource(str(path), flatten_toml(table))


def _check_consistency(config: Config) -> None:
    """Raise ``ConfigError`` where settings are impossible together (the model checks its own)."""
    data, train = config.data, config.train
    if data.src == data.tgt:
        raise ConfigError("data.tgt", f"must differ from data.src = {data.src!r}")
    if not data.path:
        raise ConfigError("data.path", "give your corpus: --data.path PATH, or a name on the hub")
    if data.columns and len(next(csv.reader([data.columns]))) != 2:
        raise ConfigError("data.columns", "must be two, with a comma between: SOURCE,TARGET")
    names = ["train", "valid", *map(file_name, data.test.split())]
    if len(set(names)) < len(names):
        raise ConfigError("data.test", "must be different names, none of them train or valid")
    if train.max_tokens_per_batch < data.max_tokens:
        problem = f"must hold the longest pair, data.max_tokens = {data.max_tokens}"
        raise ConfigError("train.max_tokens_per_batch", problem)
    for key, alpha in (
        ("train.r_drop_alpha", train.r_drop_alpha),
        ("teachers.r_drop_alpha", config.teachers.n and config.teachers.r_drop_alpha),
    ):
        if alpha and not config.model.dropout:
            problem = "needs model.dropout above 0: without it, two passes are the same"
            raise ConfigError(key, problem)


def read_toml(path: Path) -> dict[str, Any]:
    try:
        table = tomllib.loads(read_bytes(path).decode("utf-8-sig"))
        repr(table)  # fails here, and in no message, for a hexadecimal number of a page
        return table
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, or not a path
        raise UserError(f"{path}: not a TOML file: {error}") from None


def flatten_toml(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values in nested tables by dotted key, down to the depth of settings."""
    flat: dict[str, Any] = {}
    for name, value in table.items():
        is_section = isinstance(value, dict) and prefix.count(".") < 2 and value != {}
        flat |= flatten_toml(value, f"{prefix}{name}.") if is_section else {prefix + name: value}
    return flat


def flatten(config: Config) -> dict[str, Any]:
    """Every value of ``config`` by its dotted key."""
    return flatten_toml(asdict(config))


def dump_config(config: Config) -> str:
    """``config`` as TOML that ``load_config`` reads back to an equal one."""
    lines: list[str] = []
    for key, value in flatten(config).items():
        section, name = key.rsplit(".", 1)
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"]
        lines.append(f"{name} = {toml_value(value)}")
    return "\n".join(lines[1:]) + "\n"
