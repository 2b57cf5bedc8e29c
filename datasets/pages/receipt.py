"""Receipts: a strip of paper with a shop's head, items and amounts, totals, and a foot."""

from dataclasses import dataclass, replace

import numpy as np

from datasets.pages import content, words
from datasets.pages.canvas import Canvas, TextStyle
from datasets.pages.pen import FontKit, Pen, paper


@dataclass
class Roll:
    """The strip while it is printed: rows come one under the other until `bottom`."""

    pen: Pen
    style: TextStyle
    left: float
    right: float
    step: float
    y: float
    bottom: float

    @property
    def full(self) -> bool:
        return self.y >= self.bottom

    @property
    def room(self) -> float:
        return self.right - self.left

    def feed(self, rows: float = 1.0) -> None:
        self.y += rows * self.step

    def centred(self, text: str, style: TextStyle | None = None) -> None:
        style = style or self.style
        self.feed(max(style.size / self.style.size, 1) - 1)  # tall letters need room above
        if not self.full:
            self.pen.print(text, (self.left + self.right) / 2, self.y, style, "m", self.room)
        self.feed()

    def plain(self, text: str, indent: float = 0.0, style: TextStyle | None = None) -> None:
        if not self.full:
            self.pen.print(text, self.left + indent, self.y, style or self.style, room=self.room - indent)
        self.feed()

    def pair(self, name: str, value: str, style: TextStyle | None = None, at: float | None = None) -> None:
        """A name and an amount at the right edge; `at`: the name ends there instead of starting at the left."""
        style = style or self.style
        self.feed(max(style.size / self.style.size, 1) - 1)
        if not self.full:
            room = self.room - self.pen.canvas.measure(value, style) - style.size
            self.pen.print(value, self.right, self.y, style, "r", self.room)
            if at is not None and self.right - at > self.room - room:
                self.pen.print(name, at, self.y, style, "r", at - self.left)
            else:
                self.pen.print(name, self.left, self.y, style, "l", max(room, style.size))
        self.feed()

    def row(self, cells: list[str], edges: list[float], style: TextStyle | None = None) -> None:
        """Cells in columns: the first starts at the left, the others end at their edges (shares of the width)."""
        style = style or self.style
        if not self.full:
            for number, (cell, edge) in enumerate(zip(cells, edges)):
                x1 = self.left + edge * self.room
                x0 = self.left + (edges[number - 1] * self.room if number else 0)
                if number:
                    self.pen.print(cell, x1, self.y, style, "r", x1 - x0 - 0.6 * style.size)
                else:
                    self.pen.print(cell, x0, self.y, style, "l", x1 - x0 - 0.6 * style.size)
        self.feed()

    def separator(self) -> None:
        if not self.full:
            if self.pen.rng.random() < 0.6:
                sign = content.pick(self.pen.rng, ["-", "-", "-", "=", "*", "_", "- "])
                count = max(int(self.room / max(self.pen.canvas.measure(sign, self.style), 1)), 1)
                self.pen.print(sign * count, self.left, self.y, self.style, labelled=False)
            else:
                level = self.y - self.style.size * 0.3
                self.pen.canvas.rule(
                    self.left, level, self.right, level, self.pen.rng.uniform(1, 2.5), self.style.colour
                )
        self.feed()


def receipt(width: int, height: int, kit: FontKit, rng: np.random.Generator, korean: bool, unit: float) -> Canvas:
    """A receipt at most width x height pixels, as long as what it says."""
    width = int(width * rng.uniform(0.5, 0.95))
    columns = rng.integers(30, 46) * (0.85 if korean else 1) * min(unit + 0.25, 1)
    face = kit.body(rng, korean, mono=0.6)
    tall = rng.random() < 0.35  # narrow, high letters, as many small printers have
    stretch = rng.uniform(0.68, 0.85) if tall else rng.uniform(0.88, 1.08)
    size = max(int(width * 0.92 / columns / ((0.62 if face.mono else 0.56) * stretch)), 9)
    size = min(size, int(44 * unit))
    style = TextStyle(face, size, (int(rng.integers(15, 75)),) * 3, stretch, rng.uniform(0.72, 1), rng.random() < 0.2)
    canvas = Canvas(width, height, paper(rng))
    pen = Pen.on(canvas, kit, rng, korean, unit)
    step = size * rng.uniform(1.12, 1.55)
    roll = Roll(pen, style, 0.05 * width, 0.95 * width, step, step * rng.uniform(1.5, 3), height - 2 * step)
    bold = replace(style, face=kit.bolder(face))
    if rng.random() < 0.25:  # a clerk's number
        pen.write(
            f"{content.pick(rng, 'ABKNS')}{content.digits(rng, 5)}", width * rng.uniform(0.1, 0.6), roll.y, size * 1.4
        )
        roll.feed(2)
    _head(roll, bold)
    _items(roll, bold)
    _totals(roll, bold)
    _foot(roll)
    canvas.fade(rng.uniform(0.55, 1), rng)  # a tired print head
    end = int(min(roll.y + step * rng.uniform(0, 3), height))
    _marks(roll, end)
    return canvas.cut(end)


def _head(roll: Roll, bold: TextStyle) -> None:
    pen, rng, korean = roll.pen, roll.pen.rng, roll.pen.korean
    roll.centred(content.company(rng, korean), replace(bold, size=int(bold.size * rng.uniform(1, 1.5))))
    upper = rng.random() < 0.6
    for text in content.address(rng, korean):
        roll.centred(text.upper() if upper else text)
    roll.centred(pen.pick(["TEL: ", "Tel : ", "PHONE "], ["전화: ", "TEL "]) + content.phone(rng, korean))
    if rng.random() < 0.7:
        number = f"{content.digits(rng, 3)}-{content.digits(rng, 2)}-{content.digits(rng, 5)}"
        roll.centred(
            f"사업자번호 {number}"
            if korean
            else f"({content.pick(rng, ['GST ID', 'CO REG', 'VAT NO', 'TAX ID'])}: {content.digits(rng, 9)})"
        )
    roll.feed(rng.uniform(0, 0.8))
    roll.centred(
        pen.pick(
            ["TAX INVOICE", "RECEIPT", "CASH RECEIPT", "Invoice", "SALES SLIP", "CASH BILL"],
            ["영 수 증", "영수증", "신용카드 매출전표", "거래명세서", "현금영수증"],
        ),
        bold,
    )
    roll.feed(rng.uniform(0, 0.6))
    paired = rng.random() < 0.5
    for name, value in [
        (
            pen.pick(["Date", "DATE", "Date/Time"], ["일자", "거래일시"]),
            content.date(rng, korean) + " " + content.clock(rng),
        ),
        (pen.pick(["Bill No", "Invoice No.", "Receipt #"], ["번호", "승인번호"]), content.digits(rng, 8)),
        (pen.pick(["Cashier", "Served by", "CASHIER"], ["담당", "계산원"]), content.person(rng, korean)),
        (pen.pick(["Table", "Station", "POS"], ["테이블", "POS"]), content.digits(rng, 2)),
    ]:
        if rng.random() < 0.7:
            roll.pair(name + ":", value) if paired else roll.plain(f"{name}: {value}")


def _items(roll: Roll, bold: TextStyle) -> None:
    pen, rng, korean = roll.pen, roll.pen.rng, roll.pen.korean
    shape = content.pick(rng, ["two", "columns", "amount"])
    edges = [0.48, 0.58, 0.78, 1.0]
    roll.separator()
    head = bold if rng.random() < 0.5 else roll.style
    if shape == "columns":
        roll.row(
            ["상품명", "수량", "단가", "금액"]
            if korean
            else content.pick(rng, [["Item", "Qty", "Price", "Total"], ["DESC.", "QTY", "U.P", "AMT"]]),
            edges,
            head,
        )
    else:
        roll.pair(
            *pen.pick([("ITEM", "AMOUNT"), ("Description", "Total"), ("QTY ITEM", "AMT")], [("상품명", "금액")]), head
        )
    if rng.random() < 0.7:
        roll.separator()
    upper, coded = rng.random() < 0.5, rng.random() < 0.3
    for _ in range(int(rng.integers(1, 16))):
        if roll.y > roll.bottom - 6 * roll.step:
            break
        item = pen.pick(words.ITEMS_EN, words.ITEMS_KO)
        item = item.upper() if upper else item
        count, price, amount = (
            str(int(rng.integers(1, 9))),
            content.money(rng, korean, ""),
            content.money(rng, korean, ""),
        )
        if shape == "columns":
            roll.row([item, count, price, amount], edges)
        elif shape == "two":
            roll.plain(f"{content.digits(rng, 7)} {item}" if coded else item)
            roll.pair(f"  {count} x {price}", amount)
        else:
            roll.pair(f"{count} {item}" if rng.random() < 0.5 else item, amount)


def _totals(roll: Roll, bold: TextStyle) -> None:
    pen, rng, korean = roll.pen, roll.pen.rng, roll.pen.korean
    mark = pen.pick(["", "", "$", "RM", "£"], ["", "", "원", "₩"])
    at = roll.left + roll.room * rng.uniform(0.5, 0.68) if rng.random() < 0.4 else None
    colon = content.pick(rng, ["", ":", " :"])
    roll.separator()
    for name in (
        ["합계", "부가세", "할인", "받은 금액", "거스름돈"]
        if korean
        else ["SUBTOTAL", "TAX 6%", "CASH", "CHANGE", "Rounding Adj", "Discount", "VISA CARD"]
    ):
        if rng.random() < 0.6:
            roll.pair(name + colon, content.money(rng, korean, mark), at=at)
    big = replace(bold, size=int(bold.size * rng.uniform(1, 1.4)))
    roll.pair(
        pen.pick(["TOTAL", "Total Amount", "NET TOTAL", "Total (Incl. GST)"], ["총 금액", "결제금액", "합 계"]) + colon,
        content.money(rng, korean, mark),
        big,
        at,
    )
    if rng.random() < 0.3 and not korean:
        roll.plain("GST Summary")
        roll.row(["SR @ 6%", content.money(rng, False, ""), content.money(rng, False, "")], [0.4, 0.7, 1.0])
    if rng.random() < 0.6:
        roll.separator()


def _foot(roll: Roll) -> None:
    pen, rng, korean = roll.pen, roll.pen.rng, roll.pen.korean
    if rng.random() < 0.35:
        most = min(0.7 * pen.canvas.width, roll.bottom - roll.y)
        side = pen.code(pen.canvas.width / 2, roll.y - roll.step * 0.6, most, "m")
        roll.y += side + 0.6 * roll.step if side else 0
    for text in (
        ["감사합니다", "교환 및 환불은 7일 이내", "좋은 하루 되세요", "* 부가세 포함 *"]
        if korean
        else ["THANK YOU", "Please come again", "GOODS SOLD ARE NOT REFUNDABLE", "Have a nice day!", "www.example.com"]
    ):
        if rng.random() < 0.5:
            roll.centred(text)


def _marks(roll: Roll, end: int) -> None:
    pen, rng, width = roll.pen, roll.pen.rng, roll.pen.canvas.width
    if rng.random() < 0.3:
        size = min(width * rng.uniform(0.25, 0.45), 260 * pen.unit)
        pen.stamp(rng.uniform(0.25, 0.75) * width, rng.uniform(0.1, 0.9) * end, size)
    if rng.random() < 0.15:
        pen.sign(rng.uniform(0.35, 0.65) * width, end - 2.5 * roll.step, 0.35 * width, 3.2 * roll.step)
    if rng.random() < 0.15:  # an amount noted by hand, often in a ring
        size = roll.style.size * rng.uniform(1.3, 2)
        x, y = width * rng.uniform(0.15, 0.6), end * rng.uniform(0.3, 0.95)
        if pen.meets_code(x - 2 * size, y - 2 * size, x + 6 * size, y + size):
            return
        pen.write(content.money(rng, pen.korean, ""), x, y, size, room=width * 0.35)
        if rng.random() < 0.6:
            turn = np.linspace(0.3, 6.9, 24)[:, None]
            ring = np.hstack([x + size * (1.3 + 2.1 * np.cos(turn)), y + size * (-0.4 + 1.1 * np.sin(turn))])
            pen.curve(np.clip(ring, 2, [width - 3, end]), "curve", pen.colour, pen.width)
