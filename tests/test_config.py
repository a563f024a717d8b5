"""Configuration: what is accepted, what is refused, and what a message names."""

import re
import tomllib
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from conftest import attention_variants
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from seq2seq.attention import MODIFIERS, SCORES
from seq2seq.config import (
    ALIASES,
    RENAMED,
    Config,
    ConfigSource,
    dump_config,
    flatten,
    load_config,
    settings,
    toml_value,
)
from seq2seq.experiments.runs import empty_model
from seq2seq.utils import UserError

ROOT = Path(__file__).parent.parent
BASE = '[data]\npath = "x"\n'


def load(tmp_path: Path, text: str, **overrides: str) -> Config:
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, overrides, check=empty_model)


def error(tmp_path: Path, text: str, **overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path) + "/", "")


def test_empty_tables(tmp_path: Path) -> None:
    load(tmp_path, BASE + "[model]\n[train]")
    assert "unknown key 'modle'" in error(tmp_path, BASE + "[modle]")
    assert "model.dropout = {}" in error(tmp_path, BASE + "[model.dropout]")


def test_later_sources_win(tmp_path: Path) -> None:
    """Defaults, the file, changes in their order, the command line."""
    text = BASE + "[model]\ndropout = 0.3\nd_model = 64"
    model = load(tmp_path, text, **{"model.dropout": "0.5"}).model
    assert (model.dropout, model.d_model, model.d_ff) == (0.5, 64, Config().model.d_ff)
    first = ConfigSource("first", {"model.dropout": 0.1, "model.attention.score": "dot"})
    second = ConfigSource("second", {"model.dropout": 0.2, "train.epochs": 3})
    path = tmp_path / "some.toml"
    config = load_config(path, {"train.epochs": "4"}, [first, second], empty_model)
    assert (config.model.dropout, config.model.d_model, config.train.epochs) == (0.2, 64, 4)
    assert config.model.cross_attention.score == "dot"
    for values in ({"model.n_heads": 7}, {"model.d_ff": "7"}):
        with pytest.raises(UserError, match=rf"second: {next(iter(values))}"):
            load_config(path, {}, [first, ConfigSource("second", values)], empty_model)
    message = error(tmp_path, text, **{"model.n_heads": "3"})
    assert re.match(r"command line: model\.n_heads = 3: .* model\.d_model = 64\b", message)


def test_command_line_values(tmp_path: Path) -> None:
    for key, text, value in (
        ("train.learning_rate", "3e-4", 3e-4), ("tokenizer.joint", "false", False),
        ("data.path", "a folder", "a folder"), ("model.norm", "post", "post"),
        ("train.epochs", "7", 7), ("model.dropout", "0", 0.0),
    ):  # fmt: skip
        converted = flatten(load(tmp_path, BASE, **{key: text}))[key]
        assert (converted, type(converted)) == (value, type(value))


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("model.d_model", "'64'", "`int`"), ("model.d_model", "64.0", "`int`"),
        ("model.d_model", "true", "`int`"), ("model.d_model", "-2", ">= 1"),
        ("model.d_model", "2147483648", "<= 2147483647"), ("train.seed", "4294967296", "<= 4294967295"),
        ("model.dropout", "1.0", "< 1.0"), ("model.dropout", "nan", ">= 0.0"),
        ("train.learning_rate", "inf", "< 2147483648.0"),
        ("train.learning_rate", "1" + 400 * "0", "out of range"),
        ("decoding.beam", "1001", "<= 1000"), ("decoding.length_penalty", "11", "<= 10"),
        ("decoding.max_length_ratio", "101", "<= 100"), ("tokenizer.joint", "1", "`bool`"),
        ("model.norm", "'both'", "one of pre, post"), ("data.subset", "1", "`str`"),
        ("data.src", "2020-01-01", "`str`"), ("data.path", '"a\\u0000b"', "control"),
    ],
)  # fmt: skip
def test_illegal_values(tmp_path: Path, key: str, value: str, limit: str) -> None:
    message = error(tmp_path, f"{key} = {value}")
    assert message.startswith(f"some.toml: {key} = ")
    assert repr(tomllib.loads(f"x = {value}")["x"]) in message
    assert limit in message
    if key == "model.dropout":
        message = error(tmp_path, BASE, **{"model.dropout": value})
        assert re.match(rf"command line: model\.dropout = '{value}': .*{limit}", message)


@pytest.mark.parametrize("key", RENAMED)
def test_renamed_settings(tmp_path: Path, key: str) -> None:
    assert RENAMED[key] in settings()
    messages = [error(tmp_path, f"{key} = 1"), error(tmp_path, BASE, **{key: "1"})]
    for message, origin in zip(messages, ("some.toml", "command line"), strict=True):
        assert re.match(rf"{origin}: .*'{key}': .* {RENAMED[key]}\b", message)


def test_corpus_settings(tmp_path: Path) -> None:
    assert "data.path" in error(tmp_path, "")
    wrong = {"src": "../x", "tgt": "de", "train": "", "columns": "a, b, c"}
    for name, value in wrong.items():
        assert f"data.{name} = " in error(tmp_path, BASE + f"{name} = '{value}'")
    for names in ("a b a", "train", "test valid", "s/a s_a"):
        assert "data.test" in error(tmp_path, BASE + f"test = '{names}'")
    assert "data.path" in error(tmp_path, "", **{"data.path": "\udcff"})


@hypothesis_settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
@example(content=b"[model\n")
@example(content=b"\xff\xfe")
@example(content=b"a = 1\na = 2")
@example(content=b"x = " + b"[" * 5000)
def test_broken_files(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"any\.toml: "):  # at the least, it names no corpus
        load_config(path)


def test_base_files(tmp_path: Path) -> None:
    """A base's base, in another folder; each file over its base, and the command line over all."""
    (folder := tmp_path / "shared").mkdir()
    root = BASE + "[model]\nd_ff = 1\nd_model = 8\ndropout = 0.1\nattention.score = 'dot'"
    (folder / "root.toml").write_text(root)
    middle = "base = 'root.toml'\nmodel.d_ff = 2\nmodel.d_model = 12\nmodel.dropout = 0.2\n"
    (folder / "middle.toml").write_text(middle + "[model.cross_attention]\nscore = 'cosine'")
    top = "base = 'shared/middle.toml'\nmodel.d_ff = 3\nmodel.dropout = 0.3\n"
    config = load(tmp_path, top, **{"model.dropout": "0.4"})
    assert config.data.path == "x"
    assert (config.model.d_model, config.model.d_ff, config.model.dropout) == (12, 3, 0.4)
    scores = config.model.encoder_attention.score, config.model.cross_attention.score
    assert scores == ("dot", "cosine")
    assert error(tmp_path, top + "model.n_heads = 5").startswith("some.toml: model.n_heads = 5")
    (folder / "middle.toml").write_text("base = 'root.toml'\nmodel.droput = 1")
    assert error(tmp_path, top).startswith("shared/middle.toml: unknown key 'model.droput'")


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ("'gone.toml'", "gone.toml: No such file"), ("''", "irectory"), ("3", "some.toml: base:"),
        ("['a.toml']", "some.toml: base:"), ("'some.toml'", "some.toml: is its own base"),
        ("'other.toml'", "some.toml: is its own base"), ("'loop.toml'", "loop.toml"),
        ('"a\\u0000b"', "No such file"),
    ],
)  # fmt: skip
def test_wrong_base(tmp_path: Path, base: str, named: str) -> None:
    (tmp_path / "other.toml").write_text("base = './some.toml'")
    (tmp_path / "loop.toml").symlink_to("loop.toml")
    assert named in error(tmp_path, f"base = {base}\n" + BASE)


CROSS = "[model.cross_attention]\n"
ENCODER = "[model.encoder_attention]\n"


@pytest.mark.parametrize(
    ("text", "key", "named"),
    [
        ("[model]\ndroput = 0.1", "model.droput", ("'model.dropout'?",)),
        ("[train]\ndropout = 0.1", "train.dropout", ("'model.dropout'?",)),
        ("[modle]\nd_ff = 1", "modle.d_ff", ("'model.d_ff'?",)),
        ("[model]\nscore = 'dot'", "model.score", ("'model.attention.score'?",)),
        ("[model.attention]\nscor = 'dot'", "model.attention.scor", ("'model.attention.score'?",)),
        ("[model]\nattention = 3", "model.attention", ("section",)),
        ("model = 3", "model", ("section",)),
        ("[model]\nn_heads = 7", "model.n_heads = 7", ("model.d_model = 256",)),
        ("[tokenizer]\nvocab_size = 200", "tokenizer.vocab_size = 200", ("261",)),
        ("[train]\nr_drop_alpha = 3\n[model]\ndropout = 0", "train.r_drop_alpha = 3.0", ("model.dropout",)),
        ("[teachers]\nn = 1\nr_drop_alpha = 3\n[model]\ndropout = 0", "teachers.r_drop_alpha = 3.0", ("model.dropout",)),
        ("[train]\nmax_tokens_per_batch = 100", "train.max_tokens_per_batch = 100", ("data.max_tokens = 256",)),
        (CROSS + "score = 'additve'", "model.cross_attention.score = ", (*SCORES, "'additve'", "'additive'?")),
        (CROSS + "score = 'hard_coded'", "model.cross_attention.score = ", ("'hard_coded'", "write type = 'hard_coded'")),
        (CROSS + "position = 'sinusoidal'", "model.cross_attention.position = ", ("sinusoidal", "embeddings")),
        (CROSS + "window = 3", "model.cross_attention.window = ", ("3", "self-attention")),
        (CROSS + "kv_heads = 3", "model.cross_attention.kv_heads = ", ("3", "n_heads = 4")),
        (CROSS + "n_heads = 3", "model.cross_attention.n_heads = ", ("3", "model.d_model = 256")),
        (ENCODER + "position = 'rotary'\nscore = 'additive'", "model.encoder_attention.position = ", ("rotary", "score = 'additive'")),
        (ENCODER + "type = 'ssru'\nposition = 'none'", "model.encoder_attention.type = ", ("'ssru'", "decoder's")),
        (CROSS + "position = 'cope'", "model.cross_attention.position = ", ("'cope'", "self-attention")),
        (CROSS + "modifiers = 'forgetting'", "model.cross_attention.modifiers = ", ("'forgetting'", "self-attention")),
        (ENCODER + "position = 'shaw'\nmodifiers = 'differential'", "model.encoder_attention.position = ", ("'shaw'", "'differential'")),
        (ENCODER + "type = 'linear'\nnormalizer = 'sparsemax'", "model.encoder_attention.normalizer = ", ("sparsemax", "type = 'linear'")),
        (ENCODER + "type = 'average'\nposition = 'alibi'", "model.encoder_attention.position = ", ("alibi", "type = 'average'")),
        (ENCODER + "type = 'none'\nn_heads = 2", "model.encoder_attention.n_heads = ", ("2", "type = 'none'")),
        (ENCODER + "modifiers = 'differential'\nn_heads = 256", "model.encoder_attention.modifiers = ", ("differential", "width 1 ")),
        (ENCODER + "position = 'rotary'\nn_heads = 256", "model.encoder_attention.position = ", ("rotary", "width is 1")),
        (ENCODER + "modifiers = 'gated gated'", "model.encoder_attention.modifiers = ", ("gated gated",)),
        (ENCODER + "modifiers = 'gated gatde'", "model.encoder_attention.modifiers = ", (*MODIFIERS, "'gatde'", "'gated'?")),
    ],
)  # fmt: skip
def test_wrong_settings(tmp_path: Path, text: str, key: str, named: tuple[str, ...]) -> None:
    message = error(tmp_path, text if text.startswith("model") else BASE + text)
    assert message.startswith("some.toml: ")
    assert [name for name in (key, *named) if name not in message] == []


def test_aliases(tmp_path: Path) -> None:
    """Within a source the more special setting wins, wherever it stands."""
    text = ENCODER + "score = 'dot'\n[model.attention]\nscore = 'cosine'\n"
    model = load(tmp_path, BASE + text, **{"model.self_attention.position": "rotary"}).model
    assert model.encoder_attention.score == "dot"
    assert model.decoder_attention.score == model.cross_attention.score == "cosine"
    every = model.encoder_attention, model.decoder_attention, model.cross_attention
    assert [attention.position for attention in every] == ["rotary", "rotary", "none"]
    # A later source wins over an earlier one, even by an alias.
    model = load(tmp_path, BASE + text, **{"model.attention.score": "additive"}).model
    assert model.encoder_attention.score == model.cross_attention.score == "additive"
    for alias, sections in ALIASES.items():
        aliased = {key for key in settings() if key.startswith(alias + ".")}
        for section in sections:
            names = {key for key in settings() if key.startswith(section + ".")}
            assert {key.replace(alias, section) for key in aliased} == names
    assert "model.self_attention.window = -1: " in error(
        tmp_path, "model.self_attention.window = -1"
    )


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Legal values of a setting, as far as it alone is concerned."""
    base = get_args(annotation)[0]
    if base in (int, float, bool):
        numbers = {int: st.integers(1, 1000), float: st.floats(1e-6, 0.99), bool: st.booleans()}
        return numbers[base]
    if get_origin(base) is Literal:
        return st.sampled_from(get_args(base))
    return st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)


@pytest.mark.slow
@hypothesis_settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_saved_configuration_is_read_back(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fixed = {
        "data.src": "de", "data.tgt": "en", "data.test": "test second", "data.columns": "2,1",
        "data.max_tokens": 20, "train.max_tokens_per_batch": 40, "tokenizer.vocab_size": 500,
        "model.d_model": 64, "model.n_heads": 8,
    }  # fmt: skip
    for section in ("encoder_attention", "decoder_attention", "cross_attention"):
        attention = asdict(data.draw(st.sampled_from(list(attention_variants().values()))))
        attention["window"] = 0  # cross-attention has none
        fixed |= {f"model.{section}.{key}": value for key, value in attention.items()}
    if fixed["model.cross_attention.position"] in ("sinusoidal", "learned"):
        fixed["model.cross_attention.position"] = "none"
    drawn = {
        key: data.draw(values(settings()[key])) for key in flatten(Config()) if key not in fixed
    }
    path = tmp_path_factory.mktemp("config") / "c.toml"
    lines = [f"{key} = {toml_value(value)}\n" for key, value in (drawn | fixed).items()]
    path.write_bytes("".join(lines).encode())
    config = load_config(path)
    assert flatten(config) == drawn | fixed
    path.write_bytes(dump_config(config).encode())
    assert load_config(path) == config


def test_every_setting_has_help_and_a_legal_default() -> None:
    assert all(len(get_args(annotation)[-1]) > 10 for annotation in settings().values())
    defaults = flatten(Config())
    assert ConfigSource("defaults", defaults).checked() == defaults


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_ready_configurations(path: Path) -> None:
    if path.stem in ("tiny", "tatoeba"):  # for corpora of one's own
        with pytest.raises(UserError, match=r"data\.path.*: give your corpus"):
            load_config(path)
        load_config(path, {"data.path": "mine"}, check=empty_model)
    else:
        load_config(path, check=empty_model)
