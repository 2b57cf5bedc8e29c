"""YOLO: files that are refused, files that are read, boxes that land where they belong, samples that repeat exactly."""

import contextlib
import os
import pickle
import random
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from datasets.yolo import MarkSample
from models import yolo
from models.yolo_boxes import _suppress, detect, evaluate, place, truth_score
from models.yolo_preset import AUGMENTATIONS
from utils.checkpoint import save_checkpoint
from utils.dataloading import EpochBatches, make_loader
from utils.errors import DataError
from utils.images import save_image
from utils.metrics.marks import mark_scores, match_detections

NAMES = {0: "qr", 1: "signature", 2: "stamp"}
ultralytics = yolo.ultralytics  # imported with its switches set


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return yolo.start_model("yolo11n.yaml", NAMES)[0].eval()


@pytest.fixture(scope="module")
def foreign_file(network, tmp_path_factory):
    """The network as ultralytics writes it after training."""
    path = tmp_path_factory.mktemp("weights") / "best.pt"
    content = {"epoch": -1, "ema": None, "model": yolo.copy.deepcopy(network).half(),
               "train_args": {"imgsz": 96, "optimizer": "SGD", "data": "data.yaml", "freeze": [1, 2]}}
    torch.save(content, path)
    return path


# files ---------------------------------------------------------------------------------------------------------------


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return (os.mkdir, (str(self.target),))


@pytest.mark.parametrize("kind", ["alone", "in_a_model", "beside_a_model", "raw_pickle"])
def test_a_file_that_would_run_code_is_refused_in_one_line(kind, network, tmp_path):
    path, target = tmp_path / "best.pt", tmp_path / "owned"
    bomb = Bomb(target)
    if kind == "raw_pickle":
        path.write_bytes(pickle.dumps({"model": bomb}, protocol=2))
    else:
        model = yolo.copy.deepcopy(network)
        if kind == "in_a_model":
            model.args = bomb
        torch.save({"model": bomb if kind == "alone" else model, "extra": bomb}, path)
    with pytest.raises(DataError, match="would run code") as error:
        yolo.load_model(path, "cpu")
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)
    assert not target.exists()
    with contextlib.suppress(RuntimeError):  # a raw pickle is no archive of torch's, but it is run first
        torch.load(path, weights_only=False)
    assert target.exists()


def test_files_that_are_no_weights(network, foreign_file, tmp_path):
    save_checkpoint(tmp_path / "other.pt", {"task": "detection", "config": {}, "model": {}})
    (tmp_path / "text.pt").write_text("weights")
    (tmp_path / "cut.pt").write_bytes(foreign_file.read_bytes()[:20_000])
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "linear.pt")
    for name, reason in {"absent.pt": "no such", "other.pt": "for detection, not for yolo", "text.pt": "not",
                         "cut.pt": "not", "linear.pt": "run code"}.items():
        with pytest.raises(DataError, match=reason) as error:
            yolo.load_model(tmp_path / name, "cpu")
        assert str(error.value).startswith(str(tmp_path / name)) and "\n" not in str(error.value)


def test_an_ultralytics_model_of_another_task_is_refused(tmp_path):
    model = ultralytics.nn.tasks.SegmentationModel("yolo11n-seg.yaml", nc=2, verbose=False)
    torch.save({"model": model}, tmp_path / "seg.pt")
    with pytest.raises(DataError, match="SegmentationModel, not a model that detects boxes"):
        yolo.load_model(tmp_path / "seg.pt", "cpu")


def test_an_ultralytics_file_becomes_our_checkpoint_and_back(network, foreign_file, tmp_path):
    model, checkpoint = yolo.load_model(foreign_file, "cpu")
    assert checkpoint["config"]["names"] == NAMES and checkpoint["config"]["img_size"] == 96
    assert checkpoint["args"] == {"imgsz": 96, "optimizer": "SGD", "data": "data.yaml"}
    save_checkpoint(tmp_path / "ours.pt", checkpoint)
    again, stored = yolo.load_model(tmp_path / "ours.pt", "cpu")
    assert stored["config"] == checkpoint["config"] and not again.training
    image = torch.rand(1, 3, 64, 96)
    half = yolo.copy.deepcopy(network).half().float()
    with torch.no_grad():
        expected = half(image)[0]
        assert torch.equal(model(image)[0], expected) and torch.equal(again(image)[0], expected)


def test_what_training_starts_from(foreign_file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {0: "stamp", 1: "seal"}
    _, source, trained = yolo.start_model("yolo11n", names)
    assert not trained and "yolo11n.pt is neither here nor in weights/" in source
    (tmp_path / "yolo11n.pt").write_bytes(foreign_file.read_bytes())
    for start in ("yolo11n", "yolo11n.pt", str(foreign_file)):
        model, source, trained = yolo.start_model(start, names)
        assert trained and model.names == names
        stored = yolo.read_weights(foreign_file)["model"]
        assert torch.equal(model.state_dict()["model.0.conv.weight"], stored["model.0.conv.weight"])
        # The class that both know keeps its row of the head.
        row = "model.23.cv3.0.2.weight"
        assert torch.equal(model.state_dict()[row][0], stored[row][2])
    for start, reason in (("https://example.org/yolo11n.pt", "address"), ("no/such/file.pt", "no such file"),
                          ("yolo99x", "neither a file"), ("yolo11n-cls", "neither a file|does not detect")):
        with pytest.raises(DataError, match=reason):
            yolo.start_model(start, names)


def test_nothing_is_asked_of_a_network_and_fonts_are_at_hand(monkeypatch, tmp_path):
    assert not ultralytics.utils.ONLINE and not ultralytics.utils.AUTOINSTALL and ultralytics.utils.SAFE_LOAD
    assert not any(ultralytics.utils.SETTINGS[key] for key in ("sync", "comet", "wandb", "mlflow", "clearml"))
    monkeypatch.setattr(ultralytics.utils, "USER_CONFIG_DIR", tmp_path)
    yolo.provide_fonts(ultralytics.utils.USER_CONFIG_DIR)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Arial.Unicode.ttf", "Arial.ttf"]


# boxes ---------------------------------------------------------------------------------------------------------------


class FakeModel(nn.Module):
    """Answers with fixed boxes in the network's pixels: rows of cx cy w h and a score for each class."""

    names, stride, end2end = NAMES, torch.tensor([8.0, 16.0, 32.0]), False

    def __init__(self, rows):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.rows, self.seen = torch.tensor(rows, dtype=torch.float32), None

    def forward(self, image):
        self.seen = image
        return self.rows.T[None], None


@pytest.mark.parametrize(("height", "width"), [(100, 200), (333, 200), (64, 64), (700, 1)])
def test_boxes_return_to_the_pixels_they_came_from(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8)
    padded, frame = place(image, 128)
    assert padded.shape[0] % 32 == padded.shape[1] % 32 == 0 and max(padded.shape) <= 160
    box = np.array([[width * 0.1, height * 0.2, width * 0.9, height * 0.7]])
    there = frame.to_network(box)
    model = FakeModel([[*((there[0, :2] + there[0, 2:]) / 2), *(there[0, 2:] - there[0, :2]), 0.1, 0.8, 0.3]])
    (mark,) = detect(model, image, conf=0.25, img_size=128)
    assert (mark["class_name"], mark["class_id"]) == ("signature", 1)
    assert mark["confidence"] == pytest.approx(0.8)
    np.testing.assert_allclose(mark["box"], box[0], atol=1e-3 * max(height, width))
    assert tuple(model.seen.shape[2:]) == padded.shape[:2] and 0 <= model.seen.min() <= model.seen.max() <= 1


def test_place_keeps_the_picture_in_the_middle_on_grey():
    padded, frame = place(np.zeros((50, 100, 3), np.uint8), 100)
    assert padded.shape == (64, 128, 3) and frame.offset == (14, 7) and frame.scale == 1
    assert padded[7:57, 14:114].max() == 0 and (padded[:7] == 114).all() and (padded[:, 114:] == 114).all()


def test_boxes_are_cut_to_the_image_and_sorted():
    model = FakeModel([[10, 10, 400, 400, 0.5, 0, 0], [60, 60, 10, 10, 0.9, 0, 0], [20, 100, 10, 10, 0.1, 0, 0]])
    marks = detect(model, np.zeros((128, 128, 3), np.uint8), conf=0.25, img_size=128)
    assert [round(m["confidence"], 3) for m in marks] == [0.9, 0.5]
    assert marks[1]["box"] == [0, 0, 128, 128]
    assert detect(model, np.zeros((128, 128, 3), np.uint8), conf=0.95, img_size=128) == []


def test_suppression_equals_ultralytics():
    rng = np.random.default_rng(0)
    for multi_label in (False, True):
        centre, size = rng.uniform(0, 200, (300, 2)), rng.uniform(10, 80, (300, 2))
        rows = torch.tensor(np.hstack([centre, size, rng.uniform(0, 1, (300, 3)) ** 3]), dtype=torch.float32)
        ours = _suppress((rows.T[None],), 0.05, 0.45, multi_label, False)
        (theirs,) = ultralytics.utils.nms.non_max_suppression(rows.T[None].clone(), 0.05, 0.45, multi_label=multi_label)
        assert len(ours) > 20 and torch.allclose(ours, theirs)


def test_scores_equal_those_of_ultralytics():
    """Random pages, through ultralytics' matching and its average precision."""
    rng = np.random.default_rng(1)
    validator = SimpleNamespace(iouv=torch.linspace(0.5, 0.95, 10))
    match = ultralytics.engine.validator.BaseValidator.match_predictions
    records, tp, confidence, classes, truth = [], [], [], [], []
    for _ in range(30):
        n = int(rng.integers(0, 6))
        boxes = np.hstack([corner := rng.uniform(0, 100, (n, 2)), corner + rng.uniform(10, 60, (n, 2))])
        truth_classes = rng.integers(0, 3, n)
        found = np.vstack([boxes + rng.normal(0, 4, boxes.shape), np.array([[0, 0, 30, 30], [50, 50, 90, 90]])])
        found_classes = np.append(np.where(rng.random(n) < 0.8, truth_classes, 0), [1, 2])
        found_confidence = np.round(rng.uniform(0.05, 1, n + 2), 6)
        order = np.argsort(-found_confidence)
        found, found_classes, found_confidence = found[order], found_classes[order], found_confidence[order]
        hits = match_detections(found, found_classes, found_confidence, boxes, truth_classes)
        overlap = ultralytics.utils.metrics.box_iou(torch.tensor(boxes), torch.tensor(found))
        theirs = match(validator, torch.tensor(found_classes), torch.tensor(truth_classes), overlap).numpy()
        np.testing.assert_array_equal(hits, theirs)
        tp.append(theirs)
        confidence.append(found_confidence)
        classes.append(found_classes)
        truth.append(truth_classes)
        rows = [[int(c), float(p), "".join("01"[int(h)] for h in row)]
                for c, p, row in zip(found_classes, found_confidence, hits)]
        records.append({"file": "", "truth": truth_classes.tolist(), "detections": rows})
    _, _, p, r, _, ap, *_ = ultralytics.utils.metrics.ap_per_class(
        np.concatenate(tp), np.concatenate(confidence), np.concatenate(classes), np.concatenate(truth))
    scores = mark_scores(records, NAMES)
    expected = {"map50": ap[:, 0].mean(), "map50_95": ap.mean(), "precision": p.mean(), "recall": r.mean()}
    assert {key: scores[key] for key in expected} == pytest.approx(expected, abs=1e-9)
    assert scores["per_class"]["stamp"]["map50_95"] == pytest.approx(ap[2].mean(), abs=1e-9)
    assert 0.3 < scores["map50"] < 0.95


# samples -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path):
    """Six pages of 60 x 40 in a colour of their own, one mark each."""
    made = []
    for number in range(6):
        path = tmp_path / f"images/{number}.png"
        save_image(path, np.full((40, 60, 3), 40 * number, np.uint8))
        made.append(MarkSample(path, 40, 60, np.array([number % 3]), np.float32([[0.5, 0.5, 0.4, 0.4]])))
    return made


def make_dataset(samples, last_mosaic_epoch=10**9, **hyper):
    settings = {"mosaic": 1.0, "imgsz": 64, "task": "detect", "degrees": 10.0, "seed": 0} | hyper
    return yolo.MarksDataset(samples, 0, last_mosaic_epoch, data={"names": NAMES, "nc": 3}, imgsz=64, batch_size=2,
                             hyp=ultralytics.cfg.get_cfg(overrides=settings), augment=True, stride=32)


def test_without_augmentation_a_sample_is_its_image_in_every_epoch(samples):
    dataset = make_dataset(samples, **dict.fromkeys(AUGMENTATIONS, 0.0))
    first, later = dataset[(0, 2)], dataset[(7, 2)]
    assert torch.equal(first["img"], later["img"]) and torch.equal(first["bboxes"], later["bboxes"])
    columns = np.unique(first["img"].numpy(), axis=2)  # the page is all of grey 80 and as wide as the square
    assert columns.shape == (3, 64, 1)
    rows = columns[0, :, 0]  # 43 of them are page (40 of 60 pixels at long side 64), in the middle of padding
    assert (rows[12:52] == 80).all() and (rows[:10] == 114).all() and (rows[54:] == 114).all()
    assert np.allclose(first["bboxes"].numpy(), [[0.5, 0.5, 0.4, 0.4 * 43 / 64]], atol=0.01)


def test_a_sample_follows_from_its_key_alone(samples):
    dataset = make_dataset(samples)
    first = dataset[(3, 2)]
    random.seed(99), np.random.seed(99)
    states = random.getstate(), np.random.get_state()[1].copy()
    for key in ((0, 0), (3, 1), (5, 5)):
        dataset[key]
    again, other_worker = dataset[(3, 2)], make_dataset(samples)[(3, 2)]
    for item in (again, other_worker):
        assert torch.equal(item["img"], first["img"]) and torch.equal(item["bboxes"], first["bboxes"])
    assert not torch.equal(dataset[(4, 2)]["img"], first["img"])
    assert random.getstate() == states[0] and (np.random.get_state()[1] == states[1]).all()


def test_workers_change_nothing(samples):
    epochs = []
    for workers in (0, 2):
        dataset = make_dataset(samples)
        loader = make_loader(dataset, EpochBatches(6, 2, seed=0), workers, torch.device("cpu"), dataset.collate_fn)
        loader.batch_sampler.set_position(4)
        epochs.append(list(loader))
    assert len(epochs[0]) == 3
    for alone, shared in zip(*epochs):
        assert alone["im_file"] == shared["im_file"] and torch.equal(alone["img"], shared["img"])
        assert torch.equal(alone["bboxes"], shared["bboxes"])


def test_mosaics_end_by_the_epoch_of_the_key(samples):
    dataset = make_dataset(samples, last_mosaic_epoch=1, degrees=0.0, scale=0.0, translate=0.0, hsv_v=0.0)
    marks = [[len(dataset[(epoch, index)]["cls"]) for index in range(6)] for epoch in range(4)]
    assert max(marks[0]) > 1 and max(marks[1]) > 1 and marks[2:] == [[1] * 6] * 2


def test_nothing_is_written_or_read_beside_the_images(samples):
    """ultralytics alone would unpickle labels.cache, load the .npy, and rewrite a JPEG without an end marker."""
    folder = samples[0].file.parent
    (folder.parent / "labels.cache").write_bytes(b"not to be opened")
    (folder.parent / "images.cache").write_bytes(b"not to be opened")
    np.save(folder / "0.npy", np.zeros((40, 60, 3), np.uint8))
    os.utime(folder / "0.npy", (2e9, 2e9))
    before = {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")}
    dataset = make_dataset(samples, mosaic=0.0)
    image, *_ = make_dataset([samples[5]]).load_image(0)
    dataset[(0, 0)]
    assert image.mean() == 200
    assert {path: path.stat().st_mtime_ns for path in folder.parent.rglob("*")} == before


def test_evaluation_and_the_truth_itself(samples):
    box = np.array([32, 32, 25.6, 17.07])  # the mark of every page, in the network's pixels at 64
    model = FakeModel([[*box, 0.9, 0.0, 0.0], [*box, 0.0, 0.6, 0.0]])
    scores, records = evaluate(model, samples, 64)
    assert [record["file"] for record in records] == [str(sample.file) for sample in samples]
    assert scores["per_class"]["stamp"]["map50"] == 0.0
    # A third of the pages hold a qr, and it is found on all of them.
    assert scores["per_class"]["qr"]["recall"] == scores["per_class"]["signature"]["recall"] == 1.0
    assert truth_score(samples, 64) == pytest.approx(0.995)
    turned = [MarkSample(s.file, s.width, s.height, s.classes, s.boxes) for s in samples]
    assert truth_score(turned, 64) < 0.5
    assert truth_score([MarkSample(samples[0].file, 40, 60, np.zeros(0, int), np.zeros((0, 4)))], 64) == 1.0


def test_images_are_read_as_everywhere_else(tmp_path):
    """EXIF orientation applied once: ultralytics and our loader agree on which side is long."""
    path = Path(tmp_path / "turned.jpg")
    from PIL import Image
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (60, 40), "red").save(path, exif=exif)
    sample = MarkSample(path, 60, 40, np.zeros(0, int), np.zeros((0, 4), np.float32))
    image, original, resized = make_dataset([sample]).load_image(0)
    assert original == (60, 40) and resized == image.shape[:2] == (64, 43)
    assert cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[30, 20, 0] > 200
