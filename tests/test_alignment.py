"""Alignment error rate by hand and from a model; evaluation of a trained run."""

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Capture, Patch, small_model, write_lines
from torch import Tensor

from seq2seq.cli import main
from seq2seq.config import Config, TokenizerConfig
from seq2seq.data.annotations import Links
from seq2seq.data.corpus import Corpus
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.evaluation import alignment
from seq2seq.evaluation.alignment import OFFSETS, AlignmentCounts, Head, align, score_heads
from seq2seq.evaluation.evaluate import evaluate, known_best_head
from seq2seq.evaluation.tracing import trace_attentions
from seq2seq.model.transformer import Seq2Seq
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError, read_json, read_lines, write_text

TEXT = ["das Haus ist rot", "ein rotes Haus", "das Haus brennt", "the house is red"] * 20


def links(text: str) -> Links:
    pairs = (link.split("-") for link in text.split())
    return frozenset((int(i), int(j)) for i, j in pairs)


@pytest.fixture(scope="module")
def translator() -> Translator:
    tokenizer = Tokenizer.train(TokenizerConfig(vocab_size=290), TEXT, TEXT)
    return Translator(small_model(vocab_size=len(tokenizer.tgt)), tokenizer, Config())


def test_error_rate_by_hand() -> None:
    """Four proposed, five gold, three shared: 1 - 2 · 3 / (4 + 5) = 1/3."""
    correct = np.array([[[0, 1], [2, 3]], [[3, 0], [0, 0]]])  # layers, heads, offsets
    counts = AlignmentCounts(pairs=2, proposed=4, gold=5, correct=correct)
    assert counts.best_head() == Head(1, 2, "predict")  # the first of two
    scores = counts.scores(counts.best_head())
    rates = [scores[key] for key in ("error_rate", "precision", "recall")]
    assert rates == pytest.approx([100 / 3, 75, 60])
    by_layer = 100 * np.array([[1 - 2 / 9, 1 / 3], [1, 1]])
    np.testing.assert_allclose(scores["error_rate_by_layer_and_head"], by_layer)


def test_align_sums_subwords() -> None:
    """Two source words of 1 and 2 subwords and an end; two target words of 2 and 1 subwords.

    Target word 0 attends most to the end, which is no word, and then, summed, to source word 1
    (0.25 + 0.25 against 0.3), though to none of its subwords alone.
    """
    weights = torch.tensor([[0.3, 0.2, 0.3, 0.2], [0.3, 0.3, 0.2, 0.2], [0.4, 0.2, 0.1, 0.3]])
    assert align(weights, src_words=[0, 1, 1, -1], tgt_words=[0, 0, 1]).tolist() == [1, 0]


def test_heads_match_loop_over_weights(translator: Translator) -> None:
    """The same counts as word by word, sentence by sentence."""
    tokenizer, model = translator.tokenizer, translator.model.eval()
    corpus = Corpus(["das Haus ist rot", "ein rotes Haus"], ["the house is red", "das Haus brennt"])
    gold = [links("0-0 1-1 2-2 3-3"), links("0-0 2-1")]
    counts: Any = score_heads(translator, corpus, gold)
    assert (counts.pairs, counts.proposed, counts.gold) == (2, 7, 6)
    for layer, head, offset in product((1, 2), (1, 2, 3, 4), OFFSETS):
        expected = 0
        for src_text, tgt_text, of_pair in zip(corpus.src, corpus.tgt, gold, strict=True):
            (src,) = tokenizer.src.encode([src_text])
            (tgt,) = tokenizer.tgt.encode([tgt_text], bos=True)
            traces, _ = trace_attentions(model, torch.tensor([src]), torch.tensor([tgt[:-1]]))
            table = traces["cross"][layer - 1].weights[0, head - 1].tolist()
            src_words, tgt_words = tokenizer.src.words(src), tokenizer.tgt.words(tgt)
            proposed = set()
            for word in range(max(tgt_words) + 1):
                of_word = [t for t, its_word in enumerate(tgt_words) if its_word == word]
                rows = [table[t - 1 if offset == "predict" else t] for t in of_word]
                sums = [0.0] * (max(src_words) + 1)
                for (i, src_word), row in product(enumerate(src_words), rows):
                    sums[src_word] += row[i] if src_word >= 0 else 0
                proposed.add((sums.index(max(sums)), word))
            expected += len(proposed & of_pair)
        assert counts.correct[layer - 1, head - 1, OFFSETS.index(offset)] == expected


def test_long_and_blank_pairs_are_left_out(translator: Translator) -> None:
    config = replace(Config(), data=replace(Config().data, max_tokens=12))
    short = Translator(translator.model, translator.tokenizer, config)
    corpus = Corpus(["das Haus", "das Haus " * 9, ""], ["the house", "the house " * 9, ""])
    counts: Any = score_heads(short, corpus, [links("0-0 1-1"), links("0-0"), links("")])
    assert (counts.pairs, counts.gold) == (1, 2)


def test_memory_is_bounded(translator: Translator, monkeypatch: Patch) -> None:
    """Batches are limited by tokens, not by sentences: a trace holds all attention scores."""
    sizes: list[int] = []

    def recorded(model: Seq2Seq, src: Tensor, tgt: Tensor, which: list[str]) -> object:
        sizes.append(max(src.numel(), tgt.numel()))
        return trace_attentions(model, src, tgt, which)

    monkeypatch.setattr(alignment, "trace_attentions", recorded)
    long = ["das " * 240] * 12
    counts: Any = score_heads(translator, Corpus(long, long), [links("0-0")] * 12)
    assert counts.pairs == 12
    assert sum(sizes) > alignment.MAX_TOKENS >= max(sizes)


def test_evaluation_reports_alignment_and_tags(run: RunFolder, capsys: Capture) -> None:
    """In the reversal corpus word i aligns with word n - 1 - i: the model has learned that."""
    for split in ("valid", "test"):
        sizes = [len(line.split()) for line in read_lines(run.split_file(split, "src"))]
        gold = [" ".join(f"{i}-{n - 1 - i}" for i in range(n)) for n in sizes]
        tags = ["short" if n < 4 else "long \x1beven" if n % 2 == 0 else "long" for n in sizes]
        write_lines(run.split_file(split, "src-tgt.align"), gold)
        write_lines(run.split_file(split, "tags"), tags)
    leftover = run.hypotheses / "test.txt.abcdefgh.tmp"
    write_text(leftover, "half a line")
    assert main(["evaluate", "--run", str(run)]) == 0
    assert not leftover.exists()
    out = capsys.readouterr().out
    result = read_json(run.eval_file)["tests"]["test"]
    aligned = result["alignment"]
    table = aligned["error_rate_by_layer_and_head"]
    model = run.load_config().model
    assert [len(row) for row in table] == [model.n_heads] * model.decoder_layers
    best = Head(**aligned["best_head_on_validation"])
    assert table[best.layer - 1][best.head - 1] == aligned["error_rate"] < 30
    # All words on both sides are aligned one to one: precision and recall are the same.
    assert math.isclose(aligned["precision"], aligned["recall"])
    assert known_best_head(run, model) == best
    assert known_best_head(run, replace(model, n_heads=best.head - 1)) is None
    texts = (run.hypotheses_file("test"), run.split_file("test", "tgt"))
    exact = [a == b for a, b in zip(*map(read_lines, texts), strict=True)]
    assert "\x1b" not in out
    for name in ("short", "long", "\x1beven"):
        rows = [i for i, names in enumerate(tags) if name in names.split()]
        share = 100 * sum(exact[i] for i in rows) / len(rows)
        assert result["tags"][name] == {"pairs": len(rows), "exact_match": share}
        assert f"{share:.1f} ({len(rows)})" in out
    for value in (f"{result['bleu']:.2f}", f"{aligned['error_rate']:.2f}", f"head {best.head}, "):
        assert value in out


def test_evaluation_without_alignable_pair(run: RunFolder) -> None:
    for split in ("valid", "test"):
        for ending, line in (("src", "ba " * 300), ("tgt", "ba " * 300), ("src-tgt.align", "0-0")):
            write_lines(run.split_file(split, ending), [line])
    result = evaluate(run.path)["tests"]["test"]
    assert "alignment" not in result
    assert result["sentences_cut"] == 1


def test_only_one_evaluation_at_a_time(run: RunFolder) -> None:
    run.eval_file.unlink(missing_ok=True)
    with run.lock(), pytest.raises(UserError, match="another process"):
        evaluate(run)
    assert not run.eval_file.exists()
