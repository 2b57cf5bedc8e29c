"""The characters a recogniser knows, their ids, and where they come from.

Ids, as in the published PARSeq: EOS 0, characters 1 to C, BOS V-2, PAD V-1, with V = C + 3. Text is brought to NFC and
never to NFKC, which would change characters that Korean documents use (circled numbers, units, the wide won sign).
"""

import hashlib
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Iterable

from utils.errors import DataError

# Every built-in set holds these beside its syllables: space, Latin letters, digits, punctuation and the won sign.
BASE_CHARACTERS = "".join(chr(code) for code in range(0x20, 0x7F)) + "₩€£¥"
EOS = 0
SPACES = re.compile("[ \u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]+")  # Unicode's category Zs


def nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def one_space(text: str) -> str:
    """Spaces of any kind and number as one, and none at the ends: how wide a gap in a line is, is not read. A tab stays: it
    may part columns of a file that is no table of texts."""
    return SPACES.sub(" ", text).strip()


@dataclass(frozen=True)
class Charset:
    """characters: a string of distinct NFC characters; the character at place i has the id i + 1.

    Raises DataError where it is empty, repeats a character, or holds a line break or a character that NFC changes.
    """

    characters: str

    def __post_init__(self) -> None:
        if not self.characters:
            raise DataError("charset: holds no characters")
        twice = [name_character(c) for c, n in Counter(self.characters).items() if n > 1]
        if twice:
            raise DataError(f"charset: repeats {', '.join(twice[:5])}")
        bad = [name_character(c) for c in self.characters if nfc(c) != c or c in "\r\n\t"]
        if bad:
            raise DataError(f"charset: holds {', '.join(bad[:5])}, which NFC text of one line cannot have")

    def __len__(self) -> int:
        """C, the number of characters."""
        return len(self.characters)

    @property
    def size(self) -> int:
        """V, the number of token ids; a head predicts V - 2 of them, since BOS and PAD are never an answer."""
        return len(self.characters) + 3

    @property
    def bos(self) -> int:
        return len(self.characters) + 1

    @property
    def pad(self) -> int:
        return len(self.characters) + 2

    @cached_property
    def ids(self) -> dict[str, int]:
        return {character: place for place, character in enumerate(self.characters, start=1)}

    @cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that name these characters in this order."""
        return hashlib.sha256(self.characters.encode("utf-8")).hexdigest()[:16]

    @cached_property
    def case_pairs(self) -> list[tuple[int, int]]:
        """(id of a capital, id of its small letter) of all letters that are here in both."""
        return [(place, self.ids[small]) for capital, place in self.ids.items()
                if (small := capital.lower()) != capital and small in self.ids]

    @cached_property
    def suspicious(self) -> str:
        """Its characters that as a rule are damage: those that cannot be seen, replace what could not be decoded, or mean
        nothing outside one font (private use)."""
        return "".join(c for c in self.characters if c == "\ufffd" or unicodedata.category(c) in ("Cc", "Cf", "Cn", "Co"))

    def unknown(self, text: str) -> list[str]:
        """The characters of the NFC form of `text` that have no id, in order, repeats included."""
        return [character for character in nfc(text) if character not in self.ids]

    def encode(self, text: str) -> list[int]:
        """[BOS, characters of the NFC form, EOS]. Raises KeyError for a character without an id."""
        return [self.bos, *(self.ids[character] for character in nfc(text)), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of predicted ids up to the first EOS, which need not be there."""
        text = []
        for token in ids:
            if token == EOS:
                break
            text.append(self.characters[token - 1])
        return "".join(text)

    def shared_rows(self, other: "Charset") -> tuple[list[int], list[int]]:
        """(ids here, ids in other) of the tokens that both have, EOS, BOS and PAD included: the rows of an embedding or
        of a head that a fine-tuned model keeps."""
        common = [character for character in self.characters if character in other.ids]
        here = [EOS, *(self.ids[c] for c in common), self.bos, self.pad]
        there = [EOS, *(other.ids[c] for c in common), other.bos, other.pad]
        return here, there


def build_charset(source: str, texts: Iterable[str] = ()) -> Charset:
    """The charset that `--charset` names.

    source: 'data' (the base characters and everything in `texts`), 'ksx1001' (base and 2350 syllables), 'hangul' (base
    and all 11172 syllables), or the path of a UTF-8 text file, whose characters are taken in their order, line breaks
    apart, and nothing else.
    """
    if source == "data":
        found = {character for text in texts for character in nfc(text)} - set(BASE_CHARACTERS) - set("\r\n\t")
        return Charset(BASE_CHARACTERS + "".join(sorted(found)))
    if source == "ksx1001":
        return Charset(BASE_CHARACTERS + ksx1001_syllables())
    if source == "hangul":
        return Charset(BASE_CHARACTERS + "".join(chr(code) for code in range(0xAC00, 0xD7A4)))
    return read_charset(Path(source))


def ksx1001_syllables() -> str:
    """The 2350 Hangul syllables of KS X 1001 in its order, rows 16 to 40, from Python's EUC-KR codec."""
    return "".join(bytes((row, cell)).decode("euc_kr") for row in range(0xB0, 0xC9) for cell in range(0xA1, 0xFF))


def read_charset(path: Path) -> Charset:
    """Raises DataError where the file is missing, is not UTF-8, or breaks a rule of Charset."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"{path}: no such charset file; --charset takes data, ksx1001, hangul or a file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable UTF-8 text file ({error})") from None
    try:
        return Charset("".join(text.splitlines()))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def name_character(character: str) -> str:
    """'é (U+00E9 LATIN SMALL LETTER E WITH ACUTE)': unmistakable, also where the font has no such glyph."""
    shown = character if character.isprintable() else "?"
    return f"{shown} (U+{ord(character):04X} {unicodedata.name(character, 'without a name')})"


def token_counts(texts: Iterable[str]) -> Counter:
    """How often each character occurs in the NFC forms of `texts`, and under "" their number, which is that of EOS."""
    return Counter(character for text in texts for character in [*nfc(text), ""])


def unigram_entropy(counts: Counter) -> float:
    """Entropy in nats of tokens (token_counts): the loss of a model that ignores its image and its context. A loss that
    stays there, or at ln V, has learnt nothing from the images."""
    total = sum(counts.values())
    return -sum(n / total * math.log(n / total) for n in counts.values()) if total else 0.0
