"""Networks as they compute fastest, when they are only asked."""

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

RESNET = "torchvision.models.resnet"  # whose convN is followed by bnN, in smp's encoders too


def for_inference(model: nn.Module) -> nn.Module:
    """The model itself, changed for good: it gives the same but for rounding, and cannot be trained any more. Convolutions
    run in the layout of their kernels, and a batch norm behind one becomes part of its weights (Jacob et al., 2018, section
    3.2) where it is known to come next: in nn.Sequential, and in torchvision's residual networks."""
    for module in list(model.modules()):
        names = list(module._modules)
        if isinstance(module, nn.Sequential):
            fold(module, list(zip(names, names[1:])))
        elif any(kind.__module__ == RESNET for kind in type(module).__mro__):
            fold(module, [(f"conv{number}", f"bn{number}") for number in (1, 2, 3)])
    return model.eval().to(memory_format=torch.channels_last)


def fold(module: nn.Module, pairs: list[tuple[str, str]]) -> None:
    """The children (convolution, batch norm) of these names as one, where they are such."""
    for first, second in pairs:
        convolution, norm = module._modules.get(first), module._modules.get(second)
        transposed = type(convolution) is nn.ConvTranspose2d
        known = type(convolution) is nn.Conv2d or transposed and convolution.groups == 1
        if known and type(norm) is nn.BatchNorm2d and norm.track_running_stats:
            module._modules[first] = fuse_conv_bn_eval(convolution.eval(), norm.eval(), transposed)
            module._modules[second] = nn.Identity()
