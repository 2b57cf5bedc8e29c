"""A stroke model as one ONNX file: normalised images (B, 3, H, W) -> probability of ink (B, H, W), any B, H and W times
32. Pages of any size go through it as through the network itself, by models.strokes.predict_strokes."""

from argparse import Namespace
from pathlib import Path

import torch
from torch import nn

from models.onnx_files import Runtime, export_map, open_session, read_metadata
from models.strokes import LEAST_SIDE, SIZE_STEP, StrokeNet, StrokesConfig, load_model

FLAGS = ()
# (B, H, W): one, several, wide, high, and neither side a power of two.
SIZES = ((1, 64, 64), (2, 96, 160), (1, 256, 64), (3, 64, 320), (1, 480, 352))


class InkMap(nn.Module):
    """(B, 3, H, W) float32 normalised -> (B, H, W) float32 in [0, 1]."""

    def __init__(self, model: StrokeNet):
        super().__init__()
        self.model = model.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image)[:, 0].sigmoid()


def export(weights: Path, out: Path, args: Namespace) -> dict:
    """Write `out` from a checkpoint; raises DataError where graph and network disagree."""
    model, checkpoint = load_model(weights, torch.device("cpu"))
    facts = {name: checkpoint[name] for name in ("config", "thresholds")} | {"postproc": checkpoint.get("postproc", {})}
    least = LEAST_SIDE.get(model.config.arch, 0)
    sizes = [(batch, max(height, least), max(width, least)) for batch, height, width in SIZES]
    return export_map(InkMap(model), "segmentation", facts, SIZE_STEP, sizes, out, least)


class OnnxStrokes(nn.Module):
    """A session in the place of a StrokeNet, for predict_strokes and find_ink of models.strokes. On the CPU."""

    def __init__(self, path: Path, threads: int = 0, runtime: Runtime = open_session):
        super().__init__()
        self.session = runtime(path, threads)
        self.metadata = read_metadata(self.session, "segmentation", path)
        config = self.metadata["config"]
        self.config = StrokesConfig(**config | {"decoder_channels": tuple(config["decoder_channels"])})

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """image (B, 3, H, W) normalised -> logits (B, 1, H, W), as StrokeNet gives them."""
        prob = torch.from_numpy(self.session.run(None, {"image": image.numpy()})[0])
        return torch.logit(prob, eps=1e-7)[:, None]


def load_onnx(path: Path, threads: int = 0, runtime: Runtime = open_session) -> tuple[OnnxStrokes, dict]:
    """(model, what the file says of itself: "config", "thresholds", "postproc", ...), as models.strokes.load_model."""
    model = OnnxStrokes(path, threads, runtime)
    return model.eval(), model.metadata
