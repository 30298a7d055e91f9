"""Tokens are fetched once, renewed before they run out, and never tell the secret."""

from __future__ import annotations

import json
from typing import Any

import pytest

from stream_infer.bus import tokens
from stream_infer.bus.tokens import ClientCredentials, TokenEndpoint, TokenError, read_reply

SECRET = "the-clients-own"  # noqa: S105 - the test's own
ENDPOINT = TokenEndpoint("https://idp.example/token", "me", SECRET)


class Endpoint:
    """Stands for the endpoint and the clock: gives numbered tokens that are good for 100 s, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.asked = 0
        self.status = 200
        monkeypatch.setattr(tokens, "_ask", self.answer)
        self.provider = ClientCredentials(ENDPOINT, lambda: self.now)

    async def answer(self, _: TokenEndpoint) -> tuple[int, bytes]:
        """Answer as the endpoint would."""
        self.asked += 1
        return self.status, json.dumps({"access_token": f"token{self.asked}", "expires_in": 100}).encode()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Endpoint:
    return Endpoint(monkeypatch)


async def test_a_token_is_kept_until_a_fifth_of_its_life_is_left(endpoint: Endpoint) -> None:
    given = []
    for now in (0.0, 79.9, 80.0, 159.9, 160.0):
        endpoint.now = now
        given.append(await endpoint.provider.token())

    assert ["token1", "token1", "token2", "token2", "token3"] == given


async def test_while_a_token_is_good_a_failing_endpoint_does_no_harm(endpoint: Endpoint) -> None:
    await endpoint.provider.token()
    endpoint.status = 503

    endpoint.now = 99.9
    assert "token1" == await endpoint.provider.token()

    endpoint.now = 100.0
    with pytest.raises(TokenError, match="it answered 503"):
        await endpoint.provider.token()
    endpoint.status = 200
    assert "token4" == await endpoint.provider.token()


@pytest.mark.parametrize(
    ("status", "body", "why", "is_final"),
    [
        (401, {"error": "invalid_client", "error_description": SECRET}, "401: invalid_client", True),
        (400, {"error": f"bad {SECRET}"}, "400", True),
        (404, "not found", "404", True),
        (302, {}, "302", True),
        (429, {}, "429", False),
        (500, {}, "500", False),
        (200, {"access_token": ""}, "holds no access_token", True),
        (200, {"access_token": "a\u0001auth=Bearer b"}, "holds no access_token", True),
        (200, {"access_token": 7}, "holds no access_token", True),
        (200, ["a"], "holds no access_token", True),
    ],
)
def test_an_answer_without_a_token_is_explained(status: int, body: Any, why: str, is_final: bool) -> None:  # noqa: FBT001 - a parameter
    with pytest.raises(TokenError) as raised:
        read_reply(ENDPOINT, status, json.dumps(body).encode())

    said = str(raised.value)
    assert said.endswith(
        f"no token for me at https://idp.example/token: {'it answered ' * (status != 200)}{why}"
    ) or (f"its answer {why}" in said)
    assert is_final == raised.value.is_final
    assert raised.value.retriable
    assert SECRET not in said


@pytest.mark.parametrize("lifetime", [{}, {"expires_in": -1}, {"expires_in": "soon"}])
def test_a_token_whose_life_is_not_known_is_used_once(lifetime: dict[str, Any]) -> None:
    body = json.dumps({"access_token": "abc.def-_~+/==", **lifetime}).encode()

    assert ("abc.def-_~+/==", 0.0) == read_reply(ENDPOINT, 200, body)
