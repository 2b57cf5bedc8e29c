"""Reading a line by CTC and by what lines are like: prefix beam search (Hannun et al., 2014) with models.language."""

import math
from typing import NamedTuple

from models.ctc import Frame
from models.language import END, START, Language, folded

WIDTH = 4  # readings that are kept from frame to frame
LEAST = 0.005  # characters less probable than this in a frame are not tried there
IMPOSSIBLE = float("-inf")


class Prefix(NamedTuple):
    """What the frames so far may say. after_blank, after_character: logarithms of the probability of all paths that end so;
    bonus: of the language for its characters; shown: the text with each letter in its likelier case; sure: how probable that
    of the last character was where it was surest."""

    after_blank: float
    after_character: float
    bonus: float
    shown: str
    sure: float

    @property
    def log_probability(self) -> float:
        return log_add(self.after_blank, self.after_character)

    @property
    def score(self) -> float:
        return self.log_probability + self.bonus


class Seen(NamedTuple):
    """A character in a frame. folded: both cases of a letter as one; shown, sure: the likelier case and its probability;
    log_probability: of both."""

    folded: str
    shown: str
    sure: float
    log_probability: float


def beam_search(frames: list[Frame], characters: str, language: Language) -> dict[str, float]:
    """{text: its share of the probability of all that were kept} of a line. The character i of `characters` has the id
    i + 1. A text counts in all of its paths, times what the language gives for it. A letter in both cases one after the
    other, without a blank between them, is one letter: so a head shows one that it is torn about."""
    beam = {"": Prefix(0.0, IMPOSSIBLE, 0.0, "", 0.0)}
    for blank, seen in steps(frames, characters):
        beam = kept(advance(beam, math.log(max(blank, 1e-9)), seen, language))
    ended = {prefix.shown: prefix.score + language.bonus(START + text, END) for text, prefix in beam.items()}
    most = max(ended.values())
    total = sum(math.exp(score - most) for score in ended.values())
    return {text: math.exp(score - most) / total for text, score in ended.items()}


def steps(frames: list[Frame], characters: str) -> list[tuple[float, list[Seen]]]:
    """(probability of blank, characters to try) of the frames; of frames in a row that show nothing but blank, one."""
    found: list[tuple[float, list[Seen]]] = []
    for blank, shown in frames:
        by_letter: dict[str, list[tuple[float, str]]] = {}
        for place, probability in shown:
            character = characters[place - 1]
            by_letter.setdefault(folded(character), []).append((probability, character))
        seen = [Seen(letter, max(cases)[1], max(cases)[0], math.log(sum(share for share, _ in cases)))
                for letter, cases in by_letter.items()]
        if seen or not found or found[-1][1]:
            found.append((blank, seen))
    return found


def advance(beam: dict[str, Prefix], log_blank: float, seen: list[Seen], language: Language) -> dict[str, Prefix]:
    """All prefixes after one more frame, by their folded text."""
    grown: dict[str, Prefix] = {}

    def add(text: str, new: Prefix) -> None:
        old = grown.get(text)
        if old is None:
            grown[text] = new
            return
        shown, sure = (new.shown, new.sure) if new.sure > old.sure else (old.shown, old.sure)
        grown[text] = Prefix(log_add(old.after_blank, new.after_blank), log_add(old.after_character, new.after_character),
                             new.bonus, shown, sure)

    for text, prefix in beam.items():
        total = prefix.log_probability
        add(text, prefix._replace(after_blank=total + log_blank, after_character=IMPOSSIBLE))
        for character, shown, sure, log_probability in seen:
            before = total
            if text.endswith(character):  # the same letter still, or, after a blank, another one
                last, surest = (shown, sure) if sure > prefix.sure else (prefix.shown[-1], prefix.sure)
                add(text, Prefix(IMPOSSIBLE, prefix.after_character + log_probability, prefix.bonus,
                                 prefix.shown[:-1] + last, surest))
                before = prefix.after_blank
            if before > IMPOSSIBLE:
                bonus = prefix.bonus + language.bonus(START + text, character)
                add(text + character, Prefix(IMPOSSIBLE, before + log_probability, bonus, prefix.shown + shown, sure))
    return grown


def kept(beam: dict[str, Prefix]) -> dict[str, Prefix]:
    return dict(sorted(beam.items(), key=lambda item: -item[1].score)[:WIDTH])


def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    high, low = max(a, b), min(a, b)
    return high if low == IMPOSSIBLE else high + math.log1p(math.exp(low - high))
