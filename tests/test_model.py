"""The Transformer: which tokens depend on which, and what surrounds attention."""

import math
from dataclasses import replace
from typing import Literal, cast

import pytest
import torch
from conftest import SMALL, attention_variants, small_model, with_attention
from torch import nn
from untrained import small_tokenizer

from seq2seq.attention.positions import Sinusoidal
from seq2seq.config import AttentionConfig, Config, DecodingConfig, ModelConfig
from seq2seq.cpu import Dropout
from seq2seq.data.batches import Batch, pad
from seq2seq.data.tokenizer import BOS, EOS
from seq2seq.evaluation.tracing import attentions, trace_attentions
from seq2seq.model.layers import DecoderLayer, FeedForward, SublayerConnection
from seq2seq.model.loss import batch_loss
from seq2seq.model.transformer import Seq2Seq, count_parameters, empty_model
from seq2seq.translator import Translator
from seq2seq.viewer.trace import trace

pytestmark = pytest.mark.usefixtures("one_thread")
SHAPES = [SMALL, replace(SMALL, norm="post"), replace(SMALL, n_heads=1, decoder_layers=1)]
NO_ENCODER_ATTENTION = replace(SMALL, encoder_attention=AttentionConfig(type="none"))
NAMES = {with_attention(variant): name for name, variant in attention_variants().items()}
every_model = pytest.mark.parametrize(
    "config", [*SHAPES, NO_ENCODER_ATTENTION, *NAMES], ids=NAMES.get
)


def random_ids(n_rows: int, length: int) -> torch.Tensor:
    return torch.randint(4, 40, (n_rows, length))


def perturbed(config: ModelConfig) -> Seq2Seq:
    """A model none of whose parts is still at a start where it does nothing."""
    model = small_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@every_model
def test_future_tokens_never_change_earlier_logits(config: ModelConfig) -> None:
    model = perturbed(config)
    src, tgt = random_ids(3, 6), random_ids(3, 9)
    before = model(src, tgt)
    for cut in range(1, 9):
        changed = tgt.clone()
        changed[:, cut:] = random_ids(3, 9 - cut)
        after = model(src, changed)
        torch.testing.assert_close(after[:, :cut], before[:, :cut])
        assert not torch.allclose(after[:, cut:], before[:, cut:])


@pytest.mark.parametrize("config", SHAPES)
def test_every_source_token_matters_to_every_target_token(config: ModelConfig) -> None:
    model = small_model(config).eval()
    src, tgt = random_ids(1, 6), random_ids(1, 5)
    changed = src.repeat(6, 1)
    changed.diagonal().remainder_(36).add_(4)  # another token in each row
    difference = (model(changed, tgt.repeat(6, 1)) - model(src, tgt)).abs().amax(dim=-1)
    assert (difference > 1e-6).all()


@every_model
def test_padding_changes_nothing(config: ModelConfig) -> None:
    model = perturbed(config)
    pairs = [([5, 6, EOS], [BOS, 7, 8, 9]), ([*range(10, 20), EOS], [BOS, *range(20, 32)])]
    alone = [Batch(pad([src]), pad([tgt])) for src, tgt in pairs]
    together = Batch(*(pad(side) for side in zip(*pairs, strict=True)))
    expected = model(alone[0].src, alone[0].tgt)
    torch.testing.assert_close(model(together.src, together.tgt)[0, :4], expected[0])
    losses = [batch_loss(model, batch, 0.1).item() for batch in alone]
    assert batch_loss(model, together, 0.1).item() == pytest.approx(sum(losses), rel=1e-5)


@every_model
def test_kv_cache_matches_full(config: ModelConfig) -> None:
    """Also where its rows trade places between the pieces, as in a beam search."""
    model = perturbed(config)
    src, tgt = pad([[5, 6, 7, EOS], [8, EOS]]), random_ids(2, 8)
    expected, swap = model(src, tgt), torch.tensor([1, 0])
    cache, pieces = model.start(*model.encode(src)), []
    for n, piece in enumerate(tgt.split([1, 1, 1, 3, 2], dim=1)):
        rows = swap if n % 2 else slice(None)
        x, cache = model.decode(piece[rows], cache)
        pieces.append(model.logits(x)[rows])
        cache = cache.select(swap)
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)
    assert cache.length == 8


@pytest.mark.parametrize("vocab_size", [2000, 8000])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_initial_loss_is_near_log_vocabulary(vocab_size: int, norm: Literal["pre", "post"]) -> None:
    model = small_model(replace(SMALL, d_model=128, norm=norm), vocab_size).eval()
    src, tgt = torch.randint(4, vocab_size, (8, 12)), torch.randint(4, vocab_size, (8, 13))
    batch = Batch(src, tgt)
    # A little above, because logits start with variance one.
    loss = batch_loss(model, batch, 0.0).item() / batch.n_target_tokens
    assert loss == pytest.approx(math.log(vocab_size), rel=0.12)


@pytest.mark.parametrize("config", SHAPES)
def test_every_parameter_gets_a_gradient(config: ModelConfig) -> None:
    model = small_model(config)
    batch_loss(model, Batch(random_ids(2, 5), random_ids(2, 6)), 0.1).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        # A constant added to every key changes no weight: its gradient is zero by nature.
        assert "key_proj.bias" in name or parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("joint", "tie", "tables"), [(True, True, 1), (False, True, 2), (True, False, 3)]
)
def test_embeddings_are_shared_as_configured(joint: bool, tie: bool, tables: int) -> None:
    config = replace(SMALL, tie_embeddings=tie)
    model = Seq2Seq(config, 50, 50, joint)
    assert len([p for p in model.parameters() if p.shape == (50, 32)]) == tables
    assert (model.output.weight is model.tgt_embedding.weight) == tie
    larger = Seq2Seq(config, 51, 51, joint)
    assert count_parameters(larger) - count_parameters(model) == tables * 32


def test_trace_of_every_layer() -> None:
    model = small_model().eval()
    src, tgt = pad([[5, 6, EOS], [5, 6, 7, 8, EOS]]), random_ids(2, 4)
    traces, x = trace_attentions(model, src, tgt)
    by_shape = {(5, 5): "encoder", (4, 4): "decoder", (4, 5): "cross"}
    for shape, layers in ((shape, traces[name]) for shape, name in by_shape.items()):
        assert [layer.weights.shape for layer in layers] == [(2, 4, *shape)] * 2
        for layer in layers:
            torch.testing.assert_close(layer.weights.sum(dim=-1), torch.ones(2, 4, shape[0]))
    for layer in [*traces["encoder"], *traces["cross"]]:
        assert (layer.weights[0, :, :, 3:] == 0).all()  # the first source is three tokens long
    for layer in traces["decoder"]:
        assert (layer.weights.triu(diagonal=1) == 0).all()
    torch.testing.assert_close(model.logits(x), model(src, tgt))
    assert trace_attentions(model, src, tgt, ["cross"])[0].keys() == {"cross"}
    assert all(x.recorded is None for stack in attentions(model).values() for x in stack)


def test_sinusoids_by_hand_and_without_end() -> None:
    functions = [(i, f) for i in (0, 2) for f in (math.sin, math.cos)]
    by_hand = [[f(t / 10000 ** (i / 4)) for i, f in functions] for t in range(3)]
    torch.testing.assert_close(Sinusoidal(4)(0, 3), torch.tensor(by_hand))
    assert Sinusoidal(5)(2, 4).shape == (2, 5)
    model = small_model(replace(SMALL, encoder_layers=1, decoder_layers=1)).eval()
    assert model(random_ids(1, 600), random_ids(1, 700)).shape == (1, 700, 40)
    embedded = model._embed(torch.tensor([[5, 6]]), model.tgt_embedding, model.tgt_position, 3)
    expected = model.tgt_embedding.weight[5:7] * math.sqrt(32) + Sinusoidal(32)(0, 5)[3:]
    torch.testing.assert_close(embedded[0], expected)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_sublayer_connection(norm: Literal["pre", "post"]) -> None:
    connection = SublayerConnection(replace(SMALL, norm=norm, dropout=0.99999))
    x, change = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    normed = nn.functional.layer_norm
    if norm == "pre":
        expected = normed(x, (32,)), x, x + change
    else:
        expected = x, normed(x, (32,)), normed(x + change, (32,))
    torch.testing.assert_close(connection.pre(x), expected[0])
    torch.testing.assert_close(connection.post(x, change), expected[1])  # all of it dropped
    torch.testing.assert_close(connection.eval().post(x, change), expected[2])
    model = small_model(replace(SMALL, norm=norm, dropout=0.99999))
    for final in (model.encoder_norm, model.decoder_norm):
        assert isinstance(final, nn.LayerNorm) == (norm == "pre")
    if norm == "pre":
        assert model.encode(random_ids(2, 5))[0].abs().max() < 1e-3  # embeddings are dropped too


def test_dropout_zeroes_a_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(0.3), torch.ones(1000, 101, requires_grad=True)
    out = dropout(x)
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert out.unique().tolist() == pytest.approx([0, 256 / (256 - 77)])  # 77 / 256: nearest to 0.3
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(dropout(x), out)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out)
    assert torch.equal(dropout.eval()(x), x)


@pytest.mark.parametrize(("p", "kept"), [(0.0, 1.0), (1e-4, 1.0), (0.9995, 0.0)])
def test_dropout_at_its_limits(p: float, kept: float) -> None:
    """Where p rounds to 0 / 256 or 256 / 256."""
    out = Dropout(p)(torch.ones(100, 100))
    assert out.isfinite().all()
    assert (out != 0).float().mean().item() == pytest.approx(kept, abs=0.01)
    assert Dropout(0.3)(torch.ones(3, 5, device="meta")).shape == (3, 5)


def test_without_encoder_attention_no_source_token_knows_another() -> None:
    model = small_model(NO_ENCODER_ATTENTION).eval()
    src = random_ids(1, 6)
    memory, _ = model.encode(src)
    changed = src.clone()
    changed[0, 2] = (src[0, 2] - 3) % 36 + 4
    other, _ = model.encode(changed)
    assert [i for i in range(6) if not torch.equal(memory[0, i], other[0, i])] == [2]


def test_each_stack_has_its_own_positions() -> None:
    rotary = AttentionConfig(position="rotary")
    model = small_model(replace(SMALL, encoder_attention=rotary))
    assert model.src_position is None
    assert isinstance(model.tgt_position, Sinusoidal)
    model = small_model(replace(SMALL, decoder_attention=rotary))
    assert isinstance(model.src_position, Sinusoidal)
    assert model.tgt_position is None


def test_empty_model_takes_no_memory() -> None:
    heads = AttentionConfig(n_heads=32, modifiers="talking_heads")  # whose maps are made of ones
    model = empty_model(Config(model=replace(SMALL, encoder_attention=heads)))
    assert all(parameter.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_decoding_follows_the_weights(precision: Literal["float32", "bfloat16"]) -> None:
    """However they change: the translation is that of a new translator, and of the trace."""
    config = Config(model=SMALL, decoding=DecodingConfig(precision=precision))
    torch.manual_seed(0)
    model = Seq2Seq.build(SMALL, small_tokenizer())
    translator, text, seen = Translator(model, small_tokenizer(), config), "ba du ke lo", set()
    norm, layer = model.decoder_norm, cast(DecoderLayer, model.decoder[0])
    for change in (
        lambda: None,
        lambda: model.output.weight.data.mul_(-1),
        lambda: nn.init.normal_(layer.feed_forward.up_proj.weight),
        lambda: setattr(norm, "weight", nn.Parameter(torch.linspace(-1, 1, 32))),
        lambda: setattr(layer, "feed_forward", FeedForward(SMALL)),
        lambda: setattr(norm.weight, "data", torch.linspace(3, -1, 32)),
        lambda: model.load_state_dict(Seq2Seq.build(SMALL, small_tokenizer()).state_dict()),
    ):
        change()
        (translation,) = translator.translate([text])
        assert [translation] == Translator(model, small_tokenizer(), config).translate([text])
        assert trace(translator, text).tgt.text == translation
        seen.add(translation)
    assert len(seen) == 7
