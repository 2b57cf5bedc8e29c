"""Write a checkpoint as an ONNX file that holds all that inference needs (docmarks).

    python -m models.export --weights runs/detection/first/best.pt --out detection.onnx

The task is read from the checkpoint. Nothing is written unless the graph gives what torch gives, to 1e-4, at several
sizes. The last line on stdout is one JSON object: task, files, and the largest difference that was seen.
"""

import json
from importlib import import_module
from pathlib import Path

from utils.args import new_parser
from utils.checkpoint import load_checkpoint, names_ultralytics
from utils.errors import DataError, exit_cleanly

# task: module with `export(weights, out, args) -> dict`, what the last line says beside task and weights, and
# `FLAGS`, those of the flags below "options" that mean something to it. Imported when needed: some take seconds.
MODULES = {"detection": "models.onnx_detection", "segmentation": "models.onnx_strokes",
           "recognition": "models.onnx_recognition", "yolo": "models.onnx_yolo"}


def make_parser():
    parser = new_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint: best.pt or last.pt of a run")
    parser.add_argument("--out", type=Path, required=True, help="file to write, NAME.onnx")
    group = parser.add_argument_group("options")
    group.add_argument("--int8", action="store_true",
                       help="recognition, marks: also write graphs with 8 bit weights, NAME.int8.onnx")
    group.add_argument("--calibration-images", type=Path, metavar="DIR",
                       help="marks: pages to see the ranges of activations on, for --int8")
    return parser


def task_of(weights: Path) -> str:
    """What a checkpoint was trained for; a file of ultralytics' own is one of marks."""
    return "yolo" if names_ultralytics(weights) else load_checkpoint(weights)["task"]


def main(argv=None):
    parser = make_parser()
    args = parser.parse_args(argv)
    if args.out.suffix != ".onnx":
        parser.error(f"--out {args.out}: must end in .onnx")
    task = task_of(args.weights)
    if task not in MODULES:
        raise DataError(f"{args.weights}: a model for {task} cannot be exported; {', '.join(MODULES)} can")
    module = import_module(MODULES[task])
    for name in sorted(set(vars(args)) - {"weights", "out"} - set(module.FLAGS)):
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} means nothing to a model for {task}")
    print(json.dumps({"task": task, "weights": str(args.weights)} | module.export(args.weights, args.out, args)))


if __name__ == "__main__":
    exit_cleanly(main)
