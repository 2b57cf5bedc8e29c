"""A YOLO model as ONNX files: (B, 3, H, W) RGB in [0, 1], H and W times 32 -> (B, 4 + classes, places), boxes as
x-centre, y-centre, width, height in pixels. Pages go through it as through the network, by models.yolo_boxes.detect.

The int8 file keeps weights and activations of the convolutions in 8 bits, with ranges seen on training images; what
turns their answer into boxes stays float. What that costs in mAP is told by `python -m benchmarks.yolo`.
"""

import logging
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Iterator, Sequence

import numpy as np
import onnx
import onnxruntime
import torch
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import nn

from models.onnx_files import Runtime, make_graph, open_session, read_metadata, set_metadata, write_onnx
from models.yolo_boxes import place
from utils.errors import DataError
from utils.images import list_images, load_image

FLAGS = ("int8", "calibration_images")
SIZES = ((1, 64, 64), (2, 96, 160), (1, 256, 64), (1, 320, 224))  # (B, H, W)
PIXELS, SCORES = 0.25, 1e-3  # by which boxes and scores may differ; sums in another order make some of it
CALIBRATION_IMAGES = 64


class Predictions(nn.Module):
    """The network with nothing but its decoded predictions."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model.eval().float()
        self.model.model[-1].export, self.model.model[-1].dynamic = True, True

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = self.model(images)
        return answer[0] if isinstance(answer, (tuple, list)) else answer


def export(weights: Path, out: Path, args: Namespace) -> dict:
    """Write `out`, and NAME.int8.onnx with --int8; raises DataError where graph and network disagree.

    --calibration-images: a folder of pages like those that will be read, to see the ranges of activations on.
    """
    if args.int8 and not args.calibration_images:
        raise DataError("--int8: needs --calibration-images DIR, pages like those that will be read (training images)")
    from models.yolo import load_model  # ultralytics (AGPL-3.0), which a file once written does without
    model, checkpoint = load_model(weights, "cpu")
    img_size = checkpoint["config"]["img_size"]
    network = Predictions(model)
    height, width = (32 * torch.export.Dim(name, min=1) for name in ("height", "width"))
    graph = make_graph(network, (torch.zeros(2, 3, 96, 128),), ["images"], ["predictions"],
                       {"images": {0: torch.export.Dim.DYNAMIC, 2: height, 3: width}})
    metadata = {"config": checkpoint["config"], "end2end": bool(model.end2end), "stride": int(model.stride.max()),
                "input": {"divisor": 32, "colours": "RGB", "range": [0, 1]}}
    set_metadata(graph, "yolo", metadata)
    session, generator = open_session(graph, threads=1), torch.Generator().manual_seed(0)
    pixels, scores = zip(*(differences(session, network, torch.rand(batch, 3, height, width, generator=generator))
                           for batch, height, width in SIZES))
    if not (max(pixels) <= PIXELS and max(scores) <= SCORES):  # NaN included
        raise DataError(f"ONNX export: differs from torch by {max(pixels):.2g} pixels and by {max(scores):.2g} in "
                        "scores, which is no rounding; nothing was written")
    write_onnx(out, graph)
    files = [out]
    if args.int8:
        quantized = quantize(out, list_images(args.calibration_images), img_size)
        set_metadata(quantized, "yolo", metadata)
        files.append(out.with_suffix(".int8.onnx"))
        write_onnx(files[-1], quantized)
    return {"files": [str(file) for file in files], "megabytes": [round(f.stat().st_size / 1e6, 2) for f in files],
            "largest_difference": {"pixels": max(pixels), "scores": max(scores)}, "sizes": SIZES}


def differences(session: onnxruntime.InferenceSession, network: nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Largest absolute difference of (boxes in pixels, scores) between the session and the network."""
    with torch.no_grad():
        apart = np.abs(session.run(None, {"images": images.numpy()})[0] - network(images).numpy())
    return float(apart[:, :4].max()), float(apart[:, 4:].max())


class _Images(CalibrationDataReader):
    """Padded pages one at a time, spread over the training images."""

    def __init__(self, files: Sequence[Path], img_size: int):
        self.batches: Iterator[dict] = ({"images": network_input(load_image(file), img_size)} for file in
                                        files[:: max(len(files) // CALIBRATION_IMAGES, 1)][:CALIBRATION_IMAGES])

    def get_next(self) -> dict | None:
        return next(self.batches, None)


def network_input(image: np.ndarray, img_size: int) -> np.ndarray:
    """(H, W, 3) uint8 RGB -> (1, 3, H', W') float32 in [0, 1]"""
    return np.ascontiguousarray(place(image, img_size)[0].transpose(2, 0, 1)[None], np.float32) / 255


def quantize(file: Path, images: Sequence[Path], img_size: int) -> onnx.ModelProto:
    """The graph of `file` in 8 bits up to its last convolutions."""
    with tempfile.TemporaryDirectory() as folder:
        prepared, result = Path(folder) / "prepared.onnx", Path(folder) / "int8.onnx"
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # its advice on the root logger
        try:
            quantize_static(str(prepared), str(result), _Images(images, img_size), quant_format=QuantFormat.QDQ,
                            per_channel=True, calibrate_method=CalibrationMethod.MinMax,
                            nodes_to_exclude=after_convolutions(onnx.load(str(prepared))))
        finally:
            logging.root.setLevel(level)
        return onnx.load(str(result))


def after_convolutions(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes that no learnt convolution comes after: boxes are decoded there, and 8 bits are too few."""
    leads: dict[str, bool] = {}  # value: whether a learnt convolution is computed from it
    names = []
    for node in reversed(model.graph.node):
        learnt = node.op_type == "Conv" and not any("dfl" in name for name in node.input)
        after = any(leads.get(name, False) for name in node.output)
        if not (learnt or after):
            names.append(node.name)
        for name in node.input:
            leads[name] = leads.get(name, False) or learnt or after
    return names


class OnnxYolo(nn.Module):
    """A session in the place of the network, for detect and evaluate of models.yolo_boxes. On the CPU."""

    def __init__(self, path: Path, threads: int = 0, runtime: Runtime = open_session):
        super().__init__()
        self.session = runtime(path, threads)
        self.metadata = read_metadata(self.session, "yolo", path)
        self.names = {int(number): name for number, name in self.metadata["config"]["names"].items()}
        self.stride, self.end2end = torch.tensor([self.metadata["stride"]]), self.metadata["end2end"]
        self.place = nn.Parameter(torch.zeros(0))  # detect asks a parameter for the device

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """images (B, 3, H, W) float32 -> predictions (B, 4 + classes, places)"""
        return torch.from_numpy(self.session.run(None, {"images": images.numpy()})[0])


def load_onnx(path: Path, threads: int = 0, runtime: Runtime = open_session) -> tuple[OnnxYolo, dict]:
    """(model, what the file says of itself: "config" and so on), as models.yolo.load_model."""
    model = OnnxYolo(path, threads, runtime)
    return model.eval(), model.metadata
