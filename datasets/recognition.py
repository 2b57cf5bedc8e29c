"""Crops of text and their labels for PARSeq, from one of these layouts in each split folder.

    images/ and labels.tsv         a line of labels.tsv is FILE<TAB>TEXT, UTF-8, FILE inside images/
    data.mdb, here or below        LMDB; *.tar: tar shards (datasets/formats/packed.py)
    images/ and labels/*.txt       pages labelled for detection: every readable line of every page is a crop
    images/ and JSON               the same, from any shape of datasets/formats/label_json.py; where a file gives a text
                                   without a box, the whole image is the crop
"""

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.augment_recognition import augment_crop
from datasets.crop_index import read_indexed
from datasets.crop_table import CODES, CropTable, collect
from datasets.crops import Crop
from datasets.detection import Page, check_points, do_not_care, read_json_page
from datasets.detection import read_split as read_pages
from datasets.formats.label_json import LabelledImage, check_frame, find_label_json, image_folder, match_images
from datasets.formats.packed import PackedCrop, read_lmdb, read_tar
from utils.charset import Charset, name_character
from utils.dataloading import EpochBatches, EveryBatch, Key, sample_rng
from utils.errors import BadSamples, DataError
from utils.geometry import min_area_quad, order_quad
from utils.images import image_size, list_images
from utils.text_crops import resize_crop, stack_crops


LEAST_PIXELS = 2  # in width for a character; nobody reads less
BEYOND_CTC = "with more characters than CTC frames"


def read_split(folder: Path, max_bad_fraction: float, polygon_labels: bool = False) -> CropTable:
    """All crops of a split folder, empty labels included. polygon_labels: as in datasets.detection.read_split.

    Raises DataError where none or more than one of the layouts is there, or more than `max_bad_fraction` of the samples
    cannot be used.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    # A folder of a million images is not walked for a file that is not among them.
    nested = not (folder / "images").is_dir()
    shards, stores = sorted(folder.glob("*.tar")), sorted((folder.rglob if nested else folder.glob)("data.mdb"))
    json_files = find_label_json(folder)
    layouts = {"labels.tsv": (folder / "labels.tsv").is_file(), "*.tar": shards, "data.mdb": stores,
               "labels/*.txt": (folder / "labels").is_dir() and not json_files, "JSON": json_files}
    found = [name for name, there in layouts.items() if there]
    if not found:
        raise DataError(f"{folder}: holds neither labels.tsv (FILE<TAB>TEXT), data.mdb (LMDB), *.tar (not compressed) "
                        "nor labels of pages (labels/*.txt or JSON)")
    if len(found) > 1:
        raise DataError(f"{folder}: holds {found[0]} and {found[1]}; move one of them away")
    if polygon_labels and found != ["labels/*.txt"]:
        raise DataError(f"{folder}: holds {found[0]}, and --polygon-labels is for labels/*.txt; leave it out")
    if layouts["labels.tsv"]:
        return _read_indexed(folder, [folder / "labels.tsv", folder / "images"], partial(_scan_tsv, folder),
                             max_bad_fraction)
    if shards or stores:
        scan = partial(_scan_packed, shards or stores, read_tar if shards else read_lmdb)
        return _read_indexed(folder, shards or stores, scan, max_bad_fraction)
    crops = (_read_json(folder, json_files, max_bad_fraction) if json_files else
             (crop for page in read_pages(folder, max_bad_fraction, polygon_labels) for crop in page_crops(page)))
    return CropTable([collect(folder, crops)])


def _read_indexed(folder: Path, sources: list[Path], scan: Callable[[BadSamples], Iterator[Crop]],
                  max_bad_fraction: float) -> CropTable:
    bad = BadSamples(max_bad_fraction)
    part = read_indexed(folder, sources, scan, bad)
    bad.settle(part.count + len(bad))
    if not part.count:
        raise DataError(f"{sources[0]}: holds no samples")
    return CropTable([part])


def _scan_packed(files: list[Path], read: Callable[[Path, BadSamples], Iterator[PackedCrop]],
                 bad: BadSamples) -> Iterator[Crop]:
    for file in files:
        for crop in read(file, bad):
            yield Crop(file, crop.text, crop.height, crop.width, packed=crop.image)


def _read_json(folder: Path, files: list[Path], max_bad_fraction: float) -> list[Crop]:
    bad = BadSamples(max_bad_fraction)
    items, total = match_images(files, list_images(image_folder(folder)), bad, _page_or_crop)
    bad.settle(total)
    check_points([item for item in items if isinstance(item, Page)], folder)
    crops = [crop for item in items for crop in ([item] if isinstance(item, Crop) else page_crops(item))]
    return [crop for crop in crops if not do_not_care(crop.text)]


def _page_or_crop(path: Path, label: LabelledImage) -> Page | Crop:
    if len(label.words) != 1 or label.words[0].points is not None:
        return read_json_page(path, label)
    height, width = image_size(path)
    check_frame(label, height, width)
    return Crop(path, label.words[0].text, height, width)


def page_crops(page: Page) -> Iterator[Crop]:
    """The readable lines of a page, those without area included, which fit_labels sorts out. A polygon that is no
    quad is cut out by the smallest rectangle round it: it is not straightened."""
    for number, (polygon, text) in enumerate(zip(page.polygons, page.texts), start=1):
        if do_not_care(text):
            continue
        quad = reading_order(polygon) if len(polygon) == 4 else rectangle_round(polygon)
        sides = np.linalg.norm(quad - np.roll(quad, -1, 0), axis=1)  # top, right, bottom, left
        width, height = max(round(float(max(sides[0], sides[2]))), 1), max(round(float(max(sides[1], sides[3]))), 1)
        yield Crop(page.path, text, height, width, tuple(quad.ravel().tolist()), number)


def reading_order(quad: np.ndarray) -> np.ndarray:
    """(4, 2) as labelled where the corners run clockwise on the screen, since they then tell the reading direction of
    rotated text; sorted by order_quad where they do not."""
    x, y = quad.astype(np.float64).T
    clockwise = x @ np.roll(y, -1) - y @ np.roll(x, -1) > 0
    return quad if clockwise else order_quad(quad)


def rectangle_round(polygon: np.ndarray) -> np.ndarray:
    """(4, 2) corners of the smallest rotated rectangle round (N, 2) points, from the corner nearest to the first point,
    which is where the text begins in the sets that label curves; from the top left one where the points run
    anticlockwise."""
    quad = min_area_quad(polygon)
    x, y = polygon.astype(np.float64).T
    if x @ np.roll(y, -1) - y @ np.roll(x, -1) <= 0:
        return quad
    return np.roll(quad, -int(np.argmin(np.linalg.norm(quad - polygon[0], axis=1))), axis=0)


def _scan_tsv(folder: Path, bad: BadSamples) -> Iterator[Crop]:
    table = folder / "labels.tsv"
    try:
        lines = table.read_text(encoding="utf-8-sig").split("\n")  # not splitlines: a label may hold U+2028
    except UnicodeDecodeError as error:
        raise DataError(f"{table}: is not UTF-8 (byte {error.start})") from None
    without_label = {path.name: path for path in list_images(folder / "images")}
    seen = set()
    for number, line in enumerate(lines, start=1):
        name, tab, text = line.rstrip("\r").partition("\t")
        if not name and not tab:
            continue
        path = folder / "images" / name
        if not tab:
            bad.add(f"{table} line {number}", "has no tab between file and text")
        elif name in seen:
            bad.add(f"{table} line {number}", f"labels {name} a second time")
        else:
            seen.add(name)
            without_label.pop(name, None)
            try:
                yield Crop(path, text, *image_size(path))
            except DataError as error:
                bad.add(*str(error).split(": ", 1))
    for path in without_label.values():
        bad.add(path, "has no line in labels.tsv")


@dataclass
class LabelTable:
    """What a charset and a longest label make of a split; printed at the start of a run, so that no label vanishes."""

    split: str
    kept: Sequence[Crop]
    unfit: Sequence[Crop]  # labels with unknown characters or too many: not learnt from, and wrong in every evaluation
    unknown: Counter  # characters outside the charset, with how many labels hold them
    too_long: int
    longest: int
    empty: int
    degenerate: int  # places on a page without area
    beyond_ctc: int = 0  # with more characters than the CTC head has frames for
    ctc_alone: bool = True  # and so not learnt; else by the decoder

    @property
    def with_unknown(self) -> int:
        return len(self.unfit) - self.too_long - self.beyond_ctc * self.ctc_alone

    def __str__(self) -> str:
        beyond = f"{self.beyond_ctc} {'' if self.ctc_alone else 'kept '}{BEYOND_CTC}" if self.beyond_ctc else ""
        counts = [f"{len(self.kept)} kept", f"{self.with_unknown} with unknown characters{self._named()}",
                  f"{self.too_long} too long", beyond if self.ctc_alone else "", f"{self.empty} empty",
                  f"{self.degenerate} without area" if self.degenerate else "",
                  f"{beyond}, for the decoder alone" if beyond and not self.ctc_alone else ""]
        return f"{self.split}: {', '.join(filter(None, counts))}; longest label {self.longest}"

    def __add__(self, other: "LabelTable") -> "LabelTable":
        """Both as one, under the name of the first."""
        return LabelTable(self.split, self.kept + other.kept, self.unfit + other.unfit, self.unknown + other.unknown,
                          self.too_long + other.too_long, max(self.longest, other.longest), self.empty + other.empty,
                          self.degenerate + other.degenerate, self.beyond_ctc + other.beyond_ctc, self.ctc_alone)

    def _named(self) -> str:
        shown = [f"{name_character(c)} in {n}" for c, n in self.unknown.most_common(8)]
        return f" ({', '.join(shown)}{', ...' if len(self.unknown) > 8 else ''})" if shown else ""

    def settle(self, max_bad_fraction: float, learning: bool = True) -> None:
        """Raises DataError where more than max_bad_fraction of the labels are not kept, or none is. learning: False in a
        test, where charset and longest label are those of the weights."""
        total = len(self.kept) + len(self.unfit) + self.empty + self.degenerate
        if total - len(self.kept) <= max_bad_fraction * total and self.kept:
            return
        over = f"labels of {self}: over {max_bad_fraction:.3g} of them cannot be"
        if not learning:
            raise DataError(f"{over} read by these weights; raise --max-bad-fraction, and they count as mistakes, or take "
                            "other weights")
        wider = ("a larger --img-width (--img-height, where crops are narrow) for what CTC has too few frames for, "
                 if self.beyond_ctc and self.ctc_alone else "")
        raise DataError(f"{over} learnt; take a --charset that holds them, --max-label-length {self.longest}, {wider}or "
                        "raise --max-bad-fraction")


def fit_labels(split: str, crops: Sequence[Crop], charset: Charset, max_label_length: int,
               ctc_frames: Callable[[CropTable], np.ndarray] | None = None, ctc_alone: bool = True) -> LabelTable:
    """Sort the crops of a split into those that can be learnt and those that cannot.

    ctc_frames(table) -> (n,) CTC frames of each crop, where a CTC head is trained: it needs one for each character, and
    one more between two that are alike. ctc_alone: nothing else is trained, and what it cannot hold cannot be learnt.
    """
    table = CropTable.of(crops)
    lengths, degenerate = table.lengths, table.degenerate
    strange, unknown = _find_unknown(table, degenerate, charset)
    fits = ~degenerate & ~strange & (lengths > 0) & (lengths <= max_label_length)
    too_long = ~degenerate & ~strange & (lengths > max_label_length)
    beyond = fits & (lengths + table.repeats > ctc_frames(table)) if ctc_frames else np.zeros(len(table), bool)
    lost = beyond & ctc_alone
    return LabelTable(split, table.where(fits & ~lost), table.where(~degenerate & strange | too_long | lost), unknown,
                      int(too_long.sum()), int(lengths.max(initial=0)), int((~degenerate & (lengths == 0)).sum()),
                      int(degenerate.sum()), int(beyond.sum()), ctc_alone)


def _find_unknown(table: CropTable, degenerate: np.ndarray, charset: Charset) -> tuple[np.ndarray, Counter]:
    """((n,) bool: texts with characters outside the charset, in how many texts that have a place each of them is)."""
    strange, counts = np.zeros(len(table), bool), np.zeros(CODES, np.int64)
    outside = np.ones(CODES, bool)
    outside[[ord(character) for character in charset.characters]] = False
    for first, codes, lengths in table.blocks():
        at = np.flatnonzero(outside[codes])
        rows = first + np.searchsorted(np.cumsum(lengths), at, side="right")
        strange[rows] = True
        pairs = np.unique(rows * CODES + codes[at])  # a character counts once in a text
        found = np.bincount(pairs[~degenerate[pairs // CODES]] % CODES)
        counts[: len(found)] += found
    return strange, Counter({chr(code): int(counts[code]) for code in np.flatnonzero(counts)})


class RecognitionDataset(Dataset):
    """A sample: crop (height, w, 3) uint8 with w up to max_width, text, file; for training, tokens (BOS, characters,
    EOS) come with it, which takes labels that the charset holds, and the crop is augmented if `augment`."""

    def __init__(self, crops: Sequence[Crop], charset: Charset, height: int, max_width: int, bucket: int, seed: int,
                 training: bool, augment: bool = True, stretch: bool = False):
        self.crops, self.charset, self.seed = CropTable.of(crops), charset, seed
        self.training, self.augment = training, training and augment
        self.height, self.max_width, self.bucket, self.stretch = height, max_width, bucket, stretch

    def __len__(self) -> int:
        return len(self.crops)

    def widths_in(self, epoch: int) -> np.ndarray:
        """`widths`, which are the same in every epoch."""
        return self.widths

    @cached_property
    def widths(self) -> np.ndarray:
        """(n,) int64: width in pixels of every resized crop, from the index alone."""
        return self.crops.widths_at(self.height, self.max_width, self.stretch)

    def __getitem__(self, key: Key) -> dict:
        epoch, index = key
        crop = self.crops[index]
        return self.sample(crop.load(), crop.text, crop.name, sample_rng(self.seed, epoch, index))

    def sample(self, image: np.ndarray, text: str, file: str, rng: np.random.Generator) -> dict:
        """From (h, w, 3) uint8 of any size and its text."""
        if self.augment:
            if image.shape[0] > 2 * self.height:  # the operations cost by the pixel
                image = resize_crop(image, 2 * self.height, 2 * self.max_width)
            image = augment_crop(image, rng)
        image = resize_crop(image, self.height, self.max_width, self.stretch)
        sample = {"crop": image, "text": text, "file": file}
        return sample | ({"tokens": self.charset.encode(text)} if self.training else {})

    def largest(self) -> list[dict]:
        """A sample as wide as the widest crop and as long as the longest label, to try how much memory they take."""
        return [self.blank(int(self.widths.max()), self.crops[int(self.crops.lengths.argmax())].text)]

    def blank(self, width: int, text: str) -> dict:
        """A sample for training that shows nothing."""
        crop = np.zeros((self.height, width, 3), np.uint8)
        return {"crop": crop, "text": text, "file": "blank", "tokens": self.charset.encode(text)}

    def truth_score(self) -> float:
        """Share of the labels that come back from their tokens and whose crops are wide enough for them."""
        samples = [self[(0, index)] for index in range(len(self))]
        good = [self.charset.decode(sample["tokens"][1:]) == sample["text"]
                and sample["crop"].shape[1] >= LEAST_PIXELS * len(sample["text"]) for sample in samples]
        return sum(good) / max(len(good), 1)

    def collate(self, samples: list[dict]) -> dict:
        """image (B, 3, H, W) float32 in [-1, 1], width (B,) int64 pixels without padding, text and file lists, and in
        training tokens (B, longest) int64 with PAD behind EOS."""
        image, width = stack_crops([sample["crop"] for sample in samples], self.bucket, self.max_width)
        batch = {"image": image, "width": width, "text": [sample["text"] for sample in samples],
                 "file": [sample["file"] for sample in samples]}
        if self.training:
            rows = [sample["tokens"] for sample in samples]
            longest = max(map(len, rows))
            batch["tokens"] = torch.tensor([row + [self.charset.pad] * (longest - len(row)) for row in rows])
        return batch


def batches_of_like_width(order: np.ndarray, widths: np.ndarray, size: int,
                          rng: np.random.Generator) -> list[np.ndarray]:
    """Cut `order` into batches of `size`: sorted by width within every 32 batches, then shuffled as batches, the short
    last one apart, which stays last."""
    pools = [order[i : i + 32 * size] for i in range(0, len(order), 32 * size)]
    order = np.concatenate([order[:0], *(pool[np.argsort(widths[pool], kind="stable")] for pool in pools)])
    batches = [order[i : i + size] for i in range(0, len(order), size)]
    whole = len(order) // size
    return [batches[i] for i in rng.permutation(whole)] + batches[whole:]


class WidthEpochBatches(EpochBatches):
    """EpochBatches of crops of like width, so that a short word does not pay for a long line."""

    def __init__(self, widths_in: Callable[[int], np.ndarray], batch_size: int, seed: int, rank: int = 0,
                 world: int = 1):
        """widths_in(epoch) -> (size,) widths in pixels of the epoch's crops."""
        super().__init__(len(widths_in(0)), batch_size, seed, rank, world)
        self.widths_in = widths_in

    def global_batches(self) -> list[np.ndarray]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(self.size)
        return batches_of_like_width(order, self.widths_in(self.epoch), self.batch_size * self.world, rng)


class WidthEveryBatch(EveryBatch):
    """EveryBatch over crops of like width: each sample once, dealt out over the ranks."""

    def __init__(self, widths: np.ndarray, batch_size: int, rank: int = 0, world: int = 1):
        super().__init__(len(widths), batch_size, rank, world)
        self.widths = widths

    def __iter__(self) -> Iterator[list[Key]]:
        own = np.array(self.indices, dtype=np.int64)
        for batch in batches_of_like_width(own, self.widths, self.batch_size, np.random.default_rng(0)):
            yield [(0, int(index)) for index in batch]
