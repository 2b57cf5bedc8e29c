"""A PDF of the pages as pictures, with their text laid over them unseen, to be searched, selected and copied."""

import io
import math
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from reportlab import rl_config
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas

from utils.drawing import face_for
from utils.files import replace_file
from utils.fonts import FontFace
from utils.geometry import text_quad

POINTS_PER_INCH = 72
UNKNOWN_DPI = 200.0
LARGEST = 14400  # points along a side that readers have to bear
A4 = (595, 842)  # points: a page that could not be read stays empty, so that the others keep their numbers
JPEG_QUALITY = 85
INVISIBLE = 3  # text rendering mode
DESCENT = 0.2  # of a box's height, below the line that letters stand on

rl_config.useA85 = 0  # pictures as they are, not as a quarter more letters


class SearchablePdf:
    """add(image, page record) for each page, then save(path). Fonts are embedded with the characters that were used."""

    def __init__(self, title: str):
        self.buffer = io.BytesIO()
        self.canvas = Canvas(self.buffer, invariant=1, pageCompression=1)  # the same bytes for the same pages
        self.canvas.setTitle(title)
        self.canvas.setCreator("docmarks")

    def add(self, image: np.ndarray | None, page: dict) -> None:
        """image (H, W, 3) uint8 RGB, upright; page: its record, in pixels of `image`."""
        if image is None:
            self.canvas.setPageSize(A4)
            self.canvas.showPage()
            return
        height, width = image.shape[:2]
        scale = min(POINTS_PER_INCH / (page["dpi"] or UNKNOWN_DPI), LARGEST / max(height, width))
        self.canvas.setPageSize((width * scale, height * scale))
        self.canvas.drawImage(ImageReader(io.BytesIO(jpeg(image))), 0, 0, width * scale, height * scale)
        for text in page["text"]:
            words = [(printable(word["text"]), np.array(word["polygon"])) for word in text["words"]]
            words = [(word, quad) for word, quad in words if word]
            if any(length_of(quad) <= 0 for _, quad in words):  # a word there would be none to search for
                said = " ".join(word for word, _ in words)
                words = [(said, text_quad(text["polygon"], said))]
            for number, (word, quad) in enumerate(words, start=1):
                self._write(word, quad, height, scale, " " * (number < len(words)))
        self.canvas.showPage()

    def save(self, path: Path) -> None:
        self.canvas.save()
        replace_file(path, self.buffer.getvalue())

    def _write(self, text: str, quad: np.ndarray, page_height: int, scale: float, behind: str) -> None:
        """The text along the lower edge of the quad (4, 2), as wide as it, and something more behind it."""
        (x1, y1), (x2, y2) = quad[3], quad[2]
        width, height = math.hypot(x2 - x1, y2 - y1), float(np.linalg.norm(quad[3] - quad[0]))
        font, size = registered(face_for(text)), max(height * scale, 1.0)
        natural = pdfmetrics.stringWidth(text, font, size)
        if width <= 0 or natural <= 0:
            return
        up = (quad[0] - quad[3]) / max(height, 1e-6) * DESCENT * height
        cos, sin = (x2 - x1) / width, (y2 - y1) / width
        line = self.canvas.beginText()
        line.setTextRenderMode(INVISIBLE)
        line.setFont(font, size)
        line.setHorizScale(100 * width * scale / natural)
        line.setTextTransform(cos, -sin, sin, cos, (x1 + up[0]) * scale, (page_height - y1 - up[1]) * scale)
        line.textOut(text + behind)
        self.canvas.drawText(line)


def printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())


def length_of(quad: np.ndarray) -> float:
    """Of the lower edge of a quad (4, 2)."""
    return float(np.linalg.norm(quad[2] - quad[3]))


@lru_cache(maxsize=64)
def registered(face: FontFace) -> str:
    """The name under which reportlab knows a face."""
    name = f"{face.path.stem}-{face.index}"
    pdfmetrics.registerFont(TTFont(name, str(face.path), subfontIndex=face.index))
    return name


def jpeg(image: np.ndarray) -> bytes:
    """(H, W, 3) uint8 RGB; a page without colour is stored as greys."""
    grey = (image[..., 0] == image[..., 1]).all() and (image[..., 1] == image[..., 2]).all()
    pixels = image[..., 0] if grey else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
