"""The Transformer: an encoder that reads the source, a decoder that writes the target.

Shapes: see ``attention.py``. ``decode`` reads the tokens that follow those in its cache: training
calls it once with the whole target, translation once per token, so the two cannot drift apart.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seq2seq.attention import AbsolutePosition, AttentionTrace, build_absolute_position, causal_mask
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
        layers = tuple(LayerCache(*(kv.select(rows) for kv in layer)) for layer in self.layers)
        return DecoderCache(layers, self.src_mask[rows], self.length)


class ModelTrace(NamedTuple):
    """What every attention did, one trace per layer that has it, and the decoder's output."""

    encoder: list[AttentionTrace]
    decoder: list[AttentionTrace]
    cross: list[AttentionTrace]
    x: Tensor  # (B, T, D), the input of ``logits``


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
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
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
        memory, src_mask, _ = self._encode(src)
        return memory, src_mask

    def start(self, memory: Tensor, src_mask: Tensor) -> DecoderCache:
        """The decoder's cache before the first target token, for what ``encode`` returned."""
        caches = tuple(layer.start(memory) for layer in self.decoder)  # type: ignore[operator]
        return DecoderCache(caches, src_mask, 0)

    def decode(self, tgt: Tensor, cache: DecoderCache) -> tuple[Tensor, DecoderCache]:
        """From target ids (B, T) after those in ``cache`` to the input (B, T, D) of ``logits``."""
        x, cache, _, _ = self._decode(tgt, cache)
        return x, cache

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) to (..., V). Training computes the same chunk by chunk (``loss.py``)."""
        return self.output(x)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``tgt`` (B, T), for ``src`` (B, S)."""
        x, _ = self.decode(tgt, self.start(*self.encode(src)))
        return self.logits(x)

    def trace(self, src: Tensor, tgt: Tensor) -> ModelTrace:
        """What every attention does when ``tgt`` (B, T) is read after ``src`` (B, S)."""
        memory, src_mask, encoder = self._encode(src, return_trace=True)
        cache = self.start(memory, src_mask)
        x, _, decoder, cross = self._decode(tgt, cache, return_trace=True)
        return ModelTrace(encoder, decoder, cross, x)

    def _encode(
        self, src: Tensor, return_trace: bool = False
    ) -> tuple[Tensor, Tensor, list[AttentionTrace]]:
        src_mask = (src != PAD)[:, None, None, :]  # (B, 1, 1, S)
        x = self._embed(src, self.src_embedding, self.src_position, 0)  # (B, S, D)
        traces = []
        for layer in self.encoder:
            x, trace = layer(x, src_mask, return_trace)
            traces.append(trace)
        memory = to_autocast_dtype(self.encoder_norm(x))
        return memory, src_mask, [trace for trace in traces if trace is not None]

    def _decode(
        self, tgt: Tensor, cache: DecoderCache, return_trace: bool = False
    ) -> tuple[Tensor, DecoderCache, list[AttentionTrace], list[AttentionTrace]]:
        n_new, start = tgt.shape[1], cache.length
        # A single new token may attend to everything before it: nothing to mask.
        tgt_mask = causal_mask(n_new, start + n_new, tgt.device) if n_new > 1 else None
        masks = tgt_mask, cache.src_mask
        x = self._embed(tgt, self.tgt_embedding, self.tgt_position, start)  # (B, T, D)
        layer_caches, self_traces, cross_traces = [], [], []
        for layer, layer_cache in zip(self.decoder, cache.layers, strict=True):
            x, grown, self_trace, cross_trace = layer(x, layer_cache, masks, start, return_trace)
            layer_caches.append(grown)
            self_traces += [self_trace] if self_trace is not None else []
            cross_traces += [cross_trace] if cross_trace is not None else []
        cache = DecoderCache(tuple(layer_caches), cache.src_mask, start + n_new)
        return self.decoder_norm(x), cache, self_traces, cross_traces

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


def count_parameters(model: nn.Module) -> int:
    """Learned numbers in ``model``, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def empty_model(config: Config) -> Seq2Seq:
    """The model that ``config`` describes, without memory or values, before any corpus is read."""
    size = config.tokenizer.vocab_size
    with torch.device("meta"):
        return Seq2Seq(config.model, size, size, config.tokenizer.joint)
