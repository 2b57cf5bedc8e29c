"""Marks as COCO and Pascal VOC have them, read into one list of images with their boxes, in pixels and unjudged.

COCO  SOURCE/{train,val,test}/*.json, one in each, with the images beside it (Roboflow's export), or files whose name
      says their split (SOURCE/annotations/instances_train2017.json), or one file, which is all of it.
VOC   SOURCE/{train,val,test} with an .xml for each image, or SOURCE/Annotations with SOURCE/ImageSets/Main/train.txt
      and so on, or .xml files, which are all of it. Coordinates are taken as they are: newer tools count pixels from 0,
      the first VOC counted from 1, and nothing in a file tells which.

`valid` and `validation` are val. Nothing outside SOURCE is opened, and XML with a document type is refused.
"""

import json
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

from utils.errors import DataError
from utils.files import read_utf8
from utils.images import IMAGE_SUFFIXES

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
DEFAULT_SPLIT = "train"


@dataclass(frozen=True)
class Mark:
    """box: x1 y1 x2 y2 in pixels; where: what a message calls it."""

    where: str
    name: str
    box: tuple[float, float, float, float]


@dataclass
class MarkedImage:
    """An image as a source describes it. path: None where the image is not there."""

    where: str
    split: str
    path: Path | None
    size: tuple[int, int] | None  # height, width in pixels, where they are stated
    marks: list[Mark] = field(default_factory=list)
    bad_marks: list[tuple[str, str]] = field(default_factory=list)  # (where, reason) of those that do not parse


def read_coco(source: Path, split: str | None = None) -> list[MarkedImage]:
    """split: of a source without splits, by default train. Raises DataError where a file is no COCO JSON, a path leaves
    `source`, or `split` is given for a source that has its own."""
    root = source if source.is_dir() else source.parent
    return [image for part, file in _coco_files(source, split) for image in _read_coco_file(root, part, file)]


def read_voc(source: Path, split: str | None = None) -> list[MarkedImage]:
    """split: of a source without splits, by default train. Raises DataError where a file is no VOC XML, a path leaves
    `source`, or `split` is given for a source that has its own."""
    return [_read_voc_file(source, part, file) for part, file in _voc_files(source, split)]


def unlabelled(source: Path, images: list[MarkedImage]) -> list[Path]:
    """The images that lie in `source`, or where it is a file, beside those that it names, and are not among `images`. None
    of a VOC folder whose lists say what belongs to it."""
    if _voc_lists(source):
        return []
    known = {image.path.resolve() for image in images if image.path}
    there = source.rglob("*") if source.is_dir() else (
        path for folder in {image.path.parent for image in images if image.path} for path in folder.iterdir())
    return sorted(path for path in there if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
                  and not path.name.startswith(".") and path.resolve() not in known)


def split_folders(source: Path) -> dict[str, Path]:
    """The folders of `source` that are named like splits. Raises DataError where two of them are for the same one."""
    folders: dict[str, Path] = {}
    for split, names in SPLIT_NAMES.items():
        for folder in (source / name for name in names if (source / name).is_dir()):
            if split in folders:
                raise DataError(f"{source}: holds {folders[split].name}/ and {folder.name}/, both {split}; rename one")
            folders[split] = folder
    return folders


def _refuse_split(source: Path, split: str | None) -> None:
    if split:
        raise DataError(f"{source}: has splits of its own, which --split {split} does not change; leave --split out")


def _files(folder: Path, suffix: str) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{suffix}") if not path.name.startswith("."))


def _coco_files(source: Path, split: str | None) -> list[tuple[str, Path]]:
    if not source.is_dir():
        return [(split or DEFAULT_SPLIT, source)]
    found = []
    for part, folder in split_folders(source).items():
        files = _files(folder, ".json")
        if len(files) > 1:
            raise DataError(f"{folder}: holds {files[0].name} and {files[1].name}; move one of them away")
        found += [(part, file) for file in files]
    if found:
        _refuse_split(source, split)
        return found
    files = _files(source / "annotations", ".json") or _files(source, ".json")
    if not files:
        raise DataError(f"{source}: holds no COCO JSON, neither in train/, val/ and test/ nor in annotations/")
    if len(files) == 1:
        return [(split or DEFAULT_SPLIT, files[0])]
    for file in files:
        words = [part for part, names in SPLIT_NAMES.items() if names[0] in file.stem.lower()]
        if len(words) != 1 or words[0] in dict(found):
            raise DataError(f"{file}: is one of {len(files)} files, and its name does not tell its split; keep one "
                            "file for each of train, val and test, or name a single one as SOURCE")
        found.append((words[0], file))
    _refuse_split(source, split)
    return found


def _read_coco_file(root: Path, split: str, file: Path) -> list[MarkedImage]:
    try:
        content = json.loads(file.read_bytes().decode("utf-8-sig"))
        names = {category["id"]: str(category["name"]) for category in content["categories"]}
        images = {}
        for image in content["images"]:
            name, first = image.get("file_name"), images.setdefault(image["id"], image).get("file_name")
            if name != first:
                raise DataError(f"{file}: names {first} and {name} by the same id, {image['id']}; number the images anew")
        annotations = list(content["annotations"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file}: is no COCO file: it needs images, annotations and categories ({error})") from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{file}: not readable as JSON ({error})") from None
    marked = _coco_images(root, split, file, images)
    for number, annotation in enumerate(annotations, start=1):
        where = f"{file}, annotation {annotation.get('id', number) if isinstance(annotation, dict) else number}"
        try:
            image = marked[annotation["image_id"]]
        except (KeyError, TypeError):
            raise DataError(f"{where}: belongs to no image of the file") from None
        where = f"{where} of {images[annotation['image_id']]['file_name']}"
        category = annotation.get("category_id")
        if annotation.get("iscrowd"):
            image.bad_marks.append((where, "is a crowd, which has no single box"))
        elif category not in names:
            image.bad_marks.append((where, f"is of category {category}, which the file does not list"))
        else:
            try:
                x, y, width, height = (float(value) for value in annotation.get("bbox"))
                image.marks.append(Mark(where, names[category], (x, y, x + width, y + height)))
            except (TypeError, ValueError):
                image.bad_marks.append((where, "has no bbox of 4 numbers"))
    return list({id(image): image for image in marked.values()}.values())  # each once


def _coco_images(root: Path, split: str, file: Path, images: dict) -> dict[object, MarkedImage]:
    """{id: image, without marks yet}. An image that the file lists under several ids, as tools do that join sets, is one:
    as two it would be learnt with the marks of one and once more without them."""
    # train2017/ beside annotations/ is where COCO itself has the images
    folders = [file.parent, file.parent / "images", root, root / "images", *sorted(root.glob(f"{split}*"))]
    marked: dict[object, MarkedImage] = {}
    of_file: dict[Path | str, MarkedImage] = {}
    again = []
    for key, image in images.items():
        if not isinstance(image, dict) or not isinstance(image.get("file_name"), str):
            raise DataError(f"{file}: image {key} has no file_name")
        name, size = image["file_name"], _size(image.get("height"), image.get("width"))
        path = find_inside(root, folders, name, file)
        if (path or name) in of_file:
            again.append(name)
        marked[key] = of_file.setdefault(path or name, MarkedImage(f"{file}, {name}", split, path, size))
        stated = marked[key].size = marked[key].size or size
        if size not in (None, stated):
            raise DataError(f"{file}: states two sizes for {name}, {stated[1]} x {stated[0]} and {size[1]} x {size[0]}; "
                            "remove one")
    if again:
        print(f"{file}: names images under several ids, whose marks were joined: {len(again)}, first {again[0]}")
    return marked


def _voc_lists(source: Path) -> dict[str, Path]:
    return {part: path for part in SPLIT_NAMES if (path := source / "ImageSets" / "Main" / f"{part}.txt").is_file()}


def _voc_files(source: Path, split: str | None) -> list[tuple[str, Path]]:
    found = [(part, file) for part, folder in split_folders(source).items()
             for file in _files(folder, ".xml") or _files(folder / "Annotations", ".xml")]
    if found:
        _refuse_split(source, split)
        return found
    files = _files(source / "Annotations", ".xml") or _files(source, ".xml")
    if not files:
        raise DataError(f"{source}: holds no VOC XML, neither in train/, val/ and test/ nor in Annotations/")
    lists = _voc_lists(source)
    if not lists:
        return [(split or DEFAULT_SPLIT, file) for file in files]
    _refuse_split(source, split)
    by_stem, parts = {file.stem: file for file in files}, defaultdict(list)
    for part, path in lists.items():
        for line in filter(None, map(str.strip, read_utf8(path).splitlines())):
            stem = line if line in by_stem else re.sub(r"\s+(-1|0|1)$", "", line)  # a list of a class says who has it
            if stem not in by_stem:
                raise DataError(f"{path}: names {stem}, of which there is no {files[0].parent.name}/{stem}.xml")
            parts[stem].append(part)
    if twice := [stem for stem, of in parts.items() if len(of) > 1]:
        raise DataError(f"{source}: {twice[0]} is listed in {' and '.join(parts[twice[0]])} ({len(twice)} such images)")
    if len(parts) < len(files):
        print(f"{source}: {len(files) - len(parts)} of {len(files)} .xml files are in no list of ImageSets/Main and "
              "were left out")
    return [(of[0], by_stem[stem]) for stem, of in parts.items()]


def _read_voc_file(source: Path, split: str, file: Path) -> MarkedImage:
    try:
        text = file.read_bytes().decode("utf-8-sig")
        if re.search(r"<!(DOCTYPE|ENTITY)", text, re.IGNORECASE):
            raise DataError(f"{file}: declares a document type, which VOC has none of; such files are not read")
        tree = ElementTree.fromstring(text)
    except (OSError, UnicodeDecodeError, ElementTree.ParseError) as error:
        raise DataError(f"{file}: not readable as XML ({error})") from None
    if tree.tag != "annotation":
        raise DataError(f"{file}: is no VOC file: its root is {tree.tag}, not annotation")
    above = file.parent.parent
    folders = [file.parent, file.parent / "images", above / "JPEGImages", above / "images", source]
    name = (tree.findtext("filename") or "").strip()
    path = find_inside(source, folders, name, file) if name else None
    # Who renames an image seldom renames it in the XML.
    renamed = (find_inside(source, folders, file.stem + suffix, file) for suffix in IMAGE_SUFFIXES)
    path = path or next((found for found in renamed if found), None)
    image = MarkedImage(f"{file}, {name or file.stem}", split, path,
                        _size(tree.findtext("size/height"), tree.findtext("size/width")))
    for number, thing in enumerate(tree.iter("object"), start=1):
        where = f"{file}, object {number}"
        try:
            box = tuple(float(thing.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
        except (TypeError, ValueError):
            image.bad_marks.append((where, "has a bndbox that is not xmin, ymin, xmax, ymax"))
            continue
        if thing_name := (thing.findtext("name") or "").strip():
            image.marks.append(Mark(where, thing_name, box))
        else:
            image.bad_marks.append((where, "has no name"))
    return image


def find_inside(root: Path, folders: list[Path], name: str, file: Path) -> Path | None:
    """The first folder / name that is a file; it must lie inside `root` once links and dots are resolved.

    Raises DataError where it does not, or where `name` could not lie inside whatever is there.
    """
    name = name.replace("\\", "/")
    if Path(name).is_absolute() or ".." in Path(name).parts or re.match("[A-Za-z]:", name):
        raise DataError(f"{file}: names {name}, which leaves the folder {root}; copy the images inside")
    path = next((path for path in (folder / name for folder in folders) if path.is_file()), None)
    if path and not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{path}: is a link that leaves the folder {root}; copy the image inside")
    return path


def _size(height, width) -> tuple[int, int] | None:
    try:
        size = int(float(height)), int(float(width))
    except (TypeError, ValueError, OverflowError):
        return None
    return size if min(size) > 0 else None


READERS = {"coco": read_coco, "voc": read_voc}
