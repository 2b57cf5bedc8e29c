"""In 16 bits the networks' layers compute; where boxes are is computed in 32, in the loss and in what is found."""

import pytest
import torch

from models import yolo

NAMES = {0: "qr", 1: "signature"}


@pytest.fixture(scope="module", params=["yolo11n", "yolo26n"])
def network(request):
    torch.manual_seed(0)
    model = yolo.start_model(request.param, NAMES)[0]
    model.args = yolo.ultralytics.cfg.get_cfg(overrides={"epochs": 3})
    return model


def outputs(head, side: int, dtype: torch.dtype) -> dict:
    """What a head returns for a page of so many pixels, of numbers that bfloat16 has exactly."""
    random = torch.Generator().manual_seed(2)
    places = sum((side // stride) ** 2 for stride in (8, 16, 32))

    def numbers(*shape):
        return torch.randn(*shape, generator=random).bfloat16().to(dtype)

    return {"boxes": numbers(1, 4 * head.reg_max, places).requires_grad_(), "scores": numbers(1, len(NAMES), places),
            "feats": [numbers(1, 1, side // stride, side // stride) for stride in (8, 16, 32)]}


def test_boxes_are_not_rounded_to_steps_of_pixels(network):
    head = network.model[-1].eval()
    for side in (256, 512):
        exact = head._inference(outputs(head, side, torch.float32))
        head.shape = None  # the places that it keeps
        with torch.autocast("cpu", torch.bfloat16):
            ours = head._inference(outputs(head, side, torch.bfloat16))
        assert ours.dtype == torch.float32 and torch.equal(ours[:, :4], exact[:, :4])
    # as they would be
    assert (ours[:, :4].bfloat16().float() - exact[:, :4]).abs().max() >= 1


def test_boxes_of_a_page_are_in_32_bits_in_autocast_too(network):
    network.eval()
    page = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(3))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, maps = network(page)
    maps = maps["one2many"] if "one2many" in maps else maps
    assert found.dtype == torch.float32 and maps["boxes"].dtype == torch.bfloat16


def test_the_loss_and_its_gradient_are_those_of_32_bits(network):
    network.train()
    head, criterion = network.model[-1], yolo.make_loss(network)
    batch = {"cls": torch.tensor([[1.0]]), "batch_idx": torch.zeros(1), "labelled": torch.ones(1, 2, dtype=torch.bool),
             "bboxes": torch.tensor([[0.83, 0.78, 0.2, 0.31]])}

    def loss_and_gradient(dtype):
        preds = outputs(head, 512, dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss, _ = criterion({"one2many": preds, "one2one": preds} if hasattr(head, "one2one_cv2") else preds, batch)
        loss.sum().backward()
        return loss, preds["boxes"].grad

    (exact, slope), (ours, our_slope) = loss_and_gradient(torch.float32), loss_and_gradient(torch.bfloat16)
    assert ours.dtype == torch.float32 and torch.equal(ours, exact)
    assert our_slope.abs().sum() > 0
    torch.testing.assert_close(our_slope.float(), slope, rtol=2**-7, atol=0)  # it is handed back in 16 bits
