"""The live page in a browser: it shows what the worker does, to everyone who may see it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgpack
import pytest
from playwright.async_api import Page, expect

from tests.broker.browser import (
    DESKTOP,
    NARROWEST,
    PHONE,
    Complaints,
    faint_texts,
    focused,
    open_browser,
    overflow,
    set_size,
)
from tests.broker.foreign import produce
from tests.broker.lanes import Lane, feed, texts, watched
from tests.broker.service_process import ServiceProcess

pytestmark = pytest.mark.browser

REGIONS = ["pause", "streams", "late", "dead-letters", "models", "runtime"]
SIZES = {"phone": PHONE, "desktop": DESKTOP, "narrowest": NARROWEST}
TOKEN = "a token of this test"  # noqa: S105 - a test's own
EVIL = "<img src=x onerror=alert(1)>"


async def test_the_page_shows_what_happens_without_reloading(
    lane: Lane, tmp_path: Path, pictures: Path
) -> None:
    """Load, a record that cannot be read, and one that is an hour old when it arrives.

    The budget is one that also a busy machine keeps.
    """
    settings = f"{lane.settings}latency_budget_ms = 20000\n"
    async with (
        ServiceProcess(settings, tmp_path) as service,
        watched(lane) as outcomes,
        open_browser(tmp_path / "profile") as page,
    ):
        complaints = Complaints(page)
        await page.goto(service.url)
        await expect(page.locator("#state")).to_have_text("Ready")
        await expect(page.locator("#late")).to_have_text("None was late.")
        await expect(page.locator("#dead-letters")).to_have_text("There was none.")
        await page.evaluate("window.isTheSamePage = true")

        load = asyncio.create_task(feed(lane, texts(2_400), outcomes, ahead=80))
        await expect(page.locator("[data-figure=results]")).not_to_have_text("0/s")
        await expect(page.locator("#glance")).to_contain_text("within the budget of 20 s")
        _send_poison_and_late(lane)
        letter = page.locator("#dead-letters-latest tbody tr")
        await expect(letter).to_contain_text("malformed")
        await expect(letter).to_contain_text(f"{lane.input}/")
        late = page.locator("#late .event")
        await expect(late).to_contain_text("1 h 0 min of a budget of 20 s")
        await expect(late.locator(".stages")).to_contain_text("bus 1 h 0 min")
        assert EVIL not in await page.content()
        await load

        await _look_at_it_everywhere(page, pictures)
        assert REGIONS == await focused(page, len(REGIONS))
        await page.get_by_role("button", name="Pause").press("Enter")
        await expect(page.locator("#age")).to_contain_text("paused; figures of")
        assert await page.evaluate("window.isTheSamePage")
        assert not complaints.found


async def test_the_page_outlives_its_worker_and_shows_text_as_text(
    lane: Lane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a token, and with what producers wrote: which may be a page of its own."""
    monkeypatch.setenv("STREAM_INFER__WEB__TOKEN", TOKEN)
    async with (
        ServiceProcess(f"{lane.settings}[web]\nshow_text = true\n", tmp_path) as service,
        open_browser(tmp_path / "profile") as page,
    ):
        await page.goto(service.url)
        await page.get_by_label("Token").fill(TOKEN)
        complaints = Complaints(page)
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("#state")).to_have_text("Ready")
        _send_poison_and_late(lane)
        await expect(page.locator("#late")).to_contain_text(f"{EVIL}: a text of {EVIL}")
        await expect(page.locator("#dead-letters-latest tbody tr")).to_contain_text(EVIL)
        assert 0 == await page.locator("img").count()
        assert not complaints.found

        await service.stop()
        await expect(page.locator("#state")).to_have_text("Connection lost")
        await expect(page.locator("#age")).to_contain_text("old; trying again")
        await service.start()
        await expect(page.locator("#state")).to_have_text("Ready", timeout=60_000)
        await expect(page.locator("#late")).to_have_text("None was late.")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where pictures of the page are put: a directory of the test's, or the one that is asked for."""
    return Path(os.environ.get("STREAM_INFER_PICTURES", tmp_path))


async def _look_at_it_everywhere(page: Page, pictures: Path) -> None:
    """Take the page's picture at each size, light and dark, and check that all of it can be read."""
    for scheme in ("light", "dark"):
        await page.emulate_media(color_scheme="light" if scheme == "light" else "dark")
        for name, size in SIZES.items():
            await set_size(page, size)
            assert 0 == await overflow(page), name
            await page.screenshot(path=pictures / f"{name}-{scheme}.png", full_page=True)
        assert [] == await faint_texts(page)


def _send_poison_and_late(lane: Lane) -> None:
    value = msgpack.packb({"text": f"a text of {EVIL}"})
    hour_ago = int(time.time() * 1000) - 3_600_000
    late = {"value": value, "headers": {"ce_id": EVIL.encode()}, "timestamp": hour_ago}
    poison = {"value": b"no map", "headers": {"ce_id": EVIL.encode()}}
    produce(lane.connection, lane.input, [late, poison])
