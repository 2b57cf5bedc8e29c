"""QR codes of a page: what they say, where they are, and which of the detected ones cannot be read or look like none."""

from functools import partial

import cv2
import numpy as np
import zxingcpp

from utils.finder_patterns import count_finder_places
from utils.geometry import polygon_area

FORMATS = (zxingcpp.BarcodeFormat.QRCode, zxingcpp.BarcodeFormat.MicroQRCode, zxingcpp.BarcodeFormat.RMQRCode)
LOCAL, GLOBAL = zxingcpp.Binarizer.LocalAverage, zxingcpp.Binarizer.GlobalHistogram  # how black is told from white
MARGIN = 0.15  # of a mark's size, looked at beyond its box: a code needs its quiet zone
LEAST = 8  # pixels that a crop has on each side
LARGE = 900  # pixels that a view may have along a side through enlarging
TURN = 20.0  # degrees


def read_qr_codes(image: np.ndarray, boxes: list[list[float]]) -> list[dict]:
    """Records of the codes on a page (H, W, 3) uint8 RGB, from top to bottom.

    boxes: detected QR codes, [x1, y1, x2, y2] in pixels: a second look is taken where the whole page gave nothing, and
    what still cannot be read is recorded as such. Each record: "status" 'decoded' or 'unreadable', "payload" the text
    or None, "corners" four [x, y] in pixels, clockwise from the code's own top left (of the box where unreadable).
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    decoded = _decode(grey)
    for box in boxes:
        if not any(_in(record, box) for record in decoded):
            decoded += [record for record in _look_closer(grey, box) if not _known(record, decoded)]
    return with_unreadable(decoded, boxes)


def with_unreadable(codes: list[dict], boxes: list[list[float]]) -> list[dict]:
    """The decoded ones of `codes`, and a record of each box in which none of them has its middle, from top to bottom."""
    found = [record for record in codes if record["status"] == "decoded"]
    for x1, y1, x2, y2 in [box for box in boxes if not any(_in(record, box) for record in found)]:
        found.append({"status": "unreadable", "payload": None, "corners": [[x1, y1], [x2, y1], [x2, y2], [x1, y2]]})
    return sorted(found, key=lambda record: (min(y for _, y in record["corners"]), record["corners"]))


def _decode(grey: np.ndarray, threshold: zxingcpp.Binarizer = LOCAL) -> list[dict]:
    records = []
    for code in zxingcpp.read_barcodes(np.ascontiguousarray(grey), formats=FORMATS, binarizer=threshold):
        place = code.position
        corners = [[corner.x, corner.y] for corner in (place.top_left, place.top_right, place.bottom_right,
                                                       place.bottom_left)]
        text = code.text.encode("utf-8", "replace").decode("utf-8")
        records.append({"status": "decoded", "payload": text, "corners": corners})
    return records


def finder_places(grey: np.ndarray, box: list[float]) -> int:
    """How many places like those of finder patterns a page (H, W) uint8 shows in a detected QR code."""
    crop, _ = _crop(grey, box)
    return count_finder_places(_sharp(crop, 3.0)[0]) if min(crop.shape) >= LEAST else 0


def _crop(grey: np.ndarray, box: list[float]) -> tuple[np.ndarray, list[int]]:
    """(the page in the box and round it, where that begins)"""
    height, width = grey.shape
    x1, y1, x2, y2 = box
    spare = MARGIN * max(x2 - x1, y2 - y1)
    left, top = max(int(x1 - spare), 0), max(int(y1 - spare), 0)
    return grey[top : min(int(y2 + spare) + 1, height), left : min(int(x2 + spare) + 1, width)], [left, top]


def _look_closer(grey: np.ndarray, box: list[float]) -> list[dict]:
    crop, start = _crop(grey, box)
    if min(crop.shape) < LEAST:
        return []
    for look, threshold in LOOKS:
        view, to_view = look(crop)
        if records := _decode(view, threshold):
            back = cv2.invertAffineTransform(to_view)
            return [record | {"corners": (record["corners"] @ back[:, :2].T + back[:, 2] + start).tolist()}
                    for record in records]
    return []


# Views of a crop, each with the (2, 3) matrix that leads from the crop's pixels to its own. ------------------------------


def _enlarged(crop: np.ndarray, factor: float, interpolation: int = cv2.INTER_CUBIC) -> tuple[np.ndarray, np.ndarray]:
    scale = min(factor, max(LARGE / max(crop.shape), 1.0))
    shift = (scale - 1) / 2  # OpenCV scales round the corner of the first pixel, not round its middle
    return (cv2.resize(crop, None, fx=scale, fy=scale, interpolation=interpolation),
            np.array([[scale, 0, shift], [0, scale, shift]]))


def _sharpened(view: np.ndarray, radius: float) -> np.ndarray:
    return cv2.addWeighted(view, 2.0, cv2.GaussianBlur(view, (0, 0), radius), -1.0, 0)


def _sharp(crop: np.ndarray, factor: float, interpolation: int = cv2.INTER_CUBIC) -> tuple[np.ndarray, np.ndarray]:
    view, to_view = _enlarged(crop, factor, interpolation)
    return _sharpened(view, factor), to_view


def _evened(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shadow and glare on a part of the code."""
    view, to_view = _enlarged(crop, 4.0)
    return _sharpened(cv2.createCLAHE(3.0, (4, 4)).apply(view), 4.0), to_view


def _askew(crop: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the pixels' grid and the code's run alike and out of step."""
    view, to_view = _sharp(crop, 3.0)
    height, width = view.shape
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), TURN, 1.0)
    both = turn @ np.vstack([to_view, [0, 0, 1]])
    return cv2.warpAffine(view, turn, (width, height), borderValue=255), both


# Of 1171 boxes on photographs and packs (train and validation) these and the whole page read 444, and with two sharp and two
# plain views instead, as it was before, 405. Each takes 1 or 2 ms.
LOOKS = ((partial(_sharp, factor=4.0, interpolation=cv2.INTER_LANCZOS4), LOCAL), (_evened, LOCAL), (_askew, LOCAL),
         (partial(_sharp, factor=4.0), GLOBAL), (partial(_sharp, factor=3.0), LOCAL), (partial(_sharp, factor=2.0), LOCAL),
         (partial(_enlarged, factor=4.0), LOCAL))


def _in(record: dict, box: list[float]) -> bool:
    x, y = np.mean(record["corners"], axis=0)
    return box[0] <= x <= box[2] and box[1] <= y <= box[3]


def _known(record: dict, found: list[dict]) -> bool:
    """The same code seen before: its centre lies within half a side of a known one."""
    centre = np.mean(record["corners"], axis=0)
    return any(np.abs(centre - np.mean(other["corners"], axis=0)).max() < np.sqrt(polygon_area(other["corners"])) / 2
               for other in found)
