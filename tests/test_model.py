"""The Transformer: who can see what, and that it can learn."""

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from conftest import SMALL, attention_variants, small_model, with_attention
from torch import nn

from seq2seq.batches import Batch, pad
from seq2seq.layers import Dropout, Residual
from seq2seq.model import Seq2Seq, count_parameters
from seq2seq.objective import batch_loss
from seq2seq.optimizer import make_optimizer
from seq2seq.positions import Sinusoidal, sinusoids
from seq2seq.settings import AttentionConfig, ModelConfig, TrainConfig
from seq2seq.tokenizer import BOS, EOS

SHAPES = [SMALL, replace(SMALL, norm="post"), replace(SMALL, n_heads=1, decoder_layers=1)]
CONTROLS = [
    replace(SMALL, encoder_attention=AttentionConfig(kind="none")),
    replace(
        SMALL,
        encoder_attention=AttentionConfig(score="uniform"),
        cross_attention=AttentionConfig(score="uniform", position="none"),
    ),
]

NAMES = {with_attention(variant): name for name, variant in attention_variants().items()}
VARIANTS = list(NAMES)


def random_ids(n_rows: int, length: int) -> torch.Tensor:
    return torch.randint(4, 40, (n_rows, length))


def jolted(config: ModelConfig) -> Seq2Seq:
    """A model none of whose parts is still at a start where it does nothing."""
    model = small_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("config", SHAPES + CONTROLS + VARIANTS, ids=NAMES.get)
def test_future_tokens_never_change_earlier_logits(config: ModelConfig) -> None:
    model = jolted(config).eval()
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
    before = model(src, tgt)
    for position in range(6):
        changed = src.clone()
        changed[0, position] = changed[0, position] % 36 + 4
        difference = (model(changed, tgt) - before).abs().amax(dim=-1)
        assert (difference > 1e-6).all()


@pytest.mark.parametrize("config", SHAPES + CONTROLS + VARIANTS, ids=NAMES.get)
def test_padding_changes_nothing(config: ModelConfig) -> None:
    model = jolted(config).eval()
    short_src, short_tgt = [5, 6, EOS], [BOS, 7, 8, 9]
    long_src, long_tgt = [*range(10, 20), EOS], [BOS, *range(20, 32)]
    alone = model(pad([short_src]), pad([short_tgt]))
    together = model(pad([short_src, long_src]), pad([short_tgt, long_tgt]))
    torch.testing.assert_close(together[0, : len(short_tgt)], alone[0])
    apart = [
        batch_loss(model, Batch(pad([src]), pad([tgt])), 0.1).item()
        for src, tgt in ((short_src, short_tgt), (long_src, long_tgt))
    ]
    joined = Batch(pad([short_src, long_src]), pad([short_tgt, long_tgt]))
    assert batch_loss(model, joined, 0.1).item() == pytest.approx(sum(apart), rel=1e-5)


@pytest.mark.parametrize("config", SHAPES + CONTROLS + VARIANTS, ids=NAMES.get)
@pytest.mark.parametrize("chunks", [[1] * 8, [3, 1, 4], [8]])
def test_the_decoder_in_pieces_equals_the_decoder_at_once(
    config: ModelConfig, chunks: list[int]
) -> None:
    model = jolted(config).eval()
    src, tgt = pad([[5, 6, 7, EOS], [8, EOS]]), random_ids(2, 8)
    expected = model(src, tgt)
    state, pieces = model.start(*model.encode(src)), []
    for piece in tgt.split(chunks, dim=1):
        x, state = model.decode(piece, state)
        pieces.append(model.logits(x))
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)
    assert state.length == 8


@pytest.mark.parametrize("vocab_size", [2000, 8000])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_initial_loss_is_near_the_logarithm_of_the_vocabulary(
    vocab_size: int, norm: Literal["pre", "post"]
) -> None:
    config = replace(SMALL, d_model=128, norm=norm)
    model = small_model(config, vocab_size).eval()
    src, tgt = torch.randint(4, vocab_size, (8, 12)), torch.randint(4, vocab_size, (8, 13))
    batch = Batch(src, tgt)
    # A little above, because logits start with variance one.
    loss = batch_loss(model, batch, 0.0).item() / batch.n_labels
    assert loss == pytest.approx(math.log(vocab_size), rel=0.12)


def test_one_batch_can_be_overfitted() -> None:
    model = small_model()
    batch = Batch(pad([[4, 5, 6, EOS], [7, 8, EOS]]), pad([[BOS, 9, 10, EOS], [BOS, 11, EOS]]))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        loss = batch_loss(model, batch, 0.0) / batch.n_labels
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.02
    assert model(batch.src, batch.tgt_in).argmax(dim=-1)[0].tolist() == [9, 10, EOS]


def test_every_parameter_gets_a_gradient() -> None:
    for config in SHAPES:
        model = small_model(config)
        batch = Batch(random_ids(2, 5), random_ids(2, 6))
        batch_loss(model, batch, 0.1).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None, name
            # A constant added to every key changes no weight: its gradient is zero by nature.
            if "key_weights.bias" not in name:
                assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    ("joint", "tie", "tables"), [(True, True, 1), (False, True, 2), (True, False, 3)]
)
def test_tables_are_shared_as_asked(joint: bool, tie: bool, tables: int) -> None:
    config = replace(SMALL, tie_embeddings=tie)
    model = Seq2Seq(config, 50, 50, joint)
    vocabulary_tables = [p for p in model.parameters() if p.shape == (50, 32)]
    assert len(vocabulary_tables) == tables
    assert (model.output.weight is model.tgt_embedding.weight) == tie
    rest = count_parameters(Seq2Seq(config, 51, 51, joint)) - count_parameters(model)
    assert rest == tables * 32


def test_attention_steps_of_every_layer() -> None:
    model = small_model().eval()
    src, tgt = pad([[5, 6, EOS], [5, 6, 7, 8, EOS]]), random_ids(2, 4)
    steps = model.attention_steps(src, tgt)
    for layers, shape in (
        (steps.encoder, (2, 4, 5, 5)),
        (steps.decoder, (2, 4, 4, 4)),
        (steps.cross, (2, 4, 4, 5)),
    ):
        assert [tuple(layer.weights.shape) for layer in layers] == [shape] * 2
        for layer in layers:
            torch.testing.assert_close(layer.weights.sum(dim=-1), torch.ones(shape[:-1]))
    for layer in [*steps.encoder, *steps.cross]:
        assert (layer.weights[0, :, :, 3:] == 0).all()  # the first source is three tokens long
    for layer in steps.decoder:
        assert (layer.weights.triu(diagonal=1) == 0).all()
    torch.testing.assert_close(model.logits(steps.x), model(src, tgt))


def test_positions_by_hand_and_without_end() -> None:
    table = sinusoids(3, 4)
    functions = [(i, f) for i in (0, 2) for f in (math.sin, math.cos)]
    expected = [[f(t / 10000 ** (i / 4)) for i, f in functions] for t in range(3)]
    torch.testing.assert_close(table, torch.tensor(expected))
    model = small_model().eval()
    assert model(random_ids(1, 600), random_ids(1, 700)).shape == (1, 700, 40)
    assert isinstance(model.tgt_position, Sinusoidal)
    torch.testing.assert_close(model.tgt_position(0, 700), sinusoids(700, 32))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_residual_connection(norm: Literal["pre", "post"]) -> None:
    residual = Residual(replace(SMALL, norm=norm, dropout=0.99999))
    x, change = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
    normed = nn.functional.layer_norm
    if norm == "pre":
        expected = normed(x, (32,)), x, x + change
    else:
        expected = x, normed(x, (32,)), normed(x + change, (32,))
    torch.testing.assert_close(residual.enter(x), expected[0])
    torch.testing.assert_close(residual.leave(x, change), expected[1])  # all of it dropped
    torch.testing.assert_close(residual.eval().leave(x, change), expected[2])


def test_embeddings_are_dropped_too() -> None:
    model = small_model(replace(SMALL, dropout=0.99999))
    assert model.encode(random_ids(2, 5))[0].abs().max() < 1e-3
    assert model.eval().encode(random_ids(2, 5))[0].abs().max() > 0.1


def test_dropout_zeroes_the_right_share_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    dropout = Dropout(0.3)
    x = torch.ones(1000, 101)
    out = dropout(x)
    assert (out == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)
    assert out.unique().tolist() == pytest.approx([0, 256 / (256 - 77)])  # 77 / 256: nearest to 0.3
    assert out.mean().item() == pytest.approx(1, abs=0.01)
    assert not torch.equal(dropout(x), out)
    assert torch.equal(dropout.eval()(x), x)


def test_dropout_lets_the_gradient_through_where_values_passed() -> None:
    x = torch.ones(50, 7, requires_grad=True)
    out = Dropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out)


def test_without_encoder_attention_no_source_token_knows_of_another() -> None:
    model = small_model(CONTROLS[0]).eval()
    src = random_ids(1, 6)
    memory, _ = model.encode(src)
    changed = src.clone()
    changed[0, 2] = (src[0, 2] - 3) % 36 + 4
    other, _ = model.encode(changed)
    assert [i for i in range(6) if not torch.equal(memory[0, i], other[0, i])] == [2]
    steps = model.attention_steps(src, src)
    assert (len(steps.encoder), len(steps.cross)) == (0, 2)


def test_with_uniform_cross_attention_all_target_tokens_see_the_same() -> None:
    model = small_model(CONTROLS[1]).eval()
    steps = model.attention_steps(random_ids(1, 5), random_ids(1, 4))
    for cross in steps.cross:
        torch.testing.assert_close(cross.weights, torch.full((1, 4, 4, 5), 0.2))


def test_controls_learn_too() -> None:
    """Weights that no score depends on get no gradient, and a step still works."""
    for config in CONTROLS:
        model = small_model(config)
        optimizer = make_optimizer(model, TrainConfig())
        batch = Batch(src=random_ids(4, 5), tgt=random_ids(4, 5))
        before = batch_loss(model, batch, 0.0).item()
        for _ in range(5):
            batch_loss(model, batch, 0.0).backward()
            optimizer.step()
            optimizer.zero_grad()
        assert batch_loss(model, batch, 0.0).item() < before


def test_each_stack_has_its_own_positions() -> None:
    rotary = AttentionConfig(position="rotary")
    model = small_model(replace(SMALL, encoder_attention=rotary))
    assert model.src_position is None
    assert isinstance(model.tgt_position, Sinusoidal)
    model = small_model(replace(SMALL, decoder_attention=rotary))
    assert isinstance(model.src_position, Sinusoidal)
    assert model.tgt_position is None
