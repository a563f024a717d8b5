"""Reading corpora: strictly, from files and from hub data sets, nothing lost silently."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import write_corpus
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.corpus import (
    Corpus,
    load_alignment,
    load_report,
    load_split,
    load_tags,
    parse_links,
)
from seq2seq.errors import UserError
from seq2seq.files import read_lines
from seq2seq.preparation import prepare, prepare_corpus
from seq2seq.settings import Config, DataConfig, HubConfig, TokenizerConfig
from seq2seq.sources import pairs_of

ROOT = Path(__file__).parent.parent
SPLITS = ("train", "valid", "test")


def files(folder: Path, **content: bytes) -> Config:
    """A configuration that reads these files; ``train_de`` is ``train.de``."""
    folder.mkdir(exist_ok=True)
    for name, text in content.items():
        (folder / name.replace("_", ".")).write_bytes(text)
    return Config(data=DataConfig(directory=str(folder), held_out=2))


FULL = {
    "train_de": b"eins\nzwei\n", "train_en": b"one\ntwo\n",
    "valid_de": b"drei\n", "valid_en": b"three\n",
    "test_de": b"vier\n", "test_en": b"four\n",
}  # fmt: skip


def test_splits_reach_the_run(tmp_path: Path) -> None:
    report = prepare_corpus(files(tmp_path / "c", **FULL), tmp_path / "run")
    assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (2, 1, {"test": 1})
    assert load_report(tmp_path / "run") == report
    data = DataConfig(directory="unused")
    assert load_split(data, tmp_path / "run", "train") == Corpus(["eins", "zwei"], ["one", "two"])


def test_lines_split_at_newlines_only(tmp_path: Path) -> None:
    odd = "a\u2028b\x0bc\x85d\x1ce\tf"
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbf" + f"{odd}\r\n\nlast".encode())
    assert read_lines(path) == [odd, "", "last"]
    path.write_bytes(b"")
    assert read_lines(path) == []
    path.write_bytes(b"\n")
    assert read_lines(path) == [""]


def test_bad_utf8_names_file_and_line(tmp_path: Path) -> None:
    config = files(tmp_path, **(FULL | {"train_en": b"one\nt\xffwo\n"}))
    with pytest.raises(UserError, match=r"train\.en, line 2: not UTF-8"):
        prepare_corpus(config, tmp_path / "run")


def test_unequal_line_counts_name_both(tmp_path: Path) -> None:
    config = files(tmp_path, **(FULL | {"train_en": b"one\n"}))
    with pytest.raises(UserError, match=r"train\.de has 2 lines but .*train\.en has 1"):
        prepare_corpus(config, tmp_path / "run")


def test_what_cannot_be_read_replaces_nothing(tmp_path: Path) -> None:
    write_corpus(tmp_path / "corpus", {"train": 40, "valid": 8, "test": 8})
    data = DataConfig(src="src", tgt="tgt", directory=str(tmp_path / "corpus"))
    config = Config(data=data, tokenizer=TokenizerConfig(vocab_size=290))
    prepare(config, tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}
    for broken in (replace(data, directory="elsewhere"), replace(data, train="nothing")):
        with pytest.raises(UserError):
            prepare(replace(config, data=broken), tmp_path / "run")
    for name, content, complaint in (
        ("train", b"ba\n" * 39 + b"\xff\n", "line 40: not UTF-8"),
        ("train", b"ba\n" * 41, "has 41 lines"),
        ("train", b"\n" * 40, "train split has no"),
        ("valid", b"", "valid.src has 0 lines"),
        ("test.src-tgt.align", b"x\n" * 8, "not an alignment"),
    ):
        path = tmp_path / "corpus" / (name if "." in name else f"{name}.src")
        good = path.read_bytes() if path.exists() else None
        path.write_bytes(content)
        with pytest.raises(UserError, match=complaint):
            prepare(config, tmp_path / "run")
        path.unlink() if good is None else path.write_bytes(good)
    (tmp_path / "corpus" / "valid.src").write_bytes(b"")
    (tmp_path / "corpus" / "valid.tgt").write_bytes(b"")
    with pytest.raises(UserError, match="valid split has no"):
        prepare(config, tmp_path / "run")
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*.*")}


def test_missing_files_and_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train\.de: No such file"):
        prepare_corpus(files(tmp_path / "empty"), tmp_path / "run")
    with pytest.raises(UserError, match=r"no such folder \(data\.directory\)"):
        prepare_corpus(Config(data=DataConfig(directory="nowhere")), tmp_path / "run")


def test_empty_pairs_leave_training_and_are_counted_but_stay_in_the_test(tmp_path: Path) -> None:
    content = FULL | {
        "train_de": b"eins\n\nzwei\n \n", "train_en": b"one\nx\n \nboth\n",
        "test_de": b"\nvier\n", "test_en": b"nothing\n\n",
    }  # fmt: skip
    config = files(tmp_path / "c", **content)
    report = prepare_corpus(config, tmp_path / "run")
    assert (report.train_pairs, report.empty_pairs_left_out) == (1, 3)
    assert "3" in str(report)
    assert load_split(config.data, tmp_path / "run", "test") == Corpus(
        ["", "vier"], ["nothing", ""]
    )


def test_references_are_untouched(tmp_path: Path) -> None:
    # Spaces, quotes, composed and decomposed characters, ligatures: what NFKC would change.
    odd = "  ﬁve «½» e\u0301 é … \u00a0 Ａ\t"
    config = files(tmp_path / "c", **(FULL | {"test_en": odd.encode() + b"\n"}))
    prepare_corpus(config, tmp_path / "run")
    assert load_split(config.data, tmp_path / "run", "test").tgt == [odd]


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_an_empty_split_is_a_complaint(tmp_path: Path, split: str) -> None:
    config = files(tmp_path / "c", **(FULL | {f"{split}_de": b"", f"{split}_en": b""}))
    with pytest.raises(UserError, match=f"the {split} split has no sentence pairs"):
        prepare_corpus(config, tmp_path / "run")


def test_missing_splits_are_held_out_the_same_way_in_any_order(tmp_path: Path) -> None:
    lines = [f"satz {i % 40}" for i in range(50)] + [""]  # ten sentences occur twice
    splits = {}
    for name, rows in (("a", lines), ("b", lines[::-1])):
        text = "".join(line + "\n" for line in rows).encode()
        folder = tmp_path / name
        files(folder, train_de=text, train_en=text)
        data = DataConfig(directory=str(folder), valid="", test="", held_out=7)
        report = prepare_corpus(Config(data=data), tmp_path / f"run-{name}")
        assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (36, 7, {"test": 7})
        assert report.empty_pairs_left_out == 1
        splits[name] = {s: load_split(data, tmp_path / f"run-{name}", s).src for s in SPLITS}
    for split in SPLITS:
        assert sorted(splits["a"][split]) == sorted(splits["b"][split])
    train, valid, test = (set(splits["a"][split]) for split in SPLITS)
    assert not train & valid
    assert not train & test
    assert not valid & test
    assert train | valid | test == set(lines) - {""}


def test_a_sentence_with_many_copies_is_not_held_out(tmp_path: Path) -> None:
    text = "".join(f"satz {i % 10 if i < 20 else 'x'}\n" for i in range(500)).encode()
    files(tmp_path / "c", train_de=text, train_en=text)
    data = DataConfig(directory=str(tmp_path / "c"), valid="", test="", held_out=4)
    report = prepare_corpus(Config(data=data), tmp_path / "run")
    assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (492, 4, {"test": 4})


@pytest.mark.parametrize("held_out", [1, 2, 1000])
def test_too_little_to_hold_out(tmp_path: Path, held_out: int) -> None:
    files(tmp_path, train_de=b"a\nb\n", train_en=b"a\nb\n")
    data = DataConfig(directory=str(tmp_path), valid="", test="", held_out=held_out)
    with pytest.raises(UserError, match=f"data.held_out = {held_out}: too many"):
        prepare_corpus(Config(data=data), tmp_path / "run")


# --- the hub ---

HUB = DataConfig(hub=HubConfig(name="some/set"))


@pytest.fixture(autouse=True)
def nothing_leaves_this_machine(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path_factory.getbasetemp() / "hub"))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


def test_rows_with_columns_and_with_translation_dictionaries() -> None:
    expected = [("eins", "one")]
    assert list(pairs_of([{"de": "eins", "en": "one", "id": 3}], HUB)) == expected
    row = {"id": "3", "translation": {"de": "eins", "en": "one"}}
    assert list(pairs_of([row], HUB)) == expected
    assert list(pairs_of([{"de": "a\nb\r\nc", "en": "x"}], HUB)) == [("a b  c", "x")]


def test_rows_without_the_languages() -> None:
    with pytest.raises(UserError, match="no text in a field 'de'; there are fr, nl"):
        list(pairs_of([{"translation": {"fr": "un", "nl": "een"}}], HUB))
    with pytest.raises(UserError, match="no text in a field 'en'"):
        list(pairs_of([{"de": "eins", "en": 1}], HUB))
    with pytest.raises(UserError, match="there are translation"):
        list(pairs_of([{"translation": "eins"}], HUB))


def test_missing_values_are_empty_sentences() -> None:
    assert list(pairs_of([{"de": None, "en": "x"}], HUB)) == [("", "x")]


def local_hub(folder: Path, splits: dict[str, str]) -> HubConfig:
    """A data set that the library loads from disk as it would from the hub."""
    folder.mkdir()
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    return HubConfig(name=str(folder))


def test_a_data_set_with_all_splits(tmp_path: Path) -> None:
    rows = {
        "train": '{"de": "eins", "en": "one"}\n{"de": "zwei", "en": "two"}\n',
        "validation": '{"de": "drei", "en": "three"}\n',
        "test": '{"de": "vier", "en": "four"}\n',
    }
    config = Config(data=DataConfig(hub=local_hub(tmp_path / "set", rows)))
    report = prepare_corpus(config, tmp_path / "run")
    assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (2, 1, {"test": 1})
    assert load_split(config.data, tmp_path / "run", "test") == Corpus(["vier"], ["four"])


def test_a_data_set_with_one_split(tmp_path: Path) -> None:
    rows = "".join(f'{{"translation": {{"de": "s {i}", "en": "t {i}"}}}}\n' for i in range(20))
    hub = local_hub(tmp_path / "one", {"train": rows})
    hub = HubConfig(name=hub.name, valid="", test="")
    config = Config(data=DataConfig(hub=hub, held_out=4))
    report = prepare_corpus(config, tmp_path / "run")
    assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (12, 4, {"test": 4})
    train = load_split(config.data, tmp_path / "run", "train")
    assert [s.replace("s", "t") for s in train.src] == train.tgt


def test_a_misspelt_split_of_a_data_set(tmp_path: Path) -> None:
    hub = local_hub(tmp_path / "set", {"train": '{"de": "eins", "en": "one"}\n'})
    config = Config(data=DataConfig(hub=HubConfig(name=hub.name, train="trian")))
    with pytest.raises(UserError, match=r"split 'trian'.*train"):
        prepare_corpus(config, tmp_path / "run")


def test_an_unreachable_hub_is_one_line_at_once(tmp_path: Path) -> None:
    """In a process of its own: the library reads its environment when it is imported."""
    config = tmp_path / "hub.toml"
    config.write_text('[data.hub]\nname = "some/set"\n', encoding="utf-8")
    environment = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-m", "seq2seq", "prepare", "--config", config, "--run", tmp_path / "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "some/set: the Hugging Face hub cannot be reached" in done.stderr
    assert "--data.directory" in done.stderr


# --- several test sets, gold alignments, tags ---


def annotated(folder: Path, **more: bytes) -> Config:
    """Two test sets, of which "second" brings an alignment and tags; so does training."""
    content = FULL | {
        "second_de": b"ein Haus\nein rotes Haus\n", "second_en": b"a house\na red house\n",
        "second_tags": b"short\nshort colour\n",
        "second_de-en_align": b"0-0 1-1\n2-2 0-0 1-1\n",
        "train_de": b"eins\n\nzwei\n", "train_en": b"one\n\ntwo\n",
        "train_tags": b"a\nb\nc\n", "train_de-en_align": b"0-0\n\n0-0\n",
    }  # fmt: skip
    config = files(folder, **(content | more))
    return replace(config, data=replace(config.data, test="test second"))


def gold(config: Config, run: Path, split: str) -> tuple[object, object]:
    """What a run folder knows of a split: alignment and tags."""
    corpus = load_split(config.data, run, split)
    return load_alignment(run, split, corpus), load_tags(run, split, corpus)


def test_several_test_sets_keep_their_names(tmp_path: Path) -> None:
    config = annotated(tmp_path / "c")
    report = prepare_corpus(config, tmp_path / "run")
    assert report.test_pairs == {"test": 1, "second": 2}
    assert load_split(config.data, tmp_path / "run", "second").tgt == ["a house", "a red house"]


def test_alignments_and_tags_come_along(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = annotated(tmp_path / "c")
    prepare_corpus(config, run)
    assert gold(config, run, "second") == (
        [parse_links("0-0 1-1"), parse_links("0-0 1-1 2-2")],
        [["short"], ["short", "colour"]],
    )
    assert gold(config, run, "test") == gold(config, run, "valid") == (None, None)


def test_alignments_and_tags_leave_with_their_corpus(tmp_path: Path) -> None:
    run = tmp_path / "run"
    prepare_corpus(annotated(tmp_path / "c"), run)
    config = files(tmp_path / "d", **FULL, second_de=b"x\n", second_en=b"x\n")
    config = replace(config, data=replace(config.data, test="second"))
    prepare_corpus(config, run)
    assert gold(config, run, "second") == (None, None)


def test_an_alignment_is_turned_where_the_languages_are(tmp_path: Path) -> None:
    config = annotated(tmp_path / "c", **{"second_de-en_align": b"0-1\n2-1 0-2\n"})
    turned = replace(config, data=replace(config.data, src="en", tgt="de"))
    prepare_corpus(turned, tmp_path / "run")
    links = [frozenset({(1, 0)}), frozenset({(1, 2), (2, 0)})]
    assert gold(turned, tmp_path / "run", "second")[0] == links


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("second_de-en_align", b"0-0\n", r"second\.de-en\.align has 1 lines for 2 sentence pairs"),
        ("second_tags", b"a\nb\nc\n", r"second\.tags has 3 lines for 2 sentence pairs"),
        ("second_de-en_align", b"0-0\n0-0 1:1\n", r"align, line 2: not an alignment like 0-0 1-2"),
        ("second_de-en_align", b"-1-0\n0-0\n", r"align, line 1: not an alignment like 0-0 1-2"),
        ("second_de-en_align", b"0-0\n0-3\n", r"align, line 2: the link 0-3 is outside of 3 and 3"),
        ("second_de-en_align", b"2-0\n0-0\n", r"align, line 1: the link 2-0 is outside of 2 and 2"),
        ("second_en-de_align", b"0-0\n0-0\n", r"align and .*align: two alignments of the same"),
    ],
)
def test_annotations_that_do_not_fit(
    tmp_path: Path, name: str, text: bytes, complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        prepare_corpus(annotated(tmp_path / "c", **{name: text}), tmp_path / "run")


def test_annotations_of_a_run_that_were_changed(tmp_path: Path) -> None:
    config, run = annotated(tmp_path / "c"), tmp_path / "run"
    prepare_corpus(config, run)
    (run / "corpus" / "second.align").write_bytes(b"0-0\nx\n")
    with pytest.raises(UserError, match=r"second\.align, line 2: not an alignment"):
        gold(config, run, "second")
    (run / "corpus" / "second.align").unlink()
    (run / "corpus" / "second.tags").write_bytes(b"a\n")
    with pytest.raises(UserError, match=r"second\.tags has 1 lines for 2"):
        gold(config, run, "second")


def test_a_report_of_an_older_version_is_read(tmp_path: Path) -> None:
    report = {"source": "x", "train_pairs": 1, "valid_pairs": 1, "empty_pairs_left_out": 0}
    path = tmp_path / "corpus" / "report.json"
    path.parent.mkdir()
    path.write_text(json.dumps(report | {"test_pairs": 7, "test_name": "x"}), encoding="utf-8")
    assert load_report(tmp_path).test_pairs == {"test": 7}
    damaged: tuple[object, ...] = (report, {"test_name": "x"}, [], 3)
    for broken in damaged:
        path.write_text(json.dumps(broken), encoding="utf-8")
        with pytest.raises(UserError, match=r"not a report that|damaged"):
            load_report(tmp_path)


@settings(deadline=None, max_examples=150)
@given(
    split=st.sampled_from(SPLITS),
    src=st.lists(st.binary(max_size=12), max_size=6),
    tgt=st.lists(st.binary(max_size=12), max_size=6),
    notes=st.one_of(st.none(), st.binary(max_size=20), st.from_regex(r"(\d-\d ?|\n){0,9}")),
)
def test_no_corpus_breaks_it(
    tmp_path_factory: pytest.TempPathFactory,
    split: str,
    src: list[bytes],
    tgt: list[bytes],
    notes: bytes | str | None,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    write_corpus(folder, {"train": 5, "valid": 5, "test": 5})
    (folder / f"{split}.src").write_bytes(b"\n".join(src))
    (folder / f"{split}.tgt").write_bytes(b"\n".join(tgt))
    if notes is not None:
        raw = notes if isinstance(notes, bytes) else notes.encode()
        (folder / "test.src-tgt.align").write_bytes(raw)
        (folder / "test.tags").write_bytes(raw)
    data = DataConfig(src="src", tgt="tgt", directory=str(folder))
    complaint = ""
    try:
        prepare(Config(data=data, tokenizer=TokenizerConfig(vocab_size=272)), folder / "run")
    except UserError as error:
        complaint = str(error)
    assert len(complaint.splitlines()) <= 1
    if complaint or split == "train":
        return
    text = b"\n".join(src).removeprefix(b"\xef\xbb\xbf")
    n_lines = text.count(b"\n") + (not text.endswith(b"\n") and text != b"")
    assert len(load_split(data, folder / "run", split)) == n_lines
