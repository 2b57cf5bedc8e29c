"""What preflight finds beside labels in another frame (test_frames.py): shared files, losses, sizes. Faults as the
scripts meet them are in tests/scripts/test_faults.py."""

import json
import os
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datasets.checks import (lost_in_labels, lost_in_pages, measure_strokes, name_decomposed, sizes_of_crops,
                             sizes_of_pages, sizes_of_strokes)
from datasets.detection import Page
from datasets.recognition import Crop, fit_labels
from datasets.segmentation import StrokePage
from utils import shared_files
from utils.charset import build_charset
from utils.errors import DataError
from utils.frames import spread
from utils.geometry import PageSize
from utils.images import save_image
from utils.preflight import check_letters, check_pipeline, lost_table, run_checks
from utils.shared_files import HashCache, cache_file, check_shared


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


# ---- files in two splits


def write(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_same_content_under_another_name(tmp_path):
    splits = {split: [write(tmp_path / split / f"{i}.png", f"{split}{i}".encode() * 9) for i in range(4)]
              for split in ("train", "val", "test")}
    assert check_shared(splits) == "no file and no content in two splits (files: train 4, val 4, test 4)"
    splits["test"].append(write(tmp_path / "test" / "copy.png", splits["train"][2].read_bytes()))
    with pytest.raises(DataError, match=r"share 1 files.*test/copy.png \(test\) has the content of .*2.png \(train\)"):
        check_shared(splits)


def test_the_same_file_by_a_link_or_a_path(tmp_path):
    file = write(tmp_path / "a.png", b"x")
    link = tmp_path / "b.png"
    link.symlink_to(file)
    for other in (file, link, tmp_path / "." / "a.png"):
        with pytest.raises(DataError, match=r"\(val\) is .*a.png \(train\)"):
            check_shared({"train": [file], "val": [other]})
    check_shared({"train": [file, link]})  # a split may hold a file twice: that is no leak


def test_only_files_of_one_size_are_hashed_and_only_once(tmp_path, monkeypatch):
    splits = {"train": [write(tmp_path / "a", b"12"), write(tmp_path / "b", b"123")],
              "val": [write(tmp_path / "c", b"45"), write(tmp_path / "d", b"4567")]}
    check_shared(splits)
    known = json.loads(cache_file().read_text())
    assert {Path(path).name for path in known} == {"a", "c"}
    monkeypatch.setattr(shared_files.hashlib, "file_digest", None)  # would fail if it were called
    check_shared(splits)
    monkeypatch.undo()


def test_a_changed_file_is_hashed_anew_and_a_lost_one_forgotten(tmp_path):
    place = tmp_path / "hashes.json"
    a, b = write(tmp_path / "a", b"12"), write(tmp_path / "b", b"34")
    check_shared({"train": [a], "val": [b]}, place)
    write(b, b"12")
    os.utime(b, ns=(1, 1))
    with pytest.raises(DataError, match="share 1 files"):
        check_shared({"train": [a], "val": [b]}, place)
    c = write(tmp_path / "c", b"56")
    b.unlink()
    check_shared({"train": [a], "val": [c]}, place)
    assert {Path(path).name for path in json.loads(place.read_text())} == {"a", "c"}


@pytest.mark.parametrize("content", [b"{", b"[1]", b'{"x": 3}', b"\xff"])
def test_a_broken_cache_is_no_obstacle(tmp_path, content):
    place = write(tmp_path / "hashes.json", content)
    files = {"train": [write(tmp_path / "a", b"1")], "val": [write(tmp_path / "b", b"2")]}
    check_shared(files, place)
    assert len(HashCache(place).known) == 2
    blocked = write(tmp_path / "file", b"") / "hashes.json"  # a folder that cannot be made
    check_shared(files, blocked)


def test_a_home_without_xdg(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_file() == tmp_path / ".cache" / "docmarks" / "hashes.json"


# ---- what is lost, and how large what is left is


def page(*polygons, texts=None, height=200, width=100):
    polygons = [np.float32(polygon) for polygon in polygons]
    return Page(Path("p.png"), height, width, polygons, texts or ["text"] * len(polygons))


def rectangle(x, y, w, h):
    return [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]


def test_what_is_lost_in_pages():
    pages = [page(rectangle(5, 5, 50, 20), rectangle(5, 50, 50, 5), [[1, 1], [2, 2], [3, 3], [4, 4]],
                  rectangle(5, 80, 50, 20), texts=["a", "b", "c", "###"]), page()]
    assert lost_in_pages(pages, PageSize(200)) == Counter({
        "too small (under 8 px at --test-long-side 200)": 1, "degenerate polygons (no area)": 1,
        "marked as 'do not care'": 1, "pages without any text": 1})
    assert not lost_in_pages(pages, PageSize(400))["too small (under 8 px at --test-long-side 400)"]


def test_labels_without_area_have_no_letters():
    pages = [page(rectangle(5, 5, 50, 20), *[[[1, 1], [2, 1], [3, 1], [4, 1]]] * 5)]
    line, = sizes_of_pages(pages, PageSize(200))
    assert "small letters are 20.0 px high (20.0 in the middle)" in line and not line.startswith("warning")


def test_what_is_lost_in_labels_by_name():
    crops = [Crop(Path(f"{i}.png"), text, 32, 100) for i, text in enumerate(("ok", "é1", "é", "", "toolong", "①"))]
    crops.append(Crop(Path("p.png"), "flat", 1, 9, (0, 0, 9, 0, 9, 0, 0, 0), 1))
    lost = lost_in_labels(fit_labels("train", crops, build_charset("ksx1001"), 6))
    assert lost == Counter({"empty labels": 1, "too long": 1, "degenerate places (no area)": 1,
                            "with unknown characters": 3,
                            "unknown character é (U+00E9 LATIN SMALL LETTER E WITH ACUTE)": 2,
                            "unknown character ① (U+2460 CIRCLED DIGIT ONE)": 1})


def test_labels_lost_to_ctc_are_a_reason_of_their_own():
    crops = [Crop(Path("a.png"), "abc", 32, 8), Crop(Path("b.png"), "ab", 32, 8), Crop(Path("c.png"), "é", 32, 8)]
    table = fit_labels("train", crops, build_charset("ksx1001"), 6, lambda table: table.widths // 4)
    lost = lost_in_labels(table)
    assert lost["with more characters than CTC frames"] == 1 and lost["with unknown characters"] == 1
    helped = fit_labels("train", crops, build_charset("ksx1001"), 6, lambda table: table.widths // 4, ctc_alone=False)
    assert lost_in_labels(helped)["with more characters than CTC frames (to CTC alone)"] == 1


def test_a_line_for_each_reason():
    lines = lost_table({"train": Counter({"empty": 3, "never": 0}), "val": Counter({"too long": 1})})
    assert lines == ["lost, empty: train 3, val 0", "lost, too long: train 0, val 1"]
    assert lost_table({"train": Counter(), "val": Counter()}) == ["nothing is lost"]


def test_letters_against_the_rule_and_the_size_that_would_do():
    assert check_letters("letters are {} px high", np.full(9, 12.0), {"--test-long-side": 640}) == (
        "letters are 12.0 px high (12.0 in the middle) at --test-long-side 640; 10 to 15 px are needed")
    small = check_letters("letters are {} px high", np.full(9, 6.0), {"--img-height": 640, "--img-width": 960})
    assert small.startswith("warning: ") and small.endswith("--img-height 1088 --img-width 1600 would give them")
    assert check_letters("{} px", np.full(3, 5.0), {}).endswith("no flag can give them")
    assert check_letters("{} px", np.array([]), {"--x": 3}).endswith("there are none")


def test_sizes_that_are_advised_are_enough():
    pages = [page(rectangle(0, 0, 50, 9), height=1000, width=700)]
    line, = sizes_of_pages(pages, PageSize(640))
    assert "5.8 px high" in line and "--test-long-side 1120 would" in line
    assert not sizes_of_pages(pages, PageSize(1120))[0].startswith("warning")


def test_letters_of_crops():
    crops = [Crop(Path(f"{i}.png"), "ten letter", 40, 400) for i in range(5)]
    high, wide = sizes_of_crops(crops, 32, 128)
    assert "32.0 px high" in high and "12.8 px wide" in wide and "warning" not in high + wide
    high, wide = sizes_of_crops(crops, 8, 32)
    assert "--img-height 32 would" in high and wide.startswith("warning") and "--img-width 64 would" in wide
    low = [Crop(Path("a.png"), "word", 7, 60)]
    assert "7.0 px high" in sizes_of_crops(low, 32, 128)[0] and "no flag can" in sizes_of_crops(low, 32, 128)[0]
    on_its_side = [Crop(Path("a.png"), "word", 60, 7)]
    assert "7.0 px high" in sizes_of_crops(on_its_side, 32, 128)[0] and sizes_of_crops([], 32, 128) == []


@pytest.mark.parametrize("width", [2, 3, 4, 6, 9])
def test_stroke_width_by_hand(width):
    mask = np.zeros((60, 200), bool)
    mask[20 : 20 + width, 20:180] = True
    mask[0, 0] = True  # a speck
    widths, heights = measure_strokes(mask)
    assert widths == pytest.approx([width], rel=0.15) and not len(heights)  # a line is no letter
    assert all(len(values) == 0 for values in measure_strokes(np.zeros((5, 5), bool)))


def test_letter_heights_by_hand():
    mask = np.zeros((60, 60), bool)
    mask[10:30, 10:12] = mask[19:21, 10:22] = True  # joined: one letter of 20 pixels
    mask[40:46, 40:42] = True
    assert measure_strokes(mask)[1].tolist() == [20, 6]


def test_strokes_at_the_chosen_size(tmp_path):
    mask = np.zeros((200, 200), np.uint8)
    for x in range(10, 190, 20):
        mask[50:59, x : x + 2] = 255
    save_image(tmp_path / "m.png", mask)
    pages = [StrokePage(tmp_path / "i.png", tmp_path / "m.png")]
    thin, small = sizes_of_strokes(pages, 64, 64, "letterbox")
    assert thin.startswith("warning: thin strokes are 0.") and "--img-height" in thin
    assert small.startswith("warning: small letters are 2.") and "--img-height 224 --img-width 224 would" in small
    assert sizes_of_strokes(pages, 64, 64, "crop")[1].endswith("no flag can give them")


def test_labels_that_were_taken_apart_are_named():
    line, = name_decomposed([("a.png", "é"), ("b.png", "e\u0301"), ("c.png", "\u1112\u1161\u11ab")])
    assert line.startswith("warning: 2 labels are not NFC") and "in b.png" in line and "NFD" in line
    assert name_decomposed([("a.png", "한é")]) == []


# ---- all together


def test_the_truth_of_some_items_is_scored():
    seen = []
    assert check_pipeline("val", range(1000), lambda items: seen.extend(items) or 1.0, "").startswith(
        "val: truth scores 1.000 on 200 of 1000 items")
    assert len(seen) == len(set(seen)) == 200 and max(seen) >= 990
    with pytest.raises(DataError, match="truth of val, .* scores only 0.900 .*: look here; --no-preflight"):
        check_pipeline("val", range(3), lambda items: 0.9, "look here")
    assert check_pipeline("val", [], lambda items: 0.0, "") == "val: nothing to score"
    assert spread(range(3), 5) == [0, 1, 2] and spread([], 5) == []


def test_the_report_is_printed_and_goes_to_the_card(tmp_path, capsys):
    splits = {split: [write(tmp_path / f"{split}.png", split.encode())] for split in ("train", "val")}
    card = run_checks(splits, files=lambda items: items, place=lambda split, items: [f"{split}: placed"],
                      truth=lambda items: 1.0, way_out="", lost=lambda split, items: Counter({"empty": len(items)}),
                      notes=lambda items: [f"{len(items)} items"])
    lines = card.strip().splitlines()
    assert [line.strip(" *") for line in lines[1:-1]][0:1] == ["train: placed"]
    assert "lost, empty: train 1, val 1" in card and "2 items" in card and lines[-1].strip().startswith("* took 0.")
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(lines) and all(line.startswith("preflight: ") for line in printed)


def test_a_second_start_takes_no_time(tmp_path):
    files = {split: [write(tmp_path / split / str(i), os.urandom(4000)) for i in range(150)]
             for split in ("train", "val")}
    check_shared(files)
    begun = time.perf_counter()
    check_shared(files)
    assert time.perf_counter() - begun < 1
