"""The client finds its own answers; a small worker stands in for the service."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from stream_infer.bus.batches import OutRecord
from stream_infer.bus.codec import ResultEncoder, decode_request, encode_dead_letter, record_id
from stream_infer.bus.connection import Connection
from stream_infer.bus.offsets import CommittedOffsets
from stream_infer.bus.source import Source
from stream_infer.bus.transactions import TransactionalProducer
from stream_infer.client import MAX_SENT_AT_ONCE, MAX_UNSENT, Client, ClientRequest, RequestFailedError
from stream_infer.config import ServiceSettings, StreamSettings
from stream_infer.errors import BusError, EmptyTextError, TooLargeError
from stream_infer.schemas import Body, ClassifyBody, DeadLetter, ModelInfo, Partition, Record, Result, Task
from tests.broker.conftest import MakeTopic
from tests.broker.probes import PATIENCE, Owner, write

INFO = ModelInfo("echo", "python:echo", "r1", "fp32", "cpu", 256)
SILENCE = "say nothing"


class EchoWorker:
    """Answers each text with itself, empty ones with dead letters, and `SILENCE` not at all."""

    def __init__(self, connection: Connection, group: str, stream: StreamSettings) -> None:
        self._connection = connection
        self._group = group
        self._stream = stream
        self._encoder = ResultEncoder(stream, INFO, "classify")

    async def run(self) -> None:
        """Answer for as long as it is not cancelled."""
        owner, partition = Owner(), Partition(self._stream.input, 0)
        async with (
            CommittedOffsets(self._connection, self._group) as offsets,
            Source(
                self._connection,
                group=self._group,
                topics=[self._stream.input],
                on_assigned=owner.on_assigned,
                on_revoked=owner.on_revoked,
                on_rewound=owner.on_rewound,
            ) as source,
        ):
            producer = TransactionalProducer(
                self._connection, offsets, group=self._group, partition=partition
            )
            try:
                await owner.wait_for(1)
                await source.begin(partition, (await producer.open()).offset)
                while True:
                    for records in (await source.fetch(0.5)).values():
                        outcomes = [out for record in records for out in self._answer(record)]
                        await producer.publish(outcomes, records[-1].offset + 1, "")
            finally:
                await producer.close()

    def _answer(self, record: Record) -> list[OutRecord]:
        try:
            request = decode_request(record, "classify", self._stream, ServiceSettings(), now=0.0, wall_ms=0)
        except EmptyTextError as error:
            letter = DeadLetter(record, record_id(record), "classify", error.reason, str(error), "decode")
            return [encode_dead_letter(letter, self._stream.dead_letters)]
        text = text_of(request.body)
        if text == SILENCE:
            return []
        return [self._encoder.encode(Result(record, request.id, "classify", {"label": text}, "echo"))]


def text_of(body: Body) -> str:
    assert isinstance(body, ClassifyBody)
    return body.text


@pytest_asyncio.fixture(loop_scope="session")
async def stream(connection: Connection, group: str, make_topic: MakeTopic) -> AsyncIterator[StreamSettings]:
    """A stream with a worker on it."""
    inputs, outputs, letters = [await make_topic() for _ in range(3)]
    stream = StreamSettings(
        task=Task.CLASSIFY, input=inputs, output=outputs, dead_letters=letters, model="echo"
    )
    worker = asyncio.create_task(EchoWorker(connection, group, stream).run())
    yield stream
    worker.cancel()
    await asyncio.gather(worker, return_exceptions=True)


def client_of(connection: Connection, stream: StreamSettings) -> Client:
    return Client(connection.bootstrap_servers, streams={"classify": stream})


async def test_an_answer_comes_back(connection: Connection, stream: StreamSettings) -> None:
    async with client_of(connection, stream) as client:
        result = await client.classify("hello", key=b"k", timeout=PATIENCE)

    assert {"label": "hello"} == result.body
    assert (stream.input, 0, 0) == (result.record.topic, result.record.partition, result.record.offset)
    assert "echo" == result.model


async def test_each_caller_gets_its_own_answer(connection: Connection, stream: StreamSettings) -> None:
    texts = [f"text {number}" for number in range(50)]
    async with client_of(connection, stream) as one, client_of(connection, stream) as other:
        results = await asyncio.gather(
            *(client.classify(text, timeout=PATIENCE) for text in texts for client in (one, other))
        )

    assert [text for text in texts for _ in range(2)] == [result.body["label"] for result in results]


async def test_a_dead_letter_is_raised_with_its_reason(
    connection: Connection, stream: StreamSettings
) -> None:
    async with client_of(connection, stream) as client:
        with pytest.raises(RequestFailedError, match="field 'text' is empty") as raised:
            await client.classify("   ", timeout=PATIENCE)

    assert "empty_text" == raised.value.reason


async def test_a_request_too_large_fails_alone(connection: Connection, stream: StreamSettings) -> None:
    async with client_of(connection, stream) as client:
        small = [client.classify(f"text {number}", timeout=PATIENCE) for number in range(5)]
        large = client.classify("x" * 2_000_000, timeout=PATIENCE)
        *results, failure = await asyncio.gather(*small, large, return_exceptions=True)

    assert [f"text {n}" for n in range(5)] == [r.body["label"] for r in results if isinstance(r, Result)]
    assert isinstance(failure, TooLargeError)


async def test_requests_that_could_not_be_sent_may_be_sent_again(
    connection: Connection, stream: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [ClientRequest(ClassifyBody(text), id=text) for text in ("one", "two")]

    async def refuse(*_: object) -> None:
        raise BusError("refused")

    async with client_of(connection, stream) as client:
        with monkeypatch.context() as broken:
            broken.setattr(client._publisher, "publish", refuse)
            with pytest.raises(BusError, match="refused"):
                [outcome async for outcome in client.submit(requests, timeout=PATIENCE)]

        again = {identity async for identity, _ in client.submit(requests, timeout=PATIENCE)}

    assert {"one", "two"} == again


async def test_submitting_times_out_while_nothing_can_be_sent(
    connection: Connection, stream: StreamSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More requests than may wait to be sent are no reason to wait for ever."""
    requests = [ClientRequest(ClassifyBody("text")) for _ in range(MAX_UNSENT + MAX_SENT_AT_ONCE + 1)]

    async def hang(*_: object) -> None:
        await asyncio.Event().wait()

    async with client_of(connection, stream) as client:
        monkeypatch.setattr(client._publisher, "publish", hang)
        with pytest.raises(TimeoutError, match=r"no outcome within 0\.2 s"):
            [outcome async for outcome in client.submit(requests, in_flight=len(requests), timeout=0.2)]


async def test_a_missing_answer_times_out_by_name(connection: Connection, stream: StreamSettings) -> None:
    async with client_of(connection, stream) as client:
        with pytest.raises(TimeoutError, match=r"request my-id: no outcome within 0\.2 s"):
            await client.ask(ClientRequest(ClassifyBody(SILENCE), id="my-id"), timeout=0.2)

        assert {"label": "next"} == (await client.classify("next", timeout=PATIENCE)).body


async def test_many_requests_give_outcomes_as_they_come(
    connection: Connection, stream: StreamSettings
) -> None:
    requests = [
        ClientRequest(ClassifyBody(f"text {number}" if number % 10 else " ")) for number in range(300)
    ]
    async with client_of(connection, stream) as client:
        outcomes = {
            identity: outcome
            async for identity, outcome in client.submit(requests, in_flight=40, timeout=PATIENCE)
        }

    assert {request.id for request in requests} == set(outcomes)
    assert 30 == sum(isinstance(outcome, DeadLetter) for outcome in outcomes.values())
    for request in requests:
        outcome = outcomes[request.id]
        assert request.id == outcome.id
        if isinstance(outcome, Result):
            assert text_of(request.body) == outcome.body["label"]


async def test_closing_fails_what_still_waits(connection: Connection, stream: StreamSettings) -> None:
    async with client_of(connection, stream) as client:
        asking = asyncio.create_task(client.classify(SILENCE, timeout=PATIENCE))
        await client.classify("sent after it", timeout=PATIENCE)

    with pytest.raises(BusError, match="the client was closed"):
        await asking


async def test_an_id_under_way_is_refused(connection: Connection, stream: StreamSettings) -> None:
    async with client_of(connection, stream) as client:
        request = ClientRequest(ClassifyBody(SILENCE), id="twice")
        asking = asyncio.create_task(client.ask(request, timeout=PATIENCE))
        await client.classify("sent after it", timeout=PATIENCE)
        with pytest.raises(ValueError, match="under way already"):
            await client.ask(request)
        asking.cancel()


async def test_foreign_records_on_the_output_are_passed_over(
    connection: Connection, stream: StreamSettings
) -> None:
    async with client_of(connection, stream) as client:
        await write(connection, stream.output, [b"no result"])
        await write(connection, stream.dead_letters, [b"no letter"])

        assert {"label": "hello"} == (await client.classify("hello", timeout=PATIENCE)).body
