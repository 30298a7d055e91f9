from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from stream_infer.engine.beams import decode_with_beams
from stream_infer.engine.greedy import decode_greedily, find_largest, follow
from stream_infer.engine.marian import PackedMarian
from stream_infer.engine.marian_file import MarianFile
from stream_infer.engine.marian_layers import PackedMarianConfig
from stream_infer.engine.marian_loading import EXPECTED_SETTINGS, build_model
from stream_infer.engine.marian_lookback import FIRST_CAPACITY, Past
from stream_infer.engine.marian_rows import MEMORY_STEP, TorchRows
from stream_infer.engine.quantization import quantize
from stream_infer.errors import ConfigError

SIZE, INNER, WORDS, HEADS, ENCODERS, DECODERS = 32, 48, 60, 4, 2, 2
SETTINGS = EXPECTED_SETTINGS | {"transformer-heads": "4", "enc-depth": "2", "dec-depth": "2"}

Array = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.float32]]


def draw_weights() -> dict[str, NDArray[np.float32]]:
    """Return random weights under the names of a Marian file, matrices as [out, in]."""
    shapes: dict[str, tuple[int, int]] = {"Wemb": (WORDS, SIZE), "decoder_ff_logit_out_b": (1, WORDS)}
    layers = [f"encoder_l{n + 1}_" for n in range(ENCODERS)] + [f"decoder_l{n + 1}_" for n in range(DECODERS)]
    for layer in layers:
        attention = "self" if layer.startswith("encoder") else "context"
        shapes |= {f"{layer}{attention}_W{kind}": (SIZE, SIZE) for kind in "qkvo"}
        shapes |= {f"{layer}{attention}_b{kind}": (1, SIZE) for kind in "qkvo"}
        shapes |= {f"{layer}ffn_W1": (INNER, SIZE), f"{layer}ffn_W2": (SIZE, INNER)}
        shapes |= {f"{layer}ffn_b1": (1, INNER), f"{layer}ffn_b2": (1, SIZE)}
        norms = [f"{layer}{attention}_Wo", f"{layer}ffn_ffn"]
        if attention == "context":
            shapes |= {
                f"{layer}rnn_W": (SIZE, SIZE),
                f"{layer}rnn_Wf": (SIZE, SIZE),
                f"{layer}rnn_bf": (1, SIZE),
            }
            norms.append(f"{layer}rnn_ffn")
        shapes |= {f"{norm}_ln_{part}": (1, SIZE) for norm in norms for part in ("scale", "bias")}
    generator = np.random.default_rng(5)
    return {name: generator.normal(0, 0.4, shape).astype(np.float32) for name, shape in shapes.items()}


WEIGHTS = draw_weights()


@pytest.fixture(autouse=True)
def _one_core() -> Iterator[None]:
    """On two cores such small products are slower, and a hundred times as slow when the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def make_model() -> PackedMarian:
    return build_model(MarianFile(WEIGHTS, SETTINGS))


def normalise(values: Array, name: str, weights: Weights) -> Array:
    centred = values - values.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return np.asarray(scaled * weights[f"{name}_ln_scale"] + weights[f"{name}_ln_bias"], np.float64)


def attend(queries: Array, memory: Array, name: str, weights: Weights) -> Array:
    def project(values: Array, kind: str) -> Array:
        return np.asarray(values @ weights[f"{name}_W{kind}"].T + weights[f"{name}_b{kind}"], np.float64)

    query, key, value = project(queries, "q"), project(memory, "k"), project(memory, "v")
    heads = []
    for part in np.split(np.arange(SIZE), HEADS):
        scores = query[:, part] @ key[:, part].T / np.sqrt(SIZE / HEADS)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        heads.append(shares / shares.sum(-1, keepdims=True) @ value[:, part])
    return project(np.concatenate(heads, -1), "o")


def feed_forward(values: Array, layer: str, weights: Weights) -> Array:
    inner = np.maximum(values @ weights[f"{layer}ffn_W1"].T + weights[f"{layer}ffn_b1"], 0)
    outer = inner @ weights[f"{layer}ffn_W2"].T + weights[f"{layer}ffn_b2"]
    return normalise(values + outer, f"{layer}ffn_ffn", weights)


def signal(position: int) -> Array:
    rates = 10_000.0 ** (-np.arange(SIZE // 2) / (SIZE // 2 - 1))
    return np.concatenate([np.sin(position * rates), np.cos(position * rates)])


def expected_logits(source: Sequence[int], target: Sequence[int], weights: Weights) -> Array:
    """Return the logits after each prefix of `target`, by the formulas, one row at a time."""
    embedded = np.sqrt(SIZE) * weights["Wemb"].astype(np.float64)
    memory = np.stack([embedded[token] + signal(place) for place, token in enumerate(source)])
    for layer in [f"encoder_l{n + 1}_" for n in range(ENCODERS)]:
        attended = memory + attend(memory, memory, f"{layer}self", weights)
        memory = feed_forward(normalise(attended, f"{layer}self_Wo", weights), layer, weights)
    cells = [np.zeros((1, SIZE)) for _ in range(DECODERS)]
    logits = []
    for place, token in enumerate([None, *target]):
        hidden = (signal(place) + (0 if token is None else embedded[token]))[None]
        for number in range(DECODERS):
            layer = f"decoder_l{number + 1}_"
            forget = 1 / (1 + np.exp(-(hidden @ weights[f"{layer}rnn_Wf"].T + weights[f"{layer}rnn_bf"])))
            cells[number] = forget * cells[number] + (1 - forget) * (hidden @ weights[f"{layer}rnn_W"].T)
            hidden = normalise(hidden + np.maximum(cells[number], 0), f"{layer}rnn_ffn", weights)
            attended = hidden + attend(hidden, memory, f"{layer}context", weights)
            hidden = feed_forward(normalise(attended, f"{layer}context_Wo", weights), layer, weights)
        logits.append((hidden @ weights["Wemb"].T + weights["decoder_ff_logit_out_b"])[0])
    return np.stack(logits)


def draw_rows(count: int) -> list[list[int]]:
    generator = random.Random(3)
    return [
        [generator.randrange(WORDS) for _ in range(generator.randint(1, 2 * MEMORY_STEP))]
        for _ in range(count)
    ]


@torch.inference_mode()
def translate(model: PackedMarian, rows: Sequence[Sequence[int]], limit: int = 12) -> list[list[int]]:
    """Return the tokens of each row, decoded in one batch."""
    order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
    decoder = model.start(
        torch.tensor([t for row in order for t in rows[row]]), [len(rows[row]) for row in order]
    )
    decoded = decode_greedily(decoder, [limit + len(rows[row]) % 5 for row in order], {0})
    by_row = dict(zip(order, decoded, strict=True))
    return [by_row[row].ids for row in range(len(rows))]


@torch.inference_mode()
def test_the_model_computes_what_the_formulas_say() -> None:
    model = make_model()
    for source in draw_rows(4):
        target = [7, 3, 44]
        decoder = model.start(torch.tensor(source), [len(source)])
        logits = [
            decoder.score(None if place == 0 else torch.tensor([target[place - 1]])) for place in range(4)
        ]
        expected = expected_logits(source, target, WEIGHTS)
        assert np.allclose(expected, torch.cat(logits).numpy(), atol=2e-4)


def make_attending_model() -> PackedMarian:
    """Return a random model whose decoder attends to its past and begins with a token."""
    torch.manual_seed(4)
    config = PackedMarianConfig(
        vocab_size=WORDS,
        hidden_size=SIZE,
        intermediate_size=INNER,
        num_attention_heads=HEADS,
        encoder_layers=ENCODERS,
        is_recurrent=False,
        start_token_id=5,
        activation="swish",
        position_steps=SIZE // 2,
    )
    model = PackedMarian(config)
    model.train(mode=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize("make", [make_model, make_attending_model], ids=["recurrent", "attending"])
@pytest.mark.parametrize("prepare", [lambda _: None, lambda model: quantize(model, ())], ids=["fp32", "int8"])
def test_a_row_does_not_depend_on_its_batch(
    make: Callable[[], PackedMarian], prepare: Callable[[PackedMarian], None]
) -> None:
    model = make()
    prepare(model)
    rows = draw_rows(24)
    together = translate(model, rows)

    assert together == [translate(model, [row])[0] for row in rows]
    shuffled = random.Random(1).sample(range(24), 24)
    assert [together[row] for row in shuffled] == translate(model, [rows[row] for row in shuffled])


@torch.inference_mode()
def test_a_past_longer_than_its_first_room_is_kept_whole() -> None:
    """Whether the room for a past doubled or was large enough from the beginning, the scores are the same."""
    model = make_attending_model()
    row = draw_rows(1)[0]
    small, large = (model.start(torch.tensor(row), [len(row)]) for _ in range(2))
    assert isinstance(large._rows, TorchRows)
    for past in large._rows._pasts:
        assert isinstance(past, Past)
        past.keys_values = torch.cat([past.keys_values] * 4, dim=3)
    for step in range(2 * FIRST_CAPACITY + 2):
        token = torch.tensor([step % WORDS])
        assert torch.equal(large.score(token), small.score(token))


@torch.inference_mode()
@pytest.mark.parametrize("make", [make_model, make_attending_model], ids=["recurrent", "attending"])
def test_quantised_logits_of_a_row_are_bit_equal_in_every_batch(make: Callable[[], PackedMarian]) -> None:
    model = make()
    quantize(model, ())
    rows = sorted(draw_rows(16), key=len)
    together = model.start(torch.tensor([t for row in rows for t in row]), [len(row) for row in rows])
    first, second = together.score(None), together.score(torch.arange(16))
    together.keep(torch.tensor([1, 5, 15]))
    third = together.score(torch.tensor([4, 5, 6]))

    for place, token in ((1, 4), (5, 5), (15, 6)):
        alone = model.start(torch.tensor(rows[place]), [len(rows[place])])
        assert torch.equal(first[place], alone.score(None)[0])
        assert torch.equal(second[place], alone.score(torch.tensor([place]))[0])
        assert torch.equal(third[(1, 5, 15).index(place)], alone.score(torch.tensor([token]))[0])


@torch.inference_mode()
@pytest.mark.parametrize("make", [make_model, make_attending_model], ids=["recurrent", "attending"])
def test_beams_of_a_row_do_not_depend_on_its_batch(make: Callable[[], PackedMarian]) -> None:
    """Each row has words of its own, so in a batch it is scored over more words than alone."""
    model = make()
    quantize(model, ())
    rows = sorted(draw_rows(12), key=len)
    allowed = torch.rand(12, WORDS, generator=torch.Generator().manual_seed(2)) < 0.4
    allowed[:, 0] = True
    ids, lengths = torch.tensor([t for row in rows for t in row]), [len(row) for row in rows]
    together = decode_with_beams(model.start(ids, lengths, allowed), [9] * 12, {0}, 3)
    alone = [
        decode_with_beams(model.start(torch.tensor(row), [len(row)], its_words), [9], {0}, 3)[0]
        for row, its_words in zip(rows, allowed[:, None], strict=True)
    ]

    assert together == alone


@torch.inference_mode()
def test_following_a_translation_says_the_same_tokens() -> None:
    model = make_model()
    row = draw_rows(1)[0]
    tokens = translate(model, [row])[0]
    assert [tokens] == follow(model.start(torch.tensor(row), [len(row)]), [tokens])


def test_another_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="dec-cell 'gru' is not supported, only 'ssru'"):
        build_model(MarianFile(WEIGHTS, SETTINGS | {"dec-cell": "gru"}))


def test_missing_or_misshapen_weights_are_refused() -> None:
    missing = {name: weight for name, weight in WEIGHTS.items() if name != "decoder_l2_rnn_Wf"}
    with pytest.raises(ConfigError, match="lacks 'decoder_l2_rnn_Wf'"):
        build_model(MarianFile(missing, SETTINGS))
    with pytest.raises(ConfigError, match="do not fit together"):
        build_model(MarianFile({**WEIGHTS, "encoder_l1_self_bq": np.zeros((1, 5), np.float32)}, SETTINGS))


def test_the_model_is_saved_and_loaded_like_any_other(tmp_path: Path) -> None:
    model = make_model()
    model.save_pretrained(tmp_path)
    again = PackedMarian.from_pretrained(tmp_path)
    rows = draw_rows(3)

    assert translate(model, rows) == translate(again, rows)


@torch.inference_mode()
@pytest.mark.parametrize("prepare", [lambda _: None, lambda model: quantize(model, ())], ids=["fp32", "int8"])
def test_words_that_are_not_allowed_are_never_said(prepare: Callable[[PackedMarian], None]) -> None:
    """Each row has words of its own; the likeliest of them is that of all scores without the others."""
    model = make_model()
    prepare(model)
    rows = sorted(draw_rows(5), key=len)
    ids, lengths = torch.tensor([t for row in rows for t in row]), [len(row) for row in rows]
    allowed = torch.rand(5, WORDS, generator=torch.Generator().manual_seed(2)) < 0.3
    short, full = model.start(ids, lengths, allowed), model.start(ids, lengths)

    expected = full.score(None).masked_fill(~allowed, -torch.inf).argmax(1)
    tokens = short.step(None)
    assert torch.equal(expected, tokens)
    for _ in range(3):
        expected = full.score(tokens).masked_fill(~allowed, -torch.inf).argmax(1)
        tokens = short.step(tokens)
        assert torch.equal(expected, tokens)
    kept = torch.tensor([1, 3])
    short.keep(kept)
    full.keep(kept)
    expected = full.score(tokens[kept]).masked_fill(~allowed[kept], -torch.inf).argmax(1)
    assert torch.equal(expected, short.step(tokens[kept]))


@pytest.mark.parametrize("words", [1, 255, 256, 300, 512, 700])
def test_the_largest_score_is_found_where_argmax_finds_it(words: int) -> None:
    """Also among equals and with banned words, wherever it lies: in a block or in what is left over."""
    generator = torch.Generator().manual_seed(words)
    scores = torch.randint(0, 40, (64, words), generator=generator).float()
    scores[torch.rand(scores.shape, generator=generator) < 0.3] = -torch.inf
    scores[:, -1] = torch.arange(64) % 50

    assert torch.equal(scores.argmax(1), find_largest(scores))
