"""The layers that encoder and decoder are stacked from (shapes: see ``attention.py``)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seq2seq.attention import Attention, KeysValues
from seq2seq.config import ModelConfig


def sinusoidal_positions(n_positions: int, d_model: int) -> Tensor:
    """(T, D) sines and cosines of the position: PE(t, 2i) = sin(t / 10000^(2i/D)), cos at 2i+1.

    Vaswani et al. 2017, section 3.5.
    """
    positions = torch.arange(n_positions, dtype=torch.float32).unsqueeze(1)
    rates = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
    angles = positions * rates  # (T, D / 2)
    return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)


class Dropout(nn.Module):
    """Zero each value with probability p and scale the rest by 1 / (1 - p) (Srivastava 2014).

    torch's own draws one random number a value, which on a CPU takes a tenth of a training step;
    here each 64-bit draw serves four values, so p is met to within 2⁻¹⁶.
    """

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """``x`` unchanged in evaluation; in training, with values of it dropped."""
        if not self.training or self.p == 0:
            return x
        if x.is_cuda:
            return nn.functional.dropout(x, self.p)
        draws = torch.empty((x.numel() + 3) // 4, dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None)
        uniform = draws.view(torch.int16)[: x.numel()].view(x.shape)  # -2¹⁵ to 2¹⁵ - 1
        keep = uniform >= round(self.p * 2**16) - 2**15
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


class FeedForward(nn.Module):
    """Two linear maps with a ReLU between, applied to every token alone: W₂ max(0, W₁ x)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff)
        self.contract = nn.Linear(d_ff, d_model)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to (B, T, D)."""
        return self.contract(torch.relu(self.expand(x)))


class Residual(nn.Module):
    """What surrounds a sub-layer f: residual connection, dropout and layer norm.

    Pre-norm: x + dropout(f(norm(x))), stable without care (Xiong et al. 2020).
    Post-norm: norm(x + dropout(f(x))), as first published.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model)
        self.dropout = Dropout(config.dropout)
        self.pre_norm = config.norm == "pre"

    def enter(self, x: Tensor) -> Tensor:
        """What the sub-layer is applied to, from ``x`` (B, T, D)."""
        return self.norm(x) if self.pre_norm else x

    def leave(self, x: Tensor, change: Tensor) -> Tensor:
        """``x`` with the sub-layer's output ``change`` (B, T, D) added to it."""
        x = x + self.dropout(change)
        return x if self.pre_norm else self.norm(x)


class EncoderLayer(nn.Module):
    """Self-attention, in which every source token asks every other, then feed-forward.

    With ``encoder_attention = "none"`` it is feed-forward alone, and no token knows of another.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attends = config.encoder_attention != "none"
        if self.attends:
            self.self_attention = Attention(
                config.d_model, config.n_heads, config.encoder_attention
            )
            self.self_residual = Residual(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor | None]:
        """One layer further.

        Args:
            x: (B, S, D)
            mask: broadcastable to (B, H, S, S)

        Returns:
            x (B, S, D) and the self-attention's weights (B, H, S, S), if there is one.
        """
        weights = None
        if self.attends:
            tokens = self.self_residual.enter(x)
            context, weights = self.self_attention(tokens, tokens, tokens, mask)
            x = self.self_residual.leave(x, context)
        change = self.feed_forward(self.feed_forward_residual.enter(x))
        return self.feed_forward_residual.leave(x, change), weights


class LayerCache(NamedTuple):
    """What a decoder layer attends to: the target tokens so far, and the memory."""

    tgt: KeysValues
    memory: KeysValues


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the encoder's memory, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.d_model, config.n_heads)
        self.self_residual = Residual(config)
        self.cross_attention = Attention(config.d_model, config.n_heads, config.cross_attention)
        self.cross_residual = Residual(config)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.feed_forward_residual = Residual(config)

    def start(self, memory: Tensor) -> LayerCache:
        """The cache before the first target token, for a memory (B, S, D)."""
        none_yet = memory[:, :0]
        return LayerCache(
            tgt=self.self_attention.project(none_yet, none_yet),
            memory=self.cross_attention.project(memory, memory),
        )

    def forward(
        self, x: Tensor, cache: LayerCache, tgt_mask: Tensor | None, src_mask: Tensor
    ) -> tuple[Tensor, LayerCache, Tensor, Tensor]:
        """One layer further, for tokens that follow those in the cache.

        Args:
            x: (B, T, D) the new target tokens.
            cache: the tokens before them, and the memory.
            tgt_mask: broadcastable to (B, H, T, tokens so far with the new ones).
            src_mask: broadcastable to (B, H, T, S).

        Returns:
            x (B, T, D), the cache with the new tokens, and the weights of self-attention and
            cross-attention.
        """
        tokens = self.self_residual.enter(x)
        tgt = cache.tgt.append(self.self_attention.project(tokens, tokens))
        context, self_weights = self.self_attention.attend(tokens, tgt, tgt_mask)
        x = self.self_residual.leave(x, context)

        queries = self.cross_residual.enter(x)
        context, cross_weights = self.cross_attention.attend(queries, cache.memory, src_mask)
        x = self.cross_residual.leave(x, context)

        change = self.feed_forward(self.feed_forward_residual.enter(x))
        x = self.feed_forward_residual.leave(x, change)
        return x, cache._replace(tgt=tgt), self_weights, cross_weights
