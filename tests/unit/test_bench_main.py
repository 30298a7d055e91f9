from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from loadgen.bench import __main__ as bench
from loadgen.bench.makers import Maker
from loadgen.bench.rows import Measure, Row, compare, not_measured
from loadgen.bench.workshop import Workshop


def make(asked: Collection[str], workshop: Workshop) -> Iterator[Row]:
    """Make a row of what the workshop was told, and a fault."""
    assert workshop.directory.is_dir()
    if "told" in asked:
        yield compare("told", Measure("texts"), [float(workshop.texts)], {"rounds": [float(workshop.rounds)]})
    if "broken" in asked:
        yield not_measured("broken", "garbage", is_fault=True)


@pytest.fixture(autouse=True)
def suites(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SUITES", {"engine": (Maker(("told", "broken"), make),)})


def test_rows_are_written_and_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "out.json"
    arguments = ["all", "--json", str(path), "--rows", "told", "--texts", "30", "--rounds", "10"]

    assert 0 == bench.main(arguments)
    document = json.loads(path.read_text("utf-8"))
    assert ["told"] == [row["key"] for row in document["rows"]]
    assert (30.0, 10.0, 3.0) == tuple(document["rows"][0][name] for name in ("ours", "peer", "ratio"))
    assert {"cores", "processor"} <= document["machine"].keys()
    assert {"python", "torch", "ctranslate2"} <= document["versions"].keys()
    assert "| `told` | 30 texts | 10 rounds | 3 | 3 to 3 |  |" in capsys.readouterr().out.splitlines()


def test_a_fault_is_the_exit_code_and_the_other_rows_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "out.json"

    assert 1 == bench.main(["engine", "--json", str(path)])
    assert ["told", "broken"] == [row["key"] for row in json.loads(path.read_text("utf-8"))["rows"]]


def test_a_run_that_is_cut_short_keeps_the_rows_it_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make_one(*_: object) -> Iterator[Row]:
        yield Row("told")
        raise KeyboardInterrupt

    monkeypatch.setattr(bench, "SUITES", {"engine": (Maker(("told", "broken"), make_one),)})
    path = tmp_path / "out.json"

    with pytest.raises(KeyboardInterrupt):
        bench.main(["engine", "--json", str(path)])
    assert ["told"] == [row["key"] for row in json.loads(path.read_text("utf-8"))["rows"]]


def test_a_row_that_there_is_none_of_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^no such row: tols; there are told, broken$"):
        bench.main(["engine", "--json", str(tmp_path / "out.json"), "--rows", "told,tols"])
    assert not (tmp_path / "out.json").exists()


def test_without_a_gpu_its_rows_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loadgen.bench.gpu._DEVICE", tmp_path / "nvidiactl")
    path = tmp_path / "out.json"

    assert 0 == bench.main(
        ["engine", "--json", str(path), "--gpu", "--rows", "encode_gpu_int8,encode_gpu_bf16"]
    )
    notes = [row["note"] for row in json.loads(path.read_text("utf-8"))["rows"]]
    assert ["not measured: no CUDA device here"] * 2 == notes


@pytest.mark.parametrize("rounds", ["0", "-1", "many"])
def test_rounds_are_at_least_one(tmp_path: Path, rounds: str) -> None:
    with pytest.raises(SystemExit):
        bench.main(["engine", "--json", str(tmp_path / "out.json"), "--rounds", rounds])
