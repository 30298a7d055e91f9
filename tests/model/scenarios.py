"""What is searched whole: small enough to be, and each with another way to go wrong."""

from __future__ import annotations

from collections.abc import Mapping

from tests.model.world import Scenario

A, B = b"a", b"b"

SCENARIOS: Mapping[str, Scenario] = {
    "failures": Scenario([A, B, A], failures=1),
    "moves": Scenario([A, B, A], moves=1, ways=("crash", "revoke"), fetches=1),
    "back and forth": Scenario([A], moves=2, returns=0),
    "expiry": Scenario([A, B, A], expiries=1, fetches=1),
    "zombie": Scenario([A, B], moves=1, ways=("evict",), returns=0),
    "zombie that returns": Scenario([A], moves=1, ways=("evict",), returns=1),
    "late answers": Scenario(
        [A, B], moves=1, ways=("evict",), failures=1, fragile="commit", returns=0, engine="instant"
    ),
    "little metadata": Scenario([A, B, B, A, None], max_metadata_bytes=7),
    "turns": Scenario([A, B], expiries=1, takes_turns=True),
}
