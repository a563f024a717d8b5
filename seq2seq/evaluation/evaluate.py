"""Evaluation: the test sets of a run translated and scored."""

import shutil
import subprocess
import time
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
from msgspec import Meta
from sacrebleu.metrics.chrf import CHRF

from seq2seq.config import Config, Count, DataConfig, DecodingConfig, Line, ModelConfig, Number
from seq2seq.data.annotations import load_alignment, load_tags
from seq2seq.data.corpus import Corpus, load_report, load_split
from seq2seq.data.sources import read_pairs
from seq2seq.evaluation import metrics
from seq2seq.evaluation.alignment import OFFSETS, Head, score_heads
from seq2seq.evaluation.metrics import LABELS
from seq2seq.evaluation.validation import validation_loss
from seq2seq.model.transformer import count_parameters
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Overrides, Translator
from seq2seq.utils import UserError, file_name, read_json, warn, write_json, write_lines

N_EXAMPLES = 5  # best and worst translations listed

Percent = Annotated[float, Meta(ge=-1, le=101)]  # with room for rounding
Tag = Annotated[dict[Literal["pairs", "exact_match"], Count | Percent], Meta(min_length=2)]


class AlignmentScores(TypedDict):
    """What is read again of a test set's alignment."""

    error_rate: Percent


class Scores(TypedDict):
    """What is read again of a test set."""

    sentences: Count
    bleu: Percent
    bleu_signature: Line
    bleu_lowercased: Percent
    chrf: Percent
    chrf_signature: Line
    exact_match: Percent
    loss_per_token: NotRequired[Number]  # earlier versions did not compute it
    tags: NotRequired[dict[Line, Tag]]
    alignment: NotRequired[AlignmentScores]


class Evaluation(TypedDict):
    """What is read again of ``eval.json``."""

    decoding: DecodingConfig
    tests: Annotated[dict[Line, Scores], Meta(min_length=1)]


def evaluate(
    run: RunFolder | Path | str,
    overrides: Overrides = None,
    on: str | None = None,
    against: Path | str | None = None,
) -> dict[str, Any]:
    """Translate every test set of a trained run, or the pairs ``on`` a path, and score that.

    Writes ``hypotheses/NAME.txt`` for each, and ``eval.json``, whose content it returns; of pairs
    ``on`` a path, nothing (``data.columns`` is of that table). ``against`` another run tests the
    difference. ``UserError`` if a folder lacks something, or another process is writing to it.
    """
    run, columns = RunFolder(run), (overrides or {}).get("data.columns", "")
    if columns and on is None:
        raise UserError("data.columns: goes with --on; what a run was trained with is fixed")
    config = run.load_config(overrides)  # before the lock, which would create a missing folder
    data = config.data
    with run.lock() if on is None else nullcontext():
        translator, settings = Translator.load(run, overrides), score_settings(config)
        other = Translator.load(against, overrides) if against else None
        pairs = [f"{x.src} to {x.tgt}" for x in (data, (other or translator).config.data)]
        if pairs[0] != pairs[1]:
            raise UserError(f"{against} translates {pairs[1]}, but {run} {pairs[0]}")
        tests, hypotheses = dict[str, dict[str, Any]](), dict[str, list[str]]()
        tokenizer, best = settings["bleu_tokenizer"], None
        for name in load_report(run).test_pairs if on is None else [Path(on).name]:
            annotations = run.corpus / file_name(name) if on is None else Path(on)
            test = load_pairs(on, columns, data) if on else load_split(run, data, name)
            if not any(map(str.strip, test.tgt)):
                raise UserError(f"{name}: there are no references to score with")
            tags, gold = load_tags(annotations, test), load_alignment(annotations, data, test)
            if not metrics.suits_bleu(test.tgt, tokenizer):
                warn(f"{name}: few words per line: see chrF, or set evaluation.bleu_tokenizer")
            start = time.perf_counter()
            translations = translator.best(test.src, f"{run}, {name}: ")
            seconds = time.perf_counter() - start
            ours = hypotheses[name] = [translation.text for translation in translations]
            scored_by = translator.model, translator.tokenizer, config
            tests[name] = metrics.score(ours, test.tgt, tokenizer) | {
                "loss_per_token": validation_loss(*scored_by, test),
                "sentences": len(test),
                "sentences_cut": sum("input cut" in x.flags for x in translations),
                "outputs_cut": sum("output cut" in x.flags for x in translations),
                "decoding_seconds": round(seconds, 2),
                "examples": examples(test, ours),
            }
            if tags:
                tests[name]["tags"] = metrics.exact_match_by_tag(ours, test.tgt, tags)
            best = best or (best_head(translator, run) if gold else None)
            if best and gold and (counts := score_heads(translator, test, gold)):
                tests[name]["alignment"] = counts.scores(best)
            if other:
                theirs = [x.text for x in other.best(test.src, f"{against}, {name}: ")]
                tests[name]["against"] = metrics.paired_test(ours, theirs, test.tgt, tokenizer)
        about = {"parameters": count_parameters(translator.model), "git_commit": git_commit()}
        evaluation = settings | about | {"against": str(against or ""), "tests": tests}
        if on is None:
            save(run, evaluation, hypotheses)
    return evaluation


def save(run: RunFolder, evaluation: dict[str, Any], hypotheses: dict[str, list[str]]) -> None:
    run.eval_file.unlink(missing_ok=True)  # never beside hypotheses of another
    for name, lines in hypotheses.items():
        write_lines(run.hypotheses_file(name), lines)
    write_json(run.eval_file, evaluation)


def load_pairs(path: str, columns: str, data: DataConfig) -> Corpus:
    """A test set from anywhere; says what was taken for it."""
    reader = read_pairs(path, replace(data, path="", columns=columns))
    corpus = Corpus.of(reader())
    warn(str(reader))
    return corpus


def score_settings(config: Config) -> dict[str, Any]:
    """What the scores depend on, beside the weights."""
    tokenizer = metrics.bleu_tokenizer(config.data, config.evaluation)
    decoding = asdict(config.decoding)
    del decoding["lean"]  # it changes no translation
    return {"decoding": decoding, "bleu_tokenizer": tokenizer}


def best_head(translator: Translator, run: RunFolder) -> Head | None:
    """The head that aligns best on the validation set: chosen there, scored on test sets."""
    valid = load_split(run, translator.config.data, "valid")
    gold = load_alignment(run.corpus / "valid", translator.config.data, valid)
    counts = score_heads(translator, valid, gold) if gold else None
    return counts.best_head() if counts else None


def examples(test: Corpus, hypotheses: list[str]) -> list[dict[str, Any]]:
    """The translations best and worst by chrF, best first; of equals, the longer first."""
    metric = CHRF()
    rows: list[dict[str, Any]] = []
    for src, reference, hypothesis in zip(test.src, test.tgt, hypotheses, strict=True):
        chrf = float(metric.sentence_score(hypothesis, [reference]).score)
        rows.append({"chrf": chrf, "src": src, "reference": reference, "hypothesis": hypothesis})
    rows.sort(key=lambda row: (-row["chrf"], -len(row["src"])))
    return rows if len(rows) <= 2 * N_EXAMPLES else rows[:N_EXAMPLES] + rows[-N_EXAMPLES:]


def known_best_head(run: RunFolder, model: ModelConfig) -> Head | None:
    """The best aligning head that ``eval.json`` names; None where it names none that ``model`` has.

    A hint for display only: a damaged file counts as none.
    """
    try:
        tests = read_json(run.eval_file)["tests"].values()
        aligned = [test["alignment"] for test in tests if "alignment" in test]
        head = msgspec.convert(aligned[0]["best_head_on_validation"], Head)
        n_heads = model.cross_attention.n_heads or model.n_heads
        fits = head.layer in range(1, model.decoder_layers + 1) and head.offset in OFFSETS
        return head if fits and head.head in range(1, n_heads + 1) else None
    except (UserError, AttributeError, LookupError, TypeError, ValueError):
        return None


def git_commit() -> str | None:
    """The last commit of the running code, with ``+`` if changed since; None if there is none."""

    def git(words: str) -> bytes:
        command = ["git", *words.split(), "--", "."]
        folder = Path(__file__).parent.parent
        return subprocess.run(command, cwd=folder, capture_output=True, check=False).stdout.strip()

    commit = git("log -1 --format=%H").decode() if shutil.which("git") else ""
    return commit + "+" * bool(git("status --porcelain")) if commit else None


def format_evaluation(evaluation: dict[str, Any]) -> str:
    """What ``eval.json`` holds, as tables for a terminal."""
    from tabulate import tabulate

    def table(corner: str, columns: dict[str, dict[str, str]]) -> str:
        """A row for each key of any column."""
        keys = dict.fromkeys(key for column in columns.values() for key in column)
        rows = [[key, *(column.get(key, "-") for column in columns.values())] for key in keys]
        headers = [corner, *columns]
        return tabulate(rows, headers, disable_numparse=True, stralign="right", colalign=["left"])

    tests: dict[str, dict[str, Any]] = evaluation["tests"]
    scores, tags, gaps = {}, {}, {}
    for name, test in tests.items():
        alignment = {f"alignment {key}": value for key, value in test.get("alignment", {}).items()}
        scores[name] = {
            LABELS.get(key, key.replace("_", " ")): format(x, "," if isinstance(x, int) else ".2f")
            for key, x in (test | alignment).items()
            if isinstance(x, int | float)
        }
        text, of_pairs = "{difference:+.2f} (p = {p:.4f})", test.get("against", {}).items()
        gaps[name] = {LABELS[key]: text.format(**x) for key, x in of_pairs}
        of_tags = test.get("tags", {}).items()
        tags[name] = {tag: f"{x['exact_match']:.1f} ({x['pairs']})" for tag, x in of_tags}
    name, first = next(iter(tests.items()))
    signatures = [f"{label}: {first[key + '_signature']}" for key, label in LABELS.items()]
    blocks = [table(f"beam {evaluation['decoding']['beam']}", scores), "\n".join(signatures)]
    if any(gaps.values()):
        blocks.append(table(f"compared with {evaluation['against']}", gaps))
    if any(tags.values()):
        blocks.append(table("exact match (pairs)", tags))
    if aligned := [test["alignment"] for test in tests.values() if "alignment" in test]:
        text = "Alignment: layer {layer}, head {head}, offset {offset} (best on the validation set)"
        blocks.append(text.format(**aligned[0]["best_head_on_validation"]))
        rates = aligned[0]["error_rate_by_layer_and_head"]
        headers = ["AER by layer", *(f"head {number + 1}" for number in range(len(rates[0])))]
        layers = range(1, len(rates) + 1)
        blocks.append(tabulate(rates, headers, floatfmt=".1f", showindex=layers))
    blocks.append(f"{name}: best and worst translations by chrF")
    blocks += [
        f"{example['chrf']:6.1f}  source       {example['src']}\n"
        f"        reference    {example['reference']}\n"
        f"        translation  {example['hypothesis']}"
        for example in first["examples"]
    ]
    return "\n\n".join(blocks)
