"""Read documents: text, marks (QR codes, signatures, stamps) and strokes (docmarks).

    python inference.py --source test_images/ --output results/ --conf 0.15 --group-dist 50 --group-iou 0.2
    python inference.py --source letter.pdf "scans/**/*.png" --output results/ --formats json,txt,hocr,pdf --report
    find scans -name "*.tif" | torchrun --nproc-per-node 2 inference.py --source - --output results/ --resume

In --output, in the folders of the source: NAME.json for each document (its form: utils/document.schema.json), what
--formats names, NAME_pN_overlay.jpg (as found beside as read), NAME_pN_strokes.png (ink = 255), and for the whole run
results.json and, with --report, index.html. Under torchrun documents are shared out; --output is one folder for all.
Exit status: 0; 1 where a document or a page could not be read (its record says why); 2 for bad usage.

From Python: DocumentReader().read("letter.pdf") returns what NAME.json holds.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Iterator

import torch
from tqdm import tqdm

from models.reader import PAGE_TIMEOUT, WEIGHTS, DocumentReader
from utils.allocator import keep_freed_memory
from utils.args import (add_device_flag, class_fraction, fraction, new_parser, non_negative_float, positive_float,
                        positive_int, tile_side)
from utils.distributed import (from_rank_zero, gather_lists, init_distributed, leave_distributed, restart_count,
                               share_out, wait_for_all)
from utils.documents import MAX_PAGES, MAX_PIXELS, Source, find_sources
from utils.errors import DataError, exit_cleanly
from utils.files import file_hash
from utils.outputs import FORMATS, Books, DocumentWriter, check_output, clear_unfinished, sum_up, wanted_formats
from utils.page_stream import Fetched, PageStream, windows
from utils.records import VERSION, counted, document_record, limit_note, summary_line, without_path
from utils.weights import ENGINES, MODELS, find_weights, left_out, task_list

# The flags that decide what is found, for results.json; with these and the weights' content a document is read again.
SETTINGS = ("conf", "grouping", "group_dist", "group_iou", "dpi")
LIMITS = ("max_pages", "max_pixels", "keep_orientation", "tta", "tile", "use_amp", "class_conf")
FOR_MARKS = ("conf", "class_conf", "grouping", "group_dist", "group_iou", "tta", "tile")


def format_list(text: str) -> list[str]:
    """'txt,pdf' as a list in our order."""
    wanted = text.split(",")
    if not set(wanted) <= set(FORMATS):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of {','.join(FORMATS)}")
    return [name for name in FORMATS if name in wanted]


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--source", nargs="+", required=True,
                        help="images, PDFs, folders (with sub folders), patterns; -: a list of paths on standard input")
    parser.add_argument("--output", type=Path, default=Path("results"), help="(default: %(default)s)")
    parser.add_argument("--tasks", type=task_list, metavar="marks,text,strokes",
                        help="what to look for (default: everything whose weights are found)")
    parser.add_argument("--formats", type=format_list, metavar=",".join(FORMATS),
                        help="files of a document; pdf: pages as pictures with text to be searched (default: json, and txt "
                             "where text is read)")
    parser.add_argument("--report", action="store_true", help="write index.html: pages, text to search, doubts first")
    parser.add_argument("--no-overlays", action="store_true", help="write no NAME_pN_overlay.jpg")
    parser.add_argument("--resume", action="store_true",
                        help="pass by documents read without an error, if they, weights and flags are the same")
    group = parser.add_argument_group("models")
    group.add_argument("--weights-dir", type=Path, default=WEIGHTS,
                       help="where MODEL.pt, MODEL.onnx are looked for (%(default)s)")
    for model in MODELS:
        group.add_argument(f"--{model}-weights", type=Path, metavar="PATH", help=f"instead of {model}.pt in there")
    group.add_argument("--language-model", default="auto", metavar="auto|none|PATH",
                       help="what lines are like (python -m experiments.language_model writes it), for those read with "
                            "doubt; auto: language.arpa.gz beside the recognition weights (default: auto)")
    group.add_argument("--engine", choices=ENGINES, default="auto",
                       help="onnx, openvino: MODEL.onnx on the CPU; auto: torch, or onnx where MODEL.onnx is as new as "
                            "MODEL.pt and there is no GPU (default: auto)")
    group.add_argument("--int8", action="store_true", help="MODEL.int8.onnx where there is one")
    group.add_argument("--use-amp", action="store_true",
                       help="torch and openvino compute in 16 bits: bfloat16 on processors that have units for it, and on GPUs")
    add_device_flag(group)
    group.add_argument("--batch-pages", type=positive_int, default=4, help="pages read together (default: %(default)s)")
    group = parser.add_argument_group("marks")
    group.add_argument("--conf", type=fraction, default=0.15, help="lowest confidence (default: %(default)s)")
    group.add_argument("--class-conf", type=class_fraction, nargs="+", default={}, metavar="CLASS=CONF",
                       help="another for some classes, such as signature=0.4 stamp=0.5: fewer false marks; what train_yolo.py "
                            "--test-only prints as count_error_at shows where fewest are miscounted")
    group.add_argument("--grouping", choices=("components", "seed", "none"), default="components",
                       help="how raw marks are joined; seed: by the older greedy sweep (default: %(default)s)")
    group.add_argument("--group-dist", type=non_negative_float, default=50.0,
                       help="join centres nearer than this many pixels at 200 DPI (default: %(default)s)")
    group.add_argument("--group-iou", type=fraction, default=0.2, help="join above this overlap (default: %(default)s)")
    group.add_argument("--tta", action="store_true", help="look at each page in three sizes and fuse what is seen: fewer "
                       "miscounted, slower")
    group.add_argument("--tile", type=tile_side, default=0, metavar="PIXELS",
                       help="look at overlapping squares of this side too, for small marks on large pages")
    group = parser.add_argument_group("pages")
    group.add_argument("--dpi", type=positive_float, default=200.0, help="to render PDFs at (default: %(default)s)")
    group.add_argument("--keep-orientation", action="store_true", help="do not turn pages on their side or head")
    group.add_argument("--max-pages", type=positive_int, default=MAX_PAGES,
                       help="of a document; the rest is left out with an error (default: %(default)s)")
    group.add_argument("--max-pixels", type=positive_int, default=MAX_PIXELS, help="of a page (default: %(default)s)")
    group.add_argument("--timeout", type=positive_float, default=PAGE_TIMEOUT,
                       help="seconds to decode a page, and as many to read it (default: %(default)g)")
    group.add_argument("--workers", type=positive_int, default=min(max((os.cpu_count() or 1) // 2, 1), 4),
                       help="processes that decode and render pages beside the models (default here: %(default)s)")
    return parser


def choose_weights(args, device: torch.device) -> dict[str, Path]:
    """Those that the flags ask for. Raises DataError for flags that do nothing without others."""
    named = {name: getattr(args, f"{name}_weights") for name in MODELS}
    weights = find_weights(args.weights_dir, named, args.tasks, args.engine, args.int8, device.type == "cuda")
    defaults = vars(make_parser().parse_args(["--source", ""]))
    idle = ["--" + name.replace("_", "-") for name in FOR_MARKS if getattr(args, name) != defaults[name]]
    if idle and "yolo" not in weights:
        raise DataError(f"{', '.join(idle)} {'do' if len(idle) > 1 else 'does'} nothing where no marks are looked for "
                        f"(--tasks, --yolo-weights); way out: leave {'them' if len(idle) > 1 else 'it'} out")
    return weights


def build_reader(args, weights: dict[str, Path]) -> DocumentReader:
    return DocumentReader(weights, args.tasks, args.device, args.conf, args.grouping, args.group_dist, args.group_iou,
                          args.dpi, args.max_pages, args.max_pixels, args.engine, args.int8, args.timeout,
                          args.keep_orientation, args.tta, args.tile, args.use_amp, args.language_model, args.class_conf)


def used_files(reader: DocumentReader) -> dict[str, Path]:
    return reader.weights | ({"language": reader.language} if reader.language else {})


def all_settings(args, reader: DocumentReader) -> dict:
    """Everything that decides what is found and written, to know later whether it was the same."""
    files = {name: file_hash(path) for name, path in used_files(reader).items()}
    return {"version": VERSION, "tasks": reader.tasks, "weights": files, "formats": args.formats, "report": args.report,
            "overlays": not args.no_overlays} | {name: getattr(args, name) for name in SETTINGS + LIMITS}


def read_documents(args, reader: DocumentReader, stream: PageStream, sources: list[Source],
                   bar: tqdm) -> Iterator[DocumentWriter]:
    """Each document once all of its pages are read and written."""
    writer = None
    for window in windows(stream.pages(sources), args.batch_pages):
        fetched = [item for item in window if item.page]
        readings = iter(reader.read_pages([item.page for item in fetched], [item.source.stem for item in fetched]))
        for item in window:
            if writer is None:
                writer = start_document(args, reader, item)
            if item.page:
                page, image, strokes = next(readings)
                page["error"] = page["error"] and without_path(page["error"], item.source.path)
                with reader.stages.timed("writing"):
                    writer.add(page, image, strokes)
                number = page["page"]
                say_error(f"{item.source.name}, page {number}", (page["error"] or "").removeprefix(f"page {number} "))
                if page["page"] == 1:
                    bar.total += item.wanted - 1  # until now the document counted as one page
            bar.update()
            if item.last:
                say_error(item.source.name, writer.record["error"])
                with reader.stages.timed("writing"):
                    writer.finish()
                yield writer
                writer = None


def start_document(args, reader: DocumentReader, first: Fetched) -> DocumentWriter:
    error = first.failed and without_path(first.failed, first.source.path)
    record = document_record(first.source.name, reader.tasks) | {
        "page_count": first.page_count, "error": error or limit_note(first.page_count, first.wanted)}
    return DocumentWriter(args.output, first.source, record, args.formats, not args.no_overlays, args.report)


def say_error(where: str, error: str | None) -> None:
    if error:
        tqdm.write(f"error: {where}: {error}", file=sys.stderr)


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if len(named := dict(args.class_conf)) < len(args.class_conf):
        parser.error("--class-conf: a class is there twice")
    args.class_conf = named
    check_output(args.output)
    device, rank, world = init_distributed(args.device)
    keep_freed_memory(device)
    sources = from_rank_zero(find_sources(args.source, args.output) if rank == 0 else None)
    limits = {"dpi": args.dpi, "max_pages": args.max_pages, "max_pixels": args.max_pixels}
    with PageStream(args.workers, limits, args.timeout) as stream:
        weights = choose_weights(args, device)
        args.formats = wanted_formats(args.formats, weights)
        reader = build_reader(args, weights)
        settings = all_settings(args, reader)
        books = Books(args.output, settings)
        sizes = [os.path.getsize(source.path) if os.path.isfile(source.path) else 0 for source in sources]
        mine = [sources[number] for number in share_out(sizes, rank, world)]
        todo = [source for source in mine if not (args.resume or restart_count()) or not books.has(source)]
        if rank == 0:
            clear_unfinished(args.output)
            print(f"{', '.join(reader.tasks)} with {', '.join(map(str, used_files(reader).values()))} by {reader.engine} "
                  f"on {device}" + (f", {world} processes" if world > 1 else ""))
            if missing := left_out(reader.weights, args.tasks):
                print(missing)
            if len(todo) < len(mine):
                print(f"passed by: {len(mine) - len(todo)} of {len(mine)} documents, which were read before")
            if books.read_otherwise:
                print(f"read again: {books.read_otherwise} of {len(mine)} documents, because flags or weights differ")
        with tqdm(total=len(todo), unit="page", smoothing=0.1, disable=None if rank == 0 else True) as bar:
            for writer in read_documents(args, reader, stream, todo, bar):
                books.finish(writer)
    wait_for_all()
    removed, left = sum(gather_lists([books.removed])), gather_lists(books.left)
    status = 0
    if rank == 0:
        if removed:
            print(f"removed: {counted(removed, 'file')} of an earlier reading of documents that have changed")
        if left:
            print(f"left: {counted(len(left), 'file')} of earlier readings with other flags or weights, such as {left[0]}")
        shown = {"tasks": reader.tasks} | {name: settings[name] for name in SETTINGS}
        shown |= {name: settings[name] for name in LIMITS if settings[name] != parser.get_default(name)}
        run = sum_up(args.output, sources, shown, args.report)
        print(f"{summary_line(run)}; see {args.output / ('index.html' if args.report else 'results.json')}")
        status = int(run["summary"]["failed_documents"] > 0)
    leave_distributed()
    return status


if __name__ == "__main__":
    exit_cleanly(main, in_parallel=True)
