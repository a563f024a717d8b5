"""The Transformer: an encoder that reads the source, a decoder that writes the target.

Shapes: see ``attention.py``. The decoder is one function, ``decode``: given the tokens that
follow those already in its state, it returns their vectors and the state after them. Training
calls it once with the whole target, decoding once a token: there is no second decoder that
could drift from the first.
"""

import math
from typing import NamedTuple

from torch import Tensor, nn

from seq2seq.attention import Steps, causal_mask
from seq2seq.layers import DecoderLayer, Dropout, EncoderLayer, LayerCache
from seq2seq.machine import in_product_precision
from seq2seq.positions import AbsolutePosition
from seq2seq.settings import ModelConfig
from seq2seq.tokenizer import PAD
from seq2seq.variants import make_absolute_position


class DecoderState(NamedTuple):
    """Everything that the next target token depends on, besides itself."""

    layers: tuple[LayerCache, ...]
    src_mask: Tensor  # (B, 1, 1, S)
    length: int  # target tokens so far

    def select(self, rows: Tensor) -> "DecoderState":
        """Only these ``rows`` of the batch, in this order: to drop, repeat or reorder."""
        layers = tuple(LayerCache(*(part.select(rows) for part in layer)) for layer in self.layers)
        return DecoderState(layers, self.src_mask[rows], self.length)


class AttentionSteps(NamedTuple):
    """What every attention did, an item a layer that has it, and what came of it."""

    encoder: list[Steps]  # source tokens ask source tokens
    decoder: list[Steps]  # target tokens ask target tokens
    cross: list[Steps]  # target tokens ask source tokens
    x: Tensor  # (B, T, D), to be turned into ``logits``


class Seq2Seq(nn.Module):
    """Encoder and decoder over subword ids.

    Args:
        config: the model's shape.
        src_vocab_size: subwords of the source language.
        tgt_vocab_size: subwords of the target language.
        joint: whether both languages share one vocabulary.
    """

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
        # Pre-norm layers leave the sum of all sub-layers unnormalised: one norm more at the end.
        pre_norm = config.norm == "pre"
        self.encoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.decoder_norm = nn.LayerNorm(config.d_model) if pre_norm else nn.Identity()
        self.src_position = make_absolute_position(config.encoder_attention, config.d_model)
        self.tgt_position = make_absolute_position(config.decoder_attention, config.d_model)
        self.apply(_initialize)
        if config.tie_embeddings:
            self.output.weight = self.tgt_embedding.weight

    def encode(self, src: Tensor) -> tuple[Tensor, Tensor]:
        """Read the source.

        Args:
            src: (B, S) subword ids, padded.

        Returns:
            memory (B, S, D) and its mask (B, 1, 1, S).
        """
        memory, src_mask, _ = self._encode(src)
        return memory, src_mask

    def start(self, memory: Tensor, src_mask: Tensor) -> DecoderState:
        """The decoder's state before the first target token, for what ``encode`` returned."""
        caches = tuple(layer.start(memory) for layer in self.decoder)  # type: ignore[operator]
        return DecoderState(caches, src_mask, 0)

    def decode(self, tgt: Tensor, state: DecoderState) -> tuple[Tensor, DecoderState]:
        """Read the target tokens that come next.

        Args:
            tgt: (B, T) subword ids that follow those in ``state``.
            state: from ``start`` or an earlier ``decode``.

        Returns:
            vectors (B, T, D), to be turned into ``logits``, and the state after these tokens.
        """
        x, state, _, _ = self._decode(tgt, state)
        return x, state

    def logits(self, x: Tensor) -> Tensor:
        """(..., D) decoder vectors to (..., V) scores of the token that follows each.

        Training computes the same, chunk by chunk, in ``vocabulary_loss``.
        """
        return self.output(x)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``tgt`` (B, T), for ``src`` (B, S)."""
        x, _ = self.decode(tgt, self.start(*self.encode(src)))
        return self.logits(x)

    def attention_steps(self, src: Tensor, tgt: Tensor) -> AttentionSteps:
        """Who attends to whom, and how, when ``tgt`` (B, T) is read after ``src`` (B, S)."""
        memory, src_mask, encoder = self._encode(src, need_steps=True)
        state = self.start(memory, src_mask)
        x, _, decoder, cross = self._decode(tgt, state, need_steps=True)
        return AttentionSteps(encoder, decoder, cross, x)

    def _encode(self, src: Tensor, need_steps: bool = False) -> tuple[Tensor, Tensor, list[Steps]]:
        src_mask = (src != PAD)[:, None, None, :]  # (B, 1, 1, S)
        x = self._embed(src, self.src_embedding, self.src_position, 0)  # (B, S, D)
        taken = []
        for layer in self.encoder:
            x, steps = layer(x, src_mask, need_steps)
            taken.append(steps)
        return in_product_precision(self.encoder_norm(x)), src_mask, _existing(taken)

    def _decode(
        self, tgt: Tensor, state: DecoderState, need_steps: bool = False
    ) -> tuple[Tensor, DecoderState, list[Steps], list[Steps]]:
        n_new, start = tgt.shape[1], state.length
        # A single new token may see everything before it: nothing to mask.
        tgt_mask = causal_mask(n_new, start + n_new, tgt.device) if n_new > 1 else None
        x = self._embed(tgt, self.tgt_embedding, self.tgt_position, start)  # (B, T, D)
        caches, decoder, cross = [], [], []
        for layer, cache in zip(self.decoder, state.layers, strict=True):
            x, grown, self_steps, cross_steps = layer(
                x, cache, tgt_mask, state.src_mask, start, need_steps
            )
            caches.append(grown)
            decoder.append(self_steps)
            cross.append(cross_steps)
        state = DecoderState(tuple(caches), state.src_mask, start + n_new)
        return self.decoder_norm(x), state, _existing(decoder), _existing(cross)

    def _embed(
        self, ids: Tensor, embedding: nn.Embedding, position: AbsolutePosition | None, start: int
    ) -> Tensor:
        """(B, T) ids, the first at place ``start``, to (B, T, D) vectors."""
        # Scaled up because embeddings are drawn small enough to serve as output weights too.
        x = embedding(ids) * math.sqrt(embedding.embedding_dim)
        if position is not None:
            x = x + position(start, start + ids.shape[1])
        return self.dropout(x)


def _existing(steps: list[Steps | None]) -> list[Steps]:
    return [each for each in steps if each is not None]


def _initialize(module: nn.Module) -> None:
    """Xavier's uniform for projections; embeddings such that first logits have variance one."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)


def count_parameters(model: nn.Module) -> int:
    """Learned numbers in ``model``, shared ones counted once."""
    return sum(parameter.numel() for parameter in model.parameters())
