"""What can stand in the place of multi-head attention, without its exchangeable parts."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seq2seq.attention.attention import Attention, KeyValue, MultiHeadAttention
from seq2seq.attention.registry import TYPES, Place, Positions
from seq2seq.config import AttentionConfig


@TYPES.add(
    "linear",
    "w = φ(q) · φ(k) / Σ φ(q) · φ(k), φ(x) = elu(x) + 1",
    "arXiv:2006.16236",
    row_sum="one",
    settings=("n_heads",),
)
class LinearAttention(MultiHeadAttention):
    """A score that factors: values can be summed once for all (Katharopoulos et al. 2020).

    φ(q) (Σ φ(k) vᵀ) is cheaper where all queries may attend to the same keys, and to more than K;
    with fewer, or under a causal mask, the weights come first, as in any attention.
    """

    def attend_by_parts(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int
    ) -> Tensor:
        q, k = _phi(q), _phi(k)
        same_keys = mask is None or mask.shape[-2] == 1
        if same_keys and self.recorded is None and k.shape[2] > k.shape[3]:
            k = k if mask is None else k * mask.transpose(-2, -1)
            total = q @ k.sum(dim=2).unsqueeze(-1)  # (B, H, T, 1)
            return q @ (k.transpose(-2, -1) @ v) / total
        scores = q @ k.transpose(-2, -1)  # (B, H, T, S), all positive
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        visible = scores.clamp(min=0)
        weights = visible / visible.sum(dim=-1, keepdim=True)
        self.record(q, k, scores, weights, v)
        return weights @ v


def _phi(x: Tensor) -> Tensor:
    """elu(x) + 1, without a sum in which a small exponential would be lost."""
    return torch.relu(x) + torch.exp(x.clamp(max=0))


@TYPES.add(
    "average",
    "out = i ⊙ x + f ⊙ g, g = FFN(mean of values), i, f = σ(W [x; g])",
    "arXiv:1805.00631",
    row_sum="one",
)
class AverageAttention(Attention):
    """The gated mean of what may be attended to, without queries and keys (Zhang et al. 2018).

    x is the query's token; the inner layer of the FFN is as wide as x (in the paper as that of the
    feed-forward layers). All heads' weights would be the same, so there is one head.
    """

    def __init__(self, d_model: int, config: AttentionConfig, place: Place) -> None:
        super().__init__()
        self.value_proj = nn.Linear(d_model, d_model)
        self.output_proj = nn.Linear(d_model, d_model)
        self.gate_proj = nn.Linear(2 * d_model, 2 * d_model)

    def project(self, key: Tensor, value: Tensor) -> KeyValue:
        """The tokens as they are."""
        return KeyValue(value[:, None, :, :0], value[:, None])

    def forward(
        self, query: Tensor, kv: KeyValue, mask: Tensor | None = None, start: int = 0
    ) -> Tensor:
        visible = query.new_ones(len(query), 1, query.shape[1], kv.value.shape[2])  # (B, 1, T, S)
        visible = visible if mask is None else visible * mask
        weights = visible / visible.sum(dim=-1, keepdim=True)
        self.record(query[:, None, :, :0], kv.key, visible.log(), weights, kv.value)
        mean = (weights @ kv.value).squeeze(1)  # (B, T, D)
        context = self.output_proj(torch.relu(self.value_proj(mean)))
        gates = torch.sigmoid(self.gate_proj(torch.cat([query, context], dim=-1)))
        input_gate, forget_gate = gates.chunk(2, dim=-1)
        return input_gate * query + forget_gate * context


@TYPES.add(
    "hard_coded",
    "w = exp(-(j - i - c)² / 2) / √(2π), c = -1, 1; in the decoder -1, 0",
    "arXiv:2005.00742",
    settings=("n_heads",),
)
class HardCodedAttention(MultiHeadAttention):
    """Normal densities around a neighbor, without queries and keys (You et al. 2020).

    The two c alternate from head to head. Weight on what is masked or outside of the sentence is
    lost, not normalized away. In cross-attention theirs scales i by the mean ratio of lengths.
    """

    c: Tensor

    def __init__(self, d_model: int, config: AttentionConfig, place: Place) -> None:
        super().__init__(d_model, replace(config, score="uniform"), place)  # without projections
        pair = torch.tensor([-1.0, 0.0 if place.causal else 1.0])
        self.register_buffer("c", pair.repeat(place.n_heads)[: place.n_heads], persistent=False)

    def attend_by_parts(
        self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, start: int
    ) -> Tensor:
        queries = torch.arange(start, start + q.shape[2], device=v.device)
        positions = Positions(queries, torch.arange(v.shape[2], device=v.device))
        scores = -0.5 * (positions.relative - self.c[:, None, None]) ** 2
        scores = scores.expand(len(v), -1, -1, -1)  # (B, H, T, S)
        scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
        weights = scores.exp() / math.sqrt(2 * math.pi)
        self.record(q[..., :0], k[..., :0], scores, weights, v)
        return weights @ v


class RunningState(KeyValue):
    """As keys the gates and inputs of new tokens, as values the states after them: no past."""

    def append(self, new: KeyValue) -> KeyValue:
        forget, _ = new.key.chunk(2, dim=-1)
        return RunningState(new.key, new.value + forget.cumprod(dim=2) * self.value[:, :, -1:])


@TYPES.add(
    "ssru",
    "cᵢ = f ⊙ cᵢ₋₁ + (1 - f) ⊙ W xᵢ, f = σ(U xᵢ + b), out = max(0, cᵢ)",
    "aclanthology.org/D19-5632",
    needs_causal_mask=True,
    row_sum="at most one",
)
class SSRU(Attention):
    """A recurrent state instead of the past: each token costs the same (Kim et al. 2019).

    A trace has one head: the mean over dimensions of what is left of each token.
    """

    def __init__(self, d_model: int, config: AttentionConfig, place: Place) -> None:
        super().__init__()
        self.value_proj = nn.Linear(d_model, d_model, bias=False)
        self.forget_proj = nn.Linear(d_model, d_model)

    def project(self, key: Tensor, value: Tensor) -> KeyValue:
        """The states before which nothing came; ``append`` adds what did."""
        # Not in bfloat16, where small steps would get lost; decoding may convert the matrices.
        dtype = self.forget_proj.bias.dtype
        forget = torch.sigmoid(self.forget_proj(value).to(dtype))[:, None]  # (B, 1, S, D)
        inputs = self.value_proj(value).to(dtype)[:, None]
        states = _recurrence(forget, (1 - forget) * inputs)
        return RunningState(torch.cat([forget, inputs], dim=-1), states)

    def forward(
        self, query: Tensor, kv: KeyValue, mask: Tensor | None = None, start: int = 0
    ) -> Tensor:
        """No mask is needed: a state knows no later token."""
        if self.recorded is not None:
            forget, inputs = kv.key.chunk(2, dim=-1)
            impulses = torch.eye(query.shape[1], device=query.device)[:, :, None]
            weights = _recurrence(forget, impulses * (1 - forget)).mean(dim=-1)  # (B, S, T)
            weights = weights.transpose(1, 2)[:, None]
            self.record(query[:, None, :, :0], kv.key[..., :0], weights.log(), weights, inputs)
        return torch.relu(kv.value.squeeze(1))


def _recurrence(factors: Tensor, inputs: Tensor) -> Tensor:
    """All states cᵢ = f ⊙ cᵢ₋₁ + u, for f and u (..., T, D), in log₂ T doublings of the reach."""
    if torch.compiler.is_exporting():
        raise NotImplementedError("the number of steps of a recurrence depends on the length")
    reach, states = 1, inputs
    while reach < inputs.shape[-2]:
        states = states + factors * F.pad(states, (0, 0, reach, -reach))
        factors = factors * F.pad(factors, (0, 0, reach, -reach))
        reach *= 2
    return states


@TYPES.add("none", "x stays x", "a control: what is this attention for?")
class NoAttention:
    """A layer without this attention."""
