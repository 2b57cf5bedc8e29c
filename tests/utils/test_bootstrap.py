"""The paired bootstrap against a closed formula, and what it says where there is little to say."""

import numpy as np
import pytest
from statistics import NormalDist

from utils.bootstrap import LEAST_IMAGES, Difference, draws, intervals, paired_differences, unpaired_differences


def mean_of(values):
    return lambda rows: {"mean": float(np.asarray(values)[rows].mean())}


def test_interval_of_a_mean_is_that_of_its_standard_error():
    rng = np.random.default_rng(3)
    a = rng.normal(0, 1, 200)
    b = a + rng.normal(0.1, 0.2, 200)
    found = paired_differences(mean_of(a), mean_of(b), [str(i) for i in range(200)], resamples=4000)["mean"]
    error = (b - a).std() / np.sqrt(200)
    assert found.value == pytest.approx((b - a).mean())
    assert found.error == pytest.approx(error, rel=0.1)
    z = NormalDist().inv_cdf(0.975)
    assert (found.low, found.high) == (pytest.approx((b - a).mean() - z * error, abs=0.3 * error),
                                       pytest.approx((b - a).mean() + z * error, abs=0.3 * error))
    unpaired = unpaired_differences(mean_of(a), mean_of(b), [str(i) for i in range(200)], [str(i) for i in range(200)],
                                    resamples=1000)["mean"]
    assert unpaired.error > 3 * found.error  # pairs cancel what is hard for both


def test_interval_of_one_runs_mean_is_that_of_its_standard_error():
    values = np.random.default_rng(4).normal(0.8, 0.1, 100)
    value, low, high = intervals(mean_of(values), [str(i) for i in range(100)], resamples=4000)["mean"]
    reach = NormalDist().inv_cdf(0.975) * values.std() / 10
    assert value == pytest.approx(values.mean())
    assert (low, high) == (pytest.approx(value - reach, abs=0.1 * reach), pytest.approx(value + reach, abs=0.1 * reach))
    one = intervals(mean_of(values[:3]), ["a", "a", "a"], resamples=10)["mean"]  # one image: nothing to draw from
    assert one == (pytest.approx(values[:3].mean()),) * 3
    with pytest.raises(ValueError, match="no rows"):
        intervals(mean_of(values), [])


def test_the_seed_repeats_and_rows_of_an_image_are_drawn_together():
    images = ["a", "a", "b", "c", "c", "c"]
    first, again, other = (list(draws(images, 20, seed)) for seed in (0, 0, 1))
    assert all(np.array_equal(x, y) for x, y in zip(first, again))
    assert any(not np.array_equal(x, y) for x, y in zip(first, other))
    for rows in first:
        times = np.bincount(rows, minlength=6)
        assert times[0] == times[1] and times[3] == times[4] == times[5]
        assert times[0] + times[2] + times[3] == 3


def test_few_images_never_tell_however_clear():
    few = [str(i) for i in range(LEAST_IMAGES - 1)]
    found = paired_differences(mean_of(np.zeros(5)), mean_of(np.ones(5)), few, resamples=50)["mean"]
    assert found.low == found.high == 1 and not found.clear
    enough = few + ["more"]
    assert paired_differences(mean_of(np.zeros(6)), mean_of(np.ones(6)), enough, resamples=50)["mean"].clear


def test_images_needed_follow_the_formula_and_show_the_difference():
    found = Difference(0.5, 0.51, -0.01, 0.03, 0.01, 100, 0.95)
    z = NormalDist()
    expected = 100 * ((z.inv_cdf(0.975) + z.inv_cdf(0.8)) * 0.01 / 0.01) ** 2
    assert found.images_needed() == pytest.approx(expected, rel=0.01)
    assert found.images_needed(0.02) == pytest.approx(expected / 4, rel=0.02)
    assert Difference(0.5, 0.5, 0, 0, 0.0, 100, 0.95).images_needed() is None
    # so many images, drawn from the same differences, do show it about four times in five
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(100):
        values = rng.normal(0.1, 1.0, round(((z.inv_cdf(0.975) + z.inv_cdf(0.8)) / 0.1) ** 2))
        shown += values.mean() - 1.96 * values.std() / np.sqrt(len(values)) > 0
    assert 65 <= shown <= 92


def test_no_rows_are_refused():
    with pytest.raises(ValueError):
        paired_differences(mean_of([]), mean_of([]), [])
    with pytest.raises(ValueError):
        unpaired_differences(mean_of([]), mean_of([1]), [], ["a"])
