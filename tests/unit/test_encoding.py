"""What goes out for an outcome, also when it cannot go out as it is."""

from __future__ import annotations

from stream_infer.config import BUILTIN_STREAMS
from stream_infer.schemas import DeadLetter, ModelInfo, Record, Result
from stream_infer.service.encoding import OutcomeEncoder

INFO = ModelInfo("m", "s", "r", "int8", "cpu", 1)
RECORD = Record("requests.classify", 0, 7, 1_000, b"key", b"value")


def encoder(form: str = "json", *, hides_text: bool = False) -> OutcomeEncoder:
    stream = BUILTIN_STREAMS["classify"].model_copy(update={"response_format": form})
    return OutcomeEncoder("classify", stream, INFO, hides_text=hides_text)


def result(body: dict[str, object]) -> Result:
    return Result(RECORD, "id", "classify", body, "m")


def test_a_result_goes_out_as_it_is() -> None:
    given = result({"label": "good"})

    outcome, record = encoder().encode(given)

    assert given is outcome
    assert ("results.classify", b'{"id":"id","label":"good"}') == (record.topic, record.value)


def test_a_result_that_cannot_be_encoded_becomes_a_dead_letter() -> None:
    """JSON has no word for infinity; the record must not stop its neighbours for ever."""
    outcome, record = encoder().encode(result({"score": float("inf")}))

    assert isinstance(outcome, DeadLetter)
    assert ("internal", "publish", "id") == (outcome.reason, outcome.stage, outcome.id)
    assert ("dead-letters", b"key", b"value") == (record.topic, record.key, record.value)


def test_what_is_too_large_shrinks_step_by_step() -> None:
    """A result becomes a dead letter, and that loses what it carries."""
    given = result({"label": "good"})

    letter, whole = encoder().shrink(given, encoder().encode(given)[1])
    same, bare = encoder().shrink(letter, whole)

    assert isinstance(letter, DeadLetter)
    assert same is letter
    assert (b"value", None) == (whole.value, bare.value)


def test_a_result_that_is_too_large_says_how_large_each_part_of_it_is() -> None:
    """Which part to do something about; that neither is quoted keeps the sizes where text is hidden."""
    given = result({"label": "good" * 100})
    record = encoder().encode(given)[1]
    headers = sum(len(name) + len(content or b"") for name, content in record.headers)
    sizes = f"{3 + 422 + headers} bytes (key 3, value 422, headers {headers})"

    for hides_text in (False, True):
        letter, out = encoder(hides_text=hides_text).shrink(given, record)

        assert isinstance(letter, DeadLetter)
        assert ("result_too_large", "publish") == (letter.reason, letter.stage)
        told = (dict(out.headers)["dead_letter_error"] or b"").decode()
        assert f"ResultTooLargeError: the result has {sizes}, more than topic results.classify takes" == told
