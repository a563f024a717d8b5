"""Scores as lines for people."""

from collections.abc import Iterator
from typing import Any

SCORE_LABELS = {
    "bleu": "BLEU",
    "bleu_lowercased": "BLEU lower-cased",
    "chrf": "chrF",
    "exact_match": "exact match",
}
ALIGNMENT_LABELS = {"error_rate": "error rate (AER)", "precision": "precision", "recall": "recall"}


def evaluation_tables(result: dict[str, Any]) -> Iterator[str]:
    """What ``eval.json`` holds, as lines for people."""
    tests = result["tests"]
    first = next(iter(tests.values()))
    beam = result["decoding"]["beam"]
    yield f"{'':20}" + "".join(f" {name:>19}" for name in tests) + f"   (beam {beam})"
    for key, label in SCORE_LABELS.items():
        yield f"{label:20}" + "".join(f"{test[key]:20.2f}" for test in tests.values())
    for key in ("sentences", "decoding_seconds"):
        label = key.replace("_", " ")
        yield f"{label:20}" + "".join(f"{test[key]:20,}" for test in tests.values())
    for name, test in tests.items():
        if test["sentences_cut"]:
            yield f"{name}: cut to data.max_tokens: {test['sentences_cut']:,} sentences"
    for key in ("bleu", "bleu_lowercased", "chrf"):
        yield f"{SCORE_LABELS[key]:20}{first[key + '_signature']}"
    phenomena = sorted({name for test in tests.values() for name in test.get("phenomena", {})})
    if phenomena:
        yield ""
        yield "exact match, by what the sentence shows (pairs that show it)"
    for name in phenomena:
        cells = (test.get("phenomena", {}).get(name) for test in tests.values())
        texts = (f"{c['exact_match']:.1f} ({c['pairs']})" if c else "-" for c in cells)
        yield f"{name:20}" + "".join(f"{text:>20}" for text in texts)
    yield ""
    yield from alignment_tables(tests)
    yield ""
    yield f"{next(iter(tests))}: the translations best and worst by chrF, and their references"
    for example in first["examples"]:
        yield f"{example['chrf']:6.1f}  source      {example['src']}"
        yield f"        reference   {example['reference']}"
        yield f"        translation {example['hypothesis']}"


def alignment_tables(tests: dict[str, Any]) -> Iterator[str]:
    """Alignment error rates, where there is gold to compare with."""
    found = {name: test["alignment"] for name, test in tests.items() if "alignment" in test}
    if not found:
        yield (
            "alignment error rate: left out, for there are no gold word alignments "
            "of both the validation and a test set"
        )
        return
    name, first = next(iter(found.items()))
    best = first["best_head_on_validation"]
    yield (
        f"cross-attention as word alignment: layer {best['layer']}, head {best['head']}, "
        f"while {best['step']} the word (best on validation)"
    )
    for key, label in ALIGNMENT_LABELS.items():
        values = (found.get(test, {}).get(key) for test in tests)
        cells = ("-" if value is None else f"{value:.1f}" for value in values)
        yield f"{label:20}" + "".join(f"{cell:>20}" for cell in cells)
    yield f"error rate on {name}, by layer (down) and head (across)"
    for number, heads in enumerate(first["error_rate_by_layer_and_head"], start=1):
        yield f"{number:<8}" + "".join(f"{value:8.1f}" for value in heads)
