"""A sheet that is drawn on and keeps the truth of what was drawn.

Inks multiply: what lies under them shines through, as on paper. Coordinates are pixels of the flat sheet;
geometry.py moves the truth from there to the picture.
"""

import unicodedata
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw

from datasets.pages.truth import Mark, Stroke, TextLine, Word
from utils.fonts import FontFace

Colour = tuple[int, int, int]
BLACK: Colour = (24, 24, 28)


@dataclass(frozen=True)
class TextStyle:
    """How text is printed. size in pixels per em; stretch widens (over 1) or narrows; opacity 0 to 1.

    dots: the gaps of a dot matrix printer. jitter: pixels by which the letters of a typewriter leave their line.
    """

    face: FontFace
    size: int
    colour: Colour = BLACK
    stretch: float = 1.0
    opacity: float = 1.0
    dots: bool = False
    jitter: float = 0.0


@dataclass
class PenStroke:
    """points (N, 2) float, widths (N,) float pixels: one pull of a pen, its width following the pressure."""

    points: np.ndarray
    widths: np.ndarray


class Canvas:
    """image (H, W, 3) uint8 RGB, mask (H, W) uint8 coverage by ink, and the lists of the truth."""

    def __init__(self, width: int, height: int, paper: Colour = (255, 255, 255)):
        self.width, self.height, self.paper = width, height, paper
        self.image = np.full((height, width, 3), paper, np.uint8)
        self.mask = np.zeros((height, width), np.uint8)
        self.lines: list[TextLine] = []
        self.strokes: list[Stroke] = []
        self.marks: list[Mark] = []

    def ink(
        self, coverage: np.ndarray, x: int, y: int, colour: Colour, opacity: float = 1.0, mask: np.ndarray | None = None
    ) -> None:
        """Lay ink on the sheet: coverage (h, w) uint8 with its top left corner at (x, y), cut at the sheet's edges.

        mask (h, w) uint8 is what the ink mask is told: None for marks that are not ink.
        """
        h, w = coverage.shape
        x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, self.width), min(y + h, self.height)
        if x1 <= x0 or y1 <= y0:
            return
        part = (slice(y0 - y, y1 - y), slice(x0 - x, x1 - x))
        here = (slice(y0, y1), slice(x0, x1))
        absorbed = (coverage[part].astype(np.float32) * (opacity / 255))[..., None]
        light = 1 - absorbed * (1 - np.float32(colour) / 255)
        self.image[here] = (self.image[here] * light + 0.5).astype(np.uint8)
        if mask is not None:
            np.maximum(self.mask[here], mask[part], out=self.mask[here])

    def measure(self, text: str, style: TextStyle) -> float:
        """Width of the text in pixels."""
        return style.face.at(style.size).getlength(text) * style.stretch

    def text(
        self, text: str, x: float, y: float, style: TextStyle, anchor: str = "l", rng: np.random.Generator | None = None
    ) -> TextLine | None:
        """Print one line with its baseline at y, and its left edge ("l"), middle ("m") or right edge ("r") at x.

        rng is needed for the jitter of a typewriter. Returns the line's truth, or None where there is nothing to print.
        """
        text = unicodedata.normalize("NFC", " ".join(text.split()))
        if not text:
            return None
        x -= {"l": 0.0, "m": 0.5, "r": 1.0}[anchor] * self.measure(text, style)
        left, top = int(round(x)), int(round(y))
        coverage, (dx, dy) = (
            _typed(text, style, rng) if style.jitter > 0 and rng is not None else print_coverage(text, style)
        )
        shown = coverage
        if style.dots:
            shown = coverage.copy()
            shown[2::3] //= 2
            shown[:, 2::3] = shown[:, 2::3] // 3 * 2
        self.ink(shown, left + dx, top + dy, style.colour, style.opacity, mask=coverage)
        line = text_truth(text, left, top, style)
        self.lines.append(line)
        return line

    def pen(
        self, strokes: list[PenStroke], kind: str, colour: Colour, opacity: float = 0.9, tone: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw strokes. tone (64, 64) float32 in [0, 1] makes the ink uneven. Returns the (N, 2) hull of the ink."""
        strokes = [stroke for stroke in strokes if len(stroke.points)]
        if not strokes:
            return np.zeros((0, 2), np.float32)
        coverage, x, y = rasterise(strokes)
        shown = coverage
        if tone is not None:
            uneven = cv2.resize(tone, coverage.shape[::-1], interpolation=cv2.INTER_LINEAR)
            shown = (coverage * uneven).astype(np.uint8)
        self.ink(shown, x, y, colour, opacity, mask=coverage)
        self.strokes += [Stroke(np.float32(s.points), float(np.mean(s.widths)), kind) for s in strokes]
        return ink_hull(coverage, x, y)

    def rule(self, x0: float, y0: float, x1: float, y1: float, width: float = 1.5, colour: Colour = BLACK) -> None:
        """A printed straight line."""
        points = np.float32([[x0, y0], [x1, y1]])
        self.pen([PenStroke(points, np.full(2, width, np.float32))], "line", colour, 1.0)

    def shade(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        """A tinted area, as behind the names of a form's fields. It is no ink: nothing is written by it."""
        part = self.image[max(int(y0), 0) : int(y1), max(int(x0), 0) : int(x1)]
        part[:] = (part * (np.float32(colour) / 255)).astype(np.uint8)

    def fade(self, least: float, rng: np.random.Generator) -> None:
        """What is drawn so far loses strength in bands across the sheet, down to the share `least`."""
        if least > 0.95:
            return
        rows = np.interp(np.arange(self.height), np.linspace(0, self.height, 9), rng.uniform(least, 1.15, 9)).clip(
            least, 1
        )
        columns = np.interp(np.arange(self.width), np.linspace(0, self.width, 7), rng.uniform(least, 1.3, 7)).clip(
            least, 1
        )
        strength = np.float32(np.maximum(rows[:, None] * columns[None], least))[..., None]
        blank = np.float32(self.paper)
        self.image = (blank - (blank - self.image) * strength).clip(0, 255).astype(np.uint8)

    def cut(self, height: int) -> "Canvas":
        """The sheet cut off under `height`, or under the lowest thing drawn."""
        lowest = [line.polygon[:, 1].max() + 2 for line in self.lines] + [mark.box[3] + 2 for mark in self.marks]
        self.height = min(int(max([height, *lowest])), self.height)
        self.image, self.mask = self.image[: self.height], self.mask[: self.height]
        return self


def text_height(canvas: Canvas) -> float:
    """Height in pixels of the sheet's smaller lines (the lowest tenth), infinite where nothing is written."""
    heights = [float(np.ptp(line.polygon[:, 1])) for line in canvas.lines if line.text != "###"]
    return float(np.percentile(heights, 10)) if heights else float("inf")


def text_truth(text: str, x: float, y: float, style: TextStyle) -> TextLine:
    """Polygons of a printed line and of its words: the ink's extents, at least as high as a small letter."""
    font = style.face.at(style.size)
    x_height = -font.getbbox("x", anchor="ls")[1]

    def quad(part: str, start: float) -> np.ndarray:
        left, top, right, bottom = font.getbbox(part, anchor="ls")
        x0, x1 = x + (start + left) * style.stretch - 1, x + (start + right) * style.stretch + 1
        y0, y1 = y + min(top, -x_height) - 1, y + max(bottom, 0) + 1
        return np.float32([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])

    words, position = [], 0
    for word in text.split(" "):
        words.append(Word(quad(word, font.getlength(text[:position])), word))
        position += len(word) + 1
    return TextLine(quad(text, 0), text, "print", words)


def rasterise(strokes: list[PenStroke]) -> tuple[np.ndarray, int, int]:
    """Coverage (h, w) uint8 of pen strokes, and the place (x, y) of its top left corner.

    Drawn enlarged and shrunk by area, so that widths and edges are finer than a pixel.
    """
    margin = max(float(stroke.widths.max()) for stroke in strokes) / 2 + 2
    low = np.floor(np.min([stroke.points.min(0) for stroke in strokes], 0) - margin).astype(int)
    high = np.ceil(np.max([stroke.points.max(0) for stroke in strokes], 0) + margin).astype(int)
    width, height = (high - low).tolist()
    scale = 4 if width * height < 250_000 else 2
    tile = np.zeros((height * scale, width * scale), np.uint8)
    for stroke in strokes:
        points = np.round((stroke.points - low) * (scale * 16)).astype(np.int32)  # 4 fractional bits
        thickness = np.maximum(np.round(stroke.widths * scale), 1).astype(int)
        # One call for each run of equal thickness; runs share their end points, and round caps close the joints.
        starts = np.concatenate([[0], np.flatnonzero(np.diff(thickness)) + 1])
        for begin, end in zip(starts, [*starts[1:], len(points)]):
            run = points[begin : end + 1]
            cv2.polylines(
                tile, [run if len(run) > 1 else run.repeat(2, 0)], False, 255, int(thickness[begin]), cv2.LINE_8, 4
            )
    return cv2.resize(tile, (width, height), interpolation=cv2.INTER_AREA), int(low[0]), int(low[1])


def ink_hull(coverage: np.ndarray, x: int = 0, y: int = 0, least: int = 40) -> np.ndarray:
    """(N, 2) float32 convex hull of the pixels of (h, w) uint8 coverage over `least`, moved by (x, y); may be empty."""
    ink = coverage > least
    rows = np.flatnonzero(ink.any(1))
    if not len(rows):
        return np.zeros((0, 2), np.float32)
    first, last = ink[rows].argmax(1), ink.shape[1] - ink[rows][:, ::-1].argmax(1)  # the hull needs no more of a row
    corners = [np.stack([column, level], 1) for column in (first, last) for level in (rows, rows + 1)]
    return cv2.convexHull(np.float32(np.concatenate(corners))).reshape(-1, 2) + np.float32([x, y])


def print_coverage(text: str, style: TextStyle) -> tuple[np.ndarray, tuple[int, int]]:
    """Coverage of the text and the offset of its top left corner from the baseline's start."""
    font = style.face.at(style.size)
    left, top, right, bottom = (int(np.floor(v)) for v in font.getbbox(text, anchor="ls"))
    tile = Image.new("L", (max(right - left, 1) + 2, max(bottom - top, 1) + 2))
    ImageDraw.Draw(tile).text((1 - left, 1 - top), text, fill=255, font=font, anchor="ls")
    coverage = np.asarray(tile)
    if style.stretch != 1:
        size = (max(int(round(coverage.shape[1] * style.stretch)), 1), coverage.shape[0])
        coverage = cv2.resize(coverage, size, interpolation=cv2.INTER_LINEAR)
    return coverage, (int(round((left - 1) * style.stretch)), top - 1)


@lru_cache(maxsize=4096)
def _glyph(face: FontFace, size: int, stretch: float, character: str) -> tuple[np.ndarray, tuple[int, int]]:
    return print_coverage(character, TextStyle(face, size, stretch=stretch))


def _typed(text: str, style: TextStyle, rng: np.random.Generator) -> tuple[np.ndarray, tuple[int, int]]:
    """As print_coverage, letter by letter, each a little off its place and inked more or less, as a typewriter does."""
    font = style.face.at(style.size)
    pad = int(np.ceil(style.jitter)) + 2
    top = -style.size - pad
    coverage = np.zeros(
        (int(style.size * 1.5) + 2 * pad, int(font.getlength(text) * style.stretch) + style.size), np.uint8
    )
    shifts = np.round(rng.normal(0, style.jitter, (len(text), 2))).astype(int).clip(-pad, pad)
    for index, character in enumerate(text):
        if character == " ":
            continue
        glyph, (dx, dy) = _glyph(style.face, style.size, style.stretch, character)
        x = int(round(font.getlength(text[:index]) * style.stretch)) + dx + int(shifts[index, 0]) + pad
        y = dy - top + int(shifts[index, 1])
        x, y = max(x, 0), max(y, 0)
        place = coverage[y : y + glyph.shape[0], x : x + glyph.shape[1]]
        np.maximum(place, glyph[: place.shape[0], : place.shape[1]], out=place)
    return coverage, (-pad, top)
