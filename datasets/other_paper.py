"""The ink of one page on the paper of another: pairs of ink and paper that no scan holds, with an exact mask.

Forty pages are forty kinds of ink, each on its own paper, and a network may learn the pairs by heart. Ink is carried
over as what it takes from its paper's light, so it keeps its colour, its strength and its edges, and gets the stains,
the grain and the ink from behind of the paper that it comes to lie on.
"""

import cv2
import numpy as np

EDGE = 7  # pixels: how wide the surroundings of a mask are that may still hold some of its ink
SHRUNK = 4  # paper changes slowly: it is averaged on the picture at a quarter of its size
NEAR = 7  # cells of SHRUNK pixels: the side of the squares that it is averaged over
FAR = 63  # the same where there is next to no paper so near


def ink_on_paper(image: np.ndarray, mask: np.ndarray, paper: np.ndarray, inked: np.ndarray,
                 rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the ink of `image` on `paper`, whose own ink is taken away. The image itself where its ink is lighter
    than its paper, as chalk is: another's paper may be as light.

    image (h, w, 3) uint8, at the top left of paper (H, W, 3) uint8, which may be larger; mask (h, w), inked (H, W) uint8,
    255 = ink. Of the image, only what its mask names comes along: its stains and the ink that shows through from behind stay
    where they were.
    """
    light = cv2.divide(image, np.maximum(bare_paper(image, mask), 1), dtype=cv2.CV_32F)
    missing = [(0, whole - part) for whole, part in zip(inked.shape, mask.shape)]
    if mask.any() and np.median(light[mask > 0]) > 1:
        return np.pad(image, (*missing, (0, 0)))
    share = cv2.GaussianBlur(cv2.dilate(mask, np.ones((3, 3), np.uint8)), (0, 0), 0.7).astype(np.float32) / 255
    taken = cv2.multiply(np.subtract(1, light, out=light), cv2.merge([share] * 3))
    taken = np.pad(taken, (*missing, (0, 0)))
    return cv2.multiply(without_ink(paper, inked, rng), np.subtract(1, taken, out=taken), dtype=cv2.CV_8U)


def without_ink(image: np.ndarray, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(H, W, 3) uint8: the page with its ink replaced by the mean of the paper round it and the grain of paper from
    somewhere else on the page, without which smooth patches would betray where writing was."""
    near, ink = bare_paper(image, mask), _surroundings(mask)
    grain = cv2.copyTo(cv2.subtract(image, near, dtype=cv2.CV_32F), cv2.bitwise_not(ink))
    filled = cv2.add(near, np.roll(grain, rng.integers(0, mask.shape), (0, 1)))
    share = cv2.merge([cv2.blur(ink, (3, 3)).astype(np.float32) / 255] * 3)
    change = cv2.multiply(cv2.subtract(filled, image, dtype=cv2.CV_32F), share)
    return cv2.add(image, change, dtype=cv2.CV_8U)


def bare_paper(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """(H, W, 3) float32: the mean of the paper round each pixel, ink left out; of more paper round it where next to all of it
    is ink, and of the whole picture's where all is, or of the picture where it has no paper."""
    bare = cv2.bitwise_not(_surroundings(mask))
    size = tuple(max(round(side / SHRUNK), 1) for side in mask.shape[::-1])
    weight = cv2.resize(bare, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    light = cv2.resize(cv2.copyTo(image, bare), size, interpolation=cv2.INTER_AREA).astype(np.float32)
    mean = light.sum((0, 1), np.float64) / weight.sum(dtype=np.float64) if weight.any() else image.mean((0, 1))
    near = np.broadcast_to(mean.astype(np.float32), light.shape)
    for side in (FAR, NEAR):
        paper = cv2.blur(weight, (side, side))[..., None]
        # A square with less paper than a twentieth says too little; the wider one's mean stands there.
        near = np.where(paper > 0.05, cv2.blur(light, (side, side)) / np.maximum(paper, 0.05), near)
    return cv2.resize(near, mask.shape[::-1], interpolation=cv2.INTER_LINEAR)


def _surroundings(mask: np.ndarray) -> np.ndarray:
    """(H, W) uint8, 255 = ink or beside it: masks end where ink is half as dark as its middle."""
    return cv2.dilate((mask > 0).astype(np.uint8) * 255, np.ones((EDGE, EDGE), np.uint8))
