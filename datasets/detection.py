"""Pages with text polygons for DBNet: `images/` and `labels/*.txt` in each split folder.

A label line is ICDAR's: x1,y1,x2,y2,x3,y3,x4,y4,transcription; `###` and `*` mean "do not care".
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset

from datasets.augment import DetectionAugmentation
from datasets.db_targets import make_targets
from utils.dataloading import Key, sample_rng
from utils.errors import BadSamples, DataError
from utils.geometry import apply_affine, fit_to_side, padded_size
from utils.images import image_size, list_images, load_image, to_tensor

IGNORED_TEXTS = ("###", "*")
MAX_OUTSIDE = 0.01


@dataclass
class Page:
    """One image and its truth; polygons are (4, 2) float32 in pixels of the image as load_image gives it."""

    path: Path
    height: int
    width: int
    polygons: list[np.ndarray]
    texts: list[str]

    @property
    def ignored(self) -> list[bool]:
        return [text in IGNORED_TEXTS for text in self.texts]


def parse_icdar_line(line: str) -> tuple[np.ndarray, str]:
    """(points (4, 2) float32, transcription, which may hold commas). Raises ValueError where the line is no label."""
    fields = line.split(",")
    if len(fields) < 8:
        raise ValueError(f"{len(fields)} fields, where 8 numbers and a transcription are expected")
    try:
        points = [float(field) for field in fields[:8]]
    except ValueError:
        raise ValueError("one of its first 8 fields is not a number") from None
    if not np.isfinite(points).all():
        raise ValueError("one of its numbers is not finite")
    return np.array(points, np.float32).reshape(4, 2), ",".join(fields[8:])


def read_icdar_labels(path: Path) -> tuple[list[np.ndarray], list[str]]:
    """(polygons, transcriptions) of one label file, a byte order mark and empty lines allowed; ValueError otherwise."""
    polygons, texts = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                points, text = parse_icdar_line(line)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            polygons.append(points)
            texts.append(text)
    return polygons, texts


def read_split(folder: Path, max_bad_fraction: float) -> list[Page]:
    """All pages of a split folder that holds images/ and labels/ (NAME.txt or gt_NAME.txt).

    Raises DataError where a folder is missing, more than `max_bad_fraction` of the pages cannot be used, or more than
    1 % of all label points lie outside their image (the labels were drawn in another frame).
    """
    images, labels = list_images(folder / "images"), folder / "labels"
    if not labels.is_dir():
        raise DataError(f"{labels}: no such folder; labels are text files of 8 numbers and a transcription a line")
    bad, pages, used = BadSamples(max_bad_fraction), [], set()
    for image in images:
        label = next((p for p in (labels / f"{image.stem}.txt", labels / f"gt_{image.stem}.txt") if p.is_file()), None)
        if label is None:
            bad.add(image, f"has no label {labels.name}/{image.stem}.txt")
            continue
        used.add(label)
        try:
            polygons, texts = read_icdar_labels(label)
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
    bad.settle(len(images) + len(orphans))
    _check_points(pages, folder)
    return pages


def _check_points(pages: list[Page], folder: Path) -> None:
    """Clip points to the image; count those that lay outside, and refuse a set with more than 1 % of them."""
    total, outside, worst = 0, 0, ("", 0)
    for page in pages:
        for polygon in page.polygons:
            low, high = polygon.min(initial=0), polygon - (page.width, page.height)
            # ICDAR's annotators often drew one pixel over the edge
            count = int(((polygon < -2) | (high > 2)).any(1).sum()) if len(polygon) else 0
            total, outside = total + len(polygon), outside + count
            worst = max(worst, (str(page.path), count), key=lambda pair: pair[1])
            if low < 0 or high.max(initial=0) > 0:
                np.clip(polygon, 0, (page.width, page.height), out=polygon)
    if outside > MAX_OUTSIDE * total:
        raise DataError(f"{folder}: {outside} of {total} label points lie outside their image (most in {worst[0]}): were "
                        "they drawn on resized images, or with x and y or the EXIF rotation the other way round?")
    if outside:
        print(f"{folder}: {outside} of {total} label points lay outside their image and were clipped")


class DetectionDataset(Dataset):
    """Training crops with target maps (augment given), or whole pages for evaluation (augment None).

    A training sample: image (3, H, W) float32 normalised, shrink_map, shrink_mask, thresh_map, thresh_mask (H, W)
    float32, file. An evaluation sample: image, scale (float), page (the Page in the original's pixels), file.
    """

    def __init__(self, pages: list[Page], long_side: int, seed: int, augment: DetectionAugmentation | None = None):
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
