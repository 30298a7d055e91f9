"""Where what was found or made for this machine is kept from start to start."""

from __future__ import annotations

from pathlib import Path

from platformdirs import user_cache_path


def cache_directory() -> Path | None:
    """Return the service's directory in the user's cache; None for a user without a home."""
    directory = user_cache_path("stream-infer")
    return directory if directory.is_absolute() else None
