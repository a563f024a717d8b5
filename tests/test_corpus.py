"""Reading corpora: strictly, from files and from hub data sets, nothing lost silently."""

import hashlib
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from conftest import Capture, write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.cli import main
from seq2seq.config import Config, DataConfig, TokenizerConfig
from seq2seq.data.annotations import load_alignment, load_tags
from seq2seq.data.corpus import Corpus, CorpusReport, load_report, load_split
from seq2seq.data.prepare import is_prepared, prepare, prepare_corpus
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, write_json, write_text

SPLITS = ("train", "valid", "test")
FULL = {
    "train_de": b"eins\nzwei\n", "train_en": b"one\ntwo\n",
    "valid_de": b"drei\n", "valid_en": b"three\n",
    "test_de": b"vier\n", "test_en": b"four\n",
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def files(run: RunFolder, folder: str = "corpus", /, **content: bytes) -> DataConfig:
    """A corpus of these files beside the run; ``train_de`` is ``train.de``."""
    path = run.path.parent / folder
    path.mkdir()
    for name, text in (FULL | content).items():
        (path / name.replace("_", ".")).write_bytes(text)
    return DataConfig(path=str(path))


def one_split(run: RunFolder, lines: list[str], n_held_out: int, folder: str = "c") -> DataConfig:
    text = "".join(line + "\n" for line in lines).encode()
    data = files(run, folder, train_de=text, train_en=text)
    return replace(data, valid="", test="", n_held_out=n_held_out)


def reversal(run: RunFolder) -> Config:
    folder = run.path.parent / "corpus"
    write_corpus(folder, {"train": 40, "valid": 8, "test": 8})
    data = DataConfig(src="src", tgt="tgt", path=str(folder))
    return Config(data=data, tokenizer=TokenizerConfig(vocab_size=290))


# --- files ---


def test_splits_reach_the_run(run: RunFolder) -> None:
    # Spaces, quotes, composed and decomposed characters, ligatures: what NFKC would change.
    odd = "  ﬁve «½» e\u0301 é … \u00a0 Ａ\t"
    data = files(run, test_en=odd.encode() + b"\n")
    report = prepare_corpus(data, run)
    assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (2, 1, {"test": 1})
    assert load_report(run) == report
    assert load_split(run, data, "train") == Corpus(["eins", "zwei"], ["one", "two"])
    assert load_split(run, data, "test") == Corpus(["vier"], [odd])


def test_failure_replaces_nothing(run: RunFolder) -> None:
    config = reversal(run)
    prepare(config, run)
    before = {path: path.read_bytes() for path in run.path.rglob("*.*")}
    for data, message in (
        (replace(config.data, path="nowhere"), r"nowhere: no file"),
        (replace(config.data, train="nothing"), r"no split 'nothing' in test, train, valid"),
    ):
        with pytest.raises(UserError, match=message):
            prepare(replace(config, data=data), run)
    for name, content, message in (
        ("train.src", b"ba\n" * 39 + b"\xff\n", r"train\.src, line 40: not UTF-8"),
        ("train.src", "ba\n".encode("utf-16-le") * 40, r"train\.src: .*UTF-16"),
        ("train.src", b"ba\n" * 41, r"train\.src has 41 .*train\.tgt has 40"),
        ("train.src", b"\n" * 40, "train split has no"),
        ("valid.src", b"", "valid.src has 0 lines"),
        ("test.src-tgt.align", b"x\n" * 8, "not an alignment"),
    ):
        path = Path(config.data.path) / name
        good = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        with pytest.raises(UserError, match=message):
            prepare(config, run)
        path.unlink() if good is None else path.write_bytes(good)
    assert before == {path: path.read_bytes() for path in run.path.rglob("*.*")}


def test_interrupted_preparation_is_not_complete(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(config := reversal(run), run)
    monkeypatch.setattr("seq2seq.data.prepare.write_lines", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        prepare(config, run)
    with pytest.raises(UserError, match=r"report\.json"):
        prepare(config, run, "tokenizer")


def test_empty_pairs_leave_training_only(run: RunFolder) -> None:
    invisible = "\u200b\n".encode()
    train = {"train_de": b"eins\n\nzwei\n \nx\n", "train_en": b"one\nx\n \nboth\n" + invisible}
    data = files(run, **train, test_de=b"\nvier\n", test_en=b"nothing\n\n")
    assert "1 training, 1 validation, 2 test pairs" in (report := str(prepare_corpus(data, run)))
    assert report.endswith(": 4")  # left out
    assert load_split(run, data, "test") == Corpus(["", "vier"], ["nothing", ""])


@pytest.mark.parametrize("split", SPLITS)
def test_empty_split(run: RunFolder, split: str) -> None:
    with pytest.raises(UserError, match=f"the {split} split has no sentence pairs"):
        prepare_corpus(files(run, **{f"{split}_de": b"", f"{split}_en": b""}), run)


SIDE = st.lists(st.binary(max_size=12), max_size=6)
NOTES = st.none() | st.binary(max_size=20) | st.from_regex(rb"(\d-\d ?|\n){0,9}")


@settings(deadline=None, max_examples=100)
@given(split=st.sampled_from(SPLITS), src=SIDE, tgt=SIDE, notes=NOTES)
def test_any_corpus_is_read_or_refused(
    tmp_path_factory: Any, split: str, src: list[bytes], tgt: list[bytes], notes: bytes | None
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("any") / "run")
    config = replace(reversal(run), tokenizer=TokenizerConfig(vocab_size=272))
    folder = Path(config.data.path)
    (folder / f"{split}.src").write_bytes(b"\n".join(src))
    (folder / f"{split}.tgt").write_bytes(b"\n".join(tgt))
    if notes is not None:
        (folder / "test.src-tgt.align").write_bytes(notes)
        (folder / "test.tags").write_bytes(notes)
    message = ""
    try:
        prepare(config, run)
    except UserError as error:
        message = str(error)
    assert len(message.splitlines()) <= 1
    if not message and split != "train":
        text = b"\n".join(src).removeprefix(b"\xef\xbb\xbf")
        n_lines = text.count(b"\n") + (not text.endswith(b"\n") and text != b"")
        assert len(load_split(run, config.data, split)) == n_lines


# --- held-out splits ---


@pytest.mark.parametrize("n_held_out", [7, 8, 1000])
def test_held_out_by_hash(run: RunFolder, n_held_out: int) -> None:
    """The source sentences with the lowest hashes, first for the test set, then for validation.

    A tenth of them at most.
    """
    lines = [f"satz {i}" for i in range(75)]
    ranked = sorted(lines, key=lambda line: hashlib.sha256(line.encode()).digest())
    data = one_split(run, lines, n_held_out)
    report = prepare_corpus(data, run)
    assert report.held_out == {"test": 7, "valid": 7}
    assert "test split: 7 pairs (9.3%)" in str(report)
    chosen = {"test": ranked[:7], "valid": ranked[7:14], "train": ranked[14:]}
    for split, sentences in chosen.items():
        assert load_split(run, data, split).src == sorted(sentences, key=lines.index)


def test_held_out_in_any_order(run: RunFolder) -> None:
    lines = [f"satz{space}{i}" for space in " \u00a0" for i in range(80)] + [""]  # all twice
    splits = []
    for name, rows in (("a", lines), ("b", lines[::-1])):
        data = one_split(run, rows, 7, name)
        report = prepare_corpus(data, run)
        assert report.held_out == {"test": 14, "valid": 14}
        assert (report.train_pairs, report.empty_pairs_left_out) == (132, 1)
        splits.append([sorted(load_split(run, data, split).src) for split in SPLITS])
    assert splits[0] == splits[1]
    sentences = [x for split in splits[0] for x in {x.replace("\u00a0", " ") for x in split}]
    assert sorted(sentences) == sorted(lines[:80])  # each in one split


def test_too_little_to_hold_out(run: RunFolder) -> None:
    with pytest.raises(UserError, match=r"data.n_held_out = 1: of 9 source sentences"):
        prepare_corpus(one_split(run, [*"abcdefghii", ""], 1), run)
    assert not run.report_file.exists()


def test_words_too_long(tmp_path: Path, capsys: Capture) -> None:
    """sentencepiece would abort the process at 65,536 characters."""
    write_corpus(tmp_path / "corpus", {"train": 60, "valid": 4, "test": 4})
    for side in ("src", "tgt"):
        with (tmp_path / "corpus" / f"train.{side}").open("a") as file:
            longer = "\u0958" * 40_000  # two characters each when composed
            file.write("x" * 70_000 + "\n" + "x " * 40_000 + "\n" + longer + "\n")
    data = DataConfig(src="src", tgt="tgt", path=str(tmp_path / "corpus"))
    prepare(Config(data=data, tokenizer=TokenizerConfig(vocab_size=290)), tmp_path / "run")
    assert load_report(RunFolder(tmp_path / "run")).train_pairs == 63
    assert re.search("lines: 2, .* line 61 of training\n\\Z", capsys.readouterr().err)


def test_a_run_is_not_prepared_from_itself(run: RunFolder) -> None:
    write_text(run.corpus / "train.de", "a\n")
    with pytest.raises(UserError, match="own copy"):
        prepare_corpus(DataConfig(path=str(run.corpus)), run)
    assert (run.corpus / "train.de").read_text() == "a\n"


# --- several test sets, gold alignments, tags ---


def annotated(run: RunFolder, **more: bytes) -> DataConfig:
    """Two test sets, of which "second" brings an alignment and tags; so does training."""
    content = {
        "second_de": b"ein Haus\nein  rotes Haus\n", "second_en": b"a house\na red house\n",
        "second_de-en_align": b"0-0 1-1\n0-0 1-1 2-2\n", "second_tags": b"short\nshort colour\n",
        "train_de-en_align": b"nobody\nreads it\n",
    }  # fmt: skip
    return replace(files(run, **(content | more)), test="test second")


def gold(data: DataConfig, run: RunFolder, split: str) -> tuple[Any, Any]:
    corpus = load_split(run, data, split)
    prefix = run.corpus / split
    return load_alignment(prefix, data, corpus), load_tags(prefix, corpus)


def test_alignments_and_tags(run: RunFolder) -> None:
    data = annotated(run)
    assert prepare_corpus(data, run).test_pairs == {"test": 1, "second": 2}
    alignment, tags = gold(data, run, "second")
    assert alignment == [{(0, 0), (1, 1)}, {(0, 0), (1, 1), (2, 2)}]
    assert tags == [["short"], ["short", "colour"]]
    assert gold(data, run, "test") == gold(data, run, "valid") == (None, None)
    for extension in ("tags", "de-en.align"):
        run.split_file("second", extension).write_bytes(b"0-0\n")
        with pytest.raises(UserError, match=rf"second\.{extension} has 1 lines for 2"):
            gold(data, run, "second")
    plain = files(run, "plain", second_de=b"x\n", second_en=b"x\n")
    prepare_corpus(replace(plain, test="second"), run)
    assert gold(plain, run, "second") == (None, None)  # they left with their corpus


def test_turned_alignment(run: RunFolder) -> None:
    links = {"second_de-en_align": b"0-1\n2-1 0-2\n"}
    turned = replace(annotated(run, **links), src="en", tgt="de")
    prepare_corpus(turned, run)
    assert gold(turned, run, "second")[0] == [{(1, 0)}, {(1, 2), (2, 0)}]
    write_text(Path(turned.path) / "second.en-de.align", "1-0\n1-2 2-0\n")
    with pytest.raises(UserError, match="two alignments"):
        prepare_corpus(turned, run)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("second_de-en_align", b"0-0\n", r"second\.de-en\.align has 1 lines for 2"),
        ("second_tags", b"a\nb\nc\n", r"second\.tags has 3 lines for 2"),
        ("second_de-en_align", b"0-0\n0-0 1:1\n", "align, line 2: not an alignment"),
        ("second_de-en_align", b"-1-0\n0-0\n", "align, line 1: not an alignment"),
        ("second_de-en_align", b"0-9999999999\n0-0\n", "align, line 1: not an alignment"),
        ("second_de-en_align", b"0-0\n0-3\n", "align, line 2: link 0-3 .* 3 and 3 words"),
        ("second_de-en_align", b"2-0\n0-0\n", "align, line 1: link 2-0 .* 2 and 2 words"),
    ],
)
def test_wrong_annotations(run: RunFolder, name: str, text: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        prepare_corpus(annotated(run, **{name: text}), run)
    assert not run.report_file.exists()


@pytest.mark.parametrize("command", ["prepare", "train", "compare"])
def test_commands_check_annotations_first(run: RunFolder, command: str, capsys: Capture) -> None:
    folder = Path(annotated(run, second_tags=b"too few\n").path)
    (folder / "c.toml").write_text(f"data.path = '{folder}'\ndata.test = 'second'\n")
    (folder / "e.toml").write_text(
        "title = ''\nbase = 'c.toml'\nseeds = 2\nbaseline = 'a'\n"
        "[variants]\na = {}\nb = {model.d_model = 64}\n"
    )
    config = [str(folder / "e.toml")] if command == "compare" else ["--config", f"{folder}/c.toml"]
    assert main([command, *config, "--run", str(run)]) == 1
    assert "second.tags has 1 lines for 2" in capsys.readouterr().err
    assert not list(run.path.rglob("report.json"))


def test_damaged_report(run: RunFolder) -> None:
    good = asdict(CorpusReport("corpus", 3, 2, {"test": 1}, 0))
    write_json(run.report_file, good)
    load_report(run)
    tests: list[Any] = [5, {}, {"te\nst": 1}, {"test": -1}, {"test": "x"}]
    bad = [*(good | {"test_pairs": x} for x in tests), good | {"train_pairs": "x"}, {"source": "x"}]
    for text in (*map(json.dumps, bad), "[]", "3", "{"):
        write_text(run.report_file, text)
        with pytest.raises(UserError, match=r"report\.json"):
            load_report(run)


# --- stages and prepared runs ---


def test_stages(run: RunFolder) -> None:
    config = reversal(run)
    moved = replace(config, data=replace(config.data, path="elsewhere"))
    other = replace(config, tokenizer=TokenizerConfig(vocab_size=280))
    with pytest.raises(UserError, match=r"report\.json"):
        prepare(config, run, "tokenizer")
    prepare(config, run, "corpus")
    assert not is_prepared(config, run)
    with pytest.raises(UserError, match="another corpus"):
        prepare(moved, run, "tokenizer")
    prepare(config, run, "tokenizer")
    assert is_prepared(config, run)
    assert not is_prepared(moved, run)
    assert not is_prepared(other, run)
    prepare(other, run)
    assert is_prepared(other, run)
