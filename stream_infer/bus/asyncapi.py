"""The declared topics as an AsyncAPI document.

`python -m stream_infer.bus.asyncapi > topics/asyncapi.yaml` writes it anew.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import yaml

from stream_infer.bus.topics import FieldSpec, TopicSpec, load_specs

_ACTIONS = {"receive": "receive", "send": "send"}


def render(specs: Sequence[TopicSpec], release: str) -> str:
    """Return the topics as AsyncAPI 3.0 in YAML."""
    document = {
        "asyncapi": "3.0.0",
        "info": {
            "title": "stream_infer",
            "version": release,
            "description": "Streaming inference on Kafka. Made from the files beside it; do not edit.",
        },
        "defaultContentType": "application/msgpack",
        "channels": {spec.name: _channel(spec) for spec in specs},
        "operations": {
            f"{_ACTIONS[spec.direction]} {spec.name}": {
                "action": _ACTIONS[spec.direction],
                "channel": {"$ref": f"#/channels/{spec.name}"},
            }
            for spec in specs
            if spec.direction in _ACTIONS
        },
    }
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100)


def _channel(spec: TopicSpec) -> dict[str, Any]:
    message: dict[str, Any] = {"name": spec.name}
    if spec.headers:
        message["headers"] = {
            "type": "object",
            "properties": {
                name: {"type": "string", "description": text} for name, text in spec.headers.items()
            },
        }
    if spec.body:
        message["payload"] = _payload(spec.body)
    return {
        "address": spec.name,
        "description": spec.description,
        "messages": {"record": message | {"bindings": {"kafka": {"key": {"description": spec.key}}}}},
        "bindings": {"kafka": {"partitions": spec.partitions, "topicConfiguration": _configuration(spec)}},
    }


def _configuration(spec: TopicSpec) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": [spec.cleanup_policy]}
    if spec.cleanup_policy == "delete":
        configuration["retention.ms"] = spec.retention_ms
    return configuration | {"max.message.bytes": spec.max_message_bytes}


def _payload(body: dict[str, FieldSpec]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {name: _schema(field) for name, field in body.items()},
        "required": [name for name, field in body.items() if field.required],
    }


def _schema(field: FieldSpec) -> dict[str, Any]:
    schema: dict[str, Any] = {
        "type": [field.type, "null"] if field.nullable else field.type,
        "description": field.description,
    }
    optional = {"format": field.encoding, "items": field.items, "additionalProperties": field.values}
    return schema | {name: value for name, value in optional.items() if value is not None}


if __name__ == "__main__":
    sys.stdout.write(render(load_specs(), version("stream-infer")))
