"""Texts of the user's own: read from files, and dealt in pieces for lines to draw.

Text files hold a text a line, in UTF-8. Message catalogues (.mo, as programs bring them in /usr/share/locale/LANGUAGE)
hold the sentences of a language that a machine has anyway.
"""

import re
import struct
from pathlib import Path
from typing import Sequence

import numpy as np

from utils.charset import nfc, one_space
from utils.errors import DataError

MOST_WORDS = 8  # of a piece
SEED = 1 << 22  # apart from the streams of samples and plans
# Messages are parted at line ends and where a program puts a value: %s, %-10s, %1$d, %lu, %(name)s, {0}, {name}.
PARTS = re.compile(r"[\n\t\r]|%[-+#0-9.*$']*(?:hh|h|ll|l|z|j|t|L)?[a-zA-Z]|%\([^()\n]*\)[a-zA-Z]|\{[^{}]*\}")
MAGIC = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}


def read_corpus(paths: Sequence[Path]) -> list[str]:
    """The texts of text files and catalogues, NFC, gaps as one space, none of them empty; those of catalogues each once in
    all. Raises DataError for a file that is missing, unreadable or the source of a catalogue, and where no file holds any."""
    texts: list[str] = []
    messages: dict[str, None] = {}
    for path in paths:
        if path.suffix.lower() in (".po", ".pot"):
            raise DataError(f"{path}: is the source of a catalogue; way out: msgfmt {path.name} -o {path.stem}.mo")
        if path.suffix.lower() == ".mo":
            messages |= dict.fromkeys(map(_clean, _messages(path)))
        else:
            texts += map(_clean, _lines(path))
    found = [text for text in (*texts, *messages) if text]
    if paths and not found:
        raise DataError(f"{', '.join(map(str, paths))}: no text in there; way out: name a file with a text a line")
    return found


def _clean(text: str) -> str:
    return one_space(nfc(text.replace("\t", " ")))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable text file in UTF-8 ({getattr(error, 'strerror', None) or error})") from None


def _messages(path: Path) -> list[str]:
    """The parts of a catalogue's translations, those for several numbers apart. Format: the GNU gettext manual, "The Format
    of GNU MO Files"."""
    try:
        data = path.read_bytes()
        if data[:4] not in MAGIC:
            raise ValueError("no catalogue begins so")
        integers = MAGIC[data[:4]]
        _, count, originals, translations = struct.unpack_from(f"{integers}4I", data, 4)
        lengths = [struct.unpack_from(f"{integers}I", data, originals + 8 * number)[0] for number in range(count)]
        places = [struct.unpack_from(f"{integers}2I", data, translations + 8 * number) for number in range(count)]
        if any(start + length > len(data) for length, start in places):
            raise ValueError("its end is missing")
        if sum(length for length, _ in places) > len(data):
            raise ValueError("its texts lie one upon the other")
        texts = [data[start : start + length] for length, start in places]
        header = b"".join(text for length, text in zip(lengths, texts) if not length)  # the translation of nothing
        named = re.search(rb"charset=([-\w]+)", header)
        encoding = named[1].decode("ascii") if named else "utf-8"
        messages = [part.decode(encoding) for length, text in zip(lengths, texts) if length for part in text.split(b"\0")]
        "".join(messages).encode("utf-8")  # no halves of characters
    except (OSError, ValueError, LookupError, struct.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: not a readable message catalogue ({reason}); msgfmt writes them") from None
    # %% is shown as %, and is no value.
    return [part.replace("\0", "%") for message in messages for part in PARTS.split(message.replace("%%", "\0"))]


class CorpusTexts:
    """Pieces of texts for a written set of lines, a function of (seed, epoch, index): 1 to MOST_WORDS words in a row of some
    text, max_length characters at most.

    characters: what may be written; a text with another is left out, and counted in `left_out`. Raises DataError where none
    is left.
    """

    def __init__(self, texts: Sequence[str], characters: str, max_length: int, seed: int):
        allowed = frozenset(characters)
        self.words = [text.split() for text in texts if allowed.issuperset(text)]
        self.left_out = len(texts) - len(self.words)
        if not self.words:
            raise DataError(f"--texts: none of {len(texts)} texts can be written in the charset; take another --charset")
        self.deck = sorted({character for words in self.words for word in words for character in word})
        self.max_length, self.seed = max_length, seed

    def text(self, epoch: int, index: int, rng: np.random.Generator | None = None) -> str:
        """1 to max_length characters; `rng` is not asked."""
        rng = np.random.default_rng((self.seed, epoch, index, SEED))
        words = self.words[int(rng.integers(len(self.words)))]
        start, count = int(rng.integers(len(words))), int(rng.integers(1, MOST_WORDS + 1))
        return " ".join(words[start : start + count])[: self.max_length].strip()
