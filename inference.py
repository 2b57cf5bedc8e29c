"""Read documents: text, marks (QR codes, signatures, stamps) and strokes (docmarks).

    python inference.py --source test_images/ --output results/ --conf 0.15 --group-dist 50 --group-iou 0.2
    python inference.py --source letter.pdf "scans/**/*.png" --output results/ --tasks text --dpi 300
    python inference.py --source scans/ --output results/ --tasks marks --yolo-weights runs/yolo/first/best.pt

In --output, in the folders of the source: NAME.json for each document (its form: utils/document.schema.json), NAME.txt,
NAME_pN_overlay.jpg (as found beside as read), NAME_pN_strokes.png (ink = 255), and results.json for the whole run.
Exit status: 0; 1 where a document or a page could not be read (its record says why); 2 for bad usage.

From Python: DocumentReader().read("letter.pdf") returns what NAME.json holds.
"""

import sys
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Callable

import numpy as np
from tqdm import tqdm

from utils.args import fraction, new_parser, non_negative_float, positive_float, positive_int
from utils.distributed import init_distributed
from utils.documents import MAX_PAGES, MAX_PIXELS, Page, Source, find_sources, open_document, output_stems
from utils.drawing import draw_overlay
from utils.errors import DataError, exit_cleanly
from utils.files import replace_file, write_json
from utils.geometry import crop_quad
from utils.images import save_image
from utils.layout import plain_text, reading_order
from utils.qr import read_qr_codes
from utils.records import (add_document, code_record, document_record, mark_record, page_record, run_record,
                           summary_line, text_record, without_path)
from utils.weights import MODELS, TASKS, find_weights, left_out, task_list

WEIGHTS = Path(__file__).resolve().parent / "weights"
# Imported when a task wants them: some take seconds.
MODULES = {"detection": "models.dbnet", "recognition": "models.parseq", "segmentation": "models.strokes",
           "yolo": "models.yolo"}


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--source", nargs="+", required=True, help="images, PDFs, folders (with sub folders), patterns")
    parser.add_argument("--output", type=Path, default=Path("results"), help="(default: %(default)s)")
    parser.add_argument("--tasks", type=task_list, metavar="marks,text,strokes",
                        help="what to look for (default: everything whose weights are found)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    parser.add_argument("--no-overlays", action="store_true", help="write no NAME_pN_overlay.jpg")
    group = parser.add_argument_group("weights")
    group.add_argument("--weights-dir", type=Path, default=WEIGHTS, help="where MODEL.pt is looked for (%(default)s)")
    for model in MODELS:
        group.add_argument(f"--{model}-weights", type=Path, metavar="PATH", help=f"instead of {model}.pt in there")
    group = parser.add_argument_group("marks")
    group.add_argument("--conf", type=fraction, default=0.15, help="lowest confidence (default: %(default)s)")
    group.add_argument("--grouping", choices=("components", "seed", "none"), default="components",
                       help="how raw marks are joined; seed: by the older greedy sweep (default: %(default)s)")
    group.add_argument("--group-dist", type=non_negative_float, default=50.0,
                       help="join centres nearer than this many pixels at 200 DPI (default: %(default)s)")
    group.add_argument("--group-iou", type=fraction, default=0.2, help="join above this overlap (default: %(default)s)")
    group = parser.add_argument_group("pages")
    group.add_argument("--dpi", type=positive_float, default=200.0, help="to render PDFs at (default: %(default)s)")
    group.add_argument("--max-pages", type=positive_int, default=MAX_PAGES,
                       help="of a document; the rest is left out with an error (default: %(default)s)")
    group.add_argument("--max-pixels", type=positive_int, default=MAX_PIXELS, help="of a page (default: %(default)s)")
    return parser


class DocumentReader:
    """Reads documents with the models whose weights there are.

    weights: a folder of MODEL.pt files, or {"detection" | "recognition" | "segmentation" | "yolo": path}; tasks: some
    of 'marks', 'text', 'strokes', by default all that have weights. Without recognition weights text is found but not
    read: its "text" is None. Raises DataError for weights that are missing, damaged or not used.
    """

    def __init__(self, weights: Path | str | dict = WEIGHTS, tasks: list[str] | None = None, device: str = "auto",
                 conf: float = 0.15, grouping: str = "components", group_dist: float = 50.0, group_iou: float = 0.2,
                 dpi: float = 200.0, max_pages: int = MAX_PAGES, max_pixels: int = MAX_PIXELS):
        folder, named = (None, weights) if isinstance(weights, dict) else (Path(weights), {})
        self.weights = find_weights(folder, named, tasks)
        self.tasks = [task for task, (needed, *_) in TASKS.items() if needed in self.weights]
        self.device, _, _ = init_distributed(device)
        self.conf, self.grouping = conf, {"dist": group_dist, "iou": group_iou, "method": grouping}
        self.limits = {"dpi": dpi, "max_pages": max_pages, "max_pixels": max_pixels}
        self.modules = {name: import_module(MODULES[name]) for name in self.weights}
        self.models = {name: self.modules[name].load_model(path, self.device) for name, path in self.weights.items()}

    def read(self, source: Path | str | np.ndarray, name: str | None = None, stem: str | None = None,
             on_page: Callable[[dict, np.ndarray | None, np.ndarray | None], None] | None = None) -> dict:
        """The record of a document: a file, or a page as an array, (H, W, 3) RGB or (H, W) grey uint8. What could not
        be read says so in "error".

        name: what the record calls it; stem: what its files are called. on_page(record so far, page (H, W, 3) uint8 or
        None where it could not be read, strokes (H, W) uint8 or None) is called behind each page.
        """
        name = name or ("array" if isinstance(source, np.ndarray) else Path(source).name)
        stem = stem or output_stems([Path(name)])[0]
        record = document_record(name, self.tasks)
        try:
            document = open_document(source, **self.limits)
        except DataError as error:
            return record | {"error": without_path(error, source)}
        record["page_count"], most = document.page_count, self.limits["max_pages"]
        if document.page_count > most:
            record["error"] = f"has {document.page_count} pages, of which the first {most} were read (--max-pages)"
        for page in document.pages:
            found, strokes = page_record(page), None
            try:
                if page.image is None:
                    found["error"] = without_path(page.error, source)
                else:
                    strokes = self._read_page(page, found, stem.rpartition("/")[2])
            except Exception as error:  # whatever a page does to a model, it must not cost the other pages
                found["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            record["pages"].append(found)
            if on_page:
                on_page(record, page.image, strokes)
        return record

    def _read_page(self, page: Page, record: dict, stem: str) -> np.ndarray | None:
        """Fill in the record; returns the stroke mask (H, W) uint8, 255 = ink, where strokes are wanted."""
        if "marks" in self.tasks:
            record["marks"], record["qr"] = self._find_marks(page)
        if "text" in self.tasks:
            record["text"] = self._read_text(page.image)
        if "strokes" not in self.tasks:
            return None
        model, checkpoint = self.models["segmentation"]
        ink = self.modules["segmentation"].predict_strokes(model, page.image) >= checkpoint["thresholds"]["ink"]
        record["strokes"] = f"{stem}_p{page.number}_strokes.png"
        return ink.astype(np.uint8) * 255

    def _find_marks(self, page: Page) -> tuple[dict, list[dict]]:
        from models.grouping import group_detections
        model, checkpoint = self.models["yolo"]
        found = self.modules["yolo"].detect(model, page.image, self.conf, img_size=checkpoint["config"]["img_size"])
        grouped = [mark_record(mark) for mark in group_detections(found, dpi=page.dpi, **self.grouping)]
        codes = read_qr_codes(page.image, [mark["box"] for mark in grouped if "qr" in mark["class_name"].lower()])
        raw = [{"id": number} | mark_record(mark) for number, mark in enumerate(found)]  # what member_ids name
        return {"raw": raw, "grouped": grouped}, [code_record(code) for code in codes]

    def _read_text(self, image: np.ndarray) -> list[dict]:
        model, checkpoint = self.models["detection"]
        quads, scores = self.modules["detection"].predict_boxes(model, image, self.device, checkpoint["thresholds"])
        order, lines = reading_order(quads)
        quads, scores, readings = quads[order], scores[order], [None] * len(order)
        if "recognition" in self.models:
            crops = [crop_quad(image, quad) for quad in quads]
            readings = self.modules["recognition"].recognise(self.models["recognition"][0], crops, self.device)
        return [text_record(*found) for found in zip(quads, lines, scores, readings)]


def page_done(args, source: Source, bar: tqdm, record: dict, image: np.ndarray | None, strokes: np.ndarray | None):
    page = record["pages"][-1]
    start = f"{args.output}/{source.stem}_p{page['page']}"
    if strokes is not None:
        save_image(Path(f"{start}_strokes.png"), strokes)
    if image is not None and not args.no_overlays:
        save_image(Path(f"{start}_overlay.jpg"), draw_overlay(image, page, strokes))
    if page["error"]:
        tqdm.write(f"error: {source.name}, page {page['page']}: {page['error']}", file=sys.stderr)
    if page["page"] == 1:
        bar.total += min(record["page_count"], args.max_pages) - 1  # until now the document counted as one page
    bar.update()


def document_done(args, source: Source, record: dict, was_read: bool):
    write_json(Path(f"{args.output}/{source.stem}.json"), record)
    if was_read:
        replace_file(Path(f"{args.output}/{source.stem}.txt"), plain_text([page["text"] for page in record["pages"]]))
    if record["error"]:
        tqdm.write(f"error: {source.name}: {record['error']}", file=sys.stderr)


def main(argv=None):
    args = make_parser().parse_args(argv)
    sources = find_sources(args.source, args.output)
    weights = find_weights(args.weights_dir, {name: getattr(args, f"{name}_weights") for name in MODELS}, args.tasks)
    reader = DocumentReader(weights, args.tasks, args.device, args.conf, args.grouping, args.group_dist, args.group_iou,
                            args.dpi, args.max_pages, args.max_pixels)
    print(f"{', '.join(reader.tasks)} with {', '.join(map(str, reader.weights.values()))} on {reader.device}")
    if missing := left_out(reader.weights, args.tasks):
        print(missing)
    run = run_record({"tasks": reader.tasks}
                     | {name: getattr(args, name) for name in ("conf", "grouping", "group_dist", "group_iou", "dpi")})
    with tqdm(total=len(sources), unit="page", disable=None) as bar:
        for source in sources:
            bar.set_description(source.name[-30:])
            record = reader.read(source.path, source.name, source.stem, partial(page_done, args, source, bar))
            document_done(args, source, record, was_read="recognition" in reader.models)
            add_document(run, record, f"{source.stem}.json")
            bar.update(not record["pages"])
    write_json(args.output / "results.json", run)
    print(f"{summary_line(run)}; see {args.output / 'results.json'}")
    return int(run["summary"]["failed_documents"] > 0)


if __name__ == "__main__":
    exit_cleanly(main)
