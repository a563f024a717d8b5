"""Every variant of attention: what all must keep, and each against a reference of its own.

What is parametrized over ``attention_variants()`` tests a new part as soon as it is registered.
"""

import contextlib
import itertools
import math
import re
from dataclasses import replace
from typing import Any, cast

import entmax
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, attention_variants, fitting, section_of, small_model, with_attention
from torch import Tensor, nn

from seq2seq import attention as catalogue
from seq2seq.attention import Attention, KeyValue, MultiHeadAttention, alternatives, build_attention
from seq2seq.attention import attention as heart
from seq2seq.attention.modifiers import Differential, Gated, TalkingHeads
from seq2seq.attention.normalizers import SoftmaxNull, entmax15, relu, sigmoid, sparsemax, top_k
from seq2seq.attention.positions import Alibi, Learned, Rotary, Shaw, T5Buckets
from seq2seq.attention.registry import NORMALIZERS, POSITIONS, REGISTRIES, SCORES, Place, Positions
from seq2seq.attention.scores import Additive, Cosine, Gaussian, dot, uniform
from seq2seq.cli import main
from seq2seq.config import AttentionConfig, ModelConfig
from seq2seq.data.batches import Batch
from seq2seq.data.tokenizer import BOS
from seq2seq.model.loss import batch_loss
from seq2seq.utils import ConfigError

pytestmark = pytest.mark.usefixtures("one_thread")
D, H = 16, 4
K = D // H
VARIANTS = {name: config for name, config in attention_variants().items() if config.type != "none"}
each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)


def attention(config: AttentionConfig, section: str = "") -> Attention:
    """Away from any start at which a part does nothing."""
    torch.manual_seed(0)
    section = section or section_of(config)
    made = build_attention(only_in(section, config), section)
    assert made is not None
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made.double()


def only_in(section: str, config: AttentionConfig) -> ModelConfig:
    return replace(ModelConfig(d_model=D), **cast(dict[str, Any], {section: config}))


def multi_head(**parts: Any) -> MultiHeadAttention:
    module = attention(AttentionConfig(**{"position": "none"} | parts))
    assert isinstance(module, MultiHeadAttention)
    return module


def traced(
    module: Attention, x: Tensor, kv: KeyValue, mask: Tensor | None, start: int = 0
) -> tuple[Tensor, Tensor]:
    module.recorded = []
    context = module(x, kv, mask, start)
    (trace,), module.recorded = module.recorded, None
    return context, trace.weights


def run(module: Attention, x: Tensor, mask: Tensor | None, start: int = 0) -> tuple[Tensor, Tensor]:
    return traced(module, x[:, start:], module.project(x, x), mask, start)


def projected(module: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values of tokens that attend to themselves."""
    return module.split_heads(module.query_proj(x)), *module.project(x, x)


def joined(module: MultiHeadAttention, output: Tensor) -> Tensor:
    return module.output_proj(module.merge_heads(output))


def tokens(length: int = 7, batch: int = 2) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, length, D, dtype=torch.double)


def causal(length: int) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool).tril()


def positions(n_queries: int, n_keys: int, start: int = 0) -> Positions:
    return Positions(torch.arange(start, start + n_queries), torch.arange(n_keys))


# --- what holds for all ---


@each_variant
def test_weights(config: AttentionConfig) -> None:
    module, x = attention(config), tokens()
    mask = causal(7)  # all that a recurrence knows
    if config.type != "ssru":
        mask = torch.rand(2, 1, 7, 7) < 0.5
        mask[..., range(7), range(7)] = True
    assert run(module, x * math.nan, mask)[0].isnan().all()  # so that the loss shows it
    context, weights = run(module, x, mask)
    assert context.shape == (2, 7, D)
    assert weights.shape == (2, 1 if config.type in ("average", "ssru") else H, 7, 7)
    assert (weights[~mask.expand_as(weights)] == 0).all()
    if config.window:
        assert (weights[..., positions(7, 7).relative.abs() > config.window] == 0).all()
    if any(part.signed for part in catalogue.MODIFIERS.selected(config.modifiers)):
        return  # what these sum to is tested below
    assert (weights >= 0).all()
    sums = weights.sum(dim=-1)
    kind = catalogue.TYPES[config.type]
    row_sum = kind.row_sum if kind.name != "multi_head" else NORMALIZERS[config.normalizer].row_sum
    if row_sum == "one":
        torch.testing.assert_close(sums, torch.ones_like(sums))
    elif row_sum == "at most one":
        assert (sums < 1).all()
        assert (sums > 0).all()


def possible_pairs() -> dict[str, AttentionConfig]:
    """Every two parts that fit together, in one attention."""
    singles: list[tuple[str, Any]] = [(r.setting, name) for r in REGISTRIES for name in r]
    pairs = {}
    for one, other in itertools.combinations([*singles, ("kv_heads", 2), ("window", 2)], 2):
        parts = {"position": "none"} | dict([one, other])
        if one[0] == other[0] == "modifiers":
            parts["modifiers"] = f"{one[1]} {other[1]}"
        if "none" not in (one[1], other[1]) and (one[0] != other[0] or one[0] == "modifiers"):
            config = AttentionConfig(**parts)
            with contextlib.suppress(ConfigError):
                attention(config)
                pairs[f"{one[0]}={one[1]} {other[0]}={other[1]}"] = config
    return pairs


PAIRS = VARIANTS | possible_pairs()


@pytest.mark.parametrize("config", PAIRS.values(), ids=PAIRS)
def test_padding_and_kv_cache(config: AttentionConfig) -> None:
    """Variants alone and in pairs: padding has no effect, pieces with a cache equal the whole."""
    module, x, mask = attention(config, "decoder_attention"), tokens(9), causal(6)
    encoder = attention(config)
    expected, expected_weights = run(module, x[:, :6], mask)
    uncausal, _ = run(encoder, x[:, :6], torch.ones(2, 1, 1, 6, dtype=torch.bool))
    kv, start = None, 0
    for new in x[:, :6].split([1, 1, 3, 1], dim=1):
        end = start + new.shape[1]
        projected = module.project(new, new)
        kv = projected if kv is None else kv.append(projected)
        context, weights = traced(module, new, kv, mask[start:end, :end], start)
        torch.testing.assert_close(context, expected[:, start:end])
        if config.type != "ssru":  # whose cache has no past tokens
            torch.testing.assert_close(weights, expected_weights[:, :, start:end, :end])
        untraced = module(new, kv, mask[start:end, :end], start)
        torch.testing.assert_close(untraced, expected[:, start:end])
        start = end
    real = torch.arange(9) < 6
    x[:, 6:] = 1e3
    for made, padded, alone in (
        (module, causal(9) & real, expected),
        (encoder, real.expand(2, 1, 1, 9), uncausal),
    ):
        context, weights = run(made, x, padded)
        assert context.isfinite().all()
        torch.testing.assert_close(context[:, :6], alone)
        assert (weights[:, :, :6, 6:] == 0).all()


@each_variant
def test_bfloat16_is_near_float32(config: AttentionConfig) -> None:
    """With scores so far apart that a threshold or an exponential could get lost."""
    module, x, mask = attention(config).float(), 2 * tokens(30).float(), causal(30)
    context, weights = run(module, x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        context16, weights16 = run(module, x, mask)
    assert context16.isfinite().all()
    sums, sums16 = weights.float().sum(dim=-1), weights16.float().sum(dim=-1)
    torch.testing.assert_close(sums16, sums, atol=0.1, rtol=0.02)
    error = (context16.float() - context).square().mean().sqrt()
    assert error < 0.1 * context.square().mean().sqrt()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@each_variant
def test_gpu_agrees(config: AttentionConfig) -> None:
    module, x, mask = attention(config), tokens(9), causal(9)
    expected, _ = run(module, x, mask)
    module, x, mask = module.cuda(), x.cuda(), mask.cuda()
    torch.testing.assert_close(run(module, x, mask)[0].cpu(), expected)
    torch.testing.assert_close(module(x, module.project(x, x), mask).cpu(), expected)


@each_variant
def test_gradients_reach_every_parameter(config: AttentionConfig) -> None:
    module, x = attention(config), tokens().requires_grad_()
    context, _ = run(module, x, causal(7))
    (context * torch.randn_like(context)).sum().backward()
    # A constant added to every key changes no weight where only differences of scores count.
    product = config.score in ("scaled_dot", "dot", "one_content_head")
    biased = config.position in ("rotary", "cope") or config.modifiers in ("softcap", "forgetting")
    blind = product and not biased and NORMALIZERS[config.normalizer].row_sum == "one"
    idle = {"key_proj.bias"} if blind and config.type == "multi_head" else set()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad.abs().max() > 1e-9) == (name not in idle), name


@each_variant
def test_gradients_equal_finite_differences(config: AttentionConfig) -> None:
    module, x = attention(config), tokens(4, batch=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: run(module, x, causal(4))[0], (x,), atol=1e-4)


def tells_left_from_right(variant: AttentionConfig) -> bool:
    module, x = multi_head(position=variant.position), tokens(5)
    mirrored, _ = run(module, x.flip(1), None)
    return not torch.allclose(mirrored.flip(1), run(module, x, None)[0])


def learner(variant: AttentionConfig) -> ModelConfig:
    """One layer of each, with the variant wherever it can help to reverse.

    A position by itself has to tell the encoder left from right, if it can; in all other variants
    sinusoids do. Cross-attention has to read what the tokens are.
    """
    config = replace(SMALL, encoder_layers=1, decoder_layers=1)
    told = POSITIONS[variant.position].is_a(catalogue.AbsolutePosition) or (
        variant == AttentionConfig(position=variant.position) and tells_left_from_right(variant)
    )
    encoder = variant if told else replace(variant, position="sinusoidal")
    if variant.type == "none":
        variant = encoder
    encoder = fitting(encoder, "encoder_attention")
    config = replace(config, encoder_attention=encoder, decoder_attention=variant)
    reads = SCORES[variant.score].content_based and variant.type in ("multi_head", "linear")
    cross = fitting(replace(variant, window=0, position="none"), "cross_attention")
    return replace(config, cross_attention=cross) if reads else config


LEARNERS = {name: learner(variant) for name, variant in attention_variants().items()}


@pytest.mark.slow
@pytest.mark.parametrize("config", LEARNERS.values(), ids=LEARNERS)
def test_variant_learns_to_reverse(config: ModelConfig) -> None:
    """Without positions 0.72 would be right; the worst variant and seed of three gets 0.95."""
    model, n_steps = small_model(config, vocab_size=12), 160
    optimizer = torch.optim.AdamW(model.parameters())

    def reversals(n: int) -> Batch:
        src = torch.randint(4, 12, (n, 3))
        return Batch(src, torch.cat([torch.full((n, 1), BOS), src.flip(1)], dim=1))

    torch.manual_seed(3)
    for step in range(n_steps):
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * min(1.0, (step + 1) / 20, 2 * (1 - step / n_steps))
        batch = reversals(64)
        (batch_loss(model, batch, 0.0) / batch.n_target_tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = reversals(100)
    right = model.eval()(batch.src, batch.tgt_in).argmax(dim=-1) == batch.labels
    assert right.float().mean() > 0.9


# --- each against a reference of its own ---


def random_heads(n_queries: int = 5, n_keys: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(2, H, n_queries, K), torch.randn(2, H, n_keys, K)


@pytest.mark.parametrize("kind", ["multi_head", "linear"])
def test_fast_path(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without and with a trace: fused or explicit; linear in linear or in quadratic time."""
    monkeypatch.setattr(heart, "_sdpa_is_faster", lambda query: True)
    module, x = multi_head(type=kind), tokens(40)
    for mask in (None, torch.rand(2, 1, 1, 40) < 0.5, causal(40)):
        kv = module.project(x, x)
        slow, _ = traced(module, x, kv, mask)
        fast = module(x, kv, mask)
        torch.testing.assert_close(fast, slow)
        direction, parameters = torch.randn_like(slow), list(module.parameters())
        losses = ((out * direction).sum() for out in (slow, fast))
        gradients = [torch.autograd.grad(x, parameters, retain_graph=True) for x in losses]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_equal_torchs(kv_heads: int) -> None:
    module, x = multi_head(kv_heads=kv_heads), tokens()
    q, k, v = projected(module, x)
    assert k.shape == (2, kv_heads, 7, K)
    expected = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(run(module, x, None)[0], joined(module, expected))


def test_additive_by_loop() -> None:
    query, key = random_heads()
    score = Additive(Place(H, K))
    scores = score(query, key, positions(5, 6))
    for h, t, s in [(0, 0, 0), (1, 4, 5), (3, 2, 1)]:
        expected = sum(
            score.v[h, i] * math.tanh(query[1, h, t, i] + key[1, h, s, i]) for i in range(K)
        )
        torch.testing.assert_close(scores[1, h, t, s], expected)


def test_dot_and_cosine() -> None:
    query, key = random_heads()
    expected = torch.einsum("bhtk,bhsk->bhts", query, key)
    torch.testing.assert_close(dot(query, key, positions(5, 6)), expected)
    score = Cosine(Place(H, K))
    assert score(query, query, positions(5, 5)).amax().item() == pytest.approx(10)
    score.g.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    expected = F.cosine_similarity(query[:, :, :, None], key[:, :, None], dim=-1)
    expected = expected * score.g.view(H, 1, 1)
    torch.testing.assert_close(score(query, key, positions(5, 6)), expected)


def test_gaussian_scores_are_normal_densities() -> None:
    query, key = random_heads(3, 6)
    where = positions(3, 6, start=2)
    score = Gaussian(Place(H, K))
    center = torch.tensor([0.0, -1, 1, -2]).view(H, 1, 1)
    for ratio, sigma in ((1.0, 1.0), (0.5, 2.0)):  # the first are those that training starts from
        mean = ratio * torch.tensor([2.0, 3, 4]).view(3, 1) + center
        log_p = torch.distributions.Normal(mean, sigma).log_prob(torch.arange(6.0))
        weights = score(query, key, where).softmax(dim=-1)
        torch.testing.assert_close(weights, log_p.softmax(dim=-1).unsqueeze(0))
        nn.init.constant_(score.r, 0.5)
        nn.init.constant_(score.log_sigma, math.log(2))


def test_one_head_compares_content_and_the_others_places() -> None:
    module, x = multi_head(score="one_content_head"), tokens()
    assert module.query_proj(x).shape == module.key_proj(x).shape == (2, 7, K)
    _, weights = run(module, x, None)
    last = (module.query_proj(x) @ module.key_proj(x).mT / math.sqrt(K)).softmax(dim=-1)
    torch.testing.assert_close(weights[:, -1], last)
    others = Gaussian.forward(module.score, x, x, positions(7, 7)).softmax(dim=-1)
    assert others.shape == (1, H - 1, 7, 7)
    torch.testing.assert_close(weights[:, :-1], others.expand(2, -1, -1, -1))


def test_uniform_scores_give_the_mean_of_visible_values() -> None:
    module, x = multi_head(score="uniform"), tokens()
    mask = torch.rand(2, 1, 1, 7) < 0.5
    mask[..., 0] = True
    means = [module.value_proj(x[b, mask[b, 0, 0]]).mean(dim=0) for b in range(2)]
    expected = module.output_proj(torch.stack(means))[:, None].expand(2, 7, D)
    torch.testing.assert_close(run(module, x, mask)[0], expected)
    assert (uniform(*random_heads(), positions(5, 6)) == 0).all()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(sparsemax, entmax.sparsemax), (entmax15, entmax.entmax15)]
)
def test_sparse_weights_equal_the_entmax_packages(ours: Any, theirs: Any) -> None:
    torch.manual_seed(5)
    for scale in (0.1, 1.0, 10.0):
        scores = (scale * torch.randn(50, 12, dtype=torch.double)).requires_grad_()
        mask = torch.rand(50, 12) < 0.7
        mask[:, 0] = True
        with torch.no_grad():
            scores[:10] = scores[:10].round()  # equal scores
        weights = ours(scores.masked_fill(~mask, -math.inf))
        expected = theirs(scores.masked_fill(~mask, -1e4), dim=-1)
        torch.testing.assert_close(weights, expected)
        assert scale < 10 or (weights[mask] == 0).any()
        direction = torch.randn_like(scores)
        losses = ((w * direction).sum() for w in (weights, expected))
        one, other = (torch.autograd.grad(loss, scores)[0] for loss in losses)
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("z", [[0.0, -1, -1, -3], [0.0, 0, -0.5, -0.5], [2.0, 1, -9]])
def test_gradient_where_scores_equal_the_threshold(z: list[float]) -> None:
    """The closed forms of Martins and Astudillo, and of Peters et al., by positive weights."""
    scores = torch.tensor(z)
    s = (sparsemax(scores) > 0).float()
    assert s.tolist() == [float(x == max(z)) for x in z]  # the second highest are at τ
    expected = s.diag() - torch.outer(s, s) / s.sum()
    torch.testing.assert_close(torch.func.jacrev(sparsemax)(scores), expected)
    s = entmax15(2 * scores).sqrt()
    expected = s.diag() - torch.outer(s, s) / s.sum()
    torch.testing.assert_close(torch.func.jacrev(entmax15)(2 * scores), expected)


def test_entmax_gradient_at_an_edge_is_finite() -> None:
    scores = torch.tensor([0.0, 0.0, -2.0, -2.0], requires_grad=True)  # where 1/k equals v
    weights = entmax15(scores)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.0, 0.0]))
    assert torch.autograd.grad(weights[0], scores)[0].isfinite().all()


def test_sigmoid_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, -math.inf], [math.log(2), -50.0, 50.0, -math.inf]])
    expected = torch.tensor([[0.25, 0.25, 0.25, 0], [2 / 5, 0, 1, 0]])
    torch.testing.assert_close(sigmoid(scores), expected)


def test_scalable_softmax_by_hand() -> None:
    normalize = NORMALIZERS.make("scalable_softmax", Place(2, K))
    normalize.g.data = torch.tensor([1.0, 2.0])
    scores = torch.tensor([[1.0, 3.0, 2.0], [1.0, -math.inf, 2.0], [5.0, -math.inf, -math.inf]])
    scores.requires_grad_()
    expected = [  # n^(g s), for n = 3, 2 and 1 visible keys
        [[3 / 39, 27 / 39, 9 / 39], [2 / 6, 0, 4 / 6], [1, 0, 0]],
        [[9 / 819, 729 / 819, 81 / 819], [4 / 20, 0, 16 / 20], [1, 0, 0]],
    ]
    weights = normalize(scores.expand(1, 2, 3, 3))
    torch.testing.assert_close(weights, torch.tensor([expected]))
    for gradient in torch.autograd.grad(weights[..., 0].sum(), [scores, normalize.g]):
        assert gradient.isfinite().all()
    twenty = torch.randn(1, 2, 1, 20)
    start = NORMALIZERS.make("scalable_softmax", Place(2, K))(twenty)
    torch.testing.assert_close(start, twenty.softmax(dim=-1), atol=1e-3, rtol=0.01)


def test_top_k_by_loop() -> None:
    scores = torch.randn(30, 12, dtype=torch.double)
    scores[:, 9:] = -math.inf
    scores[0, :9] = 1.0  # nine of the same
    for row, weights in zip(scores.tolist(), top_k(scores), strict=True):
        eighth = sorted(row)[-8]
        kept = [math.exp(s) if s >= eighth else 0.0 for s in row]
        torch.testing.assert_close(weights, torch.tensor(kept).double() / sum(kept))
    assert (top_k(scores) > 0).sum(dim=-1).tolist() == [9] + [8] * 29
    torch.testing.assert_close(top_k(scores[:, :5]), scores[:, :5].softmax(dim=-1))


def test_relu_by_hand() -> None:
    scores = torch.tensor([[6.0, -2.0, 3.0, -math.inf], [-1.0, -1.0, -math.inf, -math.inf]])
    assert relu(scores).tolist() == [[2, 0, 1, 0], [0, 0, 0, 0]]


def test_softmax_null_is_attention_with_a_zero_key() -> None:
    module, x = multi_head(normalizer="softmax_null"), tokens()
    null = SoftmaxNull(Place(H, K))
    module.normalize = null.double()
    nothing = torch.zeros(2, H, 1, K, dtype=torch.double)
    q, k, v = projected(module, x)
    k, v = (torch.cat([part, nothing], dim=2) for part in (k, v))
    expected = joined(module, F.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(run(module, x, None)[0], expected)
    nn.init.constant_(null.b, math.log(5))
    torch.testing.assert_close(null(torch.zeros(1, H, 1, 3))[0, :, 0], torch.full((H, 3), 1 / 8))


def test_learned_positions_end_with_the_table() -> None:
    position = Learned(D)
    assert torch.equal(position(3, 5), position.p[3:5])
    assert torch.equal(position(510, 515)[2:], position.p[[511] * 3])


def test_rotary_is_a_product_of_complex_numbers() -> None:
    query, key = random_heads(3, 6)
    where = positions(3, 6, start=2)
    ours = Rotary(Place(H, K)).modify_qk(query, key, where)
    for x, turned, at in zip((query, key), ours, where, strict=True):
        numbers = torch.complex(x[..., : K // 2], x[..., K // 2 :])
        angles = at[:, None] * torch.tensor([10000.0 ** (-2 * n / K) for n in range(K // 2)])
        expected = numbers * torch.polar(torch.ones_like(angles), angles)
        torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], dim=-1))


@pytest.mark.parametrize("position", ["rotary", "alibi", "t5", "shaw", "kerple", "cope"])
def test_only_relative_positions_matter(position: str) -> None:
    """The same tokens further on in the sentence attend to each other as before."""
    module, x = multi_head(position=position), tokens(4)
    shifted = torch.cat([torch.randn(2, 3, D, dtype=torch.double), x], dim=1)
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[:, :3] = False
    expected, expected_weights = run(module, x, None)
    context, weights = run(module, shifted, mask, start=3)
    torch.testing.assert_close(context, expected)
    torch.testing.assert_close(weights[..., 3:], expected_weights)
    swapped, _ = run(module, x[:, [1, 0, 2, 3]], None)
    assert not torch.allclose(swapped[:, [1, 0, 2, 3]], expected)  # but they do matter


def test_alibi_by_hand() -> None:
    scores, query = torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 2, K)
    bias = Alibi(Place(8, K)).modify_scores(scores, query, query, positions(2, 3, 1))
    expected = [[[-m, 0, -m], [-2 * m, -m, 0]] for m in (2**-h for h in range(1, 9))]
    torch.testing.assert_close(bias, torch.tensor([expected]))
    slopes = {6: [1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 2, 1 / 8]}
    slopes[12] = [2**-h for h in range(1, 9)] + [2**-h for h in (0.5, 1.5, 2.5, 3.5)]
    for n_heads, official in slopes.items():
        torch.testing.assert_close(Alibi(Place(n_heads, K)).slopes, torch.tensor(official))


def product_weights(module: MultiHeadAttention, x: Tensor, factors: Tensor) -> Tensor:
    """Softmax of scaled products, each times a factor before they are normalized."""
    q, k, _ = projected(module, x)
    products = torch.exp(q @ k.mT / math.sqrt(K)) * factors
    return products / products.sum(dim=-1, keepdim=True)


def test_gaussian_position_is_content_times_a_normal_density() -> None:
    module, x = multi_head(position="gaussian"), tokens()
    score = cast(Gaussian, module.modifiers[0])
    c, r, sigma = (p.view(H, 1, 1) for p in (score.c, score.r, score.log_sigma.exp()))
    normal = torch.distributions.Normal(c + r * torch.arange(7).view(7, 1), sigma)
    expected = product_weights(module, x, normal.log_prob(torch.arange(7)).exp())
    torch.testing.assert_close(run(module, x, None)[1], expected)


def test_kerple_is_content_times_a_power() -> None:
    module, x = multi_head(position="kerple"), tokens()
    a, b = (p.exp().view(H, 1, 1) for p in module.modifiers[0].parameters())
    distance = (torch.arange(7) - torch.arange(7)[:, None]).abs()
    expected = product_weights(module, x, (1 + b * distance) ** -a)
    torch.testing.assert_close(run(module, x, None)[1], expected)
    starts = POSITIONS.make("kerple", Place(1000, K)).parameters()
    assert [x.exp().max().item() for x in starts] == pytest.approx([2, 1], abs=0.1)


@pytest.mark.parametrize("is_causal", [True, False])
def test_contextual_positions_by_loop(is_causal: bool) -> None:
    """Also beyond the furthest position."""
    n, cope = 40, POSITIONS.make("cope", Place(1, K, causal=is_causal)).double()
    nn.init.normal_(cope.e)
    assert cope.e.shape == (K, 33 if is_causal else 66)
    q, k = torch.randn(1, 1, n, K).double(), torch.randn(1, 1, n, K).double()
    scores = q @ k.mT / math.sqrt(K) + 3
    ours = cope.modify_scores(scores, q, k, positions(n, n)) - scores
    gates, furthest = scores[0, 0].sigmoid(), 0.0
    for i, j in itertools.product(range(n), range(0, n, 3)):
        if j <= i or not is_causal:
            p = min(32.0, gates[i, min(i, j) : max(i, j) + 1].sum().item())
            e = cope.e[:, :33] if j <= i else cope.e[:, 33:]
            low, high = math.floor(p), math.ceil(p)
            vector = e[:, low] + (p - low) * (e[:, high] - e[:, low])
            expected = q[0, 0, i] @ vector / math.sqrt(K)
            torch.testing.assert_close(ours[0, 0, i, j], expected)
            furthest = max(furthest, p)
    assert furthest == 32


def test_t5_buckets_by_hand() -> None:
    position, distances = T5Buckets(Place(1, K)), torch.arange(200)
    assert position.bias.shape == (1, 32)
    # Above 8 each bucket is 2^(1/2) times as wide as the one before: 8, 11.3, 16, ..., 90.5.
    expected = [*range(8), *(min(15, 8 + int(2 * math.log2(d / 8))) for d in range(8, 200))]
    assert position.bucket(-distances).tolist() == expected
    assert position.bucket(distances[1:]).tolist() == [16 + bucket for bucket in expected[1:]]
    # To the left only, above 16: each is 2^(3/16) times as wide as the one before.
    position = T5Buckets(Place(1, K, causal=True))
    expected = [
        *range(16),
        *(min(31, 16 + int(16 / 3 * math.log2(d / 16))) for d in range(16, 200)),
    ]
    assert position.bucket(-distances).tolist() == expected
    assert [expected.index(b) for b in (15, 16, 17, 24, 31)] == [15, 16, 19, 46, 113]


def test_shaw_by_loop() -> None:
    module, x = multi_head(position="shaw"), tokens(20, batch=1)
    shaw = module.modifiers[0]
    assert isinstance(shaw, Shaw)
    q, k, v = projected(module, x)
    output = torch.zeros_like(q)
    for t in range(20):
        index = [max(-16, min(16, s - t)) + 16 for s in range(20)]
        scores = ((k + shaw.a[index]) @ q[:, :, t, :, None]).squeeze(-1) / math.sqrt(K)
        weights = scores.softmax(dim=-1).unsqueeze(-1)
        output[:, :, t] = (weights * (v + shaw.b[index])).sum(dim=2)
    torch.testing.assert_close(run(module, x, None)[0], joined(module, output))


@pytest.mark.parametrize("window", [1, 3])
def test_window_by_loop(window: int) -> None:
    module, full, x = multi_head(window=window), multi_head(), tokens()
    for mask, reach in ((causal(7), 0), (None, window)):
        context, _ = run(module, x, mask)
        for t in range(7):
            near = x[:, max(0, t - window) : t + 1 + reach]
            expected = full(x[:, t : t + 1], full.project(near, near))
            torch.testing.assert_close(context[:, t : t + 1], expected)


def test_linear_attention_by_loop() -> None:
    """The recurrence of the paper's equations 16 to 20."""
    module, x = multi_head(type="linear"), tokens()
    q, k, v = projected(module, x)
    state, total = torch.zeros(2, H, K, K).double(), torch.zeros(2, H, K).double()
    output = torch.zeros_like(q)
    for t in range(7):
        phi_q, phi_k = (F.elu(part[:, :, t]) + 1 for part in (q, k))
        state = state + phi_k[..., None] * v[:, :, t, None, :]
        total = total + phi_k
        above = torch.einsum("bhk,bhkv->bhv", phi_q, state)
        output[:, :, t] = above / (phi_q * total).sum(dim=-1, keepdim=True)
    torch.testing.assert_close(run(module, x, causal(7))[0], joined(module, output))
    far = torch.tensor(-30.0)  # never loses a token
    assert alternatives._phi(far).item() == pytest.approx(math.exp(-30))


def test_hard_coded_weights_are_fixed() -> None:
    a, b, c, d = 0.3989, 0.2420, 0.0540, 0.0044  # the normal density at distances 0 to 3
    left, right = [[b, c, d], [a, b, c], [b, a, b]], [[b, a, b], [c, b, a], [d, c, b]]
    here = [[a, b, c], [b, a, b], [c, b, a]]
    config, x = AttentionConfig(type="hard_coded", position="none"), tokens(3)
    for section, mask, expected in (
        ("encoder_attention", None, torch.tensor([left, right] * 2).double()),
        ("decoder_attention", causal(3), torch.tensor([left, here] * 2).double().tril()),
    ):
        module = attention(config, section)
        context, weights = run(module, x, mask)
        torch.testing.assert_close(weights, expected.expand_as(weights), atol=5e-5, rtol=0)
        assert isinstance(module, MultiHeadAttention)
        _, _, v = projected(module, x)
        torch.testing.assert_close(context, joined(module, weights @ v))
        assert sum(p.numel() for p in module.parameters()) == 2 * (D * D + D)


def test_ssru_by_loop() -> None:
    module, x = attention(AttentionConfig(type="ssru", position="none")), tokens()
    assert isinstance(module, alternatives.SSRU)
    context, _ = run(module, x, causal(7))
    state = torch.zeros(2, D).double()
    for t in range(7):
        forget = torch.sigmoid(module.forget_proj(x[:, t]))
        state = forget * state + (1 - forget) * module.value_proj(x[:, t])
        torch.testing.assert_close(context[:, t], torch.relu(state))
    nn.init.zeros_(module.forget_proj.weight)
    nn.init.constant_(module.forget_proj.bias, -math.log(3))  # a gate of 1/4
    _, weights = run(module, x, causal(7))
    powers = 0.75 * 0.25 ** torch.arange(7).sub(torch.arange(7)[:, None]).abs().double()
    torch.testing.assert_close(weights[1, 0], powers.tril())


def test_ssru_takes_small_steps_in_bfloat16() -> None:
    """Also where decoding has converted the matrices: 1000 steps of 1/1000 of the way."""
    module, x = attention(AttentionConfig(type="ssru", position="none")).float(), tokens(1).float()
    assert isinstance(module, alternatives.SSRU)
    nn.init.zeros_(module.forget_proj.weight)
    nn.init.constant_(module.forget_proj.bias, math.log(999))
    for projection in (module.value_proj, module.forget_proj):
        projection.weight = nn.Parameter(projection.weight.detach().bfloat16())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        inputs, state = module.value_proj(x), module.project(x, x)
        for _ in range(999):
            state = state.append(module.project(x, x))
    expected = (1 - 0.999**1000) * inputs[:, None].float()
    torch.testing.assert_close(state.value, expected, rtol=0.01, atol=0)


def test_average_attention_by_loop() -> None:
    module, x = attention(AttentionConfig(type="average", position="none")), tokens(5)
    assert isinstance(module, alternatives.AverageAttention)
    context, _ = run(module, x, causal(5))
    for t in range(5):
        g = module.output_proj(torch.relu(module.value_proj(x[:, : t + 1].mean(dim=1))))
        i, f = torch.sigmoid(module.gate_proj(torch.cat([x[:, t], g], dim=-1))).split(D, dim=-1)
        torch.testing.assert_close(context[:, t], i * x[:, t] + f * g)


def test_differential_attention_is_the_difference_of_two() -> None:
    module, x = multi_head(modifiers="differential"), tokens()
    modifier = module.modifiers[0]
    assert isinstance(modifier, Differential)
    (q1, q2), (k1, k2) = modifier.lambda_query, modifier.lambda_key
    factor = torch.exp(q1 @ k1) - torch.exp(q2 @ k2) + 0.2
    q, k, v = projected(module, x)
    halves = zip(q.chunk(2, dim=-1), k.chunk(2, dim=-1), strict=True)
    first, second = (F.scaled_dot_product_attention(*half, v) for half in halves)
    difference = first - factor * second
    root_mean_square = (difference.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    expected = joined(module, 0.8 * modifier.norm.weight * difference / root_mean_square)
    context, weights = run(module, x, None)
    torch.testing.assert_close(context, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(dim=-1), (1 - factor).expand(2, H, 7))
    for layer, lambda_0 in ((1, 0.2), (2, 0.355509), (3, 0.470713), (12, 0.777870)):
        started = Differential(Place(H, K // 2, layer))
        nn.init.zeros_(started.lambda_key)
        assert started.lambda_().item() == pytest.approx(lambda_0, abs=1e-6)
    model = small_model(with_attention(AttentionConfig(modifiers="differential")))
    starts = [part.lambda_0 for part in model.modules() if isinstance(part, Differential)]
    one, two = 0.2, 0.355509  # the encoder's layers, then the decoder's with two attentions each
    assert starts == pytest.approx([one, two, one, one, two, two], abs=1e-6)


def test_talking_heads_by_hand() -> None:
    modifier = TalkingHeads(Place(2, K))
    pair, at = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1), positions(1, 1)
    assert torch.equal(modifier.modify_weights(modifier.modify_scores(pair, pair, pair, at)), pair)
    modifier.a.data = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    modifier.b.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert modifier.modify_scores(pair, pair, pair, at).flatten().tolist() == [21, 43]
    assert modifier.modify_weights(pair).flatten().tolist() == [10, 1]
    module = multi_head(modifiers="talking_heads")  # weights sum to the rows of their map
    _, weights = run(module, tokens(), None)
    expected = cast(TalkingHeads, module.modifiers[0]).b.sum(dim=-1)[None, :, None]
    torch.testing.assert_close(weights.sum(dim=-1), expected.expand(2, H, 7))


def test_soft_cap_by_hand() -> None:
    scores = torch.tensor([-1e4, -50.0, 0.0, 1.0, 1e4])
    softcap = catalogue.MODIFIERS.make("softcap", Place(H, K))
    capped = softcap.modify_scores(scores, scores, scores, positions(1, 5))
    torch.testing.assert_close(capped, torch.tensor([-50, -38.0797, 0, 0.99987, 50]))


def test_forgetting_multiplies_by_the_gates_in_between() -> None:
    module, x = multi_head(modifiers="forgetting"), tokens()
    w, b = module.modifiers[0].parameters()
    _, k, _ = projected(module, x)
    gates = torch.sigmoid(torch.einsum("bhsk,hk->bhs", k, w) + b[:, None])
    factors = torch.ones(2, H, 7, 7).double()
    for i, j in itertools.product(range(7), range(7)):
        factors[:, :, i, j] = gates[:, :, min(i, j) + 1 : max(i, j) + 1].prod(dim=-1)
    torch.testing.assert_close(run(module, x, None)[1], product_weights(module, x, factors))


def test_gates_scale_each_dimension_of_each_head() -> None:
    modifier = Gated(Place(H, K))
    x, output = torch.randn(2, 3, D), torch.randn(2, H, 3, K)
    gated = modifier.modify_output(output, output, x, positions(3, 3))
    expected = modifier.gate_proj(x).sigmoid() * output.transpose(1, 2).flatten(2)
    torch.testing.assert_close(gated.transpose(1, 2).flatten(2), expected)
    module, x = multi_head(modifiers="gated differential"), tokens()  # no norm undoes a gate
    modifier = cast(Gated, module.modifiers[0])
    nn.init.zeros_(modifier.gate_proj.weight)
    nn.init.zeros_(module.output_proj.bias)
    contexts = []
    for gate in (0.8, 0.4):
        nn.init.constant_(modifier.gate_proj.bias, math.log(gate / (1 - gate)))
        contexts.append(run(module, x, None)[0])
    torch.testing.assert_close(contexts[1], contexts[0] / 2)


# --- the registry ---


def test_every_part_has_a_formula_and_a_paper(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["variants"]) == 0
    table = capsys.readouterr().out.split("\n\n")[0].splitlines()[1:]
    rows = [re.split(" {2,}", line.strip()) for line in table]
    names = [(registry.setting, name) for registry in REGISTRIES for name in registry]
    assert [(row[0], row[1]) for row in rows] == names
    for _, name, _, formula, paper in rows:
        assert formula, name
        assert re.search(r"\d{4}\.\d{4,5}|aclanthology|control", paper), name
    extra = {row[1]: int(row[2].replace(",", "")) for row in rows}
    expected = {"scaled_dot": 0, "sparsemax": 0, "rotary": 0, "cosine": 4, "additive": 256}
    expected |= {"t5": 4 * 32, "uniform": -2 * (256 * 256 + 256), "learned": 512 * 256}
    assert expected.items() <= extra.items()


def test_names_are_registered_once_and_properties_spelled_right() -> None:
    registry = catalogue.Registry("score")
    registry.add("mine", "s = 1", "a control")(uniform)
    with pytest.raises(ValueError, match="'mine'"):
        registry.add("mine", "s = 2", "a control")(dot)
    assert registry["mine"].make is uniform
    with pytest.raises(TypeError, match="content_base"):
        registry.add("other", "s = 1", "a control", content_base=False)(uniform)
    assert "other" not in registry
