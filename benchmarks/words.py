"""Where words stand in their lines (utils.word_boxes): how often it is right, beside lengths alone, and what it costs.

    python -m benchmarks.words
    python -m benchmarks.words --lines 600 --font-dir FONTS

Prints one JSON object as its last line. Lines of made texts are drawn word by word in the fonts that there are, with spaces
of 0.7 to 1.6 times their usual width, some columns' gaps, grain and blur; a word is right where it begins and ends within a
quarter of the line's height of where it was drawn. "by lengths alone": the line shared out as its letters are wide in print.
Times are of one thread.
"""

import json
import time
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.lines.draw import FontChoice
from datasets.lines.text import LineTexts
from utils.args import new_parser, positive_int, seed
from utils.charset import build_charset
from utils.errors import exit_cleanly
from utils.fonts import find_fonts
from utils.word_boxes import natural_length, word_spans

LONGEST = 60  # characters
GROWTH = (2, 8, 32)  # words in a line
COLUMNS = 0.15  # share of lines with wide gaps
NEAR = 0.25  # of the line's height: the error of a word that is right


def drawn_line(words: list[str], fonts: FontChoice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(line (h, w, 3) uint8, (N, 2) begin and end of each word in shares of its width)."""
    em = int(rng.integers(14, 40))
    font = fonts.face(" ".join(words), rng).at(em)
    gap, columns = font.getlength(" ") * rng.uniform(0.7, 1.6), rng.random() < COLUMNS
    x, spans, starts = float(em), [], []
    for word in words:
        left, _, right, _ = font.getbbox(word, anchor="ls")
        starts.append(x)
        spans.append((x + left, x + right))
        x += font.getlength(word) + gap + (em * rng.uniform(1, 6) if columns and rng.random() < 0.4 else 0)
    paper, ink = int(rng.integers(180, 256)), int(rng.integers(0, 110))
    tile = Image.new("L", (int(spans[-1][1]) + em, 3 * em), paper)
    pen = ImageDraw.Draw(tile)
    for start, word in zip(starts, words):
        pen.text((start, 2 * em), word, fill=ink, font=font, anchor="ls")
    grey = np.asarray(tile)
    rows = np.flatnonzero((grey < paper).any(1))
    begin, end = int(spans[0][0]) - int(rng.integers(0, 4)), int(spans[-1][1]) + int(rng.integers(1, 5))
    grey = grey[max(rows[0] - 2, 0) : rows[-1] + 3, begin:end]
    grey = np.clip(grey + rng.normal(0, rng.uniform(0, 12), grey.shape), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        grey = cv2.GaussianBlur(grey, (0, 0), rng.uniform(0.3, 1.5))
    return cv2.merge([grey] * 3), (np.array(spans) - begin) / (end - begin)


def by_lengths(words: list[str]) -> np.ndarray:
    """(N, 2): the line shared out among its words, spaces a third of a line's height wide."""
    lengths = np.array([natural_length(word) for word in words])
    ends = np.cumsum(lengths + 0.3) - 0.3
    return np.stack([ends - lengths, ends], 1) / ends[-1]


def errors(spans: np.ndarray, truth: np.ndarray, line: np.ndarray) -> np.ndarray:
    """(N,): how far the worse end of each word (N, 2) is from its true place (N, 2), in heights of the line."""
    return np.abs(spans - truth).max(1) * line.shape[1] / line.shape[0]


def lines_of_words(number: int, fonts: FontChoice, first: int) -> list[list[str]]:
    """Made lines of two words or more, that one face can write."""
    characters = "".join(c for c in build_charset("ksx1001").characters if any(face.has(c) for face in fonts.faces))
    texts, found, index = LineTexts(characters, LONGEST, 20 * number, first, korean=0.4), [], 0
    while len(found) < number:
        rng = np.random.default_rng((first, index))
        words = texts.text(0, index, rng).split()
        index += 1
        if len(words) > 1 and fonts.face(" ".join(words), rng).has("".join(words)):
            found.append(words)
    return found


def seconds_of(line: np.ndarray, words: list[str], rounds: int = 5) -> float:
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        word_spans(line, words)
        times.append(time.perf_counter() - begun)
    return min(times)


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--lines", type=positive_int, default=600, help="(default: %(default)s)")
    parser.add_argument("--font-dir", type=Path, metavar="DIR", help="more fonts than those of the installed packages")
    parser.add_argument("--seed", type=seed, default=0, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)
    fonts, rng = FontChoice(find_fonts(args.font_dir)), np.random.default_rng(args.seed)
    by_gaps, alone, spent = [], [], []
    for words in lines_of_words(args.lines, fonts, args.seed):
        line, truth = drawn_line(words, fonts, rng)
        by_gaps.append(errors(word_spans(line, words)[0], truth, line))
        alone.append(errors(by_lengths(words), truth, line))
        spent.append(seconds_of(line, words))
    growth = {str(number): 1000 * seconds_of(drawn_line(["Word"] * number, fonts, rng)[0], ["Word"] * number)
              for number in GROWTH}
    print(json.dumps({
        "faces": len(fonts.faces), "lines": len(by_gaps), "words": sum(map(len, by_gaps)),
        "by_gaps": shares(by_gaps), "by_lengths_alone": shares(alone),
        "ms_a_line_median": 1000 * float(np.median(spent)), "ms_by_words_in_a_line": growth}))


def shares(errors_of_lines: list[np.ndarray]) -> dict[str, float]:
    every = np.concatenate(errors_of_lines)
    return {"words_right": float((every <= NEAR).mean()), "median_error": float(np.median(every)),
            "whole_lines_right": float(np.mean([(of_line <= NEAR).all() for of_line in errors_of_lines]))}


if __name__ == "__main__":
    exit_cleanly(main)
