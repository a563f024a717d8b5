"""The picture of the whole model: its shapes against what passes through, its structure, its text."""

import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, attention_variants, with_attention
from torch import Tensor, nn

from seq2seq.attention import Attention
from seq2seq.config import AttentionConfig, ModelConfig, load_config
from seq2seq.model.transformer import Seq2Seq
from seq2seq.viewer.diagram import draw_model

SRC = ["▁ba", "<script>", "&amp;", "▁ke", "</s>"]
TGT = ["<s>", "▁lo", "<b>'\"", "</s>"]
NONE = AttentionConfig(type="none", position="none")
ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def drawn(config: ModelConfig = SMALL, joint: bool = True) -> tuple[Seq2Seq, ET.Element]:
    torch.manual_seed(0)
    model = Seq2Seq(config, 40, 40 if joint else 50, joint).eval()
    return model, ET.fromstring(draw_model(model, config, SRC, TGT))


def lines(svg: ET.Element) -> list[str]:
    return ["".join(element.itertext()) for element in svg.iter(f"{SVG}text")]


def shapes(svg: ET.Element) -> dict[str, tuple[int, ...]]:
    """The numbers in the picture, by the name of what they are the shape of."""
    found = [(span.get("data-of"), span.text) for span in svg.iter(f"{SVG}tspan")]
    return {of: tuple(map(int, (text or "").split(" × "))) for of, text in found if of}


def passed(model: Seq2Seq) -> dict[str, tuple[int, ...]]:
    """The shapes that hooks of our own see, of outputs, first inputs, weights and parameters."""
    seen = {name: tuple(x.shape) for name, x in model.named_parameters(remove_duplicate=False)}
    recorded: dict[str, Attention] = {}

    def note(name: str, value: Any) -> None:
        if isinstance(value, Tensor):
            seen[name] = tuple(value[0].shape) if value.ndim == 3 else tuple(value.shape)

    def hook(name: str) -> Any:
        def of_call(module: nn.Module, args: Any, output: Any) -> None:
            note(name, output)
            note(f"{name}.input", args[0])

        return of_call

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
        if isinstance(module, Attention):
            module.recorded, recorded[f"{name}.weights"] = [], module
    with torch.no_grad():
        model(torch.randint(4, 40, (1, len(SRC))), torch.randint(4, 40, (1, len(TGT) - 1)))
    for name, attention in recorded.items():
        assert attention.recorded
        seen[name] = tuple(attention.recorded[0].weights[0].shape)
    return seen


@pytest.mark.parametrize("name", attention_variants())
def test_shapes_are_those_of_the_model(name: str) -> None:
    config = with_attention(attention_variants()[name])
    model, svg = drawn(config)
    seen = passed(model)
    for of, shape in shapes(svg).items():
        assert shape == seen[of], of
    text = " ".join(lines(svg)).replace("\N{NO-BREAK SPACE}", " ")
    for part in ("encoder_attention", "decoder_attention", "cross_attention"):
        attention: AttentionConfig = getattr(config, part)
        if attention.type == "none":
            continue
        assert attention.type in text
        for modifier in attention.modifiers.split():
            assert modifier in text
        if attention.type == "multi_head":
            assert attention.score in text
            assert attention.normalizer in text


def test_shapes_by_hand() -> None:
    """Of 5 source and 3 target tokens, width 32, 4 heads of 8; 2 heads of keys in the encoder."""
    grouped = AttentionConfig(kv_heads=2)
    model, svg = drawn(replace(SMALL, encoder_attention=grouped, norm="post"), joint=False)
    enc, own, cross = (
        f"{x}_attention.attention" for x in ("encoder.0.self", "decoder.0.self", "decoder.0.cross")
    )
    projections = {
        f"{enc}.query_proj": (5, 32),
        f"{enc}.key_proj": (5, 16),
        f"{enc}.value_proj": (5, 16),
        f"{enc}.output_proj": (5, 32),
    }
    for x, n_keys in ((own, 3), (cross, 5)):
        projections |= {f"{x}.{name}_proj": (n_keys, 32) for name in ("key", "value")}
        projections |= {f"{x}.{name}_proj": (3, 32) for name in ("query", "output")}
    assert shapes(svg) == projections | {
        f"{enc}.weights": (4, 5, 5),
        f"{own}.weights": (4, 3, 3),
        f"{cross}.weights": (4, 3, 5),
        "src_embedding.weight": (40, 32),
        "tgt_embedding.weight": (50, 32),
        "src_position": (5, 32),
        "tgt_position": (3, 32),
        "encoder.0.input": (5, 32),
        "decoder.0.input": (3, 32),
        "encoder.0.feed_forward.up_proj": (5, 64),
        "encoder.0.feed_forward.down_proj": (5, 32),
        "decoder.0.feed_forward.up_proj": (3, 64),
        "decoder.0.feed_forward.down_proj": (3, 32),
        "encoder.0": (5, 32),
        "decoder.0.feed_forward": (3, 32),
        "encoder_norm": (5, 32),
        "output.weight": (50, 32),
        "output": (3, 50),
    }
    sizes, text = {"S": 5, "T": 3, "D": 32, "H": 4}, "\n".join(lines(svg))
    named = re.findall(r"\(([A-Z, ]+)\):?\s+([\d× ]+)", text)
    assert len(named) == 14
    for symbols, numbers in named:
        pairs = zip(symbols.split(", "), map(int, numbers.split("×")), strict=True)
        assert all(number == sizes.get(symbol, number) for symbol, number in pairs)
    for module in model.modules():  # the model itself was not touched
        assert not module._forward_hooks
        assert getattr(module, "recorded", None) is None


def count(svg: ET.Element, tag: str) -> int:
    return sum(1 for _ in svg.iter(f"{SVG}{tag}"))


def test_structure_follows_the_configuration() -> None:
    """Norms, additions, shared tables and attentions are drawn where the model has them."""
    _, pre = drawn()
    _, post = drawn(replace(SMALL, norm="post"))
    assert [lines(x).count("norm") for x in (pre, post)] == [5, 5]
    assert [("decoder_norm" in lines(x), count(x, "circle")) for x in (pre, post)] == [
        (True, 7),  # two positions, two sublayers of the encoder, three of the decoder
        (False, 7),
    ]
    # Pre-norm's are beside the line, before the sublayer; post-norm's on it, after the addition.
    plus = [float(x.get("cx", 0)) for x in post.iter(f"{SVG}circle")]
    for svg, is_on_line in ((pre, False), (post, True)):
        norms = [x for x in svg.iter(f"{SVG}text") if "".join(x.itertext()) == "norm"]
        assert all((float(x.get("x", 0)) in plus) == is_on_line for x in norms)
    bare = replace(SMALL, encoder_attention=NONE, encoder_layers=6)
    _, without = drawn(bare)
    assert "encoder layer × 6" in lines(without)
    assert "no self_attention: x stays x" in lines(without)
    assert count(without, "circle") == 5  # no position either
    tied = "its weights are the table of tgt_embedding", "the same table as tgt_embedding"
    for config, joint, expected in (
        (SMALL, True, [True, True]),
        (SMALL, False, [True, False]),
        (replace(SMALL, tie_embeddings=False), True, [False, False]),
    ):
        _, svg = drawn(config, joint)
        assert [text in lines(svg) for text in tied] == expected
    # Without cross-attention nothing reads the memory.
    _, alone = drawn(replace(SMALL, cross_attention=NONE))
    assert count(pre, "polygon") - count(alone, "polygon") == 4  # memory, norm, in, out


def test_tokens_are_text() -> None:
    _, svg = drawn()
    for text in ("▁ba <script> &amp; ▁ke </s>", "<s> ▁lo <b>'\"", "▁lo <b>'\" </s>"):
        assert text in lines(svg)
    assert {element.tag.removeprefix(SVG) for element in svg.iter()} <= {
        *("svg", "style", "rect", "text", "tspan", "polyline", "polygon", "circle")
    }
    style = "".join(x.text or "" for x in svg.iter(f"{SVG}style"))
    selectors = re.findall(r"([^{};]+)\{", re.sub(r"@media[^{]*\{", "", style))
    assert all(x.strip().startswith(".whole-model") for x in selectors)  # inside a page, too


def test_picture_in_the_docs_is_current() -> None:
    """Shapes depend on the configuration and the tokens, not on the weights of a trained run."""
    picture = (ROOT / "docs" / "images" / "model.svg").read_text(encoding="utf-8")
    texts = lines(ET.fromstring(picture))

    def tokens(start: str, end: str) -> list[str]:
        return " ".join(texts[texts.index(start) + 1 : texts.index(end)]).split()

    src, tgt = tokens("source tokens", "src_embedding"), tokens("target tokens", "tgt_embedding")
    config = load_config(ROOT / "configs" / "default.toml")
    size = config.tokenizer.vocab_size
    model = Seq2Seq(config.model, size, size, joint=True)
    assert draw_model(model, config.model, src, [*tgt, "</s>"]) == picture
