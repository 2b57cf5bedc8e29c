"""What --cache-targets keeps of pages: what of a sample is the same in every epoch (utils.target_cache keeps it)."""

from functools import cache
from typing import Callable

import numpy as np

import datasets.augment
import datasets.db_targets
import utils.geometry
import utils.images
from utils.target_cache import TargetCache, digest_of_code

BINARY_MAPS = ("shrink_map", "shrink_mask", "thresh_mask")

Arrays = dict[str, np.ndarray]


class PageCache:
    """A TargetCache asked about datasets.detection.Page objects."""

    def __init__(self, targets: TargetCache):
        self.targets, self.code = targets, code_digest()

    def get(self, page, parameters: tuple, compute: Callable[[], Arrays]) -> Arrays:
        """compute(), or what it once returned for a page of this content and truth.

        parameters: everything else that decides on it, as values whose repr says all of them.
        """
        return self.targets.get(page.path, lambda: self._key(page, parameters), compute)

    def sample(self, page, parameters: tuple, compute: Callable[[], Arrays]) -> Arrays:
        """get() of an image and its four maps, which are stored packed."""
        return self.targets.get(page.path, lambda: self._key(page, parameters), compute, pack_sample, unpack_sample)

    def _key(self, page, parameters: tuple) -> bytes:
        truth = [(polygon.shape, polygon.tobytes()) for polygon in page.polygons], page.ignored
        return repr((self.code, parameters, truth)).encode()


def pack_sample(sample: Arrays) -> Arrays:
    return {"image": sample["image"]} | pack_targets(sample)


def unpack_sample(packed: Arrays) -> Arrays:
    return {"image": packed["image"]} | unpack_targets(packed)


def pack_targets(targets: Arrays) -> Arrays:
    """The four maps in 7 bytes a pixel in place of 16: those that are 0 or 1 as "binary" (3, H, W) uint8."""
    return {"binary": np.stack([targets[name] for name in BINARY_MAPS]).astype(np.uint8),
            "thresh_map": targets["thresh_map"]}


def unpack_targets(packed: Arrays) -> Arrays:
    """What pack_targets was given, bit for bit."""
    return dict(zip(BINARY_MAPS, packed["binary"].astype(np.float32))) | {"thresh_map": packed["thresh_map"]}


@cache
def code_digest() -> str:
    """Of the code and libraries that decide on a sample."""
    return digest_of_code((datasets.augment, datasets.db_targets, utils.geometry, utils.images),
                          ("numpy", "opencv-python", "pillow", "pyclipper")).hex()
