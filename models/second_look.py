"""Lines that were read with doubt are read again, by models.language: as they were found, and with more of their paper.

A found box is a little off here and there, and a reading hangs on where its crop ends: so the looks vote.
"""

from collections import defaultdict
from typing import Callable, Sequence

import numpy as np

from models.language import folded
from utils.text_crops import ROOM, crop_line, is_tall

# Of SROIE's validation lines read from picture to text 0.899 with 0.8, 0.904 with 0.9, 0.906 with 0.95, 0.907 with all lines
# read again, which are three times as many as with 0.95.
DOUBT = 0.95
LOOKS = ({}, {"sides": 0.1, "ends": ROOM + 0.1})  # of crop_line


def look_again(images: Sequence[np.ndarray], quads: Sequence[np.ndarray],
               readings: Sequence[Sequence[tuple[str, float, dict[str, float] | None]]],
               answers: Callable[[list[np.ndarray]], list[dict[str, float]]]) -> list[list[tuple[str, float]]]:
    """(text, score) of each line of each image; of lying lines with a score below DOUBT the vote of the looks.

    images: (H, W, 3) uint8 each; quads: (N, 4, 2) of each image, readings: their N (text, score, {text: share}, or None where
    the line is to be looked at as it was found, too); answers: from crops to {text: share} of each.
    """
    voted = [[(text, score) for text, score, _ in page] for page in readings]
    looks = {(page, box): [share] if share else [] for page, of_page in enumerate(readings)
             for box, (_, score, share) in enumerate(of_page) if score < DOUBT and not stands(quads[page][box])}
    asked = [(line, paper) for line, known in looks.items() for paper in LOOKS[len(known) :]]
    if asked:
        crops = [crop_line(images[page], quads[page][box], **paper) for (page, box), paper in asked]
        for (line, _), share in zip(asked, answers(crops)):
            looks[line].append(share)
    for (page, box), shares in looks.items():
        voted[page][box] = vote(shares)
    return voted


def stands(quad: np.ndarray) -> bool:
    return is_tall(np.linalg.norm(quad[3] - quad[0]), np.linalg.norm(quad[1] - quad[0]))


def vote(looks: Sequence[dict[str, float]]) -> tuple[str, float]:
    """(text, score): the text with the largest share in the mean of the looks, and that share; a text counts in all of its
    cases, and is shown in the one that a look was surest of."""
    shares: dict[str, float] = defaultdict(float)
    surest: dict[str, tuple[float, str]] = {}
    for text, share in (answer for look in looks for answer in look.items()):
        capitals = "".join(map(folded, text))
        shares[capitals] += share / len(looks)
        surest[capitals] = max(surest.get(capitals, (0.0, text)), (share, text), key=lambda pair: pair[0])
    best = max(shares, key=shares.get)
    return surest[best][1], min(shares[best], 1.0)
