"""Work on its way to a model, and the requests that wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum, auto

from stream_infer.schemas import BatchRun, Output, Recipe, Request, Tokens, Wait, Work


class Place(Enum):
    """Where a piece of work is: about to be tokenised, in its lane's queue, in a batch, or set apart.

    Set apart is what was in a failed batch: it runs again without fresh company. Gone is what nobody
    waits for any more; queues forget it when they come upon it.
    """

    UNENCODED = auto()
    QUEUED = auto()
    RUNNING = auto()
    APART = auto()
    GONE = auto()


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What the processor knows of a stream; `latency_budget` is in seconds.

    `model` is the one that results are stamped with. With `sheds_late`, records are dead-lettered instead
    of processed whose deadline has passed on arrival, or would before they could be committed.
    """

    model: str
    latency_budget: float
    sheds_late: bool = False


class Run:
    """One request being processed: its recipe, and the outputs that the recipe waits for."""

    __slots__ = (
        "batch",
        "batches",
        "engine",
        "has_waited",
        "outputs",
        "plan",
        "queue",
        "recipe",
        "request",
        "since",
        "waits",
        "waits_for",
    )

    def __init__(self, request: Request, recipe: Recipe, plan: StreamPlan) -> None:
        self.request = request
        self.recipe = recipe
        self.plan = plan
        self.has_waited = False
        self.outputs: list[Output | None] = []
        self.waits_for: dict[Pending, list[int]] = {}
        """The pieces still missing, and their places in `outputs`."""
        self.since = 0.0
        """When it began to wait for those."""
        self.queue = 0.0
        self.batch = 0.0
        self.engine = 0.0
        self.waits: tuple[Wait, ...] = ()
        self.batches: tuple[BatchRun, ...] = ()

    def ran_in(self, batch: BatchRun) -> None:
        """Note a batch that held a piece of it, once however many pieces it held."""
        if not self.batches or self.batches[-1] is not batch:
            self.batches += (batch,)


class Pending:
    """One piece of work that no cache holds, and all requests that wait for it."""

    __slots__ = (
        "attempts",
        "deadline",
        "failures",
        "key",
        "place",
        "queued_at",
        "size",
        "tokens",
        "waiters",
        "work",
    )

    def __init__(self, key: bytes, work: Work, deadline: float) -> None:
        self.key = key
        self.work = work
        self.deadline = deadline
        """The earliest deadline of its requests, in monotonic seconds."""
        self.tokens: Tokens | None = None
        self.size = 0
        """Its length in tokens, once tokenised."""
        self.queued_at = 0.0
        """When it came to its lane, tokenised."""
        self.place = Place.UNENCODED
        self.waiters: dict[Run, int] = {}
        """Its requests, and how many attempts it had before each of them joined."""
        self.attempts = 0
        """Failed runs in which it was alone: the only ones that speak against it."""
        self.failures = 0
        """All failed runs it was part of."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Pieces of one lane that run together, by length; `tokens` is what the lane's cost counts.

    `left` is when it left its lane, in monotonic seconds.
    """

    lane: str
    items: tuple[Pending, ...]
    tokens: int
    expected: float
    """The predicted seconds."""
    left: float

    @property
    def useful_tokens(self) -> int:
        """The tokens of the pieces: `tokens` without what pads them to one length."""
        return sum(item.size for item in self.items)

    @property
    def inputs(self) -> list[Tokens]:
        """The model's input for each piece."""
        return [item.tokens for item in self.items if item.tokens is not None]

    @property
    def options(self) -> list[str]:
        """The option of each piece."""
        return [item.work.option for item in self.items]


@dataclass(frozen=True, slots=True)
class Unencoded:
    """Pieces of one lane to be tokenised together."""

    lane: str
    items: tuple[Pending, ...]

    @property
    def works(self) -> Sequence[Work]:
        """What to hand to the lane's tokenizer."""
        return [item.work for item in self.items]
