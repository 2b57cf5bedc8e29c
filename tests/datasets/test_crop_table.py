"""Crops as columns, against Crop objects one by one; and the index that keeps the columns between starts."""

import io
import os
import pickle
import shutil
import tarfile
import unicodedata
from collections import Counter
from pathlib import Path

import cv2
import lmdb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import crop_index
from datasets.checks import place_crops
from datasets.crop_index import index_file
from datasets.crop_table import CropTable
from datasets.crops import Crop
from datasets.formats.packed import LmdbRecord, TarMember
from datasets.recognition import LabelTable, RecognitionDataset, fit_labels, read_split
from utils.charset import Charset, token_counts
from utils.errors import DataError

TEXTS = ["하나, 둘", unicodedata.normalize("NFD", "é한"), " x\n", "", "words", "a\u2028b", "𝄞", "1"]
QUAD = (0.5, 1.25, 40, 1, 40, 21, 0.5, 21)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Indexes go here, and every folder of two crops or more gets one."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    monkeypatch.setattr(crop_index, "INDEX_FROM", 2)
    return folder


def png(number: int) -> bytes:
    return cv2.imencode(".png", np.full((10 + number, 40 - number, 3), number, np.uint8))[1].tobytes()


def write(folder: Path, kind: str, texts: list[str] = TEXTS, broken: tuple[int, ...] = ()) -> Path:
    """`texts` with a picture each, of which `broken` are none."""
    folder.mkdir(parents=True, exist_ok=True)
    images = [b"no image" if i in broken else png(i) for i in range(len(texts))]
    if kind == "lmdb":
        with lmdb.open(str(folder), map_size=1 << 20) as environment, environment.begin(write=True) as transaction:
            for number, (image, text) in enumerate(zip(images, texts), start=1):
                transaction.put(b"image-%09d" % number, image)
                transaction.put(b"label-%09d" % number, text.encode())
            transaction.put(b"num-samples", str(len(texts)).encode())
    elif kind == "tar":
        for shard in range(2):
            with tarfile.open(folder / f"{shard}.tar", "w") as archive:
                for i in range(shard, len(texts), 2):
                    for name, data in ((f"글{i}.png", images[i]), (f"글{i}.txt", texts[i].encode())):
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
    else:
        (folder / "images").mkdir(exist_ok=True)
        for i, image in enumerate(images):
            (folder / "images" / f"글{i}.png").write_bytes(image)
        lines = [f"글{i}.png\t{text}\n" for i, text in enumerate(texts) if "\n" not in text]
        for i, text in enumerate(texts):
            if "\n" in text:
                (folder / "images" / f"글{i}.png").unlink()
        (folder / "labels.tsv").write_text("".join(lines), encoding="utf-8")
    return folder


KINDS = ["lmdb", "tar", "tsv"]
SOURCE = {"lmdb": "data.mdb", "tar": "1.tar", "tsv": "labels.tsv"}


# ---- the index


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_start_has_what_the_scan_has_and_scans_nothing(tmp_path, monkeypatch, own_cache, capsys, kind):
    folder = write(tmp_path, kind)
    monkeypatch.setattr(crop_index, "INDEX_FROM", 100)
    plain = list(read_split(folder, 0.0))
    assert not list(own_cache.rglob("*.index")) and not capsys.readouterr().out
    monkeypatch.setattr(crop_index, "INDEX_FROM", 2)
    first = list(read_split(folder, 0.0))
    assert index_file(folder).is_file() and "indexed in" in capsys.readouterr().out
    monkeypatch.setattr(crop_index, "collect", None)
    later = read_split(folder, 0.0)
    assert plain == first == list(later) and later == plain
    assert [crop.text for crop in plain] == [crop.text for crop in later]
    assert {type(crop.packed) for crop in later} == {{"lmdb": LmdbRecord, "tar": TarMember, "tsv": type(None)}[kind]}
    assert all(np.array_equal(a.load(), b.load()) for a, b in zip(plain, later))
    assert later.files() == {crop.path for crop in plain} and [c.name for c in later] == [c.name for c in plain]


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_file_is_scanned_anew(tmp_path, kind):
    folder = write(tmp_path, kind)
    before = read_split(folder, 0.0)
    assert before[0].text == "하나, 둘"
    write(folder, kind, ["new", *TEXTS[1:]])
    os.utime(folder / SOURCE[kind], ns=(1, 1))  # whatever the clock's grain is
    assert read_split(folder, 0.0)[0].text == "new"
    assert before[0].text == "하나, 둘"  # an index in use is replaced, not overwritten


def test_an_image_that_is_added_or_taken_away_is_noticed(tmp_path):
    folder = write(tmp_path, "tsv")
    read_split(folder, 0.0)
    (folder / "images" / "more.png").write_bytes(png(0))
    with pytest.raises(DataError, match="more.png: has no line in labels.tsv"):
        read_split(folder, 0.0)
    shutil.rmtree(folder / "images")
    with pytest.raises(DataError, match="images: no such folder"):
        read_split(folder, 0.0)


@pytest.mark.parametrize("spoil", [
    lambda data: data[:-100], lambda data: b"", lambda data: data[:-80] + b"x" + data[-79:],
    lambda data: b"[]\n" + data, lambda data: b'{"format": 1}\n' + data,
    lambda data: data.replace(b'"format": 1', b'"format": 0')])
def test_a_broken_index_is_made_anew(tmp_path, spoil):
    folder = write(tmp_path, "lmdb")
    plain, file = list(read_split(folder, 0.0)), index_file(folder)
    whole = file.read_bytes()
    file.write_bytes(spoil(whole))
    assert read_split(folder, 0.0) == plain and file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, own_cache, capsys):
    (own_cache / "docmarks").write_text("a file where the folder should be")
    folder = write(tmp_path, "lmdb")
    for _ in range(2):
        assert len(read_split(folder, 0.0)) == len(TEXTS)
        assert "is read anew at every start" in capsys.readouterr().err


@pytest.mark.parametrize("kind", KINDS)
def test_bad_samples_are_told_at_every_start(tmp_path, capsys, kind):
    folder = write(tmp_path, kind, broken=(1, 4))
    total, said = len(TEXTS) - (kind == "tsv"), []
    with pytest.raises(DataError, match=f"2 of {total} samples are bad"):
        read_split(folder, 0.1)
    assert index_file(folder).is_file()
    for _ in range(2):
        assert len(read_split(folder, 0.5)) == total - 2
        said.append(capsys.readouterr().err)
        with pytest.raises(DataError, match=f"2 of {total} samples are bad"):
            read_split(folder, 0.1)
    assert said[0] == said[1] and f"warning: 2 of {total} samples are left out" in said[0]


def test_the_same_folder_by_another_path(tmp_path, monkeypatch):
    folder = write(tmp_path / "a", "tar")
    read_split(folder, 0.0)
    monkeypatch.setattr(crop_index, "collect", None)
    monkeypatch.chdir(tmp_path)
    assert [str(path) for path in sorted(read_split(Path("a"), 0.0).files())] == ["a/0.tar", "a/1.tar"]
    assert index_file(folder) == index_file(Path("a")) != index_file(tmp_path)


# ---- columns against objects


texts = st.text(st.one_of(st.sampled_from("ab한가\u1112\u1161e\u0301 \t𝄞"), st.characters()), max_size=9)
places = st.sampled_from([None, QUAD, (0.0,) * 8, (0, 0, 9, 0, 9, 0.125, 0, 0.125)])
packed = st.sampled_from([None, LmdbRecord(Path("d/data.mdb"), 7, 0xFFFFFFFF),
                          TarMember(Path("d/0.tar"), "x/가.png", 512, 99, 5)])


@st.composite
def crops(draw) -> list[Crop]:
    found = []
    for number in range(draw(st.integers(0, 6))):
        inside, size = draw(packed), st.integers(1, 300)
        path = inside.path if inside else Path(draw(st.sampled_from(["p.png", "/q/가.png", f"{number}.png"])))
        found.append(Crop(path, draw(texts), draw(size), draw(size), None if inside else draw(places), number, inside))
    return found


def slow_fit(found: list[Crop], charset: Charset, longest: int) -> LabelTable:
    """fit_labels, crop by crop."""
    kept, unfit, unknown, too_long, empty, flat = [], [], Counter(), 0, 0, 0
    for crop in found:
        strange = set(charset.unknown(crop.text))
        if crop.degenerate:
            flat += 1
            continue
        unknown.update(strange)
        if not crop.text:
            empty += 1
        elif strange or len(crop.text) > longest:
            unfit.append(crop)
            too_long += not strange
        else:
            kept.append(crop)
    most = max((len(crop.text) for crop in found), default=0)
    return LabelTable("train", kept, unfit, unknown, too_long, most, empty, flat)


@given(crops(), crops(), st.integers(1, 64), st.booleans(), st.randoms(use_true_random=False))
@settings(max_examples=20, deadline=None)
def test_a_table_is_what_its_crops_are(one, two, height, stretch, random):
    table, found = CropTable.of(one) + two, one + two
    order = random.choices(range(len(found)), k=random.randrange(8)) if found else []
    views = [(table, found), (table.take(order), [found[i] for i in order]), (table[1:-1:2], found[1:-1:2]),
             (one + CropTable.of(two), found), (table + table[:2], found + found[:2]),
             (pickle.loads(pickle.dumps(table)), found)]
    charset = Charset("ab한가")
    for view, expected in views:
        assert view == expected and list(view) == expected and len(view) == len(expected)
        assert [crop.text for crop in view] == [crop.text for crop in expected]
        assert view.lengths.tolist() == [len(crop.text) for crop in expected]
        for name in ("turned", "degenerate"):
            assert getattr(view, name).tolist() == [getattr(crop, name) for crop in expected]
        assert view.on_pages.tolist() == [crop.quad is not None for crop in expected]
        assert view.widths_at(height, 100, stretch).tolist() == [c.width_at(height, 100, stretch) for c in expected]
        assert view.paths() == [crop.path for crop in expected] and view.files() == set(view.paths())
        assert view.token_counts() == token_counts(crop.text for crop in expected)
        assert list(view.relabelled()) == [crop for crop in expected if crop.label != crop.text]
        assert fit_labels("train", view, charset, 4) == slow_fit(expected, charset, 4)


def test_blocks_leave_nothing_out(monkeypatch):
    monkeypatch.setattr("datasets.crop_table.BLOCK", 3)
    found = [Crop(Path(f"{i}.png"), "가b?"[: i % 4], 10, 20) for i in range(20)]
    table = CropTable.of(found[:11]) + found[11:]
    for view in (CropTable.of(found), table, table[::-1]):
        assert fit_labels("train", view, Charset("가b"), 1) == slow_fit(list(view), Charset("가b"), 1)
        assert view.token_counts() == token_counts(crop.text for crop in found)


def test_widths_are_rounded_as_those_of_crops_are():
    sizes = np.random.default_rng(0).integers(1, 400, (2000, 2)).tolist()
    sizes += [[16, 1], [48, 1], [32, 5], [3, 200_000_000]]
    found = [Crop(Path("a.png"), "ab"[: 1 + i % 2], *size) for i, size in enumerate(sizes)]
    assert CropTable.of(found).widths_at(32, 128).tolist() == [crop.width_at(32, 128) for crop in found]


def test_none_and_one():
    empty, one = CropTable.of([]), CropTable.of([Crop(Path("a.png"), "a", 3, 4)])
    assert len(empty) == 0 and not empty and list(empty) == [] and empty == [] and empty.files() == set()
    assert empty + one == one == one + empty and one[-1].text == "a" and one[:0] == empty
    assert fit_labels("val", empty, Charset("a"), 5).longest == 0 and empty.widths_at(32, 128).tolist() == []
    for index in (1, -2):
        with pytest.raises(IndexError):
            one[index]
    for table in (empty, one):
        assert pickle.loads(pickle.dumps(table)) == table


def test_tables_of_labels_are_added(tmp_path):
    charset, tables = Charset("abw"), []
    for name, kind in (("one", "lmdb"), ("two", "tar")):
        tables.append(fit_labels(name, read_split(write(tmp_path / name, kind, ["ab", "", "xa", "abwabw", "w"]), 0.0),
                                 charset, 3))
    both = tables[0] + tables[1]
    assert [crop.text for crop in both.kept] == ["ab", "w"] * 2 and len(both.kept.parts) == 2
    assert [crop.text for crop in both.kept + both.unfit] == ["ab", "w", "ab", "w", "xa", "abwabw", "xa", "abwabw"]
    assert both.unknown == Counter(x=2) and (both.too_long, both.empty, both.longest) == (2, 2, 6)
    assert {crop.path.name for crop in both.kept} == {"data.mdb", "0.tar"}
    assert all(crop.load().shape == (crop.height, crop.width, 3) for crop in both.kept)


def test_crops_of_pages(tmp_path):
    folder = tmp_path / "pages"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for page in "ab":
        cv2.imwrite(str(folder / "images" / f"{page}.png"), np.full((60, 90, 3), 255, np.uint8))
        (folder / "labels" / f"{page}.txt").write_text(f"5,5,40,5,40,20,5,20,{page}\n5,25.5,40,25,40,38,5,38,more\n")
    table = read_split(folder, 0.0)
    assert [crop.name for crop in table] == [f"{folder}/images/{page}.png#{line}" for page in "ab" for line in (1, 2)]
    assert table[1].quad == (5, 25.5, 40, 25, 40, 38, 5, 38) and table.on_pages.all() and len(table.files()) == 2
    assert place_crops("train", table) == place_crops("train", CropTable.of(list(table)))
    assert not index_file(folder).exists()  # pages are read at every start
    assert place_crops("train", CropTable.of([])) == []


# ---- memory and workers


def test_a_table_from_an_index_is_mapped_and_goes_to_workers(tmp_path):
    folder = write(tmp_path, "lmdb")
    read_split(folder, 0.0)
    table = read_split(folder, 0.0)
    whole = [column for column in table.parts[0].stored.values() if column.size]
    assert all(not column.flags.writeable and not column.flags.owndata for column in whole)
    assert len(table.parts[0].stored["quad"]) == len(table.parts[0].stored["size"]) == 1  # one value for all
    dataset = RecognitionDataset(table, Charset("한"), 32, 64, 16, 0, training=False)
    other = pickle.loads(pickle.dumps(dataset))
    assert other[(0, 4)]["text"] == "words" and np.array_equal(other[(0, 4)]["crop"], dataset[(0, 4)]["crop"])
