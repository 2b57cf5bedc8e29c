"""What is known of a made page: its picture and the exact truth of all four tasks, as plain arrays.

All points are (x, y) in pixels of the picture, float32, from its top left corner.
"""

from dataclasses import dataclass, field

import numpy as np

MARK_CLASSES = ("qr", "signature", "stamp")
CATEGORIES = ("small_text", "curves", "close_strokes", "long_lines")


@dataclass
class Word:
    """polygon (4, 2) in reading order from the top left; text without spaces, NFC."""

    polygon: np.ndarray
    text: str


@dataclass
class TextLine:
    """A line of text, or a part of it between wide gaps, as receipts are labelled.

    polygon (4, 2) in reading order from the top left; text NFC, "###" where nobody is asked to read it (text inside
    stamps); kind "print" or "handwriting".
    """

    polygon: np.ndarray
    text: str
    kind: str = "print"
    words: list[Word] = field(default_factory=list)


@dataclass
class Stroke:
    """One pull of a pen or one ruled line: points (N, 2), mean width in pixels.

    kind: "handwriting", "signature", "curve", "line" or "parallel" (lines a few pixels apart).
    """

    points: np.ndarray
    width: float
    kind: str


@dataclass
class Mark:
    """A mark of class `label` (an index of MARK_CLASSES).

    outline (N, 2): convex hull of its visible ink. Of a QR code only: payload, its text; module, the pixels of one of
    its squares; decodable, whether a reader is expected to read it: not written over, and not too small or too blurred.
    """

    label: int
    outline: np.ndarray
    payload: str = ""
    module: float = 0.0
    decodable: bool = False

    @property
    def box(self) -> np.ndarray:
        """(4,) x1 y1 x2 y2, tight round the visible ink."""
        return np.concatenate([self.outline.min(0), self.outline.max(0)])


@dataclass
class Page:
    """A made page.

    image (H, W, 3) uint8 RGB, as decoded from `jpeg`, the bytes that are stored; mask (H, W) uint8, 255 = ink. Ink is
    everything printed, ruled or written by pen, signatures included; stamps, QR codes, dirt, shadows and what shines
    through from the back are not ink. style: the name of the degradation.
    """

    kind: str
    style: str
    image: np.ndarray
    jpeg: bytes
    mask: np.ndarray
    lines: list[TextLine]
    strokes: list[Stroke]
    marks: list[Mark]

    def categories(self) -> list[str]:
        """The tags of categories.tsv that this page deserves, in the order of CATEGORIES."""
        heights = [side_lengths(line.polygon)[1] for line in self.lines if line.text != "###"]
        # 20 px is about the height of a line whose letters are 10 px high, the least the user's rule allows.
        found = {
            "small_text": sum(height < 20 for height in heights) >= 3,
            "curves": any(stroke.kind in ("curve", "signature") for stroke in self.strokes),
            "close_strokes": any(stroke.kind == "parallel" for stroke in self.strokes),
            "long_lines": any(
                stroke.kind in ("line", "parallel")
                and np.linalg.norm(stroke.points[-1] - stroke.points[0]) >= 0.3 * self.image.shape[1]
                for stroke in self.strokes
            ),
        }
        return [name for name in CATEGORIES if found[name]]

    def to_json(self) -> dict:
        """The whole truth but for the mask, in plain values rounded to a hundredth of a pixel."""
        height, width = self.image.shape[:2]
        return {
            "kind": self.kind,
            "style": self.style,
            "width": width,
            "height": height,
            "categories": self.categories(),
            "lines": [
                {
                    "text": line.text,
                    "kind": line.kind,
                    "polygon": _rounded(line.polygon),
                    "words": [{"text": word.text, "polygon": _rounded(word.polygon)} for word in line.words],
                }
                for line in self.lines
            ],
            "strokes": [
                {"kind": stroke.kind, "width": round(float(stroke.width), 2), "points": _rounded(stroke.points)}
                for stroke in self.strokes
            ],
            "marks": [
                {"class": MARK_CLASSES[mark.label], "box": _rounded(mark.box), "outline": _rounded(mark.outline)}
                | (
                    {"payload": mark.payload, "module": round(float(mark.module), 2), "decodable": mark.decodable}
                    if mark.payload
                    else {}
                )
                for mark in self.marks
            ],
        }


def side_lengths(quad: np.ndarray) -> tuple[float, float]:
    """(width, height) in pixels of a (4, 2) quad in reading order, each the mean of two opposite sides."""
    right, down = quad[1] - quad[0] + quad[2] - quad[3], quad[3] - quad[0] + quad[2] - quad[1]
    return float(np.linalg.norm(right)) / 2, float(np.linalg.norm(down)) / 2


def _rounded(points: np.ndarray) -> list:
    return np.round(np.asarray(points, np.float64), 2).tolist()
