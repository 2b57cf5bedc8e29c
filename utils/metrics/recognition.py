"""Text recognition metrics. Every row is additive counts, so that any score can be summed or bootstrapped from rows.

exact is on raw NFC text; exact_folded ignores white space and case; ned is the mean of 1 - edits / longer length
(ICDAR 2019 ReCTS, LSVT: '1-NED'); cer and wer are summed edits over summed length of the truth, raw NFC text.
"""

import unicodedata
from typing import Iterable

from rapidfuzz.distance import Levenshtein

from utils.charset import nfc, one_space

COUNTS = ("n", "exact", "exact_folded", "ned", "char_edits", "char_length", "word_edits", "word_length")
FOLDS = ("case", "width", "space")


def fold(text: str) -> str:
    """NFC text without white space, case folded."""
    return nfc("".join(text.split()).casefold())


def fold_by(text: str, folds: Iterable[str]) -> str:
    """NFC text with the differences of `folds` (of FOLDS) taken out. width: full- and half-width forms of Latin letters,
    digits, signs, Katakana and Hangul become the ordinary ones; nothing else that NFKC would change is touched."""
    text = nfc(text)
    if "width" in folds:
        text = nfc("".join(unicodedata.normalize("NFKC", c) if unicodedata.east_asian_width(c) in "FH" else c
                           for c in text))
    if "case" in folds:
        text = nfc(text.casefold())
    if "space" in folds:
        text = "".join(text.split())
    return text


def count_edits(prediction: str, truth: str, folds: Iterable[str] = ()) -> dict[str, float]:
    """The row of one sample: COUNTS, with n = 1, exact and exact_folded 0 or 1, ned in [0, 1], lengths of the truth.
    folds: of FOLDS, differences that count as none."""
    prediction, truth = fold_by(prediction, folds), fold_by(truth, folds)
    edits = Levenshtein.distance(prediction, truth)
    return {
        "n": 1,
        "exact": int(prediction == truth),
        "exact_folded": int(fold(prediction) == fold(truth)),
        "ned": 1 - edits / max(len(prediction), len(truth), 1),
        "char_edits": edits,
        "char_length": len(truth),
        "word_edits": Levenshtein.distance(prediction.split(), truth.split()),
        "word_length": len(truth.split()),
    }


def reading_row(file: str, truth: str, raw: str, score: float, folds: Iterable[str] = ()) -> dict:
    """A row of per_image.jsonl from what was read, its spaces as they came; "spaces_cut" is how many are not in "text"."""
    text = one_space(raw)
    return {"file": file, "truth": truth, "text": text, "score": score, "spaces_cut": len(raw) - len(text)} | count_edits(
        text, truth, folds)


def score_curve(rows: Iterable[dict], steps: int = 20) -> list[tuple[float, float, float, float]]:
    """(score, precision, recall, f1) where only readings with at least that score are taken: precision is the share of
    exact ones among them, recall the exact ones among all crops. rows: with "score" and "exact"."""
    rows = list(rows)
    curve = []
    for step in range(steps + 1):
        taken = [row["exact"] for row in rows if row["score"] >= step / steps]
        precision, recall = sum(taken) / max(len(taken), 1), sum(taken) / max(len(rows), 1)
        curve.append((step / steps, precision, recall, 2 * precision * recall / max(precision + recall, 1e-12)))
    return curve


def recognition_scores(rows: Iterable[dict[str, float]]) -> dict[str, float]:
    """exact, exact_folded, ned, cer, wer (fractions; cer and wer may exceed 1) and n. ValueError without rows."""
    rows = list(rows)
    if not rows:
        raise ValueError("no samples to score")
    total = {name: sum(row[name] for row in rows) for name in COUNTS}
    return {
        "exact": total["exact"] / total["n"],
        "exact_folded": total["exact_folded"] / total["n"],
        "ned": total["ned"] / total["n"],
        "cer": total["char_edits"] / max(total["char_length"], 1),
        "wer": total["word_edits"] / max(total["word_length"], 1),
        "n": total["n"],
    }
