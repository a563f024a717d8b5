"""Attention against torch's own, by hand, and in its algebra."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from seq2seq.attention import Attention, KeysValues, causal_mask
from seq2seq.normalizers import softmax
from seq2seq.parts import Places
from seq2seq.scores import scaled_dot
from seq2seq.settings import AttentionConfig


def attention(d_model: int, n_heads: int, **parts: str) -> Attention:
    return Attention(d_model, AttentionConfig(n_heads=n_heads, position="none", **parts))  # type: ignore[arg-type]


def random_mask(*shape: int) -> Tensor:
    """Random, but every query may attend to something."""
    mask = torch.rand(*shape) < 0.5
    mask[..., 0] = True
    return mask


def reference(module: Attention, inputs: list[Tensor], mask: Tensor) -> Tensor:
    """The same module's weights, through torch's attention."""
    query, key, value = inputs

    def heads(linear: torch.nn.Module, x: Tensor) -> Tensor:
        assert isinstance(linear, torch.nn.Linear)
        projected = F.linear(x, linear.weight, linear.bias)
        return projected.reshape(*x.shape[:2], module.n_heads, -1).permute(0, 2, 1, 3)

    context = F.scaled_dot_product_attention(
        heads(module.query_weights, query),
        heads(module.key_weights, key),
        heads(module.value_weights, value),
        attn_mask=mask,
    )
    merged = context.permute(0, 2, 1, 3).reshape(query.shape)
    return F.linear(merged, module.output_weights.weight, module.output_weights.bias)


@settings(deadline=None, max_examples=30)
@given(
    n_batch=st.integers(1, 3),
    n_queries=st.integers(1, 7),
    n_keys=st.integers(1, 7),
    n_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
)
def test_equals_torch_forward_and_gradient(
    n_batch: int, n_queries: int, n_keys: int, n_heads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    module = attention(16, n_heads).double()
    inputs = [
        torch.randn(n_batch, n, 16, dtype=torch.double, requires_grad=True)
        for n in (n_queries, n_keys, n_keys)
    ]
    mask = random_mask(n_batch, 1, n_queries, n_keys)
    context, _ = module(*inputs, mask)
    expected = reference(module, inputs, mask)
    torch.testing.assert_close(context, expected)

    direction = torch.randn_like(context)
    wanted = [*inputs, *module.parameters()]
    ours = torch.autograd.grad((context * direction).sum(), wanted)
    theirs = torch.autograd.grad((expected * direction).sum(), wanted)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_weights_sum_to_one_and_are_zero_where_masked() -> None:
    torch.manual_seed(1)
    module = attention(16, 4)
    mask = random_mask(2, 1, 5, 6)
    _, weights = module(torch.randn(2, 5, 16), *[torch.randn(2, 6, 16)] * 2, mask)
    assert weights.shape == (2, 4, 5, 6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(2, 4, 5))
    assert (weights[~mask.expand_as(weights)] == 0).all()
    assert (weights >= 0).all()


def test_by_hand() -> None:
    # One head of width 4, so scores are divided by 2. The query meets the first key with
    # 2 ln 3 / 2 = ln 3 and the second with 0: weights 3/4 and 1/4.
    queries = torch.tensor([[[[2 * math.log(3), 0.0, 0.0, 0.0]]]])
    keys = torch.tensor([[[[1.0, 0, 0, 0], [0, 1, 0, 0]]]])
    scores = scaled_dot(queries, keys, Places.of(1, 2, 0, queries.device))
    torch.testing.assert_close(scores, torch.tensor([[[[math.log(3), 0.0]]]]))
    torch.testing.assert_close(softmax(scores), torch.tensor([[[[0.75, 0.25]]]]))


def test_the_mix_is_by_hand_too() -> None:
    module = attention(2, 1)
    for linear in (module.query_weights, module.key_weights, module.value_weights):
        assert isinstance(linear, torch.nn.Linear)
        torch.nn.init.eye_(linear.weight)
        torch.nn.init.zeros_(linear.bias)
    torch.nn.init.eye_(module.output_weights.weight)
    torch.nn.init.zeros_(module.output_weights.bias)
    query = torch.tensor([[[math.sqrt(2) * math.log(3), 0.0]]])
    key = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    value = torch.tensor([[[8.0, 0.0], [0.0, 4.0]]])
    context, weights = module(query, key, value)
    torch.testing.assert_close(weights, torch.tensor([[[[0.75, 0.25]]]]))
    torch.testing.assert_close(context, torch.tensor([[[6.0, 1.0]]]))


def test_causal_mask() -> None:
    assert causal_mask(3, 3, torch.device("cpu")).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
    # Two new tokens after two earlier ones.
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == [
        [True, True, True, False],
        [True, True, True, True],
    ]


def test_keys_and_values_projected_once_serve_later() -> None:
    torch.manual_seed(2)
    module = attention(16, 2)
    query, key = torch.randn(1, 3, 16), torch.randn(1, 5, 16)
    first, second = module.project(key[:, :2], key[:, :2]), module.project(key[:, 2:], key[:, 2:])
    context, steps = module.attend(query, first.append(second))
    expected, expected_weights = module(query, key, key)
    torch.testing.assert_close(context, expected)
    assert steps is not None
    torch.testing.assert_close(steps.weights, expected_weights)


def test_select_takes_rows() -> None:
    memory = KeysValues(torch.arange(3.0).view(3, 1, 1, 1), -torch.arange(3.0).view(3, 1, 1, 1))
    chosen = memory.select(torch.tensor([2, 0, 0]))
    assert chosen.keys.flatten().tolist() == [2, 0, 0]
    assert chosen.values.flatten().tolist() == [-2, 0, 0]


@pytest.mark.parametrize("n_heads", [1, 3, 6])
def test_heads_are_merged_as_they_were_split(n_heads: int) -> None:
    module = attention(12, n_heads)
    x = torch.randn(2, 5, 12)
    assert module.split_heads(x).shape == (2, n_heads, 5, 12 // n_heads)
    assert torch.equal(module.merge_heads(module.split_heads(x)), x)
