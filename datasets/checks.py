"""What utils.preflight asks about the items of each task: where labels are, which are lost, how large letters are."""

import unicodedata
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path
from typing import Callable, Iterable, Mapping, Sequence

import cv2
import numpy as np
import shapely

from datasets.crop_table import CropTable
from datasets.db_targets import MIN_TEXT_SIDE, shorter_side, text_kernels
from datasets.detection import Page, degenerate, do_not_care
from datasets.formats.icdar import count_numbers
from datasets.recognition import BEYOND_CTC, Crop, LabelTable
from datasets.segmentation import StrokePage
from datasets.yolo import MarkSample
from utils.charset import name_character
from utils.errors import DataError
from utils.frames import check_boxes, check_masks, spread
from utils.geometry import PageSize, bounding_boxes
from utils.images import image_size
from utils.preflight import LEAST_STROKE, MAX_ITEMS, check_letters, run_checks

LEAST_LETTER_WIDTH = 5  # pixels: letters are about half as wide as high
MASKS = 24  # whole pages are slow to look at
MANY_PAGES = 1000  # whose headers are read
MOST_READ = 500  # packed images that seem to be in two splits


# detection ------------------------------------------------------------------------------------------------------------


def check_detection(splits: Mapping[str, Sequence[Page]], truth: Callable[[Sequence[Page]], float],
                    size: PageSize) -> str:
    """All checks of utils.preflight.run_checks; truth(pages) is the hmean of the truth itself."""
    def place(name: str, pages: Sequence[Page]) -> list[str]:
        if name == "train" and not wanted_labels(pages):
            total = sum(len(page.polygons) for page in pages)
            why = f"of {total} labels none counts, since all are marked as 'do not care'" if total else "there is no label"
            raise DataError(f"preflight: train holds nothing to learn: {why}; --no-preflight goes on all the same")
        check_kernels(name, spread(pages, MAX_ITEMS), size)
        nothing = [] if name != "val" or wanted_labels(pages) else [
            "warning: val: no label counts, so that every score will be 0, and best.pt is that of the first epoch"]
        return nothing + place_pages(name, pages)

    causes = [cause for pages in splits.values() if (cause := misread(wanted_labels(spread(pages, MAX_ITEMS))))]
    return run_checks(
        splits, files=lambda pages: [page.path for page in pages], place=place, truth=truth,
        way_out=[*causes, f"are the labels in the frame of the images, and is {size.flag} large enough for the text?"][0],
        lost=lambda _, pages: lost_in_pages(pages, size),
        notes=lambda pages: [*sizes_of_pages(spread(pages, MAX_ITEMS), size),
                             *name_decomposed((page.path, text) for page in pages for text in page.texts)])


def wanted_labels(pages: Sequence[Page]) -> list[tuple[Page, np.ndarray, str]]:
    """(page, polygon (N, 2), transcription) of all that is not marked as "do not care"."""
    return [(page, polygon, text) for page in pages for polygon, text in zip(page.polygons, page.texts)
            if not do_not_care(text)]


def check_kernels(name: str, pages: Sequence[Page], size: PageSize) -> None:
    """Raises DataError where of the labels that should count fewer than half have an area, or none leaves anything to
    learn at `size`, or fewer than half do and it can be said why. The truth itself could then still score 1."""
    labels = wanted_labels(pages)
    areas = sum(not degenerate(polygon) for _, polygon, _ in labels)
    kernels = sum(bool(text_kernels(polygon * size.scale(page.height, page.width))) for page, polygon, _ in labels)
    cause, half = misread(labels), len(labels) / 2
    if areas < half:
        fault = f"{areas} of {len(labels)} labels of {name} have an area: {cause or 'are their points in pixels?'}"
    elif labels and (kernels < half if cause else not kernels):
        fault = (f"{kernels} of {len(labels)} labels of {name} are large enough to be learnt at {size.flag} {size.side}: "
                 f"{cause or 'raise it'}")
    else:
        return
    raise DataError(f"preflight: only {fault}; --no-preflight goes on all the same")


def misread(labels: Sequence[tuple[Page, np.ndarray, str]]) -> str:
    """Why most of the labels are no quads round text, or "" where nothing speaks for that."""
    quads = [(quad, text) for _, quad, text in labels if len(quad) == 4]
    if sum(count_numbers(text.split(",", 2)[:2]) == 2 for _, text in quads) > len(labels) / 2:
        return "most lines begin with ten numbers or more: if those are polygons, say so by --polygon-labels"
    corners = np.array([quad for quad, _ in quads]).reshape(-1, 4, 2)
    top, right, bottom, left = (shapely.linestrings(corners[:, pair]) for pair in ((0, 1), (1, 2), (2, 3), (3, 0)))
    if (shapely.crosses(top, bottom) | shapely.crosses(right, left)).sum() > len(labels) / 2:
        return "most quads cross themselves: their corners are not in order, one after the other round the text"
    return ""


def place_pages(name: str, pages: Sequence[Page]) -> list[str]:
    return check_boxes(name, [(page.path, page.height, page.width, bounding_boxes(
        [p for p, skip in zip(page.polygons, page.ignored) if not skip])) for page in pages])


def lost_in_pages(pages: Sequence[Page], size: PageSize) -> Counter:
    """Text that is not learnt and not asked for, by reason, and pages that hold none."""
    lost = Counter()
    for page in pages:
        scale = size.scale(page.height, page.width)
        for polygon, skip in zip(page.polygons, page.ignored):
            if degenerate(polygon):
                lost["degenerate polygons (no area)"] += 1
            elif skip:
                lost["marked as 'do not care'"] += 1
            elif shorter_side(polygon) * scale < MIN_TEXT_SIDE:
                lost[f"too small (under {MIN_TEXT_SIDE:g} px at {size.flag} {size.side})"] += 1
        lost["pages without any text"] += not page.polygons
    return lost


def sizes_of_pages(pages: Sequence[Page], size: PageSize) -> list[str]:
    heights = [shorter_side(polygon) * size.scale(page.height, page.width) for page in pages
               for polygon, skip in zip(page.polygons, page.ignored) if not skip]
    return [check_letters("small letters are {} px high", np.array(heights), {size.flag: size.side})]


# recognition ----------------------------------------------------------------------------------------------------------


def check_recognition(tables: Mapping[str, LabelTable], truth: Callable[[Sequence[Crop]], float], height: int,
                      max_width: int) -> str:
    """All checks of utils.preflight.run_checks; truth(crops) is the share of labels that survive the tokenizer and
    whose crops are wide enough for them. tables: by split."""
    kept = {split: table.kept for split, table in tables.items()}
    return run_checks(
        kept, files=CropTable.files, place=place_crops, truth=truth,
        way_out="do the labels belong to these images? some crops are too narrow for their text",
        lost=lambda split, _: lost_in_labels(tables[split]),
        notes=lambda crops: [*check_shared_images(kept), *sizes_of_crops(crops, height, max_width),
                             *name_decomposed((crop.name, crop.label) for crop in crops.relabelled())])


def check_shared_images(splits: Mapping[str, CropTable]) -> list[str]:
    """A line about packed images, LMDB's and tar's, if two splits hold any; utils.shared_files knows whole files alone.
    Raises DataError, naming pairs, where two splits share one.

    All are compared by size in pixels and CRC-32, which the index holds; of those alike, the bytes of MOST_READ pairs.
    """
    packed = {split: crops.where(crops.packed) for split, crops in splits.items()}
    packed = {split: crops for split, crops in packed.items() if len(crops)}
    if len(packed) < 2:
        return []
    shared = [pair for (name, crops), (other, others) in combinations(packed.items(), 2)
              for pair in _same_images(other, others, name, crops)]
    if shared:
        raise DataError(f"preflight: splits share {len(shared)} packed images{' or more' * (len(shared) >= MOST_READ)}, so "
                        f"that scores on them mean nothing: {'; '.join(shared[:3])}{'; ...' if len(shared) > 3 else ''}; "
                        "take them out of one split; --no-preflight goes on all the same")
    counts = ", ".join(f"{split} {len(crops)}" for split, crops in packed.items())
    return [f"no packed image in two splits ({counts}; all compared by their CRC-32)"]


def _same_images(name: str, crops: CropTable, other: str, others: CropTable) -> list[str]:
    """A line for each image of `crops` that is one of `others` too, of the first MOST_READ that seem to be."""
    mine, theirs = (table.heights.astype(np.uint64) << 48 ^ table.widths.astype(np.uint64) << 32 ^ table.checksums
                    for table in (crops, others))
    _, places, other_places = np.intersect1d(mine, theirs, return_indices=True)
    pairs = [(crops[place], others[other_place]) for place, other_place in
             zip(places[:MOST_READ].tolist(), other_places[:MOST_READ].tolist())]
    return [f"{crop.name} ({name}) has the content of {twin.name} ({other})" for crop, twin in pairs
            if crop.packed.read() == twin.packed.read()]


def place_crops(name: str, crops: CropTable) -> list[str]:
    """Only crops of pages have a place; a crop that is a whole image is everywhere."""
    crops, quads = crops.where(crops.on_pages), defaultdict(list)
    looked_at = spread(np.unique(crops.file_numbers), MANY_PAGES)
    for crop in crops.where(np.isin(crops.file_numbers, looked_at)):
        quads[crop.path].append(np.reshape(crop.quad, (4, 2)))
    return check_boxes(name, [(path, *image_size(path), bounding_boxes(found)) for path, found in quads.items()]
                       ) if quads else []


def lost_in_labels(table: LabelTable) -> Counter:
    """Labels that cannot be learnt, by reason; unknown characters by name."""
    lost = Counter({"empty labels": table.empty, "too long": table.too_long,
                    "degenerate places (no area)": table.degenerate, "with unknown characters": table.with_unknown,
                    BEYOND_CTC + ("" if table.ctc_alone else " (to CTC alone)"): table.beyond_ctc})
    return lost + Counter({f"unknown character {name_character(c)}": n for c, n in table.unknown.most_common(8)})


def sizes_of_crops(crops: Sequence[Crop], height: int, max_width: int) -> list[str]:
    """Letters are no higher than in the picture, whatever it is enlarged to, and narrower where a line is squashed."""
    if not crops:
        return []
    table = CropTable.of(crops)
    native = np.where(table.turned, table.widths, table.heights)
    widths = table.widths_at(height, max_width) / np.maximum(table.lengths, 1)
    reachable = {"--img-height": height} if np.percentile(native, 10) > height else {}
    return [check_letters("small letters are {} px high", np.minimum(native, height), reachable),
            check_letters("narrow letters are {} px wide", widths, {"--img-width": max_width}, 64, LEAST_LETTER_WIDTH)]


def name_decomposed(labels: Iterable[tuple[Path | str, str]]) -> list[str]:
    """A line where labels are not in NFC: (where, text) pairs as they were read. macOS takes file names, and Korean
    syllables in them, apart like that."""
    found = [(where, text) for where, text in labels if not unicodedata.is_normalized("NFC", text)]
    if not found:
        return []
    where, text = found[0]
    return [f"warning: {len(found)} labels are not NFC: their characters are taken apart (NFD), first {text!r} in "
            f"{where}; they are put together before they are learnt"]


# segmentation ---------------------------------------------------------------------------------------------------------


def check_segmentation(splits: Mapping[str, Sequence[StrokePage]], truth: Callable[[Sequence[StrokePage]], float],
                       height: int, width: int, resize: str) -> str:
    """All checks of utils.preflight.run_checks; truth(pages) is the mean F1 of the truth itself."""
    return run_checks(
        splits, files=lambda pages: [page.image for page in pages], place=place_masks, truth=truth, most=MASKS,
        way_out="strokes are too thin at this size: raise --img-height and --img-width, or take --resize crop",
        lost=lambda _, pages: lost_in_masks(spread(pages, MASKS)),
        notes=lambda pages: sizes_of_strokes(spread(pages, MASKS), height, width, resize))


def place_masks(name: str, pages: Sequence[StrokePage]) -> list[str]:
    return check_masks(name, spread(pages, MASKS), lambda page: page.image, lambda page: page.truth())


def lost_in_masks(pages: Sequence[StrokePage]) -> Counter:
    return Counter({f"empty masks (of at most {MASKS} looked at)": sum(not page.truth().any() for page in pages)})


def sizes_of_strokes(pages: Sequence[StrokePage], height: int, width: int, resize: str) -> list[str]:
    """Strokes and letters in pixels as the network sees them."""
    widths, heights = [], []
    for page in pages:
        mask = page.truth()
        scale = min(height / mask.shape[0], width / mask.shape[1]) if resize == "letterbox" else 1.0
        for found, values in zip((widths, heights), measure_strokes(mask)):
            found.append(values * scale)
    flags = {"--img-height": height, "--img-width": width} if resize == "letterbox" else {}
    return [check_letters("thin strokes are {} px wide", np.concatenate(widths), flags, least=LEAST_STROKE),
            check_letters("small letters are {} px high", np.concatenate(heights), flags)]


def measure_strokes(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(stroke width of each connected piece of ink, height of each piece that may be a letter) in pixels.

    mask: (H, W) bool. A bar w wide has the mean distance (w + 2) / 4 to its outside, exactly so for even w. Letters are
    pieces between 3 and 30 strokes high and not over 4 times as wide: neither dots nor lines.
    """
    ink = mask.astype(np.uint8)
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    area = stats[1:, cv2.CC_STAT_AREA]
    # Padded, so that the border of the picture counts as paper.
    distance = cv2.distanceTransform(np.pad(ink, 1), cv2.DIST_L2, 5)[1:-1, 1:-1]
    total = np.bincount(pieces.ravel(), distance.ravel(), count)[1:]
    widths = np.maximum(4 * total / np.maximum(area, 1) - 2, 1)
    high, wide = stats[1:, cv2.CC_STAT_HEIGHT], stats[1:, cv2.CC_STAT_WIDTH]
    real = area >= 10  # specks are no strokes
    letters = real & (high >= 3 * widths) & (high <= 30 * widths) & (wide <= 4 * high)
    return widths[real], high[letters].astype(float)


# marks ----------------------------------------------------------------------------------------------------------------


def check_marks(splits: Mapping[str, Sequence[MarkSample]], truth: Callable[[Sequence[MarkSample]], float]) -> str:
    """All checks of utils.preflight.run_checks; truth(samples) is the mAP50 of the truth itself."""
    return run_checks(
        splits, files=lambda samples: [sample.file for sample in samples], truth=truth,
        way_out="do images and labels agree in orientation?",
        place=lambda name, samples: check_boxes(name, [(s.file, s.height, s.width, s.corners()) for s in samples]),
        lost=lambda *_: Counter(),  # the index has named what it left out
        notes=lambda _: [])
