"""What lies behind a recognition score: by length, by class of character, which characters are taken for which, and how
far the scores of readings can be believed. Rows are those of per_image.jsonl: "truth", "text", "score", "exact"."""

import re
import unicodedata
from collections import Counter
from typing import Iterable

from rapidfuzz.distance import Levenshtein

from utils.cards import markdown_table
from utils.charset import name_character, nfc
from utils.metrics.recognition import fold_by

LENGTHS = ((1, 5), (6, 10), (11, 25), (26, 40), (41, 10**9))
CLASSES = ("hangul", "latin", "digit", "punctuation", "space", "other")
WORST = 30
NOTHING = "nothing"
RUN_OF_FOUR = re.compile(r"(.)\1{3}")


def class_of(character: str) -> str:
    """One of CLASSES. Jamo count as Hangul; currency signs and all other symbols as punctuation."""
    if character.isspace():
        return "space"
    name, kind = unicodedata.name(character, ""), unicodedata.category(character)
    if "HANGUL" in name:
        return "hangul"
    if kind == "Nd":
        return "digit"
    if kind.startswith("L"):
        return "latin" if "LATIN" in name else "other"
    return "punctuation" if kind[0] in "PS" else "other"


def aligned(prediction: str, truth: str) -> list[tuple[str, str]]:
    """(true character, read character) pairs of a cheapest alignment of the NFC texts; "" where one has none."""
    prediction, truth = nfc(prediction), nfc(truth)
    pairs = []
    for op in Levenshtein.opcodes(truth, prediction):
        mine, theirs = truth[op.src_start : op.src_end], prediction[op.dest_start : op.dest_end]
        pairs += list(zip(mine, theirs)) if op.tag in ("equal", "replace") else [(c, "") for c in mine] + [
            ("", c) for c in theirs]
    return pairs


def by_length(rows: Iterable[dict]) -> dict[str, dict[str, float]]:
    """{"1-5": {"n", "exact"}, ...} over the lengths of the truths that occur; "41-" has no upper end."""
    rows, table = list(rows), {}
    for low, high in LENGTHS:
        part = [row for row in rows if low <= len(nfc(row["truth"])) <= high]
        if part:
            name = f"{low}-{high if high < 10**9 else ''}"
            table[name] = {"n": len(part), "exact": sum(row["exact"] for row in part) / len(part)}
    return table


def by_class(rows: Iterable[dict], folds: Iterable[str] = ()) -> dict[str, dict[str, float]]:
    """{"hangul": {"n", "error"}, ...}: how many of the true characters of a class were not read as they are. Characters
    read where there is none are counted in "inserted" of their own class. folds: as count_edits takes them."""
    total, wrong, inserted = Counter(), Counter(), Counter()
    for row in rows:
        for true, read in aligned(fold_by(row["text"], folds), fold_by(row["truth"], folds)):
            if true:
                total[class_of(true)] += 1
                wrong[class_of(true)] += true != read
            else:
                inserted[class_of(read)] += 1
    return {name: {"n": total[name], "error": wrong[name] / max(total[name], 1), "inserted": inserted[name]}
            for name in CLASSES if total[name] or inserted[name]}


def confusions(rows: Iterable[dict], folds: Iterable[str] = (), most: int = WORST) -> list[tuple[str, str, int]]:
    """(true character, read character, how often), the most frequent first; "" for nothing. folds: as count_edits takes
    them."""
    pairs = (pair for row in rows for pair in aligned(fold_by(row["text"], folds), fold_by(row["truth"], folds)))
    counts = Counter(pair for pair in pairs if pair[0] != pair[1])
    return [(true, read, count) for (true, read), count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
            ][:most]


def calibration_error(rows: Iterable[dict], bins: int = 10) -> float:
    """ECE (Guo et al., 2017): mean distance between the scores of readings and the share of them that is exact, over bins
    of equal width, weighted by how many readings fall into each. 0 for no rows."""
    rows, error = list(rows), 0.0
    for place in range(bins):
        part = [row for row in rows if min(int(row["score"] * bins), bins - 1) == place]
        error += abs(sum(row["score"] for row in part) - sum(row["exact"] for row in part))
    return error / max(len(rows), 1)


def habits(rows: Iterable[dict], longest: int) -> dict[str, float]:
    """What gives away a reader that does not look, as shares of the readings: repeated_share hold four alike in a row
    that the truth lacks; no_eos_share ran past `longest` characters, to the last place, the spaces counted that were
    then cut out ("spaces_cut" of a row, if it is there); distinct_ratio is the number of distinct readings over that of
    distinct truths."""
    rows = list(rows)
    repeated = sum(bool(RUN_OF_FOUR.search(row["text"])) and not RUN_OF_FOUR.search(row["truth"]) for row in rows)
    endless = sum(len(row["text"]) + row.get("spaces_cut", 0) > longest for row in rows)
    distinct = len({row["text"] for row in rows}) / max(len({row["truth"] for row in rows}), 1)
    return {"repeated_share": repeated / max(len(rows), 1), "no_eos_share": endless / max(len(rows), 1),
            "distinct_ratio": distinct}


def report(rows: list[dict], folds: Iterable[str] = ()) -> dict:
    """Everything above as plain values, for test_metrics.json. folds: as count_edits takes them."""
    return {"by_length": by_length(rows), "by_class": by_class(rows, folds), "confusions": confusions(rows, folds)}


def report_lines(rows: list[dict], folds: Iterable[str] = ()) -> list[str]:
    """The same as markdown for the card; nothing without rows."""
    if not rows:
        return []
    lengths = [[name, str(part["n"]), f"{part['exact']:.4f}"] for name, part in by_length(rows).items()]
    classes = [[name, str(part["n"]), f"{part['error']:.4f}", str(part["inserted"])]
               for name, part in by_class(rows, folds).items()]
    worst = [[_shown(true), _shown(read), str(count)] for true, read, count in confusions(rows, folds)]
    forgiven = ["", f"Differences of {', '.join(folds)} count as none (`--fold`)."] if folds else []
    parts = [*forgiven, "", "By length of the label:", "", markdown_table(["Characters", "Labels", "exact"], lengths), "",
             "By class of character:", "", markdown_table(["Class", "Characters", "Misread", "Read in excess"], classes)]
    if worst:
        parts += ["", f"The {len(worst)} most frequent confusions:", "",
                  markdown_table(["Truth", "Read as", "Times"], worst)]
    return [*parts, ""]


def _shown(character: str) -> str:
    return name_character(character) if character else NOTHING
