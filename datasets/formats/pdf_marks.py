"""Marks on the pages of PDFs, as one JSON file has them:

    {"letter.pdf": {"page_1": {
        "page_size": {"width": 1654, "height": 2339},
        "annotations": [{"annotation_1": {"category": "stamp",
                                          "bbox": {"x": 10, "y": 20, "width": 300, "height": 200}}}]}}}

Sizes and boxes may also be lists, [width, height] and [x, y, width, height], in pixels of that page size. A page that
is not named, or has no annotations, has no marks.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from datasets.formats.marks import Mark
from utils.errors import DataError


@dataclass
class MarkedPage:
    """size: (height, width) in pixels that the boxes are in."""

    size: tuple[int, int]
    marks: list[Mark] = field(default_factory=list)
    bad_marks: list[tuple[str, str]] = field(default_factory=list)  # (where, reason) of those that do not parse


def read_pdf_marks(file: Path) -> dict[str, dict[int, MarkedPage]]:
    """{PDF's name: {page from 1: its marks}}. Raises DataError where the file is not JSON of the form above; a mark
    that does not parse is one of its page's bad_marks."""
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON ({error})") from None
    if not isinstance(content, dict) or not content:
        raise DataError(f"{file}: must hold an object {{PDF: {{page_1: {{page_size, annotations}}}}}}")
    documents = {}
    for name, pages in content.items():
        if not isinstance(pages, dict):
            raise DataError(f"{file}: {name}: must hold an object of pages")
        documents[name] = {_page_number(file, name, key): _read_page(f"{file}: {name} {key}", page)
                           for key, page in pages.items()}
    return documents


def _page_number(file: Path, name: str, key: str) -> int:
    match = re.fullmatch(r"(?:page_?)?([1-9]\d{0,5})", key)
    if not match:
        raise DataError(f"{file}: {name}: {key!r} is no page; pages are called page_1, page_2, ...")
    return int(match[1])


def _read_page(where: str, page) -> MarkedPage:
    if not isinstance(page, dict):
        raise DataError(f"{where}: must hold page_size and annotations")
    try:
        width, height = _numbers(page.get("page_size"), ("width", "height"))
    except (TypeError, ValueError):
        raise DataError(f"{where}: page_size must be {{width, height}} in pixels") from None
    if not (1 <= width < 1e5 and 1 <= height < 1e5):
        raise DataError(f"{where}: page_size {width:g} x {height:g} is no size in pixels")
    entries = page.get("annotations", [])
    if not isinstance(entries, list):
        raise DataError(f"{where}: annotations must be a list")
    marked = MarkedPage((round(height), round(width)))
    for number, entry in enumerate(entries, start=1):
        named = entry.items() if isinstance(entry, dict) and "bbox" not in entry else [(f"annotation {number}", entry)]
        for key, annotation in named:
            try:
                x, y, w, h = _numbers(annotation["bbox"], ("x", "y", "width", "height"))
                marked.marks.append(Mark(f"{where} {key}", str(annotation["category"]), (x, y, x + w, y + h)))
            except (KeyError, TypeError, ValueError):
                marked.bad_marks.append((f"{where} {key}", "has no category and bbox {x, y, width, height}"))
    return marked


def _numbers(value, keys: tuple[str, ...]) -> list[float]:
    """The values of an object by its keys, or of a list. Raises KeyError, TypeError or ValueError."""
    values = [value[key] for key in keys] if isinstance(value, dict) else list(value)
    if len(values) != len(keys) or any(isinstance(part, (bool, str)) for part in values):
        raise ValueError
    return [float(part) for part in values]
