"""A sheet of small pages with their truth drawn on, for people to look at.

    python -m datasets.contact_sheet data --out sheet.jpg
    python -m datasets.contact_sheet data --out sheet.png --pages 6 --columns 3 --tile 700

Lines red (handwriting violet, unreadable grey), words green, strokes cyan, ink tinted blue; marks: QR blue, signature
green, stamp red.
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np

from utils.args import new_parser, positive_int
from utils.errors import DataError, exit_cleanly
from utils.images import MAX_PIXELS, image_size, load_image, load_mask, save_image

MAX_TILE = 2000  # pixels; a wider page is looked at by itself
MAX_SIDE = 65535  # pixels of a JPEG
GAP = 8  # pixels from one page to the next
LINE_COLOURS = {"print": (220, 40, 40), "handwriting": (170, 40, 200)}
MARK_COLOURS = {"qr": (30, 80, 255), "signature": (20, 170, 60), "stamp": (255, 0, 0)}


def draw_truth(image: np.ndarray, mask: np.ndarray, truth: dict) -> np.ndarray:
    """image (H, W, 3) uint8 RGB, mask (H, W) uint8, truth: a page's JSON. Returns a new picture of the same size."""
    drawn = image.copy()
    ink = mask > 127
    drawn[ink] = drawn[ink] // 2 + np.uint8([0, 40, 127])
    for stroke in truth["strokes"]:
        cv2.polylines(drawn, [_fixed(stroke["points"])], False, (0, 200, 220), 1, cv2.LINE_AA, 4)
    for line in truth["lines"]:
        for word in line["words"]:
            cv2.polylines(drawn, [_fixed(word["polygon"])], True, (60, 190, 60), 1, cv2.LINE_AA, 4)
        colour = (130, 130, 130) if line["text"] == "###" else LINE_COLOURS[line["kind"]]
        cv2.polylines(drawn, [_fixed(line["polygon"])], True, colour, 2, cv2.LINE_AA, 4)
    for mark in truth["marks"]:
        x0, y0, x1, y1 = (int(round(v)) for v in mark["box"])
        cv2.rectangle(drawn, (x0, y0), (x1, y1), MARK_COLOURS[mark["class"]], 3)
    return drawn


def contact_sheet(root: Path, pages: int, columns: int, tile: int, plain: bool) -> np.ndarray:
    """(H, W, 3) uint8: up to `pages` pages of the generator's folder `root`, spread evenly, each `tile` pixels wide."""
    files = sorted(Path(root).glob("pages/*/*.json"), key=lambda path: path.name)
    if not files:
        raise DataError(f"{root}: holds no made pages; way out: python -m datasets.synthetic --out {root} --pages 60")
    chosen = [files[i] for i in np.linspace(0, len(files) - 1, min(pages, len(files))).round().astype(int)]
    truths = [json.loads(file.read_text(encoding="utf-8")) for file in chosen]
    sizes = [image_size(Path(root) / truth["image"]) for truth in truths]
    heights = [max(int(round(height * tile / width)), 1) for height, width in sizes]
    columns = min(columns, len(chosen))
    row_height = max(heights) + GAP
    size = -(-len(chosen) // columns) * row_height, columns * (tile + GAP)
    if size[0] * size[1] > MAX_PIXELS or max(size) > MAX_SIDE:  # known before a page is decoded
        raise DataError(f"{root}: {len(chosen)} pages in {columns} columns make a sheet of {size[1]} x {size[0]} pixels; way "
                        "out: fewer --pages, or a smaller --tile")
    sheet = np.full((*size, 3), 90, np.uint8)
    for number, (file, truth, height) in enumerate(zip(chosen, truths, heights)):
        image = load_image(Path(root) / truth["image"])
        if not plain:
            mask = load_mask(Path(root) / "segmentation" / file.parent.name / "masks" / f"{file.stem}.png")
            image = draw_truth(image, mask, truth)
        y, x = number // columns * row_height + GAP // 2, number % columns * (tile + GAP) + GAP // 2
        sheet[y : y + height, x : x + tile] = cv2.resize(image, (tile, height), interpolation=cv2.INTER_AREA)
    return sheet


def tile_width(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_TILE:
        raise argparse.ArgumentTypeError(f"{text} is not 1 to {MAX_TILE}")
    return value


def _fixed(points: list) -> np.ndarray:
    """Points with 4 fractional bits, as OpenCV's shift argument wants them."""
    return np.round(np.array(points) * 16).astype(np.int32)


def main(argv: list[str] | None = None) -> int:
    parser = new_parser(__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="a folder made by datasets.synthetic")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.jpg or .png)")
    parser.add_argument("--pages", type=positive_int, default=24, help="pages on the sheet (default 24)")
    parser.add_argument("--columns", type=positive_int, default=6, help="pages in a row (default 6)")
    parser.add_argument("--tile", type=tile_width, default=420, help="width of a page in pixels (default 420)")
    parser.add_argument("--plain", action="store_true", help="without the truth")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        parser.error(f"--out {args.out} must end in .jpg or .png")
    save_image(args.out, contact_sheet(args.dir, args.pages, args.columns, args.tile, args.plain))
    print(args.out)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
