"""What lines of text are like, character by character: an n-gram model, for reading by CTC (models/ctc_beam.py).

Kept in ARPA format (that of SRILM and KenLM), one token a character, letters as capitals, a space as U+2581: a model that
another tool made of such tokens reads as well. `python -m experiments.language_model` makes one of labels and texts.
"""

import gzip
import math
import re
import zlib
from collections import Counter, defaultdict
from functools import lru_cache
from pathlib import Path
from typing import Iterable

from utils.errors import DataError
from utils.files import replace_file

START, END = "\ufdd0", "\ufdd1"  # of a line: code points that are no characters, so that a context is a string
TOKENS = {START: "<s>", END: "</s>", " ": "\u2581"}  # as ARPA files write what is no visible character
CHARACTERS = {token: character for character, token in TOKENS.items()}
UNWRITABLE = dict.fromkeys(map(ord, START + END + "\u2581\t\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"))
NEVER = -99.0  # log10 of what ARPA files mean by never: START is given, not foreseen
# With 0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3 and 0.4: of SROIE's validation lines 0.870, 0.880, 0.888, 0.897, 0.898, 0.901, 0.902
# and 0.902; of Korean texts in the fonts of validation 0.303, 0.370, 0.420, 0.465, 0.490, 0.508, 0.515 and 0.533.
WEIGHT = 0.25
LONG = 4  # characters; such an n-gram must have been seen twice: half the file, and reading is no worse
REMEMBERED = 1 << 18  # answers
LENGTH = 2.0  # nats a character costs in the mean, so that the number of characters is neither rewarded nor punished


def folded(character: str) -> str:
    """A letter as its capital, if that is one character: labels of receipts tell no case."""
    capital = character.upper()
    return capital if len(capital) == 1 else character


class Language:
    """Probabilities of characters after others, with backoff (Katz, 1987). Texts are folded: letters are capitals.

    order: of the longest n-grams, in characters; log10 and backoff: of n-grams as strings, as an ARPA file lists them.
    """

    def __init__(self, order: int, log10: dict[str, float], backoff: dict[str, float]):
        self.order, self.log10, self.backoff = order, log10, backoff
        self.known: dict[tuple[str, str], float] = {}

    def log_probability(self, context: str, character: str) -> float | None:
        """Natural logarithm of the probability of `character` after `context`, which begins with START at the beginning of
        a line; END is a character too. None for a character the model has never seen: it says nothing of that."""
        if character not in self.log10:
            return None
        context, cost = context[max(len(context) - self.order + 1, 0) :], 0.0
        while context and context + character not in self.log10:
            cost += self.backoff.get(context, 0.0)
            context = context[1:]
        return (cost + self.log10[context + character]) * math.log(10)

    def bonus(self, context: str, character: str) -> float:
        """What a reading gains, in nats, by `character` after `context`: about 0 in the mean, 0 for what is not known."""
        key = (context[-self.order :], character)
        if key not in self.known:
            if len(self.known) == REMEMBERED:
                self.known.clear()
            log_probability = self.log_probability(context, character)
            self.known[key] = 0.0 if log_probability is None else WEIGHT * (log_probability + LENGTH)
        return self.known[key]

    def perplexity(self, lines: Iterable[str]) -> float:
        """Per character that the model knows, END included."""
        found = [self.log_probability(START + line[:place], character)
                 for line in ("".join(map(folded, line)) for line in lines) for place, character in enumerate(line + END)]
        found = [value for value in found if value is not None]
        return math.exp(-sum(found) / max(len(found), 1))


def estimate(lines: Iterable[str], order: int) -> Language:
    """A model of lines by interpolated Witten-Bell smoothing (Witten and Bell, 1991; Chen and Goodman, 1999), of which
    n-grams of LONG and more characters that were seen once are left out, as in KenLM's pruning: what they held goes to
    the shorter ones. Characters that an ARPA file cannot hold, such as tabs, are passed over. Raises ValueError without
    lines."""
    counts: dict[str, Counter] = defaultdict(Counter)  # context -> what came after it
    for line in lines:
        text = START + "".join(map(folded, line.translate(UNWRITABLE))) + END
        for place in range(1, len(text)):
            for length in range(min(order, place + 1)):
                counts[text[place - length : place]][text[place]] += 1
    if not counts:
        raise ValueError("no lines to learn from")
    language = Language(order, {START: NEVER}, {})
    for context in sorted(counts, key=len):
        after = counts[context]
        kinds, total = len(after), sum(after.values())
        kept = {character: count for character, count in after.items() if count > 1 or len(context) + 1 < LONG}
        left = kinds + total - sum(kept.values())
        for character, count in kept.items():
            shorter = math.exp(language.log_probability(context[1:], character)) if context else 1 / kinds
            language.log10[context + character] = math.log10((count + left * shorter) / (total + kinds))
        if context and kept:
            language.backoff[context] = math.log10(left / (total + kinds))
    language.order = max(map(len, language.log10))
    return language


def write_arpa(path: Path, language: Language) -> None:
    """Gzipped where the name ends in .gz; the same bytes for the same model."""
    by_order = [sorted(gram for gram in language.log10 if len(gram) == length) for length in range(1, language.order + 1)]
    lines = ["", "\\data\\", *(f"ngram {length}={len(grams)}" for length, grams in enumerate(by_order, 1))]
    for length, grams in enumerate(by_order, 1):
        lines += ["", f"\\{length}-grams:"]
        for gram in grams:
            backoff = [f"{language.backoff[gram]:.4g}"] if gram in language.backoff else []
            lines.append("\t".join([f"{language.log10[gram]:.4g}", " ".join(TOKENS.get(c, c) for c in gram), *backoff]))
    text = "\n".join([*lines, "", "\\end\\", ""]).encode("utf-8")
    replace_file(path, gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def read_arpa(path: Path) -> Language:
    """Raises DataError where the file is missing, or no ARPA model of characters with letters as capitals."""
    try:
        data = Path(path).read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"{path}: no such language model; python -m experiments.language_model writes one") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a readable language model ({error})") from None
    lines = [line.strip(" \t\r") for line in text.split("\n")]
    if "\\data\\" not in lines or "\\end\\" not in lines:
        raise DataError(f"{path}: is no ARPA file, or not all of one; python -m experiments.language_model writes one")
    log10, backoff, order, length = {}, {}, 0, 0
    for number, line in enumerate(lines[lines.index("\\data\\") :], lines.index("\\data\\") + 1):
        if line.startswith("\\"):
            section = re.fullmatch(r"\\(\d+)-grams:", line)
            length = int(section[1]) if section else length
        elif length and line:
            try:
                entry = read_entry(line, length)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: {error}") from None
            if entry:
                gram, log10[gram], after = entry
                order = max(order, length)
                if after is not None:
                    backoff[gram] = after
    if not order:
        raise DataError(f"{path}: holds no n-grams; python -m experiments.language_model writes some")
    return Language(order, log10, backoff)


def read_entry(line: str, length: int) -> tuple[str, float, float | None] | None:
    """(n-gram, log10 of its probability, its backoff) of a line, None for one with <unk>. Raises ValueError.

    A start of inference.py reads some 200,000 of them, which is why it is written for speed.
    """
    fields = line.replace("\t", " ").split(" ")
    if "" in fields:
        fields = [field for field in fields if field]
    if not length + 1 <= len(fields) <= length + 2:
        raise ValueError(f"{' '.join(fields)[:40]!r} is no n-gram of {length} characters")
    characters = list(map(as_character, fields[1 : length + 1]))
    if None in characters:
        return None  # of what a model has never seen nothing is asked
    value, backoff = float(fields[0]), float(fields[-1]) if len(fields) > length + 1 else None
    if not value <= 1e-4 or backoff is not None and not backoff < math.inf:
        raise ValueError(f"{' '.join(fields)[:40]!r} holds no logarithms of probabilities")
    value = min(value if value > NEVER else NEVER, 0.0)
    return "".join(characters), value, backoff if backoff is None or backoff > NEVER else NEVER


@lru_cache(maxsize=1 << 16)
def as_character(token: str) -> str | None:
    """What a token of an ARPA file stands for; None for <unk>. Raises ValueError for what is no folded character."""
    if token in ("<unk>", "<UNK>"):
        return None
    character = CHARACTERS.get(token, token)
    if len(character) != 1:
        raise ValueError(f"{character[:40]!r} is not one character, <s>, </s>, \u2581 for a space, or <unk>")
    if character != folded(character):
        raise ValueError(f"{character!r} is a small letter; a model for reading has capitals alone")
    return character
