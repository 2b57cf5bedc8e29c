"""How long a recogniser's data take to start on, and how much memory: a first scan of an LMDB, and later starts.

    python -m benchmarks.recognition_index
    python -m benchmarks.recognition_index --words 1000000

An LMDB of made labels, all with the same tiny picture, is written to a temporary folder for each number of words. A
start is what a training asks of its crops before the first step: read_split, the characters of the labels, fit_labels,
the frequencies of the tokens and the width of every crop. Each runs in a process of its own; imports are not counted.

Prints one JSON object as its last line. For each number of words, for the first start, which scans, and for the median
of the later ones: seconds, and how many of them were spent on the CPU (fewer where other programs run beside), and the
megabytes by which the memory of the process has grown: its own (private_mb), and that of mapped files (mapped_mb), which
the system can take back and all processes share. index_mb is the size of the index on the disk.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import lmdb
import numpy as np
from tqdm import tqdm

from datasets.crop_index import index_file
from datasets.recognition import RecognitionDataset, fit_labels, read_split
from utils.args import new_parser, positive_int
from utils.charset import BASE_CHARACTERS, build_charset, ksx1001_syllables
from utils.errors import exit_cleanly

COMMIT = 50_000  # records written together


def write_words(folder: Path, count: int) -> None:
    """An LMDB of `count` labels of 1 to 15 characters, in Hangul, Latin letters and digits."""
    rng = np.random.default_rng(0)
    image = cv2.imencode(".png", np.full((8, 32, 3), 200, np.uint8))[1].tobytes()
    deck = np.array(list(BASE_CHARACTERS.replace(" ", "") + ksx1001_syllables()))
    with lmdb.open(str(folder), map_size=1 << 40, sync=False) as environment:
        for begin in tqdm(range(0, count, COMMIT), desc="writing", leave=False, disable=None):
            ends = np.cumsum(rng.integers(1, 16, min(COMMIT, count - begin))).tolist()
            text = "".join(rng.choice(deck, ends[-1]))
            with environment.begin(write=True) as transaction:
                for number, (first, last) in enumerate(zip([0, *ends], ends), start=begin + 1):
                    transaction.put(b"image-%09d" % number, image)
                    transaction.put(b"label-%09d" % number, text[first:last].encode())
        with environment.begin(write=True) as transaction:
            transaction.put(b"num-samples", str(count).encode())


def memory() -> dict[str, float]:
    """Megabytes in memory of this process: its own, and those of mapped files."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    names = {"private_mb": "RssAnon", "mapped_mb": "RssFile"}
    return {name: int(lines[key].split()[0]) / 1024 for name, key in names.items()}


def start(folder: Path) -> dict[str, float]:
    """What one start takes, in this process."""
    before, begun, cpu, seconds = memory(), time.perf_counter(), time.process_time(), {}

    def lap(name: str) -> None:
        seconds[f"{name}_s"] = time.perf_counter() - begun - sum(seconds.values())

    crops = read_split(folder, 0.01)
    lap("read_split")
    charset = build_charset("data", crops.token_counts())
    lap("charset")
    kept = fit_labels("train", crops, charset, 25).kept
    lap("fit_labels")
    kept.token_counts()
    lap("frequencies")
    widths = RecognitionDataset(kept, charset, 32, 128, 64, 0, training=True).widths
    lap("widths")
    assert len(widths) == len(kept)
    cpu = time.process_time() - cpu
    grown = {name: value - before[name] for name, value in memory().items()}
    return {"seconds": sum(seconds.values()), "cpu_seconds": cpu} | seconds | grown


def run_start(folder: Path, cache: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.recognition_index", "--start", str(folder)]
    done = subprocess.run(command, env=os.environ | {"XDG_CACHE_HOME": str(cache)}, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measure(count: int, starts: int, root: Path) -> dict:
    folder, cache = root / "train", root / "cache"
    folder.mkdir()
    write_words(folder, count)
    first = run_start(folder, cache)
    later = [run_start(folder, cache) for _ in range(starts)]
    index = cache / "docmarks" / index_file(folder).name
    return {"first": first, "later": {name: statistics.median(row[name] for row in later) for name in later[0]},
            "index_mb": index.stat().st_size / 1e6 if index.exists() else 0}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--words", type=positive_int, nargs="+", default=[10_000, 100_000],
                        help="crops of each LMDB (default: %(default)s)")
    parser.add_argument("--starts", type=positive_int, default=3, help="later starts (default: %(default)s)")
    parser.add_argument("--start", type=Path, metavar="DIR", help="measure one start on DIR in this process")
    args = parser.parse_args(argv)
    if args.start:
        report = start(args.start)
    else:
        report = {}
        for count in args.words:
            with tempfile.TemporaryDirectory() as folder:
                report[str(count)] = measure(count, args.starts, Path(folder))
    print(json.dumps(report))


if __name__ == "__main__":
    exit_cleanly(main)
