"""Weighted boxes fusion, against hand-computed cases and properties."""

import numpy as np
import pytest

from models.box_fusion import fuse_boxes


def rows(*boxes):
    return np.array(boxes, np.float64).reshape(-1, 6)


def test_the_mean_weighted_by_confidence_and_the_sum_over_looks():
    fused = fuse_boxes([rows([0, 0, 100, 100, 0.9, 1]), rows([10, 0, 110, 100, 0.3, 1]), rows()])
    np.testing.assert_allclose(fused, [[2.5, 0, 102.5, 100, 0.4, 1]])


def test_two_of_one_look_and_two_classes_stay_apart():
    look = rows([0, 0, 100, 100, 0.8, 0], [5, 0, 105, 100, 0.6, 0], [0, 0, 100, 100, 0.4, 2])
    np.testing.assert_allclose(fuse_boxes([look]), look)
    fused = fuse_boxes([look, rows([4, 0, 104, 100, 0.2, 0])])  # nearer to the second
    np.testing.assert_allclose(fused[:, 4:], [[0.4, 0], [0.4, 0], [0.2, 2]])
    np.testing.assert_allclose(sorted(fused[:2, 0]), [0, 4.75])


def test_least_overlap():
    pair = [rows([0, 0, 10, 10, 0.5, 0]), rows([0, 0, 10, 5, 0.5, 0])]
    assert len(fuse_boxes(pair)) == 2 and len(fuse_boxes(pair, 0.49)) == 1


def test_nothing():
    assert fuse_boxes([rows(), rows()]).shape == fuse_boxes([rows()]).shape == (0, 6)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_equal_looks_change_nothing(count):
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 900, (40, 2))
    look = np.column_stack([corner, corner + rng.uniform(5, 200, (40, 2)), rng.uniform(0.01, 1, 40), rng.integers(0, 3, 40)])
    look = look[np.argsort(-look[:, 4])]
    fused = fuse_boxes([look] * count)
    np.testing.assert_allclose(fused, look, atol=1e-9)


def test_the_order_of_looks_does_not_matter():
    rng = np.random.default_rng(0)
    base = np.stack(np.divmod(np.arange(20), 5), 1) * 100.0
    looks = []
    for _ in range(3):
        corner = base + rng.normal(0, 2, base.shape)
        looks.append(np.column_stack([corner, corner + 60 + rng.normal(0, 2, base.shape), rng.uniform(0.1, 1, 20),
                                      np.arange(20) % 2]))
    np.testing.assert_allclose(fuse_boxes(looks), fuse_boxes(looks[::-1]), atol=1e-9)
    assert len(fuse_boxes(looks)) == 20
