"""Attention made visible: what is observed, the figure, the arrays, and the page in a browser."""

import base64
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SEQ2SEQ, attention_variants, small_model, with_attention

import seq2seq
from seq2seq.alignment import Head
from seq2seq.attention import Attention
from seq2seq.cli import main
from seq2seq.corpus import Corpus
from seq2seq.errors import UserError
from seq2seq.evaluation import examples, known_best_head
from seq2seq.observation import Attended, Observation, Sentence, observe
from seq2seq.page import (
    LOWEST,
    Choice,
    Item,
    Shown,
    between,
    choose,
    explanation,
    page,
    spelled,
    src_items,
    tgt_items,
    word_table,
)
from seq2seq.settings import AttentionConfig, Config, ModelConfig
from seq2seq.tokenizer import BOS, EOS
from seq2seq.translator import Translator

SENTENCE = "ba du ke lo"
each_variant = pytest.mark.parametrize(
    "variant", [pytest.param(v, id=name) for name, v in attention_variants().items()]
)


@pytest.fixture(scope="module")
def translator(trained_run: Path) -> Translator:
    return seq2seq.load(trained_run)


@pytest.fixture(scope="module")
def observation(translator: Translator) -> Observation:
    return translator.attend(SENTENCE)


def observed(translator: Translator, model: ModelConfig) -> Observation:
    """What an untrained model of another shape does with the same sentence."""
    tokenizer = translator.tokenizer
    untrained = small_model(model, tokenizer.src_vocab_size).eval()
    src, tgt = tokenizer.encode_src([SENTENCE])[0], tokenizer.encode_tgt(["lo ke"])[0]
    return observe(untrained, tokenizer, replace(Config(), model=model), src, tgt)


def unpacked(packed: dict[str, Any]) -> Any:
    """What the page's program makes of packed numbers."""
    whole = np.frombuffer(base64.b64decode(packed["data"]), "<i2").reshape(packed["shape"])
    return np.where(whole == LOWEST, -np.inf, whole * packed["scale"])


def data_of(html: str) -> list[dict[str, Any]]:
    """The data that a page holds."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    found: list[dict[str, Any]] = json.loads(text)
    return found


# --- what is observed ---


def test_translates_as_translate_does(translator: Translator, trained_run: Path) -> None:
    observation = translator.attend(SENTENCE)
    assert observation.src.text == SENTENCE
    assert [observation.tgt.text] == translator.translate([SENTENCE]) == ["lo ke du ba"]
    wide = seq2seq.load(trained_run, {"decoding.beam": "4"})
    assert [wide.attend(SENTENCE).tgt.text] == wide.translate([SENTENCE])


def test_axes_are_named_and_as_long_as_said(
    translator: Translator, observation: Observation
) -> None:
    n_src, n_steps = len(observation.src.tokens), len(observation.tgt.tokens) - 1
    assert observation.tgt.tokens[0] == "<s>"
    assert observation.tgt.tokens[-1] == observation.src.tokens[-1] == "</s>"
    heads, width = translator.config.model.n_heads, translator.config.model.d_model // 4
    for name, queries, keys in (
        ("encoder", n_src, n_src),
        ("decoder", n_steps, n_steps),
        ("cross", n_steps, n_src),
    ):
        sizes = {"layer": 1, "head": heads, "comparison": heads, "dimension": width}
        sizes |= {"query": queries, "key": keys}
        attended: Attended = getattr(observation, name)
        for array in ("queries", "keys", "scores", "weights", "values", "value_lengths"):
            axes, values = getattr(attended, array)
            assert values.shape == tuple(sizes[axis] for axis in axes), (name, array)
            assert values.dtype == np.float32
        assert attended.contributions.axes == attended.weights.axes


def test_the_numbers_are_the_four_steps(translator: Translator, observation: Observation) -> None:
    """Each step, done again with numpy from the numbers of the step before."""
    for name in ("encoder", "decoder", "cross"):
        attended: Attended = getattr(observation, name)
        assert attended.queries is not None
        assert attended.keys is not None
        queries, keys = attended.queries.values, attended.keys.values
        scores, weights = attended.scores.values, attended.weights.values
        compared = np.einsum("lhqd,lhkd->lhqk", queries, keys) / np.sqrt(queries.shape[-1])
        if name == "decoder":
            compared[..., np.triu(np.ones(compared.shape[-2:], dtype=bool), k=1)] = -np.inf
        np.testing.assert_allclose(scores, compared, atol=1e-4)
        exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
        expected = exponentials / exponentials.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(weights, expected, atol=1e-5)
    # The weighted sum of the values, through the output weights, is what the attention gives.
    cross = translator.model.decoder[0].cross_attention.attention  # type: ignore[union-attr]
    assert isinstance(cross, Attention)
    taken: list[torch.Tensor] = []
    hook = cross.output_weights.register_forward_hook(lambda *given: taken.append(given[2]))
    again = translator.attend(SENTENCE).cross
    hook.remove()
    assert again is not None
    context = again.weights.values[0] @ again.values.values[0]  # (H, T, K)
    matrix, bias = (x.detach().numpy() for x in cross.output_weights.parameters())
    merged = context.transpose(1, 0, 2).reshape(context.shape[1], -1)
    np.testing.assert_allclose(taken[-1][0].numpy(), merged @ matrix.T + bias, atol=1e-4)


def test_contributions_by_hand(translator: Translator, observation: Observation) -> None:
    """Weight times the length of the value after the output weights, one at a time."""
    module = translator.model.encoder[0].self_attention.attention  # type: ignore[union-attr]
    matrix = module.output_weights.weight.detach().numpy()  # type: ignore[union-attr, operator]
    attended = observation.encoder
    assert attended is not None
    found = attended.contributions.values[0]
    width = matrix.shape[1] // 4
    for head, query, key in ((0, 0, 1), (3, 2, 0), (1, 4, 4)):
        added = attended.weights.values[0, head, query, key] * (
            matrix[:, head * width : (head + 1) * width] @ attended.values.values[0, head, key]
        )
        assert found[head, query, key] == pytest.approx(np.linalg.norm(added), rel=1e-4)


def test_probabilities_are_those_of_the_next_token(
    translator: Translator, observation: Observation
) -> None:
    tokenizer, model = translator.tokenizer, translator.model.eval()
    src = torch.tensor(tokenizer.encode_src([SENTENCE]))
    tgt = torch.tensor(tokenizer.encode_tgt([observation.tgt.text]))
    with torch.no_grad():
        logits = model(src, tgt[:, :-1])[0]
    logits[:, [0, 1, 3]] = -torch.inf  # pad, bos and unk are never written
    expected = F.softmax(logits, dim=-1)
    for step, (written, candidates) in enumerate(
        zip(observation.written, observation.candidates, strict=True)
    ):
        token = int(tgt[0, step + 1])
        assert written.token == tokenizer.tgt_pieces([token])[0]
        assert written.probability == pytest.approx(float(expected[step, token]), rel=1e-4)
        best = expected[step].topk(len(candidates))
        assert [c.token for c in candidates] == tokenizer.tgt_pieces(best.indices.tolist())
        assert [c.probability for c in candidates] == pytest.approx(best.values.tolist(), rel=1e-3)
    assert [w.token for w in observation.written] == observation.tgt.tokens[1:]


@each_variant
def test_every_variant_can_be_seen(translator: Translator, variant: AttentionConfig) -> None:
    """In all three places, and what the page says about the sum of its weights is so."""
    model = with_attention(variant)
    seen = observed(translator, model)
    shown = Shown("x", seen, None)
    if variant.kind == "none":
        assert seen.encoder is seen.decoder is seen.cross is None
        with pytest.raises(UserError, match="x has no cross-attention"):
            choose(shown, "cross", None, None)
        return
    (pane,) = data_of(page([(shown, choose(shown, "cross", None, None))]))
    for view in ("encoder", "decoder", "cross"):
        attended: Attended = getattr(seen, view)
        weights = attended.weights.values
        sums = weights.sum(axis=-1)
        said = explanation(attended.config)["sums"]
        if said == "The weights sum to one.":
            np.testing.assert_allclose(sums, 1, atol=1e-5)
        elif "less than one" in said:
            assert ((sums > 0) & (sums < 1)).all()
        else:
            assert "need not" in said
        # Half-heads, where an extra splits heads, are compared in pairs.
        n_parts = attended.scores.values.shape[1] // weights.shape[1]
        assert n_parts == (2 if "differential" in variant.extras else 1)
        packed = pane["views"][view]
        np.testing.assert_allclose(
            unpacked(packed["weights"]), weights, atol=np.abs(weights).max() / 2**15
        )
        masked = unpacked(packed["scores"]) == -np.inf
        assert (masked == (attended.scores.values == -np.inf)).all()
        assert packed["score"]
        assert packed["normalizer"]
        places_alone = variant.score in ("gaussian", "hard_coded", "uniform")
        assert (attended.queries is None) == (places_alone or variant.kind == "average")


def test_arrays_as_json_are_the_same(observation: Observation) -> None:
    plain = json.loads(json.dumps(observation.to_json(), allow_nan=False))
    assert plain["src"]["text"] == SENTENCE
    assert observation.decoder is not None
    for name in ("scores", "weights"):
        axes, values = getattr(observation.decoder, name)
        assert plain["decoder"][name]["axes"] == list(axes)
        again = np.array(plain["decoder"][name]["values"], dtype=np.float32)  # None becomes nan
        again[np.isnan(again)] = -np.inf
        np.testing.assert_allclose(again, values, rtol=1e-5)
    assert plain["written"][0]["probability"] == observation.written[0].probability


# --- words ---


def test_words_gather_their_subwords() -> None:
    sentence = Sentence("ab c", ["<s>", "▁a", "b", "▁c", "</s>"], [-1, 0, 0, 1, -1])
    assert src_items(sentence, True) == [
        Item("<s>", [0], [0]),
        Item("ab", [1, 2], [1, 2]),
        Item("c", [3], [3]),
        Item("</s>", [4], [4]),
    ]
    # Step t reads token t and writes token t + 1: nothing writes BOS, nothing has read EOS.
    assert [item.queries for item in tgt_items(sentence, True, "writing")] == [[], [0, 1], [2], [3]]
    assert [item.queries for item in tgt_items(sentence, True, "reading")] == [[0], [1, 2], [3], []]
    for step in ("writing", "reading"):
        items = tgt_items(sentence, True, step)
        assert [item.keys for item in items] == [[0], [1, 2], [3], []]
        assert len(tgt_items(sentence, False, step)) == 5
    weights = np.array([[0.1, 0.2, 0.3, 0.4, 0.0], [0.3, 0.2, 0.1, 0.0, 0.4]], dtype=np.float32)
    queries = [Item("both", [0, 1], []), Item("second", [1], [])]
    table = between(weights, queries, src_items(sentence, True))
    np.testing.assert_allclose(table, [[0.2, 0.4, 0.2, 0.2], [0.3, 0.3, 0.0, 0.4]], atol=1e-6)


def test_bytes_are_spelled_as_the_characters_they_are() -> None:
    assert spelled(["▁gr", "<0xC3>", "<0xBC>", "n"]) == "grün"
    assert spelled(["<0xFF>"]) == "�"


def test_unseen_characters_have_a_label(translator: Translator) -> None:
    shown = Shown("x", translator.attend("ba 漢字 <b>du</b>"), None)
    labels = [item.label for item in src_items(shown.observation.src, True)]
    assert labels == ["ba", "漢字", "<b>du</b>", "</s>"]


def test_figure_shows_the_chosen_head(observation: Observation) -> None:
    shown = Shown("x", observation, Head(1, 3, "reading"))
    assert observation.cross is not None
    best = word_table(shown, choose(shown, "cross", None, None))
    assert best.down == ["<s>", "lo", "ke", "du", "ba"]
    assert best.across == ["ba", "du", "ke", "lo", "</s>"]
    assert best.title == "x: cross-attention, layer 1, head 3"
    np.testing.assert_allclose(best.values.sum(axis=1), 1, atol=1e-5)
    bos = observation.cross.weights.values[0, 2, 0]
    words = observation.src.words
    expected = [sum(w for w, word in zip(bos, words, strict=True) if word == n) for n in range(4)]
    np.testing.assert_allclose(best.values[0, :4], expected, atol=1e-6)
    mean = word_table(shown, choose(shown, "decoder", 0, 0))
    assert mean.title == "x: self-attention in the decoder, mean of layers, mean of heads"
    assert mean.down == mean.across == ["<s>", "lo", "ke", "du", "ba"]


def test_what_is_not_there_cannot_be_chosen(observation: Observation) -> None:
    shown = Shown("x", observation, None)
    assert choose(shown, "cross", None, None) == Choice("cross", 1, 0, "writing")
    for layer, head, complaint in ((2, None, "no layer 2"), (None, 5, "no head 5"), (-1, 1, "-1")):
        with pytest.raises(UserError, match=complaint):
            choose(shown, "encoder", layer, head)


def test_best_head_is_known_after_evaluation(tmp_path: Path) -> None:
    assert known_best_head(tmp_path) is None
    head = {"layer": 2, "head": 1, "step": "reading"}
    aligned = {"tests": {"test": {"alignment": {"best_head_on_validation": head}}}}
    for content, expected in (
        (aligned, Head(2, 1, "reading")),
        ({"tests": {"test": {}}}, None),
        ({"tests": []}, None),
        ({}, None),
    ):
        (tmp_path / "eval.json").write_text(json.dumps(content), encoding="utf-8")
        assert known_best_head(tmp_path) == expected


# --- the command ---


def attend(*arguments: object) -> int:
    return main(["attend", *map(str, arguments)])


def test_page_is_small_and_whole(trained_run: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "page.html"
    assert attend("--run", trained_run, SENTENCE, "-o", path) == 0
    html = path.read_text(encoding="utf-8")
    assert len(html.encode()) < 1_000_000
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|https?://(?!www.w3.org)", html)
    (pane,) = data_of(html)
    assert pane["tgt"] == "lo ke du ba"


def test_page_of_the_default_model_is_small_for_twenty_words(translator: Translator) -> None:
    """Of the widest model that is shipped, too, where a word is two subwords."""
    tokenizer = translator.tokenizer
    config = ModelConfig(
        d_model=256, d_ff=64, n_heads=4, encoder_layers=3, decoder_layers=3, dropout=0.0
    )
    model = small_model(config, tokenizer.src_vocab_size).eval()
    src = [5 + i % 9 for i in range(34)] + [EOS]
    tgt = [BOS, *src]
    seen = observe(model, tokenizer, replace(Config(), model=config), src, tgt)
    shown = Shown("x", seen, None)
    html = page([(shown, choose(shown, "cross", None, None))])
    assert len(html.encode()) < 1_000_000


def test_figure_and_arrays(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert attend("--run", trained_run, "--png", SENTENCE, "--view", "encoder") == 0
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert attend("--run", trained_run, "--json", SENTENCE) == 0
    found = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    assert found["name"] == "run"
    assert found["cross"]["weights"]["axes"] == ["layer", "head", "query", "key"]
    assert attend("--compare", trained_run, trained_run, "--json", SENTENCE) == 0
    both = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    assert both == [found, found]
    assert attend("--compare", trained_run, trained_run, "--png", SENTENCE) == 0
    assert attend("--compare", trained_run, trained_run, SENTENCE) == 0
    html = (tmp_path / "attention.html").read_text(encoding="utf-8")
    assert [pane["name"] for pane in data_of(html)] == ["run", "run"]


def test_complaints_are_one_line(
    trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "kept.html").write_text("kept", encoding="utf-8")
    out = tmp_path / "kept.html"
    complaints: list[tuple[list[object], str]] = [
        (["--run", tmp_path / "no", SENTENCE, "-o", out], "no such run folder"),
        (["--run", trained_run, " ", "-o", out], "blank"),
        (["--run", trained_run, SENTENCE, "--layer", "7", "-o", out], "no layer 7"),
        (["--run", trained_run, SENTENCE, "--head", "-1", "-o", out], "no head -1"),
        (["--run", trained_run, SENTENCE, "-o", tmp_path / "folder.html"], "folder.html"),
        (["--run", trained_run, SENTENCE, "--decoding.beam", "x", "-o", out], "decoding.beam"),
    ]
    for arguments, complaint in complaints:
        assert attend(*arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert complaint in error
    assert out.read_text(encoding="utf-8") == "kept"
    for wrong in (["--run", trained_run], [SENTENCE], ["--compare", trained_run, SENTENCE]):
        with pytest.raises(SystemExit):
            attend(*wrong)


def test_long_sentence_is_cut_with_a_word(
    translator: Translator, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit = translator.config.data.max_tokens
    path = tmp_path / "long.html"
    assert attend("--run", trained_run, "ba " * (limit + 10), "-o", path) == 0
    assert f"cut to {limit}" in capsys.readouterr().err
    (pane,) = data_of(path.read_text(encoding="utf-8"))
    assert len(pane["src_tokens"]) == limit


def test_a_page_needs_no_matplotlib(trained_run: Path, tmp_path: Path) -> None:
    """Nor does Python's interface: both are there at once."""
    code = (
        "import sys, seq2seq; from seq2seq.page import page\n"
        f"seq2seq.load({str(trained_run)!r}).attend('ba du')\n"
        "assert not {'matplotlib', 'sacrebleu', 'datasets'} & set(sys.modules)"
    )
    subprocess.run([SEQ2SEQ[0], "-c", code], check=True)


# --- examples after evaluation ---


def test_examples_are_the_best_and_the_worst() -> None:
    references = [f"the number {n} is written here" for n in range(30)]
    hypotheses = [reference[: len(reference) - n] for n, reference in enumerate(references)]
    hypotheses[29] = ""
    hypotheses[1] = references[1]
    found = examples(Corpus([f"{n} ." for n in range(30)], references), hypotheses)
    assert [example["src"] for example in found][:2] == ["0 .", "1 ."]
    assert [example["src"] for example in found][-2:] == ["28 .", "29 ."]
    assert len(found) == 10
    scores = [example["chrf"] for example in found]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (100, 0)
    few = examples(Corpus(["a", "b"], ["x y", "x y z"]), ["x y", "q"])
    assert [example["src"] for example in few] == ["a", "b"]
