"""The cached detection samples are those that are computed, bit for bit, for every kind of loader."""

import cv2
import numpy as np
import pytest
import torch

from datasets import detection_cache
from datasets.augment import DetectionAugmentation, WholePage
from datasets.db_targets import make_targets
from datasets.detection import DetectionDataset, Page
from utils import target_cache
from utils.dataloading import EpochBatches, make_loader
from utils.geometry import PageSize
from utils.target_cache import HITS, MISSES, Store, TargetCache

KINDS = {"overfit": (WholePage(64, 96), True), "augmented": (DetectionAugmentation(64, 64), False),
         "evaluation": (None, False), "validation crops": (DetectionAugmentation(64, 64, (1, 1), 0, 0, 0, 0), True)}


@pytest.fixture
def pages(tmp_path):
    rng, found = np.random.default_rng(0), []
    for number in range(4):
        path = tmp_path / f"{number}.png"
        cv2.imwrite(str(path), rng.integers(0, 255, (90 + number, 120, 3), np.uint8))
        quads = [np.float32([[10, 10], [80, 12], [80, 40], [10, 38]]), np.float32([[5, 50], [60, 50], [60, 80], [5, 80]])]
        found.append(Page(path, 90 + number, 120, quads, ["ab", "###"]))
    return found


@pytest.fixture
def generous(monkeypatch):
    monkeypatch.setattr(target_cache, "ALLOWANCE", 1e9)


def equal(a, b):
    return a.keys() == b.keys() and all(
        (torch.equal(a[k], b[k]) if isinstance(a[k], torch.Tensor) else np.array_equal(a[k], b[k]))
        and getattr(a[k], "dtype", None) == getattr(b[k], "dtype", None) for k in a if k != "page")


@pytest.mark.parametrize("kind", KINDS)
def test_a_cached_sample_is_the_computed_one(kind, pages, tmp_path, generous):
    augment, fixed = KINDS[kind]
    plain, cached = (DetectionDataset(pages, PageSize(128), 3, augment, fixed=fixed) for _ in range(2))
    targets = TargetCache(Store(tmp_path / "cache", 10**8), 0)
    cached.use_cache(targets)
    for _ in range(3):
        for key in [(0, i) for i in range(4)]:
            assert equal(plain[key], cached[key])
    total = targets.counts.sum(0)
    assert total[HITS] >= 7 and total[HITS] + total[MISSES] <= 12


def test_what_decides_on_a_sample_is_in_its_key(pages, tmp_path, generous):
    store = Store(tmp_path / "cache", 10**8)

    def ask(key=(0, 0), side=128, seed=3, augment=DetectionAugmentation(64, 64)):
        dataset = DetectionDataset(pages, PageSize(side), seed, augment, fixed=True)
        dataset.use_cache(TargetCache(store, 0))
        dataset.cache.targets._row()
        dataset.cache.targets.since -= 1
        got = dataset[key]
        assert equal(got, DetectionDataset(pages, PageSize(side), seed, augment)[(0, key[1])])
        return dataset.cache.targets.counts[0, HITS]

    assert ask() == 0 and ask() == 1
    assert ask(key=(1, 0)) == 1  # what is fixed is that of epoch 0
    assert [ask(key=(0, 1)), ask(side=160), ask(seed=4), ask(augment=DetectionAugmentation(64, 96))] == [0] * 4
    pages[0].polygons[0] += 1
    assert ask() == 0
    pages[0].texts[0] = "###"
    assert ask() == 0


def test_workers_share_the_store_and_their_counts_arrive(pages, tmp_path, generous):
    dataset = DetectionDataset(pages, PageSize(128), 3, WholePage(64, 96), fixed=True)
    batches, targets = EpochBatches(4, 2, 0), TargetCache(Store(tmp_path / "cache", 10**8), 2)
    dataset.use_cache(targets)
    loader = make_loader(dataset, batches, 2, torch.device("cpu"))
    plain = {str(page.path): DetectionDataset(pages, PageSize(128), 3, WholePage(64, 96))[(0, i)]
             for i, page in enumerate(pages)}
    for epoch in range(4):
        batches.set_position(epoch)
        for batch in loader:
            for number, file in enumerate(batch["file"]):
                assert torch.equal(batch["image"][number], plain[file]["image"])
    assert targets.counts[0].sum() == 0 and targets.counts[1:, MISSES].sum() >= 1
    assert targets.counts[1:, HITS].sum() >= 4  # over epochs, as --overfit asks


def test_packed_maps_come_back_bit_for_bit(pages):
    maps = make_targets(pages[0].polygons, pages[0].ignored, 96, 128)
    packed = detection_cache.pack_targets(maps)
    again = detection_cache.unpack_targets(packed)
    assert maps.keys() == again.keys() and all(np.array_equal(maps[k], again[k]) and again[k].dtype == np.float32
                                               for k in maps)
    assert sum(array.nbytes for array in packed.values()) * 16 == sum(array.nbytes for array in maps.values()) * 7


def test_targets_repeat_wherever_they_lie_in_memory(pages):
    first, kept = make_targets(pages[0].polygons, pages[0].ignored, 96, 128), []
    for size in range(1, 12):
        kept.append(np.empty(1000 + 7 * size))
        again = make_targets(pages[0].polygons, pages[0].ignored, 96, 128)
        assert all(np.array_equal(first[name], again[name]) for name in first)
