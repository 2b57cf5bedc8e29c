"""YOLO data: what data.yaml may say, and what a label file may hold."""

import pickle
import shutil

import cv2
import numpy as np
import pytest

from datasets.yolo import cost_of_a_miss, describe_marks, index_marks, read_data_yaml
from utils.errors import DataError

YAML = "train: train/images\nval: val/images\nnames:\n  0: qr\n  1: signature\n"


def make_data(folder, labels=("0 0.5 0.5 0.2 0.4\n",), yaml=YAML, size=(60, 40)):
    """A data set whose train split holds one 60 x 40 image for each label text (None: no label file)."""
    for split in ("train", "val"):
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
    for number, label in enumerate(labels):
        cv2.imwrite(str(folder / f"train/images/{number}.png"), np.full((size[1], size[0], 3), 255, np.uint8))
        if label is not None:
            (folder / f"train/labels/{number}.txt").write_text(label, encoding="utf-8")
    (folder / "data.yaml").write_text(yaml, encoding="utf-8")
    return folder


def index(folder, split="train", **options):
    return index_marks(read_data_yaml(folder), split, **options)


def test_samples_and_their_corners(tmp_path):
    make_data(tmp_path, ["0 0.5 0.5 0.2 0.4\n1 0.25 0.5 0.5 1\n\n", ""])
    data = read_data_yaml(tmp_path)
    first, second = index_marks(data, "train")
    assert data.names == {0: "qr", 1: "signature"}
    assert (first.file.name, first.height, first.width) == ("0.png", 40, 60)
    assert first.classes.tolist() == [0, 1]
    np.testing.assert_allclose(first.corners(), [[24, 12, 36, 28], [0, 0, 30, 40]], atol=1e-5)
    assert second.boxes.shape == (0, 4) and second.corners().shape == (0, 4)
    assert describe_marks([first, second], data.names) == "2 images: qr 1, signature 1; 1 without marks"
    assert cost_of_a_miss([first], data.names) == "costs points of recall: qr 100.0, signature 100.0"
    assert cost_of_a_miss([second], data.names) == "costs points of recall: there are no marks"


def test_a_label_may_begin_with_a_byte_order_mark_and_repeat_a_line(tmp_path):
    make_data(tmp_path, ["\ufeff0 0.5 0.5 0.2 0.4\n0 0.5 0.5 0.2 0.4\n"])
    assert len(index(tmp_path)[0].classes) == 1


def test_a_box_that_sticks_out_by_a_hair_is_cut(tmp_path):
    make_data(tmp_path, ["0 0.9 0.5 0.21 0.4\n"])
    np.testing.assert_allclose(index(tmp_path)[0].corners()[0, [0, 2]], [0.795 * 60, 60], atol=1e-4)


@pytest.mark.parametrize(("label", "reason"), [
    ("0 0.5 0.5 0.2\n", "line 1: 4 values"),
    ("0 0.1 0.1 0.2 0.1 0.2 0.2\n", "7 values"),
    ("0 0.5 0.5 0.2 0.4\nqr 0.5 0.5 0.2 0.4\n", "line 2: 'qr 0.5 0.5 0.2 0.4' is not five numbers"),
    ("2 0.5 0.5 0.2 0.4\n", "class 2 is not in data.yaml"),
    ("0.5 0.5 0.5 0.2 0.4\n", "class 0.5 is not in data.yaml"),
    ("-1 0.5 0.5 0.2 0.4\n", "class -1"),
    ("0 0.5 0.5 0 0.4\n", "no size"),
    ("0 0.5 0.5 -0.1 0.4\n", "no size"),
    ("0 0.95 0.5 0.2 0.4\n", "outside the image"),
    ("0 30 20 10 10\n", "outside the image"),
    ("0 nan 0.5 0.2 0.4\n", "not finite"),
    (None, "has no label file"),
])
def test_bad_labels_are_refused_by_name(tmp_path, label, reason):
    make_data(tmp_path, [label])
    with pytest.raises(DataError, match=reason) as error:
        index(tmp_path)
    assert "0.png" in str(error.value) or "0.txt" in str(error.value)


def test_a_label_that_is_no_text_a_broken_image_and_a_lone_label(tmp_path):
    make_data(tmp_path, [""] * 3)
    (tmp_path / "train/labels/0.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "train/images/1.png").write_bytes(b"not an image")
    (tmp_path / "train/labels/9.txt").write_text("")
    with pytest.raises(DataError) as error:
        index(tmp_path)
    assert all(name in str(error.value) for name in ("0.txt", "1.png", "9.txt", "3 of 4"))


def test_a_small_share_of_bad_samples_is_left_out_with_a_report(tmp_path, capsys):
    make_data(tmp_path, ["0 0.5 0.5 0.2 0.4\n"] * 3 + ["nonsense"])
    assert [sample.file.name for sample in index(tmp_path, max_bad_fraction=0.25)] == ["0.png", "1.png", "2.png"]
    assert "3.txt" in capsys.readouterr().err
    with pytest.raises(DataError, match="1 of 4"):
        index(tmp_path, max_bad_fraction=0.2)


def test_missing_things(tmp_path):
    with pytest.raises(DataError, match="datasets.synthetic"):
        read_data_yaml(tmp_path / "absent")
    with pytest.raises(DataError, match="data.yaml: no such file"):
        read_data_yaml(tmp_path)
    make_data(tmp_path)
    with pytest.raises(DataError, match="has no test: key"):
        index(tmp_path, "test")
    with pytest.raises(DataError, match="holds no images"):
        index(tmp_path, "val")


@pytest.mark.parametrize(("yaml", "reason"), [
    (YAML + "download: https://example.org/data.zip\n", "download"),
    (YAML + "download: |\n  import os\n", "download"),
    (YAML.replace("train/images", "../elsewhere"), "leaves the folder"),
    (YAML.replace("train/images", "/etc"), "leaves the folder"),
    (YAML + "path: ..\n", "leaves the folder"),
    (YAML.replace("train/images", "3"), "3 is not a path"),
    ("train: train/images\n", "names"),
    ("names: []\n", "names"),
    ("names: {0: qr, 2: stamp}\n", "numbered 0 to 1, not 0, 2"),
    ("names: [qr, qr]\n", "twice"),
    ("names: [qr]\nnc: 3\n", "nc: is 3"),
    ("- a\n- b\n", "holds no keys"),
    ("a: [\n", "not readable as YAML"),
    ("!!python/object/apply:os.system ['true']\n", "not readable as YAML"),
])
def test_data_yaml_that_is_refused(tmp_path, yaml, reason):
    make_data(tmp_path, yaml=yaml)
    with pytest.raises(DataError, match=reason) as error:
        read_data_yaml(tmp_path)
    assert str(error.value).startswith(str(tmp_path / "data.yaml"))


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    (tmp_path / "outside").mkdir()
    make_data(tmp_path / "data", yaml=YAML.replace("train/images", "linked"))
    (tmp_path / "data/linked").symlink_to(tmp_path / "outside")
    with pytest.raises(DataError, match="leaves the folder"):
        read_data_yaml(tmp_path / "data")


def test_names_as_a_list_a_path_inside_and_several_folders(tmp_path):
    make_data(tmp_path / "inner", ["", ""])
    text = "path: inner\ntrain: [train/images]\nnames: [회사인, sig]\n"
    (tmp_path / "data.yaml").write_text(text, encoding="utf-8")
    data = read_data_yaml(tmp_path / "data.yaml")
    assert data.names == {0: "회사인", 1: "sig"}
    assert len(index_marks(data, "train")) == 2


LABELLED = "train: [letters/images, packs/deep/images, packs/deep/images]\nnames: [qr, signature, stamp]\n"


def make_sources(folder, given, label="1 0.5 0.5 0.2 0.4\n"):
    for part in ("letters", "packs/deep"):
        make_data(folder / "made", [label])
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        (folder / "made/train").rename(folder / part)
        shutil.rmtree(folder / "made")
    (folder / "data.yaml").write_text(LABELLED + given)
    return folder


def test_folders_may_label_some_classes_and_be_named_twice(tmp_path):
    make_sources(tmp_path, "labelled: {letters: [signature], packs: [signature, qr], packs/deep: [signature]}\n")
    samples = index(tmp_path)
    assert [sample.labelled for sample in samples] == [{1}] * 3
    assert [sample.labels_class(number) for number in range(3) for sample in samples[:1]] == [False, True, False]
    assert [sample.file.parent.parent.name for sample in samples] == ["letters", "deep", "deep"]
    assert "3 with some classes unlabelled" in describe_marks(samples, read_data_yaml(tmp_path).names)
    (tmp_path / "data.yaml").write_text(LABELLED + "labelled: {packs: [signature, stamp, qr]}\n")
    assert [sample.labelled for sample in index(tmp_path)] == [None] * 3


@pytest.mark.parametrize(("given", "reason"), [
    ("labelled: [signature]\n", "must give the classes of folders"),
    ("labelled: {letter: [signature]}\n", "letter holds no folder of train"),
    ("labelled: {letters: signature}\n", "'signature' is not in names"),
    ("labelled: {letters: [signatures]}\n", "'signatures' is not in names"),
    ("labelled: {../letters: [signature]}\n", "leaves the folder"),
    ("labelled: {letters: [qr]}\n", "0.txt: holds a signature, which data.yaml does not count"),
])
def test_what_is_labelled_must_be_said_right(tmp_path, given, reason):
    make_sources(tmp_path, given)
    with pytest.raises(DataError, match=reason):
        index(tmp_path)


def test_an_outline_becomes_the_box_around_it_and_is_counted(tmp_path, capsys):
    make_data(tmp_path, ["1 0.1 0.5 0.3 0.2 0.5 0.5 0.3 0.9\n0 0.5 0.5 0.2 0.4\n", "0 0 0 1 0 1 1.005 0.5 1 0 1\n"])
    first, second = index(tmp_path)
    np.testing.assert_allclose(first.corners(), [[6, 8, 30, 36], [24, 12, 36, 28]], atol=1e-4)
    np.testing.assert_allclose(second.corners(), [[0, 0, 60, 40]], atol=1e-4)
    told = capsys.readouterr().err
    assert told == f"{tmp_path}/data.yaml: train: 2 of 3 marks are labelled by an outline; the boxes around them are taken\n"


@pytest.mark.parametrize(("label", "reason"), [
    ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1 0.2 0.3\n", "10 values"),
    ("0 0.1 0.1 0.2 0.1 0.3 0.1 0.4 0.1\n", "no size"),
    ("0 0.1 0.1 0.2 0.1 1.3 0.1 0.4 0.3\n", "outside the image"),
    ("0 0.1 0.1 nan 0.1 0.3 0.1 0.4 0.3\n", "not finite"),
])
def test_outlines_that_are_none(tmp_path, label, reason):
    make_data(tmp_path, [label])
    with pytest.raises(DataError, match=reason):
        index(tmp_path)


def test_key_points_are_not_taken_for_outlines(tmp_path):
    make_data(tmp_path, ["0 0.5 0.5 0.2 0.4 0.5 0.5 2 0.6 0.6 2\n"], YAML + "kpt_shape: [2, 3]\n")
    with pytest.raises(DataError, match="kpt_shape:, so its labels are key points"):
        read_data_yaml(tmp_path)


@pytest.mark.parametrize("entry", ["./train/images/{}.png", "train/images/{}.png", "{root}/train/images/{}.png"])
@pytest.mark.parametrize("place", ["train.txt", "lists/train.txt"])
def test_a_split_may_be_a_list_of_images(tmp_path, place, entry):
    make_data(tmp_path, ["0 0.5 0.5 0.2 0.4\n", "1 0.5 0.5 0.2 0.4\n", ""], YAML.replace("train/images", place)
              + "labelled: {train: [qr, signature]}\n")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("".join(entry.format(number, root=tmp_path) + "\n\n" for number in (2, 0)))
    samples = index(tmp_path)
    assert [(sample.file.name, sample.classes.tolist()) for sample in samples] == [("0.png", [0]), ("2.png", [])]


@pytest.mark.parametrize(("lines", "reason"), [
    ("train/images/0.png\n../other/0.png\n", "../other/0.png leaves the folder"),
    ("/etc/0.png\n", "/etc/0.png leaves the folder"), ("linked/0.png\n", "leaves the folder"),
    ("train/images/7.png\n", "7.png: no such"), ("\n", "names no images"), (None, "no such file, though"),
    (b"\xff\xfe", "not readable as a list"),
    ("a" * 5000 + "\n", "not readable as a list")])
def test_lists_that_are_refused(tmp_path, lines, reason):
    make_data(tmp_path / "data", yaml=YAML.replace("train/images", "train.txt"))
    make_data(tmp_path / "outside")
    (tmp_path / "data/linked").symlink_to(tmp_path / "outside/train/images")
    if lines is not None:
        (tmp_path / "data/train.txt").write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(DataError, match=reason):
        index(tmp_path / "data")


def test_an_export_of_roboflow_is_read_as_it_comes(tmp_path, capsys):
    make_data(tmp_path, yaml="train: ../train/images\nvalid: ../val/images\ntest: test/images\nnames: [qr, stamp]\n")
    (tmp_path / "val/labels/0.txt").write_text("")
    cv2.imwrite(str(tmp_path / "val/images/0.png"), np.zeros((4, 4, 3), np.uint8))
    assert len(index(tmp_path)) == len(index(tmp_path, "val")) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[:2] == [f"{tmp_path}/data.yaml: {split}: ../{split}/images leads out of its folder; {split}/images inside "
                        "it is taken" for split in ("train", "val")]


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('a cache file was opened')",))


def test_cache_files_are_not_opened(tmp_path):
    make_data(tmp_path)
    (tmp_path / "train/labels.cache").write_bytes(pickle.dumps(Bomb()))
    assert len(index(tmp_path)) == 1
