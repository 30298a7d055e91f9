"""The declared topics are whole, agree with the codec, and their AsyncAPI document is up to date."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stream_infer.bus import topics
from stream_infer.bus.asyncapi import render
from stream_infer.bus.codec import (
    DEAD_LETTER_PREFIX,
    ResultEncoder,
    encode_bare_dead_letter,
    encode_redacted_dead_letter,
)
from stream_infer.bus.topics import Difference, TopicSpec, load_specs, specs_for, worker_specs_for
from stream_infer.config import BUILTIN_STREAMS
from stream_infer.config_loading import load_settings
from stream_infer.errors import ConfigError
from stream_infer.schemas import DeadLetter, ModelInfo, Record, Result

TOPICS = Path(__file__).parents[2] / "topics"
RECORD = Record("t", 0, 0, 0, None, None, (("traceparent", b"x"),))


def declared() -> dict[str, TopicSpec]:
    return {spec.name: spec for spec in load_specs()}


def test_every_file_declares_the_topic_it_is_named_after() -> None:
    assert sorted(path.stem for path in TOPICS.glob("*.toml")) == sorted(declared())


def test_the_asyncapi_document_is_up_to_date() -> None:
    """`python -m stream_infer.bus.asyncapi > topics/asyncapi.yaml` writes it."""
    written = (TOPICS / "asyncapi.yaml").read_text(encoding="utf-8")

    assert render(load_specs(), yaml.safe_load(written)["info"]["version"]) == written


def test_the_topics_of_the_default_settings_are_declared() -> None:
    names = {spec.name for spec in specs_for(load_settings())}

    assert {"requests.classify", "results.answer", "dead-letters", "documents", "passages"} <= names
    assert "embeddings" not in names


def test_a_worker_starts_without_the_topics_of_trends_and_quality() -> None:
    needed = {spec.name for spec in worker_specs_for(load_settings())}
    others = {spec.name for spec in specs_for(load_settings())} - needed

    assert {"feedback", "observations", "trends", "quality"} <= others
    assert {"results.classify", "passages"} <= needed


def test_a_stream_of_another_name_gets_topics_like_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAM_INFER__CACHE__SHARED", "true")
    stream = {
        "task": "classify",
        "input": "reviews",
        "output": "labels",
        "dead_letters": "bad",
        "model": "sentiment",
    }

    specs = {spec.name: spec for spec in specs_for(load_settings(streams={"reviews": stream}))}

    assert {"reviews", "labels", "bad", "embeddings", "feedback", "trends"} <= set(specs)
    assert not {"documents", "passages"} & set(specs)
    assert declared()["requests.classify"].body == specs["reviews"].body
    assert declared()["dead-letters"].max_message_bytes == specs["bad"].max_message_bytes


@pytest.mark.parametrize("task", ["classify", "translate", "answer"])
def test_results_carry_the_declared_headers(task: str) -> None:
    info = ModelInfo("m", "s", "r", "int8", "cpu", 1)

    reader = info if task == "answer" else None

    out = ResultEncoder(BUILTIN_STREAMS[task], info, task, reader).encode(
        Result(RECORD, "id", task, {}, "m", late=True)
    )

    assert {name for name, _ in out.headers} - {"ce_specversion"} == set(
        declared()[f"results.{task}"].headers
    )


def test_dead_letters_carry_the_declared_headers() -> None:
    letter = DeadLetter(RECORD, "id", "s", "reason", "error", "stage")
    bare, redacted = (
        encode(letter, "dead-letters") for encode in (encode_bare_dead_letter, encode_redacted_dead_letter)
    )

    names = {name for name, _ in (*bare.headers, *redacted.headers)}
    assert {name for name in names if name.startswith(DEAD_LETTER_PREFIX)} == set(
        declared()["dead-letters"].headers
    )


def test_compacted_topics_keep_the_last_value_for_ever() -> None:
    assert "retention.ms" not in declared()["passages"].configs
    assert "compact" == declared()["passages"].configs["cleanup.policy"]
    assert "604800000" == declared()["requests.classify"].configs["retention.ms"]


def test_differences_are_sentences() -> None:
    assert "t: missing" == str(Difference("t", "topic", "present", None))
    assert "t: partitions is 1, declared is 4" == str(Difference("t", "partitions", "4", "1"))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("name =", "not valid TOML"),
        ('name = "a b"', "name: .*; description: Field required"),
        ("x = 1", ".*x: Extra inputs"),
    ],
)
def test_a_faulty_declaration_is_named(
    text: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.toml").write_text(text)
    monkeypatch.setattr(topics, "_directory", lambda: tmp_path)

    with pytest.raises(ConfigError, match=rf"broken\.toml: {fault}"):
        load_specs()


def test_installed_declarations_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel carries the files inside the package; a checkout has them beside it."""
    (tmp_path / "topics").mkdir()
    files: Any = lambda _package: tmp_path  # noqa: E731 - stands in for importlib.resources.files
    monkeypatch.setattr(topics, "files", files)

    assert [] == load_specs()
