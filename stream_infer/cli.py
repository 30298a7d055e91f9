"""The command line: settings are loaded here, once, and handed down as values."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from stream_infer.config_loading import load_settings
from stream_infer.errors import StreamInferError
from stream_infer.log import configure_logging
from stream_infer.schemas import AnswerBody, Body, ClassifyBody, Task, TranslateBody

app = typer.Typer(
    help="Streaming inference on Kafka: classify, translate and answer text events, each exactly once.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
topics_app = typer.Typer(help="Create and check the topics.", no_args_is_help=True)
train_app = typer.Typer(help="Train the models that the package carries.", no_args_is_help=True)
app.add_typer(topics_app, name="topics")
app.add_typer(train_app, name="train")
dead_letters_app = typer.Typer(
    help="Browse the dead letters, and put them back on their input topics.", no_args_is_help=True
)
app.add_typer(dead_letters_app, name="dead-letters")

config_app = typer.Typer(help="Look at the settings.", no_args_is_help=True)
app.add_typer(config_app, name="config")

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:8080"
"""Where a worker's endpoints are unless the settings say otherwise."""

FAULT = 2
"""The exit code when something the user can mend stands in the way."""


class LogFormat(StrEnum):
    """How logs are written."""

    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    """The levels of logs, the most talkative first."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", envvar="STREAM_INFER_CONFIG", help="Settings file (TOML).")
]
LogFormatOption = Annotated[LogFormat, typer.Option(help="How logs are written to stderr.")]
LogLevelOption = Annotated[LogLevel, typer.Option(help="Least level that is logged.")]


@contextmanager
def _faults_reported() -> Iterator[None]:
    """Turn errors raised on purpose into a message on stderr and an exit code."""
    try:
        yield
    except* (StreamInferError, TimeoutError) as group:
        for error in _leaves(group):
            typer.echo(f"stream-infer: {error}", err=True)
        raise typer.Exit(FAULT) from None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


@app.command()
def serve(
    config: ConfigOption = None,
    log_format: LogFormatOption = LogFormat.JSON,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run a worker: records in, results out, until SIGTERM."""
    from stream_infer.service.worker import run_worker

    configure_logging(log_level, as_json=log_format is LogFormat.JSON)
    with _faults_reported():
        asyncio.run(run_worker(load_settings(config)))


@app.command()
def streams(
    config: ConfigOption = None,
    log_format: LogFormatOption = LogFormat.JSON,
    log_level: LogLevelOption = LogLevel.INFO,
) -> None:
    """Run the side streams: documents become passages to answer from, until SIGTERM."""
    from stream_infer.streams.role import run_streams

    configure_logging(log_level, as_json=log_format is LogFormat.JSON)
    with _faults_reported():
        raise typer.Exit(run_streams(load_settings(config)))


@app.command()
def send(
    task: Annotated[Task, typer.Argument(help="What to do with the text.")],
    text: Annotated[str, typer.Argument(help="The text, or the question; - reads standard input.")],
    config: ConfigOption = None,
    key: Annotated[str | None, typer.Option(help="Record key; results of one key keep their order.")] = None,
    source: Annotated[str | None, typer.Option(help="Only translate: the source language.")] = None,
    target: Annotated[str | None, typer.Option(help="Only translate: the target language.")] = None,
    context: Annotated[str | None, typer.Option(help="Only answer: the text to answer from.")] = None,
    collection: Annotated[str | None, typer.Option(help="Only answer: the collection of passages.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Only answer: how many passages to read.")] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the result.")] = 30.0,
    traceparent: Annotated[
        str, typer.Option(envvar="TRACEPARENT", help="The trace that this belongs to (W3C).")
    ] = "",
) -> None:
    """Send one event through the bus and print its result as JSON."""
    from stream_infer.service.commands import send_one

    configure_logging("warning", as_json=False)
    words = sys.stdin.read() if text == "-" else text
    bodies: dict[Task, Body] = {
        Task.CLASSIFY: ClassifyBody(words),
        Task.TRANSLATE: TranslateBody(words, source, target),
        Task.ANSWER: AnswerBody(words, context, collection, top_k),
    }
    with _faults_reported():
        sending = send_one(
            load_settings(config), bodies[task], key=key, timeout=timeout, traceparent=traceparent
        )
        result = asyncio.run(sending)
        typer.echo(json.dumps(result, ensure_ascii=False, indent=2))


@topics_app.command("apply")
def topics_apply(config: ConfigOption = None) -> None:
    """Create the topics that are missing; never deletes or shrinks one."""
    from stream_infer.service.commands import apply_topics

    configure_logging("warning", as_json=False)
    with _faults_reported():
        created = asyncio.run(apply_topics(load_settings(config)))
    for topic in created:
        typer.echo(f"created {topic}")
    if not created:
        typer.echo("nothing to create")


@topics_app.command("check")
def topics_check(config: ConfigOption = None) -> None:
    """Compare the broker's topics with their specifications; exit code 1 when they differ."""
    from stream_infer.service.commands import compare_topics

    configure_logging("warning", as_json=False)
    with _faults_reported():
        differences = asyncio.run(compare_topics(load_settings(config)))
    for line in differences or ["all topics are as specified"]:
        typer.echo(line)
    raise typer.Exit(1 if differences else 0)


@config_app.command("show")
def config_show(config: ConfigOption = None) -> None:
    """Print the settings as they are in the end, in TOML; secrets are hidden."""
    from stream_infer.config_showing import show_settings

    configure_logging("warning", as_json=False)
    with _faults_reported():
        typer.echo(show_settings(load_settings(config), config, os.environ), nl=False)


@app.command()
def top(
    urls: Annotated[list[str] | None, typer.Argument(metavar="[URL]...", help="Workers to look at.")] = None,
    config: ConfigOption = None,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one page and end.")] = False,
) -> None:
    """Show what workers do at the moment: rates, latencies, lag, batches and cache, until Ctrl-C."""
    from stream_infer.top.run import run_top
    from stream_infer.web.access import read_token

    configure_logging("warning", as_json=False)
    with _faults_reported(), suppress(KeyboardInterrupt):
        token = read_token(load_settings(config).web)
        asyncio.run(run_top(urls or [DEFAULT_URL], interval, token, once=once))


@app.command()
def demo(
    events: Annotated[int, typer.Option(min=1, help="How many events to send.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary alone, as one object.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the broker's data and the logs.")] = False,
) -> None:
    """Run the whole service on this machine, send sample events, and audit what comes out."""
    from stream_infer.demo.run import run_demo

    configure_logging("warning", as_json=False)
    with _faults_reported():
        is_balanced = asyncio.run(run_demo(events, as_json=as_json, keep=keep))
        raise typer.Exit(0 if is_balanced else 1)


@train_app.command("sentiment")
def train_sentiment_model(
    output: Annotated[Path, typer.Option(help="Directory for the trained adapters and their card.")],
    cache: Annotated[Path, typer.Option(help="Where the downloaded texts are kept.")] = Path("vader"),
    seed: Annotated[int, typer.Option(help="The same seed gives the same model on the same machine.")] = 13,
) -> None:
    """Train the adapters of `builtin:sentiment` on texts rated by people (about half an hour on a CPU)."""
    configure_logging("warning", as_json=False)
    with _faults_reported():
        from stream_infer.service.training import train

        typer.echo(json.dumps(train(output, cache, seed, progress=_show_progress), indent=2))


def _show_progress(step: int, steps: int, loss: float) -> None:
    typer.echo(f"step {step} of {steps}, loss {loss:.4f}", err=True)


@app.command()
def evaluate(
    task: Annotated[Task, typer.Argument(help="Which task to measure.")],
    rows: Annotated[Path, typer.Argument(help="JSON lines: a request body each, with what is expected.")],
    documents: Annotated[
        Path | None, typer.Option(help="Only answer: JSON lines of the documents to answer from.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Measure a model's quality on labelled texts, and print the metrics as JSON."""
    from stream_infer.service.evaluating import evaluate_file

    configure_logging("warning", as_json=False)
    with _faults_reported():
        metrics = asyncio.run(evaluate_file(load_settings(config), task, rows, documents))
        typer.echo(json.dumps(metrics, indent=2))


ReasonOption = Annotated[str | None, typer.Option(help="Only dead letters of this reason.")]
StreamOption = Annotated[str | None, typer.Option(help="Only dead letters of this stream.")]
TopicOption = Annotated[str | None, typer.Option(help="Which dead-letter topic, where streams have several.")]


@dead_letters_app.command("list")
def dead_letters_list(
    config: ConfigOption = None,
    reason: ReasonOption = None,
    stream: StreamOption = None,
    since: Annotated[str | None, typer.Option(help="Only what is not older: 90s, 15m, 2h or 7d.")] = None,
    limit: Annotated[int, typer.Option(min=0, help="How many to show, the newest first.")] = 50,
    topic: TopicOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one object.")] = False,
) -> None:
    """List the dead letters that are there now, with counts by reason; no text is shown."""
    from rich.console import Console

    from stream_infer.flow.replay import Selection, parse_duration
    from stream_infer.service.dead_letters import find, topic_of
    from stream_infer.service.dead_letters_view import listing_object, listing_table

    configure_logging("warning", as_json=False)
    since_ms = int(time.time() - _parsed(parse_duration, since)) * 1000 if since else None
    with _faults_reported():
        settings = load_settings(config)
        selection = Selection(reason, stream, since_ms)
        listing = asyncio.run(find(settings, topic_of(settings, topic), selection, limit))
        if as_json:
            typer.echo(json.dumps(listing_object(listing), ensure_ascii=False, indent=2))
        else:
            Console().print(listing_table(listing))


@dead_letters_app.command("show")
def dead_letters_show(
    place: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="Where it lies, as listed.")],
    config: ConfigOption = None,
    topic: TopicOption = None,
) -> None:
    """Print one dead letter whole: headers, where it is from, and its value, which is the user's text."""
    from stream_infer.flow.replay import parse_place
    from stream_infer.service.dead_letters import read_one, topic_of
    from stream_infer.service.dead_letters_view import whole

    configure_logging("warning", as_json=False)
    wanted = _parsed(parse_place, place)
    with _faults_reported():
        settings = load_settings(config)
        typer.echo(whole(asyncio.run(read_one(settings, topic_of(settings, topic), wanted))))


@dead_letters_app.command("replay")
def dead_letters_replay(
    places: Annotated[
        list[str] | None, typer.Argument(metavar="[PARTITION/OFFSET]...", help="Only these.")
    ] = None,
    config: ConfigOption = None,
    reason: ReasonOption = None,
    stream: StreamOption = None,
    topic: TopicOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be done.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Put dead letters back on their input topics, each at most once; exit code 1 if some cannot go."""
    from stream_infer.flow.replay import Selection, parse_place
    from stream_infer.service.dead_letters import prepare_replay, topic_of
    from stream_infer.service.dead_letters_view import replay_lines, report_lines
    from stream_infer.service.replaying import put_back

    configure_logging("warning", as_json=False)
    wanted = frozenset(_parsed(parse_place, place) for place in places or ())
    with _faults_reported():
        settings = load_settings(config)
        selection = Selection(reason, stream, places=wanted)
        replay = asyncio.run(prepare_replay(settings, topic_of(settings, topic), selection))
        typer.echo("\n".join(replay_lines(replay)))
        if dry_run or not replay.chosen:
            raise typer.Exit(1 if replay.refused else 0)
        if not yes:
            typer.confirm(f"Put {len(replay.chosen)} back?", abort=True)
        report = asyncio.run(put_back(settings, replay))
        typer.echo("\n".join(report_lines(report)))
        raise typer.Exit(1 if replay.refused or report.refused or report.interruption else 0)


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
