"""The page of ``seq2seq attend`` in a real browser: what it shows, and that it asks for nothing."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, WITHOUT, Browser
from conftest import small_model

import seq2seq
from seq2seq.alignment import Head
from seq2seq.observation import Attended, Observation, observe
from seq2seq.page import Choice, Shown, between, choose, page, src_items, tgt_items
from seq2seq.settings import AttentionConfig, Config, ModelConfig
from seq2seq.tokenizer import Tokenizer

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT)

SENTENCE = "ba du <script>hacked=1</script> ke 漢"
LONG = "Donaudampfschifffahrtsgesellschaftskapitänsmützenabzeichenverordnung"
BEST = Head(2, 3, "reading")


@pytest.fixture(scope="module")
def tokenizer(trained_run: Path) -> Tokenizer:
    return seq2seq.load(trained_run).tokenizer


def look(
    tokenizer: Tokenizer, model: ModelConfig, tgt: str = "lo ke <b>du</b>", src: str = SENTENCE
) -> Observation:
    """What an untrained model does: several layers, and weights that are not all 0 or 1."""
    untrained = small_model(model, tokenizer.src_vocab_size).eval()
    src_ids, tgt_ids = tokenizer.encode_src([src])[0], tokenizer.encode_tgt([tgt])[0]
    return observe(untrained, tokenizer, Config(model=model), src_ids, tgt_ids)


TWO_LAYERS = ModelConfig(
    d_model=32, d_ff=64, n_heads=4, encoder_layers=2, decoder_layers=2, dropout=0.0
)


@pytest.fixture(scope="module")
def observation(tokenizer: Tokenizer) -> Observation:
    return look(tokenizer, TWO_LAYERS)


@pytest.fixture(scope="module")
def file(observation: Observation, tmp_path_factory: pytest.TempPathFactory) -> Path:
    shown = Shown("first", observation, BEST)
    path = tmp_path_factory.mktemp("page") / "attention.html"
    path.write_text(page([(shown, Choice("cross", 2, 1, "writing"))]), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(running: Browser, file: Path) -> Iterator[Browser]:
    """Showing the page anew; whatever a test does, nothing is asked for and nothing goes wrong."""
    running.requests.clear()
    running.complaints.clear()
    running.open(file)
    yield running
    assert set(running.requests) - {"about:blank"} == {file.as_uri()}
    assert running.complaints == []


def words(side: str) -> str:
    return f"document.querySelectorAll('ul.{side} .word')"


def fills(browser: Browser, side: str, kind: str = "fill") -> list[float]:
    """What each word of a side is lit by, as a share."""
    found = browser.get(
        f"[...{words(side)}].map(w => parseFloat(w.querySelector('.{kind}').style.width))"
    )
    return [x / 100 for x in found]


def texts(browser: Browser, selector: str) -> list[str]:
    found: list[str] = browser.get(
        f"[...document.querySelectorAll('{selector}')].map(e => e.textContent)"
    )
    return found


def select(browser: Browser, name: str, value: str) -> None:
    """Choose an option, as a user would."""
    browser.get(
        f"(() => {{ const s = document.querySelector('select[name={name}]'); s.value = '{value}';"
        "s.dispatchEvent(new Event('change', {bubbles: true})); })()"
    )
    browser.settle()


def look_at(browser: Browser, view: str) -> None:
    browser.click(f"document.querySelector('input[value={view}]')")


def cross_words(observation: Observation, layer: int, head: int | None, step: str) -> Any:
    """(T, S) between words, of the cross-attention, as the page should show it."""
    assert observation.cross is not None
    weights = observation.cross.weights.values[layer - 1]
    table = weights.mean(axis=0) if head is None else weights[head - 1]
    asking = [item for item in tgt_items(observation.tgt, True, step) if item.queries]
    return between(table, asking, src_items(observation.src, True))


def test_pointing_at_a_target_word_lights_what_it_attends_to(
    browser: Browser, observation: Observation
) -> None:
    expected = cross_words(observation, 2, 1, "writing")
    for row in range(len(expected)):
        browser.hover(f"{words('right')}[{row + 1}]")  # the first is BOS, which nothing writes
        assert fills(browser, "left") == pytest.approx(list(expected[row]), abs=2e-4)
        assert sum(fills(browser, "left")) == pytest.approx(1, abs=1e-3)
        # Its own side: the decoder's self-attention, over the words read before.
        own = fills(browser, "right", "own")
        assert sum(own) == pytest.approx(1, abs=1e-3)
        assert own[row + 2 :] == [0] * (len(own) - row - 2)  # nor itself, but for its subwords
        numbers = texts(browser, "ul.left .word small")
        assert numbers == [f"{x:.2f}" if x >= 0.005 else "" for x in expected[row]]
        said = browser.get("document.getElementById('spoken').textContent")
        top = src_items(observation.src, True)[int(np.argmax(expected[row]))].label
        assert f" attends to {top} {expected[row].max():.2f}" in said
        assert "on its own side to " in said
    strong = browser.get("document.querySelectorAll('path.lit').length")
    assert strong == (expected[-1] >= 0.01).sum()


def test_pointing_at_a_source_word_lights_who_attends_to_it(
    browser: Browser, observation: Observation
) -> None:
    expected = cross_words(observation, 2, 1, "writing")
    browser.hover(f"{words('left')}[1]")
    assert fills(browser, "right")[1:] == pytest.approx(list(expected[:, 1]), abs=2e-4)
    assert observation.encoder is not None
    items = src_items(observation.src, True)
    own = between(observation.encoder.weights.values[1, 0], [items[1]], items)[0]
    assert fills(browser, "left", "own") == pytest.approx(list(own), abs=2e-4)
    assert " is attended to by " in browser.get("document.getElementById('spoken').textContent")


def test_layer_head_and_mean_can_be_chosen(browser: Browser, observation: Observation) -> None:
    select(browser, "layer", "0")
    select(browser, "head", "2")
    browser.hover(f"{words('right')}[1]")
    assert fills(browser, "left") == pytest.approx(
        list(cross_words(observation, 1, 3, "writing")[0]), abs=2e-4
    )
    select(browser, "head", "mean")
    assert fills(browser, "left") == pytest.approx(
        list(cross_words(observation, 1, None, "writing")[0]), abs=2e-4
    )
    select(browser, "layer", "mean")
    both = [cross_words(observation, layer, None, "writing")[0] for layer in (1, 2)]
    assert fills(browser, "left") == pytest.approx(list((both[0] + both[1]) / 2), abs=2e-4)
    browser.click("document.querySelector('button.best')")
    assert browser.get("[...document.querySelectorAll('.pane select')].map(s => s.value)") == [
        "1",
        "2",
    ]
    browser.hover(f"{words('right')}[0]")
    assert fills(browser, "left") == pytest.approx(
        list(cross_words(observation, 2, 3, "reading")[0]), abs=2e-4
    )


@pytest.mark.parametrize("view", ["cross", "encoder", "decoder"])
def test_four_steps_have_the_real_numbers(
    browser: Browser, observation: Observation, view: str
) -> None:
    look_at(browser, view)
    select(browser, "unit", "subwords")
    attended: Attended = getattr(observation, view)
    last = 4
    browser.click(f"{words('right')}[{last}]")
    query = last if view == "encoder" else last - 1  # of a target token, the step that writes it
    seen = last if view == "decoder" else attended.weights.values.shape[-1]
    rows = "tbody tr"
    where = (1, 0, query, slice(seen))
    for kind, values, digits in (
        ("score", attended.scores.values[where], 2),
        ("weight", attended.weights.values[where], 3),
        ("length", attended.value_lengths.values[1, 0, :seen], 2),
    ):
        found = [float(x.replace("−", "-")) for x in texts(browser, f"{rows} .{kind}")]
        assert found == pytest.approx(list(values), abs=0.6 * 10**-digits)
    added = attended.contributions.values[where]
    shares = [float(x.rstrip("%")) / 100 for x in texts(browser, f"{rows} .share:not(span)")]
    assert shares == pytest.approx(list(added / added.sum()), abs=0.006)
    assert texts(browser, "tfoot .total") == ["1.000"]
    gauges = browser.get(
        "[...document.querySelectorAll('tbody .gauge:not(.share)')].map(g => parseFloat(g.style.getPropertyValue('--part')) / 100)"
    )
    assert gauges == pytest.approx(list(attended.weights.values[where]), abs=1e-3)
    assert texts(browser, ".formula") == [
        "2. Compared with every key, it gives scores: s = q · k / √K.",
        "3. Scores become weights: w = exp(s) / Σ exp(s).",
    ]
    assert [text.strip() for text in texts(browser, ".sums")] == ["The weights sum to one."]
    assert view in texts(browser, ".steps .soft")[0]
    # The strips' numbers: the key of the second row, and the sum of the values.
    titles = browser.get("[...document.querySelectorAll('.strip')].map(s => s.title)")
    numbers = [[float(x.replace("−", "-")) for x in title.split()] for title in titles]
    assert attended.queries is not None
    assert attended.keys is not None
    assert numbers[0] == pytest.approx(list(attended.queries.values[1, 0, query]), abs=0.006)
    assert numbers[3] == pytest.approx(list(attended.keys.values[1, 0, 1]), abs=0.006)
    context = attended.weights.values[1, 0, query] @ attended.values.values[1, 0]
    assert numbers[-1] == pytest.approx(list(context), abs=0.006)
    # Blue above zero, orange below: the strongest number of the sum.
    strongest = int(np.argmax(np.abs(context)))
    stops = browser.get("[...document.querySelectorAll('.strip')].at(-1).style.background")
    color = re.findall(r"color-mix\(in srgb, (rgb\([^)]*\)|#\w+)", stops)[strongest]
    assert color in (
        ("rgb(0, 114, 178)", "#0072b2")
        if context[strongest] > 0
        else ("rgb(179, 89, 0)", "#b35900")
    )
    # The same in numbers, for those who have no mouse.
    assert texts(browser, "ul.numbers li") == []
    browser.click("document.querySelector('details.tell summary')")
    told = texts(browser, "ul.numbers li")
    assert told[-1] == "sum: " + titles[-1]
    assert told[0] == "query: " + titles[0]
    hidden = attended.weights.values.shape[-1] - seen
    (caption,) = texts(browser, "caption")
    assert caption.startswith(str(hidden) if hidden else "All tokens")


def test_contributions_are_shares(browser: Browser, observation: Observation) -> None:
    select(browser, "measure", "contributions")
    browser.hover(f"{words('right')}[1]")
    assert observation.cross is not None
    row = observation.cross.contributions.values[1, 0, [0]]
    expected = between(
        row / row.sum(),
        [tgt_items(observation.tgt, True, "writing")[1]],
        src_items(observation.src, True),
    )
    assert fills(browser, "left") == pytest.approx(list(expected[0]), abs=3e-4)


def test_next_words_are_listed(browser: Browser, observation: Observation) -> None:
    found = texts(browser, "ol.next li")
    shown = [[float(x) / 100 for x in re.findall(r"([\d.]+)%", text)] for text in found]
    assert len(found) == len(observation.written)
    for text, written, candidates in zip(
        found, observation.written, observation.candidates, strict=True
    ):
        assert text.startswith(written.token)
        others = [c.token for c in candidates if c.token != written.token][:4]
        assert [part.split()[0] for part in text.split("%", 1)[1].split("·")] == others
    for numbers, written, candidates in zip(
        shown, observation.written, observation.candidates, strict=True
    ):
        runners_up = [c.probability for c in candidates if c.token != written.token][:4]
        assert numbers == pytest.approx([written.probability, *runners_up], abs=0.0051)
    browser.hover(f"{words('right')}[1]")
    assert (
        browser.get(
            "[...document.querySelectorAll('ol.next li')].findIndex(e => e.classList.contains('active'))"
        )
        == 0
    )


def test_keyboard_is_enough(browser: Browser) -> None:
    focused = "[...document.querySelectorAll('.word')].indexOf(document.activeElement)"
    n_left = browser.get(f"{words('left')}.length")
    for _ in range(20):
        browser.press("Tab")
        if browser.get(focused) >= 0:
            break
    assert browser.get(focused) == n_left + 1  # the first target word that asks
    active = (
        "[...document.querySelectorAll('.word')].findIndex(w => w.classList.contains('active'))"
    )
    for key, expected in (
        ("ArrowDown", n_left + 2),
        ("ArrowUp", n_left + 1),
        ("ArrowUp", n_left),
        ("ArrowUp", n_left),
        ("ArrowLeft", 0),
        ("End", n_left - 1),
        ("ArrowRight", None),
        ("Home", n_left),
    ):
        browser.press(key)
        if expected is not None:
            assert browser.get(focused) == browser.get(active) == expected
    pinned = "[...document.querySelectorAll('.word')].findIndex(w => w.getAttribute('aria-pressed') === 'true')"
    browser.press("Enter")
    assert browser.get(pinned) == n_left
    browser.press("ArrowDown")
    assert browser.get(pinned) == n_left  # it is kept while others are looked at
    browser.press("Escape")
    assert browser.get(pinned) == -1


def test_choices_keep_the_focus_and_the_word(browser: Browser, observation: Observation) -> None:
    """By keyboard: another head, another measure, and still the same word is looked at."""
    browser.click(f"{words('right')}[2]")
    kept = "[...document.querySelectorAll('.word')].findIndex(w => w.getAttribute('aria-pressed') === 'true')"
    index = browser.get(kept)
    assert index > 0
    browser.get("document.querySelector('select[name=head]').focus()")
    for _ in range(2):
        browser.press("ArrowDown")
    assert browser.get("document.activeElement.name + document.activeElement.value") == "head2"
    expected = cross_words(observation, 2, 3, "writing")
    assert fills(browser, "left") == pytest.approx(list(expected[1]), abs=2e-4)
    browser.click("document.querySelector('details summary')")
    opened = "[...document.querySelectorAll('.pane > div > details')].map(d => d.open)"
    before = browser.get(opened)
    select(browser, "measure", "contributions")
    assert browser.get(kept) == index
    assert browser.get(opened) == before
    browser.click("document.querySelector('button.best')")
    assert browser.get("document.activeElement.className") == "best"


def test_lines_end_at_their_words(browser: Browser) -> None:
    browser.hover(f"{words('right')}[1]")
    found = browser.get(
        """[...document.querySelectorAll('path.lit')].map(p => {
            const box = p.ownerSVGElement.getBoundingClientRect();
            const at = (n) => { const q = p.getPointAtLength(n); return q.y + box.top; };
            return [at(0), at(p.getTotalLength())];
        })"""
    )
    middles = "[...document.querySelectorAll('ul.{} .word')].map(w => {{ const r = w.getBoundingClientRect(); return (r.top + r.bottom) / 2; }})"
    left, right = (browser.get(middles.format(side)) for side in ("left", "right"))
    lit = [i for i, fill in enumerate(fills(browser, "left")) if fill >= 0.01]
    assert [start for start, _ in found] == pytest.approx([left[i] for i in lit], abs=1)
    assert [end for _, end in found] == pytest.approx([right[1]] * len(lit), abs=1)


def test_opens_with_what_was_chosen(
    browser: Browser, observation: Observation, tmp_path: Path, file: Path
) -> None:
    path = tmp_path / "decoder.html"
    shown = Shown("first", observation, BEST)
    path.write_text(page([(shown, Choice("decoder", 1, 2, "writing"))]), encoding="utf-8")
    browser.open(path)
    assert browser.get("document.querySelector('input[name=view]:checked').value") == "decoder"
    assert browser.get("[...document.querySelectorAll('.pane select')].map(s => s.value)") == [
        "0",
        "1",
    ]
    browser.open(file)
    browser.requests.clear()
    browser.requests.append(file.as_uri())


def test_a_kept_word_stays_when_the_mouse_leaves(browser: Browser) -> None:
    browser.click(f"{words('right')}[2]")
    kept = fills(browser, "left")
    browser.hover(f"{words('right')}[3]")
    assert fills(browser, "left") != kept
    browser.hover("document.querySelector('h1')")
    assert fills(browser, "left") == kept


def test_text_is_never_markup(browser: Browser) -> None:
    assert browser.get("typeof hacked") == "undefined"
    assert texts(browser, ".said span") == [SENTENCE]
    assert "<b>du</b>" in texts(browser, "ul.right .word b")
    assert browser.get("document.querySelectorAll('b b, .said b').length") == 0


@pytest.mark.parametrize("width", [320, 390, 1200])
def test_fits_any_screen(
    running: Browser, tokenizer: Tokenizer, tmp_path: Path, width: int
) -> None:
    """With words longer than the screen is wide."""
    seen = look(tokenizer, TWO_LAYERS, f"lo {LONG} ke", f"ba {LONG}")
    path = tmp_path / "long.html"
    path.write_text(page([(Shown("x" * 200, seen, None), Choice("cross", 1, 1, "writing"))]))
    running.open(path, width=width)
    assert running.get("document.documentElement.scrollWidth") <= width
    for side in ("left", "right"):
        edges = running.get(
            f"[...{words(side)}].map(w => w.getBoundingClientRect()).map(r => [r.left, r.right])"
        )
        assert all(0 <= left < right <= width for left, right in edges)
    assert LONG in running.get(f"[...{words('right')}].map(w => w.title)")


def test_dark_and_light_can_be_read(browser: Browser, file: Path) -> None:
    """Contrast as WCAG counts it: 4.5 for text, 3 for lines and bars."""
    contrast = """(a, b) => {
        const light = (color) => {
            const probe = document.body.appendChild(document.createElement('i'));
            probe.style.color = `var(${color})`;
            const color_ = getComputedStyle(probe).color;
            const parts = color_.match(/[\\d.]+/g).slice(0, 3).map(Number);
            probe.remove();
            const [r, g, b] = parts.map(x => x / (color_.startsWith('color(') ? 1 : 255)).map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
            return .2126 * r + .7152 * g + .0722 * b;
        };
        const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
        return (high + .05) / (low + .05);
    }"""
    backgrounds = []
    for dark in (False, True):
        browser.open(file, dark=dark)
        for color, least in (("--text", 4.5), ("--soft", 4.5), ("--seen", 3), ("--own", 3)):
            for ground in ("--page", "--panel"):
                assert browser.get(f"({contrast})('{color}', '{ground}')") >= least, (
                    color,
                    ground,
                    dark,
                )
        # The number in a lit word, over what fills it.
        browser.get(
            "document.documentElement.style.setProperty('--lit', 'color-mix(in srgb, var(--seen) 38%, var(--page))')"
        )
        assert browser.get(f"({contrast})('--text', '--lit')") >= 4.5
        small = browser.get("getComputedStyle(document.querySelector('.word small')).color")
        assert small == browser.get("getComputedStyle(document.body).color")
        backgrounds.append(browser.get("getComputedStyle(document.body).backgroundColor"))
    assert backgrounds[0] != backgrounds[1]


def test_two_runs_side_by_side(
    running: Browser, tokenizer: Tokenizer, observation: Observation, tmp_path: Path
) -> None:
    """The second without self-attention in the encoder, with one layer and fewer heads."""
    small = replace(
        TWO_LAYERS,
        n_heads=2,
        decoder_layers=1,
        encoder_attention=AttentionConfig(kind="none"),
    )
    other = Shown("second", look(tokenizer, small, "ke lo"), None)
    first = Shown("first", observation, BEST)
    path = tmp_path / "compare.html"
    runs = [(shown, choose(shown, "cross", None, None)) for shown in (first, other)]
    path.write_text(page(runs), encoding="utf-8")
    running.complaints.clear()
    running.open(path)
    assert running.complaints == []
    assert texts(running, ".pane h2") == ["first", "second"]
    lit = "[...document.querySelectorAll('.pane')].map(p => p.querySelector('.word.active b').textContent)"
    running.hover("[...document.querySelectorAll('.pane')][0].querySelectorAll('ul.left .word')[1]")
    assert running.get(lit) == ["du", "du"]
    running.hover(
        "[...document.querySelectorAll('.pane')][1].querySelectorAll('ul.right .word')[1]"
    )
    assert running.get(lit) == ["ke", "ke"]
    for name, value in (("unit", "subwords"), ("step", "reading"), ("unit", "words")):
        select(running, name, value)
        for pane, run in enumerate(runs):
            unit = running.get("document.querySelector('select[name=unit]').value")
            n_src = len(src_items(run[0].observation.src, unit == "words"))
            n_tgt = len(tgt_items(run[0].observation.tgt, unit == "words", "writing"))
            counts = (
                "[...document.querySelectorAll('.pane')][{}].querySelectorAll('ul.{} .word').length"
            )
            assert running.get(counts.format(pane, "left")) == n_src
            assert running.get(counts.format(pane, "right")) == n_tgt
    look_at(running, "decoder")
    assert texts(running, ".left.title") == ["translation: keys and values"] * 2
    look_at(running, "encoder")
    assert "This model has no encoder self-attention." in texts(running, ".pane p")
    assert running.complaints == []
