"""The kinds of sheets by name."""

import numpy as np

from datasets.pages.board import whiteboard
from datasets.pages.canvas import Canvas
from datasets.pages.form import form
from datasets.pages.letter import letter
from datasets.pages.pen import FontKit
from datasets.pages.receipt import receipt
from utils.fonts import FontFace

SHEETS = {"receipt": receipt, "letter": letter, "form": form, "whiteboard": whiteboard}
KINDS = tuple(SHEETS)


def draw_sheet(kind: str, width: int, height: int, faces: list[FontFace], rng: np.random.Generator) -> Canvas:
    """A flat sheet of `kind`, at most width x height pixels, in Korean or English as the fonts and the dice allow."""
    korean = any(face.korean for face in faces) and rng.random() < 0.5
    unit = float(np.sqrt(min(width / 1000, height / 1400)))
    return SHEETS[kind](width, height, FontKit(faces), rng, korean, unit)
