"""Alignment error rate: counted by hand, read off weights written by hand, and from a real model."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import small_model, write_lines

from seq2seq.alignment import Agreement, Head, attended_words, judge_heads
from seq2seq.checkpoint import load_run_config
from seq2seq.cli import main
from seq2seq.corpus import Corpus, parse_links
from seq2seq.settings import Config, TokenizerConfig
from seq2seq.tokenizer import Tokenizer, words
from seq2seq.translator import Translator

TEXT = ["das Haus ist rot", "ein rotes Haus", "das Haus brennt", "the house is red"] * 20


def test_error_rate_by_hand() -> None:
    """Four proposed, five gold, three shared: 1 - 2 · 3 / (4 + 5) = 1/3."""
    agreement = Agreement()
    agreement.add(parse_links("0-0 1-1 2-0"), parse_links("0-0 1-1 2-2"))
    agreement.add(parse_links("0-1"), parse_links("0-1 1-1"))
    assert (agreement.proposed, agreement.gold, agreement.both) == (4, 5, 3)
    assert agreement.error_rate == pytest.approx(100 / 3)
    assert agreement.precision == pytest.approx(75)
    assert agreement.recall == pytest.approx(60)


def test_no_links_at_all() -> None:
    agreement = Agreement()
    assert (agreement.error_rate, agreement.precision, agreement.recall) == (100, 0, 0)


def test_subwords_count_as_their_words() -> None:
    """Two source words of 1 and 2 subwords and an end; two target words of 2 and 1 subwords.

    Target word 0 looks most at the end, which is no word, and then, counting sums, at source word
    1 (0.25 + 0.25 against 0.3); no subword of it alone does.
    """
    weights = torch.tensor([[0.3, 0.2, 0.3, 0.2], [0.3, 0.3, 0.2, 0.2], [0.4, 0.2, 0.1, 0.3]])
    words = attended_words(weights, src_words=[0, 1, 1, -1], tgt_words=[0, 0, 1])
    assert words.tolist() == [1, 0]
    ends = torch.tensor([[0.1, 0.2, 0.7]])
    assert attended_words(ends, src_words=[0, 1, -1], tgt_words=[0]).tolist() == [1]


def test_words_of_subwords_are_the_words_between_spaces() -> None:
    tokenizer = Tokenizer.train(TokenizerConfig(vocab_size=290), TEXT, TEXT)
    sentences = {
        "das Haus ist rot": 4, "Häuser, 東京 brennen!": 3, "a": 1, " two  spaces ": 2,
        "Bonjour\u00a0!": 1, "a\tb c": 2, "a\u202fb\u3000c\x85d": 1, "a▁b": 2, "a\0b": 2, "e\u0301": 1,
    }  # fmt: skip
    for text, n_words in sentences.items():
        ids = tokenizer.encode_tgt([text])[0]
        numbers = tokenizer.tgt_words(ids)
        assert (numbers[0], numbers[-1]) == (-1, -1)  # beginning and end
        assert len(words(text)) == n_words
        assert sorted(set(numbers[1:-1])) == list(range(n_words))
        for number, word in enumerate(words(text)):
            pieces = [i for i, w in zip(ids, numbers, strict=True) if w == number]
            assert tokenizer.decode_tgt([pieces]) == [" ".join(word.splitlines())]


def test_heads_are_judged_by_what_the_model_attends_to() -> None:
    """The same counts as from the weights themselves, sentence by sentence, word by word."""
    tokenizer = Tokenizer.train(TokenizerConfig(vocab_size=290), TEXT, TEXT)
    model = small_model(vocab_size=tokenizer.tgt_vocab_size)
    corpus = Corpus(["das Haus ist rot", "ein rotes Haus"], ["the house is red", "das Haus brennt"])
    gold = [parse_links("0-0 1-1 2-2 3-3"), parse_links("0-0 2-1")]
    found = judge_heads(Translator(model, tokenizer, Config()), corpus, gold)
    assert len(found) == 2 * 4 * 2
    for layer, head, step in ((1, 2, "writing"), (2, 4, "reading")):
        expected = Agreement()
        for src_text, tgt_text, links in zip(corpus.src, corpus.tgt, gold, strict=True):
            src, tgt = tokenizer.encode_src([src_text])[0], tokenizer.encode_tgt([tgt_text])[0]
            model.eval()
            steps = model.attention_steps(torch.tensor([src]), torch.tensor([tgt[:-1]]))
            table = steps.cross[layer - 1].weights[0, head - 1].tolist()
            src_words, tgt_words = tokenizer.src_words(src), tokenizer.tgt_words(tgt)
            proposed = set()
            for word in range(max(tgt_words) + 1):
                seen = [0.0] * (max(src_words) + 1)
                for position, its_word in enumerate(tgt_words):
                    if its_word == word:
                        row = table[position - 1 if step == "writing" else position]
                        for column, src_word in enumerate(src_words):
                            if src_word >= 0:
                                seen[src_word] += row[column]
                proposed.add((seen.index(max(seen)), word))
            expected.add(frozenset(proposed), links)
        assert found[Head(layer, head, step)] == expected


def test_pairs_too_long_for_the_model_are_left_out() -> None:
    tokenizer = Tokenizer.train(TokenizerConfig(vocab_size=290), TEXT, TEXT)
    config = Config()
    config = replace(config, data=replace(config.data, max_tokens=12))
    translator = Translator(small_model(vocab_size=tokenizer.tgt_vocab_size), tokenizer, config)
    corpus = Corpus(["das Haus", "das Haus " * 9, ""], ["the house", "the house " * 9, ""])
    gold = [parse_links("0-0 1-1"), parse_links("0-0"), parse_links("")]
    found = judge_heads(translator, corpus, gold)
    assert {(agreement.pairs, agreement.gold) for agreement in found.values()} == {(1, 2)}
    assert judge_heads(translator, Corpus(corpus.src[1:], corpus.tgt[1:]), gold[1:]) == {}


def test_evaluation_without_a_pair_to_judge(trained_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for split, name in (("valid", "valid"), ("test", "test")):
        for ending in ("src", "tgt"):
            write_lines(run / "corpus" / f"{split}.{ending}", ["ba " * 300])
        write_lines(run / "corpus" / f"{name}.align", ["0-0"])
    assert main(["evaluate", "--run", str(run)]) == 0
    result = json.loads((run / "eval.json").read_text(encoding="utf-8"))
    assert "alignment" not in result["tests"]["test"]


def test_evaluation_reports_alignment_and_phenomena(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the reversal corpus word i says what word n - 1 - i says: the model has learned it."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    for split in ("valid", "test"):
        lines = (run / "corpus" / f"{split}.src").read_text(encoding="utf-8").splitlines()
        sizes = [len(line.split()) for line in lines]
        links = [" ".join(f"{i}-{n - 1 - i}" for i in range(n)) for n in sizes]
        tags = ["short" if n < 4 else "long even" if n % 2 == 0 else "long" for n in sizes]
        for ending, rows in (("align", links), ("tags", tags)):
            write_lines(run / "corpus" / f"{split}.{ending}", rows)
    assert main(["evaluate", "--run", str(run)]) == 0
    out = capsys.readouterr().out
    result = json.loads((run / "eval.json").read_text(encoding="utf-8"))["tests"]["test"]
    alignment = result["alignment"]
    table = alignment["error_rate_by_layer_and_head"]
    config = load_run_config(run).model
    assert [len(row) for row in table] == [config.n_heads] * config.decoder_layers
    best = alignment["best_head_on_validation"]
    assert table[best["layer"] - 1][best["head"] - 1] == alignment["error_rate"]
    assert alignment["error_rate"] < 30
    # All words on both sides are aligned one to one: precision and recall are the same.
    assert math.isclose(alignment["precision"], alignment["recall"])
    assert f"layer {best['layer']}, head {best['head']}, while {best['step']}" in out
    hypotheses = (run / "hypotheses" / "test.txt").read_text(encoding="utf-8").splitlines()
    references = (run / "corpus" / "test.tgt").read_text(encoding="utf-8").splitlines()
    for name in ("short", "long", "even"):
        shown = [i for i, names in enumerate(tags) if name in names.split()]
        right = sum(hypotheses[i] == references[i] for i in shown)
        found = result["phenomena"][name]
        assert found == {"pairs": len(shown), "exact_match": 100 * right / len(shown)}
        assert f"{found['exact_match']:.1f} ({len(shown)})" in out
