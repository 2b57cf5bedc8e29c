"""What made lines say: amounts, dates, addresses, totals, names, and runs of rare characters. Pure text, no drawing."""

from functools import lru_cache

import numpy as np

from datasets.pages import content, words
from datasets.pages.content import digits, pick

BALANCED_EVERY = 3  # every third line holds a run of characters dealt from the whole charset
BALANCED_RUN = 6  # characters
MOST_FIELDS = 100  # put together for one line; a small charset leaves little of each
UNITS = ["KG", "PCS", "ML", "G", "L", "SET", "PC", "CM", "MM", "EA"]
TOTALS_EN = ["TOTAL", "SUBTOTAL", "Sub Total", "Grand Total", "Total Amount", "Net Total", "TAX", "GST 6%", "VAT 20%",
             "Service Charge 10%", "Rounding Adj", "Discount", "CASH", "CHANGE", "VISA CARD", "Balance Due", "Amount",
             "Total (Incl. GST)", "Total Qty", "Deposit", "Tips", "Payment Mode", "Amount Paid", "Items"]
TOTALS_KO = ["합계", "합 계", "총 금액", "결제금액", "부가세", "부가가치세", "과세물품가액", "면세물품가액", "할인", "할인금액",
             "받은 금액", "받을금액", "거스름돈", "현금", "신용카드", "카드결제", "포인트", "공급가액", "봉사료", "잔액"]
HEADS_EN = ["Date", "Time", "Invoice No", "Receipt #", "Bill No.", "Cashier", "Table", "Station", "POS", "Tel", "Fax",
            "GST ID", "GST Reg No", "CO. REG", "VAT NO", "Order No", "Member", "Ref", "Approval Code", "Terminal ID",
            "Card No", "Customer", "Salesperson", "Doc No.", "Page", "Attn", "Terms", "Your Ref", "Cust. PO", "Till"]
HEADS_KO = ["일자", "거래일시", "승인번호", "전화", "주소", "대표자", "사업자번호", "가맹점", "카드번호", "담당", "계산원", "테이블",
            "주문번호", "영수증번호", "품명", "수량", "단가", "금액", "상품명", "회원번호", "적립포인트", "유효기간", "발행일", "비고"]
SAYINGS_EN = ["THANK YOU", "Please come again", "Have a nice day!", "GOODS SOLD ARE NOT RETURNABLE", "TAX INVOICE",
              "*** DUPLICATE ***", "CASH RECEIPT", "Simplified Tax Invoice", "GST Summary", "Like us on Facebook!",
              "Keep the invoice for applicable returns", "Price inclusive of GST", "Thank you & see you again",
              "No exchange without receipt", "Qty", "Price", "Description", "U.P", "Item", "Tax(RM)", "Amt (RM)"]
SAYINGS_KO = ["감사합니다", "또 오세요", "이용해 주셔서 감사합니다", "영수증", "신용카드 매출전표", "현금영수증(소득공제용)", "거래명세서",
              "교환 및 환불은 7일 이내", "영수증 지참 시 가능합니다", "좋은 하루 되세요", "* 부가세 포함 *", "(부가세 과세물품)",
              "정부방침에 의해 교환/환불은", "서명", "고객용", "가맹점용", "상품권", "포장", "매장"]


def amount(rng: np.random.Generator, korean: bool) -> str:
    mark = pick(rng, ["", "", "원", "₩"] if korean else ["", "", "$", "RM", "£", "€", "EUR"])
    value = content.money(rng, korean, mark)
    return pick(rng, [value] * 6 + [f"-{value}", f"({value})", f"{value}*", f"{value} SR"])


def code(rng: np.random.Generator) -> str:
    """An invoice number, a bar code, a card number, a registration number."""
    letters = "".join(pick(rng, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") for _ in range(int(rng.integers(1, 4))))
    return pick(rng, [digits(rng, int(rng.integers(1, 5))), digits(rng, 13), digits(rng, int(rng.integers(5, 13))),
                      f"{letters}{digits(rng, 5)}", f"{letters}-{digits(rng, 6)}", f"#{digits(rng, 4)}",
                      f"{digits(rng, 3)}-{digits(rng, 2)}-{digits(rng, 5)}", f"({digits(rng, 6)}-{letters[0]})",
                      f"{'*' * 4}-{'*' * 4}-{digits(rng, 4)}", f"{letters}/{digits(rng, 3)}/{digits(rng, 4)}",
                      f"XXXX XXXX XXXX {digits(rng, 4)}", f"[{digits(rng, 2)}]", f"{letters}_{digits(rng, 3)}"])


def quantity(rng: np.random.Generator, korean: bool) -> str:
    number = int(rng.integers(1, 20))
    price = content.money(rng, korean, "")
    if korean:
        return pick(rng, [f"{number} x {price}", f"{number}개", f"{price} {number} {price}", f"{number}EA", f"{number}"])
    return pick(rng, [f"{number} x {price}", f"{number} X {price}", f"{number}.00 {pick(rng, UNITS)} @ {price}",
                      f"{number}@{price}", f"x{number}", f"{number}.000", f"{number} {price} {price}",
                      f"{int(rng.integers(5, 900))}{pick(rng, UNITS)}"])


def web(rng: np.random.Generator) -> str:
    name = pick(rng, words.LAST_EN).lower() + pick(rng, ["", "store", "mart", digits(rng, 2)])
    return pick(rng, [f"www.{name}.com", f"{name}@mail.com", f"http://{name}.com.my", f"info@{name}.co.kr",
                      f"WWW.{name.upper()}.NET", f"https://{name}.kr/r?id={digits(rng, 4)}&k={digits(rng, 2)}"])


def tax_row(rng: np.random.Generator, korean: bool) -> str:
    rate = f"{int(rng.integers(0, 26))}%"
    return pick(rng, [f"{pick(rng, ['SR', 'ZRL', 'GST', 'TAX', 'S', 'T1'])} ({rate}) {content.money(rng, False, '')}",
                      f"{pick(rng, ['SR', 'GST', 'VAT'])} @ {rate}", f"{rate} {content.money(rng, korean, '')}", rate,
                      f"{pick(rng, ['A', 'B', 'C'])}={rate}"])


def field(rng: np.random.Generator, korean: bool) -> str:
    """One piece of a document, of any length."""
    kind = rng.random()
    if kind < 0.16:
        return amount(rng, korean)
    if kind < 0.26:
        colon = pick(rng, ["", ":", " :", ": "])
        return f"{pick(rng, TOTALS_KO if korean else TOTALS_EN)}{colon} {amount(rng, korean)}"
    if kind < 0.34:
        when = content.date(rng, korean)
        return pick(rng, [when, content.clock(rng), f"{when} {content.clock(rng)}"])
    if kind < 0.46:
        item = pick(rng, words.ITEMS_KO if korean else words.ITEMS_EN)
        return pick(rng, [item, item, f"{item} {amount(rng, korean)}", f"{digits(rng, 7)} {item}",
                          f"{int(rng.integers(1, 9))} {item}", f"{item} {digits(rng, 3)}{pick(rng, UNITS)}"])
    if kind < 0.55:
        head = pick(rng, HEADS_KO if korean else HEADS_EN)
        value = pick(rng, [code(rng), content.person(rng, korean), content.date(rng, korean), ""])
        return f"{head}{pick(rng, ['', ':', ' :', '. :'])} {value}".strip()
    if kind < 0.63:
        return " ".join(content.address(rng, korean))
    if kind < 0.68:
        return content.company(rng, korean)
    if kind < 0.72:
        return pick(rng, ["", "TEL: ", "Tel : ", "FAX ", "전화: " if korean else "Tel:"]) + content.phone(rng, korean)
    if kind < 0.78:
        return quantity(rng, korean)
    if kind < 0.83:
        return code(rng)
    if kind < 0.86:
        return tax_row(rng, korean)
    if kind < 0.88:
        return web(rng)
    if kind < 0.93:
        return pick(rng, SAYINGS_KO if korean else SAYINGS_EN)
    if kind < 0.95:
        return pick(rng, words.FIELDS_KO + words.TITLES_KO if korean else words.FIELDS_EN + words.TITLES_EN)
    return content.sentence(rng, korean, 2, 8)


def filled(rng: np.random.Generator, korean: bool, length: int, allowed: frozenset[str]) -> str:
    """Fields, without the characters that are not allowed, until about `length` are full; the last field is cut between
    words, or anywhere where it must be."""
    text, tries, between = "", 0, " " if " " in allowed else ""
    while len(text) < max(length - 2, 1) and tries < MOST_FIELDS:
        more = "".join(c for c in cased(field(rng, korean), rng) if c in allowed)
        text, tries = between.join(f"{text} {more}".split()), tries + 1
    if len(text) <= length:
        return text
    if rng.random() < 0.7:
        cut = text.rfind(" ", 1, length + 1)
        if cut > 0.6 * length:
            return text[:cut]
    start = int(rng.integers(len(text) - length + 1))
    return text[start : start + length]


def cased(text: str, rng: np.random.Generator) -> str:
    """Receipts shout: as it is, in capitals, in small letters, or with capitals at the beginnings of words."""
    how = rng.random()
    return text.upper() if how < 0.35 else text.lower() if how < 0.42 else text.title() if how < 0.48 else text


class LineTexts:
    """The texts of an endless set of lines, a function of (seed, epoch, index).

    characters: what may be written, those without a glyph in any font left out. Every BALANCED_EVERY-th line holds a
    run of up to BALANCED_RUN characters dealt from a shuffled deck of all of them, the space apart, so that each is seen
    equally often; an epoch of `length` lines deals length / BALANCED_EVERY runs, and decks go on from epoch to epoch.
    korean: share of lines with Korean content, 0 where the characters hold no Hangul.
    """

    def __init__(self, characters: str, max_length: int, length: int, seed: int, korean: float = 0.5):
        self.allowed = frozenset(characters)
        self.deck = [c for c in characters if not c.isspace()]
        self.max_length, self.length, self.seed = max_length, length, seed
        self.korean = korean if any("가" <= c <= "힣" for c in self.deck) else 0.0
        self.run = min(BALANCED_RUN, max_length)

    def plan(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """(lengths wanted (length,) int, whether Korean (length,) bool) of an epoch's lines, without making them."""
        return _plan(self.seed, epoch, self.length, self.max_length, self.korean, self.run)

    def dealt(self, epoch: int, index: int) -> str:
        """The balanced run of line `index`; empty for lines that have none."""
        if index % BALANCED_EVERY:
            return ""
        first = (epoch * -(-self.length // BALANCED_EVERY) + index // BALANCED_EVERY) * self.run
        places = range(first, first + self.run)
        return "".join(self.deck[_shuffled(self.seed, p // len(self.deck), len(self.deck))[p % len(self.deck)]]
                       for p in places)

    def text(self, epoch: int, index: int, rng: np.random.Generator) -> str:
        """1 to max_length characters of NFC text, all of them allowed, single spaces between words."""
        lengths, korean = self.plan(epoch)
        wanted, run = int(lengths[index]), self.dealt(epoch, index)
        room = wanted - len(run)
        text = ""
        if room > 1 or not run:
            text = filled(rng, bool(korean[index]), max(room - bool(run), 1), self.allowed).strip()
        if not run:
            return text or pick(rng, self.deck)
        joined = [run, text] if rng.random() < 0.5 else [text, run]
        return pick(rng, [" ", " ", ""]).join(part for part in joined if part) if " " in self.allowed else "".join(joined)


@lru_cache(maxsize=2)
def _plan(seed: int, epoch: int, count: int, max_length: int, korean: float, run: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((seed, epoch, 1 << 20))  # apart from the streams of samples, which end with an index
    kind, share = rng.random(count), rng.random(count)
    # Half of a receipt's lines are amounts and names of up to 8 characters, a tenth are over 27.
    lengths = np.select([kind < 0.05, kind < 0.45, kind < 0.85], [np.ones(count), 2 + 7 * share, 8 + 20 * share],
                        24 + (max_length - 23) * share).astype(int)
    lengths = lengths.clip(1, max_length)
    lengths[::BALANCED_EVERY] = np.maximum(lengths[::BALANCED_EVERY], run)
    return lengths, rng.random(count) < korean


@lru_cache(maxsize=4)
def _shuffled(seed: int, deck: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, deck, 1 << 21)).permutation(size)
