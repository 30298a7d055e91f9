"""Requests become outcomes: one each, the right one, whatever the engine does to whom."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stream_infer.errors import (
    EmptyTextError,
    EngineError,
    MalformedRecordError,
    ModelFailedError,
    OutOfMemoryError,
    ReplicaDiedError,
    ReplicaTimeoutError,
)
from stream_infer.flow.cost import CostModel
from stream_infer.flow.lane import Lane, LaneLimits
from stream_infer.flow.outcomes import dead_letter
from stream_infer.flow.pending import Batch, StreamPlan, Unencoded
from stream_infer.flow.processor import Processor
from stream_infer.flow.retry import RetryPolicy
from stream_infer.schemas import (
    AnswerBody,
    BatchRun,
    ClassifyBody,
    DeadLetter,
    Outcome,
    Output,
    Partition,
    Recipe,
    Record,
    Request,
    Result,
    Stages,
    Tokens,
    Wait,
    Work,
)

PLANS = {"s": StreamPlan("m", 1.0), "strict": StreamPlan("m", 1.0, sheds_late=True)}
FAILURES = [ModelFailedError, OutOfMemoryError, ReplicaDiedError, ReplicaTimeoutError]
Engine = Callable[[Batch], None]


class DictCache(dict[bytes, Output]):
    """A cache that never forgets."""

    def put(self, key: bytes, output: Output, /) -> None:
        """Keep the output."""
        self[key] = output


def key_of(work: Work) -> bytes:
    return f"{work.model}/{work.text}".encode()


def shout(text: str, model: str = "m") -> Recipe:
    (output,) = yield (Work(model, text),)
    return {"text": output.text}


def request(offset: int = 0, *, partition: int = 0, deadline: float = 1.0, stream: str = "s") -> Request:
    record = Record("requests", partition, offset, 0, None, b"value")
    return Request(record.position, stream, ClassifyBody("x"), record, deadline - 1.0, deadline)


def make_processor(*, tokens: int = 1000, items: int = 64, max_fresh: int = 4096) -> Processor:
    lanes = [Lane(name, LaneLimits(tokens, items), CostModel(0.0, 0.0001)) for name in "mn"]
    retry = RetryPolicy(max_attempts=3, pause=0.01)
    return Processor(PLANS, lanes, DictCache(), key_of, retry=retry, max_fresh=max_fresh)


def tokens_of(unencoded: Unencoded) -> list[Tokens]:
    return [Tokens(np.zeros(len(work.text), np.int32)) for work in unencoded.works]


def outputs_of(batch: Batch) -> list[Output]:
    return [Output(text=item.work.text.upper()) for item in batch.items]


def encode(processor: Processor, now: float = 0.0) -> None:
    for unencoded in processor.take_unencoded():
        processor.encoded(unencoded, tokens_of(unencoded), now)


def works_well(_batch: Batch) -> None:
    """Run any batch."""


def fails_on(texts: Sequence[str], error: type[EngineError]) -> Engine:
    def engine(batch: Batch) -> None:
        if any(item.work.text in texts for item in batch.items):
            raise error("poison")

    return engine


def settle(processor: Processor, engine: Engine = works_well, now: float = 0.0) -> list[Outcome]:
    """Run an idle engine until nothing is left to do; time passes only while all is at rest."""
    outcomes = processor.take_outcomes()
    while True:
        encode(processor, now)
        batch = processor.next_batch(now, idle=True)
        if batch:
            run(processor, batch, engine, now)
        elif (wake := processor.next_wake(now)) is not None:
            now = wake
        else:
            return outcomes
        outcomes += processor.take_outcomes()


def run(processor: Processor, batch: Batch, engine: Engine, now: float) -> None:
    assert len(batch.inputs) == len(batch.options) == len(batch.items)
    try:
        engine(batch)
    except EngineError as error:
        processor.batch_failed(batch, error, now)
    else:
        processor.batch_done(batch, outputs_of(batch), now, 0.0)


def texts(outcomes: Sequence[Outcome]) -> dict[int, object]:
    """The text of each result, or the reason of each dead letter, by offset."""
    return {
        outcome.record.offset: outcome.body["text"] if isinstance(outcome, Result) else outcome.reason
        for outcome in outcomes
    }


def only_letter(outcomes: Sequence[Outcome]) -> DeadLetter:
    (outcome,) = outcomes
    assert isinstance(outcome, DeadLetter)
    return outcome


def test_a_hit_is_done_on_return() -> None:
    processor = make_processor()
    processor.submit(request(0), shout("hello"), 0.0)
    settle(processor)
    processor.submit(request(1), shout("hello"), 0.5)
    assert {1: "HELLO"} == texts(processor.take_outcomes())
    assert [] == processor.take_unencoded()
    assert (1, 1, 0) == (processor.hits, processor.misses, processor.joined)


def test_equal_work_in_flight_runs_once() -> None:
    processor = make_processor()
    processor.submit(request(0), shout("hello"), 0.0)
    encode(processor)
    processor.submit(request(1, partition=1), shout("hello"), 0.0)
    sizes: list[int] = []
    outcomes = settle(processor, lambda batch: sizes.append(len(batch.items)))
    assert {0: "HELLO", 1: "HELLO"} == texts(outcomes)
    assert [1] == sizes
    assert 1 == processor.joined


def test_a_more_urgent_joiner_hastens_the_work() -> None:
    processor = make_processor()
    processor.submit(request(0, deadline=9.0), shout("hello"), 0.0)
    encode(processor)
    processor.submit(request(1, deadline=2.0), shout("hello"), 0.0)
    assert pytest.approx(2.0, abs=0.01) == processor.next_wake(0.0)


def test_a_recipe_may_ask_for_much_and_several_times() -> None:
    def recipe() -> Recipe:
        first = yield (Work("m", "a"), Work("m", "b"), Work("m", "a"))
        second = yield ()
        third = yield (Work("n", "c"),)
        return {"text": "".join(str(output.text) for output in (*first, *second, *third))}

    processor = make_processor()
    processor.submit(request(), recipe(), 0.0)
    assert {0: "ABAC"} == texts(settle(processor))


def test_stages_say_where_the_time_went() -> None:
    processor = make_processor()
    processor.submit(request(deadline=1.5), shout("hello"), 0.75)
    encode(processor, 1.0)
    batch = processor.next_batch(1.125, idle=True)
    assert batch
    processor.batch_done(batch, outputs_of(batch), 2.0, 0.75)
    (result,) = processor.take_outcomes()
    assert isinstance(result, Result)
    assert result.late
    assert "m" == result.model
    stages = result.stages
    assert Stages(bus=0.0, queue=0.25, batch=0.25, engine=0.75, total=1.5) == stages
    assert 2.0 == result.finished


def test_who_joins_running_work_waits_for_the_engine_alone() -> None:
    processor = make_processor()
    processor.submit(request(0), shout("hello"), 0.0)
    encode(processor, 0.25)
    batch = processor.next_batch(0.5, idle=True)
    assert batch
    processor.submit(request(1, deadline=1.75), shout("hello"), 0.75)
    processor.batch_done(batch, outputs_of(batch), 1.0, 0.5)
    first, second = processor.take_outcomes()
    assert isinstance(first, Result)
    assert isinstance(second, Result)
    assert Stages(bus=0.0, queue=0.25, batch=0.25, engine=0.5, total=1.0) == first.stages
    assert Stages(bus=0.0, queue=0.0, batch=0.0, engine=0.25, total=0.25) == second.stages


def test_an_outcome_names_each_wait_and_each_batch_it_ran_in() -> None:
    def recipe() -> Recipe:
        first = yield (Work("m", "a"), Work("m", "b"))
        yield (Work("n", "c"),)
        return {"text": first[0].text}

    processor = make_processor()
    processor.submit(request(), recipe(), 0.0)
    encode(processor, 0.25)
    batch = processor.next_batch(0.5, idle=True)
    assert batch is not None
    processor.batch_done(batch, outputs_of(batch), 1.0, 0.5)
    encode(processor, 1.25)
    last = processor.next_batch(1.5, idle=True)
    assert last is not None
    processor.batch_done(last, outputs_of(last), 2.0, 0.5)

    (result,) = processor.take_outcomes()
    assert (Wait(0.0, 0.25, 0.5, 1.0), Wait(1.0, 1.25, 1.5, 2.0)) == result.waits
    assert (BatchRun(1, "m", 2, 2, 0.5, 1.0), BatchRun(2, "n", 1, 1, 1.5, 2.0)) == result.batches
    assert 0.0 == result.arrived


def test_what_ran_together_names_the_same_batch_and_a_hit_names_none() -> None:
    processor = make_processor()
    for offset, text in enumerate(["one", "two", "one"]):
        processor.submit(request(offset), shout(text), 0.0)
    together = settle(processor)
    processor.submit(request(9), shout("one"), 1.0)
    (hit,) = processor.take_outcomes()

    assert [(1,)] * 3 == [tuple(batch.number for batch in outcome.batches) for outcome in together]
    assert ((), ()) == (hit.waits, hit.batches)


def test_a_dead_letter_names_the_failed_batches_that_led_to_it() -> None:
    processor = make_processor()
    for offset in range(4):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    outcomes = settle(processor, fails_on(["text 0"], ModelFailedError))

    letter = next(outcome for outcome in outcomes if isinstance(outcome, DeadLetter))
    assert [4, 2, 1] == [batch.items for batch in letter.batches][:3]
    assert {"model_failed"} == {batch.error for batch in letter.batches}
    assert letter.attempts == len(letter.batches)
    survivor = next(outcome for outcome in outcomes if outcome.record.offset == 1)
    assert (["model_failed"] * 2, None) == (
        [batch.error for batch in survivor.batches[:-1]],
        survivor.batches[-1].error,
    )


def test_time_on_the_bus_follows_from_the_deadline() -> None:
    """The deadline is counted from the producer's timestamp, so it is short of arrival by the lag."""
    processor = make_processor()
    late = request(deadline=1.0)
    late = Request(late.id, late.stream, late.body, late.record, arrived=0.25, deadline=1.0)
    processor.submit(late, shout("hello"), 0.25)
    (result,) = settle(processor, now=0.5)
    assert isinstance(result, Result)
    assert (0.25, 0.5) == (result.stages.bus, result.stages.total)


def test_late_records_are_shed_only_where_asked() -> None:
    processor = make_processor()
    processor.submit(request(0), shout("a"), 5.0)
    processor.submit(request(1, stream="strict"), shout("b"), 5.0)
    letter = only_letter(processor.take_outcomes())
    assert (1, "late", "admit", 0) == (letter.record.offset, letter.reason, letter.stage, letter.attempts)
    assert {0: "A"} == texts(settle(processor, now=5.0))


def overloaded(count: int, *, stream: str = "strict") -> Processor:
    """Return a processor with pieces of 10 tokens for batches of 50; commits take about half a second."""
    processor = make_processor(tokens=50)
    processor.batcher.lanes["m"].delay.observe(0.2)
    for offset in range(count):
        one = request(offset, deadline=1.0 + offset, stream=stream)
        processor.submit(one, shout(f"{offset:010}"), 0.0)
    encode(processor)
    return processor


def test_what_would_be_late_is_shed_while_too_much_waits() -> None:
    processor = overloaded(8)

    assert processor.shed(2.7)

    letters = processor.take_outcomes()
    assert {0: "late", 1: "late", 2: "late"} == texts(letters)
    assert {("queue", 0)} == {(one.stage, one.attempts) for one in letters if isinstance(one, DeadLetter)}
    assert set(range(3, 8)) == set(texts(settle(processor, now=2.7)))


def test_what_the_next_batch_holds_is_not_shed_however_late() -> None:
    """Nobody would be served any sooner."""
    processor = overloaded(5)

    assert not processor.shed(100.0)
    assert 5 == len(settle(processor, now=100.0))


def test_a_stream_that_processes_late_records_loses_none() -> None:
    processor = overloaded(8, stream="s")

    assert not processor.shed(100.0)
    assert 8 == len([one for one in settle(processor, now=100.0) if isinstance(one, Result)])


def test_who_does_not_shed_keeps_the_work_it_shares_with_who_does() -> None:
    processor = overloaded(8)
    processor.submit(request(99, deadline=9.0), shout("0000000000"), 0.0)

    assert processor.shed(1.0)

    assert {0: "late"} == texts(processor.take_outcomes())
    assert 9.0 == next(iter(processor._in_flight.values())).deadline
    assert "0000000000" == texts(settle(processor, now=1.0))[99]


def test_a_request_is_shed_once_however_many_pieces_it_has() -> None:
    def recipe() -> Recipe:
        found = yield tuple(Work("m", f"part {number:05}") for number in range(4))
        return {"text": str(len(found))}

    processor = overloaded(5)
    processor.submit(request(50, deadline=0.5, stream="strict"), recipe(), 0.0)
    encode(processor)

    assert processor.shed(0.4)

    assert {50: "late"} == texts(processor.take_outcomes())
    assert 5 == len(settle(processor, now=0.4))


def test_how_long_a_commit_takes_is_learned_from_the_slowest_of_each_publication() -> None:
    processor = overloaded(1)
    outcomes = settle(processor, now=0.0)
    lane = processor.batcher.lanes["m"]
    before = lane.delay.likely

    processor.committed([*outcomes, *overloaded(0).take_outcomes()], now=3.0)

    assert lane.delay.likely > before + 1.0


@pytest.mark.parametrize("error", FAILURES)
def test_one_of_64_is_poison(error: type[EngineError]) -> None:
    """63 results and one dead letter, whether the double raises, exhausts memory or kills its process."""
    processor = make_processor()
    for offset in range(64):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    outcomes = settle(processor, fails_on(["text 17"], error))
    assert {offset: f"TEXT {offset}" for offset in range(64)} | {17: error.reason} == texts(outcomes)
    assert 64 == len(outcomes)
    (letter,) = (outcome for outcome in outcomes if isinstance(outcome, DeadLetter))
    assert "engine" == letter.stage
    assert "poison" in letter.error
    assert letter.attempts >= (3 if error.retriable else 1)


@settings(max_examples=40)
@given(
    poison=st.sets(st.integers(0, 79), max_size=8),
    error=st.sampled_from(FAILURES),
    now=st.sampled_from([0.0, 5.0]),
)
def test_bisection_isolates_exactly_the_poison(
    poison: set[int], error: type[EngineError], now: float
) -> None:
    processor = make_processor(tokens=300)
    for offset in range(80):
        processor.submit(request(offset), shout(f"text {offset}"), now)
    outcomes = settle(processor, fails_on([f"text {offset}" for offset in poison], error), now)
    expected = {n: error.reason if n in poison else f"TEXT {n}" for n in range(80)}
    assert expected == texts(outcomes)
    assert 80 == len(outcomes)


@pytest.mark.parametrize("error", FAILURES)
def test_failed_batches_are_counted_and_which_of_them_were_halved(error: type[EngineError]) -> None:
    processor = make_processor()
    for offset in range(2):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    outcomes = settle(processor, fails_on(["text 1"], error))
    (letter,) = (outcome for outcome in outcomes if isinstance(outcome, DeadLetter))
    assert {("m", error.reason): letter.attempts} == processor.failures
    assert {("m", error.reason): 1} == processor.splits


def test_what_failed_together_never_runs_with_fresh_work_again() -> None:
    processor = make_processor()
    for offset in range(8):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    encode(processor)
    batch = processor.next_batch(0.0, idle=True)
    assert batch
    processor.batch_failed(batch, ModelFailedError("x"), 0.0)
    for offset in range(8, 12):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    companies: list[set[str]] = []
    settle(processor, lambda each: companies.append({item.work.text for item in each.items}))
    old = {item.work.text for item in batch.items}
    assert [4, 4, 4] == [len(company) for company in companies]
    assert [True, True, False] == [company <= old for company in companies]


def test_memory_that_runs_out_makes_batches_smaller() -> None:
    def engine(batch: Batch) -> None:
        ran.append(batch.tokens)
        if batch.tokens > 200:
            raise OutOfMemoryError("too many")

    ran: list[int] = []
    processor = make_processor()
    for offset in range(600):
        processor.submit(request(offset), shout(f"text {offset:05}"), 0.0)
    outcomes = settle(processor, engine)
    assert 600 == len(outcomes)
    assert all(isinstance(outcome, Result) for outcome in outcomes)
    assert sum(tokens > 200 for tokens in ran) < len(ran) / 4


def test_a_replica_that_died_by_itself_costs_nobody_a_result() -> None:
    def engine(_batch: Batch) -> None:
        if deaths:
            raise deaths.pop()

    deaths = [ReplicaDiedError("oom killer") for _ in range(5)]
    processor = make_processor()
    for offset in range(4):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    assert {n: f"TEXT {n}" for n in range(4)} == texts(settle(processor, engine))
    assert 0 == processor.failures_in_a_row


def test_failures_in_a_row_are_counted() -> None:
    processor = make_processor()
    processor.submit(request(), shout("a"), 0.0)
    letter = only_letter(settle(processor, fails_on(["a"], ReplicaDiedError), now=2.0))
    assert 3 == letter.attempts == processor.failures_in_a_row


def test_a_late_comer_has_its_own_attempts() -> None:
    """It joins work that has failed twice, and gets a result where its forerunner did not."""
    processor = make_processor()
    processor.submit(request(0, deadline=0.0), shout("a"), 0.0)
    encode(processor)
    now = 0.0
    for attempt in range(3):
        if attempt == 2:
            processor.submit(request(1, deadline=0.0), shout("a"), now)
        now = processor.next_wake(now) or now
        batch = processor.next_batch(now, idle=True)
        assert batch
        processor.batch_failed(batch, ReplicaDiedError("x"), now)
    assert {0: "replica_died"} == texts(processor.take_outcomes())
    assert {1: "A"} == texts(settle(processor, now=now))


def test_too_few_outputs_are_a_failure_of_the_model() -> None:
    processor = make_processor()
    processor.submit(request(), shout("a"), 0.0)
    encode(processor)
    batch = processor.next_batch(0.0, idle=True)
    assert batch
    processor.batch_done(batch, [], 0.0, 0.1)
    assert "model_failed" == only_letter(processor.take_outcomes()).reason


def test_a_record_error_in_a_recipe_is_its_dead_letter() -> None:
    def recipe() -> Recipe:
        yield ()
        raise EmptyTextError("nothing to read")

    processor = make_processor()
    processor.submit(request(), recipe(), 0.0)
    letter = only_letter(processor.take_outcomes())
    assert ("empty_text", "post") == (letter.reason, letter.stage)
    assert "nothing to read" in letter.error


def test_only_errors_of_our_own_name_the_reason_of_a_dead_letter() -> None:
    """UnicodeDecodeError has a `reason` too: a sentence, which would be without bounds as a label."""
    record = Record("requests", 0, 7, 0, None, b"")
    error = UnicodeDecodeError("utf-8", b"a", 0, 1, "invalid start byte")
    assert "internal" == dead_letter(record, "s", error, "post").reason


def test_what_a_dead_letter_says_can_be_a_header() -> None:
    """It is of bounded length and can be encoded, whatever text the error quotes."""
    record = request().record
    letter = dead_letter(record, "s", MalformedRecordError("\ud800" + "x" * 100_000), "decode")
    assert len(letter.error.encode()) < 1100
    assert letter.error.startswith("MalformedRecordError: \\ud800xxx")
    assert (record.position, "malformed", "decode") == (letter.id, letter.reason, letter.stage)


def broken_at_once() -> Recipe:
    raise KeyError("bug")
    yield ()


def broken_after_the_model() -> Recipe:
    yield (Work("m", "a"),)
    raise ZeroDivisionError("bug")


def unknown_model() -> Recipe:
    yield (Work("m", "a"), Work("nowhere", "a"))
    return {}


def not_work() -> Recipe:
    yield ("a",)  # type: ignore[misc]  # the fault under test
    return {}


@pytest.mark.parametrize(
    ("recipe", "stage"),
    [
        (broken_at_once, "prepare"),
        (broken_after_the_model, "post"),
        (unknown_model, "prepare"),
        (not_work, "prepare"),
    ],
)
def test_a_fault_in_a_recipe_costs_only_its_own_record(recipe: Callable[[], Recipe], stage: str) -> None:
    processor = make_processor()
    processor.submit(request(0), shout("a"), 0.0)
    processor.submit(request(1), recipe(), 0.0)
    outcomes = sorted(settle(processor), key=lambda outcome: outcome.record.offset)
    assert {0: "A", 1: "internal"} == texts(outcomes)
    assert stage == only_letter(outcomes[1:]).stage


def test_one_text_that_breaks_the_tokenizer_is_found() -> None:
    processor = make_processor()
    for offset in range(9):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    while groups := processor.take_unencoded():
        for group in groups:
            if any(work.text == "text 5" for work in group.works):
                processor.encoding_failed(group, ValueError("cannot encode"))
            else:
                processor.encoded(group, tokens_of(group), 0.0)
    assert "prepare" == only_letter(processor.take_outcomes()).stage
    assert {n: f"TEXT {n}" for n in range(9) if n != 5} == texts(settle(processor))


def test_a_request_that_fails_takes_its_other_work_along() -> None:
    def recipe() -> Recipe:
        yield (Work("m", "poison"), Work("n", "useless"))
        return {}

    processor = make_processor()
    processor.submit(request(), recipe(), 0.0)
    encode(processor)
    batch = processor.next_batch(0.0, idle=True)
    assert batch
    processor.batch_failed(batch, ModelFailedError("x"), 0.0)
    only_letter(processor.take_outcomes())
    assert processor.next_batch(0.0, idle=True) is None


@pytest.mark.parametrize("steps", range(5))
def test_dropping_a_partition_spares_the_others(steps: int) -> None:
    """Whether its work is untokenised, being tokenised, queued, running or set apart."""
    processor = make_processor()
    lost, kept = Partition("requests", 0), 1
    for offset, text in enumerate(["shared", "own"]):
        processor.submit(request(offset), shout(text), 0.0)
    processor.submit(request(2, partition=kept), shout("shared"), 0.0)
    groups = processor.take_unencoded() if steps else []
    if steps > 1:
        processor.encoded(groups[0], tokens_of(groups[0]), 0.0)
    batch = processor.next_batch(0.0, idle=True) if steps > 2 else None
    if batch and steps == 4:
        processor.batch_failed(batch, ReplicaDiedError("x"), 0.0)
    processor.drop(lost)
    if steps == 1:
        processor.encoded(groups[0], tokens_of(groups[0]), 0.0)
    if batch and steps == 3:
        processor.batch_done(batch, outputs_of(batch), 0.0, 0.1)
    ran: list[str] = []
    outcomes = settle(processor, lambda each: ran.extend(item.work.text for item in each.items))
    assert {2: "SHARED"} == texts(outcomes)
    assert "own" not in ran
    processor.submit(request(7), shout("own"), 0.0)
    assert {7: "OWN"} == texts(settle(processor))


def test_work_of_a_lost_partition_is_not_tokenised() -> None:
    processor = make_processor()
    processor.submit(request(0), shout("a"), 0.0)
    processor.drop(Partition("requests", 0))
    assert [] == processor.take_unencoded()


def test_work_of_a_lost_partition_that_is_running_can_be_joined() -> None:
    processor = make_processor()
    processor.submit(request(0), shout("a"), 0.0)
    encode(processor)
    batch = processor.next_batch(0.0, idle=True)
    assert batch
    processor.drop(Partition("requests", 0))
    processor.submit(request(1, partition=1), shout("a"), 0.0)
    assert [] == processor.take_unencoded()
    processor.batch_done(batch, outputs_of(batch), 0.0, 0.1)
    assert {1: "A"} == texts(processor.take_outcomes())


def test_work_of_a_lost_partition_that_failed_is_started_anew() -> None:
    """Nobody waited for it when its batch failed, so it is not among the parts; nor may it block others."""
    processor = make_processor()
    processor.submit(request(0), shout("a"), 0.0)
    processor.submit(request(1, partition=1), shout("b"), 0.0)
    processor.submit(request(2, partition=1), shout("c"), 0.0)
    encode(processor)
    batch = processor.next_batch(0.0, idle=True)
    assert batch
    processor.drop(Partition("requests", 0))
    processor.batch_failed(batch, ReplicaDiedError("x"), 0.0)
    processor.submit(request(3, partition=1), shout("a"), 0.0)
    ran: list[str] = []
    outcomes = settle(processor, lambda each: ran.extend(item.work.text for item in each.items))
    assert {1: "B", 2: "C", 3: "A"} == texts(outcomes)
    assert ["a", "b", "c"] == sorted(ran)


def test_forgotten_work_does_not_take_its_successor_along() -> None:
    """Equal work was submitted anew while the forgotten piece was still in the tokenizer's thread."""
    processor = make_processor()
    processor.submit(request(0), shout("a"), 0.0)
    (forgotten,) = processor.take_unencoded()
    processor.drop(Partition("requests", 0))
    processor.submit(request(1), shout("a"), 0.0)
    processor.encoding_failed(forgotten, ValueError("cannot encode"))
    processor.submit(request(2), shout("a"), 0.0)
    assert 1 == processor.joined
    assert {1: "A", 2: "A"} == texts(settle(processor))


def test_outcomes_of_a_lost_partition_are_not_handed_out() -> None:
    processor = make_processor()
    for partition in (0, 1):
        processor.submit(request(partition, partition=partition), shout("a"), 0.0)
    encode(processor)
    batch = processor.next_batch(0.0, idle=True)
    assert batch
    processor.batch_done(batch, outputs_of(batch), 0.0, 0.1)
    processor.drop(Partition("requests", 0))
    assert {1: "A"} == texts(processor.take_outcomes())


def test_fresh_outputs_are_handed_out_once_and_bounded() -> None:
    processor = make_processor(max_fresh=3)
    for offset in range(5):
        processor.submit(request(offset), shout(f"text {offset}"), 0.0)
    settle(processor)
    assert [f"m/text {n}".encode() for n in range(3)] == [key for key, _ in processor.fresh.take()]
    assert 2 == processor.fresh.dropped
    assert [] == processor.fresh.take()


def test_every_body_can_be_submitted() -> None:
    """The processor never looks into a body: that is the recipe's."""
    processor = make_processor()
    one = request()
    answer = Request(one.id, "s", AnswerBody("who?"), one.record, 0.0, 1.0)
    processor.submit(answer, shout("a"), 0.0)
    assert {0: "A"} == texts(settle(processor))


class Service(RuleBasedStateMachine):
    """A shell that does anything in any order, with poison, loss of partitions and dying replicas."""

    @initialize(poison=st.sets(st.integers(0, 15), max_size=4), error=st.sampled_from(FAILURES))
    def start(self, poison: set[int], error: type[EngineError]) -> None:
        """Choose which texts break the engine, and how."""
        self.poison = {f"text {number}" for number in poison}
        self.error = error
        self.processor = make_processor(tokens=60, items=8)
        self.now = 0.0
        self.expected: dict[tuple[int, int], str] = {}
        self.outcomes: list[Outcome] = []
        self.encoding: list[Unencoded] = []
        self.running: list[Batch] = []

    @rule(
        partition=st.integers(0, 2),
        texts=st.lists(st.integers(0, 15), min_size=1, max_size=4),
        budget=st.sampled_from([-1.0, 0.01, 0.1, 5.0]),
    )
    def submit(self, partition: int, texts: list[int], budget: float) -> None:
        """Submit a request that needs several texts, then one more."""

        def recipe() -> Recipe:
            first = yield [Work("m", f"text {number}") for number in texts]
            second = yield [Work("n", f"text {texts[0]}")]
            return {"text": "".join(str(output.text) for output in (*first, *second))}

        offset = len(self.expected)
        wanted = [f"text {number}" for number in (*texts, texts[0])]
        is_poison = bool(self.poison & set(wanted))
        self.expected[partition, offset] = self.error.reason if is_poison else "".join(wanted).upper()
        self.processor.submit(
            request(offset, partition=partition, deadline=self.now + budget), recipe(), self.now
        )

    @rule()
    def begin_encoding(self) -> None:
        """Hand texts to the tokenizer's thread."""
        self.encoding += self.processor.take_unencoded()

    @precondition(lambda self: self.encoding)
    @rule()
    def end_encoding(self) -> None:
        """Get the oldest texts back as tokens."""
        group = self.encoding.pop(0)
        self.processor.encoded(group, tokens_of(group), self.now)

    @rule(idle=st.booleans(), later=st.sampled_from([0.0, 0.01, 0.2]))
    def begin_batch(self, *, idle: bool, later: float) -> None:
        """Give a replica a batch; several may run at once."""
        self.now += later
        batch = self.processor.next_batch(self.now, idle=idle)
        if batch:
            assert batch.tokens <= 60 or len(batch.items) == 1
            self.running.append(batch)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), crash=st.booleans())
    def end_batch(self, data: st.DataObject, *, crash: bool) -> None:
        """Finish any running batch; an innocent one may lose its replica too, if it is not alone."""
        batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        if crash and len(batch.items) > 1:
            self.processor.batch_failed(batch, ReplicaDiedError("by itself"), self.now)
        else:
            run(self.processor, batch, fails_on(list(self.poison), self.error), self.now)

    @rule(partition=st.integers(0, 2))
    def lose(self, partition: int) -> None:
        """Lose a partition: what was not taken of it is never seen again."""
        self.outcomes += self.processor.take_outcomes()
        self.processor.drop(Partition("requests", partition))
        seen = {outcome.record.offset for outcome in self.outcomes}
        self.expected = {
            key if key[0] != partition or key[1] in seen else (-1, key[1]): value
            for key, value in self.expected.items()
        }

    @invariant()
    def every_outcome_is_right(self) -> None:
        """Nothing comes twice, or of a lost partition, or with another request's output."""
        if not hasattr(self, "processor"):
            return
        self.outcomes += self.processor.take_outcomes()
        got = [(outcome.record.partition, outcome.record.offset) for outcome in self.outcomes]
        assert len(got) == len(set(got))
        for key, text in zip(got, texts(self.outcomes).values(), strict=True):
            assert self.expected[key] == text

    def teardown(self) -> None:
        """Let it run to the end: who is not lost has an outcome."""
        if not hasattr(self, "processor"):
            return
        while self.encoding:
            self.end_encoding()
        engine = fails_on(list(self.poison), self.error)
        for batch in self.running:
            run(self.processor, batch, engine, self.now)
        self.outcomes += settle(self.processor, engine, self.now)
        self.every_outcome_is_right()
        assert len(self.outcomes) == sum(partition >= 0 for partition, _ in self.expected)
        assert not self.processor._in_flight  # nothing is left behind
        assert not any(self.processor._runs.values())
        assert all((lane.items, lane.tokens) == (0, 0) for lane in self.processor.batcher.lanes.values())


TestService = pytest.mark.slow(Service.TestCase)
TestService.settings = settings(max_examples=50, stateful_step_count=40)
