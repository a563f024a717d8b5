"""A run for the Hugging Face hub: its model card, and the upload of what translation needs.

Neither text of the corpus, whose license is not known, is published, nor the folders of files.
"""

import json
import re
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Annotated, Any, TypedDict

from msgspec import Meta

from seq2seq.config import Count, DataConfig, Line, Number, dump_config
from seq2seq.data.corpus import load_report
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import Summary
from seq2seq.translator import Translator
from seq2seq.utils import UserError, printable, read_bytes, read_json

TEMPLATE = Path(__file__).with_name("card.md")
METRICS = ("bleu", "chrf")


class _Decoding(TypedDict):
    beam: Count


class _Scores(TypedDict):
    sentences: Count
    bleu: Number
    bleu_signature: Line
    chrf: Number
    chrf_signature: Line


class _Evaluation(TypedDict):
    decoding: _Decoding
    tests: Annotated[dict[Line, _Scores], Meta(min_length=1)]


def markdown(text: str) -> str:
    """``text``, whoever wrote it, as itself and on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", printable(text))


def last_part(path: str) -> str:
    """The name of a file or folder, and not where it lies."""
    return path and (PurePath(path).name or "corpus")


def model_card(run: RunFolder, name: str, license: str | None, example: str | None) -> str:
    """A README.md as the hub expects it; ``example`` is a sentence to translate in it.

    ``UserError`` if the run is not evaluated, or a file is damaged.
    """
    config = run.load_config()
    data, old = config.data, config.train.init_from
    if not run.eval_file.exists():
        raise UserError(f"{run.eval_file}: No such file; seq2seq evaluate --run {run} makes it")
    evaluation: dict[str, Any] = read_json(run.eval_file, _Evaluation)
    summary: Summary = read_json(run.summary_file, Summary)
    report, translator, tests = load_report(run), Translator.load(run), evaluation["tests"]
    hub = None if data.directory else data.hub.name
    source = hub or last_part(report.source)
    rows = [
        f"| {markdown(test)} | {x['sentences']:,} | {x['bleu']:.2f} | {x['chrf']:.2f} |"
        for test, x in tests.items()
    ]
    first = next(iter(tests.values()))
    return TEMPLATE.read_text(encoding="utf-8").format(
        front_matter=front_matter(PurePath(name).name, data, license, source, tests),
        name=markdown(name),
        src=data.src,
        tgt=data.tgt,
        license="" if license else "\nNo license has been chosen for it yet.\n",
        rows="\n".join(rows),
        beam=evaluation["decoding"]["beam"],
        signatures=markdown(", ".join(first[f"{key}_signature"] for key in METRICS)),
        source=markdown(source),
        origin=f", beginning with the weights of {markdown(last_part(old))}" if old else "",
        n_train=report.train_pairs,
        n_valid=report.valid_pairs,
        max_tokens=data.max_tokens,
        n_characters=len(translator.tokenizer.src.characters()),
        sentence=printable(example or "..."),
        translation=f"  # {translator.translate([example])[0]}" if example else "",
        **summary,
    )


def front_matter(
    name: str, data: DataConfig, license: str | None, source: str, tests: dict[str, Any]
) -> str:
    """What the hub reads of a model card, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    languages = [data.src, data.tgt]
    results = [
        EvalResult(
            task_type="translation",
            task_name=f"Translation from {' to '.join(languages)}",
            dataset_type=source,
            dataset_name=test,
            metric_type=key,
            metric_value=round(scores[key], 2),
            metric_args={"signature": scores[f"{key}_signature"]},
        )
        for test, scores in tests.items()
        for key in METRICS
    ]
    return ModelCardData(
        language=[x for x in languages if re.fullmatch("[a-z]{2,3}", x)] or None,
        license=license,
        library_name="seq2seq",
        pipeline_tag="translation",
        tags=["translation", "transformer"],
        datasets=None if data.directory else [source],
        metrics=[*METRICS],
        model_name=name,
        eval_results=results,
    ).to_yaml()


def files_to_push(run: RunFolder, card: bytes) -> dict[str, bytes]:
    """What ``seq2seq.load`` needs and what the run has achieved, by name of the file."""
    config, evaluation = run.load_config(), read_json(run.eval_file)
    data = replace(config.data, directory=last_part(config.data.directory))
    train = replace(config.train, init_from=last_part(config.train.init_from))
    for test in evaluation["tests"].values():
        test.pop("examples", None)  # of the corpus
    needed = (run.tokenizer_file, run.tgt_tokenizer_file, run.weights_file, run.summary_file)
    return {path.name: read_bytes(path) for path in needed if path.exists()} | {
        "README.md": card,
        run.config_file.name: dump_config(replace(config, data=data, train=train)).encode(),
        run.eval_file.name: json.dumps(evaluation, indent=2, ensure_ascii=False).encode(),
    }


def push(run: RunFolder, name: str, card: bytes, private: bool) -> str:
    """Upload a run as the hub's model OWNER/NAME, made if there is none; returns its address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    files, api = files_to_push(run, card), HfApi()
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    try:
        address = api.create_repo(name, private=private or None, exist_ok=True)
        if private and not api.repo_info(address.repo_id).private:
            raise ValueError("it is there already, and public")
        api.create_commit(address.repo_id, operations, commit_message="Upload a trained run")
    except Exception as error:  # the library raises many kinds, all of them the user's
        reason = " ".join(str(error).split())[:300]
        if getattr(getattr(error, "response", None), "status_code", 0) == 401:
            reason = "log in with: hf auth login"
        raise UserError(f"{name}: not uploaded: {reason}") from None
    return str(address)
