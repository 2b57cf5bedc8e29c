"""Grouping: hand cases from real faults, properties on random pages, and a slow obvious reference."""

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.grouping import (CONTAINED, FAR_LARGER, GIANT, METHODS, OVERLAP, close_pairs, connected_components,
                             group_detections)

NAMES = {0: "qr", 1: "signature", 2: "stamp"}


def mark(x1, y1, x2, y2, confidence=0.5, class_id=1, **more):
    return {"class_id": class_id, "class_name": NAMES[class_id], "confidence": confidence,
            "box": [x1, y1, x2, y2]} | more


def random_page(count, seed, width=1654, height=2339):
    rng = np.random.default_rng(seed)
    corner, size = rng.uniform((0, 0), (width, height), (count, 2)), rng.uniform((20, 20), (220, 130), (count, 2))
    boxes = np.hstack([corner, corner + size]).tolist()
    return [mark(*box, confidence=float(rng.uniform(0.15, 1)), class_id=int(rng.integers(3)), id=place)
            for place, box in enumerate(boxes)]


def page_strategy():
    """Few distinct coordinates and confidences, so that ties, nesting and identical boxes are common."""
    number = st.integers(0, 40).map(lambda v: v * 15)
    box = st.tuples(number, number, st.integers(0, 12).map(lambda v: v * 20), st.integers(0, 12).map(lambda v: v * 20))
    one = st.tuples(box, st.sampled_from([0.2, 0.5, 0.5001, 0.9]), st.integers(0, 2))
    return st.lists(one, max_size=14).map(lambda page: [
        mark(x, y, x + w, y + h, confidence, class_id) for (x, y, w, h), confidence, class_id in page])


def without_ids(marks):
    return [{key: value for key, value in m.items() if key != "member_ids"} for m in marks]


# a slow reference ----------------------------------------------------------------------------------------------------


def area(b):
    return (b[2] - b[0]) * (b[3] - b[1])


def shared(a, b):
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0)


def union(boxes):
    return [min(b[0] for b in boxes), min(b[1] for b in boxes), max(b[2] for b in boxes), max(b[3] for b in boxes)]


def slow_components(nodes, edges):
    left, parts = set(nodes), []
    while left:
        part, border = set(), {left.pop()}
        while border:
            part |= border
            border = {b for e in edges for a, b in (e, e[::-1]) if a in border} - part
        left -= part
        parts.append(sorted(part))
    return parts


def slow_group(marks, dist=50.0, iou=0.2):
    """The same definition, one pair at a time. Returns a set of (class, box, confidence, count)."""
    groups = sorted((m["class_id"], tuple(map(float, m["box"])), m["confidence"], 1) for m in marks)
    while True:
        def order(g):
            return -g[2], -area(g[1]), g[1][3], g[1][2], g[1][1], g[1][0]

        ranked = sorted(groups, key=order)
        kept = [g for place, g in enumerate(ranked)
                if not any(o[0] == g[0] and shared(o[1], g[1]) > CONTAINED * area(g[1]) for o in ranked[:place])]
        edges, near_only = [], []
        for x, a in enumerate(kept):
            for y, b in list(enumerate(kept))[x + 1:]:
                if a[0] != b[0]:
                    continue
                small, large = (a, b) if area(a[1]) <= area(b[1]) else (b, a)
                if area(large[1]) > GIANT * area(small[1]) and large[2] < small[2]:
                    continue
                inter = shared(a[1], b[1])
                if inter > iou * (area(a[1]) + area(b[1]) - inter) or inter > OVERLAP * area(small[1]):
                    edges.append((x, y))
                elif np.hypot(a[1][0] + a[1][2] - b[1][0] - b[1][2], a[1][1] + a[1][3] - b[1][1] - b[1][3]) / 2 < dist:
                    near_only.append((x, y))
        for part in slow_components(range(len(kept)), edges + near_only):
            boxes = [kept[n][1] for n in part]
            whole = union(boxes)
            sides = [max(b[2] - b[0], b[3] - b[1]) for b in (*boxes, whole)]
            if area(whole) > FAR_LARGER * sum(map(area, boxes)) or sides[-1] > max(sides[:-1]) + 2 * dist:
                near_only = [e for e in near_only if e[0] not in part]
        parts = slow_components(range(len(kept)), edges + near_only)
        joined = sorted((kept[p[0]][0], tuple(union([kept[n][1] for n in p])), max(kept[n][2] for n in p),
                         sum(kept[n][3] for n in p)) for p in parts)
        if len(joined) == len(groups):
            return joined
        groups = joined


def as_tuples(marks):
    return sorted((m["class_id"], tuple(m["box"]), m["confidence"], m["merged_count"]) for m in marks)


# properties ----------------------------------------------------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(page_strategy(), st.sampled_from([0, 20, 50, 130]), st.sampled_from([0.0, 0.2, 0.6]))
def test_equals_the_slow_reference(page, dist, iou):
    assert as_tuples(group_detections(page, dist, iou)) == slow_group(page, dist, iou)


@pytest.mark.parametrize("count", [30, 60, 120])
def test_equals_the_slow_reference_on_pages(count):
    page = random_page(count, seed=count)
    assert as_tuples(group_detections(page)) == slow_group(page)


@settings(max_examples=100, deadline=None)
@given(page_strategy(), st.randoms(use_true_random=False))
def test_order_does_not_matter(page, rng):
    shuffled = page.copy()
    rng.shuffle(shuffled)
    assert without_ids(group_detections(shuffled)) == without_ids(group_detections(page))


def test_order_does_not_matter_for_the_ids_either():
    page = random_page(80, seed=5, width=600, height=600)
    expected = group_detections(page)
    for seed in range(5):
        assert group_detections(random.Random(seed).sample(page, len(page))) == expected


@settings(max_examples=100, deadline=None)
@given(page_strategy(), st.sampled_from(["components", "none"]))
def test_grouping_twice_is_grouping_once(page, method):
    once = group_detections(page, method=method)
    assert group_detections(once, method=method) == once


@settings(max_examples=100, deadline=None)
@given(page_strategy(), st.sampled_from(METHODS))
def test_classes_are_never_merged(page, method):
    whole = group_detections(page, method=method)
    apart = [m for class_id in NAMES for m in group_detections([d for d in page if d["class_id"] == class_id],
                                                               method=method)]
    assert as_tuples(whole) == as_tuples(apart)
    for m in whole:
        assert {page[place]["class_id"] for place in m["member_ids"]} == {m["class_id"]}


@settings(max_examples=100, deadline=None)
@given(page_strategy())
def test_a_giant_box_of_low_confidence_swallows_nothing(page):
    giant = mark(-2000, -2000, 4000, 4000, confidence=0.16)
    alone = group_detections(page)
    grouped = group_detections(page + [giant])
    assert [m["box"] for m in grouped if m["confidence"] == 0.16] == [[-2000, -2000, 4000, 4000]]
    assert as_tuples(m for m in grouped if m["confidence"] > 0.16) == as_tuples(alone)


@settings(max_examples=60, deadline=None)
@given(page_strategy())
def test_a_group_is_its_members(page):
    for m in group_detections(page):
        members = [page[place] for place in m["member_ids"]]
        assert m["merged_count"] == len(members)
        assert m["confidence"] == max(d["confidence"] for d in members)
        assert m["box"] == union([d["box"] for d in members])


# hand cases ----------------------------------------------------------------------------------------------------------


def test_no_detections():
    assert [group_detections([], method=method) for method in METHODS] == [[], [], []]


def test_fragments_of_one_signature_join():
    page = [mark(100, 100, 200, 150, 0.6), mark(150, 105, 260, 155, 0.9), mark(190, 100, 300, 150, 0.4)]
    (signature,) = group_detections(page)
    assert signature == mark(100, 100, 300, 155, 0.9, merged_count=3, member_ids=[0, 1, 2])


def test_a_duplicate_inside_a_better_box_is_dropped_and_not_a_member():
    (signature,) = group_detections([mark(100, 100, 200, 150, 0.6), mark(90, 90, 260, 190, 0.9)])
    assert (signature["box"], signature["merged_count"], signature["member_ids"]) == ([90, 90, 260, 190], 1, [1])


def test_identical_boxes_become_one():
    assert len(group_detections([mark(0, 0, 50, 50)] * 5)) == 1


def test_a_page_wide_weak_box_leaves_a_signature_alone():
    page = [mark(0, 0, 1654, 2339, 0.16), mark(700, 1100, 950, 1200, 0.9)]
    assert [m["box"] for m in group_detections(page)] == [[700, 1100, 950, 1200], [0, 0, 1654, 2339]]
    assert len(group_detections(page, method="seed")) == 1  # the fault this rule is for


@pytest.mark.parametrize("width", [10, 30, 48])
def test_a_chain_of_close_boxes_is_not_one_mark(width):
    page = [mark(49 * n, 0, 49 * n + width, 30) for n in range(20)]
    assert len(group_detections(page)) == 20
    assert len(group_detections(page, method="seed")) == 1


def test_distance_is_scaled_by_the_resolution_of_the_page():
    page = [mark(0, 0, 60, 60), mark(70, 0, 130, 60)]  # centres 70 px apart
    assert len(group_detections(page)) == 2
    assert len(group_detections(page, dpi=200)) == 2
    assert len(group_detections(page, dpi=300)) == 1  # 75 px there are the same length on paper
    assert len(group_detections([mark(*(v / 2 for v in m["box"])) for m in page], dpi=100)) == 2


def test_input_is_left_as_it_was_and_other_fields_are_kept():
    page = [mark(0, 0, 60, 60, 0.3, payload="weak"), mark(30, 0, 90, 60, 0.8, payload="strong", id="b")]
    before = [dict(m) for m in page]
    (joined,) = group_detections(page)
    assert page == before
    assert joined["payload"] == "strong" and joined["member_ids"] == [0, "b"] and "id" not in joined


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="components, seed, none"):
        group_detections([], method="greedy")


def test_none_keeps_every_detection():
    page = random_page(40, seed=3, width=300, height=300)
    assert sorted(m["member_ids"][0] for m in group_detections(page, method="none")) == list(range(40))


def test_seed_depends_on_the_confidences_as_it_always_did():
    """A and C are apart, B is close to both: one sweep starting at A finds B and then C, but only if B comes first."""
    a, b, c = (0, 0, 40, 40), (45, 0, 85, 40), (90, 0, 130, 40)
    assert len(group_detections([mark(*a, 0.9), mark(*b, 0.8), mark(*c, 0.7)], method="seed")) == 1
    assert len(group_detections([mark(*a, 0.9), mark(*b, 0.7), mark(*c, 0.8)], method="seed")) == 2
    assert len(group_detections([mark(*a, 0.9), mark(*b, 0.7), mark(*c, 0.8)])) == 1


def test_seed_keeps_whole_pixels_the_order_of_classes_and_drops_duplicates():
    page = [mark(10.7, 0, 40.9, 30, 0.5, class_id=2), mark(300, 0, 340, 30, 0.4, class_id=0),
            mark(12, 2, 36, 28, 0.5, class_id=2)]  # as confident and smaller: a duplicate
    assert without_ids(group_detections(page, method="seed")) == [
        mark(10, 0, 40, 30, 0.5, class_id=2, merged_count=1), mark(300, 0, 340, 30, 0.4, class_id=0, merged_count=1)]


# the parts -----------------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(page_strategy(), st.sampled_from([0, 50, 400]))
def test_close_pairs_finds_every_pair_once(page, dist):
    if not page:
        return
    boxes, classes = np.array([m["box"] for m in page], float), np.array([m["class_id"] for m in page])
    i, j = close_pairs(boxes, classes, dist)
    found = [tuple(sorted(pair)) for pair in zip(i.tolist(), j.tolist())]
    assert len(found) == len(set(found))
    assert all(classes[a] == classes[b] for a, b in found)
    for a in range(len(page)):
        for b in range(a):
            offset = (boxes[a, :2] + boxes[a, 2:] - boxes[b, :2] - boxes[b, 2:]) / 2
            if classes[a] == classes[b] and (shared(boxes[a], boxes[b]) > 0 or np.hypot(*offset) < dist):
                assert (b, a) in found


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 20), st.lists(st.tuples(st.integers(0, 19), st.integers(0, 19)), max_size=30))
def test_connected_components(count, edges):
    edges = [(a % count, b % count) for a, b in edges]
    i, j = (np.array([e[side] for e in edges], int) for side in (0, 1))
    expected = np.empty(count, int)
    for part in slow_components(range(count), edges):
        expected[part] = part[0]
    assert connected_components(count, i, j).tolist() == expected.tolist()


def best_time(page, repeats):
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        group_detections(page)
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_full_page_takes_milliseconds():
    """Aims are 3 and 150 ms on a quiet core; the bounds leave room for a busy one."""
    assert best_time(random_page(300, seed=0), repeats=10) < 0.03
    assert best_time(random_page(10_000, seed=0, width=9924, height=14034), repeats=2) < 1.5
