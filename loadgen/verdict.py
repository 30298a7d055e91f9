"""What an audit is about, and what it found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

Source = tuple[str, int]
"""Topic and partition."""


class Ordering(StrEnum):
    """Which outcomes of a source partition stand in input order on an output topic."""

    KEY = "key"
    PARTITION = "partition"
    NONE = "none"


class Kind(StrEnum):
    """What can be wrong with an input record's outcomes."""

    LOST = "lost"
    DUPLICATED = "duplicated"
    UNEXPECTED = "unexpected"
    WRONG_ID = "wrong id"
    WRONG_KEY = "wrong key"
    ALTERED = "altered"
    OUT_OF_ORDER = "out of order"
    SCATTERED = "scattered"


@dataclass(frozen=True, slots=True)
class Span:
    """The offsets of a partition that an audit is about, up to and without `end`.

    It was to begin at `first`; the oldest record left is at `begin`, which retention may have moved.
    """

    first: int
    begin: int
    end: int

    @property
    def is_truncated(self) -> bool:
        """Whether records that the audit is about are gone."""
        return self.begin > self.first


@dataclass(frozen=True, slots=True, order=True)
class Offender:
    """An input record, and what is wrong with its outcome, which stands at `outcome` if there is one."""

    kind: Kind
    topic: str
    partition: int
    offset: int
    outcome: str = ""

    def __str__(self) -> str:
        seen = f", seen at {self.outcome}" if self.outcome else ""
        return f"{self.kind}: {self.topic}/{self.partition}/{self.offset}{seen}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an audit found. `doubts` are why it cannot tell; `offenders` names the first of each kind."""

    records: int
    results: int
    dead_letters: int
    earlier: int
    """Outcomes of records from before the audit's first offset, which it is not about."""
    foreign: Mapping[str, int]
    """Records on the output topics that are outcomes of nothing audited, by what they are."""
    counts: Mapping[Kind, int]
    offenders: tuple[Offender, ...]
    doubts: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether the proof holds for every input record."""
        return not (self.counts or self.doubts)

    @property
    def exit_code(self) -> int:
        """0 when clean, 1 when there are offenders, 2 when none is sure but the proof does not hold."""
        return 1 if self.counts else 2 if self.doubts else 0

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return ("clean", "offenders", "cannot tell")[self.exit_code]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON has it."""
        return {"verdict": self.word, **asdict(self)}


def cannot_tell(reason: str) -> Verdict:
    """Return the verdict on topics that could not be read."""
    return Verdict(0, 0, 0, 0, {}, {}, (), (reason,))
