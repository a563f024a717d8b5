"""Experiments: planned, tuned, matched, run by several processes, resumed, and collected."""

import csv
import itertools
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import SEQ2SEQ, TINY_CONFIG, Capture, Patch, write_corpus, write_lines

from seq2seq.cli import main
from seq2seq.config import flatten
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.evaluation.metrics import score
from seq2seq.experiments import costs, jobs
from seq2seq.experiments import results as results_module
from seq2seq.experiments.costs import find_d_ff, flops_per_token, matching_d_ff
from seq2seq.experiments.jobs import run_all
from seq2seq.experiments.results import Results, RunResult, collect, read_results, write_results
from seq2seq.experiments.runs import Run, load_experiment, plan_runs
from seq2seq.experiments.statistics import resampled_bleu
from seq2seq.model.transformer import count_parameters, empty_model
from seq2seq.run_folder import RunFolder
from seq2seq.training.trainer import Summary
from seq2seq.translator import Translator
from seq2seq.utils import (
    UserError,
    read_json,
    read_lines,
    write_json,
    write_text,
)

ROOT = Path(__file__).parent.parent

EXPERIMENT = """
title = "A tiny question"
base = "tiny.toml"
seeds = 2
baseline_seeds = 3
baseline = "plain"
[settings]
model.d_model = 32
train.epochs = 2
train.validate_every = 8
[variants.gated]
model.attention.modifiers = "gated"
[variants.plain]
[variants.wild]
train.learning_rate = 2e9
train.max_grad_norm = 0.0
"""
TUNE = 'tune = { "train.warmup_steps" = [5, 6], train.label_smoothing = [0.0] }'


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny experiment that has not been run."""
    folder = tmp_path_factory.mktemp("experiment")
    write_corpus(folder / "corpus", {"train": 300, "valid": 20, "test": 40})
    write_lines(folder / "corpus" / "test.tags", ["even", "odd"] * 20)
    (folder / "tiny.toml").write_text(TINY_CONFIG.format(path=str(folder / "corpus")))
    (folder / "tiny-experiment.toml").write_text(EXPERIMENT)
    return folder


@pytest.fixture(scope="session", params=[pytest.param("run", marks=pytest.mark.slow)])
def folder(files: Path) -> Path:
    """The same, run on the command line."""
    assert run_compare(files) == 0
    return files


def run_compare(folder: Path, *options: str, out: str | Path = "out") -> int:
    experiment = folder / "tiny-experiment.toml"
    return main(["compare", str(experiment), "--run", str(folder / out), *options])


def plan(folder: Path, text: str, out: str | Path = "none") -> list[Run]:
    path = folder / "changed.toml"
    path.write_text(text)
    return plan_runs(load_experiment(path), folder / out, {})


def results_of(folder: Path, out: str | Path = "out", text: str = EXPERIMENT) -> Results:
    runs = plan(folder, text, out)
    return collect(load_experiment(folder / "changed.toml"), runs, folder / out)


def run_folder(folder: Path, variant: str, seed: int) -> RunFolder:
    return RunFolder(folder / "out" / variant / f"seed-{seed}")


def with_line(line: str) -> str:
    """The experiment with another line before its tables."""
    return EXPERIMENT.replace("[settings]", f"{line}\n[settings]")


def test_plan(files: Path) -> None:
    runs = plan(files, with_line(TUNE))
    names = {x: [r.folder.path.name for r in runs if r.variant == x] for x in ("plain", "gated")}
    tuning = [f"tune-warmup_steps-{n}-label_smoothing-0.0" for n in (5, 6)]
    assert names["gated"] == [*tuning, "seed-1", "seed-2"]
    assert names["plain"] == [*tuning, *(f"seed-{n}" for n in (1, 2, 3, 101, 102))]
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    assert [run.role for run in runs if run.seed in (0, 101)] == ["tuning"] * 6 + ["again"]
    assert next(iter(load_experiment(files / "changed.toml").variants)) == "plain"
    assert len(plan(files, EXPERIMENT.replace("baseline_seeds = 3\n", ""))) == 4 + 2 + 2 * 2


def finish_training(run: Run, bleu: float, loss: float, chrf: float = 0) -> None:
    run.folder.save_config(run.config)
    summary: dict[str, Any] = dict.fromkeys(Summary.__required_keys__, 1)
    summary["selected_by"] = "chrf" if chrf else "bleu" if bleu >= 1 else "loss"
    summary |= {"device": "x", "precision": "x", "best_valid_bleu": bleu, "best_valid_loss": loss}
    summary |= {"best_valid_chrf": chrf} if chrf else {}
    write_json(run.folder.summary_file, summary)


@pytest.mark.parametrize(
    ("scores", "chosen"),
    [([(20, 3), (30, 4)], 6), ([(30, 4), (20, 3)], 5), ([(0.5, 3), (0.1, 2)], 6),
     ([None, (0, 9)], 6), ([(1.5, 3), (0.9, 2)], 5), ([(20, 3, 45), (30, 4, 40)], 5)],
)  # fmt: skip
def test_best_point_of_the_grid_is_chosen(
    files: Path, tmp_path: Path, scores: list[tuple[float, ...] | None], chosen: int
) -> None:
    runs = [run for run in plan(files, with_line(TUNE), tmp_path) if run.variant == "gated"]
    for run, of_run in zip(runs, scores, strict=False):
        assert run.seed == 0
        if of_run:
            finish_training(run, *of_run)
        else:
            run.folder.save_config(run.config)
            write_text(run.folder.diverged_file, "")
    assert [run.config.train.warmup_steps for run in runs[2:]] == [chosen] * 2
    assert runs[2].config.train.seed == 1
    assert runs[2].chosen.tuned == {"train.warmup_steps": chosen, "train.label_smoothing": 0.0}
    finish_training(runs[2], 20, 3)
    more = with_line(TUNE.replace("5, 6", "5, 6, 7"))
    new = [run for run in plan(files, more, tmp_path) if run.variant == "gated"][2]
    finish_training(new, 60, 1)  # better than what the runs so far have
    with pytest.raises(UserError, match=rf"seed-1 was trained with .* = {chosen}, not 7"):
        plan(files, more, tmp_path)


def test_weights_to_start_from_are_looked_for_first(files: Path, tmp_path: Path) -> None:
    experiment = load_experiment(files / "tiny-experiment.toml")
    with pytest.raises(UserError, match=r"^train\.init_from: gone: "):
        plan_runs(experiment, tmp_path, {"train.init_from": "gone"})


def test_variants_differ_by_their_settings(folder: Path) -> None:
    runs = [run_folder(folder, variant, seed) for variant in ("plain", "gated") for seed in (1, 2)]
    assert all(run.eval_file.exists() for run in runs)
    plain, other_seed, gated, _ = (flatten(run.load_config()) for run in runs)
    assert {key for key in plain if plain[key] != other_seed[key]} == {"train.seed"}
    keys = [f"model.{section}_attention.modifiers" for section in ("encoder", "decoder", "cross")]
    assert [key for key in plain if plain[key] != gated[key]] == keys


def test_finished_runs_are_not_repeated(
    folder: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(jobs, "train", None)
    monkeypatch.setattr(results_module, "relative_speeds", None)  # nor is speed measured again
    made = [folder / "out" / name for name in ("results.csv", "report.md")]
    before = [path.read_bytes() for path in made]
    assert run_compare(folder) == 0
    shutil.copy(made[0], tmp_path)
    assert run_compare(folder, "--report-only", out=tmp_path) == 0
    assert [path.read_bytes() for path in made] == before
    assert (tmp_path / "report.md").read_bytes() == before[1]
    shown = capsys.readouterr()
    assert "gated" in shown.out
    assert shown.err == ""  # quiet in a pipe
    assert run_compare(folder, "--report-only", "--train.epochs", "3", out=tmp_path) == 1


def test_other_decoding_needs_no_training(folder: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    experiment = load_experiment(folder / "tiny-experiment.toml")
    shutil.copytree(folder / "out" / "plain", tmp_path / "plain")
    run = plan_runs(experiment, tmp_path, {"decoding.beam": "2"})[0]
    assert not run.is_finished
    kept = [run.folder.weights_file, run.folder.summary_file]
    before = [path.read_bytes() for path in kept]
    run.folder.state_file.unlink()  # the biggest file of a run: someone may want the space
    monkeypatch.setattr(jobs, "train", None)
    run_all([run])
    evaluation = read_json(run.folder.eval_file)
    assert (evaluation["decoding"]["beam"], evaluation.pop("bleu_tokenizer")) == (2, "13a")
    for other, is_finished in (({"bleu_tokenizer": "char"}, False), ({}, True)):  # once 13a only
        write_json(run.folder.eval_file, evaluation | other)
        assert run.is_finished == is_finished
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("validate_every = 8", "validate_every = 9", "train.validate_every = 8, not 9"),
        ("validate_every = 8", "validate_every = 8\ntrain.patience = 9", "train.patience = 0"),
        ("2e9", "1e-3", "train.learning_rate = 2000000000.0, not 0.001"),  # of a diverged run
    ],
)
def test_other_settings_are_refused(folder: Path, old: str, new: str, expected: str) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        plan(folder, EXPERIMENT.replace(old, new), "out")


@pytest.mark.parametrize("cost", ["parameters", "flops"])
def test_costs_are_matched(files: Path, cost: str) -> None:
    runs = plan(files, f"{with_line(f'match = {cost!r}')}[variants.wide]\nmodel.d_ff = 200\n")
    configs = {run.variant: run.unseeded for run in runs}
    widths = {variant: config.model.d_ff for variant, config in configs.items()}
    assert widths["gated"] < widths["plain"] == 128 < widths["wide"] == 200
    assert {run.variant: run.settings for run in runs}["gated"]["model.d_ff"] == widths["gated"]
    counts = [
        flops_per_token(x) if cost == "flops" else count_parameters(empty_model(x))
        for x in (configs["gated"], configs["plain"])
    ]
    assert counts[0] == pytest.approx(counts[1], rel=0.003)


def test_times_are_measured_in_turn_and_kept(
    files: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    """On a machine that becomes slower, of which a pass takes a nanosecond per parameter."""
    runs = {run.variant: run.unseeded for run in plan(files, EXPERIMENT)}
    measured: list[float] = []

    def seconds(config: Any, number: int) -> float:
        measured.append(2.0 ** (len(measured) // 3) * count_parameters(empty_model(config)))
        return measured[-1]

    monkeypatch.setattr(costs, "make_pass", lambda config, n_pairs: config)
    monkeypatch.setattr(costs, "timeit", seconds)
    expected = find_d_ff(runs["gated"], runs["plain"], "parameters")
    for _ in range(2):
        assert matching_d_ff(runs["gated"], runs["plain"], "time", tmp_path) == expected
    assert len(measured) == 3 * (costs.ROUNDS + 1)


def test_operations_of_a_transformer(files: Path) -> None:
    """Counted by hand: a product of N x K and K x M takes 2 N K M, and its gradients twice that."""
    config = plan(files, EXPERIMENT)[0].config
    d, d_ff, vocab = config.model.d_model, config.model.d_ff, config.tokenizer.vocab_size
    attention, feed_forward = 2 * 4 * d * d + 2 * 2 * costs.TOKENS * d, 2 * 2 * d * d_ff
    of_layers = 3 * attention + 2 * feed_forward
    expected = 3 * (of_layers + 2 * d * vocab)
    assert flops_per_token(config) == expected
    twice = replace(config, train=replace(config.train, r_drop_alpha=1.0))  # in the second half
    assert flops_per_token(twice) == 1.5 * expected


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("seeds = 2", "seeds = [1, 2]", "seeds = 2"),
        ("seeds = 2", "seeds = 1", "at `seeds`"),
        ("seeds = 2", "seed = 2", "did you mean 'seeds'"),
        ("seeds = 2", "seeds = 2\nagain = 1", "one run shows no variance"),
        ("seeds = 2", "seeds = 2\nmatch_parameters = true", 'match = "parameters"'),
        ("seeds = 2", "seeds = 2\nmatch = 'speed'", "at `match`"),
        ("seeds = 2", "seeds = 2\npath = 'x'", "'path'"),
        ("seeds = 2", "seeds = 2\nparameter_tolerance = nan", "at `parameter_tolerance`"),
        ("[settings]", "match = 'flops'\n[settings]\nmodel.d_ff = 2", "variants.gated: no model.d_ff matches"),
        ("seeds = 2", "seeds = 2\ntune.train.warmup_steps = 5", "at `tune"),
        ("seeds = 2", "seeds = 2\ntune.train.warmup = [5]", "tune: unknown key 'train.warmup'"),
        ("seeds = 2", "seeds = 2\ntune.data.max_tokens = [5, 6]", "all variants must have"),
        ("seeds = 2", "seeds = 2\ntune.train.max_grad_norm = [1]", "variants.wild: train.max_grad_norm: is tuned"),
        ("train.learning_rate = 2e9", "train.seed = 3", "variants.wild: train.seed"),
        ("train.learning_rate = 2e9", "teachers.n = 1", "teachers.n"),
        ("train.learning_rate = 2e9", "data.src = 'de'", "variants.wild: all variants"),
        ("train.learning_rate = 2e9", "evaluation.bleu_tokenizer = 'char'", "variants.wild: all variants"),
        ("train.learning_rate = 2e9\ntrain.max_grad_norm = 0.0", "", "variants.wild: no setting differs"),
        ("train.learning_rate = 2e9", "train.average = 0.5", "called train.ema_decay now"),
        ("train.learning_rate = 2e9", "train.epochs = 0xHUGE", "not a TOML file"),
        ("train.learning_rate = 2e9", "model.n_heads = 3", "variants.wild: model.n_heads = 3"),
        ('"plain"', '"plane"', "did you mean 'plain'"),
        ("[variants.plain]", '[variants."../plain"]', "`key` in `variants`"),
        ("tiny.toml", "nowhere.toml", "nowhere.toml: data.path"),
        (EXPERIMENT[EXPERIMENT.index("[variants.gated]") :], "[variants.plain]", "at `variants`"),
    ],
)  # fmt: skip
def test_errors_name_file_and_key(files: Path, old: str, new: str, expected: str) -> None:
    (files / "nowhere.toml").touch()
    assert old in EXPERIMENT
    with pytest.raises(UserError) as caught:
        plan(files, EXPERIMENT.replace(old, new.replace("HUGE", "F" * 5000), 1))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (files / "none").exists()  # nothing starts before all variants are valid


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs" / "experiments").glob("*.toml")), ids=lambda path: path.stem
)
def test_ready_experiments_are_valid(path: Path, tmp_path: Path) -> None:
    experiment = load_experiment(path)
    runs = plan_runs(experiment, tmp_path, {})
    n_more = experiment.baseline_seeds - experiment.seeds + experiment.again
    assert len(runs) == experiment.seeds * len(experiment.variants) + n_more
    sizes = {run.variant: count_parameters(empty_model(run.config)) for run in runs}
    more = {name: 100 * (size / sizes[experiment.baseline] - 1) for name, size in sizes.items()}
    others = {name for name in more if abs(more[name]) > experiment.parameter_tolerance}
    expected = {"attention": {"gaussian", "hard_coded"}, "positions": {"learned"}}
    assert others == expected.get(path.stem, set())


def test_diverged_baseline_is_one_line(files: Path, tmp_path: Path) -> None:
    runs = plan(files, EXPERIMENT, tmp_path)
    for run in runs:
        run.folder.save_config(run.config)
        write_text(run.folder.diverged_file, "")
    with pytest.raises(UserError, match=r"the baseline, plain, diverged with seed 1"):
        collect(load_experiment(files / "changed.toml"), runs, tmp_path)
    assert "plain,run,1,diverged" in (tmp_path / "results.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "content"),
    [*itertools.product(("training.json", "metrics.jsonl"), ('{"half', "{}")),
     ("eval.json", '{"half'), ("hypotheses/test.txt", "half")],
)  # fmt: skip
def test_damaged_file_is_named(
    folder: Path, tmp_path: Path, capsys: Capture, name: str, content: str
) -> None:
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out, ignore=shutil.ignore_patterns("last.pt", "*.csv"))
    path = (out / "gated" / "seed-1" / name).resolve()
    path.write_text(content, encoding="utf-8")
    assert run_compare(folder, out=out) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"seq2seq: {path}")


def test_other_test_sentences_are_not_compared(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "out", tmp_path / "out", ignore=shutil.ignore_patterns("*.csv"))
    path = RunFolder(tmp_path / "out" / "gated" / "seed-2").split_file("test", "src")
    path.write_text(path.read_text(encoding="utf-8").replace("ba", "du"), encoding="utf-8")
    with pytest.raises(UserError, match=r"seed-2: its test is not that of .*plain/seed-1"):
        results_of(folder, tmp_path / "out")


def test_results_match_files(folder: Path) -> None:
    results = results_of(folder)
    samples: dict[str, list[Any]] = {"plain": [], "gated": []}
    for row in results.runs("plain") + results.runs("gated"):
        run, numbers = run_folder(folder, row.variant, row.seed), row.numbers
        texts = run.hypotheses_file("test"), run.split_file("test", "tgt")
        hypotheses, references = map(read_lines, texts)
        log_p = Translator.load(run).score(read_lines(run.split_file("test", "src")), references)
        likelihood = sum(x.log_probability for x in log_p) / sum(x.n_tokens for x in log_p)
        assert numbers["test/bleu"] == score(hypotheses, references, "13a")["bleu"]
        assert numbers["test/log_likelihood"] == pytest.approx(likelihood, rel=1e-5)
        assert numbers["test/tag_pairs/odd"] == 20
        lines = read_lines(run.split_file("train", "tgt"))
        n_tokens = sum(map(len, Tokenizer.load(run, run.load_config()).tgt.encode(lines)))
        assert numbers["train_flops"] == flops_per_token(run.load_config()) * 2 * n_tokens
        samples[row.variant].append(resampled_bleu(hypotheses, references, "13a"))
        assert numbers["test/variance"] == pytest.approx(samples[row.variant][-1].var(ddof=1))
    gated, mean = samples["gated"], np.mean(samples["plain"], axis=0)
    expected = [np.cov(gated[0], other)[0, 1] for other in (gated[1], mean)]
    numbers = results.runs("gated")[0].numbers
    of_first = [numbers[f"test/cov_{of}"] for of in ("own", "baseline")]
    assert of_first == pytest.approx(expected)
    rows = [(x.variant, x.role, x.seed, x.status, x.look) for x in results.rows]
    plain = [("run", 1), ("run", 2), ("run", 3), ("again", 101), ("again", 102)]
    assert rows == [
        *(("plain", *of_run, "finished", 1) for of_run in plain),
        *(("gated", "run", seed, "finished", 1) for seed in (1, 2)),
        *(("wild", "run", seed, "diverged", 1) for seed in (1, 2)),
    ]
    assert results.values("wild", "test/bleu").size == 0


def test_later_runs_are_another_look(
    folder: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    out, left_out = tmp_path / "out", shutil.ignore_patterns("*.csv", "last.pt")
    shutil.copytree(folder / "out", out, ignore=left_out)
    measured = {variant: {"train_speed": 2.0} for variant in ("plain", "gated")}
    monkeypatch.setattr(results_module, "relative_speeds", lambda runs: measured)
    fewer = EXPERIMENT.replace("baseline_seeds = 3", "baseline_seeds = 2")
    results_of(folder, out, fewer)
    results = results_of(folder, out)
    assert [row.look for row in results.runs("plain")] == [1, 1, 2]
    assert list(results.values("gated", "train_speed")) == [2, 2]
    assert capsys.readouterr().err == ""
    results_of(folder, out, fewer)
    assert "results.csv: without plain seed 3, no longer in" in capsys.readouterr().err


def test_results_are_read_as_written(files: Path, tmp_path: Path) -> None:
    experiment, path = load_experiment(files / "tiny-experiment.toml"), tmp_path / "results.csv"
    numbers = {"minutes": 0.1 + 0.2, "train_flops": 1e17, "a,b/bleu": 3.0, "a,b/tag/x/bleu": 1.0}
    numbers |= {"valid_bleu@10": 1.0, "valid_bleu@9": -1e-300}
    numbers |= {"parameters": 5, "steps": 6, "threads": 7, "data_checksum": 8, "valid_bleu": 9}
    text = {"device": "cpu", "precision": "float32"}
    about: tuple[Any, ...] = ("finished", 2, 'x = "y, z"', "", numbers, text)
    rows = [RunResult(x, *of, *about) for x in experiment.variants for of in experiment.seeds_of(x)]
    write_results(path, rows)
    results = read_results(path, experiment)
    assert (results.rows, results.tests) == (rows, ["a,b"])
    written = path.read_text(encoding="utf-8")
    last = written.splitlines()[-1]
    for old, new in (
        ("gated", "other"), (f"{last}\n", ""), (last, last.rpartition(",")[0]), (last, f"{last},1"), ("finished", "lost"), ("0.3", "0.3x"),
        ("0.3", "nan"), ("look", "took"), ("plain,run", 'plain,"run'), ("run", "walk"), (",cpu,", ",,"), (",7,", ",,"),
    ):  # fmt: skip
        path.write_text(written.replace(old, new, 1), encoding="utf-8")
        with pytest.raises(UserError, match=r"results\.csv: .*$"):
            read_results(path, experiment)


def numbers_of(path: Path) -> list[dict[str, str]]:
    """All of a results.csv but what measures time."""
    with path.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    times = [key for key in rows[0] if key == "minutes" or "speed" in key]
    return [{key: x for key, x in row.items() if key not in times} for row in rows]


@pytest.mark.parametrize("begins", [False, True])
def test_killed_workers_are_replaced_while_they_begin_runs(
    files: Path, tmp_path: Path, monkeypatch: Patch, begins: bool
) -> None:
    started, runs = list[int](), plan(files, EXPERIMENT, tmp_path)

    class Killed(SimpleNamespace):
        """A process out of memory: after it began a run, or while it was starting."""

        exitcode, terminate, join = -signal.SIGKILL, bool, bool

        def start(self) -> None:
            _, begun, slot, _ = self.args
            if begins and 0 in begun:
                begun[begun.index(0)] = 1
            started.append(slot)
            assert len(started) < 20

    context = SimpleNamespace(Process=Killed, set_forkserver_preload=bool)
    context.RawArray = lambda _, n: bytearray(n)
    monkeypatch.setattr("multiprocessing.get_context", lambda _: context)
    monkeypatch.setattr(time, "sleep", bool)
    with pytest.raises(UserError, match=f"{len(runs)} of {len(runs)} runs failed"):
        run_all(runs, 2)
    assert len(started) == (len(runs) + 2 if begins else 2)


@pytest.mark.slow
def test_workers_are_killed_and_go_on(files: Path, tmp_path: Path, capsys: Capture) -> None:
    text = EXPERIMENT.split("[variants.wild]", maxsplit=1)[0].replace("epochs = 2", "epochs = 1")
    text = text.replace("baseline_seeds = 3", f"baseline_seeds = 2\nagain = 0\n{TUNE}")
    runs, experiment = plan(files, text, tmp_path / "expected"), files / "changed.toml"
    run_all(runs)
    collect(load_experiment(experiment), runs, tmp_path / "expected")
    out = tmp_path / "out"
    blocked = out / "gated" / "tune-warmup_steps-5-label_smoothing-0.0"
    (blocked / "corpus").mkdir(parents=True)  # as if it were not of a run

    def start(until: str, *options: str) -> "subprocess.Popen[bytes]":
        command = [*SEQ2SEQ, "compare", str(experiment), "--run", str(out), *options]
        process = subprocess.Popen(command, start_new_session=True)
        while process.poll() is None and not list(out.glob(until)):
            time.sleep(0.05)
        return process

    process = start("plain/tune-*/metrics.jsonl", "--jobs", "1")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 128 + signal.SIGINT
    process = start("plain/seed-1/metrics.jsonl", "--jobs", "2")
    process.kill()
    process.wait()
    with pytest.raises(UserError, match="3 of 8 runs failed"):  # with those that it is tuned for
        run_all(plan(files, text, out), 1)
    assert "files that are not of a run" in capsys.readouterr().err
    shutil.rmtree(blocked)
    for process in [start("*"), start("*")]:
        assert process.wait() == 0
    assert numbers_of(out / "results.csv") == numbers_of(tmp_path / "expected" / "results.csv")


def test_variant_from_outside(folder: Path, tmp_path: Path) -> None:
    """The README's example of a part of one's own is trained, compared, used, and tested."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# my_variant\.py\n.*?)```", readme, re.DOTALL)
    (tmp_path / "my_variant.py").write_text(code, encoding="utf-8")
    experiment = EXPERIMENT.split("[variants.wild]", maxsplit=1)[0]
    experiment = experiment.replace('modifiers = "gated"', 'score = "distance"')
    (folder / "outside.toml").write_text(experiment, encoding="utf-8")
    out = tmp_path / "out"
    shutil.copytree(folder / "out" / "plain", out / "plain")

    def python(*words: str | Path) -> str:
        return subprocess.check_output([sys.executable, *words], text=True, cwd=tmp_path)

    compare: list[str | Path] = ["compare", folder / "outside.toml", "--run", out, "--jobs", "1"]
    assert "gated" in python("my_variant.py", *compare)
    run = out / "gated" / "seed-1"
    assert python("my_variant.py", "predict", "--run", run, "ba du").count("\n") == 1
    options = ["-p", "no:cacheprovider", "-p", "my_variant", "-k", "distance", "--rootdir"]
    tested = python("-m", "pytest", *options, ROOT, ROOT / "tests" / "test_variants.py")
    assert re.search(r"[1-9]\d* passed", tested)
