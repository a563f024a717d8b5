"""Times JoeyNMT by its own commands, at our shape, with our subwords, data and weights.

Runs in the peers' environment, not in ours. Prints one line of JSON.

python benchmarks/joeynmt_peer.py train RUN FOLDER STEPS
python benchmarks/joeynmt_peer.py decode RUN FOLDER BATCH HYPOTHESES
"""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import sentencepiece
import torch
from joeynmt.transformer_layers import PositionalEncoding
from safetensors.torch import load_file

PAD, BOS, EOS, UNK = range(4)  # ours
FIRST = [UNK, PAD, BOS, EOS]  # theirs: these rows come first
WARM_UP = 4  # steps that do not count


def their_weights(run: Path, n_layers: dict[str, int]) -> dict[str, torch.Tensor]:
    """Our weights by JoeyNMT's names; both are pre-norm Transformers of the same equations."""
    ours = load_file(run / "model.safetensors")
    theirs: dict[str, torch.Tensor] = {}

    def take(new: str, old: str) -> None:
        for kind in ("weight", "bias"):
            theirs[f"{new}.{kind}"] = ours[f"{old}.{kind}"]

    def attention(new: str, norm: str, old: str) -> None:
        for role in ("query", "key", "value", "output"):
            name = f"{role[0]}_layer" if role != "output" else "output_layer"
            take(f"{new}.{name}", f"{old}.attention.{role}_proj")
        take(norm, f"{old}.connection.norm")

    for side, count in n_layers.items():
        for i in range(count):
            new, old = f"{side}.layers.{i}", f"{side}.{i}"
            if side == "encoder":
                attention(f"{new}.src_src_att", f"{new}.layer_norm", f"{old}.self_attention")
            else:
                attention(f"{new}.trg_trg_att", f"{new}.x_layer_norm", f"{old}.self_attention")
                attention(f"{new}.src_trg_att", f"{new}.dec_layer_norm", f"{old}.cross_attention")
            take(f"{new}.feed_forward.layer_norm", f"{old}.feed_forward.connection.norm")
            take(f"{new}.feed_forward.pwff_layer.0", f"{old}.feed_forward.up_proj")
            take(f"{new}.feed_forward.pwff_layer.3", f"{old}.feed_forward.down_proj")
        take(f"{side}.layer_norm", f"{side}_norm")
    table = ours["tgt_embedding.weight"]
    rows = torch.tensor(FIRST + list(range(len(FIRST), len(table))))
    for name in ("src_embed.lut", "trg_embed.lut", "decoder.output_layer"):
        theirs[f"{name}.weight"] = table[rows]
    positions = PositionalEncoding(table.shape[1]).pe  # the same as ours
    return theirs | {"encoder.pe.pe": positions, "decoder.pe.pe": positions}


def their_config(run: Path, folder: Path, testing: dict[str, object]) -> dict[str, dict]:
    """JoeyNMT's configuration of the same experiment, to train or (``testing``) to translate."""
    config = tomllib.loads((run / "config.toml").read_text(encoding="utf-8"))
    model, train, data = config["model"], config["train"], config["data"]
    report = json.loads((run / "corpus" / "report.json").read_text(encoding="utf-8"))
    test = next(iter(report["test_pairs"]))
    vocabulary = folder / "vocabulary.txt"
    subwords = sentencepiece.SentencePieceProcessor(model_file=str(run / "tokenizer.model"))
    pieces = [subwords.id_to_piece(i) for i in range(len(FIRST), len(subwords))]
    vocabulary.write_text("\n".join(["<unk>", "<pad>", "<s>", "</s>", *pieces]) + "\n")
    side = {
        "tokenizer_type": "sentencepiece",
        "tokenizer_cfg": {"model_file": str(run / "tokenizer.model")},
        "level": "bpe",
        "voc_file": str(vocabulary),
    }
    layer = {
        "type": "transformer",
        "num_heads": model["n_heads"],
        "embeddings": {"embedding_dim": model["d_model"], "scale": True},
        "hidden_size": model["d_model"],
        "ff_size": model["d_ff"],
        "dropout": model["dropout"],
        "layer_norm": "pre",
    }
    return {
        "name": "peer",
        "model_dir": str(folder / "model"),
        "use_cuda": False,
        "data": {
            "train": str(run / "corpus" / "train"),
            "dev": str(run / "corpus" / "valid") if not testing else None,
            "test": str(run / "corpus" / test) if testing else None,
            "dataset_type": "plain",
            "src": {"lang": data["src"], **side},
            "trg": {"lang": data["tgt"], **side},
        },
        "testing": {"beam_size": 1, **testing},
        "training": {
            "batch_size": train["max_tokens_per_batch"],
            "batch_type": "token",
            "normalization": "tokens",
            "label_smoothing": train["label_smoothing"],
            "optimizer": "adamw",
            "learning_rate": 1e-4,
            "scheduling": "warmupinversesquareroot",
            "learning_rate_warmup": 100,
            "clip_grad_norm": 1.0,
            "epochs": 1,
            "logging_freq": WARM_UP,
            "validation_freq": WARM_UP * 1000,
            "overwrite": True,
        },
        "model": {
            "initializer": "xavier_uniform",
            "embed_initializer": "xavier_uniform",
            "tied_embeddings": True,
            "tied_softmax": True,
            "encoder": {**layer, "num_layers": model["encoder_layers"]},
            "decoder": {**layer, "num_layers": model["decoder_layers"]},
        },
    }


def joeynmt(command: str, config: dict[str, dict], folder: Path, *more: str) -> str:
    """What JoeyNMT prints; its configuration is YAML, of which JSON is a subset."""
    path = folder / f"{command}.yaml"
    path.write_text(json.dumps(config, indent=1))
    words = [sys.executable, "-m", "joeynmt", command, str(path), *more]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout[-2000:] + done.stderr[-2000:])
    return done.stdout + done.stderr


def train(run: Path, folder: Path, n_steps: int) -> dict[str, float]:
    """Tokens per second as JoeyNMT logs them: target tokens without padding."""
    config = their_config(run, folder, {})
    config["training"]["updates"] = WARM_UP + n_steps
    shown = joeynmt("train", config, folder, "--skip-test")
    rates = [float(rate) for rate in re.findall(r"Tokens per Sec: +(\d+)", shown)][1:]
    return {"tokens_per_second": len(rates) / sum(1 / rate for rate in rates)}


def decode(run: Path, folder: Path, batch_size: int, hypotheses: Path) -> dict[str, float]:
    """Seconds that JoeyNMT says its generation took, with our weights."""
    checkpoint = folder / "ours.ckpt"
    testing = {"load_model": str(checkpoint), "batch_size": batch_size, "batch_type": "sentence"}
    config = their_config(run, folder, testing)
    n_layers = {side: config["model"][side]["num_layers"] for side in ("encoder", "decoder")}
    (folder / "model").mkdir(parents=True, exist_ok=True)
    torch.save({"model_state": their_weights(run, n_layers)}, checkpoint)
    shown = joeynmt("test", config, folder, "-o", str(hypotheses))
    return {"seconds": float(re.findall(r"Generation took ([\d.]+)", shown)[-1])}


if __name__ == "__main__":
    what, *words = sys.argv[1:]
    run, folder = (Path(word).resolve() for word in words[:2])
    folder.mkdir(parents=True, exist_ok=True)
    if what == "train":
        print(json.dumps(train(run, folder, int(words[2]))))
    else:
        print(json.dumps(decode(run, folder, int(words[2]), Path(words[3]).resolve())))
