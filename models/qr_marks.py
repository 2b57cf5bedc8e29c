"""QR marks against what is seen in their pixels: what was decoded is there for certain, and what has nothing like finder
patterns is hardly a code.

On validation photographs and packs the mAP50 of QR codes is 0.942 by the network alone, 0.981 with decoded codes and
0.989 with both; pages are counted wrong by 0.92, 0.92 and 0.66 marks.
"""

import cv2
import numpy as np

from utils.geometry import box_iou
from utils.qr import finder_places

SAME = 0.3  # IoU of a decoded code and a QR mark from which they are one
INSTEAD = 0.5  # and of a code and another mark from which that is none
LOOKED_AT = 0.15  # confidence from which a mark's pixels are asked
PLACES = 2  # like those of a finder pattern, of which a code has three
# Fewer are seen in 0.12 of the codes that cannot be read, and in 0.89 of what is wrongly taken for one.
WITHOUT = 1 / 7


def qr_class(names: dict[int, str]) -> int | None:
    """The number of the class that QR codes have, by its name; None where there is none."""
    return next((class_id for class_id, name in names.items() if "qr" in name.lower()), None)


def check_codes(marks: list[dict], codes: list[dict], image: np.ndarray, names: dict[int, str]) -> list[dict]:
    """Marks of an image (H, W, 3) uint8 RGB that agree with its pixels, most confident first.

    marks: as models.yolo_boxes.detect returns them; codes: records of utils.qr; names: the model's classes. For each
    decoded code one QR mark stays, with confidence 1: the most confident of those that overlap it, or, where there is
    none or it spans several codes, the box round the code's corners. The others in its place go, those of other classes
    too. Of the other QR marks those with fewer than PLACES have the odds of their confidence multiplied by WITHOUT. A model without a class for QR codes keeps its marks as they are.
    """
    number = qr_class(names)
    if number is None:
        return marks
    corners = np.array([code["corners"] for code in codes if code["status"] == "decoded"], np.float64).reshape(-1, 4, 2)
    boxes = np.clip(np.hstack([corners.min(1), corners.max(1)]), 0, [image.shape[1], image.shape[0]] * 2)
    least = [SAME if mark["class_id"] == number else INSTEAD for mark in marks]
    here = box_iou(boxes, [mark["box"] for mark in marks]) > least  # (codes, marks)
    certain = []
    for box, places in zip(boxes.tolist(), here):
        own = {"class_name": names[number], "class_id": number, "box": box}
        seen = [marks[place] for place in np.flatnonzero(places & (here.sum(0) == 1))
                if marks[place]["class_id"] == number]
        certain.append((max(seen, key=lambda mark: mark["confidence"]) if seen else own) | {"confidence": 1.0})
    others = [mark for mark, gone in zip(marks, here.any(0)) if not gone]
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    others = [_weighed(mark, grey) if mark["class_id"] == number and mark["confidence"] >= LOOKED_AT else mark
              for mark in others]
    return certain + sorted(others, key=lambda mark: -mark["confidence"])


def _weighed(mark: dict, grey: np.ndarray) -> dict:
    if finder_places(grey, mark["box"]) >= PLACES:
        return mark
    odds = mark["confidence"] / max(1 - mark["confidence"], 1e-6) * WITHOUT
    return mark | {"confidence": odds / (1 + odds)}
