"""What becomes of a run's events, second by second; `now` is seconds after the start."""

from __future__ import annotations

from dataclasses import dataclass

from loadgen.latency import Latencies


@dataclass(frozen=True, slots=True)
class Event:
    """One event and when it is due, in seconds after the start."""

    due: float
    id: str
    key: bytes | None
    value: bytes
    is_poison: bool = False


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a run: what was sent and came back in it, and what was still out at its end."""

    second: int
    sent: int
    outcomes: int
    p50_ms: float | None
    p90_ms: float | None
    p99_ms: float | None
    max_ms: float | None
    outstanding: int
    oldest_ms: float


class Recorder:
    """Counts events and outcomes, and records each latency from when the event was due.

    Latencies of events that were due during the warm-up appear in their second only. A second's
    latencies are those of the outcomes read in it.
    """

    def __init__(self, warm_up: float = 0.0) -> None:
        self.sent = self.acknowledged = self.failed = self.bytes = 0
        self.results = self.dead_letters = self.repeated = self.foreign = 0
        self.poison_sent = self.poison_results = self.good_dead_letters = 0
        self.send_lag = 0.0
        """The greatest time by which an event left late, in seconds."""
        self.last_sent = self.last_outcome = 0.0
        self.left_when_sent = 0
        """Events without outcome when the last one had been sent."""
        self.fault = ""
        """Why the run ended before it was done."""
        self.latencies = Latencies()
        self.result_latencies = Latencies()
        """Those of results alone: a dead letter may come the sooner, the more a service has to do."""
        self.seconds: list[Second] = []
        self._warm_up = warm_up
        self._out: dict[str, tuple[float, bool]] = {}
        """By id, in the order of sending, when each event was due and whether it is poison."""
        self._answered: set[int] = set()
        self._second = Latencies()
        self._sent_before = self._outcomes_before = 0

    @property
    def outcomes(self) -> int:
        """How many events have their outcome."""
        return self.results + self.dead_letters

    @property
    def outstanding(self) -> int:
        """How many events were sent, did not fail, and have no outcome yet."""
        return len(self._out)

    def send(self, event: Event, now: float) -> None:
        """Note an event that is about to be sent."""
        self.advance(now)
        self.sent += 1
        self.bytes += len(event.value)
        self.poison_sent += event.is_poison
        self.send_lag = max(self.send_lag, now - event.due)
        self.last_sent = now
        self._out[event.id] = (event.due, event.is_poison)

    def acknowledge(self, event: Event, *, is_written: bool) -> None:
        """Note whether the broker took an event; one that it did not take has no outcome to wait for."""
        if is_written:
            self.acknowledged += 1
        else:
            self.failed += 1
            self._out.pop(event.id, None)

    def end_sending(self, now: float) -> None:
        """Note that nothing more is sent."""
        self.advance(now)
        self.left_when_sent = self.outstanding

    def receive(self, identity: str, now: float, *, is_dead_letter: bool) -> None:
        """Note an outcome; one of an event that has none to come is a repetition or someone else's."""
        self.advance(now)
        if identity not in self._out:
            self._note_unknown(identity)
            return
        due, is_poison = self._out.pop(identity)
        self._answered.add(hash(identity))
        self._count(is_poison=is_poison, is_dead_letter=is_dead_letter)
        self.last_outcome = now
        self._second.record(now - due)
        if due >= self._warm_up:
            self.latencies.record(now - due)
            if not is_dead_letter:
                self.result_latencies.record(now - due)

    def advance(self, now: float) -> None:
        """Close the seconds that are over."""
        while len(self.seconds) + 1 <= now:
            self._close_second()

    def finish(self, now: float) -> None:
        """Close the second that is under way too: the run is over."""
        self.advance(now)
        self._close_second()

    def _note_unknown(self, identity: str) -> None:
        if hash(identity) in self._answered:
            self.repeated += 1
        else:
            self.foreign += 1

    def _count(self, *, is_poison: bool, is_dead_letter: bool) -> None:
        self.dead_letters += is_dead_letter
        self.results += not is_dead_letter
        self.good_dead_letters += is_dead_letter and not is_poison
        self.poison_results += is_poison and not is_dead_letter

    def _close_second(self) -> None:
        end = len(self.seconds) + 1
        p50, p90, p99, greatest = (self._second.percentile_ms(each) for each in (50.0, 90.0, 99.0, 100.0))
        oldest, _ = next(iter(self._out.values()), (float(end), False))
        self.seconds.append(
            Second(
                second=end - 1,
                sent=self.sent - self._sent_before,
                outcomes=self.outcomes - self._outcomes_before,
                p50_ms=p50,
                p90_ms=p90,
                p99_ms=p99,
                max_ms=greatest,
                outstanding=self.outstanding,
                oldest_ms=round(max(0.0, end - oldest) * 1_000, 1),
            )
        )
        self._sent_before, self._outcomes_before = self.sent, self.outcomes
        self._second.clear()
