"""Checks before the first step: what would cost a training is found and named in seconds.

Nothing here knows a model or a data set: a script hands in callables, which take items of its index.
"""

import time
from collections import Counter
from functools import reduce
from operator import add
from pathlib import Path
from typing import Callable, Iterable, Mapping, Sequence

import numpy as np

from utils.errors import DataError
from utils.frames import spread
from utils.shared_files import check_shared

MAX_ITEMS = 200
LOWEST_SCORE = 0.95
LEAST_LETTER = 10  # pixels in height that a small letter needs; 10 to 15 is the rule
LEAST_STROKE = 2  # pixels in width: a pen's stroke is about a sixth of its letters' height
SMALL = 10  # small letters: the lowest so many per cent


def run_checks(splits: Mapping[str, Sequence], *, files: Callable[[Sequence], Iterable[Path]],
               truth: Callable[[Sequence], float], way_out: str, place: Callable[[str, Sequence], list[str]],
               lost: Callable[[str, Sequence], Counter], notes: Callable[[Sequence], list[str]],
               most: int = MAX_ITEMS) -> str:
    """Run all checks on the items of each split, print their lines, and return them for the card.

    files(items): their files, which no two splits may share. place(split, items): lines that say how well labels lie on
    their images. truth(items): score of the truth of at most `most` items, see check_pipeline; way_out: what to do
    where it is low. lost(split, items): how many labels are lost, by reason. notes(items of all splits): lines about letters
    and strokes in pixels, and what else is worth knowing. Raises DataError at the first fault that no training should
    start with.
    """
    begun = time.perf_counter()
    lines = [check_shared({split: files(items) for split, items in splits.items()})]
    for split, items in splits.items():
        lines += [*place(split, items), check_pipeline(split, items, truth, way_out, most)]
    lines += lost_table({split: lost(split, items) for split, items in splits.items()})
    lines += notes(reduce(add, splits.values()))
    lines.append(f"took {time.perf_counter() - begun:.1f} s")
    print("\n".join(f"preflight: {line}" for line in lines))
    return "\n  * ".join(["", *lines])


def check_pipeline(name: str, items: Sequence, score: Callable[[Sequence], float], way_out: str,
                   most: int = MAX_ITEMS) -> str:
    """Score the truth of at most `most` items, spread evenly over `items`; returns a line for the console and the card.

    score(items) sends truth -> transform -> targets -> decode -> metric and returns a value in [0, 1]. Raises DataError
    with `way_out` where it is under 0.95: a model could not do better than that either.
    """
    if not items:
        return f"{name}: nothing to score"
    begun = time.perf_counter()
    sample = spread(items, most)
    value = score(sample)
    if value < LOWEST_SCORE:
        raise DataError(f"preflight: the truth of {name}, sent through the whole pipeline, scores only {value:.3f} "
                        f"(at least {LOWEST_SCORE} is needed): {way_out}; --no-preflight goes on all the same")
    seconds = time.perf_counter() - begun
    return f"{name}: truth scores {value:.3f} on {len(sample)} of {len(items)} items ({seconds:.1f} s)"


def lost_table(lost: Mapping[str, Counter]) -> list[str]:
    """A line for each reason why labels are lost, with its count in each split; lines of zeros are left out."""
    reasons = dict.fromkeys(reason for counts in lost.values() for reason, count in counts.items() if count)
    rows = [f"lost, {reason}: " + ", ".join(f"{split} {counts[reason]}" for split, counts in lost.items())
            for reason in reasons]
    return rows or ["nothing is lost"]


def check_letters(what: str, pixels: np.ndarray, flags: Mapping[str, int], divisor: int = 32,
                  least: float = LEAST_LETTER) -> str:
    """A line about the size of what is small, and where that is too small a warning with the size that would do.

    what: "letters are {} px high"; pixels: sizes at the chosen flags; flags: the sizes by flag that they grow with,
    rounded up to multiples of `divisor`; empty where no flag can make them larger.
    """
    if not len(pixels):
        return what.format("?") + ": there are none"
    small, typical = np.percentile(pixels, [SMALL, 50])
    chosen = " ".join(f"{flag} {value}" for flag, value in flags.items())
    line = f"{what.format(f'{small:.1f}')} ({typical:.1f} in the middle)" + (f" at {chosen}" if chosen else "")
    rule = f"{least} to {least * 1.5:g} px are needed" if least == LEAST_LETTER else f"{least} px are needed"
    if small >= least:
        return f"{line}; {rule}"
    wanted = " ".join(f"{flag} {int(np.ceil(value * least / small / divisor)) * divisor}"
                      for flag, value in flags.items())
    return f"warning: {line}; {rule}: " + (f"{wanted} would give them" if wanted else "no flag can give them")
