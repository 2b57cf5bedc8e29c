"""What reading and finding marks lose on pages that are turned, blurred, dark, far away, ... (docmarks).

    python -m experiments.robustness --data-dir SROIE --split val --pages 25 --use-amp
    python -m experiments.robustness --data-dir MARKS --split val --disturbances none turned-10 turned-15
    python -m experiments.robustness --data-dir MARKS --split val --disturbances none bordered --with-text --use-amp

Labelled pages are disturbed (experiments.disturb), their labels moved with them, and read as inference.py reads them.
Detection labels: hmean of the boxes and the share of lines that are read exactly, spaces and case aside. A folder with a
data.yaml: mAP50 of each class and the mean error of the count of marks on a page. Writes robustness.md, robustness.json
and pages.jpg, one page in every state with the boxes that were found, or its marks' labels, to --output-dir; the last line
on stdout is one JSON object.
"""

import json
import tempfile
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Callable

import cv2
import numpy as np
from tqdm import tqdm

from datasets.detection import Page, read_split
from datasets.yolo import MarkSample, index_marks, read_data_yaml
from experiments.disturb import DISTURBANCES, Moved
from experiments.end_to_end import before_turning
from models.engines import load_any
from models.qr_marks import group_checked
from models.reader import WEIGHTS, DocumentReader
from models.yolo_boxes import COUNT_CONFIDENCE, evaluate
from utils.args import SWITCH, new_parser, positive_int
from utils.bootstrap import intervals, warn_of_few
from utils.distributed import init_distributed
from utils.errors import DataError, exit_cleanly
from utils.files import replace_file
from utils.images import load_image, save_image
from utils.metrics.end_to_end import count_page, end_to_end_scores
from utils.metrics.marks import count_by_class, count_errors, image_record, mark_scores
from utils.outputs import check_output
from utils.weights import find_weights

MANY = 0.01  # confidence from which marks are scored after text was read
TILE, COLUMNS = 420, 5  # pixels of the longer side of a page on the sheet; pages in a row


def read_disturbed(reader: DocumentReader, pages: list[Page], name: str) -> tuple[dict, np.ndarray]:
    """({"hmean", "exact": (score, low, high)}, picture of the first page with its boxes)."""
    rows, picture = [], None
    for page in tqdm(pages, desc=name, unit="page", leave=False, disable=None):
        image, moved = DISTURBANCES[name](load_image(page.path))
        record, = reader.read(image)["pages"]
        if record["error"]:
            raise DataError(f"{page.path}: {record['error']}")
        found = [(before_turning(line["polygon"], record), line["text"] or "") for line in record["text"]]
        truth = [moved(_dense(polygon)).astype(np.float32) for polygon in page.polygons]
        rows.append(count_page(truth, page.texts, page.ignored, found))
        if picture is None:
            picture = _drawn(image, [polygon for polygon, _ in found])
    scores = intervals(lambda drawn: end_to_end_scores([rows[number] for number in drawn]), [str(page.path) for page in pages])
    return {key: scores[key] for key in ("hmean", "exact")}, picture


def find_disturbed(score, samples: list[MarkSample], name: str, folder: Path) -> tuple[dict, np.ndarray]:
    """({"map50/CLASS": (score,), "count_error": (score,)}, picture of the first page with its labels)."""
    disturbed, picture = [], None
    for number, sample in enumerate(samples):
        image, moved = DISTURBANCES[name](load_image(sample.file))
        file = folder / f"{number}.png"
        save_image(file, image)
        disturbed.append(_relabelled(sample, file, image.shape[:2], moved))
        if picture is None:
            picture = _drawn(image, [_corners(box) for box in disturbed[-1].corners()])
    scores, _ = score(samples=disturbed)
    return _summary(scores, scores["count_error"]), picture


def find_with_text(reader: DocumentReader, samples: list[MarkSample], name: str) -> tuple[dict, np.ndarray]:
    """As find_disturbed, of marks from MANY's confidence on that inference.py finds on pages that it has read."""
    names, records, picture = reader.models["yolo"].names, [], None
    for sample in tqdm(samples, desc=name, unit="page", leave=False, disable=None):
        image, moved = DISTURBANCES[name](load_image(sample.file))
        record, = reader.read(image)["pages"]
        if record["error"]:
            raise DataError(f"{sample.file}: {record['error']}")
        truth = _relabelled(sample, sample.file, image.shape[:2], moved)
        found = [mark | {"box": _round(before_turning(_corners(mark["box"]).tolist(), record))}
                 for mark in record["marks"]["grouped"] if truth.labels_class(mark["class_id"])]
        shown = group_checked([mark for mark in found if mark["confidence"] >= COUNT_CONFIDENCE], names)
        records.append(image_record(str(sample.file), found, truth.corners(), truth.classes)
                       | {"counts": {"components": count_by_class(shown)}})
        if picture is None:
            picture = _drawn(image, [_corners(mark["box"]) for mark in shown])
    return _summary(mark_scores(records, names), count_errors(records)), picture


def _summary(scores: dict, count_error: dict) -> dict:
    found = {f"map50/{label}": (values["map50"],) for label, values in scores["per_class"].items() if values["n_truth"]}
    return found | {"count_error": (count_error["components"],)}


def _round(points: list) -> list[float]:
    return [*np.min(points, 0).tolist(), *np.max(points, 0).tolist()]


def _relabelled(sample: MarkSample, file: Path, size: tuple[int, int], moved: Moved) -> MarkSample:
    """Boxes become those round the moved boxes."""
    height, width = size
    boxes = np.zeros((0, 4))
    if len(sample.boxes):
        corners = np.stack([moved(_corners(box)) for box in sample.corners()])
        low, high = corners.min(1).clip(0, (width, height)), corners.max(1).clip(0, (width, height))
        boxes = np.hstack([(low + high) / 2, high - low]) / ([width, height] * 2)
    return replace(sample, file=file, height=height, width=width, boxes=boxes.astype(np.float32))


def _corners(box: np.ndarray) -> np.ndarray:
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _dense(polygon: np.ndarray, parts: int = 8) -> np.ndarray:
    """The same outline with more points, so that it can be bent."""
    steps = np.linspace(0, 1, parts, endpoint=False)[:, None]
    ends = np.roll(polygon, -1, axis=0)
    return np.concatenate([start + steps * (end - start) for start, end in zip(np.float64(polygon), np.float64(ends))])


def _drawn(image: np.ndarray, polygons: list) -> np.ndarray:
    factor = TILE / max(image.shape)
    picture = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    outlines = [np.round(np.array(polygon) * factor).astype(np.int32) for polygon in polygons]
    return cv2.polylines(picture, outlines, True, (220, 40, 40), 1, cv2.LINE_AA)


def sheet(pictures: dict[str, np.ndarray]) -> np.ndarray:
    """(H, W, 3) uint8: the pictures side by side with their names."""
    step, rows = TILE + 30, -(-len(pictures) // COLUMNS)
    canvas = np.full((rows * step, min(len(pictures), COLUMNS) * (TILE + 8), 3), 255, np.uint8)
    for number, (name, picture) in enumerate(pictures.items()):
        y, x = number // COLUMNS * step, number % COLUMNS * (TILE + 8)
        cv2.putText(canvas, name, (x + 4, y + 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
        canvas[y + 28 : y + 28 + picture.shape[0], x : x + picture.shape[1]] = picture[: step - 28]
    return canvas


def table(results: dict[str, dict]) -> str:
    """Markdown; scores with their interval where they have one."""
    columns = list(next(iter(results.values())))
    rows = [["", *columns], [":---"] * (len(columns) + 1)]
    for name, scores in results.items():
        rows.append([name] + [f"{scores[column][0]:.3f}" + (" ({:.3f} to {:.3f})".format(*scores[column][1:])
                                                            if len(scores[column]) > 1 else "") for column in columns])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, required=True, help="labels of text, or of marks with a data.yaml")
    parser.add_argument("--split", default="val", help="(default: %(default)s)")
    parser.add_argument("--pages", type=positive_int, help="the first so many; of marks so many from all folders (default: all)")
    parser.add_argument("--disturbances", nargs="+", choices=DISTURBANCES, default=list(DISTURBANCES), metavar="NAME",
                        help=f"{', '.join(DISTURBANCES)} (default: all)")
    parser.add_argument("--weights-dir", type=Path, default=WEIGHTS, help="(default: %(default)s)")
    parser.add_argument("--tta", action=SWITCH, help="marks: look in three sizes")
    parser.add_argument("--bare", action=SWITCH, help="marks: the network alone")
    parser.add_argument("--with-text", action=SWITCH, help="marks: after reading the page, as inference.py does by "
                        "default: pages are turned upright, and small sheets looked at from nearer by")
    parser.add_argument("--use-amp", action=SWITCH, help="read in 16 bits: text, and marks --with-text")
    parser.add_argument("--output-dir", type=Path, default=Path("runs/robustness"), help="(default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    return parser


def spread(samples: list, count: int | None) -> list:
    """`count` of them, evenly from first to last."""
    if not count or count >= len(samples):
        return samples
    return [samples[number * len(samples) // count] for number in range(count)]


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    args.marks = (args.data_dir / "data.yaml").is_file()
    reads = args.with_text or not args.marks
    idle = ("tta", "bare", "with_text") if not args.marks else ("bare",) if reads else ("use_amp",)
    if idle := [flag for flag in idle if getattr(args, flag)]:
        parser.error(f"--{idle[0].replace('_', '-')} does nothing for {'marks' if args.marks else 'text'}"
                     + (" --with-text" if args.with_text and args.marks else ""))
    if twice := [name for name, times in Counter(args.disturbances).items() if times > 1]:
        parser.error(f"--disturbances: {twice[0]} is named twice")
    try:
        check_output(args.output_dir)
    except DataError as error:  # which speaks of inference.py's flag
        raise DataError(str(error).replace("--output ", "--output-dir ", 1)) from None
    return args


def check_weights(folder: Path, needed: list[str]) -> None:
    """Raises DataError where a model that is `needed` is not in the folder. What find_weights() says of it names flags of
    inference.py, which takes each model's weights by themselves."""
    for name in needed:
        if not any((folder / f"{name}{suffix}").is_file() for suffix in (".pt", ".onnx")):
            raise DataError(f"{folder / name}.pt: no such weights; way out: --weights-dir weights for those that come with "
                            f"docmarks, or a folder with the best.pt of train_{name}.py as {name}.pt")


def scored(args, folder: Path) -> Callable[[str], tuple[dict, np.ndarray]]:
    """What takes the name of a disturbance to scores and a picture. folder: for disturbed images."""
    check_weights(args.weights_dir, ["yolo"] * args.marks + ["detection"] * (args.with_text or not args.marks))
    if not args.marks:
        pages = read_split(args.data_dir / args.split, 0.0)[: args.pages]
        warn_of_few(len(pages))
        return partial(read_disturbed, DocumentReader(args.weights_dir, ["text"], args.device, use_amp=args.use_amp), pages)
    samples = spread(index_marks(read_data_yaml(args.data_dir), args.split), args.pages)
    if args.with_text:
        reader = DocumentReader(args.weights_dir, ["text", "marks"], args.device, conf=MANY, grouping="none", tta=args.tta,
                                use_amp=args.use_amp)
        return partial(find_with_text, reader, samples)
    device = init_distributed(args.device)[0]
    weights = find_weights(args.weights_dir, {}, ["marks"], "auto", on_gpu=device.type == "cuda")["yolo"]
    model, checkpoint = load_any("yolo", weights, device)
    score = partial(evaluate, model, img_size=checkpoint["config"]["img_size"], bare=args.bare, tta=args.tta)
    return partial(find_disturbed, score, samples, folder=folder)


def main(argv=None):
    args = parse_args(argv)
    results, pictures = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        score = scored(args, Path(folder))
        for name in args.disturbances:
            results[name], pictures[name] = score(name=name)
            print(f"{name:14} " + "   ".join(f"{key} {values[0]:.4f}" for key, values in results[name].items()), flush=True)
    replace_file(args.output_dir / "robustness.md", table(results))
    replace_file(args.output_dir / "robustness.json", json.dumps(results, indent=1) + "\n")
    save_image(args.output_dir / "pages.jpg", sheet(pictures))
    print(json.dumps({"out": str(args.output_dir)} | results))


if __name__ == "__main__":
    exit_cleanly(main)
