"""Signatures and QR codes on a canvas, and stamps laid on it, with their truth."""

import cv2
import numpy as np
import segno

from datasets.pages import content
from datasets.pages.canvas import Canvas, Colour, ink_hull
from datasets.pages.handwriting import signature, signed_name
from datasets.pages.stamps import draw_stamp
from datasets.pages.truth import MARK_CLASSES, Mark, TextLine
from utils.fonts import FontFace

STAMP_COLOURS: list[Colour] = [
    (196, 30, 42),
    (208, 44, 62),
    (170, 24, 60),
    (36, 60, 160),
    (52, 74, 190),
    (60, 60, 140),
    (30, 30, 36),
    (48, 48, 54),
]
RED: list[Colour] = [(196, 30, 42), (208, 44, 62)]
PEN_COLOURS: list[Colour] = [(26, 30, 40), (26, 30, 40), (40, 40, 46), (24, 40, 130), (30, 60, 170)]


def qr_matrix(payload: str, rng: np.random.Generator) -> np.ndarray:
    """(n, n) uint8, 1 = dark, without the quiet zone."""
    return np.array(segno.make(payload, error=content.pick(rng, "lmqh"), micro=False).matrix, np.uint8)


def add_qr(canvas: Canvas, x: int, y: int, module: int, matrix: np.ndarray, payload: str) -> None:
    """A QR code of `module` pixels a module, its first module's corner at (x, y)."""
    side = len(matrix) * module
    quiet = canvas.image[max(y - 4 * module, 0) : y + side + 4 * module, max(x - 4 * module, 0) : x + side + 4 * module]
    np.maximum(quiet, 236, out=quiet)  # its label is white
    canvas.ink(np.kron(matrix * 255, np.ones((module, module), np.uint8)), x, y, (20, 20, 20))
    outline = np.float32([[x, y], [x + side, y], [x + side, y + side], [x, y + side]])
    canvas.marks.append(Mark(MARK_CLASSES.index("qr"), outline, payload, float(module)))


def add_signature(
    canvas: Canvas,
    x: float,
    y: float,
    width: float,
    height: float,
    colour: Colour,
    name: str,
    face: FontFace,
    rng: np.random.Generator,
) -> None:
    """A signature with its middle at (x, y): loops, or the name dashed off with the letters of `face`."""
    pen = rng.uniform(1.4, 3.2)
    if rng.random() < 0.35 and face.has(name):
        strokes = signed_name(name, width, 0.8 * height, pen, face, rng)
    else:
        strokes = signature(width, height, pen, rng)
    angle = rng.normal(-0.05, 0.07)
    turn = np.float32([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    for stroke in strokes:
        stroke.points = stroke.points @ turn + np.float32([x, y])
    tone = np.float32(rng.uniform(0.7, 1, (64, 64)))
    hull = canvas.pen(strokes, "signature", colour, rng.uniform(0.75, 0.97), tone)
    canvas.marks.append(Mark(MARK_CLASSES.index("signature"), hull))


def add_stamp(
    canvas: Canvas, x: float, y: float, size: float, faces: list[FontFace], korean: bool, rng: np.random.Generator
) -> None:
    """A stamp with its middle at (x, y), about `size` pixels wide. Its texts become lines "###"."""
    kind, coverage, texts = draw_stamp(int(size * 2), faces, korean, rng)
    h, w = coverage.shape
    angle = float(rng.normal(0, 12) if kind != "seal" else rng.normal(0, 4))
    grown = int(np.ceil(np.hypot(h, w))) + 4
    matrix = cv2.getRotationMatrix2D(((w - 1) / 2, (h - 1) / 2), angle, 1.0)
    matrix[:, 2] += [(grown - w) / 2, (grown - h) / 2]
    turned = cv2.warpAffine(coverage, matrix, (grown, grown))
    shown = _worn(cv2.resize(turned, (grown // 2, grown // 2), interpolation=cv2.INTER_AREA), rng)
    left, top = int(round(x - grown / 4)), int(round(y - grown / 4))
    colour = content.pick(rng, RED if kind == "seal" else STAMP_COLOURS)
    canvas.ink(shown, left, top, colour, rng.uniform(0.55, 0.92))
    canvas.marks.append(Mark(MARK_CLASSES.index("stamp"), ink_hull(shown, left, top)))
    for quad in texts:
        moved = (quad @ matrix[:, :2].T + matrix[:, 2]) / 2 + [left, top]
        canvas.lines.append(TextLine(np.float32(moved), "###", "print"))


def _worn(coverage: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Uneven pressure over the stamp, a lean to one side, and small holes where no ink took; never wholly gone."""
    h, w = coverage.shape
    pressure = cv2.resize(np.float32(rng.uniform(0.55, 1.25, (4, 4))), (w, h), interpolation=cv2.INTER_CUBIC)
    turn = rng.uniform(0, 6.3)
    lean = np.cos(turn) * np.linspace(-1, 1, w)[None] + np.sin(turn) * np.linspace(-1, 1, h)[:, None]
    grain = cv2.resize(np.float32(rng.uniform(0, 1, (h // 2 + 1, w // 2 + 1))), (w, h), interpolation=cv2.INTER_LINEAR)
    holes = np.clip((grain - rng.uniform(0.05, 0.3)) * 6, 0.2, 1)
    strength = np.clip(pressure + rng.uniform(0, 0.3) * lean, 0.4, 1) * holes
    bled = cv2.GaussianBlur(coverage, (0, 0), rng.uniform(0.3, 0.8))  # ink creeps into the paper
    return np.uint8(np.clip(bled * strength, 0, 255))
