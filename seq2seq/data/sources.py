"""Where a corpus comes from: text files, a table, TMX, a folder saved by ``datasets``, the hub.

Which of them it is, is found out and said. Text is read here line by line, so that a message names
the row and nothing is copied into a cache; ``datasets`` reads what is its own.
"""

import csv
import re
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from locale import locale_alias
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import msgspec

from seq2seq.config import DataConfig
from seq2seq.data.corpus import Pair, file_pairs
from seq2seq.shipped import make_tandem
from seq2seq.utils import UserError, did_you_mean, iter_lines, open_packed, warn

Cells = list[str] | dict[str, Any]  # by name where columns have one
Rows = Callable[[], Iterator[tuple[int, Cells]]]  # with the numbers of their (last) lines

KINDS = {"\t": "tab-separated", ",": "comma-separated", ";": "semicolon-separated"}
KINDS |= {".jsonl": "JSON lines", ".parquet": "Parquet", ".tmx": "TMX"}
TABLES = (".tsv", ".csv", ".jsonl", ".parquet", ".tmx", ".txt")
ENDINGS = tuple(x + gz for gz in ("", ".gz") for x in (*TABLES, *map(str.upper, TABLES)))
VALID = ("valid", "validation", "val", "dev")  # what data.valid = "valid" may be called
SAVED = ("state.json", "dataset_dict.json")  # in folders that `datasets` wrote
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"
LINE_BREAK = re.compile("\r\n?|\n")
# After a language's usual code its longer ones, and a name that locale_alias lacks.
LANGUAGES = """ar ara, bg bul, bn ben bengali, ca cat, cs ces cze, da dan, de deu ger, el ell gre,
en eng, es spa, et est, fa fas per persian, fi fin, fr fra fre, he heb, hi hin hindi, hu hun,
id ind indonesian, it ita, ja jpn, ko kor, nl nld dut, pl pol, pt por, ro ron rum, ru rus, sv swe,
th tha, tr tur, uk ukr ukrainian, ur urd urdu, vi vie vietnamese, zh zho cmn chi chinese mandarin"""
CODES = {name: locale.split("_")[0] for name, locale in locale_alias.items()}
CODES |= {word: code for code, *words in map(str.split, LANGUAGES.split(",")) for word in words}


class PairReader:
    """Reads a split, which may be larger than memory, from its beginning at each call."""

    def __init__(self, path: str, kind: str, which: str, read: Callable[[], Iterator[Pair]]):
        self.path, self.kind, self.which, self._read = path, kind, which, read
        self.n_pairs = self.n_line_breaks = 0  # of the last call

    def __call__(self) -> Iterator[Pair]:
        self.n_pairs = self.n_line_breaks = 0
        for src, tgt in self._read():
            self.n_pairs += 1
            pair = LINE_BREAK.sub(" ", src), LINE_BREAK.sub(" ", tgt)  # a sentence is one line
            self.n_line_breaks += pair != (src, tgt)
            yield pair

    def __str__(self) -> str:
        """What was taken, once it has been read."""
        return f"{self.path}: {self.kind}, {self.n_pairs:,} pairs: {self.which}"


def open_corpus(data: DataConfig) -> dict[str, PairReader]:
    """A reader of each split: ``train``, and ``valid`` and test sets if there are any.

    ``UserError`` if there is no such corpus, or it lacks a split that ``data`` names; what is wrong
    within a split, its reader finds.
    """
    make_tandem(data.path)
    if prefixes := split_prefixes(data):
        return {x: read_pairs(_split_file(prefix, data), data) for x, prefix in prefixes.items()}
    if not Path(data.path).is_dir() and not is_hub_name(data.path):
        train = read_pairs(data.path, data)
        for key in ("train", "valid", "test"):
            if (name := getattr(data, key)) not in (key, ""):
                warn(
                    f"{data.path}: not a folder of splits: data.{key} = {name!r} is not looked for"
                )
        return {"train": train}
    loaded = _load(data)
    loaded = loaded if isinstance(loaded, dict) else {"train": loaded}
    names = _split_names(data, list(loaded))
    rows = {x: loaded[name] if name in loaded else _load(data, name) for x, name in names.items()}
    paths = {x: f"{data.path}, {name}" for x, name in names.items()}
    return {x: _table(paths[x], "a data set", partial(enumerate, rows[x], 1), data) for x in names}


def is_hub_name(path: str) -> bool:
    """Whether it is OWNER/NAME, and neither a table nor in a folder that is here."""
    is_local = Path(path).exists() or Path(path).parent.exists() or path.endswith(ENDINGS)
    return not is_local and bool(re.fullmatch(r"\w[\w.-]*/[\w.-]+", path))


def split_prefixes(data: DataConfig) -> dict[str, Path]:
    """What the names of each split's files start with; nothing if the corpus is no such folder."""
    folder = Path(data.path)
    if not folder.is_dir() or any(map(Path.is_file, map(folder.joinpath, SAVED))):
        return {}
    ends = (f".{data.src}", f".{data.tgt}", *ENDINGS)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    there = [name.removesuffix(end) for name in names for end in ends if name.endswith(end)]
    splits = _split_names(data, list(dict.fromkeys(there)))
    return {split: folder / name for split, name in splits.items()}


def _split_file(prefix: Path, data: DataConfig) -> str:
    """What ``read_pairs`` reads of a split with this prefix; empty if it is not there."""
    if any(Path(f"{prefix}.{language}").exists() for language in (data.src, data.tgt)):
        return str(prefix)
    return next((f"{prefix}{end}" for end in ENDINGS if Path(f"{prefix}{end}").exists()), "")


def _split_names(data: DataConfig, there: list[str]) -> dict[str, str]:
    """What each split is called at its source; only ``valid`` and ``test`` may be missing."""
    is_folder = Path(data.path).is_dir()  # on the hub, it may be a part: test[:50%]
    valid = next((x for x in VALID if x in there), "") if data.valid == "valid" else data.valid
    names = {"train": data.train, "valid": valid} | {name: name for name in data.test.split()}
    if data.test == "test" and not any(x.startswith("test") for x in there):
        del names["test"]
    for split, name in names.items():
        if name and (name if is_folder else re.split(r"[\[+]", name)[0]) not in there:
            key = split if split in ("train", "valid") else "test"
            how = f"--data.{key} NAME" + " or ''" * (key != "train")
            raise UserError(f"{data.path}: no split {name!r} in {', '.join(there) or 'it'}: {how}")
    return {split: name for split, name in names.items() if name}


def read_pairs(path: str, data: DataConfig) -> PairReader:
    """The pairs in a table, in a TMX file, or in ``PREFIX.SRC`` and ``PREFIX.TGT``.

    ``UserError`` if there is no such file, or its columns are not known.
    """
    file, sides = Path(path), [Path(f"{path}.{language}") for language in (data.src, data.tgt)]
    flag = "--data.path" if data.path else "--on"  # of evaluate, which is for no corpus
    if any(side.exists() for side in sides):
        which = f"{data.src} = {sides[0].name}, {data.tgt} = {sides[1].name}"
        return PairReader(path, "line by line", which, partial(file_pairs, *sides))
    if file.is_dir() or not file.exists():
        siblings = () if file.exists() else file.parent.glob("*")
        guess = did_you_mean(file.name, [x.name for x in siblings])
        if table := _split_file(file, data):
            guess = f"; {table} is a table: {flag} {shlex.quote(table)}"
        problem = f"{flag} takes a table, or PREFIX of PREFIX.{data.src} and PREFIX.{data.tgt}"
        if data.path:
            problem, guess = "no file, no folder with a corpus", guess or "; on the hub: OWNER/NAME"
        raise UserError(f"{path}: {problem}{guess}")
    kind = Path(file.name.removesuffix(".gz")).suffix.lower()
    if kind == ".tmx":
        return PairReader(path, "TMX", f"{data.src}, {data.tgt}", partial(_tmx_pairs, file, data))
    if kind not in TABLES:
        how = f"by its name no table, which end in {', '.join(TABLES)} or .gz"
        if kind[1:] in (data.src, data.tgt):
            how = f"one side of two files: {flag} {shlex.quote(path.removesuffix(kind))}"
        how = "save it as .jsonl, an object a line" if kind == ".json" else how
        raise UserError(f"{path}: {how}")
    if kind == ".csv":  # by what is in every line
        lines = list(islice(iter_lines(file), 50)) or [""]
        kind = max(",;\t", key=lambda separator: min(line.count(separator) for line in lines))
    kind = kind if kind in KINDS else "\t"
    return _table(path, KINDS[kind], partial(_rows, file, kind), data)


def _table(path: str, kind: str, rows: Rows, data: DataConfig) -> PairReader:
    """A reader of the columns that ``data`` or a header names, or else of the first with text."""

    def unpacked() -> Iterator[tuple[int, Cells]]:
        for number, row in rows():
            nested = row.get("translation") if isinstance(row, dict) else None
            yield number, nested if isinstance(nested, dict) else row

    first: Cells = next(unpacked(), (0, []))[1]
    if len(cells := list(first)) < 2:
        how = f"two files line by line are PREFIX.{data.src} and PREFIX.{data.tgt}"
        problem = f"no two columns, {kind}, but {cells!r:.60}; {how}" if cells else "empty"
        raise UserError(f"{path}: {problem}")
    unit = "row" if kind in (KINDS[".parquet"], "a data set") else "line"
    places, has_names = _choose_columns(path, first, data)
    names = [f"{x!r:.40}" if has_names else f"column {i}" for i, x in enumerate(cells, 1)]
    which = f"{data.src} = {names[places[0]]}, {data.tgt} = {names[places[1]]}"
    if rest := [name for i, name in enumerate(names) if i not in places]:
        which += f"; {', '.join(rest[:3])}{' ...' * (len(rest) > 3)} ignored"
    if not has_names:
        which += "; the first: " + " = ".join(repr(cells[i][:40]) for i in places)

    def pairs() -> Iterator[Pair]:
        for number, row in islice(unpacked(), int(has_names and isinstance(first, list)), None):
            if isinstance(row, list) and len(row) != len(cells):
                problem = f"{len(row)} columns, not {len(cells)} as in the first row"
                raise UserError(f"{path}, {unit} {number}: {problem}")
            both = [row[i] if isinstance(row, list) else row.get(cells[i], 0) for i in places]
            if not all(isinstance(text, str | None) for text in both):
                raise UserError(f"{path}, {unit} {number}: not two texts: {both!s:.60}")
            yield both[0] or "", both[1] or ""

    return PairReader(path, f"{kind}, {len(cells)} columns", which, pairs)


def _choose_columns(path: str, first: Cells, data: DataConfig) -> tuple[list[int], bool]:
    """The places of source and target in a first row, and whether that row names the columns."""
    cells, has_names = list(first), isinstance(first, dict)
    numbers = {str(i): i - 1 for i in range(1, len(cells) + 1)}
    by_name = {cell: i for i, cell in enumerate(cells)} | numbers
    wanted = [x.strip() for x in next(csv.reader([data.columns], skipinitialspace=True))]
    src, tgt = (re.split("[-_]", x.lower())[0] for x in (data.src, data.tgt))
    roles = [{data.src, CODES.get(src, src), "src", "source"}]
    roles += [{data.tgt, CODES.get(tgt, tgt), "tgt", "target"}]
    found = [[i for i, cell in enumerate(cells) if _names(cell, role)] for role in roles]
    places = [min(x, key=lambda i: len(cells[i]), default=-1) for x in found]
    is_header = -1 not in places and places[0] != places[1]
    if min(places) < 0 <= (known := max(places)):  # "it" and "hi" are codes, "It" and "Hi!" words
        is_header = bool(re.fullmatch(r"[\w-]{4,}|[a-z]+|[A-Z]+", cells[known]))
        if is_header and len(cells) == 2:
            places = [1 - known if place < 0 else place for place in places]
    if wanted:
        places = [by_name.get(x, -1) for x in wanted]
        has_names = has_names or any(x not in numbers for x in wanted)
    elif not (is_header or has_names):
        texts = [i for i, cell in enumerate(cells) if not cell.strip().isdecimal()]
        places = (texts if len(texts) > 1 else [0, 1])[:2]
    if -1 in places or places[0] == places[1]:
        there = ", ".join(f"{cell!r:.40}" for cell in cells)
        unknown = [f"no {x!r}{did_you_mean(x, cells)}" for x in wanted if x not in by_name]
        bad = unknown[0] if unknown else "which are they?"
        how = f"--data.columns takes two, for {data.src} and {data.tgt}, by name or number"
        raise UserError(f"{path}: columns: {bad.removesuffix('?')}: {how}; the first row: {there}")
    return places, has_names or is_header


def _names(cell: str, role: set[str]) -> bool:
    """Whether a cell names a column of this role: ``de``, ``text_de``, ``German``, ``source``."""
    words = re.split(r"[\W_]+", cell.lower())
    return len(words) < 4 and not role.isdisjoint((cell, *words, *map(CODES.get, words)))


def _rows(path: Path, kind: str) -> Iterator[tuple[int, Cells]]:
    """The rows of a table; ``kind`` is its separator or the ending of its name."""
    number, decode = 0, msgspec.json.Decoder(dict[str, Any]).decode

    def lines() -> Iterator[str]:
        nonlocal number
        for number, line in enumerate(iter_lines(path), start=1):  # noqa: B007
            yield line

    try:
        if kind == ".parquet":
            import pyarrow.parquet

            with open_packed(path) as file:
                batches = pyarrow.parquet.ParquetFile(file).iter_batches(4096)
                yield from enumerate((row for x in batches for row in x.to_pylist()), start=1)
        elif kind in ("\t", ".jsonl"):  # with tabs, quotes are characters
            parse = decode if kind == ".jsonl" else lambda line: line.split("\t")
            yield from ((number, parse(line)) for line in lines() if line.strip(" "))
        else:  # as in RFC 4180
            text = (line.replace("\r", " ") + "\n" for line in lines())
            rows = csv.reader(text, delimiter=kind, strict=True)
            yield from ((number, row) for row in rows if row)
    except (csv.Error, ValueError, RecursionError) as error:  # ValueError: msgspec's, pyarrow's
        reason, where = " ".join(str(error).split())[:200], f", line {number}" if number else ""
        raise UserError(f"{path}{where}: not {KINDS[kind]}: {reason}") from None


def _tmx_pairs(path: Path, data: DataConfig) -> Iterator[Pair]:
    """The units of a translation memory; a language that a unit lacks is an empty sentence."""
    src, tgt, there = data.src.lower(), data.tgt.lower(), set[str]()
    body = ElementTree.Element("body")
    try:
        with open_packed(path) as file:
            for event, element in ElementTree.iterparse(file, ("start", "end")):
                name = element.tag.rpartition("}")[2]  # without a namespace
                body = element if name == "body" else body
                if (event, name) != ("end", "tu"):
                    continue
                unit: dict[str, str] = {}
                for side in element.iterfind("{*}tuv"):
                    language = side.get(XML_LANG, side.get("lang", "")).lower()
                    for code in side.iterfind("{*}seg/*"):
                        code.text = code.text if code.tag.endswith("hi") else ""  # a program's
                    text = "".join("".join(x.itertext()) for x in side.iterfind("{*}seg")).strip()
                    unit = {language: text, language.partition("-")[0]: text} | unit
                there |= unit.keys()
                yield unit.get(src, ""), unit.get(tgt, "")
                body.clear()  # what has been read needs no memory
    except ElementTree.ParseError as error:  # entities that grow without end, too
        raise UserError(f"{path}: not TMX: {error}") from None
    if not {src, tgt} <= there:
        languages = ", ".join(sorted(there)) or "none"
        raise UserError(f"{path}: its languages are {languages}, not {data.src} and {data.tgt}")


def _load(data: DataConfig, split: str | None = None) -> Any:
    """A data set, or several by name: from a folder, the hub, or the library's cache of it."""
    import datasets  # here, because it takes seconds and few commands need it

    datasets.disable_progress_bars()
    try:
        if Path(data.path).is_dir():
            return datasets.load_from_disk(data.path)
        subset, revision = data.subset or None, data.revision or None
        return datasets.load_dataset(data.path, subset, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds, all of them the user's
        reason = " ".join(str(error).split())[:300]
        how = "neither files nor a data set (check the name, or go online)"
        raise UserError(f"{data.path}: {how}: {reason}") from None
