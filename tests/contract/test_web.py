"""The worker's endpoints over HTTP: what they serve, to whom, and how the stream of events ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from stream_infer.config import BUILTIN_MODELS, BUILTIN_STREAMS, WebSettings
from stream_infer.errors import ConfigError
from stream_infer.metrics import Metrics
from stream_infer.top.run import run_top
from stream_infer.web import live
from stream_infer.web.access import COOKIE, MIN_TOKEN_CHARS, Access
from stream_infer.web.probe import read_samples
from stream_infer.web.server import make_application, serve_web
from stream_infer.web.sources import Readiness, Sources

TOKEN = "0123456789-abcdef"  # noqa: S105 - a test's own
EVERYWHERE = "0.0.0.0"  # noqa: S104 - as a container has it
GUARDED = ["/metrics", "/live", "/page.js", "/charts.js"]


class Worker:
    """What the endpoints show, to be changed by a test."""

    def __init__(self) -> None:
        self.metrics = Metrics(BUILTIN_STREAMS, BUILTIN_MODELS)
        self.state = Readiness(is_ready=True)
        self.recent: dict[str, Any] = {"late": [], "dead_letters": []}

    @property
    def sources(self) -> Sources:
        """Where the endpoints read from."""
        about = {"group": "g", "shows_text": False}
        return Sources(self.metrics.registry, lambda: self.state, lambda: self.recent, about)


@pytest.fixture
def worker() -> Worker:
    return Worker()


@asynccontextmanager
async def serving(worker: Worker, **settings: Any) -> AsyncIterator[TestClient[Any, Any]]:
    """Yield a client of the endpoints, which keeps cookies."""
    application = make_application(WebSettings(**settings), worker.sources)
    async with TestClient(TestServer(application)) as client:
        yield client


async def events(response: ClientResponse, count: int) -> list[tuple[str, Any]]:
    """Return the next events of a stream, by name."""
    found: list[tuple[str, Any]] = []
    name = ""
    while len(found) < count:
        field, _, value = (await asyncio.wait_for(response.content.readline(), 10)).decode().partition(": ")
        if field == "event":
            name = value.strip()
        elif field == "data":
            found.append((name, json.loads(value)))
    return found


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/charts.js", "text/javascript"),
        ("/health", "application/json"),
        ("/metrics", "text/plain"),
        ("/missing", "text/plain"),
    ],
)
async def test_every_answer_keeps_others_out(worker: Worker, path: str, kind: str) -> None:
    async with serving(worker) as client, client.get(path) as response:
        assert kind == response.content_type
        policy = response.headers["Content-Security-Policy"]
        assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(
            policy.split("; ")
        )
        assert "unsafe" not in policy
        assert ("nosniff", "no-referrer") == (
            response.headers["X-Content-Type-Options"],
            response.headers["Referrer-Policy"],
        )
        assert ("same-origin", "no-store") == (
            response.headers["Cross-Origin-Resource-Policy"],
            response.headers["Cache-Control"],
        )
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("method", ["OPTIONS", "GET"])
async def test_no_other_origin_is_let_in(worker: Worker, method: str) -> None:
    asked = {"Origin": "https://attacker.example", "Access-Control-Request-Method": "GET"}
    async with serving(worker) as client, client.request(method, "/metrics", headers=asked) as response:
        assert not [name for name in response.headers if name.lower().startswith("access-control-")]


@pytest.mark.parametrize("host", [EVERYWHERE, "::", "192.0.2.1", "worker.example"])
def test_without_a_token_nothing_but_loopback_is_listened_on(worker: Worker, host: str) -> None:
    with pytest.raises(ConfigError, match=rf"web\.host: on {host} everyone .*web\.token_file"):
        make_application(WebSettings(host=host), worker.sources)
    for settings in ({"token": SecretStr(TOKEN)}, {"allow_without_token": True}):
        assert make_application(WebSettings.model_validate({"host": host, **settings}), worker.sources)


def test_tokens_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(given: bytes, expected: bytes) -> bool:
        compared.append(expected)
        return given == expected

    monkeypatch.setattr("hmac.compare_digest", compare)

    assert Access("127.0.0.1", TOKEN).admits_token(TOKEN)
    assert [TOKEN.encode()] == compared


async def test_readiness_says_what_is_missing(worker: Worker) -> None:
    async with serving(worker) as client:
        async with client.get("/ready") as response:
            assert (HTTPStatus.OK, {"ready": True, "reasons": []}) == (response.status, await response.json())
        worker.state = Readiness(is_ready=False, reasons=("models are loading",))
        async with client.get("/ready") as response:
            assert HTTPStatus.SERVICE_UNAVAILABLE == response.status
            assert {"ready": False, "reasons": ["models are loading"]} == await response.json()


async def test_a_watcher_is_told_the_history_and_then_what_changes(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WATCHED_PAUSE", 0.01)
    async with serving(worker) as client, client.get("/live") as response:
        assert "text/event-stream" == response.content_type
        (history, points), (message, first) = await events(response, 2)
        assert ("history", "message", True) == (history, message, first["ready"])
        assert ["classify", "translate", "answer"] == list(BUILTIN_STREAMS)
        assert set(BUILTIN_STREAMS) == set(points[0]["streams"])

        worker.metrics.streams["classify"].results.inc(50)
        worker.state = Readiness(is_ready=False, reasons=("it is a test",))
        later = [snapshot for _, snapshot in await events(response, 2)][-1]

    streams = {stream["name"]: stream for stream in later["streams"]}
    assert streams["classify"]["results"] > 0 == streams["translate"]["results"]
    assert (False, ["it is a test"]) == (later["ready"], later["reasons"])


async def test_watchers_are_bounded_and_leave_room_when_they_go(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "WATCHED_PAUSE", 0.01)
    monkeypatch.setattr(live, "MAX_WATCHERS", 1)
    async with serving(worker) as client:
        async with client.get("/live") as first, client.get("/live") as second:
            assert "history" == (await events(first, 1))[0][0]
            assert [("refused", "16 others watch already")] == await events(second, 1)
            assert b"" == (await second.content.read()).strip()
        async with asyncio.timeout(10):
            while True:
                async with client.get("/live") as third:
                    if "history" == (await events(third, 1))[0][0]:
                        break


async def test_a_fault_of_what_is_shown_ends_nothing(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "WATCHED_PAUSE", 0.01)
    monkeypatch.setattr(live, "UNWATCHED_PAUSE", 0.01)
    worker.metrics.read_one("ready", lambda: 1 / 0)
    async with serving(worker) as client, client.get("/live") as response:
        assert "history" == (await events(response, 1))[0][0]
        worker.metrics.read_one("ready", lambda: 1)
        assert "message" == (await events(response, 1))[0][0]


async def test_the_server_ends_while_somebody_watches(worker: Worker) -> None:
    async with serving(worker) as client, client.get("/live") as response:
        await events(response, 1)
        await client.server.close()
        await asyncio.wait_for(response.content.read(), 10)
        assert response.content.at_eof()


async def test_closing_the_feed_ends_its_streams(worker: Worker) -> None:
    feed = live.LiveFeed(worker.sources)
    stream = feed.watch()
    assert (await anext(stream)).startswith(b"retry: ")
    feed.close()

    with pytest.raises(StopAsyncIteration):
        await anext(stream)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8080", HTTPStatus.OK),
        ("127.0.0.1:9000", HTTPStatus.OK),
        ("[::1]:8080", HTTPStatus.OK),
        ("attacker.example:8080", HTTPStatus.FORBIDDEN),
        ("127.0.0.1.attacker.example", HTTPStatus.FORBIDDEN),
        ("[::1", HTTPStatus.FORBIDDEN),
        ("local\thost", HTTPStatus.FORBIDDEN),
        ("", HTTPStatus.FORBIDDEN),
    ],
)
async def test_on_loopback_only_names_of_loopback_are_answered(
    worker: Worker, host: str, status: HTTPStatus
) -> None:
    async with serving(worker) as client, client.get("/metrics", headers={"Host": host}) as response:
        assert status == response.status


@pytest.mark.parametrize(
    "settings", [{"host": EVERYWHERE, "allow_without_token": True}, {"token": SecretStr(TOKEN)}]
)
async def test_elsewhere_or_with_a_token_any_name_is_answered(
    worker: Worker, settings: dict[str, Any]
) -> None:
    headers = {"Host": "worker:8080", "Authorization": f"Bearer {TOKEN}"}
    async with serving(worker, **settings) as client, client.get("/metrics", headers=headers) as response:
        assert HTTPStatus.OK == response.status


@pytest.mark.parametrize("path", [*GUARDED, "/", "/missing"])
@pytest.mark.parametrize(
    "given", ["", "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN}x", f"Bearer {TOKEN}\u00e9"]
)
async def test_without_the_token_nothing_is_shown(worker: Worker, path: str, given: str) -> None:
    async with (
        serving(worker, token=SecretStr(TOKEN)) as client,
        client.get(path, headers={"Authorization": given}) as response,
    ):
        assert HTTPStatus.UNAUTHORIZED == response.status
        assert "stream_infer_" not in await response.text()


async def test_probes_need_no_token_and_the_bearer_sees_all(worker: Worker) -> None:
    async with serving(worker, token=SecretStr(TOKEN)) as client:
        for path in ("/health", "/ready"):
            async with client.get(path) as response:
                assert HTTPStatus.OK == response.status
        for path in GUARDED:
            async with client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}) as response:
                assert HTTPStatus.OK == response.status


async def test_a_browser_exchanges_the_token_for_a_cookie_that_does_not_tell_it(worker: Worker) -> None:
    async with serving(worker, token=SecretStr(TOKEN)) as client:
        async with client.get("/") as response:
            assert 'action="login"' in await response.text()
        async with client.post("/login", data={"token": "wrong"}) as response:
            assert HTTPStatus.UNAUTHORIZED == response.status
            assert "That is not the token." in await response.text()
            assert COOKIE not in response.cookies
        async with client.post("/login", data={"token": f"{TOKEN} "}, allow_redirects=False) as response:
            assert HTTPStatus.SEE_OTHER == response.status
            cookie = response.cookies[COOKIE]
        assert ("Strict", True) == (cookie["samesite"], cookie["httponly"])
        assert TOKEN not in cookie.value
        for path in ("/", "/metrics"):
            async with client.get(path, headers={"Cookie": f"{COOKIE}={cookie.value}"}) as response:
                assert HTTPStatus.OK == response.status


async def test_nobody_logs_in_where_there_is_no_token(worker: Worker) -> None:
    async with serving(worker) as client, client.post("/login", data={"token": ""}) as response:
        assert HTTPStatus.UNAUTHORIZED == response.status


@pytest.mark.parametrize("content", ["short", "", "naïve token of many characters"])
def test_a_token_that_is_of_no_use_stops_the_start(worker: Worker, tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content)

    for settings in (WebSettings(token=SecretStr(content)), WebSettings(token_file=tmp_path / "token")):
        with pytest.raises(ConfigError, match=rf"web\.token: needs at least {MIN_TOKEN_CHARS}") as caught:
            make_application(settings, worker.sources)
        assert not content or content not in str(caught.value)


async def test_a_token_comes_from_a_file_which_must_be_there(worker: Worker, tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(ConfigError, match=r"web\.token_file: .*token cannot be read"):
        make_application(WebSettings(token_file=path), worker.sources)
    path.write_text(f"{TOKEN}\n")
    async with serve_web(WebSettings(port=0, token_file=path), worker.sources) as port:
        url = f"http://127.0.0.1:{port}"
        assert await read_samples(url, TOKEN)
        with pytest.raises(ConfigError, match="asks for a token"):
            await read_samples(url)


async def test_a_port_that_is_taken_is_named_and_a_server_can_be_off(worker: Worker) -> None:
    async with serve_web(WebSettings(enabled=False), worker.sources) as port:
        assert port is None
    async with serve_web(WebSettings(port=0), worker.sources) as port:
        with pytest.raises(ConfigError, match=rf"web\.port: cannot listen on 127\.0\.0\.1:{port}"):
            async with serve_web(WebSettings(port=port or 0), worker.sources):
                pass


async def test_top_asks_with_its_token(worker: Worker, capsys: pytest.CaptureFixture[str]) -> None:
    async with serve_web(WebSettings(port=0, token=SecretStr(TOKEN)), worker.sources) as port:
        url = f"http://127.0.0.1:{port}"
        await run_top([url], 0.01, TOKEN, once=True)
        assert url in capsys.readouterr().out
        with pytest.raises(ConfigError, match="asks for a token"):
            await run_top([url], 0.01, None, once=True)


async def test_an_answer_that_is_no_metrics_has_no_samples(worker: Worker) -> None:
    async with serve_web(WebSettings(port=0, host="127.0.0.2"), worker.sources) as port:
        assert await read_samples(f"http://127.0.0.2:{port}")
        worker.metrics.read_one("ready", lambda: 1 / 0)
        assert {} == await read_samples(f"http://127.0.0.2:{port}")
