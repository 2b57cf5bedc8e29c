"""Printed letters thinned to the pulls of a pen."""

from functools import lru_cache
from itertools import permutations, product

import cv2
import numpy as np
from skimage.morphology import skeletonize

from datasets.pages.canvas import TextStyle, print_coverage
from utils.fonts import FontFace

GLYPH_SIZE = 72  # pixels per em at which letters are thinned


@lru_cache(maxsize=8192)
def letter(face: FontFace, character: str) -> tuple[list[np.ndarray], float]:
    """The skeleton of a character: its pulls (N, 2) in em from the baseline's start, y down, and its advance in em."""
    advance = face.at(GLYPH_SIZE).getlength(character) / GLYPH_SIZE
    if character.isspace():
        return [], advance
    coverage, (left, top) = print_coverage(character, TextStyle(face, GLYPH_SIZE))
    filled = np.pad(coverage > 110, 1)
    pulls = trace(skeletonize(filled))
    shapes = []
    for pull in pulls:
        simple = cv2.approxPolyDP(np.int32(pull), 0.9, False).reshape(-1, 2)
        shapes.append(np.float32(simple - [1, 1] + [left, top]) / GLYPH_SIZE)
    shapes.sort(key=lambda shape: (round(float(shape[:, 0].min()) * 4), float(shape[:, 1].min())))
    return shapes, advance


def trace(skeleton: np.ndarray) -> list[np.ndarray]:
    """Paths (N, 2), x and y, through a bool skeleton (H, W): between ends and crossings, then round closed loops.

    Paths that meet in a crossing and run straight on are joined, as a pen would draw them; spurs under 4 pixels go.
    """
    pixels = {(int(y), int(x)) for y, x in zip(*np.nonzero(skeleton))}
    around = [(-1, 0), (0, 1), (1, 0), (0, -1), (-1, -1), (-1, 1), (1, 1), (1, -1)]

    def neighbours(p):
        """Straight neighbours hide the diagonal ones beside them, else every corner would count as a crossing."""
        straight = [(p[0] + a, p[1] + b) for a, b in around[:4] if (p[0] + a, p[1] + b) in pixels]
        hidden = {(q[0] + a, q[1] + b) for q in straight for a, b in around[:4]}
        return straight + [q for a, b in around[4:] if (q := (p[0] + a, p[1] + b)) in pixels and q not in hidden]

    links = {p: neighbours(p) for p in sorted(pixels)}
    used: set[tuple] = set()
    paths = []
    for start in [p for p in links if len(links[p]) != 2] + [p for p in links if len(links[p]) == 2]:
        if not links[start]:
            paths.append([start, start])
        for step in links[start]:
            if (start, step) in used:
                continue
            path, here, ahead = [start], start, step
            while True:
                used |= {(here, ahead), (ahead, here)}
                path.append(ahead)
                onward = [q for q in links[ahead] if q != here and (ahead, q) not in used]
                if len(links[ahead]) != 2 or not onward or ahead == start:
                    break
                here, ahead = ahead, onward[0]
            free_end = len(links[path[0]]) == 1 or len(links[path[-1]]) == 1
            if not (free_end and len(path) < 4 and any(len(links[end]) > 2 for end in (path[0], path[-1]))):
                paths.append(path)
    return _joined([np.array(path)[:, ::-1] for path in paths])


def _joined(paths: list[np.ndarray]) -> list[np.ndarray]:
    """Pairs of paths that meet end to end and keep their direction within about 40 degrees become one path."""
    paths = list(paths)
    while (pair := _straight_pair(paths)) is not None:
        i, j, path = pair
        paths = [path if k == i else other for k, other in enumerate(paths) if k != j]
    return [path if path[0].sum() <= path[-1].sum() else path[::-1] for path in paths]


def _straight_pair(paths: list[np.ndarray]) -> tuple[int, int, np.ndarray] | None:
    """(i, j, the two as one path) for the first pair that runs straight on, or None."""
    for i, j in permutations(range(len(paths)), 2):
        if min(len(paths[i]), len(paths[j])) < 3:
            continue
        for a, b in product((paths[i], paths[i][::-1]), (paths[j], paths[j][::-1])):
            if (a[-1] == b[0]).all() and _cosine(a[-1] - a[-min(len(a), 7)], b[min(len(b), 7) - 1] - b[0]) > 0.75:
                return i, j, np.concatenate([a, b[1:]])
    return None


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b) / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-9)
