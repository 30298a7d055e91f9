"""The contest over real processes, with adapters that are quick, wrong, or die."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from loadgen.bench.contender import Contender, ContenderError
from loadgen.bench.contest import Contest, Duel
from loadgen.bench.embeddings import what_is_wrong
from loadgen.bench.makers import Maker, make_rows
from loadgen.bench.rows import Measure, Row
from loadgen.bench.workshop import Workshop
from loadgen.peers.setup import Setup
from tests.unit import bench_doubles
from tests.unit.bench_doubles import HOARDED

DOUBLES = "tests.unit.bench_doubles"
RATE = Measure("texts/s")
TEXTS = ["a", "bb", "ccc", "dddd"]

pytestmark = pytest.mark.slow


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path, 2, 1, len(TEXTS), lambda _: None)


def contender(double: str, **settings: Any) -> Contender:
    return Contender(f"the {double}", DOUBLES, Setup(double, "", 1), **settings)


def hold(workshop: Workshop, peers: dict[str, tuple[Contender, ...]], ours: str = "embed") -> dict[str, Row]:
    reference = bench_doubles.embed(TEXTS)
    duels = tuple(Duel(key, some) for key, some in peers.items())
    contest = Contest(duels, contender(ours), TEXTS, RATE, lambda found: what_is_wrong(found, reference))
    return {row.key: row for row in contest.rows(peers.keys(), workshop)}


def test_a_peer_that_works_has_figures_for_every_round(workshop: Workshop) -> None:
    peer = Contender("peer", DOUBLES, Setup("embed", "", 1))
    row = hold(workshop, {"row": (peer,)})["row"]

    assert ("peer", 2, False, "") == (row.peer_name, row.rounds, row.is_fault, row.note)
    assert row.ratio is not None
    assert 0.0 < row.ratio


def test_a_peer_that_dies_takes_its_own_row_along_and_no_other(workshop: Workshop) -> None:
    peer = Contender("peer", DOUBLES, Setup("embed", "", 1))
    rows = hold(workshop, {"dies": (contender("die"),), "lives": (peer,), "best": (contender("die"), peer)})

    assert "not measured: the die died: status 3, cannot bear 4 texts" == rows["dies"].note
    assert not rows["dies"].is_fault
    assert 2 == rows["lives"].rounds
    assert ("peer", "not measured: the die died: status 3, cannot bear 4 texts") == (
        rows["best"].peer_name,
        rows["best"].note,
    )


def test_a_peer_that_gives_garbage_makes_its_row_a_fault(workshop: Workshop) -> None:
    row = hold(workshop, {"row": (contender("zeros"),)})["row"]

    assert row.is_fault
    assert row.ratio is None
    assert row.note.startswith("not measured: the zeros gives garbage: cosine 0.000")


def test_garbage_beside_a_good_peer_is_a_fault_too(workshop: Workshop) -> None:
    """The best of the peers is not known when one of them cannot be judged."""
    peer = Contender("peer", DOUBLES, Setup("embed", "", 1))

    assert hold(workshop, {"row": (peer, contender("zeros"))})["row"].is_fault


def test_ours_that_fails_is_a_fault_of_every_row(workshop: Workshop) -> None:
    peer = Contender("peer", DOUBLES, Setup("embed", "", 1))
    rows = hold(workshop, {"one": (peer,), "two": (peer,)}, ours="fail")

    assert {"one", "two"} == {key for key, row in rows.items() if row.is_fault}
    assert "not measured: the fail: ValueError: no 4 texts, please" == rows["one"].note


def test_what_cannot_be_loaded_says_why(workshop: Workshop) -> None:
    peer = Contender("peer", "no_such_adapter", Setup("", "", 1))
    row = hold(workshop, {"row": (peer,)})["row"]

    assert "not measured: peer: ModuleNotFoundError: No module named 'no_such_adapter'" == row.note


def test_what_is_prepared_lies_where_the_adapter_looks(workshop: Workshop) -> None:
    peer = contender("upper", prepare=f"{DOUBLES}:prepare")
    setup = Setup("upper", "", 1)

    assert workshop.make(peer.prepare, setup) == workshop.make(peer.prepare, setup)
    assert "upper" == (workshop.make(peer.prepare, setup) / "prepared").read_text("utf-8")


def test_rows_are_made_by_those_that_are_asked_of(workshop: Workshop) -> None:
    made: list[str] = []

    def maker(*keys: str) -> Maker:
        def make(asked: Any, _: Workshop) -> Any:
            made.extend(sorted(asked))
            return iter([Row(key, "ms") for key in sorted(asked)])

        return Maker(keys, make)

    rows = list(make_rows([maker("a", "b"), maker("c")], ["b"], workshop))

    assert ["b"] == made == [row.key for row in rows]


def test_a_maker_that_cannot_go_on_makes_its_missing_rows_faults(workshop: Workshop) -> None:
    def make(_: Any, __: Workshop) -> Any:
        yield Row("a", "ms")
        raise ContenderError("no model")

    rows = list(
        make_rows([Maker(("a", "b"), make), Maker(("c",), lambda *_: iter([Row("c")]))], "abc", workshop)
    )

    assert [("a", ""), ("b", "not measured: no model"), ("c", "")] == [(row.key, row.note) for row in rows]
    assert [False, True, False] == [row.is_fault for row in rows]


def test_memory_is_what_came_since_the_adapter_was_imported(workshop: Workshop) -> None:
    with ExitStack() as stack:
        process = workshop.start(contender("hoard"), stack)
        before = process.memory()
        process.run(["a"])
        after = process.memory()

    assert HOARDED <= after.grown - before.grown < 2 * HOARDED
    assert HOARDED <= after.peak - before.peak
