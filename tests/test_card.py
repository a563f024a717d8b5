"""Model cards, read back by the hub's own library, and uploads to a server that stands in for it."""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from conftest import Capture, Patch
from huggingface_hub import ModelCard, constants

import seq2seq
from seq2seq.cli import main
from seq2seq.config import load_config
from seq2seq.run_folder import RunFolder
from seq2seq.utils import read_json, write_json

SECRET = "/home/somebody/secret"


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = shutil.copytree(trained_run, tmp_path_factory.mktemp("card") / "run")
    assert main(["evaluate", "--run", str(run)]) == 0
    return run


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> RunFolder:
    """An evaluated run that was trained on files in a folder that is nobody's business."""
    run = RunFolder(shutil.copytree(evaluated, tmp_path / "run"))
    overrides = {"data.path": f"{SECRET}/text", "train.init_from": f"{SECRET}/runs/old"}
    overrides |= {"teachers.folder": f"{SECRET}/teachers"}
    run.save_config(load_config(run.config_file, overrides))
    write_json(run.report_file, read_json(run.report_file) | {"source": f"{SECRET}/text"})
    return run


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hugging Face hub does to those who create a model and commit to it."""

    status = 200
    files: dict[str, bytes]
    asked: list[Any]

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.endswith("/create"):
            self.asked.append(json.loads(content))
            self.answer({"url": f"{constants.ENDPOINT}/me/model"})
        elif self.path.endswith("/validate-yaml"):
            self.answer({"errors": [], "warnings": []})
        elif self.path.endswith("/preupload/main"):
            how = {"uploadMode": "regular", "shouldIgnore": False}
            self.answer({"files": [{**file, **how} for file in json.loads(content)["files"]]})
        elif self.path.endswith("/me/model/commit/main"):
            for line in map(json.loads, content.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self.answer({"commitUrl": f"{constants.ENDPOINT}/me/model/commit/1", "commitOid": "1"})

    def answer(self, value: dict[str, Any]) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Message", "so says the hub")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def hub(monkeypatch: Patch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"files": {}, "asked": []})
    server = HTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield handler
    server.shutdown()
    thread.join()
    server.server_close()


def test_card_is_read_by_the_hub(run: RunFolder, capsys: Capture) -> None:
    write_json(run.report_file, read_json(run.report_file) | {"synthetic_pairs": 1234})
    assert main(["card", str(run), "--license", "cc0-1.0", "--example", "ba du ke"]) == 0
    assert capsys.readouterr().err == ""
    card, test = ModelCard.load(run.path / "README.md"), read_json(run.eval_file)["tests"]["test"]
    assert (card.data.license, card.data.pipeline_tag) == ("cc0-1.0", "translation")
    assert card.data.metrics == ["bleu", "chrf"]
    for name in card.data.metrics:
        assert test[f"{name}_signature"] in card.text.replace("\\", "")
        assert f"{test[name]:.2f}" in card.text
    assert "3,000 sentence pairs" in card.text
    assert "1,234 synthetic" in card.text
    assert "'ba du ke'" in card.text
    assert "ke du ba" in card.text
    assert SECRET not in str(card)
    assert not any(x["src"] in str(card) for x in test["examples"] if x["src"] != "ba du ke")


def test_card_of_a_stranger(run: RunFolder) -> None:
    """What is written in its files stays text: in YAML, in the table and in Markdown."""
    name = '---: "x" | <script> `a`'
    evaluation = read_json(run.eval_file)
    evaluation["tests"] = {name: evaluation["tests"]["test"]}
    write_json(run.eval_file, evaluation)
    write_json(run.report_file, read_json(run.report_file) | {"source": "a\n---\n# <b>*x*"})
    assert main(["card", str(run)]) == 0
    card = ModelCard.load(run.path / "README.md")
    (row,) = [line for line in card.text.splitlines() if "script" in line]
    assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert not re.search(
        r"(?<!\\)[<`*]", re.sub("```.*?```", "", card.text, flags=re.S).replace("**", "")
    )
    assert "\n---" not in card.text.replace("\n| ---", "")


def test_upload(run: RunFolder, hub: type[Hub], tmp_path: Path, capsys: Capture) -> None:
    """All that ``load`` needs; no text of the corpus, and not where it was."""
    examples = read_json(run.eval_file)["tests"]["test"]["examples"]
    assert main(["card", str(run), "--push", "me/model"]) == 0
    assert f"{constants.ENDPOINT}/me/model" in capsys.readouterr().out
    assert hub.asked[0]["name"] == "model"
    copy = tmp_path / "copy"
    copy.mkdir()
    for name, content in hub.files.items():
        assert Path(name).name == name
        assert SECRET.encode() not in content
        (copy / name).write_bytes(content)
    needed = {"config.toml", "tokenizer.model", "model.safetensors", "training.json"}
    assert hub.files.keys() == {"README.md"} | needed
    assert hub.files["README.md"] == run.card_file.read_bytes()
    sentences = [example["src"] for example in examples]
    uploaded, original = (seq2seq.load(x).translate(sentences) for x in (copy, run.path))
    assert uploaded == original
    assert main(["evaluate", "--run", str(copy)]) == 1  # it says that there is no corpus


def test_own_card_is_uploaded(run: RunFolder, hub: type[Hub], capsys: Capture) -> None:
    """One that is there, perhaps changed by hand, is not replaced."""
    path = run.path / "README.md"
    path.write_text("---\nlicense: mit\n---\nmine\n", encoding="utf-8")
    for more in ([], ["--license", "mit", "--push", "me/model"]):
        assert main(["card", str(run), *more]) == 1
        assert re.fullmatch(rf"seq2seq: {path}: .*\n", capsys.readouterr().err)
    assert main(["card", str(run), "--push", "me/model"]) == 0
    assert hub.files["README.md"] == path.read_bytes()


def test_uploads_that_fail(
    run: RunFolder, hub: type[Hub], monkeypatch: Patch, capsys: Capture
) -> None:
    def failure(name: str) -> str:
        assert main(["card", str(run), "--push", name]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        return str(line)

    for status in (400, 401, 403, 404):
        hub.status = status
        said = "hf auth login" if status == 401 else "so says the hub"
        assert said in failure("me/model")
    hub.asked.clear()
    for name in ("me/my/model", "model", "me/"):
        assert name in failure(name)
    assert not hub.asked
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert re.search("refused.*repeat the command", failure("me/model"))
    assert not hub.files
    assert not run.card_file.exists()


def test_card_needs_scores(run: RunFolder, capsys: Capture) -> None:
    for content in ("{", "{}", '{"decoding": {}, "tests": {"test": {"bleu": "high"}}}', None):
        run.eval_file.write_text(content or "", encoding="utf-8")
        if content is None:
            run.eval_file.unlink()
        assert main(["card", str(run)]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert str(run.eval_file) in line
    assert f"seq2seq evaluate --run {run}" in line
    assert not (run.path / "README.md").exists()
