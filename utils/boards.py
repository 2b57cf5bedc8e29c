"""What TensorBoard shows beside curves: samples with truth and prediction side by side, threshold curves, and the table
of flags and final scores. Everything here is numpy and uint8 RGB; nothing knows a model.
"""

import argparse
from typing import Iterable, Sequence

import cv2
import numpy as np
from PIL import Image, ImageDraw
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from utils.drawing import face_for, mark_colour
from utils.lineage import OWN
from utils.resume import RUN_FLAGS

# Flags without a column in TensorBoard's table of runs.
NO_COLUMN = OWN | set(RUN_FLAGS) | {"group_regex", "split_file", "split_fractions", "max_bad_fraction", "overfit"}
PANEL = 460  # height of a panel in pixels
CAPTION = 30
INK, PAPER, MUTED = (28, 32, 40), (252, 252, 250), (150, 154, 160)
TRUTH, FOUND, WRONG = (20, 150, 70), (30, 90, 230), (215, 30, 40)
CURVES = {"precision": (30, 90, 230), "recall": (230, 120, 0), "f1": (20, 150, 70)}


def panels(parts: Sequence[tuple[str, np.ndarray]], height: int = PANEL) -> np.ndarray:
    """Pictures of one page side by side, each under its caption, (H', W', 3) uint8.

    parts: (caption, (H, W, 3) or (H, W) uint8); all are brought to `height`.
    """
    columns = []
    for caption, image in parts:
        image = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB) if image.ndim == 2 else image
        scale = height / image.shape[0]
        width = max(round(image.shape[1] * scale), 1)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
        columns.append(np.vstack([_text_strip(caption, width), image]))
        columns.append(np.full((height + CAPTION, 8, 3), PAPER, np.uint8))
    return np.hstack(columns[:-1])


def page_board(image: np.ndarray, truth: Iterable, ignored: Iterable[bool], found: Iterable, prob: np.ndarray,
               thresh: np.ndarray | None = None) -> np.ndarray:
    """A page for detection: input, truth, prediction, probability map and, where there is one, threshold map.

    image (H, W, 3) uint8; truth, found: polygons (N, 2) in its pixels; ignored: which of the truth is "do not care";
    prob, thresh (H, W) float in [0, 1].
    """
    truth = list(truth)
    colours = [MUTED if skip else TRUTH for skip in ignored]
    found = list(found)
    parts = [("input", image), (f"truth: {len(truth)}", outlined(image, truth, colours)),
             (f"found: {len(found)}", outlined(image, found, [FOUND] * len(found))), ("probability", heat(prob))]
    return panels(parts + ([("threshold", heat(thresh))] if thresh is not None else []))


def stroke_board(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """A page for segmentation: input, truth, prediction (found ink black, missed blue, wrong red). Masks (H, W) bool."""
    shown = np.full((*truth.shape, 3), 255, np.uint8)
    for mask, colour in ((truth & prediction, INK), (truth & ~prediction, FOUND), (prediction & ~truth, WRONG)):
        shown[mask] = colour
    return panels([("input", image), ("truth", np.where(truth, 0, 255).astype(np.uint8)),
                   ("prediction (missed blue, wrong red)", shown)])


def crop_board(crops: Sequence[np.ndarray], truths: Sequence[str], texts: Sequence[str], width: int = 500) -> np.ndarray:
    """Crops of text in two columns: the crop, and under it its truth and what was read, green or red.

    crops (H, W, 3) uint8; width: of a column.
    """
    rows = []
    for crop, truth, text in zip(crops, truths, texts):
        scale = min(48 / crop.shape[0], (width - 8) / crop.shape[1])
        size = max(round(crop.shape[1] * scale), 1), max(round(crop.shape[0] * scale), 1)
        row = np.full((size[1] + 66, width, 3), PAPER, np.uint8)
        row[4 : 4 + size[1], 4 : 4 + size[0]] = cv2.resize(crop, size, interpolation=cv2.INTER_LINEAR)
        picture = Image.fromarray(row)
        draw = ImageDraw.Draw(picture)
        for place, (name, line, colour) in enumerate((("truth", truth, INK),
                                                      ("read", text, TRUTH if text == truth else WRONG))):
            y = size[1] + 8 + 28 * place
            draw.text((6, y + 4), name, MUTED, face_for("a").at(14))
            draw.text((60, y), _cut(line or "(nothing)", width - 70, 20), colour, face_for(line).at(20))
        rows.append(np.asarray(picture))
    columns = [np.vstack(part) for part in (rows[::2], rows[1::2]) if part]
    height = max(len(column) for column in columns)
    return np.hstack([np.pad(column, ((0, height - len(column)), (0, 0), (0, 0)), constant_values=PAPER[0])
                      for column in columns])


def mark_board(image: np.ndarray, truth: Sequence[tuple[str, Sequence[float]]],
               found: Sequence[tuple[str, Sequence[float], float]]) -> np.ndarray:
    """A page with its marks: truth (name, box), and found (name, box, confidence). Boxes x1 y1 x2 y2 in its pixels."""
    views = []
    for marks in ([(name, box, name) for name, box in truth],
                  [(name, box, f"{name} {confidence:.2f}") for name, box, confidence in found]):
        view = outlined(image, [_corners(box) for _, box, _ in marks], [mark_colour(name) for name, _, _ in marks])
        picture = Image.fromarray(view)
        draw, size = ImageDraw.Draw(picture), max(round(image.shape[0] / 30), 10)
        for name, box, label in marks:
            x, y = max(box[0], 0), max(box[1] - size * 1.4, 0)
            draw.rectangle((x, y, x + face_for(label).at(size).getlength(label) + 4, y + size * 1.3), mark_colour(name))
            draw.text((x + 2, y), label, (255, 255, 255), face_for(label).at(size))
        views.append(np.asarray(picture))
    return panels([(f"truth: {len(truth)}", views[0]), (f"found: {len(found)}", views[1])], height=640)


def outlined(image: np.ndarray, polygons: Sequence, colours: Sequence[tuple]) -> np.ndarray:
    """A copy of (H, W, 3) uint8 with polygons (N, 2) drawn so that they can be seen at panel size."""
    image = np.ascontiguousarray(image).copy()
    thick = max(round(image.shape[0] / PANEL * 1.5), 2)
    for polygon, colour in zip(polygons, colours):
        cv2.polylines(image, [np.round(np.asarray(polygon)).astype(np.int32)], True, colour, thick, cv2.LINE_AA)
    return image


def heat(values: np.ndarray) -> np.ndarray:
    """(H, W) float in [0, 1] -> (H, W, 3) uint8, dark to bright."""
    levels = (np.clip(values, 0, 1) * 255).astype(np.uint8)
    return cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)


def curve_chart(rows: Sequence[Sequence[float]], side: int = 420) -> np.ndarray:
    """Precision, recall and F1 over the threshold, and precision over recall, side by side, (H, W, 3) uint8.

    rows: (threshold, precision, recall, f1), all in [0, 1], in any order.
    """
    values = np.array(sorted(map(tuple, rows)), np.float64).reshape(-1, 4)
    best = values[values[:, 3].argmax()]
    left, right = Chart(side, "threshold", ""), Chart(side, "recall", "precision")
    for place, (name, colour) in enumerate(CURVES.items(), start=1):
        left.line(values[:, 0], values[:, place], colour, name)
    left.point(best[0], best[3], INK, f"f1 {best[3]:.3f} at {best[0]:.2f}")
    right.line(values[:, 2], values[:, 1], CURVES["precision"], "")
    right.point(best[2], best[1], INK, f"{best[1]:.3f} at {best[2]:.3f}")
    return np.hstack([np.asarray(left.picture), np.asarray(right.picture)])


class Chart:
    """Axes from 0 to 1 both ways, on which lines are drawn."""

    def __init__(self, side: int, x_name: str, y_name: str):
        self.low, self.high, self.labels = round(side * 0.12), round(side * 0.94), 0
        self.picture = Image.new("RGB", (side, side), PAPER)
        self.draw, self.font = ImageDraw.Draw(self.picture), face_for("a").at(max(side // 28, 10))
        for tick in np.linspace(0, 1, 6):
            (x, y), text = self.at(tick, tick), f"{tick:.1f}"
            self.draw.line((x, self.at(0, 0)[1], x, self.at(0, 1)[1]), (228, 228, 226))
            self.draw.line((self.at(0, 0)[0], y, self.at(1, 0)[0], y), (228, 228, 226))
            self.draw.text((x, self.at(0, 0)[1] + 4), text, MUTED, self.font, anchor="ma")
            self.draw.text((self.low - 6, y), text, MUTED, self.font, anchor="rm")
        self.draw.text(((self.low + self.high) / 2, side - 4), x_name, INK, self.font, anchor="md")
        self.draw.text((4, 4), y_name, INK, self.font)

    def at(self, x: float, y: float) -> tuple[float, float]:
        size, side = self.high - self.low, self.picture.size[0]
        return self.low + x * size, side - self.low - y * size

    def line(self, x: np.ndarray, y: np.ndarray, colour: tuple, name: str) -> None:
        """A line through the points in order, and its name in the legend."""
        points = [self.at(a, b) for a, b in zip(x, y)]
        if len(points) > 1:
            self.draw.line(points, colour, 2)
        if name:
            self.draw.text((self.low + 8, self.high * 0.72 + 16 * self.labels), name, colour, self.font)
            self.labels += 1

    def point(self, x: float, y: float, colour: tuple, text: str) -> None:
        a, b = self.at(x, y)
        self.draw.ellipse((a - 4, b - 4, a + 4, b + 4), colour)
        place = min(a + 8, self.high - self.font.getlength(text)), b + 28 if b < self.picture.size[1] / 2 else b - 28
        self.draw.rectangle(self.draw.textbbox(place, text, self.font), PAPER)
        self.draw.text(place, text, colour, self.font)


def log_hparams(writer: SummaryWriter, args: argparse.Namespace, scores: Sequence[str], row: dict | None = None) -> None:
    """TensorBoard's table: a row for the run, with its flags and, once `row` of metrics.jsonl is given, its scores.

    Scores are those of the best epoch, as table/NAME, and table/minutes is the time of the whole training. Which columns
    there are is settled by the first call, before the first step. Flags that cannot change a score are left out.
    """
    flags = {name: value if isinstance(value, (bool, int, float, str)) else "default" if value is None else str(value)
             for name, value in sorted(vars(args).items()) if name not in NO_COLUMN}
    values = {f"table/{name}": (row or {}).get(f"val/{name}", 0.0) for name in scores}
    values["table/minutes"] = (row or {}).get("seconds", 0.0) / 60
    experiment, session, end = hparams(flags, values)
    for summary in ((end,) if row else (experiment, session)):
        writer.file_writer.add_summary(summary)
    for name, value in values.items() if row else ():
        writer.add_scalar(name, value, row["step"])
    writer.flush()


def _corners(box: Sequence[float]) -> np.ndarray:
    x1, y1, x2, y2 = box
    return np.array([[x1, y1], [x2, y1], [x2, y2], [x1, y2]])


def _text_strip(text: str, width: int) -> np.ndarray:
    picture = Image.new("RGB", (width, CAPTION), PAPER)
    ImageDraw.Draw(picture).text((4, 5), _cut(text, width - 8, 16), INK, face_for(text).at(16))
    return np.asarray(picture)


def _cut(text: str, width: int, size: int) -> str:
    font = face_for(text).at(size)
    while text and font.getlength(text) > width:
        text = text[:-2] + "\u2026" if len(text) > 2 else ""
    return text
