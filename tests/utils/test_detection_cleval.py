"""CLEval by hand: characters found, cuts and joins, false alarms, and what is not cared for."""

import numpy as np
import pytest

from utils.metrics.detection_cleval import character_centres, cleval_counts, cleval_scores, guessed_characters


def box(x, y, width, height=10):
    return np.float32([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


WORD = box(0, 0, 50)  # "total": centres at x 5, 15, 25, 35, 45


def scored(candidates, truth=(WORD,), texts=("total",), ignored=None):
    counts = cleval_counts(list(candidates), list(truth), list(texts), ignored or [t == "###" for t in texts])
    scores = cleval_scores([counts])
    return counts, scores["cleval_recall"], scores["cleval_precision"]


def test_centres_by_hand():
    assert character_centres(WORD, 5).tolist() == [[5, 5], [15, 5], [25, 5], [35, 5], [45, 5]]
    tall = np.float32([[0, 0], [10, 0], [10, 40], [0, 40]])
    assert sorted(character_centres(tall, 2).tolist()) == [[5, 10], [5, 30]]
    bent = np.float32([[0, 0], [10, 0], [20, 10], [20, 20], [10, 10], [0, 10]])  # up to a corner, then down
    assert character_centres(bent, 1)[0] == pytest.approx([10 + 0.1 * 5, 5 + 0.1 * 5], abs=2)
    assert len(character_centres(bent[:5], 3)) == 3


def test_a_whole_word():
    counts, recall, precision = scored([WORD])
    assert counts == {"cleval_found": 5, "cleval_characters": 5, "cleval_split": 0, "cleval_joined": 0,
                      "cleval_predicted": 5}
    assert recall == precision == 1


def test_a_word_in_two_pieces_costs_a_point():
    _, recall, precision = scored([box(0, 0, 20), box(20, 0, 30)])
    assert (recall, precision) == (pytest.approx(4 / 5), 1)


def test_half_a_word():
    _, recall, precision = scored([box(0, 0, 30)])
    assert (recall, precision) == (pytest.approx(3 / 5), 1)


def test_two_words_joined_cost_a_point():
    _, recall, precision = scored([box(0, 0, 90)], [WORD, box(60, 0, 30)], ["total", "sum"])
    assert (recall, precision) == (1, pytest.approx(7 / 8))


def test_two_boxes_on_one_word_predict_its_characters_twice():
    counts, recall, precision = scored([WORD, box(1, 1, 48, 8)])
    assert counts["cleval_predicted"] == 10 and counts["cleval_found"] == 5
    assert (recall, precision) == (pytest.approx(4 / 5), pytest.approx(5 / 10))


def test_a_false_alarm_counts_what_it_has_room_for():
    assert guessed_characters(box(0, 0, 30)) == 4 and guessed_characters(box(0, 0, 500)) == 10
    counts, recall, precision = scored([WORD, box(200, 0, 30)])
    assert (recall, precision) == (1, pytest.approx(5 / 9))


def test_a_box_far_larger_than_its_word_does_not_count():
    _, recall, precision = scored([box(-200, -200, 600, 600)])
    assert recall == precision == 0
    counts, *_ = scored([box(0, 0, 50, 40)])  # a quarter of it: less than 0.3
    assert counts["cleval_found"] == 0


def test_do_not_care():
    truth, texts = [WORD, box(100, 0, 50)], ["total", "###"]
    counts, recall, precision = scored([WORD, box(105, 0, 20)], truth, texts)
    assert (recall, precision) == (1, 1) and counts["cleval_characters"] == 5
    # a region round a text that counts does not take the text's detection out
    counts, recall, _ = scored([WORD], [WORD, box(-20, -20, 100, 60)], texts)
    assert recall == 1


@pytest.mark.parametrize("candidates, truth, texts", [
    ([], [], []), ([], [WORD], ["total"]), ([WORD], [], []), ([WORD], [WORD], ["###"]), ([], [WORD], ["###"]),
    ([np.float32([[0, 0], [9, 9], [9, 0], [0, 9]])], [np.float32([[1, 1]] * 4)], [""])])
def test_nothing_here_or_there(candidates, truth, texts):
    counts, recall, precision = scored(candidates, truth, texts)
    assert recall == precision == 0 and all(value >= 0 for value in counts.values())
    page = cleval_scores([counts])["cleval_page_hmean"]
    assert page == (1 if not counts["cleval_characters"] and not counts["cleval_predicted"] else 0)


def test_pages_are_summed_and_averaged():
    whole = cleval_counts([WORD], [WORD], ["total"], [False])
    missed = cleval_counts([], [box(0, 0, 50)] * 3, ["total"] * 3, [False] * 3)
    scores = cleval_scores([whole, missed])
    assert scores["cleval_recall"] == pytest.approx(5 / 20) and scores["cleval_precision"] == 1
    assert scores["cleval_page_hmean"] == pytest.approx(0.5)
    assert cleval_scores([])["cleval_hmean"] == 0
