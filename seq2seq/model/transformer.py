"""The Transformer: an encoder that reads the source, a decoder that writes the target.

Shapes: see ``attention.py``. ``decode`` reads the tokens that follow those in its cache: training
calls it once with the whole target, translation once per token, so the two cannot drift apart. For
a few sentences on a CPU, ``lean.py`` computes the same step; a test compares them.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seq2seq.attention import AbsolutePosition, build_absolute_position, causal_mask
from seq2seq.config import Config, ModelConfig
from seq2seq.cpu import Dropout, to_autocast_dtype
from seq2seq.data.tokenizer import PAD, Tokenizer
from seq2seq.model.layers import DecoderLayer, EncoderLayer, LayerCache


class DecoderCache(NamedTuple):
    """Everything that the next target token depends on, besides itself."""

    layers: tuple[LayerCache, ...]
    src_mask: Tensor  # (B, 1, 1, S)
    length: int  # target tokens so far

    def select(self, rows: Tensor) -> "DecoderCache":
        """Only these rows of the batch, in this order: to drop, repeat or reorder."""
        layers = tuple(layer.select(rows) for layer in self.layers)
        return DecoderCache(layers, self.src_mask[rows], self.length)


class Seq2Seq(nn.Module):
    """Encoder and decoder over subword ids; ``joint`` if both languages share one vocabulary."""

    def __init__(
        self, config: ModelConfig, src_vocab_size: int, tgt_vocab_size: int, joint: bool
    ) -> None:
        super().__init__()
        self.tgt_embedding = nn.Embedding(tgt_vocab_size, config.d_model)
        share = joint and config.tie_embeddings
        self.src_embedding = (
            self.tgt_embedding if share else nn.Embedding(src_vocab_size, config.d_model)
        )
        self.output = nn.Linear(config.d_model, tgt_vocab_size, bias=False)
        self.dropout = Dropout(config.dropout)
        n_encoder, n_decoder = config.encoder_layers, config.decoder_layers
        self.encoder = nn.ModuleList(EncoderLayer(config, 1 + n) for n in range(n_encoder))
        self.decoder = nn.ModuleList(DecoderLayer(config, 1 + n) for n in range(n_decoder))
        # Pre-norm layers leave the sum of all sublayers unnormalized: one more norm at the end.
        pre_norm = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.src_position = build_absolute_position(config, "encoder_attention")
        self.tgt_position = build_absolute_position(config, "decoder_attention")
        self.apply(_initialize)
        if config.tie_embeddings:
            self.output.weight = self.tgt_embedding.weight

    @classmethod
    def build(cls, config: ModelConfig, tokenizer: Tokenizer) -> "Seq2Seq":
        """A model with fresh weights for the vocabularies of ``tokenizer``."""
        return cls(config, len(tokenizer.src), len(tokenizer.tgt), tokenizer.joint)

    def encode(self, src: Tensor) -> tuple[Tensor, Tensor]:
        """Read source ids (B, S), padded; returns memory (B, S, D) and its mask (B, 1, 1, S)."""
        src_mask = (src != PAD)[:, None, None, :]
        x = self._embed(src, self.src_embedding, self.src_position, 0)
        for layer in self.encoder:
            x = layer(x, src_mask)
        return to_autocast_dtype(self.encoder_norm(x)), src_mask

    def start(self, memory: Tensor, src_mask: Tensor) -> DecoderCache:
        """The decoder's cache before the first target token, for what ``encode`` returned."""
        caches = tuple(layer.start(memory) for layer in self.decoder)  # type: ignore[operator]
        return DecoderCache(caches, src_mask, 0)

    def decode(self, tgt: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """From target ids (B, T) after those in ``cache`` to the input (B, T, D) of ``logits``."""
        n_new, start = tgt.shape[1], cache.length
        # A single new token may attend to everything before it: nothing to mask.
        tgt_mask = causal_mask(n_new, start + n_new, tgt.device) if n_new > 1 else None
        x = self._embed(tgt, self.tgt_embedding, self.tgt_position, start)
        layers = []
        for layer, past in zip(self.decoder, cache.layers, strict=True):
            x, present = layer(x, past, tgt_mask, cache.src_mask, start)
            layers.append(present)
        return self.decoder_norm(x), DecoderCache(tuple(layers), cache.src_mask, start + n_new)

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V). Training computes the same chunk by chunk (``loss.py``)."""
        return self.output(x)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``tgt`` (B, T), for ``src`` (B, S)."""
        x, _ = self.decode(tgt, self.start(*self.encode(src)))
        return self.logits(x)

    def _embed(
        self, ids: Tensor, embedding: nn.Embedding, position: AbsolutePosition | None, start: int
    ) -> Tensor:
        """Ids (B, T), the first at position ``start``, to vectors (B, T, D)."""
        # Scaled up because embeddings start small enough to serve as output weights too.
        x = embedding(ids) * math.sqrt(embedding.embedding_dim)
        if position is not None:
            x = x + position(start, start + ids.shape[1])
        return self.dropout(x)


def _initialize(module: nn.Module) -> None:
    """Xavier uniform for projections; embeddings such that the first logits have variance one."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


class _NoWeights(TorchFunctionMode):
    """Weights get neither memory nor values (torch's own way, a device, takes a second to load)."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return None
        on_meta = {"device": "meta"} if func in (torch.empty, torch.eye, torch.randn) else {}
        return func(*args, **(kwargs or {}) | on_meta)


def empty_model(config: Config) -> Seq2Seq:
    """The model that ``config`` describes, without memory or values."""
    size = config.tokenizer.vocab_size
    with _NoWeights():
        return Seq2Seq(config.model, size, size, config.tokenizer.joint)


def count_parameters(model: nn.Module) -> int:
    """Learned numbers in ``model``, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
