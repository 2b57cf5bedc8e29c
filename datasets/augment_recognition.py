"""How a crop of text may look: RandAugment with three operations of magnitude 5, as the published PARSeq is trained.

Cubuk et al., "RandAugment", 2020; the operations are timm's 'increasing' ones without sharpness, with Gaussian blur and
Poisson noise. Each chosen operation is applied half of the time. What moves the ends of a line up or down or out of the
crop is limited by the line's height: the published limits are for words of a few letters.
"""

from typing import Callable

import cv2
import numpy as np

MAGNITUDE = 0.5  # of the range 0 to 1
OPERATIONS_PER_CROP = 3
PROBABILITY = 0.5
GREY = (128, 128, 128)  # what comes in from outside, as the padding on the right


def augment_crop(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(h, w, 3) uint8 -> the same shape and type. All randomness is from `rng`."""
    for choice in rng.choice(len(OPERATIONS), OPERATIONS_PER_CROP, replace=False):
        if rng.random() < PROBABILITY:
            crop = OPERATIONS[choice](crop, rng)
    return crop


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _warp(crop: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """Apply a (2, 2) matrix round the centre, or shift by a (2, 1) one."""
    h, w = crop.shape[:2]
    matrix = np.array(matrix)
    if matrix.shape == (2, 1):
        full = np.hstack([np.eye(2), matrix])
    else:
        centre = np.array([[(w - 1) / 2], [(h - 1) / 2]])
        full = np.hstack([matrix, centre - matrix @ centre])
    return cv2.warpAffine(crop, full, (w, h), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=GREY)


def rotate(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Up to 15 degrees; the ends of the line move by a quarter of its height at most."""
    h, w = crop.shape[:2]
    angle = _sign(rng) * min(np.deg2rad(30 * MAGNITUDE), np.arctan(h / (2 * w)))
    return _warp(crop, [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def shear_x(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _warp(crop, [[1, _sign(rng) * 0.9 * MAGNITUDE], [0, 1]])


def shear_y(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The ends of the line move by a quarter of its height at most."""
    h, w = crop.shape[:2]
    return _warp(crop, [[1, 0], [_sign(rng) * min(0.2 * MAGNITUDE, h / (2 * w)), 1]])


def translate_x(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """By 5 % of the width, and by a fifth of the height at most, or whole letters would leave the crop."""
    h, w = crop.shape[:2]
    return _warp(crop, [[_sign(rng) * min(0.1 * MAGNITUDE * w, 0.2 * h)], [0]])


def translate_y(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _warp(crop, [[0], [_sign(rng) * 0.3 * MAGNITUDE * crop.shape[0]]])


def auto_contrast(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low, high = crop.min((0, 1)).astype(np.float32), crop.max((0, 1)).astype(np.float32)
    return ((crop - low) * (255 / np.maximum(high - low, 1))).astype(np.uint8)


def equalize(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.stack([cv2.equalizeHist(np.ascontiguousarray(crop[:, :, channel])) for channel in range(3)], axis=2)


def invert(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return 255 - crop


def posterize(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return crop & (256 - (1 << (8 - (4 - int(4 * MAGNITUDE)))))


def solarize(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(crop < 256 - int(256 * MAGNITUDE), crop, 255 - crop)


def solarize_add(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.where(crop < 128, crop + np.uint8(110 * MAGNITUDE), crop)


def colour(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)[:, :, None].astype(np.float32)
    return _clip(grey + (crop - grey) * (1 + _sign(rng) * 0.9 * MAGNITUDE))


def contrast(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    mean = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).mean()
    return _clip(mean + (crop - np.float32(mean)) * (1 + _sign(rng) * 0.9 * MAGNITUDE))


def brightness(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _clip(crop * np.float32(1 + _sign(rng) * 0.9 * MAGNITUDE))


def gaussian_blur(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Sigma 2 pixels, less for crops under 25 pixels of height, whose letters would run together."""
    return cv2.GaussianBlur(crop, (0, 0), min(4 * MAGNITUDE, max(0.08 * crop.shape[0], 0.5)))


def poisson_noise(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Shot noise as additive Poisson of mean 20 grey levels, channel by channel."""
    return _clip(crop + rng.poisson(40 * MAGNITUDE, crop.shape).astype(np.float32))


def _clip(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


OPERATIONS: tuple[Callable[[np.ndarray, np.random.Generator], np.ndarray], ...] = (
    auto_contrast, equalize, invert, rotate, posterize, solarize, solarize_add, colour, contrast, brightness, shear_x,
    shear_y, translate_x, translate_y, gaussian_blur, poisson_noise)
