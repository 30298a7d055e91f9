"""Calibrations that this machine has made before, a small JSON file each."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Final
from uuid import uuid4

import structlog

from stream_infer.engine.calibration import Calibration, Trial
from stream_infer.engine.compilation import kernels_at_hand
from stream_infer.engine.processor import processor_field

_PACKAGES: Final = ("stream-infer", "torch", "transformers", "bitsandbytes")

log = structlog.get_logger(__name__)

Conditions = Mapping[str, str | int]
"""What a calibration depends on; one that was made under others does not hold."""


class CalibrationStore:
    """Keeps calibrations by the conditions under which they were made.

    A directory that is missing, or cannot be read or written, costs a calibration at every start, and not
    the start.
    """

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def find(self, conditions: Conditions) -> Calibration | None:
        """Return what was found under these conditions, or None where nothing usable is kept."""
        if self._directory is None:
            return None
        path = self._directory / _name(conditions)
        try:
            kept = json.loads(path.read_bytes())
            found = kept["calibration"]
            trials = tuple(Trial(int(each["tokens"]), float(each["seconds"])) for each in found["trials"])
            return Calibration(int(found["threads"]), int(found["batch_tokens"]), trials)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("calibration_unreadable", path=str(path), error=str(error))
            return None

    def keep(self, conditions: Conditions, calibration: Calibration) -> None:
        """Keep a calibration; readers see all of it or nothing."""
        if self._directory is None:
            return
        path = self._directory / _name(conditions)
        part = path.with_suffix(f".{uuid4().hex}")
        text = json.dumps({"conditions": dict(conditions), "calibration": asdict(calibration)}, indent=2)
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            log.warning("calibration_not_kept", path=str(path), error=str(error))


def machine_conditions() -> dict[str, str | int]:
    """Return what of this machine and its libraries decides how fast a model runs."""
    return {
        "processor": processor_field("model name") or platform.machine(),
        "cores": os.cpu_count() or 0,
        "kernels": kernels_at_hand(),
        **{name: version(name) for name in _PACKAGES},
    }


def _name(conditions: Conditions) -> str:
    text = json.dumps(dict(conditions), sort_keys=True)
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
