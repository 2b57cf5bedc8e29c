"""Images in, boxes out: what a YOLO network sees, and what its answer means in pixels of the image.

Evaluation and inference share detect(); evaluate(bare=False) scores what inference delivers, and evaluate() the network
alone. Nothing here imports ultralytics; the model only needs its `names`, `stride` and `end2end`.
"""

import math
from dataclasses import dataclass
from functools import partial

import cv2
import numpy as np
import torch
from torch import nn
from torchvision.ops import batched_nms, box_convert
from tqdm import tqdm

from models.box_fusion import fuse_boxes
from models.grouping import METHODS, group_detections
from models.qr_marks import check_codes, group_checked, qr_classes
from models.skew import find_marks_level
from utils.distributed import gather_lists
from utils.images import load_image
from utils.metrics.marks import count_by_class, count_errors, count_errors_at, image_record, mark_scores
from utils.qr import read_qr_codes

GREY = 114  # what ultralytics pads with
# Test-time augmentation looks at a page this share smaller and larger too: further off, every class loses on validation. No
# mirroring: a mirrored QR code or signature is none.
TTA_STEP = 1 / 16
TILE_OVERLAP, EDGE = 0.25, 2.0  # share of a tile; pixels
MAX_DETECTIONS = 300
COUNT_CONFIDENCE, DELIVERY_IOU = 0.15, 0.45  # what inference.py delivers by default
COUNTED_AT = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.6, 0.7)  # its other --conf, of which one can be chosen
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
           multi_label: bool = False, tta: bool = False, tile: int = 0) -> list[dict]:
    """Marks in an image, most confident first.

    image (H, W, 3) uint8 RGB; conf: lowest confidence; iou: overlap from which the weaker box of one class goes;
    img_size: longer side in pixels that the network sees; multi_label: a place may show several classes, as in the
    evaluation. tta: look in three sizes, TTA_STEP apart, and fuse what is found. tile: look, beside the whole page, at
    squares of so many pixels that overlap by TILE_OVERLAP, so that small marks of a large page are seen large.
    Returns dicts: class_name, class_id, confidence (0 to 1), box [x1, y1, x2, y2] floats in image pixels.
    """
    sizes = _tta_sizes(img_size) if tta else [img_size]
    # What is fused of several looks is as sure as their mean, so that each may be less sure.
    looks = [[_look(model, image, view, size, conf / len(sizes), iou, multi_label) for size in sizes]
             for view in look_at(image.shape[:2], tile)]
    rows = np.vstack([fuse_boxes(found) if tta else found[0] for found in looks])
    if tta or len(looks) > 1:
        rows = rows[rows[:, 4] > conf]
        boxes, confidence, classes = torch.tensor(rows[:, :4]), torch.tensor(rows[:, 4]), torch.tensor(rows[:, 5])
        rows = rows[batched_nms(boxes, confidence, classes, iou)[:MAX_DETECTIONS].numpy()]
    return [{"class_name": model.names[int(class_id)], "class_id": int(class_id), "confidence": float(confidence),
             "box": box} for box, confidence, class_id in zip(rows[:, :4].tolist(), *rows[:, 4:].T)]


def _tta_sizes(img_size: int) -> list[int]:
    """Three, multiples of 32, as near as the network allows."""
    step = max(round(img_size * TTA_STEP / 32), 1) * 32
    return [max(img_size - step, 32), img_size, img_size + step]


def look_at(size: tuple[int, int], tile: int) -> list[tuple[int, int, int, int]]:
    """x1 y1 x2 y2 of the parts of a page (H, W) to look at: all of it, and tiles where it is larger than one."""
    height, width = size
    parts = [(0, 0, width, height)]
    if tile and tile < max(size):
        step = max(round(tile * (1 - TILE_OVERLAP)), 1)
        def starts(length: int) -> list[int]:
            return sorted({min(start, max(length - tile, 0)) for start in range(0, max(length - tile, 0) + step, step)})

        parts += [(x, y, min(x + tile, width), min(y + tile, height)) for y in starts(height) for x in starts(width)]
    return parts


def _look(model: nn.Module, image: np.ndarray, view: tuple, size: int, conf: float, iou: float,
          multi_label: bool) -> np.ndarray:
    """(N, 6) float64 x1 y1 x2 y2 confidence class, in pixels of the image, of what is in one part of it. A box that a
    tile cuts is left to the tile that holds all of it, or to the whole page."""
    x1, y1, x2, y2 = view
    padded, frame = place(image[y1:y2, x1:x2], size, int(model.stride.max()))
    device = next(model.parameters()).device
    pixels = torch.from_numpy(padded).to(device).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        rows = _suppress(model(pixels), conf, iou, multi_label, model.end2end).cpu().numpy().astype(np.float64)
    rows[:, :4] = frame.to_image(rows[:, :4]) + [x1, y1, x1, y1]
    inner = np.array([x1 > 0, y1 > 0, x2 < image.shape[1], y2 < image.shape[0]])
    cut = (np.abs(rows[:, :4] - view) < EDGE) & inner
    return rows[~cut.any(1)]


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """Scaled to a longer side of `size` pixels, in training and wherever marks are looked for."""
    height, width = image.shape[:2]
    scale = size / max(height, width)
    if scale == 1:
        return image
    # ultralytics shrinks by INTER_LINEAR too, which skips pixels, and thin strokes with them.
    return cv2.resize(image, (min(math.ceil(width * scale), size), min(math.ceil(height * scale), size)),
                      interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)


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


def evaluate(model: nn.Module, samples: list, img_size: int, ranks: tuple[int, int] = (0, 1), bare: bool = True,
             **views) -> tuple[dict, list[dict]]:
    """(scores of utils.metrics.marks, a record for each image) of datasets.yolo.MarkSample's, with the settings of
    ultralytics' validator: every detection above 0.001, suppressed at IoU 0.7. An image is scored for the classes that
    are labelled in it. `count_error`: by grouping method, how many marks too many or too few a page is said to hold,
    with the confidence and suppression of inference; `count_error_at`: by class and confidence, grouped by components.
    bare: the network alone; else, as in inference, pages are put level (models.skew) and QR marks checked against their
    pixels (models.qr_marks). views: `tta` and `tile` of detect. ranks: (rank, world); each looks at its share, and all
    return the same."""
    model.eval()
    records, (rank, world) = [], ranks
    for sample in tqdm(samples[rank::world], desc="evaluate", unit="page", leave=False, disable=True if rank else None):
        image = load_image(sample.file)
        look = partial(detect, model, conf=0.001, iou=0.7, img_size=img_size, multi_label=True, **views)
        found = look(image) if bare else find_marks_level(image, look, qr_classes(model.names))
        if not bare:
            found = check_codes(found, _decoded(model, image, found), image, model.names)
        found = [mark for mark in found if sample.labels_class(mark["class_id"])]
        record = image_record(str(sample.file), found, sample.corners(), sample.classes)
        delivered = _delivered(found)
        count = partial(_count, delivered, model.names)
        records.append(record | {"counts": {method: count(method=method) for method in METHODS},
                                 "counts_at": {str(conf): count(conf) for conf in COUNTED_AT}})
    records = in_turns(gather_lists([records]), len(samples))
    counted = {"count_error": count_errors(records), "count_error_at": count_errors_at(records, model.names)}
    return mark_scores(records, model.names) | counted, records


def _count(marks: list[dict], names: dict[int, str], conf: float = COUNT_CONFIDENCE, **grouping) -> dict[str, int]:
    """Those that are at least as sure as conf, after grouping."""
    return count_by_class(group_checked([mark for mark in marks if mark["confidence"] >= conf], names, **grouping))


def in_turns(shares: list[list], count: int) -> list:
    """What was dealt out as items[rank::world], in its first order."""
    return [shares[number % len(shares)][number // len(shares)] for number in range(count)]


def _decoded(model: nn.Module, image: np.ndarray, marks: list[dict]) -> list[dict]:
    """utils.qr's records, looked for as inference does."""
    grouped, classes = group_detections(_delivered(marks)), qr_classes(model.names)
    return read_qr_codes(image, [mark["box"] for mark in grouped if mark["class_id"] in classes])


def _delivered(marks: list[dict]) -> list[dict]:
    """Those that inference.py would show: what is sure enough, after a stricter suppression within each class."""
    marks = [mark for mark in marks if mark["confidence"] >= COUNT_CONFIDENCE]
    keep = batched_nms(torch.tensor([mark["box"] for mark in marks]).reshape(-1, 4).double(),
                       torch.tensor([mark["confidence"] for mark in marks]).double(),
                       torch.tensor([mark["class_id"] for mark in marks], dtype=torch.long), DELIVERY_IOU)
    return [marks[place] for place in keep.tolist()]


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
