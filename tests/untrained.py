"""Untrained models, at once, and their traces: weights that are not all 0 or 1."""

from functools import cache

import torch

from seq2seq.config import Config, ModelConfig, TokenizerConfig
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.model.transformer import Seq2Seq
from seq2seq.translator import Translator
from seq2seq.viewer.trace import TranslationTrace, trace_pair


@cache
def small_tokenizer() -> Tokenizer:
    lines = ["ba du ke lo", "zo vu zo"] * 9
    return Tokenizer.train(TokenizerConfig(vocab_size=280), lines, lines)


def untrained_translator(model: ModelConfig, tokenizer: Tokenizer | None = None) -> Translator:
    tokenizer = tokenizer or small_tokenizer()
    torch.manual_seed(0)
    return Translator(Seq2Seq.build(model, tokenizer).eval(), tokenizer, Config(model=model))


def trace_untrained(
    model: ModelConfig, src: str, tgt: str, tokenizer: Tokenizer | None = None
) -> TranslationTrace:
    """As if ``tgt`` were the translation."""
    translator = untrained_translator(model, tokenizer)
    tokenizer = translator.tokenizer
    (src_ids,), (tgt_ids,) = tokenizer.src.encode([src]), tokenizer.tgt.encode([tgt], bos=True)
    return trace_pair(translator, src_ids, tgt_ids)
