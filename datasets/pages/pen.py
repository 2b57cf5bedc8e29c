"""What the four kinds of sheets draw with: fonts for each purpose, a printer, a hand, pieces that several share."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.pages import content, marks, words
from datasets.pages.canvas import Canvas, Colour, PenStroke, TextStyle
from datasets.pages.handwriting import Hand, squiggle, text_width, write_text
from utils.errors import DataError
from utils.fonts import FontFace

LEAST_HAND = 0.65  # handwriting is not squeezed under this share of its size; words are left out instead


class FontKit:
    """The faces that one split may use, sorted by what they are for."""

    def __init__(self, faces: list[FontFace]):
        if not faces:
            raise DataError("no fonts to draw with; way out: name a folder of fonts by --font-dir")
        self.faces = faces
        self.korean = [face for face in faces if face.korean]
        upright = [face for face in self.korean or faces if not face.bold and not face.italic]
        light = [face for face in upright if "light" in face.style.lower()]
        self.hand = (light or upright or faces)[0]  # thin letters leave the cleanest skeletons

    def body(self, rng: np.random.Generator, korean: bool, mono: float = 0.0) -> FontFace:
        """A face for running text, mostly upright and of ordinary weight; with probability `mono` of equal widths."""
        usable = self.korean if korean and self.korean else self.faces
        fixed = [face for face in usable if face.mono]
        if fixed and rng.random() < mono:
            usable = fixed
        family = content.pick(rng, sorted({face.family for face in usable}))  # families first: some have more styles
        usable = [face for face in usable if face.family == family]
        # Light letters are thinner than a pixel at the size of running text.
        usable = [face for face in usable if "light" not in face.style.lower()] or usable
        plain = [face for face in usable if not face.italic and not face.bold]
        return content.pick(rng, plain if plain and rng.random() < 0.75 else usable)

    def bolder(self, face: FontFace) -> FontFace:
        return next((f for f in self.faces if f.family == face.family and f.bold and f.italic == face.italic), face)

    def for_text(self, face: FontFace, text: str) -> FontFace:
        """`face`, or the first one that has all of the text's characters."""
        return face if face.has(text) else next((f for f in self.faces if f.has(text)), face)


@dataclass
class Pen:
    """Where a sheet is drawn: the canvas, the fonts, the randomness, the language, and one person's hand.

    unit: 1 for a page of 1000 x 1400 pixels; sizes that should shrink on a smaller page are given in it.
    """

    canvas: Canvas
    kit: FontKit
    rng: np.random.Generator
    korean: bool
    unit: float
    hand: Hand
    colour: Colour
    width: float

    @classmethod
    def on(cls, canvas: Canvas, kit: FontKit, rng: np.random.Generator, korean: bool, unit: float) -> "Pen":
        return cls(
            canvas,
            kit,
            rng,
            korean,
            unit,
            Hand.random(rng),
            content.pick(rng, marks.PEN_COLOURS),
            rng.uniform(1.6, 2.9) * max(unit, 0.7),
        )

    def pick(self, english, korean=None):
        """One of the choices in this sheet's language; one list serves both where only one is given."""
        return content.pick(self.rng, korean if korean is not None and self.korean else english)

    def print(
        self,
        text: str,
        x: float,
        y: float,
        style: TextStyle,
        anchor: str = "l",
        room: float = 0.0,
        labelled: bool = True,
    ) -> None:
        """Print in a face that has the characters; over `room` pixels the last words are dropped, the rest narrowed."""
        style = replace(style, face=self.kit.for_text(style.face, text))
        if room > 0:
            while self.canvas.measure(text, style) > room and " " in text.strip():
                text = text.rsplit(" ", 1)[0]
            width = self.canvas.measure(text, style)
            if width > room:
                style = replace(style, stretch=style.stretch * room / width)
        line = self.canvas.text(text, x, y, style, anchor, self.rng)
        if line is not None and not labelled:
            self.canvas.lines.pop()

    def paragraph(
        self,
        text: str,
        left: float,
        right: float,
        y: float,
        step: float,
        style: TextStyle,
        indent: float = 0.0,
        bottom: float = 1e9,
        justified: bool = False,
    ) -> float:
        """Wrapped text from the baseline y down, not under `bottom`. Returns the next baseline."""
        style = replace(style, face=self.kit.for_text(style.face, text))
        words, x = text.split(), left + indent
        while words and y < bottom:
            count, widths = 0, np.cumsum([self.canvas.measure(word + " ", style) for word in words[:40]])
            count = max(int(np.searchsorted(widths, right - x)), 1)
            line = " ".join(words[:count])
            stretch = style.stretch
            if justified and count < len(words):
                stretch *= float(np.clip((right - x) / max(self.canvas.measure(line, style), 1), 0.9, 1.12))
            self.print(line, x, y, replace(style, stretch=stretch), room=right - x + style.size)
            words, x, y = words[count:], left, y + step
        return y

    def write(
        self,
        text: str,
        x: float,
        y: float,
        size: float,
        width: float | None = None,
        colour: Colour | None = None,
        angle: float = 0.0,
        room: float = 0.0,
    ) -> None:
        """Handwriting; over `room` pixels wide it is made smaller, and words are left out before it becomes tiny."""
        face = self.kit.hand
        if not face.has(text):
            return
        if room > 0:
            while text_width(text, face, self.hand) * size * LEAST_HAND > room and " " in text:
                text = text.rsplit(" ", 1)[0]
            size = min(size, room / max(text_width(text, face, self.hand), 1e-6))
        strokes, line = write_text(text, x, y, size, width or self.width, face, self.hand, self.rng, angle)
        tone = np.float32(self.rng.uniform(0.7, 1, (64, 64)))
        self.canvas.pen(strokes, "handwriting", colour or self.colour, self.rng.uniform(0.8, 0.98), tone)
        self.canvas.lines.append(line)

    def draw(self, ends, kind: str, colour: Colour, width: float) -> None:
        """A straight pull by hand from ends[0] to ends[1]: nearly straight, with pressure."""
        a, b = np.asarray(ends, np.float32)
        length = float(np.linalg.norm(b - a))
        t = np.linspace(0, 1, max(int(length / 12), 2))[:, None]
        side = np.array([a[1] - b[1], b[0] - a[0]]) / max(length, 1e-6)
        points = a + (b - a) * t + side * np.sin(np.pi * t) * self.rng.normal(0, 0.004) * length
        widths = np.float32(width * np.interp(t.ravel(), [0, 0.5, 1], self.rng.uniform(0.85, 1.15, 3)))
        self.canvas.pen([PenStroke(np.float32(points), widths)], kind, colour, self.rng.uniform(0.75, 0.95))

    def curve(self, points: np.ndarray, kind: str, colour: Colour, width: float) -> None:
        """A free curve by hand through (N, 2) control points."""
        self.canvas.pen([squiggle(points, width, self.rng)], kind, colour, self.rng.uniform(0.75, 0.95))

    def tick(self, x: float, y: float, size: float) -> None:
        """A tick with its foot about (x, y)."""
        points = np.float32([[-0.35, -0.5], [0, 0], [0.85, -1.2]]) * size + np.float32([x, y])
        self.curve(points, "handwriting", self.colour, self.width)

    def sign(self, x: float, y: float, width: float, height: float) -> None:
        """A signature about (x, y), kept on the sheet; left out where it would lie on a QR code."""
        x = float(np.clip(x, width * 0.7, max(self.canvas.width - width * 0.7, width * 0.7)))
        y = float(np.clip(y, height * 0.8, max(self.canvas.height - height * 0.8, height * 0.8)))
        if not self.meets_code(x - width * 0.6, y - height * 0.6, x + width * 0.6, y + height * 0.6):
            name = content.person(self.rng, self.korean)
            marks.add_signature(self.canvas, x, y, width, height, self.colour, name, self.kit.hand, self.rng)

    def stamp(self, x: float, y: float, size: float) -> None:
        """A stamp about (x, y), kept on the sheet; left out where it would lie on a QR code, which it would ruin."""
        half = size * 0.62
        x = float(np.clip(x, half, max(self.canvas.width - half, half)))
        y = float(np.clip(y, half, max(self.canvas.height - half, half)))
        if not self.meets_code(x - half, y - half, x + half, y + half):
            marks.add_stamp(self.canvas, x, y, size, self.kit.faces, self.korean, self.rng)

    def code(self, x: float, top: float, most: float, anchor: str = "r") -> float:
        """A QR code, its right edge ("r") or its middle ("m") at x, its upper edge at top, `most` pixels wide at most.

        The quiet zone counts. Returns the side of it all, 0 where it does not fit.
        """
        payload = content.payload(self.rng, self.korean)
        matrix = marks.qr_matrix(payload, self.rng)
        module = min(max(int(self.rng.integers(3, 8) * self.unit), 2), int(most / (len(matrix) + 8)))
        if module < 2:
            return 0.0
        side = (len(matrix) + 8) * module
        if top + side > self.canvas.height:
            return 0.0
        left = x - side if anchor == "r" else x - side / 2
        marks.add_qr(self.canvas, int(left + 4 * module), int(top + 4 * module), module, matrix, payload)
        return float(side)

    def meets_code(self, x0: float, y0: float, x1: float, y1: float) -> bool:
        codes = [mark.box for mark in self.canvas.marks if mark.label == 0]
        return any(x0 < c[2] and x1 > c[0] and y0 < c[3] and y1 > c[1] for c in codes)


def paper(rng: np.random.Generator, darkest: int = 14) -> Colour:
    """A nearly white paper."""
    tone = np.array([254, 253, 250]) - rng.integers(0, darkest) - rng.integers(0, 4, 3)
    return tuple(int(value) for value in tone)


def table(
    pen: Pen, left: float, right: float, y: float, row: float, rows: int, style: TextStyle, line: float, by_hand: bool
) -> float:
    """A ruled table with a head, items and amounts. Returns its lower edge."""
    rng = pen.rng
    count = int(rng.integers(3, 6))
    cuts = np.sort(rng.dirichlet(np.full(count, 6.0)).cumsum()[:-1])
    edges = np.concatenate([[left], left + (right - left) * cuts, [right]])
    for level in range(rows + 1):
        pen.canvas.rule(left, y + level * row, right, y + level * row, line, style.colour)
    for edge in edges:
        pen.canvas.rule(edge, y, edge, y + rows * row, line, style.colour)
    for level in range(rows):
        for column in range(count):
            room = edges[column + 1] - edges[column] - 14 * pen.unit
            if room < 40 * pen.unit or (level and rng.random() < 0.15):
                continue
            if level == 0:
                text = pen.pick(words.FIELDS_EN, words.FIELDS_KO)
            elif column == 0:
                text = pen.pick(words.ITEMS_EN, words.ITEMS_KO)
            else:
                text = content.money(rng, pen.korean, "")
            x, base = edges[column] + 7 * pen.unit, y + (level + 0.68) * row
            if by_hand and level:
                pen.write(text, x, base, row * 0.5, room=room)
            elif level and column:
                pen.print(text, edges[column + 1] - 7 * pen.unit, base, style, "r", room)
            else:
                pen.print(text, x, base, style, room=room)
    return y + rows * row
