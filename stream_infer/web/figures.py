"""What a worker does at the moment, in figures that JSON can hold; those of `/metrics`, and pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stream_infer.web.change import Change

Figures = dict[str, Any]

_LOOK_UPS = ("cache_hits_total", "cache_misses_total", "cache_joins_total")


def figures(change: Change) -> Figures:
    """Return the figures of one change: times in seconds, rates a second, shares from 0 to 1.

    What cannot be known, such as the latency of no result, is None.
    """
    streams, models = change.values("received_total", "stream"), change.values("queue_tokens", "model")
    return {
        "streams": [_stream(change, name) for name in streams],
        "models": [_model(change, name) for name in models],
        "cache": _cache(change),
        "runtime": _runtime(change),
        "dead_letter_reasons": _reasons(change),
        "quality": [_quality(change, name) for name in change.values("quality_pairs", "model")],
    }


def point(now: float, seen: Figures) -> Figures:
    """Return of some figures what a chart over time shows."""
    return {"t": now, "streams": {each["name"]: [each["results"], each["p99"]] for each in seen["streams"]}}


def _stream(change: Change, name: str) -> Figures:
    results = change.growth("results_total", stream=name)
    return {
        "name": name,
        "received": change.rate("received_total", stream=name),
        "results": change.rate("results_total", stream=name),
        "dead_letters": change.rate("dead_letters_total", stream=name),
        "late_share": change.growth("late_total", stream=name) / results if results else None,
        **{f"p{share}": latency(change, name, share / 100) for share in (50, 95, 99)},
        "budget": change.most("latency_budget_seconds", stream=name),
        "in_flight": change.total("in_flight_records", stream=name),
        "lag_records": change.total("lag_records", stream=name),
        "lag_seconds": change.most("lag_seconds", stream=name),
        "lag_tokens": change.total("lag_tokens", stream=name),
        "partitions": change.total("assigned_partitions", stream=name),
    }


def latency(change: Change, name: str, share: float) -> float | None:
    """Return the seconds that a share of a stream's results took at most, from producer to commit."""
    return change.quantile("latency_seconds", share, stream=name, stage="total")


def _model(change: Change, name: str) -> Figures:
    info: Mapping[str, str] = next(iter(change.children("model_info", model=name)), {})
    return {
        "name": name,
        **{label: info.get(label) for label in ("revision", "precision", "device")},
        "agreement": _gauge(change, "model_agreement_ratio", name),
        "agreement_floor": change.most("model_agreement_floor_ratio", model=name),
        "batches": change.rate("batch_items_count", model=name),
        "texts_a_batch": change.mean("batch_items", model=name),
        "tokens": change.rate("engine_tokens_total", model=name),
        "batch_seconds": change.mean("batch_seconds", model=name),
        "busy": change.rate("batch_seconds_sum", model=name),
        "waiting_tokens": change.total("queue_tokens", model=name),
        "failures": change.total("batch_failures_total", model=name),
        "splits": change.total("batch_splits_total", model=name),
    }


def _gauge(change: Change, name: str, model: str) -> float | None:
    return change.most(name, model=model) if change.children(name, model=model) else None


def look_ups(change: Change) -> float:
    """Return how often the cache was asked."""
    return sum(change.growth(name) for name in _LOOK_UPS)


def hit_share(change: Change) -> float | None:
    """Return the share of look-ups that the cache answered, or None where there was none."""
    asked = look_ups(change)
    return change.growth("cache_hits_total") / asked if asked else None


def _cache(change: Change) -> Figures:
    return {
        "hit_share": hit_share(change),
        "shared_hits": change.rate("cache_hits_total", tier="shared"),
        "look_ups": sum(change.rate(name) for name in _LOOK_UPS),
        "joins": change.rate("cache_joins_total"),
        "entries": change.total("cache_entries"),
        "bytes": change.total("cache_bytes"),
    }


def _runtime(change: Change) -> Figures:
    return {
        "transactions": change.rate("transactions_total", outcome="committed"),
        "transaction_seconds": change.mean("transaction_seconds"),
        "aborted": change.total("transactions_total", outcome="aborted"),
        "lost": change.total("transactions_total", outcome="lost"),
        "replica_restarts": change.total("replica_restarts_total"),
        "rebalances": change.total("rebalances_total"),
        "passages": change.total("index_passages"),
    }


def _reasons(change: Change) -> list[Figures]:
    """The reasons of dead letters that there were since the start, the most frequent first."""
    found = [
        {
            **labels,
            "total": change.total("dead_letters_total", **labels),
            "rate": change.rate("dead_letters_total", **labels),
        }
        for labels in change.children("dead_letters_total")
    ]
    return sorted((each for each in found if each["total"]), key=lambda each: -each["total"])


def _quality(change: Change, name: str) -> Figures:
    return {
        "model": name,
        "pairs": change.total("quality_pairs", model=name),
        "accuracy": _gauge(change, "quality_accuracy_ratio", name),
        "macro_f1": _gauge(change, "quality_macro_f1_ratio", name),
    }
