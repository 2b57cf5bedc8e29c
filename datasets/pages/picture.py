"""From a flat sheet to the picture that a scanner, a camera or a fax makes of it, with its truth."""

import cv2
import numpy as np

from datasets.pages.canvas import Canvas, text_height
from datasets.pages.geometry import Geometry, moved_line, moved_mark, moved_stroke, place
from datasets.pages.truth import Page

STYLES = {  # kind of sheet -> how often each style of picture is made of it
    "receipt": {"clean": 1, "scan": 6, "photo": 4, "fax": 1, "old": 0.5},
    "letter": {"clean": 1, "scan": 4, "photo": 2, "fax": 3, "old": 2},
    "form": {"clean": 1, "scan": 5, "photo": 3, "fax": 1, "old": 1},
    "whiteboard": {"photo": 8, "scan": 1, "clean": 1},
}
DESKS = [(96, 72, 52), (140, 112, 84), (60, 62, 66), (180, 178, 172), (44, 40, 40), (120, 84, 56)]
WALLS = [(206, 204, 198), (188, 190, 192), (214, 206, 190)]
MASK_LEVEL = 80  # coverage (0 to 255) from which a pixel is ink


def make_picture(
    kind: str, sheet: Canvas, width: int, height: int, back: np.ndarray | None, rng: np.random.Generator
) -> Page:
    """A page of width x height pixels from a drawn sheet.

    back (h, w) uint8: ink of the sheet's other side, or of what was wiped off a whiteboard before; None for nothing.
    """
    names, weights = zip(*STYLES[kind].items())
    style = str(rng.choice(names, p=np.array(weights) / sum(weights)))
    if back is not None and style in ("scan", "old", "photo"):
        _ghost(sheet, back, kind, rng)
    if style == "old":
        _age(sheet, rng)
    if kind == "whiteboard" and style == "photo":
        _frame(sheet, rng)
    geometry = place(style, kind, sheet, width, height, rng)
    picture = _lay_down(sheet, geometry, _surroundings(style, kind, width, height, rng), rng)
    mask = np.uint8(geometry.image(sheet.mask, width, height) >= MASK_LEVEL) * 255
    scale = geometry.scale()
    if style == "clean":
        blur = 0.0
    elif style == "photo":
        picture, blur = photograph(picture, kind, text_height(sheet) * scale, rng)
    elif style == "fax":
        picture, blur = _fax(picture, rng), np.inf
    else:
        picture, blur = _scan(picture, style, text_height(sheet) * scale, rng)
    quality = int(rng.integers(60, 97))
    done, data = cv2.imencode(".jpg", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("the page could not be encoded as JPEG")
    image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    return Page(
        kind,
        style,
        image,
        data.tobytes(),
        mask,
        [moved_line(line, geometry, width, height) for line in sheet.lines],
        [moved_stroke(stroke, geometry, scale) for stroke in sheet.strokes],
        [moved_mark(mark, geometry, scale, blur, sheet) for mark in sheet.marks],
    )


def _lay_down(sheet: Canvas, geometry: Geometry, ground: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The sheet on the ground (H, W, 3), on which it throws a soft shadow."""
    height, width = ground.shape[:2]
    picture = geometry.image(sheet.image, width, height)
    inside = geometry.image(np.full(sheet.mask.shape, 255, np.uint8), width, height)
    if inside.min() == 255:
        return picture
    small = cv2.resize(inside, (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    shadow = cv2.resize(cv2.GaussianBlur(small, (0, 0), rng.uniform(0.8, 2.5)), (width, height))
    lit = cv2.convertScaleAbs(shadow, alpha=-rng.uniform(0.1, 0.5), beta=255)
    share = cv2.multiply(255 - inside, lit, scale=1 / 255)
    # Outside the sheet its picture is black already, so only the ground needs its share.
    return cv2.add(picture, cv2.multiply(ground, cv2.merge([share] * 3), scale=1 / 255))


def _surroundings(style: str, kind: str, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """What lies round the sheet: a scanner's lid, a desk, a wall."""
    if style != "photo":
        level = 255 if style == "clean" else int(rng.choice([255, 250, 244, 232, 30], p=[0.4, 0.2, 0.15, 0.1, 0.15]))
        return np.full((height, width, 3), level, np.uint8)
    colours = WALLS if kind == "whiteboard" else DESKS
    base = np.float32(colours[int(rng.integers(len(colours)))]) * np.float32(rng.uniform(0.8, 1.15))
    grain = _noise(rng, width, height, 4, 2)
    if kind != "whiteboard" and rng.random() < 0.6:  # the grain of wood
        grain = grain + cv2.resize(_noise(rng, width, max(height // 60, 2), 7), (width, height))
    return np.uint8(np.clip(base + grain[..., None], 0, 255))


def _ghost(sheet: Canvas, back: np.ndarray, kind: str, rng: np.random.Generator) -> None:
    """The other side shows through, mirrored; on a whiteboard it is what was wiped off badly. It is not in the mask."""
    back = back[: sheet.height, : sheet.width]
    if back.shape != sheet.mask.shape:
        return
    if kind == "whiteboard":
        sheet.ink(cv2.blur(back, (int(rng.integers(3, 25)), 3)), 0, 0, (60, 64, 80), rng.uniform(0.04, 0.14))
    else:
        mirrored = np.ascontiguousarray(back[:, ::-1])
        sheet.ink(cv2.GaussianBlur(mirrored, (0, 0), rng.uniform(0.8, 2.2)), 0, 0, (56, 48, 44), rng.uniform(0.05, 0.3))


def _age(sheet: Canvas, rng: np.random.Generator) -> None:
    """Yellowed, stained paper with fibres and darker edges."""
    h, w = sheet.mask.shape
    warmth = rng.uniform(0.3, 1)
    tint = 1 - warmth * np.cumsum(np.float32([rng.uniform(0.03, 0.1), rng.uniform(0.04, 0.11), rng.uniform(0.08, 0.2)]))
    blots = (
        _field(rng, w, h, int(rng.integers(4, 9)), 0.9, 1.03) + _noise(rng, w, h, 0.02, 8) + _noise(rng, w, h, 0.012, 2)
    )
    near = np.minimum(
        np.minimum(np.arange(w), np.arange(w)[::-1])[None] / w,
        np.minimum(np.arange(h), np.arange(h)[::-1])[:, None] / h,
    )
    blots *= 1 - rng.uniform(0, 0.3) * np.exp(-np.float32(near) / 0.03)
    sheet.image = np.uint8(np.clip(sheet.image * (tint * blots[..., None]), 0, 255))


def _frame(sheet: Canvas, rng: np.random.Generator) -> None:
    """A whiteboard's frame of metal, outside everything drawn."""
    thick = int(0.02 * min(sheet.width, sheet.height))
    tone = int(rng.integers(120, 200))
    for inset, level in ((0, tone), (thick // 3, min(tone + 40, 235)), (2 * thick // 3, tone - 30)):
        cv2.rectangle(
            sheet.image, (inset, inset), (sheet.width - 1 - inset, sheet.height - 1 - inset), (level,) * 3, thick // 3
        )


def _scan(picture: np.ndarray, style: str, letters: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Flat light, soft optics, grain, dust, stretched contrast; often grey. letters: height of small text in pixels."""
    height, width = picture.shape[:2]
    blur = rng.uniform(0.3, 0.9)
    picture, coarse = _coarser(picture, letters, rng)
    picture = cv2.GaussianBlur(picture, (0, 0), blur)
    light = _field(rng, width, height, 3, 0.96, 1.01)
    if rng.random() < 0.2:  # the page does not lie flat at one edge
        light *= 1 - rng.uniform(0.1, 0.5) * np.exp(-np.arange(width, dtype=np.float32) / rng.uniform(15, 60))[None]
    values = picture * light[..., None]
    values += (_noise(rng, width, height, rng.uniform(1, 6)) + _noise(rng, width, height, rng.uniform(0, 3), 3))[
        ..., None
    ]
    if style == "scan" and rng.random() < 0.55:  # levels set so that the paper becomes white
        low, high = rng.uniform(5, 45), rng.uniform(205, 244)
    else:
        low, high = rng.uniform(-15, 20), rng.uniform(240, 262)
    picture = np.uint8(np.clip((values - low) * (255 / (high - low)), 0, 255))
    for _ in range(int(rng.integers(0, 14))):
        centre = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.circle(picture, centre, int(rng.integers(0, 2)), (int(rng.integers(60, 190)),) * 3, -1)
    if rng.random() < 0.15:  # dust on the line of sensors
        column = int(rng.integers(width))
        picture[:, column] = (picture[:, column] * rng.uniform(0.8, 0.95)).astype(np.uint8)
    if rng.random() < 0.4:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    return picture, float(np.hypot(blur, coarse))


def photograph(picture: np.ndarray, kind: str, letters: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Light from one side, a shadow, folds, glare on a board, colour cast, blur by lens or hand, sensor noise."""
    height, width = picture.shape[:2]
    light = _light(width, height, kind, rng)
    picture, coarse = _coarser(picture, letters, rng)
    blur = rng.uniform(0.3, 1.1)
    picture = cv2.GaussianBlur(picture, (0, 0), blur)
    if rng.random() < 0.2:  # the hand moved
        length, angle = int(rng.integers(3, 6)), rng.uniform(0, np.pi)
        reach = np.array([np.cos(angle), np.sin(angle)]) * (length - 1) / 2
        kernel = np.zeros((length, length), np.float32)
        middle = (length - 1) / 2
        cv2.line(kernel, np.int32(np.round(middle - reach)).tolist(), np.int32(np.round(middle + reach)).tolist(), 1)
        picture = cv2.filter2D(picture, -1, kernel / kernel.sum())
        blur = float(np.hypot(blur, length / 3))
    warm = rng.normal(0.005, 0.03)
    cast = np.float32([1 + warm, 1, 1 - 1.3 * warm]) * np.float32(rng.uniform(0.8, 1.04) / light.max())
    values = picture * (light[..., None] * cast)
    if kind == "whiteboard" and rng.random() < 0.5:
        values += _glare(width, height, rng)[..., None]
    strength = rng.uniform(1, 5)
    values += _noise(rng, width, height, strength)[..., None]
    colours = rng.standard_normal((height // 4 + 1, width // 4 + 1, 3), np.float32) * np.float32(strength * 0.6)
    values += cv2.resize(colours, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.uint8(np.clip(values, 0, 255)), float(np.hypot(blur, coarse))


def _fax(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black and white only: ragged edges, specks, black borders, punched holes, lines lost in transmission."""
    height, width = picture.shape[:2]
    grey = cv2.GaussianBlur(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (0, 0), rng.uniform(0.5, 0.8)).astype(np.float32)
    grey += _noise(rng, width, height, rng.uniform(5, 14))
    black = grey < rng.uniform(172, 212)
    specks = rng.random((height // 2 + 1, width // 2 + 1), np.float32) < rng.choice([0, 0.0001, 0.0006])
    black |= np.repeat(np.repeat(specks, 2, 0), 2, 1)[:height, :width]
    page = np.uint8(~black) * 255
    if rng.random() < 0.35:  # the edge of the glass
        edge = int(rng.integers(2, max(width // 60, 3)))
        sides = [np.s_[:, :edge], np.s_[:, -edge:], np.s_[:edge], np.s_[-edge:]]
        page[sides[int(rng.integers(4))]] = 0
    if rng.random() < 0.25:
        for level in (0.08, 0.5, 0.92) if rng.random() < 0.5 else (0.3, 0.7):
            cv2.circle(page, (int(0.022 * width), int(level * height)), max(int(0.011 * width), 2), 0, -1)
    return cv2.cvtColor(page, cv2.COLOR_GRAY2RGB)


def _light(width: int, height: int, kind: str, rng: np.random.Generator) -> np.ndarray:
    """(height, width) float32 brightness, about 1 where it is best: computed small, since it is smooth."""
    w, h = max(width // 4, 2), max(height // 4, 2)
    x, y = np.linspace(-1, 1, w, dtype=np.float32)[None], np.linspace(-1, 1, h, dtype=np.float32)[:, None]
    turn = rng.uniform(0, 2 * np.pi)
    slope = np.float32(np.cos(turn)) * x + np.float32(np.sin(turn)) * y
    light = 1 - rng.uniform(0, 0.16) * (1 + slope) - rng.uniform(0, 0.1) * (x**2 + y**2)
    light += _field(rng, w, h, 4, -0.03, 0.03)
    if rng.random() < (0.25 if kind == "whiteboard" else 0.5):  # a hand, a head, a phone
        corners = np.int32(rng.uniform(-0.4, 1.4, (4, 2)) * [w, h])
        shade = np.zeros((h, w), np.uint8)
        cv2.fillConvexPoly(shade, cv2.convexHull(corners), 255)
        shade = cv2.blur(cv2.blur(shade, (size := int(rng.integers(5, 50)), size)), (size, size))
        light *= 1 - shade.astype(np.float32) / 255 * np.float32(rng.uniform(0.1, 0.4))
    if kind != "whiteboard" and rng.random() < 0.4:  # folds: bright on one side, dark on the other
        for _ in range(int(rng.integers(1, 4))):
            turn = _fold_angle(rng)
            distance = (np.cos(turn) * x + np.sin(turn) * y - rng.uniform(-0.6, 0.6)) / rng.uniform(0.006, 0.03)
            light *= 1 + np.float32(rng.uniform(0.03, 0.12)) * distance * np.exp(-(distance**2) / 2)
    return cv2.resize(np.float32(light), (width, height), interpolation=cv2.INTER_LINEAR)


def _fold_angle(rng: np.random.Generator) -> float:
    """Paper is folded along its sides, sometimes otherwise."""
    return float(rng.choice([0, np.pi / 2]) + rng.normal(0, 0.02) if rng.random() < 0.75 else rng.uniform(0, np.pi))


def _glare(width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width) float32: one or two lamps mirrored on the board."""
    w, h = max(width // 8, 2), max(height // 8, 2)
    x, y = np.linspace(0, 1, w, dtype=np.float32)[None], np.linspace(0, 1, h, dtype=np.float32)[:, None]
    glare = np.zeros((h, w), np.float32)
    for _ in range(int(rng.integers(1, 3))):
        distance = ((x - rng.uniform()) / rng.uniform(0.05, 0.25)) ** 2 + (
            (y - rng.uniform()) / rng.uniform(0.03, 0.15)
        ) ** 2
        glare += np.float32(rng.uniform(20, 75)) * np.exp(-distance)
    return cv2.resize(glare, (width, height), interpolation=cv2.INTER_LINEAR)


def _coarser(picture: np.ndarray, letters: float, rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """Sometimes a picture of lower resolution, enlarged again: (picture, blur in pixels that this amounts to).

    letters: height of small text in pixels; it stays 12 pixels high or more.
    """
    share = max(rng.uniform(0.5, 1), min(12 / max(letters, 1), 1))
    if rng.random() < 0.65 or share > 0.95:
        return picture, 0.0
    height, width = picture.shape[:2]
    small = cv2.resize(picture, (int(width * share), int(height * share)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0.45 / share


def _field(rng: np.random.Generator, width: int, height: int, cells: int, low: float, high: float) -> np.ndarray:
    """(height, width) float32: random values on a coarse grid, smoothly enlarged."""
    return cv2.resize(
        np.float32(rng.uniform(low, high, (cells, cells))), (width, height), interpolation=cv2.INTER_CUBIC
    )


def _noise(rng: np.random.Generator, width: int, height: int, strength: float, grain: int = 1) -> np.ndarray:
    """(height, width) float32 normal noise in grains of about `grain` pixels."""
    small = rng.standard_normal((-(-height // grain), -(-width // grain)), np.float32) * np.float32(strength)
    return small if grain == 1 else cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
