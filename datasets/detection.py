"""Pages with text polygons for DBNet: `images/` and `labels/*.txt`, or images and JSON, in each split folder.

A label line is ICDAR's: x1,y1,x2,y2,x3,y3,x4,y4,transcription; `###` and `*` mean "do not care". For longer polygons
and the shapes of JSON that are read, see datasets/formats/icdar.py and label_json.py.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from datasets.augment import DetectionAugmentation, WholePage
from datasets.db_targets import make_targets
from datasets.formats.icdar import read_labels
from datasets.formats.label_json import LabelledImage, check_frame, find_label_json, image_folder, match_images
from utils.dataloading import Key, sample_rng
from utils.errors import BadSamples, DataError
from utils.frames import name_fault
from utils.geometry import apply_affine, bounding_boxes, fit_to_side, padded_size
from utils.images import image_size, list_images, load_image, to_tensor

IGNORED_TEXTS = ("###", "*")
MAX_OUTSIDE = 0.01


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
        return [text in IGNORED_TEXTS for text in self.texts]


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


class DetectionDataset(Dataset):
    """Training crops with target maps (augment given), or whole pages for evaluation (augment None).

    A training sample: image (3, H, W) float32 normalised, shrink_map, shrink_mask, thresh_map, thresh_mask (H, W)
    float32, file. An evaluation sample: image, scale (float), page (the Page in the original's pixels), file.
    """

    def __init__(self, pages: list[Page], long_side: int, seed: int,
                 augment: DetectionAugmentation | WholePage | None = None):
        self.pages, self.long_side, self.seed, self.augment = pages, long_side, seed, augment

    def __len__(self) -> int:
        return len(self.pages)

    def __getitem__(self, key: Key) -> dict:
        epoch, index = key
        page = self.pages[index]
        image = load_image(page.path)
        if self.augment is None:
            image, scale = fit_to_side(image, self.long_side)
            return {"image": to_tensor(image), "scale": scale, "page": page, "file": str(page.path)}
        rng = sample_rng(self.seed, epoch, index)
        image, matrix = self.augment(image, page.polygons, self.long_side / max(image.shape[:2]), rng)
        polygons = [apply_affine(matrix, polygon).astype(np.float32) for polygon in page.polygons]
        targets = make_targets(polygons, page.ignored, *image.shape[:2])
        return {"image": to_tensor(image), "file": str(page.path)} | targets


def truth_maps(page: Page, long_side: int) -> tuple[np.ndarray, float]:
    """(shrink map, scale) that a perfect network would give for a whole page, for preflight."""
    scale, height, width = padded_size(page.height, page.width, long_side)
    maps = make_targets([polygon * scale for polygon in page.polygons], page.ignored, height, width)
    return maps["shrink_map"], scale
