"""What CTranslate2 takes for greedy decoding with our weights.

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

N_PLACES = 512


def sinusoids(width: int) -> np.ndarray:
    """Our positions: sine and cosine by turns."""
    rates = np.exp(np.arange(0, width, 2) * (-np.log(10000.0) / width))
    angles = np.arange(N_PLACES)[:, None] * rates
    return np.stack([np.sin(angles), np.cos(angles)], -1).reshape(N_PLACES, width).astype("float32")


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
        norm(target.layer_norm, f"{name}.residual.norm")
        for part, roles in zip(target.linear, groups, strict=True):
            linear(part, *(f"{name}.attention.{role}_weights" for role in roles))

    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        stack.position_encodings.encodings = sinusoids(model["d_model"])
        norm(stack.layer_norm, f"{side}_norm")
        for i, layer in enumerate(stack.layer):
            name = f"{side}.{i}"
            fused = [["query", "key", "value"], ["output"]]
            attention(layer.self_attention, f"{name}.self_attention", fused)
            if side == "decoder":
                parted = [["query"], ["key", "value"], ["output"]]
                attention(layer.attention, f"{name}.cross_attention", parted)
            norm(layer.ffn.layer_norm, f"{name}.feed_forward_residual.norm")
            linear(layer.ffn.linear_0, f"{name}.feed_forward.expand")
            linear(layer.ffn.linear_1, f"{name}.feed_forward.contract")
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


def decode(run: Path, folder: Path, kind: str, sizes: list[int]) -> tuple[float, list[str]]:
    """Seconds for the first test set, tokenisation included, loading not; and its translations."""
    batch_size, inter, intra = sizes
    sentences = test_set(run).read_text(encoding="utf-8").splitlines()
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(run / "tokenizer.model"))
    translator = ctranslate2.Translator(
        str(folder), compute_type=kind, inter_threads=inter, intra_threads=intra
    )

    def translate(lines: list[str]) -> list[str]:
        src = [[*pieces, "</s>"] for pieces in subwords.encode(lines, out_type=str)]
        found = translator.translate_batch(
            src, max_batch_size=batch_size, beam_size=1, max_decoding_length=100
        )
        return subwords.decode([each.hypotheses[0] for each in found])

    translate(sentences[:batch_size])
    began = time.perf_counter()
    found = translate(sentences)
    return time.perf_counter() - began, found


def test_set(run: Path) -> Path:
    """The source side of the first test set in a run folder."""
    report = json.loads((run / "corpus" / "report.json").read_text(encoding="utf-8"))
    language = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))["data"]["src"]
    return run / "corpus" / f"{next(iter(report['test_pairs']))}.{language}"


if __name__ == "__main__":
    run, folder, kind, *sizes, hypotheses = sys.argv[1:]
    if not (Path(folder) / "model.bin").exists():
        convert(Path(run), Path(folder))
    seconds, found = decode(Path(run), Path(folder), kind, [int(x) for x in sizes])
    Path(hypotheses).write_text("\n".join(found) + "\n", encoding="utf-8")
    print(json.dumps({"seconds": seconds}))
