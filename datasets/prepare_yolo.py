"""Make YOLO folders from PDFs and the marks that people drew on their pages (docmarks).

    python -m datasets.prepare_yolo --annotations FILE.json --pdf-dir DIR --out DIR --val-fraction 0.1 --seed 42
    python -m datasets.prepare_yolo --annotations FILE.json --pdf-dir DIR --out DIR --names qr,signature,stamp --dpi 200
    python -m datasets.convert_marks coco EXPORT --out DIR        (marks that are COCO or Pascal VOC)

Every page of every PDF that FILE names (datasets.formats.pdf_marks) becomes an image of the size its boxes are in, also
where that has other proportions, and that is said; a page without marks stays, as a negative. Pages of one document,
and documents that share a page, go to one split. A box that cannot be used is named and left out. DIR/vis shows every
page with its boxes (QR blue, signature green, stamp red), DIR/summary.json what there is. An earlier build in DIR is
replaced as a whole, so nothing of it stays behind.
"""

import argparse
import hashlib
import math
import shutil
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml

from datasets.convert_marks import class_names, judge
from datasets.formats.marks import Mark, find_inside
from datasets.formats.pdf_marks import MarkedPage, read_pdf_marks
from datasets.splits import assign
from utils.args import fraction, new_parser, positive_float, seed
from utils.documents import MAX_PIXELS, Source, output_stems
from utils.drawing import Canvas, mark_colour
from utils.errors import BadSamples, DataError, exit_cleanly
from utils.files import write_json
from utils.images import save_image
from utils.page_stream import PageStream

SUMMARY = "summary.json"  # also how a folder is known to be an earlier build
SAME_SHAPE = 0.02  # by which the proportions of a page and of its annotation, or their sizes, may differ without a word
MAX_PAGES = 1_000_000  # as page numbers go in datasets.formats.pdf_marks: none is left out in silence
MM_PER_INCH = 25.4


@dataclass
class PreparedPage:
    """image: file in the new folder; rows: (class, x-centre, y-centre, width, height) in shares; mm: of a pixel, across
    and down; stretch: height over width, times what it was on paper."""

    image: Path
    document: str
    digest: str
    size: tuple[int, int]
    mm: tuple[float, float]
    rows: list[tuple]

    @property
    def stretch(self) -> float:
        return self.mm[0] / self.mm[1]

    def enlargement(self, dpi: float) -> float:
        """How many times it is larger than it was rendered at `dpi`, on the side that grew more."""
        return MM_PER_INCH / dpi / min(self.mm)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--annotations", type=Path, required=True, metavar="FILE", help="JSON of the marks")
    parser.add_argument("--pdf-dir", type=Path, required=True, metavar="DIR", help="where the PDFs lie")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make, or to make anew")
    parser.add_argument("--val-fraction", type=fraction, default=0.1,
                        help="share of pages for val (default: %(default)s)")
    parser.add_argument("--seed", type=seed, default=42, help="of the split (default: %(default)s)")
    parser.add_argument("--dpi", type=positive_float, default=200.0, help="to render at (default: %(default)s)")
    parser.add_argument("--timeout", type=positive_float, default=300.0,
                        help="seconds that rendering a page may take (default: %(default)s)")
    parser.add_argument("--names", help="classes to keep, in the order of their numbers, such as qr,signature,stamp "
                        "(default: all that have marks, by the alphabet)")
    parser.add_argument("--max-bad-fraction", type=fraction, default=0.1,
                        help="share of bad boxes, and of bad pages, that may be left out (default: %(default)s)")
    args = parser.parse_args(argv)
    args.names = [name.strip() for name in args.names.split(",")] if args.names else None
    if args.val_fraction == 1:
        parser.error("--val-fraction 1 leaves nothing to train on")
    if args.names and ("" in args.names or len(set(args.names)) < len(args.names)):
        parser.error("--names: a name is empty or there twice")
    return args


def find_pdfs(names: list[str], folder: Path, annotations: Path) -> dict[str, Path]:
    """{name in the annotations: file}. Raises DataError for one that is not in `folder`, links resolved."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = {name: find_inside(folder, [folder], name, annotations) for name in names}
    if lost := [name for name, file in files.items() if file is None]:
        raise DataError(f"{folder / lost[0]}: no such file, though {annotations} names it")
    return files


def unnamed_pdfs(files: dict[str, Path], folder: Path, annotations: Path) -> list[str]:
    """What summary.json says of the PDFs in `folder` that are not among `files`; they are said here, too."""
    others = sorted({path.name for path in folder.iterdir() if path.suffix.lower() == ".pdf"} - {file.name for file in files.values()})
    if others:
        print(f"{len(others)} PDFs are not in {annotations} and were left out: {', '.join(others[:5])}")
    return [f"{folder / name}: is not in {annotations}" for name in others]


def render(stream: PageStream, file: Path, marked: dict[int, MarkedPage], bad: BadSamples):
    """(page number, (H, W, 3) uint8 RGB in the size of its annotation, mm of a pixel across and down, MarkedPage, hash of
    the page as it was rendered) of every page of a PDF. What cannot be used is added to `bad`. Raises DataError where it
    cannot be opened."""
    dpi = stream.limits["dpi"]
    for fetched in stream.pages([Source(file, file.name, file.stem)]):
        if fetched.failed:
            raise DataError(f"{file}: {said_here(fetched.failed, file)}")
        page, count = fetched.page, fetched.page_count
        if page.number == 1 and (missing := [number for number in sorted(marked) if number > count]):
            bad.add(file, f"has {count} pages, but page {missing[0]} is annotated")
        if page.error:
            reason = said_here(page.error, file)
            bad.add(file, reason if reason.startswith("page ") else f"page {page.number}: {reason}")
            continue
        height, width = page.image.shape[:2]
        known = marked.get(page.number) or MarkedPage((height, width))
        if fault := size_fault(known.size, (height, width)):
            bad.add(file, f"page {page.number} is {width} x {height} pixels at {dpi:g} DPI, its annotation "
                    f"{known.size[1]} x {known.size[0]}: {fault}")
            continue
        method = cv2.INTER_AREA if known.size[0] < height else cv2.INTER_CUBIC
        image = page.image if known.size == (height, width) else cv2.resize(page.image, known.size[::-1],
                                                                            interpolation=method)
        mm = MM_PER_INCH / dpi
        digest = hashlib.sha256(page.image.tobytes()).hexdigest()  # whether and in whatever size it is annotated
        yield page.number, image, (width / known.size[1] * mm, height / known.size[0] * mm), known, digest


def said_here(error: str, file: Path) -> str:
    """What utils.page_stream says of a file, without its name, which the caller adds, and flags that are not here."""
    return error.removeprefix(f"{file}: ").replace(" or a higher --max-pixels", "")


def size_fault(annotated: tuple[int, int], rendered: tuple[int, int]) -> str | None:
    """What is wrong with a page_size (H, W). Other proportions are not, since boxes were drawn on a page as stretched;
    but those of the page with its sides swapped are a page that was turned."""
    if annotated[0] * annotated[1] > MAX_PIXELS:
        return f"over the limit of {MAX_PIXELS} pixels"
    upright, turned = (a * rendered[1] / (b * rendered[0]) for a, b in (annotated, annotated[::-1]))
    if abs(upright - 1) > SAME_SHAPE and abs(turned - 1) <= SAME_SHAPE:
        return "not the same page, or turned"
    return None


def warn_of_stretched(pages: list[PreparedPage]) -> None:
    stretched = [page for page in pages if abs(page.stretch - 1) > SAME_SHAPE]
    if stretched:
        worst = max(stretched, key=lambda page: max(page.stretch, 1 / page.stretch))
        print(f"warning: {len(stretched)} of {len(pages)} pages were stretched to the page_size of their annotation, at "
              f"most by {max(worst.stretch, 1 / worst.stretch) - 1:.0%} ({worst.image.stem}: {worst.size[1]} x "
              f"{worst.size[0]}); marks are learnt in that shape, while inference.py looks at pages as they are",
              file=sys.stderr)


def warn_of_enlarged(pages: list[PreparedPage], dpi: float) -> None:
    """Pages that were rendered smaller than their annotation are blurred, beside those without one, which are sharp."""
    enlarged = [page for page in pages if page.enlargement(dpi) > 1 + SAME_SHAPE]
    if enlarged:
        worst = max(enlarged, key=lambda page: page.enlargement(dpi))
        factor = worst.enlargement(dpi)
        wanted = math.ceil(dpi * factor - 0.1)  # sides are whole pixels, which must not make 301 DPI of 300
        print(f"warning: {len(enlarged)} of {len(pages)} pages were enlarged to the page_size of their annotation, at most "
              f"{factor:.3g} times ({worst.image.stem}: {worst.size[1]} x {worst.size[0]}), and are blurred by that; "
              f"--dpi {wanted} renders them as large as they are needed", file=sys.stderr)


def usable(marks: list[Mark], names: list[str], size: tuple[int, int], bad: BadSamples) -> list[tuple]:
    """The rows of a page's label file."""
    rows = []
    for mark in marks:
        if mark.name in names:
            try:
                rows.append((names.index(mark.name), *judge(mark, *size)))
            except ValueError as error:
                bad.add(mark.where, str(error))
    return rows


def split_pages(pages: list[PreparedPage], val_fraction: float, seed: int) -> dict[Path, str]:
    """{image: split}. Documents that share a page's content are one group, whatever they are called. Raises DataError
    where there is but one for both splits."""
    parent = {page.document: page.document for page in pages}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    first: dict[str, str] = {}
    for page in pages:
        one, other = root(first.setdefault(page.digest, page.document)), root(page.document)
        parent[max(one, other)] = min(one, other)
    groups = {str(page.image): root(page.document) for page in pages}
    if val_fraction and len(set(groups.values())) == 1:
        names = sorted(parent)
        told = "1 document" if len(names) == 1 else f"{len(names)} documents that share pages"
        raise DataError(f"{', '.join(names[:5])}: {told} cannot be dealt out to train and val; way out: --val-fraction 0, or "
                        "more PDFs")
    splits = assign(groups, {}, (1 - val_fraction, val_fraction, 0), seed, set(groups))
    return {Path(image): split for image, split in splits.items()}


def draw(page: PreparedPage, image: np.ndarray, names: list[str]) -> np.ndarray:
    """(H, W, 3) uint8: the page with its boxes, as its label file has them."""
    canvas = Canvas(image)
    height, width = page.size
    for number, x, y, w, h in page.rows:
        box = [(x - w / 2) * width, (y - h / 2) * height, (x + w / 2) * width, (y + h / 2) * height]
        canvas.box(box, mark_colour(names[number]), names[number])
    return canvas.finished(f"{page.image.stem}: {len(page.rows)} marks")


def summarise(pages: list[PreparedPage], splits: dict[Path, str], names: list[str], bad: list[str]) -> dict:
    """What summary.json says: images, documents and marks by split; share and size of each class."""
    summary = {"splits": {}, "classes": {}, "left_out": bad}
    for split in sorted(set(splits.values())):
        part = [page for page in pages if splits[page.image] == split]
        counts = Counter(names[row[0]] for page in part for row in page.rows)
        summary["splits"][split] = {"images": len(part), "documents": len({page.document for page in part}),
                                    "without_marks": sum(not page.rows for page in part),
                                    "marks": {name: counts[name] for name in names}}
    total = sum(len(page.rows) for page in pages)
    for number, name in enumerate(names):
        sizes = np.array([(w * page.size[1], h * page.size[0], *page.mm) for page in pages
                          for row, _, _, w, h in page.rows if row == number]).reshape(-1, 4)
        entry = {"marks": len(sizes), "share": round(len(sizes) / max(total, 1), 4)}
        for key, values in (("width_px", sizes[:, 0]), ("height_px", sizes[:, 1]),
                            ("width_mm", sizes[:, 0] * sizes[:, 2]), ("height_mm", sizes[:, 1] * sizes[:, 3])):
            entry[key] = [round(float(v), 1) for v in np.percentile(values, (5, 50, 95))] if len(values) else None
        summary["classes"][name] = entry
    return summary


def tell(summary: dict) -> str:
    lines = [f"{split}: {part['images']} pages of {part['documents']} documents, {part['without_marks']} without "
             "marks; " + ", ".join(f"{name} {count}" for name, count in part["marks"].items())
             for split, part in summary["splits"].items()]
    for name, entry in summary["classes"].items():
        if entry["marks"]:
            width, height = (f"{entry[f'{side}_px'][1]:g} px ({entry[f'{side}_mm'][1]:g} mm)"
                             for side in ("width", "height"))
            lines.append(f"{name}: {entry['share']:.0%} of the marks, {width} wide and {height} high in the middle")
    return "\n".join(lines)


def warn_of_gaps(summary: dict) -> None:
    """Classes that a split has no mark of, and a missing validation split."""
    for split, part in summary["splits"].items():
        if lacking := [name for name, count in part["marks"].items() if not count and summary["classes"][name]["marks"]]:
            print(f"warning: {split}: has no mark of {', '.join(lacking)}; another --seed or --val-fraction deals documents "
                  "out differently", file=sys.stderr)
    if "val" not in summary["splits"]:
        print("warning: no val: train_yolo.py needs one; more documents or a higher --val-fraction give it", file=sys.stderr)


def build(args: argparse.Namespace, root: Path, stream: PageStream) -> dict:
    """Fill the empty folder `root`; returns the summary."""
    documents = read_pdf_marks(args.annotations)
    files = find_pdfs(list(documents), args.pdf_dir, args.annotations)
    unnamed = unnamed_pdfs(files, args.pdf_dir, args.annotations)
    everything = [page for pages in documents.values() for page in pages.values()]
    names = class_names(everything, args.names, args.annotations)
    bad_boxes, bad_pages = BadSamples(args.max_bad_fraction), BadSamples(args.max_bad_fraction)
    prepared: list[PreparedPage] = []
    waiting, blank = root / "waiting", []
    for (name, marked), stem in zip(documents.items(), output_stems([Path(name) for name in documents])):
        for number, image, mm, page, digest in render(stream, files[name], marked, bad_pages):
            for where, reason in page.bad_marks:
                bad_boxes.add(where, reason)
            rows = usable(page.marks, names, page.size, bad_boxes)
            target = waiting / f"{stem.replace('/', '__')}_page_{number}.png"
            if not image.std() and any(page.digest == digest for page in prepared):
                blank.append(f"{files[name]}, page {number}")  # would make all documents with empty paper one group
                continue
            save_image(target, image)
            prepared.append(PreparedPage(target, name, digest, page.size, mm, rows))
    left_out = [*bad_pages.reasons, *bad_boxes.reasons,
                *(f"{place}: empty paper like a page before" for place in blank)]
    for reason in left_out:
        print(f"left out: {reason}", file=sys.stderr)
    bad_pages.settle(len(prepared) + len(bad_pages), named=True)
    bad_boxes.settle(sum(len(page.marks) + len(page.bad_marks) for page in everything), named=True)
    warn_of_stretched(prepared)
    warn_of_enlarged(prepared, args.dpi)
    splits = split_pages(prepared, args.val_fraction, args.seed)
    for page in prepared:
        write_page(page, root / splits[page.image], root / "vis" / splits[page.image], names)
    waiting.rmdir()
    content = {split: f"{split}/images" for split in ("train", "val") if split in splits.values()}
    (root / "data.yaml").write_text(yaml.safe_dump(content | {"names": dict(enumerate(names))}, allow_unicode=True,
                                                   sort_keys=False), encoding="utf-8")
    summary = summarise(prepared, splits, names, left_out + unnamed)
    write_json(root / SUMMARY, summary)
    return summary


def write_page(page: PreparedPage, folder: Path, vis: Path, names: list[str]) -> None:
    """Move the image into its split and write its labels and its picture."""
    save_image(vis / f"{page.image.stem}.jpg", draw(page, cv2.cvtColor(cv2.imread(str(page.image)), cv2.COLOR_BGR2RGB),
                                                    names))
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    page.image.rename(folder / "images" / page.image.name)
    lines = [" ".join([str(row[0]), *(f"{value:.7f}" for value in row[1:])]) + "\n" for row in page.rows]
    (folder / "labels" / f"{page.image.stem}.txt").write_text("".join(lines))


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.out.exists() and not (args.out / SUMMARY).is_file():
        raise DataError(f"{args.out}: is there and was not made by this command; remove it, or take another --out")
    if not args.annotations.is_file():
        raise DataError(f"{args.annotations}: no such file")
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that renaming puts it there, and an earlier build stays until this one is whole.
        limits = {"dpi": args.dpi, "max_pages": MAX_PAGES, "max_pixels": MAX_PIXELS}
        with (tempfile.TemporaryDirectory(prefix=".making-", dir=args.out.parent) as folder,
              PageStream(1, limits, args.timeout) as stream):
            (root := Path(folder) / "new").mkdir()
            summary = build(args, root, stream)
            if args.out.exists():
                args.out.rename(Path(folder) / "old")
            root.rename(args.out)
    except (OSError, shutil.Error) as error:
        raise DataError(f"{args.out}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    warn_of_gaps(summary)
    print(tell(summary))
    print(args.out)


if __name__ == "__main__":
    exit_cleanly(main)
