"""Configuration: what is accepted, what is refused, and in which words."""

from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import pytest
from conftest import attention_variants
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.config import dump_config, flatten, load_config, toml_value
from seq2seq.errors import UserError
from seq2seq.registry import EXTRAS, SCORES
from seq2seq.settings import Config, Option, options

ROOT = Path(__file__).parent.parent


def load(tmp_path: Path, text: str, **overrides: str) -> Config:
    path = tmp_path / "some.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path, {key.replace("__", "."): v for key, v in overrides.items()})


def complaint(tmp_path: Path, text: str, **overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        load(tmp_path, text, **overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message.replace(str(tmp_path) + "/", "")


BASE = '[data]\ndirectory = "x"\n'


def test_layers_of_settings(tmp_path: Path) -> None:
    config = load(tmp_path, BASE + "[model]\ndropout = 0.3\nd_model = 64", model__dropout="0.5")
    assert config.model.dropout == 0.5  # the command line wins over the file
    assert config.model.d_model == 64  # the file wins over the defaults
    assert config.model.d_ff == Config().model.d_ff


def test_values_from_the_command_line(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        BASE,
        train__learning_rate="3e-4",
        tokenizer__joint="false",
        data__directory="some folder",
        model__norm="post",
        train__epochs="7",
        model__dropout="0",
    )
    assert config.train.learning_rate == 3e-4
    assert config.tokenizer.joint is False
    assert config.data.directory == "some folder"
    assert config.model.norm == "post"
    assert config.train.epochs == 7
    assert config.model.dropout == 0.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[model]\ndroput = 0.1", "some.toml: unknown key 'model.droput'; did you mean 'model.dropout'?"),
        ("[train]\ndropout = 0.1", "some.toml: unknown key 'train.dropout'; did you mean 'model.dropout'?"),
        ("[modle]\nd_ff = 1", "some.toml: unknown key 'modle'; did you mean 'model'?"),
        ("[model]\nd_model = '64'", "some.toml: model.d_model: '64' is not an integer"),
        ("[model]\nd_model = 64.0", "some.toml: model.d_model: 64.0 is not an integer"),
        ("[model]\nd_model = true", "some.toml: model.d_model: True is not an integer"),
        ("[model]\nd_model = -2", "some.toml: model.d_model: -2 is not above 0 and below 2**31"),
        ("[model]\ndropout = 1.0", "some.toml: model.dropout: 1.0 is not at least 0 and below 1"),
        ("[model]\ndropout = nan", "some.toml: model.dropout: nan is not at least 0 and below 1"),
        ("[train]\nlearning_rate = inf", "some.toml: train.learning_rate: inf is not above 0 and below 2**31"),
        ("[train]\nlearning_rate = 1" + 400 * "0", f"some.toml: train.learning_rate: {10**400} is not above 0 and below 2**31"),
        ("[model]\nnorm = 'both'", "some.toml: model.norm: 'both' is not 'pre' or 'post'"),
        ("[model]\nn_heads = 7", "some.toml: model.n_heads = 7: must divide model.d_model = 256"),
        ("model = 3", "some.toml: 'model' is a section, not a value"),
        ("[model.norm]\nkind = 1", "some.toml: model.norm: {'kind': 1} is not 'pre' or 'post'"),
        ("[tokenizer]\nvocab_size = 200", "some.toml: tokenizer.vocab_size = 200: must be above 260: 4 special tokens and 256 bytes come first"),
        ("[train]\nr_drop = 3\n[model]\ndropout = 0", "some.toml: train.r_drop = 3.0: needs model.dropout above 0: without it, two passes are the same"),
        ("[train]\nbatch_tokens = 100", "some.toml: train.batch_tokens = 100: must hold the longest pair, data.max_tokens = 256"),
    ],
)  # fmt: skip
def test_complaints(tmp_path: Path, text: str, expected: str) -> None:
    prefix = "" if text.startswith("model") else BASE
    assert complaint(tmp_path, prefix + text) == expected


def test_complaints_about_the_command_line(tmp_path: Path) -> None:
    assert complaint(tmp_path, BASE, model__dropout="much") == (
        "command line: model.dropout: 'much' is not a number"
    )
    assert complaint(tmp_path, BASE, model__n_heads="3") == (
        "command line: model.n_heads = 3: must divide model.d_model = 256"
    )


def test_no_corpus_is_a_complaint(tmp_path: Path) -> None:
    assert "data.directory" in complaint(tmp_path, "")
    assert "data.tgt" in complaint(tmp_path, BASE + "src = 'en'")
    assert "data.src" in complaint(tmp_path, BASE + "src = '../x'")
    assert "data.train" in complaint(tmp_path, BASE + "train = ''")
    for names in ("a b a", "train", "test valid", "s/a s_a"):
        assert "data.test" in complaint(tmp_path, BASE + f"test = '{names}'")
        assert "data.hub.test" in complaint(tmp_path, BASE + f"[data.hub]\ntest = '{names}'")
    assert "data.directory" in complaint(tmp_path, "", data__directory="\udcff")
    assert "train.seed" in complaint(tmp_path, BASE, train__seed=str(2**64))


@pytest.mark.parametrize(
    "content", [b"[model\n", b"\xff\xfe", b"a = 1\na = 2", b"x = " + b"[" * 5000]
)
def test_broken_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"broken\.toml: not a TOML file"):
        load_config(path)
    with pytest.raises(UserError, match=r"missing\.toml: No such file"):
        load_config(tmp_path / "missing.toml")


def values(option: Option) -> st.SearchStrategy[Any]:
    """Legal values of a setting, as far as it alone is concerned."""
    choices = get_args(option.type)
    if choices:
        return st.sampled_from(choices)
    text = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), min_size=1)
    kinds: dict[Any, st.SearchStrategy[Any]] = {
        int: st.integers(1, 10**6),
        float: st.floats(1e-6, 0.99),
        bool: st.booleans(),
        str: text,
    }
    return kinds[option.type]


CROSS = "[model.cross_attention]\n"
ENCODER = "[model.encoder_attention]\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CROSS + "score = 'additve'", "cross_attention.score: 'additve' is not one of NAMES; did you mean 'additive'?"),
        (CROSS + "position = 'sinusoidal'", "cross_attention.position = \"sinusoidal\": is added to embeddings: set it in the other two sections"),
        (CROSS + "window = 3", "cross_attention.window = 3: is for self-attention: a long target would see no source"),
        (CROSS + "kv_heads = 3", "cross_attention.kv_heads = 3: must divide n_heads = 4"),
        (CROSS + "n_heads = 3", "cross_attention.n_heads = 3: must divide model.d_model = 256"),
        (ENCODER + "position = 'rotary'\nscore = 'additive'", "encoder_attention.position = \"rotary\": 'rotary' needs an inner product, which score = 'additive' is not"),
        (ENCODER + "position = 'shaw'\nextras = 'differential'", "encoder_attention.position = \"shaw\": 'shaw' needs whole heads, which extras = 'differential' split"),
        (ENCODER + "kind = 'linear'\nnormalizer = 'sparsemax'", "encoder_attention.normalizer = \"sparsemax\": has no place in kind = 'linear'"),
        (ENCODER + "kind = 'average'\nposition = 'alibi'", "encoder_attention.position = \"alibi\": has no place in kind = 'average'"),
        (ENCODER + "kind = 'none'\nn_heads = 2", "encoder_attention.n_heads = 2: has no place in kind = 'none'"),
        (ENCODER + "extras = 'differential'\nn_heads = 256", "encoder_attention.extras = \"differential\": a head's width, 1, cannot be halved"),
        (ENCODER + "position = 'rotary'\nn_heads = 256", "encoder_attention.position = \"rotary\": rotary positions turn pairs, but a head's width is 1"),
        (ENCODER + "extras = 'gated gated'", "encoder_attention.extras: 'gated gated' is not some of EXTRAS, parted by spaces"),
    ],
)  # fmt: skip
def test_attentions_that_cannot_be(tmp_path: Path, text: str, expected: str) -> None:
    expected = expected.replace("NAMES", ", ".join(SCORES)).replace("EXTRAS", ", ".join(EXTRAS))
    assert complaint(tmp_path, BASE + text) == f"some.toml: model.{expected}"


def test_widths_that_cannot_be(tmp_path: Path) -> None:
    message = complaint(tmp_path, BASE + "[model]\nd_model = 63\nn_heads = 3")
    assert message == (
        'some.toml: model.encoder_attention.position = "sinusoidal": '
        "sinusoidal positions are pairs of sine and cosine: d_model is odd"
    )


def test_shared_sections_stand_for_each(tmp_path: Path) -> None:
    """The more special setting wins, wherever it stands."""
    text = "[model.encoder_attention]\nscore = 'dot'\n[model.attention]\nscore = 'cosine'\n"
    model = load(tmp_path, BASE + text, model__self_attention__position="rotary").model
    assert model.encoder_attention.score == "dot"
    assert model.decoder_attention.score == model.cross_attention.score == "cosine"
    assert model.encoder_attention.position == model.decoder_attention.position == "rotary"
    assert model.cross_attention.position == "none"
    assert "did you mean 'model.attention.score'" in complaint(
        tmp_path, BASE + "[model.attention]\nscor = 'dot'"
    )


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_what_is_saved_is_read_back(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    fixed = {"data.src": "de", "data.tgt": "en", "model.d_model": 64, "model.n_heads": 8}
    fixed |= {
        "data.test": "test second",
        "data.hub.test": "",
        "data.max_tokens": 20,
        "train.batch_tokens": 40,
        "tokenizer.vocab_size": 500,
    }
    for section in ("encoder_attention", "decoder_attention", "cross_attention"):
        attention = asdict(data.draw(st.sampled_from(list(attention_variants().values()))))
        attention["window"] = 0  # cross-attention has none
        fixed |= {f"model.{section}.{key}": value for key, value in attention.items()}
    if fixed["model.cross_attention.position"] in ("sinusoidal", "learned"):
        fixed["model.cross_attention.position"] = "none"
    drawn = {key: data.draw(values(o)) for key, o in options().items() if key not in fixed}
    path = tmp_path_factory.mktemp("config") / "c.toml"
    lines = [f"{key} = {toml_value(value)}\n" for key, value in (drawn | fixed).items()]
    path.write_bytes("".join(lines).encode())
    config = load_config(path)
    assert flatten(config) == drawn | fixed
    path.write_bytes(dump_config(config).encode())
    assert load_config(path) == config


@settings(deadline=None, max_examples=100)
@given(content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_no_file_breaks_it(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("config") / "c.toml"
    path.write_bytes(content)
    with pytest.raises(UserError):  # at the least, it names no corpus
        load_config(path)


def test_every_setting_has_help_and_a_legal_default() -> None:
    defaults = flatten(Config())
    for key, option in options().items():
        assert len(option.help) > 10
        assert option.accept(defaults[key]) == option.default


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda p: p.stem)
def test_ready_configurations_are_valid(path: Path) -> None:
    load_config(path)
