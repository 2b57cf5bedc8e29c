"""Crops of text from LMDB, tar shards and JSON, and from polygons that are no quads."""

import io
import json
import multiprocessing
import os
import pickle
import sys
import tarfile
import unicodedata
from types import SimpleNamespace

import cv2
import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets import crop_index
from datasets.checks import check_shared_images
from datasets.detection import Page
from datasets.recognition import RecognitionDataset, page_crops, read_split
from utils.charset import build_charset
from utils.errors import BadSamples, DataError
from utils.images import save_image


def picture(number, height=20, width=40):
    return np.random.default_rng(number).integers(0, 256, (height, width, 3), np.uint8)


def png(number, **size):
    return cv2.imencode(".png", picture(number, **size)[:, :, ::-1])[1].tobytes()


def turned_jpeg():
    """Stored 40 x 20, shown 20 wide and 40 high."""
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (40, 20)).save(buffer, "jpeg", exif=exif)
    return buffer.getvalue()


def write_lmdb(folder, records, total=None):
    """records: (image bytes or None, label bytes or None)"""
    folder.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
        for number, (image, label) in enumerate(records, start=1):
            for kind, value in (("image", image), ("label", label)):
                if value is not None:
                    transaction.put(f"{kind}-{number:09d}".encode(), value)
        if total != "none":
            transaction.put(b"num-samples", str(len(records) if total is None else total).encode())
    return folder


def write_tar(path, members, mode="w"):
    """members: (name, bytes) pairs"""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def pack(folder, kind, records):
    if kind == "lmdb":
        write_lmdb(folder, [(image, text.encode()) for image, text in records])
    else:
        write_tar(folder / "000.tar", [member for i, (image, text) in enumerate(records)
                                       for member in ((f"{i:05}.png", image), (f"{i:05}.txt", text.encode()))])


# ---- both kinds of packed crops


@pytest.mark.parametrize("kind", ["lmdb", "tar"])
def test_packed_crops_are_indexed_and_read_at_random(tmp_path, kind):
    texts = ["하나, 둘", unicodedata.normalize("NFD", "é"), " x\n", ""]
    pack(tmp_path, kind, [(png(i, width=30 + i), text) for i, text in enumerate(texts)])
    crops = read_split(tmp_path, 0.0)
    assert [crop.text for crop in crops] == ["하나, 둘", "é", "x", ""]
    assert [(crop.height, crop.width) for crop in crops] == [(20, 30 + i) for i in range(4)]
    for i in (2, 0, 3, 1):
        assert np.array_equal(crops[i].load(), picture(i, width=30 + i))
    assert crops[0].path.is_file() and crops[0].name.startswith(str(tmp_path)) and len({c.name for c in crops}) == 4


def plainly_spaced(text: str) -> str:
    kept = ""
    for character in text:
        space = unicodedata.category(character) == "Zs"
        kept += "" if space and kept.endswith(" ") else " " if space else character
    return kept.strip()


@pytest.mark.parametrize("kind", ["lmdb", "tar"])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12), min_size=1,
                      max_size=5))
@settings(max_examples=20, deadline=None)
def test_what_is_packed_is_read_back(tmp_path_factory, kind, texts):
    folder = tmp_path_factory.mktemp(kind)
    pack(folder, kind, [(png(0), text) for text in texts])
    assert [crop.text for crop in read_split(folder, 0.0)] == [
        plainly_spaced(unicodedata.normalize("NFC", text.removeprefix("\ufeff"))) for text in texts]


@pytest.mark.parametrize("kind", ["lmdb", "tar"])
def test_exif_counts_inside_too(tmp_path, kind):
    pack(tmp_path, kind, [(turned_jpeg(), "ab")])
    crop, = read_split(tmp_path, 0.0)
    assert (crop.height, crop.width) == (40, 20) and crop.turned and crop.load().shape == (20, 40, 3)


@pytest.mark.parametrize("kind", ["lmdb", "tar"])
def test_unreadable_images_and_texts_are_bad_samples(tmp_path, capsys, kind):
    records = [(png(0), "a"), (b"no image", "b"), (png(2), "c"), (png(3)[:200], "d")]
    pack(tmp_path, kind, records)
    with pytest.raises(DataError, match="2 of 4 samples are bad") as error:
        read_split(tmp_path, 0.1)
    assert "not a readable image" in str(error.value) and "\n" not in str(error.value)
    assert [crop.text for crop in read_split(tmp_path, 0.5)] == ["a", "c"]
    place = ("data.mdb#2", "data.mdb#4") if kind == "lmdb" else ("000.tar#00001.png", "000.tar#00003.png")
    assert all(name in capsys.readouterr().err for name in place[:1])


def load_in_child(crop, queue):
    queue.put((os.getpid(), crop.load()))


@pytest.mark.parametrize("kind", ["lmdb", "tar"])
def test_workers_read_for_themselves(tmp_path, kind):
    """A crop can be sent to a process, and a fork does not go on with an LMDB that its parent has opened."""
    pack(tmp_path, kind, [(png(5), "a")])
    crop, = read_split(tmp_path, 0.0)
    assert np.array_equal(crop.load(), picture(5))
    assert np.array_equal(pickle.loads(pickle.dumps(crop)).load(), picture(5))
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    child = context.Process(target=load_in_child, args=(crop, queue))
    child.start()
    process, image = queue.get(timeout=60)
    child.join(60)
    assert process == child.pid != os.getpid() and np.array_equal(image, picture(5))


def test_a_dataset_of_packed_crops(tmp_path):
    pack(tmp_path, "tar", [(png(i), "word") for i in range(3)])
    crops = read_split(tmp_path, 0.0)
    dataset = RecognitionDataset(crops, build_charset("data", ["word"]), 32, 64, 16, 0, True)
    batch = dataset.collate([dataset[(0, index)] for index in range(3)])
    assert batch["image"].shape == (3, 3, 32, 64) and batch["file"][0].endswith("000.tar#00000.png")


# ---- LMDB


def test_several_lmdbs_below_the_split_are_read_in_order(tmp_path):
    for name, text in (("b/art", b"two"), ("a", b"one")):
        write_lmdb(tmp_path / name, [(png(0), text)])
    assert [crop.text for crop in read_split(tmp_path, 0.0)] == ["one", "two"]


def test_records_that_lack_a_half_and_records_beyond_the_number(tmp_path):
    records = [(png(0), b"a"), (png(1), None), (None, b"c"), (png(3), b"\xff"), (png(4), b"beyond")]
    write_lmdb(tmp_path, records, total=4)
    with pytest.raises(DataError) as error:
        read_split(tmp_path, 0.0)
    for part in ("#2: has no label-000000002, though num-samples is 4", "#3: has no image-000000003",
                 "#4: its text is not UTF-8", "3 of 4 samples"):
        assert part in str(error.value)
    assert [crop.text for crop in read_split(tmp_path, 0.75)] == ["a"]


@pytest.mark.parametrize("total, reason", [("none", "no key num-samples"), ("many", "no key num-samples"),
                                           (10**12, "num-samples is 1000000000000, but it holds 3 keys")])
def test_a_number_of_samples_that_cannot_be(tmp_path, total, reason):
    write_lmdb(tmp_path, [(png(0), b"a")], total)
    with pytest.raises(DataError, match=f"data.mdb: .*{reason}"):
        read_split(tmp_path, 1.0)


def test_empty_and_broken_lmdbs(tmp_path):
    write_lmdb(tmp_path / "empty", [])
    with pytest.raises(DataError, match="holds no samples"):
        read_split(tmp_path / "empty", 1.0)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "data.mdb").write_bytes(b"nothing of the kind" * 1000)
    with pytest.raises(DataError, match="data.mdb: not readable as LMDB"):
        read_split(tmp_path / "broken", 1.0)


def test_without_the_library_the_way_out_is_named(tmp_path, monkeypatch):
    write_lmdb(tmp_path, [(png(0), b"a")])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(DataError, match="data.mdb: .*pip install lmdb"):
        read_split(tmp_path, 0.0)


# ---- tar


def test_shards_with_folders_other_files_and_links(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("x/1.v2.JPG", turned_jpeg()), ("x/1.v2.json", b"{}"), ("README", b"?"),
                                          ("x/1.v2.txt", b"one\r\n"), ("x/._1.v2.txt", b"\xff")])
    with tarfile.open(path, "a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE):
            info = tarfile.TarInfo("link.png")
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    write_tar(tmp_path / "b.tar", [("2.txt", b"\xef\xbb\xbftwo"), ("2.png", png(2))])
    crops = read_split(tmp_path, 0.0)
    assert [crop.text for crop in crops] == ["one", "two"] and np.array_equal(crops[1].load(), picture(2))


def test_halves_and_doubles_in_a_shard_are_bad_samples(tmp_path):
    write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("2.txt", b"b"), ("3.png", png(3)), ("3.jpg", turned_jpeg()),
                                   ("3.txt", b"c"), ("4.png", png(4)), ("4.txt", b"x" * 70_000)])
    with pytest.raises(DataError) as error:
        read_split(tmp_path, 0.5)
    for part in ("a.tar#1.png: has no text 1.txt", "a.tar#2.txt: has no image", "a.tar#3.jpg: is there twice",
                 "a.tar#4.png: its text has more than 65536 bytes", "4 of 5 samples"):
        assert part in str(error.value)


def test_compressed_cut_and_empty_shards(tmp_path):
    for name in "abc":
        (tmp_path / name).mkdir()
    write_tar(tmp_path / "a" / "x.tar", [("1.png", png(1)), ("1.txt", b"a")], "w:gz")
    whole = write_tar(tmp_path / "b" / "x.tar", [("1.png", png(1)), ("1.txt", b"a")])
    whole.write_bytes(whole.read_bytes()[:1200])
    for name in "ab":
        with pytest.raises(DataError, match="x.tar: not readable as a tar file.*not compressed") as error:
            read_split(tmp_path / name, 1.0)
        assert "\n" not in str(error.value)
    write_tar(tmp_path / "c" / "x.tar", [])
    with pytest.raises(DataError, match="holds no samples"):
        read_split(tmp_path / "c", 1.0)


def test_a_shard_that_shrinks_under_a_run(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.txt", b"a")])
    crop, = read_split(tmp_path, 0.0)
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match="a.tar#1.png: the archive has become shorter"):
        crop.load()


# ---- JSON


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def test_words_are_cut_out_of_the_pages_that_json_labels(tmp_path):
    page = picture(0, 100, 200)
    save_image(tmp_path / "images" / "p.png", page)
    word = {"image_id": 1, "attributes": {"class": "word"}, "text": "가게", "bbox": [20, 10, 60, 20]}
    write_json(tmp_path / "labels.json", {"images": [{"id": 1, "file_name": "p.png"}], "annotations": [
        word, word | {"text": "xxx"}, word | {"attributes": {"class": "character"}, "text": "가"}]})
    crop, = read_split(tmp_path, 0.0)
    assert (crop.text, crop.height, crop.width) == ("가게", 20, 60)
    np.testing.assert_allclose(crop.load().astype(int), page[10:30, 20:80], atol=1)


def test_samples_whose_text_is_that_of_the_whole_image(tmp_path):
    """AI Hub's printed and handwritten samples have no boxes."""
    for name in ("00000001.png", "00000002.png", "00000003.png"):
        save_image(tmp_path / "images" / name, picture(1))
    images = [{"id": f"0000000{i}", "width": 40, "height": 20, "file_name": f"0000000{i}.png"} for i in (1, 2, 3)]
    annotations = [{"id": image["id"], "image_id": image["id"], "text": text, "attributes": {"type": "단어(어절)"}}
                   for image, text in zip(images, ["한국어", " 글자 ", "xxx"])]
    write_json(tmp_path / "labels.json", {"images": images, "annotations": annotations})
    crops = read_split(tmp_path, 0.0)
    assert [crop.text for crop in crops] == ["한국어", "글자"] and crops[0].quad is None
    assert np.array_equal(crops[0].load(), picture(1))
    annotations[1]["image_id"] = "00000001"  # two texts for one image: which?
    write_json(tmp_path / "labels.json", {"images": images, "annotations": annotations})
    with pytest.raises(DataError, match="00000001.png: has a text without a box"):
        read_split(tmp_path, 0.0)


def test_labels_in_another_frame_are_refused_here_too(tmp_path):
    save_image(tmp_path / "images" / "p.png", picture(0, 100, 200))
    write_json(tmp_path / "labels.json", {"images": {"p.png": {"words": {"1": {
        "points": [[500, 10], [900, 10], [900, 40], [500, 40]], "transcription": "x"}}}}})
    with pytest.raises(DataError, match="4 of 4 label points lie outside"):
        read_split(tmp_path, 0.0)


# ---- which layout


@pytest.mark.parametrize("first, second", [
    ("labels.tsv", "x.tar"), ("x.tar", "data.mdb"), ("labels.tsv", "labels/a.txt"), ("labels.tsv", "labels.json"),
    ("data.mdb", "labels.json")])
def test_two_layouts_are_one_too_many(tmp_path, first, second):
    save_image(tmp_path / "images" / "a.png", picture(0))
    for place in (first, second):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    with pytest.raises(DataError) as error:
        read_split(tmp_path, 1.0)
    said = str(error.value)
    assert " and " in said and "move one of them away" in said and first.split("/")[0].removeprefix("x") in said


def test_the_flag_for_polygons_is_for_text_files(tmp_path):
    write_lmdb(tmp_path, [(png(0), b"a")])
    with pytest.raises(DataError, match="holds data.mdb, and --polygon-labels is for labels/"):
        read_split(tmp_path, 0.0, polygon_labels=True)


def test_polygons_of_text_files_with_the_flag(tmp_path):
    save_image(tmp_path / "images" / "p.png", picture(0, 100, 200))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "p.txt").write_text("20,10,50,10,80,10,80,30,50,30,20,30,word\n")
    crop, = read_split(tmp_path, 0.0, polygon_labels=True)
    assert (crop.text, crop.height, crop.width) == ("word", 20, 60)
    assert [c.text for c in read_split(tmp_path, 0.0)] == ["50,30,20,30,word"]  # without it the numbers are text


# ---- polygons that are no quads


@given(st.integers(4, 9), st.floats(-3.1, 3.1), st.floats(20, 60), st.floats(3, 15))
@settings(max_examples=100, deadline=None)
def test_a_polygon_is_cut_out_upright_whatever_its_length_and_angle(count, angle, width, height):
    """Points along the top from the left, then along the bottom from the right, as sets of curved text have them."""
    top = np.linspace([0, 0], [width, 0], count)
    ring = np.concatenate([top, top[::-1] + (0, height)]) - (width / 2, height / 2)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    polygon = (ring @ turn + 100).astype(np.float32)
    crop, = page_crops(Page("p.png", 200, 200, [polygon], ["text"]))
    quad = np.reshape(crop.quad, (4, 2))
    expected = polygon[[0, count - 1, count, 2 * count - 1]]
    np.testing.assert_allclose(quad, expected, atol=0.1)
    assert abs(crop.width - width) <= 1 and abs(crop.height - height) <= 1


def test_triangles_and_polygons_that_run_the_other_way():
    triangle = np.float32([[10, 10], [90, 10], [50, 30]])
    crop, = page_crops(Page("p.png", 100, 100, [triangle], ["text"]))
    assert (crop.height, crop.width) == (20, 80) and crop.quad[:2] == pytest.approx((10, 10))
    anticlockwise = np.float32([[10, 10], [10, 30], [50, 30], [90, 30], [90, 10], [50, 10]])
    crop, = page_crops(Page("p.png", 100, 100, [anticlockwise], ["text"]))
    assert (crop.height, crop.width) == (20, 80) and crop.quad[:2] == pytest.approx((10, 10))
    crop, = page_crops(Page("p.png", 100, 100, [np.float32([[1, 1], [5, 5], [9, 9]])], ["text"]))
    assert crop.degenerate


def test_bad_samples_of_all_shards_are_counted_together(tmp_path):
    for number in range(4):
        write_tar(tmp_path / f"{number}.tar", [("1.png", png(1) if number else b"?"), ("1.txt", b"a")])
    assert len(read_split(tmp_path, 0.25)) == 3 and BadSamples.shown == 5
    with pytest.raises(DataError, match="1 of 4 samples"):
        read_split(tmp_path, 0.24)


# ---- images in two splits


def splits_of(tmp_path, kinds, pictures):
    """{split: its crops}, from the numbers of their pictures."""
    splits = {}
    for (split, numbers), kind in zip(pictures.items(), kinds):
        pack(tmp_path / split, kind, [(png(n), f"{split}{n}") for n in numbers])
        splits[split] = read_split(tmp_path / split, 0.0)
    return splits


@pytest.mark.parametrize("kinds", [("lmdb", "lmdb"), ("tar", "tar"), ("lmdb", "tar")])
@pytest.mark.parametrize("indexed", [False, True])
def test_an_image_packed_into_two_splits_is_found(tmp_path, monkeypatch, kinds, indexed):
    if indexed:
        monkeypatch.setattr(crop_index, "INDEX_FROM", 1)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        splits_of(tmp_path, kinds, {"train": range(8), "val": range(7, 12)})  # written by a first start, read by the next
        monkeypatch.setattr(crop_index, "collect", None)
        splits = {split: read_split(tmp_path / split, 0.0) for split in ("train", "val")}
    else:
        splits = splits_of(tmp_path, kinds, {"train": range(8), "val": range(7, 12)})
    with pytest.raises(DataError, match="splits share 1 packed image.*val.*#.* has the content of .*train") as error:
        check_shared_images(splits)
    assert "\n" not in str(error.value) and "--no-preflight" in str(error.value)


def test_packed_images_that_differ_are_no_fault(tmp_path):
    splits = splits_of(tmp_path, ("lmdb", "tar"), {"train": [1, 2, 2], "val": [3, 4]})  # twice in one split is no leak
    assert check_shared_images(splits) == ["no packed image in two splits (train 3, val 2; all compared by their CRC-32)"]
    save_image(tmp_path / "plain" / "images" / "a.png", picture(0))
    (tmp_path / "plain" / "labels.tsv").write_text("a.png\ta\n")
    plain = read_split(tmp_path / "plain", 0.0)
    assert check_shared_images({"train": plain, "val": plain}) == []  # files have a check of their own
    assert check_shared_images({"train": splits["train"]}) == []
    assert len(check_shared_images({"train": splits["train"] + plain, "val": splits["val"]})) == 1


def test_a_checksum_alone_is_no_proof(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.formats.packed.zlib", SimpleNamespace(crc32=lambda data: 5))
    assert check_shared_images(splits_of(tmp_path, ("lmdb", "tar"), {"train": [1, 2], "val": [3]}))


# ---- docTR


def test_a_flat_dictionary_of_files_and_texts(tmp_path):
    for name in ("a.png", "b.png"):
        save_image(tmp_path / "images" / name, picture(1))
    write_json(tmp_path / "labels.json", {"a.png": "합계", "b.png": "images"})
    crops = read_split(tmp_path, 0.0)
    assert [(crop.text, crop.path.name, crop.quad) for crop in crops] == [("합계", "a.png", None), ("images", "b.png", None)]
    write_json(tmp_path / "labels.json", {"a.png": "합계", "b.png": 5})
    with pytest.raises(DataError, match="of no known shape .*FILE: TEXT"):
        read_split(tmp_path, 0.0)
    write_json(tmp_path / "labels.json", {"a.png": "합계"})
    with pytest.raises(DataError, match="b.png: has no label"):
        read_split(tmp_path, 0.0)
