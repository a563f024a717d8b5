"""A run for the Hugging Face hub: its model card, and the upload of what translation needs.

Neither text of the corpus, whose license is not known, is published, nor the folders of files.
"""

import re
from dataclasses import replace
from pathlib import Path, PurePath

from seq2seq.config import DataConfig, dump_config
from seq2seq.data.corpus import load_report
from seq2seq.data.sources import is_hub_name
from seq2seq.evaluation.evaluate import Evaluation
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import Summary
from seq2seq.translator import Translator
from seq2seq.utils import UserError, markdown, printable, read_bytes, read_json

TEMPLATE = Path(__file__).with_name("card.md")


def last_part(path: str) -> str:
    """The name of a file or folder, without those around it; of a data set on the hub, all."""
    return path if is_hub_name(path) else path and (PurePath(path).name or "corpus")


def model_card(run: RunFolder, name: str, license: str | None, example: str | None) -> str:
    """A README.md as the hub expects it; ``example`` is a sentence to translate in it.

    ``UserError`` if the run is not evaluated, or a file is damaged.
    """
    config = run.load_config()
    if not run.eval_file.exists():
        raise UserError(f"{run.eval_file}: No such file; seq2seq evaluate --run {run} makes it")
    evaluation: Evaluation = read_json(run.eval_file, Evaluation)
    summary: Summary = read_json(run.summary_file, Summary)
    report, translator, tests = load_report(run), Translator.load(run), evaluation["tests"]
    source, old = last_part(report.source), last_part(config.train.init_from)
    rows = [
        f"| {markdown(test)} | {x['sentences']:,} | {x['bleu']:.2f} | {x['chrf']:.2f} |"
        for test, x in tests.items()
    ]
    first = next(iter(tests.values()))
    return TEMPLATE.read_text(encoding="utf-8").format(
        front_matter=front_matter(config.data, license),
        name=markdown(name),
        no_license="" if license else " No license has been chosen for it yet.",
        scores="\n".join(rows),
        signatures=markdown(f"{first['bleu_signature']}; {first['chrf_signature']}"),
        beam=evaluation["decoding"].beam,
        source=markdown(source),
        synthetic=f" and {report.synthetic_pairs:,} synthetic ones" * bool(report.synthetic_pairs),
        origin=f", beginning with the weights of {markdown(old)}" if old else "",
        n_characters=len(translator.tokenizer.src.characters),
        example=printable(example or "..."),
        translation=f"  # {translator.translate(example)}" if example else "",
        **{"data": config.data, "report": report} | summary,
    )


def front_matter(data: DataConfig, license: str | None) -> str:
    """What the hub reads of a card, as YAML."""
    from huggingface_hub import ModelCardData

    return ModelCardData(
        language=[x for x in (data.src, data.tgt) if re.fullmatch("[a-z]{2,3}", x)] or None,
        license=license,
        datasets=[data.path] if is_hub_name(data.path) else None,
        metrics=["bleu", "chrf"],
    ).to_yaml()


def push(run: RunFolder, name: str, card: bytes) -> str:
    """Upload ``card`` and what ``load`` needs as the hub's OWNER/NAME; returns its address."""
    from huggingface_hub import CommitOperationAdd, HfApi

    config, api = run.load_config(), HfApi()
    data = replace(config.data, path=last_part(config.data.path))
    train = replace(config.train, init_from=last_part(config.train.init_from))
    teachers = replace(config.teachers, folder=last_part(config.teachers.folder))
    shown = dump_config(replace(config, data=data, train=train, teachers=teachers)).encode()
    needed = (run.tokenizer_file, run.tgt_tokenizer_file, run.weights_file, run.summary_file)
    files = {path.name: read_bytes(path) for path in needed if path.exists()}
    files |= {run.card_file.name: card, run.config_file.name: shown}
    operations = [CommitOperationAdd(*file) for file in files.items()]
    try:
        address = api.create_repo(name, exist_ok=True)
        api.create_commit(address.repo_id, operations, commit_message="Upload a trained run")
    except Exception as error:  # the library raises many kinds, all of them the user's
        reason = " ".join(str(error).split())[:300]
        response = getattr(error, "response", None)
        if response is None:
            reason = f"{reason.rstrip('.')}; go online, then repeat the command"
        elif response.status_code == 401:
            reason = "log in with: hf auth login"
        raise UserError(f"{name}: not uploaded: {reason}") from None
    return str(address)
