"""The ink of one page on the paper of another: pairs of ink and paper that no scan holds, with an exact mask.

Forty pages are forty kinds of ink, each on its own paper, and a network may learn the pairs by heart. Ink is carried
over as what it takes from its paper's light, so it keeps its colour, its strength and its edges, and gets the stains,
the grain and the ink from behind of the paper that it comes to lie on.
"""

import cv2
import numpy as np

EDGE = 7  # pixels: how wide the surroundings of a mask are that may still hold some of its ink
NEAR = 31  # pixels: the paper is averaged over squares of this side


def ink_on_paper(image: np.ndarray, mask: np.ndarray, paper: np.ndarray, inked: np.ndarray,
                 rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the ink of `image` on `paper`, whose own ink is taken away; `mask` is its truth, unchanged.

    image, paper: (H, W, 3) uint8; mask, inked: (H, W) uint8, 255 = ink. Of the image, only what its mask names comes
    along: its stains and the ink that shows through from behind stay where they were.
    """
    light = cv2.divide(image, np.maximum(bare_paper(image, mask), 1), dtype=cv2.CV_32F)
    share = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3), np.uint8)), (0, 0), 0.7).astype(np.float32) / 255
    share = cv2.merge([share] * 3)
    return cv2.multiply(without_ink(paper, inked, rng), 1 - share * (1 - light), dtype=cv2.CV_8U)


def without_ink(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the page with its ink replaced by the mean of the paper round it and the grain of paper from
    somewhere else on the page, without which smooth patches would betray where writing was."""
    near, ink = bare_paper(image, mask), _surroundings(mask)
    grain = np.where(ink[..., None] > 0, 0, cv2.subtract(image, near, dtype=cv2.CV_32F))
    grain = np.roll(grain, rng.integers(0, mask.shape), (0, 1))
    share = cv2.merge([cv2.blur(ink, (3, 3)).astype(np.float32) / 255] * 3)
    filled = near + grain
    filled -= image
    return cv2.add(image, filled * share, dtype=cv2.CV_8U)


def bare_paper(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32: the mean of the paper within NEAR pixels, ink left out; further away where all of it is ink,
    and the mean of the picture where there is no paper at all."""
    bare = (_surroundings(mask) == 0).astype(np.float32)
    light = image * bare[..., None]
    mean = light.sum((0, 1)) / bare.sum() if bare.any() else image.mean((0, 1))
    near = np.broadcast_to(mean.astype(np.float32), image.shape)
    for side in (8 * NEAR, NEAR):
        weight = cv2.blur(bare, (side, side))[..., None]
        # A square with less paper than a hundredth says too little; the wider one's mean stands there.
        near = np.where(weight > 0.01, cv2.blur(light, (side, side)) / np.maximum(weight, 0.01), near)
    return near


def _surroundings(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 255 = ink or beside it: masks end where ink is half as dark as its middle."""
    return cv2.dilate((mask > 0).astype(np.uint8) * 255, np.ones((EDGE, EDGE), np.uint8))
