"""Settings read and checked: one TOML file, overridden by the environment, before anything starts.

Every fault is reported at once, each with its key. Secrets come from the environment
(`STREAM_INFER__KAFKA__SASL_PASSWORD`) or from files, never from the settings file itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import SettingsError

from stream_infer.config import (
    BUILTIN_MODELS,
    ENV_DELIMITER,
    ENV_PREFIX,
    SENTENCE_READER,
    ModelSettings,
    Section,
    Settings,
    StreamSettings,
    StreamsSettings,
)
from stream_infer.engine.specs import ModelKind
from stream_infer.errors import ConfigError
from stream_infer.schemas import Task

_S = TypeVar("_S", bound=BaseModel)

_FITTING_KINDS = {
    Task.CLASSIFY: {ModelKind.EMBED, ModelKind.CLASSIFY},
    Task.TRANSLATE: {ModelKind.TRANSLATE},
    Task.ANSWER: {ModelKind.EMBED},
}
SECRETS = tuple(
    (section, key)
    for section, entries in Settings.model_fields.items()
    if isinstance(entries.annotation, type) and issubclass(entries.annotation, Section)
    for key, field in entries.annotation.model_fields.items()
    if SecretStr in get_args(field.annotation)
)
"""Every setting that is a secret, found by its type so that none can be forgotten."""
_READER_KINDS = {ModelKind.EXTRACT, ModelKind.GENERATE}


def load_settings(path: Path | None = None, **overrides: Any) -> Settings:
    """Return the settings of a TOML file (or none), overridden by `overrides`, then the environment.

    Raises:
        ConfigError: the file cannot be read or parsed, or settings are unknown or bad; every fault
            is named with its key.
    """
    values = _read_toml(path) if path else {}
    for section, entries in overrides.items():
        values[section] = {**values.get(section, {}), **entries}
    faults = [*_secret_faults(values), *_variable_faults()]
    settings: Settings | None = None
    try:
        settings = Settings(**values)
    except ValidationError as error:
        faults += [f"{_key(fault['loc'])}: {fault['msg']}" for fault in error.errors()]
    except SettingsError as error:
        faults.append(f"environment: {error}")
    faults += _reference_faults(*_readable_sections(settings, values))
    if settings is not None and settings.privacy.hides_text and settings.web.show_text:
        faults.append("web.show_text: shows the texts that privacy keeps from dead letters")
    if faults or settings is None:
        raise ConfigError("\n  ".join([f"{path or 'settings'}: {len(faults)} fault(s)", *faults]))
    return settings


def _secret_faults(values: dict[str, Any]) -> list[str]:
    faults = []
    for section, key in SECRETS:
        entries = values.get(section)
        if isinstance(entries, dict) and key in entries:
            # Taken out, so that no message about it can hold it.
            del entries[key]
            faults.append(f"{section}.{key}: secrets come from the environment or {section}.{key}_file")
    return faults


def _variable_faults() -> list[str]:
    """The variables of the environment that set nothing: the library passes over such a name."""
    prefixed = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    sections = {name: name[len(ENV_PREFIX) :].split(ENV_DELIMITER)[0].lower() for name in prefixed}
    return [
        f"{name}: there is no section {section!r}"
        for name, section in sections.items()
        if section not in Settings.model_fields
    ]


def _readable_sections(
    settings: Settings | None, values: dict[str, Any]
) -> tuple[dict[str, ModelSettings | None], dict[str, StreamSettings], str]:
    """The models, the streams and the side streams' model, as far as they can be read.

    A model that is declared but cannot be read is None. With bad settings this is read from the
    file's values alone.
    """
    if settings is not None:
        return dict(settings.models), settings.streams, settings.side_streams.model
    models = {**BUILTIN_MODELS, **_readable(ModelSettings, values.get("models"))}
    streams = _readable(StreamSettings, values.get("streams"))
    side_streams = _readable(StreamsSettings, {"": values.get("side_streams", {})})[""] or StreamsSettings()
    return models, {name: stream for name, stream in streams.items() if stream}, side_streams.model


def _readable(section: type[_S], values: Any) -> dict[str, _S | None]:
    """The entries of a table of sections, less their faulty settings; None where that is not enough."""
    found: dict[str, _S | None] = {}
    for name, entry in values.items() if isinstance(values, dict) else ():
        found[name] = None
        with suppress(ValidationError):
            found[name] = section.model_validate(_without_faults(section, entry))
    return found


def _without_faults(section: type[_S], entry: Any) -> Any:
    if not isinstance(entry, dict):
        return entry
    faulty: set[int | str] = set()
    try:
        section.model_validate(entry)
    except ValidationError as error:
        faulty = {fault["loc"][0] for fault in error.errors() if fault["loc"]}
    return {name: value for name, value in entry.items() if name not in faulty}


def _reference_faults(
    models: dict[str, ModelSettings | None], streams: dict[str, StreamSettings], side_model: str
) -> list[str]:
    """What is wrong between settings that are each valid."""
    inputs = [stream.input for stream in streams.values()]
    faults = _side_model_faults(models, side_model)
    for name, stream in streams.items():
        key = f"streams.{name}"
        faults += _model_faults(key, stream, models)
        if inputs.count(stream.input) > 1:
            faults.append(f"{key}.input: topic {stream.input!r} feeds more than one stream")
        if {stream.output, stream.dead_letters} & set(inputs):
            faults.append(f"{key}: a topic it writes to is also an input")
    embedders = sorted({stream.model for stream in streams.values() if stream.task is Task.ANSWER})
    if len(embedders) > 1:
        names = ", ".join(embedders)
        faults.append(f"streams: answers share one index, so one model must embed for all: {names}")
    elif embedders and embedders != [side_model]:
        faults.append(
            f"side_streams.model: passages are embedded by {side_model!r} and searched by {embedders[0]!r}, "
            "whose vectors cannot be compared"
        )
    return faults


def _side_model_faults(models: dict[str, ModelSettings | None], name: str) -> list[str]:
    if name not in models:
        return [f"side_streams.model: no model is named {name!r}"]
    model = models[name]
    if model is not None and model.kind is not ModelKind.EMBED:
        return [f"side_streams.model: a {model.kind} model cannot embed passages"]
    return []


def _model_faults(key: str, stream: StreamSettings, models: dict[str, ModelSettings | None]) -> Iterator[str]:
    if stream.model not in models:
        yield f"{key}.model: no model is named {stream.model!r}"
    elif (model := models[stream.model]) is not None and model.kind not in _FITTING_KINDS[stream.task]:
        yield f"{key}.model: a {model.kind} model cannot {stream.task}"
    if stream.reader_model is not None:
        is_known = stream.reader_model in models
        reader = models.get(stream.reader_model)
        if not is_known or (reader is not None and reader.kind not in _READER_KINDS):
            yield f"{key}.reader: neither {SENTENCE_READER!r} nor an extract or generate model"


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(str(part) for part in location) or "settings"
