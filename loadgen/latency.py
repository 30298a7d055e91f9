"""Latencies in an HdrHistogram: any number of them in constant memory, exact to three digits."""

from __future__ import annotations

from typing import Final

from hdrh.histogram import HdrHistogram

HIGHEST_SECONDS: Final = 3_600.0
"""What took longer is counted as this."""
PERCENTILES: Final = (50.0, 90.0, 99.0, 99.9)
CURVE: Final = (0.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.8, 99.9, 99.95, 99.98, 99.99, 100.0)

_MICROSECONDS: Final = 1_000_000
_DIGITS: Final = 3


class Latencies:
    """The latencies of many events."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, round(HIGHEST_SECONDS * _MICROSECONDS), _DIGITS)

    @property
    def count(self) -> int:
        """How many there are."""
        return int(self._histogram.get_total_count())

    def record(self, seconds: float) -> None:
        """Take one; clocks that step back make it 0 at the least."""
        within = min(max(seconds, 0.0), HIGHEST_SECONDS)
        self._histogram.record_value(round(within * _MICROSECONDS))

    def percentile_ms(self, percentile: float) -> float | None:
        """Return the latency that so many per cent do not exceed; None when there is none."""
        if not self.count:
            return None
        return round(int(self._histogram.get_value_at_percentile(percentile)) / 1_000, 3)

    def share_within(self, milliseconds: float) -> float:
        """Return the share that is no longer than this, to three digits; 1 when there is none."""
        most = self._histogram.get_highest_equivalent_value(round(milliseconds * 1_000))
        within = sum(
            int(each.count_at_value_iterated_to)
            for each in self._histogram.get_recorded_iterator()
            if each.value_iterated_to <= most
        )
        return within / self.count if self.count else 1.0

    def summary(self) -> dict[str, float | None]:
        """Return the usual percentiles, the mean and the greatest, in milliseconds."""
        percentiles = {f"p{each:g}": self.percentile_ms(each) for each in PERCENTILES}
        mean = round(float(self._histogram.get_mean_value()) / 1_000, 3) if self.count else None
        return {**percentiles, "mean": mean, "max": self.percentile_ms(100.0)}

    def curve(self) -> list[tuple[float, float | None]]:
        """Return percentiles from the least to the greatest latency, closer together near the end."""
        return [(each, self.percentile_ms(each)) for each in CURVE]

    def encode(self) -> str:
        """Return the whole histogram in HdrHistogram's own compressed form, values in microseconds."""
        return str(self._histogram.encode().decode())

    def clear(self) -> None:
        """Forget all."""
        self._histogram.reset()
