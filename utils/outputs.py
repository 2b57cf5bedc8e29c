"""What inference writes for a document, and how it is known later that all of it was written."""

import hashlib
import json
import os
from pathlib import Path

import numpy as np

from utils.documents import Source
from utils.drawing import draw_overlay
from utils.errors import DataError
from utils.exports.hocr import hocr
from utils.exports.report import page_section
from utils.exports.tables import table, txt
from utils.files import file_hash, replace_file, write_json
from utils.images import save_image
from utils.records import failed, one_line

FORMATS = ("json", "txt", "csv", "hocr", "pdf")
BOOKS = ".docmarks"  # folder inside the output: a note of each finished document, and its part of the report
WRITERS = {"txt": txt, "csv": table, "hocr": hocr}  # record -> text; they need text that was read


class DocumentWriter:
    """Writes a document's files below `output`, each whole or not at all: a page's by add(), the rest by finish().

    formats: some of FORMATS; JSON is always written, for the run is summed up from it. overlays, report: whether
    NAME_pN_overlay.jpg and the pages of the report are wanted; has_text: whether a model read text.
    """

    def __init__(self, output: Path, source: Source, record: dict, formats: list[str], overlays: bool, report: bool,
                 has_text: bool):
        self.output, self.source, self.record = output, source, record
        self.formats = [name for name in formats if name not in ("json", "pdf") and has_text]
        self.overlays, self.sections = overlays, [] if report else None
        self.files: list[str] = []
        self.pdf = None
        if "pdf" in formats:
            from utils.exports.pdf import SearchablePdf  # its library is needed for nothing else
            self.pdf = SearchablePdf(source.name)

    def add(self, page: dict, image: np.ndarray | None, strokes: np.ndarray | None) -> None:
        """A page's record, joined to the document's; the page upright (H, W, 3) uint8, strokes (H, W) uint8."""
        self.record["pages"].append(page)
        start = f"{self.source.stem}_p{page['page']}"
        try:
            if strokes is not None:
                save_image(self.path(f"{start}_strokes.png"), strokes)
            if image is not None and self.overlays:
                save_image(self.path(f"{start}_overlay.jpg"), draw_overlay(image, page, strokes))
            if self.sections is not None:
                self.sections.append(page_section(self.source.stem, self.source.name, image, page, strokes))
            if self.pdf:
                self.pdf.add(image, page)
        except DataError:  # a full disk: no other document would fare better
            raise
        except Exception as error:  # nothing that stands on a page may end the run
            page["error"] = page["error"] or f"could not be drawn ({one_line(error)})"

    def finish(self) -> None:
        for name in self.formats:
            replace_file(self.path(f"{self.source.stem}.{name}"), WRITERS[name](self.record))
        if self.pdf and self.record["pages"]:
            self.pdf.save(self.path(f"{self.source.stem}.pdf"))
        if self.sections is not None:
            write_json(self.path(sections_file(self.source.stem)), self.sections)
        write_json(self.path(f"{self.source.stem}.json"), self.record)

    def path(self, name: str) -> Path:
        """Where a file goes. Raises DataError where a link in the output folder would lead it outside."""
        path = self.output / name
        inside = Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(self.output))
        if not inside or path.is_symlink():
            raise DataError(f"{path}: a link leads it out of {self.output}; way out: remove it, or another --output")
        self.files.append(name)
        return path


def sections_file(stem: str) -> str:
    return f"{BOOKS}/{stem}.report.json"


def read_sections(output: Path, stem: str) -> list[dict]:
    return json.loads((output / sections_file(stem)).read_text(encoding="utf-8"))


class Books:
    """A note of each document that was read without an error: the hash of its source, the settings and weights it was
    read with, and its files with their sizes. The note is written behind the files, so what it names is whole.

    settings: plain values; whatever changes what is found or written belongs in there.
    """

    def __init__(self, output: Path, settings: dict):
        self.output = output
        self.key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    def finish(self, writer: DocumentWriter) -> None:
        if not failed(writer.record):
            sizes = {name: (self.output / name).stat().st_size for name in writer.files}
            note = {"source": file_hash(writer.source.path), "settings": self.key, "files": sizes}
            write_json(writer.path(f"{BOOKS}/{writer.source.stem}.note.json"), note)

    def has(self, source: Source) -> bool:
        """Whether the document as it is now was read with these settings, and its files are still there."""
        try:
            note = json.loads((self.output / BOOKS / f"{source.stem}.note.json").read_text(encoding="utf-8"))
            if note["settings"] != self.key:
                return False
            whole = all((self.output / name).stat().st_size == size for name, size in note["files"].items())
            record = json.loads((self.output / f"{source.stem}.json").read_text(encoding="utf-8"))
            return whole and record["source"] == source.name and note["source"] == file_hash(source.path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False  # no note, or one that was tampered with
