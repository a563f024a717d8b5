"""What the tests in a real browser read from its page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import ConsoleMessage, Error, Page, Request

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM to its path"
)


@contextmanager
def watched(tab: Page) -> Iterator[tuple[list[Request], list[str]]]:
    """What the page requests meanwhile, and all that it writes to the console."""
    requests, problems = list[Request](), list[str]()

    def on_request(request: Request) -> None:
        requests.append(request)

    def on_console(message: ConsoleMessage) -> None:
        problems.append(message.text)

    def on_error(error: Error) -> None:
        problems.append(str(error))

    tab.on("request", on_request)
    tab.on("console", on_console)
    tab.on("pageerror", on_error)
    yield requests, problems
    tab.remove_listener("request", on_request)
    tab.remove_listener("console", on_console)
    tab.remove_listener("pageerror", on_error)


def hover(tab: Page, side: str, index: int) -> None:
    tab.locator(f"ul.{side} .word").nth(index).hover()


def lit(tab: Page, side: str, kind: str = "fill") -> list[float]:
    """How far each word of a side is filled, from 0 to 1."""
    widths = "all => all.map(e => parseFloat(e.style.width) / 100)"
    return tab.locator(f"ul.{side} .{kind}").evaluate_all(widths)


def texts(tab: Page, selector: str) -> list[str]:
    return tab.locator(selector).all_text_contents()


def index_of(tab: Page, selector: str, all_of: str = ".word") -> int:
    """The number of the element among all of a kind; -1 if there is none."""
    script = "([one, all]) => [...document.querySelectorAll(all)].findIndex(e => e.matches(one))"
    return tab.evaluate(script, [selector, all_of])
