"""Encoders by smp's names, with starting weights that are never fetched unless asked for."""

import os
from pathlib import Path

import huggingface_hub.constants as hub
import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

from utils.errors import DataError


def build_encoder(name: str, weights: str, depth: int = 5, output_stride: int = 32) -> tuple[nn.Module, str]:
    """(encoder, what it starts from). The encoder maps (B, 3, H, W) to depth + 1 maps at strides 1, 2, 4, ... with
    encoder.out_channels channels.

    name: as in segmentation_models_pytorch ('resnet18', 'efficientnet-b3', 'mit_b0'), timm's by the prefix 'tu-'.
    weights: 'none'; 'auto', ImageNet weights where this machine holds them already, without asking any network;
    'imagenet', which may download them; or a file with a state dict.
    """
    def build(source: str | None) -> nn.Module:
        source = True if source and name.startswith("tu-") else source  # timm knows one set of weights a name
        return smp.encoders.get_encoder(name, in_channels=3, depth=depth, weights=source, output_stride=output_stride)

    if name.startswith("tu-") and not timm.is_model(name[3:].split(".")[0]):
        raise DataError(f"--encoder {name}: timm has no model {name[3:]}")
    try:
        if weights == "none":
            return build(None), "random weights"
        if weights == "imagenet":
            return _build_online(build, name)
        if weights != "auto":
            encoder = build(None)
            return encoder, load_encoder_file(encoder, Path(weights))
        return _build_from_cache(build)
    except KeyError as error:
        raise DataError(f"--encoder {name}: unknown to segmentation_models_pytorch ({error.args[0]})".replace("\n", " ")
                        ) from None


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
