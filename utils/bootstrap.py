"""Paired bootstrap (Efron & Tibshirani, 1993, chapters 13 and 16): how sure a difference of two scores is, given that
they were taken on the same images, and how many images it would take to be sure of it.

What is drawn again is the image, with everything on it; both sides see the same draw, so that hard and easy images
cancel out.
"""

import argparse
import math
import sys
from dataclasses import dataclass
from statistics import NormalDist
from typing import Callable, Iterator, Sequence

import numpy as np

# A sign test of fewer images cannot reach 5 %, however clear they are: 2 / 2^5 > 0.05.
LEAST_IMAGES = 6
FEW_IMAGES = 20  # percentile intervals of fewer are too narrow as a rule
# Of fewer, the ends of a 95 % interval are its few outermost draws: of two, it may leave out the score itself.
LEAST_RESAMPLES = 200
POWER = 0.8
# What is asked for where no difference was seen at all: one point.
SMALL_DIFFERENCE = 0.01

Score = Callable[[np.ndarray], dict[str, float]]  # row numbers, repeated as often as drawn -> scores


@dataclass(frozen=True)
class Difference:
    """One metric of two runs. low, high: the percentile interval at `level`; error: the bootstrap standard error."""

    first: float
    second: float
    low: float
    high: float
    error: float
    n_images: int
    level: float

    @property
    def value(self) -> float:
        return self.second - self.first

    @property
    def clear(self) -> bool:
        """Whether the interval leaves 0 out, on enough images to say so."""
        return self.n_images >= LEAST_IMAGES and (self.low > 0 or self.high < 0)

    def images_needed(self, difference: float | None = None) -> int | None:
        """About how many images such as these would show `difference` (default: the one seen) at this level, four times
        in five; None where the scores do not vary from image to image, so that nothing can be told."""
        size = abs(self.value if difference is None else difference)
        if self.error == 0 or size == 0:
            return None
        normal = NormalDist()
        reach = normal.inv_cdf((1 + self.level) / 2) + normal.inv_cdf(POWER)
        return max(math.ceil(self.n_images * (reach * self.error / size) ** 2), LEAST_IMAGES)


def resample_count(text: str) -> int:
    """Of --resamples, for argparse."""
    value = int(text)
    if value < LEAST_RESAMPLES:
        raise argparse.ArgumentTypeError(f"{text} is not {LEAST_RESAMPLES} or more, without which an interval means nothing")
    return value


def warn_of_few(images: int) -> None:
    """A line on stderr where intervals over so few images promise too much."""
    if images < FEW_IMAGES:
        print(f"warning: of {images} image{'' if images == 1 else 's'} only: intervals from fewer than {FEW_IMAGES} are too "
              "narrow, and from one they have no width", file=sys.stderr)


def draws(images: Sequence[str], resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Row numbers of `resamples` bootstrap samples. images: which image each row belongs to; all rows of an image are
    drawn together, since what is on one page is not independent."""
    rows_of: dict[str, list[int]] = {}
    for number, image in enumerate(images):
        rows_of.setdefault(image, []).append(number)
    groups = [np.array(rows) for rows in rows_of.values()]
    rng = np.random.default_rng(seed)
    for _ in range(resamples):
        yield np.concatenate([groups[number] for number in rng.integers(0, len(groups), len(groups))])


def intervals(score: Score, images: Sequence[str], *, resamples: int = 2000, seed: int = 0,
              level: float = 0.95) -> dict[str, tuple[float, float, float]]:
    """(score, low, high) of every metric of one run: the percentile interval over drawn images. On few images it is too
    narrow rather than too wide. images: which image each row is of. Raises ValueError without rows."""
    if not len(images):
        raise ValueError("no rows to score")
    found = [score(rows) for rows in draws(images, resamples, seed)]
    whole, edges = score(np.arange(len(images))), [(1 - level) / 2, (1 + level) / 2]
    return {name: (whole[name], *np.quantile([drawn[name] for drawn in found], edges).tolist()) for name in whole}


def paired_differences(first: Score, second: Score, images: Sequence[str], *, resamples: int = 2000, seed: int = 0,
                       level: float = 0.95) -> dict[str, Difference]:
    """The difference second - first of every metric that both give, from rows that belong together one by one.

    images: which image each row is of. Raises ValueError without rows.
    """
    if not len(images):
        raise ValueError("no rows to compare")
    found = [(first(rows), second(rows)) for rows in draws(images, resamples, seed)]
    return _intervals(first(np.arange(len(images))), second(np.arange(len(images))), found, len(set(images)), level)


def unpaired_differences(first: Score, second: Score, first_images: Sequence[str], second_images: Sequence[str], *,
                         resamples: int = 2000, seed: int = 0, level: float = 0.95) -> dict[str, Difference]:
    """The same of runs that were scored on other images, each drawn by itself: a far wider interval."""
    if not len(first_images) or not len(second_images):
        raise ValueError("no rows to compare")
    found = [(first(rows), second(others)) for rows, others in
             zip(draws(first_images, resamples, seed), draws(second_images, resamples, seed + 1))]
    return _intervals(first(np.arange(len(first_images))), second(np.arange(len(second_images))), found,
                      min(len(set(first_images)), len(set(second_images))), level)


def _intervals(first: dict, second: dict, found: list[tuple[dict, dict]], n_images: int,
               level: float) -> dict[str, Difference]:
    intervals = {}
    for name in first:
        values = np.array([b[name] - a[name] for a, b in found])
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        intervals[name] = Difference(first[name], second[name], float(low), float(high), float(values.std()), n_images,
                                     level)
    return intervals
