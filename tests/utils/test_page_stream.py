"""Pages decoded by other processes: the same pages in the same order, whatever hangs, crashes or is broken."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from utils.documents import MAX_PIXELS, Source, open_document
from utils.page_stream import PageStream, _Worker

LIMITS = {"dpi": 72.0, "max_pages": 3, "max_pixels": MAX_PIXELS}
NOISE = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)


def frames(count: int, first: int = 0) -> list[Image.Image]:
    return [Image.fromarray(np.roll(NOISE, first + number)) for number in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for number in range(3):
        frames(1, number)[0].save(folder / f"a{number}.png")
    pages = frames(5)
    pages[0].save(folder / "b.tif", save_all=True, append_images=pages[1:])
    pages[0].save(folder / "c.pdf", save_all=True, append_images=pages[1:2], resolution=72)
    (folder / "d.png").write_bytes(b"no image")
    (folder / os.fsdecode(b"e\xff.png")).write_bytes((folder / "a0.png").read_bytes())
    return folder


def sources(folder: Path) -> list[Source]:
    return [Source(path, path.name, path.stem) for path in sorted(folder.iterdir())]


@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_pages_as_without_processes_and_in_order(folder, workers):
    with PageStream(workers, LIMITS, timeout=60) as stream:
        found = list(stream.pages(sources(folder)))
    assert [(f.source.path.name, f.page.number if f.page else None, f.page_count, f.last) for f in found] == [
        ("a0.png", 1, 1, True), ("a1.png", 1, 1, True), ("a2.png", 1, 1, True),
        ("b.tif", 1, 5, False), ("b.tif", 2, 5, False), ("b.tif", 3, 5, True),  # 3 is the limit
        ("c.pdf", 1, 2, False), ("c.pdf", 2, 2, True), ("d.png", None, 0, True),
        (os.fsdecode(b"e\xff.png"), 1, 1, True)]
    for fetched in found:
        if fetched.page is None:
            assert "not a readable image" in fetched.failed
            continue
        expected = open_document(fetched.source.path, **LIMITS).page(fetched.page.number)
        assert (fetched.page.image == expected.image).all() and fetched.page.dpi == expected.dpi


SABOTAGE = """import os, time
from utils import documents
plain = documents.render_page
def render_page(pdf, number, path, dpi, max_pixels):
    if path.name.startswith("hangs") and number == {page}:
        time.sleep(600)
    if path.name.startswith("crashes") and number == {page}:
        os.abort()
    return plain(pdf, number, path, dpi, max_pixels)
documents.render_page = render_page
"""


@pytest.mark.parametrize("page, expected", [(1, [False, True]), (2, [True, False])])
def test_a_page_that_hangs_or_crashes_costs_that_page(folder, tmp_path, monkeypatch, page, expected):
    (tmp_path / "sabotage").mkdir()
    (tmp_path / "sabotage" / "sitecustomize.py").write_text(SABOTAGE.format(page=page))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "sabotage"))
    for name in ("crashes.pdf", "hangs.pdf", "whole.pdf"):
        (tmp_path / name).write_bytes((folder / "c.pdf").read_bytes())
    given = [Source(tmp_path / f"{name}.pdf", name, name) for name in ("crashes", "hangs", "whole")]
    with PageStream(2, LIMITS, timeout=1.0) as stream:
        found = list(stream.pages(given))
        assert [(f.source.name, f.page.number, f.wanted) for f in found] == [
            (name, number, 2) for name in ("crashes", "hangs", "whole") for number in (1, 2)]
        assert [f.page.error is None for f in found] == [*expected, *expected, True, True]
        assert [f.page.image is None for f in found] == [f.page.error is not None for f in found]
        said = {f.source.name: f.page.error for f in found if f.page.error}
        assert "decoder crashed (status -6)" in said["crashes"] and "longer than 1 s" in said["hangs"]
        processes = [worker.process for worker in stream.processes]
    assert all(process.poll() is not None for process in processes)  # none is left behind


def test_leaving_early_leaves_no_process(folder):
    with PageStream(2, LIMITS, timeout=60) as stream:
        next(stream.pages(sources(folder)))
    assert all(worker.process.poll() is not None for worker in stream.processes)


def test_leaving_while_a_process_starts_leaves_none(monkeypatch):
    """The one that is started when the others are ended already."""
    begun, plain = threading.Event(), _Worker.__init__

    def slow(self, limits):
        begun.set()
        time.sleep(0.5)
        plain(self, limits)

    monkeypatch.setattr(_Worker, "__init__", slow)
    with PageStream(1, LIMITS, timeout=60) as stream:
        begun.wait(10)
    assert len(stream.processes) == 1 and stream.processes[0].process.poll() is not None


def test_a_request_that_has_not_gone_out_does_not_spoil_the_end():
    worker = _Worker(LIMITS)
    worker.process.stdin.write(b"half a request")
    worker.end()
    assert worker.process.poll() is not None


def test_no_more_pages_lie_ready_than_were_asked_for(folder, monkeypatch):
    asked = []
    plain = PageStream._fetch
    monkeypatch.setattr(PageStream, "_fetch", lambda self, place: asked.append(place) or plain(self, place))
    with PageStream(1, LIMITS, timeout=60) as stream:
        for number, _ in enumerate(stream.pages(sources(folder)), start=1):
            assert len(asked) <= number + stream.ahead
