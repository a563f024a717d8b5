"""The page of ``seq2seq attend`` in a real browser: what it shows, and that it requests nothing."""

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import hover, index_of, lit, needs_chromium, texts, watched
from conftest import SMALL
from playwright.sync_api import Page
from untrained import trace_untrained

from seq2seq.config import AttentionConfig
from seq2seq.evaluation.alignment import Head
from seq2seq.viewer.page import RunView, TokenGroup, ViewState, group_tokens, page, select_views

pytestmark = needs_chromium

SENTENCE = "ba du <script>hacked=1</script> ke 漢"
LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung"
Open = Callable[..., Page]


@pytest.fixture(scope="module")
def run() -> RunView:
    traced = trace_untrained(SMALL, SENTENCE, "lo ke <b>du</b>")
    return RunView("first", traced, Head(2, 3, "input"))


@pytest.fixture
def open_page(browser_tab: Page, tmp_path: Path) -> Iterator[Open]:
    """Opens pages; whatever a test does with them, nothing is requested and nothing fails."""
    tab, opened = browser_tab, list[str]()

    def open_runs(
        runs: list[tuple[RunView, ViewState]], dark: bool = False, width: int = 1200
    ) -> Page:
        path = tmp_path / f"{len(opened)}.html"
        path.write_text(page(runs), encoding="utf-8")
        opened.append(path.as_uri())
        tab.set_viewport_size({"width": width, "height": 900})
        tab.emulate_media(color_scheme="dark" if dark else "light")
        tab.goto(opened[-1])
        return tab

    tab.mouse.move(0, 0)
    with watched(tab) as (requests, problems):
        yield open_runs
    assert [request.url for request in requests] == opened
    assert problems == []


@pytest.fixture
def tab(open_page: Open, run: RunView) -> Page:
    return open_page([(run, ViewState("cross", 2, 1, "predict"))])


def numbers_in(strings: list[str]) -> list[float]:
    return [float(text.replace("−", "-").rstrip("%")) for text in strings]


def aggregate(weights: Any, queries: list[TokenGroup], keys: list[TokenGroup]) -> Any:
    """Between tokens to between groups: means over queries, sums over keys."""
    return np.array(
        [[weights[q.queries][:, k.keys].sum(axis=1).mean() for k in keys] for q in queries]
    )


def cross_words(run: RunView, layer: int, head: int, offset: str = "predict") -> Any:
    """Weights between words in the cross-attention; from the first target word with a query."""
    assert run.trace.cross is not None
    table = run.trace.cross.weights.values[layer - 1, head - 1]
    queries = [group for group in group_tokens(run.trace.tgt, True, offset) if group.queries]
    return aggregate(table, queries, group_tokens(run.trace.src, True, None))


def test_target_word_lights_its_keys(tab: Page, run: RunView) -> None:
    expected = cross_words(run, 2, 1)
    labels = [group.label for group in group_tokens(run.trace.src, True, None)]
    for row, weights in enumerate(expected):
        hover(tab, "right", row + 1)  # the first is BOS, which no step predicts
        assert lit(tab, "left") == pytest.approx(list(weights), abs=2e-4)
        # Its own side: the decoder's self-attention, over the inputs so far.
        same_side = lit(tab, "right", "same-side")
        assert sum(same_side) == pytest.approx(1, abs=1e-3)
        assert same_side[row + 2 :] == [0] * (len(same_side) - row - 2)
        numbers = texts(tab, "ul.left .word small")
        assert numbers == [f"{x:.2f}" if x >= 0.005 else "" for x in weights]
        (announced,) = texts(tab, "#live")
        assert f" attends to {labels[weights.argmax()]} {weights.max():.2f}" in announced
        assert "on its own side" in announced
    assert tab.locator("path.lit").count() == (expected[-1] >= 0.01).sum()
    assert texts(tab, "ul.right .word i") == ["start", "end"]


def test_source_word_lights_its_queries(tab: Page, run: RunView) -> None:
    hover(tab, "left", 1)
    expected = cross_words(run, 2, 1)[:, 1]
    assert lit(tab, "right")[1:] == pytest.approx(list(expected), abs=2e-4)
    assert run.trace.encoder is not None
    groups = group_tokens(run.trace.src, True, None)
    same_side = aggregate(run.trace.encoder.weights.values[1, 0], [groups[1]], groups)[0]
    assert lit(tab, "left", "same-side") == pytest.approx(list(same_side), abs=2e-4)
    assert "is attended to by" in texts(tab, "#live")[0]


def test_best_head(tab: Page, run: RunView) -> None:
    """Read at the step whose input a word is, the first of them too."""
    tab.locator("button.best").click()
    for name, number in (("layer", "2"), ("head", "3")):
        assert tab.locator(f"select[name={name}]").input_value() == number
    hover(tab, "right", 0)
    assert lit(tab, "left") == pytest.approx(list(cross_words(run, 2, 3, "input")[0]), abs=2e-4)


@pytest.mark.parametrize(("layer", "head", "word"), [(0, 0, 1), (0, 3, 1), (2, 0, 1), (2, 3, 3)])
def test_numbers_of_a_mean(tab: Page, run: RunView, layer: int, head: int, word: int) -> None:
    """Beside the picture stand its own numbers, and no others; the last word has several queries."""
    for name, number in (("layer", layer), ("head", head)):
        tab.select_option(f"select[name={name}]", str(number))
    hover(tab, "right", word)
    assert run.trace.cross is not None
    chosen = slice(layer - 1, layer) if layer else ..., slice(head - 1, head) if head else ...
    weights, added = run.trace.cross.weights.values, run.trace.cross.contributions.values
    queries = group_tokens(run.trace.tgt, True, "predict")[word : word + 1]
    shares = 100 * added / added.sum(axis=-1, keepdims=True)
    for measure, kind, rows, digits in (
        ("contributions", "share", shares, 0), ("weights", "weight", weights, 3),
    ):  # fmt: skip
        tab.select_option("select[name=measure]", measure)
        mean = rows[chosen[0]][:, chosen[1]].mean(axis=(0, 1))
        expected = aggregate(mean, queries, group_tokens(run.trace.src, True, None))[0]
        shown = numbers_in(texts(tab, f"tbody td.{kind}"))
        assert shown == pytest.approx(list(expected), abs=0.6 * 10**-digits)
        assert tab.locator("tbody td").count() == len(shown)
        in_picture = numbers_in([text for text in texts(tab, "ul.left .word small") if text])
        assert in_picture == pytest.approx([x for x in shown if x >= 0.005], abs=0.006)
    assert numbers_in(texts(tab, "tbody .weight")) == pytest.approx(lit(tab, "left"), abs=1e-3)


@pytest.mark.parametrize("view", ["cross", "encoder", "decoder"])
def test_five_steps(tab: Page, run: RunView, view: str) -> None:
    """The numbers of one query, and which keys are masked from it."""
    tab.check(f"input[value={view}]")
    tab.select_option("select[name=unit]", "subwords")
    token = 4
    tab.locator("ul.right .word").nth(token).click()
    record: Any = getattr(run.trace, view)
    query = token if view == "encoder" else token - 1  # of a target token, the step predicting it
    n_keys = record.weights.values.shape[-1]
    n_visible = token if view == "decoder" else n_keys
    n_masked = n_keys - n_visible
    weights = record.weights.values[1, 0, query]
    for kind, values, digits in (
        ("score", record.scores.values[1, 0, query, :n_visible], 2),
        ("weight", weights, 3),
        ("norm", record.value_norms.values[1, 0], 2),
    ):
        shown = numbers_in([text for text in texts(tab, f"tbody .{kind}") if text])
        assert shown == pytest.approx(list(values), abs=0.6 * 10**-digits)
    assert texts(tab, "tbody .mask") == ["✓"] * n_visible + ["−∞"] * n_masked
    assert tab.locator("tr.masked").count() == n_masked
    added = record.contributions.values[1, 0, query]
    shares = [x / 100 for x in numbers_in(texts(tab, "tbody td.share"))]
    assert shares == pytest.approx(list(added / added.sum()), abs=0.006)
    assert texts(tab, "tfoot .total") == ["1.000"]
    part = "all => all.map(e => parseFloat(e.style.getPropertyValue('--part')) / 100)"
    gauges = tab.locator("tbody .gauge:not(.share)").evaluate_all(part)
    assert gauges == pytest.approx(list(weights), abs=1e-3)
    steps = texts(tab, ".steps .step")
    names = ["1. Project", "2. Score", "3. Mask", "4. Normalize", "5. Aggregate"]
    assert [step.split(":")[0] for step in steps] == names
    assert "s = q · k / √K" in steps[1]
    assert (f"{n_masked} of {n_keys}" in steps[2], "later" in steps[2]) == (True, n_masked > 0)
    assert "w = exp(s) / Σ exp(s). The weights sum to one." in steps[3]
    header = ["token", "1 key", "1 value", "2 score", "3 mask", "4 weight", "norm", "5 adds"]
    assert texts(tab, "thead th") == header
    assert view in texts(tab, ".steps .soft")[0]
    # The strips: the query, the second token's key and value, the sum of the values.
    titles = tab.locator(".strip").evaluate_all("all => all.map(e => e.title)")
    strips = [numbers_in(title.split()) for title in titles]
    output = weights @ record.values.values[1, 0]
    for strip, values in (
        (0, record.queries.values[1, 0, query]),
        (3, record.keys.values[1, 0, 1]),
        (4, record.values.values[1, 0, 1]),
        (-1, output),
    ):
        assert strips[strip] == pytest.approx(list(values), abs=0.006)
    # Blue above zero, orange below: the strongest number of the sum.
    strongest = int(np.argmax(np.abs(output)))
    stops = tab.locator(".strip").last.get_attribute("style") or ""
    color = re.findall(r"color-mix\(in srgb, (rgb\([^)]*\)|#\w+)", stops)[strongest]
    assert color == ("#0072b2" if output[strongest] > 0 else "#b35900")
    # The same as text.
    assert texts(tab, "ul.numbers li") == []
    tab.locator("details.in-numbers summary").click()
    tab.wait_for_selector("ul.numbers li")
    listed = texts(tab, "ul.numbers li")
    assert (listed[0], listed[-1]) == ("query: " + titles[0], "sum: " + titles[-1])


def test_masked_keys_are_struck_out(tab: Page) -> None:
    tab.check("input[value=decoder]")
    tab.select_option("select[name=unit]", "subwords")
    n = tab.locator("ul.left .word").count()
    line = "all => all.map(e => getComputedStyle(e).textDecorationLine)"
    for offset, n_visible in (("predict", 2), ("input", 3)):
        tab.select_option("select[name=offset]", offset)
        hover(tab, "right", 2)
        lines = tab.locator("ul.left .word b").evaluate_all(line)
        assert lines == ["none"] * n_visible + ["line-through"] * (n - n_visible)
    hover(tab, "left", 2)  # the keys are masked from earlier queries
    assert texts(tab, "ul.right .word.masked b") == texts(tab, "ul.right .word b")[:2]
    tab.check("input[value=encoder]")
    assert tab.locator(".word.masked").count() == 0


def test_contributions_are_shares(tab: Page, run: RunView) -> None:
    tab.select_option("select[name=measure]", "contributions")
    hover(tab, "right", 1)
    assert run.trace.cross is not None
    parts = run.trace.cross.contributions.values[1, 0]
    shares = parts / parts.sum(axis=-1, keepdims=True)
    queries = [group_tokens(run.trace.tgt, True, "predict")[1]]
    expected = aggregate(shares, queries, group_tokens(run.trace.src, True, None))[0]
    assert lit(tab, "left") == pytest.approx(list(expected), abs=3e-4)


def test_next_tokens(tab: Page, run: RunView) -> None:
    items = texts(tab, "ol.next li")
    for item, chosen, top in zip(items, run.trace.chosen, run.trace.top_tokens, strict=True):
        others = [x for x in top if x.token != chosen.token][:4]
        assert item.startswith(chosen.token)
        after = item.split("%", 1)[1].split("·")
        assert [text.split()[0] for text in after] == [x.token for x in others]
        shown = [float(x) / 100 for x in re.findall(r"([\d.]+)%", item)]
        expected = [x.probability for x in (chosen, *others)]
        assert shown == pytest.approx(expected, abs=0.0051)
    hover(tab, "right", 1)
    assert index_of(tab, "ol.next .active", "ol.next li") == 0


def farthest_word(run: RunView, layer: int, head: int) -> int:
    """The target word that attends the most to a word at another place of its sentence."""
    weights = cross_words(run, layer, head)
    src, tgt = group_tokens(run.trace.src, True, None), group_tokens(run.trace.tgt, True, "predict")
    best = {
        (weights[j - 1, i] * abs(i / len(src) - j / len(tgt)), j)
        for i in range(len(src) - 1)  # without EOS
        for j in range(1, len(tgt) - 1)
    }
    return max(best)[1]


def test_opens_on_a_word_that_looks_far(open_page: Open, run: RunView) -> None:
    for layer, head in ((2, 1), (1, 3)):
        tab = open_page([(run, ViewState("cross", layer, head, "predict"))])
        assert index_of(tab, ".word.active", "ul.right .word") == farthest_word(run, layer, head)

    run = RunView("one", trace_untrained(SMALL, SENTENCE, "lo zo ke"))
    assert farthest_word(run, 2, 1) != 2
    tab = open_page([(run, ViewState("cross", 2, 1, "predict"))])
    assert index_of(tab, ".word.active", "ul.right .word") == 2  # the only one not in pieces


def test_keyboard(tab: Page, run: RunView) -> None:
    n_left = tab.locator("ul.left .word").count()
    for _ in range(20):
        tab.keyboard.press("Tab")
        if index_of(tab, ".word:focus") >= 0:
            break
    assert index_of(tab, ".word:focus") == n_left + farthest_word(run, 2, 1)
    tab.locator("ul.right .word").nth(1).focus()
    down, up = "ArrowDown", "ArrowUp"
    for key, expected in (
        (down, n_left + 2), (up, n_left + 1), (up, n_left), (up, n_left),
        ("ArrowLeft", 0), ("End", n_left - 1), ("ArrowRight", None), ("Home", n_left),
    ):  # fmt: skip
        tab.keyboard.press(key)
        if expected is not None:
            assert index_of(tab, ".word:focus") == index_of(tab, ".word.active") == expected
    tab.keyboard.press("Enter")
    assert index_of(tab, ".word[aria-pressed=true]") == n_left
    tab.keyboard.press("ArrowDown")
    assert index_of(tab, ".word[aria-pressed=true]") == n_left  # pinned while others are looked at
    tab.keyboard.press("Escape")
    assert index_of(tab, ".word[aria-pressed=true]") == -1


def test_choices_keep_focus_and_word(tab: Page, run: RunView) -> None:
    """Another head, another measure by keyboard, and still the same word."""
    tab.locator("ul.right .word").nth(4).click()  # in one piece, so there are steps
    pinned = index_of(tab, ".word[aria-pressed=true]")
    assert pinned > 0
    tab.focus("select[name=head]")
    for _ in range(2):
        tab.keyboard.press("ArrowDown")
    assert tab.evaluate("document.activeElement.name + document.activeElement.value") == "head3"
    assert lit(tab, "left") == pytest.approx(list(cross_words(run, 2, 3)[3]), abs=2e-4)
    tab.locator("details.in-numbers summary").click()
    tab.wait_for_selector("ul.numbers li")
    opened = "all => all.map(e => e.open)"
    before = tab.locator("details").evaluate_all(opened)
    tab.select_option("select[name=measure]", "contributions")
    assert index_of(tab, ".word[aria-pressed=true]") == pinned
    assert tab.locator("details").evaluate_all(opened) == before
    tab.locator("button.best").click()
    assert tab.evaluate("document.activeElement.className") == "best"


def test_pinned_word_stays_when_the_mouse_leaves(tab: Page) -> None:
    tab.locator("ul.right .word").nth(2).click()
    before = lit(tab, "left")
    hover(tab, "right", 3)
    assert lit(tab, "left") != before
    tab.hover("h1")
    assert lit(tab, "left") == before


def test_lines_end_at_their_words(tab: Page) -> None:
    hover(tab, "right", 1)
    ends = tab.locator("path.lit").evaluate_all(
        """all => all.map(path => {
            const { top } = path.ownerSVGElement.getBoundingClientRect();
            return [0, path.getTotalLength()].map(n => path.getPointAtLength(n).y + top);
        })"""
    )
    middle = "all => all.map(e => e.getBoundingClientRect()).map(r => (r.top + r.bottom) / 2)"
    left, right = (tab.locator(f"ul.{x} .word").evaluate_all(middle) for x in ("left", "right"))
    keys = [i for i, x in enumerate(lit(tab, "left")) if x >= 0.01]
    assert [start for start, _ in ends] == pytest.approx([left[i] for i in keys], abs=1)
    assert [end for _, end in ends] == pytest.approx([right[1]] * len(keys), abs=1)


def test_opens_as_selected(open_page: Open, run: RunView) -> None:
    tab = open_page([(run, ViewState("decoder", 1, 2, "input"))])
    assert tab.is_checked("input[value=decoder]")
    names = ("offset", "layer", "head")
    assert [tab.input_value(f"select[name={x}]") for x in names] == ["input", "1", "2"]


def test_text_is_never_markup(tab: Page) -> None:
    assert tab.evaluate("typeof hacked") == "undefined"
    assert texts(tab, ".sentences span") == [SENTENCE]
    assert "<b>du</b>" in texts(tab, "ul.right .word b")
    assert tab.locator("b b, .sentences b").count() == 0


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_fits_any_screen(open_page: Open, width: int) -> None:
    """With words longer than the screen is wide."""
    run = RunView("x" * 200, trace_untrained(SMALL, f"ba {LONG}", f"lo {LONG} ke"))
    tab = open_page(select_views([run]), width=width)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    edges = "all => all.map(e => e.getBoundingClientRect()).map(r => [r.left, r.right])"
    for left, right in tab.locator(".word").evaluate_all(edges):
        assert 0 <= left < right <= width
    assert tab.locator(f"ul.right .word b:text-is('{LONG}')").count() == 1
    for size in ("Width", "Height"):  # no name is cut
        cut = f"all => all.filter(e => e.scroll{size} > e.client{size} + 1).map(e => e.textContent)"
        assert tab.locator(".word").evaluate_all(cut) == []
    bars = tab.locator("ol.next .gauge").evaluate_all(edges)
    assert len({left for left, _ in bars}) == 1  # to be compared
    table = tab.locator(".frame").first
    wider = "e => e.firstChild.scrollWidth > e.firstChild.clientWidth"
    assert table.locator(".on").is_visible() == table.evaluate(wider) == (width < 1000)
    if width < 1000:
        table.locator(".on").click()
        tab.wait_for_function("document.querySelector('.scroll').scrollLeft > 0")
        table.locator(".back").wait_for()


def test_contrast_in_light_and_dark(open_page: Open, run: RunView) -> None:
    """As WCAG counts it: 4.5 for text, 3 for lines and bars."""
    read = """color => {
        const probe = document.body.appendChild(document.createElement('i'));
        probe.style.color = color;
        const text = getComputedStyle(probe).color;
        probe.remove();
        return text.match(/[\\d.]+/g).slice(0, 3).map(x => x / (text.startsWith('color(') ? 1 : 255));
    }"""
    lit_word = "color-mix(in srgb, var(--blue) 38%, var(--page))"
    backgrounds = []
    for dark in (False, True):
        tab = open_page(select_views([run]), dark)

        def luminance(color: str, tab: Page = tab) -> float:
            parts = [x / 12.92 if x <= 0.03928 else ((x + 0.055) / 1.055) ** 2.4
                     for x in tab.evaluate(read, color)]  # fmt: skip
            return float(np.dot(parts, [0.2126, 0.7152, 0.0722]))

        for color, least in (("text", 4.5), ("soft", 4.5), ("blue", 3), ("orange", 3)):
            grounds = ["var(--page)", "var(--panel)", *([lit_word] if color == "text" else [])]
            for ground in grounds:
                low, high = sorted([luminance(f"var(--{color})"), luminance(ground)])
                assert (high + 0.05) / (low + 0.05) >= least, (color, ground, dark)
        color_of = "element => getComputedStyle(element).color"
        number = tab.locator(".word small").first.evaluate(color_of)
        assert number == tab.locator("body").evaluate(color_of)
        backgrounds.append(tab.locator("body").evaluate("e => getComputedStyle(e).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]


def test_explains_smoothing_and_bytes(open_page: Open, run: RunView) -> None:
    plain = RunView("plain", trace_untrained(SMALL, "ba du", "lo ke"))
    tab = open_page(select_views([plain]))
    assert tab.locator("details p:has-text('smoothing'), .sentences p").count() == 0
    open_page(select_views([replace(run, label_smoothing=0.2)]))
    (text,) = texts(tab, "details p:has-text('smoothing')")
    assert "label smoothing 0.2" in text
    assert "80%" in text
    assert tab.locator(".sentences p:has-text('bytes')").count() == 1  # of the 漢


def test_two_runs_side_by_side(open_page: Open, run: RunView) -> None:
    """The second without self-attention in the encoder, with one layer and fewer heads."""
    none = AttentionConfig(type="none")
    small = replace(SMALL, n_heads=2, decoder_layers=1, encoder_attention=none)
    runs = [run, RunView("second", trace_untrained(small, SENTENCE, "ke lo"))]
    tab = open_page(select_views(runs))
    panes = tab.locator(".pane")
    assert texts(tab, ".pane h2") == ["first", "second"]
    for part in ("ul.left", "h3", "summary:has-text('next token')"):  # in line
        tops = tab.locator(f".pane {part}").evaluate_all("all => all.map(e => e.offsetTop)")
        assert len(tops) == 2
        assert tops[0] == tops[1]
    panes.nth(0).locator("ul.left .word").nth(1).hover()
    assert texts(tab, ".word.active b") == ["du", "du"]
    panes.nth(1).locator("ul.right .word").nth(1).hover()
    assert texts(tab, ".word.active b") == ["ke", "ke"]
    for name, value in (("unit", "subwords"), ("offset", "input"), ("unit", "words")):
        tab.select_option(f"select[name={name}]", value)
        whole_words = tab.input_value("select[name=unit]") == "words"
        for number, shown in enumerate(runs):
            for side, sentence in (("left", shown.trace.src), ("right", shown.trace.tgt)):
                words = panes.nth(number).locator(f"ul.{side} .word")
                assert words.count() == len(group_tokens(sentence, whole_words, None))
    tab.check("input[value=decoder]")
    assert texts(tab, ".left.title") == ["translation: keys and values"] * 2
    tab.check("input[value=encoder]")
    assert "This model has no encoder self-attention." in texts(tab, ".pane p")
