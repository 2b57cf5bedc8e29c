"""A made page into the folders of the four tasks."""

import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np

from datasets.pages.truth import MARK_CLASSES, Page, TextLine, Word, side_lengths
from utils.geometry import crop_quad

SPLITS = ("train", "val", "test")
TASKS = ("detection", "recognition", "segmentation", "yolo", "pages")
MIN_CROP_HEIGHT = 6  # pixels; lower lines cannot be read by anybody


def make_folders(root: Path, splits: list[str]) -> None:
    for split in splits:
        for folder in (
            "detection/{}/images",
            "detection/{}/labels",
            "recognition/{}/images",
            "segmentation/{}/images",
            "segmentation/{}/masks",
            "yolo/{}/images",
            "yolo/{}/labels",
            "pages/{}",
        ):
            (root / folder.format(split)).mkdir(parents=True, exist_ok=True)


def write_page(page: Page, root: Path, split: str, name: str, crop_length: int = 0) -> dict:
    """Write one page into every task's folder under `root`.

    crop_length: text lines of more characters become several crops, cut between words; 0 keeps lines whole.
    Returns what the tables need: {"crops": [(file name, text), ...], "categories": [tag, ...]}.
    """
    first = root / "detection" / split / "images" / f"{name}.jpg"
    first.write_bytes(page.jpeg)
    for task in ("segmentation", "yolo"):
        _same_file(first, root / task / split / "images" / first.name)
    labels = [",".join(str(round(float(v), 1)) for v in line.polygon.ravel()) + "," + line.text for line in page.lines]
    _write_lines(root / "detection" / split / "labels" / f"{name}.txt", labels)
    cv2.imwrite(
        str(root / "segmentation" / split / "masks" / f"{name}.png"), page.mask, [cv2.IMWRITE_PNG_COMPRESSION, 3]
    )
    height, width = page.image.shape[:2]
    boxes = []
    for mark in page.marks:
        x0, y0, x1, y1 = np.clip(mark.box, 0, [width, height, width, height])
        boxes.append(
            f"{mark.label} {(x0 + x1) / 2 / width:.6f} {(y0 + y1) / 2 / height:.6f} "
            f"{(x1 - x0) / width:.6f} {(y1 - y0) / height:.6f}"
        )
    _write_lines(root / "yolo" / split / "labels" / f"{name}.txt", boxes)
    truth = json.dumps({"image": f"detection/{split}/images/{first.name}"} | page.to_json(), ensure_ascii=False)
    (root / "pages" / split / f"{name}.json").write_text(truth + "\n", encoding="utf-8")
    return {"crops": _write_crops(page, root / "recognition" / split / "images", name, crop_length),
            "categories": page.categories()}


def write_tables(root: Path, written: dict[str, list[tuple[str, dict]]]) -> None:
    """labels.tsv, categories.tsv and data.yaml. written: split -> [(page name, what write_page returned)], in order."""
    for split, pages in written.items():
        crops = [f"{file}\t{text}" for _, result in pages for file, text in result["crops"]]
        _write_lines(root / "recognition" / split / "labels.tsv", crops)
        _write_lines(
            root / "segmentation" / split / "categories.tsv",
            [f"{name}.jpg\t{','.join(result['categories'])}" for name, result in pages],
        )
    yaml = [f"{split}: {split}/images" for split in written]
    _write_lines(
        root / "yolo" / "data.yaml", [*yaml, "names:", *(f"  {i}: {name}" for i, name in enumerate(MARK_CLASSES))]
    )


def cut_line(line: TextLine, longest: int) -> list[tuple[np.ndarray, str]]:
    """(polygon (4, 2), text) of the line, or where it has more than `longest` characters of runs of its words that have
    fewer (a single longer word stays whole). 0: never cut."""
    if not longest or len(line.text) <= longest or len(line.words) < 2:
        return [(line.polygon, line.text)]
    runs: list[list[Word]] = []
    for word in line.words:
        if runs and len(" ".join(w.text for w in [*runs[-1], word])) <= longest:
            runs[-1].append(word)
        else:
            runs.append([word])
    return [(np.stack([run[0].polygon[0], run[-1].polygon[1], run[-1].polygon[2], run[0].polygon[3]]),
             " ".join(word.text for word in run)) for run in runs]


def _write_crops(page: Page, folder: Path, name: str, crop_length: int) -> list[tuple[str, str]]:
    pieces = [piece for line in page.lines if line.text != "###" for piece in cut_line(line, crop_length)]
    crops = []
    for number, (polygon, text) in enumerate(pieces):
        if side_lengths(polygon)[1] < MIN_CROP_HEIGHT:
            continue
        file = f"{name}_{number:03}.jpg"
        crop = crop_quad(page.image, polygon)
        cv2.imwrite(str(folder / file), crop[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        crops.append((file, text))
    return crops


def _same_file(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _write_lines(path: Path, lines: list[str]) -> None:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
