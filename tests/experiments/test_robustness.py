"""Disturbed pages: labels stay on what they name, and what is scored is what inference would deliver."""

import json
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from small_models import make_weights

from datasets.yolo import MarkSample
from experiments import robustness
from experiments.disturb import DESK, DISTURBANCES
from utils.errors import DataError
from utils.images import load_image, save_image

SPOTS = np.array([[40.5, 50.5], [200.5, 60.5], [60.5, 300.5], [230.5, 330.5]])


def spotted():
    page = np.full((400, 300, 3), 230, np.uint8)
    for x, y in SPOTS:
        page[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6] = 20
    return page


@pytest.mark.parametrize("name", DISTURBANCES)
def test_points_follow_what_they_stand_on(name):
    page = spotted()
    image, moved = DISTURBANCES[name](page)
    assert image.dtype == np.uint8 and image.shape[2] == 3 and np.array_equal(page, spotted())
    points = moved(SPOTS)
    for x, y in points:
        assert image[int(y), int(x)].max() < 80
    # the spots' centres of gravity, in whatever order
    found = cv2.connectedComponentsWithStats(np.uint8(image[..., 0] < 60))
    centres = found[3][1:][found[2][1:, cv2.CC_STAT_AREA] > 12] + 0.5
    assert len(centres) == 4
    assert np.linalg.norm(centres[:, None] - points[None], axis=2).min(0).max() < 1.5
    again, _ = DISTURBANCES[name](page)
    assert np.array_equal(image, again)


def test_what_they_do():
    page = spotted()
    assert DISTURBANCES["none"](page)[0] is page
    assert DISTURBANCES["half-size"](page)[0].shape == (200, 150, 3)
    assert DISTURBANCES["turned-90"](page)[0].shape == (300, 400, 3)
    assert DISTURBANCES["turned-10"](page)[0][0, 0].tolist() == [DESK] * 3
    assert DISTURBANCES["bordered"](page)[0].shape == (880, 780, 3)
    bent, moved = DISTURBANCES["sagging"](page)
    assert moved(np.array([[0.0, 10], [150, 10], [300, 10]]))[:, 1].tolist() == [10, 19, 10] and bent.shape == (409, 300, 3)
    dark = DISTURBANCES["dark-side"](page)[0]
    assert dark[0, 0, 0] == 230 and dark[0, -1, 0] == 69


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"))


def test_text(weights, tmp_path, capsys):
    for part in ("images", "labels"):
        (tmp_path / "val" / part).mkdir(parents=True)
    for name in "ab":
        save_image(tmp_path / f"val/images/{name}.png", spotted())
        (tmp_path / f"val/labels/{name}.txt").write_text("30,40,210,40,210,60,30,60,AB 12\n")
    robustness.main(["--data-dir", str(tmp_path), "--pages", "1", "--weights-dir", str(weights), "--output-dir",
                     str(tmp_path / "out"), "--disturbances", "none", "turned-10"])
    out, error = capsys.readouterr()
    assert error.count("warning: of 1 image only") == 1
    said = json.loads(out.splitlines()[-1])
    assert list(said) == ["out", "none", "turned-10"] and list(said["none"]) == ["hmean", "exact"]
    assert all(len(values) == 3 and 0 <= values[1] <= values[0] <= values[2] <= 1 for values in said["none"].values())
    assert json.loads((tmp_path / "out/robustness.json").read_text()) == {k: v for k, v in said.items() if k != "out"}
    lines = (tmp_path / "out/robustness.md").read_text().splitlines()
    assert lines[0] == "|  | hmean | exact |" and lines[2].startswith("| none |") and len(lines) == 4
    assert load_image(tmp_path / "out/pages.jpg").shape == (450, 856, 3)


@pytest.mark.parametrize("flags", [[], ["--with-text"]])
def test_marks(weights, tmp_path, capsys, flags):
    (tmp_path / "val/images").mkdir(parents=True)
    (tmp_path / "val/labels").mkdir()
    (tmp_path / "data.yaml").write_text("names: [qr, signature, stamp]\nval: val/images\n")
    save_image(tmp_path / "val/images/a.png", spotted())
    (tmp_path / "val/labels/a.txt").write_text("1 0.5 0.5 0.2 0.1\n2 0.2 0.2 0.1 0.1\n")
    save_image(tmp_path / "val/images/b.png", spotted())
    (tmp_path / "val/labels/b.txt").write_text("")
    robustness.main(["--data-dir", str(tmp_path), "--weights-dir", str(weights), "--output-dir", str(tmp_path / "out"),
                     "--disturbances", "none", "blurred", *flags])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(said["blurred"]) == ["map50/signature", "map50/stamp", "count_error"]


def test_marks_beside_text_are_given_where_they_lie_on_the_page_as_it_came(tmp_path, monkeypatch):
    """The reader turns a page that lies on its side, and its marks are in pixels of the turned page."""
    sample = MarkSample(tmp_path / "a.png", 400, 300, np.array([1]), np.array([[0.5, 0.25, 0.2, 0.1]], np.float32))
    save_image(sample.file, spotted())

    class Reader:
        models = {"yolo": SimpleNamespace(names={0: "qr", 1: "signature"})}

        def read(self, image):
            assert image.shape == (300, 400, 3)
            mark = {"class_id": 1, "class_name": "signature", "confidence": 0.9, "box": [120.0, 80.0, 180.0, 120.0]}
            page = {"error": None, "rotation": 270, "width": 300, "height": 400}
            return {"pages": [page | {"marks": {"raw": [], "grouped": [mark, mark | {"confidence": 0.1}]}}]}

    scores, picture = robustness.find_with_text(Reader(), [sample], "turned-90")
    assert scores == {"map50/signature": (pytest.approx(0.995),), "count_error": (0.0,)}
    assert picture.shape == (315, 420, 3)


@pytest.mark.parametrize("marks, flags, said", [
    (True, ["--use-amp"], "--use-amp does nothing for marks"),
    (True, ["--bare", "--with-text"], "--bare does nothing for marks --with-text"),
    (False, ["--with-text"], "--with-text does nothing for text"), (False, ["--tta"], "--tta does nothing for text")])
def test_idle_flags_are_refused(tmp_path, capsys, marks, flags, said):
    if marks:
        (tmp_path / "data.yaml").write_text("names: [qr]\n")
    with pytest.raises(SystemExit) as stopped:
        robustness.parse_args(["--data-dir", str(tmp_path), *flags])
    assert stopped.value.code == 2 and said in capsys.readouterr().err


def test_marks_boxes_become_those_round_the_moved_ones(tmp_path):
    sample = MarkSample(tmp_path / "a.png", 400, 300, np.array([1]), np.array([[0.5, 0.25, 0.2, 0.1]], np.float32))
    save_image(sample.file, spotted())
    seen = []

    def score(samples):
        seen.extend(samples)
        return {"per_class": {}, "count_error": {"components": 0.0}}, []

    robustness.find_disturbed(score, [sample], "turned-90", tmp_path)
    box, = seen[0].corners()  # of x 120 to 180 and y 80 to 120 on a page 400 high, turned clockwise
    np.testing.assert_allclose(box, [280, 120, 320, 180], atol=1e-3)
    assert (seen[0].height, seen[0].width) == (300, 400) == load_image(seen[0].file).shape[:2]


def text_data(folder):
    for part in ("images", "labels"):
        (folder / "val" / part).mkdir(parents=True)
    save_image(folder / "val/images/a.png", spotted())
    (folder / "val/labels/a.txt").write_text("30,40,210,40,210,60,30,60,AB 12\n")
    return folder


def marks_data(folder):
    for part in ("images", "labels"):
        (folder / "val" / part).mkdir(parents=True)
    save_image(folder / "val/images/a.png", spotted())
    (folder / "val/labels/a.txt").write_text("1 0.5 0.5 0.2 0.1\n")
    (folder / "data.yaml").write_text("names: [qr, signature, stamp]\nval: val/images\n")
    return folder


@pytest.mark.parametrize("data, flags, name", [(text_data, [], "detection"), (marks_data, [], "yolo"),
                                               (marks_data, ["--with-text"], "yolo")])
@pytest.mark.parametrize("there", [True, False])
def test_missing_weights_are_told_by_flags_that_there_are(tmp_path, there, data, flags, name):
    if there:
        (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as error:
        robustness.main(["--data-dir", str(data(tmp_path / "data")), "--weights-dir", str(tmp_path / "empty"), *flags])
    said = str(error.value)
    assert "empty" in said and "no such" in said and "--weights-dir weights" in said and f"{name}-weights" not in said
    assert f"train_{name}.py" in said and f"{name}.pt" in said


def test_a_file_for_an_output_folder_is_told_by_its_flag(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(DataError, match=f"--output-dir {path} .*file; way out: a folder"):
            robustness.parse_args(["--data-dir", str(tmp_path), "--output-dir", str(path)])


def test_a_disturbance_named_twice_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        robustness.parse_args(["--data-dir", str(tmp_path), "--disturbances", "turned-3", "none", "turned-3"])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and "--disturbances: turned-3 is named twice" in error and error.count("\n") == 1


def test_the_help_promises_one_device():
    said = robustness.make_parser().format_help()
    assert "cuda:N" in said and "several, 0,1" not in said


def test_bad_data_is_told(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        robustness.main(["--data-dir", str(tmp_path / "nowhere")])
