"""Which unlabelled pages a stroke model is least sure of, and labelling would teach it most (docmarks).

    python -m experiments.doubtful --weights runs/segmentation/first/best.pt --images scans --out doubtful.tsv

A page's doubt is the mean of 4 q (1 - q) over the pixels of its visible strokes, which datasets.check_masks sees in the
picture itself: q is the probability of ink, stretched so that the model's threshold comes to 0.5. It is 1 where the network
cannot say, and 0 where it is sure, be it wrong. Thin and blurred strokes have more of it: compare pages of one kind.
Writes FILE<TAB>DOUBT, most doubtful first, and prints ten; the last line on stdout is one JSON object.
"""

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from datasets.check_masks import judged_strokes
from models.engines import load_any
from models.strokes import predict_strokes
from utils.args import SWITCH, fraction, new_parser
from utils.distributed import init_distributed
from utils.errors import BadSamples, DataError, exit_cleanly
from utils.files import replace_file
from utils.images import list_images, load_image
from utils.state import autocast

SHOWN = 10


def doubt(probability: np.ndarray, strokes: np.ndarray, threshold: float) -> float:
    """Mean of 4 q (1 - q), 0 to 1, over strokes (H, W) bool; 0 where there are none. probability: (H, W) float in [0, 1]."""
    if not strokes.any():
        return 0.0
    q = np.interp(probability[strokes], (0, threshold, 1), (0, 0.5, 1))
    return float((4 * q * (1 - q)).mean())


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint, or an exported .onnx")
    parser.add_argument("--images", type=Path, required=True, help="folder with pages")
    parser.add_argument("--out", type=Path, default=Path("doubtful.tsv"),
                        help="list to write, NAME.tsv (default: %(default)s)")
    parser.add_argument("--max-bad-fraction", type=fraction, default=0.01,
                        help="share of unreadable pages that may be left out with a report (default: %(default)s)")
    parser.add_argument("--use-amp", action=SWITCH, help="bfloat16 where the device does it, else float16")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N (default: %(default)s)")
    return parser


def parse_args(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.out.suffix.lower() != ".tsv":  # or it takes a scan's place
        parser.error(f"--out {args.out} must end in .tsv")
    return args


def main(argv=None):
    args = parse_args(argv)
    files, bad, found = list_images(args.images), BadSamples(args.max_bad_fraction), []
    device = init_distributed(args.device)[0]
    model, checkpoint = load_any("segmentation", args.weights, device)
    for file in tqdm(files, unit="page", leave=False, disable=None):
        try:
            image = load_image(file)
        except DataError as error:
            bad.add(*str(error).split(": ", 1))
            continue
        with autocast(args.use_amp, device):
            probability = predict_strokes(model, image)
        found.append((doubt(probability, judged_strokes(image), checkpoint["thresholds"]["ink"]), str(file)))
    bad.settle(len(files))
    found.sort(key=lambda pair: (-pair[0], pair[1]))
    replace_file(args.out, "".join(f"{file}\t{value:.4f}\n" for value, file in found))
    for value, file in found[:SHOWN]:
        print(f"{value:.4f}  {file}")
    print(json.dumps({"pages": len(found), "out": str(args.out)}))


if __name__ == "__main__":
    exit_cleanly(main)
