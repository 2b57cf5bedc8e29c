"""Text polygons as ICDAR writes them: a text file for each image, a line for each polygon.

    x1,y1,x2,y2,x3,y3,x4,y4,TEXT     eight numbers; the rest is the transcription, whatever numbers and commas it holds
    x1,y1,...,xn,yn,####TEXT         three points or more, ended by the sign #### (SCUT-CTW1500): in files where every
                                     line has it, since a receipt may show a card as ####1234
    x1,y1,...,xn,yn,TEXT             three points or more without a sign (Total-Text as DB has it, ICDAR ArT)

The third cannot be told from the first by looking: an amount of 1,007.50 could be a point. So it is read only where
`polygon_labels` says so (--polygon-labels): points are then all leading pairs of numbers, and a transcription must not
begin with such a pair.
"""

import re
from pathlib import Path

import numpy as np

SIGN = "####"
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.ASCII | re.IGNORECASE)


def count_numbers(fields: list[str]) -> int:
    """How many of the first fields are numbers."""
    return next((i for i, field in enumerate(fields) if not NUMBER.fullmatch(field)), len(fields))


def has_sign(line: str) -> bool:
    fields = line.split(",")
    count = count_numbers(fields)
    return 6 <= count < len(fields) and fields[count].startswith(SIGN)


def parse_line(line: str, polygon_labels: bool = False, signed: bool = False) -> tuple[np.ndarray, str]:
    """(points (N, 2) float32 with N >= 3, transcription). Raises ValueError where the line is no label."""
    fields = line.split(",")
    leading = count_numbers(fields)
    count = leading if signed else leading - leading % 2 if polygon_labels else 8
    text = ",".join(fields[count:])
    if signed:
        text = text.removeprefix(SIGN)
        if count % 2:
            raise ValueError(f"{count} numbers before {SIGN}, where pairs are expected")
    if count < 6:
        raise ValueError(f"{leading} numbers, where three points (6 numbers) or more are expected")
    if len(fields) < count:
        raise ValueError(f"{len(fields)} fields, where {count} numbers and a transcription are expected")
    if leading < count:
        raise ValueError(f"one of its first {count} fields is not a number")
    points = np.array([float(field) for field in fields[:count]], np.float32).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("one of its numbers is not finite")
    return points, text


def read_labels(path: Path, polygon_labels: bool = False) -> tuple[list[np.ndarray], list[str]]:
    """(polygons, transcriptions) of one label file, a byte order mark and empty lines allowed; ValueError otherwise."""
    try:
        # Not splitlines: a transcription may hold U+2028.
        lines = re.split(r"\r\n|\r|\n", path.read_bytes().decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 (byte {error.start})") from None
    signed = all(has_sign(line) for line in lines if line.strip())
    polygons, texts = [], []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                points, text = parse_line(line, polygon_labels, signed)
            except ValueError as error:
                raise ValueError(f"line {number}: {error}") from None
            polygons.append(points)
            texts.append(text)
    return polygons, texts
