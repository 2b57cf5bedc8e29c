import unicodedata
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.metrics.recognition import COUNTS, count_edits, fold, recognition_scores

TEXTS = st.text(alphabet="aAb 가é", max_size=6)


def slow_distance(a, b) -> int:
    """Levenshtein's distance by its definition."""
    @lru_cache(None)
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(distance(i - 1, j) + 1, distance(i, j - 1) + 1, distance(i - 1, j - 1) + (a[i - 1] != b[j - 1]))
    return distance(len(a), len(b))


@given(TEXTS, TEXTS)
def test_counts_equal_the_definition(prediction, truth):
    row = count_edits(prediction, truth)
    assert row["char_edits"] == slow_distance(prediction, truth)
    assert row["word_edits"] == slow_distance(tuple(prediction.split()), tuple(truth.split()))
    assert (row["char_length"], row["word_length"]) == (len(truth), len(truth.split()))
    assert row["exact"] == (prediction == truth) and row["exact"] <= row["exact_folded"]
    longer = max(len(prediction), len(truth))
    assert row["ned"] == pytest.approx(1 - row["char_edits"] / longer if longer else 1)
    assert set(row) == set(COUNTS)


def test_hand_case():
    pairs = [("Total 10", "TOTAL 10"), ("합계", "합 계"), ("", "abc"), ("x", "x")]
    rows = [count_edits(*pair) for pair in pairs]
    scores = recognition_scores(rows)
    assert scores["exact"] == 0.25 and scores["exact_folded"] == 0.75 and scores["n"] == 4
    assert scores["ned"] == pytest.approx((1 - 4 / 8 + 1 - 1 / 3 + 0 + 1) / 4)
    assert scores["cer"] == pytest.approx((4 + 1 + 3 + 0) / (8 + 3 + 3 + 1))
    assert scores["wer"] == pytest.approx((1 + 2 + 1 + 0) / (2 + 2 + 1 + 1))
    assert set(scores) == {"exact", "exact_folded", "ned", "cer", "wer", "n"}


def test_forms_of_unicode():
    assert count_edits(unicodedata.normalize("NFD", "é가"), "é가")["exact"] == 1
    assert count_edits("1", "①")["exact_folded"] == 0  # compatibility forms stay apart
    assert fold(" A\u00a0b\tC\u3000") == "abc"


def test_repetition_makes_rates_over_one():
    scores = recognition_scores([count_edits("aaaa", "b")])
    assert scores["cer"] == 4 and scores["ned"] == 0


def test_empty_truths_and_no_rows():
    scores = recognition_scores([count_edits("", "")])
    assert scores == {"exact": 1, "exact_folded": 1, "ned": 1, "cer": 0, "wer": 0, "n": 1}
    with pytest.raises(ValueError):
        recognition_scores([])


@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=2, max_size=6))
def test_scores_do_not_depend_on_the_order(pairs):
    rows = [count_edits(*pair) for pair in pairs]
    assert recognition_scores(rows) == pytest.approx(recognition_scores(rows[::-1]))
