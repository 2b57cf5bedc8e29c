"""What was found on a page, drawn so that a person sees at a glance whether it is right.

Two panels side by side. Left, as found: the page with text boxes outlined, strokes tinted and every raw detection.
Right, as read: the page with the text set in its boxes, the grouped marks and what the QR codes say.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.fonts import FontFace, find_fonts
from utils.geometry import text_quad

# RGB. Marks by what their class is called; other classes take the remaining colours in turn.
MARK_COLOURS = {"qr": (25, 90, 235), "sign": (10, 150, 60), "stamp": (220, 30, 45)}
OTHER_COLOURS = ((150, 60, 200), (230, 120, 0), (0, 140, 150), (120, 90, 60))
TEXT_COLOUR = (0, 140, 160)
STROKE_COLOUR = (235, 0, 140)
SURE, DOUBTFUL = (15, 30, 90), (200, 40, 0)  # colours of read text, by its score
SURE_SCORE, DOUBTFUL_SCORE = 0.95, 0.4
PAPER, CAPTION = (250, 250, 248), (40, 44, 52)
SMALLEST_PANEL, LARGEST_PANEL = 1000, 1800  # longer side in pixels
LONGEST_LABEL = 48
MOST_STRETCHED = 1.4


def draw_overlay(image: np.ndarray, page: dict, strokes: np.ndarray | None = None) -> np.ndarray:
    """Both panels of one page, (H', W', 3) uint8 RGB.

    image (H, W, 3) uint8 RGB; page: its record as in the JSON, in pixels of `image`; strokes (H, W) uint8, 255 = ink.
    """
    found = Canvas(image)
    if strokes is not None:
        found.tint(strokes, STROKE_COLOUR)
    read = Canvas(image)
    for number, text in enumerate(page["text"], start=1):
        found.outline(text["polygon"], TEXT_COLOUR, filled=0.08)
        if text["text"] is None:
            read.outline(text["polygon"], TEXT_COLOUR)
            read.number(text["polygon"], number, TEXT_COLOUR)
        elif not text["text"].strip():  # read as nothing: what is printed there stays to be seen
            read.outline(text["polygon"], DOUBTFUL)
        else:
            read.set_text(text["polygon"], text["text"], doubt_colour(text["score"]))
    for canvas, marks in ((found, page["marks"]["raw"]), (read, page["marks"]["grouped"])):
        for mark in marks:
            canvas.box(mark["box"], mark_colour(mark["class_name"]), mark_label(mark))
    for code in page["qr"]:
        label = code["payload"] if code["status"] == "decoded" else "QR code: unreadable"
        read.outline(code["corners"], MARK_COLOURS["qr"])
        read.label(np.min(code["corners"], 0), np.max(code["corners"], 0), label or "(empty)", MARK_COLOURS["qr"])
    panels = [canvas.finished(caption) for canvas, caption in zip((found, read), captions(page, strokes is not None))]
    gap = np.full((panels[0].shape[0], max(panels[0].shape[1] // 80, 4), 3), CAPTION, np.uint8)
    return np.hstack([panels[0], gap, panels[1]])


def captions(page: dict, strokes: bool) -> tuple[str, str]:
    """One line over each panel: what is on it, in numbers."""
    raw, grouped = page["marks"]["raw"], page["marks"]["grouped"]
    boxes = [_count(len(page["text"]), "text box", "text boxes")] if page["text"] else []
    lines = [_count(len({text["line"] for text in page["text"]}), "line")] if page["text"] else []
    if any(text["text"] is None for text in page["text"]):
        lines += ["numbered in reading order for want of recognition weights"]
    if empty := sum(text["text"] is not None and not text["text"].strip() for text in page["text"]):
        lines += [f"{_count(empty, 'box', 'boxes')} in orange read as nothing"]
    found = [*boxes, *([_count(len(raw), "raw mark")] if raw else []), *(["strokes"] if strokes else [])]
    codes = [_count(len(page["qr"]), "QR code")] if page["qr"] else []
    read = [*lines, *([_count(len(grouped), "grouped mark")] if grouped else []), *codes]
    start = f"page {page['page']}"
    return (f"{start}, found: {', '.join(found) or 'nothing'}", f"{start}, read: {', '.join(read) or 'nothing'}")


def _count(number: int, one: str, many: str = "") -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"


def mark_label(mark: dict) -> str:
    merged = mark.get("merged_count", 1)
    return f"{mark['class_name']} {mark['confidence']:.2f}" + (f" \u00d7{merged}" if merged > 1 else "")


def mark_colour(class_name: str) -> tuple[int, int, int]:
    for word, colour in MARK_COLOURS.items():
        if word in class_name.lower():
            return colour
    return OTHER_COLOURS[sum(class_name.encode()) % len(OTHER_COLOURS)]


def doubt_colour(score: float) -> tuple[int, int, int]:
    """Dark blue for text that was read with confidence, turning to orange-red as it falls."""
    doubt = np.clip((SURE_SCORE - score) / (SURE_SCORE - DOUBTFUL_SCORE), 0, 1)
    return tuple(int(round(a + (b - a) * doubt)) for a, b in zip(SURE, DOUBTFUL))


@dataclass
class Canvas:
    """A page scaled to a size that is good to look at. Points come in pixels of the page."""

    page: np.ndarray
    scale: float = field(init=False)
    image: np.ndarray = field(init=False)
    labels: list = field(init=False, default_factory=list)  # labels are drawn last, over everything
    taken: list[tuple] = field(init=False, default_factory=list)  # rectangles that labels cover

    def __post_init__(self) -> None:
        height, width = self.page.shape[:2]
        longest = max(height, width)
        self.scale = min(max(longest, SMALLEST_PANEL), LARGEST_PANEL) / longest
        size = max(round(width * self.scale), 1), max(round(height * self.scale), 1)
        method = cv2.INTER_AREA if self.scale < 1 else cv2.INTER_LINEAR
        self.image = self.page.copy() if self.scale == 1 else cv2.resize(self.page, size, interpolation=method)
        self.thin, self.thick = max(round(max(size) / 1300), 1), max(round(max(size) / 400), 2)
        self.letter = max(round(max(size) / 85), 12)

    def points(self, polygon) -> np.ndarray:
        return np.asarray(polygon, np.float32) * self.scale

    def outline(self, polygon, colour: tuple, filled: float = 0.0) -> None:
        """filled: share of the colour laid over the inside."""
        points = self.points(polygon)
        if filled:
            self._lay(self._inside(points), colour, filled)
        cv2.polylines(self.image, [_fixed(points)], True, colour, self.thin, cv2.LINE_AA, 4)

    def number(self, polygon, number: int, colour: tuple) -> None:
        """A small tag at the polygon's first corner, left of it where there is room."""
        x, y = self.points(polygon)[0]
        font = face_for("0").at(max(self.letter * 2 // 3, 9))
        width, height = int(font.getlength(str(number))) + self.letter // 2, self.letter
        x, y = int(min(max(x - width, 0), self.image.shape[1] - width)), int(max(y, 0))
        self.labels.append(((x, y, x + width, y + height), str(number), colour, font))

    def box(self, box: list[float], colour: tuple, label: str) -> None:
        (x1, y1), (x2, y2) = box[:2], box[2:]
        points = self.points([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])
        cv2.polylines(self.image, [_fixed(points)], True, colour, self.thick, cv2.LINE_AA, 4)
        self.label((x1, y1), (x2, y2), label, colour)

    def tint(self, mask: np.ndarray, colour: tuple) -> None:
        """mask (H, W) uint8 of the page: 255 is coloured."""
        alpha = cv2.resize(mask, self.image.shape[1::-1], interpolation=cv2.INTER_AREA)
        self._lay((0, 0, alpha), colour, 0.75)

    def set_text(self, polygon, text: str, colour: tuple) -> None:
        """The text in place of what stands in the polygon, along its upper edge, as large as fits."""
        quad = self.points(text_quad(polygon, text))
        height, width = sides(quad)
        self._lay(self._inside(quad), PAPER, 0.94)
        if text.strip():
            tile = text_tile(text, height, width)
            left, top = np.floor(quad.min(0)).astype(int)
            right, bottom = np.ceil(quad.max(0)).astype(int) + 1
            h, w = tile.shape
            matrix = cv2.getPerspectiveTransform(np.float32([[0, 0], [w, 0], [w, h], [0, h]]),
                                                 np.float32(quad - (left, top)))
            alpha = cv2.warpPerspective(tile, matrix, (int(right - left), int(bottom - top)))
            self._lay((int(left), int(top), alpha), colour, 1.0)

    def label(self, low, high, text: str, colour: tuple) -> None:
        """A tag at the box from `low` to `high` (x, y), where no other tag is: above it, below it or inside it."""
        text = text if len(text) <= LONGEST_LABEL else text[: LONGEST_LABEL - 1] + "\u2026"
        font = face_for(text).at(self.letter)
        width, height = int(font.getlength(text)) + self.letter, round(self.letter * 1.6)
        (x1, y1), (x2, y2) = self.points(low), self.points(high)
        places = [(x1, y1 - height), (x1, y2), (x1, y1), (x2 - width, y1 - height), (x2 - width, y2), (x1, y2 - height)]
        places += [(x1, y1 + step * height) for step in (*range(1, 12), *range(-2, -12, -1))]
        room = np.array(self.image.shape[1::-1]) - (width, height)
        corners = np.clip(places, 0, np.maximum(room, 0)).astype(int)
        rectangles = np.hstack([corners, corners + (width, height)])
        taken = np.array(self.taken, int).reshape(-1, 4)
        meets = (rectangles[:, None, :2] < taken[:, 2:]) & (taken[:, :2] < rectangles[:, None, 2:])
        place = tuple(rectangles[int(meets.all(2).any(1).argmin())].tolist())  # the first free one, or else the first
        self.taken.append(place)
        self.labels.append((place, text, colour, font))

    def finished(self, caption: str) -> np.ndarray:
        """The image with its labels, under a strip with the caption."""
        strip = np.full((round(self.letter * 2.2), self.image.shape[1], 3), CAPTION, np.uint8)
        picture = Image.fromarray(np.vstack([strip, self.image]))
        draw = ImageDraw.Draw(picture)
        font = fitting_font(caption, self.letter, self.image.shape[1] - self.letter)
        draw.text((self.letter // 2, len(strip) // 2), caption, PAPER, font, anchor="lm")
        for (x1, y1, x2, y2), text, colour, font in self.labels:
            box = (x1, y1 + len(strip), x2, y2 + len(strip))
            draw.rounded_rectangle(box, self.letter // 4, colour)
            draw.text(((x1 + x2) // 2, (box[1] + box[3]) // 2), text, "white", font, anchor="mm")
        return np.asarray(picture)

    def _inside(self, points: np.ndarray) -> tuple[int, int, np.ndarray]:
        """(left, top, mask (h, w) uint8) of a polygon."""
        left, top = np.floor(points.min(0)).astype(int)
        right, bottom = np.ceil(points.max(0)).astype(int) + 1
        mask = np.zeros((bottom - top, right - left), np.uint8)
        cv2.fillPoly(mask, [_fixed(points - (left, top))], 255, cv2.LINE_AA, 4)
        return int(left), int(top), mask

    def _lay(self, piece: tuple[int, int, np.ndarray], colour: tuple, share: float) -> None:
        """Blend the colour over the image where the piece's mask is, cut at the image's edges."""
        left, top, mask = piece
        height, width = self.image.shape[:2]
        mask = mask[max(-top, 0) : max(height - top, 0), max(-left, 0) : max(width - left, 0)]
        left, top = max(left, 0), max(top, 0)
        under = self.image[top : top + mask.shape[0], left : left + mask.shape[1]]
        alpha = mask[..., None].astype(np.float32) * (share / 255)
        under[...] = (under + (np.float32(colour) - under) * alpha + 0.5).astype(np.uint8)


def sides(quad: np.ndarray) -> tuple[int, int]:
    """(height, width) in whole pixels of a quad (4, 2) in reading order, at least 1."""
    along = max(np.linalg.norm(quad[1] - quad[0]), np.linalg.norm(quad[2] - quad[3]))
    down = max(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[2] - quad[1]))
    return max(round(float(down)), 1), max(round(float(along)), 1)


def text_tile(text: str, height: int, width: int) -> np.ndarray:
    """The text on one line, (height, W) uint8 with 255 = ink, to be stretched to `width`: by MOST_STRETCHED at most.

    Where it is too long its letters get smaller, down to half their size, and only then narrower.
    """
    font = fitting_font(text, round(height * 0.78), width, smallest=round(height * 0.39))
    tile_width = max(int(np.ceil(font.getlength(text))), round(width / MOST_STRETCHED))
    picture = Image.new("L", (tile_width, height))
    ImageDraw.Draw(picture).text((0, height / 2), text, 255, font, anchor="lm")
    return np.asarray(picture)


def fitting_font(text: str, size: int, width: int, smallest: int = 6) -> ImageFont.FreeTypeFont:
    """The font for a text, at `size` pixels or as much smaller, down to `smallest`, as it needs to fit `width`."""
    face = face_for(text)
    size = max(size, 4)
    length = face.at(size).getlength(text)
    return face.at(max(min(size, int(size * width / max(length, 1))), smallest, 4))


@lru_cache(maxsize=4096)
def face_for(text: str) -> FontFace:
    """The first face that can write all of the text, else the one for Korean."""
    faces = label_faces()
    return next((face for face in faces if face.has(text)), faces[0])


def font_line(characters: str) -> str:
    """Which face writes these characters into pictures, or a warning where some would become boxes or nothing."""
    lacking = [c for c in characters if not any(face.has(c) for face in label_faces())]
    if not lacking:
        return f"{face_for(characters).family}, and others where it lacks a character"
    named = ", ".join(f"U+{ord(c):04X}" for c in lacking[:5]) + (", ..." if len(lacking) > 5 else "")
    return (f"warning: no font here has {len(lacking)} of the {len(characters)} characters ({named}): they will be boxes; "
            "pip install koreanize-matplotlib brings a Korean one")


@lru_cache(maxsize=1)
def label_faces() -> tuple[FontFace, ...]:
    """Upright plain faces, the Korean one first."""
    faces = find_fonts()
    plain = [face for face in faces if not (face.bold or face.italic or face.mono)] or faces
    return tuple(sorted(plain, key=lambda face: (not face.korean, face.style != "Regular", face.family)))


def _fixed(points: np.ndarray) -> np.ndarray:
    """Points for OpenCV with four bits behind the point."""
    return np.round(np.asarray(points) * 16).astype(np.int32)
