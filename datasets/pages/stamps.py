"""The faces of stamps: round and oval ones with text on the ring, framed ones with rows of text, small seals.

A face is coverage (h, w) uint8, drawn about twice as large as it is shown, with the quads of its texts.
"""

import cv2
import numpy as np

from datasets.pages import content, words
from datasets.pages.canvas import TextStyle, print_coverage
from utils.fonts import FontFace

WORDS_EN = [
    "PAID",
    "RECEIVED",
    "APPROVED",
    "COPY",
    "ORIGINAL",
    "CONFIDENTIAL",
    "POSTED",
    "CHECKED",
    "CANCELLED",
    "URGENT",
    "FOR DOCUMENTS",
    "ACCOUNTS DEPT.",
    "CERTIFIED",
]
WORDS_KO = ["접수", "승인", "결재", "완납", "원본대조필", "검수필", "수령", "확인", "사본", "지급필", "대외비", "직인"]


def draw_stamp(size: int, faces: list[FontFace], korean: bool, rng: np.random.Generator):
    """A stamp about `size` pixels wide: (kind, coverage (h, w) uint8, quads [(4, 2), ...] of its texts)."""
    kind = content.pick(rng, ["round", "round", "oval", "box", "box", "seal"])
    usable = [face for face in faces if face.korean] if korean else faces
    face = content.pick(rng, usable or faces)
    draw = {"round": round_stamp, "oval": oval_stamp, "box": box_stamp, "seal": seal}[kind]
    return kind, *draw(size, face, korean and face.korean, rng)


def round_stamp(size: int, face: FontFace, korean: bool, rng: np.random.Generator):
    """One or two rings, text along them, a second text inside, and a star, a word or a date in the middle."""
    radius = size / 2 - 4
    tile = np.zeros((size, size), np.uint8)
    centre = (size // 2, size // 2)
    line = max(int(size * rng.uniform(0.008, 0.022)), 2)
    cv2.circle(tile, centre, int(radius), 255, line + 1, cv2.LINE_AA)
    if rng.random() < 0.5:
        radius -= 2.5 * line
        cv2.circle(tile, centre, int(radius), 255, max(line // 2, 1), cv2.LINE_AA)
    letters = int(size * rng.uniform(0.075, 0.115))
    middle = radius - 1.2 * line - letters * 0.75
    quads = ring_text(tile, _ring_words(korean, rng), centre, middle, letters, face, rng.random() < 0.75, rng)
    inner = middle - letters * 0.8
    if rng.random() < 0.7:
        cv2.circle(tile, centre, int(inner), 255, max(line // 2, 1), cv2.LINE_AA)
    if rng.random() < 0.35:  # a second, smaller ring of text
        small = max(int(letters * 0.7), 8)
        quads += ring_text(tile, _ring_words(korean, rng), centre, inner - small * 0.8, small, face, True, rng)
        inner -= 1.7 * small
        cv2.circle(tile, centre, int(inner), 255, max(line // 2, 1), cv2.LINE_AA)
    figure = rng.random()
    if figure < 0.3:
        turns = -np.pi / 2 + np.arange(10) * np.pi / 5
        reach = inner * 0.62 * np.where(np.arange(10) % 2, 0.4, 1.0)
        star = np.stack([centre[0] + reach * np.cos(turns), centre[1] + reach * np.sin(turns)], 1)
        cv2.fillPoly(tile, [np.int32(star)], 255, cv2.LINE_AA)
    elif figure < 0.92:
        rows = [content.pick(rng, WORDS_KO if korean else WORDS_EN)] + ([stamp_date(rng)] if rng.random() < 0.5 else [])
        for row, shift in zip(rows, (0.0,) if len(rows) == 1 else (-0.3, 0.35)):
            quads.append(put(tile, row, centre[0], centre[1] + shift * inner, inner * 1.55, int(inner * 0.5), face))
    return tile, quads


def oval_stamp(size: int, face: FontFace, korean: bool, rng: np.random.Generator):
    """A round stamp squeezed."""
    tile, quads = round_stamp(size, face, korean, rng)
    squash = rng.uniform(0.6, 0.8)
    tile = cv2.resize(tile, (size, int(size * squash)), interpolation=cv2.INTER_AREA)
    return tile, [quad * np.float32([1, squash]) for quad in quads]


def box_stamp(size: int, face: FontFace, korean: bool, rng: np.random.Generator):
    """One to three rows of text, mostly in a frame."""
    rows = [content.pick(rng, WORDS_KO if korean else WORDS_EN)]
    if rng.random() < 0.7:
        rows.append(stamp_date(rng))
    if rng.random() < 0.4:
        rows.insert(0, content.company(rng, korean))
    height = int(size * (0.14 + 0.14 * len(rows)))
    tile = np.zeros((height, size), np.uint8)
    line = max(int(size * rng.uniform(0.008, 0.02)), 2)
    if rng.random() < 0.85:
        cv2.rectangle(tile, (line, line), (size - 1 - line, height - 1 - line), 255, line)
        if rng.random() < 0.35:
            cv2.rectangle(
                tile, (3 * line, 3 * line), (size - 1 - 3 * line, height - 1 - 3 * line), 255, max(line // 2, 1)
            )
    step = (height - 8 * line) / len(rows)
    ruled = len(rows) > 1 and rng.random() < 0.35
    quads = []
    for number, row in enumerate(rows):
        if ruled and number:
            level = int(4 * line + step * number)
            cv2.line(tile, (line, level), (size - line, level), 255, max(line // 2, 1))
        quads.append(
            put(tile, row, size / 2, 4 * line + step * (number + 0.5), size - 12 * line, int(step * 0.8), face)
        )
    return tile, quads


def seal(size: int, face: FontFace, korean: bool, rng: np.random.Generator):
    """A personal seal: the letters of a name in two columns, right to left, square or round, standing out or cut in."""
    size = max(size // 2, 60)
    name = content.person(rng, True) if face.korean else content.pick(rng, words.LAST_EN).upper()[:4]
    name = (name + ("인" if face.korean else name))[:4]
    tile = np.zeros((size, size), np.uint8)
    quads = [
        put(
            tile,
            letter,
            (0.7 if k < 2 else 0.3) * size,
            (0.3 if k % 2 == 0 else 0.7) * size,
            size,
            int(size * 0.38),
            face,
        )
        for k, letter in enumerate(name)
    ]
    square = rng.random() < 0.5
    frame, outline = np.zeros_like(tile), max(size // 16, 2)
    filled = rng.random() < 0.25
    if square:
        cv2.rectangle(frame, (2, 2), (size - 3, size - 3), 255, -1 if filled else outline)
    else:
        cv2.circle(frame, (size // 2, size // 2), size // 2 - 2, 255, -1 if filled else outline, cv2.LINE_AA)
    return (cv2.subtract(frame, tile) if filled else np.maximum(tile, frame)), quads


def stamp_date(rng: np.random.Generator) -> str:
    year, month, day = int(rng.integers(1998, 2027)), int(rng.integers(1, 13)), int(rng.integers(1, 29))
    name = "JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split()[month - 1]
    return content.pick(rng, [f"{day} {name} {year}", f"{year}.{month:02}.{day:02}", f"{day:02}/{month:02}/{year}"])


def put(tile: np.ndarray, text: str, x: float, y: float, width: float, size: int, face: FontFace) -> np.ndarray:
    """Text on the tile with its middle at (x, y), at most `width` wide. Returns its quad (4, 2)."""
    size = max(int(min(size, size * width / max(face.at(size).getlength(text), 1))), 8)
    glyphs, _ = print_coverage(text, TextStyle(face, size))
    h, w = glyphs.shape
    left, top = int(x - w / 2), int(y - h / 2)
    lay(tile, glyphs, left, top)
    return np.float32([[left, top], [left + w, top], [left + w, top + h], [left, top + h]])


def ring_text(
    tile: np.ndarray,
    text: str,
    centre: tuple[int, int],
    radius: float,
    size: int,
    face: FontFace,
    full: bool,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """Letters standing on a circle, clockwise; `full`: spread over the whole of it, else an arc over the top.

    Returns quads (4, 2) of about 35 degrees each that together cover the text.
    """
    font = face.at(size)
    advances = np.array([font.getlength(letter) for letter in text]) * 1.08
    room = 2 * np.pi * radius * (0.97 if full else 0.62)
    while len(text) > 3 and advances.sum() > room:
        text, advances = text[:-1], advances[:-1]
    if full:
        advances *= min(room / advances.sum(), 2.2)
    angles = (np.cumsum(advances) - advances / 2) / radius
    angles += -np.pi / 2 - advances.sum() / radius / 2 + rng.uniform(-0.3, 0.3)
    for letter, angle in zip(text, angles):
        if letter == " ":
            continue
        glyph, (_, dy) = print_coverage(letter, TextStyle(face, size))
        # The letter's middle stands on the circle, its foot towards the centre.
        box = np.zeros((2 * size + 2, 2 * size + 2), np.uint8)
        lay(box, glyph, size - glyph.shape[1] // 2, int(size * 1.36) + dy)
        matrix = cv2.getRotationMatrix2D((size, size), -np.degrees(angle) - 90, 1)
        turned = cv2.warpAffine(box, matrix, box.shape[::-1])
        lay(
            tile,
            turned,
            int(round(centre[0] + radius * np.cos(angle))) - size,
            int(round(centre[1] + radius * np.sin(angle))) - size,
        )
    low, high = angles[0] - advances[0] / 2 / radius, angles[-1] + advances[-1] / 2 / radius
    cuts = np.linspace(low, high, max(int(np.ceil((high - low) / 0.6)), 1) + 1)
    quads = []
    for a, b in zip(cuts[:-1], cuts[1:]):
        corners = [
            (a, radius + 0.65 * size),
            (b, radius + 0.65 * size),
            (b, radius - 0.65 * size),
            (a, radius - 0.65 * size),
        ]
        quads.append(np.float32([[centre[0] + r * np.cos(t), centre[1] + r * np.sin(t)] for t, r in corners]))
    return quads


def lay(tile: np.ndarray, piece: np.ndarray, x: int, y: int) -> None:
    """Lay a piece of coverage on the tile at (x, y); what sticks out is cut off."""
    h, w = piece.shape
    x0, y0, x1, y1 = max(x, 0), max(y, 0), min(x + w, tile.shape[1]), min(y + h, tile.shape[0])
    if x1 > x0 and y1 > y0:
        place = tile[y0:y1, x0:x1]
        np.maximum(place, piece[y0 - y : y1 - y, x0 - x : x1 - x], out=place)


def _ring_words(korean: bool, rng: np.random.Generator) -> str:
    text = content.company(rng, korean).upper()
    place = content.pick(rng, list(words.REGIONS_KO)) if korean else content.pick(rng, words.TOWNS).upper()
    return content.pick(
        rng, [text, f"{text} * {place} *", f"* {text} * {content.digits(rng, 9)} ", f"{text} - {place} - "]
    )
