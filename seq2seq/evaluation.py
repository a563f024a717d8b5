"""Evaluation: the test sets translated by a trained run, and scored."""

import json
import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seq2seq.alignment import STEPS, Agreement, Head, judge_heads
from seq2seq.corpus import Corpus, load_alignment, load_report, load_split, load_tags
from seq2seq.errors import UserError
from seq2seq.files import file_name, read_json, write_lines, write_text
from seq2seq.metrics import by_phenomenon, score, sentence_chrf
from seq2seq.model import count_parameters
from seq2seq.settings import ModelConfig
from seq2seq.translator import Translator

N_EXAMPLES = 5  # translations shown from either end


def evaluate(run: Path, overrides: dict[str, str] | None = None) -> dict[str, Any]:
    """Translate every test set of a run folder and score the result.

    Args:
        run: a trained run; gets ``hypotheses/NAME.txt`` for each test set, and ``eval.json``.
        overrides: settings to change, such as ``{"decoding.beam": "4"}``.

    Returns:
        what ``eval.json`` holds.

    Raises:
        UserError: something is missing from the folder or does not fit.
    """
    translator = Translator.load(run, overrides)
    best = best_head(translator, run)
    tests, hypotheses = {}, {}
    for name in load_report(run).test_pairs:
        tests[name], hypotheses[name] = score_test_set(translator, run, name, best)
    result = {
        "decoding": asdict(translator.config.decoding),
        "parameters": count_parameters(translator.model),
        "git_commit": git_commit(),
        "tests": tests,
    }
    (run / "eval.json").unlink(missing_ok=True)  # it is about the hypotheses that lie beside it
    for name, lines in hypotheses.items():
        write_lines(run / "hypotheses" / f"{file_name(name)}.txt", lines)
    write_text(run / "eval.json", json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return result


def score_test_set(
    translator: Translator, run: Path, name: str, head: Head | None
) -> tuple[dict[str, Any], list[str]]:
    """Scores of one test set, by phenomenon too, with the alignment of ``head``; hypotheses."""
    test = load_split(translator.config.data, run, name)
    cut: list[int] = []
    began = time.perf_counter()
    hypotheses = translator.translate(test.src, on_cut=lambda index, _: cut.append(index))
    seconds = time.perf_counter() - began
    result = asdict(score(hypotheses, test.tgt)) | {
        "sentences": len(test),
        "sentences_cut": len(cut),
        "decoding_seconds": round(seconds, 2),
        "examples": examples(test, hypotheses),
    }
    tags, gold = load_tags(run, name, test), load_alignment(run, name, test)
    if tags:
        phenomena = by_phenomenon(hypotheses, test.tgt, tags)
        result["phenomena"] = {tag: asdict(scores) for tag, scores in phenomena.items()}
    heads = judge_heads(translator, test, gold) if gold and head else {}
    if head in heads:
        result["alignment"] = alignment_report(heads, head)
    return result, hypotheses


def examples(test: Corpus, hypotheses: list[str]) -> list[dict[str, Any]]:
    """The translations best and worst by chrF, best first: all if they are few.

    Of equals the longer come first, which say more.
    """
    scores = sentence_chrf(hypotheses, test.tgt)
    order = sorted(range(len(test)), key=lambda i: (-scores[i], -len(test.src[i])))
    some = order if len(order) <= 2 * N_EXAMPLES else order[:N_EXAMPLES] + order[-N_EXAMPLES:]
    return [
        {
            "chrf": scores[i],
            "src": test.src[i],
            "reference": test.tgt[i],
            "hypothesis": hypotheses[i],
        }
        for i in some
    ]


def best_head(translator: Translator, run: Path) -> Head | None:
    """The head with the lowest alignment error rate on the validation set, where that has gold."""
    valid = load_split(translator.config.data, run, "valid")
    gold = load_alignment(run, "valid", valid)
    heads = judge_heads(translator, valid, gold) if gold else {}
    return min(heads, key=lambda head: (heads[head].error_rate, head), default=None)


def known_best_head(run: Path, model: ModelConfig) -> Head | None:
    """The head that ``evaluate`` found best when it last looked at the run, if it did.

    It is a hint: what is damaged, or of another model, is as good as nothing.
    """
    try:
        tests = read_json(run / "eval.json")["tests"].values()
        found = [
            test["alignment"]["best_head_on_validation"] for test in tests if "alignment" in test
        ]
        head = Head(**found[0])
        n_heads = model.cross_attention.n_heads or model.n_heads
        fits = head.layer in range(1, model.decoder_layers + 1) and head.head in range(
            1, n_heads + 1
        )
        return head if fits and head.step in STEPS else None
    except (UserError, AttributeError, IndexError, KeyError, TypeError):
        return None


def alignment_report(heads: dict[Head, Agreement], best: Head) -> dict[str, Any]:
    """AER, precision and recall of ``best``, and AER by layer and head at its step, in per cent."""
    agreement = heads[best]
    same_step = {head: found for head, found in heads.items() if head.step == best.step}
    layers = sorted({head.layer for head in same_step})
    return {
        "best_head_on_validation": asdict(best),
        "pairs": agreement.pairs,
        "error_rate": agreement.error_rate,
        "precision": agreement.precision,
        "recall": agreement.recall,
        "error_rate_by_layer_and_head": [
            [found.error_rate for head, found in sorted(same_step.items()) if head.layer == layer]
            for layer in layers
        ],
    }


def git_commit() -> str | None:
    """The commit of the code that runs, with ``+`` if changed since; None if it is in none."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=here, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        # Not of a repository that the installed package merely lies in.
        git("ls-files", "--error-unmatch", "--", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
