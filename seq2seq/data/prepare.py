"""Preparation: everything that training needs, corpus and tokenizer, copied into the run folder.

What is replaced is removed first; the file that says that the preparation is complete comes last.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from seq2seq.config import Config, DataConfig, TeachersConfig, flatten, toml_value
from seq2seq.data.corpus import CorpusReport, load_report
from seq2seq.data.encoded import encode_once
from seq2seq.data.sources import split_prefixes
from seq2seq.data.survey import Survey
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.run_folder import RunFolder
from seq2seq.utils import UserError, atomic_write, iter_lines, write_json, write_lines


def prepare(
    config: Config,
    run: RunFolder | Path | str,
    stage: str = "all",
    synthetic: Sequence[tuple[Path, Path]] = (),
) -> str:
    """Copy the corpus into ``run``; learn the tokenizer from it, or copy ``train.init_from``'s.

    Then encode the training pairs. Nothing is done once training has started. ``stage`` is
    ``corpus``, ``tokenizer`` (the corpus must be there), or ``all``; ``synthetic`` are files of
    further training pairs, source and target. Returns what was done, for the user. ``UserError`` if
    the corpus cannot be read, or the run holds another, was trained with other settings, or is in
    use.
    """
    run, data = RunFolder(run), config.data
    ours = (run.path / "lock", run.report_file)
    if (run.config_file.exists() or run.corpus.exists()) and not any(x.exists() for x in ours):
        raise UserError(f"{run} holds files that are not of a run: use another folder (--run)")
    with run.lock():
        run.check_same_config(config)
        if run.has_started:
            return f"{run}: training has started; corpus and tokenizer stay as they are"
        done, origin = [], config.train.init_from
        inherited = load_inherited(config) if origin else None
        if stage in ("corpus", "all"):
            done.append(str(prepare_corpus(data, run, synthetic)))
            run.save_config(config)
        if stage in ("tokenizer", "all"):
            load_report(run)  # there when the corpus is complete
            if _corpus_of(run.load_config()) != _corpus_of(config):
                raise UserError(f"{run} holds another corpus: prepare it again")
            run.tokenizer_file.unlink(missing_ok=True)
            src, tgt = (iter_lines(run.split_file("train", x)) for x in (data.src, data.tgt))
            tokenizer = inherited or Tokenizer.train(config.tokenizer, src, tgt)
            run.save_config(config)
            encode_once(run, data, tokenizer)
            tokenizer.save(run)
            whose = f", those of {origin}" if inherited else ""
            done.append(f"{run.tokenizer_file}: {len(tokenizer.tgt):,} subwords{whose}")
        return "\n".join(done)


def load_inherited(config: Config) -> Tokenizer:
    """The tokenizer of the run ``train.init_from``; ``UserError`` if none can start there."""
    old = RunFolder(config.train.init_from)
    try:
        saved, wanted = flatten(old.load_config()), flatten(config)
        if (config.data.src, config.data.tgt) == (saved["data.tgt"], saved["data.src"]):
            raise UserError(f"{old} translates the other way round: exchange data.src and data.tgt")
        for key, value in wanted.items():
            is_fixed = key.startswith(("tokenizer.", "model.")) and not key.endswith("dropout")
            if is_fixed and saved[key] != value:
                has, wants = toml_value(saved[key]), toml_value(value)
                how = f"--config {old.config_file} --data.path NEW takes all its settings"
                raise UserError(f"{old} has {key} = {has}, not {wants}: set that here too; {how}")
        if not old.weights_file.exists():
            raise UserError(f"{old.weights_file}: No such file: it has not been trained")
        return Tokenizer.load(old, config)
    except UserError as error:
        raise UserError(f"train.init_from: {error}") from None


def is_prepared(config: Config, run: RunFolder | Path | str) -> bool:
    """Whether ``run`` is prepared for ``config``; ``UserError`` if it was trained with another."""
    run = RunFolder(run)
    if not run.tokenizer_file.exists():
        return False
    run.check_same_config(config)
    saved = run.load_config()
    made_of = [(_corpus_of(x), x.tokenizer, x.train.init_from) for x in (saved, config)]
    return run.has_started or made_of[0] == made_of[1]


def _corpus_of(config: Config) -> tuple[DataConfig, TeachersConfig]:
    """What the training pairs come from; where the teachers are changes nothing."""
    return config.data, replace(config.teachers, folder="")


def prepare_corpus(
    data: DataConfig, run: RunFolder, synthetic: Sequence[tuple[Path, Path]] = ()
) -> CorpusReport:
    """Write the splits of the corpus that ``data`` names into ``run``, and the report on them.

    ``synthetic`` pairs are taken like those of the training split, but never held out.
    Validation and test sets keep their gold alignments and tags. If the corpus is faulty, the one
    in the run is still there.
    """
    if Path(data.path).resolve() == run.corpus.resolve():
        raise UserError(f"{data.path}: is the run's own copy of a corpus; use another run folder")
    survey = Survey(data, synthetic)
    src_file, tgt_file = (run.split_file("train", language) for language in (data.src, data.tgt))
    with atomic_write(src_file) as src_lines, atomic_write(tgt_file) as tgt_lines:
        for src, tgt in survey.train():
            src_lines.write(src.encode() + b"\n")
            tgt_lines.write(tgt.encode() + b"\n")
        run.tokenizer_file.unlink(missing_ok=True)  # it is of the corpus that is replaced now
        run.report_file.unlink(missing_ok=True)

    prefixes = split_prefixes(data)
    for split, corpus in survey.splits.items():
        write_lines(run.split_file(split, data.src), corpus.src)
        write_lines(run.split_file(split, data.tgt), corpus.tgt)
        for kind in (f"{data.src}-{data.tgt}.align", f"{data.tgt}-{data.src}.align", "tags"):
            run.split_file(split, kind).unlink(missing_ok=True)
            if split in prefixes and (original := Path(f"{prefixes[split]}.{kind}")).exists():
                write_lines(run.split_file(split, kind), iter_lines(original))
    report = survey.report()
    write_json(run.report_file, asdict(report))
    return report
