"""A line of text in real fonts as coverage by ink: one face, with another where it lacks a character."""

from dataclasses import dataclass
from itertools import groupby
from typing import Iterable

import numpy as np
from PIL import Image, ImageDraw

from datasets.pages.content import pick
from utils.fonts import FontFace

TRIES = 8  # faces tried for one that has every character


@dataclass
class Line:
    """coverage (h, w) uint8; the ink of the text lies between the rows `top` and `bottom` and the columns `left` and
    `right`; em: pixels."""

    coverage: np.ndarray
    top: int
    bottom: int
    left: int
    right: int
    em: int


class FontChoice:
    """Faces to draw lines with. Half of the lines without Hangul are in fixed pitch, as printers of receipts have."""

    def __init__(self, faces: list[FontFace]):
        self.faces = faces
        self.all, self.mono = _by_family(faces), _by_family(face for face in faces if face.mono)
        self.korean = _by_family(face for face in faces if face.korean)

    def face(self, text: str, rng: np.random.Generator) -> FontFace:
        """One that has every character of `text` where a few draws find one; families count alike, however many
        styles they have."""
        hangul = any("가" <= c <= "힣" for c in text)
        families = self.korean if hangul else self.mono if rng.random() < 0.45 else self.all
        for _ in range(TRIES):
            face = pick(rng, pick(rng, families or self.all))
            rare = face.italic and rng.random() < 0.8  # documents are printed upright
            if not rare and face.has(text):
                break
        return face

    def runs(self, text: str, face: FontFace, rng: np.random.Generator) -> list[tuple[FontFace, str]]:
        """`text` in pieces with the face of each: `face`, or another for what it lacks."""
        if face.has(text):
            return [(face, text)]
        faces = [face if face.has(c) else self._other(c, rng) for c in text]
        return [(one, "".join(c for _, c in group)) for one, group in groupby(zip(faces, text), key=lambda pair: pair[0])]

    def _other(self, character: str, rng: np.random.Generator) -> FontFace:
        start = int(rng.integers(len(self.faces)))
        order = self.faces[start:] + self.faces[:start]
        return next((face for face in order if face.has(character)), order[0])


def _by_family(faces: Iterable[FontFace]) -> list[list[FontFace]]:
    return [list(group) for _, group in groupby(sorted(faces, key=lambda face: face.family), lambda face: face.family)]


def draw_line(text: str, face: FontFace, fonts: FontChoice, em: int, rng: np.random.Generator) -> Line:
    """Draw `text` at `em` pixels with a margin of half an em round it. Letters may be set apart, the gaps between words
    wide as between columns, and the whole narrowed or widened."""
    tracking = em * (rng.uniform(0.02, 0.22) if rng.random() < 0.1 else 0.0)
    wide = rng.random() < 0.2
    margin = em // 2 + 1
    pieces, x = [], float(margin)
    for one, run in fonts.runs(text, face, rng):
        font = one.at(em)
        parts = list(run) if tracking else _with_spaces_apart(run) if wide else [run]
        for part in parts:
            if part.strip():
                pieces.append((x, part, font))
            x += font.getlength(part) + tracking * len(part)
            if wide and not part.strip() and rng.random() < 0.5:
                x += em * rng.uniform(0.3, 2.5)
    boxes = [font.getbbox(part, anchor="ls") for _, part, font in pieces]
    x_height = -min(font.getbbox("x", anchor="ls")[1] for _, _, font in pieces)
    top, bottom = min(-x_height, *(box[1] for box in boxes)), max(0, *(box[3] for box in boxes))
    left = min(start + box[0] for (start, _, _), box in zip(pieces, boxes))
    right = max(start + box[2] for (start, _, _), box in zip(pieces, boxes))
    shift = margin - left
    tile = Image.new("L", (int(right - left) + 2 * margin + 1, int(bottom - top) + 2 * margin))
    pen = ImageDraw.Draw(tile)
    for start, part, font in pieces:
        pen.text((start + shift, margin - top), part, fill=255, font=font, anchor="ls")
    return Line(np.asarray(tile), margin, margin + int(bottom - top), margin, margin + int(right - left), em)


def _with_spaces_apart(text: str) -> list[str]:
    return ["".join(group) for _, group in groupby(text, key=str.isspace)]
