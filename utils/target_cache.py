"""--cache-targets: what is computed anew in every epoch although it comes out the same, kept on the disk.

An entry is named by the SHA-256 of everything that decides what it holds: the content of the source file, the
parameters, and the code and libraries that compute it, so that no entry is ever taken for another. Entries are written
beside and renamed, by any number of workers and runs; what a kill or a disk has damaged is found by its sum and computed
again.

The cache lives within its means: beside asking for what it has stored itself, a process does no more than fits into 0.3 %
of the time that has gone by, plus what it has saved so far. It therefore fills over some epochs. Where reading turns out
no faster than computing, or nothing is asked for twice, it switches itself off.
"""

import fcntl
import hashlib
import json
import os
import tempfile
import time
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Callable, Iterable

import numpy as np
import torch
from torch.utils.data import get_worker_info

from utils.args import SWITCH, positive_float
from utils.errors import DataError

Arrays = dict[str, np.ndarray]

VERSION = b"docmarks-targets-1"
DEFAULT_LIMIT_GB = 4.0
# Of the time that has gone by. What is stored also pushes other things out of the processor's caches, which this account
# does not see: by benchmarks.cache 0.5 % here was up to 1 % in all.
ALLOWANCE = 0.003
LEAST_HITS = 20  # before reading is judged
WORTH_IT = 0.75  # reading must take less than this share of computing
LEAST_REPEATS = 3  # look-ups that fail although the file was stored, with none that does not, before it gives up
FIRST_GUESS = 0.02  # seconds of a look-up that ends in storing, until they are measured
PATIENCE_EPOCHS = 5  # within which an entry, read once in each, must have saved what it cost
FORGOTTEN_DAYS, ABANDONED_SECONDS = 14, 3600
LONGEST_HEADER = 1 << 16
HITS, MISSES, REPEATS, STORED, SAVED, SPENT, HIT_SECONDS, HIT_COMPUTE, COLUMNS = range(9)


def default_folder() -> Path:
    """$XDG_CACHE_HOME/docmarks/targets, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docmarks" / "targets"


def digest_of_code(modules: Iterable[ModuleType], packages: Iterable[str]) -> bytes:
    """Changes with the source of the modules and the versions of the packages."""
    digest = hashlib.sha256()
    for module in modules:
        digest.update(Path(module.__file__).read_bytes() + b"\0")
    for package in packages:
        digest.update(f"{package} {metadata.version(package)}\0".encode())
    return digest.digest()


def add_cache_flags(group) -> None:
    group.add_argument("--cache-targets", action=SWITCH,
                       help="keep what is the same in every epoch in ~/.cache/docmarks/targets: decoded pages, and the "
                            "targets of samples that are not augmented (--overfit, validation)")
    group.add_argument("--cache-limit", type=positive_float, metavar="GB",
                       help=f"disk space for --cache-targets (default: {DEFAULT_LIMIT_GB:g})")


def attach_caches(args, loaders: dict[str, object], rank: int) -> dict[str, "TargetCache"]:
    """Give the dataset of each loader a cache where --cache-targets asks for it: {name of the loader: cache}.

    Must be called before the loaders' workers start. Raises DataError where the folder cannot be written.
    """
    if not args.cache_targets:
        return {}
    store = Store(default_folder(), int((args.cache_limit or DEFAULT_LIMIT_GB) * 1e9))
    if rank == 0:
        store.tidy()
    caches = {}
    for name, loader in loaders.items():
        if loader is not None:
            caches[name] = TargetCache(store, loader.num_workers)
            loader.dataset.use_cache(caches[name])
    return caches


def cache_facts(caches: dict[str, "TargetCache"]) -> dict[str, str]:
    """The line for the card, to be asked for after each epoch; empty without --cache-targets."""
    lines = []
    for name, cache in caches.items():
        cache.judge()
        lines.append(f"{name}: {cache.summary()}")
    return {"Target cache": "; ".join(lines)} if lines else {}


class Store:
    """The folder: entries by key, and how many bytes they take together, which stays below `limit`."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit, self.usage = folder, limit, folder / "usage"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.usage.touch()
        except OSError as error:
            raise DataError(f"{folder}: cannot be written ({error.strerror}); leave out --cache-targets, or set "
                            "XDG_CACHE_HOME to a folder with room") from None

    def path(self, key: str) -> Path:
        return self.folder / key[:2] / key

    def tidy(self) -> None:
        """Forget entries that no run asked for lately and, the least recently used first, those over the limit; count
        the rest anew."""
        now, kept = time.time(), []
        for path in self.folder.glob("??/*"):
            try:
                status = path.stat()
                age = now - status.st_mtime
                if age > (ABANDONED_SECONDS if path.suffix == ".tmp" else FORGOTTEN_DAYS * 86400):
                    path.unlink()
                else:
                    kept.append((status.st_mtime, status.st_size, path))
            except FileNotFoundError:  # another run is tidying too
                pass
        total = sum(size for _, size, _ in kept)
        for _, size, path in sorted(kept):
            if total <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._count(lambda used: total)

    def reserve(self, size: int) -> bool:
        """Whether there is room for so many bytes more, which are then counted."""
        return self._count(lambda used: used + size if used + size <= self.limit else None)

    def _count(self, change: Callable[[int], int | None]) -> bool:
        with open(self.usage, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            value = change(int(file.read() or b"0"))
            if value is not None:
                file.seek(0)
                file.write(b"%020d" % value)
            return value is not None

    def read(self, key: str) -> tuple[Arrays, float] | None:
        """(arrays, seconds that computing them took), or None where there is no whole entry."""
        path = self.path(key)
        try:
            with open(path, "rb") as file:
                found = _unpack(file, key)
            os.utime(path)
            return found
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):  # cut short or damaged, in any way that JSON and numpy know
            path.unlink(missing_ok=True)
            return None

    def write(self, key: str, arrays: Arrays, seconds: float) -> bool:
        """Whether there was room. Raises OSError as the disk does."""
        arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        head = _header(key, arrays, seconds)
        if not self.reserve(len(head) + sum(array.nbytes for array in arrays.values())):
            return False
        path = self.path(key)
        path.parent.mkdir(exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
        try:
            # No fsync: what a power cut leaves is found by its sum.
            with open(handle, "wb") as file:
                file.write(head)
                for array in arrays.values():
                    file.write(_bytes_of(array))
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return True


def _header(key: str, arrays: Arrays, seconds: float) -> bytes:
    facts = [[name, str(array.dtype), array.shape, checksum(array)] for name, array in arrays.items()]
    text = json.dumps({"key": key, "seconds": seconds, "arrays": facts}).encode()
    return len(text).to_bytes(4, "little") + text


def _unpack(file, key: str) -> tuple[Arrays, float]:
    """Raises ValueError, KeyError or TypeError for what is no whole entry of this key."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(4), "little")
    if length > LONGEST_HEADER:
        raise ValueError("no header")
    head = json.loads(file.read(length))
    facts = [(name, np.dtype(dtype), tuple(shape), total) for name, dtype, shape, total in head["arrays"]]
    if head["key"] != key or size != 4 + length + sum(int(np.prod(s)) * d.itemsize for _, d, s, _ in facts):
        raise ValueError("another key, or cut short")
    arrays = {}
    for name, dtype, shape, total in facts:
        arrays[name] = np.empty(shape, dtype)
        file.readinto(_bytes_of(arrays[name]))
        if checksum(arrays[name]) != total:
            raise ValueError("damaged")
    return arrays, float(head["seconds"])


def _bytes_of(array: np.ndarray) -> np.ndarray:
    return array.reshape(-1).view(np.uint8)


def checksum(array: np.ndarray) -> int:
    """The sum of its 64-bit words, which is read as fast as memory is; a CRC would take as long as decoding a JPEG."""
    data = _bytes_of(np.ascontiguousarray(array))
    whole = len(data) // 8 * 8
    words = int(np.add.reduce(data[:whole].view(np.uint64), dtype=np.uint64))
    return (words + int.from_bytes(data[whole:].tobytes(), "little")) % 2**64


def _as_it_is(arrays: Arrays) -> Arrays:
    return arrays


class TargetCache:
    """What one dataset asks the store through, in the main process and in its workers.

    Counts of all of them lie in shared memory, a row for each, so that the main process can judge.
    """

    def __init__(self, store: Store, num_workers: int):
        self.store = store
        self.counts = torch.zeros(num_workers + 1, COLUMNS, dtype=torch.float64).share_memory_()
        self.state = torch.zeros(2).share_memory_()  # off, full
        self.reason, self.epochs = "", 0
        self.process: int | None = None
        self.usual_cost = FIRST_GUESS
        self.contents: dict[tuple, bytes] = {}
        self.stored: set[tuple] = set()

    def get(self, source: Path, parameters: Callable[[], bytes], compute: Callable[[], Arrays],
            pack: Callable[[Arrays], Arrays] = _as_it_is, unpack: Callable[[Arrays], Arrays] = _as_it_is) -> Arrays:
        """compute(), or what it once returned for this content of `source` and these parameters.

        parameters() is everything else that decides on the result, code included; arrays: any numpy types but objects.
        pack gives what is stored of them, unpack takes it back. Nothing but compute is called where the cache is off or
        has nothing to spend, so that it then costs next to nothing.
        """
        if self.state[0]:
            return compute()
        row, begun = self._row(), time.perf_counter()
        status = source.stat()
        file = (str(source), status.st_size, status.st_mtime_ns)
        if file not in self.stored and row[SPENT] + self.usual_cost > row[SAVED] + ALLOWANCE * (begun - self.since):
            return compute()
        key = self._key(file, parameters())
        found = self.store.read(key)
        arrays = unpack(found[0]) if found else {}
        looked = time.perf_counter()
        if found:
            seconds = found[1]
            row[[HITS, SAVED, HIT_SECONDS, HIT_COMPUTE]] += (1, seconds - (looked - begun), looked - begun, seconds)
            if row[HITS] >= LEAST_HITS and row[HIT_SECONDS] > WORTH_IT * row[HIT_COMPUTE]:
                self.state[0] = 1
            return arrays
        arrays = compute()
        computed = time.perf_counter()
        row[[MISSES, REPEATS]] += (1, file in self.stored)
        if not self.state[1]:
            self._store(key, pack(arrays), computed - looked, file)
        cost = looked - begun + time.perf_counter() - computed
        row[SPENT] += cost
        self.usual_cost = 0.7 * self.usual_cost + 0.3 * cost
        return arrays

    def _store(self, key: str, arrays: Arrays, seconds: float, file: tuple) -> None:
        try:
            if self.store.write(key, arrays, seconds):
                self.stored.add(file)
                self.row[STORED] += 1
            else:
                self.state[1] = 1
        except OSError:  # the disk is full, or the folder is gone
            self.state[0] = 1

    def _row(self) -> np.ndarray:
        """This process's counts, a view of the shared ones."""
        if self.process != os.getpid():  # a worker begins with a copy of the main process's object
            worker = get_worker_info()
            self.process, self.since = os.getpid(), time.perf_counter()
            self.row = self.counts[worker.id + 1 if worker else 0].numpy()
        return self.row

    def __getstate__(self) -> dict:
        """For workers that do not share this process's memory: a view would arrive as a copy that nobody reads."""
        return {name: value for name, value in vars(self).items() if name != "row"} | {"process": None}

    def _key(self, file: tuple[str, int, int], parameters: bytes) -> str:
        """file: path, size and time of modification, by which its content is remembered."""
        if file not in self.contents:
            self.contents[file] = hashlib.sha256(Path(file[0]).read_bytes()).digest()
        # Before the parameters all lengths are fixed, so that no two sets of parts make the same bytes.
        return hashlib.sha256(VERSION + self.contents[file] + parameters).hexdigest()

    def judge(self) -> None:
        """At the end of an epoch: off, where nothing is asked for twice or an entry hardly saves what it costs. What all
        have saved is no measure: until the last is stored, the cache spends what the others save."""
        self.epochs += 1
        total, epochs = self.counts.sum(0).tolist(), self.epochs
        if self.state[0]:
            self.reason = self.reason or "reading takes as long as computing, or the disk refused"
        elif total[REPEATS] >= LEAST_REPEATS and not total[HITS]:
            self.reason = f"nothing was asked for twice in {epochs} epochs"
        elif epochs >= PATIENCE_EPOCHS and total[SPENT] * total[HITS] > PATIENCE_EPOCHS * total[SAVED] * total[MISSES]:
            self.reason = f"an entry takes more than {PATIENCE_EPOCHS} epochs to save what it has cost"
        self.state[0] = float(bool(self.reason))

    def summary(self) -> str:
        """Hit rate and time, and whether it is off or full."""
        total = self.counts.sum(0).tolist()
        looked = int(total[HITS] + total[MISSES])
        line = (f"{int(total[HITS])} of {looked} look-ups answered, {total[SAVED]:.1f} s saved, {total[SPENT]:.1f} s "
                "spent (in loader processes)")
        if self.reason:
            return f"switched itself off, since {self.reason}; {line}"
        return line + ("; full: --cache-limit would give it more room" if self.state[1] else "")
