"""The layers that encoder and decoder are stacked from (shapes: see ``attention.py``)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from seq2seq.attention import KeysValues, Steps
from seq2seq.machine import in_product_precision
from seq2seq.settings import AttentionConfig, ModelConfig
from seq2seq.variants import make_attention


class Dropout(nn.Module):
    """Zero each value with probability p and scale the rest by 1 / (1 - p) (Srivastava 2014).

    torch's own draws one random number a value, which on a CPU takes a tenth of a training step;
    here each 64-bit draw serves eight values, so p is rounded to a multiple of 1/256.
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
        n_dropped = round(self.p * 256)  # of 256
        if n_dropped == 0:
            return x
        draws = torch.empty((x.numel() + 7) // 8, dtype=torch.int64)
        draws.random_(torch.iinfo(torch.int64).min, None)
        uniform = draws.view(torch.int8)[: x.numel()].view(x.shape)  # -128 to 127
        keep = uniform > n_dropped - 129
        return x * keep.to(x.dtype).mul_(256 / max(1, 256 - n_dropped))


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
        return in_product_precision(self.norm(x) if self.pre_norm else x)

    def leave(self, x: Tensor, change: Tensor) -> Tensor:
        """``x`` with the sub-layer's output ``change`` (B, T, D) added to it."""
        x = x + self.dropout(change)
        return x if self.pre_norm else self.norm(x)


class AttentionBlock(nn.Module):
    """An attention with what surrounds it; where its kind is ``none``, x stays x."""

    def __init__(self, model: ModelConfig, config: AttentionConfig) -> None:
        super().__init__()
        self.attention = make_attention(model, config)
        if self.attention is not None:
            self.residual = Residual(model)

    def project(self, x: Tensor) -> KeysValues:
        """What the tokens ``x`` (B, S, D) answer with; nothing where there is no attention."""
        if self.attention is None:
            return KeysValues(x[:, None, :, :0], x[:, None, :, :0])
        return self.attention.project(x, x)

    def attend_to_itself(
        self,
        x: Tensor,
        before: KeysValues | None,
        mask: Tensor | None,
        start: int,
        need_steps: bool,
    ) -> tuple[Tensor, KeysValues, Steps | None]:
        """Self-attention: the tokens ``x`` (B, T, D) ask themselves and those ``before`` them.

        Returns:
            x one sub-layer further, the keys and values of all tokens so far, and the steps if
            they are needed and there are any.
        """
        if self.attention is None:
            return x, self.project(x), None
        tokens = self.residual.enter(x)
        memory = self.project(tokens)
        memory = memory if before is None else before.append(memory)
        context, steps = self.attention.attend(tokens, memory, mask, start, need_steps)
        return self.residual.leave(x, context), memory, steps

    def attend_to(
        self, x: Tensor, memory: KeysValues, mask: Tensor, start: int, need_steps: bool
    ) -> tuple[Tensor, Steps | None]:
        """Cross-attention: the tokens ``x`` (B, T, D) ask a ``memory``."""
        if self.attention is None:
            return x, None
        queries = self.residual.enter(x)
        context, steps = self.attention.attend(queries, memory, mask, start, need_steps)
        return self.residual.leave(x, context), steps


class EncoderLayer(nn.Module):
    """Self-attention, in which every source token asks every other, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = AttentionBlock(config, config.encoder_attention)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.feed_forward_residual = Residual(config)

    def forward(self, x: Tensor, mask: Tensor, need_steps: bool) -> tuple[Tensor, Steps | None]:
        """One layer further.

        Args:
            x: (B, S, D)
            mask: broadcastable to (B, H, S, S)
            need_steps: whether the attention's steps are wanted.

        Returns:
            x (B, S, D) and the self-attention's steps, if needed and there.
        """
        x, _, steps = self.self_attention.attend_to_itself(x, None, mask, 0, need_steps)
        change = self.feed_forward(self.feed_forward_residual.enter(x))
        return self.feed_forward_residual.leave(x, change), steps


class LayerCache(NamedTuple):
    """What a decoder layer attends to: the target tokens so far, and the memory."""

    tgt: KeysValues
    memory: KeysValues


class DecoderLayer(nn.Module):
    """Causal self-attention, cross-attention to the encoder's memory, then feed-forward."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.self_attention = AttentionBlock(config, config.decoder_attention)
        self.cross_attention = AttentionBlock(config, config.cross_attention)
        self.feed_forward = FeedForward(config.d_model, config.d_ff)
        self.feed_forward_residual = Residual(config)

    def start(self, memory: Tensor) -> LayerCache:
        """The cache before the first target token, for a memory (B, S, D)."""
        none_yet = memory[:, :0]
        return LayerCache(
            tgt=self.self_attention.project(none_yet),
            memory=self.cross_attention.project(memory),
        )

    def forward(
        self,
        x: Tensor,
        cache: LayerCache,
        tgt_mask: Tensor | None,
        src_mask: Tensor,
        start: int,
        need_steps: bool,
    ) -> tuple[Tensor, LayerCache, Steps | None, Steps | None]:
        """One layer further, for tokens that follow those in the cache.

        Args:
            x: (B, T, D) the new target tokens.
            cache: the tokens before them, and the memory.
            tgt_mask: broadcastable to (B, H, T, tokens so far with the new ones).
            src_mask: broadcastable to (B, H, T, S).
            start: target tokens before the new ones.
            need_steps: whether the attentions' steps are wanted.

        Returns:
            x (B, T, D), the cache with the new tokens, and the steps of self-attention and
            cross-attention, if needed and there.
        """
        x, tgt, self_steps = self.self_attention.attend_to_itself(
            x, cache.tgt, tgt_mask, start, need_steps
        )
        x, cross_steps = self.cross_attention.attend_to(
            x, cache.memory, src_mask, start, need_steps
        )
        change = self.feed_forward(self.feed_forward_residual.enter(x))
        x = self.feed_forward_residual.leave(x, change)
        return x, cache._replace(tgt=tgt), self_steps, cross_steps
