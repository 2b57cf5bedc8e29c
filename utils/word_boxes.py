"""Where the words of a line stand: the line's spaces are laid into its gaps, whichever model has read it.

Each space is given one of the line's runs of columns that show paper alone, so that together the gaps are wide and the words
about as long as their letters make them; by dynamic programming over the runs, from left to right.
"""

import unicodedata

import cv2
import numpy as np

from utils.geometry import crop_quad
from utils.text_crops import runs

HEIGHT = 32  # pixels: profiles of higher lines are of the line shrunk to this
PALE = 0.15  # of the contrast of letters: columns with less show paper alone
GRAIN = 5  # pixels of a column that are averaged first, which strokes outlast and grain does not
WIDE, ADVANCE = 1.0, 0.55  # of a line's height: how far a character of full width takes the pen, and most others
NARROW, BROAD = (set("iIl|!.,:;'`jft()[]{}1"), 0.33), (set("mwMW@%"), 0.85)
TOLERANCE = 0.25  # of a word's length and a letter more: how far off its length may be, one standard deviation
GAIN = 12.0  # what a gap as wide as the line is high is worth, in squares of that deviation; wider ones no more
PAPER = 90  # percentile of a line's greys, from its ink's side, that is its paper's grey: letters may fill most of it
MARGIN = 0.25  # of the height: how far from its box a line's text may begin and end
CANDIDATES = 4  # of the widest gaps, so many for each word are tried
IMPOSSIBLE = 1e9  # the cost of a word that ends before it begins


def word_quads(image: np.ndarray, quad: np.ndarray, text: str, either_way: bool = False) -> list[tuple[str, np.ndarray]]:
    """(word, its corners (4, 2) float32 in reading order) for each word of a line. image (H, W, 3) uint8; quad (4, 2): the
    line's corners, from the top left of its text; either_way: or from the bottom right, whichever way its words fit better.
    The quad itself for a word alone; none for a text of spaces."""
    quad = np.asarray(quad, np.float32)
    words = text.split()
    if len(words) < 2:
        return [(word, quad) for word in words]
    ways = [quad, np.roll(quad, 2, axis=0)] if either_way else [quad]
    spans = [word_spans(crop_quad(image, way), words) for way in ways]
    (spans, _), quad = min(zip(spans, ways), key=lambda pair: pair[0][1])
    return [(word, part_of(quad, begin, end)) for word, (begin, end) in zip(words, spans)]


def part_of(quad: np.ndarray, begin: float, end: float) -> np.ndarray:
    """(4, 2): what a line's quad (4, 2) has from share `begin` to share `end` of its length."""
    (top_left, top_right, bottom_right, bottom_left), shares = quad, np.float32([[begin], [end]])
    top, bottom = top_left + shares * (top_right - top_left), bottom_left + shares * (bottom_right - bottom_left)
    return np.stack([top[0], top[1], bottom[1], bottom[0]])


def word_spans(line: np.ndarray, words: list[str]) -> tuple[np.ndarray, float]:
    """((N, 2) float64: where each of N words begins and ends, in shares of the line's width, ascending and without overlap; the
    cost of choose_gaps).

    line (h, w, 3) uint8, upright and without more paper round it than a detector leaves: what seems to be more is faint ink.
    Where it shows too few gaps it is shared out by the lengths of its words.
    """
    paper = paper_columns(line)
    height = len(paper) / line.shape[1] * line.shape[0]
    ink, most = np.flatnonzero(~paper), MARGIN * height
    first, last = (min(ink[0], most), max(ink[-1] + 1, len(paper) - most)) if len(ink) else (0, len(paper))
    lengths = np.array([natural_length(word) for word in words])
    gaps = runs(paper)
    gaps = gaps[(gaps[:, 0] > first) & (gaps[:, 1] < last)]
    gaps = gaps[np.argsort(-np.ptp(gaps, axis=1), kind="stable")][: CANDIDATES * len(words)]
    expected = lengths * (last - first - np.ptp(gaps[: len(words) - 1], axis=1).sum()) / lengths.sum()
    # Where letters touch or grain fills the gaps, there are places by length alone, which are worth nothing as gaps.
    places = first + np.cumsum(lengths)[:-1, None] / lengths.sum() * (last - first)
    gaps = np.concatenate([gaps, np.repeat(places, 2, 1)])
    gaps = gaps[np.argsort(gaps.sum(1), kind="stable")]
    worth = GAIN * np.minimum(np.ptp(gaps, axis=1) / height, 1)
    chosen, cost = choose_gaps(gaps, worth, expected, TOLERANCE * (expected + ADVANCE * height), (first, last))
    edges = np.concatenate([[first], gaps[chosen].ravel(), [last]])
    # In a line of fewer pixels than words some would cross.
    return np.maximum.accumulate(edges).reshape(-1, 2) / len(paper), cost


def choose_gaps(gaps: np.ndarray, worth: np.ndarray, expected: np.ndarray, deviations: np.ndarray,
                ends: tuple[float, float]) -> tuple[list[int], float]:
    """The rows of `gaps` (G, 2), begins and ends from left to right, that part N words between the two `ends` of their line at
    the lowest cost, and that cost: the sum over words of ((length - expected) / deviation)^2, both (N,), less `worth` (G,) of
    each gap."""
    begins, past = np.append(gaps[:, 0], ends[1]), np.append(ends[0], gaps[:, 1])
    cost, came_from = np.zeros(1), []
    for word, (length, deviation) in enumerate(zip(expected, deviations)):
        left = past[1:] if word else past[:1]
        right = begins[:-1] if word < len(expected) - 1 else begins[-1:]
        measured = right - left[:, None]  # from gap to gap
        total = cost[:, None] + np.where(measured > 0, ((measured - length) / deviation) ** 2, IMPOSSIBLE)
        came_from.append(total.argmin(0))
        cost = total.min(0) - (worth if word < len(expected) - 1 else 0)
    chosen = [0]
    for back in came_from[:0:-1]:
        chosen.append(int(back[chosen[-1]]))
    return chosen[:0:-1], float(cost[0])


def paper_columns(line: np.ndarray) -> np.ndarray:
    """(w',) bool: which columns of a line (h, w, 3) uint8, shrunk to HEIGHT where it is higher, show paper alone: they are of
    one grey, and of the paper's, unlike a stem that fills its column."""
    grey = cv2.cvtColor(line, cv2.COLOR_RGB2GRAY)
    if grey.shape[0] > HEIGHT:
        grey = cv2.resize(grey, (max(round(grey.shape[1] * HEIGHT / grey.shape[0]), 1), HEIGHT), interpolation=cv2.INTER_AREA)
    # Most of the first and the last row is paper, even in a box so tight that letters fill it.
    light = 2 * np.median(grey[[0, -1]]) > np.percentile(grey, (5, 95)).sum()
    paper = np.percentile(grey, PAPER if light else 100 - PAPER)
    edge = grey.shape[0] // 8
    inside = cv2.blur(grey, (1, GRAIN))[edge : len(grey) - edge].astype(np.int32)
    contrast = np.maximum(np.ptp(inside, axis=0), np.abs(inside.mean(0) - paper))
    return contrast < np.percentile(contrast, (10, 90)) @ (1 - PALE, PALE)


def natural_length(word: str) -> float:
    """How long a word is in print, in heights of a line: about, since its font is not known."""
    return sum(_advance(character) for character in word)


def _advance(character: str) -> float:
    if unicodedata.east_asian_width(character) in "WF":
        return WIDE
    return next((advance for some, advance in (NARROW, BROAD) if character in some), ADVANCE)
