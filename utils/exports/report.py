"""index.html of a run: every page with its layers, text to be searched, what is doubtful first. One file, no server.

The page sections are drawn while the pages are at hand (page_section) and kept in files; write_report joins them.
"""

import base64
import hashlib
import io
import math
from html import escape
from pathlib import Path
from typing import Callable, Iterable
from urllib.parse import quote

import cv2
import numpy as np
from PIL import Image

from utils.drawing import STROKE_COLOUR, doubt_colour, mark_colour, mark_label
from utils.files import write_replacing
from utils.geometry import text_quad

STYLE, SCRIPT = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
LARGEST_PAGE, LARGEST_THUMBNAIL = 1400, 150  # pixels of the longer side
LAYERS = (("page", "page", True), ("strokes", "strokes", False), ("boxes", "text boxes", True),
          ("words", "text as read", False), ("raw", "raw marks", False), ("grouped", "grouped marks", True),
          ("qr", "QR codes", True))


def page_name(stem: str, number: int) -> str:
    """The anchor of a page, the same in every part of the report."""
    return f"d{hashlib.sha256(stem.encode()).hexdigest()[:10]}-p{number}"


def page_section(stem: str, source: str, image: np.ndarray | None, page: dict, strokes: np.ndarray | None) -> dict:
    """{"thumbnail", "section"}: HTML of one page. image (H, W, 3) uint8 RGB, page: its record in pixels of the image,
    strokes (H, W) uint8, 255 = ink."""
    name, title = page_name(stem, page["page"]), f"{escape(source)}, page {page['page']}"
    error = f"<p class=error>{escape(page['error'])}</p>" if page["error"] else ""
    if image is None:
        return {"thumbnail": f'<a href="#{name}" class=broken title="{title}">{page["page"]}</a>',
                "section": f'<section id="{name}"><h2>{title}</h2>{error}</section>\n'}
    height, width = image.shape[:2]
    layers = [f'<img class=page alt="{title}" loading=lazy src="{jpeg_uri(image, LARGEST_PAGE, 70)}">']
    if strokes is not None:
        layers.append(f'<img class=strokes alt="strokes" loading=lazy src="{strokes_uri(strokes)}">')
    size = f'viewBox="0 0 {width} {height}" font-size="{max(width, height) / 80:.1f}"'
    layers.append(f"<svg {size}>{_svg(name, page)}</svg>")
    turned = f"; turned by {page['rotation']}°" if page["rotation"] else ""
    return {"thumbnail": f'<a href="#{name}" title="{title}"><img alt="{title}" loading=lazy '
                         f'src="{jpeg_uri(image, LARGEST_THUMBNAIL, 60)}"></a>',
            "section": f'<section id="{name}"><h2>{title} <small>{width} × {height}{turned}</small></h2>{error}'
                       f'<div class=sheet style="aspect-ratio:{width}/{height}">{"".join(layers)}</div></section>\n'}


def _svg(name: str, page: dict) -> str:
    groups = []
    for number, text in enumerate(page["text"]):
        colour, points = rgb(doubt_colour(text["score"])), " ".join(f"{x:g},{y:g}" for x, y in text["polygon"])
        tip = f"<title>{escape(text['text'] or '')} ({text['score']:.2f})</title>"
        groups.append(f'<g id="{name}-t{number}" class=text style="--c:{colour}"><polygon points="{points}">{tip}'
                      f"</polygon>{_svg_text(text)}</g>")
    for kind in ("raw", "grouped"):
        for number, mark in enumerate(page["marks"][kind]):
            x1, y1, x2, y2 = mark["box"]
            colour = rgb(mark_colour(mark["class_name"]))
            groups.append(f'<g id="{name}-{kind}{number}" class="mark {kind}" style="--c:{colour}">'
                          f'<rect x="{x1:g}" y="{y1:g}" width="{x2 - x1:g}" height="{y2 - y1:g}"/>'
                          f'<text x="{x1:g}" y="{y1:g}" class=tag>{escape(mark_label(mark))}</text></g>')
    for number, code in enumerate(page["qr"]):
        points = " ".join(f"{x:g},{y:g}" for x, y in code["corners"])
        x, y = code["corners"][3]
        says = code["payload"] if code["status"] == "decoded" else "unreadable QR code"
        groups.append(f'<g id="{name}-q{number}" class="mark qr {code["status"]}" style="--c:{rgb(mark_colour("qr"))}">'
                      f'<polygon points="{points}"/>'
                      f'<text x="{x:g}" y="{y:g}" class=tag dy="1em">{escape(says)}</text></g>')
    return "".join(groups)


def _svg_text(text: dict) -> str:
    """The words where they stand: seen only as a layer of its own, and always there to be selected."""
    if not (text["text"] or "").strip():
        return ""
    quad = text_quad(text["polygon"], text["text"])
    length, height = (max(float(np.linalg.norm(quad[end] - quad[0])), 1.0) for end in (1, 3))
    x, y = quad[3] + 0.2 * (quad[0] - quad[3])
    angle = math.degrees(math.atan2(*(quad[1] - quad[0])[::-1]))
    turn = f' transform="rotate({angle:.1f} {x:.1f} {y:.1f})"' if abs(angle) >= 0.1 else ""
    return (f'<text class=word x="{x:.1f}" y="{y:.1f}" font-size="{0.85 * height:.1f}" textLength="{length:.1f}" '
            f'lengthAdjust="spacingAndGlyphs"{turn}>{escape(text["text"])}</text>')


def doubtful_first(documents: Iterable[tuple[str, dict]]) -> list[tuple[float, str, str, str]]:
    """(score, anchor, where, what) of every error, text and mark of the (stem, record)s, the lowest scores first."""
    items = []
    for stem, record in documents:
        if record["error"]:
            items.append((-1.0, "", record["source"], record["error"]))
        for page in record["pages"]:
            name, where = page_name(stem, page["page"]), f"{record['source']}, p. {page['page']}"
            if page["error"]:
                items.append((-1.0, name, where, page["error"]))
            items += [(text["score"], f"{name}-t{number}", where, said(text))
                      for number, text in enumerate(page["text"])]
            items += [(mark["confidence"], f"{name}-grouped{number}", where, mark["class_name"])
                      for number, mark in enumerate(page["marks"]["grouped"])]
            items += [(-0.5 if code["status"] == "unreadable" else 1.0, f"{name}-q{number}", where,
                       code["payload"] if code["status"] == "decoded" else "unreadable QR code")
                      for number, code in enumerate(page["qr"])]
    return sorted(items, key=lambda item: item[0])  # a stable sort: in the order of the pages where scores are equal


def said(text: dict) -> str:
    if text["text"] is None:
        return "text, not read"
    return text["text"] if text["text"].strip() else "text, read as nothing"


def write_report(path: Path, documents: list[tuple[str, dict, str]], sections_of: Callable[[str], list[dict]],
                 summary: str) -> None:
    """documents: (stem, record, JSON file relative to `path`) in order; sections_of(stem): what page_section gave for
    its pages, read when their turn comes and not kept; summary: the run in one line."""
    policy = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="replace") as out:
            out.write('<!doctype html><html lang="en"><head><meta charset="utf-8">'
                      "<title>docmarks: pages as read</title>"
                      "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
                      f"style-src 'unsafe-inline'; script-src 'sha256-{policy}'\"><style>{STYLE}</style></head><body>"
                      f"<header><h1>docmarks</h1><p>{escape(summary)}</p><form>")
            for layer, label, shown in LAYERS:
                out.write(f'<label><input type=checkbox id="show-{layer}"{" checked" if shown else ""}>{label}</label>')
            out.write('</form></header><nav aria-label="pages">')
            for stem, record, file in documents:
                out.write(f'<h3><a href="{quote(file)}">{escape(record["source"])}</a></h3>')
                out.writelines(page["thumbnail"] for page in sections_of(stem))
            out.write("</nav><main>")
            for stem, record, _ in documents:
                if record["error"]:
                    out.write(f'<section><h2>{escape(record["source"])}</h2>'
                              f'<p class=error>{escape(record["error"])}</p></section>')
                out.writelines(page["section"] for page in sections_of(stem))
            out.write('</main><aside><h2>To check</h2><input type=search id="search" placeholder="search all text">'
                      '<p id="count"></p><ol id="items">')
            for score, anchor, where, what in doubtful_first((stem, record) for stem, record, _ in documents):
                shown, colour = f"{score:.2f}" if score >= 0 else "!", rgb(doubt_colour(max(score, 0)))
                link = f'<a href="#{anchor}">' if anchor else "<a>"
                out.write(f'<li>{link}<b style="--c:{colour}">{shown}</b> <q>{escape(what)}</q> '
                          f"<small>{escape(where)}</small></a></li>")
            out.write(f"</ol></aside><script>{SCRIPT}</script></body></html>\n")

    write_replacing(path, write)


def jpeg_uri(image: np.ndarray, largest: int, quality: int) -> str:
    small = cv2.cvtColor(fit(image, largest), cv2.COLOR_RGB2BGR)
    data = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def strokes_uri(strokes: np.ndarray) -> str:
    """Ink in colour on nothing, as a picture of two colours."""
    picture = Image.fromarray((fit(strokes, LARGEST_PAGE) >= 96).astype(np.uint8), "P")
    picture.putpalette([*STROKE_COLOUR, *STROKE_COLOUR])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=0, bits=1, optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def fit(image: np.ndarray, largest: int) -> np.ndarray:
    scale = largest / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(round(side * scale), 1) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def rgb(colour: tuple[int, int, int]) -> str:
    return "#%02x%02x%02x" % tuple(colour)
