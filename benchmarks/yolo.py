"""Milliseconds and frames a second of a YOLO model by engine and image size, and the mAP each engine keeps.

    python -m benchmarks.yolo --weights runs/yolo/marks/best.pt --sizes 416 640
    python -m benchmarks.yolo --weights runs/yolo/marks/best.pt --onnx marks.onnx marks.int8.onnx --data-dir data/yolo

Engines: torch; torch in bfloat16; each --onnx file (python -m models.export) in ONNX Runtime and, where OpenVINO is
installed, in OpenVINO, which computes in bfloat16 where the CPU can. A frame is the forward pass of one square image,
batch 1, the median over --rounds rounds in which the engines take turns; decoding and suppression are timed apart. With
--data-dir each engine is scored on --split at the size of the weights' training, the network alone (train_yolo.py --bare). The
last line is one JSON object.
"""

import argparse
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from torch import nn

from datasets.yolo import index_marks, read_data_yaml
from models.onnx_yolo import OnnxYolo
from models.openvino_session import OpenvinoSession
from models.yolo import load_model
from models.yolo_boxes import _suppress, evaluate
from utils.args import new_parser, positive_int
from utils.errors import DataError, exit_cleanly


class Bfloat16(nn.Module):
    """A network under autocast, its answer in float32."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.names, self.stride, self.end2end = model, model.names, model.stride, model.end2end

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            answer = self.model(images)
        return (answer[0] if isinstance(answer, (tuple, list)) else answer).float()


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint, ours or ultralytics'")
    parser.add_argument("--onnx", type=Path, nargs="*", default=[], metavar="FILE", help="files of models.export")
    parser.add_argument("--sizes", type=positive_int, nargs="+", default=[416, 640], help="sides in pixels")
    parser.add_argument("--rounds", type=positive_int, default=10, help="(default: %(default)s)")
    parser.add_argument("--threads", type=positive_int, default=2, help="for every engine (default: %(default)s)")
    parser.add_argument("--data-dir", type=Path, help="to score each engine on")
    parser.add_argument("--split", default="val", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if bad := [size for size in args.sizes if size % 32]:
        parser.error(f"--sizes: {bad[0]} is no multiple of 32")
    return args


def engines(args: argparse.Namespace) -> tuple[dict[str, nn.Module], dict]:
    """({what an engine is called: a model that detect() takes}, the checkpoint)"""
    model, checkpoint = load_model(args.weights, "cpu")
    found = {"torch": model.to(memory_format=torch.channels_last), "torch bfloat16": Bfloat16(model)}
    for file in args.onnx:
        found[f"onnxruntime {file.name}"] = OnnxYolo(file, args.threads).eval()
        try:
            found[f"openvino {file.name}"] = OnnxYolo(file, args.threads, partial(OpenvinoSession, use_amp=True)).eval()
        except DataError as error:
            print(f"warning: {error}", file=sys.stderr)
    return found, checkpoint


def time_engines(models: dict[str, nn.Module], size: int, rounds: int) -> dict[str, dict]:
    """{engine: {"ms", "fps", "decode_ms"}} of one image of size x size."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    times: dict[str, list] = {name: [] for name in models}
    for count in range(rounds + 1):
        for name, model in models.items():
            begun = time.perf_counter()
            with torch.no_grad():
                answer = model(image)
            between = time.perf_counter()
            _suppress(answer, 0.25, 0.45, False, model.end2end)
            if count:  # the first round warms up
                times[name].append((between - begun, time.perf_counter() - between))
    medians = {name: [statistics.median(part) for part in zip(*taken)] for name, taken in times.items()}
    return {name: {"ms": round(1e3 * forward, 2), "fps": round(1 / forward, 1), "decode_ms": round(1e3 * decode, 2)}
            for name, (forward, decode) in medians.items()}


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    models, checkpoint = engines(args)
    report = {"threads": args.threads, "sizes": {size: time_engines(models, size, args.rounds) for size in args.sizes}}
    if args.data_dir:
        samples = index_marks(read_data_yaml(args.data_dir), args.split)
        score = partial(evaluate, samples=samples, img_size=checkpoint["config"]["img_size"])
        scores = {name: score(model)[0] for name, model in models.items()}
        report["scores"] = {name: {key: round(value[key], 4) for key in ("map50", "map50_95")} | {
            "map50_lost": round(scores["torch"]["map50"] - value["map50"], 4)} for name, value in scores.items()}
    for size, found in report["sizes"].items():
        for name, values in found.items():
            kept = f"   map50 {report['scores'][name]['map50']:.4f}" if args.data_dir else ""
            print(f"{size:5d}  {name:32s} {values['ms']:8.1f} ms {values['fps']:7.1f} FPS{kept}")
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
