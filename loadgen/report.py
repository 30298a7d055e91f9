"""A run's report as JSON: what was asked, on what, and what came of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from loadgen.gauges import Look, judge_memory
from loadgen.producer import Load
from loadgen.recorder import Recorder
from loadgen.running import Carried, Place
from loadgen.verdict import Verdict

FORMAT: Final = 1
"""Changes whenever readers of older reports would misread a new one."""
LONG: Final = frozenset({"seconds", "curve", "histogram", "metrics", "machine", "versions", "settings"})

Report = dict[str, Any]


class ReportError(ValueError):
    """A file is no report of a run; the message names it."""


def make_report(
    settings: dict[str, Any],
    carried: Carried,
    *,
    started_at: str,
    machine: dict[str, Any],
    versions: dict[str, str],
    metrics: dict[str, Any] | None = None,
    looks: Sequence[Look] = (),
    verdict: Verdict | None = None,
) -> Report:
    """Return the report of a run, whole or cut short."""
    recorder = carried.recorder
    return {
        "format": FORMAT,
        "run": settings["run"],
        "started_at": started_at,
        "is_complete": carried.is_complete,
        "is_cut_short": carried.is_cut_short,
        "fault": recorder.fault,
        "counts": _counts(recorder),
        "throughput": _throughput(recorder),
        "latency_ms": recorder.latencies.summary(),
        "memory": {name: asdict(each) for name, each in judge_memory(looks).items()},
        "audit": verdict.as_dict() if verdict else None,
        "settings": settings,
        "machine": machine,
        "versions": versions,
        "metrics": metrics,
        "curve": recorder.latencies.curve(),
        "seconds": [asdict(second) for second in recorder.seconds],
        "histogram": recorder.latencies.encode(),
    }


def describe_settings(load: Load, place: Place, seed: int, warm_up: float) -> dict[str, Any]:
    """Return what a run was asked to do, without the bodies themselves."""
    settings = {name: getattr(load, name) for name in load.__slots__ if name not in {"pools", "profile"}}
    profile = asdict(load.profile)
    recorded = len(profile.pop("recorded"))
    pools = [{"bodies": len(pool.bodies), "share": pool.share} for pool in load.pools]
    return {
        **settings,
        **profile,
        "recorded_times": recorded,
        "pools": pools,
        "outputs": sorted(place.outputs),
        "security_protocol": place.broker.protocol,
        "producers": place.producers,
        "patience_seconds": place.patience,
        "warm_up_seconds": warm_up,
        "seed": seed,
    }


def summarise(report: Report) -> Report:
    """Return the part of a report that fits a terminal."""
    return {name: part for name, part in report.items() if name not in LONG}


def load_report(path: Path) -> Report:
    """Return the report in a file.

    Raises:
        ReportError: the file cannot be read, or is no report of this format.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ReportError(f"{path}: not a report: {error}") from error
    if not isinstance(report, dict) or report.get("format") != FORMAT or "run" not in report:
        raise ReportError(f"{path}: not a report of format {FORMAT}")
    return report


def _counts(recorder: Recorder) -> dict[str, int]:
    names = (
        *("sent", "acknowledged", "failed", "bytes", "results", "dead_letters", "outstanding"),
        *("repeated", "foreign", "poison_sent", "poison_results", "good_dead_letters", "left_when_sent"),
    )
    return {name: getattr(recorder, name) for name in names}


def _throughput(recorder: Recorder) -> dict[str, float]:
    sending, whole = recorder.last_sent, recorder.last_outcome
    return {
        "sent_per_s": round(recorder.sent / sending, 1) if sending else 0.0,
        "outcomes_per_s": round(recorder.outcomes / whole, 1) if whole else 0.0,
        "sending_seconds": round(sending, 3),
        "seconds": round(whole, 3),
        "max_send_lag_ms": round(recorder.send_lag * 1_000, 1),
    }
