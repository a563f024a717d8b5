"""Times CTranslate2 on greedy decoding with our weights.

Runs in the peers' environment, not in ours. Prints one line of JSON.

python benchmarks/ctranslate2_peer.py RUN FOLDER TYPE BATCH INTER INTRA HYPOTHESES
"""

import json
import sys
import time
import tomllib
from pathlib import Path

import ctranslate2
import numpy as np
import sentencepiece
from ctranslate2.specs import common_spec, transformer_spec
from safetensors.numpy import load_file

N_POSITIONS = 512


def sinusoids(width: int) -> np.ndarray:
    """Our positions: sine and cosine, interleaved."""
    rates = np.exp(np.arange(0, width, 2) * (-np.log(10000.0) / width))
    angles = np.arange(N_POSITIONS)[:, None] * rates
    waves = np.stack([np.sin(angles), np.cos(angles)], -1)
    return waves.reshape(N_POSITIONS, width).astype("float32")


def convert(run: Path, folder: Path) -> None:
    """Our weights as a CTranslate2 model."""
    model = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["model"]
    ours = load_file(run / "model.safetensors")
    layers = model["encoder_layers"], model["decoder_layers"]
    spec = transformer_spec.TransformerSpec.from_config(layers, model["n_heads"])

    def linear(target: common_spec.LinearSpec, *names: str) -> None:
        target.weight = np.concatenate([ours[f"{name}.weight"] for name in names])
        target.bias = np.concatenate([ours[f"{name}.bias"] for name in names])

    def norm(target: common_spec.LayerNormSpec, name: str) -> None:
        target.gamma, target.beta = ours[f"{name}.weight"], ours[f"{name}.bias"]

    def attention(target: object, name: str, groups: list[list[str]]) -> None:
        norm(target.layer_norm, f"{name}.connection.norm")
        for part, roles in zip(target.linear, groups, strict=True):
            linear(part, *(f"{name}.attention.{role}_proj" for role in roles))

    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        stack.position_encodings.encodings = sinusoids(model["d_model"])
        norm(stack.layer_norm, f"{side}_norm")
        for i, layer in enumerate(stack.layer):
            name = f"{side}.{i}"
            fused = [["query", "key", "value"], ["output"]]
            attention(layer.self_attention, f"{name}.self_attention", fused)
            if side == "decoder":
                separate = [["query"], ["key", "value"], ["output"]]
                attention(layer.attention, f"{name}.cross_attention", separate)
            norm(layer.ffn.layer_norm, f"{name}.feed_forward_connection.norm")
            linear(layer.ffn.linear_0, f"{name}.feed_forward.up_proj")
            linear(layer.ffn.linear_1, f"{name}.feed_forward.down_proj")
    table = ours["tgt_embedding.weight"]
    spec.encoder.embeddings[0].weight = table
    spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight = table
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(run / "tokenizer.model"))
    pieces = [subwords.id_to_piece(i) for i in range(len(subwords))]
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.validate()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def decode(run: Path, folder: Path, precision: str, sizes: list[int]) -> tuple[float, list[str]]:
    """Seconds for the first test set, with tokenization and without loading; and translations."""
    batch_size, inter, intra = sizes
    sentences = test_set(run).read_text(encoding="utf-8").splitlines()
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(run / "tokenizer.model"))
    translator = ctranslate2.Translator(
        str(folder), compute_type=precision, inter_threads=inter, intra_threads=intra
    )

    def translate(lines: list[str]) -> list[str]:
        src = [[*pieces, "</s>"] for pieces in subwords.encode(lines, out_type=str)]
        results = translator.translate_batch(
            src, max_batch_size=batch_size, beam_size=1, max_decoding_length=100
        )
        return subwords.decode([result.hypotheses[0] for result in results])

    translate(sentences[:batch_size])
    start = time.perf_counter()
    hypotheses = translate(sentences)
    return time.perf_counter() - start, hypotheses


def test_set(run: Path) -> Path:
    """The source side of the first test set in a run folder."""
    report = json.loads((run / "corpus" / "report.json").read_text(encoding="utf-8"))
    language = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"]["src"]
    return run / "corpus" / f"{next(iter(report['test_pairs']))}.{language}"


if __name__ == "__main__":
    run, folder, precision, *sizes, path = sys.argv[1:]
    if not (Path(folder) / "model.bin").exists():
        convert(Path(run), Path(folder))
    seconds, hypotheses = decode(Path(run), Path(folder), precision, [int(x) for x in sizes])
    Path(path).write_text("\n".join(hypotheses) + "\n", encoding="utf-8")
    print(json.dumps({"seconds": seconds}))
