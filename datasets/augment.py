"""What a page may look like, task by task. Geometry is one matrix, so pictures and polygons always move together."""

from dataclasses import dataclass

import cv2
import numpy as np

from utils.geometry import fit_to_side


@dataclass(frozen=True)
class DetectionAugmentation:
    """A random crop of height x width: flip, scale, rotate (DBNet, section 4.2), then light and noise.

    scale: range of factors on the evaluation scale. rotate: degrees either way. flip: probability of a mirrored page.
    light: largest relative change of brightness and contrast. noise: largest standard deviation in grey levels. blur:
    share of crops that are blurred. The last three at 0 leave the paper's augmentation.
    """

    height: int
    width: int
    scale: tuple[float, float] = (0.5, 2.0)
    rotate: float = 10.0
    flip: float = 0.5
    light: float = 0.3
    noise: float = 8.0
    blur: float = 0.2

    def __call__(self, image: np.ndarray, anchors: list[np.ndarray], eval_scale: float,
                 rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """(crop (height, width, 3) uint8, matrix (2, 3) that takes the page's points into the crop). anchors: polygons
        (N, 2) that crops are placed round."""
        factor = eval_scale * float(np.exp(rng.uniform(np.log(self.scale[0]), np.log(self.scale[1]))))
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate))
        mirror = -1.0 if rng.random() < self.flip else 1.0
        linear = factor * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        linear = linear @ np.diag([mirror, 1.0])
        centre = self._centre(image, anchors, factor, rng)
        shift = np.array([self.width, self.height]) / 2 - linear @ centre
        matrix = np.concatenate([linear, shift[:, None]], axis=1)
        crop = warp(image, matrix, factor, self.height, self.width, fill=int(rng.integers(256)))
        return self._light(crop, rng), matrix

    def _centre(self, image: np.ndarray, anchors: list[np.ndarray], factor: float,
                rng: np.random.Generator) -> np.ndarray:
        """The page point at the middle of the crop: near a text (text-keeping crop), one time in ten anywhere."""
        height, width = image.shape[:2]
        if anchors and rng.random() >= 0.1:
            anchor = anchors[int(rng.integers(len(anchors)))].mean(0)
        else:
            anchor = rng.uniform((0, 0), (width, height))
        half = np.array([self.width, self.height]) / factor / 2
        centre = anchor + rng.uniform(-0.8, 0.8, 2) * half
        # Pages smaller than the crop stay whole; larger ones are not left for the background.
        low, high = np.minimum(half, (width / 2, height / 2)), np.maximum((width, height) - half, (width / 2, height / 2))
        return np.clip(centre, low, high)

    def _light(self, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        contrast, brightness = rng.uniform(1 - self.light, 1 + self.light), rng.uniform(-self.light, self.light) * 128
        if rng.random() < self.blur:
            crop = cv2.GaussianBlur(crop, (3, 3), rng.uniform(0.3, 1.2))
        levels = np.arange(256, dtype=np.float32)
        crop = cv2.LUT(crop, np.clip((levels - 128) * contrast + 128 + brightness, 0, 255).astype(np.uint8))
        if rng.random() < 0.3 and self.noise > 0:
            # noise from the sample's own generator: cv2.randn keeps a state of its own
            noise = rng.standard_normal(crop.shape[:2], np.float32) * rng.uniform(0, self.noise)
            crop = np.clip(crop + cv2.merge([noise] * 3), 0, 255).astype(np.uint8)
        return crop


@dataclass(frozen=True)
class WholePage:
    """In place of augmentation: the page as evaluation at long side min(height, width) has it, padded to the crop."""

    height: int
    width: int

    def __call__(self, image: np.ndarray, *_) -> tuple[np.ndarray, np.ndarray]:
        """(page (height, width, 3) uint8 from the top left corner, matrix (2, 3)) as DetectionAugmentation returns."""
        image, scale = fit_to_side(image, min(self.height, self.width))
        missing = ((0, self.height - image.shape[0]), (0, self.width - image.shape[1]), (0, 0))
        return np.pad(image, missing), np.array([[scale, 0.0, 0.0], [0.0, scale, 0.0]])


def warp(image: np.ndarray, matrix: np.ndarray, factor: float, height: int, width: int, fill: int) -> np.ndarray:
    """cv2.warpAffine, with the image first shrunk by areas where `factor` would skip pixels."""
    if factor < 0.7:
        h, w = image.shape[:2]
        small = cv2.resize(image, (max(round(w * factor), 1), max(round(h * factor), 1)), interpolation=cv2.INTER_AREA)
        back = np.array([[w / small.shape[1], 0, 0], [0, h / small.shape[0], 0], [0, 0, 1]])
        image, matrix = small, matrix @ back
    # Points count from the pixels' corners, warpAffine from their centres.
    matrix = matrix.copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    return cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
                          borderValue=(fill, fill, fill))
