"""Evaluation: the test sets of a run translated and scored."""

import subprocess
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from seq2seq.config import ModelConfig
from seq2seq.data.corpus import Corpus, load_report, load_split
from seq2seq.evaluation.alignment import OFFSETS, AlignmentCounts, Head, score_heads
from seq2seq.evaluation.annotations import load_alignment, load_tags
from seq2seq.evaluation.metrics import exact_match_by_tag, score, sentence_chrf
from seq2seq.model.transformer import count_parameters
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError, read_json, write_json, write_lines

N_EXAMPLES = 5  # best and worst translations listed


def evaluate(
    run: RunFolder | Path | str, overrides: dict[str, str] | None = None
) -> dict[str, Any]:
    """Translate every test set of a run folder and score the result.

    Args:
        run: a trained run; gets ``hypotheses/NAME.txt`` for each test set, and ``eval.json``.
        overrides: settings to change, such as ``{"decoding.beam": "4"}``.

    Returns:
        what ``eval.json`` holds.

    Raises:
        UserError: something is missing from the folder or does not fit, or another process is
            writing to it.
    """
    run = RunFolder(run)
    config = run.load_config(overrides)  # before the lock, which would create a missing folder
    with run.lock():
        translator = Translator.load(run, overrides)

        # The head that aligns best is chosen on the validation set and scored on the test sets.
        valid = load_split(run, config.data, "valid")
        gold = load_alignment(run, config.data, "valid", valid)
        heads = score_heads(translator, valid, gold) if gold else {}
        best = min(heads, key=lambda head: (heads[head].error_rate, head), default=None)

        tests: dict[str, dict[str, Any]] = {}
        hypotheses: dict[str, list[str]] = {}
        for name in load_report(run).test_pairs:
            test = load_split(run, config.data, name)
            cut: dict[int, int] = {}  # tokens of each sentence that is too long
            start = time.perf_counter()
            hypotheses[name] = translator.translate(test.src, on_cut=cut.__setitem__)
            seconds = time.perf_counter() - start
            result = tests[name] = asdict(score(hypotheses[name], test.tgt)) | {
                "sentences": len(test),
                "sentences_cut": len(cut),
                "decoding_seconds": round(seconds, 2),
                "examples": examples(test, hypotheses[name]),
            }
            if tags := load_tags(run, name, test):
                by_tag = exact_match_by_tag(hypotheses[name], test.tgt, tags)
                result["tags"] = {tag: asdict(tag_score) for tag, tag_score in by_tag.items()}
            gold = load_alignment(run, config.data, name, test) if best else None
            heads = score_heads(translator, test, gold) if gold else {}
            if best in heads:
                result["alignment"] = alignment_scores(heads, best)

        evaluation = {
            "decoding": asdict(config.decoding),
            "parameters": count_parameters(translator.model),
            "git_commit": git_commit(),
            "tests": tests,
        }
        run.eval_file.unlink(missing_ok=True)  # never beside hypotheses that it is not about
        for name, lines in hypotheses.items():
            write_lines(run.hypotheses_file(name), lines)
        write_json(run.eval_file, evaluation)
    return evaluation


def examples(test: Corpus, hypotheses: list[str]) -> list[dict[str, Any]]:
    """The translations best and worst by chrF, best first; of equals, the longer first."""
    scores = sentence_chrf(hypotheses, test.tgt)
    order = sorted(range(len(test)), key=lambda i: (-scores[i], -len(test.src[i])))
    if len(order) > 2 * N_EXAMPLES:
        order = order[:N_EXAMPLES] + order[-N_EXAMPLES:]
    keys = ("chrf", "src", "reference", "hypothesis")
    rows = list(zip(scores, test.src, test.tgt, hypotheses, strict=True))
    return [dict(zip(keys, rows[i], strict=True)) for i in order]


def alignment_scores(heads: dict[Head, AlignmentCounts], best: Head) -> dict[str, Any]:
    """AER, precision and recall of ``best``, and the AER of all heads at its offset."""
    counts = heads[best]
    layers: dict[int, list[float]] = {}
    for head in sorted(heads):
        if head.offset == best.offset:
            layers.setdefault(head.layer, []).append(heads[head].error_rate)
    return {
        "best_head_on_validation": asdict(best),
        "pairs": counts.pairs,
        "error_rate": counts.error_rate,
        "precision": counts.precision,
        "recall": counts.recall,
        "error_rate_by_layer_and_head": list(layers.values()),
    }


def known_best_head(run: RunFolder, model: ModelConfig) -> Head | None:
    """The best aligning head that ``eval.json`` names; None where it names none that ``model`` has.

    A hint for display only: a damaged file counts as none.
    """
    try:
        tests = read_json(run.eval_file)["tests"].values()
        aligned = [test["alignment"] for test in tests if "alignment" in test]
        head = Head(**aligned[0]["best_head_on_validation"])
        n_heads = model.cross_attention.n_heads or model.n_heads
        fits = head.layer in range(1, model.decoder_layers + 1) and head.offset in OFFSETS
        return head if fits and head.head in range(1, n_heads + 1) else None
    except (UserError, AttributeError, IndexError, KeyError, TypeError):
        return None


def git_commit() -> str | None:
    """The commit of the running code, with ``+`` if changed since; None outside its repository."""
    root = Path(__file__).parent.parent

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")  # not a repository around the environment
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def format_evaluation(evaluation: dict[str, Any]) -> str:
    """What ``eval.json`` holds, as tables for a terminal."""
    from tabulate import tabulate

    def add_table(headers: list[str], rows: list[list[str]]) -> None:
        table = tabulate(rows, headers, disable_numparse=True, stralign="right", colalign=["left"])
        blocks.append(table)

    blocks: list[str] = []
    tests: dict[str, dict[str, Any]] = evaluation["tests"]
    values = tests.values()
    labels = {"bleu": "BLEU", "bleu_lowercased": "BLEU lowercased", "chrf": "chrF"}
    rows = [
        [label, *(f"{test[key]:.2f}" for test in values)]
        for key, label in (labels | {"exact_match": "exact match"}).items()
    ]
    for key in ("sentences", "sentences_cut", "decoding_seconds"):
        rows.append([key.replace("_", " "), *(f"{test[key]:,}" for test in values)])
    aligned = {name: test["alignment"] for name, test in tests.items() if "alignment" in test}
    for key, label in (("error_rate", "AER"), ("precision", "precision"), ("recall", "recall")):
        cells = [f"{aligned[name][key]:.1f}" if name in aligned else "-" for name in tests]
        rows += [[f"alignment {label}", *cells]] if aligned else []
    add_table([f"beam {evaluation['decoding']['beam']}", *tests], rows)
    name, first = next(iter(tests.items()))
    blocks.append("\n".join(f"{labels[key]}: {first[key + '_signature']}" for key in labels))

    rows = []
    for tag in sorted({tag for test in values for tag in test.get("tags", {})}):
        of_tag = [test.get("tags", {}).get(tag) for test in values]
        rows.append(
            [tag, *(f"{x['exact_match']:.1f} ({x['pairs']})" if x else "-" for x in of_tag)]
        )
    if rows:
        add_table(["exact match (pairs)", *tests], rows)
    for test_name, alignment in list(aligned.items())[:1]:
        best = alignment["best_head_on_validation"]
        rates = alignment["error_rate_by_layer_and_head"]
        blocks.append(
            f"Alignment: layer {best['layer']}, head {best['head']}, offset {best['offset']} "
            f"(best on the validation set). AER of all heads on {test_name}:"
        )
        add_table(
            ["layer", *(f"head {number + 1}" for number in range(len(rates[0])))],
            [[str(layer), *(f"{x:.1f}" for x in row)] for layer, row in enumerate(rates, start=1)],
        )
    blocks.append(f"{name}: best and worst translations by chrF")
    blocks += [
        f"{example['chrf']:6.1f}  source       {example['src']}\n"
        f"        reference    {example['reference']}\n"
        f"        translation  {example['hypothesis']}"
        for example in first["examples"]
    ]
    return "\n\n".join(blocks)
