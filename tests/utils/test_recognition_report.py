import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.metrics.recognition import FOLDS, count_edits, fold_by
from utils.metrics.recognition_report import (aligned, by_class, by_length, calibration_error, class_of, confusions,
                                              habits, report, report_lines)

TEXT = st.text("aB1가각.₩ ", max_size=8)


def row(text, truth, score=1.0):
    return {"text": text, "truth": truth, "score": score} | count_edits(text, truth)


def test_classes_of_characters():
    classes = {"가": "hangul", "ㅋ": "hangul", "a": "latin", "É": "latin", "7": "digit", "₩": "punctuation", "+": "punctuation",
               "%": "punctuation", " ": "space", "字": "other", "я": "other", "①": "other", "~": "punctuation"}
    assert {c: class_of(c) for c in classes} == classes


def test_alignment_by_hand():
    assert aligned("abXd", "abcd") == [("a", "a"), ("b", "b"), ("c", "X"), ("d", "d")]
    assert aligned("acd", "abcd") == [("a", "a"), ("b", ""), ("c", "c"), ("d", "d")]
    assert aligned("", "") == [] and aligned("x", "") == [("", "x")] and aligned("", "x") == [("x", "")]


@given(TEXT, TEXT)
def test_an_alignment_spells_both_texts_at_the_least_cost(text, truth):
    pairs = aligned(text, truth)
    assert "".join(true for true, _ in pairs) == truth and "".join(read for _, read in pairs) == text
    assert sum(true != read for true, read in pairs) == count_edits(text, truth)["char_edits"]


def test_tables_by_hand():
    rows = [row("12", "12"), row("가나", "가다"), row("total 5", "total 50"), row("abcdefghijk", "abcdefghijk"), row("xx", "x")]
    assert by_length(rows) == {"1-5": {"n": 3, "exact": 1 / 3}, "6-10": {"n": 1, "exact": 0.0},
                               "11-25": {"n": 1, "exact": 1.0}}
    classes = by_class(rows)
    assert classes["digit"] == {"n": 4, "error": 0.25, "inserted": 0}  # the 0 of 50 is lost
    assert classes["hangul"] == {"n": 2, "error": 0.5, "inserted": 0}
    assert classes["latin"] == {"n": 17, "error": 0.0, "inserted": 1} and classes["space"]["n"] == 1
    assert confusions(rows) == [("", "x", 1), ("0", "", 1), ("다", "나", 1)]
    text = "\n".join(report_lines(rows))
    assert "| 6-10 | 1 | 0.0000 |" in text and "| hangul | 2 | 0.5000 | 0 |" in text
    assert "3 most frequent" in text and "다 (U+B2E4" in text and "nothing" in text
    assert report_lines([]) == [] and report([])["by_class"] == {}


def test_the_worst_confusions_are_the_most_frequent():
    rows = [row(chr(0x4E00 + i), "a") for i in range(40) for _ in range(i + 1)]
    worst = confusions(rows)
    assert len(worst) == 30 and worst[0] == ("a", chr(0x4E00 + 39), 40) and worst[-1][2] == 11


def test_a_pipe_does_not_break_the_table():
    line = next(line for line in report_lines([row("l", "|")]) if "VERTICAL" in line)
    assert "\\|" in line


def test_calibration_error_by_hand_and_at_its_ends():
    assert calibration_error([]) == 0
    rows = [row("a", "a", 0.75), row("a", "b", 0.75), row("a", "a", 1.0)]
    assert calibration_error(rows) == pytest.approx((abs(1.5 - 1) + 0) / 3)
    assert calibration_error([row("a", "b", 1.0)]) == 1.0
    rng = np.random.default_rng(0)
    honest = [row("a", "a" if rng.random() < score else "b", score) for score in rng.random(4000)]
    boastful = [r | {"score": math.sqrt(r["score"])} for r in honest]
    assert calibration_error(honest) < 0.05 < 0.12 < calibration_error(boastful)


def test_habits_of_a_reader_that_does_not_look():
    same = [row("aaaaaaaaa", truth) for truth in ("one", "two", "three", "four")]
    assert habits(same, 8) == {"repeated_share": 1.0, "no_eos_share": 1.0, "distinct_ratio": 0.25}
    good = [row(truth, truth) for truth in ("one", "000000", "four")]
    assert habits(good, 8) == {"repeated_share": 0.0, "no_eos_share": 0.0, "distinct_ratio": 1.0}  # the truth repeats too
    assert habits([], 8)["repeated_share"] == 0


def test_what_is_folded_is_no_confusion_and_no_misreading():
    rows = [row("total ５", "TOTAL 5")]
    assert by_class(rows)["latin"]["error"] == 1 and sum(count for *_, count in confusions(rows)) == 6
    folds = ("case", "width")
    assert by_class(rows, folds)["latin"] == {"n": 5, "error": 0, "inserted": 0} and not confusions(rows, folds)
    told = report(rows, folds)
    assert told["confusions"] == [] and {part["error"] for part in told["by_class"].values()} == {0}
    lines = "\n".join(report_lines(rows, folds))
    assert "confusions" not in lines and "Differences of case, width count as none" in lines
    assert "count as none" not in "\n".join(report_lines(rows))


def test_a_reader_that_never_ends_but_in_spaces_is_noticed():
    """What it read is kept without the spaces at its ends."""
    endless = [row("", truth) | {"spaces_cut": 9} for truth in ("one", "two")]
    assert habits(endless, 8)["no_eos_share"] == 1
    assert habits([row("1234567", "one") | {"spaces_cut": 1}], 8)["no_eos_share"] == 0


def test_folding_is_asked_for_by_name():
    assert count_edits("ｔｏｔａｌ　１", "Total 1")["exact"] == 0
    for folds, exact in (((), 0), (("case",), 0), (("width",), 0), (("case", "width"), 1)):
        assert count_edits("ｔｏｔａｌ　１", "Total 1", folds)["exact"] == exact
    assert fold_by("￦5，000", ("width",)) == "₩5,000" and fold_by("①㎏Ａ", ("width",)) == "①㎏A"  # NFKC would change them
    assert count_edits("a b", "ab", ("space",))["char_edits"] == 0 and count_edits("a b", "ab")["char_edits"] == 1
    assert count_edits("Straße", "STRASSE", ("case",))["exact"] == 1


@given(TEXT, TEXT, st.sets(st.sampled_from(FOLDS)))
def test_folding_forgives_and_never_adds(text, truth, folds):
    assert count_edits(text, truth, folds)["exact"] >= count_edits(text, truth)["exact"]
    assert fold_by(fold_by(text, folds), folds) == fold_by(text, folds)
