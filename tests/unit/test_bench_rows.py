import json

from loadgen.bench.rows import Measure, Row, as_document, as_table, compare, not_measured

RATE = Measure("texts/s")
TIME = Measure("ms", is_more_better=False)


def test_more_of_a_rate_is_better() -> None:
    row = compare("encode", RATE, [20.0, 22.0, 21.0], {"peer": [10.0, 10.0, 10.0]})

    assert (21.0, 10.0, "peer", 2.1) == (row.ours, row.peer, row.peer_name, row.ratio)
    assert 3 == row.rounds
    assert (2.0, 2.2) == row.spread


def test_less_of_a_time_is_better() -> None:
    """A ratio above one means ours, whatever is measured."""
    row = compare("single", TIME, [2.0, 2.0], {"peer": [4.0, 4.0]})

    assert 2.0 == row.ratio


def test_the_best_peer_is_the_one_compared_with() -> None:
    peers = {"slow": [10.0, 40.0, 10.0], "quick": [30.0, 30.0, 30.0]}

    assert "quick" == compare("encode", RATE, [30.0] * 3, peers).peer_name
    assert "slow" == compare("encode", TIME, [30.0] * 3, peers).peer_name


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """A round in which the whole machine was slow says as much as any other."""
    row = compare("encode", RATE, [10.0, 20.0, 40.0], {"peer": [10.0, 10.0, 40.0]})

    assert 1.0 == row.ratio
    assert (1.0, 2.0) == row.spread


def test_what_is_not_measured_has_words_and_no_figures() -> None:
    row = not_measured("encode", "peer cannot be installed")

    assert "not measured: peer cannot be installed" == row.note
    assert [None, None, None, 0] == [row.ours, row.peer, row.ratio, row.rounds]
    assert not row.is_fault
    assert not_measured("encode", "garbage", is_fault=True).is_fault


def test_the_document_has_what_readers_of_it_look_for() -> None:
    row = compare("encode", RATE, [1.0], {"peer": [3.0]})
    document = json.loads(json.dumps(as_document([row], {"cores": 2}, {"torch": "2"})))

    assert {"rows", "machine", "versions"} == document.keys()
    assert {"key", "ours", "peer", "peer_name", "ratio", "unit", "rounds"} <= document["rows"][0].keys()
    assert 0.3333 == document["rows"][0]["ratio"]
    assert [0.3333, 0.3333] == document["rows"][0]["spread"]


def test_the_table_is_markdown() -> None:
    rows = [compare("encode", RATE, [21.0], {"peer": [10.0]}), Row("other", note="not measured: why")]

    assert [
        "| row | ours | peer | ratio | spread | |",
        "|---|---|---|---|---|---|",
        "| `encode` | 21 texts/s | 10 peer | 2.1 | 2.1 to 2.1 |  |",
        "| `other` |  |  |  |  | not measured: why |",
    ] == as_table(rows).splitlines()
