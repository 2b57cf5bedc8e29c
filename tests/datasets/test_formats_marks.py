"""COCO and VOC made into YOLO folders: the same boxes, every invalid one named, and nothing outside the source."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from datasets.convert_marks import main
from datasets.yolo import index_marks, read_data_yaml
from utils.errors import DataError
from utils.images import load_image, save_image

SIZE = (40, 60)
VOC = """<annotation><folder>x</folder><filename>{name}</filename><path>/home/someone/{name}</path>
<size><width>{width}</width><height>{height}</height><depth>3</depth></size>{objects}</annotation>"""
VOC_OBJECT = "<object><name>{}</name><difficult>0</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>" \
             "<ymax>{}</ymax></bndbox></object>"


def make_image(path, size=SIZE, value=200):
    save_image(path, np.full((*size, 3), value, np.uint8))


def coco(images, annotations, categories=("marks", "stamp", "qr")):
    """images: {file name: id}; annotations: (image id, category id, bbox)"""
    return {"images": [{"id": key, "file_name": name, "width": 60, "height": 40} for name, key in images.items()],
            "annotations": [{"id": i, "image_id": image, "category_id": category, "bbox": box, "iscrowd": 0}
                            for i, (image, category, box) in enumerate(annotations, 1)],
            "categories": [{"id": i, "name": name, "supercategory": "none"} for i, name in enumerate(categories)]}


def write_coco(folder, name, *content):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(coco(*content)), encoding="utf-8")


def write_voc(path, objects, name=None, size=SIZE):
    path.parent.mkdir(parents=True, exist_ok=True)
    text = VOC.format(name=name or f"{path.stem}.png", height=size[0], width=size[1],
                      objects="".join(VOC_OBJECT.format(*values) for values in objects))
    path.write_text(text, encoding="utf-8")


def convert(form, source, *flags, out=None):
    out = out or source.parent / "out"
    main([form, str(source), "--out", str(out), *flags])
    return read_data_yaml(out)


def boxes_of(data, split="train"):
    return {sample.file.stem: [(data.names[number], *np.round(box, 3).tolist())
                               for number, box in zip(sample.classes.tolist(), sample.corners())]
            for sample in index_marks(data, split, 0.0)}


@pytest.fixture
def roboflow(tmp_path):
    """Split folders, `valid` among them, a file in each beside its images, and a dummy category."""
    source = tmp_path / "export"
    for split, key in (("train", 1), ("valid", 2), ("test", 3)):
        make_image(source / split / f"{split}.png")
        make_image(source / split / "empty.png")
        write_coco(source / split, "_annotations.coco.json", {f"{split}.png": key, "empty.png": 9},
                   [(key, 1, [10, 10, 30, 20]), (key, 2, [0, 0, 6.5, 4])])
    return source


# ---- COCO


def test_coco_with_split_folders(roboflow):
    data = convert("coco", roboflow)
    assert data.names == {0: "qr", 1: "stamp"}  # the dummy has no marks
    assert sorted(data.splits) == ["test", "train", "val"]
    assert boxes_of(data, "val") == {"empty": [], "valid": [("stamp", 10, 10, 40, 30), ("qr", 0, 0, 6.5, 4)]}
    copy = data.file.parent / "val" / "images" / "valid.png"
    assert copy.read_bytes() == (roboflow / "valid" / "valid.png").read_bytes()


def test_coco_as_coco_has_it(tmp_path):
    source = tmp_path / "coco"
    for split in ("train", "val"):
        make_image(source / f"{split}2017" / "a.png")
        write_coco(source / "annotations", f"instances_{split}2017.json", {"a.png": 1}, [(1, 1, [1, 2, 3, 4])])
    data = convert("coco", source)
    assert sorted(data.splits) == ["train", "val"] and boxes_of(data) == boxes_of(data, "val") == {
        "a": [("stamp", 1, 2, 4, 6)]}


def test_coco_as_one_file(tmp_path):
    make_image(tmp_path / "x" / "images" / "deep" / "a.png")
    write_coco(tmp_path / "x", "labels.json", {"deep/a.png": 1}, [(1, 1, [1, 2, 3, 4])])
    for source, out in ((tmp_path / "x", "one"), (tmp_path / "x" / "labels.json", "two")):
        data = convert("coco", source, "--split", "test", out=tmp_path / out)
        assert boxes_of(data, "test") == {"a": [("stamp", 1, 2, 4, 6)]} and list(data.splits) == ["test"]


def test_namesakes_in_folders_keep_their_own_labels(tmp_path):
    source = tmp_path / "x"
    names = {"a/1.png": 1, "b/1.png": 2, "b/1.jpg": 3}
    for value, name in enumerate(names):
        make_image(source / name, value=50 * value)
    write_coco(source, "l.json", names, [(key, 1, [key, key, 10, 10]) for key in names.values()])
    data = convert("coco", source)
    found = boxes_of(data)
    assert len(found) == 3
    for sample in index_marks(data, "train"):
        value = round(float(load_image(sample.file).mean()) / 50)
        assert found[sample.file.stem][0][1] == value + 1


@given(st.lists(st.tuples(*[st.integers(0, 3000)] * 2, *[st.integers(50, 1000)] * 2), min_size=1, max_size=6,
                unique=True))
@settings(max_examples=30, deadline=None)
def test_boxes_come_through_to_a_hundredth_of_a_pixel(tmp_path_factory, boxes):
    source, boxes = tmp_path_factory.mktemp("coco") / "x", [tuple(value / 100 for value in box) for box in boxes]
    make_image(source / "a.png")
    write_coco(source, "l.json", {"a.png": 1}, [(1, 1, box) for box in boxes])
    write_voc(source / "a.xml", [("stamp", x, y, x + w, y + h) for x, y, w, h in boxes])
    expected = [(x, y, x + w, y + h) for x, y, w, h in boxes]
    for form in ("coco", "voc"):
        sample, = index_marks(convert(form, source, out=source.parent / form), "train", 0.0)
        np.testing.assert_allclose(sample.corners(), expected, atol=0.01)


def test_names_choose_classes_and_their_numbers(roboflow, capsys):
    data = convert("coco", roboflow, "--names", "stamp, qr")
    assert data.names == {0: "stamp", 1: "qr"} and boxes_of(data)["train"][0][0] == "stamp"
    data = convert("coco", roboflow, "--names", "qr", out=roboflow.parent / "qr")
    assert boxes_of(data)["train"] == [("qr", 0, 0, 6.5, 4)]
    assert "marks of other classes were left out: 3 stamp" in capsys.readouterr().out
    with pytest.raises(DataError, match="--names signature: no mark is called so; there are qr, stamp"):
        convert("coco", roboflow, "--names", "qr,signature", out=roboflow.parent / "no")
    with pytest.raises(SystemExit):
        main(["coco", str(roboflow), "--out", "x", "--names", "qr,qr"])


def test_an_image_under_two_ids_is_one_image_with_the_marks_of_both(tmp_path, capsys):
    source = tmp_path / "x"
    make_image(source / "a.png")
    content = coco({"a.png": 1}, [(1, 1, [1, 2, 3, 4]), (2, 2, [10, 10, 5, 5])])
    content["images"].append({"id": 2, "file_name": "./a.png"})
    (source / "l.json").write_text(json.dumps(content))
    assert boxes_of(convert("coco", source)) == {"a": [("stamp", 1, 2, 4, 6), ("qr", 10, 10, 15, 15)]}
    assert "l.json: names images under several ids, whose marks were joined: 1, first ./a.png" in capsys.readouterr().out
    content["images"][1] |= {"height": 41, "width": 60}
    (source / "l.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="l.json: states two sizes for ./a.png, 60 x 40 and 60 x 41; remove one"):
        convert("coco", source, out=tmp_path / "two")
    content["images"][1] |= {"id": 1, "file_name": "b.png"}
    (source / "l.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="l.json: names a.png and b.png by the same id, 1"):
        convert("coco", source, out=tmp_path / "three")


# ---- VOC


def test_an_image_in_two_splits_or_with_two_label_files_is_refused(tmp_path):
    source = tmp_path / "source"
    for split, names in (("train", {"a.png": 1, "b.png": 2}), ("val", {"b.png": 1, "c.png": 2})):
        write_coco(source / "annotations", f"{split}.json", names, [(1, 1, [5, 6, 10, 8])])
    for name in "abc":
        make_image(source / "images" / f"{name}.png")
    with pytest.raises(DataError, match=r"images/b\.png: is named twice, for train and val \(.*train\.json, b\.png; "
                                        r".*val\.json, b\.png\); leave it in one$"):
        convert("coco", source)
    assert not (tmp_path / "out").exists()
    for name in "ab":
        write_voc(tmp_path / "voc" / f"{name}.xml", [("stamp", 5, 6, 15, 14)], name="a.png")
    make_image(tmp_path / "voc" / "a.png")
    with pytest.raises(DataError, match=r"voc/a\.png: is named twice, for train \(.*a\.xml, a\.png; .*b\.xml, a\.png\)"):
        convert("voc", tmp_path / "voc")


def test_voc_as_voc_has_it(tmp_path, capsys):
    source = tmp_path / "VOC"
    for name in "abc":
        make_image(source / "JPEGImages" / f"{name}.png")
        write_voc(source / "Annotations" / f"{name}.xml", [("stamp", 10, 10, 40, 30), ("qr", 1, 1, 7, 5)])
    lists = source / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a  1\n\n")
    (lists / "val.txt").write_text("b -1\n")
    (lists / "trainval.txt").write_text("a\nb\n")
    data = convert("voc", source)
    assert boxes_of(data) == {"a": [("stamp", 10, 10, 40, 30), ("qr", 1, 1, 7, 5)]}
    assert list(boxes_of(data, "val")) == ["b"]
    assert "1 of 3 .xml files are in no list" in capsys.readouterr().out
    (lists / "val.txt").write_text("b\na\n")
    with pytest.raises(DataError, match="a is listed in train and val"):
        convert("voc", source, out=tmp_path / "two")
    (lists / "val.txt").write_text("z\n")
    with pytest.raises(DataError, match="val.txt: names z, of which there is no Annotations/z.xml"):
        convert("voc", source, out=tmp_path / "three")


def test_voc_with_split_folders_and_a_renamed_image(tmp_path):
    source = tmp_path / "x"
    for split in ("train", "valid"):
        make_image(source / split / "a.png")
        write_voc(source / split / "a.xml", [("도장", 10, 10, 40, 30)], name="IMG_0815.JPG")
    data = convert("voc", source)
    assert boxes_of(data, "val") == {"a": [("도장", 10, 10, 40, 30)]} == boxes_of(data)


def test_voc_lists_of_names_with_spaces(tmp_path):
    """A line may end in a flag of a class, which is no part of the name; a name may end like one."""
    source = tmp_path / "VOC"
    for name in ("train_도장 1", "val_도장", "서명 a 0", "서명 b -1", "c"):
        make_image(source / "JPEGImages" / f"{name}.png")
        write_voc(source / "Annotations" / f"{name}.xml", [("stamp", 10, 10, 40, 30)])
    lists = source / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("train_도장 1\n서명 a 0  -1\nc 0\n", encoding="utf-8")
    (lists / "val.txt").write_text("val_도장 1\n 서명 b -1\n", encoding="utf-8")
    data = convert("voc", source)
    assert sorted(boxes_of(data)) == ["c", "train_도장 1", "서명 a 0"]
    assert sorted(boxes_of(data, "val")) == ["val_도장", "서명 b -1"]
    (lists / "val.txt").write_text("c d\n")
    with pytest.raises(DataError, match="val.txt: names c d, of which there is no Annotations/c d.xml"):
        convert("voc", source, out=tmp_path / "two")
    (lists / "val.txt").write_bytes("서명 b".encode("cp949"))
    with pytest.raises(DataError, match=r"val.txt: is not UTF-8 \(byte 0\); save it as UTF-8"):
        convert("voc", source, out=tmp_path / "three")


# ---- what is left out


def test_images_that_no_label_file_names_are_counted_and_named(roboflow, tmp_path, capsys):
    for number in range(7):
        make_image(roboflow / "train" / f"z{number}.png")
    make_image(roboflow / "later" / "b.png")
    convert("coco", roboflow)
    told = capsys.readouterr().out
    assert f"{roboflow}: images that no label file names were left out: 8, first later/b.png, train/z0.png, " \
           "train/z1.png, train/z2.png, train/z3.png\n" in told
    convert("coco", roboflow / "valid" / "_annotations.coco.json", out=tmp_path / "one")
    assert "left out" not in capsys.readouterr().out
    make_image(roboflow / "valid" / "z.png")
    convert("coco", roboflow / "valid" / "_annotations.coco.json", out=tmp_path / "two")
    assert "valid: images that no label file names were left out: 1, first z.png\n" in capsys.readouterr().out


def test_images_of_voc_without_xml(tmp_path, capsys):
    source = tmp_path / "VOC"
    for name in "ab":
        make_image(source / "JPEGImages" / f"{name}.png")
    write_voc(source / "Annotations" / "a.xml", [("stamp", 10, 10, 40, 30)])
    convert("voc", source)
    assert "VOC: images that no label file names were left out: 1, first JPEGImages/b.png\n" in capsys.readouterr().out
    (source / "ImageSets/Main").mkdir(parents=True)
    (source / "ImageSets/Main/stamp_train.txt").write_text("a 1\n")  # a list of a class, which is not read
    convert("voc", source, out=tmp_path / "one")
    assert "left out: 1, first JPEGImages/b.png" in capsys.readouterr().out
    (source / "ImageSets/Main/train.txt").write_text("a\n")  # says itself what belongs to the set
    convert("voc", source, out=tmp_path / "two")
    assert "left out" not in capsys.readouterr().out


# ---- what is refused


def test_every_invalid_box_is_named_and_left_out(tmp_path, capsys):
    source = tmp_path / "x"
    make_image(source / "a.png")
    write_coco(source, "l.json", {"a.png": 1}, [
        (1, 1, [10, 10, 20, 20]), (1, 1, [10, 10, 0, 20]), (1, 1, [10, 10, 20, -1]), (1, 1, [50, 10, 20, 20]),
        (1, 1, [-5, 10, 20, 20]), (1, 1, [float("nan"), 10, 2, 2]), (1, 1, [1, 2, 3]), (1, 1, None),
        (1, 7, [1, 1, 2, 2]), (1, 1, [0, 0, 60.4, 40])])
    with pytest.raises(DataError, match="8 of 10 samples are bad"):
        convert("coco", source)
    assert not (tmp_path / "out").exists()
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(said) == 8
    reasons = ["has no size (0 x 20", "has no size", "reaches outside its image (50, 10, 70, 30 in 60 x 40",
               "reaches outside", "not finite", "no bbox of 4", "no bbox of 4", "category 7"]
    for number, reason in enumerate(reasons, start=2):
        line, = (line for line in said if f"annotation {number} of a.png: " in line)
        assert reason in line
    data = convert("coco", source, "--max-bad-fraction", "0.8")
    assert boxes_of(data) == {"a": [("stamp", 10, 10, 30, 30), ("stamp", 0, 0, 60, 40)]}
    last = (tmp_path / "out/train/labels/a.txt").read_text().splitlines()[-1]
    assert last == "0 0.5000000 0.5000000 1.0000000 1.0000000"  # cut to the image, by a hair


@pytest.mark.parametrize("box", [[-0.5, 10, 0.5, 20], [-0.5, 10, 0.25, 20], [10, 40, 20, 0.3], [-0.5, 10, 0.5 + 1e-7, 20]])
def test_a_box_in_the_strip_beside_its_image_is_outside(tmp_path, capsys, box):
    """What sticks out by a hair is cut to the image, but of these nothing would be left."""
    source = tmp_path / "x"
    make_image(source / "a.png")
    write_coco(source, "l.json", {"a.png": 1}, [(1, 1, [10, 10, 20, 20]), (1, 1, box)])
    assert boxes_of(convert("coco", source, "--max-bad-fraction", "0.5")) == {"a": [("stamp", 10, 10, 30, 30)]}
    assert "annotation 2 of a.png: lies outside its image" in capsys.readouterr().err


def test_a_crowd_has_no_box(tmp_path, capsys):
    source = tmp_path / "x"
    make_image(source / "a.png")
    content = coco({"a.png": 1}, [(1, 1, [10, 10, 20, 20]), (1, 1, [1, 1, 9, 9])])
    content["annotations"][1]["iscrowd"] = 1
    (source / "l.json").write_text(json.dumps(content))
    assert boxes_of(convert("coco", source, "--max-bad-fraction", "0.5")) == {"a": [("stamp", 10, 10, 30, 30)]}
    assert "annotation 2 of a.png: is a crowd" in capsys.readouterr().err


def test_invalid_boxes_of_voc(tmp_path, capsys):
    source = tmp_path / "x"
    make_image(source / "a.png")
    write_voc(source / "a.xml", [("stamp", 1, 1, 9, 9), ("stamp", 9, 1, 1, 9), ("", 1, 1, 9, 9), ("qr", "", 1, 9, 9)])
    convert("voc", source, "--max-bad-fraction", "0.75")
    said = capsys.readouterr().err
    for number, reason in ((2, "has no size (-8 x 8"), (3, "has no name"), (4, "not xmin, ymin")):
        assert f"a.xml, object {number}: {reason}" in said or f"object {number}: has a bndbox that is {reason}" in said


def test_bad_images_are_named_and_left_out(tmp_path, capsys):
    source = tmp_path / "x"
    names = {"a.png": 1, "gone.png": 2, "broken.png": 3, "other_size.png": 4, "turned.jpg": 5}
    make_image(source / "a.png")
    make_image(source / "other_size.png", (20, 30))
    (source / "broken.png").write_bytes(b"?")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40)).save(source / "turned.jpg", exif=exif)
    write_coco(source, "l.json", names, [(key, 1, [1, 1, 9, 9]) for key in names.values()])
    with pytest.raises(DataError) as error:
        convert("coco", source)
    for part in ("gone.png: has no image file", "broken.png: not a readable image", "4 of 5 samples are bad",
                 "other_size.png: the labelled image is 60 x 40 pixels, the one that is there 30 x 20",
                 "turned.jpg: the labelled image is 60 x 40 pixels, the one that is there 40 x 60"):
        assert part in str(error.value)
    assert list(boxes_of(convert("coco", source, "--max-bad-fraction", "0.8"))) == ["a"]


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "a/../../secret.png", "..\\secret.png", "C:\\a.png"])
@pytest.mark.parametrize("form", ["coco", "voc"])
def test_paths_that_leave_the_folder_are_refused(tmp_path, form, name):
    make_image(tmp_path / "secret.png")
    source = tmp_path / "x"
    if form == "coco":
        write_coco(source, "l.json", {name: 1}, [(1, 1, [1, 1, 9, 9])])
    else:
        write_voc(source / "a.xml", [("stamp", 1, 1, 9, 9)], name=name)
    with pytest.raises(DataError, match="leaves the folder"):
        convert(form, source, "--max-bad-fraction", "1")
    assert not (tmp_path / "out").exists()


def test_links_that_leave_the_folder_are_refused(tmp_path):
    make_image(tmp_path / "secret.png")
    source = tmp_path / "x"
    write_coco(source, "l.json", {"a.png": 1}, [(1, 1, [1, 1, 9, 9])])
    (source / "a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="a.png: is a link that leaves the folder"):
        convert("coco", source)


BOMB = '<!DOCTYPE a [<!ENTITY b "x">]><annotation><filename>&b;</filename></annotation>'


@pytest.mark.parametrize("text, reason", [
    (BOMB, "declares a document type"), ("<annotation>", "not readable as XML"), ("", "not readable as XML"),
    ("<html></html>", "is no VOC file: its root is html"), ("<annotation/>", "holds no marks that can be read"),
])
def test_xml_that_is_refused(tmp_path, text, reason):
    source = tmp_path / "x"
    source.mkdir()
    (source / "a.xml").write_text(text)
    with pytest.raises(DataError, match=reason) as error:
        convert("voc", source)
    assert "\n" not in str(error.value)
    (source / "a.xml").write_bytes(text.encode("utf-16"))
    with pytest.raises(DataError, match="not readable as XML"):
        convert("voc", source)


@pytest.mark.parametrize("content, reason", [
    ("{", "not readable as JSON"), ("[]", "is no COCO file"), ('{"images": []}', "is no COCO file"),
    ('{"images": [{"id": 1}], "annotations": [], "categories": []}', "image 1 has no file_name"),
    ('{"images": [], "annotations": [{"id": 5, "image_id": 1}], "categories": []}', "annotation 5: belongs to no"),
    ('{"images": [], "annotations": [], "categories": []}', "holds no marks"),
])
def test_json_that_is_refused(tmp_path, content, reason):
    source = tmp_path / "x"
    source.mkdir()
    (source / "l.json").write_text(content)
    with pytest.raises(DataError, match=reason):
        convert("coco", source)


def test_sources_that_do_not_say_what_they_are(tmp_path, roboflow):
    empty = tmp_path / "empty"
    empty.mkdir()
    for form, reason in (("coco", "holds no COCO JSON"), ("voc", "holds no VOC XML")):
        with pytest.raises(DataError, match=reason):
            convert(form, empty)
        with pytest.raises(DataError, match="no such file or folder"):
            convert(form, tmp_path / "nowhere")
    shutil.copytree(roboflow / "valid", roboflow / "val")
    with pytest.raises(DataError, match="holds val/ and valid/, both val"):
        convert("coco", roboflow)
    shutil.rmtree(roboflow / "val")
    shutil.copy(roboflow / "test/_annotations.coco.json", roboflow / "test/more.json")
    with pytest.raises(DataError, match="_annotations.coco.json and more.json"):
        convert("coco", roboflow)
    for name in ("a", "b"):
        write_coco(tmp_path / "two", f"{name}.json", {}, [])
    with pytest.raises(DataError, match="a.json: is one of 2 files, and its name does not tell its split"):
        convert("coco", tmp_path / "two")


def test_split_is_refused_where_the_source_has_its_own(roboflow, tmp_path):
    for form, source in (("coco", roboflow), ("coco", tmp_path / "coco"), ("voc", tmp_path / "a"), ("voc", tmp_path / "b")):
        if form == "voc":
            write_voc(source / ("train" if source.name == "a" else "Annotations") / "a.xml", [("stamp", 1, 1, 9, 9)])
        elif source.name == "coco":
            write_coco(source / "annotations", "train.json", {}, [])
            write_coco(source / "annotations", "val.json", {}, [])
        if source.name == "b":
            (source / "ImageSets/Main").mkdir(parents=True)
            (source / "ImageSets/Main/train.txt").write_text("a\n")
        for split in ("test", "train"):
            with pytest.raises(DataError, match=f"{source.name}: has splits of its own, .*leave --split out"):
                convert(form, source, "--split", split)


def test_what_is_there_is_never_written_over(roboflow, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out: is there already"):
        convert("coco", roboflow)
    assert not list((tmp_path / "out").iterdir())
    convert("coco", roboflow, out=tmp_path / "new" / "deep")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["deep"]  # nothing half made is left
