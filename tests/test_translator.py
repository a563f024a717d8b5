"""What is told of translations: scores, n-best lists, alignments, cuts; and ensembles."""

import io
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, Capture, Patch, write_lines
from untrained import small_tokenizer

from seq2seq.cli import main
from seq2seq.config import AttentionConfig, Config, DataConfig
from seq2seq.data.corpus import iter_split
from seq2seq.data.tokenizer import BOS, EOS, split_words
from seq2seq.evaluation.alignment import Head, align_words
from seq2seq.evaluation.tracing import trace_attentions
from seq2seq.model import decoding
from seq2seq.model.decoding import Hypothesis, length_normalized
from seq2seq.model.transformer import Seq2Seq
from seq2seq.model.weights import named_tensors
from seq2seq.run_folder import RunFolder
from seq2seq.translation import FLAGS
from seq2seq.translator import SENTENCE, Part, Translation, Translator
from seq2seq.utils import UserError

Command = Callable[..., list[str]]


def untrained(seed: int = 0, max_tokens: int = 256) -> Translator:
    torch.manual_seed(seed)
    config = Config(model=SMALL, data=DataConfig(max_tokens=max_tokens))
    return Translator(Seq2Seq.build(SMALL, small_tokenizer()).eval(), small_tokenizer(), config)


@pytest.fixture
def command(trained_run: Path, monkeypatch: Patch) -> Command:
    def command(name: str, text: str, *more: str | Path, status: int = 0) -> list[str]:
        """The lines that ``name`` writes for some standard input."""
        out = io.BytesIO()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out, write_through=True))
        assert main([name, "--run", str(trained_run), *map(str, more)]) == status
        return out.getvalue().decode().split("\n")[:-1]

    return command


@torch.no_grad()
def test_scores_are_cross_entropies() -> None:
    """Of each pair by itself, without padding; of what was decoded by its ids."""
    translator = untrained()
    src = ["ba du ke lo", "zo", "", "vu zo ba du ke lo ba", "ba"]
    tgt = ["zo vu", "ba du ke lo zo vu zo", "ke", "", "bä"]

    def plain(src_ids: list[int], tgt_ids: list[int]) -> tuple[float, int]:
        logits = translator.model(torch.tensor([src_ids]), torch.tensor([tgt_ids[:-1]]))[0]
        labels = torch.tensor(tgt_ids[1:])
        return -F.cross_entropy(logits, labels, reduction="sum").item(), len(labels)

    subwords = translator.tokenizer
    ids = zip(subwords.src.encode(src), subwords.tgt.encode(tgt, bos=True), strict=True)
    expected = [plain(*pair) for pair in ids]
    translator.model.train()
    np.testing.assert_allclose(translator.score(src, tgt), expected, rtol=1e-5)
    assert translator.model.training
    translator.model.eval()
    assert translator.score(iter(src[:2]), tuple(tgt[:2]))[1].n_tokens == expected[1][1]
    with pytest.raises(ValueError, match="5 sentences, but 4 "):
        translator.score(src, tgt[1:])
    translations = [x for best in translator.search(src, n_best=2) for x in best]
    ended = [[EOS] * (not part.hypothesis.is_cut) for x in translations for part in x.parts]
    assert [] in ended
    parts = [x.parts[0] if x.parts else None for x in translations]
    assert parts.count(None) == 1
    for part, score in zip(parts, translator.rescore(translations), strict=True):
        end = [EOS] * (not part.hypothesis.is_cut) if part else []
        wanted = plain(part.src_ids, [BOS, *part.hypothesis.ids, *end]) if part else (0, 0)
        assert score == pytest.approx(wanted, rel=1e-5)


def test_sentences_of_a_long_line() -> None:
    for text in (
        "so e.g. this... and that! or so", "It is 3.5", "...", "a。。。", "ba " * 50, "z. B. hier",
    ):  # fmt: skip
        assert SENTENCE.findall(text) == [text]
    for parts in (
        ["One. ", "Two?  ", '"Three!" ', "(Four.) ", "Five… ", "Six"],
        ["一。", "二！」", "三？ ", "四"],
        ["Ends. "],
    ):
        assert SENTENCE.findall(" " + "".join(parts)) == parts
    assert len(SENTENCE.findall("." * 10**5 + ")" * 10**5 + " " * 10**5)) < 3  # in no time


def test_long_lines_are_split_or_cut(monkeypatch: Patch, capsys: Capture) -> None:
    """In front of each other, the sentences; each aligned with its own words; all of it said."""
    translator = untrained(max_tokens=12)
    sentences = ["Ba du ke lo. ", "Zo vu。", "Ba ba lo."]
    line, too_long = "".join(sentences), "ba " * 20
    alone = [translator.search([text], n_best=2)[0][0] for text in sentences]
    (split, *_), (cut, *_) = translator.search([line, too_long], n_best=2)
    assert [len(x.parts) for x in (split, cut)] == [3, 1]
    assert split.text == " ".join(x.text for x in alone)
    assert translator.rescore([split])[0].n_tokens == sum(x[1] for x in translator.rescore(alone))
    assert (split.flags[0], cut.flags[0]) == ("input split", "input cut")
    (whole,) = translator.tokenizer.src.encode([too_long])
    assert cut.parts[0].src_ids == [*whole[:11], EOS]
    links, *each = align_words(translator, [split, *alone], None)
    n_src, n_tgt, expected = 0, 0, []
    for text, translation, own in zip(sentences, alone, each, strict=True):
        expected += [(i + n_src, j + n_tgt) for i, j in own]
        n_src += len(text.split()) - (text[-1] == "。")  # the next word goes on without a space
        n_tgt += len(split_words(translation.text))
    assert links == expected
    assert max(i for i, _ in links) < len(line.split())
    capsys.readouterr()
    translator.translate(["ba", line, too_long])
    err = capsys.readouterr().err
    assert re.search(r"input split .*line 2\)", err)
    assert re.search(r"input cut .*line 3\)", err)
    (ids,) = translator.tokenizer.tgt.encode(["zo。"])
    same = [[Hypothesis(ids[:-1], is_cut=False)]] * 3
    monkeypatch.setattr(Translator, "decode", lambda *_: same)
    assert translator.translate(line) == "zo。zo。zo。"


def test_longer_than_usual_is_split(trained_run: Path, tmp_path: Path) -> None:
    translator = Translator.load(trained_run)
    pairs = iter_split(RunFolder(trained_run), translator.config.data, "train")
    lengths = sorted(map(len, translator.tokenizer.src.encode(src for src, _ in pairs)))
    assert lengths[len(lengths) * 94 // 100] <= translator.usual_length <= lengths[-1]
    two = ["ba du ke lo mi na zo vu. Ba du ke lo mi na zo vu.", "ba. Du."]
    assert [len(x.parts) for (x,) in translator.search(two)] == [2, 1]
    assert [len(x.parts) for (x,) in translator.search(two, split=False)] == [1, 1]
    copied = shutil.copytree(trained_run, tmp_path / "run")
    summary = json.loads((copied / "training.json").read_bytes())
    del summary["usual_src_tokens"]  # as of a run that was trained before it was measured
    (copied / "training.json").write_text(json.dumps(summary), encoding="utf-8")
    older = Translator.load([copied, trained_run])
    assert older.usual_length == translator.config.data.max_tokens


def test_translation_in_a_notebook() -> None:
    """A table in which nothing typed is markup."""
    src = ["<script>hacked=1</script>", 'a & b &lt; "c"']
    tgt = ["<b>x</b>", "</td></table>"]
    uncut, cut = (Hypothesis([5], is_cut=x) for x in (False, True))
    parts = [
        Part(src[0], [5, EOS], False, uncut, tgt[0]),
        Part(src[1], [5, EOS], True, cut, tgt[1]),
    ]
    events: list[str] = []
    parser = HTMLParser(convert_charrefs=True)
    parser.handle_starttag = lambda tag, attrs: events.append(f"<{tag}>")  # type: ignore[method-assign]
    parser.handle_data = events.append  # type: ignore[assignment,method-assign]
    parser.feed(Translation(parts)._repr_html_())
    parser.close()
    rows = [*zip(src, tgt, strict=True)]
    rows += [(flag, f"by {FLAGS[flag]}") for flag in ("input cut", "input split", "output cut")]
    cells = [["<tr>", "<td>", left, "<td>", right] for left, right in rows]
    assert events == ["<table>", *chain(*cells)]


@torch.no_grad()
def test_words_are_aligned_by_a_head_or_the_mean() -> None:
    translator = untrained()
    for parameter in translator.model.decoder.parameters():
        parameter.mul_(4)  # weights that differ
    (src,), ((_, *tgt),) = (
        translator.tokenizer.src.encode(["ba du ke lo zo vu"]),
        translator.tokenizer.tgt.encode(["zo vu ba ke du lo"], bos=True),
    )
    best = Translation([Part("", src, False, Hypothesis(tgt[:-1], is_cut=False), "")])
    ids = torch.tensor([src]), torch.tensor([[BOS, *tgt[:-1]]])
    traces, _ = trace_attentions(translator.model, *ids, ["cross"])
    tgt_words = translator.tokenizer.tgt.words([BOS, *tgt])
    src_words = translator.tokenizer.src.words(src)
    for head, weights, shift in (
        (None, traces["cross"][1].weights[0].mean(dim=0), 1),
        (Head(1, 3, "input"), traces["cross"][0].weights[0, 2], 0),
    ):
        expected = []
        for word in range(max(tgt_words) + 1):
            mass = [0.0] * (max(src_words) + 1)
            for t, row in enumerate(weights.tolist()):
                for s, weight in enumerate(row):
                    if tgt_words[t + shift] == word and src_words[s] >= 0:
                        mass[src_words[s]] += weight
            expected.append((mass.index(max(mass)), word))
        assert align_words(translator, [best], head) == [expected]


def test_predict_tells_more(
    trained_run: Path, command: Command, monkeypatch: Patch, capsys: Capture
) -> None:
    """Columns and objects agree with each other, with plain output, and line by line with input."""
    text = "ba du ke lo\n\nmi\tna\nΩ du\n"
    plain = command("predict", text, "--beam", "3")
    assert (plain[0], plain[1], len(plain)) == ("lo ke du ba", "", 4)
    more = ("--n-best", "3", "--scores", "--alignments")
    capsys.readouterr()
    rows = [row.split("\t") for row in command("predict", text, *more)]
    objects = [json.loads(row) for row in command("predict", text, *more, "--json")]
    assert [row[2] for row in rows if row[0] == "1"] == plain == [x["translation"] for x in objects]
    assert [x["source"] for x in objects] == text.split("\n")[:-1]
    assert [x["flags"] for x in objects[:3]] == [[], [], []]
    assert "characters never seen" in objects[3]["flags"]
    flat = [(rank, x) for of in objects for rank, x in enumerate(of["n_best"], start=1)]
    assert len(flat) == len(rows) == 3 + 1 + 3 + 3
    translator = Translator.load(trained_run)
    for (rank, x), row in zip(flat, rows, strict=True):
        links = " ".join(f"{i}-{j}" for i, j in x["alignment"])
        log_p = f"{x['log_probability']:.4f}"
        assert row == [str(rank), log_p, x["translation"], links]
        assert x["score"] == length_normalized(x["log_probability"], x["tokens"], 1.0)
    for x in (objects[0], objects[2]):
        assert x["alignment"] == [
            [n - 1 - j, j] for n in [len(x["source"].split())] for j in range(n)
        ]
        scores = [y["score"] for y in x["n_best"]]
        assert scores == sorted(scores, reverse=True)
        again = translator.score(x["source"], x["translation"])
        assert again[0] == pytest.approx((x["log_probability"], x["tokens"]), rel=1e-4)
    forced = command("predict", "ba du ke lo\n\n", "--prefix", "ke  mi", "--scores")
    assert forced[0].split("\t")[1].startswith("ke mi")
    assert forced[1] == "0.0000\t"
    capsys.readouterr()
    monkeypatch.setattr(decoding, "max_lengths", lambda src, _: torch.tensor([3] * len(src)))
    lines = command("predict", "ba du\nba du ke\n" + "ba du ke " * 99, "--json")
    cut = [["output cut"], ["input cut", "output cut"]]
    assert [json.loads(line)["flags"] for line in lines] == [[], *cut]
    output, source = sorted(capsys.readouterr().err.splitlines(), reverse=True)
    assert "max_length_ratio: 2 (line 2, 3)" in output
    assert "max_tokens: 1 (line 3)" in source
    for n_best in ("0", "1001"):
        assert command("predict", "ba\n", "--n-best", n_best, status=1) == []


def test_score_command(
    trained_run: Path, command: Command, tmp_path: Path, capsys: Capture
) -> None:
    pairs = [("ba du ke", "ke du ba"), ("ba du", "ba du"), ("", "ba")]
    src, tgt = tmp_path / "src", tmp_path / "tgt"
    write_lines(src, [pair[0] for pair in pairs])
    write_lines(tgt, [pair[1] for pair in pairs])
    text = "".join(f"{src}\t{tgt}\n" for src, tgt in pairs)
    rows = command("score", text)
    assert rows == command("score", "", src, tgt)
    assert capsys.readouterr().err == ""
    for text in ("ба\tba\n" * 2, "ba\tба\n" * 2):
        command("score", text)
        assert re.findall(r"U\+0431.*?(\d)\)", capsys.readouterr().err) == ["2"]
    right, wrong, _ = [[float(x) for x in row.split("\t")] for row in rows]
    assert right[0] > -1 > wrong[0]
    for (src_text, tgt_text), row in zip(pairs, rows, strict=True):
        (score,) = Translator.load(trained_run).score(src_text, tgt_text)
        total, n_tokens = score
        expected = [f"{total:.4f}", f"{total / n_tokens:.4f}", str(n_tokens)]
        assert row.split("\t") == expected
    capsys.readouterr()
    write_lines(tgt, ["ba"])
    assert command("score", "", src, tgt, status=1) == []
    assert command("score", "", src, status=1) == []
    assert command("score", "ba\tba\nba\n", status=1) == []
    for err, named in zip(
        capsys.readouterr().err.splitlines(), (str(tgt), "FILE", "line 2"), strict=True
    ):
        assert named in err


def test_ensembles(trained_run: Path, tmp_path: Path, command: Command, capsys: Capture) -> None:
    texts = ["ba du ke lo", "mi na", ""]
    twice = Translator.load([trained_run, str(trained_run)], {"decoding.precision": "bfloat16"})
    assert twice.translate(texts) == ["lo ke du ba", "na mi", ""]
    one = Translator.load([trained_run])
    assert type(one.model) is Seq2Seq
    of_twice, of_one = (np.array(x.score(texts, texts)) for x in (twice, one))
    np.testing.assert_allclose(of_twice, of_one, rtol=1e-5)
    several = ("--run", trained_run, "--alignments", "--beam", "2")
    assert command("predict", "ba du\n", *several) == ["du ba\t1-0 0-1"]
    # Of another tokenizer, and without cross-attention.
    other = untrained()
    none = replace(SMALL, cross_attention=AttentionConfig(type="none", position="none"))
    run, tokenizer = RunFolder(tmp_path / "other"), small_tokenizer()
    shutil.copytree(trained_run / "corpus", run.corpus)
    config = replace(Config(model=none), tokenizer=replace(Config().tokenizer, vocab_size=280))
    run.save_config(replace(config, data=replace(config.data, path="x")))
    tokenizer.save(run)
    model = Seq2Seq.build(none, tokenizer)
    run.save_weights(named_tensors(model), tokenizer.fingerprint)
    capsys.readouterr()
    with pytest.raises(UserError, match=other.tokenizer.fingerprint):
        Translator.load([trained_run, run])
    with pytest.raises(UserError, match="no run"):
        Translator.load([])
    assert main(["predict", "--run", str(run), "--alignments", "ba"]) == 1
    assert "cross-attention" in capsys.readouterr().err
