"""Letters: typed or printed on a letterhead, dense contracts, and notes by hand."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.pages import content, words
from datasets.pages.canvas import Canvas, TextStyle
from datasets.pages.pen import FontKit, Pen, paper, table


@dataclass
class Sheet:
    """A page of running text: the style, the margins, the line step, and how far down it is."""

    pen: Pen
    style: TextStyle
    left: float
    right: float
    step: float
    y: float

    @property
    def room(self) -> float:
        return self.right - self.left

    def line(
        self,
        text: str,
        x: float | None = None,
        anchor: str = "l",
        style: TextStyle | None = None,
        rows: float = 1.0,
        room: float | None = None,
    ) -> None:
        self.pen.print(text, self.left if x is None else x, self.y, style or self.style, anchor, room or self.room)
        self.y += rows * self.step


def letter(width: int, height: int, kit: FontKit, rng: np.random.Generator, korean: bool, unit: float) -> Canvas:
    """A letter of width x height pixels."""
    canvas = Canvas(width, height, paper(rng))
    pen = Pen.on(canvas, kit, rng, korean, unit)
    if rng.random() < 0.15:
        _note(pen)
        return canvas
    face = kit.body(rng, korean, mono=0.35)
    size = max(int(rng.uniform(16, 25) * unit), 9)
    jitter = 0.4 if face.mono and rng.random() < 0.7 else 0.0  # a typewriter
    style = TextStyle(
        face, size, (int(rng.integers(15, 60)),) * 3, rng.uniform(0.88, 1.06), rng.uniform(0.82, 1), False, jitter
    )
    sheet = Sheet(
        pen,
        style,
        width * rng.uniform(0.07, 0.14),
        width * rng.uniform(0.86, 0.94),
        size * rng.uniform(1.2, 1.65),
        height * rng.uniform(0.04, 0.07),
    )
    if rng.random() < 0.3:
        _contract(sheet)
    else:
        _business_letter(sheet)
    if rng.random() < 0.2:  # a note in the margin
        pen.write(
            pen.pick(words.BOARD_EN, words.BOARD_KO),
            sheet.left + rng.uniform(0, 0.5) * sheet.room,
            height * rng.uniform(0.955, 0.975),
            size * 1.5,
            angle=rng.normal(0, 0.02),
        )
    if rng.random() < 0.2:
        pen.tick(width * rng.uniform(0.75, 0.9), height * rng.uniform(0.05, 0.3), 40 * unit)
    return canvas


def _business_letter(sheet: Sheet) -> None:
    pen, rng, korean, style, step = sheet.pen, sheet.pen.rng, sheet.pen.korean, sheet.style, sheet.step
    height = pen.canvas.height
    _letterhead(sheet)
    sheet.line(content.date(rng, korean), *content.pick(rng, [(sheet.right, "r"), (sheet.left, "l")]), rows=1.6)
    for text in [
        content.person(rng, korean) + (" 귀하" if korean else ""),
        content.company(rng, korean),
        *content.address(rng, korean),
    ]:
        sheet.line(text, room=sheet.room * 0.6)
    sheet.y += step * 0.6
    if rng.random() < 0.5:
        subject = pen.pick(["RE: ", "Subject: "], ["제목: "]) + " ".join(content.sentence(rng, korean).split()[:6])
        sheet.line(subject, style=replace(style, face=pen.kit.bolder(style.face)), rows=1.5)
    if not korean:
        sheet.line(f"Dear {content.pick(rng, ['Mr.', 'Ms.', 'Dr.'])} {content.pick(rng, words.LAST_EN)}:", rows=1.5)
    closing = height - 7.5 * step
    gap, indent, justified = (
        rng.uniform(0.2, 0.8) * step,
        style.size * 2 if rng.random() < 0.4 else 0,
        rng.random() < 0.3,
    )
    for _ in range(int(rng.integers(1, 8))):
        if sheet.y > closing - step:
            break
        text = " ".join(content.sentence(rng, korean) for _ in range(int(rng.integers(2, 6))))
        sheet.y = pen.paragraph(text, sheet.left, sheet.right, sheet.y, step, style, indent, closing, justified) + gap
    if sheet.y < closing - 7 * step and rng.random() < 0.3:
        rows = int(min(rng.integers(3, 8), (closing - sheet.y) / (1.6 * step)))
        sheet.y = (
            table(
                pen,
                sheet.left,
                sheet.right,
                sheet.y,
                1.6 * step,
                rows,
                replace(style, jitter=0),
                rng.uniform(1, 2),
                False,
            )
            + step
        )
    sheet.y = min(sheet.y + step, closing)
    x = sheet.left if rng.random() < 0.5 else sheet.left + 0.5 * sheet.room
    sheet.line(
        pen.pick(
            ["Sincerely,", "Yours truly,", "Very truly yours,", "Best regards,"],
            ["감사합니다.", "위와 같이 통보합니다."],
        ),
        x,
        room=sheet.right - x,
    )
    if rng.random() < 0.85:
        pen.sign(
            x + 130 * pen.unit, sheet.y + 1.1 * step, rng.uniform(170, 300) * pen.unit, rng.uniform(2.4, 4.2) * step
        )
    sheet.y += 3 * step
    name = content.person(rng, korean)
    sheet.line(f"대표 {name} (인)" if korean else name, x, room=sheet.right - x)
    sheet.line(
        pen.pick(["Manager", "Director of Research", "President", "Secretary"], ["부장", "대표이사", "담당자"]), x
    )
    if rng.random() < 0.5:
        near = (x + rng.uniform(150, 330) * pen.unit, sheet.y + rng.uniform(-4, -1) * step)
        far = (sheet.right - rng.uniform(60, 200) * pen.unit, height * rng.uniform(0.08, 0.7))
        pen.stamp(*(near if rng.random() < 0.6 else far), rng.uniform(130, 260) * pen.unit)


def _letterhead(sheet: Sheet) -> None:
    pen, rng, korean = sheet.pen, sheet.pen.rng, sheet.pen.korean
    kit, style = pen.kit, sheet.style
    head = replace(
        style,
        size=int(style.size * rng.uniform(1.3, 2.1)),
        face=kit.bolder(kit.body(rng, korean)),
        jitter=0,
        colour=content.pick(rng, [style.colour, style.colour, (30, 50, 120), (140, 30, 30)]),
    )
    x, anchor = content.pick(rng, [(sheet.left, "l"), ((sheet.left + sheet.right) / 2, "m"), (sheet.right, "r")])
    side = (
        pen.code(sheet.right, 0.02 * pen.canvas.height, 0.3 * pen.canvas.width)
        if anchor == "l" and rng.random() < 0.5
        else 0
    )
    room = sheet.room - side
    sheet.y += head.size
    sheet.line(content.company(rng, korean), x, anchor, head, room=room)
    small = replace(style, size=max(int(style.size * 0.78), 9), jitter=0)
    for text in [*content.address(rng, korean), content.phone(rng, korean)]:
        sheet.line(text, x, anchor, small, 0.85, room)
    if rng.random() < 0.5:
        sheet.y = max(sheet.y, side + 0.025 * pen.canvas.height)
        pen.canvas.rule(sheet.left, sheet.y, sheet.right, sheet.y, rng.uniform(1, 3.5), head.colour)
    sheet.y = max(sheet.y, side) + sheet.step * rng.uniform(1.5, 3)


def _contract(sheet: Sheet) -> None:
    """Numbered clauses, dense, and two parties side by side who sign and stamp."""
    pen, rng, korean, style, step = sheet.pen, sheet.pen.rng, sheet.pen.korean, sheet.style, sheet.step
    bold = replace(style, face=pen.kit.bolder(style.face), jitter=0)
    sheet.y += step
    sheet.line(
        pen.pick(
            ["AGREEMENT", "CONTRACT", "TERMS OF SERVICE", "DECLARATION"], ["계 약 서", "약정서", "협약서", "확인서"]
        ),
        (sheet.left + sheet.right) / 2,
        "m",
        replace(bold, size=int(style.size * 1.5)),
        2,
    )
    end = pen.canvas.height - 10 * step
    clause = 1
    while sheet.y < end - 2 * step:
        sheet.line(
            f"제{clause}조 ({pen.pick(words.WORDS_KO)})"
            if korean
            else f"{clause}. {pen.pick(words.WORDS_EN).upper()} {pen.pick(words.WORDS_EN).upper()}",
            style=bold,
            rows=1.2,
        )
        for part in range(int(rng.integers(1, 4))):
            if sheet.y < end:
                text = " ".join(content.sentence(rng, korean) for _ in range(int(rng.integers(1, 4))))
                sheet.y = pen.paragraph(
                    f"{clause}.{part + 1}. {text}",
                    sheet.left,
                    sheet.right,
                    sheet.y,
                    step,
                    style,
                    0,
                    end,
                    rng.random() < 0.7,
                )
        sheet.y += 0.5 * step
        clause += 1
    top = min(sheet.y + step, end + step)
    for number, title in enumerate(
        ("갑", "을") if korean else content.pick(rng, [("Supplier:", "Customer:"), ("Party A", "Party B")])
    ):
        x = sheet.left + number * 0.53 * sheet.room
        rows = [title, content.company(rng, korean), *content.address(rng, korean)[:2], content.phone(rng, korean)]
        for index, text in enumerate(rows):
            pen.print(text, x, top + index * step, bold if index == 0 else style, room=0.45 * sheet.room)
        y = top + (len(rows) + 1.6) * step
        pen.canvas.rule(x, y, x + 0.3 * sheet.room, y, 1.4, style.colour)
        pen.print(content.person(rng, korean), x + 0.46 * sheet.room, y, style, "r", 0.15 * sheet.room)
        if rng.random() < 0.75:
            pen.sign(x + 0.15 * sheet.room, y - 0.5 * step, 0.26 * sheet.room, rng.uniform(2, 3.6) * step)
        if rng.random() < 0.55:
            pen.stamp(
                x + rng.uniform(0.1, 0.35) * sheet.room,
                y + rng.uniform(-1.5, 1.5) * step,
                rng.uniform(140, 240) * pen.unit,
            )


def _note(pen: Pen) -> None:
    """A page written by hand, sometimes on ruled paper."""
    rng, width, height = pen.rng, pen.canvas.width, pen.canvas.height
    pen.hand.joined, pen.hand.slant = rng.uniform(0.3, 0.95), abs(pen.hand.slant) + rng.uniform(0, 0.25)
    pen.colour = content.pick(rng, [(30, 28, 30), (30, 28, 30), (24, 40, 120), (84, 52, 28)])
    size = rng.uniform(28, 52) * pen.unit
    step = size * rng.uniform(1.25, 1.8)
    left, right, y = width * rng.uniform(0.06, 0.12), width * rng.uniform(0.9, 0.95), height * 0.05 + step
    slope = rng.normal(0, 0.008)
    if rng.random() < 0.35:
        level = y
        while level < height * 0.96:
            pen.canvas.rule(
                left * 0.5, level + 0.22 * size, width - left * 0.5, level + 0.22 * size, 1.2, (150, 170, 205)
            )
            level += step
    thick = rng.uniform(0.045, 0.085) * size
    while y < height * 0.93:
        text = content.sentence(rng, pen.korean, 4, 12)
        if rng.random() < 0.12:
            y += step
            continue
        pen.write(
            text,
            left + rng.uniform(0, 0.02) * width,
            y + max(-slope * width, 0),
            size,
            max(thick, 1.4),
            angle=slope + rng.normal(0, 0.004),
            room=right - left,
        )
        y += step
    if rng.random() < 0.6:
        pen.sign(width * rng.uniform(0.55, 0.8), height * 0.93, 240 * pen.unit, 80 * pen.unit)
