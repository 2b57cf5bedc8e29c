"""Pages as they might have been photographed or sent: turned, from the side, sagging, small, blurred, dark, squeezed.

Each disturbance takes an image (H, W, 3) uint8 RGB to (another of any size, a function that takes points (N, 2) in pixels
of the first to where they are in the other). The same image gives the same answer. What lies round a page is DESK.
"""

from functools import partial
from typing import Callable

import cv2
import numpy as np

from models.skew import put_level

Moved = Callable[[np.ndarray], np.ndarray]
DESK = 90  # grey level


def turned(image: np.ndarray, degrees: float) -> tuple[np.ndarray, Moved]:
    """Clockwise, with all of its corners."""
    page, matrix = put_level(image, -degrees, DESK)
    return page, lambda points: points @ matrix[:, :2].T + matrix[:, 2]


def from_the_side(image: np.ndarray) -> tuple[np.ndarray, Moved]:
    height, width = image.shape[:2]
    before = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
    after = before * 1.0
    after[0], after[1], after[3] = (0.06 * width, 0.03 * height), (0.95 * width, 0), (0, 0.95 * height)
    matrix = cv2.getPerspectiveTransform(before, after)
    page = cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(DESK,) * 3)
    return page, lambda points: cv2.perspectiveTransform(np.float64(points)[None], matrix)[0]


def sagging(image: np.ndarray, share: float) -> tuple[np.ndarray, Moved]:
    """Lines hang through by this share of the page's width in its middle."""
    height, width = image.shape[:2]
    depth = share * width

    def sag(x: np.ndarray) -> np.ndarray:
        return depth * (1 - (2 * x / width - 1) ** 2)

    y, x = np.mgrid[: height + int(np.ceil(depth)), :width].astype(np.float32)
    page = cv2.remap(image, x, y - sag(x + 0.5).astype(np.float32), cv2.INTER_LINEAR, borderValue=(DESK,) * 3)
    return page, lambda points: points + np.column_stack([np.zeros(len(points)), sag(points[:, 0])])


def scaled(image: np.ndarray, factor: float) -> tuple[np.ndarray, Moved]:
    page = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)
    size = np.array(page.shape[1::-1]) / image.shape[1::-1]
    return page, lambda points: points * size


def bordered(image: np.ndarray, share: float) -> tuple[np.ndarray, Moved]:
    """Far away on a desk: so much of its longer side all round."""
    border = int(share * max(image.shape))
    page = cv2.copyMakeBorder(image, *[border] * 4, cv2.BORDER_CONSTANT, value=(DESK,) * 3)
    return page, lambda points: points + border


def blurred(image: np.ndarray, sigma: float) -> tuple[np.ndarray, Moved]:
    return cv2.GaussianBlur(image, (0, 0), sigma), np.array


def dark_side(image: np.ndarray, least: float) -> tuple[np.ndarray, Moved]:
    """Light falls off from the left to this share of it on the right."""
    light = np.linspace(1, least, image.shape[1])[None, :, None]
    return (image * light).astype(np.uint8), np.array


def noisy(image: np.ndarray, sigma: float) -> tuple[np.ndarray, Moved]:
    noise = np.random.default_rng(0).normal(0, sigma, image.shape)
    return (image + noise).round().clip(0, 255).astype(np.uint8), np.array


def as_jpeg(image: np.ndarray, quality: int) -> tuple[np.ndarray, Moved]:
    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]  # OpenCV takes BGR
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]), np.array


DISTURBANCES: dict[str, Callable[[np.ndarray], tuple[np.ndarray, Moved]]] = {
    "none": lambda image: (image, np.array),
    **{f"turned-{degrees}": partial(turned, degrees=degrees) for degrees in (3, 6, 10, 15, 30, 90, 98, 180)},
    "from-the-side": from_the_side,
    "sagging": partial(sagging, share=0.03),
    "half-size": partial(scaled, factor=0.5),
    "double-size": partial(scaled, factor=2.0),
    "bordered": partial(bordered, share=0.6),
    "blurred": partial(blurred, sigma=2.0),
    "dark-side": partial(dark_side, least=0.3),
    "noisy": partial(noisy, sigma=15.0),
    "jpeg-20": partial(as_jpeg, quality=20),
}
