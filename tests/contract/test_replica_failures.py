"""What a service can rely on when a model in a replica fails, and when its process does."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from stream_infer.engine.replica import Replica
from stream_infer.engine.sources import resolve
from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.errors import (
    ConfigError,
    ModelFailedError,
    OutOfMemoryError,
    ReplicaDiedError,
    ReplicaTimeoutError,
)
from stream_infer.schemas import Tokens, Work

pytestmark = pytest.mark.slow

GENEROUS_S = 60.0
"""A watchdog that never bites in a test that does not mean it to."""


@pytest.fixture(autouse=True)
def _doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def model(name: str, factory: str) -> ModelSpec:
    return ModelSpec(name, ModelKind.TRANSLATE, f"python:engine_doubles:{factory}", Precision.FP32, "cpu")


def tokens(*texts: str) -> list[Tokens]:
    tokenizer = load_tokenizer(resolve("python:engine_doubles:echo"))
    return tokenizer.encode([Work("echo", text) for text in texts])


async def echo(replica: Replica, *texts: str) -> list[str | None]:
    outputs = await replica.run("echo", tokens(*texts), [""] * len(texts), expected=0.01)
    return [output.text for output in outputs]


def children(pid: int) -> list[str]:
    """Return a process's children, those included that have ended and were not waited for."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    models = [model("echo", "echo"), model("lengths", "lengths")]
    async with Replica(models, threads=1, watchdog=GENEROUS_S) as started:
        yield started


async def test_outputs_come_in_the_order_of_the_batch(replica: Replica) -> None:
    """Each item has its own text, option and mark of truncation."""
    batch = tokens("one", "two")
    batch[1] = Tokens(batch[1].ids, truncated=True)

    outputs = await replica.run("echo", batch, ["-a", "-b"], expected=0.01)

    assert ["ONE-a", "TWO-b"] == [output.text for output in outputs]
    assert [False, True] == [output.truncated for output in outputs]


async def test_vectors_keep_their_type(replica: Replica) -> None:
    """A half-precision vector arrives as one."""
    outputs = await replica.run("lengths", tokens("four", "seven"), ["", ""], expected=0.01)

    assert [4.0, 5.0] == [float(output.vector[0]) for output in outputs if output.vector is not None]
    assert {"float16"} == {output.vector.dtype.name for output in outputs if output.vector is not None}


async def test_every_model_tells_of_itself(replica: Replica) -> None:
    """The infos of all models are there once the replica has started."""
    assert {"echo", "lengths"} == set(replica.infos)
    assert ("a", "b") == replica.infos["lengths"].labels


async def test_memory_is_that_of_the_process_that_runs_batches(replica: Replica) -> None:
    """Nobody holds any once it has died, until it is replaced."""
    held = replica.resident_bytes
    assert held > 2**20

    with pytest.raises(ReplicaDiedError):
        await echo(replica, "<die>")
    assert 0 == replica.resident_bytes

    assert ["FINE"] == await echo(replica, "fine")
    assert held / 2 < replica.resident_bytes < held * 2


async def test_a_model_that_raises_fails_the_batch_alone(replica: Replica) -> None:
    """The error's type and message come back, and the same process runs the next batch."""
    pid = replica.pid

    with pytest.raises(ModelFailedError, match="ValueError: token 7 is poison"):
        await echo(replica, "fine", "<raise>")

    assert ["FINE"] == await echo(replica, "fine")
    assert pid == replica.pid


@pytest.mark.parametrize("mark", ["<nan>", "<infinity>", "<objects>", "<double>", "<surrogate>"])
async def test_an_output_that_no_result_can_be_made_of_is_a_failure(replica: Replica, mark: str) -> None:
    """It fails like a model that raises, so that bisection finds the text that it comes from."""
    pid = replica.pid

    with pytest.raises(ModelFailedError):
        await replica.run("lengths", tokens("fine", mark), ["", ""], expected=0.01)

    assert ["FINE"] == await echo(replica, "fine")
    assert pid == replica.pid


async def test_running_out_of_memory_is_survived(replica: Replica) -> None:
    """A real allocation failure is told apart from other errors, and the process lives on."""
    pid = replica.pid

    with pytest.raises(OutOfMemoryError):
        await echo(replica, "<memory>")

    assert ["FINE"] == await echo(replica, "fine")
    assert pid == replica.pid


@pytest.mark.parametrize(("mark", "how"), [("<die>", "killed by SIGKILL"), ("<exit>", "exited with 3")])
async def test_a_death_is_followed_by_a_new_process(replica: Replica, mark: str, how: str) -> None:
    """The batch in flight fails with the manner of death; the next one runs, on every model."""
    pid = replica.pid

    with pytest.raises(ReplicaDiedError, match=how):
        await echo(replica, "fine", mark)

    assert ["FINE"] == await echo(replica, "fine")
    assert 1 == len(await replica.run("lengths", tokens("x"), [""], expected=0.01))
    assert pid != replica.pid
    assert 1 == replica.respawns


async def test_a_process_killed_while_idle_costs_no_batch(replica: Replica) -> None:
    """A death that nobody caused is repaired before the next batch is sent."""
    assert replica._child is not None
    os.kill(replica._child.pid, signal.SIGKILL)
    assert b"" == await replica._child._reader.read()

    assert ["FINE"] == await echo(replica, "fine")


async def test_a_dead_nursery_is_replaced(replica: Replica) -> None:
    """When the process behind the process dies, both are started anew."""
    assert replica._nursery is not None
    assert replica._child is not None
    replica._nursery.process.kill()
    await replica._nursery.process.wait()
    assert b"" == await replica._child._reader.read()

    assert ["FINE"] == await echo(replica, "fine")


async def test_a_hang_is_ended_by_the_watchdog() -> None:
    """A batch without an answer in its time fails, and the next one runs in a new process."""
    async with Replica([model("echo", "echo")], threads=1, watchdog=0.3) as replica:
        pid = replica.pid
        with pytest.raises(ReplicaTimeoutError):
            await echo(replica, "<hang>")

        assert ["FINE"] == await echo(replica, "fine")
        assert pid != replica.pid


@pytest.mark.parametrize("mark", ["<die>", "<hang>"])
async def test_the_batch_at_hand_is_not_to_blame_for_the_one_that_ran(mark: str) -> None:
    """It runs in the next process, though the one that ended had it already."""
    async with Replica([model("echo", "echo")], threads=1, watchdog=1.0) as replica:
        ran, at_hand = await asyncio.gather(
            echo(replica, mark), echo(replica, "fine"), return_exceptions=True
        )

        assert isinstance(ran, ReplicaDiedError | ReplicaTimeoutError)
        assert ["FINE"] == at_hand
        assert 1 == replica.respawns


async def test_the_batch_at_hand_is_to_blame_once_it_runs(replica: Replica) -> None:
    """It was sent while another ran, and that one has its answer."""
    ran, at_hand, next_one = await asyncio.gather(
        echo(replica, "fine"), echo(replica, "<die>"), echo(replica, "next"), return_exceptions=True
    )

    assert ["FINE"] == ran
    assert isinstance(at_hand, ReplicaDiedError)
    assert ["NEXT"] == next_one


async def test_a_failed_batch_leaves_the_one_at_hand_alone(replica: Replica) -> None:
    failed, at_hand = await asyncio.gather(
        echo(replica, "<raise>"), echo(replica, "fine"), return_exceptions=True
    )

    assert isinstance(failed, ModelFailedError)
    assert ["FINE"] == at_hand
    assert 0 == replica.respawns


async def test_a_successor_that_hangs_while_loading_is_given_up(tmp_path: Path) -> None:
    """The batch that waits for it fails, with the reason, instead of waiting for ever."""
    spec = replace(model("echo", "hanging_when_replaced"), options={"flag": str(tmp_path / "flag")})
    async with Replica([spec], threads=1, watchdog=0.5, factor=0.0) as replica:
        with pytest.raises(ReplicaDiedError):
            await echo(replica, "<die>")
        with pytest.raises(ReplicaDiedError, match="successor did not load"):
            await echo(replica, "fine")
        (tmp_path / "flag").unlink()


async def test_successors_that_cannot_load_leave_no_zombies(tmp_path: Path) -> None:
    spec = replace(model("echo", "broken_when_replaced"), options={"flag": str(tmp_path / "flag")})
    async with Replica([spec], threads=1, watchdog=GENEROUS_S) as replica:
        for mark in ("<die>", "fine", "fine"):
            with pytest.raises(ReplicaDiedError):
                await echo(replica, mark)
        assert replica._nursery is not None
        assert [] == children(replica._nursery.process.pid)
        (tmp_path / "flag").unlink()

        assert ["FINE"] == await echo(replica, "fine")


async def test_a_batch_expected_to_take_long_is_given_the_time() -> None:
    """The watchdog waits for a multiple of the predicted time, however low its floor."""
    async with Replica([model("echo", "echo")], threads=1, watchdog=0.0, factor=10.0) as replica:
        outputs = await replica.run("echo", tokens("fine"), [""], expected=6.0)

        assert ["FINE"] == [output.text for output in outputs]


async def test_a_cancelled_batch_leaves_no_answer_behind(replica: Replica) -> None:
    """The next batch gets its own answer, not the cancelled one's."""
    running = asyncio.ensure_future(echo(replica, "<hang>"))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert ["NEXT"] == await echo(replica, "next")


async def test_batches_wait_their_turn(replica: Replica) -> None:
    """Calls at the same time are answered one after the other, each with its own outputs."""
    answers = await asyncio.gather(*(echo(replica, f"text {number}") for number in range(20)))

    assert [[f"TEXT {number}"] for number in range(20)] == answers


async def test_a_model_that_cannot_be_loaded_stops_the_start() -> None:
    """The error names the model and its source, and says what was wrong."""
    models = [model("echo", "echo"), model("bad", "broken"), model("worse", "missing")]

    with pytest.raises(ConfigError) as caught:
        async with Replica(models, threads=1):
            pass

    assert "bad" in str(caught.value)
    assert "FileNotFoundError: no weights for bad" in str(caught.value)
    assert "python:engine_doubles:missing" in str(caught.value)


async def test_a_process_that_dies_while_loading_stops_the_start() -> None:
    """A start that ends in a crash is an error in words, not a hang."""
    with pytest.raises(ConfigError, match="ended while loading"):
        async with Replica([model("echo", "suicidal")], threads=1):
            pass


async def test_leaving_ends_the_processes(replica: Replica) -> None:
    """Nothing is left running when a replica has been left, whatever it was doing."""
    async with Replica([model("echo", "echo")], threads=1, watchdog=GENEROUS_S) as other:
        assert other._nursery is not None
        process = other._nursery.process
        running = asyncio.ensure_future(echo(other, "<hang>"))
        await asyncio.sleep(0)

    assert process.returncode is not None
    with pytest.raises(ReplicaDiedError):
        await running
    assert ["FINE"] == await echo(replica, "fine")
