"""Lexical shortlists: the few thousand words that a source sentence can be translated with.

The layout of a Marian binary shortlist, little-endian: magic number, checksum, how many of the most
frequent words are always allowed, how many words were kept for each source word at most, number of
offsets, number of words (six u64); the offsets (u64), where source word w has the words from
offset w up to offset w + 1; the words (u32).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from struct import Struct
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stream_infer.errors import ConfigError

MAGIC: Final = 0xF11A48D5013417F5
_HEADER: Final = Struct("<6Q")


@dataclass(frozen=True, slots=True)
class Shortlist:
    """For each source word the target words it may become; `frequent` words are always allowed."""

    frequent: int
    offsets: NDArray[np.int64]
    words: NDArray[np.int64]

    def allow(self, rows: Sequence[NDArray[np.int32]]) -> NDArray[np.bool_]:
        """Return which words each row of source words may be translated with, [rows, words].

        A row's own words are among them, because the vocabulary is shared and names are copied.
        """
        allowed = np.zeros((len(rows), len(self.offsets) - 1), dtype=np.bool_)
        allowed[:, : self.frequent] = True
        for place, row in enumerate(rows):
            allowed[place, row] = True
            chosen = [self.words[self.offsets[word] : self.offsets[word + 1]] for word in row.tolist()]
            allowed[place, np.concatenate(chosen)] = True
        return allowed


def read_shortlist(path: Path, vocab_size: int) -> Shortlist:
    """Return the shortlist in the file.

    Raises:
        ConfigError: it is missing, cut short, of another format or for another vocabulary.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) < _HEADER.size or (header := _HEADER.unpack_from(data))[0] != MAGIC:
        raise ConfigError(f"{path} is not a binary shortlist")
    _, _, frequent, _, offset_count, word_count = header
    if len(data) != _HEADER.size + 8 * offset_count + 4 * word_count or offset_count != vocab_size + 1:
        raise ConfigError(f"{path} is cut short, or for a vocabulary of another size than {vocab_size}")
    offsets = np.frombuffer(data, "<u8", offset_count, _HEADER.size).astype(np.int64)
    words = np.frombuffer(data, "<u4", word_count, _HEADER.size + 8 * offset_count).astype(np.int64)
    is_ordered = offsets[0] >= 0 and offsets[-1] <= word_count and bool((np.diff(offsets) >= 0).all())
    if not is_ordered or frequent > vocab_size or bool((words >= vocab_size).any()):
        raise ConfigError(f"{path} points outside of itself or of the vocabulary")
    return Shortlist(frequent, offsets, words)
