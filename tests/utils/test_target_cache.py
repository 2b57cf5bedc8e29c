"""The target cache: the same arrays, keys that never meet, damage, bounds, many workers, and switching itself off."""

import multiprocessing
import os
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from utils import target_cache
from utils.errors import DataError
from utils.target_cache import HITS, MISSES, SAVED, SPENT, Store, TargetCache, checksum

KEY = "ab" + "0" * 62
ARRAYS = {"image": np.arange(60, dtype=np.uint8).reshape(4, 5, 3), "map": np.linspace(0, 1, 7, dtype=np.float32),
          "none": np.zeros((0, 3), np.float32)}


def same(a, b):
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype and a[k].shape == b[k].shape
                                      for k in a)


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "cache", 10**6)


@pytest.fixture
def cache(store, monkeypatch):
    """One that may spend what it likes."""
    monkeypatch.setattr(target_cache, "ALLOWANCE", 1e9)
    cache = TargetCache(store, 0)
    cache._row()
    cache.since -= 1
    return cache


def source(tmp_path, content=b"page", name="a.png"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


def slow(value=1, seconds=0.003):
    def compute():
        time.sleep(seconds)
        return {"x": np.full(4, value)}
    return compute


def test_an_entry_comes_back_as_it_was_and_can_be_written_to(store):
    assert store.read(KEY) is None and store.write(KEY, ARRAYS, 0.25)
    found, seconds = store.read(KEY)
    assert same(found, ARRAYS) and seconds == 0.25
    found["image"][0] = 0
    assert not list(store.folder.glob("??/*.tmp"))


@settings(max_examples=25, deadline=None)
@given(array=hnp.arrays(st.sampled_from([np.uint8, np.float32, np.int64]), hnp.array_shapes(max_dims=3, max_side=6)),
       place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_every_bit_counts(array, place, bit):
    damaged = array.copy().reshape(-1).view(np.uint8)
    damaged[place % len(damaged)] ^= 1 << bit
    assert checksum(damaged) != checksum(array)


@pytest.mark.parametrize("damage", [lambda d: d[:-1], lambda d: d[:3], lambda d: b"", lambda d: d + b"x",
                                    lambda d: d[:-20] + bytes([d[-20] ^ 1]) + d[-19:], lambda d: b"\xff" * len(d),
                                    lambda d: d.replace(b"uint8", b"object", 1), lambda d: d.replace(b"ab0", b"ab1", 1)])
def test_damaged_entries_are_removed_and_computed_again(store, damage):
    store.write(KEY, ARRAYS, 0.1)
    path = store.path(KEY)
    path.write_bytes(damage(path.read_bytes()))
    assert store.read(KEY) is None and not path.exists()
    assert store.write(KEY, ARRAYS, 0.1) and same(store.read(KEY)[0], ARRAYS)


def test_hits_and_what_makes_another_key(cache, tmp_path):
    page = source(tmp_path)
    for _ in range(3):
        assert cache.get(page, lambda: b"a", slow(1))["x"][0] == 1
    total = cache.counts.sum(0)
    assert (total[HITS], total[MISSES]) == (2, 1) and total[SAVED] > 0 and total[SPENT] > 0
    assert cache.get(page, lambda: b"b", slow(2))["x"][0] == 2  # other parameters
    page.write_bytes(b"drawn anew")
    assert cache.get(page, lambda: b"a", slow(3))["x"][0] == 3  # other content under the same name
    again = source(tmp_path, b"drawn anew", "b.png")
    assert cache.get(again, lambda: b"a", slow(4))["x"][0] == 3  # the same content elsewhere


def test_what_is_stored_is_packed_and_what_comes_back_is_not(cache, store, tmp_path):
    page = source(tmp_path)
    for _ in range(2):
        found = cache.get(page, lambda: b"", lambda: {"x": np.full(4, 0.5)}, lambda a: {"half": (a["x"] * 2).astype(np.uint8)},
                          lambda p: {"x": p["half"] / 2})
        assert list(found) == ["x"] and (found["x"] == 0.5).all()
    assert cache.counts[0, HITS] == 1
    (entry,) = store.folder.glob("??/*")
    assert store.read(entry.name)[0]["half"].dtype == np.uint8


@pytest.mark.parametrize("off", [True, False])
def test_where_it_may_not_spend_nothing_but_the_computing_is_called(off, store, tmp_path, monkeypatch):
    monkeypatch.setattr(target_cache, "ALLOWANCE", 0)
    cache = TargetCache(store, 0)
    cache.state[0] = float(off)

    def never(*_):
        raise AssertionError("called although there is nothing to spend")

    arrays = {"x": np.zeros(3)}
    assert cache.get(source(tmp_path), never, lambda: arrays, never, never) is arrays


def test_code_is_part_of_the_key(tmp_path):
    import types
    module = types.ModuleType("m")
    module.__file__ = str(source(tmp_path, b"x = 1", "m.py"))
    first = target_cache.digest_of_code([module], ["numpy"])
    source(tmp_path, b"x = 2", "m.py")
    assert target_cache.digest_of_code([module], ["numpy"]) != first


def test_the_limit_holds_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(target_cache, "ALLOWANCE", 1e9)
    store = Store(tmp_path / "c", 3000)
    cache = TargetCache(store, 0)
    cache._row()
    cache.since -= 1
    for number in range(40):
        cache.get(source(tmp_path, bytes([number])), lambda: b"", slow(number, 0))
    assert 0 < sum(p.stat().st_size for p in store.folder.glob("??/*")) <= 3000
    assert "full: --cache-limit" in cache.summary()


def test_tidying_forgets_the_old_and_what_is_over_the_limit(tmp_path):
    store, now = Store(tmp_path / "c", 10**6), time.time()
    keys = [f"{number:02x}" + "0" * 62 for number in range(6)]
    for age, key in enumerate(keys):
        store.write(key, {"x": np.zeros(1000, np.uint8)}, 0.1)
        os.utime(store.path(key), (now - age * 60,) * 2)
    os.utime(store.path(keys[5]), (now - 20 * 86400,) * 2)
    (store.path(keys[0]).parent / "left.tmp").write_bytes(b"x" * 500)
    os.utime(store.path(keys[0]).parent / "left.tmp", (now - 7200,) * 2)
    store.limit = 3 * store.path(keys[0]).stat().st_size
    store.tidy()
    assert [store.path(key).exists() for key in keys] == [True] * 3 + [False] * 3
    assert not list(store.folder.glob("??/*.tmp"))
    assert int(store.usage.read_text()) == store.limit


def fill(store, seed):
    rng = np.random.default_rng(seed)
    for number in rng.permutation(20):
        store.write(f"{number:02x}" + "1" * 62, {"x": np.full(500, number)}, 0.1)
        found = store.read(f"{int(rng.integers(20)):02x}" + "1" * 62)
        assert found is None or len(set(found[0]["x"])) == 1


def test_many_writers_leave_whole_entries_and_no_more_than_the_limit(tmp_path):
    store = Store(tmp_path / "c", 120_000)
    workers = [multiprocessing.get_context("fork").Process(target=fill, args=(store, seed)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 4
    files = list(store.folder.glob("??/*"))
    assert files and not any(path.suffix == ".tmp" for path in files)
    assert sum(path.stat().st_size for path in files) <= 120_000
    assert all(store.read(path.name) for path in files)


def test_it_lives_within_its_means(store, tmp_path):
    cache = TargetCache(store, 0)
    begun = time.perf_counter()
    for number in range(150):
        cache.get(source(tmp_path, str(number).encode()), lambda: b"", slow(number, 0.002))
    elapsed = time.perf_counter() - begun
    total = cache.counts.sum(0)
    assert total[MISSES] < 150 and total[SPENT] <= target_cache.ALLOWANCE * elapsed + 0.02


def test_off_where_reading_is_no_faster(cache, tmp_path):
    page = source(tmp_path)
    read = cache.store.read
    cache.get(page, lambda: b"", slow(1, 0))
    cache.store.read = lambda key: (read(key)[0], 1e-9)  # as if computing had taken no time
    for _ in range(target_cache.LEAST_HITS):
        cache.get(page, lambda: b"", slow(1, 0))
    cache.judge()
    assert "switched itself off, since reading takes as long" in cache.summary()
    looked = cache.counts.clone()
    assert cache.get(page, lambda: b"", slow(5))["x"][0] == 5 and (cache.counts == looked).all()


def test_off_where_nothing_is_asked_for_twice(cache, tmp_path):
    pages = [source(tmp_path, bytes([number]), f"{number}.png") for number in range(4)]
    for epoch in range(2):
        for page in pages:
            cache.get(page, lambda: str(epoch).encode(), slow())
        cache.judge()
    assert "nothing was asked for twice" in cache.summary()


@pytest.mark.parametrize("saved_by_a_hit, off", [(0.019, True), (0.021, False)])
def test_off_where_an_entry_takes_too_long_to_pay(saved_by_a_hit, off, cache):
    """20 entries of 0.1 s each: one that is read once an epoch has five epochs to save as much."""
    cache.counts[0, MISSES], cache.counts[0, SPENT] = 20, 2.0
    cache.counts[0, HITS], cache.counts[0, SAVED] = 30, 30 * saved_by_a_hit  # less in all than was spent, either way
    for _ in range(target_cache.PATIENCE_EPOCHS - 1):
        cache.judge()
    assert not cache.state[0]
    cache.judge()
    assert cache.state[0] == off and ("more than 5 epochs to save" in cache.summary()) == off


def test_a_full_disk_ends_the_cache_and_not_the_run(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(cache.store, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    assert cache.get(source(tmp_path), lambda: b"", slow(7))["x"][0] == 7
    cache.judge()
    assert "switched itself off" in cache.summary()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    with pytest.raises(DataError, match="leave out --cache-targets"):
        Store(source(tmp_path) / "below", 10)
