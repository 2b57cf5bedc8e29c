"""Text labels in JSON: every shape is read into the same list of images with their words.

    receipt competition   {"images": {NAME: {"words": {ID: {"points": [[x, y], ...], "transcription": TEXT}}}}}
    COCO-Text, TextOCR    {"imgs": {ID: {"file_name": NAME}}, "anns": {ID: {"image_id": ID, "bbox": [x, y, w, h],
                          "mask" (v2), "polygon" (v1) or "points" (TextOCR): [x1, y1, ...], "utf8_string": TEXT}}}
    AI Hub, annotations   {"images": [{"image.file.name": NAME}], "annotations": [{"annotation.text": TEXT,
                          "annotation.bbox": [x, y, w, h]}]}: public administrative documents, one file for each image;
                          without "image." and "annotation.": signs, goods, books in the wild (id and image_id join
                          them), and printed and handwritten samples, whose text is that of the whole image
    AI Hub, Bbox          {"Images": {"identifier": NAME}, "Bbox": [{"x": [4 numbers], "y": [...], "data": TEXT}]}:
                          large OCR set, public sector
    AI Hub, wordbox       {"image": {"file_name": NAME}, "text": {"word": [{"wordbox": [x1, y1, x2, y2],
                          "value": TEXT}]}}: Hangul characters in various forms
    docTR, recognition    {NAME: TEXT}, nothing else: the whole image is the crop

The AI Hub shapes are those that public readers of these sets expect; the sets themselves are given out on request only.
What nobody could read ("illegibility", "legibility", TextOCR's ".", AI Hub's "xxx") becomes "###", do not care.
"""

import json
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Iterable, Iterator

import numpy as np

from utils.charset import nfc
from utils.errors import BadSamples, DataError
from utils.files import read_utf8
from utils.frames import size_fault
from utils.geometry import order_quad

ILLEGIBLE = "###"


@dataclass(frozen=True)
class Word:
    """A transcription and its polygon (N, 2) float32 in pixels, or None where it is the text of the whole image."""

    text: str
    points: np.ndarray | None


@dataclass(frozen=True)
class LabelledImage:
    """What a JSON file says of one image."""

    file: Path  # the JSON file
    name: str  # of the image: NFC, without folders
    size: tuple[int, int] | None  # height, width in pixels, where they are stated
    words: list[Word]
    error: str = ""  # why the words cannot be used
    shared: bool = False  # whether such a file lists the images of other splits too

    def __str__(self) -> str:
        return f"{self.file}, {self.name}"


def find_label_json(folder: Path) -> list[Path]:
    """The JSON files that label a split: those in labels/, those beside the images, or the one in the folder itself.

    Raises DataError where more than one of these places holds labels, text files in labels/ included: which are right?
    """
    labels, images = folder / "labels", image_folder(folder)
    places = [_visible(labels, "*.txt")[:1], _visible(labels, "*.json"), _visible(images, "*.json")]
    if images != folder:
        places += [[file] for file in _visible(folder, "*.json")]
    found = [files for files in places if files]
    if len(found) > 1:
        raise DataError(f"{folder}: is labelled by {found[0][0].relative_to(folder)} and by "
                        f"{found[1][0].relative_to(folder)}; move one of them away")
    return found[0] if found and found[0][0].suffix == ".json" else []


def image_folder(folder: Path) -> Path:
    """Where the images of a split lie: in images/, or, where there is no such folder, beside the labels."""
    beside = not (folder / "images").is_dir() and not (folder / "labels").is_dir() and _visible(folder, "*.json")
    return folder if beside else folder / "images"


def _visible(folder: Path, pattern: str) -> list[Path]:
    return sorted(path for path in folder.glob(pattern) if not path.name.startswith("."))


def match_images(files: list[Path], images: list[Path], bad: BadSamples,
                 use: Callable[[Path, LabelledImage], object]) -> tuple[list, int]:
    """(what use(image path, its label) returns for every labelled image, number of samples looked at).

    Images are found by their name, else by their name without suffix; no path in a file is followed. Added to `bad`:
    images without a label, labels without an image, second labels, and what `use` refuses by ValueError or DataError.
    COCO-Text and AI Hub list the images of all splits in one file, so their labels without an image are only counted.
    """
    by_name, by_stem = {nfc(path.name): path for path in images}, defaultdict(list)
    for path in images:
        by_stem[nfc(path.stem)].append(path)
    used, elsewhere, orphans = {}, [], 0
    for label in (label for file in files for label in read_label_json(file)):
        namesakes = by_stem.get(label.name, by_stem.get(Path(label.name).stem, []))
        path = by_name.get(label.name) or (namesakes[0] if len(namesakes) == 1 else None)
        if path is None and label.shared:
            elsewhere.append(label)
        elif path is None or path in used:
            orphans += 1
            bad.add(str(label), "has no image" if path is None else f"is labelled a second time (also in {used[path]})")
        else:
            used[path] = label
    items = []
    for path in images:
        try:
            if path not in used:
                raise ValueError(f"has no label in {files[0] if len(files) == 1 else files[0].parent}")
            items.append(use(path, used[path]))
        except ValueError as error:
            bad.add(str(used.get(path, path)), str(error))
        except DataError as error:
            bad.add(*str(error).split(": ", 1))
    if elsewhere:
        print(f"{elsewhere[0].file.parent}: {len(elsewhere)} labelled images are not here and were left out "
              f"({elsewhere[0].name}, ...): of other splits?")
    return items, len(images) + orphans


def check_frame(label: LabelledImage, height: int, width: int) -> None:
    """ValueError where the words were drawn on an image of another size than the one that is there."""
    if label.error:
        raise ValueError(label.error)
    if label.size in (None, (height, width)):
        return
    points = [word.points for word in label.words if word.points is not None]
    # Turned by EXIF, files state either size; the points tell which frame they are in.
    turned = label.size == (width, height)
    if not turned or any(((p < -2) | (p > (width + 2, height + 2))).any() for p in points):
        raise ValueError(size_fault("the labelled image", label.size, "the one that is there", (height, width)))


def read_label_json(path: Path) -> list[LabelledImage]:
    """All images of one file. Raises DataError where it is no JSON, or of none of the shapes above."""
    try:
        content = json.loads(read_utf8(path))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not readable as JSON ({error})") from None
    content = content if isinstance(content, dict) else {}
    for keys, kinds, read in SHAPES:
        if all(isinstance(content.get(key), kind) for key, kind in zip(keys, kinds)):
            try:
                return list(read(path, content))
            except (KeyError, TypeError, AttributeError, ValueError, OverflowError) as error:
                raise DataError(f"{path}: has the keys {' and '.join(keys)}, but not what belongs under them "
                                f"({type(error).__name__}: {error})") from None
    if content and all(isinstance(text, str) for text in content.values()):
        return [_labelled(path, name, None, None, [(1, text)], lambda text: Word(text, None))
                for name, text in content.items()]
    raise DataError(f"{path}: of no known shape (its keys: {', '.join(list(content)[:8]) or 'none'}); known are "
                    + ", ".join(" with ".join(keys) for keys, _, _ in SHAPES) + ", and {FILE: TEXT} alone")


def _labelled(file: Path, name, height, width, words: Iterable, read: Callable[[dict], Word],
              shared: bool = False) -> LabelledImage:
    """words: (name in messages, what the file says) pairs; the first that `read` refuses is the image's error."""
    name = nfc(str(name).replace("\\", "/").rsplit("/", 1)[-1])
    size = (int(height), int(width)) if height and width else None
    read_words = []
    for key, word in words:
        try:
            read_words.append(read(word))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else str(error)
            return LabelledImage(file, name, size, [], f"word {key} {reason}", shared)
    return LabelledImage(file, name, size, read_words, shared=shared)


def _receipts(file: Path, content: dict) -> Iterator[LabelledImage]:
    def read(word: dict) -> Word:
        return Word(ILLEGIBLE if word.get("illegibility") is True else _text(word.get("transcription")),
                    as_polygon(word["points"]))

    for name, image in content["images"].items():
        words = image.get("words")
        if not isinstance(words, dict):
            yield LabelledImage(file, nfc(name), None, [], "has no words")
        else:
            yield _labelled(file, name, image.get("img_h"), image.get("img_w"), words.items(), read)


def _coco_text(file: Path, content: dict) -> Iterator[LabelledImage]:
    def read(ann: dict) -> Word:
        text = _text(ann.get("utf8_string"))
        unread = ann["legibility"] == "illegible" if "legibility" in ann else text == "."
        polygon = next((ann[key] for key in ("mask", "polygon", "points") if ann.get(key)), None)
        return Word(ILLEGIBLE if unread else text, as_polygon(polygon) if polygon else as_box(ann["bbox"]))

    yield from _joined(file, content["imgs"].items(), content["anns"].items(), read)


def _aihub_annotations(file: Path, content: dict) -> Iterator[LabelledImage]:
    def read(ann: dict) -> Word:
        text = _text(ann["text"])
        shape = next((ann[key] for key in ("bbox", "polygon", "points") if ann.get(key) is not None), None)
        box = isinstance(shape, list) and len(shape) == 4 and not isinstance(shape[0], list)
        points = None if shape is None else as_box(shape) if box else as_polygon(shape)
        return Word(ILLEGIBLE if text == "xxx" else text, points)

    images = [{key.removeprefix("image.").replace(".", "_"): value for key, value in image.items()}
              for image in content["images"]]
    words = [{key.removeprefix("annotation."): value for key, value in ann.items()}
             for ann in content["annotations"]]
    # Beside its words, the set in the wild boxes every character of them.
    words = [ann for ann in words if (ann.get("attributes") or {}).get("class") != "character"]
    if len(images) == 1:
        images[0]["id"] = None
        words = [ann | {"image_id": None} for ann in words]
    yield from _joined(file, ((image["id"], image) for image in images), enumerate(words, 1), read)


def _joined(file: Path, images: Iterable, anns: Iterable, read: Callable[[dict], Word]) -> Iterator[LabelledImage]:
    """Images and annotations, given as (key, what the file says) pairs and joined by the annotations' image_id."""
    of_image = defaultdict(list)
    for key, ann in anns:
        of_image[str(ann["image_id"])].append((key, ann))
    for key, image in images:
        name, words = image.get("file_name") or image["filename"], of_image.pop(str(key), [])
        yield _labelled(file, name, image.get("height"), image.get("width"), words, read, shared=True)
    if of_image:
        raise ValueError(f"annotations of images that are not listed, such as {next(iter(of_image))}")


def _aihub_bbox(file: Path, content: dict) -> Iterator[LabelledImage]:
    def read(box: dict) -> Word:
        if not len(box["x"]) == len(box["y"]) == 4:
            raise ValueError("does not have 4 x and 4 y")
        # The corners do not come in the order of a ring.
        return Word(_text(box["data"]), order_quad(numbers([box["x"], box["y"]]).T))

    image = content["Images"]
    name = f"{image['identifier']}.{image.get('type') or 'jpg'}"
    yield _labelled(file, name, image.get("height"), image.get("width"), enumerate(content["Bbox"], 1), read)


def _aihub_wordbox(file: Path, content: dict) -> Iterator[LabelledImage]:
    def read(word: dict) -> Word:
        x1, y1, x2, y2 = numbers(word["wordbox"])
        return Word(_text(word["value"]), as_box([x1, y1, x2 - x1, y2 - y1]))

    image = content["image"]
    yield _labelled(file, image["file_name"], image.get("height"), image.get("width"),
                    enumerate(content["text"]["word"], 1), read)


SHAPES = ((("images",), (dict,), _receipts), (("imgs", "anns"), (dict, dict), _coco_text),
          (("images", "annotations"), (list, list), _aihub_annotations),
          (("Images", "Bbox"), (dict, list), _aihub_bbox), (("image", "text"), (dict, dict), _aihub_wordbox))


def _text(value) -> str:
    if value is not None and not isinstance(value, (str, int, float)):
        raise ValueError("has a transcription that is no text")
    return "" if value is None else str(value)


def numbers(values) -> np.ndarray:
    """Float32 array of the same shape. Raises ValueError where one is no finite number (AI Hub has boxes of nulls)."""
    try:
        with np.errstate(over="ignore"):
            array = np.array(values, np.float32)
    except (ValueError, TypeError, OverflowError):
        array = np.array(np.nan)
    if not np.isfinite(array).all() or isinstance(values, str):
        raise ValueError("has coordinates that are not finite numbers")
    return array


def as_box(values) -> np.ndarray:
    """[x, y, width, height] -> (4, 2) float32 clockwise from the top left corner."""
    box = numbers(values)
    if box.shape != (4,):
        raise ValueError("has a box that is not 4 numbers")
    x, y, width, height = box
    if width < 0 or height < 0:
        raise ValueError(f"has a box {width:g} wide and {height:g} high")
    return np.float32([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])


def as_polygon(values) -> np.ndarray:
    """[[x, y], ...] or [x1, y1, ...] -> (N, 2) float32, N >= 3. Four corners whose sides cross (zigzag order, common in
    converted sets) are put in the order of a ring."""
    points = numbers(values)
    if points.ndim == 1 and points.size % 2 == 0:
        points = points.reshape(-1, 2)
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError("has points that are not pairs of numbers")
    if len(points) < 3:
        raise ValueError(f"has {len(points)} points, where 3 or more are needed")
    return order_quad(points) if len(points) == 4 and sides_cross(points) else points


def sides_cross(quad: np.ndarray) -> bool:
    """Whether two opposite sides of a (4, 2) quad cut each other."""
    def turns(a, b, c) -> float:
        return float((b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0]))

    def cut(a, b, c, d) -> bool:
        return turns(a, b, c) * turns(a, b, d) < 0 and turns(c, d, a) * turns(c, d, b) < 0

    a, b, c, d = np.asarray(quad, np.float64)
    return cut(a, b, c, d) or cut(b, c, d, a)
