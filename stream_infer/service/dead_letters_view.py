"""How dead letters look to an operator: a table, one whole, and what a replay would do or did.

Whatever comes from a record is shown without control characters: a terminal would obey them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from stream_infer.bus.codec import DEAD_LETTER_PREFIX
from stream_infer.bus.values import decode_value
from stream_infer.errors import MalformedRecordError
from stream_infer.flow.replay import Entry, Place
from stream_infer.schemas import Record
from stream_infer.service.dead_letters import Listing, Replay, to_entry
from stream_infer.service.replaying import Report

HEX_BYTES = 256
"""How much is shown of a value that cannot be decoded."""

_COLUMNS = {
    "place": 5,
    "time": 10,
    "stream": 6,
    "reason": 9,
    "stage": 6,
    "attempts": 8,
    "error": 12,
    "key": 3,
    "replayed": 8,
}
"""The least width of each, so that all are there on a terminal of 80 characters."""


def listing_table(listing: Listing) -> RenderableType:
    """Return the listing as a table, and under it the counts by reason; no value is shown."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, width in _COLUMNS.items():
        table.add_column(column, overflow="fold", min_width=width)
    for entry in listing.entries:
        cells = listing_row(entry, is_replayed=listing.is_replayed(entry))
        table.add_row(*(Text(printable(_cell(cells[column]))) for column in _COLUMNS))
    counts = ", ".join(f"{reason} {number}" for reason, number in listing.reasons.most_common())
    shown = f"{len(listing.entries)} of {listing.reasons.total()} shown"
    return Group(table, Text(printable(f"{shown}: {counts}" if counts else "no dead letters")))


def listing_object(listing: Listing) -> dict[str, object]:
    """Return the listing as an object for JSON."""
    return {
        "topic": listing.topic,
        "total": listing.reasons.total(),
        "reasons": dict(listing.reasons.most_common()),
        "dead_letters": [
            listing_row(entry, is_replayed=listing.is_replayed(entry)) for entry in listing.entries
        ],
    }


def listing_row(entry: Entry, *, is_replayed: bool) -> dict[str, object]:
    """Return what is listed of one dead letter."""
    letter = entry.letter
    return {
        "place": str(entry.place),
        "time": _time(entry.timestamp_ms),
        "stream": letter and letter.stream,
        "reason": entry.reason,
        "stage": letter and letter.stage,
        "attempts": letter and letter.attempts,
        "error": letter.error if letter else entry.fault,
        "key": _decoded(letter.record.key) if letter else None,
        "replayed": is_replayed,
    }


def whole(record: Record) -> str:
    """Return a record of the dead-letter topic in full, its value included, which is the user's text."""
    entry = to_entry(record)
    reasons = [header for header in record.headers if header[0].startswith(DEAD_LETTER_PREFIX)]
    originals = [header for header in record.headers if header not in reasons]
    return "\n".join(
        [
            f"dead letter {entry.place}, written {_time(record.timestamp_ms)}",
            f"  from: {_origin(entry)}",
            f"  key: {printable(_cell(_decoded(record.key)))}",
            *_header_lines("why", reasons),
            *_header_lines("headers", originals),
            "value:",
            *(f"  {printable(line)}" for line in _value_lines(record)),
        ]
    )


def replay_lines(replay: Replay) -> list[str]:
    """Return what a replay would do, by input topic, and why some cannot go."""
    topics = [record.topic for record in replay.chosen.values()]
    lines = [f"to put back on {topic}: {topics.count(topic)}" for topic in sorted(set(topics))]
    lines += [f"put back before: {replay.replayed}"] if replay.replayed else []
    lines += [f"left to the next replay: {replay.left}"] if replay.left else []
    return [*lines, *_refusal_lines(replay.refused)] or ["nothing is selected"]


def report_lines(report: Report) -> list[str]:
    """Return what a replay did."""
    lines = [f"put back: {len(report.put_back)}", *_refusal_lines(report.refused)]
    if report.interruption:
        lines.append(f"ended early: {report.interruption}; the same replay again puts back the rest")
    return lines


def printable(text: str) -> str:
    """Return the text with every character that does not print as its escape."""
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def _refusal_lines(refused: Mapping[Place, str]) -> list[str]:
    return [f"refused {place}: {printable(why)}" for place, why in sorted(refused.items())]


def _header_lines(title: str, headers: Sequence[tuple[str, bytes | None]]) -> Iterable[str]:
    yield f"{title}:"
    for name, value in headers:
        shown = printable(_cell(_decoded(value)))
        yield f"  {printable(name.removeprefix(DEAD_LETTER_PREFIX))}: {shown}"


def _origin(entry: Entry) -> str:
    if entry.letter is None:
        return "unknown"
    record = entry.letter.record
    return printable(f"{record.position}, written {_time(record.timestamp_ms)}")


def _value_lines(record: Record) -> list[str]:
    if record.value is None:
        return ["none"]
    content_type = next((value for name, value in record.headers if name == "content-type"), None)
    try:
        fields = decode_value(record.value, content_type)
        return json.dumps(fields, ensure_ascii=False, indent=2, default=repr).split("\n")
    except (MalformedRecordError, TypeError, ValueError) as error:
        return [*_hex_lines(record.value), f"({len(record.value)} bytes: {error})"]


def _hex_lines(value: bytes) -> list[str]:
    return [value[start : start + 16].hex(" ") for start in range(0, min(len(value), HEX_BYTES), 16)]


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode(errors="backslashreplace")


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else ""
    return "-" if value is None else str(value)


def _time(timestamp_ms: int) -> str:
    try:
        return f"{datetime.fromtimestamp(timestamp_ms / 1000, UTC):%Y-%m-%d %H:%M:%SZ}"
    except (OverflowError, ValueError, OSError):
        return str(timestamp_ms)
