"""Attention against torch's, by hand, and in its algebra."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call

from seq2seq.attention import MultiHeadAttention, Place, causal_mask
from seq2seq.attention.attention import attention
from seq2seq.config import AttentionConfig
from seq2seq.viewer.trace import project_values


def multi_head(d_model: int, n_heads: int, **parts: Any) -> MultiHeadAttention:
    place = Place(n_heads, d_model // n_heads)
    return MultiHeadAttention(d_model, AttentionConfig(position="none", **parts), place)


def random_mask(*shape: int) -> Tensor:
    """Random, but every query may attend to something."""
    mask = torch.rand(*shape) < 0.5
    mask[..., 0] = True
    return mask


def test_attention_by_hand() -> None:
    # The width is 4, so scores are divided by 2: (2 ln 3) / 2 = ln 3 and 0, weights 3/4 and 1/4.
    query = torch.tensor([[[[2 * math.log(3), 0.0, 0.0, 0.0]]]])
    key = torch.tensor([[[[1.0, 0, 0, 0], [0, 1, 0, 0], [9, 9, 9, 9]]]])
    value = torch.tensor([[[[8.0, 0, 0, 0], [0, 4, 0, 0], [5, 5, 5, 5]]]])
    output, weights = attention(query, key, value, torch.tensor([True, True, False]))
    torch.testing.assert_close(weights, torch.tensor([[[[0.75, 0.25, 0.0]]]]))
    torch.testing.assert_close(output, torch.tensor([[[[6.0, 1.0, 0.0, 0.0]]]]))


@pytest.mark.parametrize("masked", [False, True])
def test_attention_equals_sdpa(masked: bool) -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 6, 8)
    value, mask = torch.randn(2, 4, 6, 8), random_mask(2, 1, 5, 6) if masked else None
    output, weights = attention(query, key, value, mask)
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(weights @ value, expected)


def test_parts_equal_attention() -> None:
    """The seam for variants, with the published parts in it, bit for bit."""
    torch.manual_seed(0)
    module, x = multi_head(16, 4), torch.randn(2, 5, 16)
    q = module.split_heads(module.query_proj(x))
    kv = module.project(x, x)
    for mask in (None, random_mask(2, 1, 5, 5)):
        published = module(x, kv, mask)
        module.recorded = []
        output = module.attend_by_parts(x, q, *kv, mask, 0)
        expected, weights = attention(q, *kv, mask)
        assert torch.equal(output, expected)
        assert torch.equal(module.recorded[0].weights, weights)
        assert torch.equal(module(x, kv, mask), published)
        module.recorded = None


def torchs(module: Any, inputs: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
    """The same weights in torch's multi-head attention."""
    projections = [module.query_proj, module.key_proj, module.value_proj]
    parameters = {
        "in_proj_weight": torch.cat([projection.weight for projection in projections]),
        "in_proj_bias": torch.cat([projection.bias for projection in projections]),
        "out_proj.weight": module.output_proj.weight,
        "out_proj.bias": module.output_proj.bias,
    }
    theirs = nn.MultiheadAttention(16, module.n_heads, batch_first=True, dtype=torch.double)
    hidden = ~mask.repeat_interleave(module.n_heads, dim=0)
    options = {"attn_mask": hidden, "average_attn_weights": False}
    return functional_call(theirs, parameters, tuple(inputs), options)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
    n_heads=st.sampled_from([1, 2, 4]),
    seed=st.integers(0, 2**31),
)
def test_multi_head_equals_torch(sizes: tuple[int, int, int], n_heads: int, seed: int) -> None:
    """Contexts, weights and gradients."""
    torch.manual_seed(seed)
    n_batch, t, s = sizes
    module = multi_head(16, n_heads).double()
    inputs = [torch.randn(n_batch, n, 16).double().requires_grad_() for n in (t, s, s)]
    mask = random_mask(n_batch, t, s)
    module.recorded = []
    context = module(inputs[0], module.project(*inputs[1:]), mask[:, None])
    (_, _, _, weights, _), module.recorded = module.recorded[0], None
    expected, expected_weights = torchs(module, inputs, mask)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(weights, expected_weights)

    direction, wanted = torch.randn_like(context), [*inputs, *module.parameters()]
    losses = [(out * direction).sum() for out in (context, expected)]
    ours, theirs = (torch.autograd.grad(loss, wanted) for loss in losses)
    torch.testing.assert_close(ours, theirs)


def test_causal_mask() -> None:
    expected = [[True, False, False], [True, True, False], [True, True, True]]
    assert causal_mask(3, 3, torch.device("cpu")).tolist() == expected
    # Two new tokens after two earlier ones.
    expected = [[True, True, True, False], [True, True, True, True]]
    assert causal_mask(2, 4, torch.device("cpu")).tolist() == expected


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_projected_values_times_weights_are_the_output(kv_heads: int) -> None:
    module, x = multi_head(16, 4, kv_heads=kv_heads), torch.randn(2, 5, 16)
    module.recorded = []
    context = module(x, module.project(x, x))
    added = module.recorded[0].weights @ project_values(module, module.recorded[0].value)
    added = added.sum(dim=1)  # (B, T, D)
    torch.testing.assert_close(added + module.output_proj.bias, context)
