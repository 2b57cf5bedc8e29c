"""Whiteboards: words large and small, curves, close parallels, long straight lines, plots and boxes, by marker."""

import numpy as np

from datasets.pages import content, words
from datasets.pages.canvas import Canvas, Colour
from datasets.pages.pen import FontKit, Pen

MARKERS: list[Colour] = [(28, 30, 36), (28, 30, 36), (24, 60, 170), (190, 30, 40), (20, 120, 70)]


def whiteboard(width: int, height: int, kit: FontKit, rng: np.random.Generator, korean: bool, unit: float) -> Canvas:
    """A whiteboard of width x height pixels, filled cell by cell."""
    tone = np.array([246, 247, 248]) - rng.integers(0, 12)
    canvas = Canvas(width, height, tuple(int(v) for v in tone))
    pen = Pen.on(canvas, kit, rng, korean, unit)
    rows, columns = max(int(height / (300 * unit)), 1), max(int(width / (330 * unit)), 1)
    cell_w, cell_h = width * 0.9 / columns, height * 0.9 / rows
    thick = rng.uniform(2.2, 6) * max(unit, 0.6)
    if rng.random() < 0.12:  # a printed code stuck on the board, and nothing drawn there
        pen.code(width * 0.95, height * 0.95 - cell_h, min(cell_w, cell_h) * 0.9)
    for row in range(rows):
        for column in range(columns):
            x0 = width * 0.05 + (column + rng.uniform(0.02, 0.08)) * cell_w
            y0 = height * 0.05 + (row + rng.uniform(0.02, 0.1)) * cell_h
            w, h = 0.9 * cell_w, 0.86 * cell_h
            if rng.random() < 0.12 or pen.meets_code(x0, y0, x0 + w, y0 + h):
                continue
            draw = content.pick(
                rng, [_words, _words, _small_words, _curves, _parallels, _lines, _plot, _boxes, _formula]
            )
            draw(pen, x0, y0, w, h, content.pick(rng, MARKERS), thick * rng.uniform(0.8, 1.25))
    if rng.random() < 0.5:  # a line across the board
        y = height * (0.05 + 0.9 * rng.integers(1, rows + 1) / rows) - 3
        if not pen.meets_code(0, y - 5, width, y + 5):
            pen.draw(
                [[width * 0.05, y], [width * 0.95, y + rng.normal(0, 6)]], "line", content.pick(rng, MARKERS), thick
            )
    if rng.random() < 0.1:
        pen.sign(width * 0.8, height * 0.96, 160 * unit, 60 * unit)
    return canvas


def _words(pen: Pen, x, y, w, h, colour, thick) -> None:
    rng = pen.rng
    size = rng.uniform(30, 62) * pen.unit
    bullet = content.pick(rng, ["", "", "- ", "* "])
    level = y + size
    while level < y + h:
        pen.write(
            bullet + pen.pick(words.BOARD_EN, words.BOARD_KO),
            x,
            level,
            size,
            min(thick, size / 7),
            colour,
            rng.normal(0, 0.03),
            room=w,
        )
        level += size * rng.uniform(1.2, 1.7)
        if rng.random() < 0.2:
            break


def _small_words(pen: Pen, x, y, w, h, colour, thick) -> None:
    size = pen.rng.uniform(15, 26) * pen.unit
    for level in np.arange(y + size, y + h, size * pen.rng.uniform(1.35, 1.9)):
        text = " ".join(content.sentence(pen.rng, pen.korean).split()[: int(pen.rng.integers(2, 6))])
        pen.write(text, x, float(level), size, max(size / 11, 1.3), colour, pen.rng.normal(0, 0.015), room=w)


def _formula(pen: Pen, x, y, w, h, colour, thick) -> None:
    """A fraction or a sum: close signs over and under a line."""
    rng = pen.rng
    size = rng.uniform(28, 46) * pen.unit
    for level in np.arange(y + 1.2 * size, y + h - size, 3 * size):
        name = content.pick(rng, "xyzabfgn")
        over, under = (
            f"{rng.integers(1, 30)}{content.pick(rng, 'xyab')} {content.pick(rng, '+-')} {rng.integers(1, 9)}"
            for _ in range(2)
        )
        pen.write(f"{name} =", x, level + 0.5 * size, size, min(thick, size / 8), colour)
        start = x + 2.1 * size * pen.hand.narrow
        pen.write(over, start, level, size * 0.8, min(thick, size / 9), colour, room=w - start + x)
        pen.write(under, start, level + 1.2 * size, size * 0.8, min(thick, size / 9), colour, room=w - start + x)
        end = min(start + 3.2 * size * pen.hand.narrow, x + w)
        pen.draw([[start - 4, level + 0.28 * size], [end, level + 0.28 * size]], "line", colour, min(thick, size / 8))


def _curves(pen: Pen, x, y, w, h, colour, thick) -> None:
    rng = pen.rng
    for _ in range(int(rng.integers(1, 3))):
        kind, t = rng.integers(4), np.linspace(0, 1, int(rng.integers(20, 40)))
        middle = np.array([x + w * rng.uniform(0.4, 0.6), y + h * rng.uniform(0.4, 0.6)])
        if kind == 0:  # a wave
            points = np.stack(
                [x + w * t, middle[1] + h * 0.3 * np.sin(t * rng.uniform(8, 26)) * rng.uniform(0.3, 1)], 1
            )
        elif kind == 1:  # a spiral
            angle, radius = t * rng.uniform(10, 20), (0.05 + 0.95 * t) * min(w, h) * 0.4
            points = middle + np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
        elif kind == 2:  # loops
            fine = np.linspace(0, 1, 90)
            points = np.stack(
                [x + w * (0.1 + 0.8 * fine + 0.08 * np.sin(fine * 40)), middle[1] + h * 0.12 * np.cos(fine * 40)], 1
            )
        else:  # a scribble
            points = np.stack([rng.uniform(x, x + w, 9), rng.uniform(y, y + h, 9)], 1)
        pen.curve(np.clip(points, [x, y], [x + w, y + h]), "curve", colour, thick)


def _parallels(pen: Pen, x, y, w, h, colour, thick) -> None:
    """Lines a few pixels apart, or hatching."""
    rng = pen.rng
    count, gap = int(rng.integers(2, 10)), thick + rng.uniform(2.5, 8)
    angle = content.pick(rng, [0.0, np.pi / 2, rng.uniform(0, np.pi)])
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    half, middle = 0.42 * min(w, h), np.array([x + w / 2, y + h / 2])
    for k in range(count):
        base = middle + across * gap * (k - count / 2)
        pen.draw(
            [base - along * half * rng.uniform(0.85, 1), base + along * half * rng.uniform(0.85, 1)],
            "parallel",
            colour,
            thick,
        )


def _lines(pen: Pen, x, y, w, h, colour, thick) -> None:
    rng = pen.rng
    for _ in range(int(rng.integers(1, 4))):
        a = np.array([x + w * rng.uniform(0, 0.15), y + h * rng.uniform(0, 1)])
        b = np.array([x + w * rng.uniform(0.85, 1), y + h * rng.uniform(0, 1)])
        pen.draw([a, b], "line", colour, thick)
        if rng.random() < 0.5:
            _arrow_head(pen, a, b, colour, thick)


def _plot(pen: Pen, x, y, w, h, colour, thick) -> None:
    rng = pen.rng
    corner = np.array([x, y + h])
    for tip in (np.array([x, y]), np.array([x + w, y + h])):
        pen.draw([corner, tip], "line", colour, thick)
        _arrow_head(pen, corner, tip, colour, thick)
    t = np.linspace(0.03, 0.92, 14)
    for _ in range(int(rng.integers(1, 3))):
        level = 0.5 + 0.4 * np.sin(t * rng.uniform(2, 9) + rng.uniform(0, 6)) * rng.uniform(0.4, 1)
        pen.curve(np.stack([x + w * t, y + h * level], 1), "curve", content.pick(rng, MARKERS), thick)
    if rng.random() < 0.4:
        for share in np.linspace(0.15, 0.85, 6):
            pen.draw([[x + w * share, y + h - 7], [x + w * share, y + h + 7]], "line", colour, thick * 0.8)
    pen.write(
        content.pick(rng, ["x", "t", "n", "loss", "%"]), x + w * 0.8, y + h * 0.93, 26 * pen.unit, thick * 0.6, colour
    )


def _boxes(pen: Pen, x, y, w, h, colour, thick) -> None:
    rng = pen.rng
    for level in (y, y + h * 0.6):
        corners = np.array([[x, level], [x + w * 0.85, level], [x + w * 0.85, level + h * 0.35], [x, level + h * 0.35]])
        corners += rng.normal(0, 3, corners.shape)
        for a, b in zip(corners, np.roll(corners, -1, 0)):
            pen.draw([a, b], "line", colour, thick)
        pen.write(
            pen.pick(words.BOARD_EN, words.BOARD_KO),
            x + 12,
            level + h * 0.24,
            min(34 * pen.unit, h * 0.2),
            thick * 0.7,
            colour,
            room=w * 0.75,
        )
    a, b = np.array([x + w * 0.4, y + h * 0.36]), np.array([x + w * 0.4, y + h * 0.58])
    pen.draw([a, b], "line", colour, thick)
    _arrow_head(pen, a, b, colour, thick)


def _arrow_head(pen: Pen, a, b, colour, thick) -> None:
    back = (a - b) / max(np.linalg.norm(a - b), 1e-6) * (10 + 3 * thick)
    for turn in (0.45, -0.45):
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        pen.draw([b, b + matrix @ back], "line", colour, thick)
