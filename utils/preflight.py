"""A check before the first step: the truth itself, sent through the whole pipeline, must score about 1."""

import time
from typing import Callable, Sequence

from utils.errors import DataError

MAX_ITEMS = 200
LOWEST_SCORE = 0.95


def check_pipeline(name: str, items: Sequence, score: Callable[[Sequence], float], way_out: str) -> str:
    """Score the truth of at most 200 items, spread evenly over `items`; returns a line for the console and the card.

    score(items) sends truth -> transform -> targets -> decode -> metric and returns a value in [0, 1]. Raises DataError
    with `way_out` where it is under 0.95: a model could not do better than that either.
    """
    begun = time.perf_counter()
    step = max(len(items) / MAX_ITEMS, 1.0)
    sample = [items[int(i * step)] for i in range(min(len(items), MAX_ITEMS))]
    value = score(sample)
    if value < LOWEST_SCORE:
        raise DataError(f"preflight: the truth of {name}, sent through the whole pipeline, scores only {value:.3f} "
                        f"(at least {LOWEST_SCORE} is needed): {way_out}; --no-preflight goes on all the same")
    return f"{name}: truth scores {value:.3f} on {len(sample)} of {len(items)} items ({time.perf_counter() - begun:.1f} s)"
