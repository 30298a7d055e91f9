"""All faults, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.faults import (
    broker_faults,
    disk_faults,
    group_faults,
    memory_faults,
    network_faults,
    replica_faults,
    time_faults,
    worker_faults,
)
from tests.faults.fault import Fault

_MODULES: Final = (
    worker_faults,
    replica_faults,
    memory_faults,
    group_faults,
    broker_faults,
    network_faults,
    time_faults,
    disk_faults,
)

FAULTS: Final[Mapping[str, Fault]] = {fault.name: fault for module in _MODULES for fault in module.FAULTS}


def faults_for(kind: str) -> dict[str, Fault]:
    """Return the faults that brokers of a kind promise to survive, or workers beside them."""
    return {name: fault for name, fault in FAULTS.items() if kind in fault.kinds}
