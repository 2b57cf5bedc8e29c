"""Decodes and renders pages in a process of its own, so that a file that hangs or crashes a decoder costs one page.

Started by utils.page_stream. Requests are lines of JSON on standard input, {"path", "page"}, page 0 for the number of
pages only; each is answered by a line of JSON on standard output, followed by as many bytes of pixels as it says. Ends
when its input does.
"""

import json
import signal
import sys
from pathlib import Path
from typing import BinaryIO

import numpy as np

from utils.documents import Document, open_document
from utils.errors import DataError

BASE_MEMORY, BYTES_PER_PIXEL = 4 << 30, 48  # what a decoder may take: far above any honest page within the limits


def limit_memory(max_pixels: int) -> None:
    """A bomb that hides its size ends this process, and not the machine."""
    try:
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (BASE_MEMORY + BYTES_PER_PIXEL * max_pixels,) * 2)
    except (ImportError, ValueError, OSError):  # no such limits on this system
        pass


class Opener:
    """Keeps the last document open: its pages are asked for one after the other."""

    def __init__(self, limits: dict):
        self.limits, self.path = limits, ""
        self.document: Document | None = None

    def open(self, path: str) -> Document:
        if path != self.path:
            if self.document:
                self.document.close()
            self.path, self.document = "", None
            self.document = open_document(Path(path), **self.limits)
            self.path = path
        return self.document


def answer(opener: Opener, request: dict, out: BinaryIO) -> None:
    pixels = b""
    try:
        document = opener.open(request["path"])
        header = {"page_count": document.page_count, "wanted": document.wanted}
        if request["page"]:
            page = document.page(request["page"])
            header |= {"dpi": page.dpi, "error": page.error, "shape": None if page.image is None else page.image.shape}
            pixels = b"" if page.image is None else np.ascontiguousarray(page.image).data
    except DataError as error:
        header = {"failed": str(error)}
    except Exception as error:  # what a library made of a broken file
        header = {"failed": f"{request['path']}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    out.write(json.dumps(header).encode() + b"\n")
    out.write(pixels)
    out.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    limits = json.loads(sys.argv[1])
    limit_memory(limits["max_pixels"])
    out, opener = sys.stdout.buffer, Opener(limits)
    out.write(b"ready\n")
    out.flush()
    for line in sys.stdin.buffer:
        answer(opener, json.loads(line), out)


if __name__ == "__main__":
    main()
