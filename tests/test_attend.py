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
from conftest import SEQ2SEQ, SMALL, attention_variants, small_model, with_attention
from matplotlib.figure import Figure

import seq2seq
import seq2seq.evaluation
import seq2seq.plots
import seq2seq.translator
from seq2seq.alignment import Head
from seq2seq.attention import Attention
from seq2seq.cli import main
from seq2seq.corpus import Corpus
from seq2seq.errors import UserError
from seq2seq.evaluation import examples, known_best_head
from seq2seq.model import Seq2Seq
from seq2seq.observation import Attended, Observation, Sentence, observe
from seq2seq.page import (
    Choice,
    Item,
    Shown,
    Table,
    between,
    choose,
    choose_view,
    explanation,
    page,
    spelled,
    src_items,
    tgt_items,
    word_table,
)
from seq2seq.plots import plot_attention
from seq2seq.registry import KINDS, NORMALIZERS, SCORES
from seq2seq.settings import AttentionConfig, Config, ModelConfig, TokenizerConfig
from seq2seq.tokenizer import BOS, EOS, Tokenizer
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
    kind = "<i2" if packed["scale"] else "<f4"
    numbers = np.frombuffer(base64.b64decode(packed["data"]), kind).reshape(packed["shape"])
    return numbers * (packed["scale"] or 1)


def data_of(html: str) -> list[dict[str, Any]]:
    """The data that a page holds."""
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    found: list[dict[str, Any]] = json.loads(text)
    return found


# --- what is observed ---


def test_translates_as_translate_does(
    translator: Translator, trained_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    observation = translator.attend(SENTENCE)
    assert observation.src.text == SENTENCE
    assert [observation.tgt.text] == translator.translate([SENTENCE]) == ["lo ke du ba"]
    wide = seq2seq.load(trained_run, {"decoding.beam": "4"})
    assert [wide.attend(SENTENCE).tgt.text] == wide.translate([SENTENCE])
    asked: list[int] = []

    def search(model: object, src: torch.Tensor, beam: int, *rest: float) -> list[list[int]]:
        asked.append(beam)
        return [[7, 8]]

    monkeypatch.setattr(seq2seq.translator, "beam_search", search)
    assert wide.attend(SENTENCE).tgt.text == wide.tokenizer.decode_tgt([[7, 8]])[0]
    assert asked == [4]


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
        with pytest.raises(UserError, match="there is no attention in x"):
            choose_view([shown], None)
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
        np.testing.assert_array_equal(unpacked(packed["scores"]), attended.scores.values)
        if variant.kind == "scored":
            assert packed["score"] == SCORES[variant.score].formula
            assert packed["normalizer"] == NORMALIZERS[variant.normalizer].formula
            assert all(name in packed["after"] for name in variant.extras.split())
        else:
            assert packed["score"] in ("s = φ(q) · φ(k)", "the same for all in sight")
            assert KINDS[variant.kind].formula in packed["after"]
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
    """It is no more than a hint: whatever else stands in eval.json is as good as nothing."""

    def known(content: str) -> Head | None:
        (tmp_path / "eval.json").write_text(content, encoding="utf-8")
        return known_best_head(tmp_path, replace(SMALL, n_heads=2))

    def noted(**changes: object) -> str:
        head = {"layer": 2, "head": 1, "step": "reading"} | changes
        aligned = {"alignment": {"best_head_on_validation": head}}
        return json.dumps({"tests": {"without": {}, "test": aligned}})

    assert known_best_head(tmp_path, SMALL) is None
    assert known(noted()) == Head(2, 1, "reading")
    others: list[dict[str, object]] = [
        {"layer": 3}, {"layer": 0}, {"layer": "2"}, {"layer": None}, {"head": 3}, {"head": -1},
        {"step": "zzz"}, {"step": []}, {"more": 1},
    ]  # fmt: skip
    for wrong in (
        *(noted(**change) for change in others),
        "{}",
        "[",
        '{"tests": []}',
        '{"tests": {"x": 1}}',
    ):
        assert known(wrong) is None, wrong


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
    assert (pane["view"], pane["layer"], pane["head"], pane["best"]) == ("cross", 0, "mean", None)
    observation = seq2seq.load(trained_run).attend(SENTENCE)
    assert [p for _, p in pane["written"]] == pytest.approx(
        [written.probability for written in observation.written], abs=1e-5
    )
    for arguments in (["--view", "decoder", "--head", "2"], ["--view", "encoder", "--layer", "0"]):
        assert attend("--run", trained_run, SENTENCE, "-o", path, *arguments) == 0
        (pane,) = data_of(path.read_text(encoding="utf-8"))
        shown = {"--view": pane["view"], "--head": pane["head"], "--layer": pane["layer"]}
        expected = {"decoder": ("decoder", 1, 0), "encoder": ("encoder", "mean", "mean")}
        assert tuple(shown.values()) == expected[arguments[1]]


def test_command_starts_with_the_best_head(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        seq2seq.evaluation, "known_best_head", lambda run, model: Head(1, 4, "reading")
    )
    path = tmp_path / "page.html"
    assert attend("--run", trained_run, SENTENCE, "-o", path) == 0
    (pane,) = data_of(path.read_text(encoding="utf-8"))
    assert (pane["layer"], pane["head"], pane["step"]) == (0, 3, "reading")
    assert pane["best"] == {"layer": 1, "head": 4, "step": "reading"}


def test_figure_is_drawn_the_right_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first that asks is on top, the first that answers on the left, dark is much."""
    figures: list[Figure] = []
    monkeypatch.setattr(seq2seq.plots, "_save", lambda figure, path: figures.append(figure))
    values = np.array([[0.1, 0.2, 0.7], [1.0, 0.0, 0.0]], dtype=np.float32)
    tables = [Table(title, ["x", "y"], ["a", "b", "c"], values) for title in ("one", "two")]
    plot_attention(tables, tmp_path / "any.png")
    for title, axes in zip(("one", "two"), figures[0].axes, strict=False):
        image = axes.images[0]
        np.testing.assert_array_equal(image.get_array(), values)
        assert axes.get_title() == title
        assert [label.get_text() for label in axes.get_yticklabels()] == ["x", "y"]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
        assert axes.yaxis_inverted()
        assert not axes.xaxis_inverted()
        few, many = image.to_rgba(np.array([[0.1, 0.9]]))[0, :, :3].sum(axis=1)
        assert few > many


def test_characters_without_a_glyph_are_spoken_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = Table("any", ["\U00012000"], ["a"], np.ones((1, 1), dtype=np.float32))
    plot_attention([table], tmp_path / "any.png")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "boxes stand for characters" in error


def test_models_of_two_vocabularies_and_of_unlike_heads(tmp_path: Path) -> None:
    config = TokenizerConfig(vocab_size=268, joint=False)
    tokenizer = Tokenizer.train(config, ["ba du ke"] * 9, ["zo vu zo vu"] * 9)
    shape = replace(SMALL, decoder_attention=AttentionConfig(n_heads=2))
    model = Seq2Seq(shape, tokenizer.src_vocab_size, tokenizer.tgt_vocab_size, joint=False).eval()
    src, tgt = tokenizer.encode_src(["ba ke"])[0], tokenizer.encode_tgt(["zo vu"])[0]
    seen = observe(model, tokenizer, replace(Config(), model=shape), src, tgt)
    assert (seen.src.text, seen.tgt.text) == ("ba ke", "zo vu")
    (pane,) = data_of(page([(shown := Shown("x", seen, None), choose(shown, "cross", None, None))]))
    assert [item["label"] for item in pane["items"]["words"]["src"]] == ["ba", "ke", "</s>"]
    assert [item["label"] for item in pane["items"]["words"]["writing"]] == [
        "<s>", "zo", "vu", "</s>"
    ]  # fmt: skip
    assert [pane["views"][view]["weights"]["shape"][1] for view in ("encoder", "decoder")] == [4, 2]


def test_a_run_without_cross_attention_shows_what_it_has(
    translator: Translator, observation: Observation
) -> None:
    without = replace(SMALL, cross_attention=AttentionConfig(kind="none", position="none"))
    other = Shown("x", observed(translator, without), None)
    assert choose_view([other], None) == "encoder"
    with pytest.raises(UserError, match="there is no cross-attention in x"):
        choose_view([other], "cross")
    assert choose_view([other, Shown("y", observation, None)], "cross") == "cross"
    assert choose(other, "cross", None, None) == Choice("cross", 0, 0, "writing")
    with pytest.raises(UserError, match="x has no cross-attention"):
        word_table(other, Choice("cross", 0, 0, "writing"))


def test_page_of_a_larger_model_is_small_for_twenty_words(translator: Translator) -> None:
    """Of width 256 and three layers a side, with half as many subwords again as words."""
    tokenizer = translator.tokenizer
    config = ModelConfig(
        d_model=256, d_ff=64, n_heads=4, encoder_layers=3, decoder_layers=3, dropout=0.0
    )
    model = small_model(config, tokenizer.src_vocab_size).eval()
    src = [5 + i % 9 for i in range(30)] + [EOS]
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
    assert found["name"] == str(trained_run)
    weights = np.array(found["cross"]["weights"]["values"])
    lengths = np.array(found["cross"]["value_lengths"]["values"])
    np.testing.assert_allclose(
        found["cross"]["contributions"]["values"], weights * lengths[:, :, None], rtol=1e-4
    )
    assert found["cross"]["weights"]["axes"] == ["layer", "head", "query", "key"]
    assert attend("--compare", trained_run, trained_run, "--json", SENTENCE) == 0
    both = json.loads((tmp_path / "attention.json").read_text(encoding="utf-8"))
    assert both == [found, found]
    assert attend("--compare", trained_run, trained_run, "--png", SENTENCE) == 0
    assert attend("--compare", trained_run, trained_run, SENTENCE) == 0
    html = (tmp_path / "attention.html").read_text(encoding="utf-8")
    assert [pane["name"] for pane in data_of(html)] == [str(trained_run)] * 2


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
