"""A sheet of small pages with their truth drawn on, for people to look at.

    python -m datasets.contact_sheet data --out sheet.jpg
    python -m datasets.contact_sheet data --out sheet.png --pages 6 --columns 3 --tile 700

Lines red (handwriting violet, unreadable grey), words green, strokes cyan, ink tinted blue; marks: QR blue, signature
green, stamp red.
"""

import json
from pathlib import Path

import cv2
import numpy as np

from utils.args import new_parser, positive_int
from utils.errors import DataError, exit_cleanly
from utils.images import load_image, load_mask, save_image

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
    tiles = []
    for file in chosen:
        truth = json.loads(file.read_text(encoding="utf-8"))
        image = load_image(Path(root) / truth["image"])
        if not plain:
            mask = load_mask(Path(root) / "segmentation" / file.parent.name / "masks" / f"{file.stem}.png")
            image = draw_truth(image, mask, truth)
        height = int(round(image.shape[0] * tile / image.shape[1]))
        tiles.append(cv2.resize(image, (tile, height), interpolation=cv2.INTER_AREA))
    row_height = max(image.shape[0] for image in tiles)
    sheet = np.full((-(-len(tiles) // columns) * (row_height + 8), columns * (tile + 8), 3), 90, np.uint8)
    for number, image in enumerate(tiles):
        y, x = number // columns * (row_height + 8) + 4, number % columns * (tile + 8) + 4
        sheet[y : y + image.shape[0], x : x + tile] = image
    return sheet


def _fixed(points: list) -> np.ndarray:
    """Points with 4 fractional bits, as OpenCV's shift argument wants them."""
    return np.round(np.array(points) * 16).astype(np.int32)


def main(argv: list[str] | None = None) -> int:
    parser = new_parser(__doc__)
    parser.add_argument("dir", type=Path, metavar="DIR", help="a folder made by datasets.synthetic")
    parser.add_argument("--out", type=Path, required=True, help="picture to write (.jpg or .png)")
    parser.add_argument("--pages", type=positive_int, default=24, help="pages on the sheet (default 24)")
    parser.add_argument("--columns", type=positive_int, default=6, help="pages in a row (default 6)")
    parser.add_argument("--tile", type=positive_int, default=420, help="width of a page in pixels (default 420)")
    parser.add_argument("--plain", action="store_true", help="without the truth")
    args = parser.parse_args(argv)
    if args.out.suffix.lower() not in (".jpg", ".jpeg", ".png"):
        parser.error(f"--out {args.out} must end in .jpg or .png")
    save_image(args.out, contact_sheet(args.dir, args.pages, args.columns, args.tile, args.plain))
    print(args.out)
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
