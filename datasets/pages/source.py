"""Made pages without a disk: the endless dataset that the generator's folders are written from."""

from pathlib import Path

import numpy as np

from datasets.pages.picture import make_picture
from datasets.pages.sheets import KINDS, draw_sheet
from datasets.pages.truth import Page
from utils.errors import DataError
from utils.fonts import FontFace, find_fonts, fonts_of_split


def make_page(
    rng: np.random.Generator, faces: list[FontFace], kind: str = "mixed", width: int = 1000, height: int = 1400
) -> Page:
    """One page, drawn and degraded, that depends on its arguments and on nothing else."""
    if kind == "mixed":
        kind = KINDS[int(rng.integers(len(KINDS)))]
    sheet = draw_sheet(kind, width, height, faces, rng)
    back = None
    if rng.random() < 0.25:
        back = draw_sheet(kind, width, height, faces, rng).mask
    return make_picture(kind, sheet, width, height, back, rng)


class SyntheticPages:
    """Made pages without a disk: a map from a key (epoch, index), or from an index, to a Page.

    `length` is only what an epoch is called; every epoch has new pages. Works as the source of a torch Dataset with any
    number of workers, since a page depends on (seed, epoch, index) alone. split chooses the fonts; pages of training
    and of validation differ in more than their fonts only if their seeds differ.
    """

    def __init__(
        self,
        length: int,
        seed: int,
        kind: str = "mixed",
        width: int = 1000,
        height: int = 1400,
        split: str = "train",
        font_dir: Path | None = None,
    ):
        if kind not in (*KINDS, "mixed"):
            raise DataError(f"{kind}: no such kind of page; choose from {' '.join(KINDS)} mixed")
        self.length, self.seed, self.kind, self.width, self.height = length, seed, kind, width, height
        self.faces = fonts_of_split(find_fonts(font_dir), split)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, key: tuple[int, int] | int) -> Page:
        epoch, index = key if isinstance(key, tuple) else (0, key)
        if not 0 <= index < self.length:
            raise IndexError(index)
        # The same stream as utils.dataloading.sample_rng, which would bring torch into every worker of this tool.
        return make_page(
            np.random.default_rng((self.seed, epoch, index)), self.faces, self.kind, self.width, self.height
        )
