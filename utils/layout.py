"""Text boxes of a page in the order a person reads them: columns, paragraphs, lines."""

import numpy as np

SAME_LINE = 0.5  # centres nearer than this share of the lower box's height are on one line
# Columns of running text. Boxes nearer than WORD_GAP heights are one piece of a line.
WORD_GAP = 1.5
GUTTER = 1.0  # heights that a gutter is wide at least
COLUMN_LINES = 3  # lines that a column has at least
COLUMN_WIDTH = 8.0  # heights that its lines are long at least, in the middle: prices and dates are shorter
FILLED = 0.6  # share of the column's width that its lines have, in the middle
# Paragraphs: lines of like height that follow each other closely and overlap.
PARAGRAPH_GAP = 0.9  # heights between lines
LIKE_HEIGHT = 1.6


def reading_order(quads: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns from left to right, in each lines from top to bottom, each from left to right.

    quads (N, 4, 2): corners in pixels, clockwise from the top left of the text. Returns (order, lines, paragraphs), all
    (N,) int: quads[order] are in reading order, and lines[i] and paragraphs[i] are the line and the paragraph of
    quads[order[i]], from 0. A tilted page is read along its text. Columns are told apart where they hold running text:
    their lines are long and fill them. What stands at one height is one line otherwise, as an article and its price.
    Whatever order the boxes come in, the same boxes are read in the same order.
    """
    quads = np.asarray(quads, np.float64).reshape(-1, 4, 2)
    if not len(quads):
        return np.zeros(0, int), np.zeros(0, int), np.zeros(0, int)
    canonical = np.lexsort(quads.reshape(-1, 8).T)
    boxes = upright_boxes(quads[canonical])
    pieces = join_lines(boxes, np.arange(len(boxes)), WORD_GAP)
    extents = np.array([[*boxes[piece, :2].min(0), *boxes[piece, 2:].max(0)] for piece in pieces])
    lines = []
    for block in split_columns(extents):
        inside = np.concatenate([pieces[piece] for piece in block])
        lines.append(join_lines(boxes, inside, np.inf))
    paragraphs = np.cumsum([starts for block in lines for starts in paragraph_starts(boxes, block)]) - 1
    lines = [line for block in lines for line in block]
    lengths = [len(line) for line in lines]
    return canonical[np.concatenate(lines)], np.repeat(np.arange(len(lines)), lengths), np.repeat(paragraphs, lengths)


def upright_boxes(quads: np.ndarray) -> np.ndarray:
    """(N, 4) x1 y1 x2 y2 round the quads (N, 4, 2) of a page that is turned until its text runs level."""
    angle = text_angle(quads)
    cos, sin = np.cos(angle), np.sin(angle)
    upright = quads @ np.array([[cos, -sin], [sin, cos]])
    return np.hstack([upright.min(1), upright.max(1)])


def text_angle(quads: np.ndarray) -> float:
    """Radians by which the text is turned clockwise: the median over the boxes of (N, 4, 2) that are wider than high,
    the long ones counting more; 0 where there are none."""
    along = (quads[:, 1] - quads[:, 0] + quads[:, 2] - quads[:, 3]) / 2
    down = (quads[:, 3] - quads[:, 0] + quads[:, 2] - quads[:, 1]) / 2
    length, height = np.hypot(*along.T), np.hypot(*down.T)
    wide = length > 1.5 * height
    if not wide.any():
        return 0.0
    angle, weight = np.arctan2(along[wide, 1], along[wide, 0]), length[wide]
    order = np.argsort(angle, kind="stable")
    return float(angle[order][np.searchsorted(weight[order].cumsum(), weight.sum() / 2)])


def join_lines(boxes: np.ndarray, members: np.ndarray, widest_gap: float) -> list[np.ndarray]:
    """Lines from top to bottom, each the numbers of its boxes from left to right.

    boxes (N, 4) x1 y1 x2 y2; members: those to join; widest_gap: in heights, between two boxes of one line. From left
    to right, each box continues the line whose last box is nearest in height, so that curved lines hold.
    """
    left, right = boxes[:, 0], boxes[:, 2]
    middle, height = (boxes[:, 1] + boxes[:, 3]) / 2, boxes[:, 3] - boxes[:, 1]
    lines: list[list[int]] = []
    for box in members[np.lexsort((members, middle[members], left[members]))]:
        last = np.array([line[-1] for line in lines], int)
        lower = np.minimum(height[last], height[box])
        offset = np.abs(middle[last] - middle[box])
        offset[(offset >= SAME_LINE * lower) | (left[box] - right[last] > widest_gap * lower)] = np.inf
        if len(lines) and np.isfinite(offset.min()):
            lines[int(offset.argmin())].append(int(box))
        else:
            lines.append([int(box)])
    lines.sort(key=lambda line: (middle[line].mean(), left[line[0]]))
    return [np.array(line) for line in lines]


def split_columns(pieces: np.ndarray) -> list[np.ndarray]:
    """Blocks in reading order, each the numbers of its pieces of lines (N, 4): columns apart, all else together.

    The gutter is the place that the fewest pieces cross; those that do (titles over both columns) part the page into
    bands, each of which is two columns or none, and a column may be split again.
    """
    blocks: list[np.ndarray] = []

    def split(members: np.ndarray) -> None:
        gutter = find_gutter(pieces[members])
        if gutter is None:
            blocks.append(members)
            return
        members = members[np.argsort(pieces[members, 1] + pieces[members, 3], kind="stable")]
        left, right = pieces[members, 2] <= gutter, pieces[members, 0] >= gutter
        crossing = ~left & ~right
        band, plain = np.cumsum(crossing), []
        for number in range(band[-1] + 1):
            here = (band == number) & ~crossing
            plain += members[(band == number) & crossing].tolist()
            if is_columns(pieces[members[here & left]], pieces[members[here & right]]):
                rest(plain, members)
                split(members[here & left])
                split(members[here & right])
                plain = []
            else:
                plain += members[here].tolist()
        rest(plain, members)

    def rest(plain: list[int], members: np.ndarray) -> None:
        if plain and len(plain) < len(members):
            split(np.array(plain))  # by themselves they may be columns round another gutter
        elif plain:
            blocks.append(np.array(plain))

    split(np.arange(len(pieces)))
    return blocks


def find_gutter(pieces: np.ndarray) -> float | None:
    """x of the vertical line with enough pieces (N, 4) on each side that the fewest cross, or None."""
    if len(pieces) < 2 * COLUMN_LINES:
        return None
    lefts, rights = np.sort(pieces[:, 0]), np.sort(pieces[:, 2])
    candidates = np.unique(lefts)
    on_left, on_right = np.searchsorted(rights, candidates, "right"), len(lefts) - np.searchsorted(lefts, candidates)
    crossing = len(lefts) - on_left - on_right
    usable = (np.minimum(on_left, on_right) >= COLUMN_LINES) & (crossing <= np.minimum(on_left, on_right))
    if not usable.any():
        return None
    balance = np.minimum(on_left, on_right)
    best = np.lexsort((candidates, -balance, np.where(usable, crossing, len(lefts) + 1)))[0]
    return float(candidates[best])


def is_columns(left: np.ndarray, right: np.ndarray) -> bool:
    """Whether two sets of pieces (N, 4) and (M, 4), one left of the other, are columns of running text."""
    if min(len(left), len(right)) < COLUMN_LINES:
        return False
    widths, heights = zip(*((side[:, 2] - side[:, 0], side[:, 3] - side[:, 1]) for side in (left, right)))
    if any(np.median(wide / np.maximum(high, 1e-9)) < COLUMN_WIDTH for wide, high in zip(widths, heights)):
        return False
    extents = [side[:, 2].max() - side[:, 0].min() for side in (left, right)]
    narrower = int(np.argmin(extents))  # the other one may be several columns itself
    if np.median(widths[narrower]) < FILLED * extents[narrower]:
        return False
    height = np.median(np.concatenate([left[:, 3] - left[:, 1], right[:, 3] - right[:, 1]]))
    return bool(np.median(right[:, 0]) - np.percentile(left[:, 2], 90) >= GUTTER * height)


def paragraph_starts(boxes: np.ndarray, lines: list[np.ndarray]) -> list[bool]:
    """For each line of a block whether a paragraph begins with it."""
    starts, last = [], None
    for line in lines:
        x1, y1 = boxes[line, :2].min(0)
        x2, y2 = boxes[line, 2:].max(0)
        height = float(np.median(boxes[line, 3] - boxes[line, 1]))
        follows = False
        if last is not None:
            lower, higher = sorted((height, last[4]))
            follows = (y1 - last[3] <= PARAGRAPH_GAP * lower and higher <= LIKE_HEIGHT * lower
                       and min(x2, last[2]) > max(x1, last[0]))
        starts.append(not follows)
        last = (x1, y1, x2, y2, height)
    return starts


def plain_text(pages: list[list[dict]]) -> str:
    """Words joined to lines, lines to pages, an empty line between paragraphs, pages parted by form feeds as pdftotext
    does.

    pages: for each page its "text" records in reading order, with "text", "line" and "paragraph".
    """
    return "\f".join(_page_text(page) for page in pages)


def _page_text(records: list[dict]) -> str:
    said, paragraph = [], None
    for line in lines_of(records):
        if paragraph is not None and line[0]["paragraph"] != paragraph:
            said.append("\n")
        paragraph = line[0]["paragraph"]
        said.append(" ".join(record["text"] for record in line if record["text"]) + "\n")
    return "".join(said)


def lines_of(records: list[dict]) -> list[list[dict]]:
    """A page's "text" records by line."""
    lines: dict[int, list[dict]] = {}
    for record in records:
        lines.setdefault(record["line"], []).append(record)
    return [lines[number] for number in sorted(lines)]
