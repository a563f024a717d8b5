"""The hand-written loss against torch's cross-entropy."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from seq2seq.model.loss import CACHED, CHUNK, ROWS, chunked_cross_entropy


def assert_same(ours: Tensor, expected: Tensor, wanted: list[Tensor]) -> None:
    """The same loss, with the same gradients by ``wanted``."""
    # The logits themselves are float32 whatever the vectors are.
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
    gradients = (torch.autograd.grad(loss * 3, wanted) for loss in (ours, expected))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("n_tokens", [1, 7, CHUNK, CHUNK + 3, 3 * CHUNK])
def test_matches_torch(n_tokens: int, smoothing: float) -> None:
    torch.manual_seed(n_tokens)
    x = torch.randn(n_tokens, 8, dtype=torch.double, requires_grad=True)
    weight = torch.randn(300, 8, dtype=torch.double, requires_grad=True)
    labels = torch.randint(0, 300, (n_tokens,))
    expected = F.cross_entropy(x @ weight.T, labels, label_smoothing=smoothing, reduction="sum")
    ours = chunked_cross_entropy(x[None], weight, labels, smoothing)
    assert_same(ours, expected, [x, weight])
    assert CHUNK * len(weight) > CACHED  # a chunk has several parts


@pytest.mark.parametrize("n_passes", [1, 2])
def test_extreme_logits_stay_finite(n_passes: int) -> None:
    x = torch.tensor([[[1e4, 0.0], [-1e4, 0.0]]] * n_passes, requires_grad=True)
    weight = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    loss = chunked_cross_entropy(x, weight, torch.tensor([0, 0]), 0.0, 3.0)
    assert loss.item() == pytest.approx(2e4)  # and equal passes agree
    loss.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("smoothing", "alpha"), [(0.0, 0.0), (0.1, 5.0), (0.7, 1.0)])
@pytest.mark.parametrize("n_tokens", [1, 7, CHUNK // 2, CHUNK + 3])
def test_r_drop_matches_torch(n_tokens: int, smoothing: float, alpha: float) -> None:
    torch.manual_seed(n_tokens)
    x = torch.randn(2, n_tokens, 8, dtype=torch.double, requires_grad=True)
    weight = torch.randn(300, 8, dtype=torch.double, requires_grad=True)
    labels = torch.randint(0, 300, (n_tokens,))

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum")

    p, q = x @ weight.T
    divergences = [
        F.kl_div(one.log_softmax(1), other.log_softmax(1), reduction="sum", log_target=True)
        for one, other in [(q, p), (p, q)]
    ]
    expected = (cross_entropy(p) + cross_entropy(q)) / 2 + alpha / 4 * sum(divergences)
    ours = chunked_cross_entropy(x, weight, labels, smoothing, alpha)
    assert_same(ours, expected, [x, weight])


@pytest.mark.parametrize("n_passes", [1, 2])
def test_bfloat16_is_near_double(n_passes: int) -> None:
    torch.manual_seed(0)
    n_tokens = 2 * CHUNK + 3
    labels = torch.randint(0, 300, (n_tokens,))
    values = [torch.randn(n_passes, n_tokens, 64), torch.randn(300, 64) / 8]
    results = []
    for dtype in (torch.double, torch.float32):
        x, weight = (tensor.to(dtype).requires_grad_() for tensor in values)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            loss = chunked_cross_entropy(x, weight, labels, 0.1, 3.0)
        results.append([loss, *torch.autograd.grad(loss, [x, weight])])
    for exact, ours in zip(*results, strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 0.01 * exact.norm()
        if exact.ndim:  # the products were in bfloat16; one sum may be exact by chance
            assert (ours - exact).norm() > 1e-4 * exact.norm()


@pytest.mark.parametrize("n_passes", [1, 2])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_no_gradients_without_autograd(mode: type[torch.no_grad], n_passes: int) -> None:
    """Autograd says that a parameter needs one, whatever the mode."""
    x, weight = torch.randn(n_passes, ROWS, 8), torch.nn.Parameter(torch.randn(50, 8))
    labels = torch.randint(0, 50, (ROWS,))
    with FlopCounterMode(display=False) as counter, mode():
        loss = chunked_cross_entropy(x, weight, labels, 0.1, 3.0)
    assert counter.get_total_flops() == 2 * n_passes * ROWS * 8 * 50  # the logits
    assert loss.item() == pytest.approx(chunked_cross_entropy(x, weight, labels, 0.1, 3.0).item())
