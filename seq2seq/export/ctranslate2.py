"""A trained run as a model of CTranslate2, which translates without torch.

CTranslate2 has the parts of the published Transformer and a few others. What it can express is
listed here; any other value of a setting, known today or not, is refused.
"""

from pathlib import Path
from typing import Any

import torch

from seq2seq.attention.scores import dot
from seq2seq.config import AttentionConfig, Config, ModelConfig, flatten, toml_value
from seq2seq.data.tokenizer import BOS, EOS, UNK
from seq2seq.export.folder import export_folder
from seq2seq.model.decoding import SUPPRESSED_IDS
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError

N_POSITIONS = 1024  # CTranslate2 reads no more tokens unless it is told to
NEVER = -1e4  # the bias of what is never generated, in float16 too

# Settings of the model that may have any value, and values that are possible besides the default.
SIZES = ("d_model", "d_ff", "n_heads", "kv_heads", "encoder_layers", "decoder_layers")
ANY_VALUE = (*SIZES, "dropout", "norm", "tie_embeddings")
SCORES = ("scaled_dot", "dot")
POSITIONS = ("sinusoidal", "learned", "none", "rotary", "shaw")
POSSIBLE = {
    "model.encoder_attention.score": SCORES,
    "model.encoder_attention.position": POSITIONS,
    "model.decoder_attention.score": SCORES,
    "model.decoder_attention.position": POSITIONS,
    "model.cross_attention.score": SCORES,
}


def check_expressible(config: Config) -> None:
    """``UserError`` that names a setting for which CTranslate2 has nothing."""
    defaults = flatten(Config())
    settings = {key: x for key, x in flatten(config).items() if key.startswith("model.")}
    for key, value in settings.items():
        known = key.rpartition(".")[2] in ANY_VALUE
        if not known and value not in POSSIBLE.get(key, (defaults[key],)):
            raise UserError(f"{key} = {toml_value(value)}: CTranslate2 has no such part")
    model = config.model
    cross, decoder = (
        x.n_heads or model.n_heads for x in (model.cross_attention, model.decoder_attention)
    )
    if cross != decoder:
        problem = f"CTranslate2 needs as many as in model.decoder_attention, {decoder}"
        raise UserError(f"model.cross_attention.n_heads = {cross}: {problem}")


def export_ctranslate2(run: RunFolder | Path | str, folder: Path) -> None:
    """Write the best model of ``run`` into a new ``folder``, in float32, with its tokenizer."""
    from ctranslate2.specs.transformer_spec import (
        TransformerDecoderSpec,
        TransformerEncoderSpec,
        TransformerSpec,
    )

    translator = Translator.load(run)
    check_expressible(translator.config)
    config, tokenizer = translator.config.model, translator.tokenizer
    model = translator.model.cpu().requires_grad_(False)
    encoder = TransformerEncoderSpec(
        config.encoder_layers, **_options(config, config.encoder_attention)
    )
    decoder = TransformerDecoderSpec(
        config.decoder_layers, **_options(config, config.decoder_attention)
    )
    for stack, layers, norm, position in (
        (encoder, model.encoder, model.encoder_norm, model.src_position),
        (decoder, model.decoder, model.decoder_norm, model.tgt_position),
    ):
        if hasattr(stack, "position_encodings"):  # without a table it would add its own
            none = torch.zeros(N_POSITIONS, config.d_model)
            table = position(0, N_POSITIONS) if position is not None else none
            stack.position_encodings.encodings = table
        if config.norm == "pre":
            _convert_norm(stack.layer_norm, norm)
        for target, layer in zip(stack.layer, layers, strict=True):
            _convert_layer(target, layer)
    encoder.embeddings[0].weight = model.src_embedding.weight
    decoder.embeddings.weight = model.tgt_embedding.weight
    decoder.projection.weight = model.output.weight
    decoder.projection.bias = torch.zeros(len(tokenizer.tgt))
    decoder.projection.bias[SUPPRESSED_IDS] = NEVER
    spec = TransformerSpec(encoder, decoder)
    src, tgt = (side.pieces(range(len(side))) for side in (tokenizer.src, tokenizer.tgt))
    spec.register_source_vocabulary(src)
    spec.register_target_vocabulary(tgt)
    spec.config.bos_token = spec.config.decoder_start_token = tgt[BOS]
    spec.config.eos_token, spec.config.unk_token = tgt[EOS], tgt[UNK]
    spec.config.add_source_eos = True
    spec.config.add_attribute("max_input_length", translator.config.data.max_tokens)
    spec.validate()
    with export_folder(folder, tokenizer) as new:
        spec.save(str(new))


def _options(model: ModelConfig, attention: AttentionConfig) -> dict[str, Any]:
    """Of an encoder or decoder with this self-attention."""
    rotary = {"rotary_dim": 0, "rotary_interleave": False}  # 0: all dimensions
    return {
        "num_heads": attention.n_heads or model.n_heads,
        "pre_norm": model.norm == "pre",
        "relative_position": attention.position == "shaw",
        **(rotary if attention.position == "rotary" else {}),
    }


def _convert_layer(target: Any, layer: Any) -> None:
    _convert_attention(target.self_attention, layer.self_attention)
    if hasattr(target, "attention"):
        _convert_attention(target.attention, layer.cross_attention)
    _convert_norm(target.ffn.layer_norm, layer.feed_forward.connection.norm)
    _convert_linear(target.ffn.linear_0, layer.feed_forward.up_proj)
    _convert_linear(target.ffn.linear_1, layer.feed_forward.down_proj)


def _convert_attention(target: Any, sublayer: Any) -> None:
    """Fuse the projections as CTranslate2 does, with keys and values repeated for every head."""
    attention = sublayer.attention
    *fused, output = target.linear  # of queries, keys and values; across, queries are by themselves
    for kind in ("weight", "bias"):
        projections = (attention.query_proj, attention.key_proj, attention.value_proj)
        width = attention.output_proj.in_features // attention.n_heads
        heads = [getattr(x, kind).unflatten(0, (-1, width)) for x in projections]  # (H, K, ...)
        q, k, v = (attention.repeat_kv(x[None])[0].flatten(0, 1) for x in heads)
        for linear, parts in zip(
            fused, [[q, k, v]] if len(fused) == 1 else [[q], [k, v]], strict=True
        ):
            setattr(linear, kind, torch.cat(parts))
    _convert_linear(output, attention.output_proj)
    _convert_norm(target.layer_norm, sublayer.connection.norm)
    if attention.score is dot:
        target.queries_scale = 1.0
    if hasattr(target, "relative_position_keys"):
        (shaw,) = attention.modifiers
        target.relative_position_keys, target.relative_position_values = shaw.a, shaw.b


def _convert_linear(target: Any, linear: Any) -> None:
    target.weight, target.bias = linear.weight, linear.bias


def _convert_norm(target: Any, norm: Any) -> None:
    target.gamma, target.beta = norm.weight, norm.bias
