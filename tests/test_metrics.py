"""Scores are sacreBLEU's own."""

import json
import subprocess
from pathlib import Path

from conftest import SACREBLEU, write_lines

from seq2seq.evaluation.metrics import bleu, chrf, exact_match_by_tag, score, suits_bleu

REFERENCES = [
    'He said: "The 3.5-year-old dog didn\'t run, did it?"',
    "A Man in Blue walks along the River - slowly.",
    "",
]
HYPOTHESES = [
    'He said "the 3.5 year old dog did not run, did it?"',
    "a man in blue walks slowly along the river.",
    "Etwas",
]


def test_scores_match_sacrebleu_command(tmp_path: Path) -> None:
    write_lines(tmp_path / "ref", REFERENCES)
    write_lines(tmp_path / "hyp", HYPOTHESES)

    def scores(*options: str) -> list[float]:
        command = [*SACREBLEU, str(tmp_path / "ref"), "-i", str(tmp_path / "hyp"), "-w", "6"]
        done = subprocess.run([*command, *options], capture_output=True, check=True)
        return [metric["score"] for metric in json.loads(done.stdout)]

    ours = score(HYPOTHESES, REFERENCES)
    assert [round(ours["bleu"], 6), round(ours["chrf"], 6)] == scores("-m", "bleu", "chrf")
    assert round(ours["bleu_lowercased"], 6) == scores("-m", "bleu", "chrf", "-lc")[0]
    assert bleu(HYPOTHESES, REFERENCES) == ours["bleu"] < ours["bleu_lowercased"]
    assert chrf(HYPOTHESES, REFERENCES) == ours["chrf"]
    assert {"case:mixed", "tok:13a"} < set(ours["bleu_signature"].split("|"))
    assert "case:lc" in ours["bleu_lowercased_signature"]
    assert "nc:6" in ours["chrf_signature"]


def test_bleu_suits_references_of_four_words() -> None:
    """As 13a sees them: punctuation is a word, Chinese is one word, and so is a number."""
    long, short = (
        ["A dog, or two.", "A dog runs fast"],
        ["昨天汤姆买了两本书。", "3.5", "A dog!", ""],
    )
    assert bleu(short, short) == 0  # all of it right
    assert [suits_bleu(x) for x in (long, short, long + short[:2])] == [True, False, True]
    assert not suits_bleu(long + short)


def test_exact_match_by_tag() -> None:
    tags = [["even", "a"], ["odd"], ["even", "even"], []]
    scores = exact_match_by_tag(["x", "y", "z", "w"], ["x", "y", "-", "-"], tags)
    once, even = {"pairs": 1, "exact_match": 100}, {"pairs": 2, "exact_match": 50}
    assert scores == {"a": once, "even": even, "odd": once}
