import cv2
import numpy as np
import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F

from models.backbones import build_encoder
from models.dbnet import DBNet, DBNetConfig, load_model, predict_boxes
from models.dbnet_decode import decode_boxes, means_inside
from models.dbnet_decoders import DECODERS
from models.dbnet_loss import (balanced_bce, db_loss, dice_loss, masked_l1, sum_largest_by_selection,
                                sum_largest_by_sorting)
from utils.checkpoint import save_checkpoint
from utils.errors import DataError
from utils.geometry import order_quad


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return DBNet(DBNetConfig("resnet18", "fpn", 16))


def random_batch(n=2, size=64, text=True):
    generator = torch.Generator().manual_seed(1)
    maps = {name: (torch.rand(n, size, size, generator=generator) > 0.7).float()
            for name in ("shrink_map", "shrink_mask", "thresh_mask")}
    if not text:
        maps["shrink_map"].zero_()
        maps["thresh_mask"].zero_()
        maps["shrink_mask"].fill_(1)
    return maps | {"thresh_map": torch.full((n, size, size), 0.5)}


@pytest.mark.parametrize("decoder", DECODERS)
def test_shapes_and_every_weight_learns(decoder):
    net = DBNet(DBNetConfig("resnet18", decoder, 16)).train()
    out = net(torch.randn(2, 3, 64, 96))
    assert out["prob"].shape == out["thresh"].shape == (2, 64, 96)
    (out["prob"].sum() + out["thresh"].sum()).backward()
    assert all(p.grad is not None for p in net.parameters())
    assert set(net.eval()(torch.randn(1, 3, 32, 32))) == {"prob"}


@pytest.mark.parametrize("encoder", ["resnet34", "resnet50", "efficientnet-b3", "tu-mobilenetv3_large_100",
                                     "tu-hrnet_w18"])
def test_other_encoders_fit(encoder):
    net = DBNet(DBNetConfig(encoder, "fpn", 8)).train()
    out = net(torch.randn(2, 3, 64, 32))
    assert out["prob"].shape == out["thresh"].shape == (2, 64, 32)


def slow_balanced_bce(logits, target, mask):
    """Pixel by pixel, as the paper says it: positives and the hardest negatives, three to one."""
    losses = []
    for logit, goal, keep in zip(logits, target, mask):
        positive, negative = [], []
        for x, y, m in zip(logit.flatten().tolist(), goal.flatten().tolist(), keep.flatten().tolist()):
            if m:
                p = 1 / (1 + np.exp(-x))
                (positive if y else negative).append(-np.log(p if y else 1 - p))
        count = min(len(negative), max(3 * len(positive), logit.numel() // 64))
        chosen = sorted(negative, reverse=True)[:count]
        losses.append((sum(positive) + sum(chosen)) / max(len(positive) + count, 1))
    return losses


@pytest.mark.parametrize("share", [0.0, 0.01, 0.1, 0.9, 1.0])
def test_balanced_bce_equals_the_slow_one(share):
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(3, 16, 16, generator=generator)
    target = (torch.rand(3, 16, 16, generator=generator) < share).float()
    mask = (torch.rand(3, 16, 16, generator=generator) < 0.8).float()
    assert balanced_bce(logits, target, mask).tolist() == pytest.approx(slow_balanced_bce(logits, target, mask), rel=1e-4)


def test_the_largest_are_summed_alike_with_and_without_reading_back():
    values = torch.rand(4, 50, generator=torch.Generator().manual_seed(1)).requires_grad_()
    counts = torch.tensor([0, 1, 17, 50])
    sums, gradients = [], []
    for sum_largest in (sum_largest_by_selection, sum_largest_by_sorting):
        sums.append(sum_largest(values, counts))
        gradients.append(torch.autograd.grad(sums[-1].square().sum(), values)[0])
    assert torch.allclose(sums[0], sums[1]) and torch.allclose(gradients[0], gradients[1])
    assert sums[1][0] == 0 and sums[1][1] == values[1].max() and gradients[1].count_nonzero(1).tolist() == counts.tolist()


def test_a_blank_page_is_punished_for_what_it_predicts():
    batch = random_batch(1, text=False)
    logits = torch.full((1, 64, 64), 3.0, requires_grad=True)
    parts, weight = db_loss({"prob": logits, "thresh": torch.zeros(1, 64, 64)}, batch)
    parts["loss"].backward()
    assert weight == 1 and parts["prob"] > 1 and parts["binary"] > 0.9 and parts["thresh"] == 0
    assert (logits.grad > 0).any() and not (logits.grad < 0).any()


def test_a_page_that_is_ignored_everywhere_costs_nothing_but_the_constant():
    batch = random_batch(1) | {"shrink_mask": torch.zeros(1, 64, 64), "thresh_mask": torch.zeros(1, 64, 64)}
    logits = torch.randn(1, 64, 64, requires_grad=True)
    parts, _ = db_loss({"prob": logits, "thresh": logits}, batch)
    parts["loss"].backward()
    assert parts["loss"] == 0 and (logits.grad == 0).all()


def test_loss_is_per_image():
    batch = random_batch(3)
    out = {name: torch.randn(3, 64, 64, generator=torch.Generator().manual_seed(i)) for i, name in
           enumerate(("prob", "thresh"))}
    whole, weight = db_loss(out, batch)
    single = [db_loss({k: v[i : i + 1] for k, v in out.items()}, {k: v[i : i + 1] for k, v in batch.items()})[0]
              for i in range(3)]
    assert weight == 3
    for name in whole:
        assert whole[name].item() == pytest.approx(np.mean([s[name].item() for s in single]), rel=1e-5)


def test_terms_by_hand():
    value, target = torch.tensor([[[0.5, 1.0]]]), torch.tensor([[[1.0, 0.0]]])
    assert masked_l1(value, target, torch.ones(1, 1, 2)).item() == pytest.approx(0.75)
    assert masked_l1(value, target, torch.zeros(1, 1, 2)).item() == 0
    assert dice_loss(value, target, torch.ones(1, 1, 2)).item() == pytest.approx(1 - (2 * 0.5 + 1) / (1.5 + 1 + 1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_loss_is_finite_in_half_precision(dtype):
    out = {name: (torch.randn(2, 64, 64) * 60).to(dtype).requires_grad_() for name in ("prob", "thresh")}
    parts, _ = db_loss(out, random_batch())
    parts["loss"].backward()
    assert parts["loss"].dtype == torch.float32 and torch.isfinite(parts["loss"])
    assert all(torch.isfinite(t.grad).all() for t in out.values())


def draw(quads, size=400):
    prob = np.zeros((size, size), np.float32)
    for quad in quads:
        cv2.fillPoly(prob, [np.round(np.float32(quad) * 16 - 8).astype(np.int32)], 1.0, shift=4)
    return prob


def rectangle(x, y, width, height, angle):
    return order_quad(cv2.boxPoints(((x, y), (width, height), angle)))


@pytest.mark.parametrize("angle", [0, 7, -20])
def test_decode_grows_a_rectangle_by_the_unclip_distance(angle):
    width, height, ratio = 120.0, 20.0, 1.5
    quads, scores = decode_boxes(draw([rectangle(200, 200, width, height, angle)]), unclip_ratio=ratio)
    grow = 2 * width * height * ratio / (2 * (width + height))
    assert len(quads) == 1 and scores[0] > 0.95
    assert np.abs(quads[0] - rectangle(200, 200, width + grow, height + grow, angle)).max() < 2.5


def test_decode_leaves_out_the_faint_the_small_and_the_empty():
    prob = draw([rectangle(100, 100, 80, 20, 0)])
    prob[300:302, 300:302] = 1.0
    prob[150:170, 150:250] = 0.45
    quads, scores = decode_boxes(prob, box_thresh=0.6)
    assert len(quads) == 1 and quads[0].mean(0) == pytest.approx([100, 100], abs=1)
    assert len(decode_boxes(prob, box_thresh=0.4)[0]) == 2
    quads, scores = decode_boxes(np.zeros((64, 64), np.float32))
    assert quads.shape == (0, 4, 2) and scores.shape == (0,)
    assert len(decode_boxes(np.ones((64, 64), np.float32))[0]) == 1


def test_decode_keeps_hundreds_of_boxes():
    """A default of 100 candidates elsewhere loses text."""
    prob = np.zeros((1300, 1300), np.float32)
    for y in range(20, 1280, 26):
        for x in range(20, 1250, 80):
            prob[y : y + 8, x : x + 50] = 1
    assert len(decode_boxes(prob)[0]) == 49 * 16


def test_means_inside_equal_a_loop_over_pixels():
    prob = np.random.default_rng(0).random((40, 60)).astype(np.float32)
    quad = np.float32([[10, 5], [50, 8], [48, 30], [9, 27]])
    inside = [prob[y, x] for y in range(40) for x in range(60) if cv2.pointPolygonTest(quad, (x, y), False) >= 0]
    assert means_inside(prob, [quad, quad + 500]) == pytest.approx([np.mean(inside), 0], abs=1e-2)


def test_a_checkpoint_rebuilds_its_model(tmp_path, model):
    path = tmp_path / "d.pt"
    save_checkpoint(path, {"task": "detection", "config": {"encoder": "resnet18", "decoder": "fpn", "channels": 16},
                           "model": model.state_dict(), "ema": None})
    loaded, _ = load_model(path, torch.device("cpu"))
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(loaded(image)["prob"], model.eval()(image)["prob"])
    thresholds = {"thresh": 0.3, "box_thresh": 0.0, "unclip_ratio": 1.5, "long_side": 96}
    quads, scores = predict_boxes(loaded, np.zeros((50, 31, 3), np.uint8), torch.device("cpu"), thresholds)
    assert quads.shape[1:] == (4, 2) and len(quads) == len(scores)
    assert quads.size == 0 or (quads.min() >= 0 and (quads.max((0, 1)) <= (31, 50)).all())


def test_padding_at_the_right_does_not_move_what_is_found(model):
    """Pages of a batch differ in width; what stands far from the padding must not change."""
    image = torch.randn(1, 3, 64, 256)
    with torch.no_grad():
        alone = model.eval()(image)["prob"][..., :8]
        padded = model(F.pad(image, (0, 64)))["prob"][..., :8]
    assert alone.shape == padded.shape and torch.isfinite(padded).all()


def test_encoder_weights_without_a_network(tmp_path):
    encoder, source = build_encoder("resnet18", "auto")
    assert "ImageNet weights on this machine" in source or "found on this machine" in source
    torch.save(encoder.state_dict(), tmp_path / "w.pt")
    again, source = build_encoder("resnet18", str(tmp_path / "w.pt"))
    assert "w.pt" in source and torch.equal(again.conv1.weight, encoder.conv1.weight)
    for name, weights, reason in (("resnet18", str(tmp_path / "none.pt"), "no such file"),
                                  ("nonsense", "none", "unknown"), ("tu-nonsense", "auto", "timm has no model"),
                                  ("resnet34", str(tmp_path / "w.pt"), "does not fit")):
        with pytest.raises(DataError, match=reason):
            build_encoder(name, weights)


@pytest.mark.parametrize("name, reason", [("tu-vit_base_patch16_224", "downsampling"), ("tu-mixer_b16_224", "downsampling"),
                                          ("tu-swin_tiny_patch4_window7_224", "224")])
@pytest.mark.parametrize("weights", ["none", "auto", "imagenet"])
def test_encoders_without_maps_at_four_strides_or_of_one_size(name, reason, weights):
    with pytest.raises(DataError, match=f"--encoder {name}: .*{reason}") as error:
        build_encoder(name, weights)
    assert "\n" not in str(error.value) and "download" not in str(error.value)


def test_a_look_at_an_encoder_leaves_it_as_it_was():
    torch.manual_seed(0)
    encoder, _ = build_encoder("resnet18", "none")
    after = torch.rand(1)
    torch.manual_seed(0)
    plain = smp.encoders.get_encoder("resnet18", weights=None)
    assert torch.equal(after, torch.rand(1)) and encoder.training and encoder.layer1.training
    assert all(torch.equal(value, plain.state_dict()[name]) for name, value in encoder.state_dict().items())
