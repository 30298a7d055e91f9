"""Settings: defaults, overrides, and every fault named at once."""

from pathlib import Path

import pytest

from stream_infer.config_loading import load_settings
from stream_infer.errors import ConfigError


def settings_file(directory: Path, text: str) -> Path:
    path = directory / "stream-infer.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_streams_use_the_packaged_models() -> None:
    assert {"encoder", "sentiment", "translator"} == set(load_settings().used_models)


def test_only_models_that_a_stream_uses_are_loaded(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        '[streams.mood]\ntask = "classify"\ninput = "posts"\noutput = "moods"\nmodel = "sentiment"\n',
    )

    assert ["sentiment"] == list(load_settings(path).used_models)


def test_the_environment_wins_over_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = settings_file(tmp_path, '[service]\ngroup = "from-file"\nreplicas = 2\n')
    monkeypatch.setenv("STREAM_INFER__SERVICE__GROUP", "from-environment")

    settings = load_settings(path)

    assert ("from-environment", 2) == (settings.service.group, settings.service.replicas)


def test_every_fault_is_named_with_its_key(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        """
        [service]
        replicas = 0
        colour = "blue"
        [streams.mood]
        task = "classify"
        input = "posts"
        output = "moods"
        model = "missing"
        [streams.speech]
        task = "translate"
        input = "posts"
        output = "posts"
        model = "encoder"
        latency_budget_ms = "soon"
        """,
    )

    with pytest.raises(ConfigError) as caught:
        load_settings(path)

    message = str(caught.value)
    for fault in (
        "service.replicas",
        "service.colour",
        "streams.mood.model",
        "streams.speech.latency_budget_ms",
    ):
        assert fault in message


def test_a_fault_does_not_hide_another_kind(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        """
        [kafka]
        sasl_password = "hunter2"
        [models.mood]
        kind = "classify"
        source = "path:mood"
        max_batch_tokens = 0
        [streams.posts]
        task = "classify"
        input = "posts"
        output = "moods"
        model = "mood"
        [streams.speech]
        task = "translate"
        input = "speech"
        output = "words"
        model = "missing"
        latency_budget_ms = -1
        [side_streams]
        model = "absent"
        """,
    )

    with pytest.raises(ConfigError) as caught:
        load_settings(path)

    faults = {line.split(": ")[0].strip() for line in str(caught.value).splitlines()[1:]}
    assert {
        "kafka.sasl_password",
        "models.mood.max_batch_tokens",
        "streams.speech.latency_budget_ms",
        "streams.speech.model",
        "side_streams.model",
    } == faults
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("section", ["models", "streams", "kafka", "side_streams"])
def test_a_value_in_place_of_a_section_is_a_fault(tmp_path: Path, section: str) -> None:
    with pytest.raises(ConfigError, match=rf"\n  {section}: .*dict"):
        load_settings(settings_file(tmp_path, f"{section} = 3\n"))


@pytest.mark.parametrize(
    ("variable", "fault"),
    [
        ("STREAM_INFER__TYPO__GROUP", "STREAM_INFER__TYPO__GROUP: there is no section 'typo'"),
        ("STREAM_INFER__SERVICE", 'environment: .*"service"'),
        ("STREAM_INFER__SERVICE__COLOUR", "service.colour: "),
    ],
)
def test_a_variable_that_sets_nothing_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, variable: str, fault: str
) -> None:
    monkeypatch.setenv(variable, "blue")

    with pytest.raises(ConfigError, match=fault):
        load_settings()


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        ("absent", "side_streams.model: no model is named 'absent'"),
        ("translator", "side_streams.model: a translate model cannot embed passages"),
        ("sentiment", "side_streams.model: passages are embedded by 'sentiment' and searched by 'encoder'"),
    ],
)
def test_the_side_streams_embed_for_the_answers(tmp_path: Path, model: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        load_settings(settings_file(tmp_path, f'[side_streams]\nmodel = "{model}"\n'))


@pytest.mark.parametrize(
    ("stream", "fault"),
    [
        ('model = "missing"', "streams.x.model: no model is named 'missing'"),
        ('model = "translator"', "streams.x.model: a translate model cannot classify"),
        ('model = "sentiment"\ndead_letters = "in"', "streams.x: a topic it writes to is also an input"),
    ],
)
def test_references_are_checked(tmp_path: Path, stream: str, fault: str) -> None:
    path = settings_file(
        tmp_path, f'[streams.x]\ntask = "classify"\ninput = "in"\noutput = "out"\n{stream}\n'
    )

    with pytest.raises(ConfigError, match=fault):
        load_settings(path)


@pytest.mark.parametrize(("section", "key"), [("kafka", "sasl_password"), ("web", "token")])
def test_a_secret_in_the_file_is_refused(tmp_path: Path, section: str, key: str) -> None:
    path = settings_file(tmp_path, f'[{section}]\n{key} = "hunter2"\n')

    with pytest.raises(ConfigError, match=rf"{section}\.{key}: .* or {section}\.{key}_file") as caught:
        load_settings(path)

    assert "hunter2" not in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_settings(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="not valid TOML"):
        load_settings(settings_file(tmp_path, "[service\n"))


def test_answers_share_one_embedder(tmp_path: Path) -> None:
    stream = '[streams.{0}]\ntask = "answer"\ninput = "in-{0}"\noutput = "out-{0}"\nmodel = "{1}"\n'
    path = settings_file(tmp_path, stream.format("a", "encoder") + stream.format("b", "sentiment"))

    with pytest.raises(ConfigError, match="one model must embed for all: encoder, sentiment"):
        load_settings(path)


def test_traces_are_off_unless_asked_for_and_headers_stay_out_of_the_file(tmp_path: Path) -> None:
    assert not load_settings().traces.enabled
    path = settings_file(
        tmp_path, '[traces]\nendpoint = "collector:4317"\nsample_ratio = 1.5\nheaders = "authorization=x"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_settings(path)
    for key in ("traces.endpoint", "traces.sample_ratio", "traces.headers"):
        assert f"{key}:" in str(caught.value)
