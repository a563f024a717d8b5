"""Evaluation: the test set translated by a trained run, and scored."""

import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seq2seq.corpus import load_report, load_split
from seq2seq.files import write_lines, write_text
from seq2seq.metrics import score
from seq2seq.model import count_parameters
from seq2seq.translator import Translator


def evaluate(run: Path, overrides: dict[str, str] | None = None) -> dict[str, Any]:
    """Translate the test set of a run folder and score the result.

    Args:
        run: a trained run; gets ``hypotheses.txt`` and ``eval.json``.
        overrides: settings to change, such as ``{"decoding.beam": "4"}``.

    Returns:
        what ``eval.json`` holds.

    Raises:
        UserError: something is missing from the folder or does not fit.
    """
    translator = Translator.load(run, overrides)
    test = load_split(translator.config.data, run, "test")
    cut: list[int] = []
    began = time.perf_counter()
    hypotheses = translator.translate(test.src, on_cut=lambda index, _: cut.append(index))
    seconds = time.perf_counter() - began
    result = asdict(score(hypotheses, test.tgt)) | {
        "test_set": load_report(run).test_name,
        "sentences": len(test),
        "sentences_cut": len(cut),
        "beam": translator.config.decoding.beam,
        "decoding_seconds": round(seconds, 2),
        "parameters": count_parameters(translator.model),
        "git_commit": git_commit(),
    }
    write_lines(run / "hypotheses.txt", hypotheses)
    write_text(run / "eval.json", json.dumps(result, indent=2) + "\n")
    return result


def git_commit() -> str | None:
    """The commit of the code that runs, with ``+`` if changed since; None outside git."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
