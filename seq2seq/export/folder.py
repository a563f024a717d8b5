"""The folder that an export writes."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from seq2seq.data.tokenizer import Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, file_errors, refuse_links


@contextmanager
def export_folder(folder: Path, tokenizer: Tokenizer) -> Iterator[Path]:
    """A folder with the tokenizer, to write to, that becomes ``folder`` when it is complete.

    ``UserError`` if ``folder`` has any content: nothing is overwritten.
    """
    refuse_links(folder)
    with file_errors(folder):
        if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
            raise UserError(f"{folder}: not an empty folder: name a new one, or remove it")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(".tmp", f"{folder.name}.", folder.parent) as temporary:
            new = Path(temporary) / "export"  # with the usual permissions
            tokenizer.save(RunFolder(new))
            yield new
            new.replace(folder)
