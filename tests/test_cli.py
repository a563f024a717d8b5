"""The command line, as its users meet it."""

import io
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Timer
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from conftest import SEQ2SEQ, Capture, Patch, write_lines
from safetensors.torch import load_file

import seq2seq.cli.common
from seq2seq import cpu
from seq2seq.attention import REGISTRIES
from seq2seq.cli import main
from seq2seq.cli.common import legal_values
from seq2seq.config import settings
from seq2seq.evaluation import evaluate
from seq2seq.evaluation.metrics import score
from seq2seq.model import decoding
from seq2seq.model.decoding import Hypothesis, greedy
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import read_json, read_json_lines, read_lines, write_json, write_text

Failure = Callable[..., str]
Predict = Callable[..., bytes]
SHORT = ("--decoding.max_length_ratio", "0")  # outputs of at most 10 tokens


@pytest.fixture
def failure(capsys: Capture) -> Failure:
    def failure(*words: str | Path | RunFolder) -> str:
        """The one line that a failing command prints."""
        capsys.readouterr()
        assert main([str(word) for word in words]) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("seq2seq: ")
        return err.removeprefix("seq2seq: ").strip()

    return failure


@pytest.fixture
def predict(trained_run: Path, monkeypatch: Patch) -> Predict:
    def predict(text: bytes, *more: str, status: int = 0) -> bytes:
        """What ``predict`` writes for some standard input."""
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
        assert main(["predict", "--run", str(trained_run), *more]) == status
        return out.getvalue()

    return predict


def test_learns_to_reverse(trained_run: Path, capsys: Capture) -> None:
    rows = read_json_lines(trained_run / "metrics.jsonl")
    assert " ".join(sorted(rows[0])) == (
        "epoch learning_rate loss skipped_steps step tokens_per_second "
        "valid_bleu valid_chrf valid_loss"
    )
    config = RunFolder(trained_run).load_config()
    assert rows[0]["step"] == config.train.validate_every
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    summary = read_json(trained_run / "training.json")
    assert summary["best_valid_bleu"] == max(row["valid_bleu"] for row in rows)
    assert main(["predict", "--run", str(trained_run), "ba du ke lo", "mi na"]) == 0
    assert capsys.readouterr().out == "lo ke du ba\nna mi\n"

    assert main(["evaluate", "--run", str(trained_run), "--beam", "3"]) == 0
    out = capsys.readouterr().out
    result = read_json(trained_run / "eval.json")
    assert result["decoding"]["beam"] == 3
    saved = load_file(trained_run / "model.safetensors").values()
    assert result["parameters"] == sum(tensor.numel() for tensor in saved)
    test = result["tests"]["test"]
    assert test["bleu"] > 95
    assert test["decoding_seconds"] > 0
    assert "alignment" not in test
    for value in (f"{test['bleu']:.2f}", test["bleu_signature"], test["chrf_signature"]):
        assert value in out
    assert (test["sentences"], len(test["examples"])) == (100, 10)
    for example in test["examples"]:
        parts = (re.escape(example[key]) for key in ("src", "reference", "hypothesis"))
        assert re.search(r" {}\n.* {}\n.* {}\n".format(*parts), out)
    hypotheses = trained_run / "hypotheses" / "test.txt"
    texts = read_lines(hypotheses), read_lines(Path(config.data.path) / "test.tgt")
    assert test.items() >= score(*texts, "13a").items()


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_git_commit(tmp_path: Path, monkeypatch: Patch) -> None:
    """Of the code, not of a repository around it."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME"):  # nobody's settings
        monkeypatch.setenv(name, str(tmp_path))

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        return subprocess.check_output(command, cwd=tmp_path, text=True).strip()

    code = tmp_path / "__init__.py"
    code.touch()
    (tmp_path / "evaluation").mkdir()
    monkeypatch.setattr(evaluate, "__file__", str(tmp_path / "evaluation" / "evaluate.py"))
    git("init")
    git("commit", "--allow-empty", "-m", "somebody else's")
    assert evaluate.git_commit() is None
    git("add", "__init__.py")
    git("commit", "-m", "ours")
    assert evaluate.git_commit() == git("rev-parse", "HEAD")
    code.write_text("changed", encoding="utf-8")
    assert evaluate.git_commit() == git("rev-parse", "HEAD") + "+"


def test_moved_run(run: RunFolder, monkeypatch: Patch, capsys: Capture) -> None:
    """It needs no other file; a test set's name is no path; what is cut is counted."""
    config = run.config_file.read_text(encoding="utf-8")
    write_text(run.config_file, config.replace(run.load_config().data.path, "gone"))
    shutil.rmtree(run.hypotheses, ignore_errors=True)
    run.state_file.unlink()
    for extension in ("src", "tgt"):
        run.split_file("test", extension).unlink()
        write_lines(run.corpus / f".._.._x.{extension}", ["ba du", "ba " * 300])
    write_json(run.report_file, read_json(run.report_file) | {"test_pairs": {"../../x": 2}})
    monkeypatch.chdir(run.path.parent)
    assert main(["predict", "--run", "run", "ba du"]) == 0
    assert capsys.readouterr().out == "du ba\n"
    monkeypatch.setattr(decoding, "max_lengths", lambda src, _: torch.tensor([2] * len(src)))
    assert main(["evaluate", "--run", "run"]) == 0
    counts = read_json(run.eval_file)["tests"]["../../x"]
    assert (counts["sentences_cut"], counts["outputs_cut"]) == (1, 2)
    assert re.search(r"sentences cut +1\noutputs cut +2\n", capsys.readouterr().out)
    assert [path.name for path in run.hypotheses.iterdir()] == [".._.._x.txt"]
    assert [path.name for path in run.path.parent.iterdir()] == ["run"]


HARD = [
    "ba du ke", "", " ", "\t", "ba\tdu", "mi \U0001f600 na", "中文 ba", "ba\0du", "\0", "ba\u2028du",
    "\u2029", "\x85", "\x0b\x0c", "ba\rdu", "ba " * 1000, "x" * 5000, "e\u0301", "\u202eba", "\ufeff",
]  # fmt: skip


def test_hard_lines(predict: Predict, monkeypatch: Patch, capsys: Capture) -> None:
    """One line out for each line in, and a warning that names lines that are cut."""
    lines = HARD * 10
    monkeypatch.setattr(seq2seq.cli.common, "BYTES_AT_A_TIME", 5000)
    out = predict("".join(line + "\n" for line in lines).encode(), *SHORT).decode("utf-8")
    translations = out.removesuffix("\n").split("\n")
    assert translations == translations[: len(HARD)] * 10
    assert translations[:3] == ["ke du ba", "", ""]
    for line, translation in zip(HARD, translations, strict=False):
        assert len(translation.splitlines()) <= 1
        assert translation or not line.strip("\0 \t\x0b\x0c\x85\u2028\u2029\ufeff")
    cut = [str(i) for i, line in enumerate(lines, start=1) if len(line) > 1000]
    warned = f"input cut by data.max_tokens: {len(cut)} (line {', '.join(cut[:10])}, ...)"
    assert warned in capsys.readouterr().err


def test_characters_replaced_or_unknown(
    predict: Predict, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    """They change no translation, and each kind is named once."""
    odd = "ba\u00a0du\u202fke\n\ufeff\u200eb\u00ada\u200b\tdu\n\u2581mi\u3000na\u00a0\nΩ ba\nΩ\n"
    assert predict(odd.encode()).decode().splitlines()[:3] == ["ke du ba", "du ba", "na mi"]
    replaced, unknown = capsys.readouterr().err.splitlines()
    assert "U+00A0 no-break space (lines: 2)" in replaced
    assert re.findall(r"U\+\w+|\d+(?=\))", unknown) == ["U+03A9", "2"]
    assert predict("ba du\nba ke".encode("utf-8-sig")) == b"du ba\nke ba\n"
    predict(b"ba du\nba\n", "--prefix", "Ω")
    assert capsys.readouterr().err.count("U+03A9") == 1
    monkeypatch.chdir(tmp_path)
    for name in ("a.de", "b.de"):
        Path(name).touch()
    predict(b"", "a.de", "b.de", "ba")
    (line,) = [x for x in capsys.readouterr().err.splitlines() if "< " in x]
    assert "a.de" in line
    predict(b"", "ba")
    assert capsys.readouterr().err == ""


def test_interrupted_input_is_reported(
    predict: Predict, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(Translator, "search", Mock(side_effect=KeyboardInterrupt))
    assert predict("ba\u00a0du\n".encode(), status=130) == b""
    assert "U+00A0" in capsys.readouterr().err


def test_input_in_another_encoding(predict: Predict, capsys: Capture) -> None:
    text = "ba du\nbä\nkö du\n"
    assert predict(text.encode("latin-1")).startswith(b"du ba\n")
    assert capsys.readouterr().err.count("iconv") == 1
    for encoding in ("utf-16", "utf-16-le", "utf-16-be"):
        assert predict(text.encode(encoding), status=1) == b""
        assert re.fullmatch("seq2seq: .*UTF-16.*\n", capsys.readouterr().err)


FUZZED = int(os.environ.get("FUZZED", "3000"))  # `make soak` takes 10,000


def fuzzed_line(rng: random.Random) -> bytes:
    """A line without its end, of one of the kinds that break programs."""
    word = rng.choice(["ba", "du", "ke"])
    n = rng.randint(1, 40)

    def random_text(first: int, end: int) -> str:
        return "".join(chr(rng.randrange(first, end)) for _ in range(n))

    kinds: list[Callable[[], str | bytes]] = [
        lambda: rng.choice(HARD),
        lambda: random_text(0, 0x110000),  # surrogates among them
        lambda: random_text(0, 0x20),  # control characters, NUL
        lambda: random_text(0x300, 0x370) + word,  # combining
        lambda: random_text(0x590, 0x700),  # right to left
        lambda: word + "\u0301" * n * 10,
        lambda: word.join(rng.choices("\u2028\u2029\x85\r\v\f\x1c\ufeff\u200b\u202e", k=n)),
        lambda: " " * n + "\u3000\xa0" * n,
        lambda: rng.randbytes(n),
        lambda: b"ba \xed\xa0\x80 \xc0\x80 \xff\xfe du",  # a surrogate, overlong, a mark
        lambda: f"{word} " * n * 20,
        lambda: "\u2581" * n + "<s></s><unk><0x0A>",  # what sentencepiece writes itself
    ]
    line = rng.choice(kinds)()
    raw = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
    return raw.replace(b"\n", b"")


@pytest.mark.parametrize("n", [0, 1, 300, pytest.param(FUZZED, marks=pytest.mark.slow)])
def test_fuzzed_lines(predict: Predict, capsys: Capture, n: int) -> None:
    """As many lines out as in, the last one without its end too."""
    rng = random.Random(0)
    lines = [fuzzed_line(rng) for _ in range(n)] + [b"ba du ke"]
    huge = (
        {17: b"x" * 10**6, n // 2: b"ba " * 333_333, n - 2: "é".encode() * 10**6} if n > 300 else {}
    )
    for at, line in huge.items():
        lines[at] = line
    out = predict(b"\n".join(lines), *SHORT).decode("utf-8").split("\n")
    assert len(out) == n + 2
    assert out[-2:] == ["ke du ba", ""]
    assert all(len(line.splitlines()) <= 1 for line in out)
    warned = capsys.readouterr().err
    assert "input cut" in warned or not huge
    kinds = r"seq2seq: (input cut|input split|output cut|characters|lines not in UTF-8)"
    assert all(re.match(kinds, line) for line in warned.splitlines())
    assert predict(b"\n" * n) == b"\n" * n


def test_chunks_and_batches(trained_run: Path, monkeypatch: Patch) -> None:
    """The order is kept, and all lines that are there are answered before more are read."""
    words = ["ba", "du", "ke", "lo", "mi"]
    lines = [" ".join(words[j % 5] for j in range(i, i + 2 + i % 3)) for i in range(63)]
    out, text = io.BytesIO(), io.BytesIO(b"\xef\xbb\xbf" + "\n".join(lines).encode() + b"\n")

    def read1(size: int) -> bytes:
        assert text.getvalue()[: text.tell()].count(b"\n") == out.getvalue().count(b"\n")
        if text.tell() == len(text.getvalue()):
            raise KeyboardInterrupt
        return text.read(50)

    buffer = SimpleNamespace(read1=read1)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=buffer, isatty=lambda: False))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    assert main(["predict", "--run", str(trained_run), "--decoding.batch_size", "4"]) == 130
    assert out.getvalue().decode().splitlines() == [" ".join(x.split()[::-1]) for x in lines]


@pytest.mark.slow
def test_pipe_is_answered_before_it_ends(trained_run: Path) -> None:
    """Without loading libraries that would take as long as the translation of a sentence."""
    heavy = ("torch._dynamo", "datasets", "matplotlib", "sacrebleu", "scipy", "seq2seq.training")
    code = (
        f"import sys; from seq2seq.cli import main; main(['predict', '--run', {str(trained_run)!r}])"
        f"; print([x for x in {heavy} if x in sys.modules])"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe)
    assert process.stdin
    assert process.stdout
    watchdog = Timer(120, process.kill)
    watchdog.start()
    for n in (1, 1000, 1):
        process.stdin.write(b"ba du\n" * n)
        process.stdin.flush()
        for _ in range(n):
            assert process.stdout.readline() == b"du ba\n"
    rest, _ = process.communicate(b"ke lo\n")
    watchdog.cancel()
    assert rest == b"lo ke\n[]\n"


@pytest.mark.slow
def test_prompt(trained_run: Path) -> None:
    """On a terminal, whatever is typed, each line is answered before the next."""
    controller, terminal = pty.openpty()
    command = [*SEQ2SEQ, "predict", "--run", str(trained_run)]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdin=terminal, stdout=pipe, stderr=pipe, env=strict)
    watchdog = Timer(120, process.kill)
    watchdog.start()
    os.close(terminal)
    assert process.stdout
    for typed in ("\udcff ba", "ba du", "", "mi na"):
        os.write(controller, os.fsencode(typed) + b"\n")
        answer = process.stdout.readline().decode()
        assert answer == " ".join(reversed(typed.split())) + "\n" or "\udcff" in typed
    os.write(controller, b"\x04")
    rest, prompts = process.communicate(timeout=60)
    watchdog.cancel()
    os.close(controller)
    assert (process.returncode, rest) == (0, b""), prompts
    assert prompts.count(b"> ") == 5


@pytest.mark.slow
def test_closed_streams(trained_run: Path) -> None:
    """Also a reader that leaves before the end, which is no error."""
    command = " ".join([*SEQ2SEQ, "predict", "--run", str(trained_run)])
    long = "'" + "ba " * 300 + "'"
    lines = {  # how many lines each writes to its output and its errors
        f"{command} <&-": (0, 0),
        f"{command} {long} <&- 2>&-": (1, 0),
        f"{command} {long} >&-": (0, 1),
        f"{command} {long} <&- >&- 2>&-": (0, 0),
        f"yes 'ba du' | head -n 3000 | {command} | head -n 1 | grep -x 'du ba'": (1, 0),
    }
    pipe = subprocess.PIPE
    started = [subprocess.Popen(["bash", "-c", x], stdout=pipe, stderr=pipe) for x in lines]
    for (line, expected), process in zip(lines.items(), started, strict=True):
        out, err = process.communicate(timeout=120)
        assert process.returncode == 0, line
        assert (out.count(b"\n"), err.count(b"\n")) == expected, (line, err)


def test_any_arguments(trained_run: Path, failure: Failure, capsys: Capture) -> None:
    assert main(["predict", "--run", str(trained_run), "--", "--ba", "", "a\nb", "\udcff"]) == 0
    assert capsys.readouterr().out.count("\n") == 4
    assert "no such run" in failure("predict", "--run", os.fsdecode(b"n\xff"), "x")


@pytest.mark.parametrize(
    ("precision", "fast", "n", "used"),
    [
        ("auto", True, 1, "float32"), ("auto", True, cpu.SMALL_BATCH, "bfloat16"),
        ("auto", False, cpu.SMALL_BATCH, "float32"), ("float32", True, cpu.SMALL_BATCH, "float32"),
        ("bfloat16", False, 1, "bfloat16"),
    ],
)  # fmt: skip
def test_precision_of_decoding(
    trained_run: Path, monkeypatch: Patch, precision: str, fast: bool, n: int, used: str
) -> None:
    """The model itself stays as it was."""
    monkeypatch.setattr(cpu, "fast_bfloat16", lambda device: fast)
    if torch.cuda.is_available() and precision == "auto":
        used = "float32"
    dtypes = []

    def note(model: Seq2Seq, src: torch.Tensor, *rest: Any) -> list[Hypothesis]:
        dtypes.append(model.logits(torch.ones(1, 64, device=src.device)).dtype)
        return greedy(model, src, *rest)

    monkeypatch.setattr("seq2seq.model.decoding.greedy", note)
    translator = Translator.load(trained_run, {"decoding.precision": precision})
    # A copy for each sentence would take as long as the sentence.
    assert not any(module.training for module in translator.model.modules())
    translator.model.train()
    assert translator.translate(["ba du"] * n) == ["du ba"] * n
    assert dtypes == [getattr(torch, used)]
    assert {parameter.dtype for parameter in translator.model.parameters()} == {torch.float32}
    assert translator.model.training
    assert translator.translate([]) == []


def test_too_little_memory(trained_run: Path, monkeypatch: Patch, failure: Failure) -> None:
    monkeypatch.setattr("seq2seq.model.decoding.greedy", lambda *_: torch.empty(2**45))
    message = failure("predict", "--run", trained_run, "ba du")
    assert "out of memory for 1 sentences" in message
    assert re.search(r"decoding\.batch_size .*256", message)


def test_missing_files(run: RunFolder, failure: Failure) -> None:
    trained = "model.safetensors", "tokenizer.model"
    for name in (*trained, "config.toml", "corpus/report.json", "corpus/test.tgt"):
        path = run.path / name
        before = path.read_bytes()
        path.unlink()
        message = failure("evaluate", "--run", run)
        assert f"{path}: No such file" in message
        assert ("another folder" in message) == (name in trained)
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("train --model.droput 0.1", "--model.droput; did you mean 'model.dropout'?"),
        ("train --model.droput=0.1", "--model.droput=0.1; did you mean 'model.dropout'?"),
        ("predict --run x --baem 4", "--baem; did you mean 'decoding.beam'?"),
        ("evaluate --run x --model.dropout 0.1", "--model.dropout: "),
        ("evaluate --run x --config y", "--config\n"),
        ("evaluate --run x y", "y\n"),
        ("predict --run x --decoding.max_ratio=1", "decoding.max_length_ratio "),
    ],
)
def test_unknown_flags(command: str, named: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command.split())
    assert caught.value.code == 2
    assert named in capsys.readouterr().err


def test_nothing_stays_of_what_could_not_begin(
    tiny_config: Path, tmp_path: Path, monkeypatch: Patch, failure: Failure
) -> None:
    monkeypatch.chdir(tmp_path)
    making = ["--config", tiny_config, "--run", "new/run"]
    for words in (
        ["train", "--config", "gone"], ["prepare", "--config", "gone"],
        ["prepare", "tokenizer", *making],
        ["train", *making, "--data.path", "gone"], ["train", *making, "--data.test", "gone"],
        ["prepare", *making, "--data.train", "gone"], ["train", *making, "--model.n_heads", "7"],
        ["evaluate", "--run", "new"], ["predict", "--run", "new", "x"],
        ["attend", "--run", "new", "x", "-o", "new/x.html"],
        ["compare", "quick", "--run", "new/run", "--data.path", "gone"],
    ):  # fmt: skip
        assert failure(*words).startswith("new: ") == (words[1:3] == ["--run", "new"])
        assert not list(tmp_path.iterdir())
    (tmp_path / "config.toml").write_text("[page]\n", encoding="utf-8")
    assert "not of a run" in failure("prepare", *making[:2], "--run", tmp_path)
    assert "config.toml" in failure("train", *making[:2], "--run", tmp_path / "config.toml" / "run")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["[page]\n"]


def test_no_evaluation_of_other_hypotheses(run: RunFolder, monkeypatch: Patch) -> None:
    evaluate.evaluate(run)
    monkeypatch.setattr(evaluate, "write_lines", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluate.evaluate(run)
    assert not run.eval_file.exists()


def test_train_prepares_what_is_missing(
    tiny_config: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr("seq2seq.training.trainer.Trainer.fit", lambda *_: None)
    run = RunFolder(tmp_path / "r")
    words = ["--config", str(tiny_config), "--run", str(run)]
    assert main(["prepare", "corpus", *words, "--model.dropout", "0.25", "--model.norm=post"]) == 0
    assert not run.tokenizer_file.exists()
    assert (run.load_config().model.dropout, run.load_config().model.norm) == (0.25, "post")
    assert main(["prepare", "tokenizer", *words]) == 0
    assert run.tokenizer_file.exists()
    assert re.search(r"3,000 .* 60 .* 100 ", capsys.readouterr().out)
    # Another corpus setting prepares again.
    assert main(["train", *words, "--tokenizer.vocab_size", "280"]) == 0
    assert "280 subwords" in capsys.readouterr().out


def test_help_lists_legal_values(capsys: Capture) -> None:
    """Of every setting: choices, ranges, and the parts of attention by name."""
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    parts = {registry.setting: "|".join(registry) for registry in REGISTRIES}
    for key, annotation in settings().items():
        legal = parts.get(key.rsplit(".", 1)[1], "") if "attention." in key else ""
        assert re.search(re.escape(f" --{key} {legal or legal_values(annotation)}") + "[ ,]", out)
    assert "|additive|" in parts["score"]
    assert "--model.dropout number >= 0 < 1 " in out
