"""Pen strokes: readable handwriting in Latin and Korean, signatures, and free curves.

Readable handwriting takes a light printed letter, thins it to its skeleton, and writes that skeleton again as a hand
would: slanted, uneven, rounded, with pressure. So every character that the font has can be written, and its strokes are
known.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from datasets.pages.canvas import PenStroke
from datasets.pages.skeleton import letter
from datasets.pages.truth import TextLine, Word
from utils.fonts import FontFace


@dataclass
class Hand:
    """One person's writing.

    slant: x per y. wobble: em. uneven, turn: spread of the letters' sizes and angles. joined: share of letters joined
    to the one before. spacing: em between letters. narrow: their width as a share of the printed one.
    """

    slant: float
    wobble: float
    uneven: float
    turn: float
    joined: float
    spacing: float
    narrow: float

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Hand":
        return cls(
            slant=rng.normal(0.12, 0.12),
            wobble=rng.uniform(0.01, 0.035),
            uneven=rng.uniform(0.03, 0.1),
            turn=rng.uniform(0.01, 0.07),
            joined=rng.uniform(0, 0.7),
            spacing=rng.uniform(-0.03, 0.08),
            narrow=rng.uniform(0.75, 1.05),
        )


def write_text(
    text: str,
    x: float,
    y: float,
    size: float,
    width: float,
    face: FontFace,
    hand: Hand,
    rng: np.random.Generator,
    angle: float = 0.0,
) -> tuple[list[PenStroke], TextLine]:
    """Strokes of `text` and its truth.

    (x, y): start of the baseline. size: pixels per em. width: the pen's, in pixels. angle: of the whole line in
    radians, clockwise as seen. The face must have every character.
    """
    groups = _em_strokes(text, face, hand, rng)
    strokes = [stroke for _, own in groups for stroke in own]
    rotation = size * np.float32([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])

    def quad(own: list[PenStroke]) -> np.ndarray:
        """The upright box round strokes in em, at least as high as a small letter, turned and moved to the sheet."""
        points = np.concatenate([stroke.points for stroke in own])
        (x0, y0), (x1, y1) = points.min(0) - width / size, points.max(0) + width / size
        y0, y1 = min(y0, -0.45), max(y1, 0)
        return np.float32([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]) @ rotation + np.float32([x, y])

    line = TextLine(quad(strokes), text, "handwriting", [Word(quad(own), word) for word, own in groups])
    for stroke in strokes:
        stroke.points = smooth(stroke.points @ rotation + np.float32([x, y]))
        stroke.widths = pressure(len(stroke.points), width, rng)
    return strokes, line


def _em_strokes(text: str, face: FontFace, hand: Hand, rng: np.random.Generator) -> list[tuple[str, list[PenStroke]]]:
    """The words of `text`, each with its strokes in em from the baseline's start, without widths yet."""
    groups = []
    pen_x, drift, phase = 0.0, 0.0, rng.uniform(0, 6.3)
    for number, word in enumerate(text.split(" ")):
        pen_x += 0.3 * hand.narrow * rng.uniform(0.8, 1.4) if number else 0.0
        own: list[PenStroke] = []
        for character in word:
            shapes, advance = letter(face, character)
            scale, turn = 1 + rng.normal(0, hand.uneven), rng.normal(0, hand.turn)
            drift = 0.8 * drift + rng.normal(0, 0.4 * hand.uneven)
            turned = np.float32([[hand.narrow, np.sin(turn)], [-hand.slant, 1]]) * scale
            placed = []
            for shape in shapes:
                points = shape @ turned + np.float32([pen_x, 0.25 * drift])
                waves = points[:, ::-1] * np.float32([9, 7]) + np.float32([phase, phase + len(own)])
                tremble = rng.normal(0, 0.25 * hand.wobble, points.shape)
                placed.append(np.float32(points + hand.wobble * np.sin(waves) + tremble))
            if own and placed and rng.random() < hand.joined:
                gap = placed[0][0] - own[-1].points[-1]
                if 0 < gap[0] < 0.35 and abs(gap[1]) < 0.35:
                    own[-1].points = np.concatenate([own[-1].points, placed.pop(0)])
            own += [PenStroke(points, np.empty(0)) for points in placed]
            pen_x += (advance * hand.narrow + hand.spacing) * scale
        groups.append((word, own))
    return groups


def text_width(text: str, face: FontFace, hand: Hand) -> float:
    """About how wide `text` becomes, in em."""
    letters = sum(letter(face, character)[1] * hand.narrow + hand.spacing for character in text if character != " ")
    return 1.04 * (letters + 0.33 * hand.narrow * text.count(" "))


def signature(width: float, height: float, pen: float, rng: np.random.Generator) -> list[PenStroke]:
    """A signature inside about (width, height), its middle at (0, 0): loops that shrink, a large first letter, often a
    flourish. pen: pixels."""
    humps = int(rng.integers(4, 11))
    t = np.linspace(0, humps, humps * 14)
    knots = np.arange(humps + 2)
    tall = np.interp(t, knots, rng.gamma(2.2, 0.16, humps + 2) + 0.08)
    first = np.exp(-(((t - 0.6) / 0.7) ** 2)) * rng.uniform(0.5, 1.1)
    loop = np.interp(t, knots, rng.uniform(0.1, 0.75, humps + 2))
    phase = 2 * np.pi * t + 0.5 * np.sin(t * rng.uniform(0.5, 2))
    slant = rng.uniform(0.1, 0.7)
    y = -(tall + first) * np.cos(phase) + 0.15 * np.interp(t, knots, rng.normal(0, 0.6, humps + 2))
    x = t * rng.uniform(0.35, 0.6) + loop * (0.5 + first) * np.sin(phase) - slant * y
    tail = rng.random() < 0.6
    if tail:  # the last pull runs out into a long line
        s = np.linspace(0, 1, 20)
        x = np.concatenate([x, x[-1] + s * rng.uniform(0.6, 2.2)])
        y = np.concatenate([y, y[-1] + 0.5 * np.sin(s * np.pi * rng.uniform(0.4, 1.4)) * rng.choice([-1, 1])])
    shapes = [np.stack([x, y], 1)]
    if rng.random() < 0.35:  # a name of two parts
        cut = len(x) * int(rng.integers(35, 65)) // 100
        shapes = [shapes[0][:cut], shapes[0][cut:] + [rng.uniform(0.2, 0.7), rng.uniform(-0.3, 0.3)]]
    ends = np.concatenate(shapes)
    if rng.random() < 0.4:  # underlined, and back
        s = np.linspace(0, 1, 24)
        level = ends[:, 1].max() * rng.uniform(0.7, 1.15)
        shapes.append(
            np.stack(
                [
                    ends[:, 0].min() + np.sin(s * np.pi * rng.uniform(0.5, 0.8)) * np.ptp(ends[:, 0]),
                    level + 0.15 * np.sin(s * 7 + rng.uniform(0, 6)),
                ],
                1,
            )
        )
    if rng.random() < 0.3:  # a dot or a dash over it
        at = np.array([rng.uniform(ends[:, 0].min(), ends[:, 0].max()), ends[:, 1].min()])
        shapes.append(at + np.array([[0, 0], [rng.uniform(0.02, 0.4), rng.uniform(-0.1, 0.1)]]))
    low, high = ends.min(0), ends.max(0)
    scale = np.minimum(width / (high[0] - low[0]), height / (high[1] - low[1]))
    stretched = np.array([min(width / (high[0] - low[0]), 2 * scale), min(height / (high[1] - low[1]), 1.5 * scale)])
    return [_swift(np.float32((shape - (low + high) / 2) * stretched), pen) for shape in shapes]


def signed_name(
    text: str, width: float, height: float, pen: float, face: FontFace, rng: np.random.Generator
) -> list[PenStroke]:
    """A name dashed off inside about (width, height), its middle at (0, 0), the letters run together. pen: pixels."""
    hand = Hand(
        slant=rng.uniform(0.15, 0.6),
        wobble=rng.uniform(0.03, 0.06),
        uneven=rng.uniform(0.08, 0.18),
        turn=0.08,
        joined=1.0,
        spacing=-rng.uniform(0.02, 0.1),
        narrow=rng.uniform(0.6, 0.95),
    )
    shapes = [stroke.points for _, own in _em_strokes(text, face, hand, rng) for stroke in own]
    ends = np.concatenate(shapes)
    low, high = ends.min(0), ends.max(0)
    scale = float(min(width / (high[0] - low[0] + 1e-6), height / (high[1] - low[1] + 1e-6)))
    return [_swift((shape - (low + high) / 2) * np.float32(scale), pen) for shape in shapes]


def _swift(points: np.ndarray, pen: float) -> PenStroke:
    """A quick pull: wide where it goes down or slowly, thin where it is fast, at its start and at its end."""
    points = smooth(points)
    if len(points) < 2:
        return PenStroke(points, np.full(len(points), pen, np.float32))
    speed = np.linalg.norm(np.gradient(points, axis=0), axis=1)
    widths = pen * (0.75 + 0.5 * (np.gradient(points[:, 1]) > 0)) * (1.25 - 0.55 * speed / max(speed.max(), 1e-6))
    ends = np.minimum(np.arange(len(points)), np.arange(len(points))[::-1])
    eased = cv2.blur(widths * np.minimum(ends / 5 + 0.45, 1), (1, 7)).ravel()
    return PenStroke(points, np.float32(np.maximum(eased, 1.2)))  # thinner lines would leave no ink in the mask


def squiggle(points: np.ndarray, width: float, rng: np.random.Generator) -> PenStroke:
    """A free curve through (N, 2) control points."""
    dense = smooth(np.float32(points), rounds=4)
    return PenStroke(dense, pressure(len(dense), width, rng))


def pressure(count: int, width: float, rng: np.random.Generator) -> np.ndarray:
    """(count,) float32 widths that swell and ease slowly about `width`, and thin out at both ends; a dot is pressed."""
    if count < 3:
        return np.full(count, 1.3 * width, np.float32)
    knots = max(count // 12, 2)
    widths = width * np.interp(np.linspace(0, 1, count), np.linspace(0, 1, knots), rng.uniform(0.8, 1.2, knots))
    ends = np.minimum(np.arange(count), np.arange(count)[::-1])
    return np.float32(widths * np.minimum(ends / 4 + 0.7, 1))


def smooth(points: np.ndarray, rounds: int = 2) -> np.ndarray:
    """Corners cut `rounds` times (Chaikin), ends kept. (N, 2) -> (M, 2) float32."""
    points = np.float32(points)
    for _ in range(rounds):
        if len(points) < 3:
            break
        a, b = points[:-1], points[1:]
        cut = np.stack([0.75 * a + 0.25 * b, 0.25 * a + 0.75 * b], 1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut[1:-1], points[-1:]])
    return points
