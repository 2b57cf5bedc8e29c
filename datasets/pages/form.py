"""Forms: fields in a grid or over lines, filled in by hand, a table, boxes to tick, and a place to sign."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.pages import content, words
from datasets.pages.canvas import Canvas, TextStyle
from datasets.pages.pen import FontKit, Pen, paper, table

INKS = [(30, 30, 34), (30, 30, 34), (30, 60, 120), (20, 90, 80), (120, 50, 40)]


@dataclass
class Blank:
    """The printed form: style, edges, height of a row, width of the lines, and whether values are by hand."""

    pen: Pen
    style: TextStyle
    left: float
    right: float
    row: float
    line: float
    by_hand: bool

    def value(self, text: str, x: float, y: float, room: float) -> None:
        """What is filled in, on the row whose upper edge is y."""
        rng = self.pen.rng
        if self.by_hand:
            size = min(self.row * rng.uniform(0.5, 0.75), 40 * self.pen.unit)
            self.pen.write(text, x, y + self.row * rng.uniform(0.62, 0.8), size, angle=rng.normal(0, 0.01), room=room)
        else:
            self.pen.print(text, x, y + self.row * 0.66, replace(self.style, colour=(24, 24, 28)), room=room)


def form(width: int, height: int, kit: FontKit, rng: np.random.Generator, korean: bool, unit: float) -> Canvas:
    """A filled form of width x height pixels."""
    canvas = Canvas(width, height, paper(rng, 10))
    pen = Pen.on(canvas, kit, rng, korean, unit)
    face = kit.body(rng, korean, mono=0.1)
    size = max(int(rng.uniform(16, 23) * unit), 9)
    style = TextStyle(face, size, content.pick(rng, INKS), rng.uniform(0.85, 1.05))
    blank = Blank(
        pen,
        style,
        width * 0.07,
        width * 0.93,
        max(size * rng.uniform(1.9, 3.0), 24 * unit),
        rng.uniform(1, 2.4),
        rng.random() < 0.85,
    )
    y = _title(blank)
    rows = int(rng.integers(0, 8))
    y = _fields(blank, y, height - 7 * blank.row - rows * blank.row) + blank.row * 0.8
    if rows:
        y = (
            table(pen, blank.left, blank.right, y, blank.row, rows, style, blank.line, rng.random() < 0.5)
            + 0.7 * blank.row
        )
    for _ in range(int(rng.integers(0, 3))):
        _checkboxes(blank, y)
        y += blank.row * 0.8
    _signing(blank, min(max(y + blank.row * 0.6, height * 0.6), height - 2.6 * blank.row))
    return canvas


def _title(blank: Blank) -> float:
    pen, rng, style = blank.pen, blank.pen.rng, blank.style
    width, height = pen.canvas.width, pen.canvas.height
    y = height * 0.07
    side = pen.code(blank.right, height * 0.015, 0.22 * width) if rng.random() < 0.4 else 0.0
    title = replace(style, size=int(style.size * rng.uniform(1.5, 2.3)), face=pen.kit.bolder(style.face))
    pen.print(pen.pick(words.TITLES_EN, words.TITLES_KO), width / 2, y, title, "m", width * 0.5)
    if rng.random() < 0.4:
        y += style.size * 1.4
        pen.print(
            " ".join(content.sentence(rng, pen.korean).split()[:7]),
            width / 2,
            y,
            replace(style, size=max(int(style.size * 0.75), 9)),
            "m",
            width * 0.5,
        )
    if rng.random() < 0.2:  # the office's own grid of approvals, empty
        cell = 60 * pen.unit
        for k in range(4):
            pen.canvas.rule(blank.left + k * cell, y - cell, blank.left + k * cell, y + 0.2 * cell, 1.2, style.colour)
        for level in (-1, -0.65, 0.2):
            pen.canvas.rule(blank.left, y + level * cell, blank.left + 3 * cell, y + level * cell, 1.2, style.colour)
    return max(y + style.size * 2, height * 0.02 + side)


def _fields(blank: Blank, y: float, end: float) -> float:
    """Names of fields and their values, one or two in a row. Returns the lower edge."""
    pen, rng, style, row = blank.pen, blank.pen.rng, blank.style, blank.row
    canvas, unit, left, right, line = pen.canvas, pen.unit, blank.left, blank.right, blank.line
    shape = content.pick(rng, ["grid", "grid", "lines", "shaded"])
    share = (right - left) * rng.uniform(0.16, 0.22)
    names = list(words.FIELDS_KO if pen.korean else words.FIELDS_EN)
    rng.shuffle(names)
    filled = rng.uniform(0.6, 1)
    top, levels = y, []
    while y + row < end and names:
        double = len(names) > 1 and rng.random() < 0.45
        for column in range(2 if double else 1):
            x0 = left if column == 0 else (left + right) / 2
            x1 = (left + right) / 2 if double and column == 0 else right
            edge = x0 + share
            if shape == "shaded":
                canvas.shade(x0, y, edge, y + row, (226, 230, 236))
            pen.print(names.pop(), x0 + 8 * unit, y + row * 0.66, style, room=share - 12 * unit)
            if rng.random() < filled:
                blank.value(
                    content.field_value(rng, pen.korean), edge + rng.uniform(8, 22) * unit, y, x1 - edge - 34 * unit
                )
            if shape == "lines":
                canvas.rule(edge, y + row * 0.85, x1 - 10 * unit, y + row * 0.85, line, style.colour)
            else:
                canvas.rule(edge, y, edge, y + row, line, style.colour)
                if column:
                    canvas.rule(x0, y, x0, y + row, line, style.colour)
        levels.append(y)
        y += row
    if shape != "lines" and levels:
        for level in [*levels, y]:
            canvas.rule(left, level, right, level, line, style.colour)
        for x in (left, right):
            canvas.rule(x, top, x, y, line, style.colour)
    return y


def _checkboxes(blank: Blank, y: float) -> None:
    pen, style = blank.pen, blank.style
    side = style.size * 0.9
    for k in range(3):
        x = blank.left + (blank.right - blank.left) * k / 3
        for a, b in (((0, 0), (1, 0)), ((1, 0), (1, 1)), ((1, 1), (0, 1)), ((0, 1), (0, 0))):
            pen.canvas.rule(
                x + a[0] * side, y - side + a[1] * side, x + b[0] * side, y - side + b[1] * side, 1.3, style.colour
            )
        pen.print(
            pen.pick(words.FIELDS_EN, words.FIELDS_KO),
            x + 1.6 * side,
            y,
            style,
            room=(blank.right - blank.left) / 3 - 2 * side,
        )
        if pen.rng.random() < 0.5:
            pen.tick(x + 0.4 * side, y - 0.1 * side, side)


def _signing(blank: Blank, y: float) -> None:
    pen, rng, style, row = blank.pen, blank.pen.rng, blank.style, blank.row
    unit, left, right = pen.unit, blank.left, blank.right
    pen.print(
        pen.pick(
            ["I declare that the above is true and complete.", "The undersigned agrees to the terms above."],
            ["상기 내용은 사실과 다름이 없음을 확인합니다.", "위와 같이 신청합니다."],
        ),
        left,
        y,
        style,
        room=right - left,
    )
    y += row * 1.3
    pen.print(content.date(rng, pen.korean), left, y, style, room=0.45 * (right - left))
    x = (left + right) / 2
    label = pen.pick(["Signature:", "Signed:", "Authorised by:"], ["신청인:", "서명:", "확인자:"])
    pen.print(label, x, y, style)
    start = x + pen.canvas.measure(label, style) + 10 * unit
    pen.canvas.rule(start, y + 5 * unit, right, y + 5 * unit, blank.line, style.colour)
    if rng.random() < 0.85:
        pen.sign(
            (start + right) / 2, y - 0.25 * row, (right - start) * rng.uniform(0.55, 0.95), row * rng.uniform(0.9, 1.5)
        )
    if rng.random() < 0.55:
        pen.stamp(
            rng.uniform(0.2, 0.85) * pen.canvas.width, y - rng.uniform(-0.6, 2.5) * row, rng.uniform(130, 240) * unit
        )
