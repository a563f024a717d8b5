"""A trained run for CTranslate2, which has the published Transformer and little else."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from seq2seq.config import Config, flatten, toml_value
from seq2seq.model.decoding import SUPPRESSED_IDS
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError, new_folder

N_POSITIONS = 1024  # it reads no more tokens unless it is told to
NEVER = -1e4  # the bias of what is never generated, in float16 too
ROTARY = {"rotary_dim": 0, "rotary_interleave": False}  # 0: all dimensions

# All that it can express besides the defaults: settings of any value, or of several.
SHAPE = "d_model d_ff n_heads encoder_layers decoder_layers dropout norm tie_embeddings"
ANY_VALUE = [f"model.{name}" for name in SHAPE.split()]
POSITIONS = ("sinusoidal", "learned", "none", "rotary")
SEVERAL = {f"model.{side}_attention.position": POSITIONS for side in ("encoder", "decoder")}


def check_expressible(config: Config) -> None:
    """``UserError`` that names a setting, known today or not, for which CTranslate2 has nothing."""
    defaults = flatten(Config())
    for key, value in flatten(config).items():
        possible = value in SEVERAL.get(key, (defaults[key],)) or key in ANY_VALUE
        if key.startswith("model.") and not possible:
            has, needs = toml_value(value), toml_value(defaults[key])
            raise UserError(f"{key} = {has}: CTranslate2 has no such part, it needs {needs}")


def export_ctranslate2(run: RunFolder | Path | str, folder: Path) -> None:
    """Write the best model of ``run`` into a new ``folder``, in float32, with its tokenizer."""
    from ctranslate2.specs import transformer_spec as specs

    translator = Translator.load(run)
    check_expressible(translator.config)
    model, tokenizer = translator.model.cpu().requires_grad_(False), translator.tokenizer
    config = translator.config.model

    def convert(make: Any, side: str, position: Any) -> Any:
        layers, norm = getattr(model, side), getattr(model, f"{side}_norm")
        rotary = ROTARY if getattr(config, f"{side}_attention").position == "rotary" else {}
        stack = make(len(layers), config.n_heads, config.norm == "pre", **rotary)
        if hasattr(stack, "position_encodings"):  # without a table it would add its own
            none = torch.zeros(N_POSITIONS, config.d_model)
            stack.position_encodings.encodings = position(0, N_POSITIONS) if position else none
        if config.norm == "pre":
            _copy(stack.layer_norm, norm)
        for target, layer in zip(stack.layer, layers, strict=True):
            _copy_attention(target.self_attention, layer.self_attention)
            if side == "decoder":
                _copy_attention(target.attention, layer.cross_attention)
            _copy(target.ffn.layer_norm, layer.feed_forward.connection.norm)
            _copy(target.ffn.linear_0, layer.feed_forward.up_proj)
            _copy(target.ffn.linear_1, layer.feed_forward.down_proj)
        return stack

    encoder = convert(specs.TransformerEncoderSpec, "encoder", model.src_position)
    decoder = convert(specs.TransformerDecoderSpec, "decoder", model.tgt_position)
    encoder.embeddings[0].weight = model.src_embedding.weight
    decoder.embeddings.weight = model.tgt_embedding.weight
    decoder.projection.weight = model.output.weight
    decoder.projection.bias = torch.zeros(len(tokenizer.tgt))
    decoder.projection.bias[SUPPRESSED_IDS] = NEVER
    spec = specs.TransformerSpec(encoder, decoder)
    spec.register_source_vocabulary(tokenizer.src.pieces(range(len(tokenizer.src))))
    spec.register_target_vocabulary(tokenizer.tgt.pieces(range(len(tokenizer.tgt))))
    spec.config.add_source_eos = True
    spec.config.add_attribute("max_input_length", translator.config.data.max_tokens)
    spec.validate()
    spec.optimize()  # equal tables are stored once
    with new_folder(folder) as new:
        tokenizer.save(RunFolder(new))
        spec.save(str(new))


def _copy_attention(target: Any, sublayer: Any) -> None:
    """Queries, keys and values become one product, or queries one, and keys and values another."""
    attention = sublayer.attention
    q, k, v = attention.query_proj, attention.key_proj, attention.value_proj
    *fused, output = target.linear
    for linear, part in zip(fused, [[q, k, v]] if len(fused) == 1 else [[q], [k, v]], strict=True):
        linear.weight = torch.cat([projection.weight for projection in part])
        linear.bias = torch.cat([projection.bias for projection in part])
    _copy(output, attention.output_proj)
    _copy(target.layer_norm, sublayer.connection.norm)


def _copy(target: Any, module: Any) -> None:
    names = ("gamma", "beta") if isinstance(module, nn.LayerNorm) else ("weight", "bias")
    for name, tensor in zip(names, (module.weight, module.bias), strict=True):
        setattr(target, name, tensor)
