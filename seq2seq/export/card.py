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
from seq2seq.data.sources import is_hub_name
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import Summary
from seq2seq.translator import Translator
from seq2seq.utils import UserError, printable, read_bytes, read_json

TEMPLATE = Path(__file__).with_name("card.md")
METRICS = ("bleu", "chrf")


class _Scores(TypedDict):
    sentences: Count
    bleu: Number
    chrf: Number
    bleu_signature: Line
    chrf_signature: Line


class _Evaluation(TypedDict):
    decoding: dict[str, str | Count | Number]
    tests: Annotated[dict[Line, _Scores], Meta(min_length=1)]


def markdown(text: str) -> str:
    """``text``, whoever wrote it, as itself and on one line."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&$])", r"\\\1", printable(text))


def last_part(path: str) -> str:
    """The name of a file or folder, without those around it; of a data set on the hub, all."""
    return path if is_hub_name(path) else path and (PurePath(path).name or "corpus")


def model_card(run: RunFolder, name: str, license: str | None, example: str | None) -> str:
    """A README.md as the hub expects it; ``example`` is a sentence to translate in it.

    ``UserError`` if the run is not evaluated, or a file is damaged.
    """
    config = run.load_config()
    for path, command in ((run.summary_file, "train"), (run.eval_file, "evaluate")):
        if not path.exists():
            raise UserError(f"{path}: No such file; seq2seq {command} --run {run} makes it")
    evaluation: dict[str, Any] = read_json(run.eval_file, _Evaluation)
    summary: Summary = read_json(run.summary_file, Summary)
    report, translator, tests = load_report(run), Translator.load(run), evaluation["tests"]
    source, old = last_part(report.source), last_part(config.train.init_from)
    rows = [
        f"| {markdown(test)} | {x['sentences']:,} | {x['bleu']:.2f} | {x['chrf']:.2f} |"
        for test, x in tests.items()
    ]
    first = next(iter(tests.values()))
    return TEMPLATE.read_text(encoding="utf-8").format(
        front_matter=front_matter(PurePath(name).name, license, config.data, tests),
        name=markdown(name),
        no_license="" if license else " No license has been chosen for it yet.",
        scores="\n".join(rows),
        signatures=markdown("; ".join(first[f"{key}_signature"] for key in METRICS)),
        beam=evaluation["decoding"].get("beam"),
        source=markdown(source),
        origin=f", beginning with the weights of {markdown(old)}" if old else "",
        n_characters=len(translator.tokenizer.src.characters()),
        example=printable(example or "..."),
        translation=f"  # {translator.translate(example)}" if example else "",
        **{"data": config.data, "report": report} | summary,
    )


def front_matter(name: str, license: str | None, data: DataConfig, tests: dict[str, Any]) -> str:
    """What the hub reads of a card, as YAML."""
    from huggingface_hub import EvalResult, ModelCardData

    corpus = last_part(data.path)
    results = [
        EvalResult("translation", corpus, test, key, round(scores[key], 2), metric_args=signature)
        for test, scores in tests.items()
        for key in METRICS
        for signature in [{"signature": scores[f"{key}_signature"]}]
    ]
    return ModelCardData(
        language=[x for x in (data.src, data.tgt) if re.fullmatch("[a-z]{2,3}", x)] or None,
        license=license,
        datasets=[corpus] if is_hub_name(data.path) else None,
        metrics=[*METRICS],
        model_name=name,
        eval_results=results,
    ).to_yaml()


def files_to_push(run: RunFolder, card: bytes) -> dict[str, bytes]:
    """What ``seq2seq.load`` needs and what the run has achieved, by name of the file."""
    config, evaluation = run.load_config(), read_json(run.eval_file)
    data = replace(config.data, path=last_part(config.data.path))
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
