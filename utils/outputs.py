"""What inference writes for a document, and how it is known later that all of it was written."""

import hashlib
import json
import os
import re
from pathlib import Path

import numpy as np

from utils.documents import BOOKS, Source
from utils.drawing import draw_overlay
from utils.errors import DataError
from utils.exports.hocr import hocr
from utils.exports.report import page_section, write_report
from utils.exports.tables import table, txt
from utils.files import file_hash, remove_file, remove_unfinished, replace_file, write_json
from utils.images import save_image
from utils.records import add_document, counted, failed, one_line, run_record, summary_line

FORMATS = ("json", "txt", "csv", "hocr", "pdf")
WRITTEN = ("formats", "report", "overlays")  # settings that decide what is written of what was found
WRITERS = {"txt": txt, "csv": table, "hocr": hocr}  # record -> text


def check_output(output: Path) -> None:
    """Raises DataError where the output folder, or one that it is to lie in, is a file."""
    for path in (output, *output.parents):
        if path.exists() and not path.is_dir():
            what = "is a file" if path == output else f"cannot be written: {path} is a file"
            raise DataError(f"--output {output} {what}; way out: a folder")


def clear_unfinished(output: Path) -> None:
    """Remove what killed runs left half written long ago, in a folder that is known to be one of ours, and say so."""
    removed = remove_unfinished(output) if (output / BOOKS).is_dir() else 0
    if removed:
        print(f"removed: {counted(removed, 'unfinished file')} of a run that was killed")


def wanted_formats(named: list[str] | None, models) -> list[str]:
    """Those of FORMATS to write: the ones that are named, else JSON and, where text is read, txt.

    models: names of those that are used. Raises DataError where a named format would hold nothing.
    """
    if named is None:
        return ["json", "txt"] if "recognition" in models else ["json"]
    if "recognition" not in models and (empty := [name for name in named if name in ("txt", "hocr")]):
        raise DataError(f"--formats {','.join(empty)}: for text, and none is read (no text in --tasks, or no recognition "
                        "weights); way out: other formats")
    if "csv" in named and not {"detection", "yolo"} & set(models):
        raise DataError("--formats csv: for text and marks, and neither is looked for; way out: other formats")
    return named


class DocumentWriter:
    """Writes a document's files below `output`, each whole or not at all: a page's by add(), the rest by finish().

    formats: some of FORMATS; JSON is always written, for the run is summed up from it. overlays, report: whether
    NAME_pN_overlay.jpg and the pages of the report are wanted.
    """

    def __init__(self, output: Path, source: Source, record: dict, formats: list[str], overlays: bool, report: bool):
        self.output, self.source, self.record = output, source, record
        self.formats = [name for name in formats if name in WRITERS]
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

    settings: plain values; whatever changes what is found or written belongs in there. removed: how many files of earlier
    readings are gone; left: those that lie beside what was found now with other settings; read_otherwise: how many documents `has` denied because they were read with other settings.
    """

    def __init__(self, output: Path, settings: dict):
        self.output, self.removed, self.left, self.read_otherwise = output, 0, [], 0
        self.key = _hash(settings)
        self.found = _hash({name: value for name, value in settings.items() if name not in WRITTEN})

    def finish(self, writer: DocumentWriter) -> None:
        """Note what the document's reading wrote. Where the document has changed since, or could not be read, what an
        earlier reading wrote and this one did not is removed; files of other formats of the same document stay."""
        note = f"{BOOKS}/{writer.source.stem}.note.json"
        content, written = None if failed(writer.record) else file_hash(writer.source.path), list(writer.files)
        earlier = self._earlier(writer.source.stem)
        for name in sorted(set(earlier["files"]) - set(written)):
            if earlier["source"] != content:
                self.removed += remove_file(writer.path(name))
            elif earlier["found"] != self.found and not name.startswith(BOOKS) and (self.output / name).is_file():
                self.left.append(name)
        if content is None:
            remove_file(writer.path(note))
            return
        sizes = {name: (self.output / name).stat().st_size for name in written}
        write_json(writer.path(note), {"source": content, "settings": self.key, "found": self.found, "files": sizes})

    def _earlier(self, stem: str) -> dict:
        """{"source": the document's hash, "found": that of the settings that decide what is found, "files": what an earlier
        reading wrote}, as its note has them; a name that could be another's is left out."""
        try:
            note = json.loads((self.output / BOOKS / f"{stem}.note.json").read_text(encoding="utf-8"))
            own = re.compile(rf"({re.escape(BOOKS)}/)?{re.escape(stem)}(\.|_p)[^/]*")
            files = [name for name in note["files"] if own.fullmatch(name)]
            return {"source": note["source"], "found": note.get("found"), "files": files}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return {"source": None, "found": None, "files": []}

    def has(self, source: Source) -> bool:
        """Whether the document as it is now was read with these settings, and its files are still there."""
        try:
            note = json.loads((self.output / BOOKS / f"{source.stem}.note.json").read_text(encoding="utf-8"))
            if note["settings"] != self.key:
                self.read_otherwise += 1
                return False
            whole = all((self.output / name).stat().st_size == size for name, size in note["files"].items())
            record = json.loads((self.output / f"{source.stem}.json").read_text(encoding="utf-8"))
            return whole and record["source"] == source.name and note["source"] == file_hash(source.path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return False  # no note, or one that was tampered with


def _hash(settings: dict) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def sum_up(output: Path, sources: list[Source], settings: dict, report: bool) -> dict:
    """Write results.json and, where `report`, index.html from the documents' own files, whichever process or run wrote
    them. Returns what results.json holds."""
    run, documents = run_record(settings), []
    for source in sources:
        record = json.loads((output / f"{source.stem}.json").read_text(encoding="utf-8"))
        add_document(run, record, f"{source.stem}.json")
        documents += [(source.stem, record, f"{source.stem}.json")] * report
    write_json(output / "results.json", run)
    if report:
        write_report(output / "index.html", documents, lambda stem: read_sections(output, stem), summary_line(run))
    return run
