"""The bench's rows of the bus, made of what was measured; what loops around a pipeline send back."""

from types import SimpleNamespace

import msgpack
import pytest

from loadgen.bench import bus, end_to_end
from loadgen.bench.contender import ContenderError
from loadgen.bench.hotpath import BARE, WORKER, Costs
from loadgen.bench.rounds import Tally
from loadgen.outcomes import read_outcome
from loadgen.peers.aiokafka_loop import headers_of, results

COSTS = Costs(
    rates={WORKER: [20_000.0, 30_000.0, 26_000.0], BARE: [50_000.0, 51_000.0, 52_000.0]},
    added_ms={WORKER: [4.0, 8.0, 4.0] * 100, BARE: [3.0] * 300},
)


def test_cached_events_are_held_against_the_target() -> None:
    row = bus.row_of("e2e_cached", "kafka", COSTS)

    assert (26_000.0, 25_000.0, 1.04, 3) == (row.ours, row.peer, row.ratio, row.rounds)
    assert "a bare loop 5.1e+04" == row.note


@pytest.mark.parametrize(("kind", "ratio"), [("embedded", 0.75), ("kafka", 2.0)])
def test_an_idle_bus_is_better_the_less_it_adds(kind: str, ratio: float) -> None:
    """The row's figures are the medians of the rounds."""
    row = bus.row_of(f"idle_{kind}", kind, COSTS)

    assert (4.0, ratio, 3) == (row.ours, row.ratio, row.rounds)


def test_a_loop_that_gives_nothing_is_not_measured() -> None:
    tally = Tally({"stream-infer": [100.0, 120.0]}, {"loop": ContenderError("loop: died")})

    row = end_to_end.row_of("e2e_naive", tally, "loop")

    assert ("not measured: loop: died", None, False) == (row.note, row.ratio, row.is_fault)


def test_a_service_that_gives_nothing_is_a_fault() -> None:
    tally = Tally({"loop": [10.0]}, {"stream-infer": ContenderError("no results")})

    assert end_to_end.row_of("e2e_naive", tally, "loop").is_fault


def test_a_loop_is_beaten_by_the_ratio_of_the_rates() -> None:
    tally = Tally({"stream-infer": [100.0, 120.0], "loop": [10.0, 10.0]})

    assert 11.0 == end_to_end.row_of("e2e_naive", tally, "loop").ratio


def test_a_loops_result_tells_whose_it_is() -> None:
    """The load generator finds the event that it belongs to."""
    event = SimpleNamespace(topic="in", partition=2, offset=7, headers=[("ce_id", b"one")])
    result = SimpleNamespace(
        topic="out", partition=0, offset=0, key=None, value=b"", headers=headers_of(event)
    )

    outcome = read_outcome(result)

    assert outcome is not None
    assert (("in", 2), 7, b"one") == (outcome.source, outcome.offset, outcome.id)


def test_a_loop_embeds_every_text() -> None:
    seen: list[str] = []

    def pipeline(texts: list[str], **_: object) -> list[object]:
        import torch  # noqa: PLC0415 - only this test needs it

        seen.extend(texts)
        return [torch.full((1, 3, 4), float(len(text))) for text in texts]

    values = results(pipeline, [msgpack.packb({"text": text}) for text in ("a", "bcd")])

    assert ["a", "bcd"] == seen
    assert [{"score": 1.0}, {"score": 3.0}] == [msgpack.unpackb(value) for value in values]
