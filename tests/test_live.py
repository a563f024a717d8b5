"""The live page in a real browser, against a real server of untrained models."""

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from itertools import chain
from typing import Any
from urllib.parse import unquote, urlencode

import pytest
import torch
from browser import hover, lit, needs_chromium, texts, watched
from conftest import SMALL
from playwright.sync_api import Page, Request, Route
from serving import serving
from untrained import small_tokenizer

from seq2seq.config import Config, DecodingConfig
from seq2seq.data.tokenizer import BOS, Subwords
from seq2seq.evaluation.tracing import attentions
from seq2seq.model.decoding import SUPPRESSED_IDS
from seq2seq.model.transformer import Seq2Seq
from seq2seq.translator import Translator
from seq2seq.viewer.live import LiveRun

pytestmark = needs_chromium

SENTENCE = "ba du ke lo"
MARKUP = "<b>ba</b> <script>hacked=1</script>"
Open = Callable[..., Page]


def untrained(seed: int, n_heads: int) -> Translator:
    """With translations of some ten tokens, none of them a byte, that need every head."""
    tokenizer, model_config = small_tokenizer(), replace(SMALL, n_heads=n_heads)
    torch.manual_seed(seed)
    model = Seq2Seq.build(model_config, tokenizer).eval()
    with torch.no_grad():
        for attention in chain(*attentions(model).values()):
            attention.get_parameter("output_proj.weight").mul_(3)
            attention.get_parameter("query_proj.weight").mul_(4)
        is_byte = [piece.startswith("<0x") for piece in pieces_of(tokenizer.tgt)]
        model.tgt_embedding.weight[is_byte] = 0
    decoding = DecodingConfig(max_length_ratio=0.1, no_repeat=1)
    return Translator(model, tokenizer, Config(model=model_config, decoding=decoding))


def pieces_of(subwords: Subwords) -> list[str]:
    return subwords.pieces(range(len(subwords)))


@pytest.fixture(scope="module")
def translators() -> list[Translator]:
    return [untrained(0, 4), untrained(1, 2)]


@pytest.fixture(scope="module")
def sites(translators: list[Translator]) -> Iterator[list[str]]:
    """The addresses of one run, and of two."""
    examples = [{"tag": "short", "text": SENTENCE}, {"tag": "long", "text": "zo vu zo ba du"}]
    known = frozenset(SENTENCE.split())
    runs = [
        LiveRun(name, translator, None, known, examples)
        for name, translator in zip(("first", "second"), translators, strict=True)
    ]
    with serving(runs[:1]) as one, serving(runs) as two:
        yield [f"http://{address}/" for address in (one, two)]


@pytest.fixture
def open_live(browser_tab: Page, sites: list[str]) -> Iterator[Open]:
    """Opens a link; whatever a test does with it, nothing leaves the host and nothing fails."""
    tab = browser_tab

    def open_link(n_runs: int = 1, width: int = 1200, **link: Any) -> Page:
        tab.set_viewport_size({"width": width, "height": 900})
        tab.goto(f"{sites[n_runs - 1]}#{urlencode(link)}")
        settled(tab)
        return tab

    tab.mouse.move(0, 0)
    tab.goto("about:blank")  # else only what follows the "#" is new
    with watched(tab) as (requests, problems):
        yield open_link
    tab.unroute_all()
    own = (*sites, "data:", "blob:", "about:")
    assert [request.url for request in requests if not request.url.startswith(own)] == []
    refused = "Failed to load resource: the server responded with a status of 400 (Bad Request)"
    assert [problem for problem in problems if problem != refused] == []


def settled(tab: Page) -> None:
    """Until the page shows what it was last asked for."""
    tab.wait_for_selector("#panes[aria-busy=false]", state="attached")


def type_sentence(tab: Page, text: str) -> None:
    tab.fill("#text", text)
    tab.locator(f".sentences span:text-is('{text}')").first.wait_for()


def click(tab: Page, selector: str) -> None:
    """Click what starts a request, and wait for its answer."""
    with tab.expect_response("**/api/*"):
        tab.locator(selector).first.click()
    settled(tab)


def sent(request: Request) -> Any:
    return request.post_data_json


def translation(tab: Page) -> list[str]:
    return texts(tab, ".sentences strong")


def without_heads(translator: Translator, *heads: tuple[str, int, int]) -> Translator:
    """Their slices of the output projection being 0, such heads add nothing."""
    model = deepcopy(translator.model)
    for view, layer, head in heads:
        attention: Any = attentions(model)[view][layer - 1]
        matrix = attention.output_proj.weight.data
        width = matrix.shape[1] // attention.n_heads
        matrix[:, (head - 1) * width : head * width] = 0
    config = replace(translator.config, decoding=replace(translator.config.decoding, lean=False))
    return Translator(model, translator.tokenizer, config)


def translated(translator: Translator, text: str) -> str:
    return translator.tokenizer.tgt.decode(ids_of(translator, text))


def ids_of(translator: Translator, text: str, prefix: Sequence[str] = ()) -> list[int]:
    """Of the translation that begins with these subwords."""
    pieces = pieces_of(translator.tokenizer.tgt)
    (src,) = translator.tokenizer.src.encode([text])
    ((best,),) = translator.decode([src], 1, [pieces.index(piece) for piece in prefix])
    return best.ids


def tokens_of(translator: Translator, prefix: Sequence[str] = ()) -> list[str]:
    return translator.tokenizer.tgt.pieces(ids_of(translator, SENTENCE, prefix))


def chosen(tab: Page) -> list[str]:
    return texts(tab, "ol.next li > b")


def test_translates_as_one_types(open_live: Open, translators: list[Translator]) -> None:
    tab = open_live()
    assert tab.input_value("#text") == SENTENCE  # the first example
    assert translation(tab) == [translated(translators[0], SENTENCE)]
    with watched(tab) as (requests, _):
        tab.locator("#text").press_sequentially(" zo ba")
        tab.locator(f".sentences span:text-is('{SENTENCE} zo ba')").wait_for()
    assert translation(tab) == [translated(translators[0], f"{SENTENCE} zo ba")]
    assert texts(tab, "#said") == translation(tab)
    assert texts(tab, "#unseen u") == ["zo"]
    assert len(requests) < 6  # not at each key
    assert tab.evaluate("document.activeElement.id") == "text"
    hover(tab, "right", 2)
    for text in (MARKUP, "ba"):
        type_sentence(tab, text)
        assert texts(tab, ".sentences span") == [text]
    assert tab.evaluate("typeof hacked") == "undefined"
    tab.mouse.move(0, 0)
    tab.fill("#text", " ")
    tab.locator(".pane").wait_for(state="detached")
    tab.select_option("#examples", "zo vu zo ba du")
    tab.locator(".pane").wait_for()
    assert translation(tab) == [translated(translators[0], "zo vu zo ba du")]
    opened = tab.locator(".word.active").inner_text()
    for text in (SENTENCE, "zo vu zo ba du"):
        tab.locator("ul.right .word").last.focus()
        type_sentence(tab, text)
    assert tab.locator(".word.active").inner_text() == opened


def test_late_answers_are_dropped(open_live: Open) -> None:
    tab = open_live()
    held: list[Route] = []
    tab.route("**/api/attend", lambda route: route.continue_() if held else held.append(route))
    with tab.expect_event("requestfailed") as failed:
        tab.fill("#text", "ba")
        tab.wait_for_selector("#panes[aria-busy=true]")
        type_sentence(tab, "du du")
    assert sent(failed.value)["text"] == "ba"
    assert failed.value.failure == "net::ERR_ABORTED"


def test_heads_are_switched(open_live: Open, translators: list[Translator]) -> None:
    """By mouse and by keyboard, one and whole layers, off, flat and on again."""
    tab = open_live(text=SENTENCE, view="cross", layer=2, head=1, unit="subwords")
    plain = translated(translators[0], SENTENCE)
    place = tab.locator("[data-head='cross.2.1']").bounding_box()
    click(tab, "[aria-label='cross-attention, layer 2']")
    assert tab.locator("[data-head='cross.2.1']").bounding_box() == place
    off = without_heads(translators[0], *(("cross", 2, head) for head in range(1, 5)))
    (changed,) = translation(tab)
    assert changed == translated(off, SENTENCE) != plain
    assert texts(tab, ".without") == [f"without the change: {plain}"]
    assert texts(tab, "strong mark") != []
    unmarked = "e => [...e.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('')"
    of_plain = iter(plain.split())  # in the same order
    assert all(word in of_plain for word in tab.locator("strong").evaluate(unmarked).split())
    assert tab.locator(".switches .off").count() == 4
    hover(tab, "right", 1)
    assert set(lit(tab, "left")) == {0}
    assert "switched off" in texts(tab, ".steps")[0]
    tab.focus("[aria-label='cross-attention, all heads']")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight"):
        tab.keyboard.press(key)
    with tab.expect_response("**/api/attend"):
        tab.keyboard.press("Enter")
    settled(tab)
    label = tab.evaluate("document.activeElement.ariaLabel")
    assert label == "cross-attention, layer 2, head 1: flat"
    hover(tab, "right", 1)
    n_keys = tab.locator("ul.left .word").count()
    assert lit(tab, "left") == pytest.approx([1 / n_keys] * n_keys, abs=1e-3)
    click(tab, ".reset")
    assert translation(tab) == [plain]
    assert tab.locator(".without, [aria-pressed=true][data-head]").count() == 0


def test_which_head_matters(open_live: Open, translators: list[Translator]) -> None:
    tab = open_live(text=SENTENCE, unit="subwords", view="cross")
    token = 3
    tab.locator("ul.right .word").nth(token).click()
    click(tab, "button:has-text('Which head matters most')")
    translator = translators[0]
    (src,) = translator.tokenizer.src.encode([SENTENCE])
    ids = [BOS, *ids_of(translator, SENTENCE)]

    def probability(*heads: tuple[str, int, int]) -> float:
        model: Any = without_heads(translator, *heads).model
        with torch.inference_mode():
            logits = model(torch.tensor([src]), torch.tensor([ids[:token]]))[0, -1]
            logits[SUPPRESSED_IDS] = -torch.inf
            return float(logits.softmax(dim=-1)[ids[token]])

    by_head = {
        (view, layer, head): probability((view, layer, head))
        for view in ("encoder", "decoder", "cross") for layer in (1, 2) for head in (1, 2, 3, 4)
    }  # fmt: skip
    worst = sorted(by_head, key=lambda head: by_head[head])[:8]
    listed = [f"{view}, layer {layer}, head {head}" for view, layer, head in worst]
    assert texts(tab, ".ranking button") == listed
    tab.locator(".ranking button").first.click()
    view, layer, head = worst[0]
    assert tab.is_checked(f"input[value={view}]")
    shown = [tab.input_value(f"select[name={name}]") for name in ("layer", "head")]
    assert shown == [str(layer), str(head)]
    assert tab.locator("ul.right .word.pinned").count() == 1


def test_forces_a_token(open_live: Open, translators: list[Translator]) -> None:
    tab = open_live(text=SENTENCE)
    before = chosen(tab)
    step = tab.locator("ol.next li").nth(2)
    token = step.locator(".force bdi").first.text_content()
    assert token is not None
    click(tab, "ol.next li:nth-child(3) .force")
    forced = tokens_of(translators[0], [*before[:2], token])
    assert chosen(tab)[: len(forced)] == forced
    assert forced[2:] != before[2 : len(forced)]
    assert texts(tab, ".held") == ["forced"]
    click(tab, ".release")
    assert chosen(tab) == before
    word = tab.locator("ul.right .word").nth(2)
    word.focus()
    shown = tab.locator(".pane > div").first.element_handle()
    tab.evaluate("update()")
    tab.wait_for_function("shown => !shown.isConnected", arg=shown)
    assert word.evaluate("word => word === document.activeElement")


def test_beam_and_sampling(open_live: Open, translators: list[Translator]) -> None:
    tab = open_live(text=SENTENCE)
    with tab.expect_response("**/api/attend"):
        tab.select_option("#search", "3")
    settled(tab)
    config = translators[0].config
    wide = replace(config, decoding=replace(config.decoding, beam=3))
    best = tokens_of(Translator(translators[0].model, translators[0].tokenizer, wide))
    assert chosen(tab)[: len(best)] == best
    drawn = [text.split(" ")[0] for text in texts(tab, ".beam text.best")]
    assert drawn[: len(best) + 1] == ["<s>", *best]
    n_steps = len(drawn) - 1
    assert tab.locator(".beam text").count() > tab.locator(".beam text.kept").count() > n_steps
    seen = set[str]()
    with tab.expect_response("**/api/attend"):
        tab.select_option("#search", "sample")
    settled(tab)
    assert tab.locator(".beam").count() == 0
    for _ in range(3):
        click(tab, "#again")
        seen.add(*translation(tab))
    assert len(seen) > 1
    assert tab.input_value("#seed") == "3"


def test_two_runs_from_a_link(open_live: Open, translators: list[Translator]) -> None:
    """What one is asked does not change the other, and a link leads to the same page."""
    tab = open_live(2, text=SENTENCE, unit="subwords", off1="cross.1.1")
    off = without_heads(translators[1], ("cross", 1, 1))
    first = translated(translators[0], SENTENCE)
    assert translation(tab) == [first, translated(off, SENTENCE)]
    with watched(tab) as (requests, _):
        click(tab, ".pane:nth-child(2) [data-head='decoder.2.2']")
    assert [sent(request)["run"] for request in requests] == [1]
    off = without_heads(translators[1], ("cross", 1, 1), ("decoder", 2, 2))
    assert translation(tab) == [first, translated(off, SENTENCE)]
    tab.check("input[value=decoder]")
    tab.locator(".pane:nth-child(1) select[name=head]").select_option("2")
    states = {name: tab.input_value(name) for name in ("#text", "#search", "[name=unit]")}
    shown = translation(tab)
    link = tab.url
    open_live(2)
    tab.goto(link)  # only what follows the "#" is new
    tab.locator(f"#said:text-is('{' / '.join(shown)}')").wait_for(state="attached")
    settled(tab)
    assert translation(tab) == shown
    assert {name: tab.input_value(name) for name in states} == states
    assert tab.is_checked("input[value=decoder]")
    assert tab.input_value(".pane:nth-child(1) select[name=head]") == "2"
    assert texts(tab, "[data-head].off") == ["×", "×"]


def test_another_view_has_other_words(open_live: Open) -> None:
    """A word pinned in a long translation, and then a view of a short source."""
    tab = open_live(text="ba", unit="subwords", view="cross")
    assert tab.locator("ul.right .word").count() > tab.locator("ul.left .word").count()

    def pin_the_last() -> None:
        tab.check("input[value=cross]")
        tab.locator("ul.right .word").last.click()

    pin_the_last()
    tab.evaluate("panes[0].select('encoder', 1, 1)")
    hover(tab, "right", 0)
    tab.mouse.move(0, 0)
    type_sentence(tab, "du")
    pin_the_last()
    tab.evaluate("location.hash = 'text=lo&unit=subwords&view=encoder'")
    tab.locator(".sentences span:text-is('lo')").wait_for()
    assert tab.locator(".word.active").count() == 1


def test_shows_what_the_server_refuses(open_live: Open) -> None:
    tab = open_live(text=SENTENCE, off0="cross.9.9")
    tab.locator("#problem:has-text('cross.9.9')").wait_for()
    assert translation(tab) == []
    click(tab, "#problem button")
    assert texts(tab, "#problem") == [""]
    assert len(translation(tab)) == 1


def test_model_map(open_live: Open) -> None:
    """The whole model as an image, and the lines of code as text."""
    tab = open_live(text=SENTENCE, unit="subwords")
    steps = [{"step": "project", "file": "a.py", "line": 7, "code": "q = '<b>q</b>'"}]
    tab.route("**/api/code*", lambda route: route.fulfill(json=dict.fromkeys(("cross",), steps)))
    tab.locator("#model > summary").click()
    tab.locator("#model pre").wait_for(state="attached")
    assert texts(tab, "#model pre") == ["q = '<b>q</b>'"]
    assert "1. project: a.py, line 7" in texts(tab, "#model details summary")
    assert f"S\xa0=\xa0{tab.locator('ul.left .word').count()}, " in texts(tab, "#model p")[0]
    tab.wait_for_function("document.querySelector('#model img').naturalWidth > 400")
    drawn = unquote(tab.locator("#model img").get_attribute("src") or "")
    assert [x in drawn for x in ("&lt;s&gt; ", "logits (T, V)")] == [True, True]
    thick = 'class="attention {}" style='
    assert [thick.format(view) in drawn for view in ("cross", "encoder")] == [True, False]


def test_saves_a_page(open_live: Open) -> None:
    tab = open_live(2, text=SENTENCE, off0="cross.1.1")
    shown = translation(tab)
    with tab.expect_download() as download:
        tab.click("#save")
    saved = download.value.path().read_text(encoding="utf-8")
    assert download.value.suggested_filename == "attention.html"
    assert "api/attend" not in saved
    tab.goto("about:blank")
    tab.set_content(saved)
    assert translation(tab) == shown


def test_phone_and_dark(open_live: Open) -> None:
    """Nothing is wider than the screen, whatever is shown; text can be read in the dark."""
    tab = open_live(2, width=390, text=f"ba {'du' * 40} lo", beam=3, off0="cross.1.1")
    tab.locator("button:has-text('Which head')").first.click()
    tab.locator(".ranking").wait_for()
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    style = "e => [getComputedStyle(e).color, getComputedStyle(e).backgroundColor]"
    light = tab.locator("#text").evaluate(style)
    tab.emulate_media(color_scheme="dark")
    dark = tab.locator("#text").evaluate(style)
    tab.emulate_media(color_scheme="light")
    assert not {*light} & {*dark}
    assert tab.locator(".beam").count() == 2
