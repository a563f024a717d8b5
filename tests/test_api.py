"""What ``import seq2seq`` offers, in the surroundings that notebooks and wheels have."""

import base64
import json
import re
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_CONFIG, Capture, Patch, write_corpus

import seq2seq
from seq2seq import shipped
from seq2seq.api import config_and_run
from seq2seq.cli import main
from seq2seq.config import load_config
from seq2seq.experiments.runs import load_experiment, plan_runs
from seq2seq.shipped import TANDEM, find_config, make_tandem
from seq2seq.utils import UserError
from seq2seq.viewer.page import page, select_views

ROOT = Path(__file__).parent.parent
SENTENCE = "ba du </iframe><script>\"&quot;'ke"


class Stream:
    """What some programs put in place of a standard stream."""

    text = ""

    def write(self, text: str) -> None:
        self.text += text


def test_what_is_offered() -> None:
    assert all(getattr(seq2seq, name).__name__ == name for name in seq2seq.__all__)
    with pytest.raises(AttributeError, match="lode"):
        _ = seq2seq.lode  # type: ignore[attr-defined]


@pytest.mark.parametrize("stream", [Stream(), None])
def test_train_in_a_thread_without_streams(
    tmp_path: Path, monkeypatch: Patch, stream: Stream | None
) -> None:
    summaries: list[dict[str, Any]] = []
    write_corpus(tmp_path / "corpus", {"train": 100, "valid": 4, "test": 4})
    (tmp_path / "tiny.toml").write_text(TINY_CONFIG.format(path="corpus"), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    settings = {"train.epochs": 1, "model.dropout": 0.5}
    for _ in range(2):  # the second finds it done

        def work() -> None:
            summaries.append(seq2seq.train("tiny.toml", overrides=settings))
            seq2seq.load("runs/tiny").translate(["ba du"])

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert summaries[0] == summaries[1] == json.loads(Path("runs/tiny/training.json").read_bytes())
    assert stream is None or ("100 training" in stream.text and "valid loss" in stream.text)
    assert seq2seq.load("runs/tiny").config.model.dropout == 0.5


def test_attention_in_a_notebook(trained_run: Path, tmp_path: Path, capsys: Capture) -> None:
    model = seq2seq.load(trained_run, {"decoding.beam": 2})
    size = sum(p.numel() for p in model.model.parameters())
    assert all(text in repr(model) for text in (str(trained_run), "src to tgt", f"{size:,}", "2>"))
    seen = model.attend(SENTENCE)
    assert "replaced" not in capsys.readouterr().out
    frames: list[dict[str, str | None]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: frames.append(dict(attrs))  # type: ignore[method-assign]
    parser.feed(seen._repr_html_())
    (frame,) = frames
    assert frame["srcdoc"] == page(select_views([seen]))
    assert frame["sandbox"] == "allow-scripts"  # which is not "allow-same-origin"
    n_queries, n_keys = len(seen.trace.tgt.tokens) - 1, len(seen.trace.src.tokens)
    assert f"cross (1, 4, {n_queries}, {n_keys})" in repr(seen)
    assert len(repr(seen)) < 400
    for kind in ("html", "png", "json"):
        seen.write(tmp_path / f"seen.{kind}")
    assert json.loads((tmp_path / "seen.json").read_bytes())["src"]["text"] == SENTENCE
    with pytest.raises(TypeError, match="not a list"):
        model.attend([SENTENCE])  # type: ignore[arg-type]
    assert model.translate("ба") is not None
    assert "U+0431" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"seen\.gif"):
        seen.write(tmp_path / "seen.gif")


def test_weights_seen_are_those_that_decode(trained_run: Path) -> None:
    model, sentences = seq2seq.load(trained_run), ["ba du ke lo", "si to"]
    before = model.translate(sentences)
    output = model.model.get_parameter("decoder.0.cross_attention.attention.output_proj.weight")
    kept = output.detach().clone()
    for change in (output.zero_, lambda: output.copy_(kept)):  # all heads away, and back
        with torch.no_grad():
            change()
        translations = model.translate(sentences)
        assert (translations == before) == output.equal(kept)
        assert [model.attend(x).trace.tgt.text for x in sentences] == translations
    optimizer = torch.optim.SGD(model.model.parameters(), lr=100.0)
    model.model.train()
    model.model(*(torch.tensor([[1, 5, 2]]),) * 2).square().mean().backward()
    optimizer.step()
    assert model.translate(sentences) != before
    assert model.model.training


def test_configurations_by_name(tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    of_repository = ROOT / "configs" / "default.toml"
    for name in ("default", "default.toml", "configs/default.toml"):
        assert find_config(name) == of_repository
    Path("default").mkdir()  # as a run may be called
    assert find_config("default") == of_repository
    for path, epochs in (("deep.toml", 3), ("default.toml", 4)):
        Path(path).write_text(f'base = "default"\n[train]\nepochs = {epochs}\n')
        shape = load_config(of_repository)
        expected = replace(shape, train=replace(shape.train, epochs=epochs))
        assert load_config(find_config(path)) == expected
    Path("mine.toml").write_text('base = "default.toml"\n')  # the one beside it
    assert load_config(Path("mine.toml")).train.epochs == 4
    experiment = load_experiment(find_config("quick", kind="configs/experiments"))
    assert len(plan_runs(experiment, tmp_path, {})) == 9
    for name, is_said in (("default", True), ("default.toml", False)):
        config_and_run(name, None, {})
        assert ("comes with" in capsys.readouterr().err) == is_said
    for arguments, names in (
        (["prepare", "--config", "defualt"], ["defualt", "'default'", "speedrun"]),
        (["prepare", "--config", "elsewhere/default"], ["elsewhere/default", "No such file"]),
        (["compare", "quik"], ["quik", "'quick'", "where"]),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert all(name in error for name in names), error


GENERATOR = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
(folder / "train.de").write_text("fertig")
{ending}
"""


@pytest.mark.parametrize("ending", ["", "raise SystemError('no lexicon')"])
def test_corpus_on_demand(tmp_path: Path, monkeypatch: Patch, capsys: Capture, ending: str) -> None:
    assert (shipped.SHIPPED / "data" / "tandem" / "generate.py").exists()
    program = tmp_path / "package" / "data" / "tandem" / "generate.py"
    program.parent.mkdir(parents=True)
    program.write_text(GENERATOR.format(ending=ending))
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path / "package")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    make_tandem("data/other")
    assert not Path("data").exists()
    if ending:
        with pytest.raises(UserError, match="no lexicon"):
            make_tandem(str(TANDEM))
        assert not list(TANDEM.parent.iterdir())
        return
    make_tandem(str(TANDEM))
    assert str(TANDEM) in capsys.readouterr().err
    assert [path.name for path in TANDEM.parent.iterdir()] == ["corpus"]
    assert [path.read_text() for path in TANDEM.iterdir()] == ["fertig"]
    program.unlink()
    make_tandem(str(TANDEM))  # is there


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    """From an empty folder, it finds its configurations, its corpus and its page."""
    pytest.importorskip("hatchling")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        assert not [name for name in archive.namelist() if "corpus/" in name]
    code = """
import seq2seq.shipped, seq2seq.viewer.page
from seq2seq.config import load_config
print(seq2seq.shipped.find_config("speedrun"))
load_config(seq2seq.shipped.find_config("speedrun"))
assert seq2seq.viewer.page.TEMPLATE.exists()
assert (seq2seq.shipped.SHIPPED / "data/tandem/lexicon.toml").exists()
"""
    site = {"PYTHONPATH": str(tmp_path / "site")}
    for command, expected in (
        (["-c", code], str(tmp_path / "site")),
        (["-m", "seq2seq", "--version"], f"seq2seq {seq2seq.__version__}"),
    ):
        words = [sys.executable, "-P", *command]
        output = subprocess.check_output(words, cwd=tmp_path, env=site, text=True)
        assert output.startswith(expected)
    assert (tmp_path / "site" / "seq2seq" / "py.typed").exists()


@pytest.mark.slow
def test_notebooks(tiny_config: Path, trained_run: Path, tmp_path: Path) -> None:
    """Both run, one after the other in one process, with a run and a corpus of ours."""
    nbformat, nbclient = (pytest.importorskip(name) for name in ("nbformat", "nbclient"))
    pytest.importorskip("ipykernel")
    write_corpus(tmp_path / "corpus", {"train": 100, "valid": 4, "test": 10})
    tiny = tmp_path / "tiny.toml"
    tiny.write_text(TINY_CONFIG.format(path=str(tmp_path / "corpus")), encoding="utf-8")
    ours = {
        '"default", "runs/default"': f"{str(tiny_config)!r}, {str(trained_run)!r}",
        'base = "default"': f"base = {str(tiny)!r}",
        "seeds = 3": "seeds = 2",
    }
    notebook, experiment = (
        nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    )
    notebook.cells += experiment.cells
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells)
    first_of_experiment = next(x for x in experiment.cells if x.cell_type == "code")
    first_of_experiment.source = f"%reset -f\n{first_of_experiment.source}"  # no name is left
    for name, replacement in ours.items():
        assert any(name in cell.source for cell in cells)
        for cell in cells:
            cell.source = cell.source.replace(name, replacement)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()

    def result(containing: str, kind: str = "text/plain") -> str:
        (cell,) = (x for x in cells if containing in x.source)
        return cell.outputs[-1].data[kind]

    output = [float(x) for x in re.findall(r"\d\.\d+", result("weights @ value"))]
    assert output == pytest.approx([0.708, 2.012], abs=1e-3)  # as in docs/class.md
    assert float(re.findall(r"\((.*)\)", result("abs().max()"))[0]) < 1e-5
    assert "<table" in result("model.best", "text/html")
    assert "<svg" in result("SVG(", "image/svg+xml")
    one_head_off, all_off = result("[:, :width] = 0"), result("zero_()")
    sentences = re.findall(r"'(.*?)'", all_off)
    assert sentences[0] == sentences[1] != one_head_off.strip("'")
    assert (tmp_path / "attention.pdf").exists()
    assert "True" in result("cdist")
    (report,) = re.findall(r"base64,([\w+/=]+)", result("report.html", "text/html"))
    assert all(name in base64.b64decode(report) for name in (b"scaled_dot", b"distance"))
    assert "iframe" in result("seed-1", "text/html")
