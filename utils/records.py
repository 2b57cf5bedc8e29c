"""What was read, as plain values for JSON: a record of each document (document.schema.json), and one of the run."""

from collections import Counter

import numpy as np

from utils.documents import Page

VERSION = 2  # 2: the words of a text


def document_record(name: str, tasks: list[str]) -> dict:
    """A document of which nothing is known yet. tasks: what is looked for; what is not stays empty on its pages."""
    return {"version": VERSION, "source": name, "tasks": list(tasks), "page_count": 0, "error": None, "pages": []}


def page_record(page: Page) -> dict:
    """A page on which nothing was found yet, or that could not be read. Coordinates in it are pixels of the upright
    page: "rotation" says by how many degrees clockwise it was turned, None where nobody looked."""
    height, width = (None, None) if page.image is None else page.image.shape[:2]
    return {"page": page.number, "width": width, "height": height, "dpi": page.dpi, "rotation": None,
            "error": page.error, "text": [],
            "marks": {"raw": [], "grouped": []}, "qr": [], "strokes": None}


def one_line(error: Exception) -> str:
    """What a library raised on a page, short and without line breaks."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def text_record(polygon: np.ndarray, line: int, paragraph: int, box_score: float,
                reading: tuple[str, float] | None, words: list[tuple[str, np.ndarray]]) -> dict:
    """polygon (N, 2); line, paragraph: their numbers on the page, from 0; reading: (text, score), or None where no
    model reads: then "text" is None and "score" that of the box; words: (word, its corners (4, 2)) of the text."""
    text, score = reading or (None, box_score)
    return {"polygon": rounded(polygon, 1), "text": text, "score": rounded(score, 4), "line": int(line),
            "paragraph": int(paragraph), "box_score": rounded(box_score, 4),
            "words": [{"text": word, "polygon": rounded(quad, 1)} for word, quad in words]}


def mark_record(mark: dict) -> dict:
    """A raw or a grouped detection with its numbers rounded: boxes to hundredths of a pixel."""
    return mark | {"confidence": rounded(mark["confidence"], 4), "box": rounded(mark["box"], 2)}


def code_record(code: dict) -> dict:
    return code | {"corners": rounded(code["corners"], 1)}


def rounded(values, digits: int):
    """A float, or nested lists of floats. -0.0 becomes 0.0."""
    return (np.round(np.asarray(values, np.float64), digits) + 0.0).tolist()


def without_path(error: Exception | str, source: object) -> str:
    """The message without where the document lies on this machine, which is in the record's "source" already."""
    return str(error).removeprefix(f"{source}: ").replace(str(source), "the file")


def limit_note(page_count: int, wanted: int) -> str | None:
    """The error of a document that has more pages than were wanted of it."""
    if page_count <= wanted:
        return None
    return f"has {page_count} pages, of which the first {wanted} were read (--max-pages)"


def failed(record: dict) -> bool:
    """Whether anything of the document could not be read."""
    return record["error"] is not None or any(page["error"] is not None for page in record["pages"])


def run_record(settings: dict) -> dict:
    """results.json before the first document. settings: the flags that decide what is found."""
    counts = ("documents", "failed_documents", "pages", "failed_pages", "text_boxes", "raw_detections",
              "merged_detections", "qr_codes", "unreadable_qr_codes")
    return {"version": VERSION, "settings": settings,
            "summary": dict.fromkeys(counts, 0) | {"raw_by_class": {}, "merged_by_class": {}},
            "documents": [], "raw_detections": [], "merged_detections": []}


def add_document(run: dict, record: dict, output: str) -> None:
    """Add a document's detections and counts. output: its JSON file, relative to results.json."""
    pages = record["pages"]
    counts = {"pages": len(pages), "failed_pages": sum(page["error"] is not None for page in pages),
              "text_boxes": sum(len(page["text"]) for page in pages),
              "qr_codes": sum(len(page["qr"]) for page in pages),
              "unreadable_qr_codes": sum(code["status"] == "unreadable" for page in pages for code in page["qr"])}
    for kind, key, by_class in (("raw", "raw_detections", "raw_by_class"),
                                ("grouped", "merged_detections", "merged_by_class")):
        marks = [{"source": record["source"], "page": page["page"]} | mark
                 for page in pages for mark in page["marks"][kind]]
        run[key] += marks
        counts[key] = len(marks)
        classes = Counter(run["summary"][by_class]) + Counter(mark["class_name"] for mark in marks)
        run["summary"][by_class] = dict(sorted(classes.items()))
    run["documents"].append({"source": record["source"], "output": output, "error": record["error"]} | counts)
    for name, value in (counts | {"documents": 1, "failed_documents": int(failed(record))}).items():
        run["summary"][name] += value


def summary_line(run: dict) -> str:
    """The run in one line for the console."""
    total = run["summary"]
    unreadable = f" ({total['unreadable_qr_codes']} unreadable)" if total["unreadable_qr_codes"] else ""
    return (f"{counted(total['documents'], 'document')} ({total['failed_documents']} with errors), "
            f"{counted(total['pages'], 'page')}: {counted(total['text_boxes'], 'text box')}, "
            f"{counted(total['raw_detections'], 'raw mark')} grouped to {total['merged_detections']}, "
            f"{counted(total['qr_codes'], 'QR code')}{unreadable}")


def counted(number: int, noun: str) -> str:
    """'1 page', '2 pages', '0 boxes'."""
    return f"{number} {noun}" + ("" if number == 1 else "es" if noun.endswith("x") else "s")
