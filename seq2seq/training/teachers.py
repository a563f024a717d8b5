"""Synthetic pairs: teachers of both directions translate what they were trained on.

Data diversification (Nguyen et al. 2020): the student learns from the real pairs, from real sources
with the teachers' translations, and from real targets with their back-translations.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from filecmp import cmp
from itertools import product
from pathlib import Path

from filelock import FileLock, Timeout
from tqdm import tqdm

from seq2seq.config import Config, DataConfig, DecodingConfig, TeachersConfig
from seq2seq.data import prepare as data
from seq2seq.data.corpus import load_report
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import train
from seq2seq.translator import Translator
from seq2seq.utils import UserError, atomic_write, file_name, read_lines, warn

DECODING = DecodingConfig(beam=4)
AT_A_TIME = 2048  # sentences; those of a length are translated together


def prepare(config: Config, run: RunFolder | Path | str, stage: str = "all") -> str:
    """``data.prepare.prepare``, with the pairs of ``config.teachers`` if there are any.

    They are trained first, which takes as long as that many runs; the same call resumes. In
    addition ``UserError`` if a teacher was trained on other pairs, and what ``train`` raises.
    """
    run, teachers = RunFolder(run), config.teachers
    if not teachers.n or stage == "tokenizer" or run.has_started:
        return data.prepare(config, run, stage)
    real = RunFolder(teachers.folder or run.path / "teachers")
    src, tgt = config.data.src, config.data.tgt
    pairs: list[tuple[Path, Path]] = []
    with _alone(real):
        report = data.prepare(replace(config, teachers=TeachersConfig()), real, "corpus")
        for line in report.split("\n"):
            warn(line)
        for seed, is_forward in product(range(1, teachers.n + 1), (True, False)):
            direction = (src, tgt) if is_forward else (tgt, src)
            warn(f"{real}: teacher {len(pairs) + 1} of {2 * teachers.n}, {' to '.join(direction)}")
            translated = translations(config, real, *direction, seed)
            pair = real.split_file("train", direction[0]), translated
            pairs.append(pair if is_forward else pair[::-1])
        return data.prepare(config, run, stage, pairs)


@contextmanager
def _alone(real: RunFolder) -> Iterator[None]:
    """Wait until no other run trains teachers there: it can take them then."""
    real.path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{real}.lock")
    with suppress(Timeout):
        lock.acquire(timeout=0)
    if not lock.is_locked:
        warn(f"{real}: waits until another process has trained the teachers")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def translations(config: Config, real: RunFolder, src: str, tgt: str, seed: int) -> Path:
    """The file with a teacher's translations of the training split's ``src`` side.

    It and its teacher are made unless they are there. ``real`` holds the prepared corpus, which all
    teachers read, so that all hold out the same sentences.
    """
    teacher = RunFolder(real.path / f"{src}-{tgt}-{seed}")
    tests = " ".join(map(file_name, load_report(real).test_pairs))
    corpus = DataConfig(src, tgt, str(real.corpus), test=tests, max_tokens=config.data.max_tokens)
    settings = replace(
        config.train,
        seed=seed,
        init_from="",
        epochs=config.teachers.epochs,
        r_drop_alpha=config.teachers.r_drop_alpha,
    )
    config = Config(corpus, config.tokenizer, config.model, settings, decoding=DECODING)
    try:
        teacher.check_same_config(config, fixed=("train.epochs", "train.patience"))
    except UserError as error:
        raise UserError(f"teachers.folder: {error}") from None
    data.prepare(config, teacher)
    for x in (src, tgt):
        if not cmp(real.split_file("train", x), teacher.split_file("train", x), shallow=False):
            why = "of another corpus, or what is held out differs by direction"
            raise UserError(f"{teacher} has other pairs, {why}: name another teachers.folder")
    if not teacher.summary_file.exists():
        train(config, teacher)

    file = teacher.path / "translated.txt"
    if file.exists() and file.stat().st_mtime >= teacher.weights_file.stat().st_mtime:
        return file
    sentences = read_lines(teacher.split_file("train", src))
    warn(f"{file}: {len(sentences):,} sentences, by a beam of {DECODING.beam}")
    translator = Translator.load(teacher)
    with atomic_write(file) as output:
        for i in tqdm(range(0, len(sentences), AT_A_TIME), "translating", disable=None):
            found = translator.search(sentences[i : i + AT_A_TIME], split=False)
            output.writelines(best.text.encode() + b"\n" for best, *_ in found)
    return file
