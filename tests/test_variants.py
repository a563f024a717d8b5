"""Every variant of attention: what all must keep, and each against a reference of its own.

What is parametrised over ``attention_variants()`` tests a new part as soon as it is registered.
"""

import contextlib
import itertools
import math
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import entmax
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, attention_variants, small_model
from torch import Tensor, nn

import seq2seq.attention
from seq2seq.attention import Attention, fused_is_faster
from seq2seq.batches import Batch
from seq2seq.errors import Impossible
from seq2seq.extras import Differential, Gated, TalkingHeads
from seq2seq.normalizers import SoftmaxNull, entmax15, sigmoid, sparsemax
from seq2seq.objective import batch_loss
from seq2seq.parts import Places
from seq2seq.positions import AbsolutePosition, Alibi, Learned, Rotary, Shaw, T5Buckets
from seq2seq.registry import EXTRAS, NORMALIZERS, POSITIONS, REGISTRIES, SCORES
from seq2seq.replacements import AverageAttention, phi
from seq2seq.scores import Additive, Cosine, Gaussian, dot, hard_coded, uniform
from seq2seq.settings import AttentionConfig, ModelConfig
from seq2seq.tokenizer import BOS
from seq2seq.variants import AnyAttention, check_attention, make_attention, table

D, H = 16, 4
K = D // H
VARIANTS = {name: config for name, config in attention_variants().items() if config.kind != "none"}
each_variant = pytest.mark.parametrize("config", VARIANTS.values(), ids=VARIANTS)
CPU = torch.device("cpu")


def jolted(module: nn.Module) -> nn.Module:
    """``module`` away from any start at which a part does nothing."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def attention(config: AttentionConfig) -> AnyAttention:
    torch.manual_seed(0)
    made = make_attention(ModelConfig(d_model=D, n_heads=H), config)
    assert made is not None
    jolted(made)
    return made.double()


def plain(**parts: object) -> AttentionConfig:
    return AttentionConfig(**{"position": "none", "n_heads": H, **parts})  # type: ignore[arg-type]


def run(
    module: AnyAttention, x: Tensor, mask: Tensor | None, start: int = 0
) -> tuple[Tensor, Tensor]:
    context, steps = module.attend(x[:, start:], module.project(x, x), mask, start)
    assert steps is not None
    return context, steps.weights


def tokens(length: int = 7, batch: int = 2) -> Tensor:
    torch.manual_seed(2)
    return torch.randn(batch, length, D, dtype=torch.double)


def places(n_queries: int, n_keys: int, start: int = 0) -> Places:
    return Places.of(n_queries, n_keys, start, CPU)


# --- what holds for all ---


@each_variant
def test_weights_are_what_their_definition_says(config: AttentionConfig) -> None:
    mask = torch.rand(2, 1, 7, 7) < 0.5
    mask[..., range(7), range(7)] = True
    context, weights = run(attention(config), tokens(), mask)
    assert context.shape == (2, 7, D)
    heads = 1 if config.kind == "average" else H
    assert weights.shape == (2, heads, 7, 7)
    assert (weights[~mask.expand_as(weights)] == 0).all()
    if config.window:
        far = places(7, 7).distances.abs() > config.window
        assert (weights[..., far] == 0).all()
    if any("signed" in part.traits for part in EXTRAS.chosen(config.extras)):
        return  # what these sum to is tested below
    assert (weights >= 0).all()
    assert (weights <= 1 + 1e-9).all()
    sums = weights.sum(dim=-1)
    traits = NORMALIZERS[config.normalizer].traits
    if "sums to one" in traits:
        torch.testing.assert_close(sums, torch.ones_like(sums))
    elif "sums to less than one" in traits:
        assert (sums < 1).all()
        assert (sums > 0).all()


def possible_pairs() -> dict[str, AttentionConfig]:
    """Every two parts that go together, in one attention."""
    singles = [
        (registry.place, name) for registry in REGISTRIES for name in registry if name != "none"
    ] + [("kv_heads", 2), ("window", 2)]
    found = {}
    for (place, name), (other_place, other) in itertools.combinations(singles, 2):
        parts: dict[str, Any] = {"position": "none"} | {place: name, other_place: other}
        if place == other_place == "extras":
            parts["extras"] = f"{name} {other}"
        elif place == other_place:
            continue
        config = AttentionConfig(**parts)
        model = ModelConfig(d_model=D, n_heads=H, encoder_attention=config)
        with contextlib.suppress(Impossible):
            check_attention(model, "encoder_attention")
            found[f"{name}-{other}"] = config
    return found


PAIRS = possible_pairs()


@pytest.mark.parametrize("config", PAIRS.values(), ids=PAIRS)
def test_parts_that_are_let_together_work_together(config: AttentionConfig) -> None:
    """In one pass over it all: padded, causal, in pieces, and from a longer target."""
    module, x = attention(config), tokens(9)
    seen = torch.arange(9) < 6
    mask = torch.ones(9, 9, dtype=torch.bool).tril() & seen
    x[:, 6:] = 1e3
    context, weights = run(module, x, mask)
    assert context.isfinite().all()
    assert (weights[:, :, :6][..., ~mask[:6]] == 0).all()
    alone, _ = run(module, x[:, :6], mask[:6, :6])
    torch.testing.assert_close(context[:, :6], alone)
    memory = module.project(x[:, :2], x[:, :2])
    for t in range(2, 6):
        memory = memory.append(module.project(x[:, t : t + 1], x[:, t : t + 1]))
        piece, _ = module.attend(x[:, t : t + 1], memory, None, t)
        torch.testing.assert_close(piece, alone[:, t : t + 1])


@each_variant
def test_the_places_of_a_longer_target_are_kept(config: AttentionConfig) -> None:
    """Cross-attention in pieces: queries go on, the memory does not grow."""
    config = replace(config, window=0)
    module, x = attention(config), tokens(9)
    memory = module.project(x[:, :4], x[:, :4])
    expected, _ = module.attend(x, memory)
    pieces = [module.attend(x[:, t : t + 3], memory, None, t)[0] for t in (0, 3, 6)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), expected)


@each_variant
def test_bfloat16_is_near_float32(config: AttentionConfig) -> None:
    """With scores so far apart that a threshold or an exponential could get lost."""
    module, x = attention(config).float(), 2 * tokens(30).float()
    mask = torch.ones(30, 30, dtype=torch.bool).tril()
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
def test_a_gpu_agrees(config: AttentionConfig) -> None:
    module, x = attention(config), tokens(9)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()
    expected, _ = run(module, x, mask)
    context, _ = run(module.cuda(), x.cuda(), mask.cuda())
    torch.testing.assert_close(context.cpu(), expected)
    fast, _ = module.attend(
        x.cuda(), module.project(x.cuda(), x.cuda()), mask.cuda(), need_steps=False
    )
    torch.testing.assert_close(fast.cpu(), expected)


@each_variant
def test_what_is_no_number_passes_through(config: AttentionConfig) -> None:
    """So that the loss shows it, whatever the parts; an experiment then goes on without it."""
    module = attention(config)
    context, _ = run(module, torch.full((1, 3, D), math.nan, dtype=torch.double), None)
    assert context.isnan().all()


@each_variant
def test_padding_has_no_effect(config: AttentionConfig) -> None:
    module, x = attention(config), tokens(9)
    expected, _ = run(module, x[:, :6], torch.ones(2, 1, 1, 6, dtype=torch.bool))
    seen = torch.arange(9) < 6
    x[:, 6:] = 1e3
    context, weights = run(module, x, seen.expand(2, 1, 1, 9))
    torch.testing.assert_close(context[:, :6], expected)
    assert (weights[:, :, :6, 6:] == 0).all()
    assert context.isfinite().all()


@each_variant
@pytest.mark.parametrize("chunks", [[1] * 6, [2, 1, 3]])
def test_cached_equals_uncached(config: AttentionConfig, chunks: list[int]) -> None:
    module, x = attention(config), tokens(6)
    causal = torch.ones(6, 6, dtype=torch.bool).tril()
    expected, expected_weights = run(module, x, causal)
    memory, start = module.project(x[:, :0], x[:, :0]), 0
    for new in x.split(chunks, dim=1):
        end = start + new.shape[1]
        memory = memory.append(module.project(new, new))
        for need_steps in (True, False):
            context, steps = module.attend(new, memory, causal[start:end, :end], start, need_steps)
            torch.testing.assert_close(context, expected[:, start:end])
            if steps is not None:
                torch.testing.assert_close(steps.weights, expected_weights[:, :, start:end, :end])
        start = end


@each_variant
def test_gradients_reach_every_parameter(config: AttentionConfig) -> None:
    module = attention(config)
    x = tokens().requires_grad_()
    context, _ = run(module, x, torch.ones(7, 7, dtype=torch.bool).tril())
    (context * torch.randn_like(context)).sum().backward()
    # A constant added to every key changes no weight where only differences of scores count.
    product = config.score in ("scaled_dot", "dot") and config.position != "rotary"
    blind = product and "sums to one" in NORMALIZERS[config.normalizer].traits
    idle = {"key_weights.bias"} if blind and config.kind == "scored" else set()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad.abs().max() > 1e-9) == (name not in idle), name


@each_variant
def test_gradients_are_those_of_finite_differences(config: AttentionConfig) -> None:
    module, x = attention(config), tokens(4, batch=1).requires_grad_()
    mask = torch.ones(4, 4, dtype=torch.bool).tril()
    assert torch.autograd.gradcheck(lambda x: run(module, x, mask)[0], (x,), atol=1e-4)


def tells_left_from_right(variant: AttentionConfig) -> bool:
    module, x = attention(replace(plain(), position=variant.position)), tokens(5)
    mirrored, _ = run(module, x.flip(1), None)
    return not torch.allclose(mirrored.flip(1), run(module, x, None)[0])


def learner(variant: AttentionConfig) -> ModelConfig:
    """One layer of each, with the variant wherever it can help to reverse.

    A position by itself has to tell the encoder left from right, if it can; in all other variants
    sinusoids do. Cross-attention has to read what the tokens are.
    """
    config = replace(SMALL, encoder_layers=1, decoder_layers=1)
    told = POSITIONS[variant.position].is_a(AbsolutePosition) or (
        variant == AttentionConfig(position=variant.position) and tells_left_from_right(variant)
    )
    encoder = variant if told else replace(variant, position="sinusoidal")
    if variant.kind == "none":
        variant = encoder
    reads = "no content" not in SCORES[variant.score].traits
    reads = reads and variant.kind not in ("average", "none")
    cross = replace(variant, window=0, position="none") if reads else config.cross_attention
    return replace(
        config, encoder_attention=encoder, decoder_attention=variant, cross_attention=cross
    )


STEPS = 250
LEARNERS = {name: learner(variant) for name, variant in attention_variants().items()}


@pytest.mark.parametrize("config", LEARNERS.values(), ids=LEARNERS)
def test_it_learns_to_reverse(config: ModelConfig) -> None:
    model = small_model(config, vocab_size=16)
    optimizer = torch.optim.AdamW(model.parameters())

    def reversals(n: int) -> Batch:
        src = torch.randint(4, 16, (n, 4))
        return Batch(src, torch.cat([torch.full((n, 1), BOS), src.flip(1)], dim=1))

    torch.manual_seed(3)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 8e-3 * min(1.0, (step + 1) / 20, 2 * (1 - step / STEPS))
        batch = reversals(64)
        (batch_loss(model, batch, 0.0) / batch.n_labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    batch = reversals(100)
    right = model.eval()(batch.src, batch.tgt_in).argmax(dim=-1) == batch.labels
    assert right.float().mean() > 0.95


# --- each against a reference of its own ---


def random_heads(n_queries: int = 5, n_keys: int = 6) -> tuple[Tensor, Tensor]:
    torch.manual_seed(4)
    return torch.randn(2, H, n_queries, K), torch.randn(2, H, n_keys, K)


def test_equals_torchs_multi_head_attention() -> None:
    module, x = attention(plain()), tokens()
    assert isinstance(module, Attention)
    mask = torch.ones(7, 7, dtype=torch.bool).tril()
    context, weights = run(module, x, mask)
    projections: list[Any] = [module.query_weights, module.key_weights, module.value_weights]
    in_turn = x.transpose(0, 1)
    expected, expected_weights = F.multi_head_attention_forward(
        in_turn,
        in_turn,
        in_turn,
        embed_dim_to_check=D,
        num_heads=H,
        in_proj_weight=torch.cat([p.weight for p in projections]),
        in_proj_bias=torch.cat([p.bias for p in projections]),
        bias_k=None,
        bias_v=None,
        add_zero_attn=False,
        dropout_p=0.0,
        out_proj_weight=module.output_weights.weight,
        out_proj_bias=module.output_weights.bias,
        attn_mask=~mask,
        average_attn_weights=False,
    )
    torch.testing.assert_close(context, expected.transpose(0, 1))
    torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize(
    ("kind", "kv_heads"), [("scored", 0), ("scored", 1), ("scored", 2), ("linear", 0)]
)
def test_the_fast_path_is_the_slow_one(
    kind: str, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With and without the steps: fused against explicit; linear in linear time against quadratic."""
    monkeypatch.setattr(seq2seq.attention, "fused_is_faster", lambda queries: True)
    module, x = attention(plain(kind=kind, kv_heads=kv_heads)), tokens(40)
    for mask in (None, torch.rand(2, 1, 1, 40) < 0.5, torch.ones(40, 40, dtype=torch.bool).tril()):
        memory = module.project(x, x)
        slow, steps = module.attend(x, memory, mask)
        fast, no_steps = module.attend(x, memory, mask, need_steps=False)
        assert steps is not None
        alike = mask is None or mask.shape[-2] == 1  # all queries see the same keys
        assert (no_steps is None) == (kind == "scored" or alike)
        torch.testing.assert_close(fast, slow)
        direction = torch.randn_like(slow)
        parameters = list(module.parameters())
        gradients = [
            torch.autograd.grad((out * direction).sum(), parameters, retain_graph=True)
            for out in (slow, fast)
        ]
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)


def test_the_fused_kernel_is_for_single_queries_and_gpus() -> None:
    assert fused_is_faster(torch.zeros(2, 4, 1, 8))
    assert not fused_is_faster(torch.zeros(2, 4, 5, 8))
    assert fused_is_faster(torch.zeros(1, 4, 1, 8).bfloat16())
    assert not fused_is_faster(torch.zeros(2, 4, 1, 8).bfloat16())
    on_gpu = cast(Tensor, SimpleNamespace(is_cuda=True, shape=(2, 4, 5, 8)))
    assert fused_is_faster(on_gpu)


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_grouped_heads_are_those_of_torch(kv_heads: int) -> None:
    module, x = attention(plain(kv_heads=kv_heads)), tokens()
    assert isinstance(module, Attention)
    memory = module.project(x, x)
    assert memory.keys.shape == (2, kv_heads, 7, K)
    queries = module.split_heads(module.query_weights(x))
    expected = F.scaled_dot_product_attention(queries, *memory, enable_gqa=True)
    context, _ = module.attend(x, memory)
    torch.testing.assert_close(context, module.output_weights(module.merge_heads(expected)))


def test_dot_products_by_loop() -> None:
    queries, keys = random_heads()
    expected = torch.tensor(
        [[[[float(q @ k) for k in ks] for q in qs] for qs, ks in zip(b, c, strict=True)]
         for b, c in zip(queries, keys, strict=True)]
    )  # fmt: skip
    torch.testing.assert_close(dot(queries, keys, places(5, 6)), expected)


def test_additive_by_loop() -> None:
    queries, keys = random_heads()
    score = Additive(H, K)
    scores = score(queries, keys, places(5, 6))
    for h, t, s in [(0, 0, 0), (1, 4, 5), (3, 2, 1)]:
        expected = sum(
            score.v[h, i] * math.tanh(queries[1, h, t, i] + keys[1, h, s, i]) for i in range(K)
        )
        torch.testing.assert_close(scores[1, h, t, s], expected)


def test_cosine_is_torchs() -> None:
    queries, keys = random_heads()
    score = Cosine(H, K)
    assert score(queries, queries, places(5, 5)).amax().item() == pytest.approx(10)
    with torch.no_grad():
        score.g.copy_(torch.tensor([1.0, 2.0, 3.0, 4.0]))
    expected = F.cosine_similarity(queries[:, :, :, None], keys[:, :, None], dim=-1)
    expected = expected * torch.tensor([1.0, 2.0, 3.0, 4.0]).view(H, 1, 1)
    torch.testing.assert_close(score(queries, keys, places(5, 6)), expected)


def test_locations_are_normal_densities() -> None:
    queries, keys = random_heads(3, 6)
    where = places(3, 6, start=2)
    score = Gaussian(H, K)
    torch.testing.assert_close(score(queries, keys, where), hard_coded(queries, keys, where))
    with torch.no_grad():
        score.r.fill_(0.5)
        score.log_sigma.fill_(math.log(2))
    for scores, ratio, sigma in (
        (score(queries, keys, where), 0.5, 2.0),
        (hard_coded(queries, keys, where), 1.0, 1.0),
    ):
        assert scores.shape == (1, H, 3, 6)
        for head, centre in enumerate([0, -1, 1, -2]):
            for t in range(3):
                density = torch.distributions.Normal(ratio * (t + 2) + centre, sigma)
                expected = density.log_prob(torch.arange(6.0)).softmax(dim=-1)
                torch.testing.assert_close(scores[0, head, t].softmax(dim=-1), expected)


def test_uniform_scores_give_the_mean_of_what_may_be_seen() -> None:
    module, x = attention(plain(score="uniform")), tokens()
    assert isinstance(module, Attention)
    mask = torch.rand(2, 1, 1, 7) < 0.5
    mask[..., 0] = True
    context, _ = run(module, x, mask)
    means = [module.value_weights(x[b, mask[b, 0, 0]]).mean(dim=0) for b in range(2)]
    expected = module.output_weights(torch.stack(means))[:, None].expand(2, 7, D)
    torch.testing.assert_close(context, expected)
    assert (uniform(*random_heads(), places(5, 6)) == 0).all()


@pytest.mark.parametrize(
    ("ours", "theirs"), [(sparsemax, entmax.sparsemax), (entmax15, entmax.entmax15)]
)
def test_sparse_weights_are_those_of_the_entmax_package(ours: Any, theirs: Any) -> None:
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
        gradients = [
            torch.autograd.grad((w * direction).sum(), scores) for w in (weights, expected)
        ]
        # Where scores are equal, a weight may be on the edge of zero, and has two slopes.
        torch.testing.assert_close(gradients[0][0][10:], gradients[1][0][10:])
        assert gradients[0][0].isfinite().all()


@pytest.mark.parametrize("normalizer", [sparsemax, entmax15])
def test_sparse_weights_of_many_scores_in_bfloat16(normalizer: Any) -> None:
    torch.manual_seed(6)
    scores = 5 * torch.randn(50, 200)
    exact, rough = normalizer(scores.bfloat16().float()), normalizer(scores.bfloat16())
    torch.testing.assert_close(rough.float(), exact, atol=5e-3, rtol=0)
    torch.testing.assert_close(rough.sum(dim=-1).float(), torch.ones(50), atol=1e-2, rtol=0)


def test_the_gradient_of_equal_scores_is_a_number() -> None:
    scores = torch.tensor([0.0, 0.0, -2.0, -2.0], requires_grad=True)
    weights = entmax15(scores)
    torch.testing.assert_close(weights, torch.tensor([0.5, 0.5, 0.0, 0.0]))
    (gradient,) = torch.autograd.grad(weights[0], scores)
    assert gradient.isfinite().all()


def test_sigmoid_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0, 0.0, -math.inf], [math.log(2), -50.0, 50.0, -math.inf]])
    expected = torch.tensor([[0.25, 0.25, 0.25, 0], [2 / 5, 0, 1, 0]])
    torch.testing.assert_close(sigmoid(scores), expected)


def test_a_null_key_is_torchs_zero_key() -> None:
    module, x = attention(plain(normalizer="softmax_null")), tokens()
    assert isinstance(module, Attention)
    queries = module.split_heads(module.query_weights(x))
    keys, values = module.project(x, x)
    nothing = torch.zeros(2, H, 1, K, dtype=torch.double)
    null = SoftmaxNull(H, K)
    module.normalize = null.double()
    expected = F.scaled_dot_product_attention(
        queries, torch.cat([keys, nothing], dim=2), torch.cat([values, nothing], dim=2)
    )
    context, _ = run(module, x, None)
    torch.testing.assert_close(context, module.output_weights(module.merge_heads(expected)))
    with torch.no_grad():
        null.b.fill_(math.log(5))
    torch.testing.assert_close(null(torch.zeros(1, H, 1, 3))[0, :, 0], torch.full((H, 3), 1 / 8))


def test_learned_positions_end_with_the_table() -> None:
    position = Learned(D)
    assert torch.equal(position(3, 5), position.p[3:5])
    assert torch.equal(position(510, 515)[2:], position.p[[511] * 3])


def test_rotary_is_a_product_of_complex_numbers() -> None:
    queries, keys = random_heads(3, 6)
    where = places(3, 6, start=2)
    ours = Rotary(H, K).project(queries, keys, where)
    for x, turned, at in zip((queries, keys), ours, where, strict=True):
        numbers = torch.complex(x[..., : K // 2], x[..., K // 2 :])
        angles = at[:, None] * torch.tensor([10000.0 ** (-2 * n / K) for n in range(K // 2)])
        expected = numbers * torch.polar(torch.ones_like(angles), angles)
        torch.testing.assert_close(turned, torch.cat([expected.real, expected.imag], dim=-1))


@pytest.mark.parametrize("position", ["rotary", "alibi", "t5", "shaw"])
def test_only_distances_matter(position: str) -> None:
    """The same tokens further on in the sentence look at each other as before."""
    module, x = attention(plain(position=position)), tokens(4)
    filler = torch.randn(2, 3, D, dtype=torch.double)
    shifted = torch.cat([filler, x], dim=1)
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[:, :3] = False
    expected, expected_weights = run(module, x, None)
    context, steps = module.attend(x, module.project(shifted, shifted), mask, 3)
    torch.testing.assert_close(context, expected)
    assert steps is not None
    torch.testing.assert_close(steps.weights[..., 3:], expected_weights)
    swapped, _ = run(module, x[:, [1, 0, 2, 3]], None)
    assert not torch.allclose(swapped[:, [1, 0, 2, 3]], expected)  # but they do matter


def test_alibi_by_hand() -> None:
    bias = Alibi(8, K).score(torch.zeros(1, 8, 2, 3), torch.zeros(1, 8, 2, K), places(2, 3, 1))
    slopes = [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    expected = [[[-m, 0, -m], [-2 * m, -m, 0]] for m in slopes]
    torch.testing.assert_close(bias, torch.tensor([expected]))


def test_t5_buckets_by_hand() -> None:
    position = T5Buckets(1, K)
    assert position.b.shape == (1, 32)
    distances = torch.tensor([0, -1, -7, -8, -11, -12, -16, -64, -127, -128, -5000])
    # Above 8 each bucket is 2^(1/2) times as wide as the one before: 8, 11.3, 16, ..., 90.5.
    expected = [0, 1, 7, 8, 8, 9, 10, 14, 15, 15, 15]
    assert position.bucket(distances).tolist() == expected
    assert position.bucket(-distances[1:]).tolist() == [16 + bucket for bucket in expected[1:]]


def test_shaw_by_loop() -> None:
    module, x = attention(plain(position="shaw")), tokens(20, batch=1)
    assert isinstance(module, Attention)
    (shaw,) = module.adjustments
    assert isinstance(shaw, Shaw)
    queries = module.split_heads(module.query_weights(x))
    keys, values = module.project(x, x)
    contexts = torch.zeros_like(queries)
    for t in range(20):
        index = [max(-16, min(16, s - t)) + 16 for s in range(20)]
        scores = ((keys + shaw.a[index]) @ queries[:, :, t, :, None]).squeeze(-1) / math.sqrt(K)
        weights = scores.softmax(dim=-1).unsqueeze(-1)
        contexts[:, :, t] = (weights * (values + shaw.b[index])).sum(dim=2)
    context, _ = run(module, x, None)
    torch.testing.assert_close(context, module.output_weights(module.merge_heads(contexts)))


@pytest.mark.parametrize("window", [1, 3])
def test_windows_by_loop(window: int) -> None:
    module, x = attention(plain(window=window)), tokens()
    full = attention(plain())
    for causal in (False, True):
        mask = torch.ones(7, 7, dtype=torch.bool)
        context, _ = run(module, x, mask.tril() if causal else None)
        for t in range(7):
            near = x[:, max(0, t - window) : t + 1 + (0 if causal else window)]
            expected, _ = full(x[:, t : t + 1], near, near)
            torch.testing.assert_close(context[:, t : t + 1], expected)


def test_the_map_of_linear_attention_never_loses_a_token() -> None:
    x = torch.tensor([-30.0, -1.0, 0.0, 1.0])
    torch.testing.assert_close(phi(x), torch.nn.functional.elu(x) + 1)
    assert phi(x)[0] == pytest.approx(math.exp(-30))


def test_linear_attention_by_loop() -> None:
    """The recurrence of the paper's equations 16 to 20."""
    module, x = attention(plain(kind="linear")), tokens()
    assert isinstance(module, Attention)
    queries = module.split_heads(module.query_weights(x))
    keys, values = module.project(x, x)

    def phi(y: Tensor) -> Tensor:
        return torch.where(y > 0, y + 1, y.exp())

    state, total = torch.zeros(2, H, K, K).double(), torch.zeros(2, H, K).double()
    contexts = torch.zeros_like(queries)
    for t in range(7):
        state = state + phi(keys[:, :, t, :, None]) * values[:, :, t, None, :]
        total = total + phi(keys[:, :, t])
        asked = phi(queries[:, :, t])
        above = torch.einsum("bhk,bhkv->bhv", asked, state)
        contexts[:, :, t] = above / (asked * total).sum(dim=-1, keepdim=True)
    context, _ = run(module, x, torch.ones(7, 7, dtype=torch.bool).tril())
    torch.testing.assert_close(context, module.output_weights(module.merge_heads(contexts)))


def test_average_attention_by_loop() -> None:
    module, x = attention(plain(kind="average")), tokens(5)
    assert isinstance(module, AverageAttention)
    context, _ = run(module, x, torch.ones(5, 5, dtype=torch.bool).tril())
    for t in range(5):
        inner = torch.relu(module.value_weights(x[:, : t + 1].mean(dim=1)))
        g = module.output_weights(inner)
        i, f = torch.sigmoid(module.gate_weights(torch.cat([x[:, t], g], dim=-1))).split(D, dim=-1)
        torch.testing.assert_close(context[:, t], i * x[:, t] + f * g)


def test_differential_attention_is_the_difference_of_two() -> None:
    module, x = attention(plain(extras="differential")), tokens()
    assert isinstance(module, Attention)
    (extra,) = module.adjustments
    assert isinstance(extra, Differential)
    queries = module.split_heads(module.query_weights(x))
    keys, values = module.project(x, x)
    (l1, l2), (m1, m2) = extra.l, extra.m
    factor = torch.exp(l1 @ m1) - torch.exp(l2 @ m2) + 0.8
    half = K // 2
    first, second = (
        F.scaled_dot_product_attention(queries[..., part], keys[..., part], values)
        for part in (slice(half), slice(half, None))
    )
    difference = first - factor * second
    root_mean_square = difference.square().mean(dim=-1, keepdim=True).sqrt()
    expected = 0.2 * extra.norm.weight * difference / root_mean_square
    context, weights = run(module, x, None)
    merged = module.output_weights(module.merge_heads(expected))
    torch.testing.assert_close(context, merged, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(weights.sum(dim=-1), (1 - factor).expand(2, H, 7))
    fresh = Differential(H, half)
    assert fresh.factor().item() == pytest.approx(0.8, abs=0.3)


def test_talking_heads_by_hand() -> None:
    extra = TalkingHeads(2, K)
    pair = torch.tensor([1.0, 10.0]).view(1, 2, 1, 1)
    assert torch.equal(extra.weigh(extra.score(pair, pair, places(1, 1))), pair)
    with torch.no_grad():
        extra.a.copy_(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
        extra.b.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    assert extra.score(pair, pair, places(1, 1)).flatten().tolist() == [21, 43]
    assert extra.weigh(pair).flatten().tolist() == [10, 1]


def test_talking_heads_weights_sum_to_the_rows_of_their_map() -> None:
    module = attention(plain(extras="talking_heads"))
    assert isinstance(module, Attention)
    (extra,) = module.adjustments
    assert isinstance(extra, TalkingHeads)
    _, weights = run(module, tokens(), None)
    expected = extra.b.sum(dim=-1)[None, :, None].expand(2, H, 7)
    torch.testing.assert_close(weights.sum(dim=-1), expected)


def test_a_gate_is_not_undone_by_a_norm() -> None:
    """Closed by half, it halves what differential attention says too."""
    for extras in ("gated", "gated differential"):
        module, x = attention(plain(extras=extras)), tokens()
        assert isinstance(module, Attention)
        gated = next(extra for extra in module.adjustments if isinstance(extra, Gated))
        torch.nn.init.zeros_(gated.gate_weights.weight)
        torch.nn.init.zeros_(module.output_weights.bias)
        contexts = []
        for gate in (0.8, 0.4):
            torch.nn.init.constant_(gated.gate_weights.bias, math.log(gate / (1 - gate)))
            contexts.append(run(module, x, None)[0])
        torch.testing.assert_close(contexts[1], contexts[0] / 2)


def test_gates_scale_each_dimension_of_each_head() -> None:
    extra = Gated(H, K)
    x, context = torch.randn(2, 3, D), torch.randn(2, H, 3, K)
    gated = extra.mix(context, context, x, places(3, 3))
    gate = extra.gate_weights(x).sigmoid()
    expected = gate * context.transpose(1, 2).reshape(2, 3, D)
    torch.testing.assert_close(gated.transpose(1, 2).reshape(2, 3, D), expected)


# --- the list of them ---


def test_every_part_has_its_formula_and_its_paper() -> None:
    rows = list(table(ModelConfig()))
    assert len(rows) == sum(len(registry) for registry in REGISTRIES)
    for row in rows:
        assert row.formula, row.name
        assert re.search(r"\d{4}\.\d{4,5}|control", row.paper), row.name
    extra = {row.name: row.extra_parameters for row in rows}
    assert extra["scaled_dot"] == extra["sparsemax"] == extra["rotary"] == 0
    assert extra["cosine"] == 4
    assert extra["additive"] == 256
    assert extra["t5"] == 4 * 32
    assert extra["uniform"] == -2 * (256 * 256 + 256)
    assert extra["learned"] == 512 * 256
