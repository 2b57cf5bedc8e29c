"""A document's record as hOCR 1.2 (https://kba.github.io/hocr-spec/1.2/): XHTML with the places in title attributes."""

import math
from html import escape
from itertools import groupby

import numpy as np

from utils.geometry import text_quad
from utils.layout import lines_of

HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN" "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" lang="und">
<head><meta charset="utf-8"/><title>{title}</title><meta name="ocr-system" content="docmarks"/>
<meta name="ocr-capabilities" content="ocr_page ocr_par ocr_line ocrx_word"/></head>
<body>
"""


def hocr(record: dict) -> str:
    """Pages, paragraphs, lines and words, with boxes in pixels of the upright page and confidences from 0 to 100, those of a
    word being its text's."""
    pages = "".join(_page(record["source"], page) for page in record["pages"])
    return HEAD.format(title=xml(record["source"])) + pages + "</body></html>\n"


def xml(text: str) -> str:
    """Escaped, without the control characters that XML has no way to write."""
    return escape("".join(c if c in "\t\n" or c >= " " and c not in "\x7f\ufffe\uffff" else "\ufffd" for c in text))


def _page(source: str, page: dict) -> str:
    name = f"page_{page['page']}"
    file = source.replace("\\", "/").replace('"', "'")
    title = f'image "{file}"; bbox 0 0 {page["width"] or 0} {page["height"] or 0}; ppageno {page["page"] - 1}'
    if page["dpi"]:
        title += f"; scan_res {page['dpi']:.0f} {page['dpi']:.0f}"
    lines = lines_of([text for text in page["text"] if text["text"]])
    paragraphs = [list(group) for _, group in groupby(lines, lambda line: line[0]["paragraph"])]
    body = "".join(_paragraph(f"{name}_par_{number}", part) for number, part in enumerate(paragraphs, start=1))
    return f'<div class="ocr_page" id="{name}" title="{xml(title)}">\n{body}</div>\n'


def _paragraph(name: str, lines: list[list[dict]]) -> str:
    texts = [text for line in lines for text in line]
    body = "".join(_line(f"{name}_line_{number}", line) for number, line in enumerate(lines, start=1))
    return f'<p class="ocr_par" id="{name}" title="{_box(texts)}">\n{body}</p>\n'


def _line(name: str, texts: list[dict]) -> str:
    quad = text_quad(max(texts, key=lambda text: len(text["text"]))["polygon"])
    angle = -math.degrees(math.atan2(*(quad[1] - quad[0])[::-1]))  # hOCR turns against the clock
    title = _box(texts) + (f"; textangle {angle:.1f}" if abs(angle) >= 0.5 else "")
    words = [(word, text["score"]) for text in texts for word in text["words"]]
    body = " ".join(f'<span class="ocrx_word" id="{name}_word_{number}" title="{_box([word])}; '
                    f'x_wconf {round(100 * score)}">{xml(word["text"])}</span>'
                    for number, (word, score) in enumerate(words, start=1))
    return f'<span class="ocr_line" id="{name}" title="{title}">{body}</span>\n'


def _box(items: list[dict]) -> str:
    points = np.concatenate([np.asarray(item["polygon"]) for item in items])
    low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
    return f"bbox {low[0]} {low[1]} {high[0]} {high[1]}"
