"""Encoders by smp's names, with starting weights that are never fetched unless asked for."""

import os
from difflib import get_close_matches
from pathlib import Path

import huggingface_hub.constants as hub
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from utils.errors import DataError


# Of timm's thousand, what a name without tu- may have meant.
OFTEN_USED = ("tu-mobilenetv3_large_100", "tu-mobilenetv3_small_100", "tu-hrnet_w18", "tu-convnext_tiny")


def unknown_encoder(name: str) -> str:
    """Why there is no encoder of this name, with up to three names like it; an empty string where there is one."""
    ours = smp.encoders.get_encoder_names()
    if name in ours or (name.startswith("tu-") and timm.is_model(name[3:].split(".")[0])):
        return ""
    names = [f"tu-{model}" for model in timm.list_models()] if name.startswith("tu-") else [*ours, *OFTEN_USED]
    holding = [other for other in names if name in other]
    near = get_close_matches(name, holding or names, n=3, cutoff=0 if holding else 0.6)
    way_out = (f"did you mean {' or '.join(near)}?" if near else
               "take one of segmentation_models_pytorch's, or one of timm's as tu-NAME")
    return f"--encoder {name}: no such encoder; {way_out}"


def build_encoder(name: str, weights: str, depth: int = 5, output_stride: int = 32) -> tuple[nn.Module, str]:
    """(encoder, what it starts from). The encoder maps (B, 3, H, W) to depth + 1 maps at strides 1, 2, 4, ... with
    encoder.out_channels channels.

    name: as in segmentation_models_pytorch ('resnet18', 'efficientnet-b3', 'mit_b0'), timm's by the prefix 'tu-'.
    weights: 'none'; 'auto', ImageNet weights where this machine holds them already, without asking any network;
    'imagenet', which may download them; or a file with a state dict. Raises DataError where the weights do not fit or
    the encoder is unknown, has no such maps, or takes pictures of one size only.
    """
    def build(source: str | None) -> nn.Module:
        source = True if source and name.startswith("tu-") else source  # timm knows one set of weights a name
        return smp.encoders.get_encoder(name, in_channels=3, depth=depth, weights=source, output_stride=output_stride)

    if name.startswith("tu-") and not timm.is_model(name[3:].split(".")[0]):
        raise DataError(f"--encoder {name}: timm has no model {name[3:]}")
    try:
        encoder, source = _build_with(weights, build, name)
        _look_at_a_picture(encoder)
        return encoder, source
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"--encoder {name}: unknown to segmentation_models_pytorch ({error.args[0]})".replace("\n", " ")
                        ) from None
    except Exception as error:  # ValueError, AssertionError, RuntimeError, ... by the family of the encoder
        raise DataError(f"--encoder {name}: has no maps at strides 2, 4, ... 32, or takes pictures of one size only "
                        f"({' '.join(str(error).split())[:120]}); take another, such as resnet18 or tu-convnext_tiny"
                        ) from None


def _build_with(weights: str, build, name: str) -> tuple[nn.Module, str]:
    if weights == "none":
        return build(None), "random weights"
    if weights == "imagenet":
        return _build_online(build, name)
    if weights != "auto":
        encoder = build(None)
        return encoder, load_encoder_file(encoder, Path(weights))
    return _build_from_cache(build)


@torch.inference_mode()
def _look_at_a_picture(encoder: nn.Module) -> None:
    """Some encoders can be built for any size, and raise at the first picture that has not the one they know."""
    training = encoder.training
    encoder.eval()(torch.zeros(1, 3, 64, 96))
    encoder.train(training)


def load_encoder_file(encoder: nn.Module, path: Path) -> str:
    """Load a state dict from a file of tensors only; raises DataError where it is missing or does not fit."""
    if not path.is_file():
        raise DataError(f"--encoder-weights {path}: no such file; take auto, imagenet, none or a file")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        encoder.load_state_dict(state)
    except Exception as error:
        raise DataError(f"--encoder-weights {path}: does not fit the encoder ({' '.join(str(error).split())[:200]})"
                        ) from None
    return f"the weights in {path}"


def _build_online(build, name: str) -> tuple[nn.Module, str]:
    _look_at_a_picture(build(None))  # before anything is fetched
    try:
        return build("imagenet"), "ImageNet weights"
    except KeyError:
        raise
    except Exception as error:
        raise DataError(f"--encoder-weights imagenet: those of {name} are not on this machine and cannot be downloaded "
                        f"({' '.join(str(error).split())[:120]}); take none, or a file") from None


def _build_from_cache(build) -> tuple[nn.Module, str]:
    before, hub.HF_HUB_OFFLINE = hub.HF_HUB_OFFLINE, True
    environment = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        return build("imagenet"), "ImageNet weights found on this machine"
    except KeyError:
        raise
    except Exception:  # whatever the hub client raises for a file it does not hold
        return build(None), "random weights (no ImageNet weights on this machine; --encoder-weights imagenet downloads)"
    finally:
        hub.HF_HUB_OFFLINE = before
        if environment is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = environment
