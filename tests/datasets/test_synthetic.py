"""The page generator: its truth is exact, its seed decides everything, its folders are what the readers expect."""

import json
import subprocess
import sys
import unicodedata
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from datasets import contact_sheet as sheets
from datasets.contact_sheet import contact_sheet
from datasets.pages.sheets import KINDS
from datasets.pages.source import SyntheticPages
from datasets.pages.truth import CATEGORIES, MARK_CLASSES, Page, TextLine, Word
from datasets.pages.writer import cut_line
from datasets.synthetic import main, split_of_pages
from utils.errors import DataError

ROOT = Path(__file__).resolve().parents[2]


@lru_cache
def some_pages() -> list[Page]:
    pages = [SyntheticPages(8, 3, kind, 560, 780)[index] for kind in KINDS for index in range(3)]
    return pages + [SyntheticPages(8, 4, "letter", 1000, 1400)[0]]


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def run(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "datasets.synthetic", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("made") / "data"
    assert main(["--out", str(out), "--pages", "8", "--seed", "11", "--size", "420x580"]) == 0
    return out


# --- the seed -------------------------------------------------------------------------------------------------------


def test_two_workers_write_the_same_bytes(made, tmp_path):
    done = run("--out", tmp_path / "two", "--pages", 8, "--seed", 11, "--size", "420x580", "--workers", 2)
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "two") == files_of(made)


def test_a_page_depends_on_seed_epoch_and_index_only():
    pages = SyntheticPages(5, 1, "form", 420, 580)
    first = pages[(2, 3)]
    pages[(0, 1)]
    assert pages[(2, 3)].jpeg == first.jpeg and (pages[(2, 3)].mask == first.mask).all()
    assert pages[(1, 3)].jpeg != first.jpeg
    assert SyntheticPages(5, 2, "form", 420, 580)[(2, 3)].jpeg != first.jpeg
    assert pages[3].jpeg == pages[(0, 3)].jpeg


def test_length_is_kept_and_kinds_are_checked():
    pages = SyntheticPages(2, 0)
    assert len(pages) == 2
    with pytest.raises(IndexError):
        pages[2]
    with pytest.raises(DataError, match="poster"):
        SyntheticPages(2, 0, "poster")


# --- the truth ------------------------------------------------------------------------------------------------------


def test_truth_lies_inside_the_page():
    for page in some_pages():
        height, width = page.image.shape[:2]
        assert page.image.dtype == page.mask.dtype == np.uint8 and page.mask.shape == (height, width)
        assert set(np.unique(page.mask)) <= {0, 255}
        polygons = [line.polygon for line in page.lines] + [word.polygon for line in page.lines for word in line.words]
        for points in polygons + [mark.outline for mark in page.marks]:
            assert points.min() >= -0.51 and (points.max(0) <= [width + 0.51, height + 0.51]).all()


def test_image_is_what_the_stored_bytes_decode_to():
    for page in some_pages()[::4]:
        decoded = cv2.imdecode(np.frombuffer(page.jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
        assert (decoded == page.image).all()


def test_ink_under_every_line_of_text_is_dark():
    seen = 0
    for page in some_pages():
        grey = cv2.cvtColor(page.image, cv2.COLOR_RGB2GRAY).astype(float)
        for line in page.lines:
            if line.text == "###":
                continue
            inside = np.zeros_like(page.mask)
            cv2.fillPoly(inside, [np.int32(np.round(line.polygon))], 1)
            ink = (inside > 0) & (page.mask > 0)
            assert ink.any(), line.text
            assert grey[ink].mean() < grey[(inside > 0) & (page.mask == 0)].mean() - 8, (
                page.kind,
                page.style,
                line.text,
            )
            seen += 1
    assert seen > 200


def test_words_make_up_their_line():
    for page in some_pages():
        for line in page.lines:
            assert line.text == unicodedata.normalize("NFC", line.text) and "\t" not in line.text
            assert line.polygon.shape == (4, 2)
            if line.text != "###":
                assert " ".join(word.text for word in line.words) == line.text
                middles = [word.polygon.mean(0)[0] for word in line.words]
                assert middles == sorted(middles)


def test_strokes_lie_on_ink():
    for page in some_pages():
        near = cv2.dilate(page.mask, np.ones((5, 5), np.uint8)) > 0
        for stroke in page.strokes:
            x, y = np.int32(stroke.points).clip(0, [page.mask.shape[1] - 1, page.mask.shape[0] - 1]).T
            assert near[y, x].mean() > 0.6, stroke.kind


# --- folders --------------------------------------------------------------------------------------------------------


def test_every_split_has_pages_in_every_task(made):
    for split, count in (("train", 6), ("val", 1), ("test", 1)):
        names = sorted(path.stem for path in (made / "detection" / split / "images").iterdir())
        assert len(names) == count
        for folder, suffix in (
            ("detection/{}/labels", "txt"),
            ("segmentation/{}/images", "jpg"),
            ("segmentation/{}/masks", "png"),
            ("yolo/{}/images", "jpg"),
            ("yolo/{}/labels", "txt"),
            ("pages/{}", "json"),
        ):
            assert sorted(p.name for p in (made / folder.format(split)).iterdir()) == [
                f"{name}.{suffix}" for name in names
            ]
        rows = (made / "segmentation" / split / "categories.tsv").read_text().splitlines()
        assert [row.split("\t")[0] for row in rows] == [f"{name}.jpg" for name in names]
        assert all(set(row.split("\t")[1].split(",")) <= {*CATEGORIES, ""} for row in rows)
    assert not list(made.glob(".making-*"))


def test_files_say_what_the_page_json_says(made):
    image_of = {path.stem: path for path in made.glob("detection/*/images/*.jpg")}
    for file in made.glob("pages/*/*.json"):
        truth, split = json.loads(file.read_text(encoding="utf-8")), file.parent.name
        assert made / truth["image"] == image_of[file.stem]
        assert image_of[file.stem].samefile(made / "yolo" / split / "images" / f"{file.stem}.jpg")  # one file, linked
        labels = (made / f"detection/{split}/labels/{file.stem}.txt").read_text(encoding="utf-8").splitlines()
        assert [label.split(",", 8)[8] for label in labels] == [line["text"] for line in truth["lines"]]
        for label, line in zip(labels, truth["lines"]):
            assert np.abs(np.float32(label.split(",")[:8]).reshape(4, 2) - line["polygon"]).max() < 0.06
        boxes = [
            list(map(float, row.split()))
            for row in (made / f"yolo/{split}/labels/{file.stem}.txt").read_text().splitlines()
        ]
        assert [MARK_CLASSES[int(box[0])] for box in boxes] == [mark["class"] for mark in truth["marks"]]
        for (_, x, y, w, h), mark in zip(boxes, truth["marks"]):
            x0, y0, x1, y1 = np.clip(mark["box"], 0, [truth["width"], truth["height"]] * 2)
            assert np.allclose([x * truth["width"], w * truth["width"]], [(x0 + x1) / 2, x1 - x0], atol=0.05)
            assert np.allclose([y * truth["height"], h * truth["height"]], [(y0 + y1) / 2, y1 - y0], atol=0.05)


def test_crops_are_listed_with_their_text(made):
    for split in ("train", "val", "test"):
        rows = [
            row.split("\t")
            for row in (made / f"recognition/{split}/labels.tsv").read_text(encoding="utf-8").splitlines()
        ]
        assert rows and {row[0] for row in rows} == {p.name for p in (made / f"recognition/{split}/images").iterdir()}
        assert all(len(row) == 2 and row[1] not in ("", "###") for row in rows)
        # what train_recognition.py takes without a flag, all but a rare word that is longer by itself
        assert sum(len(row[1]) > 25 for row in rows) <= 0.01 * len(rows)


def test_long_lines_are_cut_between_words():
    quads = [np.float32([[x, 0], [x + 9, 1], [x + 9, 11], [x, 10]]) for x in (0, 10, 20)]
    line = TextLine(np.float32([[0, 0], [29, 1], [29, 11], [0, 10]]), "abcd efgh ijkl",
                    words=[Word(quad, text) for quad, text in zip(quads, ("abcd", "efgh", "ijkl"))])
    assert [text for _, text in cut_line(line, 0)] == [text for _, text in cut_line(line, 14)] == ["abcd efgh ijkl"]
    (first, text), (second, rest) = cut_line(line, 9)
    assert (text, rest) == ("abcd efgh", "ijkl")
    assert first.tolist() == [[0, 0], [19, 1], [19, 11], [0, 10]] and second.tolist() == quads[2].tolist()
    assert [text for _, text in cut_line(line, 2)] == ["abcd", "efgh", "ijkl"]


def test_contact_sheet_shows_the_pages(made):
    sheet = contact_sheet(made, pages=4, columns=2, tile=100, plain=False)
    plain = contact_sheet(made, pages=4, columns=2, tile=100, plain=True)
    assert sheet.shape == plain.shape and sheet.shape[1] == 216 and (sheet != plain).any()
    with pytest.raises(DataError, match="datasets.synthetic"):
        contact_sheet(made / "detection", 4, 2, 100, False)


def test_a_contact_sheet_is_never_larger_than_its_pages_need_nor_than_memory_holds(made, tmp_path, capsys, monkeypatch):
    sheet = contact_sheet(made, pages=4, columns=100000, tile=100, plain=True)
    assert sheet.shape[1] == 4 * 108
    out = tmp_path / "sheet.png"
    for tile in ("0", "2001", "100000"):
        with pytest.raises(SystemExit) as stopped:
            sheets.main([str(made), "--out", str(out), "--tile", tile])
        assert stopped.value.code == 2 and f"{tile} is not 1 to 2000" in capsys.readouterr().err
    for limit in ("MAX_PIXELS", "MAX_SIDE"):
        monkeypatch.setattr(sheets, limit, 1000)
        with pytest.raises(DataError, match=r"data: 4 pages in 2 columns make a sheet of 1016 x 1\d\d\d pixels; way out: "
                           "fewer --pages, or a smaller --tile$"):
            sheets.main([str(made), "--out", str(out), "--pages", "4", "--columns", "2", "--tile", "500"])
        monkeypatch.undo()
    assert not out.exists()


@pytest.mark.parametrize(
    "pages, shares",
    [(3, [0.8, 0.1, 0.1]), (60, [0.8, 0.1, 0.1]), (5, [0.0, 0.5, 0.5]), (1, [1.0, 0.0, 0.0]), (7, [0.34, 0.33, 0.33])],
)
def test_splits_are_shared_out(pages, shares):
    splits = split_of_pages(pages, shares)
    assert len(splits) == pages
    for split, share in zip(("train", "val", "test"), shares):
        assert (split in splits) == (share > 0)
        assert abs(splits.count(split) - share * pages) <= 2


def test_a_full_folder_is_kept_unless_told_otherwise(made, tmp_path, capsys):
    out = tmp_path / "data"
    (out / "yolo").mkdir(parents=True)
    (out / "yolo" / "mine.txt").write_text("keep")
    with pytest.raises(DataError, match="--overwrite"):
        main(["--out", str(out), "--pages", "3", "--size", "256x256"])
    assert files_of(out) == {"yolo/mine.txt": b"keep"}
    assert main(["--out", str(out), "--pages", "3", "--size", "256x256", "--overwrite", "--kind", "receipt"]) == 0
    assert not (out / "yolo" / "mine.txt").exists() and (out / "yolo" / "data.yaml").is_file()
    assert "3 pages" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["--pages", "2"], "--pages"),
        (["--pages", "9", "--size", "20x900"], "256"),
        (["--pages", "9", "--size", "wide"], "WIDTHxHEIGHT"),
        (["--pages", "9", "--splits", "0.5,0.2,0.1"], "sum to 1"),
        (["--pages", "9", "--splits", "nan,0,0"], "sum to 1"),
        (["--pages", "9", "--splits", "1,0,nan"], "sum to 1"),
        (["--pages", "9", "--splits", "inf,0,0"], "sum to 1"),
        (["--pages", "9", "--kind", "poster"], "poster"),
        (["--pages", "9", "--workers", "0"], "--workers"),
        (["--pages", "9", "--paper", "red"], "--paper"),
    ],
)
def test_bad_flags_end_with_status_2(tmp_path, arguments, word, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "data"), *arguments])
    assert stopped.value.code == 2 and word in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_a_bad_font_folder_is_one_line_and_status_2(tmp_path):
    done = run("--out", tmp_path / "data", "--pages", 9, "--font-dir", tmp_path / "none")
    assert done.returncode == 2 and not (tmp_path / "data").exists()
    assert (
        done.stderr.startswith("error: ")
        and len(done.stderr.splitlines()) == 1
        and str(tmp_path / "none") in done.stderr
    )
