"""The wire's values: msgpack maps or JSON objects, read without ever trusting them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, NoReturn

import msgpack

from stream_infer.errors import MalformedRecordError

Format = Literal["msgpack", "json"]

CONTENT_TYPES: dict[Format, bytes] = {"msgpack": b"application/msgpack", "json": b"application/json"}

_JSON_OPENERS = frozenset(b"{ \t\r\n")
"""None of these bytes opens a msgpack map, so the first byte tells the formats apart."""
_KINDS = (
    (bool, "a boolean"),
    (str, "a string"),
    (int, "an integer"),
    (float, "a number"),
    (bytes, "bytes"),
    (list, "a list"),
    (dict, "a map"),
)


def encode_value(fields: Mapping[str, object], form: Format) -> bytes:
    """Return the fields as a record's value.

    Raises:
        ValueError: a number is not finite, which JSON cannot say.
    """
    if form == "json":
        return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return msgpack.packb(fields)


def decode_value(value: bytes, content_type: bytes | None) -> dict[str, Any]:
    """Return the fields of a record's value, of whichever format it is.

    Raises:
        MalformedRecordError: it is not one msgpack map or JSON object with string keys and valid
            UTF-8, nested within the decoders' limits.
    """
    if not value:
        raise MalformedRecordError("the value is empty")
    if (content_type is not None and b"json" in content_type) or value[0] in _JSON_OPENERS:
        return _decode_json(value)
    return _decode_msgpack(value)


def kind_of(value: object) -> str:
    """Return how a message names the type of a decoded value."""
    if value is None:
        return "nothing"
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "an unknown type")


def _decode_msgpack(value: bytes) -> dict[str, Any]:
    try:
        fields = msgpack.unpackb(value)
    except UnicodeDecodeError as error:
        raise MalformedRecordError("the value holds a string that is not valid UTF-8") from error
    except msgpack.ExtraData as error:
        raise MalformedRecordError("the value goes on after the end of its msgpack map") from error
    except msgpack.StackError as error:
        raise MalformedRecordError("the value is nested too deeply") from error
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
        raise MalformedRecordError("the value is neither a msgpack map with string keys nor JSON") from error
    return _require_map(fields)


def _decode_json(value: bytes) -> dict[str, Any]:
    try:
        fields = _JSON.decode(value.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise MalformedRecordError("the JSON value is not valid UTF-8") from error
    except RecursionError as error:
        raise MalformedRecordError("the value is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise MalformedRecordError(
            f"the value is not valid JSON: {error.msg} at character {error.pos}"
        ) from error
    except ValueError as error:
        raise MalformedRecordError(f"the value is not valid JSON: {error}") from error
    return _require_map(fields)


def _require_map(fields: object) -> dict[str, Any]:
    if not isinstance(fields, dict):
        raise MalformedRecordError(f"the value is {kind_of(fields)}, not a map of fields")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


_JSON = json.JSONDecoder(parse_constant=_refuse_constant)
