"""Crops of text packed into larger files, which are indexed once and then read at random.

LMDB, as the text recognition benchmarks have it: a folder with data.mdb, whose keys are num-samples, image-000000001
and label-000000001 (from 1, nine digits). The number of samples is what num-samples says; texts and sizes, which
charset and batches need before the first step, are read in one pass over all records. It takes `pip install lmdb`.

Tar shards, as WebDataset has them: NAME.jpg (or another image) and NAME.txt for each sample. They are read by the
standard library and must not be compressed, since a member is later read from its offset alone. Nothing is unpacked.
"""

import tarfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Iterator

from utils.errors import BadSamples, DataError
from utils.images import IMAGE_SUFFIXES, image_size

MAX_TEXT_BYTES = 1 << 16


@dataclass(frozen=True)
class TarMember:
    """An image inside a tar file."""

    path: Path
    member: str
    offset: int  # bytes from the start of the file
    size: int
    crc: int = 0  # CRC-32 of its bytes when it was indexed, by which copies of it are looked for

    def __str__(self) -> str:
        return f"{self.path}#{self.member}"

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            data = file.read(self.size)
        if len(data) < self.size:
            raise DataError(f"{self}: the archive has become shorter since it was indexed")
        return data


@dataclass(frozen=True)
class LmdbRecord:
    """An image inside an LMDB."""

    path: Path  # of data.mdb
    number: int  # from 1
    crc: int = 0  # as of a TarMember

    def __str__(self) -> str:
        return f"{self.path}#{self.number}"

    def read(self) -> bytes:
        # Opened anew each time, for 50 microseconds: a fork must not go on with what its parent has opened.
        with open_lmdb(self.path) as environment, environment.begin() as transaction:
            data = transaction.get(b"image-%09d" % self.number)
        if data is None:
            raise DataError(f"{self}: has no image-{self.number:09d}")
        return data


@dataclass(frozen=True)
class PackedCrop:
    """A text as it stands in the file, and where its image is."""

    image: TarMember | LmdbRecord
    text: str
    height: int  # pixels
    width: int


def open_lmdb(path: Path):
    """The opened environment, to be closed by `with`. Raises DataError where it, or the library, is not there."""
    try:
        import lmdb
    except ImportError:
        raise DataError(f"{path}: is an LMDB, and the library for it is not installed; pip install lmdb") from None
    try:
        return lmdb.open(str(path.parent), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise DataError(f"{path}: not readable as LMDB ({error})") from None


def read_lmdb(path: Path, bad: BadSamples) -> Iterator[PackedCrop]:
    """The crops of a data.mdb. Bad samples (no label or no image, not UTF-8, unreadable) are added to `bad`; DataError
    where it is no LMDB or does not say how many samples it holds."""
    with open_lmdb(path) as environment, environment.begin() as transaction:
        try:
            total = int(transaction.get(b"num-samples"))
        except (TypeError, ValueError):
            raise DataError(f"{path}: has no key num-samples with the number of samples") from None
        if total > (entries := transaction.stat()["entries"]):
            raise DataError(f"{path}: num-samples is {total}, but it holds {entries} keys; was it written to the end?")
        for number in range(1, total + 1):
            record = LmdbRecord(path, number)
            found = {kind: transaction.get(b"%s-%09d" % (kind.encode(), number)) for kind in ("image", "label")}
            if missing := [kind for kind, value in found.items() if value is None]:
                bad.add(str(record), f"has no {missing[0]}-{number:09d}, though num-samples is {total}")
            else:
                record = replace(record, crc=zlib.crc32(found["image"]))
                yield from _crop(bad, record, found["label"], _size(record, found["image"]))


def read_tar(path: Path, bad: BadSamples) -> Iterator[PackedCrop]:
    """The crops of one shard. Bad samples (an image without a text or the reverse, a second one of
    the same name, not UTF-8, unreadable) are added to `bad`; DataError where it is no tar file, compressed or cut."""
    images: dict[str, tuple[TarMember, tuple[int, int] | DataError]] = {}
    texts: dict[str, bytes] = {}
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                name, suffix = _split_name(member.name)
                is_image = suffix.lower() in IMAGE_SUFFIXES
                if not member.isfile() or not (is_image or suffix == ".txt"):
                    continue
                if name in (images if is_image else texts):
                    bad.add(f"{path}#{member.name}", "is there twice, but for its suffix")
                elif is_image:
                    data = archive.extractfile(member).read()
                    image = TarMember(path, member.name, member.offset_data, member.size, zlib.crc32(data))
                    images[name] = image, _size(image, data)
                else:
                    texts[name] = archive.extractfile(member).read(MAX_TEXT_BYTES + 1)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{path}: not readable as a tar file ({error}); shards are not compressed") from None
    for name, (image, size) in images.items():
        if name in texts:
            yield from _crop(bad, image, texts[name], size)
        else:
            bad.add(str(image), f"has no text {name}.txt")
    for name in texts:
        if name not in images:
            bad.add(f"{path}#{name}.txt", "has no image")


def _split_name(name: str) -> tuple[str, str]:
    """("folder/a.b", ".jpg") for folder/a.b.jpg; hidden files, which macOS adds (._a.jpg), have no suffix here."""
    path = PurePosixPath(name)
    return ("", "") if path.name.startswith(".") else (name.removesuffix(path.suffix), path.suffix)


def _size(image: TarMember | LmdbRecord, data: bytes) -> tuple[int, int] | DataError:
    try:
        return image_size(str(image), data)
    except DataError as error:
        return error


def _crop(bad: BadSamples, image: TarMember | LmdbRecord, text: bytes,
          size: tuple[int, int] | DataError) -> Iterator[PackedCrop]:
    """The crop, or nothing and its fault in `bad`."""
    if isinstance(size, DataError):
        bad.add(*str(size).split(": ", 1))
        return
    if len(text) > MAX_TEXT_BYTES:
        bad.add(str(image), f"its text has more than {MAX_TEXT_BYTES} bytes")
        return
    try:
        yield PackedCrop(image, text.decode("utf-8-sig"), *size)
    except UnicodeDecodeError as error:
        bad.add(str(image), f"its text is not UTF-8 (byte {error.start})")
