"""Texts with human sentiment ratings, from the source archive of vaderSentiment on PyPI.

Source: Hutto and Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
Social Media Text", ICWSM 2014; MIT licence. Tweets, film reviews, product reviews and newspaper
editorials, each text rated by about 20 people from -4 (most negative) to 4 (most positive).
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from stream_infer.errors import ConfigError
from stream_infer.text import prepare_text

VERSION: Final = "3.3.2"
ARCHIVE_NAME: Final = f"vaderSentiment-{VERSION}.tar.gz"
ARCHIVE_SHA256: Final = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
SOURCES: Final = ("tweets", "movieReviewSnippets", "amazonReviewSnippets", "nytEditorialSnippets")
LABELS: Final = ("negative", "neutral", "positive")
NEUTRAL_BOUND: Final = 0.5
"""Mean ratings from minus to plus this bound, both included, are neutral."""

_INNER_NAME: Final = f"vaderSentiment-{VERSION}/additional_resources/hutto_ICWSM_2014.tar.gz"
_MEMBER_LIMIT_BYTES: Final = 16 * 1024 * 1024
_DOWNLOAD_TIMEOUT_S: Final = 300

_TEST_BELOW: Final = 51
_VALIDATION_BELOW: Final = 26

Part = Literal["train", "validation", "test"]


@dataclass(frozen=True, slots=True)
class RatedText:
    """A text as it stands in its file, with the mean of its ratings (-4 to 4)."""

    text: str
    rating: float
    source: str

    @property
    def label(self) -> int:
        """The index of the text's class in `LABELS`."""
        return (self.rating >= -NEUTRAL_BOUND) + (self.rating > NEUTRAL_BOUND)


def part_of(text: str) -> Part:
    """Say which part a text belongs to, by its hash alone.

    A fifth of all texts is test and a tenth of the others validation, for ever and on every
    machine; equal texts always fall together.
    """
    digest = hashlib.sha256(text.encode()).digest()
    if digest[0] < _TEST_BELOW:
        return "test"
    return "validation" if digest[1] < _VALIDATION_BELOW else "train"


def select(data: Sequence[RatedText], *parts: Part) -> list[RatedText]:
    """Return the texts of these parts, in order.

    Without the test part, texts that differ from a test text only in what the model cannot see
    (letter case, spacing, entities) are left out as well, so that no test text is trained on.
    """
    chosen = [row for row in data if part_of(row.text) in parts]
    if "test" in parts:
        return chosen
    unseen = {as_model_sees(row.text) for row in data if part_of(row.text) == "test"}
    return [row for row in chosen if as_model_sees(row.text) not in unseen]


def as_model_sees(text: str) -> str:
    """Return the text without the differences that the model cannot see."""
    return prepare_text(text).casefold()


def load_ratings(cache: Path) -> list[RatedText]:
    """Return all rated texts, downloading the archive into `cache` the first time.

    Raises ConfigError when the download fails or the archive is not the expected one.
    """
    archive = cache / ARCHIVE_NAME
    if not archive.exists():
        download_archive(cache)
    return read_archive(archive)


def download_archive(cache: Path) -> None:
    """Put the source archive into `cache` with pip, which checks its hash before unpacking it."""
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        wanted = Path(scratch) / "requirements.txt"
        wanted.write_text(f"vadersentiment=={VERSION} --hash=sha256:{ARCHIVE_SHA256}\n")
        arguments = ["download", "--no-deps", "--no-binary", ":all:", "--require-hashes"]
        command = [*_pip(), *arguments, "--dest", str(cache), "--requirement", str(wanted)]
        try:
            # S603: every word of the command is written above.
            subprocess.run(  # noqa: S603
                command, check=True, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S
            )
        except subprocess.CalledProcessError as error:
            lines = error.stderr.strip().splitlines() or ["no reason given"]
            raise ConfigError(f"cannot download {ARCHIVE_NAME}: {lines[-1]}") from error
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"cannot download {ARCHIVE_NAME}: {error}") from error


def read_archive(path: Path, sha256: str = ARCHIVE_SHA256) -> list[RatedText]:
    """Return the rated texts of the source archive, unpacking nothing to disk.

    Raises ConfigError when the archive's hash is not `sha256`.
    """
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"{path} is not the expected archive: its SHA-256 is not {sha256}")
    inner = _member(content, _INNER_NAME)
    return [
        row
        for source in SOURCES
        for row in parse_ratings(_member(inner, f"hutto_ICWSM_2014/{source}_GroundTruth.txt"), source)
    ]


def parse_ratings(content: bytes, source: str) -> list[RatedText]:
    """Return the rows of one file: id, mean rating and text, with a tab between.

    Bytes that are not UTF-8 become U+FFFD; the published files hold none.
    """
    rows = []
    for line in content.decode("utf-8", errors="replace").split("\n"):
        if line.strip():
            _, rating, text = line.removesuffix("\r").split("\t", 2)
            rows.append(RatedText(text, float(rating), source))
    return rows


def _member(content: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        try:
            member = archive.getmember(name)
        except KeyError as error:
            raise ConfigError(f"the ratings archive has no {name}") from error
        stream = archive.extractfile(member)
        if stream is None or member.size > _MEMBER_LIMIT_BYTES:
            raise ConfigError(f"{name} in the ratings archive is not a file of a sane size")
        return stream.read()


def _pip() -> list[str]:
    # Environments made by uv have no pip of their own.
    if importlib.util.find_spec("pip") is None:
        return ["uv", "tool", "run", "pip"]
    return [sys.executable, "-m", "pip"]
