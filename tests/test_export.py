"""Exports translate and score like the run they were made from."""

import contextlib
import json
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from conftest import SMALL, Capture, attention_variants, fitting, small_model, with_attention
from test_docs import TEXTS, blocks

from seq2seq.attention.registry import MODIFIERS, NORMALIZERS, POSITIONS, SCORES
from seq2seq.cli import main
from seq2seq.config import AttentionConfig, Config, DataConfig, ModelConfig, TokenizerConfig
from seq2seq.data.batches import pad
from seq2seq.data.tokenizer import BOS, EOS, PAD, UNK, Tokenizer
from seq2seq.export.ctranslate2 import export_ctranslate2
from seq2seq.export.onnx import write_onnx
from seq2seq.model.transformer import Seq2Seq
from seq2seq.model.weights import named_tensors
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError, read_lines

pytestmark = pytest.mark.usefixtures("one_thread")
VARIANTS = attention_variants()


def snippet(word: str, **replaced: object) -> str:
    """The Python in docs/deployment.md that holds ``word``, with other values in it."""
    (code,) = [x for x in blocks(TEXTS["docs/deployment.md"], "python") if word in x]
    for old, new in replaced.items():
        code = code.replace(old, str(new))
    return code


@pytest.mark.slow
@pytest.mark.parametrize("program", ["ctranslate2", "onnx"])
def test_translations(trained_run: Path, tmp_path: Path, program: str) -> None:
    """Those of the program in the documentation are ours."""
    pytest.importorskip("ctranslate2" if program == "ctranslate2" else "onnxruntime")
    pytest.importorskip("onnxscript")
    folder = tmp_path / "exported" / program
    assert main(["export", "--run", str(trained_run), "--to", program, str(folder)]) == 0
    assert {path.name for path in folder.parent.iterdir()} == {program}
    documented: dict[str, Callable[[str], str]] = {}
    exec(snippet(f"import {program}", exported=tmp_path / "exported"), documented)
    sentences = read_lines(trained_run / "corpus" / "test.src")[:50]
    model = Translator.load(trained_run, {"decoding.precision": "float32"})
    assert [documented["translate"](x) for x in sentences] == model.translate(sentences)


def untrained_run(path: Path, model: ModelConfig, joint: bool) -> RunFolder:
    """With weights away from those at which a part does nothing."""
    run = RunFolder(path)
    data = DataConfig(path="corpus")
    config = Config(data=data, tokenizer=TokenizerConfig(290, joint), model=model)
    lines = ["ba du ke lo mi na", "zo vu zo ru po"] * 9
    tokenizer = Tokenizer.train(config.tokenizer, lines, ["xa wi ye ju qe", "hu fi ga ca"] * 9)
    built = perturbed(Seq2Seq.build(model, tokenizer))
    run.save_config(config)
    tokenizer.save(run)
    run.save_weights(named_tensors(built), tokenizer.fingerprint)
    return run


def perturbed(model: Seq2Seq) -> Seq2Seq:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def without_cross_position(variant: AttentionConfig) -> ModelConfig:
    cross = fitting(replace(variant, position="none", window=0), "cross_attention")
    return replace(with_attention(variant), cross_attention=cross)


EXPRESSED = {"plain", "position=sinusoidal", "position=learned", "position=rotary"}
CASES = {name: without_cross_position(variant) for name, variant in VARIANTS.items()} | {
    "post-norm": replace(SMALL, norm="post"),
    "two vocabularies": SMALL,
    "n_heads=2": replace(SMALL, cross_attention=AttentionConfig(position="none", n_heads=2)),
    "mixed": replace(
        SMALL,
        tie_embeddings=False,
        encoder_attention=AttentionConfig(position="rotary"),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_ctranslate2_scores(tmp_path: Path, name: str) -> None:
    """Log-probabilities of every token are ours, or the run is refused by the setting's name."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    run = untrained_run(tmp_path / "run", CASES[name], joint=name != "two vocabularies")
    if name in VARIANTS.keys() - EXPRESSED | {"n_heads=2"}:
        changed = name.partition("=")[0] if "=" in name else ""
        with pytest.raises(UserError, match=rf"^model\.\w+_attention\.\w*{changed} = .* needs "):
            export_ctranslate2(run, tmp_path / "new")
        assert not (tmp_path / "new").exists()
        return
    export_ctranslate2(run, tmp_path / "new")
    translator = Translator.load(run)
    src, tgt = translator.tokenizer.src, translator.tokenizer.tgt
    lengths = [(5, 30), (40, 7), (1, 1), (20, 20)]
    ids = [[torch.randint(4, 290, (n,)).tolist() for n in pair] for pair in lengths]
    scored = ctranslate2.Translator(str(tmp_path / "new")).score_batch(
        [src.pieces(pair[0]) for pair in ids], [tgt.pieces(pair[1]) for pair in ids]
    )
    src_ids, tgt_ids = pad([[*x, EOS] for x, _ in ids]), pad([[BOS, *y, EOS] for _, y in ids])
    with torch.no_grad():
        logits = translator.model(src_ids, tgt_ids[:, :-1])
    logits[..., [PAD, BOS, UNK]] = -torch.inf
    log_p = logits.log_softmax(-1).gather(2, tgt_ids[:, 1:, None]).squeeze(2)
    for ours, theirs, (_, n) in zip(log_p, scored, lengths, strict=True):
        assert ours[: n + 1].tolist() == pytest.approx(theirs.log_probs, abs=1e-4)


NORMALIZER = cycle(NORMALIZERS)


def mixed(*names: str) -> list[AttentionConfig]:
    """Attentions with these scores, positions and modifiers, and the next normalizers."""
    parts = [[*name.split(), ""][:3] for name in names]
    return [
        AttentionConfig(
            score=score, position=position, normalizer=normalizer, modifiers=modifiers, kv_heads=2
        )
        for (score, position, modifiers), normalizer in zip(parts, NORMALIZER, strict=False)
    ]


ENCODERS = mixed("gaussian none", "scaled_dot learned", "uniform gaussian", "dot kerple")
DECODERS = mixed("scaled_dot cope forgetting", "dot shaw talking_heads")
CROSSES = mixed(
    "one_content_head t5 gated",
    "additive alibi differential",
    "cosine rotary softcap",
)
DECODERS += [AttentionConfig(type=name) for name in ("linear", "hard_coded")]
CROSSES += [AttentionConfig(type="average", position="none")]
MIXED = list(zip(ENCODERS, DECODERS, CROSSES, strict=True))


def test_onnx_is_tested_with_every_part() -> None:
    for registry in (SCORES, NORMALIZERS, POSITIONS, MODIFIERS):
        chosen = {getattr(config, registry.setting) for configs in MIXED for config in configs}
        assert chosen - {""} == set(registry), registry.setting


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "decoder", "cross"), MIXED)
def test_onnx_of_all_parts_and_lengths(
    tmp_path: Path, encoder: AttentionConfig, decoder: AttentionConfig, cross: AttentionConfig
) -> None:
    """Logits are those of the model."""
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    parts: dict[str, Any] = {"decoder_attention": decoder, "cross_attention": cross}
    parts["encoder_attention"] = replace(encoder, window=2)
    shape = replace(SMALL, encoder_layers=1, decoder_layers=1, norm="post", **parts)
    model = perturbed(small_model(shape))
    write_onnx(model, tmp_path)
    read, write = (
        onnxruntime.InferenceSession(tmp_path / f"{side}.onnx") for side in ("encoder", "decoder")
    )
    for n_rows, n_src, n_tgt in ((1, 1, 1), (3, 40, 1), (2, 3, 90), (4, 20, 20)):
        src, tgt = torch.randint(4, 40, (n_rows, n_src)), torch.randint(4, 40, (n_rows, n_tgt))
        src[-1, n_src // 2 + 1 :] = PAD
        memory, src_mask = read.run(None, {"src": src.numpy()})
        inputs = {"tgt": tgt.numpy(), "memory": memory, "src_mask": src_mask}
        (logits,) = write.run(None, inputs)
        with torch.no_grad():
            expected = model(src, tgt)[:, -1].index_fill(
                1, torch.tensor([PAD, BOS, UNK]), -torch.inf
            )
        torch.testing.assert_close(torch.tensor(logits), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_onnx_refuses_a_recurrence(tmp_path: Path) -> None:
    """The number of its steps would be that of the example: wrong for longer sentences."""
    pytest.importorskip("onnxscript")
    model = small_model(replace(SMALL, decoder_attention=AttentionConfig(type="ssru")))
    with pytest.raises(UserError, match="recurrence"):
        write_onnx(model.eval(), tmp_path)


def test_what_is_there_is_kept(trained_run: Path, tmp_path: Path, capsys: Capture) -> None:
    """A folder that holds anything, or a link, is refused; a failed export leaves nothing."""
    pytest.importorskip("ctranslate2")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    command = ["export", "--run", str(trained_run), "--to", "ctranslate2"]
    for name in ("full", "link", "full/mine.txt", "full/mine.txt/x"):
        assert main([*command, str(tmp_path / name)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert [*(tmp_path / "empty").iterdir()] == []
    assert {x.name for x in tmp_path.rglob("*")} == {"empty", "full", "link", "mine.txt"}
    run = RunFolder(shutil.copytree(trained_run, tmp_path / "run"))
    run.save_config(run.load_config({"decoding.no_repeat": 3}))
    for folder, said in ((trained_run, 0), (run, 1)):
        new = tmp_path / f"new{said}"
        assert main(["export", "--run", str(folder), "--to", "ctranslate2", str(new)]) == 0
        assert capsys.readouterr().err.count("no_repeat = 3") == said
    assert main([*command, str(tmp_path / "empty")]) == 0
    assert (tmp_path / "empty" / "model.bin").exists()


WITHOUT = """import sys
sys.modules |= {"ctranslate2": None, "onnxscript": None}
from seq2seq.cli import main
sys.exit(main(sys.argv[1:]))"""


@pytest.mark.slow
@pytest.mark.parametrize("program", ["ctranslate2", "onnx"])
def test_missing_package(trained_run: Path, tmp_path: Path, program: str) -> None:
    command = ["export", "--run", str(trained_run), "--to", program, str(tmp_path / "new")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)
    assert b"pip install 'seq2seq[export]'" in done.stderr
    assert not [*tmp_path.iterdir()]


def test_service(trained_run: Path) -> None:
    """The server in the documentation answers JSON with the model's translations."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    code = snippet("HTTPServer", **{"runs/default": trained_run, "8000": port})
    threading.Thread(target=exec, args=(code, {}), daemon=True).start()
    sentences = ["ba du ke", "", "lo mi"]
    request = Request(f"http://localhost:{port}", json.dumps(sentences).encode())
    for _ in range(100):
        with contextlib.suppress(URLError), urlopen(request) as answer:
            assert json.load(answer) == Translator.load(trained_run).translate(sentences)
            return
        time.sleep(0.1)
    pytest.fail("no answer")
