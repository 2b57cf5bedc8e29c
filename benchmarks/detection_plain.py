"""The plain ways that benchmarks.detection measures against: the papers' formulas, written down as they stand."""

import copy

import cv2
import numpy as np
import pyclipper
import shapely
import torch
import torch.nn.functional as F
from torch import nn


def offset(polygon: np.ndarray, distance: float) -> list[np.ndarray]:
    """In sixteenths of a pixel, since Clipper takes whole numbers."""
    clipper = pyclipper.PyclipperOffset(arc_tolerance=4)
    clipper.AddPath(np.round(polygon * 16).astype(int).tolist(), pyclipper.JT_ROUND, pyclipper.ET_CLOSEDPOLYGON)
    return [np.array(path) / 16 for path in clipper.Execute(distance * 16)]


def fill(canvas: np.ndarray, polygon: np.ndarray) -> None:
    cv2.fillPoly(canvas, [np.round(polygon * 16).astype(np.int32)], 1.0, shift=4)


def targets(polygons: list[np.ndarray], height: int, width: int) -> dict[str, np.ndarray]:
    """The four maps: distances edge by edge in float64 over the padded box of each polygon, by the law of cosines."""
    shrink_map, thresh_mask = np.zeros((height, width), np.float32), np.zeros((height, width), np.float32)
    shrink_mask, nearness = np.ones((height, width), np.float32), np.zeros((height, width), np.float32)
    for polygon in polygons:
        shape = shapely.Polygon(polygon)
        distance = shape.area * (1 - 0.4**2) / shape.length
        for kernel in offset(polygon, -distance):
            fill(shrink_map, kernel)
        padded = offset(polygon, distance)[0]
        fill(thresh_mask, padded)
        (x0, y0), (x1, y1) = np.floor(padded.min(0)).astype(int), np.ceil(padded.max(0)).astype(int)
        xs = np.broadcast_to(np.arange(x0, x1 + 1).reshape(1, -1), (y1 - y0 + 1, x1 - x0 + 1)).astype(np.float64)
        ys = np.broadcast_to(np.arange(y0, y1 + 1).reshape(-1, 1), (y1 - y0 + 1, x1 - x0 + 1)).astype(np.float64)
        distances = np.zeros((len(polygon), *xs.shape), np.float64)
        for i, (a, b) in enumerate(zip(polygon.astype(np.float64), np.roll(polygon, -1, 0).astype(np.float64))):
            distances[i] = np.clip(distance_to_edge(xs, ys, a, b) / distance, 0, 1)
        near = 1 - distances.min(0)
        left, top, right, bottom = max(x0, 0), max(y0, 0), min(x1, width - 1), min(y1, height - 1)
        nearness[top : bottom + 1, left : right + 1] = np.fmax(
            near[top - y0 : bottom - y0 + 1, left - x0 : right - x0 + 1],
            nearness[top : bottom + 1, left : right + 1])
    return {"shrink_map": shrink_map, "shrink_mask": shrink_mask, "thresh_mask": thresh_mask,
            "thresh_map": 0.3 + 0.4 * nearness}


def distance_to_edge(xs: np.ndarray, ys: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """From each pixel to the segment a b, by the angle at the pixel; where that is acute, to the nearer end."""
    square_a, square_b = (xs - a[0]) ** 2 + (ys - a[1]) ** 2, (xs - b[0]) ** 2 + (ys - b[1]) ** 2
    square = (a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2
    cosine = (square - square_a - square_b) / (2 * np.sqrt(square_a * square_b) + 1e-12)
    sine_square = np.nan_to_num(1 - cosine**2)
    height = np.sqrt(np.maximum(square_a * square_b * sine_square / square, 0))
    # the foot of the perpendicular lies on the segment where both angles at its ends are acute
    outside = (square + np.minimum(square_a, square_b) < np.maximum(square_a, square_b))
    return np.where(outside, np.sqrt(np.minimum(square_a, square_b)), height)


def match(candidates: np.ndarray, truth: np.ndarray) -> list[tuple[int, int]]:
    """ICDAR's pairs by a Shapely loop over all pairs of boxes."""
    iou = np.zeros((len(candidates), len(truth)))
    for i, a in enumerate(candidates):
        for j, b in enumerate(truth):
            one, two = shapely.Polygon(a), shapely.Polygon(b)
            if one.is_valid and two.is_valid and one.intersects(two):
                inter = one.intersection(two).area
                iou[i, j] = inter / (one.area + two.area - inter)
    used, pairs = set(), []
    for j in range(len(truth)):
        for i in range(len(candidates)):
            if i not in used and iou[i, j] > 0.5:
                used.add(i)
                pairs.append((i, j))
                break
    return pairs


def decode(prob: np.ndarray, thresh: float = 0.3, box_thresh: float = 0.6, unclip_ratio: float = 1.5) -> np.ndarray:
    """Boxes contour by contour: smallest rectangle, its score, pyclipper's offset, smallest rectangle again."""
    contours, _ = cv2.findContours(((prob > thresh) * 255).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    boxes = []
    for contour in contours[:1000]:
        box, side = smallest_box(contour)
        if side < 3 or box_score(prob, box) < box_thresh:
            continue
        shape = shapely.Polygon(box)
        grown = offset(box, shape.area * unclip_ratio / shape.length)
        if len(grown) != 1:
            continue
        box, side = smallest_box(grown[0].astype(np.float32).reshape(-1, 1, 2))
        if side >= 5:
            boxes.append(box)
    return np.array(boxes, np.float32).reshape(-1, 4, 2)


def smallest_box(contour: np.ndarray) -> tuple[np.ndarray, float]:
    """((4, 2) corners clockwise from the top left, shorter side)."""
    rectangle = cv2.minAreaRect(contour)
    points = sorted(list(cv2.boxPoints(rectangle)), key=lambda point: point[0])
    (top_left, bottom_left) = points[:2] if points[1][1] > points[0][1] else points[1::-1]
    (top_right, bottom_right) = points[2:] if points[3][1] > points[2][1] else points[:1:-1]
    return np.array([top_left, top_right, bottom_right, bottom_left]), min(rectangle[1])


def box_score(prob: np.ndarray, box: np.ndarray) -> float:
    height, width = prob.shape
    x0, x1 = np.clip([np.floor(box[:, 0].min()), np.ceil(box[:, 0].max())], 0, width - 1).astype(int)
    y0, y1 = np.clip([np.floor(box[:, 1].min()), np.ceil(box[:, 1].max())], 0, height - 1).astype(int)
    mask = np.zeros((y1 - y0 + 1, x1 - x0 + 1), np.uint8)
    cv2.fillPoly(mask, (box - (x0, y0)).reshape(1, -1, 2).astype(np.int32), 1)
    return cv2.mean(prob[y0 : y1 + 1, x0 : x1 + 1], mask)[0]


class PlainDBNet(nn.Module):
    """ResNet-18, a feature pyramid and two heads in one forward, holding copies of the given DBNet's layers."""

    def __init__(self, model: nn.Module):
        super().__init__()
        model = copy.deepcopy(model)
        self.encoder, self.prob, self.thresh = model.encoder, model.prob_head, model.thresh_head
        self.lateral, self.reduce = model.pyramid.lateral, model.pyramid.reduce

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        c2, c3, c4, c5 = self.encoder(image)[-4:]
        p5 = self.lateral[3](c5)
        p4 = self.lateral[2](c4) + F.interpolate(p5, scale_factor=2)
        p3 = self.lateral[1](c3) + F.interpolate(p4, scale_factor=2)
        p2 = self.lateral[0](c2) + F.interpolate(p3, scale_factor=2)
        fused = torch.cat([self.reduce[0](p2), F.interpolate(self.reduce[1](p3), scale_factor=2),
                           F.interpolate(self.reduce[2](p4), scale_factor=4),
                           F.interpolate(self.reduce[3](p5), scale_factor=8)], 1)
        return self.prob(fused)[:, 0], self.thresh(fused)[:, 0]


def loss(out: tuple[torch.Tensor, torch.Tensor], batch: dict) -> torch.Tensor:
    """Balanced BCE over the whole batch, masked L1 and dice, as the paper's equations have them."""
    prob, thresh = out[0], out[1].sigmoid()
    target, mask = batch["shrink_map"], batch["shrink_mask"]
    positive, negative = target * mask, (1 - target) * mask
    hard = int(min(negative.sum(), 3 * positive.sum()))
    bce = F.binary_cross_entropy_with_logits(prob, target, reduction="none")
    hardest = (bce * negative).flatten().topk(hard).values.sum()
    balanced = ((bce * positive).sum() + hardest) / (positive.sum() + hard + 1e-6)
    l1 = ((thresh - batch["thresh_map"]).abs() * batch["thresh_mask"]).sum() / (batch["thresh_mask"].sum() + 1e-6)
    binary = torch.sigmoid(50 * (prob.sigmoid() - thresh))
    dice = 1 - 2 * (binary * target * mask).sum() / ((binary * mask).sum() + (target * mask).sum() + 1e-6)
    return 5 * balanced + 10 * l1 + dice
