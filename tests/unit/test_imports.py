"""The architecture holds: imports point one way and each outside library has one home."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "stream_infer"

MAY_IMPORT = {
    "errors": set(),
    "schemas": set(),
    "text": set(),
    "sentences": set(),
    "log": set(),
    "heap": set(),
    "counting": {"errors", "schemas"},
    "metrics": {"config", "counting", "errors"},
    "personal_data": {"errors", "schemas"},
    "config": {"engine.specs", "personal_data", "schemas"},
    "config_loading": {"config", "engine.specs", "errors", "schemas"},
    "config_showing": {"config"},
    "tasks": {"retrieval", "schemas", "errors", "sentences", "text"},
    "retrieval": {"schemas", "errors", "sentences", "text"},
    "engine": {"schemas", "errors", "text", "log", "heap"},
    "flow": {"tasks", "retrieval", "schemas", "errors"},
    "bus": {"config", "schemas", "errors", "text"},
    "web": {"config", "errors"},
    "top": {"web", "errors"},
    "tracing": {"schemas", "errors"},
    "client": {"bus", "config", "schemas", "errors", "tracing.current"},
    "evaluation": {"errors", "schemas"},
    "training": {"engine", "errors", "text"},
}
"""Which rooms a room may import besides itself; rooms not named here are on top and may import all."""

HOMES = {
    "aiokafka": {"bus"},
    "faust": {"streams"},
    "torch": {"engine", "training"},
    "transformers": {"engine", "training"},
    "bitsandbytes": {"engine"},
    "faiss": {"retrieval"},
    "datafog": {"personal_data"},
    "typer": {"cli"},
    "aiohttp": {"web", "bus"},
    "opentelemetry": {"tracing"},
    "requests": {"tracing"},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    here = room(path)
    allowed = MAY_IMPORT.get(here)
    if allowed is None:
        return
    for name in imported(path):
        if name.startswith("stream_infer."):
            inner = name.removeprefix("stream_infer.")
            is_allowed = any(inner == target or inner.startswith(f"{target}.") for target in {*allowed, here})
            assert is_allowed, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_each_outside_library_has_one_home(path: Path) -> None:
    for name in imported(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or room(path) in homes, f"{path.relative_to(PACKAGE)} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_every_consumer_is_made_where_it_is_hardened(path: Path) -> None:
    """One made elsewhere would stop at a header name, or skip what follows a stale abort."""
    names = {
        node.id
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name)
    }

    assert ("AIOKafkaConsumer" in names) == (path == PACKAGE / "bus" / "consumer.py")
