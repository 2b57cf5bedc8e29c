"""Lines that were read with doubt are read again, twice: with models.language, and with more of their paper too.

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


def look_again(images: Sequence[np.ndarray], quads: Sequence[np.ndarray], readings: Sequence[Sequence[tuple[str, float]]],
               answers: Callable[[list[np.ndarray]], list[dict[str, float]]]) -> list[list[tuple[str, float]]]:
    """The readings of each image; those of lying lines with a score below DOUBT replaced by the vote of the looks.

    images: (H, W, 3) uint8 each; quads: (N, 4, 2) of each image, readings: their N (text, score); answers: from crops to
    {text: share} of each.
    """
    voted = [list(page) for page in readings]
    doubtful = [(page, box) for page, of_page in enumerate(voted) for box, (_, score) in enumerate(of_page)
                if score < DOUBT and not stands(quads[page][box])]
    if doubtful:
        found = answers([crop_line(images[page], quads[page][box], **paper) for paper in LOOKS for page, box in doubtful])
        for place, (page, box) in enumerate(doubtful):
            voted[page][box] = vote(found[place :: len(doubtful)])
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
