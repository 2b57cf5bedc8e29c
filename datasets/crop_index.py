"""What a scan of a large folder of crops found, kept in the user's cache folder and mapped into memory at later starts.

An index is a line of JSON (what was scanned, which samples were bad, where the columns are) and the columns themselves,
each at a multiple of 64 bytes. It holds while the files that were scanned keep their size and time of modification.
"""

import hashlib
import json
import sys
import zlib
from pathlib import Path
from typing import Callable, Iterable, Sequence

import numpy as np
from tqdm import tqdm

from datasets.crop_table import Part, collect
from datasets.crops import Crop
from utils.errors import BadSamples, DataError
from utils.files import write_replacing
from utils.shared_files import cache_file

FORMAT = 3
INDEX_FROM = 20_000  # crops; fewer are scanned in seconds
ALIGNED = 64  # bytes


def read_indexed(folder: Path, sources: Sequence[Path], scan: Callable[[BadSamples], Iterable[Crop]],
                 bad: BadSamples) -> Part:
    """The crops of a folder from its index, or by scan(bad), after which an index is written if they are many.

    sources: files that have to be as they were for the index to hold, and folders, whose entries have to be the same.
    Bad samples are added to `bad` in both cases. Raises what `scan` raises.
    """
    file, stamps = index_file(folder), [_stamp(folder, source) for source in sources]
    if part := load_index(file, folder, stamps, bad):
        return part
    part = collect(folder, tqdm(scan(bad), desc=f"reading {folder}", unit="crop", leave=False, delay=1, disable=None))
    if part.count >= INDEX_FROM:
        try:
            write_replacing(file, lambda temporary: _write(temporary, part, stamps, bad.reasons))
            print(f"{folder}: {part.count} crops, indexed in {file}")
        except DataError as error:
            print(f"warning: {error}: {folder} is read anew at every start", file=sys.stderr)
    return part


def index_file(folder: Path) -> Path:
    digest = hashlib.sha256(str(folder.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    return cache_file().with_name(f"crops-{digest}.index")


def load_index(file: Path, folder: Path, stamps: list, bad: BadSamples) -> Part | None:
    """The crops as they were written; None where there is no index, or none that holds."""
    try:
        with open(file, "rb") as opened:
            line = opened.readline()
            header = json.loads(line)
        if header["format"] != FORMAT or header["sources"] != stamps:
            return None
        body = np.memmap(file, np.uint8, "r", offset=_padded(len(line)), shape=(header["bytes"],))
        if zlib.crc32(body) != header["crc"]:
            return None
        columns = {name: np.asarray(body[begin : begin + int(np.prod(shape)) * np.dtype(kind).itemsize].view(kind)
                                    ).reshape(shape) for name, kind, shape, begin in header["columns"]}
        part = Part(folder, header["count"], columns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # no index, or one that is broken
        return None
    bad.reasons += header["bad"]
    return part


def _stamp(folder: Path, source: Path) -> list:
    if not source.exists():  # the scan says so
        return [str(source.relative_to(folder)), -1, -1]
    status = source.stat()
    return [str(source.relative_to(folder)), 0 if source.is_dir() else status.st_size, status.st_mtime_ns]


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def _write(path: Path, part: Part, stamps: list, reasons: list[str]) -> None:
    places, end, crc = [], 0, 0
    for name, column in part.stored.items():
        places.append([name, column.dtype.str, list(column.shape), end])
        end += _padded(column.nbytes)
    for column in part.stored.values():
        crc = zlib.crc32(_gap(column.nbytes), zlib.crc32(_bytes(column), crc))
    header = {"format": FORMAT, "sources": stamps, "count": part.count, "bytes": end, "crc": crc, "columns": places,
              "bad": reasons}
    line = json.dumps(header).encode() + b"\n"
    with open(path, "wb") as file:
        file.write(line + _gap(len(line)))
        for column in part.stored.values():
            file.write(_bytes(column))
            file.write(_gap(column.nbytes))


def _bytes(column: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(column).reshape(-1).view(np.uint8))


def _gap(size: int) -> bytes:
    return bytes(_padded(size) - size)
