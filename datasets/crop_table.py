"""Crops of text as columns: a million of them are a few arrays, which datasets/crop_index.py can map from a file, and
no million objects. A Crop is made when it is asked for; what concerns all of them is asked of the columns."""

import os
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np

from datasets.crops import Crop
from datasets.formats.packed import LmdbRecord, TarMember
from utils.text_crops import is_tall, resized_widths

# A value for each crop. file: which of the part's files; start and size: where in it the image is, see _place; *_end:
# where its string ends among the codes of all of them; quad: eight NaN where the crop is a whole image; crc: of the bytes
# of a packed image.
ROWS = {"file": "i", "height": "i", "width": "i", "line": "i", "start": "q", "size": "q", "crc": "I", "quad": "f",
        "text_end": "q", "member_end": "q"}
# Strings as codes one after the other: texts as code points, so that they can be looked up without being decoded. raw:
# the labels that differ from their text; name: of each file, inside the folder; member: of a tar file.
STRINGS = {"text": ("I", "utf-32-le"), "raw": ("I", "utf-32-le"), "name": ("B", "utf-8"), "member": ("B", "utf-8")}
WHOLE_FILE, IN_LMDB = -2, -1  # sizes that are none
NO_QUAD = (float("nan"),) * 8
BLOCK = 1 << 16  # crops whose characters are looked at together
CODES = 0x110000


class Part:
    """The crops of one folder, column by column: see ROWS and STRINGS. A column of one value for all has one row."""

    def __init__(self, folder: Path, count: int, columns: dict[str, np.ndarray]):
        self.folder, self.count, self.stored = folder, count, columns
        self.columns = columns | {name: np.broadcast_to(columns[name], (count, *columns[name].shape[1:]))
                                  for name in ROWS}

    def __reduce__(self):
        return Part, (self.folder, self.count, self.stored)  # without what is repeated

    def string(self, name: str, row: int) -> str:
        ends = self.columns[f"{name}_end"]
        codes = self.columns[name][int(ends[row - 1]) if row else 0 : int(ends[row])]
        return codes.tobytes().decode(STRINGS[name][1], "surrogatepass")

    def file(self, number: int) -> Path:
        return self.folder / self.string("name", number)

    def crop(self, row: int) -> Crop:
        file, line, start, size, crc = (int(self.columns[name][row])
                                        for name in ("file", "line", "start", "size", "crc"))
        path, quad, raw = self.file(file), self.columns["quad"][row], self.columns["raw_row"]
        place = int(np.searchsorted(raw, row))
        other = place < len(raw) and raw[place] == row
        packed = None if size == WHOLE_FILE else LmdbRecord(path, start, crc) if size == IN_LMDB else TarMember(
            path, self.string("member", row), start, size, crc)
        return Crop(path, self.string("raw", place) if other else self.string("text", row),
                    int(self.columns["height"][row]), int(self.columns["width"][row]),
                    None if np.isnan(quad[0]) else tuple(quad.tolist()), line, packed)

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.columns["text_end"], prepend=0)

    def quads(self) -> np.ndarray | None:
        """(count, 4, 2), or None where all crops are whole images."""
        quads = self.columns["quad"]
        return None if quads.strides[0] == 0 and np.isnan(quads[:1]).all() else quads.reshape(-1, 4, 2)

    def characters(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(code points of the texts of these rows one after the other, length of each text)."""
        ends, codes = self.columns["text_end"], self.columns["text"]
        begins = np.where(rows > 0, ends[rows - 1], 0)
        lengths = ends[rows] - begins
        if (np.diff(rows) == 1).all():
            return codes[int(begins[0]) : int(begins[0] + lengths.sum())], lengths
        moved = np.repeat(begins - (np.cumsum(lengths) - lengths), lengths)
        return codes[moved + np.arange(len(moved))], lengths


def _place(packed: LmdbRecord | TarMember | None) -> tuple[int, int, str]:
    """(start, size, member)"""
    if packed is None:
        return 0, WHOLE_FILE, ""
    if isinstance(packed, LmdbRecord):
        return packed.number, IN_LMDB, ""
    return packed.offset, packed.size, packed.member


def collect(folder: Path, crops: Iterable[Crop]) -> Part:
    """The columns of crops, whose objects are let go one by one; paths below `folder` are kept without it."""
    columns = {name: array(kind) for name, kind in ROWS.items()}
    columns |= {name: array(kind) for name, (kind, _) in STRINGS.items()}
    columns |= {"raw_row": array("q"), "raw_end": array("q"), "name_end": array("q")}

    def add(name: str, text: str) -> None:
        columns[name].frombytes(text.encode(STRINGS[name][1], "surrogatepass"))
        columns[f"{name}_end"].append(len(columns[name]))

    files: dict[str, int] = {}
    prefix, row = f"{folder}{os.sep}", -1
    for row, crop in enumerate(crops):
        name = str(crop.path).removeprefix(prefix)
        if name not in files:
            files[name] = len(files)
            add("name", name)
        start, size, member = _place(crop.packed)
        for column, value in (("file", files[name]), ("height", crop.height), ("width", crop.width),
                              ("line", crop.line), ("start", start), ("size", size),
                              ("crc", crop.packed.crc if crop.packed else 0)):
            columns[column].append(value)
        columns["quad"].extend(NO_QUAD if crop.quad is None else crop.quad)
        add("text", crop.text)
        add("member", member)
        if crop.label != crop.text:
            columns["raw_row"].append(row)
            add("raw", crop.label)
    arrays = {name: np.asarray(column) for name, column in columns.items()}
    arrays["quad"] = arrays["quad"].reshape(-1, 8)
    return Part(folder, row + 1, arrays | {name: _one_if_alike(arrays[name]) for name in ROWS})


def _one_if_alike(column: np.ndarray) -> np.ndarray:
    """The first row alone where all are the same, bit for bit."""
    bits = column.reshape(len(column), -1).view(np.uint8) if len(column) else column
    return column[:1].copy() if len(column) and (bits == bits[:1]).all() else column


class CropTable(Sequence):
    """A sequence of Crop over columns; a slice, take(), where() and + give views of the same columns."""

    def __init__(self, parts: Sequence[Part], rows: np.ndarray | None = None):
        """rows: (n,) int64, of all parts one after the other; None for all of them."""
        self.parts, self.rows = tuple(parts), rows
        self.starts = np.cumsum([0, *(part.count for part in self.parts)])

    @classmethod
    def of(cls, crops: Sequence[Crop]) -> "CropTable":
        return crops if isinstance(crops, cls) else cls([collect(Path(), crops)])

    def __len__(self) -> int:
        return int(self.starts[-1]) if self.rows is None else len(self.rows)

    def __getitem__(self, index):
        if isinstance(index, slice):
            chosen = range(len(self))[index]
            return self if chosen == range(len(self)) else self.take(np.arange(chosen.start, chosen.stop, chosen.step))
        row = range(len(self))[index]  # IndexError outside, negative ones from the end
        row = row if self.rows is None else int(self.rows[row])
        part = int(np.searchsorted(self.starts, row, side="right")) - 1
        return self.parts[part].crop(row - int(self.starts[part]))

    def __eq__(self, other) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other))

    __hash__ = None

    def __add__(self, other: Sequence[Crop]) -> "CropTable":
        """Both one after the other; parts that both have are not repeated."""
        other = CropTable.of(other)
        parts = [*self.parts, *(part for part in other.parts if all(part is not mine for mine in self.parts))]
        whole = CropTable(parts)
        places = [next(i for i, part in enumerate(parts) if part is theirs) for theirs in other.parts]
        moves = np.array([whole.starts[place] - start for place, start in zip(places, other.starts)])
        theirs = other._all_rows()
        theirs = theirs + moves[np.searchsorted(other.starts, theirs, side="right") - 1]
        return CropTable(parts, np.concatenate([self._all_rows(), theirs]))

    def __radd__(self, other: Sequence[Crop]) -> "CropTable":
        return CropTable.of(other) + self

    def take(self, rows: np.ndarray) -> "CropTable":
        """The crops at these places, in this order; rows: (k,) int64."""
        rows = np.asarray(rows, np.int64)
        return CropTable(self.parts, rows if self.rows is None else self.rows[rows])

    def where(self, chosen: np.ndarray) -> "CropTable":
        """The crops for which `chosen`, (n,) bool, is true."""
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def _all_rows(self) -> np.ndarray:
        return np.arange(len(self)) if self.rows is None else self.rows

    def _of_each(self, values: Callable[[Part], np.ndarray]) -> np.ndarray:
        """(n, ...) from (count, ...) of each part."""
        found = [values(part) for part in self.parts]
        joined = found[0] if len(found) == 1 else np.concatenate(found)
        return joined if self.rows is None else joined[self.rows]

    @property
    def heights(self) -> np.ndarray:
        """(n,) int32 pixels, before crops are turned."""
        return self._of_each(lambda part: part.columns["height"])

    @property
    def widths(self) -> np.ndarray:
        """(n,) int32 pixels, before crops are turned."""
        return self._of_each(lambda part: part.columns["width"])

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64 characters of each text."""
        return self._of_each(lambda part: part.lengths)

    @property
    def repeats(self) -> np.ndarray:
        """(n,) int64: how many characters of each text stand behind one of their own kind."""
        counts = np.zeros(len(self), np.int64)
        for first, codes, lengths in self.blocks():
            row = np.repeat(np.arange(first, first + len(lengths)), lengths)
            alike = (codes[1:] == codes[:-1]) & (row[1:] == row[:-1])
            np.add.at(counts, row[1:][alike], 1)
        return counts

    @property
    def packed(self) -> np.ndarray:
        """(n,) bool: crops whose image lies inside a larger file, one by one."""
        return self._of_each(lambda part: part.columns["size"]) != WHOLE_FILE

    @property
    def checksums(self) -> np.ndarray:
        """(n,) uint32: CRC-32 of the bytes of packed images, else 0."""
        return self._of_each(lambda part: part.columns["crc"])

    @property
    def turned(self) -> np.ndarray:
        """(n,) bool, as Crop.turned."""
        return (self.lengths > 1) & is_tall(self.heights, self.widths)

    @property
    def on_pages(self) -> np.ndarray:
        """(n,) bool: crops that are cut out of a page."""
        return self._of_each(lambda part: np.zeros(part.count, bool) if part.quads() is None
                             else ~np.isnan(part.quads()[:, 0, 0]))

    @property
    def degenerate(self) -> np.ndarray:
        """(n,) bool, as Crop.degenerate."""
        def flat(part: Part) -> np.ndarray:
            if part.quads() is None:
                return np.zeros(part.count, bool)
            x, y = np.moveaxis(part.quads().astype(np.float64), 2, 0)
            return np.abs((x * np.roll(y, -1, 1)).sum(1) - (y * np.roll(x, -1, 1)).sum(1)) / 2 < 1  # not so for NaN

        return self._of_each(flat)

    def widths_at(self, height: int, max_width: int, stretch: bool = False) -> np.ndarray:
        """(n,) int64 pixels, as Crop.width_at."""
        turned, heights, widths = self.turned, self.heights, self.widths
        return resized_widths(np.where(turned, widths, heights), np.where(turned, heights, widths), height, max_width,
                              stretch)

    @property
    def file_numbers(self) -> np.ndarray:
        """(n,) int64 that are the same for crops of the same file of the same part."""
        ends = np.cumsum([len(part.columns["name_end"]) for part in self.parts])
        before = {id(part): end - len(part.columns["name_end"]) for part, end in zip(self.parts, ends)}
        return self._of_each(lambda part: part.columns["file"] + before[id(part)])

    def _paths_by_number(self) -> dict[int, Path]:
        numbers = np.unique(self.file_numbers)
        found, before = {}, 0
        for part in self.parts:
            end = before + len(part.columns["name_end"])
            found |= {number: part.file(number - before)
                      for number in numbers[(numbers >= before) & (numbers < end)].tolist()}
            before = end
        return found

    def files(self) -> set[Path]:
        """The files that the crops lie in."""
        return set(self._paths_by_number().values())

    def paths(self) -> list[Path]:
        """The file of each crop."""
        found = self._paths_by_number()
        return [found[number] for number in self.file_numbers.tolist()]

    def relabelled(self) -> Iterator[Crop]:
        """The crops whose labels, as they were read, are not their texts: decomposed, or with white space round."""
        def other(part: Part) -> np.ndarray:
            found = np.zeros(part.count, bool)
            found[part.columns["raw_row"]] = True
            return found

        return (self[int(row)] for row in np.flatnonzero(self._of_each(other)))

    def blocks(self) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
        """(place of the first crop, code points (uint32) of the texts one after the other, length of each) of some
        crops after the other, so that the characters of all are never in memory at once."""
        for begin in range(0, len(self), BLOCK):
            end = min(begin + BLOCK, len(self))
            rows = np.arange(begin, end) if self.rows is None else self.rows[begin:end]
            parts = np.searchsorted(self.starts, rows, side="right") - 1
            cuts = [0, *(np.flatnonzero(np.diff(parts)) + 1).tolist(), len(rows)]
            for first, last in zip(cuts, cuts[1:]):
                part = int(parts[first])
                yield begin + first, *self.parts[part].characters(rows[first:last] - self.starts[part])

    def token_counts(self) -> Counter:
        """How often each character occurs in the texts, and under "" how many texts there are."""
        counts = np.zeros(CODES, np.int64)
        for _, codes, _ in self.blocks():
            found = np.bincount(codes)
            counts[: len(found)] += found
        return Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)}) + Counter({"": len(self)})
