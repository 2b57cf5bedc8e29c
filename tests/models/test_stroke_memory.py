"""Group norm and checkpointed activations: the same network, with other memory."""

import copy

import pytest
import torch
from torch import nn

from models.stroke_memory import statistics_kept, use_group_norm
from models.strokes import StrokeNet, StrokesConfig

SMALL = {"height": 64, "width": 64}


@pytest.mark.parametrize("encoder", ["resnet18", "tu-mobilenetv3_small_050"])
def test_group_norm_learns_from_one_image_as_from_many(encoder):
    torch.manual_seed(0)
    model = StrokeNet(StrokesConfig(encoder=encoder, norm="group", **SMALL)).train()
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())
    images = torch.randn(3, 3, 64, 64)
    together = model(images)
    alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(together, alone, atol=1e-4)
    assert torch.allclose(model.eval()(images), together, atol=1e-4)  # no difference between training and use


def test_batch_norm_does_not():
    torch.manual_seed(0)
    model, images = StrokeNet(StrokesConfig(encoder="resnet18", **SMALL)).train(), torch.randn(3, 3, 64, 64)
    assert not torch.allclose(model(images)[:1], model(images[:1]), atol=1e-2)


def test_scale_shift_and_built_in_activations_are_kept():
    from timm.layers import BatchNormAct2d
    block = nn.Sequential(nn.BatchNorm2d(48), BatchNormAct2d(48))
    with torch.no_grad():
        block[0].weight.uniform_(), block[0].bias.uniform_()
    weight, bias = block[0].weight.clone(), block[0].bias.clone()
    use_group_norm(block)
    assert isinstance(block[0], nn.GroupNorm) and block[0].num_groups == 16
    assert torch.equal(block[0].weight, weight) and torch.equal(block[0].bias, bias)
    assert (block[1](torch.randn(2, 48, 4, 4)) >= 0).all()  # the ReLU inside


def pass_through(model, image):
    """(logits, gradients, buffers, bytes kept for the backward pass) of one training step."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    model.zero_grad()
    parameters = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(image)
    size = sum(nbytes for pointer, nbytes in kept.items() if pointer not in parameters)
    logits.square().mean().backward()
    return logits, [p.grad.clone() for p in model.parameters()], dict(model.named_buffers()), size


@pytest.mark.parametrize("arch", ["unet", "fpn", "segformer"])
def test_checkpointing_gives_the_same_step_on_less_memory(arch):
    torch.manual_seed(0)
    plain = StrokeNet(StrokesConfig(arch, "resnet18", **SMALL)).train()
    for module in plain.modules():  # fpn's, drawn anew in each call
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
    frugal, image = copy.deepcopy(plain), torch.randn(2, 3, 64, 64)
    frugal.grad_checkpointing = True
    logits, gradients, buffers, size = pass_through(plain, image)
    logits2, gradients2, buffers2, size2 = pass_through(frugal, image)
    assert torch.allclose(logits, logits2, atol=1e-5)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(gradients, gradients2))
    assert all(torch.allclose(value, buffers2[name]) for name, value in buffers.items() if "running" in name)
    assert size2 < 0.4 * size
    assert torch.equal(plain.eval()(image), frugal.eval()(image))


def test_statistics_are_taken_again_afterwards():
    norm = nn.BatchNorm2d(4)
    with statistics_kept(norm):
        norm(torch.randn(2, 4, 5, 5) + 3)
    assert torch.equal(norm.running_mean, torch.zeros(4)) and norm.momentum == 0.1
    norm(torch.randn(2, 4, 5, 5) + 3)
    assert (norm.running_mean > 0.1).all()
