"""What can stand where an attention stood, and needs none of its parts (see ``attention.py``)."""

import math

import torch
from torch import Tensor, nn

from seq2seq.attention import Attention, KeysValues, Steps
from seq2seq.registry import KINDS
from seq2seq.settings import AttentionConfig


@KINDS.add("linear", "n_heads")
class LinearAttention(Attention):
    """A comparison that factors: w = φ(q) · φ(k) / Σ φ(q) · φ(k), φ(x) = elu(x) + 1.

    So the sum over values can be taken once for all queries: φ(q) (Σ φ(k) vᵀ). That is cheaper
    once more keys than K may be seen, and by all queries alike; with fewer, or under a causal
    mask, the weights come first, as in any attention.

    Katharopoulos et al. 2020, arXiv:2006.16236
    """

    def attend(
        self,
        query: Tensor,
        memory: KeysValues,
        mask: Tensor | None = None,
        start: int = 0,
        need_steps: bool = True,
    ) -> tuple[Tensor, Steps | None]:
        """As for ``Attention``."""
        queries = phi(self.split_heads(self.query_weights(query)))  # (B, H, T, K)
        keys, values = phi(memory.keys), memory.values
        steps = None
        alike = mask is None or mask.shape[-2] == 1
        if alike and not need_steps and keys.shape[2] > keys.shape[3]:
            if mask is not None:
                keys = keys * mask.transpose(-2, -1)
            total = queries @ keys.sum(dim=2).unsqueeze(-1)  # (B, H, T, 1)
            context = queries @ (keys.transpose(-2, -1) @ values) / total
        else:
            scores = queries @ keys.transpose(-2, -1)  # (B, H, T, S)
            scores = scores if mask is None else scores.masked_fill(~mask, -math.inf)
            # They are products of positive numbers: only what is masked is cut off.
            seen = scores if mask is None else scores.clamp(min=0)
            weights = seen / seen.sum(dim=-1, keepdim=True)
            context = weights @ values
            steps = Steps(queries, keys, scores, weights, values)
        return self.output_weights(self.merge_heads(context)), steps


def phi(x: Tensor) -> Tensor:
    """elu(x) + 1, without a sum in which a small exponential would be lost."""
    return torch.relu(x) + torch.exp(x.clamp(max=0))


@KINDS.add("average")
class AverageAttention(nn.Module):
    """The mean of what may be seen, gated: out = i ⊙ x + f ⊙ g, g = FFN(mean), i, f = σ(W [x; g]).

    No query, no key. x is the token that asks; the inner layer of the FFN is as wide as x.

    Zhang, Xiong and Su 2018, arXiv:1805.00631
    """

    def __init__(self, d_model: int, config: AttentionConfig) -> None:
        super().__init__()
        self.value_weights = nn.Linear(d_model, d_model)
        self.output_weights = nn.Linear(d_model, d_model)
        self.gate_weights = nn.Linear(2 * d_model, 2 * d_model)

    def project(self, key: Tensor, value: Tensor) -> KeysValues:
        """The tokens as they are, as one head."""
        return KeysValues(value[:, None, :, :0], value[:, None])

    def attend(
        self,
        query: Tensor,
        memory: KeysValues,
        mask: Tensor | None = None,
        start: int = 0,
        need_steps: bool = True,
    ) -> tuple[Tensor, Steps | None]:
        """As for ``Attention``; every head's weights are the same, so there is one head."""
        values = memory.values
        seen = query.new_ones(len(query), 1, query.shape[1], values.shape[2])  # (B, 1, T, S)
        seen = seen if mask is None else seen * mask
        weights = seen / seen.sum(dim=-1, keepdim=True)
        mean = (weights @ values).squeeze(1)  # (B, T, D)
        context = self.output_weights(torch.relu(self.value_weights(mean)))
        both = torch.cat([query, context], dim=-1)
        keep, add = torch.sigmoid(self.gate_weights(both)).chunk(2, dim=-1)
        context = keep * query + add * context
        if not need_steps:
            return context, None
        nothing = query[:, None, :, :0]  # no query, no key
        return context, Steps(nothing, memory.keys, seen.log(), weights, values)

    def through_output(self, values: Tensor) -> Tensor:
        """The values as they are: what becomes of their mean is no sum over them."""
        return values


@KINDS.add("none")
class NoAttention:
    """A layer without it: x stays x.

    A control: what is this attention for?
    """
