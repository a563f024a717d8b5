"""Every form that a corpus may have, written by the standard writers; what is taken is said."""

import csv
import gzip
import json
import os
import re
import socket
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from xml.sax.saxutils import escape

import datasets
import pytest
from conftest import Capture, Patch, write_lines
from hypothesis import given, settings
from hypothesis import strategies as st

from seq2seq.cli import main
from seq2seq.config import DataConfig
from seq2seq.data.corpus import load_split
from seq2seq.data.prepare import prepare_corpus
from seq2seq.data.sources import open_corpus, read_pairs
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError

Pairs = list[tuple[str, str]]
PAIRS = [('eins, "zwei"; drei', "one 'two'"), ("Straße 中", "x"), ("La de", "in\u2028a")] * 20


def write(path: Path, pairs: Pairs, names: tuple[str, str] = ("de", "en")) -> DataConfig:
    """By the standard writer of the format that the name says."""
    rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    opened = gzip.open if path.suffix == ".gz" else open
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        datasets.Dataset.from_list(rows).to_parquet(str(path))
    elif kind == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(str(path))
    elif kind == "prefix":
        for side, name in enumerate(names):
            write_lines(path.with_name(f"{path.name}.{name}"), [pair[side] for pair in pairs])
    else:
        with opened(path, "wt", encoding="utf-8", newline="") as file:
            if kind == "jsonl":
                file.writelines(json.dumps({"translation": row}) + "\n" for row in rows)
            elif kind == "tmx":
                file.write('<?xml version="1.0"?><!DOCTYPE tmx SYSTEM "tmx14.dtd"><tmx><body>')
                for pair in pairs:
                    for name, text in zip(("DE-at", names[1]), pair, strict=True):
                        file.write("<tu>" * (name == "DE-at") + f'<tuv xml:lang="{name}"><seg>')
                        file.write(escape(text) + "</seg></tuv>" + "</tu>" * (name != "DE-at"))
                file.write("</body></tmx>")
            elif kind == "csv":
                csv.writer(file, delimiter=";" if "semi" in path.name else ",").writerows(
                    [names, *pairs]
                )
            else:
                file.writelines("\t".join((*pair, "ignored")) + "\n" for pair in pairs)
    return DataConfig(path=str(path))


FORMATS = ["x.tsv", "x.txt", "x.csv", "x.semi.csv", "x.jsonl", "x.parquet", "x.tmx", "x.saved",
           "x.prefix", "x.tsv.gz", "x.csv.gz", "x.jsonl.gz", "x.tmx.gz"]  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(tmp_path: Path, name: str) -> None:
    data = write(tmp_path / name, PAIRS)
    reader = open_corpus(data)["train"]
    assert [list(reader()), list(reader())] == [PAIRS, PAIRS]
    assert "60 pairs" in str(reader)


CELLS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]) | st.sampled_from("\t\n,;\"'")
)


@settings(deadline=None, max_examples=60)
@given(
    pairs=st.lists(st.tuples(CELLS, CELLS), min_size=1),
    name=st.sampled_from(["csv", "jsonl", "csv.gz"]),
)
def test_any_cell(pairs: Pairs, name: str, tmp_path_factory: Any) -> None:
    """One line each, whatever is in it; CSV with a header that the writer has put there."""
    reader = open_corpus(write(tmp_path_factory.getbasetemp() / f"any.{name}", pairs))["train"]
    joined = [tuple(cell.replace("\n", " ") for cell in pair) for pair in pairs]
    assert list(reader()) == joined
    assert reader.n_line_breaks == sum("\n" in src + tgt for src, tgt in pairs)


HEADS = [
    ("id,de,en", "", "de = 'de', en = 'en'; 'id' ignored"),
    ("English words/sentences,German words/sentences,n", "", "'German words/sentences', en = 'Eng"),
    ("tgt,source_id,source", "", "de = 'source', en = 'tgt'"),
    ("1,Hallo!,1", "", "de = column 1, en = column 2; column 3 ignored; the first: '1' = 'Hallo!'"),
    ("77,Hallo!,Hi!", "", "de = column 2, en = column 3; column 1 ignored; the first: 'Hallo!' = 'Hi!'"),
    ("Ich kann wenig German,I hardly speak English,x", "", "column 3 ignored; the first: 'Ich"),
    ("a b,c/d,x", "c/d,a b", "de = 'c/d', en = 'a b'; 'x' ignored"),
    ('"a, b",c,x', '"a, b", 3', "de = 'a, b', en = 'x'; 'c' ignored"),
    ("3,2,1", "3,1", "de = column 3, en = column 1; column 2 ignored; the first: '1' = '3'"),
    ("de,en,x", "3,2", "de = 'x', en = 'en'; 'de' ignored"),
    ("Englisch,Deutsch,x", "1,2", "de = 'Englisch', en = 'Deutsch'; 'x' ignored"),
]  # fmt: skip


@pytest.mark.parametrize(("head", "columns", "taken"), HEADS)
def test_columns(tmp_path: Path, head: str, columns: str, taken: str) -> None:
    (tmp_path / "x.csv").write_text(f"{head}\np,q,r\n", encoding="utf-8")
    reader = read_pairs(f"{tmp_path}/x.csv", DataConfig(columns=columns))
    *_, last = rows = list(reader())
    assert taken in str(reader)
    assert len(rows) == 1 + ("the first" in taken)
    places = re.findall(r"(?:de|en) = (?:column (\d)|'(.*?)')", str(reader))
    names = next(csv.reader([head]))
    found = [int(i) - 1 if i else names.index(x) for i, x in places[:2]]
    assert last == tuple("pqr"[i] for i in found)


@pytest.mark.parametrize(
    ("head", "languages", "names"),
    [
        (["Englisch", "Deutsch"], ("de", "en"), {"'Deutsch'", "'Englisch'"}),
        (["sentence", "target"], ("de", "en"), {"'sentence'", "'target'"}),
        (["eng", "DEU"], ("de", "en"), {"'eng'", "'DEU'"}),
        (["English", "Chinese"], ("zh", "en"), {"'Chinese'", "'English'"}),
        (["English", "中文"], ("zh-Hans", "en"), {"'中文'", "'English'"}),
        (["cmn", "eng"], ("en", "zh"), {"'cmn'", "'eng'"}),
        (["Japanese", "fra"], ("fr", "ja"), {"'fra'", "'Japanese'"}),
        (["de", "en"], ("eng", "deu"), {"'de'", "'en'"}),
        (["Hi!", "नमस्ते"], ("en", "hi"), {"column 1", "column 2"}),
        (["It", "Es"], ("it", "en"), {"column 1", "column 2"}),
        (["I speak English", "Ich auch"], ("de", "en"), {"column 1", "column 2"}),
    ],
)
def test_languages(
    tmp_path: Path, head: list[str], languages: tuple[str, str], names: set[str]
) -> None:
    write_lines(tmp_path / "x.tsv", ["\t".join(head), "p\tq"])
    reader = read_pairs(f"{tmp_path}/x.tsv", DataConfig(*languages))
    *_, last = reader()
    taken = re.findall(r"= (column \d|'.*?')", str(reader))[:2]
    assert set(taken) == names
    in_head = ["column 1", "column 2"] if "column 1" in names else [f"'{x}'" for x in head]
    assert last == tuple("pq"[in_head.index(x)] for x in taken)


def test_lines_of_tables(tmp_path: Path) -> None:
    """Empty ones are none, and any line break in a cell is a space."""
    pairs = [("a b", "c"), ("d", "e")]
    for name, text, n in (
        ("x.tsv", "a\rb\tc\n\nd\te\r\n", 1),
        ("x.csv", "de,en\na\rb,c\n\nd,e", 0),
        ("x.jsonl", '{"de": "a\\r\\nb", "en": "c"}\n \n{"de": "d", "en": "e"}\n\n', 1),
    ):
        (tmp_path / name).write_bytes(text.encode())
        reader = read_pairs(f"{tmp_path}/{name}", DataConfig())
        assert (list(reader()), reader.n_line_breaks) == (pairs, n)


def test_separator_is_in_every_line(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("Ja, ja, ja;Yes, yes\nNein;No\n")
    rows = list(read_pairs(f"{tmp_path}/x.csv", DataConfig())())
    assert rows == [("Ja, ja, ja", "Yes, yes"), ("Nein", "No")]


WRONG = [
    ("deu", {}, r"deu\.txt is a table: --data\.path .*deu\.txt"),
    ("a.de", {}, r"one side of two files: --data\.path .*/a$"),
    ("a", {"tgt": "fr"}, r"a\.fr: No such file"),
    ("due.txt", {}, "did you mean 'deu.txt'"),
    ("folder", {}, "no split 'train' in README, deu: --data.train NAME"),
    ("splits", {"train": "a"}, "no split 'test' in a, test_2016: --data.test NAME or ''"),
    ("splits", {"train": "a", "test": "test_2017"}, "no split 'test_2017' in a, test_2016"),
    ("splits", {"train": "a", "test": "", "valid": "validation"}, "no split 'validation'"),
    ("table.xlsx", {}, r"by its name no table.*\.csv"),
    ("empty.tsv", {}, r"empty\.tsv: empty"),
    ("comma.tsv", {}, "no two columns, tab-separated.*'a,b'"),
    ("deu.txt", {"columns": "1,3"}, "columns: no '3': .*; the first row: 'a', 'b'"),
    ("gone.tsv", {"valid": "dev"}, "no file"),
    ("three.tsv", {}, "columns: which .*; the first row: 'id', 'German', 'x'"),
    ("a.json", {}, r"save it as \.jsonl"),
    ("deu.txt", {"columns": "2,2"}, "columns: which"),
    ("head.csv", {"columns": "x y,Germna"}, "columns: no 'Germna'; did you mean 'German'.*the first row: 'x y', 'German'"),
    ("ragged.tsv", {}, r"ragged\.tsv, line 3: 3 columns, not 2"),
    ("open.csv", {}, r"open\.csv, line 4: not comma-separated"),
    ("a.jsonl", {}, r"a\.jsonl, line 3: not JSON lines"),
    ("names.jsonl", {}, "columns: which .* 'x', 'y'"),
    ("number.jsonl", {}, "line 1: not two texts: .*3"),
    ("cut.tsv.gz", {}, r"cut\.tsv\.gz: not gzip, or damaged"),
    ("latin.tsv", {}, r"latin\.tsv, line 1: not UTF-8.*iconv"),
    ("a.parquet", {}, r"a\.parquet: not Parquet"),
    ("cut.tmx", {}, r"cut\.tmx: not TMX"),
    ("bomb.tmx", {}, r"bomb\.tmx: not TMX"),
    ("other.tmx", {}, "its languages are fr, not de and en"),
]  # fmt: skip
BOMB = "".join(f'<!ENTITY x{i} "{f"&x{i - 1};" * 10}">' for i in range(1, 12))
FILES: dict[str, bytes] = {
    "deu.txt": b"a\tb\n" * 9, "a.de": b"a\n", "a.en": b"b\n", "folder/deu.txt": b"a\tb\n" * 9,
    "folder/README.txt": b"hello", "splits/a.tsv": b"a\tb", "splits/test_2016.tsv": b"a\tb\nc\td",
    "table.xlsx": b"a", "empty.tsv": b"", "comma.tsv": b"a,b\n", "head.csv": b"x y,German\na,b\n",
    "ragged.tsv": b"a\tb\n\na\tb\tc\n", "open.csv": b'de,en\n"a\n",b\n"a,b\n', "a.jsonl": b'{"de":"","en":""}\n\n3',
    "three.tsv": b"id\tGerman\tx", "a.json": b"[]",
    "names.jsonl": b'{"x":"","y":""}', "number.jsonl": b'{"de":"","en":3}', "latin.tsv": b"\xe4\tb",
    "cut.tsv.gz": gzip.compress(b"a\tb\n" * 9)[:-9], "a.parquet": b"PAR1", "cut.tmx": b"<tmx><body><tu>",
    "other.tmx": b"<tmx><body><tu><tuv lang='fr'><seg>a</seg></tuv></tu></body></tmx>",
    "bomb.tmx": f'<!DOCTYPE tmx [<!ENTITY x0 "{"x" * 99}">{BOMB}]><tmx>&x11;</tmx>'.encode(),
}  # fmt: skip


@pytest.mark.parametrize(("name", "changes", "message"), WRONG)
def test_unsuitable_input(tmp_path: Path, name: str, changes: dict[str, Any], message: str) -> None:
    for path, content in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(content)
    with pytest.raises(UserError, match=message) as caught:
        list(open_corpus(DataConfig(path=str(tmp_path / name), **changes))["train"]())
    assert "\n" not in str(caught.value)


def test_tmx_with_codes_and_other_languages(tmp_path: Path) -> None:
    unit = '<tu><tuv xml:lang="fr"><seg>x</seg></tuv><tuv lang="{}"><seg>{}</seg></tuv></tu>'
    side = '<tu><tuv xml:lang="de"><seg>Ein <bpt i="1">&lt;b&gt;</bpt><hi>Haus</hi>\n!</seg></tuv>'
    text = side + '<tuv xml:lang="EN-US"><seg>a &amp; b</seg></tuv></tu>' + unit.format("de", "y")
    for start in ("<tmx>", '<tmx xmlns="http://www.lisa.org/tmx14">'):
        (tmp_path / "x.tmx").write_bytes(f"{start}<body>{text}</body></tmx>".encode("utf-16"))
        reader = read_pairs(f"{tmp_path}/x.tmx", DataConfig())
        assert list(reader()) == [("Ein Haus !", "a & b"), ("y", "")]
        assert reader.n_line_breaks == 1


@pytest.mark.slow
def test_tmx_may_be_larger_than_memory(tmp_path: Path) -> None:
    reader = read_pairs(write(tmp_path / "x.tmx", PAIRS * 200).path, DataConfig())
    tracemalloc.start()
    assert sum(1 for _ in reader()) == 200 * len(PAIRS)
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


# --- folders and what splits are called ---


def test_splits_in_a_folder(tmp_path: Path) -> None:
    """Tables beside line-aligned files; a validation split by another name; none for testing."""
    run, folder = RunFolder(tmp_path / "run"), tmp_path / "corpus"
    folder.mkdir()
    write(folder / "train.csv", [(f"satz {i}", str(i)) for i in range(50)])
    (folder / "train.csv").rename(folder / "first.csv")
    for side in ("de", "en"):
        write_lines(folder / f"dev.{side}", [f"{side} dev"])
    data = DataConfig(path=str(folder), train="first")
    assert sorted(open_corpus(data)) == ["train", "valid"]
    report = prepare_corpus(data, run)
    assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (45, 1, {"test": 5})
    assert load_split(run, data, "valid").src == ["de dev"]
    assert "dev.de" in str(report)
    assert "test split: 5 pairs (10.0%)" in str(report)


def test_tags_beside_tables(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.tsv", PAIRS)
        (tmp_path / f"{split}.tsv").rename(tmp_path / f"{split}.TSV")
        write_lines(tmp_path / f"{split}.tags", ["t"] * 60)
    run = RunFolder(tmp_path / "run")
    prepare_corpus(DataConfig(path=str(tmp_path)), run)
    assert sorted(path.name for path in run.corpus.glob("*.tags")) == ["test.tags", "valid.tags"]


# --- the hub ---

HUB = DataConfig(path="some/set")


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: Patch) -> Iterator[None]:
    """Neither the network nor the user's cache is touched."""
    attempts: list[object] = []
    monkeypatch.setattr(socket.socket, "connect", lambda *address: attempts.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *address, **_: attempts.append(address))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    yield
    assert not attempts
    assert "HF_HUB_OFFLINE" not in os.environ


def saved(folder: Path, **splits: list[str]) -> datasets.DatasetDict:
    rows = {
        name: [{"translation": {"de": x, "en": x}} for x in words] for name, words in splits.items()
    }
    made = datasets.DatasetDict({name: datasets.Dataset.from_list(x) for name, x in rows.items()})
    made.save_to_disk(str(folder))
    return made


@pytest.mark.usefixtures("no_network")
def test_data_set(tmp_path: Path, monkeypatch: Patch) -> None:
    """Saved in a folder or, the same, on the hub."""
    run, words = RunFolder(tmp_path / "run"), [str(i) for i in range(40)]
    made = saved(tmp_path / "set", train=words, validation=["c"], test=["d"])
    load = Mock(side_effect=lambda *_, split, revision: made["train"] if split else made)
    monkeypatch.setattr(datasets, "load_dataset", load)
    for path in (str(tmp_path / "set"), "some/set"):
        data = DataConfig(path=path, n_held_out=3, subset="news", revision="abc")
        report = prepare_corpus(data, run)
        assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (40, 1, {"test": 1})
        assert load_split(run, data, "test").tgt == ["d"]
        report = prepare_corpus(replace(data, valid="", test=""), run)
        assert (report.train_pairs, report.valid_pairs, report.test_pairs) == (34, 3, {"test": 3})
        with pytest.raises(UserError, match="no split 'trian' in train, validation, test"):
            open_corpus(replace(data, train="trian"))
    load.assert_called_with("some/set", "news", split=None, revision="abc")
    part = open_corpus(DataConfig(path="some/set", test="test[:50%]"))["test[:50%]"]
    load.assert_called_with("some/set", None, split="test[:50%]", revision=None)
    assert len(list(part())) == 40  # what the library made of that


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kind", [ConnectionError, FileNotFoundError])
def test_unreachable_hub_is_one_line(monkeypatch: Any, kind: type[OSError]) -> None:
    error = kind("Couldn't reach\nthe hub: LocalEntryNotFoundError: check your connection")
    monkeypatch.setattr(datasets, "load_dataset", Mock(side_effect=error))
    with pytest.raises(
        UserError, match=r"\Asome/set: .*check the name, or go online.*reach the hub"
    ):
        open_corpus(HUB)


# --- what is counted ---


def test_report(tmp_path: Path, capsys: Capture) -> None:
    """Each count against a corpus made for it; ``inspect`` says the same, and writes nothing."""
    words = [f"wort{i} " * (1 + i % 7) for i in range(200)]
    good = [(f"das {x}{i}", f"the {x}{i}") for i, x in enumerate(words)]
    bad = [
        good[0], good[0], ("gleich", "gleich"), ("kurz", "long " * 9), ("a\u00a0b", "a b c"), ("plain", "so\u00adft"), ("a\u0308", "b c"),
        ("Hallo du", "Hello CC-BY 2.0 (France)"), ("w " * 300, "v " * 300), ("auch in test", "something"),
        ("etwas", "also in valid"), ("", "nothing"), ("zwei\nZeilen", "two lines"), ("a\tb", "c\td"),
    ]  # fmt: skip
    write(tmp_path / "train.csv", [*good, *bad])
    write(tmp_path / "valid.csv", [("x", "also in valid"), ("neu", "new")])
    tests = [("auch in test", "y"), ("auch in test", "something"), ("neu", "new")]
    write(tmp_path / "test.csv", tests)
    data, run = DataConfig(path=str(tmp_path)), RunFolder(tmp_path / "run")
    report = prepare_corpus(data, run)
    expected = {
        "repeat another": 2, "equal": 1, "as long": 1, "read as others": 4, "attribution": 2,
        "more than 256 words": 1, "of test": 2, "of valid": 1, "line break": 1,
    }  # fmt: skip
    assert {key: [n for what, n in report.found.items() if key in what] for key in expected} == {
        key: [n] for key, n in expected.items()
    }
    assert len(report.found) == len(expected)
    assert report.train_pairs == 213
    assert "NFC" in report.normalization
    before = sorted(tmp_path.rglob("*"))
    capsys.readouterr()
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{report}\n\nde: ")
    assert len(re.findall(r"^de: .*\nen: ", out, re.MULTILINE)) == 10
    assert sorted(tmp_path.rglob("*")) == before


def test_shifted_lines(tmp_path: Path) -> None:
    """Their lengths do not go together; those of other languages do, however many characters."""
    sides = [("我" * (3 + i * 37 % 23), "Wort " * (3 + i * 37 % 23)) for i in range(150)]
    run = RunFolder(tmp_path / "run")
    for shift in (0, 1):
        pairs = [(sides[i][0] + str(i), sides[(i + shift) % 150][1] + str(i)) for i in range(150)]
        found = prepare_corpus(write(tmp_path / f"{shift}.tsv", pairs), run).found
        assert [n for what, n in found.items() if "shifted" in what] == [120] * shift
        assert [n for what, n in found.items() if "as long" in what] == [] or shift


def test_overlap_is_dropped(tmp_path: Path) -> None:
    """Of training, with a split that is there and with one that is held out."""
    run, folder = RunFolder(tmp_path / "run"), tmp_path / "corpus"
    folder.mkdir()
    pairs = [(f"satz {i}", f"sentence {i // 2}") for i in range(100)]  # targets twice
    write(folder / "train.csv", pairs)
    write(folder / "valid.csv", [("satz 7", "x"), ("y", "sentence 10")])
    data = DataConfig(path=str(folder), drop_overlap=True)
    report = prepare_corpus(data, run)
    train, test = (load_split(run, data, split) for split in ("train", "test"))
    kept = [pair for pair in pairs if pair[0] not in {*test.src, "satz 7"}]
    kept = [pair for pair in kept if pair[1] not in {*test.tgt, "sentence 10"}]
    assert list(zip(train.src, train.tgt, strict=True)) == kept
    assert report.overlapping_pairs_left_out == 100 - len(test) - len(kept) > 0
    assert not report.found
    assert prepare_corpus(replace(data, drop_overlap=False), run).train_pairs == 90


def test_splits_that_a_single_file_cannot_have(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "x.tsv"
    path.write_text("eins\tone\n" * 20, encoding="utf-8")
    data = DataConfig(path=str(path), columns="1,2", valid="dev", test="test2016")
    assert open_corpus(data).keys() == {"train"}
    said = capsys.readouterr().err
    assert "data.valid = 'dev'" in said
    assert "data.test = 'test2016'" in said
