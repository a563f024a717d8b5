"""Where corpora come from: files, or the Hugging Face hub."""

import os
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from seq2seq.corpus import Corpus, Pair, Pairs, read_as_many, read_links, stream_pairs
from seq2seq.errors import UserError
from seq2seq.files import stream_lines
from seq2seq.settings import DataConfig


def open_source(data: DataConfig) -> dict[str, Pairs]:
    """The splits that ``data`` names, each to be read pair by pair as often as wanted.

    Raises:
        UserError: the corpus cannot be reached (what is wrong within it, reading finds).
    """
    return _from_files(data) if data.directory else _from_hub(data)


def _from_files(data: DataConfig) -> dict[str, Pairs]:
    folder = Path(data.directory)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder (data.directory)")
    paths = {
        split: (folder / f"{prefix}.{data.src}", folder / f"{prefix}.{data.tgt}")
        for split, prefix in _split_names(data.train, data.valid, data.test).items()
    }
    for path in chain(*paths.values()):
        next(stream_lines(path), None)  # a misspelt name is found before the work begins
    return {split: partial(stream_pairs, *both) for split, both in paths.items()}


def _split_names(train: str, valid: str, test: str) -> dict[str, str]:
    """What each split is called at its source; those without a name are left out."""
    named = {"train": train, "valid": valid} | {name: name for name in test.split()}
    return {split: name for split, name in named.items() if name}


def read_annotations(data: DataConfig, split: str, corpus: Corpus) -> dict[str, list[str]]:
    """The gold alignments and tags that stand beside a split's files, if any: lines by ending.

    ``PREFIX.de-en.align`` links word i of the German with word j of the English sentence; whichever
    language is the source, what is returned begins with the source.

    Raises:
        UserError: they do not fit the sentences.
    """
    if not data.directory:
        return {}
    notes: dict[str, list[str]] = {}
    named = _split_names(data.train, data.valid, data.test)
    prefix = Path(data.directory) / named[split]
    languages = (data.src, data.tgt)
    found = [
        path
        for first, second in (languages, languages[::-1])
        if (path := prefix.with_name(f"{prefix.name}.{first}-{second}.align")).exists()
    ]
    if len(found) > 1:
        raise UserError(f"{found[0]} and {found[1]}: two alignments of the same pairs; keep one")
    for path in found:
        links = read_links(
            path, corpus, src_first=path.name.endswith(f".{data.src}-{data.tgt}.align")
        )
        notes["align"] = [" ".join(f"{i}-{j}" for i, j in sorted(pair)) for pair in links]
    path = prefix.with_name(f"{prefix.name}.tags")
    if path.exists():
        notes["tags"] = read_as_many(path, corpus)
    return notes


def _from_hub(data: DataConfig) -> dict[str, Pairs]:
    hub, datasets = data.hub, _datasets_library()
    sources: dict[str, Pairs] = {}
    for split, name in _split_names(hub.train, hub.valid, hub.test).items():
        try:
            rows = datasets.load_dataset(
                hub.name, hub.subset or None, split=name, revision=hub.revision or None
            )
        except Exception as error:  # the library raises many kinds, all of them the user's
            raise UserError(_hub_complaint(hub.name, name, error)) from None
        sources[split] = partial(pairs_of, rows, data)
    return sources


def pairs_of(rows: Iterable[Any], data: DataConfig) -> Iterator[Pair]:
    """The sentence pairs in rows of a hub data set.

    Args:
        rows: dictionaries with a field a language, or with a ``translation`` dictionary of them.
        data: names the languages.

    A missing value counts as an empty sentence.

    Raises:
        UserError: the rows have neither form.
    """
    for row in rows:
        fields = row["translation"] if isinstance(row.get("translation"), dict) else row
        yield _text_of(fields, data.src, data), _text_of(fields, data.tgt, data)


def _text_of(fields: dict[str, Any], language: str, data: DataConfig) -> str:
    text = "" if fields.get(language, 0) is None else fields.get(language)
    if not isinstance(text, str):
        raise UserError(
            f"{data.hub.name}: no text in a field {language!r}; "
            f"there are {', '.join(sorted(fields))}"
        )
    # One sentence a line: a line break within a sentence becomes a space.
    return text.replace("\r", " ").replace("\n", " ")


def _datasets_library() -> Any:
    """The ``datasets`` library, told to use its cache at once where the hub is out of reach."""
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urllib.request.urlopen(endpoint, timeout=5).close()
    except urllib.error.HTTPError:
        pass  # it answered
    except (OSError, ValueError):
        os.environ["HF_HUB_OFFLINE"] = "1"  # read when the library is imported
    import datasets  # here, because it takes seconds and few commands need it

    datasets.disable_progress_bars()
    return datasets


def _hub_complaint(name: str, split: str, error: Exception) -> str:
    if isinstance(error, ConnectionError):
        return (
            f"{name}: the Hugging Face hub cannot be reached and the data set is not in its cache; "
            "connect to the network, or give the corpus as files with --data.directory PATH"
        )
    return f"{name}, split {split!r}: {' '.join(str(error).split())[:300]}"
