"""Where a corpus comes from: text files, a table, TMX, a folder saved by ``datasets``, the hub.

Which of them it is, is found out and said. Text is read here line by line, so that a message names
the line and nothing is copied into a cache; ``datasets`` reads what is its own.
"""

import csv
import re
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
from seq2seq.utils import UserError, did_you_mean, iter_lines, open_packed

Cells = list[str] | dict[str, Any]  # by name where columns have one
Rows = Callable[[], Iterator[tuple[int, Cells]]]  # each with its line or number

KINDS = {"\t": "tab-separated", ",": "comma-separated", ";": "semicolon-separated"}
KINDS |= {".jsonl": "JSON lines", ".parquet": "Parquet", ".tmx": "TMX"}
TABLES = (".tsv", ".csv", ".jsonl", ".parquet", ".tmx", ".txt")
ENDINGS = (*TABLES, *(f"{ending}.gz" for ending in TABLES))
VALID = ("valid", "validation", "val", "dev")  # what data.valid = "valid" may be called
SAVED = ("state.json", "dataset_dict.json")  # in folders that `datasets` wrote
XML_LANG = "{http://www.w3.org/XML/1998/namespace}lang"


class PairReader:
    """Reads a split, which may be larger than memory, from its beginning at each call."""

    def __init__(self, path: str, kind: str, which: str, read: Callable[[], Iterator[Pair]]):
        self.path, self.kind, self.which, self._read = path, kind, which, read
        self.n_pairs = self.n_line_breaks = 0  # of the last call

    def __call__(self) -> Iterator[Pair]:
        self.n_pairs = self.n_line_breaks = 0
        for src, tgt in self._read():
            self.n_pairs += 1
            if "\n" in src or "\n" in tgt:  # in a cell, but one sentence is one line
                self.n_line_breaks += 1
                yield re.sub(r"[\r\n]+", " ", src), re.sub(r"[\r\n]+", " ", tgt)
            else:
                yield src, tgt

    def __str__(self) -> str:
        """What was taken, once it has been read."""
        return f"{self.path}: {self.kind}, {self.n_pairs:,} pairs: {self.which}"


def open_corpus(data: DataConfig) -> dict[str, PairReader]:
    """A reader of each split: ``train``, and ``valid`` and test sets if there are any.

    ``UserError`` if there is no such corpus, or it lacks a split that ``data`` names; what is wrong
    within a split, its reader finds.
    """
    if prefixes := split_prefixes(data):
        return {x: read_pairs(_split_file(prefix, data), data) for x, prefix in prefixes.items()}
    path, is_local = Path(data.path), Path(data.path).exists() or Path(data.path).parent.exists()
    is_hub = not is_local and re.fullmatch(r"\w[\w.-]*/[\w.-]+", data.path)
    if not path.is_dir() and (not is_hub or data.path.endswith(ENDINGS)):
        return {"train": read_pairs(data.path, data)}
    if isinstance(loaded := _load(data), dict):
        names = _split_names(data, lambda x: re.split(r"[\[+]", x)[0] in loaded, list(loaded))
        rows = {x: loaded[y] if y in loaded else _load(data, y) for x, y in names.items()}
    else:
        names, rows = {"train": "its only split"}, {"train": loaded}
    return {
        x: _table(f"{data.path}, {name}", "a data set", partial(enumerate, rows[x], 1), data)
        for x, name in names.items()
    }


def split_prefixes(data: DataConfig) -> dict[str, Path]:
    """What the names of each split's files start with; nothing if the corpus is no such folder."""
    folder = Path(data.path)
    if not folder.is_dir() or any(map(Path.is_file, map(folder.joinpath, SAVED))):
        return {}
    ends = (f".{data.src}", f".{data.tgt}", *ENDINGS)
    sizes = {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}
    names = sorted(sizes, key=lambda name: (-sizes[name], name))  # the largest first
    prefixes = (name.removesuffix(end) for name in names for end in ends if name.endswith(end))
    there = list(dict.fromkeys(prefixes))
    splits = _split_names(data, lambda name: bool(_split_file(folder / name, data)), there)
    return {split: folder / name for split, name in splits.items()}


def _split_file(prefix: Path, data: DataConfig) -> str:
    """What ``read_pairs`` reads of a split with this prefix; empty if it is not there."""
    if any(Path(f"{prefix}.{language}").exists() for language in (data.src, data.tgt)):
        return str(prefix)
    return next((f"{prefix}{end}" for end in ENDINGS if Path(f"{prefix}{end}").exists()), "")


def _split_names(data: DataConfig, has: Callable[[str], bool], there: list[str]) -> dict[str, str]:
    """What each split is called at its source; only ``valid`` and ``test`` may be missing."""
    valid = next(filter(has, VALID), "") if data.valid == "valid" else data.valid
    names = {"train": data.train, "valid": valid} | {name: name for name in data.test.split()}
    if data.test == "test" and not (has("test") or any(x.startswith("test") for x in there)):
        del names["test"]
    for split, name in names.items():
        if name and not has(name):
            key = split if split in ("train", "valid") else "test"
            like = [x for x in there if x.startswith(key)] or there or ["NAME"]
            how = f"--data.{key} {like[0]}" + " or ''" * (key != "train")
            raise UserError(f"{data.path}: no split {name!r} in {', '.join(there) or 'it'}: {how}?")
    return {split: name for split, name in names.items() if name}


def read_pairs(path: str, data: DataConfig) -> PairReader:
    """The pairs in a table, in a TMX file, or in ``PREFIX.SRC`` and ``PREFIX.TGT``.

    ``UserError`` if there is no such file, or its columns are not known.
    """
    file, sides = Path(path), [Path(f"{path}.{language}") for language in (data.src, data.tgt)]
    if any(side.exists() for side in sides):
        which = f"{data.src} = {sides[0].name}, {data.tgt} = {sides[1].name}"
        return PairReader(path, "line by line", which, partial(file_pairs, *sides))
    if file.is_dir() or not file.exists():
        siblings = [x.name for x in file.parent.iterdir()] if file.parent.is_dir() else []
        tables = [x for x in siblings if x.startswith(f"{file.name}.") and x.endswith(ENDINGS)]
        guess = did_you_mean(file.name, siblings) or "; on the hub, it would be OWNER/NAME"
        if tables:
            guess = f"; {tables[0]} is a table: --data.path {file.parent / tables[0]}"
        raise UserError(f"{path}: no file, and no folder with a corpus{guess}")
    kind = Path(file.name.removesuffix(".gz")).suffix.lower()
    if kind == ".tmx":
        return PairReader(path, "TMX", f"{data.src}, {data.tgt}", partial(_tmx_pairs, file, data))
    if kind[1:] in (data.src, data.tgt):
        how = f"is one side of two files: --data.path {path.removesuffix(kind)}"
        raise UserError(f"{path} {how}")
    if kind not in TABLES:
        raise UserError(f"{path}: by its name no table, which end in {', '.join(TABLES)} or .gz")
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
    places, has_names = _choose_columns(path, first, data)
    names = [f"{x!r:.40}" if has_names else f"column {i}" for i, x in enumerate(cells, 1)]
    which = f"{data.src} = {names[places[0]]}, {data.tgt} = {names[places[1]]}"
    if rest := [name for i, name in enumerate(names) if i not in places]:
        which += f"; {', '.join(rest[:3])}{' ...' * (len(rest) > 3)} ignored"
    if not has_names:
        which += "; the first: " + " = ".join(f"{cells[i]!r:.40}" for i in places)

    def pairs() -> Iterator[Pair]:
        for number, row in islice(unpacked(), int(has_names and isinstance(first, list)), None):
            if isinstance(row, list):
                if len(row) != len(cells):
                    problem = f"{len(row)} columns, not {len(cells)} as in the first line"
                    raise UserError(f"{path}, line {number}: {problem}")
                yield row[places[0]], row[places[1]]
                continue
            src, tgt = (row.get(cells[i], 0) for i in places)
            if not (isinstance(src, str | None) and isinstance(tgt, str | None)):
                bad = cells[places[isinstance(src, str | None)]]
                raise UserError(f"{path}, row {number}: no text in column {bad!r}")
            yield src or "", tgt or ""

    return PairReader(path, f"{kind}, {len(cells)} columns", which, pairs)


def _choose_columns(path: str, first: Cells, data: DataConfig) -> tuple[list[int], bool]:
    """The places of source and target in a first row, and whether that row names the columns."""
    cells, has_names = list(first), isinstance(first, dict)
    numbers = {str(i): i - 1 for i in range(1, len(cells) + 1)}
    wanted = [x.strip() for x in next(csv.reader([data.columns], skipinitialspace=True))]
    codes = (re.split("[-_]", x.lower())[0] for x in (data.src, data.tgt))
    roles = [{data.src, next(codes), "src", "source"}, {data.tgt, next(codes), "tgt", "target"}]
    found = [[i for i, cell in enumerate(cells) if _names(cell, role)] for role in roles]
    places = [min(x, key=lambda i: len(cells[i]), default=-1) for x in found]
    is_header = -1 not in places and places[0] != places[1]
    if wanted:
        places = [numbers.get(x, cells.index(x) if x in cells else -1) for x in wanted]
        has_names = has_names or any(x not in numbers for x in wanted)
    elif not (is_header or has_names):
        texts = [i for i, cell in enumerate(cells) if not cell.strip().isdecimal()]
        places = (texts if len(texts) > 1 else [0, 1])[:2]
    if -1 in places or places[0] == places[1]:
        there = ", ".join(f"{cell!r:.40}" for cell in cells)
        unknown = wanted[places.index(-1)] if wanted and -1 in places else None
        bad = f"no {unknown!r}{did_you_mean(unknown, cells)}" if unknown else "which are they?"
        how = f"--data.columns takes two, for {data.src} and {data.tgt}, by name or number, of"
        raise UserError(f"{path}: columns: {bad} {how} {there}")
    return places, has_names or is_header


def _names(cell: str, role: set[str]) -> bool:
    """Whether a cell names a column of this role: ``de``, ``text_de``, ``German``, ``source``."""
    words = re.split(r"[\W_]+", cell.lower())
    codes = [locale_alias.get(word, word).split("_")[0] for word in words]  # of English names
    return len(words) < 4 and not role.isdisjoint((cell, *words, *codes))


def _rows(path: Path, kind: str) -> Iterator[tuple[int, Cells]]:
    """The rows of a table; ``kind`` is its separator or the ending of its name."""
    number = 1
    try:
        if kind == ".parquet":
            import pyarrow.parquet

            with open_packed(path) as file:
                for batch in pyarrow.parquet.ParquetFile(file).iter_batches(4096):
                    yield from enumerate(batch.to_pylist(), number)
                    number += len(batch)
        elif kind == ".jsonl":
            decode = msgspec.json.Decoder(dict[str, Any]).decode
            for number, line in enumerate(iter_lines(path), start=1):
                yield number, decode(line)
        else:  # as in RFC 4180 by commas or semicolons; with tabs, quotes are characters
            lines = (f"{line}\n" for line in iter_lines(path))
            if kind == "\t":
                table = csv.reader(lines, delimiter=kind, quoting=csv.QUOTE_NONE)
            else:
                table = csv.reader(lines, delimiter=kind, strict=True)
            while (row := next(table, None)) is not None:
                number = table.line_num + 1  # of the next one
                if row:
                    yield table.line_num, row
    except (csv.Error, ValueError, RecursionError) as error:  # ValueError: msgspec's, pyarrow's
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path}, line {number}: not {KINDS[kind]}: {reason}") from None


def _tmx_pairs(path: Path, data: DataConfig) -> Iterator[Pair]:
    """The units of a translation memory; a language that a unit lacks is an empty sentence."""
    wanted = [f"{x}-".lower() for x in (data.src, data.tgt)]  # "de-" is the start of "de-at-"
    body, there = ElementTree.Element("body"), set[str]()
    try:
        with open_packed(path) as file:
            for event, element in ElementTree.iterparse(file, ("start", "end")):
                if (event, element.tag) == ("start", "body"):
                    body = element
                elif (event, element.tag) == ("end", "tu"):
                    unit = {}
                    for side in element.iter("tuv"):
                        language = side.get(XML_LANG, side.get("lang", "")).lower() + "-"
                        unit[language] = _segment(side)
                    there |= unit.keys()
                    src, tgt = (
                        next((unit[x] for x in unit if x.startswith(code)), "") for code in wanted
                    )
                    yield src, tgt
                    body.clear()  # what has been read needs no memory
    except ElementTree.ParseError as error:  # entities that grow without end, too
        raise UserError(f"{path}: not TMX: {error}") from None
    if not all(any(x.startswith(code) for x in there) for code in wanted):
        languages = ", ".join(sorted(x.rstrip("-") for x in there)) or "none"
        raise UserError(f"{path}: its languages are {languages}, not {data.src} and {data.tgt}")


def _segment(side: ElementTree.Element) -> str:
    """The text of a unit in one language, without the codes of other programs in it."""
    parts = [side.findtext("seg", "")]
    for code in side.iterfind("seg/*"):
        parts += [code.text or ""] * (code.tag == "hi") + [code.tail or ""]
    return "".join(parts).strip()


def _load(data: DataConfig, split: str | None = None) -> Any:
    """A data set, or several by name: from a folder, the hub, or the library's cache of it."""
    import datasets  # here, because it takes seconds and few commands need it

    datasets.disable_progress_bars()
    subset, revision = data.subset or None, data.revision or None
    try:
        if Path(data.path).is_dir():
            return datasets.load_from_disk(data.path)
        return datasets.load_dataset(data.path, subset, split=split, revision=revision)
    except Exception as error:  # the library raises many kinds, all of them the user's
        reason = " ".join(str(error).split())[:300]
        if isinstance(error, ConnectionError) or "LocalEntryNotFoundError" in reason:
            reason = "no file or folder; as a data set on the hub, neither cached nor reachable: "
            reason += "check the name, or go online"
        raise UserError(f"{data.path}: {reason}") from None
