"""The training command's work: read the data, train, save, and say how well it went."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from stream_infer.errors import ConfigError

_LIBRARIES = ("accelerate", "peft", "sklearn")


def train(
    output: Path, cache: Path, seed: int, *, progress: Callable[[int, int, float], None]
) -> dict[str, float]:
    """Train the sentiment model, write it to `output`, and return its scores on the test split.

    Raises:
        ConfigError: the libraries for training are not installed, or the data cannot be fetched.
    """
    missing = [name for name in _LIBRARIES if find_spec(name) is None]
    if missing:
        raise ConfigError(f"training needs {', '.join(missing)}: pip install 'stream-infer[train]'")
    from stream_infer.training.data import load_ratings  # noqa: PLC0415 - loads torch and the libraries above
    from stream_infer.training.sentiment import TrainSettings, save, train_sentiment  # noqa: PLC0415 - as above

    report = train_sentiment(TrainSettings(seed=seed), load_ratings(cache), progress=progress)
    save(report, output)
    return {"accuracy": report.scores.accuracy, "macro_f1": report.scores.macro_f1}
