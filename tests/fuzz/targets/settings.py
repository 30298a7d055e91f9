"""The settings file and the environment."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from unittest.mock import patch

from stream_infer.config import ENV_PREFIX, Settings
from stream_infer.config_loading import load_settings
from stream_infer.errors import ConfigError
from tests.fuzz.feed import Feed
from tests.fuzz.target import Target, attempt_file

_VARIABLES = (
    "KAFKA",
    "KAFKA__SASL_PASSWORD",
    "KAFKA__SESSION_TIMEOUT_MS",
    "MODELS__MOOD__KIND",
    "NOTHING__KEY",
    "SERVICE",
    "SERVICE__THREADS",
    "STREAMS",
    "STREAMS__CLASSIFY__TASK",
    "WEB__TOKEN",
)
_SECRET = "a secret that stands in no file"  # noqa: S105 - it is the test's own


def check_settings(data: bytes) -> None:
    """Settings are whole, or refused with the file's name and no secret in the message.

    The environment holds one variable at most: the library goes through all of them for every setting.
    """
    feed = Feed(data)
    name = ENV_PREFIX + feed.choice(_VARIABLES) if feed.below(2) else None
    value = feed.text().replace("\0", "") or _SECRET
    with patch.object(os, "environ", {} if name is None else {name: value}):
        loaded = attempt_file(ConfigError, feed.rest(), _load)
    assert loaded is None or loaded.used_models.keys() <= loaded.models.keys()


def _load(path: Path) -> Settings:
    try:
        return load_settings(path)
    except ConfigError as error:
        assert _SECRET not in str(error)  # noqa: PT017 - most inputs raise nothing
        raise


_WHOLE = b"""
[service]
group = "g"
[kafka]
session_timeout_ms = 6000
[models.mood]
kind = "classify"
source = "path:/m"
[streams.posts]
task = "classify"
input = "posts"
output = "moods"
model = "mood"
[web]
port = 0
[traces]
endpoint = "http://127.0.0.1:1/"
sample_ratio = 0.5
"""
assert tomllib.loads(_WHOLE.decode())
TARGETS = (
    Target(
        "settings",
        check_settings,
        (
            b"\0\0" + _WHOLE,
            b"\1\6\0022" + _WHOLE,
            b'\1\2\5"6000' + b'[kafka]\nsasl_password = "p"\n[streams]\nx = 1',
            b'\1\7\2{}[streams.a]\ntask = "answer"\ninput = "i"\noutput = "i"\nmodel = "encoder"',
        ),
        max_bytes=1_024,
    ),
)
