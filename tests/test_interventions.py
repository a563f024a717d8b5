"""Heads off and flat, sampling, and beam trees: each against what it stands for, by hand."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, attention_variants, small_model, with_attention
from test_decoding import SOURCES, HistoryModel, eager_to_stop, log_probabilities
from torch import Tensor

from seq2seq.attention import Attention, MultiHeadAttention
from seq2seq.attention.modifiers import Differential, Gated
from seq2seq.attention.positions import Shaw
from seq2seq.config import AttentionConfig, DecodingConfig
from seq2seq.data.batches import pad
from seq2seq.data.tokenizer import BOS, EOS
from seq2seq.evaluation.tracing import attentions, trace_attentions
from seq2seq.model.decoding import Decoder, advance_all, beam_search, greedy, max_lengths
from seq2seq.model.layers import AttentionSublayer
from seq2seq.model.lean import LeanDecoder
from seq2seq.model.transformer import Seq2Seq
from seq2seq.utils import UserError
from seq2seq.viewer.interventions import HeadName, change_heads, head_names, parse_heads
from seq2seq.viewer.search import RecordedBeam, Sampler

pytestmark = pytest.mark.usefixtures("one_thread")
VARIANTS = {name: x for name, x in attention_variants().items() if x.type != "none"}
each_variant = pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
SRC, TGT = pad(SOURCES), torch.tensor([[BOS, 9, 5, 30]] * 4)
OFF = [HeadName("encoder", 2, 1), HeadName("decoder", 1, 1), HeadName("cross", 1, 1)]


def variant_model(variant: AttentionConfig) -> Seq2Seq:
    """Away from any start at which a part does nothing."""
    model = small_model(with_attention(variant)).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def without(variant: AttentionConfig, heads: list[HeadName]) -> Seq2Seq:
    """The weights that read a head's output are zero, or the sublayer is not there."""
    model = variant_model(variant)
    for name, module in model.named_modules():
        if not isinstance(module, AttentionSublayer):
            continue
        view = "cross" if "cross_attention" in name else name.split(".")[0]
        layer, attention = int(name.split(".")[1]) + 1, module.attention
        for head in (head.head - 1 for head in heads if head[:2] == (view, layer)):
            if isinstance(attention, MultiHeadAttention):
                width = SMALL.d_model // attention.n_heads
                with torch.no_grad():
                    attention.output_proj.weight[:, head * width : (head + 1) * width] = 0
            else:
                module.attention = None
    return model


@each_variant
@torch.no_grad()
def test_off_is_without_the_weights_that_read_it(variant: AttentionConfig) -> None:
    model = variant_model(variant)
    before = model(SRC, TGT)
    changed = change_heads(model, OFF)
    after = changed(SRC, TGT)
    torch.testing.assert_close(after, without(variant, OFF)(SRC, TGT))
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(model(SRC, TGT), before, atol=0, rtol=0)  # it is not changed
    traces, x = trace_attentions(changed, SRC, TGT)
    torch.testing.assert_close(changed.logits(x), after)
    for view, layer, head in OFF:
        weights = traces[view][layer - 1].weights
        assert not weights[:, head - 1].any()
        assert weights[:, head:].any() or weights.shape[1] == 1


def step_5(module: MultiHeadAttention, weights: Tensor, value: Tensor, x: Tensor) -> Tensor:
    """From weights to the context, with what modifiers do to the sums written out."""
    output = weights @ value
    distances = torch.arange(x.shape[1]) - torch.arange(x.shape[1])[:, None]
    for part in reversed(module.modifiers):
        if isinstance(part, Differential):
            output = F.rms_norm(output, output.shape[-1:], part.norm.weight, 1e-5)
            output = (1 - part.lambda_0) * output
        elif isinstance(part, Shaw):
            vectors = part.b[distances.clamp(-16, 16) + 16]  # (T, S, K)
            output = output + torch.einsum("bhts,tsk->bhtk", weights, vectors)
        elif isinstance(part, Gated):
            gates = torch.sigmoid(x @ part.gate_proj.weight.T + part.gate_proj.bias)
            output = output * gates.unflatten(-1, (4, -1)).transpose(1, 2)
    return cast(Tensor, module.output_proj(output.transpose(1, 2).flatten(-2)))


@each_variant
@torch.no_grad()
def test_flat_is_the_mean_of_what_is_visible(variant: AttentionConfig) -> None:
    """In the decoder, where each query sees other keys."""
    model, heads = variant_model(variant), [HeadName("decoder", 1, 2), HeadName("decoder", 1, 4)]
    plain = attentions(model)["decoder"][0]
    if not isinstance(plain, MultiHeadAttention):
        with pytest.raises(UserError, match="off instead"):
            change_heads(model, flat=[HeadName("decoder", 1, 1)])
        return
    changed = attentions(change_heads(model, flat=heads))["decoder"][0]
    torch.manual_seed(2)
    x, mask = torch.randn(2, 6, 32), torch.ones(6, 6, dtype=torch.bool).tril()
    expected = traced(plain, x, mask)[1].weights.clone()
    visible = mask.triu(-variant.window) if variant.window else mask
    expected[:, [1, 3]] = visible / visible.sum(dim=-1, keepdim=True)
    context, trace = traced(changed, x, mask)
    torch.testing.assert_close(trace.weights, expected)
    torch.testing.assert_close(context, step_5(plain, expected, trace.value, x))
    torch.testing.assert_close(changed(x, changed.project(x, x), mask), context)  # not recorded


def traced(module: Attention, x: Tensor, mask: Tensor) -> tuple[Tensor, Any]:
    module.recorded = []
    context = module(x, module.project(x, x), mask)
    (trace,), module.recorded = module.recorded, None
    return context, trace


@pytest.mark.parametrize("view", ["encoder", "decoder", "cross"])
def test_decoding_knows_of_changes(view: str) -> None:
    """A change is not passed over by a faster way: greedy search, step by step, with its cache."""
    heads = [HeadName(view, 2, 3), HeadName(view, 1, 1)]
    config, n_changed = DecodingConfig(1, 0.0, 1.5), 0
    for seed in range(3):
        model, reference = eager_to_stop(seed), eager_to_stop(seed)
        assert LeanDecoder.of(model)
        _zero(reference, heads)
        changed = change_heads(model, heads)
        assert view == "encoder" or LeanDecoder.of(changed) is None
        found = greedy(LeanDecoder.of(changed) or changed, SRC, config)
        assert found == greedy(reference, SRC, config)
        n_changed += found != greedy(model, SRC, config)
    assert n_changed


def _zero(model: Seq2Seq, heads: list[HeadName]) -> None:
    for view, layer, head in heads:
        module = cast(MultiHeadAttention, attentions(model)[view][layer - 1])
        with torch.no_grad():
            module.output_proj.weight.unflatten(1, (4, -1))[:, head - 1] = 0


def test_names_of_heads() -> None:
    config = replace(SMALL, cross_attention=AttentionConfig(type="none", position="none"))
    model = small_model(replace(config, decoder_attention=AttentionConfig(type="ssru")))
    names = [str(head) for head in head_names(model)]
    assert names == [
        *(f"encoder.{n}.{h}" for n in (1, 2) for h in (1, 2, 3, 4)),
        "decoder.1.1",
        "decoder.2.1",
    ]
    assert parse_heads(names, model) == set(head_names(model))
    for wrong in (
        "cross.1.1",
        "encoder.0.1",
        "encoder.3.1",
        "encoder.1.5",
        "encoder.1",
        "",
        "\ud800",
    ):
        with pytest.raises(UserError, match="heads are called like encoder"):
            parse_heads(["encoder.1.1", wrong], model)


class Fixed:
    """Says the same after any history."""

    def __init__(self, logits: Tensor) -> None:
        self.answer = logits

    def __getattr__(self, name: str) -> Any:
        return getattr(HistoryModel(0, len(self.answer)), name)

    def logits(self, x: Tensor) -> Tensor:
        return self.answer.expand(len(x), -1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_have_their_probabilities(temperature: float) -> None:
    torch.manual_seed(0)
    logits, n = torch.randn(9) * 2, 4000
    sampler = Sampler(cast(Decoder, Fixed(logits)), temperature, 7)
    draws = torch.tensor([sampler.logits(torch.zeros(n, 9)).argmax(dim=-1).tolist()]).flatten()
    p = (logits / temperature).softmax(dim=-1)
    deviation = (torch.bincount(draws, minlength=9) / n - p) / (p * (1 - p) / n).sqrt()
    assert deviation.abs().max() < 4


def test_sampling_by_greedy() -> None:
    """The seed decides; near temperature 0 it is greedy search."""
    model, config = eager_to_stop(0), DecodingConfig(1, 0.0, 1.5)

    def sample(temperature: float, seed: int) -> Any:
        return greedy(Sampler(model, temperature, seed), SRC, config, (10,))

    assert sample(1, 1) == sample(1, 1) != sample(1, 2)
    assert sample(0.01, 1) == sample(0.01, 2) == greedy(model, SRC, config, (10,))
    assert all(hypothesis.ids[0] == 10 for hypothesis in sample(1, 3))


@pytest.mark.parametrize(("beam", "prefix"), [(2, ()), (4, ()), (3, (5, 4))])
def test_tree_of_a_beam_search(beam: int, prefix: tuple[int, ...]) -> None:
    config, src = DecodingConfig(beam, 1.0, 0.5), SOURCES[0]
    for seed in range(4):
        model = HistoryModel(seed)
        decoder = cast(Seq2Seq, model)
        limit = int(max_lengths(pad([src]), 0.5)) + len(prefix)
        state = RecordedBeam(beam, limit, 1.0)
        advance_all(decoder, pad([src]), [state], config, prefix)
        ((best,),) = beam_search(decoder, pad([src]), config, 1, prefix)
        steps = state.tree(lambda ids: [str(i) for i in ids])
        path = [int(node["token"]) for step in steps for node in step if node["best"]]
        assert path == [*best.ids, *[EOS] * (not best.is_cut)]
        # From the root, by parents alone: which hypotheses are there, and how probable.
        finished, before = list[list[int]](), [(list[int](), 0.0, True)]
        for step in steps:
            totals, nodes = [node["log_probability"] for node in step], []
            assert totals == sorted(totals, reverse=True)
            assert sum(node["kept"] for node in step) <= beam
            for node in step:
                ids, total, parent_kept = before[node["parent"]]
                assert parent_kept
                total += log_probabilities(model, src, ids)[int(node["token"])].item()
                assert node["log_probability"] == pytest.approx(total, abs=1e-4)
                nodes.append(([*ids, int(node["token"])], total, node["kept"]))
                finished += [ids] * node["finished"]
            before = nodes
        assert finished == [ids for _, ids in state.finished]
