"""One crop of text: its label, and where its picture is."""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np

from datasets.formats.packed import LmdbRecord, TarMember
from utils.charset import nfc, one_space
from utils.geometry import crop_quad, polygon_area
from utils.images import load_image
from utils.text_crops import is_tall, resized_width, turn_left


@dataclass(frozen=True)
class Crop:
    """A label and where its picture is: a whole image, a quad of a page, or an image inside a larger file."""

    path: Path
    label: str  # as it was read
    height: int  # pixels, before it is turned
    width: int
    quad: tuple[float, ...] | None = None  # x1, y1, ... y4 in reading order
    line: int = 0  # its number among the page's labels, from 1
    packed: LmdbRecord | TarMember | None = None  # then `path` is the larger file

    @cached_property
    def text(self) -> str:
        """The label in NFC, its gaps as one_space has them."""
        return one_space(nfc(self.label))

    @property
    def degenerate(self) -> bool:
        """A place on a page without area: it shows nothing."""
        return self.quad is not None and polygon_area(np.reshape(self.quad, (4, 2))) < 1

    @property
    def name(self) -> str:
        return f"{self.path}#{self.line}" if self.quad else str(self.packed or self.path)

    @property
    def turned(self) -> bool:
        """A line of two characters or more that is higher than wide stands on its side. It is taken to run downwards, as on
        a page turned clockwise; one that runs upwards has to be labelled as a quad, whose corners, in reading order from
        the top left of the text, tell its direction and are cut out upright."""
        return len(self.text) > 1 and is_tall(self.height, self.width)

    def width_at(self, height: int, max_width: int, stretch: bool = False) -> int:
        h, w = (self.width, self.height) if self.turned else (self.height, self.width)
        return resized_width(h, w, height, max_width, stretch)

    def load(self) -> np.ndarray:
        """(h, w, 3) uint8 RGB, upright, if a standing line runs downwards (see `turned`)."""
        if self.quad:
            image = crop_quad(_load_page(self.path), np.reshape(self.quad, (4, 2)))
        else:
            image = load_image(self.name, data=self.packed.read() if self.packed else None)
        return turn_left(image) if self.turned else image


@lru_cache(maxsize=4)
def _load_page(path: Path) -> np.ndarray:
    return load_image(path)  # evaluation asks for the lines of a page one after the other
