"""The worker's metrics, in Prometheus's conventions: base units, stable names, bounded labels."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from stream_infer.schemas import DeadLetter, Result

_LATENCY_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


class Metrics:
    """Every metric of one worker, on a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        r = self.registry
        self.received = Counter("stream_infer_received", "Records fetched.", ["stream"], registry=r)
        self.results = Counter("stream_infer_results", "Results committed.", ["stream"], registry=r)
        self.dead_letters = Counter(
            "stream_infer_dead_letters", "Dead letters committed.", ["stream", "reason"], registry=r
        )
        self.late = Counter("stream_infer_late", "Results after their deadline.", ["stream"], registry=r)
        self.latency = Histogram(
            "stream_infer_latency_seconds",
            "Time from the record's arrival to its outcome, by stage.",
            ["stream", "stage"],
            buckets=_LATENCY_BUCKETS,
            registry=r,
        )
        self.batch_items = Histogram(
            "stream_infer_batch_items", "Items in a batch.", ["model"], buckets=_SIZE_BUCKETS, registry=r
        )
        self.batch_seconds = Histogram(
            "stream_infer_batch_seconds",
            "Time a batch took on its replica.",
            ["model"],
            buckets=_LATENCY_BUCKETS,
            registry=r,
        )
        self.batch_failures = Counter(
            "stream_infer_batch_failures",
            "Batches that came back without outputs.",
            ["model", "reason"],
            registry=r,
        )
        self.replica_restarts = Gauge("stream_infer_replica_restarts", "Replicas respawned.", registry=r)
        self.transactions = Counter(
            "stream_infer_transactions", "Transactions by how they ended.", ["outcome"], registry=r
        )
        self.in_flight = Gauge(
            "stream_infer_in_flight", "Records admitted and not yet committed.", registry=r
        )
        self.assigned = Gauge("stream_infer_assigned_partitions", "Partitions this worker owns.", registry=r)
        self.cache_hits = Gauge("stream_infer_cache_hits", "Look-ups answered by the cache.", registry=r)
        self.cache_misses = Gauge("stream_infer_cache_misses", "Look-ups not in the cache.", registry=r)
        self.cache_bytes = Gauge("stream_infer_cache_bytes", "Bytes held by the cache.", registry=r)
        self.model_info = Gauge(
            "stream_infer_model_info",
            "The loaded models; the value is the int8 agreement.",
            ["model", "revision", "precision", "device"],
            registry=r,
        )
        self.index_passages = Gauge(
            "stream_infer_index_passages", "Passages that can be answered from.", registry=r
        )

    def count_result(self, result: Result) -> None:
        """Count a committed result, and where its time went."""
        stream, stages = result.stream, result.stages
        self.results.labels(stream).inc()
        if result.late:
            self.late.labels(stream).inc()
        self.latency.labels(stream, "bus").observe(stages.bus)
        self.latency.labels(stream, "queue").observe(stages.queue)
        self.latency.labels(stream, "engine").observe(stages.engine)
        self.latency.labels(stream, "total").observe(stages.total)

    def count_dead_letter(self, letter: DeadLetter) -> None:
        """Count a committed dead letter."""
        self.dead_letters.labels(letter.stream, letter.reason).inc()
