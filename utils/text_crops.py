"""From a crop of any size to what the recogniser sees: one code path for training, evaluation and inference."""

import cv2
import numpy as np
import torch

# As in the published PARSeq: pixels / 255 normalised by mean 0.5 and standard deviation 0.5, to [-1, 1].
MEAN, STD = 0.5, 0.5
TALL = 1.5  # a crop higher than this many times its width is a line of text on its side, unless it is one character


def resized_width(height: int, width: int, to_height: int, max_width: int, stretch: bool = False) -> int:
    """The width in pixels, 1 to max_width, that resize_crop gives a crop of (height, width)."""
    return max_width if stretch else min(max(round(width * to_height / height), 1), max_width)


def resize_crop(crop: np.ndarray, height: int, max_width: int, stretch: bool = False) -> np.ndarray:
    """(h, w, 3) uint8 -> (height, w', 3) uint8 with the aspect ratio kept; a line that would be wider than max_width is
    squashed to it. stretch: every crop becomes max_width wide, as the published PARSeq has it. Bicubic when enlarging,
    area averaging when shrinking (bicubic would alias)."""
    h, w = crop.shape[:2]
    new_w = resized_width(h, w, height, max_width, stretch)
    shrinks = height * new_w < h * w
    return cv2.resize(crop, (new_w, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)


def is_tall(height: int, width: int) -> bool:
    return height > TALL * width


def turn_left(crop: np.ndarray) -> np.ndarray:
    """A line that runs downwards (top to bottom) turned by 90 degrees, so that it runs to the right."""
    return np.ascontiguousarray(np.rot90(crop))


def turn_right(crop: np.ndarray) -> np.ndarray:
    """A line that runs upwards turned by 90 degrees, so that it runs to the right."""
    return np.ascontiguousarray(np.rot90(crop, -1))


def bucket_width(width: int, bucket: int, max_width: int) -> int:
    """The least multiple of `bucket` that holds `width`, at most max_width."""
    return min(-(-width // bucket) * bucket, max_width)


def stack_crops(crops: list[np.ndarray], bucket: int, max_width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Resized crops (H, w_i, 3) uint8 -> images (B, 3, H, W) float32 in [-1, 1], padded on the right with 0 (mid grey)
    to the bucket of the widest, and their widths (B,) int64 in pixels without the padding."""
    widths = [crop.shape[1] for crop in crops]
    shape = (len(crops), crops[0].shape[0], bucket_width(max(widths), bucket, max_width), 3)
    images = np.zeros(shape, np.float32)
    for image, crop in zip(images, crops):
        image[:, : crop.shape[1]] = (crop / np.float32(255) - MEAN) / STD
    return torch.from_numpy(images.transpose(0, 3, 1, 2).copy()), torch.tensor(widths)
