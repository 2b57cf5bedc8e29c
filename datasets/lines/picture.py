"""From drawn ink to the crop that a scanner, a worn printer or a camera leaves of it.

Ink is (h, w) float32 from 0 (paper) to 1 in the making, drawn large; the crop is made small early, as scans are coarse,
and the later steps work on the pixels of the crop.
"""

import cv2
import numpy as np

from datasets.lines.draw import FontChoice, Line, draw_line
from datasets.pages.content import pick

PRINTS = ("plain", "thermal", "dots", "worn", "bitten", "fax")
SHARES = (0.34, 0.26, 0.12, 0.12, 0.08, 0.08)
TRIES = 4
LEAST_CONTRAST = 40  # grey levels between paper and ink
LEAST_LIKENESS = 0.72  # correlation of the crop with its ink
INKS = [(60, 40, 150), (90, 60, 140), (40, 60, 120), (130, 40, 60), (110, 90, 70)]  # ribbons; most print is grey


def make_crop(text: str, fonts: FontChoice, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) uint8 RGB, 11 to 64 pixels high: a line as it is cut out of a document."""
    print_kind = PRINTS[int(rng.choice(len(PRINTS), p=SHARES))]
    face = fonts.face(text, rng)
    hangul = any("가" <= c <= "힣" for c in text)  # many strokes in one letter: it takes more dots and more pixels
    low, high = (30, 49) if print_kind != "dots" else (24, 33) if hangul else (14, 24)
    em = int(rng.integers(low, high))
    line = draw_line(text, face, fonts, em, rng)
    if print_kind == "dots":
        line = as_dots(line, rng)
    ink = np.float32(line.coverage) / 255
    ink, box = surround(ink, line, fonts, rng)
    # Of the crop: SROIE's are 14 to 38, 23 in the middle.
    height = int(np.clip(rng.lognormal(3.2, 0.32), 17 if hangul else 11, 64))
    stretch = rng.uniform(0.68, 0.95) if rng.random() < 0.45 else rng.uniform(0.92, 1.12)
    ink = cut(ink, box, height, stretch, rng)
    for _ in range(TRIES):
        crop = compress(develop(WEAR[print_kind](ink, rng), rng), rng)
        if legible(crop, ink):
            return crop
    return compress(develop(ink, rng), rng)


def legible(crop: np.ndarray, ink: np.ndarray) -> bool:
    """Whether the grey of the crop still follows the ink as it was drawn: what nobody can read teaches guessing."""
    grey, drawn = crop[..., 1].astype(np.float32), ink - ink.mean()
    covariance = float(((grey - grey.mean()) * drawn).mean())
    inked = float(drawn.std())
    return abs(covariance) >= LEAST_CONTRAST * inked**2 and abs(covariance) >= LEAST_LIKENESS * inked * float(grey.std())


# the sheet round the line ---------------------------------------------------------------------------------------------


def as_dots(line: Line, rng: np.random.Generator) -> Line:
    """The print of a dot matrix: each pixel of a small drawing becomes a round dot, dots touching or not."""
    size = 3
    fired = (line.coverage > rng.integers(70, 130)).astype(np.float32)
    fired *= rng.uniform(0.75, 1, fired.shape)
    row = rng.uniform(0.5, 1, (fired.shape[0], 1)) if rng.random() < 0.25 else 1.0  # needles that hit less hard
    grid = np.zeros((fired.shape[0] * size, fired.shape[1] * size), np.float32)
    grid[1::size, 1::size] = fired * row
    dots = cv2.GaussianBlur(grid, (0, 0), rng.uniform(0.75, 1.15)) * 7.5
    coverage = np.uint8(np.clip(dots, 0, 1) * 255)
    return Line(coverage, *(size * v for v in (line.top, line.bottom, line.left, line.right, line.em)))


def surround(ink: np.ndarray, line: Line, fonts: FontChoice, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(larger sheet of ink, box x0, y0, x1, y1 of the crop in it): neighbours' fragments at the border, rules, and
    margins as annotators and detectors leave them."""
    em, letters = line.em, max(line.bottom - line.top, 1)
    pad = em
    sheet = np.pad(ink, pad)
    top, bottom, left, right = (v + pad for v in (line.top, line.bottom, line.left, line.right))
    loose = rng.random() < 0.3  # a detector's box, as against an annotator's tight one
    low, high = (-0.04, 0.4) if loose else (-0.06, 0.14)
    sides = rng.uniform(low, high, 4) * letters * np.array([1, 0.8, 1, 0.8])
    sides[[0, 2]] += rng.uniform(0, 0.5, 2) * letters * (rng.random(2) < 0.25)
    box = np.array([left - max(sides[0], 0), top - sides[1], right + max(sides[2], 0), bottom + sides[3]])
    for above in (True, False):
        if rng.random() < 0.13:
            _neighbour(sheet, line, fonts, above, top, bottom, rng)
    if rng.random() < 0.06:  # the end of what stands beside it
        x = int(right + em * rng.uniform(0.2, 0.45)) if rng.random() < 0.5 else int(left - em * rng.uniform(0.35, 0.6))
        part = sheet[top : bottom, max(x, 0) : max(x + int(em * 0.25), 0)]
        part[:] = np.maximum(part, sheet[top : bottom, left : left + part.shape[1]][:, : part.shape[1]])
        box[[0, 2]] += [-0.3 * em if x < left else 0, 0.35 * em if x > right else 0]
    thick = max(int(em * rng.uniform(0.03, 0.09)), 1)
    if rng.random() < 0.08:  # an underline, or the rule of a table above
        y = int(bottom + em * rng.uniform(0.04, 0.2)) if rng.random() < 0.7 else int(top - em * rng.uniform(0.08, 0.2))
        sheet[max(y, 0) : y + thick] = rng.uniform(0.5, 1)
        box[1], box[3] = min(box[1], y - 1), max(box[3], y + thick + 1)
    if rng.random() < 0.04:  # the side of a table's cell
        x = int(left - em * rng.uniform(0.15, 0.4)) if rng.random() < 0.5 else int(right + em * rng.uniform(0.15, 0.4))
        sheet[:, max(x, 0) : x + thick] = rng.uniform(0.5, 1)
        box[[0, 2]] = min(box[0], x - 2), max(box[2], x + thick + 2)
    return sheet, box


def _neighbour(sheet: np.ndarray, line: Line, fonts: FontChoice, above: bool, top: int, bottom: int,
               rng: np.random.Generator) -> None:
    """Draw a made-up line close above or below, to be cut by the edge of the crop."""
    other = draw_line(pick(rng, ["12345.00 67890", "TOTAL QTY gjpy", "Subtotal Tax 6%", "(ABCDEFGHIJ) klm", "--------"]),
                      fonts.face("a", rng), fonts, line.em, rng)
    part = np.float32(other.coverage[other.top : other.bottom]) / 255
    gap = int(line.em * rng.uniform(0.02, 0.3))
    y = top - gap - part.shape[0] if above else bottom + gap
    x = int(rng.integers(0, max(sheet.shape[1] - 10, 1)))
    y0, y1 = max(y, 0), min(y + part.shape[0], sheet.shape[0])
    width = min(part.shape[1], sheet.shape[1] - x)
    if y1 > y0:
        place = sheet[y0:y1, x : x + width]
        np.maximum(place, part[y0 - y : y1 - y, :width], out=place)


def cut(ink: np.ndarray, box: np.ndarray, height: int, stretch: float, rng: np.random.Generator) -> np.ndarray:
    """(height, w) float32: the box by a slight perspective, rotated by up to about 2 degrees, made small."""
    x0, y0, x1, y1 = box
    h, w = y1 - y0, x1 - x0
    width = max(int(round(w * stretch * height / h)), 3)
    lean = np.clip(rng.normal(0, 0.012), -0.12 * h / w, 0.12 * h / w) * w / 2  # at the ends, in rows
    corners = np.float32([[x0, y0 - lean], [x1, y0 + lean], [x1, y1 + lean], [x0, y1 - lean]])
    corners += np.float32(rng.normal(0, 0.015, (4, 2)) * h)
    if rng.random() < 0.08:  # italics of a shaky scan
        corners[:2, 0] += rng.uniform(-0.15, 0.15) * h
    shrink = h / height
    if shrink > 1.3:  # as much blur as area averaging would do
        ink = cv2.GaussianBlur(ink, (0, 0), 0.35 * shrink)
    target = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    matrix = cv2.getPerspectiveTransform(corners, target)
    return cv2.warpPerspective(ink, matrix, (width, height), flags=cv2.INTER_LINEAR)


# what printers and paper do -------------------------------------------------------------------------------------------


def plain(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return ink if rng.random() < 0.6 else np.clip(ink * np.float32(rng.uniform(1.0, 1.9)), 0, 1)


def thermal(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A print head that warms up and tires: pale bands, dead elements (light columns), rows that slipped."""
    h, w = ink.shape
    ink = np.clip(ink * np.float32(rng.uniform(1, 1.7)), 0, 1)
    strength = rng.uniform(0.5, 1)
    across = np.interp(np.arange(w), np.linspace(0, w, 6), rng.uniform(strength, 1.1, 6)).astype(np.float32)
    down = np.interp(np.arange(h), np.linspace(0, h, 4), rng.uniform(0.85, 1.05, 4)).astype(np.float32)
    ink = ink * across * down[:, None]
    if rng.random() < 0.2:
        ink[:, rng.integers(0, w, max(w // 60, 1))] *= np.float32(rng.uniform(0, 0.5))
    if rng.random() < 0.25:  # broken strokes
        ink[rng.integers(0, h, max(h // 12, 1))] *= np.float32(rng.uniform(0.1, 0.6))
    return ink


def worn(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rubbed and faded in blots."""
    h, w = ink.shape
    blots = cv2.resize(rng.random((max(h // 6, 2), max(w // 6, 2)), np.float32), (w, h), interpolation=cv2.INTER_CUBIC)
    return ink * np.clip(blots * np.float32(rng.uniform(0.5, 1.5)) + np.float32(rng.uniform(0.3, 0.6)), 0, 1)


def bitten(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink that did not take everywhere: small holes and broken thin strokes, or fat strokes that run together."""
    if rng.random() < 0.35:
        return np.clip(cv2.GaussianBlur(ink, (0, 0), rng.uniform(0.6, 1.0)) * np.float32(rng.uniform(1.5, 2.4)), 0, 1)
    holes = cv2.GaussianBlur(rng.random(ink.shape, np.float32), (0, 0), rng.uniform(0.5, 1.0))
    return ink * (holes > np.quantile(holes, rng.uniform(0.03, 0.2)))


def fax(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black and white only, edges ragged by noise."""
    ragged = ink + rng.normal(0, rng.uniform(0.02, 0.1), ink.shape).astype(np.float32)
    return (ragged > rng.uniform(0.25, 0.55)).astype(np.float32)


WEAR = {"plain": plain, "thermal": thermal, "dots": plain, "worn": worn, "bitten": bitten, "fax": fax}


# what scanners and cameras do -----------------------------------------------------------------------------------------


def develop(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w) ink -> (h, w, 3) uint8: paper and ink get their colours, then light, optics, noise and levels."""
    h, w = ink.shape
    paper = np.float32([rng.choice([255, 252, 240, 215, 185], p=[0.5, 0.22, 0.14, 0.09, 0.05])] * 3)
    paper *= 1 - np.float32(rng.uniform(0, 0.06) * np.array([0, 0.4, 1])) * (rng.random() < 0.35)
    dark = np.float32([rng.uniform(0, 90)] * 3) if rng.random() < 0.7 else np.float32([rng.uniform(80, 170)] * 3)
    if rng.random() < 0.08:
        dark = np.float32(pick(rng, INKS)) * np.float32(rng.uniform(0.6, 1.3))
    dark = np.minimum(dark, paper - 75)
    contrast = float((paper - dark).mean())
    if rng.random() < 0.04:  # white on black
        paper, dark = dark, paper
    picture = paper + (dark - paper) * ink[..., None]
    if rng.random() < 0.3:
        light = np.interp(np.arange(w), np.linspace(0, w, 4), rng.uniform(0.78, 1.02, 4)).astype(np.float32)
        picture *= light[:, None]
    if rng.random() < 0.8:
        picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.25, 0.022 * h + 0.35))
    if rng.random() < 0.06:  # the hand moved
        length = int(rng.integers(2, max(h // 10, 2) + 1))
        shape = (length, 1) if rng.random() < 0.5 else (1, length)
        picture = cv2.blur(picture, shape)
    if rng.random() < 0.3:  # scanners sharpen
        soft = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.7, 1.6))
        picture += (picture - soft) * np.float32(rng.uniform(0.5, 2.2))
    if rng.random() < 0.6:
        grain = rng.standard_normal((h, w, 1), np.float32) * np.float32(rng.uniform(0.005, 0.075) * contrast)
        if rng.random() < 0.3:
            grain = cv2.GaussianBlur(grain, (0, 0), 0.7)[..., None] * 2
        picture += grain
    if rng.random() < 0.35:  # levels: paper to white, ink to black
        low, high = rng.uniform(0, 70), rng.uniform(190, 250)
        picture = (picture - np.float32(low)) * np.float32(255 / (high - low))
    return np.uint8(np.clip(picture, 0, 255))


def compress(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if rng.random() < 0.25:
        return crop
    quality = int(rng.integers(25, 96))
    done, data = cv2.imencode(".jpg", crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise ValueError("the line could not be encoded as JPEG")
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
