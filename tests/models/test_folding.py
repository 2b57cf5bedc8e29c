"""Networks made ready for inference give what they gave."""

import copy

import pytest
import segmentation_models_pytorch as smp
import torch
from parseq_reference import make_model
from torch import nn

from models.dbnet import DBNet, DBNetConfig
from models.folding import for_inference


def unsettled(model: nn.Module) -> nn.Module:
    """Norms with statistics and weights of their own, as training leaves them."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


@pytest.mark.parametrize("name, left", [("resnet18", 0), ("resnet50", 0), ("mobilenet_v2", 0), ("densenet121", None),
                                        ("efficientnet-b0", None), ("tu-mobilenetv3_small_100", None),
                                        ("tu-hrnet_w18_small", None), ("mit_b0", None)])
def test_encoders_and_decoders_give_the_same(name, left):
    """left: norms that stay; None where it is not said which convolution they follow."""
    model = unsettled(smp.Unet(name, encoder_weights=None, encoder_depth=5))
    images = torch.randn(2, 3, 64, 96)
    before = norms(model)
    with torch.no_grad():
        expected = model(images)
        ready = for_inference(copy.deepcopy(model))
        found = ready(images)
    assert norms(model) == before > norms(ready) and (left is None or norms(ready) == left)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))


def test_the_projects_own_networks():
    reader = unsettled(make_model(stem="resnet", patch_height=32, patch_width=4, depth=1, ctc=True))
    detector = unsettled(DBNet(DBNetConfig(encoder="resnet18")))
    crops, widths, page = torch.randn(3, 3, 32, 64), torch.tensor([64, 30, 9]), torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        expected = reader.see(crops, widths)[0], detector(page)
        assert norms(reader) and norms(detector)
        reader, detector = for_inference(reader), for_inference(detector)
        found = reader.see(crops, widths)[0], detector(page)
    assert norms(reader) == norms(detector) == 0
    for one, other in zip(found, expected):
        for name in one if isinstance(one, dict) else [slice(None)]:
            torch.testing.assert_close(one[name], other[name], rtol=1e-3, atol=1e-4)


def test_what_does_not_come_next_stays():
    """Norms without statistics, of another kind, before the convolution, behind one that torch does not fold, and pairs of
    which nothing is known."""
    class Other(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.conv1(self.bn1(x))

    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x).relu()

    for model in (Other(), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False)),
                  nn.Sequential(nn.Conv2d(3, 3, 1), Activated(3)), nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)),
                  nn.Sequential(nn.ConvTranspose2d(3, 3, 1, groups=3), nn.BatchNorm2d(3))):
        images = torch.randn(2, 3, 8, 8)
        with torch.no_grad():
            expected = copy.deepcopy(model).eval()(images)
            ready = for_inference(model)
            assert norms(ready) == 1
            torch.testing.assert_close(ready(images), expected)
