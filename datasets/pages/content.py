"""What made pages say: names, addresses, amounts, sentences. Pure text, no drawing."""

import numpy as np

from datasets.pages import words


def pick(rng: np.random.Generator, items):
    """One element; np.random's own choice would turn strings into numpy's."""
    return items[int(rng.integers(len(items)))]


def person(rng: np.random.Generator, korean: bool) -> str:
    if korean:
        return pick(rng, words.FAMILY_KO) + pick(rng, words.GIVEN_KO) + pick(rng, words.GIVEN_KO)
    middle = f"{pick(rng, 'ABCDEFGHJKLMNPRSTW')}. " if rng.random() < 0.3 else ""
    return f"{pick(rng, words.FIRST_EN)} {middle}{pick(rng, words.LAST_EN)}"


def date(rng: np.random.Generator, korean: bool) -> str:
    year, month, day = int(rng.integers(1996, 2027)), int(rng.integers(1, 13)), int(rng.integers(1, 29))
    if korean:
        return pick(
            rng,
            [
                f"{year}년 {month}월 {day}일",
                f"{year}-{month:02}-{day:02}",
                f"{year}.{month:02}.{day:02}",
                f"{year}/{month:02}/{day:02}",
            ],
        )
    name = [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ][month - 1]
    return pick(
        rng,
        [
            f"{day:02}/{month:02}/{year}",
            f"{year}-{month:02}-{day:02}",
            f"{name} {day}, {year}",
            f"{day} {name[:3]} {year}",
            f"{day:02}-{month:02}-{year % 100:02}",
            f"{day}.{month}.{year}",
        ],
    )


def clock(rng: np.random.Generator) -> str:
    hour, minute, second = (int(rng.integers(n)) for n in (24, 60, 60))
    return pick(
        rng,
        [
            f"{hour:02}:{minute:02}",
            f"{hour:02}:{minute:02}:{second:02}",
            f"{hour % 12 or 12}:{minute:02} {'AM' if hour < 12 else 'PM'}",
        ],
    )


def digits(rng: np.random.Generator, count: int) -> str:
    return "".join(map(str, rng.integers(0, 10, count)))


def phone(rng: np.random.Generator, korean: bool) -> str:
    if korean:
        return pick(
            rng,
            [
                f"02-{digits(rng, 3)}-{digits(rng, 4)}",
                f"010-{digits(rng, 4)}-{digits(rng, 4)}",
                f"031) {digits(rng, 3)}-{digits(rng, 4)}",
            ],
        )
    return pick(
        rng,
        [
            f"({digits(rng, 3)}) {digits(rng, 3)}-{digits(rng, 4)}",
            f"+44 20 {digits(rng, 4)} {digits(rng, 4)}",
            f"0{digits(rng, 1)}-{digits(rng, 7)}",
            f"{digits(rng, 3)}-{digits(rng, 4)} {digits(rng, 4)}",
        ],
    )


def address(rng: np.random.Generator, korean: bool) -> list[str]:
    """One to three lines."""
    if korean:
        region = pick(rng, list(words.REGIONS_KO))
        first = (
            f"{region} {pick(rng, words.REGIONS_KO[region])} {pick(rng, words.ROADS_KO)} {int(rng.integers(1, 400))}"
        )
        return (
            [first] if rng.random() < 0.4 else [first, f"{int(rng.integers(1, 20))}층 {int(rng.integers(101, 2000))}호"]
        )
    number = f"{int(rng.integers(1, 999))}{pick(rng, ['', '', 'A', '-2'])}"
    street = f"{number} {pick(rng, words.LAST_EN)} {pick(rng, words.STREETS)}"
    town = f"{pick(rng, words.TOWNS)}, {pick(rng, ['NY', 'CA', 'TX', 'OH', 'MA'])} {digits(rng, 5)}"
    return pick(
        rng,
        [
            [street, town],
            [f"LOT {digits(rng, 3)}, {street},", f"{digits(rng, 5)} {pick(rng, words.TOWNS)}."],
            [f"{street},", f"{pick(rng, words.TOWNS)},", f"{digits(rng, 5)} {pick(rng, words.TOWNS).upper()}"],
        ],
    )


def company(rng: np.random.Generator, korean: bool) -> str:
    if korean:
        name = pick(rng, words.GIVEN_KO) + pick(rng, words.GIVEN_KO) + pick(rng, ["", "", "은", "산", "빛"])
        return pick(
            rng,
            [
                f"{name}{pick(rng, words.SHOP_KO)}",
                f"(주){name}",
                f"주식회사 {name}",
                f"{name} {pick(rng, words.SHOP_KO)}",
            ],
        )
    name = pick(rng, words.LAST_EN + words.TOWNS).upper()
    return pick(
        rng,
        [
            f"{name} {pick(rng, words.SHOP_EN)}",
            f"{name} & {pick(rng, words.LAST_EN).upper()} {pick(rng, words.SHOP_EN)}",
            f"{name} {pick(rng, ['INC.', 'LTD', 'SDN BHD', 'GMBH', 'CO., LTD.', 'ENTERPRISE'])}",
        ],
    )


def money(rng: np.random.Generator, korean: bool, mark: str) -> str:
    """An amount: won in hundreds, others with cents. mark: "" or the currency's sign, which stands where it should."""
    if korean:
        value = f"{int(rng.integers(5, 900)) * int(rng.choice([100, 500, 1000])):,}"
    else:
        value = f"{rng.gamma(1.6, 14) + 0.1:,.2f}"
    if mark in ("원", "EUR"):
        return f"{value}{'' if mark == '원' else ' '}{mark}"
    return f"{mark} {value}" if mark == "RM" else f"{mark}{value}"


def particle(word: str, rng: np.random.Generator) -> str:
    """A particle that fits the word's last syllable: most differ after a closing consonant."""
    closing = (ord(word[-1]) - 0xAC00) % 28 if "가" <= word[-1] <= "힣" else 0
    pairs = ["은는", "을를", "이가", "과와", "의의", "에에"]
    return pick(rng, pairs)[0 if closing else 1]


def _part_ko(rng: np.random.Generator) -> str:
    """A modifier, or a noun with or without its particle; now and then a word of rare syllables."""
    if rng.random() < 0.15:
        return pick(rng, words.MODIFIERS_KO)
    noun = pick(rng, words.WORDS_KO)
    if rng.random() < 0.04:
        noun = "".join(pick(rng, words.SYLLABLES) for _ in noun)
    return noun + (particle(noun, rng) if rng.random() < 0.6 else "")


def sentence(rng: np.random.Generator, korean: bool, least: int = 5, most: int = 14) -> str:
    count = int(rng.integers(least, most))
    if korean:
        return " ".join([*(_part_ko(rng) for _ in range(count - 1)), pick(rng, words.VERBS_KO)]) + "."
    chosen = [pick(rng, words.WORDS_EN) for _ in range(count)]
    if rng.random() < 0.25:
        chosen[int(rng.integers(count))] = pick(
            rng,
            [
                digits(rng, 3),
                f"{digits(rng, 2)}%",
                f"${digits(rng, 4)}",
                pick(rng, words.LAST_EN),
                f"({pick(rng, words.WORDS_EN)})",
            ],
        )
    if count > 8 and rng.random() < 0.5:
        chosen[count // 2] += ","
    return (chosen[0].capitalize() + " " + " ".join(chosen[1:])).strip() + pick(rng, [".", ".", ".", "?", ";"])


def payload(rng: np.random.Generator, korean: bool) -> str:
    """What a QR code says."""
    code = "".join(pick(rng, "ABCDEFGHJKLMNPQRSTUVWXYZ23456789") for _ in range(int(rng.integers(6, 18))))
    if korean and rng.random() < 0.4:
        return f"{company(rng, True)} {digits(rng, 6)}"
    return pick(
        rng,
        [
            f"https://example.com/{code.lower()}",
            code,
            f"INV-{digits(rng, 8)}",
            f"tel:{digits(rng, 10)}",
            f"https://example.org/r?id={digits(rng, 9)}&k={code}",
        ],
    )


def field_value(rng: np.random.Generator, korean: bool) -> str:
    """What is written into a form's field."""
    if korean and rng.random() < 0.06:
        return "".join(pick(rng, words.SYLLABLES) for _ in range(int(rng.integers(2, 6))))
    return pick(
        rng,
        [
            person(rng, korean),
            date(rng, korean),
            phone(rng, korean),
            digits(rng, 6),
            address(rng, korean)[0],
            company(rng, korean),
            " ".join(sentence(rng, korean).split()[:3]),
        ],
    )
