"""Make pages with the exact truth of all four tasks.

    python -m datasets.synthetic --out data --pages 60 --seed 0
    python -m datasets.synthetic --out data --pages 5000 --seed 1 --workers 8 --font-dir /usr/share/fonts/truetype
    python -m datasets.synthetic --out boards --pages 400 --seed 2 --kind whiteboard --size 1600x1200

Writes DIR/detection, recognition, segmentation, yolo and pages, each with train, val and test. The same seed gives the
same files, whatever the number of workers, as long as the fonts and the libraries are the same.
"""

import argparse
import multiprocessing
import tempfile
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from datasets.pages.sheets import KINDS
from datasets.pages.source import SyntheticPages
from datasets.pages.writer import SPLITS, TASKS, make_folders, write_page, write_tables
from utils.args import new_parser, non_negative_int, positive_int
from utils.errors import DataError, exit_cleanly
from utils.fonts import find_fonts

LEAST_SIDE = 256  # pixels; nothing readable fits on a smaller page


def split_of_pages(pages: int, shares: list[float]) -> list[str]:
    """The split of each page: train, val, test in proportion, spread evenly, every wanted split at least one page."""
    counts = np.maximum(np.floor(pages * np.array(shares) + 1e-9), np.array(shares) > 0).astype(int)
    counts[int(np.argmax(shares))] += pages - counts.sum()  # rounding, and the ones given to small splits
    # Each split's pages are spread evenly over the whole (the k-th of n at (k + 1/2) / n).
    order = sorted(((k + 0.5) / count, s) for s, count in enumerate(counts.tolist()) for k in range(count))
    return [SPLITS[s] for _, s in order]


def make_and_write(job: tuple[int, str], args: argparse.Namespace, root: Path) -> tuple[str, str, dict]:
    """Make page number job[0] for the split job[1]. Runs in a worker."""
    cv2.setNumThreads(0)
    index, split = job
    source = pages_of_split(args.pages, args.seed, args.kind, *args.size, split, args.font_dir)
    name = f"page_{index:06}"
    return split, name, write_page(source[index], root, split, name, args.crop_length)


@lru_cache(maxsize=8)
def pages_of_split(*arguments) -> SyntheticPages:
    return SyntheticPages(*arguments)


def build(args: argparse.Namespace, root: Path) -> int:
    """All pages under `root`. Returns the number of crops."""
    splits = split_of_pages(args.pages, args.splits)
    make_folders(root, [split for split in SPLITS if split in splits])
    written: dict[str, list] = {split: [] for split in SPLITS if split in splits}
    work = partial(make_and_write, args=args, root=root)
    jobs = list(enumerate(splits))
    bar = partial(tqdm, total=len(jobs), desc="pages", unit="page", disable=None)
    if args.workers <= 1:
        for split, name, result in bar(map(work, jobs)):
            written[split].append((name, result))
    else:
        with ProcessPoolExecutor(args.workers, multiprocessing.get_context("spawn")) as pool:
            for split, name, result in bar(pool.map(work, jobs, chunksize=4)):
                written[split].append((name, result))
    write_tables(root, written)
    return sum(len(result["crops"]) for pages in written.values() for _, result in pages)


def move_into_place(root: Path, out: Path) -> None:
    """Each task's folder takes its place under `out` whole; an old one is moved away, to go with `root`."""
    for task in TASKS:
        if (out / task).exists():
            (out / task).rename(root / f"old-{task}")
        (root / task).rename(out / task)


def page_size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, such as 1000x1400") from None
    if min(width, height) < LEAST_SIDE or max(width, height) > 8000:
        raise argparse.ArgumentTypeError(f"{text}: both sides must be from {LEAST_SIDE} to 8000 pixels")
    return width, height


def shares(text: str) -> list[float]:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) != 3 or not all(0 <= value <= 1 for value in values) or abs(sum(values) - 1) > 1e-6:
        raise argparse.ArgumentTypeError(f"{text!r} is not three shares (train,val,test) that sum to 1")
    return values


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make the task folders in")
    parser.add_argument("--pages", type=positive_int, required=True, help="number of pages")
    parser.add_argument(
        "--seed", type=non_negative_int, default=0, help="the same seed makes the same pages (default 0)"
    )
    parser.add_argument("--kind", choices=[*KINDS, "mixed"], default="mixed", help="kind of pages (default mixed)")
    parser.add_argument(
        "--size", type=page_size, default=(1000, 1400), metavar="WxH", help="pixels (default 1000x1400)"
    )
    parser.add_argument("--font-dir", type=Path, help="folder with more fonts, searched with its subfolders")
    parser.add_argument(
        "--workers", type=positive_int, default=1, help="processes (default 1); does not change the pages"
    )
    parser.add_argument(
        "--splits",
        type=shares,
        default=[0.8, 0.1, 0.1],
        metavar="TRAIN,VAL,TEST",
        help="shares of the pages (default 0.8,0.1,0.1); a split with a share gets at least one page",
    )
    parser.add_argument(
        "--crop-length", type=non_negative_int, default=25,
        help="longer text lines become several crops for recognition, cut between words; 0: whole lines (default 25, "
             "what train_recognition.py reads by default)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace task folders that hold something")
    args = parser.parse_args(argv)
    wanted = sum(share > 0 for share in args.splits)
    if args.pages < wanted:
        parser.error(f"--pages {args.pages} is not enough for {wanted} splits with at least one page each")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    find_fonts(args.font_dir)  # says at once what is wrong with the folder
    full = [args.out / task for task in TASKS if (args.out / task).is_dir() and any((args.out / task).iterdir())]
    if args.out.exists() and not args.out.is_dir():
        raise DataError(f"{args.out}: is a file; way out: name a folder by --out")
    if full and not args.overwrite:
        raise DataError(f"{full[0]}: is not empty; way out: --overwrite, or another --out")
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that every folder is moved there by a rename: whole or not at all.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=args.out) as folder:
            crops = build(args, Path(folder))
            move_into_place(Path(folder), args.out)
    except BrokenProcessPool:
        raise DataError(
            f"a worker of {args.workers} was killed, most likely for memory; way out: fewer --workers"
        ) from None
    except OSError as error:
        raise DataError(f"{args.out}: cannot be written ({error.strerror or error})") from None
    print(
        f"{args.out}: {args.pages} pages, {crops} crops of text; look at them by: "
        f"python -m datasets.contact_sheet {args.out} --out sheet.jpg"
    )
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
