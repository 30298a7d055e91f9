"""How many cores this process may use, a replica's share of them, and how it is kept to."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_CGROUPS: Final = Path("/sys/fs/cgroup")
_OWN_CGROUP: Final = Path("/proc/self/cgroup")


def threads_per_replica(replicas: int, cores: float | None = None) -> int:
    """Return the threads that each of so many replicas may use: more than its cores would make it crawl."""
    return max(1, int((available_cores() if cores is None else cores) // replicas))


def available_cores() -> float:
    """Return the cores that affinity and the cgroup's quota leave to this process."""
    cores = float(len(os.sched_getaffinity(0)))
    quotas = [quota for quota in (_unified_quota(_CGROUPS, _OWN_CGROUP), _legacy_quota(_CGROUPS)) if quota]
    return min([cores, *quotas])


def use_threads(threads: int) -> None:
    """Have torch compute on so many threads; what is started without torch is told by the environment."""
    if (torch := sys.modules.get("torch")) is None:
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(threads)
    elif torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def _unified_quota(root: Path, own: Path) -> float | None:
    """Return the least `cpu.max` on the way from the process's cgroup (version 2) up to the root."""
    entry = next((line for line in _lines(own) if line.startswith("0::")), "0::/")
    directory = root / entry.removeprefix("0::").strip("/")
    paths = [path for path in (directory, *directory.parents) if path.is_relative_to(root)]
    limits = [_cpu_max(path / "cpu.max") for path in paths]
    return min((limit for limit in limits if limit), default=None)


def _legacy_quota(root: Path) -> float | None:
    """Return the quota of a version 1 cgroup as a container sees it."""
    quota = _number(root / "cpu/cpu.cfs_quota_us")
    period = _number(root / "cpu/cpu.cfs_period_us")
    return quota / period if quota and period and quota > 0 else None


def _cpu_max(path: Path) -> float | None:
    fields = " ".join(_lines(path)).split()
    if len(fields) != 2 or not all(field.isdigit() for field in fields):  # noqa: PLR2004 - quota and period
        return None
    return int(fields[0]) / int(fields[1])


def _number(path: Path) -> int | None:
    text = "".join(_lines(path)).strip()
    return int(text) if text.removeprefix("-").isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
