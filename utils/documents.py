"""Documents in, pages out: images, multi-page TIFFs and PDFs, found by file, folder or pattern.

Sizes are checked before anything is decoded or rendered, and what is wrong with one page or one document is that page's
or that document's alone.
"""

import glob
import hashlib
import math
import os
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import pypdfium2 as pdfium
from PIL import Image

from utils.errors import DataError
from utils.images import IMAGE_SUFFIXES, image_to_rgb, open_header

DOCUMENT_SUFFIXES = (*IMAGE_SUFFIXES, ".pdf")
MAX_PAGES = 1000
MAX_PIXELS = 100_000_000  # an A3 page at 600 DPI has 70 million
POINTS_PER_INCH = 72
# Image files that say 72 or 96 DPI were written by a program that did not know; real scans say more.
KNOWN_DPI = (99.5, 2400)  # PNG counts dots per metre: its 100 DPI are 99.9998
LONGEST_NAME = 200  # bytes; file systems take 255, and outputs add an ending
RESERVED = {"results"}  # results.json is the whole run's
BOOKS = ".docmarks"  # a folder that holds it holds results: utils.outputs keeps its notes there
TYPES_SAID = 5


@dataclass(frozen=True)
class Source:
    """A document on the disk. name: its path below the folder all sources share, with forward slashes; stem: the same
    without what its outputs may not have, unique in a run: outputs are `stem` and an ending."""

    path: Path
    name: str
    stem: str


@dataclass(frozen=True)
class Page:
    """number counts from 1. image: (H, W, 3) uint8 RGB, upright by its EXIF orientation, or None where `error` says in
    one line why it could not be read. dpi: dots per inch, None where nothing trustworthy says."""

    number: int
    image: np.ndarray | None
    dpi: float | None = None
    error: str | None = None


@dataclass(frozen=True)
class Document:
    """page_count: how many pages the file has; wanted: how many of them the limit allows; page(number): one of these,
    from 1, read now; close(): lets the file go."""

    page_count: int
    wanted: int
    page: Callable[[int], Page]
    close: Callable[[], None] = lambda: None

    @property
    def pages(self) -> Iterator[Page]:
        """Those that the limit allows, read one at a time; the file is closed behind the last."""
        try:
            for number in range(1, self.wanted + 1):
                yield self.page(number)
        finally:
            self.close()


# finding -------------------------------------------------------------------------------------------------------------


def find_sources(sources: list[str], output: Path) -> list[Source]:
    """Every document that the sources name, sorted, each once.

    A source is a file of any name, a folder (searched with its sub folders for DOCUMENT_SUFFIXES; links to folders and
    hidden files are passed by), a pattern such as `scans/**/*.pdf`, or `-`: files and folders, one a line, on standard
    input. Files under `output` are results, not sources, and so are those of earlier runs in folders and patterns; how many
    of them, and of files of other types, are passed by is printed. A sub folder that cannot be read is a source too:
    open_document says what is wrong with it.
    Raises DataError where a source does not exist, cannot be read or holds no document, and where all of them lie under
    `output`.
    """
    results = Path(os.path.realpath(output))
    found, bases, passed = set(), [], _PassedBy(results)
    for source in _with_standard_input(sources):
        files, base = _files_of(source, passed)
        if not files:
            raise DataError(f"{source}: holds no documents ({' '.join(DOCUMENT_SUFFIXES)})"
                            + ("; results of earlier runs are passed by" if passed.results else ""))
        found.update(files)
        bases.append(base)
    paths = sorted(path for path in found if not _lies_in(path, results))
    if not paths:
        raise DataError(f"{', '.join(sources)}: lies inside the output folder {output}; way out: another --output")
    root = os.path.commonpath(bases)
    passed.others -= found  # what one source passes by another may name
    passed.say(root)
    names = [Path(os.path.relpath(path, root)) for path in paths]
    return [Source(path, _readable(name.as_posix()), stem)
            for path, name, stem in zip(paths, names, output_stems(names))]


def _with_standard_input(sources: list[str]) -> list[str]:
    """`-` replaced by the lines of standard input, in which a file's name may be any bytes."""
    if "-" not in sources:
        return sources
    lines = [os.fsdecode(line) for line in sys.stdin.buffer.read().splitlines() if line.strip()]
    if not lines:
        raise DataError("-: standard input names no files; it takes one path a line")
    return [source for source in sources if source != "-"] + lines


def _files_of(source: str, passed: "_PassedBy") -> tuple[list[Path], str]:
    """(absolute files, the absolute folder their names are relative to)."""
    path = Path(os.path.abspath(source))
    if os.path.isdir(path):
        errors: list[OSError] = []
        inside = [Path(folder) / name for folder, _, names in os.walk(path, onerror=errors.append) for name in names]
        closed = [Path(error.filename) for error in errors]
        if path in closed:
            raise DataError(f"{source}: the folder cannot be read ({errors[0].strerror})")
        return passed.documents_among(inside, path) + closed, str(path)
    if os.path.lexists(path):
        return [path], str(path.parent)
    if not glob.has_magic(source):
        raise DataError(f"{source}: no such file or folder; --source takes images, PDFs, folders of them, and patterns")
    files = [Path(os.path.abspath(match)) for match in glob.glob(source, recursive=True)]
    files = passed.documents_among(files, next(folder for folder in path.parents if not glob.has_magic(str(folder))))
    return files, os.path.commonpath([file.parent for file in files]) if files else ""


def _is_document(path: Path) -> bool:
    return path.suffix.lower() in DOCUMENT_SUFFIXES and not path.name.startswith(".") and not os.path.isdir(path)


def _lies_in(path: Path, folder: Path) -> bool:
    return Path(os.path.realpath(path)).is_relative_to(folder)


class _PassedBy:
    """What lies in the sources and is not read. others: files of other types; results: folders of earlier runs; those of
    `output`, this run's, are in neither."""

    def __init__(self, output: Path):
        self.output = output
        self.others: set[Path] = set()
        self.results: set[Path] = set()

    def documents_among(self, files: list[Path], top: Path) -> list[Path]:
        """The documents; what else lies below the folder `top`, which was named itself, is noted."""
        folders = {folder for parent in {file.parent for file in files} for folder in (parent, *parent.parents)
                   if folder != top and folder.is_relative_to(top)}
        results = {folder for folder in folders if os.path.isdir(folder / BOOKS)}
        files = [file for file in files if results.isdisjoint(file.parents)]
        documents = [file for file in files if _is_document(file)]
        self.results |= {folder for folder in results if not _lies_in(folder, self.output)}
        self.others |= {file for file in set(files) - set(documents) if not os.path.isdir(file)
                        and not any(part.startswith(".") for part in file.relative_to(top).parts)
                        and not _lies_in(file, self.output)}
        return documents

    def say(self, root: str) -> None:
        if self.others:
            types = Counter(_readable(path.suffix.lower()) or "without an ending" for path in self.others)
            most = sorted(types.items(), key=lambda item: (-item[1], item[0]))[:TYPES_SAID]
            rest = len(self.others) - sum(number for _, number in most)
            print("passed by: " + ", ".join(f"{number} {name}" for name, number in most)
                  + (f", and {rest} of other types" if rest else ""))
        if self.results:
            names = sorted(_readable(Path(os.path.relpath(folder, root)).as_posix()) for folder in self.results)
            print(f"passed by: {len(names)} folder{'s' * (len(names) > 1)} with results of earlier runs "
                  f"({', '.join(names[:TYPES_SAID])}{', ...' * (len(names) > TYPES_SAID)})")


def output_stems(names: list[Path]) -> list[str]:
    """For each relative path a name for its outputs: without its suffix, unless another document would get the same one
    (`a.png` beside `a.jpg`, also where file systems do not tell `A` from `a`). Too long ones are cut and marked."""
    stems = [_cut(_readable(name.as_posix().removesuffix(name.suffix))) for name in names]
    full = [_cut(_readable(name.as_posix())) for name in names]
    while True:
        count = Counter(stem.casefold() for stem in stems)
        clashes = [i for i, stem in enumerate(stems)
                   if stem != full[i] and (count[stem.casefold()] > 1 or stem.casefold() in RESERVED)]
        if not clashes:
            break
        for i in clashes:
            stems[i] = full[i]
    # What still clashes differs in nothing but case or in characters that could not be kept.
    twice = {stem for stem, n in Counter(stem.casefold() for stem in stems).items() if n > 1} | RESERVED
    return [f"{stem}-{_digest(os.fsencode(name))}" if stem.casefold() in twice else stem
            for stem, name in zip(stems, names)]


def _readable(name: str) -> str:
    """The name as valid text on one line: file systems allow bytes that are not."""
    text = os.fsencode(name).decode("utf-8", "replace")
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def _cut(name: str) -> str:
    folder, _, last = name.rpartition("/")
    if len(last.encode()) <= LONGEST_NAME:
        return name
    last = last.encode()[: LONGEST_NAME - 9].decode("utf-8", "ignore") + "-" + _digest(name.encode())
    return f"{folder}/{last}" if folder else last


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:8]


# reading -------------------------------------------------------------------------------------------------------------


def open_document(source: Path | str | np.ndarray, dpi: float = 200.0, max_pages: int = MAX_PAGES,
                  max_pixels: int = MAX_PIXELS) -> Document:
    """Open an image, a multi-page TIFF or a PDF, whichever the file's content is, whatever its name is; or take an
    array, (H, W, 3) RGB or (H, W) grey uint8, as a document of one page.

    dpi: what PDF pages are rendered at. Pages of more than `max_pixels` come with an error in place of an image.
    Raises DataError where the file is missing, is none of these, is empty or is locked with a password.
    """
    if isinstance(source, np.ndarray):
        return _array_document(source)
    path = Path(source)
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file")
        if path.is_dir():
            os.scandir(path).close()  # find_sources passes on those that cannot be read
        if not path.is_file():  # reading a pipe or a device could wait for ever
            raise DataError(f"{path}: not a regular file")
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not start:
        raise DataError(f"{path}: the file is empty")
    if b"%PDF-" in start:
        return _open_pdf(path, dpi, max_pages, max_pixels)
    image = open_header(path, max_pixels=math.inf)  # each page is checked when its turn comes
    count = _count_frames(image, path)
    return Document(count, min(count, max_pages), lambda number: _attempt(
        number, _dpi_of(image), lambda: _read_frame(image, number, path, max_pixels)), image.close)


def _array_document(image: np.ndarray) -> Document:
    if image.dtype != np.uint8 or not image.size or not (image.ndim == 2 or image.ndim == 3 and image.shape[2] == 3):
        raise DataError(f"an array of {image.dtype} and shape {image.shape} is no page: (H, W, 3) or (H, W) uint8 is")
    page = Page(1, image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2))
    return Document(1, 1, lambda number: page)


def _open_pdf(path: Path, dpi: float, max_pages: int, max_pixels: int) -> Document:
    try:
        pdf = pdfium.PdfDocument(path)
        pdf.init_forms()  # so that filled-in fields are drawn
    except pdfium.PdfiumError as error:
        locked = "password" in str(error).lower()
        raise DataError(f"{path}: " + ("is locked with a password; way out: save a copy without it" if locked else
                                       "not a readable PDF")) from None
    if len(pdf) == 0:
        raise DataError(f"{path}: the PDF has no pages")
    return Document(len(pdf), min(len(pdf), max_pages), lambda number: _attempt(
        number, dpi, lambda: render_page(pdf, number, path, dpi, max_pixels)), pdf.close)


def render_page(pdf: pdfium.PdfDocument, number: int, path: Path, dpi: float, max_pixels: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB of page `number`, from 1, turned as the PDF says. Raises DataError where it is too large,
    which is known before it is rendered, or broken."""
    try:
        page = pdf[number - 1]
        scale = dpi / POINTS_PER_INCH
        width, height = (math.ceil(side * scale) for side in page.get_size())
        if width < 1 or height < 1:
            raise DataError(f"{path}: page {number} is empty")
        if width * height > max_pixels:
            raise DataError(f"{path}: page {number} would have {width} x {height} pixels at {dpi:g} DPI, over the "
                            f"limit of {max_pixels}; way out: a lower --dpi or a higher --max-pixels")
        bitmap = page.render(scale=scale, rev_byteorder=True)
        image = bitmap.to_numpy().copy()  # the bitmap's memory goes with it
        bitmap.close()
        page.close()
        return image
    except pdfium.PdfiumError as error:
        raise DataError(f"{path}: page {number} cannot be rendered ({error})") from None


def _count_frames(image: Image.Image, path: Path) -> int:
    """Frames are pages in TIFF only: elsewhere they are animations, previews and depth maps."""
    if image.format != "TIFF":
        return 1
    try:
        return image.n_frames
    except Exception as error:  # Pillow's decoders raise whatever they meet in a broken file
        image.close()
        raise DataError(f"{path}: not a readable TIFF ({error})") from None


def _read_frame(image: Image.Image, number: int, path: Path, max_pixels: int) -> np.ndarray:
    if image.format == "TIFF":
        try:
            image.seek(number - 1)
        except Exception as error:
            raise DataError(f"{path}: page {number} is not readable ({error})") from None
    width, height = image.size
    if width * height > max_pixels:
        raise DataError(f"{path}: page {number} has {width} x {height} pixels, over the limit of {max_pixels}; "
                        "way out: a higher --max-pixels")
    return image_to_rgb(image, path)


def _attempt(number: int, dpi: float | None, read: Callable[[], np.ndarray]) -> Page:
    try:
        return Page(number, read(), dpi)
    except DataError as error:
        return Page(number, None, dpi, str(error))
    except Exception as error:  # what decoders raise on broken files has no end
        return Page(number, None, dpi, f"page {number} is not readable ({type(error).__name__}: {error})")


def _dpi_of(image: Image.Image) -> float | None:
    """What the file says, where it says something that a scanner would."""
    try:
        horizontal, vertical = (float(value) for value in image.info["dpi"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    low, high = KNOWN_DPI
    square = abs(horizontal - vertical) <= 0.05 * max(horizontal, vertical)
    return horizontal if square and low <= horizontal <= high else None
