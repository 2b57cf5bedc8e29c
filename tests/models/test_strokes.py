"""The stroke network, its losses against figures by hand, and prediction at native resolution."""

from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.stroke_losses import StrokeLoss, continuity_loss, dice_loss, edge_loss, focal_loss, soft_skeleton
from models.strokes import (ARCHITECTURES, COARSE_STRIDE, POOLED_NORM, PaintedTruth, StrokeNet, StrokesConfig,
                            coarse_warning, find_ink, load_model, predict_strokes, predict_tiled, predict_whole,
                            tile_starts, why_not)
from utils.checkpoint import save_checkpoint
from utils.errors import DataError

LOSSES = {"dice": dice_loss, "focal": focal_loss, "edge": edge_loss, "continuity": continuity_loss,
          "all": lambda logits, target: StrokeLoss(continuity=1.0)(logits, target)["loss"]}
SMALL = {"encoder": "resnet18", "height": 64, "width": 64}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


def logit(probability):
    return torch.logit(torch.as_tensor(probability, dtype=torch.float32), eps=1e-6)


def strokes(height=48, width=64):
    """(1, 1, H, W) a mask of a few bars, one of them a single pixel wide."""
    mask = torch.zeros(1, 1, height, width)
    mask[..., 10:13, 5:50] = 1
    mask[..., 20:45, 30] = 1
    mask[..., 25:40, 8:14] = 1
    return mask


# ---- losses


def test_dice_by_hand():
    target = torch.zeros(1, 1, 4, 4)
    target[..., :2, :] = 1  # 8 pixels of ink
    half = logit(torch.full((1, 1, 4, 4), 0.5))
    # overlap 8 * 0.5 = 4, sums 8 and 8, one pixel of smoothing: 1 - (2 * 4 + 1) / (8 + 8 + 1)
    assert dice_loss(half, target).item() == pytest.approx(1 - 9 / 17, abs=1e-6)
    assert dice_loss(logit(target), target).item() == pytest.approx(0, abs=1e-4)
    assert dice_loss(logit(1 - target), target).item() == pytest.approx(1 - 1 / 17, abs=1e-4)
    empty = torch.zeros_like(target)
    assert dice_loss(half, empty).item() == pytest.approx(1 - 1 / 9, abs=1e-6)  # never exactly 0 on a blank page
    assert dice_loss(logit(empty), empty).item() == pytest.approx(0, abs=1e-4)


def test_dice_of_soft_masks_is_least_at_the_mask_itself():
    target = torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    at_truth = dice_loss(logit(target), target).item()
    assert at_truth == pytest.approx(0, abs=1e-4)
    assert dice_loss(logit((target > 0.5).float()), target).item() > 0.1  # what a product of p and t would prefer


def test_focal_by_hand():
    target = torch.tensor([[[[1.0, 0.0]]]])
    logits = logit([[[[0.25, 0.4]]]])
    ink = 0.75 * 0.75**2 * -np.log(0.25)
    background = 0.25 * 0.4**2 * -np.log(0.6)
    assert focal_loss(logits, target, alpha=0.75, gamma=2.0).item() == pytest.approx((ink + background) / 2, rel=1e-5)
    # gamma 0 and alpha 0.5 leave half of the plain cross-entropy
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logits, target).item()
    assert focal_loss(logits, target, alpha=0.5, gamma=0.0).item() == pytest.approx(plain / 2, rel=1e-6)


def test_focal_alpha_is_the_weight_of_ink():
    ink, background, half = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    assert focal_loss(half, ink, alpha=0.9).item() == pytest.approx(9 * focal_loss(half, background, alpha=0.9).item())


def test_edge_by_hand():
    target = torch.zeros(1, 1, 6, 8)
    target[..., 4:] = 1  # one upright edge: a Sobel answer of 4 in the two columns beside it
    flat = torch.zeros(1, 1, 6, 8)
    assert edge_loss(flat, target).item() == pytest.approx(2 * 4 / 8, rel=1e-3)
    assert edge_loss(logit(1 - target), target).item() == pytest.approx(2 * 8 / 8, rel=1e-3)  # the edge, but inside out
    assert edge_loss(logit(target), target).item() == pytest.approx(0, abs=1e-4)
    assert edge_loss(flat, torch.ones_like(flat)).item() == pytest.approx(0, abs=1e-6)  # the page's border is no edge


def slow_skeleton(image, iterations):
    """The same thinning by loops over pixels: erosion with a cross, dilation with a square, borders left out."""
    cross, square = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)], [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]

    def neighbours(a, y, x, shape):
        return [a[y + v, x + u] for v, u in shape if 0 <= y + v < a.shape[0] and 0 <= x + u < a.shape[1]]

    def filtered(a, pick, shape):
        return np.array([[pick(neighbours(a, y, x, shape)) for x in range(a.shape[1])] for y in range(a.shape[0])])

    def ridge(a):
        return np.maximum(a - filtered(filtered(a, min, cross), max, square), 0)

    skeleton = ridge(image)
    for _ in range(iterations):
        image = filtered(image, min, cross)
        skeleton = skeleton + np.maximum(ridge(image) - skeleton * ridge(image), 0)
    return skeleton


@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_skeleton_matches_loops_over_the_pixels(iterations):
    image = torch.rand(1, 1, 9, 11, generator=torch.Generator().manual_seed(1))
    expected = slow_skeleton(image[0, 0].double().numpy(), iterations)
    assert np.allclose(soft_skeleton(image, iterations)[0, 0].numpy(), expected, atol=1e-5)


def test_skeleton_needs_and_honours_its_iterations():
    bar = torch.zeros(1, 1, 31, 61)
    bar[..., 11:20, 5:56] = 1  # 9 pixels wide: its middle line appears at the fourth erosion
    assert soft_skeleton(bar, 3)[..., 15, 15:45].sum() == 0
    ridge = soft_skeleton(bar, 4)[..., 15:46]
    assert (ridge[..., 15, :] == 1).all() and ridge.sum() == ridge[..., 15, :].sum()


def test_continuity_by_hand():
    line = torch.zeros(1, 1, 7, 40)
    line[..., 3, :] = 1  # a line one pixel wide is its own skeleton
    broken = line.clone()
    broken[..., 10:20] = 0
    precision, recall = (30 + 1) / (30 + 1), (30 + 1) / (40 + 1)
    expected = 1 - 2 * precision * recall / (precision + recall)
    assert continuity_loss(logit(broken), line).item() == pytest.approx(expected, abs=1e-3)
    assert continuity_loss(logit(line), line).item() == pytest.approx(0, abs=1e-3)


def test_continuity_minds_gaps_more_than_lost_rims():
    wide = torch.zeros(1, 1, 15, 60)
    wide[..., 5:10, :] = 1
    gap, rim = wide.clone(), wide.clone()
    gap[..., 24:36] = 0  # 60 pixels lost from the middle, or from one side
    rim[..., 9, :] = 0
    assert dice_loss(logit(gap), wide).item() == pytest.approx(dice_loss(logit(rim), wide).item(), abs=1e-3)
    assert continuity_loss(logit(gap), wide).item() > 3 * continuity_loss(logit(rim), wide).item()


@every_loss
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fill", [0.0, 1.0, None], ids=["empty", "full", "strokes"])
def test_losses_and_gradients_are_finite(loss, dtype, fill):
    # 320 x 320 pixels sum to more than the largest float16
    target = torch.full((1, 1, 320, 320), fill) if fill is not None else strokes(320, 320)
    for start in (0.0, 30.0, -30.0):  # flat predictions: undecided, and saturated either way
        logits = torch.full(target.shape, start, dtype=dtype, requires_grad=True)
        value = loss(logits, target)
        value.backward()
        assert value.dtype == torch.float32 and torch.isfinite(value) and value >= 0
        assert torch.isfinite(logits.grad).all()


@every_loss
def test_losses_are_means_over_images(loss):
    generator = torch.Generator().manual_seed(2)
    target = torch.cat([strokes(), torch.zeros(1, 1, 48, 64)])
    logits = torch.randn(target.shape, generator=generator)
    alone = [loss(logits[i : i + 1], target[i : i + 1]).item() for i in range(2)]
    assert loss(logits, target).item() == pytest.approx(sum(alone) / 2, rel=1e-5)
    assert abs(alone[0] - alone[1]) > 1e-3  # or the mean would prove nothing


@every_loss
def test_losses_switch_autocast_off(loss):
    logits, target = torch.randn(1, 1, 48, 64, generator=torch.Generator().manual_seed(3)), strokes()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(logits, target)
    assert inside.dtype == torch.float32 and inside.item() == loss(logits, target).item()


@every_loss
def test_losses_lead_to_the_truth(loss):
    target = strokes()
    logits = torch.zeros_like(target).normal_(0, 0.1, generator=torch.Generator().manual_seed(4)).requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.3)
    first = loss(logits, target).item()
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    assert loss(logits, target).item() < 0.35 * first


def test_total_is_the_weighted_sum_and_a_weight_of_0_leaves_a_loss_out():
    logits, target = torch.randn(1, 1, 48, 64, generator=torch.Generator().manual_seed(5)), strokes()
    parts = StrokeLoss(dice=2, focal=3, edge=0, continuity=0.5, focal_alpha=0.6, focal_gamma=1.5,
                       cldice_iters=3)(logits, target)
    assert set(parts) == {"loss", "dice", "focal", "continuity"}
    expected = (2 * dice_loss(logits, target) + 3 * focal_loss(logits, target, 0.6, 1.5)
                + 0.5 * continuity_loss(logits, target, 3))
    assert parts["loss"].item() == pytest.approx(expected.item())


# ---- network


@pytest.mark.parametrize("arch", [arch for arch in ARCHITECTURES if arch != "dpt"])
def test_every_architecture_predicts_every_pixel(arch):
    model = StrokeNet(StrokesConfig(arch, **SMALL)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 128, 160)).shape == (1, 1, 128, 160)


def test_deeplabv3_predicts_on_the_grid_asked_for():
    for stride in (8, 16):
        model = StrokeNet(StrokesConfig("deeplabv3", **SMALL, output_stride=stride)).eval()
        with torch.inference_mode():
            assert model(torch.zeros(1, 3, 128, 160)).shape == (1, 1, 128, 160)
            assert model.network.encoder(torch.zeros(1, 3, 128, 160))[-1].shape[-2:] == (128 // stride, 160 // stride)
        assert f"stride {stride} " in coarse_warning("deeplabv3", stride)
    assert "stride 4 " in coarse_warning("fpn", 8) and not coarse_warning("unet", 8)


def test_dpt_takes_a_vision_transformer_at_any_size():
    model = StrokeNet(StrokesConfig("dpt", "tu-vit_tiny_patch16_224")).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 1, 64, 96)


@pytest.mark.parametrize("encoder", ["tu-mobilenetv3_large_100", "efficientnet-b0", "mit_b0", "tu-hrnet_w18_small"])
def test_encoders_of_every_family(encoder):
    model = StrokeNet(StrokesConfig(encoder=encoder)).eval()
    with torch.inference_mode():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def test_the_finest_detail_that_a_network_can_draw():
    """A single changed pixel moves a stride-1 network's answer by pixels, and a stride-4 one's by cells of 4."""
    def roughness(arch):
        torch.manual_seed(0)
        model = StrokeNet(StrokesConfig(arch, **SMALL)).eval()
        with torch.inference_mode():
            answer = model(torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))[0, 0].numpy()
        small = cv2.resize(answer, (16, 16), interpolation=cv2.INTER_AREA)
        return np.abs(answer - cv2.resize(small, (64, 64), interpolation=cv2.INTER_CUBIC)).mean() / answer.std()

    assert all(roughness(arch) > 3 * roughness("fpn") for arch in ("unet", "linknet") if arch not in COARSE_STRIDE)


def test_a_new_network_expects_little_ink():
    torch.manual_seed(0)
    model = StrokeNet(StrokesConfig(**SMALL)).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 64, 64)).sigmoid().mean() < 0.35


@pytest.mark.parametrize("arch, encoder, word", [("linknet", "mit_b0", "mit_b0"), ("deeplabv3", "vgg11", "vgg11"),
                                                 ("unet", "resnet1", "resnet1"), ("unet", "tu-nothing", "nothing")])
def test_what_cannot_be_built_is_said_in_one_line(arch, encoder, word):
    with pytest.raises(DataError, match=word) as caught:
        StrokeNet(StrokesConfig(arch, encoder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("arch", ["unet", "dpt"])
@pytest.mark.parametrize("name, near", [("hrnet", "tu-hrnet_w18"), ("mobilenetv3", "tu-mobilenetv3_large_100"),
                                        ("resnet-50", "resnet50"), ("efficientnet_b3", "efficientnet-b3"),
                                        ("tu-mobilenetv3_large", "tu-mobilenetv3_large_100")])
def test_an_encoder_that_is_not_there_is_answered_by_those_like_it(arch, name, near):
    with pytest.raises(DataError) as caught:
        StrokeNet(StrokesConfig(arch, name))
    message = str(caught.value)
    assert message.startswith(f"--encoder {name}: no such encoder; did you mean ")
    assert near in message.removesuffix("?").split(" mean ")[1].split(" or ") and len(message) < 160


def test_combinations_that_are_refused_fail_indeed_and_the_others_do_not():
    assert why_not("unetplusplus", "mit_b0", 2, "auto", False) and why_not("linknet", "mit_b2", 2, "auto", False)
    assert why_not("deeplabv3plus", "tu-hrnet_w18", 2, "auto", False)
    assert why_not("dpt", "tu-vit_tiny_patch16_224", 2, "imagenet", False)
    assert not why_not("unet", "mit_b0", 1, "auto", False) and not why_not("unet", "tu-hrnet_w18", 1, "auto", False)
    for arch in POOLED_NORM:
        model = StrokeNet(StrokesConfig(arch, **SMALL)).train()
        assert why_not(arch, "resnet18", 1, "auto", False)
        with pytest.raises(ValueError, match="more than 1 value per channel"):
            model(torch.zeros(1, 3, 128, 128))
        assert not why_not(arch, "resnet18", 2, "auto", False) and not why_not(arch, "resnet18", 1, "auto", True)
        model.config.freeze_bn = True
        assert model.train()(torch.zeros(1, 3, 128, 128)).shape == (1, 1, 128, 128)


@pytest.mark.parametrize("freeze", [False, True])
def test_freeze_bn_keeps_the_statistics(freeze):
    model = StrokeNet(StrokesConfig(**SMALL, freeze_bn=freeze)).train()
    before = {name: value.clone() for name, value in model.named_buffers() if name.endswith("running_mean")}
    model(torch.randn(2, 3, 64, 64) + 1).mean().backward()
    after = dict(model.named_buffers())
    assert len(before) > 10
    assert all(torch.equal(value, after[name]) == freeze for name, value in before.items())
    assert model.network.encoder.conv1.weight.grad is not None


def test_encoder_weights_from_a_file_and_one_that_does_not_fit(tmp_path):
    source = StrokeNet(StrokesConfig(**SMALL))
    torch.save(source.network.encoder.state_dict(), tmp_path / "encoder.pt")
    model = StrokeNet(StrokesConfig("fpn", **SMALL), str(tmp_path / "encoder.pt"))
    assert "encoder.pt" in model.encoder_source
    for mine, theirs in zip(model.network.encoder.parameters(), source.network.encoder.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    with pytest.raises(DataError, match="encoder.pt"):
        StrokeNet(StrokesConfig("fpn", "mobilenet_v2"), str(tmp_path / "encoder.pt"))


@pytest.mark.parametrize("ema", [False, True])
def test_a_checkpoint_rebuilds_its_own_model(tmp_path, ema):
    torch.manual_seed(1)
    config = StrokesConfig("linknet", "resnet18", 64, 96, "crop", True)
    model = StrokeNet(config)
    wrong = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    save_checkpoint(tmp_path / "best.pt", {
        "task": "segmentation", "config": asdict(config), "thresholds": {"ink": 0.25},
        "model": wrong if ema else model.state_dict(), "ema": {"model": model.state_dict()} if ema else None})
    loaded, checkpoint = load_model(tmp_path / "best.pt", "cpu")
    assert loaded.config == config and not loaded.training and checkpoint["thresholds"]["ink"] == 0.25
    kept = loaded.state_dict()
    assert set(kept) == set(model.state_dict())
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())


# ---- prediction


def drawing(height, width):
    """(H, W) bool: slanted strokes three pixels wide, all over the page."""
    mask = np.zeros((height, width), np.uint8)
    for offset in range(10, height + width, 37):
        cv2.line(mask, (offset, 0), (offset - height // 2, height), 1, 3)
    return mask > 0


def painted(mask):
    return np.repeat(mask[..., None].astype(np.uint8) * 255, 3, axis=2)


@pytest.mark.parametrize("height, width", [(40, 50), (64, 64), (65, 130), (200, 31), (1, 300), (131, 67)])
@pytest.mark.parametrize("resize", ["letterbox", "crop"])
def test_prediction_has_the_size_of_the_page(resize, height, width):
    image = np.full((height, width, 3), 128, np.uint8)
    probability = predict_strokes(PaintedTruth(StrokesConfig(height=64, width=96, resize=resize)).eval(), image)
    assert probability.shape == (height, width) and probability.dtype == np.float32
    assert np.allclose(probability, 128 / 255, atol=0.02) and not np.isnan(probability).any()


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
def test_tiles_put_the_page_together_again(overlap):
    mask = drawing(150, 211)
    model = PaintedTruth(StrokesConfig(height=64, width=96, resize="crop")).eval()
    assert np.abs(predict_tiled(model, painted(mask), overlap) - mask).max() < 1e-4
    assert np.allclose(predict_tiled(model, painted(mask), overlap, tiles_at_once=4),
                       predict_tiled(model, painted(mask), overlap), atol=1e-6)


def test_tiles_blend_where_they_disagree():
    class TileNumber(PaintedTruth):
        """Answers with 0.2 for the first tile and 0.8 for the second."""
        calls = 0

        def forward(self, image):
            self.calls += 1
            return torch.full_like(image[:, :1], float(logit(0.2 if self.calls == 1 else 0.8)))

    model = TileNumber(StrokesConfig(height=64, width=64, resize="crop")).eval()
    row = predict_tiled(model, np.zeros((64, 96, 3), np.uint8), overlap=0.25)[30]
    assert model.calls == 2 and row[0] == pytest.approx(0.2, abs=1e-4) and row[-1] == pytest.approx(0.8, abs=1e-4)
    assert (np.diff(row) >= -1e-6).all() and np.diff(row).max() < 0.6 / 8  # a ramp, and no step


def test_no_seam_even_where_tiles_disagree_altogether():
    class TileNumber(PaintedTruth):
        """Answers with 0 and 1 in turn."""
        calls = 0

        def forward(self, image):
            self.calls += 1
            return torch.full_like(image[:, :1], 20.0 * (-1) ** self.calls)

    model = TileNumber(StrokesConfig(height=256, width=256, resize="crop")).eval()
    row = predict_tiled(model, np.zeros((256, 900, 3), np.uint8))[100]
    edges = [edge for start in tile_starts(928, 256, 0.25, 32) for edge in (start, start + 256)]
    assert np.ptp(row) > 0.99 and max(abs(row[edge] - row[edge - 1]) for edge in edges if 0 < edge < 900) < 1e-2


def test_tiles_and_page_are_pooled_in_the_same_cells():
    """In tiles that began anywhere, a network's strides would fall otherwise than on the page."""
    class Pooled(PaintedTruth):
        def forward(self, image):
            logits = torch.nn.functional.max_pool2d(super().forward(image), 32)
            return torch.nn.functional.interpolate(logits, scale_factor=32)

    model = Pooled(StrokesConfig(height=128, width=128, resize="crop")).eval()
    mask = drawing(300, 330)
    mask[mask.shape[0] // 2 :] = False
    cells = np.pad(mask, ((0, 20), (0, 22))).reshape(10, 32, 11, 32).any((1, 3)).repeat(32, 0).repeat(32, 1)[:300, :330]
    assert np.abs(predict_tiled(model, painted(mask)) - cells).max() < 1e-4 and 0.2 < cells.mean() < 0.8


def test_test_time_augmentation_is_the_mean_with_the_page_upside_down():
    class Sided(PaintedTruth):
        def forward(self, image):
            # Says the same about every page: less ink on the left than on the right, and at the top than below.
            ramp = torch.linspace(-2, 2, image.shape[-1]) + torch.linspace(-1, 1, image.shape[-2])[:, None]
            return ramp.expand(image.shape[0], 1, *image.shape[-2:]).clone()

    model, page = Sided(StrokesConfig(height=64, width=64)).eval(), np.zeros((64, 64, 3), np.uint8)
    plain, mean = predict_strokes(model, page), predict_strokes(model, page, tta=True)
    assert np.allclose(mean, (plain + plain[::-1, ::-1]) / 2, atol=1e-6) and mean.dtype == np.float32
    assert not np.allclose(mean, plain, atol=0.1)


def test_find_ink_takes_the_threshold_and_the_steps_of_the_checkpoint():
    mask = np.zeros((64, 64), bool)
    mask[30:33, 5:60], mask[:, 30:32] = True, False  # a gap of two pixels
    page = np.where(mask[..., None], 230, 90).astype(np.uint8).repeat(3, 2)
    model = PaintedTruth(StrokesConfig(height=64, width=64)).eval()
    assert np.array_equal(find_ink(model, {"thresholds": {"ink": 0.5}}, page), mask)
    assert find_ink(model, {"thresholds": {"ink": 0.25}}, page).all()
    closed = find_ink(model, {"thresholds": {"ink": 0.5}, "postproc": {
        "steps": ["close"], "max_gap": 5.0, "deviation_threshold": 2.0}}, page)
    assert closed[31, 30:32].all() and closed.sum() == mask.sum() + 6


def test_tiles_look_no_further_than_they_must():
    class Recorder(PaintedTruth):
        shapes = []

        def forward(self, image):
            self.shapes.append(tuple(image.shape))
            return super().forward(image)

    predict_tiled(Recorder(StrokesConfig(height=64, width=64, resize="crop")).eval(), np.zeros((30, 150, 3), np.uint8))
    assert set(Recorder.shapes) == {(1, 3, 32, 64)}


@given(st.integers(1, 400), st.integers(1, 100), st.floats(0, 0.9), st.sampled_from([1, 32]))
@settings(max_examples=200, deadline=None)
def test_tile_starts_cover_the_page_with_at_least_the_overlap(extra, tile, overlap, grid):
    tile *= grid
    length = tile + (extra - 1) * grid
    starts = tile_starts(length, tile, overlap, grid)
    assert all(start % grid == 0 for start in starts)
    assert starts[0] == 0 and starts[-1] == length - tile and starts == sorted(set(starts))
    steps = np.diff(starts)
    assert (steps <= max(int(tile * (1 - overlap)), grid)).all()


@pytest.mark.parametrize("resize", ["letterbox", "crop"])
@pytest.mark.parametrize("arch, encoder", [(arch, {"dpt": "tu-vit_tiny_patch16_224"}.get(arch, "resnet18"))
                                           for arch in ARCHITECTURES])
def test_every_architecture_takes_narrow_and_small_pages(arch, encoder, resize):
    torch.manual_seed(0)
    model = StrokeNet(StrokesConfig(arch, encoder, 160, 160, resize)).eval()
    rng = np.random.default_rng(0)
    for shape in ((1, 1), (7, 300), (200, 40), (130, 257)):
        probability = predict_strokes(model, rng.integers(0, 255, (*shape, 3), np.uint8), tiles_at_once=2)
        assert probability.shape == shape and np.isfinite(probability).all()


def test_what_a_small_page_is_padded_with_is_below_it_and_to_its_right():
    mask = drawing(90, 70)
    for resize in ("letterbox", "crop"):
        model = PaintedTruth(StrokesConfig("pan", height=96, width=96, resize=resize)).eval()
        wide = PaintedTruth(StrokesConfig("unet", height=96, width=96, resize=resize)).eval()
        assert np.array_equal(predict_strokes(model, painted(mask)), predict_strokes(wide, painted(mask)))


def test_letterboxed_truth_comes_back():
    mask = drawing(300, 220)
    config = StrokesConfig(height=192, width=192)
    probability = predict_whole(PaintedTruth(config).eval(), painted(mask))
    shared = ((probability >= 0.5) & mask).sum()
    assert 2 * shared / ((probability >= 0.5).sum() + mask.sum()) > 0.95


def test_whole_pages_are_seen_at_the_scale_of_training_and_without_needless_padding():
    class Recorder(PaintedTruth):
        seen = None

        def forward(self, image):
            Recorder.seen = image
            return super().forward(image)

    # 400 x 100 fits 128 x 128 at a scale of 0.32: 128 x 32
    predict_whole(Recorder(StrokesConfig(height=128, width=128)).eval(), painted(np.ones((400, 100), bool)))
    assert Recorder.seen.shape == (1, 3, 128, 32) and Recorder.seen.min() > 2
    # 400 x 90 fits at the same scale: 128 x 29 and three columns of padding
    predict_whole(Recorder(StrokesConfig(height=128, width=128)).eval(), painted(np.ones((400, 90), bool)))
    assert Recorder.seen.shape == (1, 3, 128, 32)
    assert (Recorder.seen[..., :29] > 2).all() and (Recorder.seen[..., 29:] < 0).all()
