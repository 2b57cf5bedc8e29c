"""Make photographs of QR codes: any size and turn, on flat or bent labels, in any light, with their boxes.

    python -m datasets.qr_photos --out data/marks/qr_made --images 600 --seed 0
    python -m datasets.qr_photos --out data/marks/qr_made --images 600 --seed 0 --backgrounds data/scenes --workers 8

The codes on the pages of datasets.synthetic are small and nearly upright; in photographs they fill the picture, lie on
bottles, in shadow, in glare. Writes OUT/train/images and OUT/train/labels in YOLO's layout, class 0, and OUT/data.yaml.
--backgrounds: a folder of photographs without QR codes to lay them on. The same seed makes the same pictures, whatever
the number of workers. For training only: it writes no other split.
"""

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.pages.canvas import Canvas, TextStyle
from datasets.pages.marks import qr_matrix
from datasets.pages.picture import photograph
from datasets.paste_marks import overlaps
from utils.args import new_parser, non_negative_int, positive_int
from utils.dataloading import sample_rng
from utils.errors import DataError, exit_cleanly
from utils.fonts import find_fonts
from utils.images import list_images, load_image

LONGER_SIDE = 640  # pixels of a picture
SIDES = (0.07, 0.9)  # side of a code in longer sides of its picture
MOST_CODES = 6
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
DECOYS = 0.35  # share of pictures with a bar code or a marker of another kind
TRIES = 12


@dataclass
class Label:
    """image (h, w, 3) uint8; outline (N, 2) float32: points round the code's modules, in pixels of the image."""

    image: np.ndarray
    outline: np.ndarray


def qr_label(rng: np.random.Generator) -> Label:
    """A printed code: black or coloured, at times light on dark, with a logo or scratches, and what is printed round it."""
    length = int(np.exp(rng.uniform(np.log(6), np.log(260))))
    matrix = qr_matrix("https://" + "".join(CHARACTERS[i] for i in rng.integers(len(CHARACTERS), size=length)), rng)
    module = max(420 // len(matrix), 3)
    side, quiet = len(matrix) * module, int(rng.choice([1, 2, 4, 4, 6])) * module
    left, right, top, bottom = (quiet + (rng.random(4) < 0.3) * rng.uniform(0, 0.7, 4) * side).astype(int).tolist()
    dark = rng.uniform(0, 70, 3) if rng.random() < 0.25 else np.repeat(rng.uniform(0, 45), 3)
    light = rng.uniform(150, 255, 3) if rng.random() < 0.2 else np.repeat(rng.uniform(215, 255), 3)
    if rng.random() < 0.04:
        dark, light = light, dark
    canvas = Canvas(left + side + right, top + side + bottom, tuple(light.astype(int).tolist()))
    if rng.random() < 0.5:
        _print_round(canvas, left, dark, rng)
    code = np.kron(matrix, np.ones((module, module), np.uint8))[..., None]
    area = canvas.image[top : top + side, left : left + side]
    area[...] = np.where(code > 0, dark, light)
    if rng.random() < 0.12:
        middle, reach = (side // 2, side // 2), int(side * rng.uniform(0.06, 0.12))
        cv2.circle(area, middle, reach, rng.integers(0, 256, 3).tolist(), -1)
        cv2.circle(area, middle, reach, light.tolist(), max(module // 2, 1))
    if rng.random() < 0.15:
        for _ in range(int(rng.integers(1, 6))):
            ends = rng.integers(0, side, (2, 2)).tolist()
            cv2.line(area, *ends, rng.uniform(60, 255, 3).tolist(), int(rng.integers(1, 3 * module)))
    edge = np.linspace(0, side, 17)
    outline = np.concatenate([np.stack([x + left, y + top], 1) for x, y in (
        (edge, 0 * edge), (edge, 0 * edge + side), (0 * edge, edge), (0 * edge + side, edge))])
    return Label(canvas.image, np.float32(outline))


def _print_round(canvas: Canvas, left: int, colour: np.ndarray, rng: np.random.Generator) -> None:
    """Lines of text over the whole label, of which the margins will be left to see."""
    size = int(rng.uniform(0.06, 0.2) * min(canvas.width, canvas.height))
    faces = find_fonts()
    style = TextStyle(faces[rng.integers(len(faces))], max(size, 8), tuple(colour.astype(int).tolist()))
    for y in range(style.size, canvas.height, int(style.size * 1.3) + 1):
        if rng.random() < 0.7:
            words = ["".join(CHARACTERS[i] for i in rng.integers(62, size=rng.integers(2, 9))) for _ in range(4)]
            canvas.text(" ".join(words), max(left * 0.2, 2), y, style)


def decoy(rng: np.random.Generator) -> Label:
    """A bar code, or a square marker as cameras are calibrated with: nothing that a QR reader reads."""
    if rng.random() < 0.6:
        bars = np.repeat(rng.integers(0, 2, 95), rng.integers(2, 5))
        cells = np.tile(bars, (int(len(bars) * rng.uniform(0.2, 0.6)), 1))
    else:
        inner = rng.integers(0, 2, (int(rng.integers(4, 7)),) * 2)
        cells = np.kron(np.pad(1 - inner, 1, constant_values=1), np.ones((24, 24), int))
    image = np.pad(np.uint8(255 - 235 * cells), int(rng.integers(4, 40)), constant_values=255)
    h, w = image.shape
    return Label(np.repeat(image[..., None], 3, 2), np.float32([[0, 0], [w, 0], [w, h], [0, h]]))


def bend(label: Label, rng: np.random.Generator) -> Label:
    """The label round a bottle seen from the front, a little from above or below.

    With x and y from -1 to 1, a point goes to (sin(ax) / sin(a), y + k(1 - x'^2)): the label covers the angle 2a of the
    bottle, and k is how far its rings look bowed.
    """
    angle, bow = rng.uniform(0.4, 1.3), rng.uniform(-0.25, 0.25)
    if rng.random() < 0.3:  # the bottle lies
        turned = bend_by(Label(np.ascontiguousarray(label.image.transpose(1, 0, 2)), label.outline[:, ::-1]), angle, bow)
        return Label(np.ascontiguousarray(turned.image.transpose(1, 0, 2)), np.ascontiguousarray(turned.outline[:, ::-1]))
    return bend_by(label, angle, bow)


def bend_by(label: Label, angle: float, bow: float) -> Label:
    """The label bent upright as bend() describes; the image keeps its size, and what leaves it is cut."""
    h, w = label.image.shape[:2]
    reach = 1 + abs(bow)  # the bent label is higher: it is drawn smaller by so much
    x = np.linspace(-1, 1, w, dtype=np.float32)[None].repeat(h, 0)
    y = np.linspace(-1, 1, h, dtype=np.float32)[:, None].repeat(w, 1) * reach
    from_x, from_y = np.arcsin(x * np.sin(angle)) / angle, y - bow * (1 - x**2)
    image = cv2.remap(label.image, np.float32((from_x + 1) / 2 * (w - 1)), np.float32((from_y + 1) / 2 * (h - 1)),
                      cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    px, py = (label.outline / [w - 1, h - 1] * 2 - 1).T
    to_x = np.sin(angle * px) / np.sin(angle)
    to_y = (py + bow * (1 - to_x**2)) / reach
    return Label(image, np.float32(np.stack([(to_x + 1) / 2 * (w - 1), (to_y + 1) / 2 * (h - 1)], 1)))


def placement(label: Label, side: float, centre: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(3, 3) perspective of the label into the picture: what its outline holds about `side` pixels, its middle at `centre`."""
    low, high = label.outline.min(0), label.outline.max(0)
    kind, angle = rng.random(), rng.normal(0, 0.08)
    if kind < 0.4:
        angle = rng.uniform(-np.pi, np.pi)
    elif kind < 0.5:
        angle += np.pi / 2 * rng.integers(1, 4)
    corners = np.float32([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    seen = corners * [1, (high - low)[1] / (high - low)[0]] + rng.uniform(-0.1, 0.1, (4, 2)) * (rng.random() < 0.6)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return cv2.getPerspectiveTransform(np.float32((corners + 0.5) * (high - low) + low),
                                       np.float32(seen @ turn * side + centre))


def moved(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 2) float32 points of a label in pixels of the picture."""
    return cv2.perspectiveTransform(points[None], matrix)[0]


def lay(picture: np.ndarray, label: Label, matrix: np.ndarray) -> None:
    """Draw the label over the picture, in place."""
    height, width = picture.shape[:2]
    source = label.image
    shrunk = np.ptp(label.outline, axis=0).max() / max(np.ptp(moved(label.outline, matrix), axis=0).max(), 1)
    if shrunk > 1.5:  # warping alone would skip modules
        source = cv2.blur(source, (int(shrunk),) * 2)
    drawn = cv2.warpPerspective(source, matrix, (width, height), flags=cv2.INTER_LINEAR)
    inside = cv2.warpPerspective(np.full(source.shape[:2], 255, np.uint8), matrix, (width, height))
    picture[inside > 127] = drawn[inside > 127]


def ground(backgrounds: list[Path], width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """(height, width, 3) uint8: part of a photograph, or where there are none (and now and then) a plain surface."""
    if backgrounds and rng.random() < 0.85:
        image = load_image(backgrounds[rng.integers(len(backgrounds))])
        share = rng.uniform(0.3, 1)
        h, w = (np.array(image.shape[:2]) * share).astype(int)
        y, x = rng.integers(0, image.shape[0] - h + 1), rng.integers(0, image.shape[1] - w + 1)
        return cv2.resize(image[y : y + h, x : x + w], (width, height), interpolation=cv2.INTER_AREA)
    corners = rng.uniform(20, 255, (1, 1, 3)) + rng.uniform(-40, 40, (2, 2, 1)) + rng.uniform(-15, 15, (2, 2, 3))
    image = np.uint8(np.clip(cv2.resize(np.float32(corners), (width, height), interpolation=cv2.INTER_LINEAR), 0, 255))
    for _ in range(int(rng.integers(0, 12))):  # boxes, edges of tables, other labels
        a, b = rng.integers(0, [width, height], (2, 2)).tolist()
        colour = rng.integers(0, 256, 3).tolist()
        if rng.random() < 0.5:
            cv2.rectangle(image, a, b, colour, -1)
        else:
            cv2.line(image, a, b, colour, int(rng.integers(1, 12)))
    return image


def make_photo(backgrounds: list[Path], rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(image (H, W, 3) uint8 RGB, boxes (N, 4) float32 x1 y1 x2 y2 of the codes' modules, in pixels)."""
    shorter = int(LONGER_SIDE * rng.uniform(0.55, 1))
    width, height = (LONGER_SIDE, shorter) if rng.random() < 0.5 else (shorter, LONGER_SIDE)
    picture, boxes = ground(backgrounds, width, height, rng), []
    for _ in range(int(rng.integers(1, 3)) if rng.random() < DECOYS else 0):
        label = decoy(rng)
        lay(picture, label, placement(label, rng.uniform(0.1, 0.4) * LONGER_SIDE, rng.uniform(0.1, 0.9, 2) * [width, height],
                                      rng))
    codes = 1 if rng.random() < 0.65 else int(rng.integers(2, MOST_CODES + 1))
    for _ in range(codes):
        label = qr_label(rng)
        if rng.random() < 0.25:
            label = bend(label, rng)
        for _ in range(TRIES):
            side = rng.uniform(SIDES[0], SIDES[1] / np.sqrt(codes)) * LONGER_SIDE
            matrix = placement(label, side, rng.uniform(0.05, 0.95, 2) * [width, height], rng)
            points = moved(label.outline, matrix)
            box = np.concatenate([points.min(0), points.max(0)])
            h, w = label.image.shape[:2]
            edges = moved(np.float32([[0, 0], [w, 0], [w, h], [0, h]]), matrix)
            whole = np.concatenate([edges.min(0), edges.max(0)])
            if (box[:2] >= 0).all() and (box[2:] <= [width, height]).all() and not any(overlaps(whole, b) for b in boxes):
                lay(picture, label, matrix)
                boxes.append(box)
                break
    return in_bad_light(picture, rng), np.float32(boxes).reshape(-1, 4)


def in_bad_light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As datasets.pages.picture photographs a page, and at times far too dark, blurred, or with a lamp in the way."""
    picture, _ = photograph(picture, "whiteboard" if rng.random() < 0.4 else "receipt", 14.0, rng)
    values = np.float32(picture)
    if rng.random() < 0.15:
        values *= rng.uniform(0.08, 0.5)
    if rng.random() < 0.15:
        values = cv2.GaussianBlur(values, (0, 0), rng.uniform(1, 4))
    if rng.random() < 0.12:
        lamp = np.zeros(values.shape[:2], np.float32)
        h, w = lamp.shape
        cv2.ellipse(lamp, rng.integers(0, [w, h]).tolist(), (rng.uniform(0.03, 0.2, 2) * LONGER_SIDE).astype(int).tolist(),
                    rng.uniform(0, 180), 0, 360, 1, -1)
        values += rng.uniform(120, 255) * cv2.GaussianBlur(lamp, (0, 0), rng.uniform(3, 25))[..., None]
    return np.uint8(np.clip(values, 0, 255))


def write_photo(index: int, seed: int, backgrounds: list[Path], root: Path) -> int:
    """Make picture number `index` below `root`; returns how many codes are on it. Runs in a worker."""
    cv2.setNumThreads(0)
    rng = sample_rng(seed, 0, index)
    image, boxes = make_photo(backgrounds, rng)
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(60, 96))])
    if not done:
        raise ValueError("a picture could not be encoded as JPEG")
    size = np.array(image.shape[1::-1])
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2 / size, (boxes[:, 2:] - boxes[:, :2]) / size
    lines = [f"0 {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for (x, y), (w, h) in zip(middles, sides)]
    (root / "train" / "images" / f"qr_{index:06}.jpg").write_bytes(data.tobytes())
    (root / "train" / "labels" / f"qr_{index:06}.txt").write_text("".join(lines))
    return len(lines)


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make; it must not exist")
    parser.add_argument("--images", type=positive_int, required=True, help="number of pictures")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="the same seed makes the same pictures (default 0)")
    parser.add_argument("--backgrounds", type=Path, metavar="DIR",
                        help="folder of photographs without QR codes (default: plain surfaces alone)")
    parser.add_argument("--workers", type=positive_int, default=1, help="processes (default 1); does not change the pictures")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    if args.out.exists():
        raise DataError(f"{args.out}: is there already; remove it, or take another --out")
    backgrounds = list_images(args.backgrounds) if args.backgrounds else []
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that one rename puts it there.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=args.out.parent) as folder:
            root = Path(folder) / args.out.name
            for part in ("images", "labels"):
                (root / "train" / part).mkdir(parents=True)
            write = partial(write_photo, seed=args.seed, backgrounds=backgrounds, root=root)
            bar = partial(tqdm, total=args.images, desc="pictures", unit="picture", disable=None)
            if args.workers == 1:
                codes = sum(bar(map(write, range(args.images))))
            else:
                with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
                    codes = sum(bar(pool.map(write, range(args.images), chunksize=8)))
            (root / "data.yaml").write_text("train: train/images\nnames: {0: qr}\n", encoding="utf-8")
            root.rename(args.out)
    except OSError as error:
        raise DataError(f"{args.out}: cannot be written ({error.strerror or error})") from None
    print(f"{args.out}: {args.images} pictures, {codes} QR codes; to train on them, list {args.out.name}/train/images under "
          f"train: of a data.yaml beside the folder, and {args.out.name}: [qr] under labelled:")
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
