"""Images in, boxes out: what a YOLO network sees, and what its answer means in pixels of the image.

Evaluation and inference share detect(), so that what is scored is what is delivered. Nothing here imports ultralytics;
the model only needs its `names`, `stride` and `end2end`.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.ops import batched_nms, box_convert
from tqdm import tqdm

from utils.images import load_image
from utils.metrics.marks import image_record, mark_scores

GREY = 114  # what ultralytics pads with
MAX_DETECTIONS = 300
MAX_CANDIDATES = 5000  # the suppression is quadratic in them, and an untrained network finds something everywhere


@dataclass(frozen=True)
class Frame:
    """Where an image lies in what the network sees: a point times `scale`, moved by `offset` (x, y)."""

    scale: float
    offset: tuple[int, int]
    height: int  # of the image, in pixels
    width: int

    def to_network(self, boxes: np.ndarray) -> np.ndarray:
        """(N, 4) x1 y1 x2 y2 in image pixels -> in the network's."""
        return boxes * self.scale + np.tile(self.offset, 2)

    def to_image(self, boxes: np.ndarray) -> np.ndarray:
        """The inverse, cut to the image."""
        boxes = (boxes - np.tile(self.offset, 2)) / self.scale
        return boxes.clip(0, [self.width, self.height, self.width, self.height])


def place(image: np.ndarray, img_size: int, stride: int = 32) -> tuple[np.ndarray, Frame]:
    """(H, W, 3) uint8 -> the same scaled to a longer side of img_size and padded all round to multiples of stride."""
    height, width = image.shape[:2]
    image = resize(image, img_size)
    spare_y, spare_x = -image.shape[0] % stride, -image.shape[1] % stride
    top, left = spare_y // 2, spare_x // 2
    padded = cv2.copyMakeBorder(image, top, spare_y - top, left, spare_x - left, cv2.BORDER_CONSTANT, value=[GREY] * 3)
    return padded, Frame(img_size / max(height, width), (left, top), height, width)


def detect(model: nn.Module, image: np.ndarray, conf: float = 0.25, iou: float = 0.45, img_size: int = 1024,
           multi_label: bool = False) -> list[dict]:
    """Marks in an image, most confident first.

    image (H, W, 3) uint8 RGB; conf: lowest confidence; iou: overlap from which the weaker box of one class goes;
    img_size: longer side in pixels that the network sees; multi_label: a place may show several classes, as in the
    evaluation. Returns dicts: class_name, class_id, confidence (0 to 1), box [x1, y1, x2, y2] floats in image pixels.
    """
    padded, frame = place(image, img_size, int(model.stride.max()))
    device = next(model.parameters()).device
    pixels = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        rows = _suppress(model(pixels), conf, iou, multi_label, model.end2end).cpu().numpy().astype(np.float64)
    return [{"class_name": model.names[int(class_id)], "class_id": int(class_id), "confidence": float(confidence),
             "box": box} for box, confidence, class_id in zip(frame.to_image(rows[:, :4]).tolist(), *rows[:, 4:].T)]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Scaled to a longer side of `size` pixels, as ultralytics does it in training."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale == 1:
        return image
    return cv2.resize(image, (min(math.ceil(width * scale), size), min(math.ceil(height * scale), size)),
                      interpolation=cv2.INTER_LINEAR)


def _suppress(output, conf: float, iou: float, multi_label: bool, end2end: bool) -> torch.Tensor:
    """(N, 6) x1 y1 x2 y2 confidence class in the network's pixels, without ultralytics' time limit, which makes the
    answer depend on how busy the machine is."""
    prediction = (output[0] if isinstance(output, (tuple, list)) else output)[0].float()
    if end2end:
        return prediction[prediction[:, 4] > conf][:MAX_DETECTIONS]
    boxes, scores = box_convert(prediction[:4].T, "cxcywh", "xyxy"), prediction[4:].T
    if multi_label:
        rows, classes = (scores > conf).nonzero(as_tuple=True)
        confidence = scores[rows, classes]
    else:
        confidence, classes = scores.max(1)
        rows = (confidence > conf).nonzero(as_tuple=True)[0]
        confidence, classes = confidence[rows], classes[rows]
    confidence, order = confidence.sort(descending=True, stable=True)
    order, confidence = order[:MAX_CANDIDATES], confidence[:MAX_CANDIDATES]
    boxes, classes = boxes[rows[order]], classes[order]
    keep = batched_nms(boxes, confidence, classes, iou)[:MAX_DETECTIONS]
    return torch.cat([boxes[keep], confidence[keep, None], classes[keep, None].float()], 1)


def evaluate(model: nn.Module, samples: list, img_size: int) -> tuple[dict, list[dict]]:
    """(scores of utils.metrics.marks, a record for each image) of datasets.yolo.MarkSample's, with the settings of
    ultralytics' validator: every detection above 0.001, suppressed at IoU 0.7."""
    model.eval()
    records = []
    for sample in tqdm(samples, desc="evaluate", unit="page", leave=False, disable=None):
        found = detect(model, load_image(sample.file), 0.001, 0.7, img_size, multi_label=True)
        records.append(image_record(str(sample.file), found, sample.corners(), sample.classes))
    return mark_scores(records, model.names), records


def truth_score(samples: list, img_size: int) -> float:
    """map50 of the truth itself, loaded, brought into the network's frame and back: 0.995, all there is, unless
    labels and images differ in size or orientation."""
    records = []
    for sample in samples:
        _, frame = place(load_image(sample.file), img_size)
        # Training reads a label as shares of the loaded image, evaluation as shares of the size in the file's header.
        seen = sample.corners() / ([sample.width, sample.height] * 2) * ([frame.width, frame.height] * 2)
        found = [{"class_id": class_id, "confidence": 1.0, "box": box}
                 for class_id, box in zip(sample.classes, frame.to_image(frame.to_network(seen)))]
        records.append(image_record(str(sample.file), found, sample.corners(), sample.classes))
    classes = {class_id for record in records for class_id in record["truth"]}
    return mark_scores(records, {class_id: str(class_id) for class_id in classes})["map50"] if classes else 1.0
