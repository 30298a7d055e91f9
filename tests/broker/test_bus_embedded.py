"""The broker as a child: it keeps its data, never outlives its parent, and says what is wrong."""

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path

import pytest

from stream_infer.bus.connection import Connection, connect
from stream_infer.bus.embedded import HOST, EmbeddedBroker, free_port
from stream_infer.bus.topics import TopicSpec, apply
from stream_infer.config import KafkaSettings
from stream_infer.errors import ConfigError
from tests.broker.probes import PATIENCE, read_values, write

pytestmark = pytest.mark.broker

SPEC = TopicSpec(name="kept", description="", direction="internal", partitions=1, key="")
PARENT = """
import asyncio, sys
from pathlib import Path
from stream_infer.bus.embedded import EmbeddedBroker

async def main():
    async with EmbeddedBroker(Path(sys.argv[1])) as broker:
        print(broker.pid, flush=True)
        await broker.exited()

asyncio.run(main())
"""


def connection_to(broker: EmbeddedBroker) -> Connection:
    return connect(KafkaSettings(), broker.bootstrap_servers)


async def gone(pid: int) -> None:
    """Return once no process has the id."""
    descriptor = os.pidfd_open(pid)
    ended = asyncio.Event()
    asyncio.get_running_loop().add_reader(descriptor, ended.set)
    try:
        async with asyncio.timeout(PATIENCE):
            await ended.wait()
    finally:
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)


async def test_data_is_there_again_the_next_time(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path) as broker:
        await apply(connection_to(broker), [SPEC])
        await write(connection_to(broker), "kept", [b"value"])

    async with EmbeddedBroker(tmp_path) as broker:
        assert [b"value"] == await read_values(connection_to(broker), "kept")


async def test_a_stopped_broker_starts_again_on_its_port() -> None:
    async with EmbeddedBroker() as broker:
        before = broker.bootstrap_servers
        await broker.stop()
        await broker.start()

        assert before == broker.bootstrap_servers
        assert [] == await apply(connection_to(broker), [])


async def test_without_a_data_directory_nothing_is_left_behind() -> None:
    async with EmbeddedBroker() as broker:
        directory = broker.directory
        assert directory.is_dir()

    assert not directory.exists()


async def test_it_listens_on_the_port_that_is_asked_for() -> None:
    port = free_port()
    async with EmbeddedBroker(port=port) as broker:
        assert f"{HOST}:{port}" == broker.bootstrap_servers


async def test_a_data_directory_in_use_is_named(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path):
        with pytest.raises(ConfigError, match=r"kafka\.data_dir: .* is in use by another embedded broker"):
            await EmbeddedBroker(tmp_path).__aenter__()


async def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    async with EmbeddedBroker(tmp_path / "first") as broker:
        port = int(broker.bootstrap_servers.split(":")[1])
        with pytest.raises(ConfigError, match=f"kafka.embedded_port: port {port} is in use"):
            await EmbeddedBroker(tmp_path / "second", port).__aenter__()


async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"kafka\.data_dir"):
        await EmbeddedBroker(tmp_path / "file" / "data").__aenter__()


async def test_the_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)

    with pytest.raises(ConfigError, match=r"stream-infer\[local\]"):
        await EmbeddedBroker().__aenter__()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_the_broker_does_not_outlive_its_parent(tmp_path: Path, number: signal.Signals) -> None:
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, str(tmp_path)),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert parent.stdout is not None
    try:
        async with asyncio.timeout(PATIENCE):
            while not (line := await parent.stdout.readline()).strip().isdigit():
                assert line
            parent.send_signal(number)
            await gone(int(line))
    finally:
        with contextlib.suppress(ProcessLookupError):
            parent.kill()
        await parent.wait()

    async with EmbeddedBroker(tmp_path) as broker:
        assert [] == await apply(connection_to(broker), [])


async def test_a_broker_that_dies_is_noticed() -> None:
    async with EmbeddedBroker() as broker:
        os.kill(broker.pid, signal.SIGKILL)
        async with asyncio.timeout(PATIENCE):
            assert -signal.SIGKILL == await broker.exited()
