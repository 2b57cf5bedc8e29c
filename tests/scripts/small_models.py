"""Untrained networks for inference, each of which finds something, and a page for them."""

from dataclasses import asdict
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from models.dbnet import DBNet, DBNetConfig
from models.parseq import PARSeqConfig, build_model
from models.strokes import StrokeNet, StrokesConfig
from utils.checkpoint import save_checkpoint

NAMES = {0: "qr", 1: "signature", 2: "stamp"}


def save_model(path, task, model, config, **more):
    save_checkpoint(path, {"task": task, "config": asdict(config), "model": model.state_dict(), "ema": None} | more)


def make_weights(folder: Path) -> Path:
    """Untrained networks whose last biases are set so that each of them finds something."""
    from models.yolo import YoloConfig, start_model
    torch.manual_seed(0)
    config = DBNetConfig("resnet18", "fpn", 16)
    model = DBNet(config)
    torch.nn.init.zeros_(model.prob_head[-1].weight)
    torch.nn.init.constant_(model.prob_head[-1].bias, 4.0)  # the whole page is one text box
    save_model(folder / "detection.pt", "detection", model, config,
               thresholds={"thresh": 0.3, "box_thresh": 0.5, "unclip_ratio": 1.5, "long_side": 160})
    config = PARSeqConfig("ABC123가나", dim=32, depth=1, heads=2, decoder_heads=2, img_width=64, max_label_length=6)
    model = build_model(config)
    save_model(folder / "recognition.pt", "recognition", model, config, charset_digest=model.charset.digest)
    config = StrokesConfig("unet", "resnet18", 64, 64)
    save_model(folder / "segmentation.pt", "segmentation", StrokeNet(config), config, thresholds={"ink": 0.1})
    model, _, _ = start_model("yolo11n.yaml", NAMES)
    for branch in model.model[-1].cv3:
        torch.nn.init.zeros_(branch[-1].weight)
        branch[-1].bias.data = torch.tensor([0.0, -5.0, -5.0])  # QR codes everywhere, sure to one half
    save_model(folder / "yolo.pt", "yolo", model, YoloConfig(model.yaml, NAMES, 64))
    return folder


def page(width=220, height=160, words="TOTAL 12"):
    image = np.full((height, width, 3), 240, np.uint8)
    cv2.putText(image, words, (10, height // 2), cv2.FONT_HERSHEY_SIMPLEX, 0.8, (20, 20, 20), 2)
    return Image.fromarray(image)
