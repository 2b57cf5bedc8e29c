"""The preset of YOLO training: every hyperparameter by ultralytics' own name, as a flag and as a setting.

ultralytics' defaults differ from the preset in places (optimizer `auto` ignores lr0, biases warm up from a rate of 0.1,
half of all images are mirrored), so all of them are written out and none of its defaults decides.
"""

import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

import torch

from utils.args import fraction, non_negative_float, non_negative_int, positive_float, positive_int

# name: (default, type, what --help says)
HYPERPARAMETERS = {
    "lr0": (0.001, positive_float, "first learning rate"),
    "lrf": (0.01, positive_float, "last learning rate as a share of lr0"),
    "momentum": (0.937, fraction, "of SGD; beta1 of Adam"),
    "weight_decay": (0.0005, non_negative_float, "scaled by ultralytics to the images of an optimizer step"),
    "warmup_epochs": (3.0, non_negative_float, "rate and momentum rise over these"),
    "warmup_momentum": (0.8, fraction, "where momentum starts"),
    "nbs": (64, positive_int, "images an optimizer step gathers; smaller batches are accumulated up to it"),
    "box": (7.5, non_negative_float, "weight of the box loss (CIoU)"),
    "cls": (0.5, non_negative_float, "weight of the class loss (plain binary cross-entropy)"),
    "dfl": (1.5, non_negative_float, "weight of the distribution focal loss of the box edges"),
    "mosaic": (1.0, fraction, "share of samples made of four images"),
    "close_mosaic": (10, non_negative_int, "last epochs without mosaic and mixup; 0: never closed"),
    "mixup": (0.0, fraction, "share of samples blended with another"),
    "degrees": (10.0, non_negative_float, "random rotation, plus or minus"),
    "translate": (0.1, fraction, "random shift as a share of the size"),
    "scale": (0.5, fraction, "random scale, 1 plus or minus"),
    "shear": (0.0, non_negative_float, "random shear in degrees"),
    "perspective": (0.0, non_negative_float, "random perspective, 0 to 0.001"),
    "hsv_h": (0.015, fraction, "random hue"),
    "hsv_s": (0.7, fraction, "random saturation"),
    "hsv_v": (0.4, fraction, "random brightness"),
    "fliplr": (0.0, fraction, "share mirrored; a mirrored QR code or signature is not a real one"),
    "flipud": (0.0, fraction, "share mirrored upside down"),
}

AUGMENTATIONS = ("mosaic", "mixup", "degrees", "translate", "scale", "shear", "perspective", "hsv_h", "hsv_s", "hsv_v",
                 "fliplr", "flipud")


def add_hyperparameter_flags(parser: ArgumentParser) -> None:
    """--lr0, --close-mosaic, ...: ultralytics' keys in kebab-case."""
    group = parser.add_argument_group("hyperparameters")
    for name, (default, kind, text) in HYPERPARAMETERS.items():
        group.add_argument("--" + name.replace("_", "-"), type=kind, default=default,
                           help=f"{text} (default: %(default)s)")
    group.add_argument("--warmup-bias-lr", type=non_negative_float,
                       help="where the rate of biases starts, at most lr0 (default: lr0)")


def ultralytics_settings(args: Namespace, device: torch.device, folder: Path, data_file: Path, world: int = 1) -> dict:
    """What ultralytics' trainer is told, from the flags of train_yolo.py; it writes to FOLDER/ultralytics. world: ranks
    of --batch-size images each."""
    able = device.type == "cpu" or (device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8)
    bfloat16 = able and (device.type == "cuda" if args.use_amp is None else args.use_amp)
    same = ("model", "freeze", "epochs", "patience", "optimizer", "cos_lr", "deterministic", "seed")
    return {name: getattr(args, name) for name in (*same, *HYPERPARAMETERS)} | {
        "warmup_bias_lr": args.lr0 if args.warmup_bias_lr is None else args.warmup_bias_lr, "task": "detect",
        "mode": "train", "data": str(data_file), "imgsz": args.img_size, "batch": args.batch_size * world,
        "device": "cpu" if device.type == "cpu" else str(device.index or 0),
        "workers": min(args.num_workers, os.cpu_count() or 1),
        # "bf16" or nothing: for float16 ultralytics first tries to fetch a model to compare with.
        "amp": "bf16" if bfloat16 else False,
        "project": str(folder.resolve()), "name": "ultralytics", "exist_ok": True, "verbose": False,
        "pretrained": False, "cutmix": 0.0, "copy_paste": 0.0, "bgr": 0.0, "multi_scale": 0.0}
