"""Pages with stroke masks: `images/` and `masks/` in each split folder, paired by their stem, ink = 255.

Other greys count as ink where `ink_levels` names them (masks of several classes, such as 0, 85, 170 and 255), and a
mask may be shapes in LabelMe's JSON, in masks/ or beside its image (datasets/formats/stroke_shapes.py). Beside them
`categories.tsv` may say what is hard about a page: file, tab, comma-separated tags.
"""

import argparse
from collections import Counter
from dataclasses import dataclass
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Iterable, Mapping, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.augment_segmentation import StrokeAugmentation
from datasets.formats.stroke_shapes import draw, read_drawing
from datasets.other_paper import ink_on_paper
from datasets.splits import read_splits
from utils.args import add_split_flags, grey_levels, positive_float
from utils.dataloading import Key, sample_rng
from utils.errors import BadSamples, DataError
from utils.files import read_utf8
from utils.frames import size_fault
from utils.geometry import letterbox
from utils.images import IMAGE_SUFFIXES, image_size, list_images, load_image, load_mask, to_tensor

MANY_GREYS = 16  # a mask of more greys than this is a smoothed or a JPEG one; of fewer, they are likely classes
LOOKED_AT = 24  # masks of a split that are decoded at once to see which greys they hold


@dataclass(frozen=True)
class StrokePage:
    image: Path
    mask: Path  # an image, or shapes in JSON
    categories: tuple[str, ...] = ()
    ink_levels: tuple[int, ...] = ()
    line_width: float | None = None

    def truth(self) -> np.ndarray:
        """(H, W) bool, True = ink."""
        return load_truth(self.mask, self.ink_levels, self.line_width)


def add_mask_flags(group: argparse._ActionsContainer) -> None:
    """How masks are read, for every command that reads them: which pages, what in a mask is ink."""
    group.add_argument("--category", help="only pages with this tag in categories.tsv")
    group.add_argument("--ink-levels", type=grey_levels, metavar="G,G",
                       help="greys of the masks that are ink, such as 85,170 (default: 255, or 1 in masks of 0 and 1)")
    group.add_argument("--line-width", type=positive_float, help="pixels, for lines in JSON that state no width")


def add_page_flags(parser: argparse.ArgumentParser, split_help: str, split: str) -> None:
    """All that read_pages() asks for, for commands that are no training and read what a training reads."""
    add_split_flags(parser, "segmentation", split_help, split)
    add_mask_flags(parser)
    parser.set_defaults(overfit=None, seed=42)  # as a training has them, so that an undivided folder is divided alike


def read_pages(args: argparse.Namespace, names: Iterable[str]) -> dict[str, list[StrokePage]]:
    """{split: its pages} by the flags of add_mask_flags and of utils.args.add_split_flags, as datasets.splits.read_splits
    gives them; it says what is raised."""
    return read_splits(args, partial(read_masked, args), names, path=attrgetter("image"))


def read_masked(args: argparse.Namespace, folder: Path, max_bad_fraction: float) -> list[StrokePage]:
    """read_split() of a folder by the flags of add_mask_flags."""
    return read_split(folder, max_bad_fraction, args.category, args.ink_levels or (), args.line_width)


def read_split(folder: Path, max_bad_fraction: float, category: str | None = None, ink_levels: Sequence[int] = (),
               line_width: float | None = None) -> list[StrokePage]:
    """All pages of a split folder, or those tagged with `category`.

    ink_levels: greys of the masks that are ink; none: 255, or 1 in masks of 0 and 1. line_width: pixels, for lines in
    JSON that state no width. Raises DataError where a folder is missing, more than `max_bad_fraction` of the pages
    cannot be used (no mask, no image, unreadable, mask of another size) or of the lines of categories.tsv, no page has
    the category, or the masks hold other greys than those that are asked for.
    """
    images, mask_of = list_images(folder / "images"), find_masks(folder)
    namesakes, bad = Counter(path.stem for path in images), BadSamples(max_bad_fraction)
    ink_levels = tuple(ink_levels)
    tags = read_categories(folder / "categories.tsv", set(namesakes), max_bad_fraction)
    pages = []
    for image in images:
        reason = _misfit(image, mask_of.get(image.stem), namesakes[image.stem], line_width)
        if reason:
            bad.add(*reason)
        else:
            mask = mask_of[image.stem]
            pages.append(StrokePage(image, mask, tags.get(image.stem, ()), ink_levels, line_width))
    orphans = [path for stem, path in mask_of.items() if stem not in namesakes]
    for mask in orphans:
        bad.add(mask, f"has no image images/{mask.stem}.*")
    bad.settle(len(images) + len(orphans))
    _check_flags(pages, folder, ink_levels, line_width)
    return _with_category(pages, category, folder)


def find_masks(folder: Path) -> dict[str, Path]:
    """The mask of each page by its stem: an image or JSON in masks/, or JSON beside the image.

    Raises DataError where there is none, or two for one page.
    """
    suffixes = (*IMAGE_SUFFIXES, ".json")
    masks = [path for path in (folder / "masks").glob("*") if path.suffix.lower() in suffixes]
    masks += [path for path in (folder / "images").glob("*") if is_drawing(path)]
    masks = sorted(path for path in masks if not path.name.startswith("."))
    if not masks:
        list_images(folder / "masks")  # says what is missing
    mask_of: dict[str, Path] = {}
    for mask in masks:
        if other := mask_of.get(mask.stem):
            raise DataError(f"{mask}: is a second mask beside {other}; move one of them away")
        mask_of[mask.stem] = mask
    return mask_of


def is_drawing(mask: Path) -> bool:
    return mask.suffix.lower() == ".json"


def _check_flags(pages: list[StrokePage], folder: Path, ink_levels: Sequence[int], line_width: float | None) -> None:
    """Refuse greys that would be read as something else than they mean, and flags that would do nothing."""
    masks = [page.mask for page in pages if not is_drawing(page.mask)]
    if line_width is not None and len(masks) == len(pages):
        raise DataError(f"{folder}: has no shapes in JSON, which --line-width is for; leave it out")
    if ink_levels and not masks:
        raise DataError(f"{folder}: has no grey masks, which --ink-levels is for; leave it out")
    greys: set[int] = set()
    for mask in masks[:: -(-len(masks) // LOOKED_AT) or 1]:
        held = greys_of(load_mask(mask))
        greys.update(held)
        if not ink_levels and 2 < len(held) <= MANY_GREYS:
            raise DataError(f"{mask}: holds the greys {', '.join(map(str, held))}; name those that are ink, such as "
                            f"--ink-levels {held[1]},{held[2]}")
    if ink_levels and greys.isdisjoint(ink_levels):
        raise DataError(f"{folder}: no mask holds grey {' or '.join(map(str, ink_levels))} of --ink-levels; they hold "
                        f"{', '.join(map(str, sorted(greys)[:MANY_GREYS]))}")


def greys_of(mask: np.ndarray) -> list[int]:
    """The grey values that occur in a mask (H, W) uint8, ascending."""
    return np.flatnonzero(np.bincount(mask.ravel(), minlength=256)).tolist()


def _misfit(image: Path, mask: Path | None, namesakes: int,
            line_width: float | None) -> tuple[Path | str, str] | None:
    """(path, reason) where an image and its mask cannot be used together."""
    if namesakes > 1:
        return image, "another image has the same name but for its suffix"
    if mask is None:
        return image, f"has no mask masks/{image.stem}.*"
    try:
        if is_drawing(mask):
            drawing = read_drawing(mask, line_width)
            size, mask_size = image_size(image), (drawing.height, drawing.width)
        else:
            size, mask_size = image_size(image), image_size(mask)
    except DataError as error:
        return tuple(str(error).split(": ", 1))
    if size != mask_size:
        return mask, size_fault("the mask", mask_size, "its image", size)
    return None


def read_categories(path: Path, stems: set[str], max_bad_fraction: float) -> dict[str, tuple[str, ...]]:
    """Tags by image stem of a categories.tsv; none where there is no such file.

    Raises DataError where more than `max_bad_fraction` of its lines have no tab, or are about a file whose stem is not in
    `stems`.
    """
    if not path.is_file():
        return {}
    lines = read_utf8(path).splitlines()
    tags, total, bad = {}, 0, BadSamples(max_bad_fraction)
    for number, line in enumerate(lines, start=1):
        name, tab, words = line.partition("\t")
        if not line.strip() or (number == 1 and name == "file"):
            continue
        total += 1
        if not tab:
            bad.add(f"{path}, line {number}", "has no tab; a line is FILE, tab, TAG,TAG")
        elif Path(name).stem not in stems:
            bad.add(f"{path}, line {number}", f"names {name}, which is not in images/")
        else:
            tags[Path(name).stem] = tuple(word.strip() for word in words.split(",") if word.strip())
    bad.settle(total)
    return tags


def _with_category(pages: list[StrokePage], category: str | None, folder: Path) -> list[StrokePage]:
    chosen = [page for page in pages if category is None or category in page.categories]
    if not chosen:
        known = sorted({tag for page in pages for tag in page.categories})
        raise DataError(f"{folder}: no page is tagged {category} in categories.tsv "
                        f"({'tags there: ' + ', '.join(known) if known else 'no tags there'}); take another --category")
    return chosen


def load_truth(path: Path, ink_levels: Sequence[int] = (), line_width: float | None = None) -> np.ndarray:
    """(H, W) bool, True = ink. A mask is of 0 and 255, or of 0 and 1; greys (JPEG masks) are cut in the middle.

    ink_levels: the greys that are ink, in a mask of several classes. line_width: pixels, for lines in JSON that state
    none. Raises DataError where the brightest value is neither 1 nor bright (such a mask would be read as empty), or
    where a mask of classes holds too many greys to be one.
    """
    if is_drawing(path):
        return draw(read_drawing(path, line_width))
    mask = load_mask(path)
    if ink_levels:
        if len(greys := greys_of(mask)) > MANY_GREYS:
            raise DataError(f"{path}: holds {len(greys)} greys, too many for a mask of classes; save it as PNG, "
                            "without smoothing")
        return np.isin(np.arange(256), ink_levels)[mask]
    brightest = int(mask.max(initial=0))
    if 1 < brightest < 128:
        raise DataError(f"{path}: its brightest value is {brightest}; ink must be 255 (or 1), background 0, or be "
                        "named by --ink-levels")
    return mask > (127 if brightest > 1 else 0)


def place(image: np.ndarray, truth: np.ndarray, height: int, width: int, resize: str,
          rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(image (height, width, 3) uint8, mask (height, width) uint8) as the network will see them, never distorted.

    'letterbox' scales the page to fit and pads; the mask is shrunk by areas, so that a stroke thinner than a pixel
    becomes a grey one and not a broken one. 'crop' cuts a piece at native resolution and pads what is missing.
    """
    mask = truth.astype(np.uint8) * 255
    if resize == "letterbox":
        return letterbox(image, height, width)[0], letterbox(mask, height, width)[0]
    top, left = crop_corner(truth, height, width, rng)
    image, mask = (array[top : top + height, left : left + width] for array in (image, mask))
    missing = ((0, height - mask.shape[0]), (0, width - mask.shape[1]))
    return np.pad(image, (*missing, (0, 0))), np.pad(mask, missing)


def paper_piece(image: np.ndarray, truth: np.ndarray, height: int, width: int,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(image (height, width, 3) uint8, mask (height, width) uint8) from anywhere on a page, mirrored where it ends."""
    top, left = rng.integers(0, np.maximum(np.array(truth.shape) - (height, width), 0) + 1)
    pieces = image[top : top + height, left : left + width], truth[top : top + height, left : left + width] * np.uint8(255)
    missing = height - pieces[1].shape[0], width - pieces[1].shape[1]
    return tuple(cv2.copyMakeBorder(piece, 0, missing[0], 0, missing[1], cv2.BORDER_REFLECT) for piece in pieces)


def crop_corner(truth: np.ndarray, height: int, width: int, rng: np.random.Generator) -> tuple[int, int]:
    """(top, left) of a crop: three times in four with an ink pixel somewhere in it, else anywhere on the page."""
    room = np.maximum(np.array(truth.shape) - (height, width), 0)
    ink = np.flatnonzero(truth)
    corner = rng.integers(0, room + 1)
    inside, offset, pick = rng.random() < 0.75, rng.integers(0, (height, width)), rng.random()
    if inside and len(ink):
        pixel = np.array(np.unravel_index(ink[int(pick * len(ink))], truth.shape))
        corner = np.clip(pixel - offset, 0, room)
    return int(corner[0]), int(corner[1])


class StrokeDataset(Dataset):
    """Training samples of one size: image (3, H, W) float32 normalised, mask (1, H, W) float32 in [0, 1], file."""

    def __init__(self, pages: list[StrokePage], height: int, width: int, resize: str, seed: int,
                 augment: StrokeAugmentation | None = None, samples_per_page: int = 1, cache: bool = False,
                 other_paper: float = 0.0):
        """samples_per_page: how often an epoch draws from each page. cache: keep pages in memory once decoded.
        other_paper: share of the samples, cut by `crop`, whose ink comes to lie on a piece of another page; DataError where
        there is no other."""
        self.pages, self.height, self.width, self.resize = pages, height, width, resize
        self.seed, self.augment, self.samples_per_page = seed, augment, samples_per_page
        self.cache: dict[int, tuple[np.ndarray, np.ndarray]] | None = {} if cache else None
        self.other_paper = other_paper
        self.papers = list({page.image: number for number, page in enumerate(pages)}.values())  # oversampled pages once
        if other_paper and len(self.papers) < 2:
            raise DataError(f"{pages[0].image}: is the only page, and --other-paper lays ink on another one's; leave it out")

    def __len__(self) -> int:
        return len(self.pages) * self.samples_per_page

    def _load(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(image (H, W, 3) uint8, truth (H, W) bool) of a page."""
        page = self.pages[number]
        if self.cache is None:
            return load_image(page.image), page.truth()
        if number not in self.cache:
            self.cache[number] = load_image(page.image), page.truth()
        return self.cache[number]

    def __getitem__(self, key: Key | tuple[int, int, int]) -> dict:
        """key: (epoch, index), or (epoch, index, longer side in pixels) as from SizedBatches."""
        epoch, index, *side = key
        height, width = scaled(self.height, self.width, *side)
        number, rng = index % len(self.pages), sample_rng(self.seed, epoch, index)
        page, truth = self._load(number)
        image, mask = place(page, truth, height, width, self.resize, rng)
        if self.other_paper and rng.random() < self.other_paper:
            held = tuple(slice(length) for length in truth.shape)  # the rest of a piece is filled up
            paper, inked = paper_piece(*self._load(self._another(number, rng)), height, width, rng)
            image = ink_on_paper(image[held], mask[held], paper, inked, rng)
        if self.augment is not None:
            image, mask = self.augment(image, mask, rng)
        return {"image": to_tensor(image), "mask": torch.from_numpy(mask).float()[None].div_(255),
                "file": str(self.pages[number].image)}

    def _another(self, number: int, rng: np.random.Generator) -> int:
        """The number of a page that is not `number`, all of them alike."""
        *others, last = self.papers
        drawn = others[int(rng.integers(len(others)))]
        return last if self.pages[drawn].image == self.pages[number].image else drawn


def scaled(height: int, width: int, side: int | None = None) -> tuple[int, int]:
    """height and width with `side` as the longer one, in multiples of 32; as they are without a side."""
    if side is None:
        return height, width
    return tuple(max(round(length * side / max(height, width) / 32), 1) * 32 for length in (height, width))


def oversampled(pages: list[StrokePage], factors: Mapping[str, int]) -> list[StrokePage]:
    """Every page as often as the largest factor among its tags says; once without one.

    Raises DataError where no page has one of the tags.
    """
    if missing := set(factors) - {tag for page in pages for tag in page.categories}:
        raise DataError(f"{pages[0].image.parent.parent}: no page is tagged {', '.join(sorted(missing))} in "
                        "categories.tsv; take another --oversample")
    return [page for page in pages for _ in range(max((factors[tag] for tag in page.categories if tag in factors),
                                                      default=1))]


class StrokePages(Dataset):
    """Whole pages for evaluation: pixels (H, W, 3) uint8, truth (H, W) bool, categories, file."""

    def __init__(self, pages: list[StrokePage]):
        self.pages = pages

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, key: Key) -> dict:
        page = self.pages[key[1]]
        return {"pixels": load_image(page.image), "truth": page.truth(), "categories": page.categories,
                "file": str(page.image)}


def collate_pages(samples: list[dict]) -> dict[str, list]:
    """Lists key by key: pages differ in size."""
    return {key: [sample[key] for sample in samples] for key in samples[0]}
