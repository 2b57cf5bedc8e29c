"""Sources that label different classes, trained and scored together: what is not labelled is not a negative."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from datasets.yolo import MarkSample
from models import yolo
from models.yolo_boxes import COUNTED_AT, evaluate
from utils.images import save_image

NAMES = {0: "qr", 1: "signature", 2: "stamp"}
BOX = torch.tensor([[0.5, 0.5, 0.4, 0.3], [0.3, 0.4, 0.2, 0.2]])
SETTINGS = yolo.ultralytics.cfg.get_cfg(overrides={"epochs": 3})


@pytest.fixture(scope="module", params=["yolo11n", "yolo26n"])
def network(request):
    torch.manual_seed(0)
    model = yolo.start_model(request.param, NAMES)[0].train()
    model.args = SETTINGS
    return model


def batch(labelled):
    """Two noisy pages with a signature each; labelled: (2, 3)"""
    return {"img": torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), "cls": torch.ones(2, 1),
            "batch_idx": torch.arange(2.0), "bboxes": BOX, "labelled": torch.tensor(labelled)}


def score_gradients(model, labelled):
    """Gradient of the loss with respect to the class scores of every head: (2, 3, places) each."""
    found = []
    forward = model.forward
    preds = forward(batch(labelled)["img"])
    heads = [preds[key] for key in ("one2many", "one2one")] if "one2one" in preds else [preds]
    for head in heads:
        head["scores"].retain_grad()
        found.append(head["scores"])
    loss, _ = yolo.make_loss(model)(preds, batch(labelled))
    loss.sum().backward()
    model.zero_grad()
    return [scores.grad for scores in found]


def test_an_unlabelled_class_teaches_nothing(network):
    for grad in score_gradients(network, [[False, True, False], [True, True, True]]):
        assert not grad[0, [0, 2]].any() and (grad[0, 1] != 0).all()
        assert (grad[1] != 0).all()


def test_a_mark_that_is_there_counts_though_its_class_is_not_labelled(network):
    for grad in score_gradients(network, [[True, False, True], [True, True, True]]):
        touched = grad[0, 1] != 0
        assert 0 < touched.sum() < len(touched) and (grad[0, 1][touched] < 0).any()
        assert (grad[0, [0, 2]] != 0).all()


def test_with_all_labelled_it_is_ultralytics_loss(network):
    everything = batch([[True] * 3] * 2)
    preds = network.forward(everything["img"])
    (ours, parts), (theirs, their_parts) = yolo.make_loss(network)(preds, everything), network.init_criterion()(
        preds, everything)
    assert torch.equal(ours, theirs) and parts == their_parts


# samples and scores ---------------------------------------------------------------------------------------------------


@pytest.fixture
def samples(tmp_path):
    """Letters (green, signatures labelled), packs (red, qr labelled), and one page with everything labelled (blue)."""
    made = []
    for number, (colour, labelled) in enumerate([((0, 255, 0), {1})] * 4 + [((255, 0, 0), {0})] * 3
                                                + [((0, 0, 255), None)]):
        path = tmp_path / f"{number}.png"
        save_image(path, np.full((64, 64, 3), colour, np.uint8))
        class_id = min(labelled) if labelled else 2
        made.append(MarkSample(path, 64, 64, np.array([class_id]), np.float32([[0.5, 0.5, 0.5, 0.5]]),
                               frozenset(labelled) if labelled else None))
    return made


@pytest.mark.parametrize("hyper", [{"mosaic": 1.0, "mixup": 0.0}, {"mosaic": 0.0, "mixup": 1.0},
                                   {"mosaic": 1.0, "mixup": 1.0}])
def test_only_images_with_the_same_classes_labelled_are_mixed(samples, hyper):
    args = yolo.ultralytics.cfg.get_cfg(overrides=hyper | {
        "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "fliplr": 0.0, "flipud": 0.0, "bgr": 0.0, "erasing": 0.0})
    data = yolo.MarksDataset(samples, 0, 10**9, data={"names": NAMES, "nc": 3}, hyp=args, imgsz=64, augment=True)
    for epoch in range(4):
        for index, sample in enumerate(samples):
            item = data[epoch, index]
            known = sample.labelled or {0, 1, 2}
            assert item["labelled"].tolist() == [class_id in known for class_id in range(3)]
            assert {int(value) for value in item["cls"]} <= ({2} if sample.labelled is None else known)
            image = item["img"].float()  # (3, H, W), BGR or RGB; grey is padding
            coloured = (image.max(0).values - image.min(0).values) > 60
            assert len(set(image.argmax(0)[coloured].tolist())) <= 1
    assert data.collate_fn([data[0, 0], data[0, 7]])["labelled"].tolist() == [[False, True, False], [True] * 3]


def test_validation_sorts_pages_by_shape_and_keeps_what_is_labelled_in_each(samples, tmp_path):
    for number, width in enumerate([200, 30, 64, 120, 40, 64, 300, 90]):
        samples[number] = replace(samples[number], file=tmp_path / f"shape{number}.png", width=width)
        save_image(samples[number].file, np.full((64, width, 3), 255, np.uint8))
    data = yolo.MarksDataset(samples, 0, 10**9, data={"names": NAMES, "nc": 3}, imgsz=64, augment=False, rect=True,
                             hyp=yolo.ultralytics.cfg.get_cfg(overrides={}), batch_size=2, stride=32, pad=0.5)
    files = [data[0, index]["im_file"] for index in range(len(samples))]
    assert files != [str(sample.file) for sample in samples] and sorted(files) == [str(s.file) for s in samples]
    for index, file in enumerate(files):
        known = next(sample.labelled for sample in samples if str(sample.file) == file) or {0, 1, 2}
        assert data[0, index]["labelled"].tolist() == [class_id in known for class_id in range(3)]


class AlwaysTheSame(nn.Module):
    """Finds a qr, a signature and a stamp in the middle of every image."""

    names, stride, end2end = NAMES, torch.tensor([32]), False

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, pixels):
        return (torch.tensor([[32.0, 32, 32, 32, *scores] for scores in np.eye(3) * 0.9]).T[None].float(),)


def test_an_image_is_scored_for_its_labelled_classes(samples):
    scores, records = evaluate(AlwaysTheSame(), samples, 64)
    assert [[row[0] for row in record["detections"]] for record in records] == [[1]] * 4 + [[0]] * 3 + [[0, 1, 2]]
    # One false qr among four, one false signature among five; the page that labels all has a stamp and no other.
    assert scores["per_class"]["stamp"]["map50"] == pytest.approx(0.995)
    assert scores["per_class"]["signature"]["n_truth"] == 4
    assert scores["count_error"] == {"components": 2 / 8, "seed": 2 / 8, "none": 2 / 8}
    sure = {"qr": 1 / 8, "signature": 1 / 8, "stamp": 0.0}  # found with a confidence of 0.9, so that all count at each
    assert scores["count_error_at"] == {name: dict.fromkeys(map(str, COUNTED_AT), wrong) for name, wrong in sure.items()}


def test_ultralytics_own_curves_leave_them_out_too(samples):
    validator = yolo._MarksValidator(args={"mode": "val"})
    kept = []
    validator.update_metrics = lambda preds, batch: yolo._MarksValidator.update_metrics(validator, preds, batch)
    pred = {"bboxes": torch.zeros(3, 4), "conf": torch.tensor([0.9, 0.8, 0.7]), "cls": torch.tensor([0.0, 1.0, 2.0]),
            "extra": torch.zeros(3, 0)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yolo.DetectionValidator, "update_metrics", lambda self, preds, batch: kept.extend(preds))
        validator.update_metrics([pred], {"labelled": torch.tensor([[False, True, False]])})
    assert kept[0]["cls"].tolist() == [1.0] and kept[0]["conf"].tolist() == pytest.approx([0.8])


class Paster:
    """Lays a stamp, a black square, in the upper left corner."""

    def __call__(self, image, classes, boxes, rng):
        assert image.shape[2] == 3 and classes.ndim == 1 and boxes.shape == (len(classes), 4)
        image = image.copy()
        image[:16, :16] = 0, 0, 200  # RGB
        self.drawn = rng.random()
        return image, np.append(classes, 2).astype(classes.dtype), np.vstack([boxes, [[0.125, 0.125, 0.25, 0.25]]])


def test_pasted_marks_join_the_labels(samples):
    bare = MarkSample(samples[0].file, 64, 64, np.zeros(0, np.int64), np.zeros((0, 4), np.float32), frozenset())
    quiet = yolo.ultralytics.cfg.get_cfg(overrides=dict.fromkeys(
        ("mosaic", "mixup", "hsv_h", "hsv_s", "hsv_v", "fliplr", "flipud", "scale", "translate", "bgr"), 0.0))
    def dataset(share):
        return yolo.MarksDataset([*samples, bare], 0, 10**9, (Paster(), share), data={"names": NAMES, "nc": 3},
                                 hyp=quiet, imgsz=64, augment=True)

    always, never = dataset(1.0), dataset(0.0)
    item = always[0, 0]
    assert item["cls"].flatten().tolist() == [1, 2] and item["labelled"].tolist() == [False, True, False]
    assert item["img"][:, 3, 3].tolist() == [0, 0, 200]
    first = always.paste[0].drawn
    assert always[0, 0]["img"].equal(item["img"]) and always.paste[0].drawn == first
    assert always[1, 0] and always.paste[0].drawn != first
    assert never[0, 0]["cls"].flatten().tolist() == [1]
    assert never[0, 8]["cls"].flatten().tolist() == [2] and not never[0, 8]["labelled"].any()  # what else is it for
