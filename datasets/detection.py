"""Pages with text polygons for DBNet: `images/` and `labels/*.txt`, or images and JSON, in each split folder.

A label line is ICDAR's: x1,y1,x2,y2,x3,y3,x4,y4,transcription; `###` and `*` mean "do not care". For longer polygons
and the shapes of JSON that are read, see datasets/formats/icdar.py and label_json.py.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
from torch.utils.data import Dataset

from datasets.augment import DetectionAugmentation, WholePage
from datasets.db_targets import make_targets
from datasets.detection_cache import PageCache
from datasets.formats.icdar import read_labels
from datasets.formats.label_json import LabelledImage, check_frame, find_label_json, image_folder, match_images
from utils.dataloading import Key, sample_rng
from utils.errors import BadSamples, DataError
from utils.frames import name_fault
from utils.geometry import PageSize, apply_affine, bounding_boxes, padded_sides
from utils.images import image_size, list_images, load_image, to_tensor
from utils.target_cache import TargetCache

NAMED = 5  # labels that a warning names
IGNORED_TEXTS = ("###", "*")
MAX_OUTSIDE = 0.01
# Sides of the training crop, as shares of --img-height and --img-width, that --multi-scale draws from.
CROP_SCALES = (0.75, 0.875, 1.0, 1.125, 1.25)


@dataclass
class Page:
    """One image and its truth; polygons are (N, 2) float32, N >= 3, in pixels of the image as load_image gives it."""

    path: Path
    height: int
    width: int
    polygons: list[np.ndarray]
    texts: list[str]

    @property
    def ignored(self) -> list[bool]:
        """What is neither learnt nor asked for: marked so, or no polygon at all."""
        return [do_not_care(text) or degenerate(polygon) for polygon, text in zip(self.polygons, self.texts)]


def do_not_care(text: str) -> bool:
    """Whether a transcription is the mark of text that is not asked for, blanks round it or not; ICDAR-MLT has the name
    of a script before it: Latin,###."""
    return text.strip() in IGNORED_TEXTS or text.rpartition(",")[2].strip() == "###"


def degenerate(polygon: np.ndarray) -> bool:
    """Whether an (N, 2) float32 polygon has no area: less than one square pixel, as one with two distinct points has."""
    return cv2.contourArea(polygon) < 1


def read_split(folder: Path, max_bad_fraction: float, polygon_labels: bool = False) -> list[Page]:
    """All pages of a split folder that holds images/ and labels/ (NAME.txt or gt_NAME.txt), or images and JSON.

    polygon_labels: lines of the text files are polygons of any length without a sign (datasets.formats.icdar).
    Raises DataError where a folder is missing, more than `max_bad_fraction` of the pages cannot be used, or more than
    1 % of all label points lie outside their image (the labels were drawn in another frame).
    """
    files, images, bad = find_label_json(folder), list_images(image_folder(folder)), BadSamples(max_bad_fraction)
    if files and polygon_labels:
        raise DataError(f"{files[0]}: needs no --polygon-labels, which is for text files; leave it out")
    pages, total = match_images(files, images, bad, read_json_page) if files else \
        _read_text_pages(folder / "labels", images, bad, polygon_labels)
    bad.settle(total)
    check_points(pages, folder)
    return pages


def read_json_page(path: Path, label: LabelledImage) -> Page:
    """The page of an image and what a JSON file says of it. Raises ValueError where it cannot be used."""
    height, width = image_size(path)
    check_frame(label, height, width)
    if any(word.points is None for word in label.words):
        raise ValueError("has a text without a box (polygon, points or bbox)")
    return Page(path, height, width, [word.points for word in label.words], [word.text for word in label.words])


def _read_text_pages(labels: Path, images: list[Path], bad: BadSamples, polygon_labels: bool) -> tuple[list[Page], int]:
    """(pages, number of samples looked at) of images whose labels are text files."""
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder; labels are text files of 8 numbers and a transcription a line, or "
                        "a JSON file beside the images")
    pages, used = [], set()
    for image in images:
        label = next((p for p in (labels / f"{image.stem}.txt", labels / f"gt_{image.stem}.txt") if p.is_file()), None)
        if label is None:
            bad.add(image, f"has no label {labels.name}/{image.stem}.txt")
            continue
        used.add(label)
        try:
            polygons, texts = read_labels(label, polygon_labels)
            height, width = image_size(image)
        except ValueError as error:
            bad.add(label, str(error))
        except DataError as error:
            bad.add(*str(error).split(": ", 1))
        else:
            pages.append(Page(image, height, width, polygons, texts))
    orphans = sorted(set(labels.glob("*.txt")) - used)
    for label in orphans:
        bad.add(label, "has no image")
    return pages, len(images) + len(orphans)


def check_points(pages: list[Page], folder: Path) -> None:
    """Clip points to the image; count those that lay outside, and refuse a set with more than 1 % of them."""
    # ICDAR's annotators often drew one pixel over the edge
    counts = [sum(int(((polygon < -2) | (polygon > (page.width + 2, page.height + 2))).any(1).sum())
                  for polygon in page.polygons) for page in pages]
    total, outside = sum(len(polygon) for page in pages for polygon in page.polygons), sum(counts)
    if outside > MAX_OUTSIDE * total:
        worst = pages[int(np.argmax(counts))].path
        fault = name_fault([(page.path, bounding_boxes(page.polygons)) for page, count in zip(pages, counts) if count])
        raise DataError(f"{folder}: {outside} of {total} label points lie outside their image (most in {worst}): "
                        + (f"the labels {fault}" if fault else "were they drawn on resized images, or with x and y or "
                           "the EXIF rotation the other way round?"))
    if outside:
        print(f"{folder}: {outside} of {total} label points lay outside their image and were clipped")
    for page in pages:
        for polygon in page.polygons:
            np.clip(polygon, 0, (page.width, page.height), out=polygon)
    name_degenerate(pages, folder)


def name_degenerate(pages: list[Page], folder: Path) -> None:
    """Say which labels have no area inside their page; they count as "do not care"."""
    found = [f"{page.path.name} number {number} ({text!r})" for page in pages
             for number, (polygon, text) in enumerate(zip(page.polygons, page.texts), start=1)
             if not do_not_care(text) and degenerate(polygon)]
    if found:
        more = f"; and {len(found) - NAMED} more" if len(found) > NAMED else ""
        print(f"warning: {folder}: {len(found)} labels have fewer than 3 distinct points or no area (under 1 square pixel) "
              f"and are ignored: {'; '.join(found[:NAMED])}{more}", file=sys.stderr)


class DetectionDataset(Dataset):
    """Training crops with target maps (augment given), or whole pages for evaluation (augment None).

    A training sample: image (3, H, W) float32 normalised, shrink_map, shrink_mask, thresh_map, thresh_mask (H, W)
    float32, file. An evaluation sample: image, scale (float), page (the Page in the original's pixels), file.

    size: how large pages are read in evaluation; crops are scaled round it. Keys are (epoch, index), or those of
    SizedBatches, (epoch, index, height, width), for a crop of that size.
    """

    def __init__(self, pages: list[Page], size: PageSize, seed: int,
                 augment: DetectionAugmentation | WholePage | None = None, fixed: bool = False):
        """fixed: samples are those of epoch 0 in every epoch, so that a cache can hold their targets too."""
        self.pages, self.size, self.seed, self.augment, self.fixed = pages, size, seed, augment, fixed
        self.cache: PageCache | None = None

    def use_cache(self, targets: TargetCache) -> None:
        """Before the loader's workers start."""
        self.cache = PageCache(targets)

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, key: Key) -> dict:
        page = self.pages[key[1]]
        if self.augment is None:
            found = (self.cache.get(page, ("page", self.size), lambda: self._whole_page(page)) if self.cache else
                     self._whole_page(page))
            return {"image": to_tensor(found["image"]), "scale": float(found["scale"][0]), "page": page,
                    "file": str(page.path)}
        key = (0, *key[1:]) if self.fixed else key
        if self.cache and self.fixed:
            sample = self.cache.sample(page, ("sample", self.augment, self.size, self.seed, key),
                                       lambda: self._sample(page, key))
        else:
            sample = self._sample(page, key)
        return sample | {"image": to_tensor(sample["image"]), "file": str(page.path)}

    def _whole_page(self, page: Page) -> dict[str, np.ndarray]:
        image, scale = self.size.fit(load_image(page.path))
        return {"image": image, "scale": np.array([scale], np.float64)}

    def _sample(self, page: Page, key: Key) -> dict[str, np.ndarray]:
        """image (H, W, 3) uint8 and its four maps."""
        epoch, index, *crop = key
        rng = sample_rng(self.seed, epoch, index)
        image = self._decoded(page)
        augment = replace(self.augment, height=crop[0], width=crop[1]) if crop else self.augment
        ignored = page.ignored
        anchors = [polygon for polygon, skip in zip(page.polygons, ignored) if not skip] or page.polygons
        image, matrix = augment(image, anchors, self.size.scale(*image.shape[:2]), rng)
        polygons = [apply_affine(matrix, polygon).astype(np.float32) for polygon in page.polygons]
        return {"image": image} | make_targets(polygons, ignored, *image.shape[:2])

    def _decoded(self, page: Page) -> np.ndarray:
        if not self.cache or self.fixed:  # a cache of whole samples has no use for pages
            return load_image(page.path)
        return self.cache.get(page, ("decoded",), lambda: {"image": load_image(page.path)})["image"]


def crop_sizes(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width), multiples of 32, nearest to the crop's times each of CROP_SCALES. The scale of the text does not
    follow: a larger crop shows more."""
    return [tuple(max(round(side * factor / 32), 1) * 32 for side in (height, width)) for factor in CROP_SCALES]


def truth_maps(page: Page, size: PageSize) -> tuple[np.ndarray, float]:
    """(shrink map, scale) that a perfect network would give for a whole page, for preflight."""
    scale = size.scale(page.height, page.width)
    height, width = padded_sides(page.height, page.width, scale)
    maps = make_targets([polygon * scale for polygon in page.polygons], page.ignored, height, width)
    return maps["shrink_map"], scale
