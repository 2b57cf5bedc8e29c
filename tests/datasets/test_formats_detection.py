"""Text labels as the sets of the world have them: hand-made files of each shape, and what is refused."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.detection import read_split
from datasets.formats.icdar import has_sign, parse_line, read_labels
from datasets.formats.label_json import as_polygon, find_label_json, read_label_json, sides_cross
from utils.errors import DataError
from utils.images import save_image

QUAD = [[10, 10], [50, 10], [50, 30], [10, 30]]


def make_images(folder, names=("a.png",), size=(60, 100)):
    for name in names:
        save_image(folder / "images" / name, np.full((*size, 3), 200, np.uint8))
    return folder


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def pages_of(folder, content, name="labels.json", limit=0.0):
    write_json(folder / name, content)
    return read_split(folder, limit)


# ---- ICDAR text


def test_without_a_sign_a_transcription_is_never_taken_for_points():
    for text in ("27,JALAN DEDAP 13,", "1,007.50", "12,30,TOTAL", "1,2,3,4,5,6,7,8,9", "", "inf,nan", "####1234",
                 "12,30,####"):
        points, read = parse_line("1,2,3,2,3,4,1,4," + text)
        assert read == text and points.shape == (4, 2)


def labels_of(tmp_path, text, **flags):
    path = tmp_path / "labels.txt"
    path.write_bytes(text.encode())
    polygons, texts = read_labels(path, **flags)
    return [polygon.tolist() for polygon in polygons], texts


@pytest.mark.parametrize("flag", [False, True])
def test_a_file_whose_every_line_has_the_sign(tmp_path, flag):
    polygons, texts = labels_of(tmp_path, "1,2,3,2,3,4,1,4,0,3,####27,JALAN\n\n1,2,3,2,3,4,####\n"
                                "1,2,3,2,3,4,1,4,#######\n1,2,3,2,3,4,1,4,####1,2,x\n", polygon_labels=flag)
    assert texts == ["27,JALAN", "", "###", "1,2,x"] and [len(polygon) for polygon in polygons] == [5, 3, 4, 4]
    assert polygons[0] == [[1, 2], [3, 2], [3, 4], [1, 4], [0, 3]]


def test_a_card_number_is_no_sign(tmp_path):
    polygons, texts = labels_of(tmp_path, "1,2,3,2,3,4,1,4,####1234\n1,2,3,2,3,4,1,4,1,007.50\n")
    assert texts == ["####1234", "1,007.50"] and [len(polygon) for polygon in polygons] == [4, 4]


def test_polygons_without_a_sign_where_the_flag_says_so():
    numbers = "1,2,3,2,3,4,1,4,0,3"
    for text in ("word", "27,JALAN", "27", "", "inf", "a,1,2", "(1,2)", "１２,３４"):
        points, read = parse_line(f"{numbers},{text}", polygon_labels=True)
        assert len(points) == 5 and read == text, text
    assert len(parse_line(numbers, polygon_labels=True)[0]) == 5
    assert len(parse_line(f"{numbers},12,30,TOTAL", polygon_labels=True)[0]) == 6  # the stated limit


@pytest.mark.parametrize("line, flag, reason", [
    ("1,2,3", False, "3 fields"), ("1,2,3,2,3,4,1,x,text", False, "first 8 fields"),
    ("1,2,3,2,####text", False, "5 fields"), ("1,2,3,2,3,4,5,####text", False, "7 numbers before"),
    ("1,2,3,2,text", True, "4 numbers"), ("text", True, "0 numbers"), ("1,2,3,2,3,4,1e999,4,x", False, "not finite"),
])
def test_lines_that_are_no_polygons(line, flag, reason):
    with pytest.raises(ValueError, match=reason):
        parse_line(line, flag, signed=has_sign(line))


@given(st.lists(st.tuples(*[st.integers(-99, 9999)] * 2), min_size=3, max_size=20),
       st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=20))
@settings(max_examples=200, deadline=None)
def test_what_is_written_with_the_sign_is_read_back(points, text):
    line = ",".join(str(value) for point in points for value in point) + ",####" + text
    assert has_sign(line)
    read, words = parse_line(line, signed=True)
    assert read.tolist() == [list(point) for point in points] and words == text


def test_files_with_every_kind_of_line_break_and_separator(tmp_path):
    make_images(tmp_path)
    (tmp_path / "labels").mkdir()
    text = "\ufeff1,2,30,2,30,40,1,40,####one\u2028two\r\n\r\n1,2,30,2,30,40,1,40,5,20,####three\n"
    (tmp_path / "labels" / "a.txt").write_bytes(text.encode())
    page, = read_split(tmp_path, 0.0)
    assert page.texts == ["one\u2028two", "three"] and [len(polygon) for polygon in page.polygons] == [4, 5]


# ---- the receipt competition


def receipts(**words):
    return {"images": {"a.png": {"words": words, "img_w": 100, "img_h": 60}}}


def test_the_receipt_competition(tmp_path):
    make_images(tmp_path, ["a.png", "영수증.png"])
    content = receipts(**{"0001": {"points": QUAD, "transcription": "합계, 10"},
                          "0002": {"points": [[1, 1], [9, 1], [12, 5], [9, 9], [1, 9]], "illegibility": True,
                                   "transcription": "?"},
                          "0003": {"points": QUAD}, "0004": {"points": QUAD, "transcription": None}})
    content["images"][unicodedata.normalize("NFD", "영수증.png")] = {"words": {}}
    page, empty = pages_of(make_images(tmp_path), content)
    assert page.texts == ["합계, 10", "###", "", ""] and page.ignored == [False, True, False, False]
    assert [len(polygon) for polygon in page.polygons] == [4, 5, 4, 4] and page.polygons[0].tolist() == QUAD
    assert page.polygons[0].dtype == np.float32 and (page.height, page.width) == (60, 100)
    assert empty.path.name == "영수증.png" and empty.polygons == []


@pytest.mark.parametrize("words, reason", [
    ({"7": {"transcription": "x"}}, "word 7 has no 'points'"), ({"7": {"points": [[1, 2], [3, 4]]}}, "has 2 points"),
    ({"7": {"points": [[1, 2], [3, 4], [5, None]]}}, "not finite numbers"),
    ({"7": {"points": [[1, 2], [3, 4], [5]]}}, "not finite numbers"),
    ({"7": {"points": "none"}}, "not finite numbers"), ({"7": {"points": [[1, 2, 3]] * 3}}, "not pairs"),
    ({"7": {"points": [[1, 2], [3, 4], [5, 1e999]]}}, "not finite"), ({"7": {"points": [[1, 2], [3, 4], [5, 1e300]]}},
                                                                      "not finite"),
    ({"7": {"points": QUAD, "transcription": ["x"]}}, "no text"), ({"7": None}, "word 7"), (None, "has no words"),
    ([1], "has no words"),
])
def test_a_page_with_a_word_that_cannot_be_used_is_a_bad_sample(tmp_path, capsys, words, reason):
    make_images(tmp_path, ["a.png", "b.png"])
    content = {"images": {"a.png": {"words": words}, "b.png": {"words": {"1": {"points": QUAD}}}}}
    with pytest.raises(DataError, match=f"labels.json, a.png: .*{reason}") as error:
        pages_of(tmp_path, content)
    assert "\n" not in str(error.value)
    assert [page.path.name for page in read_split(tmp_path, 0.5)] == ["b.png"]
    assert reason in capsys.readouterr().err


def test_images_without_a_label_labels_without_an_image_and_second_labels(tmp_path):
    make_images(tmp_path, ["a.png", "b.png"])
    content = receipts()
    content["images"]["c.png"] = {"words": {}}
    content["images"]["folder/a.png"] = {"words": {}}
    with pytest.raises(DataError) as error:
        pages_of(tmp_path, content)
    for part in ("b.png: has no label in", "labels.json, c.png: has no image", "a.png: is labelled a second time",
                 "3 of 4 samples"):
        assert part in str(error.value)


def test_a_path_in_a_file_is_not_followed(tmp_path):
    make_images(tmp_path / "split")
    save_image(tmp_path / "secret.png", np.zeros((60, 100, 3), np.uint8))
    page, = pages_of(tmp_path / "split", {"images": {"../../a.png": {"words": {}}}})
    assert page.path == tmp_path / "split" / "images" / "a.png"
    with pytest.raises(DataError, match="secret.png: has no image"):
        pages_of(tmp_path / "split", {"images": {"../../secret.png": {"words": {}}}})


# ---- COCO-Text and TextOCR


def coco_text(**more):
    anns = {"1": {"image_id": 7, "bbox": [10, 10, 40, 20], "utf8_string": "box", "legibility": "legible"},
            "2": {"image_id": 7, "bbox": [0, 0, 1, 1], "mask": [1, 1, 30, 1, 40, 20, 1, 20, 0, 9],
                  "utf8_string": "mask", "legibility": "legible"},
            "3": {"image_id": 7, "bbox": [5, 5, 9, 9], "polygon": [5, 5, 14, 5, 14, 14, 5, 14],
                  "legibility": "illegible"},
            "4": {"image_id": 7, "bbox": [5, 5, 9, 9], "utf8_string": ".", "legibility": "legible"}}
    return {"imgs": {"7": {"id": 7, "file_name": "train/a.png", "width": 100, "height": 60, "set": "train"},
                     **more}, "anns": anns, "imgToAnns": {"7": [1, 2, 3, 4]}}


def test_coco_text(tmp_path, capsys):
    content = coco_text(**{"8": {"id": 8, "file_name": "train/elsewhere.png"}})
    page, = pages_of(make_images(tmp_path), content)
    assert page.texts == ["box", "mask", "###", "."]
    assert page.polygons[0].tolist() == QUAD and len(page.polygons[1]) == 5 and len(page.polygons[2]) == 4
    assert "1 labelled images are not here" in capsys.readouterr().out  # one file labels every split


def test_textocr(tmp_path):
    content = {"imgs": {"x": {"file_name": "train/a.jpg", "width": 100, "height": 60}},
               "anns": {"x_1": {"image_id": "x", "bbox": [1, 1, 2, 2], "points": [10, 10, 50, 10, 50, 30, 10, 30],
                                "utf8_string": "Hi"},
                        "x_2": {"image_id": "x", "bbox": [], "points": [1, 1, 3, 1, 3, 3], "utf8_string": "."}}}
    page, = pages_of(make_images(tmp_path), content)  # a.png was a.jpg once
    assert page.texts == ["Hi", "###"] and page.polygons[0].tolist() == QUAD and len(page.polygons[1]) == 3


def test_an_annotation_of_no_image_is_an_error(tmp_path):
    content = coco_text()
    content["anns"]["9"] = {"image_id": 99, "bbox": [1, 1, 2, 2]}
    with pytest.raises(DataError, match="labels.json: has the keys imgs and anns.*not listed, such as 99"):
        pages_of(make_images(tmp_path), content)


# ---- AI Hub


def test_ai_hub_documents_one_file_for_each_image(tmp_path):
    make_images(tmp_path, ["a.png", "b.png"])
    for name in "ab":
        write_json(tmp_path / "labels" / f"{name}.json", {
            "images": [{"image.file.name": f"{name}.jpg", "image.width": 100, "image.height": 60}],
            "annotations": [{"id": 1, "annotation.type": "rectangle", "annotation.text": "제목", "annotation.ttype": "t1",
                             "annotation.bbox": [10, 10, 40, 20]}]})
    pages = read_split(tmp_path, 0.0)
    assert [page.path.name for page in pages] == ["a.png", "b.png"]
    assert [page.texts for page in pages] == [["제목"]] * 2 and pages[0].polygons[0].tolist() == QUAD


def test_ai_hub_in_the_wild_one_file_for_all(tmp_path, capsys):
    images = [{"id": "00A", "width": 100, "height": 60, "file_name": "a.png", "type": "sign"},
              {"id": "00B", "width": 100, "height": 60, "file_name": "b", "type": "sign"},
              {"id": "00C", "width": 100, "height": 60, "file_name": "c.jpg", "type": "book"}]
    word = {"image_id": "00A", "attributes": {"class": "word"}, "text": "가게", "bbox": [10, 10, 40, 20]}
    annotations = [word, word | {"attributes": {"class": "character"}, "text": "가", "bbox": [10, 10, 20, 20]},
                   word | {"image_id": "00B", "text": "xxx"},
                   word | {"image_id": "00B", "text": "네점", "bbox": [[10, 10], [50, 10], [50, 30], [10, 30]]},
                   word | {"image_id": "00B", "text": "여덟", "bbox": [10, 10, 50, 10, 50, 30, 10, 30]}]
    first, second = pages_of(make_images(tmp_path, ["a.png", "b.png"]),
                             {"info": {}, "images": images, "annotations": annotations, "licenses": []})
    assert first.texts == ["가게"] and second.texts == ["###", "네점", "여덟"]
    assert all(polygon.tolist() == QUAD for polygon in first.polygons + second.polygons)
    assert "c.jpg" in capsys.readouterr().out


@pytest.mark.parametrize("annotation, reason", [
    ({"text": "x", "bbox": [None] * 4}, "not finite numbers"), ({"text": "x", "bbox": [1, 1, -4, 4]}, "-4 wide"),
    ({"text": "x"}, "without a box"), ({"bbox": [1, 1, 2, 2]}, "has no 'text'"),
    ({"text": "x", "bbox": []}, "0 points"), ({"text": "x", "bbox": [[1, 2], [3]]}, "not finite numbers")])
def test_ai_hub_boxes_that_cannot_be_used(tmp_path, annotation, reason):
    content = {"images": [{"file_name": "a.png"}], "annotations": [annotation]}
    with pytest.raises(DataError, match=f"a.png: .*{reason}"):
        pages_of(make_images(tmp_path), content)


def test_ai_hub_corners_in_zigzag(tmp_path):
    content = {"Dataset": {}, "Images": {"identifier": "a", "type": "png", "width": 100, "height": 60},
               "Bbox": [{"id": 1, "x": [10, 10, 50, 50], "y": [10, 30, 10, 30], "data": "성명", "typeface": 0}]}
    page, = pages_of(make_images(tmp_path), content)
    assert page.texts == ["성명"] and page.polygons[0].tolist() == QUAD
    content["Bbox"][0]["x"] = [10, 10, 50]
    with pytest.raises(DataError, match="word 1 does not have 4 x and 4 y"):
        pages_of(tmp_path, content)


def test_ai_hub_wordboxes(tmp_path):
    content = {"info": {}, "image": {"file_name": "a.png", "width": 100, "height": 60},
               "text": {"type": "form", "word": [{"charbox": [], "wordbox": [10, 10, 50, 30], "value": "이름"}]}}
    page, = pages_of(make_images(tmp_path), content)
    assert page.texts == ["이름"] and page.polygons[0].tolist() == QUAD


# ---- where labels lie


@pytest.mark.parametrize("place", ["labels.json", "train.json", "labels/all.json", "images/all.json"])
def test_json_is_found_wherever_it_lies(tmp_path, place):
    make_images(tmp_path)
    assert len(pages_of(tmp_path, receipts(), place)) == 1


def test_json_beside_images_without_a_folder_of_their_own(tmp_path):
    save_image(tmp_path / "a.png", np.zeros((60, 100, 3), np.uint8))
    page, = pages_of(tmp_path, receipts(**{"1": {"points": QUAD}}), "a.json")
    assert page.path == tmp_path / "a.png"


@pytest.mark.parametrize("first, second", [("labels.json", "other.json"), ("labels.json", "labels/a.txt"),
                                           ("labels/a.json", "labels/a.txt"), ("labels.json", "images/a.json")])
def test_two_places_are_one_too_many(tmp_path, first, second):
    make_images(tmp_path)
    for place in (first, second):
        write_json(tmp_path / place, receipts())
    with pytest.raises(DataError) as error:
        read_split(tmp_path, 1.0)
    assert first in str(error.value) and second in str(error.value)


def test_hidden_files_are_nobodys_labels(tmp_path):
    make_images(tmp_path)
    write_json(tmp_path / "._labels.json", {})
    assert find_label_json(tmp_path) == [] and len(pages_of(tmp_path, receipts())) == 1


def test_no_labels_at_all_and_a_flag_for_others(tmp_path):
    with pytest.raises(DataError, match="labels: no such folder"):
        read_split(make_images(tmp_path), 0.0)
    write_json(tmp_path / "labels.json", receipts())
    with pytest.raises(DataError, match="labels.json: needs no --polygon-labels"):
        read_split(tmp_path, 0.0, polygon_labels=True)


@pytest.mark.parametrize("content, reason", [
    (b"{", "not readable as JSON"), (b"", "not readable as JSON"), (b"\xff\xfe{}", "not UTF-8"),
    (b"[" * 100_000, "not readable as JSON"), (b"[]", "of no known shape"), (b'{"a": 1, "b": 2}', "its keys: a, b"),
    (b'{"images": {"a.png": 5}}', "has the keys images, but"),
    (b'{"imgs": {}, "anns": {"1": {}}}', "has the keys imgs"),
    (b'{"images": [{}], "annotations": []}', "has the keys images and annotations"),
    (b'{"images": {"a.png": {"words": {}, "img_w": 1e999, "img_h": 5}}}', "has the keys images"),
])
def test_files_that_are_no_labels(tmp_path, content, reason):
    path = make_images(tmp_path) / "labels.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"labels.json: .*{reason}") as error:
        read_split(tmp_path, 1.0)
    assert "\n" not in str(error.value)


# ---- frames


def test_labels_of_another_size_are_bad_samples(tmp_path):
    content = receipts(**{"1": {"points": QUAD}})
    content["images"]["a.png"] |= {"img_w": 50, "img_h": 30}  # half the size: no point lies outside
    with pytest.raises(DataError, match="a.png: the labelled image is 50 x 30 pixels, the one that is there 100 x 60"):
        pages_of(make_images(tmp_path), content)


@pytest.mark.parametrize("points, fits", [([[1, 1], [55, 1], [55, 90], [1, 90]], True),
                                          ([[1, 1], [90, 1], [90, 50], [1, 50]], False)])
def test_with_exif_the_points_tell_which_frame_they_are_in(tmp_path, points, fits):
    """Stored 100 x 60 and shown 60 x 100; the file states the stored size."""
    exif = Image.Exif()
    exif[0x0112] = 6
    make_images(tmp_path)
    Image.new("RGB", (100, 60)).save(tmp_path / "images" / "a.png", exif=exif)
    content = receipts(**{"1": {"points": points}})
    if fits:
        page, = pages_of(tmp_path, content)
        assert (page.height, page.width) == (100, 60)
    else:
        with pytest.raises(DataError, match="the labelled image is 100 x 60 pixels, the one that is there 60 x 100"):
            pages_of(tmp_path, content)


# ---- points


@given(st.permutations(range(4)), st.floats(-3, 3), st.tuples(st.floats(2, 90), st.floats(2, 90)))
@settings(max_examples=100, deadline=None)
def test_any_order_of_the_corners_of_a_rectangle_gives_a_ring(order, angle, sides):
    width, height = sides
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]]) @ turn.T + 200
    read = as_polygon(corners[list(order)].tolist())
    x, y = read.astype(np.float64).T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    assert area == pytest.approx(width * height, rel=1e-3) and not sides_cross(read)
    assert sorted(map(tuple, read.tolist())) == sorted(map(tuple, np.float32(corners).tolist()))


def test_a_ring_keeps_its_own_order():
    ring = [[50, 30], [10, 30], [10, 10], [50, 10]]  # text upside down
    assert as_polygon(ring).tolist() == ring and as_polygon(np.ravel(ring).tolist()).tolist() == ring


POLYGON = st.lists(st.tuples(st.integers(0, 100), st.integers(0, 60)), min_size=5, max_size=9)


@given(st.dictionaries(st.text("abcdef가나다", min_size=1, max_size=6),
                       st.lists(st.tuples(POLYGON, st.text(max_size=8)), max_size=4), min_size=1, max_size=4))
@settings(max_examples=50, deadline=None)
def test_what_is_written_as_receipts_is_read_back(tmp_path_factory, pages):
    content = {"images": {f"{name}.jpg": {"words": {str(i): {"points": points, "transcription": text}
                                                    for i, (points, text) in enumerate(words)}}
                          for name, words in pages.items()}}
    path = write_json(tmp_path_factory.mktemp("json") / "labels.json", content)
    read = {image.name.removesuffix(".jpg"): [(word.points.tolist(), word.text) for word in image.words]
            for image in read_label_json(path)}
    assert read == {name: [([list(point) for point in points], text) for points, text in words]
                    for name, words in pages.items()}
