"""The load generator stands outside: of the service it takes only how to reach and read any broker.

The bench is no part of it: it runs the service's engine, and the load generator knows nothing of it.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "loadgen"
CONSUMER = "stream_infer.bus.consumer"
BENCH, PEERS = ("loadgen.bench", "loadgen.peers"), "loadgen.peers"
HOOKS = {"stream_infer.bus.aborts", "stream_infer.bus.pacing", "stream_infer.bus.tolerance"}
SECURITY = {f"stream_infer.bus.{name}" for name in ("obstacles", "security", "tokens")}
ALLOWED = {
    "reading": {CONSUMER},
    "broker": SECURITY - {"stream_infer.bus.tokens"},
    "options": {"stream_infer.bus.security"},
    "__main__": {"stream_infer.bus.security"},
}
PURE = ("audit", "charts", "gauges", "latency", "outcomes", "recorder", "schedule", "search")


def imported(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    named = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return named | {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}


def of_the_service(path: Path) -> set[str]:
    return {name for name in imported(path) if name.startswith("stream_infer")}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_it_takes_of_the_service_what_it_may_and_no_more(path: Path) -> None:
    assert of_the_service(path) == ALLOWED.get(path.stem, set())


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_the_load_generator_knows_nothing_of_the_bench(path: Path) -> None:
    assert not {name for name in imported(path) if name.startswith(BENCH)}


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("bench/*.py")), ids=lambda path: path.name)
def test_only_the_contenders_own_processes_load_models(path: Path) -> None:
    """What the bench itself imports must not take memory or threads from those that are measured."""
    models = {"torch", "transformers", "onnxruntime", "ctranslate2", "stream_infer.engine.backend"}
    allowed = {f"{PEERS}.setup"}

    assert not imported(path) & models
    assert {name for name in imported(path) if name.startswith(PEERS)} <= allowed


@pytest.mark.parametrize("name", sorted({CONSUMER, *HOOKS, *SECURITY}))
def test_what_it_takes_knows_nothing_of_the_service(name: str) -> None:
    path = ROOT.joinpath(*name.split(".")).with_suffix(".py")

    assert of_the_service(path) <= (HOOKS if name == CONSUMER else SECURITY)


@pytest.mark.parametrize("name", PURE)
def test_decisions_do_no_input_or_output(name: str) -> None:
    assert not imported(PACKAGE / f"{name}.py") & {"aiokafka", "aiohttp", "asyncio", "time"}
