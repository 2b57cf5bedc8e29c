"""Make YOLO folders and data.yaml from marks labelled as COCO or Pascal VOC (docmarks).

    python -m datasets.convert_marks coco exports/roboflow --out data/marks
    python -m datasets.convert_marks voc VOCdevkit/stamps --out data/marks --names qr,signature,stamp
    python -m datasets.convert_marks coco labels.json --out data/marks --split train

DIR appears whole or not at all. Every box that cannot be used (no size, outside its image, no known class) is named and
left out; images that are not there, unreadable, or of another size than their labels say count as bad samples. Images
that no label file names are counted and left out.
"""

import argparse
import math
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from pathlib import Path

import yaml

from datasets.formats.marks import READERS, SPLIT_NAMES, Mark, MarkedImage, unlabelled
from datasets.yolo import TOLERANCE
from utils.args import fraction, new_parser
from utils.errors import BadSamples, DataError, exit_cleanly
from utils.frames import size_fault
from utils.images import image_size

SMALLEST = 1e-7  # share of an image that a side of a box must have: label files are written to seven places


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("format", choices=READERS)
    parser.add_argument("source", type=Path, metavar="SOURCE", help="folder; for COCO also a single JSON file")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to make; it must not exist")
    parser.add_argument("--names", help="classes to keep, in the order of their numbers, such as qr,signature,stamp "
                        "(default: all that have marks, by the alphabet)")
    parser.add_argument("--split", choices=SPLIT_NAMES, help="where a source without splits goes (default: train)")
    parser.add_argument("--max-bad-fraction", type=fraction, default=0.01,
                        help="share of bad images, and of bad boxes, that may be left out (default: %(default)s)")
    args = parser.parse_args(argv)
    args.names = [name.strip() for name in args.names.split(",")] if args.names else None
    if args.names and ("" in args.names or len(set(args.names)) < len(args.names)):
        parser.error("--names: a name is empty or there twice")
    return args


def class_names(images: list[MarkedImage], wanted: list[str] | None, source: Path) -> list[str]:
    """The classes in the order of their numbers. One that is wanted and has no mark is said; DataError where that may be a
    slip, since there are marks of other names, or where there is no mark at all."""
    there = Counter(mark.name for image in images for mark in image.marks)
    if not there:
        raise DataError(f"{source}: holds no marks that can be read")
    names = wanted or sorted(there)
    if unknown := [name for name in names if name not in there]:
        if not there.keys() <= set(names):
            raise DataError(f"--names {unknown[0]}: no mark is called so; there are {', '.join(sorted(there))}")
        print(f"warning: {source}: has no mark of {', '.join(unknown)}", file=sys.stderr)
    if others := [f"{there[name]} {name}" for name in sorted(there) if name not in names]:
        print(f"{source}: marks of other classes were left out: {', '.join(others)}")
    return names


def say_unlabelled(source: Path, images: list[MarkedImage]) -> None:
    """They could be pages without marks, but nobody has said so."""
    if others := unlabelled(source, images):
        root = source if source.is_dir() else source.parent
        print(f"{root}: images that no label file names were left out: {len(others)}, first "
              f"{', '.join(path.relative_to(root).as_posix() for path in others[:5])}")


def refuse_twice(images: list[MarkedImage]) -> None:
    """Raise DataError where two label files, or two splits, name one image: a test would score what was learnt, or it would be
    learnt with some of its marks and once more with the others."""
    first: dict[Path, MarkedImage] = {}
    for image in images:
        if image.path and (other := first.setdefault(image.path.resolve(), image)) is not image:
            splits = other.split if other.split == image.split else f"{other.split} and {image.split}"
            raise DataError(f"{image.path}: is named twice, for {splits} ({other.where}; {image.where}); leave it in one")


def judge(mark: Mark, height: int, width: int) -> tuple[float, float, float, float]:
    """YOLO's x-centre, y-centre, width, height in shares of the image. Raises ValueError where the box is invalid."""
    if not all(map(math.isfinite, mark.box)):
        raise ValueError("has coordinates that are not finite")
    x1, y1, x2, y2 = mark.box
    if x2 <= x1 or y2 <= y1:
        raise ValueError(f"has no size ({x2 - x1:g} x {y2 - y1:g} pixels)")
    x1, y1, x2, y2 = x1 / width, y1 / height, x2 / width, y2 / height
    place = f"{', '.join(f'{value:g}' for value in mark.box)} in {width} x {height} pixels"
    if min(x1, y1) < -TOLERANCE or max(x2, y2) > 1 + TOLERANCE:
        raise ValueError(f"reaches outside its image ({place})")
    x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2))
    if min(x2 - x1, y2 - y1) < SMALLEST:
        raise ValueError(f"lies outside its image, or has no size in it ({place})")
    return (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1


def label_lines(image: MarkedImage, names: list[str], bad: BadSamples) -> list[str]:
    """The lines of an image's label file. Marks of classes that are not in `names` are passed over, invalid ones added
    to `bad`. Raises ValueError or DataError where the image itself cannot be used."""
    if image.path is None:
        raise ValueError("has no image file")
    height, width = image_size(image.path)
    if image.size not in (None, (height, width)):
        raise ValueError(size_fault("the labelled image", image.size, "the one that is there", (height, width)))
    lines = []
    for where, reason in image.bad_marks:
        bad.add(where, reason)
    for mark in image.marks:
        if mark.name in names:
            try:
                box = judge(mark, height, width)
            except ValueError as error:
                bad.add(mark.where, str(error))
            else:
                lines.append(" ".join([str(names.index(mark.name)), *(f"{value:.7f}" for value in box)]))
    return lines


def output_name(image: MarkedImage, taken: set[tuple[str, str]]) -> str:
    """A file name that no other image of the split has, suffix apart, since label files go by the stem."""
    stem, number = image.path.stem, 1
    while (image.split, stem) in taken:
        number += 1
        stem = f"{image.path.stem}_{number}"
    taken.add((image.split, stem))
    return stem + image.path.suffix


def write(images: list[MarkedImage], names: list[str], root: Path, max_bad_fraction: float) -> str:
    """Fill `root` with YOLO folders; returns what is in it, in words."""
    bad_images, bad_marks, taken = BadSamples(max_bad_fraction), BadSamples(max_bad_fraction), set()
    counts: dict[str, Counter] = defaultdict(Counter)
    for image in images:
        try:
            lines = label_lines(image, names, bad_marks)
        except ValueError as error:
            bad_images.add(image.where, str(error))
            continue
        except DataError as error:
            bad_images.add(*str(error).split(": ", 1))
            continue
        folder, name = root / image.split, output_name(image, taken)
        for part in ("images", "labels"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(image.path, folder / "images" / name)
        (folder / "labels" / f"{Path(name).stem}.txt").write_text("".join(line + "\n" for line in lines))
        counts[image.split].update(["images", *(names[int(line.split()[0])] for line in lines)])
    for reason in bad_marks.reasons:
        print(f"left out: {reason}", file=sys.stderr)
    bad_images.settle(len(images))
    bad_marks.settle(sum(len(image.marks) + len(image.bad_marks) for image in images), named=True)
    splits = {split: f"{split}/images" for split in SPLIT_NAMES if split in counts}
    content = yaml.safe_dump(splits | {"names": dict(enumerate(names))}, allow_unicode=True, sort_keys=False)
    (root / "data.yaml").write_text(content, encoding="utf-8")
    return "; ".join(f"{split} " + ", ".join(f"{count} {name}" for name, count in counts[split].items())
                     for split in splits)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if not args.source.exists():
        raise DataError(f"{args.source}: no such file or folder")
    if args.out.exists():
        raise DataError(f"{args.out}: is there already; remove it, or take another --out")
    images = READERS[args.format](args.source, args.split)
    refuse_twice(images)
    say_unlabelled(args.source, images)
    names = class_names(images, args.names, args.source)
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that one rename puts it there.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=args.out.parent) as folder:
            (root := Path(folder) / args.out.name).mkdir()
            told = write(images, names, root, args.max_bad_fraction)
            root.rename(args.out)
    except OSError as error:
        raise DataError(f"{args.out}: cannot be written ({error.strerror or error})") from None
    print(f"{args.out}: {told}")


if __name__ == "__main__":
    exit_cleanly(main)
