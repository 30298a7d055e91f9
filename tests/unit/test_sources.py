"""The sources hold nothing by which data becomes code: no pickles, no evaluation, no shell."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "stream_infer").rglob("*.py"))

MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "multiprocessing",
}
"""Those that read pickles or code; processes of this package speak msgpack."""
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {
    ("torch", "load"),
    ("np", "load"),
    ("numpy", "load"),
    ("yaml", "load"),
    ("os", "system"),
    ("os", "popen"),
}


def faults(source: str) -> list[str]:
    """Return what in the source would let data become code."""
    return [fault for node in ast.walk(ast.parse(source)) for fault in _faults_of(node)]


def _faults_of(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in MODULES)
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
        yield str(node.module)
    elif isinstance(node, ast.Call):
        yield from _faults_of_call(node)


def _faults_of_call(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name) and node.func.id in BUILTINS:
        yield node.func.id
    if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name):
        called = (node.func.value.id, node.func.attr)
        if called in METHODS:
            yield ".".join(called)
    if isinstance(node.func, ast.Attribute) and node.func.attr == "from_pretrained":
        wanted = {"AutoConfig": "trust_remote_code"}.get(ast.unparse(node.func.value), "use_safetensors")
        if not {wanted, None} & {keyword.arg for keyword in node.keywords}:
            yield f"{ast.unparse(node.func)} without {wanted}"
    for keyword in node.keywords:
        is_off = isinstance(keyword.value, ast.Constant) and keyword.value.value is False
        if keyword.arg in {"shell", "trust_remote_code", "allow_pickle"} and not is_off:
            yield str(keyword.arg)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_data_never_becomes_code(path: Path) -> None:
    assert [] == faults(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "import multiprocessing.connection",
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "numpy.load(path)",
        "yaml.load(text)",
        "eval(text)",
        "exec(text)",
        "compile(text, '', 'exec')",
        "run(command, shell=True)",
        "run(command, shell=setting)",
        "AutoModel.from_pretrained(path)",
        "AutoModel.from_pretrained(path, use_safetensors=True, trust_remote_code=True)",
        "np.lib.format.read_array(file, allow_pickle=True)",
    ],
)
def test_what_would_let_it_is_found(source: str) -> None:
    """A check that finds nothing anywhere would be none."""
    assert 1 == len(faults(source))


@pytest.mark.parametrize("source", ["re.compile(text)", "model.eval()", "run(command, shell=False)"])
def test_what_only_looks_alike_is_not(source: str) -> None:
    assert [] == faults(source)
