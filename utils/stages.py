"""Where a run's time goes, by stage."""

import time
from collections import defaultdict
from contextlib import contextmanager
from typing import Iterator


class Stages:
    """seconds: wall-clock time by stage, added up. Work that a GPU has not finished is charged to who waits for it."""

    def __init__(self):
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        begun = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - begun
