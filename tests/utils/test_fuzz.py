"""Files with flipped, lost and added bytes: each is read, or refused in one line, and never ends the program."""

import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.formats.icdar import read_labels
from datasets.formats.label_json import read_label_json
from datasets.yolo import read_data_yaml
from utils.checkpoint import load_checkpoint
from utils.documents import open_document
from utils.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 255, (12, 9, 3), np.uint8)


def encoded(kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, kind, **options)
    return buffer.getvalue()


def checkpoint() -> bytes:
    buffer = io.BytesIO()
    torch.save({"format": "docmarks-1", "task": "detection", "model": {"w": torch.ones(2)}}, buffer)
    return buffer.getvalue()


def documents(path: Path) -> None:
    for page in open_document(path, dpi=72, max_pages=5, max_pixels=1_000_000).pages:
        assert (page.image is None) == (page.error is not None)


def label_lines(path: Path) -> None:
    try:
        read_labels(path)
    except ValueError as error:  # its callers add the file to the reason and count it as a bad sample
        raise DataError(str(error)) from error


def data_yaml(path: Path) -> None:
    for split in ("train", "val"):
        (path.parent / split / "images").mkdir(parents=True, exist_ok=True)
    read_data_yaml(path.parent)


WORD = {"points": [[10, 10], [90, 10], [90, 30], [10, 30]], "transcription": "합계"}
LABELS = {"images": {"a.jpg": {"words": {"1": WORD}}}}
COCO = {"imgs": {"7": {"file_name": "a.jpg"}},
        "anns": {"1": {"image_id": 7, "bbox": [10, 10, 80, 20], "utf8_string": "Hi"}}}
# kind: (whole files, reader, how many mutants)
KINDS = {
    "png": ([encoded("PNG")], documents, 300), "jpg": ([encoded("JPEG")], documents, 300),
    "tif": ([encoded("TIFF"), encoded("TIFF", compression="tiff_lzw"),
             encoded("TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)])], documents, 300),
    "bmp": ([encoded("BMP")], documents, 100), "webp": ([encoded("WEBP")], documents, 100),
    "pdf": ([encoded("PDF"), encoded("PDF", save_all=True, append_images=[Image.fromarray(PIXELS)])], documents, 300),
    "json": ([json.dumps(LABELS, ensure_ascii=False).encode(), json.dumps(COCO).encode()], read_label_json, 300),
    "txt": ([b"10,10,90,10,90,30,10,30,27,JALAN\n1,2,3,4,5,6,7,8,###\n"], label_lines, 200),
    "pt": ([checkpoint()], load_checkpoint, 200),
    "yaml": ([b"path: .\ntrain: train/images\nval: val/images\nnames:\n  0: qr\n  1: stamp\n"], data_yaml, 100)}


def test_there_are_enough_of_them():
    assert sum(count for *_, count in KINDS.values()) >= 2000


def mutant(data: bytes, rng: np.random.Generator) -> bytes:
    """One to six changes: bytes overwritten, cut out, doubled, put in, or all behind a place lost."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 7))):
        place, length = int(rng.integers(0, max(len(out), 1))), int(rng.integers(1, 9))
        match int(rng.integers(0, 6)):
            case 0 | 1:
                out[place : place + 1] = rng.bytes(1)
            case 2:
                out[place : place + length] = rng.bytes(length)
            case 3:
                del out[place : place + length]
            case 4:
                out[place:place] = out[place : place + 8 * length]
            case 5:
                if rng.random() < 0.2:
                    del out[place:]
                else:
                    out[place : place + 4] = (b"\xff" * 4, b"\x00" * 4, b"9999", b"\x7f\xff\xff\xff")[int(rng.integers(4))]
    return bytes(out)


@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_read_or_refused(kind, tmp_path):
    whole, read, count = KINDS[kind]
    path = tmp_path / ("data.yaml" if kind == "yaml" else f"a.{kind}")
    rng = np.random.default_rng(len(kind))
    refused = 0
    for data in whole:
        path.write_bytes(data)
        read(path)  # the whole one is read
    for number in range(count):
        path.write_bytes(mutant(whole[number % len(whole)], rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                read(path)
        except DataError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 1500
        except Exception as error:
            (tmp_path / f"culprit.{kind}").write_bytes(path.read_bytes())
            raise AssertionError(f"mutant {number} of {kind}: {type(error).__name__}: {error}") from error
    assert refused  # they were broken enough to matter
