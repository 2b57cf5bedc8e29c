"""Score classic binarisation on a folder of pages, with the metrics of the stroke models (docmarks).

    python -m experiments.baselines otsu --data-dir data/segmentation
    python -m experiments.baselines sauvola --data-dir data/segmentation --split test --window 51 --k 0.2

Otsu's threshold is one for the whole page; Sauvola's follows mean and deviation in a window round each pixel, and darker
is ink (scikit-image, as others report them). One JSON object comes as the last line on stdout, as from
train_segmentation.py --test-only, so that every report can stand beside it.
"""

import json
from pathlib import Path

import cv2
import numpy as np
from skimage.filters import threshold_otsu, threshold_sauvola
from tqdm import tqdm

from datasets.segmentation import add_page_flags, read_pages
from utils.args import new_parser, positive_float, positive_int
from utils.errors import exit_cleanly
from utils.files import write_json
from utils.images import load_image
from utils.metrics.segmentation import measure_image, summarise

WIDEST = 1001  # pixels: wider than the strokes of any page, and its sums fit into memory


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("method", choices=("otsu", "sauvola"))
    add_page_flags(parser, "what is scored", "test")
    parser.add_argument("--window", type=positive_int, default=51,
                        help=f"sauvola: pixels, odd, 3 to {WIDEST} (default: %(default)s)")
    parser.add_argument("--k", type=positive_float, default=0.2, help="sauvola (default: %(default)s)")
    parser.add_argument("--output-dir", type=Path, help="folder for baseline_METHOD.json; none is written otherwise")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.window % 2 == 0 or not 3 <= args.window <= WIDEST:  # a single pixel is never darker than itself
        parser.error(f"--window {args.window} must be odd, 3 to {WIDEST}")
    for flag in ("window", "k"):
        if args.method == "otsu" and getattr(args, flag) != parser.get_default(flag):
            parser.error(f"--{flag} means nothing to otsu")
    return args


def binarise(image: np.ndarray, method: str, window: int = 51, k: float = 0.2) -> np.ndarray:
    """image (H, W, 3) uint8 RGB -> (H, W) bool, True = ink."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return grey < (threshold_otsu(grey) if method == "otsu" else threshold_sauvola(grey, window, k=k))


def main(argv=None):
    args = parse_args(argv)
    records = []
    for page in tqdm(read_pages(args, (args.split,))[args.split], unit="page", leave=False, disable=None):
        ink = binarise(load_image(page.image), args.method, args.window, args.k)
        records.append(measure_image(ink, page.truth()) | {"file": str(page.image), "categories": list(page.categories)})
    scores = {"method": args.method} | summarise(records)
    if args.output_dir:
        write_json(args.output_dir / f"baseline_{args.method}.json", scores)
    print(json.dumps(scores, ensure_ascii=False))


if __name__ == "__main__":
    exit_cleanly(main)
