"""Models of the Hugging Face hub: from the local cache, or fetched once."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any, Final, cast

from stream_infer.errors import ConfigError

_PATTERNS: Final = ("*.json", "*.safetensors", "*.txt", "*.model", "*.spm", "*.jinja")
_CONNECT_TIMEOUT_S: Final = 3.0
_TRUE: Final = {"1", "ON", "YES", "TRUE"}


def find_snapshot(repository: str, revision: str | None) -> Path:
    """Return the directory of a repository's files at `revision` (a commit, tag or branch; None is main).

    A cached snapshot is used as it is, so a start needs no network once a model is there; to follow
    a branch, name a new commit. Only formats that cannot run code are fetched.

    Raises:
        ConfigError: it is neither cached nor to be had, known after a few seconds.
    """
    if (cached := _cached_snapshot(repository, revision)) is not None:
        return cached
    what = f"model source hub:{repository}" + (f"@{revision}" if revision else "")
    advice = "fetch it beforehand on a machine with network, or use a path: or package: source"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE:
        raise ConfigError(f"{what}: not in the local cache, and HF_HUB_OFFLINE is set; {advice}")
    if not _hub_is_reachable():
        raise ConfigError(f"{what}: not in the local cache, and the hub cannot be reached; {advice}")
    try:
        return Path(_snapshot(repository, revision, etag_timeout=_CONNECT_TIMEOUT_S))
    except Exception as error:  # the client raises its own, its HTTP library's and the system's errors
        raise ConfigError(f"{what}: cannot be fetched: {type(error).__name__}: {error}") from error


def _cached_snapshot(repository: str, revision: str | None) -> Path | None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError  # noqa: PLC0415 - slow import

    try:
        directory = Path(_snapshot(repository, revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise ConfigError(f"model source hub:{repository}: not a repository name: {error}") from error
    # A snapshot may hold only the files that something else once asked for.
    is_whole = (directory / "config.json").is_file() and any(directory.glob("*.safetensors"))
    return directory if is_whole else None


def _snapshot(repository: str, revision: str | None, **settings: Any) -> str:
    from huggingface_hub import snapshot_download  # noqa: PLC0415 - slow import, needed by hub models only

    found = snapshot_download(repository, revision=revision, allow_patterns=list(_PATTERNS), **settings)
    return cast("str", found)


def _hub_is_reachable() -> bool:
    # The client retries for minutes where nothing answers; one bounded attempt tells first.
    from urllib.parse import urlsplit  # noqa: PLC0415

    from huggingface_hub import constants  # noqa: PLC0415 - slow import, needed by hub models only

    address = urlsplit(constants.ENDPOINT)
    proxy = os.environ.get("HTTPS_PROXY") or os.environ.get("https_proxy")
    target = urlsplit(proxy) if proxy else address
    port = target.port or (80 if target.scheme == "http" else 443)
    try:
        socket.create_connection((target.hostname or "", port), timeout=_CONNECT_TIMEOUT_S).close()
    except OSError:
        return False
    return True
