"""Text and marks on pages that lie askew: networks that have learnt from level pages lose them from 6 degrees on."""

from typing import Callable

import cv2
import numpy as np

from models.dbnet_decode import on_page
from models.orientation import LONG, sides
from utils.geometry import quads_round
from utils.layout import text_angle

Found = tuple[np.ndarray | list[np.ndarray], np.ndarray]  # quads (N, 4, 2) or a list of N polygons (M, 2), scores (N,)

SIDE, SMALL = 512, 256  # pixels, at which a page's skew is looked for, and at first
FAINT, DARK = 12, 40  # grey levels by which ink differs from what is round it, at least; by how many more it counts in full
COARSE, FINE = 1.5, 0.5  # degrees
APART = 8.0  # degrees from which an angle is another
LINES, LEVEL = 8, 2.0  # found lines that lie by less than so many degrees: the page is level
TILT = 3.0  # degrees, from which text is looked for on the page put level
# Marks hold out longer: mAP50 of signatures at 6, 10 and 15 degrees is 0.72, 0.52 and 0.29, and on the page put level 0.70,
# 0.76 and 0.77 (validation). Photographs, which have no angle of their own, are left: their sharpest comb is not clear.
MARKS_TILT, CLEAR = 7.0, 3.0
GROWTH = 4.0  # times as many pixels as the page has, at most: an endless strip put level would take all memory
KEPT = 0.9  # of the text must be found there again


def skew_of(image: np.ndarray) -> float:
    """Degrees in (-47, 47) by which the lines of a page (H, W, 3) uint8, or their perpendicular, are turned clockwise; 0 for a
    page without ink."""
    return clear_skew(image)[0]


def clear_skew(image: np.ndarray) -> tuple[float, float]:
    """(skew_of the page, how clear it is: 1 or more).

    Along lines the ink adds up to a comb; the angle at which its teeth are sharpest, by the sum of squared differences,
    is theirs (Postl, "Detection of linear oblique structures and skew scan in digitized documents", 1986). It is so many
    times as clear as the sharpest comb at an angle that is another.
    """
    grey = _shrunk(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), SIDE)
    ink = cv2.absdiff(grey, cv2.GaussianBlur(grey, (0, 0), 8))
    ink = cv2.min(cv2.subtract(ink, FAINT), DARK)
    if not ink.any():
        return 0.0, 1.0
    coarse, small = np.arange(-45, 45, COARSE), _shrunk(ink, SMALL)
    if not small.any():
        return 0.0, 1.0
    combs = np.array([sharpness(small, degrees) for degrees in coarse])
    middle = coarse[combs.argmax()]
    away = np.abs(coarse - middle)
    others = combs[np.minimum(away, 90 - away) > APART]
    fine = np.arange(middle - COARSE, middle + COARSE + FINE, FINE)
    degrees = float(fine[np.argmax([sharpness(ink, angle) for angle in fine])])
    return degrees, float(combs.max() / max(others.max(), 1e-12))


def _shrunk(grey: np.ndarray, side: int) -> np.ndarray:
    factor = side / max(grey.shape)
    size = [max(round(length * factor), 1) for length in grey.shape[::-1]]
    return grey if factor >= 1 else cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def sharpness(ink: np.ndarray, degrees: float) -> float:
    """Of the sums of (H, W) uint8 ink along lines turned clockwise by so many degrees, or across them, the sharper ones'."""
    level, _ = put_level(ink, degrees, 0)
    return max(float(np.square(np.diff(cv2.reduce(level, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32F).ravel())).sum())
               for axis in (0, 1))


def find_level(images: list[np.ndarray], find: Callable[[list[np.ndarray]], list[Found]]) -> list[Found]:
    """Text of each page (H, W, 3) uint8, in its pixels: as `find` finds it there, or on the page put level where it lies
    askew and not much less is found so (boxes of level lines are the better ones)."""
    found = list(find(images))
    skews = [0.0 if surely_level(quads_round(shapes)) else skew_of(image) for image, (shapes, _) in zip(images, found)]
    askew = [number for number, degrees in enumerate(skews)
             if abs(degrees) >= TILT and not _grows(images[number].shape, degrees)]
    levelled = [put_level(images[number], skews[number]) for number in askew]
    for number, (shapes, scores), (_, matrix) in zip(askew, find([image for image, _ in levelled]) if askew else [], levelled):
        if amount(shapes, scores) > KEPT * amount(*found[number]):
            found[number] = taken_back(shapes, matrix, *images[number].shape[:2]), scores
    return found


def find_marks_level(image: np.ndarray, find: Callable[[np.ndarray], list[dict]],
                     as_it_is: frozenset[int] = frozenset()) -> list[dict]:
    """Marks of a page (H, W, 3) uint8, in its pixels: as `find` finds them there, or on the page put level where its lines
    show that it lies askew. A mark's "box" is then the one round the turned box. as_it_is: classes whose marks are
    taken from the page as it is in any case."""
    degrees, clear = clear_skew(image)
    if abs(degrees) < MARKS_TILT or clear < CLEAR or _grows(image.shape, degrees):
        return find(image)
    marks = [mark for mark in find(image) if mark["class_id"] in as_it_is] if as_it_is else []
    level, matrix = put_level(image, degrees)
    back, (height, width) = cv2.invertAffineTransform(matrix), image.shape[:2]
    for mark in find(level):
        if mark["class_id"] in as_it_is:
            continue
        x1, y1, x2, y2 = mark["box"]
        corners = np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]]) @ back[:, :2].T + back[:, 2]
        low, high = corners.min(0).clip(0, [width, height]), corners.max(0).clip(0, [width, height])
        if (high > low).all():  # else it lies where the page put level has none of the page
            marks.append(mark | {"box": [*low.tolist(), *high.tolist()]})
    return sorted(marks, key=lambda mark: -mark["confidence"])


def _grows(shape: tuple[int, ...], degrees: float) -> bool:
    return bool(np.prod(level_size(shape, degrees)) > GROWTH * shape[0] * shape[1])


def surely_level(quads: np.ndarray) -> bool:
    """Whether enough of what was found (N, 4, 2) are lines that lie: a closer look at the page is not worth its time."""
    width, height = sides(quads).T
    lines = quads[width >= LONG * height]
    return len(lines) >= LINES and abs(np.degrees(text_angle(lines))) < LEVEL


def taken_back(shapes: np.ndarray | list[np.ndarray], matrix: np.ndarray, height: int,
               width: int) -> np.ndarray | list[np.ndarray]:
    """Quads or polygons of a page that `matrix` has put level, in pixels of the page; points outside it at its edge."""
    back = cv2.invertAffineTransform(matrix)
    return on_page([shape @ back[:, :2].T + back[:, 2] for shape in shapes] if isinstance(shapes, list) else
                   shapes @ back[:, :2].T + back[:, 2], 1.0, height, width)


def put_level(image: np.ndarray, degrees: float, fill: int = 128) -> tuple[np.ndarray, np.ndarray]:
    """The whole page turned anticlockwise by so many degrees, and the (2, 3) matrix that takes its points there."""
    height, width = image.shape[:2]
    matrix, size = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1.0), level_size(image.shape, degrees)
    matrix[:, 2] += size / 2 - (width / 2, height / 2)
    # Points count from the pixels' corners, warpAffine from their centres.
    centres = matrix.copy()
    centres[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(image, centres, tuple(size.tolist()), flags=cv2.INTER_LINEAR, borderValue=(fill,) * 3), matrix


def level_size(shape: tuple[int, ...], degrees: float) -> np.ndarray:
    """(width, height) of a page (height, width, ...) that was turned by so many degrees."""
    height, width = shape[:2]
    cosine, sine = abs(np.cos(np.deg2rad(degrees))), abs(np.sin(np.deg2rad(degrees)))
    return np.ceil([width * cosine + height * sine, width * sine + height * cosine]).astype(int)


def amount(shapes: np.ndarray | list[np.ndarray], scores: np.ndarray) -> float:
    """Pixels of lines, lengthwise, each by how sure it is."""
    return float((sides(quads_round(shapes)).max(1, initial=0) * scores).sum())
