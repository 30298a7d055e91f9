"""Calibration: the least that is as fast as the best, found in few runs, remembered by conditions."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from stream_infer.config import ModelSettings
from stream_infer.config_loading import load_settings
from stream_infer.engine import calibration_store
from stream_infer.engine.calibration import SIZES, Calibration, Trial, calibrate, thread_choices
from stream_infer.engine.calibration_store import CalibrationStore, machine_conditions
from stream_infer.engine.specs import ModelKind
from stream_infer.errors import EngineError, ModelFailedError
from stream_infer.schemas import ModelInfo, Output, Tokens
from stream_infer.service.calibrating import ReplicaTrials, calibrated, make_lane
from tests.unit.full_disk import full_disk

FOUND = Calibration(2, 1024, (Trial(256, 0.03), Trial(1024, 0.09)))
CONDITIONS: dict[str, str | int] = {"processor": "x", "threads": 2, "model": "mood@1"}


class Machine:
    """Runs at the rate that a function of (tokens, threads) says, and notes what ran."""

    def __init__(self, seconds: Callable[[int, int], float]) -> None:
        self._seconds = seconds
        self.ran: list[tuple[int, int]] = []

    async def measure(self, tokens: int, threads: int) -> Trial:
        """Answer at once what the run would have taken."""
        self.ran.append((tokens, threads))
        return Trial(tokens, self._seconds(tokens, threads))


async def test_threads_are_used_while_they_help() -> None:
    machine = Machine(lambda tokens, threads: tokens * 1e-5 / min(threads, 4))

    assert 4 == (await calibrate(machine.measure, 16)).threads
    assert {1, 2, 4, 8, 16} == {threads for _, threads in machine.ran}


async def test_threads_that_hurt_are_left() -> None:
    found = await calibrate(Machine(lambda tokens, threads: tokens * 1e-5 * threads).measure, 6)

    assert 1 == found.threads


async def test_the_least_batch_that_is_as_fast_as_the_best_is_chosen() -> None:
    """An overhead that 1,024 tokens make small: more would bring under 3 %."""
    machine = Machine(lambda tokens, _: 0.0005 + tokens * 2e-5)

    found = await calibrate(machine.measure, 1)

    assert 1024 == found.batch_tokens
    assert list(SIZES) == [trial.tokens for trial in found.trials]


async def test_a_large_overhead_asks_for_large_batches() -> None:
    found = await calibrate(Machine(lambda tokens, _: 0.05 + tokens * 1e-5).measure, 1)

    assert max(SIZES) == found.batch_tokens


async def test_a_slow_model_is_tried_on_small_batches_only() -> None:
    """No run of half a second, though each size is faster by the token than the one before."""
    machine = Machine(lambda tokens, _: 0.02 + tokens * 2e-4)

    found = await calibrate(machine.measure, 1)

    assert 1024 == found.batch_tokens
    assert 1024 == max(tokens for tokens, _ in machine.ran)


async def test_a_model_too_slow_for_any_size_gets_the_least() -> None:
    found = await calibrate(Machine(lambda tokens, _: float(tokens)).measure, 1)

    assert min(SIZES) == found.batch_tokens
    assert 1 == len(found.trials)


async def test_sizes_that_only_get_slower_end_the_search() -> None:
    found = await calibrate(Machine(lambda tokens, _: tokens**1.2 * 1e-6).measure, 1)

    assert SIZES[:3] == tuple(trial.tokens for trial in found.trials)


async def test_the_faster_of_two_runs_counts() -> None:
    """A hiccup in one run changes nothing."""
    seen: set[tuple[int, int]] = set()

    def seconds(tokens: int, threads: int) -> float:
        is_first = (tokens, threads) not in seen
        seen.add((tokens, threads))
        return (0.0005 + tokens * 2e-5) * (10 if is_first else 1)

    assert 1024 == (await calibrate(Machine(seconds).measure, 2)).batch_tokens


@given(st.integers(1, 512))
def test_thread_choices_go_from_one_to_all(most: int) -> None:
    choices = thread_choices(most)

    assert (1, most) == (choices[0], choices[-1])
    assert sorted(set(choices)) == choices


def test_what_was_found_is_kept_for_its_conditions(tmp_path: Path) -> None:
    store = CalibrationStore(tmp_path / "new")
    store.keep(CONDITIONS, FOUND)

    assert FOUND == store.find(CONDITIONS)
    assert FOUND == CalibrationStore(tmp_path / "new").find(dict(reversed(CONDITIONS.items())))
    assert all(store.find({**CONDITIONS, name: "other"}) is None for name in CONDITIONS)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"calibration": {"threads": "two"}}', '{"calibration": 3}'])
def test_a_damaged_file_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    store = CalibrationStore(tmp_path)
    store.keep(CONDITIONS, FOUND)
    (path,) = tmp_path.iterdir()
    path.write_text(text, encoding="utf-8")

    assert store.find(CONDITIONS) is None
    store.keep(CONDITIONS, FOUND)
    assert FOUND == store.find(CONDITIONS)


def test_a_directory_that_cannot_be_made_costs_no_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = CalibrationStore(tmp_path / "file" / "below")

    store.keep(CONDITIONS, FOUND)

    assert store.find(CONDITIONS) is None


def test_a_full_disk_costs_no_start_and_is_not_filled_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said, and a worker that is restarted again and again meanwhile leaves nothing behind."""
    monkeypatch.setattr(calibration_store, "log", structlog.get_logger())
    store = CalibrationStore(tmp_path)
    with full_disk(), capture_logs() as logs:
        store.keep(CONDITIONS, FOUND)

    assert ["calibration_not_kept"] == [entry["event"] for entry in logs]
    assert [] == list(tmp_path.iterdir())
    store.keep(CONDITIONS, FOUND)
    assert FOUND == store.find(CONDITIONS)


def test_without_a_directory_nothing_is_kept() -> None:
    store = CalibrationStore(None)
    store.keep(CONDITIONS, FOUND)

    assert store.find(CONDITIONS) is None


def test_the_machine_is_told_by_what_decides_speed() -> None:
    conditions = machine_conditions()

    assert {"processor", "cores", "torch", "stream-infer"} <= conditions.keys()
    assert conditions["processor"]


class Recorder:
    """Notes the batches it is given; fails them with `error` if there is one."""

    def __init__(self, error: EngineError | None = None) -> None:
        self.error = error
        self.batches: list[tuple[list[int], Sequence[str], int | None]] = []

    async def run(
        self,
        model: str,
        batch: Sequence[Tokens],
        options: Sequence[str],
        *,
        expected: float,
        threads: int | None = None,
    ) -> list[Output]:
        """Note the lengths, options and threads."""
        assert ("mood", 0.0) == (model, expected)
        self.batches.append(([len(tokens.ids) for tokens in batch], options, threads))
        if self.error is not None:
            raise self.error
        return [Output() for _ in batch]


SAMPLE = [Tokens(np.arange(length, dtype=np.int32)) for length in (5, 2, 3)]


async def test_a_trial_runs_the_sample_on_every_replica() -> None:
    """The sample is repeated until there are tokens enough, and sorted as a lane would."""
    replicas = [Recorder(), Recorder()]

    trial = await ReplicaTrials(replicas, "mood", SAMPLE, "en-pt").run(16, 3)

    assert 17 == trial.tokens
    assert trial.seconds >= 0.0
    assert [([2, 2, 3, 5, 5], ["en-pt"] * 5, 3)] * 2 == [each for r in replicas for each in r.batches]


async def test_a_trial_that_one_replica_fails_has_failed() -> None:
    replicas = [Recorder(), Recorder(ModelFailedError("no"))]

    with pytest.raises(ModelFailedError, match="no"):
        await ReplicaTrials(replicas, "mood", SAMPLE, "").run(16, 3)


def test_a_lane_expects_what_the_trials_took() -> None:
    model = ModelSettings(kind=ModelKind.CLASSIFY, source="path:/m")
    trials = tuple(Trial(size, 0.01 + size * 1e-4) for size in SIZES)

    lane = make_lane("mood", model, 64, Calibration(2, 512, trials))

    assert 512 == lane.budget.current
    assert lane.cost.predict(512) == pytest.approx(0.0612, rel=0.5)
    assert make_lane("mood", model, 64, None).cost.predict(512) < 0.02


def test_a_set_size_wins() -> None:
    model = ModelSettings(kind=ModelKind.CLASSIFY, source="path:/m", max_batch_tokens=100)

    assert 100 == make_lane("mood", model, 64, None).budget.current
    assert 2048 == make_lane("mood", load_settings().models["sentiment"], 64, None).budget.current


def test_what_was_found_is_told_of_the_model() -> None:
    info = ModelInfo("mood", "path:/m", "1", "int8", "cpu", 512)

    told = calibrated(info, FOUND)

    assert (1024, 2) == (told.batch_tokens, told.threads)
    assert info == calibrated(info, None)
