"""A headless Chromium, and what can be asked of a page in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Page, async_playwright

FLAGS = [
    *("--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
PHONE = (390, 844)
DESKTOP = (1280, 900)
NARROWEST = (360, 740)
PATIENCE_MS = 30_000

CONTRASTS = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => channels(color).slice(0, 3).map((c) => c / 255)
    .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, place) => sum + c * [0.2126, 0.7152, 0.0722][place], 0);
  const ground = (element) => {
    const color = getComputedStyle(element).backgroundColor;
    return (channels(color)[3] ?? 1) > 0 || !element.parentElement ? color : ground(element.parentElement);
  };
  const ratio = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const speaks = (element) => [...element.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
  return [...document.body.querySelectorAll("*")]
    .filter((element) => speaks(element) && element.getClientRects().length)
    .map((element) => [ratio(light(getComputedStyle(element).color), light(ground(element))),
      `${element.tagName} ${element.className} ${element.textContent}`]);
}"""
"""The contrast of each element's text with what lies behind it (WCAG 2.2, relative luminance)."""


class Complaints:
    """What the browser complained of: errors on the console, in scripts, and requests that failed."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        page.on("console", lambda message: self._note(message.text, message.type in {"error", "warning"}))
        page.on("pageerror", lambda error: self._note(str(error), is_bad=True))
        page.on("response", lambda answer: self._note(answer.url, answer.status >= 400))
        page.on("requestfailed", lambda request: self._note(request.url, is_bad=True))

    def _note(self, text: str, is_bad: bool) -> None:  # noqa: FBT001 - a note to itself
        if is_bad:
            self.found.append(text)


@asynccontextmanager
async def open_browser(profile: Path) -> AsyncIterator[Page]:
    """Give a page of a browser that has never seen anything, for the length of a context."""
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("the browser tests need `chromium` on the PATH")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        context = await playwright.chromium.launch_persistent_context(
            profile, executable_path=path, headless=True, args=[*FLAGS, *sandbox], timeout=PATIENCE_MS
        )
        context.set_default_timeout(PATIENCE_MS)
        try:
            yield context.pages[0]
        finally:
            await context.close()


async def set_size(page: Page, size: tuple[int, int]) -> None:
    """Show the page at a width and height."""
    await page.set_viewport_size({"width": size[0], "height": size[1]})


async def overflow(page: Page) -> int:
    """Return by how many pixels the page is wider than its window."""
    return int(
        await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    )


async def faint_texts(page: Page) -> list[str]:
    """Return the texts whose contrast is below the 4.5 that readers need."""
    return [text for ratio, text in await page.evaluate(CONTRASTS) if ratio < 4.5]


async def focused(page: Page, presses: int) -> list[str]:
    """Return the ids that the focus passes when Tab is pressed so often."""
    found = []
    for _ in range(presses):
        await page.keyboard.press("Tab")
        found.append(str(await page.evaluate("document.activeElement.id")))
    return found
