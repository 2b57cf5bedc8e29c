"""Text recognition metrics. Every row is additive counts, so that any score can be summed or bootstrapped from rows.

exact is on raw NFC text; exact_folded ignores white space and case; ned is the mean of 1 - edits / longer length
(ICDAR 2019 ReCTS, LSVT: '1-NED'); cer and wer are summed edits over summed length of the truth, raw NFC text.
"""

from typing import Iterable

from rapidfuzz.distance import Levenshtein

from utils.charset import nfc

COUNTS = ("n", "exact", "exact_folded", "ned", "char_edits", "char_length", "word_edits", "word_length")


def fold(text: str) -> str:
    """NFC text without white space, case folded."""
    return nfc("".join(text.split()).casefold())


def count_edits(prediction: str, truth: str) -> dict[str, float]:
    """The row of one sample: COUNTS, with n = 1, exact and exact_folded 0 or 1, ned in [0, 1], lengths of the truth."""
    prediction, truth = nfc(prediction), nfc(truth)
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
