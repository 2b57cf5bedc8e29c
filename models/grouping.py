"""Detections that belong to one mark become one: the grouping behind `inference.py --grouping`.

    components  (default) duplicates dropped, then the connected components of the closeness graph; the answer depends
                neither on the order of the detections nor on how often it is asked
    seed        the greedy sweep this project started from, kept so that old results can be reproduced
    none        detections as they came, in canonical order

Only boxes of one class are ever joined. numpy and nothing else, so that inference needs no training library for it.
"""

import numpy as np

METHODS = ("components", "seed", "none")

CONTAINED = 0.75  # pass 1: share of a box inside another of higher confidence that makes it a duplicate
OVERLAP = 0.6  # pass 2: intersection over the smaller box that joins two
GIANT = 5.0  # a box this many times larger and less confident is another thing, not a bigger view of the same mark
FAR_LARGER = 3.0  # union over the sum of the parts from which closeness alone is no reason to join

REFERENCE_DPI = 200


def group_detections(detections: list[dict], dist: float = 50.0, iou: float = 0.2, method: str = "components",
                     dpi: float | None = None) -> list[dict]:
    """Join the detections of one page that show the same mark.

    detections: dicts with `class_id`, `class_name`, `confidence` (0 to 1) and `box` [x1, y1, x2, y2] in pixels; `id` is
    optional. dist: distance of centres in pixels at 200 DPI below which two boxes are joined, scaled where the page's
    `dpi` is given. iou: intersection over union above which they are joined.

    Returns new dicts, most confident first: the fields of the most confident member with `box` the union of the
    members' boxes (floats), `confidence` their maximum, `merged_count` how many were joined and `member_ids` which: the
    detection's `id`, or its place in the list where it has none. Grouping the result again changes nothing, except with
    'seed'. Raises ValueError for an unknown method.
    """
    if method not in METHODS:
        raise ValueError(f"grouping method {method!r} is none of {', '.join(METHODS)}")
    dist = dist * dpi / REFERENCE_DPI if dpi else dist
    marks = [_with_members(detection, place) for place, detection in enumerate(detections)]
    if method == "seed":
        return _greedy_sweep(marks, dist, iou)
    if method == "components" and marks:
        marks = _join_components(marks, dist, iou)
    return sorted(marks, key=lambda mark: (-mark["confidence"], mark["class_id"], mark["box"], mark["member_ids"]))


def _with_members(detection: dict, place: int) -> dict:
    """A copy that knows which detections it stands for; a group keeps the members it already has."""
    own = [detection["id"] if "id" in detection else place]
    return detection | {"box": [float(value) for value in detection["box"]],
                        "confidence": float(detection["confidence"]),
                        "merged_count": detection.get("merged_count", 1),
                        "member_ids": list(detection.get("member_ids", own))}


def _join(members: list[dict], box: list[float]) -> dict:
    """One mark for several; `members` come most confident first."""
    ids = sorted((identity for mark in members for identity in mark["member_ids"]), key=lambda x: (str(type(x)), x))
    joined = members[0] | {"box": box, "merged_count": sum(mark["merged_count"] for mark in members), "member_ids": ids}
    joined.pop("id", None)  # the group is none of its members
    return joined


# components ----------------------------------------------------------------------------------------------------------


def _join_components(marks: list[dict], dist: float, iou: float) -> list[dict]:
    """Repeat both passes until nothing changes: unions may touch what their parts did not, and stopping earlier would
    make the answer depend on how often it is asked."""
    boxes = np.array([mark["box"] for mark in marks], np.float64)
    confidence = np.array([mark["confidence"] for mark in marks], np.float64)
    classes = np.unique([mark["class_id"] for mark in marks], return_inverse=True)[1]
    owner = np.arange(len(marks))  # the group each detection is in, -1 where it was dropped
    while True:
        groups = _one_round(boxes, confidence, classes, dist, iou)
        kept, group = np.unique(groups[groups >= 0], return_inverse=True)
        if len(kept) == len(boxes):
            break
        owner[owner >= 0] = np.where(groups >= 0, np.searchsorted(kept, groups), -1)[owner[owner >= 0]]
        alive = groups >= 0
        boxes, confidence, classes = _unions(boxes[alive], confidence[alive], classes[alive], group, len(kept))
    members: list[list[dict]] = [[] for _ in boxes]
    rank = np.lexsort((*np.array([mark["box"] for mark in marks]).T, [-mark["confidence"] for mark in marks]))
    for place in rank:
        if owner[place] >= 0:
            members[owner[place]].append(marks[place])
    return [group[0] if len(group) == 1 else _join(group, box) for group, box in zip(members, boxes.tolist())]


def _unions(boxes: np.ndarray, confidence: np.ndarray, classes: np.ndarray, group: np.ndarray, count: int):
    """(count, 4) unions, (count,) maxima and classes of the boxes (N, 4) that share a group number (N,)."""
    order = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[order], np.arange(count))
    low = np.minimum.reduceat(boxes[order, :2], starts)
    high = np.maximum.reduceat(boxes[order, 2:], starts)
    return np.hstack([low, high]), np.maximum.reduceat(confidence[order], starts), classes[order[starts]]


def _one_round(boxes: np.ndarray, confidence: np.ndarray, classes: np.ndarray, dist: float, iou: float) -> np.ndarray:
    """Group numbers (N,) after pass 1 and pass 2; -1 for the boxes (N, 4) that pass 1 drops."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    i, j = close_pairs(boxes, classes, dist)
    shared = np.minimum(boxes[i, 2:], boxes[j, 2:]) - np.maximum(boxes[i, :2], boxes[j, :2])
    intersection = np.maximum(shared[:, 0], 0) * np.maximum(shared[:, 1], 0)

    # Pass 1. Ties of confidence go to the larger box and then to the coordinates: a total order, whatever came first.
    rank = np.empty(len(boxes), np.int64)
    rank[np.lexsort((*boxes.T, -area, -confidence))] = np.arange(len(boxes))
    weaker = np.where(rank[i] > rank[j], i, j)
    dropped = np.zeros(len(boxes), bool)
    dropped[weaker[intersection > CONTAINED * area[weaker]]] = True

    # Pass 2.
    stays = ~dropped[i] & ~dropped[j]
    i, j, intersection = i[stays], j[stays], intersection[stays]
    smaller, larger = np.where(area[i] <= area[j], (i, j), (j, i))
    overlap = (intersection > iou * (area[i] + area[j] - intersection)) | (intersection > OVERLAP * area[smaller])
    offset = (boxes[i, :2] + boxes[i, 2:] - boxes[j, :2] - boxes[j, 2:]) / 2
    near = np.hypot(offset[:, 0], offset[:, 1]) < dist
    swallows = (area[larger] > GIANT * area[smaller]) & (confidence[larger] < confidence[smaller])
    linked = (overlap | near) & ~swallows
    groups = connected_components(len(boxes), i[linked], j[linked])
    linked &= overlap | ~_sprawling(boxes, area, groups, dist)[groups[i]]  # else only their nearness joined them
    groups = connected_components(len(boxes), i[linked], j[linked])
    groups[dropped] = -1
    return groups


def _sprawling(boxes: np.ndarray, area: np.ndarray, groups: np.ndarray, dist: float) -> np.ndarray:
    """(N,) bool by group number: the union is far larger than its parts are together, or longer than two steps of
    `dist` beyond its longest part, as a chain of separate marks is."""
    count = len(boxes)
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, groups, boxes[:, :2])
    np.maximum.at(high, groups, boxes[:, 2:])
    longest = np.zeros(count)
    np.maximum.at(longest, groups, (boxes[:, 2:] - boxes[:, :2]).max(1))
    used = np.unique(groups)
    sprawling = np.zeros(count, bool)
    sides = high[used] - low[used]
    sprawling[used] = ((sides.prod(1) > FAR_LARGER * np.bincount(groups, area, count)[used])
                       | (sides.max(1) > longest[used] + 2 * dist))
    return sprawling


def close_pairs(boxes: np.ndarray, classes: np.ndarray, dist: float) -> tuple[np.ndarray, np.ndarray]:
    """All pairs (i, j) of one class whose boxes overlap or whose centres may be closer than `dist`, each pair once.

    boxes (N, 4), classes (N,) small integers. Boxes are widened so that either case is an overlap, cut into horizontal
    strips about as high as a box, and swept from left to right within each strip: N log N where boxes are spread.
    """
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2
    low, high = np.minimum(boxes[:, :2], centre - dist / 2), np.maximum(boxes[:, 2:], centre + dist / 2)
    height = max(float((high - low)[:, 1].mean()), 1e-9)  # the mean: so all strips together hold at most 3 N entries
    top = low[:, 1].min()
    first, last = ((low[:, 1] - top) // height).astype(np.int64), ((high[:, 1] - top) // height).astype(np.int64)

    box = np.repeat(np.arange(len(boxes)), last - first + 1)  # one entry for each strip a box lies in
    strip = first[box] + _counting(last - first + 1)
    lane = strip * (int(classes.max()) + 1) + classes[box]  # the strips of one class
    starts = np.sort(low[:, 0])
    begin = np.searchsorted(starts, low[:, 0])[box] + lane * (len(boxes) + 1)  # ranks, so that lanes cannot touch
    end = np.searchsorted(starts, high[:, 0])[box] + lane * (len(boxes) + 1)
    order = np.argsort(begin, kind="stable")
    box, strip, begin, end = box[order], strip[order], begin[order], end[order]

    here = np.arange(len(box))
    reach = np.maximum(np.searchsorted(begin, end) - here - 1, 0)  # how many entries to the right begin before it ends
    left = np.repeat(here, reach)
    right = left + 1 + _counting(reach)
    i, j = box[left], box[right]
    once = np.maximum(first[i], first[j]) == strip[left]  # a pair that shares several strips counts in the first one
    meets = once & (low[i, 1] < high[j, 1]) & (low[j, 1] < high[i, 1])
    return i[meets], j[meets]


def _counting(lengths: np.ndarray) -> np.ndarray:
    """[0 .. lengths[0] - 1, 0 .. lengths[1] - 1, ...]"""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def connected_components(count: int, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(count,) the smallest node number in the component of each node, for the edges (i[k], j[k])."""
    labels = np.arange(count)
    while True:
        a, b = labels[i], labels[j]
        if np.array_equal(a, b):
            return labels
        np.minimum.at(labels, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(labels, labels[labels]):
            labels = labels[labels]


# seed ----------------------------------------------------------------------------------------------------------------


def _greedy_sweep(marks: list[dict], dist: float, iou: float) -> list[dict]:
    """Boxes cut to whole pixels; class by class in order of appearance; one sweep, in which a box joins the group that
    is being built when it is close to any member so far. Which boxes end together depends on their confidences."""
    result = []
    marks = [mark | {"box": [int(value) for value in mark["box"]]} for mark in marks]
    for class_id in dict.fromkeys(mark["class_id"] for mark in marks):
        waiting = [mark for mark in marks if mark["class_id"] == class_id]
        waiting.sort(key=lambda mark: (mark["confidence"], _area(mark["box"])), reverse=True)
        waiting = [mark for mark in waiting if not any(_repeats(mark, other) for other in waiting)]
        while waiting:
            group, rest = [waiting[0]], []
            for mark in waiting[1:]:
                (group if any(_close(mark["box"], other["box"], dist, iou) for other in group) else rest).append(mark)
            columns = list(zip(*(mark["box"] for mark in group)))
            union = [min(columns[0]), min(columns[1]), max(columns[2]), max(columns[3])]
            result.append(group[0] if len(group) == 1 else _join(group, union))
            waiting = rest
    return result


def _repeats(mark: dict, other: dict) -> bool:
    """mark lies in a more confident box, or in an equally confident larger one."""
    stronger = (other["confidence"], _area(other["box"])) > (mark["confidence"], _area(mark["box"]))
    area = _area(mark["box"])
    return stronger and area > 0 and _intersection(mark["box"], other["box"]) / area > CONTAINED


def _close(a: list, b: list, dist: float, iou: float) -> bool:
    if np.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2 < dist:
        return True
    shared, areas = _intersection(a, b), (_area(a), _area(b))
    return shared > 0 and (shared / (sum(areas) - shared) > iou or shared / min(areas) > OVERLAP)


def _area(box: list) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _intersection(a: list, b: list) -> float:
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)
