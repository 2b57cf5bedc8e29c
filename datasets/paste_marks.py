"""Marks cut from training images and laid on other pages, with exact boxes: box copy-paste for ink on paper.

Ink multiplies: of a mark only what it leaves of the light that falls on its paper is kept, and the page under it shines
through, as it does under a stamp. Marks on anything but even, bright paper (a QR code on a pack) are not cut. Where no
mark of a class can be cut, signatures, stamps and QR codes are made from strokes, text and modules.

Copy-paste: Ghiasi et al., Simple Copy-Paste is a Strong Data Augmentation Method, CVPR 2021.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np

from datasets.pages.canvas import Canvas
from datasets.pages.marks import add_qr, add_signature, add_stamp, qr_matrix
from datasets.yolo import MarkSample
from utils.dataloading import sample_rng
from utils.fonts import find_fonts
from utils.images import image_size, list_images, load_image

MOST_OF_A_CLASS = 300  # marks kept
LONGEST_SIDE = 320  # pixels a mark is kept at
MADE = 40  # marks made of a class that has none
MARGIN = 0.06  # of paper round a label's box, as a share of its sides
BRIGHT, EVEN = 140, 22  # paper: lowest median and largest spread of the grey values round a mark
INK, NO_INK = 0.82, 0.92  # light left: under the first is ink, over the second is paper
LEAST_INK, MOST_INK = 0.01, 0.7  # share of a mark's box that is ink
SHARES = (0.05, 0.35)  # longer side of a pasted mark in longer sides of its page
TURNS = {"qr": 3.0, "sign": 8.0, "stamp": 20.0}  # degrees either way, by what a class is called
MOST_PASTED = 3
MOST_OVERLAP = 0.2  # of a pasted mark with one that is there
TRIES = 8


@dataclass(frozen=True)
class CutMark:
    """light: (h, w, 3) uint8, the share of light the mark lets through (255: all); share: its longer side in longer
    sides of its page."""

    class_id: int
    light: np.ndarray
    share: float
    turn: float


class MarkPaster:
    """Calling it lays some marks on an image; everything it does follows from the generator it is given."""

    def __init__(self, samples: Sequence[MarkSample], names: dict[int, str], seed: int):
        """Cut marks from `samples`; reads them in an order that follows from `seed` until there are enough."""
        self.names, self.marks = names, {class_id: [] for class_id in names}
        for place in sample_rng(seed, 0, 0).permutation(len(samples)):
            sample = samples[place]
            if any(len(self.marks[class_id]) < MOST_OF_A_CLASS for class_id in sample.classes):
                for mark in cut_marks(sample, names):
                    if len(self.marks[mark.class_id]) < MOST_OF_A_CLASS:
                        self.marks[mark.class_id].append(mark)
        self.made = [class_id for class_id, found in self.marks.items() if not found and kind_of(names[class_id])]
        for class_id in self.made:
            self.marks[class_id] = make_marks(class_id, names[class_id], sample_rng(seed, 0, class_id + 1))

    def describe(self) -> str:
        """'212 qr, 40 stamp (made)'"""
        return ", ".join(f"{len(found)} {self.names[class_id]}" + (" (made)" if class_id in self.made else "")
                         for class_id, found in self.marks.items())

    def __call__(self, image: np.ndarray, classes: np.ndarray, boxes: np.ndarray, rng: np.random.Generator):
        """image (H, W, 3) uint8 RGB, classes (N,), boxes (N, 4) x-centre, y-centre, width, height in shares.

        Returns new ones, the image in a copy, with one to MOST_PASTED marks more where there was room on bright paper.
        """
        image = image.copy()
        height, width = image.shape[:2]
        size = np.array([width, height, width, height])
        corners = [*(np.hstack([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2]) * size)]
        added, kinds = [], [class_id for class_id, found in self.marks.items() if found]
        for _ in range(int(rng.integers(1, MOST_PASTED + 1)) if kinds else 0):
            found = self.marks[kinds[rng.integers(len(kinds))]]
            mark = found[rng.integers(len(found))]
            light = vary(mark, max(height, width), rng)
            for _ in range(TRIES):
                h, w = light.shape[:2]
                if h >= height or w >= width:
                    break
                x, y = int(rng.integers(0, width - w)), int(rng.integers(0, height - h))
                under = image[y : y + h, x : x + w]
                box = ink_box(light) + [x, y, x, y]
                if np.median(under) >= BRIGHT and not any(overlaps(box, other) for other in corners):
                    under[...] = (under * light + 0.5).astype(np.uint8)
                    corners.append(box)
                    middle, sides = (box[:2] + box[2:]) / 2, box[2:] - box[:2]
                    added.append((mark.class_id, *(middle / size[:2]), *(sides / size[:2])))
                    break
        return (image, np.append(classes, [row[0] for row in added]).astype(classes.dtype),
                np.vstack([boxes, np.array([row[1:] for row in added], boxes.dtype).reshape(-1, 4)]))


def cut_marks(sample: MarkSample, names: dict[int, str]) -> list[CutMark]:
    """The marks of an image that lie on even, bright paper."""
    image = load_image(sample.file)
    cut = []
    for class_id, (x1, y1, x2, y2) in zip(sample.classes.tolist(), sample.corners()):
        edge = np.array([x2 - x1, y2 - y1]) * MARGIN + 2
        left, top = np.floor(np.maximum([x1, y1] - edge, 0)).astype(int)
        right, bottom = np.ceil(np.minimum([x2, y2] + edge, image.shape[1::-1])).astype(int)
        light = light_left(image[top:bottom, left:right])
        if light is not None:
            cut.append(_as_mark(class_id, names[class_id], light, max(x2 - x1, y2 - y1) / max(image.shape[:2])))
    return cut


def light_left(patch: np.ndarray) -> np.ndarray | None:
    """(h, w, 3) uint8: the share of light that is left where there is ink, cut to the ink; 255 where there is none.

    patch (H, W, 3) uint8: a mark with some paper all round. None where what is round it is no even, bright paper, or
    where it holds next to no ink or almost nothing else.
    """
    if min(patch.shape[:2]) < 8:
        return None
    ring = np.concatenate([patch[:2].reshape(-1, 3), patch[-2:].reshape(-1, 3), patch[:, :2].reshape(-1, 3),
                           patch[:, -2:].reshape(-1, 3)])
    grey = ring.mean(1)
    if np.median(grey) < BRIGHT or np.percentile(grey, 80) - np.percentile(grey, 20) > EVEN:
        return None
    light = np.minimum(patch / np.maximum(np.median(ring, axis=0), 1), 1).astype(np.float32)
    ink = light.min(2) < INK
    if not LEAST_INK < ink.mean() < MOST_INK:
        return None
    light[light.min(2) > NO_INK] = 1
    x1, y1, x2, y2 = ink_box(light)
    return (light[y1:y2, x1:x2] * 255 + 0.5).astype(np.uint8)


def _as_mark(class_id: int, name: str, light: np.ndarray, share: float) -> CutMark:
    scale = LONGEST_SIDE / max(light.shape[:2])
    if scale < 1:
        light = cv2.resize(light, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return CutMark(class_id, light, float(np.clip(share, *SHARES)), TURNS.get(kind_of(name), 5.0))


def ink_box(light: np.ndarray) -> np.ndarray:
    """(4,) int x1 y1 x2 y2 of the ink in (h, w, 3) float32 light; there must be some."""
    rows, columns = np.nonzero(light.min(2) < INK)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


def vary(mark: CutMark, page_side: int, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) float32 light of the mark for a page of so many pixels, in another size, turn and strength."""
    side = page_side * np.clip(mark.share * rng.uniform(0.7, 1.4), *SHARES)
    height, width = mark.light.shape[:2]
    scale, angle = max(side / max(height, width), 8 / min(height, width)), rng.uniform(-mark.turn, mark.turn)
    matrix = cv2.getRotationMatrix2D((width / 2, height / 2), angle, scale)
    w, h = np.ceil(np.abs(matrix[:, :2]) @ [width, height]).astype(int) + 2
    matrix[:, 2] += [w / 2 - width / 2, h / 2 - height / 2]
    source = mark.light
    if scale < 0.5:  # warping alone would skip thin strokes
        source = cv2.blur(source, (round(0.5 / scale) * 2 - 1,) * 2)
    light = cv2.warpAffine(source, matrix, (int(w), int(h)), flags=cv2.INTER_LINEAR, borderValue=(255, 255, 255)) / 255
    strength = rng.uniform(0.8, 1.5)
    stronger = np.float32(light) ** np.float32(strength)
    return stronger if (stronger.min(2) < INK).any() else np.float32(light) ** 8


def overlaps(box: np.ndarray, other: np.ndarray) -> bool:
    shared = np.maximum(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0).prod()
    return shared > MOST_OVERLAP * min((box[2:] - box[:2]).prod(), (other[2:] - other[:2]).prod())


def kind_of(name: str) -> str | None:
    """Which of TURNS a class is, by what it is called."""
    return next((kind for kind in TURNS if kind in name.lower()), None)


def make_marks(class_id: int, name: str, rng: np.random.Generator) -> list[CutMark]:
    """MADE marks of a class that is called like one that can be drawn."""
    faces, marks = find_fonts(), []
    while len(marks) < MADE:
        canvas, kind = Canvas(400, 400), kind_of(name)
        if kind == "qr":
            matrix = qr_matrix(f"docmarks:{rng.integers(10**12)}", rng)
            add_qr(canvas, 40, 40, 320 // len(matrix), matrix, "")
        elif kind == "sign":
            face = faces[rng.integers(len(faces))]
            width, height = rng.uniform(150, 300), rng.uniform(50, 120)
            add_signature(canvas, 200, 200, width, height, (26, 30, 60), "J. Miller", face, rng)
        else:
            add_stamp(canvas, 200, 200, 260, faces, bool(rng.random() < 0.3), rng)
        light = light_left(canvas.image)
        if light is not None:
            marks.append(_as_mark(class_id, name, light, rng.uniform(0.08, 0.25)))
    return marks


def bare_pages(folder: Path) -> list[MarkSample]:
    """Images without labels, such as receipts, to be pasted onto: nothing on them but what is pasted is learnt, since
    nobody has said what they hold. Raises DataError for a folder without images."""
    return [MarkSample(path, *image_size(path), np.zeros(0, np.int64), np.zeros((0, 4), np.float32), frozenset())
            for path in list_images(folder)]
