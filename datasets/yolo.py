"""YOLO data: data.yaml, images and label files, checked before anything is trusted.

    data.yaml               names: {0: qr, 1: signature, 2: stamp}, train: train/images, val: ..., test: ...
    train/images/a.png
    train/labels/a.txt      one mark a line: class x-centre y-centre width height, 0 to 1 of the image's size, or
                            class x1 y1 ... xn yn, an outline, of which the box around it is taken

A split may join folders, `train: [letters/train/images, packs/train/images]`; one that is named twice counts twice. It
may also be a list, `train: train.txt`, of an image a line, from the list's folder or that of data.yaml. As exports of
others have it, val: may be called valid:, and ../train/images mean train/images where that is there.
Where they label different classes, data.yaml says so, and an unlabelled class is no negative in training and scores:

    labelled: {letters: [signature], packs: [qr]}    by folder; a folder that is not named labels all classes

Nothing that data.yaml or the folder holds is run: a `download:` key is refused, paths stay inside the folder, and
ultralytics' `.cache` files, which are pickles, are never opened.
"""

import sys
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import Sequence

import numpy as np
import yaml

from datasets.splits import SPLITS, divide, refuse_flags, splits_to_read
from utils.args import MAKE_DATA
from utils.errors import BadSamples, DataError
from utils.images import image_size, list_images

OTHER_NAMES = {"val": ("valid", "validation")}
LEAST_CORNERS = 4  # of an outline
TOLERANCE = 0.01  # share of the image by which a box may stick out before it counts as wrong


@dataclass(frozen=True)
class MarksData:
    """What data.yaml says: class names by number, and the image folders and lists of each split; a file that names no
    split, beside images/, has them all in "all"."""

    file: Path
    names: dict[int, str]
    splits: dict[str, list[Path]]
    labelled: dict[Path, frozenset[int]] = field(default_factory=dict)  # by folder, resolved; others label everything

    def classes_of(self, folder: Path) -> frozenset[int]:
        """The classes that the images of `folder` are labelled with, as the nearest folder above says."""
        above = next((part for part in (folder.resolve(), *folder.resolve().parents) if part in self.labelled), None)
        return self.labelled[above] if above else frozenset(self.names)


@dataclass(frozen=True)
class MarkSample:
    """One image and its marks."""

    file: Path
    height: int  # pixels, EXIF orientation applied
    width: int
    classes: np.ndarray  # (N,) int64
    boxes: np.ndarray  # (N, 4) float32 x-centre, y-centre, width, height, 0 to 1
    labelled: frozenset[int] | None = None  # classes that are marked wherever they are; None: all
    outlined: int = 0  # marks whose label was an outline

    def labels_class(self, class_id: int) -> bool:
        return self.labelled is None or class_id in self.labelled

    def corners(self) -> np.ndarray:
        """(N, 4) float64 x1 y1 x2 y2 in pixels."""
        boxes = self.boxes.astype(np.float64)
        half = boxes[:, 2:] / 2
        size = np.array([self.width, self.height] * 2)
        return np.hstack([boxes[:, :2] - half, boxes[:, :2] + half]) * size


def read_data_yaml(folder: Path) -> MarksData:
    """Read FOLDER/data.yaml, or the file itself where its path is given.

    Raises DataError where it is missing, is no YAML, holds a `download:` key, names no classes, or points outside its
    own folder.
    """
    file = folder if folder.suffix in (".yaml", ".yml") else folder / "data.yaml"
    if not file.parent.is_dir():
        raise DataError(f"{file.parent}: no such folder; name one with --data-dir, or make pages to learn from with: "
                        f"{MAKE_DATA}")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataError(f"{file}: no such file; it names the classes and the splits (names:, train:, val:, test:)"
                        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"{file}: not readable as YAML ({' '.join(str(error).split())[:150]})") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: holds no keys (names:, train:, val:, test:)")
    if content.get("download"):
        raise DataError(f"{file}: has a download: key, which is a command to run; fetch the data yourself, remove it")
    if content.get("kpt_shape"):
        raise DataError(f"{file}: has kpt_shape:, so its labels are key points and not boxes; convert them")
    root = _inside(file, file.parent, content.get("path") or ".")
    splits = {}
    for split in SPLITS:
        given = next((content[name] for name in (split, *OTHER_NAMES.get(split, ())) if content.get(name)), None)
        if given:
            given = given if isinstance(given, list) else [given]
            splits[split] = [_inside(file, root, _led_back(file, root, split, part)) for part in given]
    if not splits and (root / "images").is_dir():
        splits["all"] = [root / "images"]
    names = _class_names(file, content)
    return MarksData(file, names, splits, _labelled(file, root, content.get("labelled"), names, splits))


def _class_names(file: Path, content: dict) -> dict[int, str]:
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise DataError(f"{file}: names: must list the classes")
    if sorted(map(str, names)) != sorted(str(number) for number in range(len(names))):
        raise DataError(f"{file}: names: must be numbered 0 to {len(names) - 1}, not {', '.join(map(str, names))}")
    names = {number: str(names.get(number, names.get(str(number)))) for number in range(len(names))}
    if len(set(names.values())) < len(names):
        raise DataError(f"{file}: names: holds a name twice ({', '.join(names.values())})")
    if content.get("nc") not in (None, len(names)):
        raise DataError(f"{file}: nc: is {content['nc']}, but names: lists {len(names)} classes")
    return names


def _labelled(file: Path, root: Path, given, names: dict[int, str], splits: dict) -> dict[Path, frozenset[int]]:
    """labelled: of data.yaml as {resolved folder: class numbers}. A folder that holds no split's images is refused: a
    misspelt one would turn unlabelled marks into negatives without a word."""
    if not isinstance(given or {}, dict):
        raise DataError(f"{file}: labelled: must give the classes of folders, such as {{letters: [signature]}}")
    numbers, result = {name: number for number, name in names.items()}, {}
    folders = [folder.resolve() for parts in splits.values() for part in parts for folder in _folders(file, part)]
    for part, classes in (given or {}).items():
        folder = _inside(file, root, part).resolve()
        if not any(known.is_relative_to(folder) for known in folders):
            raise DataError(f"{file}: labelled: {part} holds no folder of {', '.join(splits) or 'a split'}")
        unknown = [name for name in classes if name not in numbers] if isinstance(classes, list) else [classes]
        if unknown:
            raise DataError(f"{file}: labelled: {part}: {unknown[0]!r} is not in names: ({', '.join(numbers)})")
        result[folder] = frozenset(numbers[name] for name in classes)
    return result


def _led_back(file: Path, root: Path, split: str, part):
    """Roboflow's `../train/images`, which lies beside data.yaml, without the dots; other parts as they are."""
    inner = part
    while isinstance(inner, str) and inner.startswith("../"):
        inner = inner[3:]
    if inner == part or (root / part).resolve().is_relative_to(file.parent.resolve()) or not (root / inner).exists():
        return part
    print(f"{file}: {split}: {part} leads out of its folder; {inner} inside it is taken", file=sys.stderr)
    return inner


def _folders(file: Path, part: Path) -> set[Path]:
    """Where the images of a split's folder or list lie."""
    return {image.parent for image in _listed(file, part)} if part.suffix == ".txt" and part.is_file() else {part}


def _listed(file: Path, part: Path) -> list[Path]:
    """The images that a list names, sorted. Raises DataError where one lies outside the folder of data.yaml."""
    try:
        lines = [line.strip() for line in part.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
        roots = [part.parent if (part.parent / line).is_file() else file.parent for line in lines]
    except FileNotFoundError:
        raise DataError(f"{part}: no such file, though {file} names it") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{part}: not readable as a list of images ({error})") from None
    if not lines:
        raise DataError(f"{part}: names no images")
    return sorted(_inside(file, root, line) for root, line in zip(roots, lines))


def _inside(file: Path, root: Path, part) -> Path:
    """root / part, which must lie in the folder of data.yaml once links and dots are resolved."""
    if not isinstance(part, str):
        raise DataError(f"{file}: {part!r} is not a path")
    path = root / part
    if not path.resolve().is_relative_to(file.parent.resolve()):
        raise DataError(f"{file}: {part} leaves the folder of data.yaml; move or copy the data inside")
    return path


def read_marks(args, data: MarksData, names: Sequence[str] = ()) -> dict[str, list[MarkSample]]:
    """{split: its samples} for the splits in `names`, by default what a training looks at: train, val, and for preflight
    test where there is one, or the first N of train with --overfit N. Where data.yaml names no split, datasets.splits
    makes them."""
    if "all" in data.splits:
        samples = index_marks(data, "all", args.max_bad_fraction)
        parts = divide(args, samples, names or splits_to_read(args), attrgetter("file"))
    else:
        if data.splits:  # else index_marks says which key is missing
            refuse_flags(args)
        known = SPLITS[:1] if args.overfit else SPLITS
        names = names or [name for name in known if name != "test" or (name in data.splits and not args.no_preflight)]
        parts = {name: index_marks(data, name, args.max_bad_fraction) for name in names}
    return {name: part[: args.overfit] for name, part in parts.items()}


def index_marks(data: MarksData, split: str, max_bad_fraction: float = 0.01) -> list[MarkSample]:
    """The samples of a split, sorted by path.

    Bad samples (an image without a label file or the reverse, an unreadable header, a line that does not parse, an
    unknown class, a box without size or outside the image) are reported and left out; more than `max_bad_fraction` of
    them raises DataError. An empty label file is an image without marks.
    """
    if split not in data.splits:
        raise DataError(f"{data.file}: has no {split}: key")
    bad, samples, total = BadSamples(max_bad_fraction), [], 0
    for part in data.splits[split]:
        if part.suffix == ".txt":
            images, orphans = _listed(data.file, part), []
        elif part.is_dir():
            images = list_images(part)
            orphans = sorted({path.stem for path in label_folder(part).glob("*.txt")} - {path.stem for path in images})
        else:
            raise DataError(f"{part}: no such folder, though {data.file} names it as {split}:")
        for stem in orphans:
            bad.add(label_folder(part) / f"{stem}.txt", f"label without an image in {part}")
        total += len(images) + len(orphans)
        for image in images:
            try:
                samples.append(_read_sample(image, label_folder(image.parent) / f"{image.stem}.txt", data.names,
                                            data.classes_of(image.parent)))
            except DataError as error:
                path, _, reason = str(error).partition(": ")
                bad.add(path, reason)
    bad.settle(total)
    if outlined := sum(sample.outlined for sample in samples):
        print(f"{data.file}: {split}: {outlined} of {sum(len(sample.classes) for sample in samples)} marks are labelled by "
              "an outline; the boxes around them are taken", file=sys.stderr)
    return samples


def label_folder(images: Path) -> Path:
    """Where the labels of an image folder lie: its last `images` part replaced by `labels`, as YOLO tools have it."""
    parts = list(images.parts)
    if "images" in parts:
        place = len(parts) - 1 - parts[::-1].index("images")
        return Path(*parts[:place], "labels", *parts[place + 1 :])
    return images


def _read_sample(image: Path, label: Path, names: dict[int, str], labelled: frozenset[int]) -> MarkSample:
    height, width = image_size(image)
    if not label.is_file():
        raise DataError(f"{image}: has no label file {label}; an image without marks needs an empty one")
    try:
        lines = label.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{label}: not readable as text ({error})") from None
    rows = dict.fromkeys(_parse_line(label, n, line, names) for n, line in enumerate(lines, 1) if line.strip())
    if strays := {row[0] for row in rows} - labelled:
        raise DataError(f"{label}: holds a {names[min(strays)]}, which data.yaml does not count among the classes that "
                        "are labelled here")
    return MarkSample(image, height, width, np.array([row[0] for row in rows], np.int64),
                      np.array([row[1:] for row in rows], np.float32).reshape(-1, 4),
                      None if labelled == set(names) else labelled, sum(len(line.split()) > 5 for line in lines))


def _parse_line(label: Path, number: int, line: str, names: dict[int, str]) -> tuple:
    """(class, x-centre, y-centre, width, height), of an outline those of the box around it, cut to the image where the box
    sticks out by less than TOLERANCE."""
    def refuse(reason: str):
        raise DataError(f"{label}: line {number}: {reason}")

    try:
        values = [float(word) for word in line.split()]
    except ValueError:
        refuse(f"{line.strip()[:60]!r} is not five numbers")
    if len(values) != 5 and (len(values) < 1 + 2 * LEAST_CORNERS or len(values) % 2 == 0):
        refuse(f"{len(values)} values where class, x-centre, y-centre, width and height are expected, or class and the x "
               f"and y of {LEAST_CORNERS} corners or more")
    if not np.isfinite(values).all():
        refuse("a value is not finite")
    class_id, x, y, w, h = values if len(values) == 5 else _around(values)
    if class_id not in names:
        refuse(f"class {class_id:g} is not in data.yaml (0 to {len(names) - 1})")
    if w <= 0 or h <= 0:
        refuse("the box has no size")
    edges = np.array([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    if edges.min() < -TOLERANCE or edges.max() > 1 + TOLERANCE:
        refuse(f"the box reaches outside the image ({', '.join(f'{edge:.3f}' for edge in edges)}); "
               "values are x-centre, y-centre, width, height as shares of the image's size")
    if edges.min() < 0 or edges.max() > 1:
        x1, y1, x2, y2 = edges.clip(0, 1)
        x, y, w, h = (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1
    return int(class_id), x, y, w, h


def _around(values: list[float]) -> tuple[float, ...]:
    """class x1 y1 ... xn yn -> class, and x-centre, y-centre, width and height of the box around."""
    xs, ys = values[1::2], values[2::2]
    return values[0], (min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2, max(xs) - min(xs), max(ys) - min(ys)


def count_marks(samples: list[MarkSample], names: dict[int, str]) -> dict[str, int]:
    """How many marks of each class there are."""
    counts = np.bincount(np.concatenate([sample.classes for sample in samples]), minlength=len(names))
    return dict(zip(names.values(), counts.tolist()))


def describe_marks(samples: list[MarkSample], names: dict[int, str]) -> str:
    """'51 images: qr 20, signature 45, stamp 35; 3 without marks'"""
    empty = sum(not len(sample.classes) for sample in samples)
    partly = sum(sample.labelled is not None for sample in samples)
    marks = ", ".join(f"{name} {count}" for name, count in count_marks(samples, names).items())
    return (f"{len(samples)} images: {marks}" + (f"; {empty} without marks" if empty else "")
            + (f"; {partly} with some classes unlabelled" if partly else ""))


def cost_of_a_miss(samples: list[MarkSample], names: dict[int, str]) -> str:
    """'costs points of recall: qr 5.0, signature 2.2': how coarse the scores of a small split are."""
    costs = [f"{name} {100 / count:.1f}" for name, count in count_marks(samples, names).items() if count]
    return f"costs points of recall: {', '.join(costs) or 'there are no marks'}"
