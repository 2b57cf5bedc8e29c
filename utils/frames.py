"""Do labels lie where the ink is? Finds labels drawn in another frame than their image, and says in which.

A box that is drawn round something has more edges inside than in a thin ring round it. Where labels are turned,
mirrored or scaled, that difference vanishes, and comes back once the fault is undone: so each fault has its own name.
For masks the correlation of ink and local darkness does the same.
"""

from pathlib import Path
from typing import Callable, Iterable, Sequence

import cv2
import numpy as np

from utils.errors import DataError
from utils.images import exif_orientation, load_image

LONGEST_SIDE = 1600  # pixels of the picture that is looked at
# As much is looked at in a split as gives a clear answer: so many boxes, on not too few and not too many images.
ENOUGH_BOXES, MAX_BOXES_OF_A_PAGE, LEAST_PAGES, MOST_PAGES = 500, 50, 12, 60
# What labels look like when they are off by one of EXIF's eight orientations, which are all turns there are.
TURNS = {2: "mirrored left to right", 3: "turned by 180 degrees", 4: "mirrored top to bottom (y counted from below?)",
         5: "with x and y swapped", 6: "turned by 90 degrees", 7: "turned by 90 degrees and mirrored",
         8: "turned by 270 degrees"}
FACTORS = np.exp(np.arange(np.log(0.2), np.log(5), 0.005))
SIDES = np.exp(np.arange(np.log(200), np.log(8000), 0.005))  # pixels
NO_CHANGE = 0.02  # a scale as close to 1 as this is none
FITS = 0.05  # least score of labels that have to do with their images


class BoxFrame:
    """Adds up, page by page, how well boxes lie on their images as they are and with each fault undone.

    scales: look for labels of resized images too, and for corners where centres are expected.
    """

    def __init__(self, scales: bool = True):
        self.scales, self.pages, self.boxes, self.rotated = scales, 0, 0, False
        self.totals: dict[str, np.ndarray | float] = {}

    def add(self, image: np.ndarray, boxes: np.ndarray, orientation: int = 1) -> None:
        """image (H, W, 3) uint8 RGB; boxes (N, 4) x1 y1 x2 y2 in its pixels; orientation: the EXIF tag of its file."""
        height, width = image.shape[:2]
        edges, scale = edge_table(image)
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
        now = self._score("now", edges, scale, boxes)
        for turn in TURNS:
            self._score(turn, edges, scale, turn_boxes(boxes, height, width, turn))
        self._score("stored", edges, scale, turn_boxes(boxes, height, width, orientation))
        if self.scales:
            self._score("corner", edges, scale, boxes + np.tile((boxes[:, 2:] - boxes[:, :2]) / 2, 2))
            for way, factors in scalings(height, width).items():
                changes = np.abs(np.log(factors)).max(1) > NO_CHANGE
                scaled = boxes * np.tile(factors, 2)[:, None]
                self._score(way, edges, scale, scaled, np.where(changes, np.nan, now))
        self.pages, self.boxes, self.rotated = self.pages + 1, self.boxes + len(boxes), self.rotated or orientation > 1

    def _score(self, way, edges, scale, boxes, instead=np.nan):
        """Add the sum over boxes (..., N, 4) to what is known of `way`; `instead` stands where it is a number."""
        total = np.where(np.isnan(instead), tightness(edges, boxes * scale).sum(-1), instead)
        self.totals[way] = self.totals.get(way, 0.0) + total
        return total

    def verdict(self) -> tuple[float, str, float]:
        """(mean score of the labels as they are, what is wrong with them or "", mean score once that is undone).

        A fault is named where undoing it raises the score by more than chance does. Needs one box at least.
        """
        means = {way: total / self.boxes for way, total in self.totals.items()}
        now = float(means["now"])
        # Of those that fit equally well the first is named; they go from the simple to the particular.
        order = [*(["stored"] if self.rotated else []), 5, 3, 6, 8, 2, 4, 7]
        order += ["corner", *WORDS] if self.scales else []
        best = max(float(means[way].max()) for way in order)
        way = next(way for way in order if means[way].max() > best - 0.01)
        score = float(means[way].max())
        chance = 0.05 + 0.9 / np.sqrt(self.boxes)  # boxes round nothing scatter by about 0.3
        return (now, _words(way, means[way]), score) if score > max(now, 0) + chance else (now, "", now)


WORDS = {"factor": "by {:.2f}", "side": "from a longer side of {:.0f} pixels",
         "square": "from {0:.0f} x {0:.0f} pixels, to which the images were squashed"}


def scalings(height: int, width: int) -> dict[str, np.ndarray]:
    """(K, 2) factors of x and y that undo a resizing of the images: by one factor, to one longer side, to a square."""
    return {"factor": np.stack([FACTORS, FACTORS], 1), "side": np.stack([max(height, width) / SIDES] * 2, 1),
            "square": np.stack([width / SIDES, height / SIDES], 1)}


def _words(way: int | str, means: np.ndarray) -> str:
    if way in TURNS:
        return f"are {TURNS[way]}"
    if way in WORDS:
        value = (FACTORS if way == "factor" else SIDES)[np.argmax(means)]
        return f"belong to resized images (they fit when scaled {WORDS[way].format(value)})"
    return {"stored": "are in the frame of the files without their EXIF rotation, which is applied on one side only",
            "corner": "give a box's corner where its centre is expected"}[way]


def edge_table(image: np.ndarray) -> tuple[np.ndarray, float]:
    """((h + 1, w + 1) summed-area table of edge strength, 0 to 1 a pixel, scale of what was looked at)."""
    grey, scale = _shrink(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))
    edges = np.abs(cv2.Sobel(grey, cv2.CV_32F, 1, 0)) + np.abs(cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    strong = max(float(np.percentile(edges[::4, ::4], 95)), 1.0)  # above it all edges count alike
    return cv2.integral(np.minimum(edges / strong, 1)), scale


def tightness(edges: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """(...,) scores in [-1, 1] of (..., 4) boxes x1 y1 x2 y2 in pixels of `edges`: edges inside against edges in a ring
    round them; about 0 for boxes that were drawn round nothing, 0 outside the image."""
    side = np.minimum(boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1])
    margin = np.clip(0.2 * side, 2, 12)[..., None] * (-1, -1, 1, 1)
    (inside, area), (around, all_area) = _sums(edges, boxes), _sums(edges, boxes + margin)
    usable = (area > 0) & (all_area > area)
    inner = inside / np.maximum(area, 1)
    outer = (around - inside) / np.maximum(all_area - area, 1)
    return np.where(usable, (inner - outer) / (inner + outer + 0.02), 0.0)


def _sums(table: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(sums, areas in pixels) of the boxes, cut off at the border."""
    limits = np.array(table.shape[::-1] * 2) - 1
    x1, y1, x2, y2 = np.moveaxis(np.clip(np.round(boxes), 0, limits).astype(np.int64), -1, 0)
    return table[y2, x2] - table[y1, x2] - table[y2, x1] + table[y1, x1], (x2 - x1) * (y2 - y1)


def turn_boxes(boxes: np.ndarray, height: int, width: int, orientation: int) -> np.ndarray:
    """(..., 4) boxes x1 y1 x2 y2 in the frame of a stored picture -> where they are once the EXIF orientation has been
    applied, which makes the picture height x width."""
    x1, y1, x2, y2 = np.moveaxis(boxes, -1, 0)
    if orientation >= 5:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if orientation in (2, 3, 6, 7):
        x1, x2 = width - x2, width - x1
    if orientation in (3, 4, 7, 8):
        y1, y2 = height - y2, height - y1
    return np.stack([x1, y1, x2, y2], -1)


def name_fault(pages: Sequence[tuple[Path, np.ndarray]]) -> str:
    """What is wrong with labels of which it is known that something is, or "" where the images do not tell.

    pages: path, boxes (N, 4) x1 y1 x2 y2 in pixels.
    """
    frame = BoxFrame()
    for path, boxes in choose([page for page in pages if len(page[1])]):
        try:
            frame.add(load_image(path), spread(boxes, MAX_BOXES_OF_A_PAGE), exif_orientation(path))
        except DataError:  # an image that cannot be read is another matter
            continue
    return frame.verdict()[1] if frame.boxes else ""


def choose(pages: Sequence[tuple]) -> list[tuple]:
    """As many of the pages, each ending with its boxes, as hold enough boxes for a verdict."""
    typical = np.mean([min(len(page[-1]), MAX_BOXES_OF_A_PAGE) for page in pages]) if pages else 1
    return spread(pages, int(np.clip(ENOUGH_BOXES / typical, LEAST_PAGES, MOST_PAGES)))


def check_boxes(name: str, pages: Iterable[tuple[Path, int, int, np.ndarray]]) -> list[str]:
    """Lines for the console: how well the boxes of a split lie on its images.

    pages: path, height and width that the labels count on, boxes (N, 4) x1 y1 x2 y2 in pixels. Some are looked at, and
    some of those whose file has an EXIF rotation. Raises DataError where an image has another size than expected, or
    the labels fit better when turned, mirrored, swapped or scaled.
    """
    pages = [page for page in pages if len(page[3])]
    rotated = [page for page in spread(pages, 1000) if exif_orientation(page[0]) != 1]
    known, lines = {page[0] for page in rotated}, []
    for kind, group in (("", [page for page in pages if page[0] not in known]), (" with an EXIF rotation", rotated)):
        if group:
            lines += _check_group(name + kind, choose(group))
    return lines or [f"{name}: no boxes to look at"]


def _check_group(name: str, pages: list) -> list[str]:
    frame, odd = BoxFrame(), []
    for path, height, width, boxes in pages:
        image, orientation = load_image(path), exif_orientation(path)
        if image.shape[:2] != (height, width):
            fault = size_fault("the image", image.shape, "its labels", (height, width))
            raise DataError(f"preflight: {path}: {fault}")
        boxes = np.asarray(spread(boxes, MAX_BOXES_OF_A_PAGE))
        frame.add(image, boxes, orientation)
        if len(boxes) >= 10 and len(pages) > 1:
            alone = BoxFrame(scales=False)
            alone.add(image, boxes, orientation)
            odd += [f"{path} ({words})" for words in [alone.verdict()[1]] if words]
    now, words, mended = frame.verdict()
    if words:
        raise DataError(f"preflight: the labels of {name} do not lie on their images: they {words}; in {frame.boxes} "
                        f"boxes of {frame.pages} images there is {now:+.2f} more edge than round them, and "
                        f"{mended:+.2f} with that undone (first {pages[0][0]}); --no-preflight goes on all the same")
    line = f"{name}: {now:+.2f} more edge in boxes than round them, on {frame.pages} images"
    if now < FITS and frame.boxes >= 30:
        line = f"warning: {line}: do the labels belong to these images?"
    return [line] + ([f"warning: {name}: the labels of {len(odd)} of {frame.pages} images seem wrong: "
                      f"{'; '.join(odd[:3])}"] if odd else [])


def check_masks(name: str, pages: Sequence, image: Callable, truth: Callable) -> list[str]:
    """Lines for the console: how well the masks of a split lie on its images, all of them.

    image(page) is a path, truth(page) an (H, W) bool mask. Raises DataError where a mask is inverted (more than half of
    the picture is ink), has another size, or fits better when turned or mirrored.
    """
    scores = []
    for page in pages:
        mask, grey = truth(page), cv2.cvtColor(load_image(image(page)), cv2.COLOR_RGB2GRAY)
        if mask.shape != grey.shape:
            raise DataError(f"preflight: {image(page)}: " + size_fault("its mask", mask.shape, "the image", grey.shape))
        if mask.mean() > 0.5:
            raise DataError(f"preflight: the mask of {image(page)} is {mask.mean():.0%} ink; ink must be 255, not 0: "
                            "invert the masks; --no-preflight goes on all the same")
        if not mask.any():
            continue
        fits = mask_fits(grey, mask)
        turn = max(fits, key=fits.get)
        if fits[turn] > fits[1] + 0.2:
            raise DataError(f"preflight: the mask of {image(page)} does not lie on its image: it is {TURNS[turn]} (it "
                            f"correlates with darkness by {fits[1]:.2f}, and by {fits[turn]:.2f} with that undone): is "
                            "the EXIF rotation applied on one side only? --no-preflight goes on all the same")
        scores.append(fits[1])
    if not scores:
        return [f"{name}: no ink to look at"]
    line = f"{name}: masks and darkness correlate by {np.mean(scores):.2f} on {len(scores)} images"
    return [f"warning: {line}: do the masks belong to these images?" if np.mean(scores) < FITS else line]


def mask_fits(grey: np.ndarray, mask: np.ndarray) -> dict[int, float]:
    """Absolute correlation of a mask (H, W) bool with the local darkness of grey (H, W) uint8, for each orientation
    (see TURNS; 1: as it is) that keeps the size."""
    grey, scale = _shrink(grey)
    mask = mask.astype(np.float32)
    if scale < 1:
        mask = cv2.resize(mask, grey.shape[::-1], interpolation=cv2.INTER_AREA)
    darkness = cv2.GaussianBlur(grey, (0, 0), max(grey.shape) / 100).astype(np.float32) - grey
    ways = {1: mask, 2: mask[:, ::-1], 3: mask[::-1, ::-1], 4: mask[::-1]}
    if mask.shape[0] == mask.shape[1]:
        ways |= {5: mask.T, 6: np.rot90(mask, -1), 7: np.rot90(mask, 2).T, 8: np.rot90(mask)}
    centred = darkness - darkness.mean()
    size = float(np.linalg.norm(centred) * np.linalg.norm(mask - mask.mean()))
    return {turn: abs(float((centred * turned).sum())) / max(size, 1e-9) for turn, turned in ways.items()}


def size_fault(one: str, size: Sequence[int], other: str, expected: Sequence[int]) -> str:
    """Why two things of (height, width) do not go together, in words."""
    (h, w), (height, width) = size[:2], expected
    words = f"{one} is {w} x {h} pixels, {other} {width} x {height}"
    if (h, w) == (width, height):
        return f"{words}: is the EXIF rotation applied on one side only?"
    return f"{words}: was one of them resized?" if abs(h * width - w * height) <= max(height, width) else words


def spread(items: Sequence, count: int) -> list:
    """At most `count` of the items, spread evenly."""
    step = max(len(items) / count, 1.0)
    return [items[int(i * step)] for i in range(min(len(items), count))]


def _shrink(grey: np.ndarray) -> tuple[np.ndarray, float]:
    scale = min(LONGEST_SIDE / max(grey.shape), 1.0)
    if scale < 1:
        size = tuple(max(round(side * scale), 1) for side in grey.shape[::-1])
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    return grey, scale
