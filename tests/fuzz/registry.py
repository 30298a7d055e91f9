"""Every target by its name."""

from __future__ import annotations

from tests.fuzz.target import Target
from tests.fuzz.targets import (
    commits,
    documents,
    frames,
    labels,
    model_files,
    outcomes,
    replays,
    requests,
    settings,
    texts,
    trace_headers,
    values,
    web,
)

_MODULES = (
    commits,
    documents,
    frames,
    labels,
    model_files,
    outcomes,
    replays,
    requests,
    settings,
    texts,
    trace_headers,
    values,
    web,
)
TARGETS: dict[str, Target] = {target.name: target for module in _MODULES for target in module.TARGETS}
