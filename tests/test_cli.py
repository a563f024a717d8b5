"""The command line, as its users meet it."""

import io
import json
import os
import pty
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from types import SimpleNamespace

import pytest
import torch
from conftest import SACREBLEU, SEQ2SEQ, write_lines
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import seq2seq.cli
from seq2seq import evaluation
from seq2seq.checkpoint import load_run_config
from seq2seq.cli import main
from seq2seq.decoding import greedy
from seq2seq.machine import FEW_ROWS
from seq2seq.model import Seq2Seq
from seq2seq.settings import options
from seq2seq.translator import Translator

ROOT = Path(__file__).parent.parent


def failure(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that a failing command prints."""
    capsys.readouterr()
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("seq2seq: ")
    assert err.count("\n") == 1
    return err.removeprefix("seq2seq: ").strip()


def predict(run: Path, text: bytes, monkeypatch: pytest.MonkeyPatch, *more: str) -> bytes:
    """What ``predict`` writes for this standard input."""
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    assert main(["predict", "--run", str(run), *more]) == 0
    return out.getvalue()


# --- the whole way ---


def test_it_learns_to_reverse(trained_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--run", str(trained_run)]) == 0
    out = capsys.readouterr().out
    result = json.loads((trained_run / "eval.json").read_text(encoding="utf-8"))
    test = result["tests"]["test"]
    assert test["bleu"] > 95
    assert test["bleu_signature"] in out
    assert test["chrf_signature"] in out
    assert test["sentences"] == 100
    assert test["decoding_seconds"] > 0
    assert "alignment error rate: left out" in out
    shown = out.split("the translations best and worst by chrF, and their references\n")[1]
    assert len(shown.splitlines()) == 10 * 3
    example = test["examples"][0]
    assert f"source      {example['src']}\n        reference   {example['reference']}\n" in shown
    assert f"translation {example['hypothesis']}\n" in shown
    assert result["parameters"] == sum(
        tensor.numel() for tensor in load_file(trained_run / "model.safetensors").values()
    )
    assert main(["predict", "--run", str(trained_run), "ba du ke lo", "mi na"]) == 0
    assert capsys.readouterr().out == "lo ke du ba\nna mi\n"


def test_eval_json_holds_sacrebleus_own_scores(trained_run: Path) -> None:
    assert main(["evaluate", "--run", str(trained_run), "--beam", "3"]) == 0
    result = json.loads((trained_run / "eval.json").read_text(encoding="utf-8"))
    assert result["decoding"]["beam"] == 3
    references = load_run_config(trained_run).data.directory + "/test.tgt"
    command = [*SACREBLEU, references, "-i", str(trained_run / "hypotheses" / "test.txt")]
    for metric in ("bleu", "chrf"):
        done = subprocess.run([*command, "-m", metric, "-w", "4"], capture_output=True, check=True)
        assert json.loads(done.stdout)["score"] == round(result["tests"]["test"][metric], 4)


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_the_commit_is_that_of_the_code_and_of_no_repository_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    for name in ("HOME", "XDG_CONFIG_HOME"):  # nobody's settings
        monkeypatch.setenv(name, str(tmp_path))

    def git(*words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", *words]
        return subprocess.run(
            command, cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout

    code = tmp_path / "code.py"
    code.touch()
    monkeypatch.setattr(evaluation, "__file__", str(code))
    git("init")
    git("commit", "--allow-empty", "-m", "somebody else's")
    assert evaluation.git_commit() is None
    git("add", "code.py")
    git("commit", "-m", "ours")
    head = git("rev-parse", "HEAD").strip()
    assert evaluation.git_commit() == head
    code.write_text("changed", encoding="utf-8")
    assert evaluation.git_commit() == head + "+"


def test_a_run_folder_is_all_that_is_needed(trained_run: Path, tmp_path: Path) -> None:
    """Moved, without the corpus and the configuration it came from, seen from another folder."""
    run = tmp_path / "moved"
    shutil.copytree(trained_run, run)
    (run / "last.pt").unlink()
    config = (run / "config.toml").read_text(encoding="utf-8")
    directory = load_run_config(run).data.directory
    (run / "config.toml").write_text(config.replace(directory, "gone"), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for words in (["evaluate", "--run", "moved"], ["predict", "--run", "moved", "ba du"]):
        subprocess.run([*SEQ2SEQ, *words], cwd=tmp_path, env=environment, check=True)


def test_metrics_of_a_run(trained_run: Path) -> None:
    lines = (trained_run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    first = json.loads(lines[0])
    assert set(first) == {
        "step", "epoch", "loss", "learning_rate", "tokens_per_second", "valid_loss", "valid_bleu",
        "skipped_steps",
    }  # fmt: skip
    assert first["step"] == 150
    assert json.loads(lines[-1])["valid_loss"] < first["valid_loss"]
    summary = json.loads((trained_run / "training.json").read_text(encoding="utf-8"))
    assert summary["best_valid_bleu"] == max(json.loads(line)["valid_bleu"] for line in lines)


def test_evaluation_counts_what_it_cuts(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    write_lines(run / "corpus" / "test.src", ["ba du", "ba " * 300])
    write_lines(run / "corpus" / "test.tgt", ["du ba", "ba " * 300])
    assert main(["evaluate", "--run", str(run)]) == 0
    result = json.loads((run / "eval.json").read_text(encoding="utf-8"))
    assert result["tests"]["test"]["sentences_cut"] == 1
    assert "test: cut to data.max_tokens: 1 sentences" in capsys.readouterr().out


def test_hypotheses_stay_in_their_folder(trained_run: Path, tmp_path: Path) -> None:
    """Whatever the test set is called."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shutil.rmtree(run / "hypotheses", ignore_errors=True)
    for ending in ("src", "tgt"):
        (run / "corpus" / f"test.{ending}").rename(run / "corpus" / f".._.._x.{ending}")
    path = run / "corpus" / "report.json"
    report = json.loads(path.read_text(encoding="utf-8")) | {"test_pairs": {"../../x": 100}}
    path.write_text(json.dumps(report), encoding="utf-8")
    assert main(["evaluate", "--run", str(run)]) == 0
    assert [p.name for p in (run / "hypotheses").iterdir()] == [".._.._x.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# --- predict ---

HARD = [
    "ba du ke", "", " ", "\t", "ba\tdu", "mi \U0001f600 na", "中文 ba", "ba\0du", "\0", "ba\u2028du",
    "\u2029", "\x85", "\x0b\x0c", "ba\rdu", "ba " * 1000, "x" * 5000, "e\u0301", "\u202eba", "\ufeff",
]  # fmt: skip


def test_a_thousand_hard_lines_give_a_thousand_lines(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [HARD[i % len(HARD)] for i in range(1000)]
    text = "".join(line + "\n" for line in lines).encode()
    out = predict(trained_run, text, monkeypatch)
    assert out.count(b"\n") == 1000
    translations = out.decode("utf-8").split("\n")[:-1]
    assert all(len(line.splitlines()) <= 1 for line in translations)
    for i, line in enumerate(lines):
        assert translations[i] == translations[i % len(HARD)]
        assert bool(translations[i]) or not line.strip("\0 \t\x0b\x0c\x85\u2028\u2029\ufeff")
    assert translations[0] == "ke du ba"
    assert translations[1] == translations[2] == ""
    warned = capsys.readouterr().err.splitlines()
    cut = [i + 1 for i, line in enumerate(lines) if len(line) > 1000]
    assert [int(line.split("line ")[1].split(":")[0]) for line in warned] == sorted(cut)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.binary(max_size=200))
def test_as_many_lines_out_as_in_whatever_the_bytes(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    out = predict(trained_run, text, monkeypatch)
    expected = text.count(b"\n") + (not text.endswith(b"\n") and text != b"")
    assert out.count(b"\n") == expected


def fuzzed_line(rng: random.Random) -> bytes:
    """A line without its end, of one of the kinds that break programs."""
    word = rng.choice(["ba", "du", "ke"])
    n = rng.randint(1, 40)
    kinds: list[Callable[[], str | bytes]] = [
        lambda: rng.choice(HARD),
        lambda: "".join(chr(rng.randrange(0x110000)) for _ in range(n)),  # surrogates among them
        lambda: "".join(chr(rng.randrange(0x20)) for _ in range(n)),  # control characters, NUL
        lambda: "".join(chr(rng.randrange(0x300, 0x370)) for _ in range(n)) + word,  # combining
        lambda: word + "\u0301" * n * 10,
        lambda: "".join(chr(rng.randrange(0x590, 0x700)) for _ in range(n)),  # right to left
        lambda: word.join(rng.choices("\u2028\u2029\x85\r\v\f\x1c\ufeff\u200b\u202e", k=n)),
        lambda: " " * n + "\u3000\xa0" * n,
        lambda: rng.randbytes(n),
        lambda: b"ba \xed\xa0\x80 \xc0\x80 \xff\xfe du",  # a surrogate, overlong, a mark
        lambda: f"{word} " * n * 20,
        lambda: "\u2581" * n + "<s></s><unk><0x0A>",  # what sentencepiece writes itself
    ]
    made = rng.choice(kinds)()
    raw = made.encode("utf-8", "surrogatepass") if isinstance(made, str) else made
    return raw.replace(b"\n", b"")


def test_ten_thousand_fuzzed_lines_give_ten_thousand_lines(trained_run: Path) -> None:
    rng = random.Random(0)
    lines = [fuzzed_line(rng) for _ in range(10_000)]
    for at, huge in ((17, b"x" * 10**6), (5000, b"ba " * 333_333), (9998, "é".encode() * 10**6)):
        lines[at] = huge
    lines[-1] = b"ba du ke"  # and no newline after it
    ended = subprocess.run(
        [*SEQ2SEQ, "predict", "--run", str(trained_run), "--decoding.max_ratio", "0.05"],
        input=b"\n".join(lines),
        capture_output=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    out = ended.stdout.decode("utf-8").split("\n")
    assert len(out) == 10_001
    assert (out[-2], out[-1]) == ("ke du ba", "")
    assert all(len(line.splitlines()) <= 1 for line in out)
    warned = [line.split(":")[1] for line in ended.stderr.decode().splitlines()]
    assert {" line 18", " line 5001", " line 9999"} <= set(warned)
    assert all(re.fullmatch(r" line \d+", each) for each in warned)


def test_order_is_kept_across_chunks_and_batches(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["ba", "du", "ke", "lo", "mi"]
    lines = [" ".join(words[j % 5] for j in range(i, i + 2 + i % 3)) for i in range(60)]
    text = "".join(line + "\n" for line in lines).encode()
    monkeypatch.setattr(seq2seq.cli, "LINES_AT_A_TIME", 7)
    small = predict(trained_run, text, monkeypatch, "--decoding.batch_size", "4")
    expected = "".join(" ".join(reversed(line.split())) + "\n" for line in lines).encode()
    assert small == expected


def test_a_pipe_is_answered_before_it_ends(trained_run: Path) -> None:
    command = [*SEQ2SEQ, "predict", "--run", str(trained_run)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    watchdog = Timer(120, process.kill)
    watchdog.start()
    for _ in range(2):
        process.stdin.write(b"ba du\n" * seq2seq.cli.LINES_AT_A_TIME)
        process.stdin.flush()
        for _ in range(seq2seq.cli.LINES_AT_A_TIME):
            assert process.stdout.readline() == b"du ba\n"
    rest, _ = process.communicate(b"ke lo\n")
    watchdog.cancel()
    assert rest == b"lo ke\n"


def test_no_more_lines_are_in_memory_than_are_answered_at_a_time(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    waiting = []

    def endless() -> Iterator[bytes]:
        for number in range(50):
            waiting.append(number - out.getvalue().count(b"\n"))
            yield b"ba du\n"
        raise KeyboardInterrupt

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=endless(), isatty=lambda: False))
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
    monkeypatch.setattr(seq2seq.cli, "LINES_AT_A_TIME", 7)
    assert main(["predict", "--run", str(trained_run)]) == 130
    assert max(waiting) == 6
    assert out.getvalue() == b"du ba\n" * 49


def test_the_prompt(trained_run: Path) -> None:
    """On a terminal, predict answers each line before the next is typed, and only the answer."""
    controller, terminal = pty.openpty()
    command = [*SEQ2SEQ, "predict", "--run", str(trained_run)]
    process = subprocess.Popen(
        command, stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    os.close(terminal)
    assert process.stdout
    for typed, answer in (("ba du", "du ba"), ("", ""), ("ke lo", "lo ke")):
        os.write(controller, typed.encode() + b"\n")
        assert process.stdout.readline() == answer + "\n"
    os.write(controller, b"\x04")
    rest, prompts = process.communicate(timeout=60)
    os.close(controller)
    assert process.returncode == 0
    assert rest == ""
    assert prompts.count("> ") == 4


def test_a_byte_order_mark_is_no_text(trained_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert predict(trained_run, b"\xef\xbb\xbfba du\n", monkeypatch) == b"du ba\n"


def test_closed_standard_input(trained_run: Path) -> None:
    words = " ".join([*SEQ2SEQ, "predict", "--run", str(trained_run)])
    done = subprocess.run(["bash", "-c", f"{words} 'ba du' <&-"], capture_output=True, check=True)
    assert done.stdout == b"du ba\n"
    done = subprocess.run(["bash", "-c", f"{words} <&-"], capture_output=True, check=True)
    assert done.stdout == b""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams(trained_run: Path, closed: str) -> None:
    line = " ".join([*SEQ2SEQ, "predict", "--run", str(trained_run), "'" + "ba " * 300 + "'"])
    ended = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, check=False)
    assert ended.returncode == 0
    assert b"Traceback" not in ended.stderr
    assert ended.stdout.count(b"\n") == (">&-" not in closed or closed == "2>&-")
    assert (b"cut to" in ended.stderr) == ("2>&-" not in closed)


def test_any_bytes_at_the_prompt(trained_run: Path) -> None:
    """On a terminal whose text is strictly UTF-8."""
    main_end, end = pty.openpty()
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [*SEQ2SEQ, "predict", "--run", str(trained_run)]
    process = subprocess.Popen(
        command, stdin=end, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    )
    os.write(main_end, b"\xff ba\nba du\n\x04")
    out, errors = process.communicate(timeout=100)
    os.close(main_end)
    os.close(end)
    assert process.returncode == 0, errors
    assert out.endswith(b"\ndu ba\n")
    assert out.count(b"\n") == 2


def test_a_folder_whose_name_is_no_text(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = os.fsdecode(b"n\xff")
    assert "no such run folder" in failure(["predict", "--run", name, "x"], capsys)


def test_a_reader_that_leaves_is_no_error(trained_run: Path) -> None:
    command = f"yes 'ba du' | head -n 3000 | {sys.executable} -m seq2seq predict --run {trained_run} | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=120)
    assert done.stdout == b"du ba\n"
    assert done.stderr == b""


def test_sentences_may_look_like_anything(
    trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--run", str(trained_run), "--", "--ba", "", "a\nb", "\udcff"]) == 0
    assert capsys.readouterr().out.count("\n") == 4


def test_translate_leaves_the_model_as_it_was(trained_run: Path) -> None:
    translator = Translator.load(trained_run)
    translator.model.train()
    assert translator.translate(["ba du"]) == ["du ba"]
    assert translator.model.training
    assert translator.translate([]) == []


@pytest.mark.parametrize(
    ("precision", "fast", "n_sentences", "expected"),
    [
        ("auto", True, 1, "float32"),
        ("auto", True, FEW_ROWS, "bfloat16"),
        ("auto", False, FEW_ROWS, "float32"),
        ("float32", True, FEW_ROWS, "float32"),
        ("bfloat16", False, 1, "bfloat16"),
    ],
)
def test_the_number_format_of_decoding(
    trained_run: Path,
    precision: str,
    fast: bool,
    n_sentences: int,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seq2seq.translator.fast_bfloat16", lambda device: fast)
    if torch.cuda.is_available() and precision == "auto":
        expected = "float32"
    formats = []

    def note(model: Seq2Seq, src: torch.Tensor, max_ratio: float) -> list[list[int]]:
        formats.append(model.logits(torch.ones(1, 64, device=src.device)).dtype)
        return greedy(model, src, max_ratio)

    monkeypatch.setattr("seq2seq.translator.greedy", note)
    translator = Translator.load(trained_run, {"decoding.precision": precision})
    assert translator.translate(["ba du"] * n_sentences) == ["du ba"] * n_sentences
    assert formats == [getattr(torch, expected)]
    assert {parameter.dtype for parameter in translator.model.parameters()} == {torch.float32}


def test_too_little_memory_to_translate(
    trained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def need_too_much(*_: object) -> None:
        torch.empty(2**45)

    monkeypatch.setattr("seq2seq.translator.greedy", need_too_much)
    message = failure(["predict", "--run", str(trained_run), "ba du"], capsys)
    assert message.startswith("out of memory for 1 sentences of up to ")
    assert "decoding.batch_size (it is 256)" in message


# --- mistakes ---


def test_run_folders_that_are_none(
    tmp_path: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = str(tmp_path / "gone")
    assert failure(["evaluate", "--run", gone], capsys) == f"{gone}: no such run folder"
    assert failure(["predict", "--run", gone, "x"], capsys) == f"{gone}: no such run folder"
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    damages = {
        "model.safetensors": b"\x00" * 20,
        "tokenizer.model": b"junk",
        "config.toml": b"[model]\nd_ff = 'x'\n",
        "corpus/test.tgt": b"\xff\n" * 100,
        "corpus/report.json": b"[]",
    }
    for name, content in damages.items():
        before = (run / name).read_bytes()
        (run / name).write_bytes(content)
        assert Path(name).name in failure(["evaluate", "--run", str(run)], capsys)
        (run / name).unlink()
        assert "No such file" in failure(["evaluate", "--run", str(run)], capsys)
        (run / name).write_bytes(before)


def test_weights_of_another_model(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    path = run / "model.safetensors"
    tensors = load_file(path)
    name = "decoder.0.feed_forward.expand.weight"
    save_file(tensors | {name: tensors[name][:5].clone()}, path)
    message = failure(["predict", "--run", str(run), "x"], capsys)
    assert f"{name!r} is (5, 64), but the configuration asks for (128, 64)" in message
    save_file({key: value for key, value in tensors.items() if key != name}, path)
    assert f"{name!r} is missing" in failure(["predict", "--run", str(run), "x"], capsys)


def test_a_folder_that_cannot_be_made(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    run = str(tmp_path / "file" / "run")
    assert "file" in failure(["prepare", "--config", str(tiny_config), "--run", run], capsys)


def test_unknown_flags_get_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--model.droput", "0.1"])
    assert caught.value.code == 2
    assert "did you mean 'model.dropout'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--run", "x", "--model.dropout", "0.1"])
    assert "is part of what a run was trained with" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", "--run", "x", "--config", "y"])
    assert capsys.readouterr().err.endswith("unknown argument --config\n")


def test_a_misspelt_value_changes_nothing(
    tiny_config: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (trained_run / "config.toml").read_bytes()
    words = ["train", "--config", str(tiny_config), "--run", str(trained_run)]
    assert "not a number" in failure([*words, "--model.dropout", "x"], capsys)
    assert "trained with model.d_ff" in failure([*words, "--model.d_ff", "64"], capsys)
    assert (trained_run / "config.toml").read_bytes() == before


def test_training_prepares_what_is_missing_and_prepare_has_stages(
    tiny_config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--config", str(tiny_config), "--run", str(tmp_path / "r")]
    assert "No such file" in failure(["prepare", "tokenizer", *words], capsys)
    assert main(["prepare", "corpus", *words]) == 0
    assert not (tmp_path / "r" / "tokenizer.model").exists()
    assert main(["prepare", "tokenizer", *words]) == 0
    assert (tmp_path / "r" / "tokenizer.model").exists()
    assert "3,000 training, 60 validation, 100 test" in capsys.readouterr().out
    # Another corpus setting prepares again.
    assert main(["train", *words, "--train.epochs", "1", "--tokenizer.vocab_size", "280"]) == 0
    assert "280 subwords" in capsys.readouterr().out


def test_every_setting_has_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    out = capsys.readouterr().out
    for key in options():
        assert f"--{key} " in out


def test_settings_reach_the_saved_configuration(tiny_config: Path, tmp_path: Path) -> None:
    words = ["--config", str(tiny_config), "--run", str(tmp_path)]
    assert main(["prepare", *words, "--model.dropout", "0.25", "--model.norm=post"]) == 0
    config = load_run_config(tmp_path)
    assert (config.model.dropout, config.model.norm) == (0.25, "post")


def test_file_names_that_need_quoting(tmp_path: Path) -> None:
    folder = tmp_path / 'ein "Ordner" — 日本'
    folder.mkdir()
    for split in ("train", "valid", "test"):
        write_lines(folder / f"{split}.de", ["ein Satz mit Wörtern", "noch einer davon"])
        write_lines(folder / f"{split}.en", ["a sentence with words", "another one of them"])
    config = tmp_path / "c.toml"
    config.write_text("[tokenizer]\nvocab_size = 290\n", encoding="utf-8")
    words = ["--config", str(config), "--run", str(tmp_path / "run")]
    assert main(["prepare", *words, "--data.directory", str(folder)]) == 0
    assert load_run_config(tmp_path / "run").data.directory == str(folder)


def test_predict_loads_no_library_that_it_does_not_use(trained_run: Path) -> None:
    """Each of these takes as long to load as the translation of a sentence, or longer."""
    code = (
        "import sys; from seq2seq.cli import main; "
        f"main(['predict', '--run', {str(trained_run)!r}, 'ba du']); "
        "print([x for x in ('torch._dynamo', 'datasets', 'matplotlib', 'sacrebleu') "
        "if x in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
