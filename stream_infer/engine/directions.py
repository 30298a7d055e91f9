"""Which directions a translation model serves, and how it is told which one is meant. No torch.

A direction is written source-target in the model's own language codes: `en-pt`, `eng_Latn-por_Latn`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Final, cast

from stream_infer.engine.sources import ModelSource
from stream_infer.errors import ConfigError

_TINY_NAME: Final = re.compile(r"([a-z]{2,3})-([a-z]{2,3})\b")
_PREFIX_TASK: Final = re.compile(r"translation_([a-z]+)_to_([a-z]+)")
_MARIAN_TARGET: Final = re.compile(r">>([A-Za-z_]+)<<")
_LANGUAGE_TOKEN: Final = re.compile(r"__([a-z]{2,3})__|([a-z]{2,3}_[A-Z][A-Za-z]+)")


@dataclass(frozen=True, slots=True)
class Direction:
    """How a multilingual model is told what to translate into what.

    `text_prefix` stands before the text, `id_prefix` before its tokens, and the translation must
    begin with the token `first`.
    """

    text_prefix: str = ""
    id_prefix: tuple[int, ...] = ()
    first: int | None = None


@dataclass(frozen=True, slots=True)
class TinyModelFiles:
    """Where the parts of one tiny Marian model lie."""

    weights: Path
    vocabulary: Path
    shortlist: Path | None = None


def find_tiny_models(source: ModelSource) -> dict[str, TinyModelFiles]:
    """Return the tiny Marian models of `source` by direction; none when it is a model of another kind.

    Such a model is a directory with one Marian `model.*.bin`, one sentencepiece vocabulary, a
    `model_info.json` whose short name begins with the direction, and, if it likes, a shortlist `lex.*.bin`.
    """
    found = {}
    for card in (file for file in source.files if file.name == "model_info.json"):
        beside = [file for file in source.files if file.parent == card.parent]
        weights = [file for file in beside if file.name.startswith("model.") and file.suffix == ".bin"]
        vocabularies = [file for file in beside if file.suffix == ".spm"]
        shortlists = [file for file in beside if file.name.startswith("lex.") and file.suffix == ".bin"]
        name = _TINY_NAME.match(str(read_json(card).get("shortName")))
        if not name or len(weights) != 1 or len(vocabularies) != 1:
            raise ConfigError(f"{card.parent} does not hold one model, one vocabulary and its direction")
        files = TinyModelFiles(weights[0], vocabularies[0], shortlists[0] if shortlists else None)
        found[f"{name[1]}-{name[2]}"] = files
    return found


def find_directions(source: ModelSource) -> dict[str, Direction]:
    """Return the directions of a Hugging Face sequence-to-sequence model.

    Known are: models with task prefixes in their configuration (T5), Marian models of one or of
    several targets, and models with a token for each language (M2M100, NLLB, mBART-50).

    Raises:
        ConfigError: the files do not say which languages the model knows.
    """
    directory = source.model_directory
    config = read_json(directory / "config.json")
    settings = read_json(directory / "tokenizer_config.json")
    found = (
        _from_prefixes(config)
        or _from_marian(directory, settings)
        or _from_language_tokens(_token_ids(directory, settings))
    )
    if not found:
        raise ConfigError(
            f"{source.text}: the model does not say which languages it translates; "
            'put "source_lang" and "target_lang" into its tokenizer_config.json'
        )
    return found


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file, or an empty one when there is no such file."""
    if not path.is_file():
        return {}
    return cast("dict[str, Any]", json.loads(path.read_text(encoding="utf-8")))


def _from_prefixes(config: Mapping[str, Any]) -> dict[str, Direction]:
    tasks = config.get("task_specific_params") or {}
    matches = ((_PREFIX_TASK.fullmatch(name), task) for name, task in tasks.items())
    return {
        f"{match[1]}-{match[2]}": Direction(text_prefix=str(task.get("prefix", "")))
        for match, task in matches
        if match
    }


def _from_marian(directory: Path, settings: Mapping[str, Any]) -> dict[str, Direction]:
    source, target = settings.get("source_lang"), settings.get("target_lang")
    if not source or not target:
        return {}
    tokens = read_json(directory / "vocab.json")
    matches = ((_MARIAN_TARGET.fullmatch(token), number) for token, number in tokens.items())
    several = {f"{source}-{match[1]}": Direction(id_prefix=(number,)) for match, number in matches if match}
    return several or {f"{source}-{target}": Direction()}


def _from_language_tokens(tokens: Mapping[str, int]) -> dict[str, Direction]:
    matches = ((_LANGUAGE_TOKEN.fullmatch(token), number) for token, number in tokens.items())
    languages = {match[1] or match[2]: number for match, number in matches if match}
    return {
        f"{source}-{target}": Direction(id_prefix=(languages[source],), first=languages[target])
        for source, target in permutations(languages, 2)
    }


def _token_ids(directory: Path, settings: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of the added tokens; M2M100 numbers them on from the end of its vocabulary."""
    if tokens := read_json(directory / "tokenizer.json").get("added_tokens"):
        return {token["content"]: token["id"] for token in tokens}
    if decoder := settings.get("added_tokens_decoder"):
        return {token["content"]: int(number) for number, token in decoder.items()}
    special = read_json(directory / "special_tokens_map.json").get("additional_special_tokens") or ()
    first = len(read_json(directory / "vocab.json"))
    return {content: first + place for place, content in enumerate(_contents(special))}


def _contents(tokens: Iterable[Any]) -> list[str]:
    return [token["content"] if isinstance(token, dict) else str(token) for token in tokens]
