"""What the tests in a real browser read from its page."""

import os
import shutil

import pytest
from playwright.sync_api import Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium: apt-get install chromium, or set CHROMIUM to its path"
)


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
