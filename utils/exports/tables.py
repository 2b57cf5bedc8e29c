"""A document's record as plain text and as a table."""

import csv
import io

from utils.layout import plain_text

COLUMNS = ("page", "kind", "line", "paragraph", "text", "score", "x1", "y1", "x2", "y2", "polygon")


def txt(record: dict) -> str:
    """Lines and paragraphs, pages parted by form feeds."""
    return plain_text([page["text"] for page in record["pages"]])


def table(record: dict) -> str:
    """CSV with one row for each text box in reading order, each grouped mark and each QR code of a document, under the
    header COLUMNS. kind: text, mark (text is its class) or qr (text is what it says); x1 to y2: the upright box round
    it in pixels; polygon: `x,y x,y ...`. It begins with a byte order mark: spreadsheets want one.
    """
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for page in record["pages"]:
        for text in page["text"]:
            writer.writerow([page["page"], "text", text["line"], text["paragraph"], text["text"], text["score"],
                             *_place(text["polygon"])])
        for mark in page["marks"]["grouped"]:
            x1, y1, x2, y2 = mark["box"]
            corners = [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]
            writer.writerow([page["page"], "mark", "", "", mark["class_name"], mark["confidence"], *_place(corners)])
        for code in page["qr"]:
            writer.writerow([page["page"], "qr", "", "", code["payload"], "", *_place(code["corners"])])
    return "\ufeff" + out.getvalue()


def _place(points: list[list[float]]) -> list:
    xs, ys = zip(*points)
    return [min(xs), min(ys), max(xs), max(ys), " ".join(f"{x:g},{y:g}" for x, y in points)]
