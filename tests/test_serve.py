"""The live page's server: what it computes, against the model; whom it answers; what breaks it."""

import json
import math
import os
import queue
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import webbrowser
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import SEQ2SEQ, SMALL, Capture, Patch, write_lines
from serving import Answer, ask, serving
from test_attend import data_of
from untrained import small_tokenizer, untrained_translator

from seq2seq.cli import main
from seq2seq.config import AttentionConfig, DecodingConfig
from seq2seq.evaluation.alignment import Head
from seq2seq.run_folder import RunFolder
from seq2seq.utils import write_json
from seq2seq.viewer import live, server
from seq2seq.viewer.diagram import draw_model
from seq2seq.viewer.live import LiveRun
from seq2seq.viewer.page import RunView, pane_data, select_views
from seq2seq.viewer.trace import trace, trace_pair

REPORT = {
    "source": "",
    "train_pairs": 1,
    "valid_pairs": 1,
    "test_pairs": {"test": 7},
    "empty_pairs_left_out": 0,
}
SENTENCE = "ba du ke lo, zo!"
FUZZED = int(os.environ.get("FUZZED", "100"))  # `make soak` sends 10,000
MIXED = replace(
    SMALL,
    decoder_attention=AttentionConfig(type="average", position="none"),
    cross_attention=AttentionConfig(normalizer="entmax15", position="none", n_heads=2),
)


@pytest.fixture(scope="module")
def runs() -> list[LiveRun]:
    words = frozenset(["ba", "du", "ke", "lo"])
    plain, mixed = untrained_translator(SMALL), untrained_translator(MIXED)
    return [LiveRun("plain", plain, Head(2, 3), words), LiveRun("mixed", mixed)]


@pytest.fixture(scope="module")
def address(runs: list[LiveRun]) -> Iterator[str]:
    with serving(runs) as address:
        yield address


def attend(address: str, **body: Any) -> Any:
    answer = ask(address, "/api/attend", {"text": SENTENCE} | body)
    assert answer.status == 200, answer.body[:500]
    return answer.json()


def as_json(content: Any) -> Any:
    return json.loads(json.dumps(content))


def pieces_of(found: Any) -> list[str]:
    """The subwords of the translation."""
    return [token for token, _ in found["pane"]["chosen"][:-1]]


def test_attend(address: str, runs: list[LiveRun]) -> None:
    found = attend(address)
    translator = runs[0].translator
    smoothing = translator.config.train.label_smoothing
    seen = RunView("plain", trace(translator, SENTENCE), Head(2, 3), smoothing)
    ((view, state),) = select_views([seen])
    assert found["pane"] == as_json(pane_data(view, state))
    assert (found["changed"], found["beam"]) == (None, None)
    words = {"ba": True, "du": True, "ke": True, "lo,": True, "zo!": False}
    assert found["words"] == [{"text": word, "seen": is_seen} for word, is_seen in words.items()]
    assert "exclamation mark" in " ".join(found["notes"])
    lengths = {"S": len(view.trace.src.tokens), "T": len(view.trace.tgt.tokens) - 1}
    sizes = {"D": 32, "H": 4, "K": 8, "V_src": 280, "V_tgt": 280, "d_ff": 64}
    layers = {"encoder_layers": 2, "decoder_layers": 2}
    assert found["shapes"] == lengths | sizes | layers
    assert attend(address, run=1)["pane"]["name"] == "mixed"
    assert {word["seen"] for word in attend(address, run=1)["words"]} == {True}


def test_decoding(address: str, runs: list[LiveRun]) -> None:
    plain = attend(address)
    tokens = [*pieces_of(plain)[:2], "▁zo"]
    assert pieces_of(attend(address, prefix=tokens))[:3] == tokens
    translator = copy(runs[0].translator)
    translator.config = replace(translator.config, decoding=DecodingConfig(beam=3))
    found = attend(address, beam=3)
    assert found["pane"]["tgt"] == translator.translate(SENTENCE)
    path = [node for step in found["beam"] for node in step if node["best"]]
    chosen = found["pane"]["chosen"][: len(path)]
    assert [node["token"] for node in path] == [token for token, _ in chosen]
    log_p = sum(math.log(p) for _, p in chosen)
    assert path[-1]["log_probability"] == pytest.approx(log_p, abs=1e-3)
    cold, hot, other = (
        attend(address, temperature=t, seed=s) for t, s in ((0.01, 0), (1.5, 1), (1.5, 2))
    )
    assert pieces_of(cold) == pieces_of(plain)
    assert pieces_of(hot) != pieces_of(other)
    assert pieces_of(hot) == pieces_of(attend(address, temperature=1.5, seed=1))
    # The probabilities shown are those that were sampled from.
    greedy, tempered = (
        attend(address, temperature=t, prefix=tokens, seed=3)["pane"] for t in (0, 2)
    )
    ratios = [
        [p / top[0][1] for _, p in top]
        for top in (greedy["top_tokens"][2], tempered["top_tokens"][2])
    ]
    assert ratios[1] == pytest.approx([x**0.5 for x in ratios[0]], abs=1e-4)
    long = attend(address, text="ba " * 300)
    assert long["shapes"]["S"] == live.MAX_TOKENS
    assert "cut to its first 127 subwords" in " ".join(long["notes"])


def test_heads(address: str, runs: list[LiveRun]) -> None:
    plain = attend(address)
    tgt, off = pieces_of(plain)[:5], ["encoder.1.1", "cross.2.4"]
    changed = attend(address, off=off, flat=["decoder.1.2"])
    assert changed["changed"] == {"tgt": plain["pane"]["tgt"]}
    body = {"text": SENTENCE, "tgt": tgt, "positions": [1, 3], "off": off}
    ranked = ask(address, "/api/heads", body).json()
    names, probabilities = zip(*(row.values() for row in ranked["heads"]), strict=True)
    assert len({*names} - {*off}) == 24 - len(off)
    assert list(probabilities) == sorted(probabilities)
    most, least, none = [*off, names[0]], [*off, names[-1]], off
    expected = probabilities[0], probabilities[-1], ranked["probability"]
    for heads, probability in zip((most, least, none), expected, strict=True):
        chosen = attend(address, off=heads, prefix=tgt)["pane"]["chosen"]
        assert probability == pytest.approx(chosen[1][1] * chosen[3][1], rel=1e-4)
    # The token after the last is the end.
    (src,), (ids,) = (small_tokenizer().src.encode(["ba"], bos=bos) for bos in (False, True))
    ended = ask(
        address, "/api/heads", {"text": "ba", "tgt": ["▁ba"], "positions": [0, 1], "run": 1}
    )
    (_, first), (_, end) = trace_pair(runs[1].translator, src, ids).chosen
    assert ended.json()["probability"] == pytest.approx(first * end, rel=1e-4)
    assert len(ended.json()["heads"]) == 8 + 2 + 4


def test_translate_info_and_code(address: str, runs: list[LiveRun]) -> None:
    texts = [SENTENCE, "", "ba"]
    found = ask(address, "/api/translate", {"text": texts}).json()
    assert found["translations"] == runs[0].translator.translate(texts)
    assert (
        len(ask(address, "/api/translate", {"text": "ba", "beam": 4}).json()["translations"]) == 1
    )
    plain, mixed = ask(address, "/api/info").json()["runs"]
    assert plain["attentions"]["cross"] == [[2, 4], True]
    assert mixed["attentions"] == {
        "cross": [[2, 2], True],
        "encoder": [[2, 4], True],
        "decoder": [[2, 1], False],
    }
    code = ask(address, "/api/code?run=1").json()
    root = Path(server.__file__).parents[2]
    for steps in code.values():
        assert [step["step"] for step in steps] == [
            "project",
            "score",
            "mask",
            "normalize",
            "aggregate",
        ]
        for step in steps:
            lines = (
                (root / step["file"]).read_text(encoding="utf-8").split("\n")[step["line"] - 1 :]
            )
            shown = step["code"].split("\n")
            assert [line.strip() for line in lines[: len(shown)]] == [
                line.strip() for line in shown
            ]
    by_step = {step["step"]: step["code"] for step in code["cross"]}
    for step, part in (
        ("project", "self.key_proj(key)"),
        ("score", "@ key.transpose(-2, -1)"),
        ("mask", "masked_fill(~mask"),
        ("normalize", "def entmax15"),
        ("aggregate", "weights @ v"),
    ):
        assert part in by_step[step]


def test_documented_client(address: str, runs: list[LiveRun], capsys: Capture) -> None:
    document = Path(server.__file__).parents[2] / "docs" / "serving.md"
    (snippet,) = re.findall(
        r"^```python\n(.*?)^```$", document.read_text(encoding="utf-8"), re.M | re.S
    )
    exec(snippet.replace("127.0.0.1:8000", address), names := dict[str, Any]())
    assert capsys.readouterr().out.count("'") == 4
    assert names["translate"](["ba du"]) == runs[0].translator.translate(["ba du"])


def test_pages(address: str) -> None:
    answer = ask(address, "/")
    assert data_of(answer.body.decode()) == []
    assert b"connect-src 'self'" in answer.body
    body = {"text": SENTENCE, "off": ["cross.2.1"]}
    saved = ask(address, "/api/page", {"panes": [body, {"text": "ba", "run": 1}]})
    assert saved.headers["content-disposition"] == 'attachment; filename="attention.html"'
    html = saved.body.decode()
    assert data_of(html) == [
        attend(address, **body)["pane"],
        attend(address, text="ba", run=1)["pane"],
    ]
    assert [x["name"] for x in data_of(html)] == ["plain (heads off: 1)", "mixed"]
    assert "connect-src" not in html
    assert data_of(ask(address, "/api/page", body).body.decode()) == data_of(html)[:1]


def test_diagram(address: str, runs: list[LiveRun]) -> None:
    src, tgt, translator = ["▁<b>", "</s>"], ["<s>", "▁ba", "</s>"], runs[1].translator
    answer = ask(address, "/api/diagram", {"run": 1, "src": src, "tgt": tgt})
    assert answer.headers["content-type"] == "image/svg+xml"
    drawn = draw_model(translator.model, translator.config.model, src, tgt)
    assert answer.body.decode() == drawn


BAD: list[tuple[str, Any, int, str]] = [
    ("/api/diagram", {"src": ["</s>"], "tgt": ["<s>"]}, 400, "tgt"),
    ("/api/diagram", {"src": ["x"] * 700, "tgt": ["<s>", "</s>"]}, 400, "src"),
    ("/api/attend", {}, 400, "text"),
    ("/api/attend", {"text": " "}, 400, "blank"),
    ("/api/attend", {"text": "a" * 1001}, 400, "1000"),
    ("/api/attend", {"text": "ba", "run": 2}, 400, "no run 2"),
    ("/api/attend", {"text": "ba", "beam": 2, "temperature": 1}, 400, "temperature"),
    ("/api/attend", {"text": "ba", "temperature": 1e-9}, 400, "temperature"),
    ("/api/attend", {"text": "ba", "prefix": ["</s>"]}, 400, "</s>"),
    ("/api/attend", {"text": "ba", "off": ["cross.9.1"]}, 400, "cross.9.1"),
    ("/api/attend", {"text": "ba", "run": 1, "flat": ["decoder.1.1"]}, 400, "off instead"),
    ("/api/attend", {"text": "ba", "temprature": 1}, 400, "temprature"),
    ("/api/attend", {"text": "ba", "a\n\u202eb": 1}, 400, r"a\n\u202eb"),
    ("/api/attend", b"{", 400, "truncated"),
    ("/api/attend", b"\xff", 400, "malformed"),
    ("/api/attend", b'{"text": "\\ud800"}', 400, "not a request"),
    ("/api/attend", b'{"text": "ba", "seed": 1e999}', 400, "seed"),
    ("/api/translate", {"text": ["ba"] * 101}, 400, "100"),
    ("/api/translate", {"text": ["ba" * 400] * 8, "beam": 16}, 400, "102,400"),
    ("/api/heads", {"text": "ba", "tgt": ["▁ba"], "positions": [2]}, 400, "no token 2"),
    ("/api/page", {"panes": []}, 400, "panes"),
    ("/api/page", b"[" * 60_000, 400, "array"),
    ("/api/page", b'{"panes": ' + b"[" * 60_000, 400, "not a request"),
    ("/api/page", {"panes": [{"text": 1}]}, 400, "str"),
    ("/api/attend", b" " * 65_537, 413, "65,536"),
    ("/api/nothing", {}, 404, "Not Found"),
    ("/api/info", {}, 405, "Method"),
    ("/api/code?run=x", None, 400, "run"),
    ("/api/code?run=%C2%B2", None, 400, "run"),
]


@pytest.mark.parametrize(("path", "body", "status", "named"), BAD)
def test_errors_are_one_line(address: str, path: str, body: Any, status: int, named: str) -> None:
    answer = ask(address, path, body)
    assert answer.status == status
    (error,) = answer.json().values()
    assert named in error
    assert len(error.splitlines()) == 1


def test_who_is_answered(address: str) -> None:
    port = address.partition(":")[2]
    own, ours, evil = f"http://{address}", f"localhost:{port}", f"evil.example:{port}"
    body = {"text": "ba"}
    for headers, status in (
        ({"Host": ours}, 200),
        ({"Host": ours.upper(), "Origin": f"http://{ours}"}, 200),
        ({"Host": f"[::1]:{port}"}, 200),
        ({"Origin": own}, 200),
        ({"Origin": f"http://{ours}"}, 403),  # not the same: another server of this machine
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://[::1"}, 403),
        ({"Host": evil}, 403),
        ({"Host": evil, "Origin": f"http://{evil}"}, 403),
        ({"Host": ""}, 403),
        ({"Host": "localhost.evil.example"}, 403),
        ({"Host": "[::1"}, 403),
        ({"Content-Type": "text/plain"}, 415),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": ""}, 415),
        ({"Content-Type": "application/json; charset=utf-8"}, 200),
    ):
        assert ask(address, "/api/translate", body, headers=headers).status == status, headers
    for path in ("/", "/api/info"):
        answer = ask(address, path, headers={"Host": evil})
        assert answer.status == 403
        assert "access-control-allow-origin" not in answer.headers
        assert answer.headers["x-frame-options"] == "DENY"
    assert ask(address, "/api/translate", method="OPTIONS").status == 405


def connected(address: str, sent: bytes) -> socket.socket:
    host, port = address.split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(sent)
    return connection


HEAD = b"POST /api/translate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_slow_and_broken_clients(address: str, monkeypatch: Patch, capfd: Capture) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.2)
    slow = connected(address, HEAD + b"Content-Length: 100\r\n\r\n{")
    left = connected(address, HEAD + b"Content-Length: 100\r\n\r\n{")
    left.close()
    chunked = connected(address, HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
    chunked.sendall(b"8000\r\n" + b" " * 0x8000 + b"\r\n" + b"8001\r\n" + b" " * 0x8001 + b"\r\n")
    noise = connected(address, b"\x16\x03\x01\x00 GET / HTTP/9\r\n\r\n")
    half = connected(address, HEAD)
    assert b" 408 " in slow.recv(100)
    assert b" 413 " in chunked.recv(100)
    assert b" 400 " in noise.recv(100)
    assert ask(address, "/api/translate", {"text": "ba"}).status == 200
    for connection in (slow, chunked, noise, half):
        connection.close()
    assert capfd.readouterr() == ("", "")


def _translate(address: str, text: str) -> Answer:
    return ask(address, "/api/translate", {"text": text})


def test_queue(runs: list[LiveRun], monkeypatch: Patch) -> None:
    """All threads at work: some wait, those who leave are not served, the next are refused."""
    monkeypatch.setattr(server, "MAX_WAITING", 2)
    monkeypatch.setattr(server.torch, "get_num_threads", lambda: 1)
    workers = server.Workers()
    monkeypatch.setattr(server, "Workers", lambda: workers)
    started, free, served = threading.Event(), threading.Event(), list[str]()

    def work(runs: Any, request: Any) -> Any:
        started.set()
        assert free.wait(30)
        served.append(request.text)
        return {}

    def until_waiting(n: int) -> None:
        end = time.monotonic() + 30
        while workers.n_waiting != n:
            assert time.monotonic() < end
            time.sleep(0.005)

    monkeypatch.setattr(live, "translate", work)
    with serving(runs) as address, ThreadPoolExecutor(2) as clients:
        post = partial(_translate, address)
        first = clients.submit(post, "first")
        assert started.wait(30)
        body = b'{"text": "gone"}'
        gone = connected(address, HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        until_waiting(1)
        waiting = clients.submit(post, "waiting")
        until_waiting(2)
        refused = post("too many")
        assert (refused.status, refused.headers["retry-after"]) == (503, "2")
        gone.close()
        until_waiting(1)
        monkeypatch.setattr(server, "TURN_SECONDS", 0.05)
        timed_out = post("too long")
        assert timed_out.status == 504
        assert "busy" in timed_out.json()["error"]
        free.set()
        assert (first.result(30).status, waiting.result(30).status) == (200, 200)
    assert served == ["first", "waiting"]


FIELDS = {
    "translate": ["run", "beam"],
    "attend": ["run", "prefix", "beam", "temperature", "off", "flat"],
    "heads": ["tgt", "positions", "run", "off", "flat"],
    "page": ["run", "off", "panes"],
    "diagram": ["src", "tgt", "run"],
}
REQUIRED = ("src", "tgt", "positions")
STRANGE = ["", " ", "ba du", "▁ba", "</s>", "漢\U0001f600", "\0\u202e", "<b>"]
LONG = ["é" * 999, "ba " * 333]
VALUES: list[Any] = [
    *STRANGE,
    "é" * 1001,
    None,
    True,
    -1,
    0,
    16,
    1001,
    2**53,
    10**400,
    0.5,
    [],
    {},
    [[]],
]
HEADS = ["cross.1.1", "decoder.2.4", "encoder.1.2", "encoder.2.1", "decoder.1.1", "x"]


def fuzzed_request(rng: random.Random) -> tuple[str, Any, str, Any]:
    """Path, body, method and headers: most of it right, or nearly."""
    likely: dict[str, Callable[[], Any]] = {
        "text": lambda: rng.choice(STRANGE * 5 + LONG),
        "run": lambda: rng.choice([0, 0, 1]),
        "prefix": lambda: rng.choices(["▁ba", "o", "<0x0A>", "▁", "zo"], k=rng.randint(0, 4)),
        "beam": lambda: rng.choice([1, 2, 3]),
        "temperature": lambda: rng.choice([0, 0.01, 1, 10]),
        "off": lambda: rng.sample(HEADS, rng.randint(0, 3)),
        "flat": lambda: rng.sample(HEADS, rng.randint(0, 2)),
        "tgt": lambda: rng.choices(["▁ba", "o"], k=3),
        "positions": lambda: [rng.randint(0, 4)],
        "src": lambda: rng.choices(STRANGE, k=rng.randint(0, 3)),
        "panes": lambda: [{"text": "ba", "run": rng.choice([0, 1])}] * rng.randint(0, 3),
    }
    path = rng.choice([*FIELDS, *FIELDS, "info", "code?run=1", "x"])
    names = [x for x in FIELDS.get(path, []) if x in REQUIRED or rng.random() < 0.3]
    names += ["text"] * (path != "diagram")
    body = {x: likely[x]() if rng.random() < 0.97 else rng.choice(VALUES) for x in names}
    raw = json.dumps(body).encode()
    cut = rng.randrange(len(raw))
    broken = [raw[:cut], raw[:cut] + rng.randbytes(3) + raw[cut:], rng.randbytes(20), b"", None]
    header = (
        rng.choice(["Host", "Origin", "Content-Type", "X"]),
        rng.choice(["", "a:b:c", "[", "é"]),
    )
    headers = dict([header]) if rng.random() < 0.1 else {}
    method = rng.choice(["PUT", "HEAD", "TRACE", "PRI"]) if rng.random() < 0.05 else ""
    return f"/api/{path}", raw if rng.random() < 0.8 else rng.choice(broken), method, headers


@pytest.mark.slow
def test_fuzzed_requests(address: str, monkeypatch: Patch, capfd: Capture) -> None:
    """Twenty clients at once; every request is answered, and memory settles."""
    for name in ("BODY_SECONDS", "TURN_SECONDS"):  # on a busy machine too
        monkeypatch.setattr(server, name, 600)
    used, rng = [], random.Random(0)
    requests = [fuzzed_request(rng) for _ in range(FUZZED)]
    statuses = Counter[int]()
    with ThreadPoolExecutor(20) as clients:
        for first in range(0, FUZZED, max(1, FUZZED // 10)):
            some = requests[first : first + max(1, FUZZED // 10)]
            statuses.update(clients.map(lambda request: ask(address, *request).status, some))
            used.append(resident_bytes())
    assert set(statuses) <= {200, 400, 403, 404, 405, 413, 415}
    assert statuses[200] > FUZZED / 10
    assert statuses[400] > FUZZED / 10
    assert capfd.readouterr() == ("", "")
    if FUZZED >= 10_000:
        assert used[-1] - used[3] < 50 * 2**20, used


def resident_bytes() -> int:
    """Of this process; 0 where the system does not say."""
    path = Path("/proc/self/status")
    status = path.read_text(encoding="ascii") if path.exists() else "VmRSS: 0"
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


def test_command(trained_run: Path) -> None:
    """From the URL that it prints to Ctrl-C."""
    command = [*SEQ2SEQ, "serve", "--run", str(trained_run), "--port", "0", "--no-browser"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        (address,) = re.findall(r"^http://(127.0.0.1:\d+)/ ", line)
        about = ask(address, "/api/info").json()
        texts = (trained_run / "corpus" / "test.src").read_text(encoding="utf-8").split("\n")
        assert about["examples"] == [{"tag": "", "text": text} for text in texts[:3]]
        words = [{"text": "ba", "seen": True}, {"text": "BA", "seen": False}]
        assert attend(address, text="ba BA")["words"] == words
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=60)
        assert (process.returncode, out, error) == (0, "", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_browser_opens(runs: list[LiveRun], host: str, monkeypatch: Patch, capsys: Capture) -> None:
    opened = queue.Queue[str]()
    monkeypatch.setattr(webbrowser, "open", opened.put)
    monkeypatch.setattr(LiveRun, "load", lambda folder: runs[0])
    monkeypatch.setattr(
        server, "make_server", lambda app: SimpleNamespace(run=lambda sockets: None)
    )
    assert main(["serve", "--run", "x", "--port", "0", "--host", host]) == 0
    url, printed = opened.get(timeout=30), capsys.readouterr().out
    is_open = host == "0.0.0.0"
    assert re.fullmatch(rf"http://{'localhost' if is_open else host}:\d+/", url)
    assert printed.startswith(url)
    assert (f"from elsewhere http://{socket.gethostname()}:" in printed) == is_open
    assert main(["serve", "--run", "x", "--port", "0", "--no-browser"]) == 0
    assert opened.empty()


def test_command_errors(address: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> None:
    run = ["--run", str(tmp_path / "none")]
    taken = ["--port", address.partition(":")[2]]
    for arguments, named in (
        ([*run, "--port", "0"], "no such run folder"),
        ([*run, *taken], "--port 0"),
        ([*run, "--port", "70000"], "70000"),
        ([*run, "--host", "none.invalid"], "another --host"),
        ([*run, "--host", "é" * 70], "another --host"),
        ([*run, "--host", ""], "--host is empty"),  # not the whole network
        ([*run, *run, *run], "two"),
    ):
        assert main(["serve", *arguments]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert named in error
    monkeypatch.delitem(sys.modules, "seq2seq.viewer.server")
    monkeypatch.delattr("seq2seq.viewer.server")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert main(["serve", *run]) == 1
    assert (
        capsys.readouterr().err == "seq2seq: uvicorn: not installed: pip install 'seq2seq[serve]'\n"
    )


def test_examples_and_known_words(tmp_path: Path, capsys: Capture) -> None:
    """Sentences with few tags show what the tag means; the same word in other clothes is known."""
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    write_lines(corpus / "test.de", ["a", "b", "c", "d", "e", "f", "x" * 2000])
    write_lines(corpus / "test.en", ["a"] * 7)
    write_lines(corpus / "test.tags", ["p q_r", "p", "", "p", "p", "q_r", "s"])
    odd = f"a{'-' * 100_000}a"  # which must not take minutes
    write_lines(corpus / "train.de", [f'Die Bank, "alt" -- 3,5 Uhr. {odd}'])
    (tmp_path / "config.toml").write_text('data.path = "x"', encoding="utf-8")
    run = RunFolder(tmp_path)
    assert live.find_examples(run) == []
    write_json(run.report_file, REPORT)
    found = [(x["tag"], x["text"]) for x in live.find_examples(run)]
    assert found == [("p", "b"), ("p", "d"), ("p", "e"), ("q r", "f"), ("q r", "a")]
    assert live.known_words(run) == frozenset(["Die", "Bank", "alt", "--", "3,5", "Uhr", odd])
    (corpus / "test.tags").unlink()
    assert [x["text"] for x in live.find_examples(run)] == ["a", "b", "c"]
    assert capsys.readouterr().err == ""
    (corpus / "train.de").unlink()
    assert live.known_words(run) is None
    assert "train.de" in capsys.readouterr().err  # said, as nothing will be marked
