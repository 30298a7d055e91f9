"""Settings as they are in the end, to be looked at: whole, and without a secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import tomli_w

from stream_infer.config import ENV_DELIMITER, ENV_PREFIX, Settings

_LOGIN: Final = re.compile(r"(?<=//)[^/@\s]+(?=@)")
HIDDEN: Final = "**********"


def show_settings(settings: Settings, path: Path | None, variables: Iterable[str]) -> str:
    """Return all settings as TOML, with where they come from above: the file, variables, defaults.

    What is a secret, or a login within an address, is hidden; what is not set is left out.
    """
    shown = tomli_w.dumps(_hidden(settings.model_dump(mode="json", exclude_none=True)))
    names = sorted(name for name in variables if name.upper().startswith(ENV_PREFIX))
    lines = [f"# File: {path or 'none'}", *(f"# {_key(name)} is set by {name}" for name in names)]
    return "\n".join([*lines, "# All else that the file does not set is default.", "", shown])


def _key(variable: str) -> str:
    return variable[len(ENV_PREFIX) :].lower().replace(ENV_DELIMITER, ".")


def _hidden(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _hidden(inner) for name, inner in value.items()}
    return _LOGIN.sub(HIDDEN, value) if isinstance(value, str) else value
