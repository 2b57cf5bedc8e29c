"""DBNet as one ONNX file: normalised images (B, 3, H, W) -> text probability (B, H, W), any B, H and W times 32."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.dbnet import DBNet, load_model
from models.dbnet_decode import boxes_of_map
from models.onnx_files import Runtime, Session, export_map, open_session, read_metadata
from utils.geometry import PageSize
from utils.images import to_tensor

FLAGS = ()
DIVISOR = 32
# (B, H, W): one, several, wide, high, and neither side a power of two.
SIZES = ((1, 32, 32), (2, 96, 160), (1, 256, 64), (3, 64, 320), (1, 480, 352))


class ProbabilityMap(nn.Module):
    """(B, 3, H, W) float32 normalised -> (B, H, W) float32 in [0, 1]."""

    def __init__(self, model: DBNet):
        super().__init__()
        self.model = model.eval()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.model(image)["prob"].sigmoid()


def export(weights: Path, out: Path, args: Namespace) -> dict:
    """Write `out` from a checkpoint; raises DataError where graph and network disagree."""
    model, checkpoint = load_model(weights, torch.device("cpu"))
    facts = {name: checkpoint[name] for name in ("config", "thresholds")}
    return export_map(ProbabilityMap(model), "detection", facts, DIVISOR, SIZES, out)


def load_onnx(path: Path, threads: int = 0, runtime: Runtime = open_session) -> tuple[Session, dict]:
    """(session, what the file says of itself: "config", "thresholds", ...), as models.dbnet.load_model for torch."""
    session = runtime(path, threads)
    return session, read_metadata(session, "detection", path)


def predict_boxes(session: Session, image: np.ndarray,
                  thresholds: dict) -> tuple[list[np.ndarray] | np.ndarray, np.ndarray]:
    """What models.dbnet.predict_boxes returns for a page (H, W, 3) uint8 RGB, by the session."""
    fitted, scale = PageSize.of(thresholds).fit(image)
    prob = session.run(None, {"image": to_tensor(fitted)[None].numpy()})[0][0]
    return boxes_of_map(prob, scale, image.shape[:2], thresholds)
