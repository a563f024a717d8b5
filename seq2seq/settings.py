"""Every setting of an experiment: what it means and what it may be.

One frozen dataclass a concern; each annotation is type, help and, where not every value of the
type will do, the range. ``config.py`` reads and checks them.
"""

import difflib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints
from unicodedata import category

from seq2seq.registry import EXTRAS, KINDS, NORMALIZERS, POSITIONS, SCORES, Registry

MIN_VOCAB_SIZE = 4 + 256  # the special tokens and the bytes that every tokenizer holds


@dataclass(frozen=True)
class Range:
    """The numbers a setting may be."""

    test: Callable[[float], bool]
    words: str


POSITIVE = Range(lambda x: 0 < x < 2**31, "above 0 and below 2**31")
NOT_NEGATIVE = Range(lambda x: 0 <= x < 2**31, "0 or more and below 2**31")
RATIO = Range(lambda x: 0 <= x <= 100, "from 0 to 100")
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
class AttentionConfig:
    """One of the model's attentions, part by part; ``seq2seq variants`` lists the names."""

    kind: Annotated[str, "queries compared with keys, or what stands in their place", KINDS] = (
        "scored"
    )
    score: Annotated[str, "how a query is compared with a key", SCORES] = "scaled_dot"
    normalizer: Annotated[str, "how scores become weights", NORMALIZERS] = "softmax"
    position: Annotated[str, "how places of tokens are known", POSITIONS] = "sinusoidal"
    n_heads: Annotated[int, "heads; 0: model.n_heads", NOT_NEGATIVE] = 0
    kv_heads: Annotated[int, "heads of keys and values; 0: as many as heads", NOT_NEGATIVE] = 0
    window: Annotated[int, "tokens in reach on either side; 0: all", NOT_NEGATIVE] = 0
    extras: Annotated[str, "what is added, names parted by spaces", EXTRAS] = ""


@dataclass(frozen=True)
class ModelConfig:
    """The Transformer's shape."""

    d_model: Annotated[int, "width of every token's vector", POSITIVE] = 256
    d_ff: Annotated[int, "width inside the feed-forward layers", POSITIVE] = 1024
    n_heads: Annotated[int, "heads of each attention; must divide d_model", POSITIVE] = 4
    encoder_layers: Annotated[int, "layers of the encoder", POSITIVE] = 3
    decoder_layers: Annotated[int, "layers of the decoder", POSITIVE] = 3
    dropout: Annotated[float, "chance to zero a value after embedding and sub-layers", FRACTION] = (
        0.1
    )
    norm: Annotated[Literal["pre", "post"], "normalise before or after each sub-layer"] = "pre"
    tie_embeddings: Annotated[bool, "one matrix for every table of the same vocabulary"] = True
    encoder_attention: AttentionConfig = field(default_factory=AttentionConfig)
    decoder_attention: AttentionConfig = field(default_factory=AttentionConfig)
    cross_attention: AttentionConfig = field(
        default_factory=lambda: AttentionConfig(position="none")
    )


# Sections that stand for several: what is set here is set in each of those.
SHARED = {
    "model.self_attention": ("model.encoder_attention", "model.decoder_attention"),
    "model.attention": (
        "model.encoder_attention",
        "model.decoder_attention",
        "model.cross_attention",
    ),
}


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
    r_drop: Annotated[
        float,
        "from half of train.epochs on, read batches twice; weight of their disagreement; 0: once",
        NOT_NEGATIVE,
    ] = 0.0
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
    tensorboard: Annotated[bool, "write TensorBoard's events too (needs the package)"] = False


@dataclass(frozen=True)
class DecodingConfig:
    """How a translation is found."""

    beam: Annotated[int, "hypotheses kept a sentence; 1 is greedy", POSITIVE] = 1
    length_penalty: Annotated[float, "beam search's reward for length (Wu 2016)", NOT_NEGATIVE] = (
        1.0
    )
    max_ratio: Annotated[float, "longest output, as a multiple of the input, plus 10", RATIO] = 2.0
    batch_size: Annotated[int, "sentences decoded together", POSITIVE] = 256
    precision: Annotated[
        Literal["auto", "float32", "bfloat16"], "auto: bfloat16 for batches where that is faster"
    ] = "auto"


@dataclass(frozen=True)
class Config:
    """Everything that defines an experiment."""

    data: DataConfig = field(default_factory=DataConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)


# --- the settings, described ---


@dataclass(frozen=True)
class Option:
    """One setting, described: ``model.dropout``, its type, default and help."""

    key: str
    type: Any
    default: Any
    help: str
    range: Range | Registry | None

    @property
    def expects(self) -> str:
        """The legal values, in words."""
        if get_origin(self.type) is Literal:
            return " or ".join(repr(choice) for choice in get_args(self.type))
        names = {bool: "true or false", int: "an integer", float: "a number", str: "a string"}
        return names[self.type]

    def accept(self, value: Any) -> Any:
        """``value`` as this option's type; ``ValueError`` if it is of another, or out of range."""
        choices = get_args(self.type)
        types = (float, int) if self.type is float else (self.type,)
        if value not in choices if choices else type(value) not in types:
            raise ValueError(f"{value!r} is not {self.expects}")
        if isinstance(value, str) and any(category(c) in ("Cc", "Cs") for c in value):
            raise ValueError(f"{value!r} holds control characters or is not UTF-8")
        if self.range is not None and not self.range.test(value):
            hint = self.range.hint(value) if isinstance(self.range, Registry) else ""
            raise ValueError(f"{value!r} is not {self.range.words}{hint}")
        return float(value) if self.type is float else value

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
def options(section: Any = Config(), prefix: str = "") -> dict[str, Option]:
    """Every setting by its dotted key, in the order of the dataclasses above."""
    found: dict[str, Option] = {}
    hints = get_type_hints(type(section), include_extras=True)
    for item in fields(section):
        hint, default, key = hints[item.name], getattr(section, item.name), prefix + item.name
        if is_dataclass(default):
            found |= options(default, key + ".")  # type: ignore[arg-type]
        else:
            kind, text, *ranges = get_args(hint)
            found[key] = Option(key, kind, default, text, ranges[0] if ranges else None)
    return found


def shared_options() -> dict[str, Option]:
    """Settings that stand for the same one of several sections, see ``SHARED``."""
    found = {}
    for section, (first, *_) in SHARED.items():
        for key, option in options().items():
            if key.startswith(first + "."):
                name = key.replace(first, section)
                found[name] = replace(option, key=name, help=f"{option.help} (in each of several)")
    return found


def nearest(name: str, known: list[str]) -> str:
    """A ``; did you mean ...?`` for a misspelt ``name``, or nothing."""
    by_last_part = {key.rsplit(".", 1)[-1]: key for key in reversed(known)}
    last_part = name.rsplit(".", 1)[-1]
    same_last_part = [key for key in known if key.rsplit(".", 1)[-1] == last_part]
    close = same_last_part if len(same_last_part) == 1 else []
    close += difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    close += [by_last_part[part] for part in difflib.get_close_matches(last_part, by_last_part, 1)]
    return f"; did you mean {close[0]!r}?" if close else ""
