"""What a photographed board or a scanned page may look like, for stroke masks: the camera first, then the light.

Every function draws from the sample's own generator and from nothing else.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class StrokeAugmentation:
    """Image and mask are bent by one map, so strokes and their truth stay together.

    bend: share of samples that are resampled at all, so that some keep the edges that the camera gave them. rotate:
    degrees either way. zoom: range of factors. perspective: how far a corner may move, as a share of the side. elastic:
    largest displacement of the coarse elastic grid, in pixels. wear: share of samples with each of faded ink, ink that
    shows through from behind (or was badly wiped off), and stains. light: largest relative change of brightness and
    contrast. noise: largest standard deviation in grey levels.
    """

    bend: float = 0.75
    rotate: float = 10.0
    zoom: tuple[float, float] = (0.8, 1.4)
    perspective: float = 0.04
    elastic: float = 6.0
    wear: float = 0.25
    light: float = 0.3
    noise: float = 8.0

    def __call__(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """image (H, W, 3) uint8, mask (H, W) uint8 with 255 = ink and soft edges; both come back in the same size."""
        image, mask = self._turn(image, mask, rng)
        if rng.random() < self.bend:
            image, mask = self._bend(image, mask, rng)
        image = self._wear(image, rng)
        return self._camera(self._light(image, rng), rng), mask

    def _turn(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Half of the samples upside down. None is mirrored: writing that leans the other way shows through from the
        back of the sheet, and this is one of the few things that tell it from faint ink."""
        return (cv2.flip(image, -1), cv2.flip(mask, -1)) if rng.random() < 0.5 else (image, mask)

    def _bend(self, image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Zoom, rotation, perspective, and half of the time an elastic deformation; what comes into view is a mirror
        image, of strokes too: black corners would be learnt as paper."""
        height, width = mask.shape
        matrix = self._matrix(height, width, rng)
        if rng.random() < 0.5:
            map_x, map_y = elastic_map(np.linalg.inv(matrix), height, width, self.elastic, rng)
            return tuple(cv2.remap(array, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
                         for array in (image, mask))
        return tuple(cv2.warpPerspective(array, matrix, (width, height), borderMode=cv2.BORDER_REFLECT)
                     for array in (image, mask))

    def _matrix(self, height: int, width: int, rng: np.random.Generator) -> np.ndarray:
        """(3, 3) map of pixels to pixels about the middle of the picture."""
        corners = np.float32([[0, 0], [width, 0], [width, height], [0, height]])
        middle = np.float32([width / 2, height / 2])
        factor = np.exp(rng.uniform(*np.log(self.zoom)))
        angle = np.deg2rad(rng.uniform(-self.rotate, self.rotate))
        turn = factor * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
        shaken = corners + rng.uniform(-self.perspective, self.perspective, (4, 2)) * (width, height)
        return cv2.getPerspectiveTransform(corners, ((shaken - middle) @ turn + middle).astype(np.float32))

    def _wear(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Faded ink, ink from the other side, stains: each in a share `wear` of the samples."""
        fade, bleed, stain = rng.random(3) < self.wear
        if fade or bleed:
            paper = paper_of(image)
        if fade:
            image = faded(image, paper, rng)
        if bleed:
            image = bled(image, paper, rng)
        return stained(image, rng) if stain else image

    def _light(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Contrast, brightness and white balance, and half of the time a lamp at one side or a shadow across."""
        contrast = rng.uniform(1 - self.light, 1 + self.light)
        brightness = rng.uniform(-self.light, self.light) * 128
        balance = contrast * rng.uniform(0.95, 1.05, 3)
        levels = np.arange(256, dtype=np.float32)[None, :, None]
        image = cv2.LUT(image, np.clip((levels - 128) * balance + 128 + brightness, 0, 255).astype(np.uint8))
        if rng.random() < 0.5:
            return image
        # A coarse grid of factors, enlarged smoothly: 2 x 2 is a lamp, 4 x 4 a shadow.
        cells = int(rng.choice((2, 4)))
        grid = rng.uniform(1 - self.light, 1, (cells, cells)).astype(np.float32)
        shade = cv2.resize(grid, image.shape[1::-1], interpolation=cv2.INTER_LINEAR)
        return cv2.multiply(image, cv2.merge([shade] * 3), dtype=cv2.CV_8U)

    def _camera(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """At times out of focus, noisy, or stored as a small JPEG."""
        if rng.random() < 0.2:
            image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))
        if rng.random() < 0.3:
            # Noise from the sample's own generator: cv2.randn keeps a state of its own.
            grain = rng.standard_normal(image.shape[:2], np.float32) * rng.uniform(0, self.noise)
            image = cv2.add(image, cv2.merge([grain] * 3), dtype=cv2.CV_8U)
        if rng.random() < 0.3:
            packed = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 90))])[1]
            image = cv2.imdecode(packed, cv2.IMREAD_COLOR)
        return image


def paper_of(image: np.ndarray) -> np.ndarray:
    """What an (H, W, 3) uint8 picture would be without ink: closed over strokes of some 25 pixels, and smoothed."""
    small = cv2.resize(image, None, fx=0.25, fy=0.25, interpolation=cv2.INTER_AREA)
    closed = cv2.morphologyEx(small, cv2.MORPH_CLOSE, np.ones((7, 7), np.uint8))
    return cv2.resize(cv2.blur(closed, (5, 5)), image.shape[1::-1], interpolation=cv2.INTER_LINEAR)


def faded(image: np.ndarray, paper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink whose contrast with its paper is 0.2 to 1 of what it was: everywhere the same, or here more and there less."""
    strength = smooth_noise(image.shape[:2], int(rng.integers(1, 6)), rng) * 0.8 + 0.2
    return cv2.add(paper, cv2.multiply(cv2.subtract(image, paper, dtype=cv2.CV_32F), cv2.merge([strength] * 3)),
                   dtype=cv2.CV_8U)


def bled(image: np.ndarray, paper: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same strokes once more, mirrored as on the back of the sheet, shifted, blurred and lighter: no ink to find."""
    light = cv2.divide(image, np.maximum(paper, 1), dtype=cv2.CV_32F)  # 1 on paper, less in ink
    mirrored = np.roll(cv2.flip(np.minimum(light, 1, out=light), 1), rng.integers(0, image.shape[:2]), (0, 1))
    darkness = np.subtract(1, cv2.GaussianBlur(mirrored, (0, 0), rng.uniform(0.4, 3.0)))
    darkness *= rng.uniform(0.15, 0.6)
    return cv2.multiply(image, np.subtract(1, darkness, out=darkness), dtype=cv2.CV_8U)


def stained(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blots: where smooth noise passes a level, the paper darkens, at once or by and by, and ink with it."""
    noise = smooth_noise(image.shape[:2], int(rng.integers(3, 12)), rng)
    depth = np.clip((noise - rng.uniform(0.5, 0.8)) / rng.uniform(0.02, 0.4), 0, 1)
    colour = 1 - rng.uniform(0.15, 0.6) * rng.uniform(0.7, 1.0, 3).astype(np.float32)
    return cv2.multiply(image, cv2.merge([1 - depth * (1 - share) for share in colour]), dtype=cv2.CV_8U)


def smooth_noise(shape: tuple[int, int], cells: int, rng: np.random.Generator) -> np.ndarray:
    """(H, W) float32 in [0, 1]: a grid of cells x cells random values, enlarged smoothly."""
    grid = rng.random((cells, cells), np.float32)
    return np.clip(cv2.resize(grid, shape[::-1], interpolation=cv2.INTER_CUBIC), 0, 1)


def elastic_map(inverse: np.ndarray, height: int, width: int, amplitude: float,
                rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(map_x, map_y) float32 (height, width) for cv2.remap: the inverse (3, 3) matrix, then a smooth displacement.

    The displacement is a coarse random grid of about one node in 128 pixels, enlarged by cubic interpolation (Simard et
    al., 2003, smooth a random field to the same end), so that straight strokes become wavy and curves change shape.
    """
    x, y = np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32)[:, None]
    inverse = inverse.astype(np.float32)
    depth = inverse[2, 0] * x + inverse[2, 1] * y + inverse[2, 2]
    grid = rng.uniform(-amplitude, amplitude, (height // 128 + 2, width // 128 + 2, 2)).astype(np.float32)
    maps = cv2.split(cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC))
    for (of_x, of_y, constant), displacement in zip(inverse, maps):
        place = of_x * x + of_y * y
        place += constant
        place /= depth
        displacement += place
    return maps
