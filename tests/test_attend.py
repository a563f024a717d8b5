"""The viewer: traces against the steps recomputed, the page's data, the figure, the command."""

import base64
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, Capture, Patch, attention_variants, with_attention
from matplotlib.figure import Figure
from untrained import trace_untrained

import seq2seq
import seq2seq.translator
import seq2seq.viewer.diagram
from seq2seq.attention import NORMALIZERS, SCORES, TYPES
from seq2seq.cli import main
from seq2seq.config import AttentionConfig, TokenizerConfig
from seq2seq.data.corpus import Corpus
from seq2seq.data.tokenizer import Tokenizer
from seq2seq.evaluation import plotting
from seq2seq.evaluation.alignment import Head
from seq2seq.evaluation.evaluate import examples, known_best_head
from seq2seq.model.decoding import Hypothesis
from seq2seq.run_folder import RunFolder
from seq2seq.translator import Translator
from seq2seq.utils import UserError
from seq2seq.viewer import page as viewer
from seq2seq.viewer import trace
from seq2seq.viewer.page import (
    RunView,
    TokenGroup,
    ViewState,
    group_tokens,
    page,
    select_views,
    write_attention,
)
from seq2seq.viewer.trace import Sentence, TranslationTrace

SENTENCE = "ba du ke lo"
VIEWS = ("encoder", "decoder", "cross")


@pytest.fixture(scope="module")
def translator(trained_run: Path) -> Translator:
    return seq2seq.load(trained_run)


@pytest.fixture(scope="module")
def traced(translator: Translator) -> TranslationTrace:
    return trace(translator, SENTENCE)


def unpack(packed: dict[str, Any]) -> Any:
    """As the page does it."""
    numbers = np.frombuffer(base64.b64decode(packed["data"]), "<i2" if packed["scale"] else "<f4")
    return numbers.reshape(packed["shape"]) * (packed["scale"] or 1)


def data_of(html: str) -> list[dict[str, Any]]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
    data: list[dict[str, Any]] = json.loads(text)
    return data


def test_trace_translates_like_translate(
    translator: Translator, trained_run: Path, monkeypatch: Patch
) -> None:
    traced = trace(translator, SENTENCE)
    assert traced.src.text == SENTENCE
    assert [traced.tgt.text] == translator.translate([SENTENCE]) == ["lo ke du ba"]
    wide = seq2seq.load(trained_run, {"decoding.beam": "4"})
    assert [trace(wide, SENTENCE).tgt.text] == wide.translate([SENTENCE])
    beams = []

    def search(model: object, src: torch.Tensor, config: Any, *rest: Any) -> list[list[Hypothesis]]:
        beams.append(config.beam)
        return [[Hypothesis([7, 8], is_cut=False)]]

    monkeypatch.setattr(seq2seq.model.decoding, "beam_search", search)
    assert trace(wide, SENTENCE).tgt.text == wide.tokenizer.tgt.decode([7, 8])
    assert beams == [4]


def test_axes(traced: TranslationTrace) -> None:
    n_src, n_steps = len(traced.src.tokens), len(traced.tgt.tokens) - 1
    assert traced.tgt.tokens[0] == "<s>"
    assert traced.tgt.tokens[-1] == traced.src.tokens[-1] == "</s>"
    sizes = {"layer": 1, "head": 4, "comparison": 4, "dimension": 16}
    queries_and_keys = (n_src, n_src), (n_steps, n_steps), (n_steps, n_src)
    for view, (n_queries, n_keys) in zip(VIEWS, queries_and_keys, strict=True):
        sizes |= {"query": n_queries, "key": n_keys}
        record: Any = getattr(traced, view)
        for name in ("queries", "keys", "scores", "weights", "values", "value_norms"):
            axes, values = getattr(record, name)
            assert values.shape == tuple(sizes[axis] for axis in axes), (view, name)
            assert values.dtype == np.float32
        assert record.contributions.axes == record.weights.axes


def test_five_steps_recomputed(translator: Translator, monkeypatch: Patch) -> None:
    """Each step of all three attentions with numpy, from the results of the step before."""
    inputs: dict[int, Any] = {}

    def linear(self: torch.nn.Linear, x: torch.Tensor) -> torch.Tensor:
        inputs[id(self.weight)] = x[0].numpy()
        return F.linear(x, self.weight, self.bias)

    monkeypatch.setattr(torch.nn.Linear, "forward", linear)
    traced = trace(translator, SENTENCE)
    layers: Any = translator.model.encoder[0], translator.model.decoder[0]
    for view, sublayer in (
        ("encoder", layers[0].self_attention),
        ("decoder", layers[1].self_attention),
        ("cross", layers[1].cross_attention),
    ):
        record: Any = getattr(traced, view)
        q, k, v = (x.values[0] for x in (record.queries, record.keys, record.values))
        # 1. Project: each head has its slice of what the matrices give.
        for name, heads in (("query_proj", q), ("key_proj", k), ("value_proj", v)):
            module = getattr(sublayer.attention, name)
            matrix, bias = (x.detach().numpy() for x in module.parameters())
            merged = heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)
            np.testing.assert_allclose(
                merged, inputs[id(module.weight)] @ matrix.T + bias, atol=1e-4
            )
        # 2. Score and 3. mask.
        scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
        if view == "decoder":
            scores[:, np.triu(np.ones(scores.shape[-2:], dtype=bool), k=1)] = -np.inf
        np.testing.assert_allclose(record.scores.values[0], scores, atol=1e-4)
        # 4. Normalize.
        exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights = exponentials / exponentials.sum(axis=-1, keepdims=True)
        np.testing.assert_allclose(record.weights.values[0], weights, atol=1e-5)
        # 5. Aggregate: the output projection reads the heads' sums side by side.
        output = (weights @ v).transpose(1, 0, 2).reshape(q.shape[1], -1)
        np.testing.assert_allclose(
            inputs[id(sublayer.attention.output_proj.weight)], output, atol=1e-4
        )


def test_contributions_by_hand(translator: Translator, traced: TranslationTrace) -> None:
    """Weight times the norm of the value after the output projection, one at a time."""
    module: Any = translator.model.encoder[0].self_attention.attention  # type: ignore[union-attr]
    matrix = module.output_proj.weight.detach().numpy()
    record: Any = traced.encoder
    width = matrix.shape[1] // 4
    for head, query, key in ((0, 0, 1), (3, 2, 0), (1, 4, 4)):
        slice_ = matrix[:, head * width : (head + 1) * width]
        norm = np.linalg.norm(slice_ @ record.values.values[0, head, key])
        expected = record.weights.values[0, head, query, key] * norm
        contribution = record.contributions.values[0, head, query, key]
        assert contribution == pytest.approx(expected, rel=1e-4)


def test_next_token_probabilities(translator: Translator, traced: TranslationTrace) -> None:
    subwords, model = translator.tokenizer.tgt, translator.model.eval()
    src = torch.tensor(list(translator.tokenizer.src.encode([SENTENCE])))
    tgt = torch.tensor(list(subwords.encode([traced.tgt.text], bos=True)))
    with torch.no_grad():
        logits = model(src, tgt[:, :-1])[0]
    logits[:, [0, 1, 3]] = -torch.inf  # PAD, BOS and UNK are never generated
    expected = F.softmax(logits, dim=-1)
    assert [x.token for x in traced.chosen] == traced.tgt.tokens[1:]
    for step, (chosen, top) in enumerate(zip(traced.chosen, traced.top_tokens, strict=True)):
        token = int(tgt[0, step + 1])
        assert chosen.probability == pytest.approx(float(expected[step, token]), rel=1e-4)
        best = expected[step].topk(len(top))
        assert [x.token for x in top] == subwords.pieces(best.indices.tolist())
        assert [x.probability for x in top] == pytest.approx(best.values.tolist(), rel=1e-3)


def test_diagram_command(
    translator: Translator,
    traced: TranslationTrace,
    trained_run: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    path, command = tmp_path / "new" / "model.svg", ["diagram", "--run", str(trained_run), SENTENCE]
    assert main([*command, "-o", str(path)]) == 0
    seen = translator.model, translator.config.model, traced.src.tokens, traced.tgt.tokens
    assert path.read_text("utf-8") == seq2seq.viewer.diagram.draw_model(*seen)
    assert main([*command, "-o", "model.png"]) == 1
    assert "must end in .svg" in capsys.readouterr().err


@pytest.mark.parametrize("name", attention_variants())
def test_every_variant(name: str) -> None:
    """Each can be traced in all three places, and what the page says about it holds."""
    variant = attention_variants()[name]
    run = RunView("x", trace_untrained(with_attention(variant), SENTENCE, "lo ke"))
    if variant.type == "none":
        assert run.trace.encoder is run.trace.decoder is run.trace.cross is None
        with pytest.raises(UserError, match="no attention in x"):
            select_views([run])
        return
    (pane,) = data_of(page(select_views([run])))
    for view in VIEWS:
        record, packed = getattr(run.trace, view), pane["views"][view]
        variant = record.config  # the default where the variant has no meaning
        weights, scores = record.weights.values, record.scores.values
        sums = weights.sum(axis=-1)
        if packed["sums"] == "The weights sum to one.":
            np.testing.assert_allclose(sums, 1, atol=1e-5)
        elif "less than one" in packed["sums"]:
            assert ((sums > 0) & (sums < 1)).all()
        else:
            assert "need not" in packed["sums"]
        # Halves of heads are compared where a modifier splits them.
        n_parts = scores.shape[1] // weights.shape[1]
        assert n_parts == (2 if "differential" in variant.modifiers else 1)
        atol = np.abs(weights).max() / 2**15
        np.testing.assert_allclose(unpack(packed["weights"]), weights, atol=atol)
        np.testing.assert_array_equal(unpack(packed["scores"]), scores)
        assert bool(packed["mask"]) == bool(np.isneginf(scores).any())
        assert ("later tokens" in packed["mask"]) == (view == "decoder")
        window = 0 if view == "cross" else variant.window
        assert (f"more than {window} away" in packed["mask"]) == (window > 0)
        assert (weights[np.isneginf(scores[:, ::n_parts])] == 0).all()
        if variant.type == "multi_head":
            assert packed["score"] == SCORES[variant.score].formula
            assert packed["normalize"] == NORMALIZERS[variant.normalizer].formula
            assert all(modifier in packed["after"] for modifier in variant.modifiers.split())
        else:
            known = ("s = φ(q) · φ(k)", "s = 0", "s = -(j - i - c)² / 2", "s = log w")
            assert packed["score"] in known
            assert TYPES[variant.type].formula in packed["after"]
        without_queries = variant.type in ("average", "hard_coded", "ssru")
        by_position = variant.score in ("gaussian", "uniform")
        assert (record.queries is None) == (by_position or without_queries)


def test_json(traced: TranslationTrace) -> None:
    plain = json.loads(json.dumps(traced.to_json(), allow_nan=False))
    assert plain["src"]["text"] == SENTENCE
    for name in ("scores", "weights"):
        axes, values = getattr(traced.decoder, name)
        assert plain["decoder"][name]["axes"] == list(axes)
        again = np.array(plain["decoder"][name]["values"], dtype=np.float32)  # None becomes nan
        again[np.isnan(again)] = -np.inf
        np.testing.assert_allclose(again, values, rtol=1e-5)
    assert plain["chosen"][0]["probability"] == traced.chosen[0].probability
    assert plain["top_tokens"][0][1].keys() == {"token", "probability"}


def test_two_vocabularies_and_numbers_of_heads() -> None:
    config = TokenizerConfig(vocab_size=268, joint=False)
    tokenizer = Tokenizer.train(config, ["ba du ke"] * 9, ["zo vu zo vu"] * 9)
    shape = replace(SMALL, decoder_attention=AttentionConfig(n_heads=2))
    traced = trace_untrained(shape, "ba ke", "zo vu", tokenizer)
    assert (traced.src.text, traced.tgt.text) == ("ba ke", "zo vu")
    (pane,) = data_of(page(select_views([RunView("x", traced)])))
    words = pane["groups"]["words"]
    assert [group["label"] for group in words["src"]] == ["ba", "ke", "</s>"]
    assert [group["label"] for group in words["predict"]] == ["<s>", "zo", "vu", "</s>"]
    assert [pane["views"][view]["weights"]["shape"][1] for view in VIEWS] == [4, 2, 4]


def test_words_group_their_subwords() -> None:
    sentence = Sentence("ab c", ["<s>", "▁a", "b", "▁c", "</s>"], [-1, 0, 0, 1, -1])
    assert group_tokens(sentence, True, None) == [
        TokenGroup("<s>", [0], [0]),
        TokenGroup("ab", [1, 2], [1, 2]),
        TokenGroup("c", [3], [3]),
        TokenGroup("</s>", [4], [4]),
    ]
    # Step t has the input t and predicts token t + 1: BOS is never predicted, EOS never an input.
    queries = {"predict": [[], [0, 1], [2], [3]], "input": [[0], [1, 2], [3], []]}
    for offset, expected in queries.items():
        groups = group_tokens(sentence, True, offset)
        assert [group.queries for group in groups] == expected
        assert [group.keys for group in groups] == [[0], [1, 2], [3], []]
        subwords = group_tokens(sentence, False, offset)
        assert [group.label for group in subwords] == sentence.tokens


def test_bytes_become_characters() -> None:
    assert viewer.join_pieces(["▁gr", "<0xC3>", "<0xBC>", "n"]) == "grün"
    assert viewer.join_pieces(["<0xFF>"]) == "�"
    traced = trace_untrained(SMALL, "ba 漢字 <b>du</b>", "lo")
    labels = [group.label for group in group_tokens(traced.src, True, None)]
    assert labels == ["ba", "漢字", "<b>du</b>", "</s>"]


def test_select_views() -> None:
    run = RunView("x", trace_untrained(SMALL, SENTENCE, "lo ke"))
    assert select_views([run]) == [(run, ViewState("cross", 2, 0, "predict"))]
    aligned = replace(run, best_head=Head(1, 3, "input"))
    assert select_views([aligned])[0][1] == ViewState("cross", 1, 3, "input")
    assert select_views([aligned], "cross", 0)[0][1] == ViewState("cross", 0, 0, "input")
    for layer, head, named in ((3, None, "no layer 3"), (None, 5, "no head 5"), (-1, 1, "-1")):
        with pytest.raises(UserError, match=named):
            select_views([run], "encoder", layer, head)
    model = replace(SMALL, cross_attention=AttentionConfig(type="none", position="none"))
    other = RunView("y", trace_untrained(model, SENTENCE, "lo"))
    assert select_views([other])[0][1].view == "encoder"
    with pytest.raises(UserError, match="no cross-attention in y"):
        select_views([other], "cross")
    both = select_views([other, run])
    assert [state.view for _, state in both] == ["cross", "cross"]
    with pytest.raises(UserError, match="y has no cross-attention"):
        write_attention(both, Path("any.png"))


def test_best_head_from_eval_json(tmp_path: Path) -> None:
    """A hint for display: anything unexpected in the file counts as no hint."""

    def known(content: str) -> Head | None:
        (tmp_path / "eval.json").write_text(content, encoding="utf-8")
        return known_best_head(RunFolder(tmp_path), replace(SMALL, n_heads=2))

    def evaluated(**changes: object) -> str:
        best = {"layer": 2, "head": 1, "offset": "input"} | changes
        alignment = {"best_head_on_validation": best}
        return json.dumps({"tests": {"without": {}, "with": {"alignment": alignment}}})

    assert known_best_head(RunFolder(tmp_path), SMALL) is None
    assert known(evaluated()) == Head(2, 1, "input")
    numbers: list[tuple[str, object]] = [
        (key, x) for key in ("layer", "head") for x in (-1, 0, 3, 1.0, "2", None)
    ]
    for key, value in [*numbers, ("offset", "zzz"), ("offset", [])]:
        assert known(evaluated(**{key: value})) is None, (key, value)
    for content in ("{}", "[", '{"tests": []}', '{"tests": {"x": 1}}'):
        assert known(content) is None, content


@pytest.fixture
def figures(monkeypatch: Patch) -> list[Figure]:
    """What is drawn from now on, unsaved."""
    drawn = []

    @contextmanager
    def figure(path: Path, bbox: object, **options: Any) -> Iterator[Figure]:
        drawn.append(Figure(**options))
        yield drawn[-1]

    monkeypatch.setattr(plotting, "figure", figure)
    return drawn


def title_of(part: Any) -> str:
    return " ".join(part.get_suptitle().split())


def words_of(axes: Any, which: str) -> list[str]:
    return [label.get_text() for label in getattr(axes, f"get_{which}ticklabels")()]


def test_figure(traced: TranslationTrace, figures: list[Figure]) -> None:
    """First query on top, first key on the left, darker for more; whole words of one head."""
    run = RunView("x", traced, Head(1, 3, "input"))
    views = [*select_views([run]), *select_views([run], "decoder", 0, 0)]
    write_attention(views, Path("any.png"))
    parts: Any = figures[0].subfigs
    words = ["<s>", "lo", "ke", "du", "ba"]
    for part, title, keys in (
        (parts[0], "x: cross-attention, layer 1, head 3", ["ba", "du", "ke", "lo", "</s>"]),
        (parts[1], "x: decoder self-attention, mean of layers, mean of heads", words),
    ):
        axes = part.axes[0]
        assert title_of(part) == title
        assert (words_of(axes, "y"), words_of(axes, "x")) == (words, keys)
        assert axes.yaxis_inverted()
        assert not axes.xaxis_inverted()
        low, high = axes.collections[0].to_rgba(np.array([[0.1, 0.9]]))[0, :, :3].sum(axis=1)
        assert low > high
    table: Any = parts[0].axes[0].collections[0].get_array()
    np.testing.assert_allclose(table.sum(axis=1), 1, atol=1e-5)
    assert traced.cross is not None
    pairs = list(zip(traced.cross.weights.values[0, 2, 0], traced.src.words, strict=True))
    expected = [sum(weight for weight, word in pairs if word == n) for n in range(4)]
    np.testing.assert_allclose(table[0, :4], expected, atol=1e-6)


def test_all_heads(figures: list[Figure]) -> None:
    """Each in its row and column, as it is by itself; words at the margins only."""
    run = RunView("x", trace_untrained(SMALL, "ba du", "lo ke"))
    run.write("any.svg", all_heads=True)
    (part,) = figures[0].subfigs
    *maps, _ = part.axes
    assert title_of(part) == "x: cross-attention"
    for (layer, head), axes in zip(np.ndindex(2, 4), maps, strict=True):
        alone = viewer.heat_maps(run, ViewState("cross", layer + 1, head + 1, "predict"), False)
        assert axes.get_title() == f"layer {layer + 1}, head {head + 1}"
        np.testing.assert_array_equal(axes.collections[0].get_array(), alone.weights[0, 0])
        words = words_of(axes, "y"), words_of(axes, "x")
        assert words[0] == (["lo", "ke", "</s>"] if head == 0 else [])
        assert words[1] == (["ba", "du", "</s>"] if layer == 1 else [])


def test_figure_has_its_width(tmp_path: Path) -> None:
    """In every format, nothing is cut, and no date makes the next one differ."""
    run = RunView("a run of a long name " * 5, trace_untrained(SMALL, "ba " * 15, "lo"))
    paths = [tmp_path / name for name in ("x.svg", "again.svg", "x.pdf", "x.png")]
    for path in paths:
        run.write(path, width=12)
    svg, again, pdf, png = (path.read_bytes() for path in paths)
    assert svg == again
    assert b"CreationDate" not in pdf
    (width,) = re.findall(rb'<svg [^>]*width="([\d.]+)pt"', svg)
    (box,) = re.findall(rb"MediaBox \[ 0 0 ([\d.]+)", pdf)
    assert [float(width), float(box)] == pytest.approx([12 / 2.54 * 72] * 2)
    assert int.from_bytes(png[16:20], "big") == pytest.approx(220 * 12 / 2.54, abs=1)
    pixels = matplotlib.image.imread(paths[-1])
    for margin in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]):
        assert (margin == 1).all()


def test_missing_glyphs_are_reported(tmp_path: Path, capsys: Capture) -> None:
    run = RunView("\U00012000\x1b", trace_untrained(SMALL, "ba \x01\uffff", "lo"))
    run.write(tmp_path / "any.svg")
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "any.svg" in error
    ET.parse(tmp_path / "any.svg")  # no character is one that XML forbids


def attend(*arguments: object) -> int:
    return main(["attend", *map(str, arguments)])


def test_page_command(trained_run: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    path = tmp_path / "new" / "page.html"
    assert attend("--run", trained_run, SENTENCE, "-o", path) == 0
    html = path.read_text(encoding="utf-8")
    assert not re.search(r"(src|href)=[\"'](?!data:)|url\(|@import|https?://(?!www.w3.org)", html)
    (pane,) = data_of(html)
    assert pane["tgt"] == "lo ke du ba"
    assert pane["state"] == {"view": "cross", "layer": 1, "head": 0, "offset": "predict"}
    assert pane["best"] is None
    chosen = trace(seq2seq.load(trained_run), SENTENCE).chosen
    assert [p for _, p in pane["chosen"]] == pytest.approx([p for _, p in chosen], abs=1e-5)
    name = "seq2seq.evaluation.evaluate.known_best_head"
    monkeypatch.setattr(name, lambda run, model: Head(1, 4, "input"))
    for arguments, shown in (
        ([], ["cross", 1, 4, "input"]),
        (["--view", "decoder", "--head", "2"], ["decoder", 1, 2, "input"]),
        (["--view", "encoder", "--layer", "0"], ["encoder", 0, 0, "input"]),
    ):
        assert attend("--run", trained_run, SENTENCE, "-o", path, *arguments) == 0
        (pane,) = data_of(path.read_text(encoding="utf-8"))
        assert list(pane["state"].values()) == shown
        assert pane["best"] == {"layer": 1, "head": 4, "offset": "input"}


def test_page_size() -> None:
    """Under 1 MB for width 256, three layers a side and 30 subwords (twenty words)."""
    model = replace(SMALL, d_model=256, encoder_layers=3, decoder_layers=3)
    traced = trace_untrained(model, "zo ba " * 15, "zo ba " * 15)
    assert (len(traced.src.tokens), len(traced.tgt.tokens)) == (31, 32)
    assert len(page(select_views([RunView("x", traced)])).encode()) < 1_000_000


def test_figure_and_json_commands(trained_run: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.chdir(tmp_path)
    both = SENTENCE, "--compare", trained_run, trained_run
    figure = tmp_path / "new" / "x.pdf"
    assert attend(*both, "--view", "encoder", "--all-heads", "--width", "9", "-o", figure) == 0
    assert figure.read_bytes().startswith(b"%PDF")
    assert attend("--run", trained_run, "-o", "x.json", SENTENCE) == 0
    one = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert one["name"] == str(trained_run)
    assert one["cross"]["contributions"]["axes"] == ["layer", "head", "query", "key"]
    assert attend(*both, "-o", "x.json") == 0
    assert json.loads((tmp_path / "x.json").read_text(encoding="utf-8")) == [one, one]
    assert attend(*both) == 0
    html = (tmp_path / "attention.html").read_text(encoding="utf-8")
    assert [pane["name"] for pane in data_of(html)] == [str(trained_run)] * 2


def test_errors_are_one_line(trained_run: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "folder.html").mkdir()
    out = tmp_path / "kept.html"
    out.write_text("kept", encoding="utf-8")
    cases: list[tuple[list[object], str]] = [
        (["--run", trained_run, " ", "-o", out], "blank"),
        (["--run", trained_run, SENTENCE, "--layer", "7", "-o", out], "no layer 7"),
        (["--run", trained_run, SENTENCE, "-o", tmp_path / "folder.html"], "folder.html"),
        (["--run", trained_run, SENTENCE, "-o", tmp_path / "x.gif"], "x.gif"),
        (["--run", trained_run, SENTENCE, "-o", tmp_path / "x.svg", "--width", "nan"], "nan cm"),
        (["--run", trained_run, SENTENCE, "--width", "9", "-o", out], ".svg, .pdf or .png"),
        (["--run", trained_run, SENTENCE, "--all-heads", "-o", out], ".svg, .pdf or .png"),
        (["--run", trained_run, SENTENCE, "--all-heads", "--head", "0", "-o", out], "--head"),
    ]
    for arguments, named in cases:
        assert attend(*arguments) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1, error
        assert named in error
    assert out.read_text(encoding="utf-8") == "kept"
    for wrong in (["--run", trained_run], [SENTENCE], ["--compare", trained_run, SENTENCE]):
        with pytest.raises(SystemExit):
            attend(*wrong)


def test_long_sentence_is_cut_with_a_warning(
    translator: Translator, trained_run: Path, tmp_path: Path, capsys: Capture
) -> None:
    limit, path = translator.config.data.max_tokens, tmp_path / "long.html"
    assert attend("--run", trained_run, "ba " * (limit + 10), "-o", path) == 0
    assert "input cut by data.max_tokens" in capsys.readouterr().err
    (pane,) = data_of(path.read_text(encoding="utf-8"))
    assert len(pane["groups"]["subwords"]["src"]) == limit


def test_best_and_worst_examples() -> None:
    references = [f"the number {n} is written here" for n in range(30)]
    hypotheses = [text[: len(text) - n] for n, text in enumerate(references)]
    hypotheses[29], hypotheses[1] = "", references[1]
    rows = examples(Corpus([f"{n} ." for n in range(30)], references), hypotheses)
    assert len(rows) == 10
    assert [rows[i]["src"] for i in (0, 1, -2, -1)] == ["0 .", "1 .", "28 .", "29 ."]
    scores = [row["chrf"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    assert (scores[0], scores[-1]) == (100, 0)
    few = examples(Corpus(["a", "b"], ["x y", "x y z"]), ["x y", "q"])
    assert [row["src"] for row in few] == ["a", "b"]
