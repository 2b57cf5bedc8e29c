import pytest
import torch

from models.dbnet import DBNet, DBNetConfig
from models.deformable import DeformableConv, can_deform


@pytest.fixture(scope="module")
def pair():
    torch.manual_seed(0)
    plain = DBNet(DBNetConfig("resnet18", "fpn", 16))
    deformable = DBNet(DBNetConfig("resnet18", "fpn", 16, deformable=True))
    deformable.load_state_dict(plain.state_dict(), strict=False)
    return plain, deformable


def test_it_starts_as_the_plain_network(pair):
    """Pretrained weights keep their names and their meaning."""
    image = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        plain, deformable = (net.eval()(image)["prob"] for net in pair)
    assert torch.allclose(plain, deformable, atol=1e-4)
    assert sum(isinstance(m, DeformableConv) for m in pair[1].modules()) == 6


def test_taps_move_as_the_offsets_say():
    """A convolution of one tap in the middle, moved by an offset of (1 down, 2 right), reads the pixel there."""
    plain = torch.nn.Conv2d(1, 1, 3, padding=1, bias=False)
    plain.weight.data.zero_()
    plain.weight.data[0, 0, 1, 1] = 1
    conv = DeformableConv(plain)
    conv.offset.bias.data[8:10] = torch.tensor([1.0, 2.0])  # y and x of the fifth tap
    image = torch.arange(64.0).reshape(1, 1, 8, 8)
    assert torch.allclose(conv(image)[0, 0, :7, :6], image[0, 0, 1:, 2:])


def test_it_learns_in_bfloat16_on_the_cpu(pair):
    net = pair[1].train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = net(torch.randn(2, 3, 64, 64))
    (out["prob"].float().sum() + out["thresh"].float().sum()).backward()
    assert net.encoder.layer2[0].conv2.offset.weight.grad.abs().sum() > 0


def test_only_resnets():
    assert can_deform("resnet50") and not can_deform("efficientnet-b3") and not can_deform("tu-resnet18")
