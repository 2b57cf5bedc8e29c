"""Pages of many documents in order, decoded and rendered ahead by processes beside the one that reads them."""

import json
import os
import subprocess
import sys
import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Iterable, Iterator

import numpy as np

from utils.documents import Page, Source

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Fetched:
    """A page of a document, or the news that the document cannot be opened (`failed`, and no page). page_count: of the
    file; wanted: how many pages of it come in all, 0 where it cannot be opened."""

    source: Source
    page: Page | None
    page_count: int = 0
    wanted: int = 0
    failed: str | None = None

    @property
    def last(self) -> bool:
        """Whether nothing more comes of this document."""
        return self.page is None or self.page.number >= self.wanted


def windows(items: Iterable[Fetched], size: int) -> Iterator[list[Fetched]]:
    """The items in lists of `size`, the last one shorter."""
    items = iter(items)
    while window := list(islice(items, size)):
        yield window


@dataclass
class _Place:
    """A page's place in the line. page_count, wanted: of its document, known behind the first page."""

    source: Source
    number: int = 1
    page_count: int = 0
    wanted: int = 0
    future: Future | None = None


class PageStream:
    """with PageStream(...) as stream: for fetched in stream.pages(sources)

    workers: processes (1 or more); limits: dpi, max_pages and max_pixels as open_document takes them; timeout: seconds
    that a page may take, after which its process is ended and the page gets an error. At most 2 pages a worker lie
    ready.
    """

    def __init__(self, workers: int, limits: dict, timeout: float):
        self.limits, self.timeout, self.ahead = limits, timeout, 2 * workers
        self.pool = ThreadPoolExecutor(workers)  # each thread talks to a process of its own
        self.mine = threading.local()
        self.processes: list[_Worker] = []

    def __enter__(self) -> "PageStream":
        for _ in range(self.pool._max_workers):  # they start while the models are loaded
            self.pool.submit(self._worker)
        return self

    def __exit__(self, *_) -> None:
        self.pool.shutdown(wait=False, cancel_futures=True)
        for worker in list(self.processes):
            worker.process.kill()  # who waits for its answer gets none
        self.pool.shutdown()
        for worker in self.processes:  # also one that was just being started
            worker.end()

    def pages(self, sources: Iterable[Source]) -> Iterator[Fetched]:
        """Every wanted page of every source, in order."""
        waiting, line = iter(sources), deque()
        while True:
            while len(line) < self.ahead and (source := next(waiting, None)):
                line.append(_Place(source))
            if not line:
                return
            self._ask(line)
            fetched = line[0].future.result()
            line.popleft()
            if fetched.page and fetched.page.number == 1:  # now it is known how many there are
                line.extendleft(_Place(fetched.source, number, fetched.page_count, fetched.wanted)
                                for number in range(fetched.wanted, 1, -1))
                self._ask(line)
            yield fetched

    def _ask(self, line: deque) -> None:
        """Ask for the next pages. The first in line is asked for whatever lies ready: others wait for it."""
        busy = sum(place.future is not None for place in line)
        for number, place in zip(range(self.ahead), line):
            if place.future is None and (busy < self.ahead or number == 0):
                place.future = self.pool.submit(self._fetch, place)
                busy += 1

    def _worker(self) -> "_Worker":
        worker = getattr(self.mine, "worker", None)
        if worker is None or worker.process.poll() is not None:
            worker = self.mine.worker = _Worker(self.limits)
            self.processes.append(worker)
        return worker

    def _fetch(self, place: _Place) -> Fetched:
        source, number = place.source, place.number
        header, image, lost = self._worker().fetch(source.path, number, self.timeout)
        known = {"page_count": place.page_count, "wanted": place.wanted}
        if number == 1:  # whether there are more pages than one that hung or crashed is asked without reading any
            known |= header if not lost else self._worker().fetch(source.path, 0, self.timeout)[0]
        error = lost or header.get("failed")
        if not known["wanted"]:
            return Fetched(source, None, failed=error)
        page = Page(number, image, None if error else header["dpi"], error or header["error"])
        return Fetched(source, page, known["page_count"], known["wanted"])


class _Worker:
    """utils.page_worker in a process, and the talk with it."""

    def __init__(self, limits: dict):
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen([sys.executable, "-m", "utils.page_worker", json.dumps(limits)],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                                        env=environment, start_new_session=True)
        self.ready = False

    def fetch(self, path: Path, number: int, timeout: float) -> tuple[dict, np.ndarray | None, str | None]:
        """(its answer, pixels (H, W, 3) uint8, why there is no answer)."""
        if not self.ready:  # starting is not the page's time
            self.ready = self.process.stdout.readline() == b"ready\n"
        late = threading.Event()
        alarm = threading.Timer(timeout, lambda: (late.set(), self.process.kill()))
        alarm.start()
        try:
            self.process.stdin.write(json.dumps({"path": os.fspath(path), "page": number}).encode() + b"\n")
            self.process.stdin.flush()
            header = json.loads(self.process.stdout.readline())
            shape = header.get("shape")
            image = None
            if shape:
                image = np.empty(shape, np.uint8)
                if self.process.stdout.readinto(memoryview(image).cast("B")) != image.size:
                    raise EOFError
            return header, image, None
        except (OSError, ValueError, EOFError):  # a broken pipe, an empty line
            self.process.kill()
            status = self.process.wait()
            return {}, None, (f"took longer than {timeout:g} s; way out: a higher --timeout" if late.is_set() else
                              f"the decoder crashed (status {status}), as broken and malicious files make it")
        finally:
            alarm.cancel()
            if late.is_set():  # also where it rang just behind the answer: the next page starts another process
                self.process.wait()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        with suppress(BrokenPipeError):  # a request that had not gone out is not missed
            self.process.stdin.close()
        self.process.stdout.close()
