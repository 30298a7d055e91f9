"""How long a batch will take, learned from those that ran."""

from __future__ import annotations

_MEMORY = 0.97
_DEVIATION_STEP = 0.125
_WARM = 8
_OUTLIER = 4.0
_RIDGE = 0.01
_FIRST_OVERHEAD = 0.005
_FIRST_PER_TOKEN = 2e-5
_LEAST_PER_TOKEN = 1e-12
_MOST_TOKENS = 1e12
_ROUNDING = 1.0 + 1e-12


class CostModel:
    """A running fit of seconds against tokens: `overhead + per_token * tokens`.

    Least squares with exponential forgetting (about the last 33 batches). A run that took more than
    four times the prediction, or less than a quarter, moves the fit only that far, so one hiccup
    does not upset it and a lasting change is still followed. While all batches are of one size
    nothing separates overhead from slope; then half the time is taken for overhead.
    """

    __slots__ = ("_deviation", "_overhead", "_per_token", "_runs", "_weight", "_x", "_xx", "_xy", "_y")

    def __init__(self, overhead: float = _FIRST_OVERHEAD, per_token: float = _FIRST_PER_TOKEN) -> None:
        """The arguments are the guess, in seconds, that holds until the first batch has run."""
        self._overhead = overhead
        self._per_token = per_token
        self._deviation = 0.0
        self._runs = 0
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def predict(self, tokens: int) -> float:
        """Return the seconds that a batch of so many tokens takes, plus the usual deviation."""
        return self._fit(tokens) + self._deviation

    def tokens_within(self, seconds: float) -> int:
        """Return the tokens of the largest batch predicted to run in so many seconds; at least 0."""
        spare = max(seconds - self._overhead - self._deviation, 0.0)
        return int(min(spare / max(self._per_token, _LEAST_PER_TOKEN) * _ROUNDING, _MOST_TOKENS))

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a batch that ran."""
        expected = self._fit(tokens)
        if self._runs >= _WARM:
            seconds = min(max(seconds, expected / _OUTLIER), expected * _OUTLIER)
        if self._runs:
            self._deviation += (abs(seconds - expected) - self._deviation) * _DEVIATION_STEP
        self._runs += 1
        self._weight = self._weight * _MEMORY + 1.0
        self._x = self._x * _MEMORY + tokens
        self._y = self._y * _MEMORY + seconds
        self._xx = self._xx * _MEMORY + tokens * tokens
        self._xy = self._xy * _MEMORY + tokens * seconds
        self._refit()

    def _fit(self, tokens: int) -> float:
        return self._overhead + self._per_token * tokens

    def _refit(self) -> None:
        x = self._x / self._weight
        y = self._y / self._weight
        variance = max(self._xx / self._weight - x * x, 0.0)
        covariance = self._xy / self._weight - x * y
        ridge = _RIDGE * x * x + 1e-9
        half = y / (2.0 * x) if x else 0.0
        slope = (covariance + ridge * half) / (variance + ridge)
        self._per_token = min(max(slope, 0.0), y / x if x else 0.0)
        self._overhead = max(y - self._per_token * x, 0.0)
