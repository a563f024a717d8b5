"""The lean decoding step against the model that it stands in for."""

from dataclasses import replace
from typing import cast

import pytest
import torch
from conftest import SMALL, attention_variants, small_model, with_attention
from test_decoding import SOURCES, eager_to_stop
from torch import Tensor, nn
from untrained import small_tokenizer

from seq2seq.attention.registry import SCORES, Part, Positions
from seq2seq.config import AttentionConfig, Config, DecodingConfig, ModelConfig
from seq2seq.data.batches import pad
from seq2seq.data.tokenizer import BOS
from seq2seq.model.decoding import beam_search, greedy
from seq2seq.model.ensemble import Ensemble
from seq2seq.model.layers import DecoderLayer, FeedForward
from seq2seq.model.lean import BLOCK, LeanCache, LeanDecoder
from seq2seq.model.transformer import Seq2Seq
from seq2seq.translator import Translator

gaussian = AttentionConfig(score="gaussian")
SHAPES = {
    "default": SMALL,
    "post": replace(SMALL, norm="post"),
    "Multi30k": replace(SMALL, encoder_attention=gaussian, decoder_attention=gaussian),
    "gaussian post": replace(SMALL, decoder_attention=gaussian, norm="post"),
    "gaussian sparsemax kv_heads": replace(
        SMALL, decoder_attention=replace(gaussian, kv_heads=2, normalizer="sparsemax")
    ),
    "uniform": replace(SMALL, decoder_attention=AttentionConfig(score="uniform")),
    "kv_heads": with_attention(AttentionConfig(position="none", kv_heads=2)),
    "n_heads": replace(
        SMALL,
        decoder_attention=AttentionConfig(n_heads=8, position="learned"),
        cross_attention=AttentionConfig(n_heads=2, kv_heads=1, position="none"),
    ),
    "no position": replace(SMALL, decoder_attention=AttentionConfig(position="none")),
    "rotary encoder": replace(SMALL, encoder_attention=AttentionConfig(position="rotary")),
    "untied": replace(SMALL, tie_embeddings=False, decoder_layers=1),
}
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def perturbed(shape: ModelConfig) -> Seq2Seq:
    """Away from any start at which a part does nothing."""
    model = small_model(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def assert_equal_steps(lean: LeanDecoder, model: Seq2Seq, src: Tensor, n: int) -> None:
    """Logits of n tokens, one by one, with rows dropped, doubled and reordered on the way."""
    tgt = torch.randint(4, 40, (len(src), n))
    tgt[:, 0] = BOS
    cache = lean.start(*lean.encode(src))
    for step in range(n):
        if step == n // 2:
            rows = torch.tensor([len(src) - 1, 0, 0])
            src, tgt, cache = src[rows], tgt[rows], cache.select(rows)
        x, cache = lean.decode(tgt[:, step : step + 1], cache)
        assert cache.length == step + 1
        expected = model(src, tgt[:, : step + 1])[:, -1]
        torch.testing.assert_close(lean.logits(x)[:, 0], expected, rtol=1e-4, atol=1e-4)


@each_shape
@torch.inference_mode()
def test_steps_match_the_model(shape: ModelConfig) -> None:
    model = perturbed(shape)
    lean = LeanDecoder.of(model)
    assert lean is not None
    assert_equal_steps(lean, model, pad(SOURCES), 6)
    assert_equal_steps(lean, model, pad(SOURCES[:1]), BLOCK + 2)


VARIANTS = attention_variants()


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
@torch.inference_mode()
def test_every_variant_is_the_same_or_left_to_the_model(variant: AttentionConfig) -> None:
    for shape in (with_attention(variant), replace(SMALL, decoder_attention=variant)):
        model = perturbed(shape)
        if lean := LeanDecoder.of(model):
            assert_equal_steps(lean, model, pad(SOURCES), 4)


@pytest.mark.parametrize("by_head", [False, True])
@torch.inference_mode()
def test_a_score_of_ones_own_by_position(by_head: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may return fewer dimensions than queries have, and look at how many heads there are."""

    def score(query: Tensor, key: Tensor, positions: Positions) -> Tensor:
        slopes = torch.arange(query.shape[1]).view(-1, 1, 1) if by_head else 0.5
        return -positions.relative.abs() * slopes / query.shape[-1] ** 0.5

    part = Part("own", score, "s = -|j - i|", "a control", content_based=False)
    monkeypatch.setitem(SCORES, "own", part)
    model = perturbed(replace(SMALL, decoder_attention=AttentionConfig(score="own")))
    lean = LeanDecoder.of(model)
    assert lean is not None
    assert_equal_steps(lean, model, pad(SOURCES), BLOCK + 2)


@each_shape
@pytest.mark.parametrize(("prefix", "n"), [((), 0), ((10, 9), 2)])
def test_searches_find_the_same(shape: ModelConfig, prefix: tuple[int, ...], n: int) -> None:
    """Batches shrink as sentences end, beams are reordered at every step."""
    for seed in range(3):
        model, src = eager_to_stop(seed, shape), pad(SOURCES)
        lean = LeanDecoder.of(model)
        assert lean is not None
        config = DecodingConfig(4, 1.0, 1.5, n)
        assert greedy(lean, src, config, prefix) == greedy(model, src, config, prefix)
        assert beam_search(lean, src, config, 3, prefix) == beam_search(
            model, src, config, 3, prefix
        )


class Gated(FeedForward):
    """A part that is not known."""


@torch.no_grad()
def test_what_it_cannot_express_is_left_to_the_model() -> None:
    known = perturbed(SMALL)
    assert LeanDecoder.of(known) is not None
    assert LeanDecoder.of(Ensemble([known, known])) is None
    for variant in (
        AttentionConfig(position="rotary"), AttentionConfig(window=2), AttentionConfig(type="none"),
        AttentionConfig(score="cosine"), AttentionConfig(normalizer="sparsemax"),
        AttentionConfig(modifiers="gated"), replace(gaussian, position="alibi"),
        replace(gaussian, window=2),
    ):  # fmt: skip
        assert LeanDecoder.of(small_model(replace(SMALL, decoder_attention=variant))) is None
    across = replace(SMALL, cross_attention=AttentionConfig(score="dot", position="none"))
    assert LeanDecoder.of(small_model(across)) is None
    cast(DecoderLayer, known.decoder[1]).feed_forward = Gated(SMALL)
    assert LeanDecoder.of(known) is None
    known = perturbed(SMALL)
    known.decoder[0].register_module("more", nn.GELU())
    assert LeanDecoder.of(known) is None


@pytest.mark.parametrize(
    ("config", "n", "used"),
    [
        (DecodingConfig(), 1, True), (DecodingConfig(beam=4), 1, True),
        (DecodingConfig(batch_size=1), 20, True), (DecodingConfig(lean=False), 1, False),
        (DecodingConfig(beam=4, batch_size=7), 20, True),
        (DecodingConfig(), 8, False), (DecodingConfig(precision="bfloat16"), 1, False),
    ],
)  # fmt: skip
def test_when_it_is_used(
    monkeypatch: pytest.MonkeyPatch, config: DecodingConfig, n: int, used: bool
) -> None:
    """For few sentences in float32 on a CPU; and the translations are the same."""
    torch.manual_seed(0)
    model, texts = Seq2Seq.build(SMALL, small_tokenizer()), ["ba du ke lo", "zo vu"] * 10
    calls, step = [], LeanDecoder.decode

    def note(lean: LeanDecoder, tgt: Tensor, cache: LeanCache) -> tuple[Tensor, LeanCache]:
        calls.append(len(tgt))
        return step(lean, tgt, cache)

    monkeypatch.setattr(LeanDecoder, "decode", note)
    monkeypatch.setattr("seq2seq.cpu.pick_device", lambda: torch.device("cpu"))

    def translate(config: DecodingConfig) -> list[str]:
        return Translator(model, small_tokenizer(), Config(decoding=config)).translate(texts[:n])

    translations = translate(config)
    assert bool(calls) == used
    if used:
        assert translations == translate(replace(config, lean=False))
