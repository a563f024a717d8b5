"""Our scores are sacreBLEU's own."""

import json
import subprocess
from pathlib import Path

from conftest import SACREBLEU, write_lines

from seq2seq.metrics import bleu, score

REFERENCES = [
    'He said: "The 3.5-year-old dog didn\'t run, did it?"',
    "A Man in Blue walks along the River - slowly.",
    "Zwei Hunde spielen im Schnee.",
    "",
]
HYPOTHESES = [
    'He said "the 3.5 year old dog did not run, did it?"',
    "a man in blue walks slowly along the river.",
    "Zwei Hunde spielen im Schnee .",
    "Etwas",
]


def command_line(folder: Path, *options: str) -> float:
    write_lines(folder / "ref", REFERENCES)
    write_lines(folder / "hyp", HYPOTHESES)
    command = [*SACREBLEU, str(folder / "ref"), "-i", str(folder / "hyp"), "-w", "6"]
    done = subprocess.run([*command, *options], capture_output=True, check=True)
    return float(json.loads(done.stdout)["score"])


def test_scores_equal_the_command_line(tmp_path: Path) -> None:
    ours = score(HYPOTHESES, REFERENCES)
    assert round(ours.bleu, 6) == command_line(tmp_path, "-m", "bleu")
    assert round(ours.bleu_lowercased, 6) == command_line(tmp_path, "-m", "bleu", "-lc")
    assert round(ours.chrf, 6) == command_line(tmp_path, "-m", "chrf")
    assert bleu(HYPOTHESES, REFERENCES) == ours.bleu
    assert ours.bleu_lowercased > ours.bleu


def test_signatures_say_how() -> None:
    ours = score(HYPOTHESES, REFERENCES)
    assert "case:mixed" in ours.bleu_signature
    assert "tok:13a" in ours.bleu_signature
    assert "case:lc" in ours.bleu_lowercased_signature
    assert "nc:6" in ours.chrf_signature
