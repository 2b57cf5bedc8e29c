"""Make a file worth handing on out of a run's checkpoint (docmarks).

    python -m models.ship --weights runs/detection/first/best.pt --out weights/detection.pt

What inference needs and nothing else: the averaged weights as 16 bit floats, config, thresholds, charset, temperature.
Optimizer, progress, every path, and a CTC head that only helped the training are left out, so it cannot be resumed;
--test-only, --init-from and inference.py take it. Its hash is written into SHA256SUMS beside it, and inference.py
refuses a file that is not the one listed. The last line on stdout is one JSON object: task, file, bytes, sha256, and the
largest change of a tensor by rounding, as a share of it.
"""

import json
from pathlib import Path

import torch
from torch import Tensor

from utils.args import new_parser
from utils.checkpoint import load_checkpoint, save_checkpoint, weights_of
from utils.errors import DataError, exit_cleanly
from utils.weights import list_hash

KEPT = ("task", "config", "thresholds", "postproc", "charset_digest", "temperature", "reading")
AUXILIARY = "ctc_head."  # for training only, unless the model reads by it


def shorten(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Floating point tensors as float16; counters as they are. Raises OverflowError where one does not fit."""
    short = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    if lost := [name for name, value in short.items() if not torch.isfinite(value).all()]:
        raise OverflowError(f"{lost[0]} does not fit into 16 bits")
    return short


def rounding(weights: dict[str, Tensor], short: dict[str, Tensor]) -> float:
    """The largest change of a tensor by shortening: norm of the difference over the norm."""
    changes = [float((weights[name] - value.float()).norm() / weights[name].norm().clamp(min=1e-12))
               for name, value in short.items() if value.is_floating_point()]
    return max(changes, default=0.0)


def is_path(value) -> bool:
    return isinstance(value, str) and ("/" in value or "\\" in value)


def ship(source: Path, out: Path) -> dict:
    """Write `out` and its line in SHA256SUMS. Raises DataError where `source` is no checkpoint of this project."""
    checkpoint = load_checkpoint(source)
    weights, slim = weights_of(checkpoint), {name: checkpoint[name] for name in KEPT if name in checkpoint}
    if slim["config"].get("ctc") and slim.get("reading", {}).get("decode") != "ctc":
        weights = {name: value for name, value in weights.items() if not name.startswith(AUXILIARY)}
        slim["config"] = slim["config"] | {"ctc": False}
    try:
        short = shorten(weights)
    except OverflowError as error:
        raise DataError(f"{source}: {error}; was the training stable?") from None
    slim["args"] = {name: value for name, value in checkpoint.get("args", {}).items()
                    if not is_path(value) and not (isinstance(value, (list, tuple)) and any(map(is_path, value)))}
    save_checkpoint(out, slim | {"model": short, "ema": None})
    return {"task": slim["task"], "file": str(out), "bytes": out.stat().st_size, "sha256": list_hash(out),
            "rounding": round(rounding(weights, short), 6)}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint: best.pt or last.pt of a run")
    parser.add_argument("--out", type=Path, required=True, help="file to write, weights/TASK.pt")
    args = parser.parse_args(argv)
    print(json.dumps(ship(args.weights, args.out)))


if __name__ == "__main__":
    exit_cleanly(main)
