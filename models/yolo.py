"""Stamps, signatures and QR codes: YOLO11 through ultralytics, offline, without running code from files.

ultralytics reads its switches from the environment when it is imported, so they are set first: no network, no
installing, no analytics, weights loaded only from known classes, settings and fonts in a cache folder of its own.
Weights are this project's plain checkpoint or an ultralytics file; both are read without unpickling anything unknown.
"""

import copy
import logging
import math
import os
import pickle
import random
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Callable

os.environ["YOLO_OFFLINE"] = "1"
os.environ["YOLO_AUTOINSTALL"] = "0"
os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
os.environ.setdefault("YOLO_VERBOSE", "0")  # its reports go to stdout, where results of --test-only belong
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
                                             / "docmarks"))

import cv2
import numpy as np
import torch
import torch.distributed
import ultralytics.engine.trainer
import ultralytics.utils
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel, parse_model, torch_safe_load, yaml_model_load
from ultralytics.utils.loss import E2ELoss, v8DetectionLoss
from ultralytics.utils.tal import make_anchors
from ultralytics.utils.torch_utils import unwrap_model

from models.yolo_boxes import detect, evaluate, resize, truth_score
from models.yolo_config import (WEIGHTS, YoloConfig, check_architecture, choose_size, find_start, read_config, read_tensors,
                                refused, take_classes, vocabulary)
from models.yolo_loop import (LoopLoader, MaskedCrossEntropy, check_finite, global_randomness, mean_over_ranks,
                              paste_onto, places_alike, provide_fonts)
from utils.checkpoint import load_checkpoint, load_weights, names_ultralytics
from utils.dataloading import EpochBatches, EveryBatch
from utils.distributed import barrier
from utils.errors import DataError
from utils.files import write_replacing
from utils.images import load_image

if not ultralytics.utils.SAFE_LOAD:
    raise ImportError("import models.yolo before ultralytics, which reads its switches only once")
# In memory only, so that a settings file of the user's own stays as it is.
dict.update(ultralytics.utils.SETTINGS, sync=False, **dict.fromkeys(
    ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb"), False))
ultralytics.utils.LOGGER.handlers.clear()  # warnings go to stderr by Python's own last resort
ultralytics.utils.LOGGER.propagate = True
ultralytics.utils.LOGGER.setLevel(logging.WARNING)


def _autocast(enabled: bool | torch.dtype, device: str = "cuda"):
    """ultralytics refuses bfloat16 on a CPU, though one with AMX trains in it at twice the speed."""
    if device == "cpu" and enabled is torch.bfloat16:
        return torch.autocast(device, torch.bfloat16)
    return ultralytics.utils.torch_utils.autocast(enabled, device)


def _decode_boxes(head: Detect, outputs: dict) -> torch.Tensor:
    """ultralytics adds offsets to places in the type of the features: in bfloat16, which has 8 bits, to whole steps of 2
    pixels from 256 on and of 4 from 512."""
    if outputs["boxes"].dtype == torch.float32:
        return _decode_boxes_as_typed(head, outputs)
    outputs = _in_32_bits(outputs)
    with torch.autocast(outputs["boxes"].device.type, enabled=False):
        places, strides = (values.T for values in make_anchors(outputs["feats"], head.stride, 0.5))
        distances = outputs["boxes"]
        if head.reg_max > 1:  # the mean of a distribution (Generalized Focal Loss, arXiv:2006.04388)
            shares = distances.unflatten(1, (4, head.reg_max)).transpose(1, 2).softmax(1)
            distances = torch.nn.functional.conv2d(shares, head.dfl.conv.weight.float())[:, 0]
        return head.decode_bboxes(distances, places[None]) * strides


def _in_32_bits(outputs: dict) -> dict:
    """What the head returns: tensors, and a list of them."""
    return {key: [value.float() for value in values] if isinstance(values, list) else values.float()
            for key, values in outputs.items()}


ultralytics.engine.trainer.autocast = _autocast
_decode_boxes_as_typed, Detect._get_decode_boxes = Detect._get_decode_boxes, _decode_boxes

__all__ = ["MarksTrainer", "YoloConfig", "build_model", "checkpoint_from_ultralytics", "detect", "evaluate",
           "load_model", "network_of", "read_weights", "start_model", "truth_score"]


# models and their files ----------------------------------------------------------------------------------------------


def build_model(config: YoloConfig, source: Path | str = "the model", held: float = math.inf) -> DetectionModel:
    """The network with random weights. held: how many numbers there are for it; one of more takes no memory.

    Raises DataError, which names `source`, where the architecture is not made as ultralytics' own or does not fit.
    """
    check_architecture(config.yaml, vocabulary(Path(ultralytics.__file__).parent / "cfg" / "models"), source)
    content = copy.deepcopy(config.yaml) | {"nc": len(config.names)}
    try:
        with torch.device("meta"):
            layers, _ = parse_model(copy.deepcopy(content), 3, verbose=False)
        if (needed := sum(value.numel() for value in layers.state_dict().values())) > held:
            raise ValueError(f"it takes {needed} numbers, of which {held} are there")
        model = DetectionModel(content, nc=len(config.names), verbose=False)
    except Exception as error:  # whatever layers that do not fit together make torch and ultralytics raise
        raise DataError(f"{source}: its architecture builds no network ({' '.join(str(error).split())[:120]})") from None
    model.names = dict(config.names)
    return model


def network_of(checkpoint: dict, path: Path) -> DetectionModel:
    """The network that a checkpoint describes, with random weights. Raises DataError where it describes none."""
    held = sum(value.numel() for value in read_tensors(checkpoint, path).values())
    return build_model(read_config(checkpoint, path), path, held)


def load_model(path: Path, device: torch.device | str) -> tuple[DetectionModel, dict]:
    """(model in evaluation mode, checkpoint dict). Raises DataError for a file that is refused; see read_weights."""
    checkpoint = read_weights(path)
    model = network_of(checkpoint, path)
    load_weights(model, read_tensors(checkpoint, path), path)
    return model.to(device).eval(), checkpoint


def read_weights(path: Path) -> dict:
    """Our checkpoint dict, from our own file or from one of ultralytics (`best.pt`, `yolo11s.pt`).

    Raises DataError where the file is missing, damaged, of another task, or would run code when loaded.
    """
    return checkpoint_from_ultralytics(path) if names_ultralytics(Path(path)) else load_checkpoint(path, "yolo")


def checkpoint_from_ultralytics(path: Path) -> dict:
    """An ultralytics detection checkpoint as our plain dict. Only the classes such files are made of are rebuilt."""
    try:
        content, _ = torch_safe_load(str(Path(path).resolve()), safe_only=True)
        model = content.get("ema") or content["model"]
        if type(model) is not DetectionModel or type(model.model[-1]) is not Detect:
            raise DataError(f"{path}: holds a {type(model).__name__}, not a model that detects boxes")
        trained = {key: value for key, value in (content.get("train_args") or {}).items()
                   if isinstance(value, (str, int, float, bool, type(None)))}
        config = YoloConfig(copy.deepcopy(model.yaml), dict(model.names), trained.get("imgsz") or 640)
        weights = model.float().state_dict()
    except DataError:
        raise
    except pickle.UnpicklingError:
        raise refused(path) from None
    except Exception as error:
        raise (refused(path) if "types outside" in str(error) else DataError(
            f"{path}: not a whole ultralytics checkpoint ({' '.join(str(error).split())[:120]})")) from None
    return {"task": "yolo", "config": asdict(config), "args": trained, "model": weights, "ema": None}


def start_model(start: str, names: dict[int, str]) -> tuple[DetectionModel, str, bool]:
    """The network that training starts from: (model, where its weights come from, whether they were trained).

    start: a file of weights, an architecture (`yolo11n`, `yolo11s`, `yolo26n`) whose weights are looked for as
    `yolo11n.pt` here and in weights/, or one alone, `yolo11n.yaml` or a file. ultralytics itself would contact a host
    for missing ones, even offline; here they are random instead. Raises DataError for what is neither.
    """
    file, stem, alone = find_start(start), start.removesuffix(".pt"), start.endswith((".yaml", ".yml"))
    if file is not None and not alone:
        source, checkpoint = load_model(file, "cpu")
        model = build_model(YoloConfig(checkpoint["config"]["yaml"], names))
        random_head = copy.deepcopy(model.model[-1])
        model.load(source, verbose=False)
        return model, f"weights of {file}{take_classes(model, source, random_head)}", True
    try:
        content = yaml_model_load(start if alone else f"{stem}.yaml")
    except Exception:  # whatever a file that describes no network makes ultralytics raise
        raise DataError(f"--model {start}: is neither a file of weights nor an architecture of ultralytics "
                        "(yolo11n, yolo11s, yolo11m, yolo26n, ...)") from None
    size = choose_size(content, start, file is not None)
    why = f"{start} is an architecture alone{size}" if alone else f"{stem}.pt is neither here nor in {WEIGHTS.name}/"
    return build_model(YoloConfig(content, names), f"--model {start}"), f"random weights: {why}", False


# training ------------------------------------------------------------------------------------------------------------


class MarksDataset(YOLODataset):
    """ultralytics' dataset and augmentations over samples that are already checked.

    No `.cache` pickle is read or written, no image file is rewritten, and what a sample becomes depends on its key
    (epoch, index) alone: also which images it shares a mosaic with, and whether it has one (not in the last epochs).
    Images are mixed only with such as have the same classes labelled, so that this can be said of the mixture too.
    """

    def __init__(self, samples: list, seed: int, last_mosaic_epoch: float,
                 paste: tuple[Callable, float] | None = None, **options):
        self.samples, self.seed, self.last_mosaic_epoch, self.paste = samples, seed, last_mosaic_epoch, paste
        super().__init__(img_path="", **options)
        self.samples = [samples[label["place"]] for label in self.labels]  # by shape in validation: rect sorts them
        for place, label in enumerate(self.labels):
            label["place"] = place
        self.buffer = range(len(self.samples))  # ultralytics draws partners from recently loaded images
        self.alike = places_alike(self.samples)
        calm = copy.copy(options["hyp"])
        calm.mosaic = calm.mixup = 0.0
        self.calm_transforms = self.build_transforms(calm)

    def get_img_files(self, img_path: str) -> list[str]:
        return [str(sample.file) for sample in self.samples]

    def get_labels(self) -> list[dict]:
        return [{"im_file": str(sample.file), "shape": (sample.height, sample.width), "bboxes": sample.boxes,
                 "cls": sample.classes.astype(np.float32)[:, None], "segments": [], "keypoints": None,
                 "normalized": True, "bbox_format": "xywh", "place": place}
                for place, sample in enumerate(self.samples)]

    def load_image(self, i: int, rect_mode: bool = True, resize_short: bool = False):
        image = cv2.cvtColor(load_image(self.im_files[i]), cv2.COLOR_RGB2BGR)
        resized = resize(image, self.imgsz)
        return resized, image.shape[:2], resized.shape[:2]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        transforms = self.transforms if epoch <= self.last_mosaic_epoch else self.calm_transforms
        self.partners = self.alike[self.samples[index].labelled]
        with global_randomness(self.seed, epoch, index):
            item = transforms(self.get_image_and_label(index))
        known = [self.samples[index].labels_class(class_id) for class_id in range(len(self.data["names"]))]
        return item | {"labelled": torch.tensor(known)}

    def get_image_and_label(self, index: int) -> dict:
        """Also asked for whatever image a mosaic or mixup draws; one labelled otherwise is exchanged."""
        if self.samples[index].labelled != self.samples[self.partners[0]].labelled:
            index = self.partners[index % len(self.partners)]
        return super().get_image_and_label(index)

    def update_labels_info(self, label: dict) -> dict:
        """Where ultralytics lets a label be changed, before boxes become objects of its own."""
        nothing_known = self.samples[label.pop("place")].labelled == frozenset()
        if self.paste and (nothing_known or random.random() < self.paste[1]):
            paste_onto(label, self.paste[0])
        return super().update_labels_info(label)

    @staticmethod
    def collate_fn(batch: list[dict]) -> dict:
        batch = YOLODataset.collate_fn(batch)
        return batch | {"labelled": torch.stack(batch["labelled"])}  # (B, classes) bool


class _MarksLoss(v8DetectionLoss):
    """ultralytics' loss for sources that label different classes: an unlabelled class is no negative."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.bce = MaskedCrossEntropy()

    def loss(self, preds: dict, batch: dict):
        self.bce.labelled = batch["labelled"]
        # Else the loss too sees boxes in whole steps of pixels.
        with torch.autocast(preds["boxes"].device.type, enabled=False):
            return super().loss(_in_32_bits(preds), batch)


def make_loss(model: DetectionModel) -> _MarksLoss | E2ELoss:
    """The criterion that model.loss() calls; YOLO26 has two heads and two losses."""
    return E2ELoss(model, _MarksLoss) if getattr(model.model[-1], "one2one_cv2", None) else _MarksLoss(model)


class _MarksValidator(DetectionValidator):
    """ultralytics' curves and confusion matrix, of each image for the classes that are labelled in it."""

    def update_metrics(self, preds: list[dict], batch: dict) -> None:
        for pred, labelled in zip(preds, batch["labelled"]):
            known = labelled.to(pred["cls"].device)[pred["cls"].long()]
            pred.update({key: values[known] for key, values in pred.items()})
        super().update_metrics(preds, batch)


class MarksTrainer(DetectionTrainer):
    """ultralytics' training loop on our samples, scored by our evaluation, and resumable bit for bit at every epoch.

    overrides: ultralytics' own settings. It writes plots, results.csv and weights/best.pt, in its own format for tools
    that read that, to its save_dir. Between epochs callbacks find `steps`, `scores`, `records` and training_state().
    paste: (what lays marks on an image, as datasets.paste_marks.MarkPaster does; the share of images that get some).
    rank, world: under torchrun; overrides' `batch` is then that of all ranks together. Where an epoch does not go up, a
    rank repeats a sample, as in ultralytics' own sampler.
    """

    def __init__(self, model: DetectionModel, samples: dict[str, list], overrides: dict, limit: int | None = None,
                 paste: tuple[Callable, float] | None = None, rank: int = 0, world: int = 1):
        self.samples, self.class_names, self.limit, self.start_from = samples, dict(model.names), limit, None
        self.rank, self.world = rank, world
        self.steps, self.batches, self.waiting, self.grad_norm = 0, 0, 0, 0.0
        self.paste, self.workers = paste, overrides["workers"]  # which ultralytics makes 0 on a CPU
        provide_fonts(ultralytics.utils.USER_CONFIG_DIR)
        if rank == 0:  # else all ranks would, and those that come late fail
            Path(overrides["project"], overrides["name"], "results.csv").unlink(missing_ok=True)
        barrier()
        super().__init__(overrides=overrides)
        self.model = model.to(memory_format=torch.channels_last)  # faster on CPUs too, where ultralytics leaves it

    def get_dataset(self) -> dict:
        return {"train": "train", "val": "val", "names": self.class_names, "nc": len(self.class_names), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> MarksDataset:
        train = mode == "train"
        last_mosaic_epoch = self.epochs - self.args.close_mosaic - 1 if self.args.close_mosaic else math.inf
        return MarksDataset(self.samples[img_path], self.args.seed, last_mosaic_epoch, self.paste if train else None,
                            data=self.data, hyp=self.args, imgsz=self.args.imgsz, batch_size=batch, augment=train,
                            rect=not train, pad=0.0 if train else 0.5,
                            stride=int(unwrap_model(self.model).stride.max()))

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> LoopLoader:
        if mode == "train":
            dataset = self.build_dataset(dataset_path, mode, batch_size)
            batches = EpochBatches(len(dataset), batch_size, self.args.seed, self.rank, self.world)
        else:  # dealt out whole, since pages of one batch have one shape, and so that no rank has none
            batch_size = min(batch_size, len(self.samples[dataset_path]) // self.world)
            dataset = self.build_dataset(dataset_path, mode, batch_size)
            batches = list(EveryBatch(len(dataset), batch_size))[self.rank :: self.world]
        return LoopLoader(dataset, batches, batch_size, self.workers, self.device, self.limit)

    def _close_dataloader_mosaic(self) -> None:
        """Nothing to switch: the dataset knows by the epoch."""

    def _build_train_pipeline(self) -> None:
        if self.world > 1:  # here, since ultralytics' own place for it knows no CPU and would join the ranks again
            self.world_size = self.world
            self.model = torch.nn.parallel.DistributedDataParallel(
                self.model, device_ids=[self.device.index] if self.device.type == "cuda" else None,
                find_unused_parameters=True)  # a batch without marks has no loss of boxes
        super()._build_train_pipeline()
        # optimizer_step below counts for itself, and is therefore called after every batch.
        self.window, self.accumulate = self.accumulate, 1

    def _model_train(self) -> None:
        """ultralytics calls this at the start of each epoch."""
        super()._model_train()
        if getattr(unwrap_model(self.model), "criterion", None) is None:
            unwrap_model(self.model).criterion = make_loss(unwrap_model(self.model))
        self.batches, self.waiting = 0, 0
        self.train_loader.loader.batch_sampler.set_position(self.epoch)

    def plot_training_labels(self) -> None:
        """ultralytics' picture of the marks, which takes two or more."""
        if sum(len(sample.classes) for sample in self.samples["train"]) > 1:
            super().plot_training_labels()

    def get_validator(self) -> _MarksValidator:
        return _MarksValidator(self.test_loader, self.save_dir, copy.copy(self.args), self.callbacks)

    def preprocess_batch(self, batch: dict) -> dict:
        self.files = batch["im_file"]
        self.inputs = {"img": batch["img"], "file": self.files}  # as the loader gave them, for a debug session
        return super().preprocess_batch(batch)

    def optimizer_step(self) -> None:
        """A step when nbs images are gathered (fewer during warm-up, as ultralytics has it) and at the end of an epoch,
        so that no gradient is left over that a resumed run would not have."""
        check_finite(self.loss_items, self.epoch, self.files)
        warmup, done = self._get_warmup_iterations(len(self.train_loader)), self.epoch * len(self.train_loader)
        window = (self.window if done + self.batches >= warmup
                  else round(np.interp(done + self.batches, [0, warmup], [1, self.window])))
        self.batches, self.waiting = self.batches + 1, self.waiting + 1
        if self.waiting < window and self.batches < len(self.train_loader):
            return
        self.waiting = 0
        self.scaler.unscale_(self.optimizer)
        self.grad_norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=10.0))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.ema.update(self.model)
        self.steps += 1

    def validate(self) -> tuple[dict, float]:
        if self.world > 1:  # its running statistics are each rank's own
            for buffer in self.ema.ema.buffers():
                torch.distributed.broadcast(buffer, src=0)
        self.scores, self.records = evaluate(self.ema.ema, self.samples["val"], self.args.imgsz,
                                             ranks=(self.rank, self.world))
        fitness = self.scores["map50_95"]
        self.is_best = self.best_fitness is None or fitness > self.best_fitness
        self.best_fitness = fitness if self.is_best else self.best_fitness
        keys = {"precision": "precision", "recall": "recall", "mAP50": "map50", "mAP50-95": "map50_95"}
        return {f"metrics/{theirs}(B)": self.scores[ours] for theirs, ours in keys.items()}, fitness

    @torch.no_grad()
    def validation_loss(self, most: int = 64) -> dict[str, float]:
        """Means of the loss parts over the first images of validation, about `most` on each rank, with the weights that
        are evaluated."""
        model = self.ema.ema.eval()
        model.criterion = getattr(model, "criterion", None) or make_loss(model)
        sums, images = {}, 0
        for batch in self.test_loader:
            batch = DetectionTrainer.preprocess_batch(self, batch)
            images += (size := len(batch["im_file"]))
            for name, value in model.loss(batch)[1].items():
                name = name.removesuffix("_loss")
                sums[name] = sums.get(name, 0.0) + float(value) * size
            if images >= most:
                break
        return mean_over_ranks(sums, images)

    def save_model(self) -> bool:
        """The best weights as ultralytics writes them; last.pt, with what resuming needs, is ours to write."""
        if self.is_best:
            ema = copy.deepcopy(self.ema.ema).half()
            ema.criterion = None
            ema.args = dict(vars(self.args))
            content = {"epoch": -1, "model": ema, "ema": None, "train_args": vars(self.args),
                       "date": datetime.now().astimezone().isoformat(), "version": ultralytics.__version__,
                       "license": "AGPL-3.0 (https://ultralytics.com/license)"}
            write_replacing(self.best, lambda temporary: torch.save(content, temporary))
        return True

    def training_state(self) -> dict:
        """What a resumed run needs beside the flags, as plain values and tensors of full precision."""
        return {"model": unwrap_model(self.model).state_dict(), "optimizer": self.optimizer.state_dict(),
                "scaler": None, "ema": {"model": self.ema.ema.state_dict(), "updates": self.ema.updates},
                "scheduler": {"epoch": self.epoch + 1}, "rng": {"seed": self.args.seed},
                "results_csv": self.csv.read_text(encoding="utf-8")}

    def resume_from(self, checkpoint: dict) -> None:
        """Continue from training_state() and a `progress` {epoch, step, best_score, best_epoch} when train() starts."""
        self.start_from = checkpoint
        if self.rank == 0:
            self.csv.write_text(checkpoint["results_csv"], encoding="utf-8")

    def resume_training(self, ckpt) -> None:
        if self.start_from is None:
            return
        checkpoint, progress, model = self.start_from, self.start_from["progress"], unwrap_model(self.model)
        model.load_state_dict(checkpoint["model"])
        self.ema.ema.load_state_dict(checkpoint["ema"]["model"])
        self.ema.updates = checkpoint["ema"]["updates"]
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.start_epoch, self.steps = progress["epoch"], progress["step"]
        self.best_fitness, self.stopper.best_fitness = progress["best_score"], progress["best_score"] or 0.0
        self.stopper.best_epoch = progress["best_epoch"]
        if hasattr(model.model[-1], "one2one_cv2"):  # YOLO26 shifts weight between its two heads by the epoch
            model.criterion = make_loss(model)
            model.criterion.updates = self.start_epoch - 1
            model.criterion.update()

    def final_eval(self) -> None:
        """ultralytics' curves, confusion matrix and sample pages, once, for the best weights."""
        barrier()  # until the first rank has written them
        best, _ = load_model(self.best if self.best.is_file() else self.save_dir.parent / "best.pt", "cpu")
        self.ema.ema.load_state_dict(best.state_dict())
        self.stopper.possible_stop = True  # so that the validator draws
        self.validator(self)
