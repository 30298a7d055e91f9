import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from loadgen.__main__ import main
from loadgen.broker import Broker
from loadgen.charts import HEIGHT, WIDTH, Series, draw
from loadgen.gauges import Look, judge_memory
from loadgen.page import render
from loadgen.producer import Load
from loadgen.recorder import Event, Recorder
from loadgen.report import Report, describe_settings, make_report
from loadgen.running import Carried, Place
from loadgen.schedule import Arrivals, Profile
from loadgen.texts import Pool
from loadgen.verdict import cannot_tell

NAMES = "<b>first</b>", "second"


def report(run: str = "first", events: int = 40, **changes: Any) -> Report:
    """Return the report of a run in which every outcome came after a fifth of a second."""
    recorder = Recorder()
    for number in range(events):
        due = number / 10
        recorder.send(Event(due, f"{run}-{number}", None, b"body"), due)
        recorder.receive(f"{run}-{number}", due + 0.2, is_dead_letter=number % 10 == 9)
    recorder.finish(events / 10)
    load = Load("requests.classify", [Pool([{"text": "x"}])], Profile(Arrivals.CONSTANT, 10.0), 40, 60.0, run)
    settings = describe_settings(load, Place(Broker("localhost:9092"), ["results.classify"]), 0, 0.0)
    made = make_report(
        settings,
        Carried(recorder, {}, is_cut_short=False),
        started_at="2026-01-01T00:00:00+00:00",
        machine={"cores": 2},
        versions={"python": "3.11"},
    )
    return json.loads(json.dumps({**made, **changes}))  # type: ignore[no-any-return] # what JSON holds


def test_a_page_stands_alone() -> None:
    page = render([report()])

    assert not re.findall(r"<script|\b(?:src|href)=|url\(|@import", page)
    assert "default-src 'none'" in page
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_a_page_shows_what_was_measured() -> None:
    page = render([report()])

    assert "requests.classify" in page
    assert "not audited" in page
    assert re.search(r"<dt>p99, ms</dt><dd>200\.", page)
    assert 5 == page.count('role="img"')
    assert 9 <= page.count("<polyline")


def test_names_are_text_and_never_markup() -> None:
    page = render([report(NAMES[0])])

    assert "&lt;b&gt;first" in page
    assert "<b>" not in page


def test_two_runs_are_laid_over_each_other() -> None:
    page = render([report("one", 40), report("two", 80)])

    assert "one: p99" in page
    assert "two: p99" in page
    assert re.search(r'scope="row">sent</th><td>40</td><td>80</td>', page)


def test_equal_names_are_told_apart() -> None:
    page = render([report(), report()])

    assert "first (A)" in page
    assert "first (B)" in page


def test_what_the_worker_says_is_shown() -> None:
    changes = [
        {"name": "latency_seconds", "labels": 'stage="engine"', "increase": 40.0, "mean": 0.05},
        {"name": "latency_seconds", "labels": 'stage="queue"', "increase": 40.0, "mean": 0.025},
        {"name": "batch_items", "labels": "", "increase": 10.0, "mean": 4.0},
        {"name": "cache_hits_total", "labels": 'tier="memory"', "increase": 30.0, "mean": None},
        {"name": "cache_misses_total", "labels": "", "increase": 10.0, "mean": None},
    ]
    page = render([report(metrics={"url": "", "start": {}, "end": {}, "changes": changes})])

    assert "50.0 ms" in page
    assert "width: 50.0%" in page
    assert '<th scope="row">batch_items</th><td>4</td>' in page
    assert '<th scope="row">share of hits</th><td>0.75</td>' in page


def test_what_the_worker_held_is_shown_by_time() -> None:
    looks = [
        Look(0.0, {"w_lag_records": 4.0, "m_bytes": 2.0**30}),
        Look(1.0, {}),
        Look(2.0, {"m_bytes": 2.0**30}),
    ]
    metrics = {"url": "", "start": {}, "end": {}, "changes": [], "gauges": [asdict(look) for look in looks]}
    memory = {name: asdict(each) for name, each in judge_memory(looks[:1] + looks[2:]).items()}
    held = {**memory["m_bytes"], "slope_bytes_per_hour": 3.0 * 2**20}

    page = render([report(metrics=metrics, memory={"m_bytes": held}), report("other")])

    assert 7 == page.count('role="img"')
    assert "<h2>w_lag_records</h2>" in page
    assert "<h2>m_bytes, MiB</h2>" in page
    assert re.search(r'scope="row">m_bytes, MiB</th><td>1,024</td><td>none</td>', page)
    assert re.search(r'scope="row">m_bytes, MiB an hour</th><td>3</td><td>none</td>', page)


def test_a_report_of_before_there_were_gauges_has_a_page() -> None:
    older = {name: part for name, part in report().items() if name != "memory"}

    assert 5 == render([older]).count('role="img"')


@pytest.mark.parametrize("reason", ["no broker answers", "the input is truncated"])
def test_an_audit_without_answer_says_why(reason: str) -> None:
    page = render([report(audit=json.loads(json.dumps(cannot_tell(reason).as_dict())))])

    assert "? audit: cannot tell" in page
    assert reason in page


def test_a_run_without_outcomes_has_a_page() -> None:
    empty = report(events=0)
    page = render([{**empty, "is_complete": False, "fault": "the broker went away"}])

    assert "not complete: the broker went away" in page


def test_points_lie_within_the_chart_and_gaps_break_lines() -> None:
    chart = draw("t", "x", [Series("s", [(0, 1.0), (1, 7.5), (2, None), (3, 0.0), (4, 3_000.0)])])
    (line,) = chart.lines
    places = [tuple(map(float, each.split(","))) for part in line.stretches for each in part.split()]

    assert (2, 4) == (len(line.stretches), len(places))
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for x, y in places)
    assert ["0", "500", "1,000", "1,500", "2,000", "2,500", "3,000"] == [tick.text for tick in chart.y_ticks]


def test_commands_make_pages_of_files(tmp_path: Path) -> None:
    first, second, output = (tmp_path / name for name in ("a.json", "b.json", "out.html"))
    for path in (first, second):
        path.write_text(json.dumps(report(path.stem)), encoding="utf-8")

    assert 0 == main(["report", str(first), "-o", str(output)])
    assert "<title>Load: a</title>" in output.read_text(encoding="utf-8")
    assert 0 == main(["compare", str(first), str(second), "-o", str(output)])
    assert "<title>Load: a and b</title>" in output.read_text(encoding="utf-8")


@pytest.mark.parametrize("text", ["", "[]", '{"format": 0, "run": "x"}'])
def test_a_file_that_is_no_report_is_named(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.json"
    path.write_text(text, encoding="utf-8")

    assert 2 == main(["report", str(path), "-o", str(tmp_path / "out.html")])
    assert "other.json: not a report" in capsys.readouterr().err
