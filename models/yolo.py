"""Stamps, signatures and QR codes: YOLO11 through ultralytics, offline, without running code from files.

ultralytics reads its switches from the environment when it is imported, so they are set first: no network, no
installing, no analytics, weights loaded only from known classes, settings and fonts in a cache folder of its own.
Weights are this project's plain checkpoint or an ultralytics file; both are read without unpickling anything unknown.
"""

import contextlib
import copy
import itertools
import logging
import math
import os
import pickle
import random
import shutil
import zipfile
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Iterator

os.environ["YOLO_OFFLINE"] = "1"
os.environ["YOLO_AUTOINSTALL"] = "0"
os.environ["ULTRALYTICS_SAFE_LOAD"] = "1"
os.environ.setdefault("YOLO_VERBOSE", "0")  # its reports go to stdout, where results of --test-only belong
os.environ.setdefault("YOLO_CONFIG_DIR", str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
                                             / "docmarks"))

import cv2
import numpy as np
import torch
import ultralytics.utils
from ultralytics.data.dataset import YOLODataset
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import DetectionModel, torch_safe_load, yaml_model_load

from models.yolo_boxes import detect, evaluate, resize, truth_score
from utils.checkpoint import load_checkpoint, load_weights, weights_of
from utils.dataloading import EpochBatches, EveryBatch, make_loader, sample_rng
from utils.errors import DataError, NonFiniteLoss
from utils.files import write_replacing
from utils.fonts import find_fonts
from utils.images import load_image

if not ultralytics.utils.SAFE_LOAD:
    raise ImportError("import models.yolo before ultralytics, which reads its switches only once")
# In memory only, so that a settings file of the user's own stays as it is.
dict.update(ultralytics.utils.SETTINGS, sync=False, **dict.fromkeys(
    ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb"), False))
ultralytics.utils.LOGGER.handlers.clear()  # warnings go to stderr by Python's own last resort
ultralytics.utils.LOGGER.propagate = True
ultralytics.utils.LOGGER.setLevel(logging.WARNING)

__all__ = ["MarksTrainer", "YoloConfig", "build_model", "checkpoint_from_ultralytics", "detect", "evaluate",
           "load_model", "provide_fonts", "read_weights", "start_model", "truth_score"]
WEIGHTS = Path(__file__).resolve().parent.parent / "weights"


# models and their files ----------------------------------------------------------------------------------------------


@dataclass
class YoloConfig:
    """What rebuilds the network: ultralytics' architecture, class names by number, the image size of its training."""

    yaml: dict
    names: dict[int, str]
    img_size: int = 1024


def build_model(config: YoloConfig) -> DetectionModel:
    """The network with random weights."""
    model = DetectionModel(copy.deepcopy(config.yaml), nc=len(config.names), verbose=False)
    model.names = dict(config.names)
    return model


def load_model(path: Path, device: torch.device | str) -> tuple[DetectionModel, dict]:
    """(model in evaluation mode, checkpoint dict). Raises DataError for a file that is refused; see read_weights."""
    checkpoint = read_weights(path)
    model = build_model(YoloConfig(**checkpoint["config"]))
    load_weights(model, weights_of(checkpoint), path)
    return model.to(device).eval(), checkpoint


def read_weights(path: Path) -> dict:
    """Our checkpoint dict, from our own file or from one of ultralytics (`best.pt`, `yolo11s.pt`).

    Raises DataError where the file is missing, damaged, of another task, or would run code when loaded.
    """
    return checkpoint_from_ultralytics(path) if _names_ultralytics(Path(path)) else load_checkpoint(path, "yolo")


def _names_ultralytics(path: Path) -> bool:
    """Whether a torch archive's pickle speaks of ultralytics' models; its bytes are looked at and not loaded."""
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            return any(b"ultralytics.nn.tasks" in archive.read(name) for name in names)
    except (OSError, zipfile.BadZipFile):  # load_checkpoint says what is wrong with it
        return False


def checkpoint_from_ultralytics(path: Path) -> dict:
    """An ultralytics detection checkpoint as our plain dict. Only the classes such files are made of are rebuilt."""
    try:
        content, _ = torch_safe_load(str(Path(path).resolve()), safe_only=True)
        model = content.get("ema") or content["model"]
        if type(model) is not DetectionModel or type(model.model[-1]) is not Detect:
            raise DataError(f"{path}: holds a {type(model).__name__}, not a model that detects boxes")
    except DataError:
        raise
    except pickle.UnpicklingError:
        raise _refused(path) from None
    except Exception as error:
        raise (_refused(path) if "types outside" in str(error) else DataError(
            f"{path}: not a whole ultralytics checkpoint ({' '.join(str(error).split())[:120]})")) from None
    trained = {key: value for key, value in (content.get("train_args") or {}).items()
               if isinstance(value, (str, int, float, bool, type(None)))}
    names = {int(number): str(name) for number, name in model.names.items()}
    config = YoloConfig(copy.deepcopy(model.yaml), names, int(trained.get("imgsz") or 640))
    return {"task": "yolo", "config": asdict(config), "args": trained, "model": model.float().state_dict(), "ema": None}


def _refused(path: Path) -> DataError:
    return DataError(f"{path}: holds objects that no detection model is made of, and is not read because loading it "
                     "would run code; take weights from a source you trust")


def start_model(start: str, names: dict[int, str]) -> tuple[DetectionModel, str, bool]:
    """The network that training starts from: (model, where its weights come from, whether they were trained).

    start: a file of weights, or an architecture (`yolo11n`, `yolo11s`, `yolo26n`, `yolo11s.yaml`) whose weights are
    looked for as `yolo11s.pt` here and in weights/. ultralytics itself would contact a host for missing ones, even
    offline; here they are random instead. Raises DataError for what is neither.
    """
    if "://" in start:
        raise DataError(f"--model {start}: is an address; fetch the file and name it")
    stem = start.removesuffix(".pt")
    file = next((path for path in (Path(start), Path(f"{stem}.pt"), WEIGHTS / f"{stem}.pt") if path.is_file()), None)
    if file is not None and file.suffix not in (".yaml", ".yml"):
        source, checkpoint = load_model(file, "cpu")
        model = build_model(YoloConfig(checkpoint["config"]["yaml"], names))
        model.load(source, verbose=False)
        return model, f"weights of {file}", True
    if Path(start).parent != Path(".") and file is None:
        raise DataError(f"--model {start}: no such file")
    try:
        model = build_model(YoloConfig(yaml_model_load(file or f"{stem.removesuffix('.yaml')}.yaml"), names))
    except Exception:  # whatever a file that describes no network makes ultralytics raise
        raise DataError(f"--model {start}: is neither a file of weights nor an architecture of ultralytics "
                        "(yolo11n, yolo11s, yolo11m, yolo26n, ...)") from None
    if type(model.model[-1]) is not Detect:
        raise DataError(f"--model {start}: does not detect boxes")
    return model, f"random weights: {stem}.pt is neither here nor in {WEIGHTS.name}/", False


# training ------------------------------------------------------------------------------------------------------------


class MarksDataset(YOLODataset):
    """ultralytics' dataset and augmentations over samples that are already checked.

    No `.cache` pickle is read or written, no image file is rewritten, and what a sample becomes depends on its key
    (epoch, index) alone: also which images it shares a mosaic with, and whether it has one (not in the last epochs).
    """

    def __init__(self, samples: list, seed: int, last_mosaic_epoch: float, **options):
        self.samples, self.seed, self.last_mosaic_epoch = samples, seed, last_mosaic_epoch
        super().__init__(img_path="", **options)
        self.buffer = range(len(self.samples))  # ultralytics draws partners from recently loaded images
        calm = copy.copy(options["hyp"])
        calm.mosaic = calm.mixup = 0.0
        self.calm_transforms = self.build_transforms(calm)

    def get_img_files(self, img_path: str) -> list[str]:
        return [str(sample.file) for sample in self.samples]

    def get_labels(self) -> list[dict]:
        return [{"im_file": str(sample.file), "shape": (sample.height, sample.width), "bboxes": sample.boxes,
                 "cls": sample.classes.astype(np.float32)[:, None], "segments": [], "keypoints": None,
                 "normalized": True, "bbox_format": "xywh"} for sample in self.samples]

    def load_image(self, i: int, rect_mode: bool = True, resize_short: bool = False):
        image = cv2.cvtColor(load_image(self.im_files[i]), cv2.COLOR_RGB2BGR)
        resized = resize(image, self.imgsz)
        return resized, image.shape[:2], resized.shape[:2]

    def __getitem__(self, key: tuple[int, int]) -> dict:
        epoch, index = key
        transforms = self.transforms if epoch <= self.last_mosaic_epoch else self.calm_transforms
        with _global_randomness(self.seed, epoch, index):
            return transforms(self.get_image_and_label(index))


@contextlib.contextmanager
def _global_randomness(seed: int, epoch: int, index: int) -> Iterator[None]:
    """ultralytics' augmentations draw from the global generators; for one sample these follow from its key."""
    before, before_numpy = random.getstate(), np.random.get_state()
    rng = sample_rng(seed, epoch, index)
    random.seed(int(rng.integers(2**62)))
    np.random.seed(int(rng.integers(2**32)))
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(before_numpy)


class _Loader:
    """The shared loader with what ultralytics' loop asks of its own kind."""

    drop_last = False

    def __init__(self, dataset: MarksDataset, batches, batch_size: int, workers: int, device, limit: int | None):
        self.loader = make_loader(dataset, batches, workers, device, dataset.collate_fn)
        self.dataset, self.batch_size, self.num_workers, self.limit = dataset, batch_size, workers, limit
        self.sampler = range(len(dataset))

    def __len__(self) -> int:
        return min(len(self.loader), self.limit or len(self.loader))

    def __iter__(self):
        return itertools.islice(iter(self.loader), len(self))

    def reset(self) -> None:
        """ultralytics restarts its workers to end mosaics; ours know by the epoch."""


class MarksTrainer(DetectionTrainer):
    """ultralytics' training loop on our samples, scored by our evaluation, and resumable bit for bit at every epoch.

    overrides: ultralytics' own settings. It writes plots, results.csv and weights/best.pt, in its own format for tools
    that read that, to its save_dir. Between epochs callbacks find `steps`, `scores`, `records` and training_state().
    """

    def __init__(self, model: DetectionModel, samples: dict[str, list], overrides: dict, limit: int | None = None):
        self.samples, self.class_names, self.limit, self.start_from = samples, dict(model.names), limit, None
        self.steps, self.batches, self.waiting, self.grad_norm = 0, 0, 0, 0.0
        provide_fonts()
        super().__init__(overrides=overrides)
        self.model = model

    def get_dataset(self) -> dict:
        return {"train": "train", "val": "val", "names": self.class_names, "nc": len(self.class_names), "channels": 3}

    def build_dataset(self, img_path: str, mode: str = "train", batch: int | None = None) -> MarksDataset:
        train = mode == "train"
        last_mosaic_epoch = self.epochs - self.args.close_mosaic - 1 if self.args.close_mosaic else math.inf
        return MarksDataset(self.samples[img_path], self.args.seed, last_mosaic_epoch, data=self.data, hyp=self.args,
                            imgsz=self.args.imgsz, batch_size=batch, augment=train, rect=not train,
                            stride=int(self.model.stride.max()), pad=0.0 if train else 0.5)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> _Loader:
        dataset, train = self.build_dataset(dataset_path, mode, batch_size), mode == "train"
        batches = (EpochBatches(len(dataset), batch_size, self.args.seed) if train
                   else EveryBatch(len(dataset), batch_size))
        return _Loader(dataset, batches, batch_size, self.args.workers, self.device, self.limit)

    def _close_dataloader_mosaic(self) -> None:
        """Nothing to switch: the dataset knows by the epoch."""

    def _build_train_pipeline(self) -> None:
        super()._build_train_pipeline()
        # optimizer_step below counts for itself, and is therefore called after every batch.
        self.window, self.accumulate = self.accumulate, 1

    def _model_train(self) -> None:
        """ultralytics calls this at the start of each epoch."""
        super()._model_train()
        self.batches, self.waiting = 0, 0
        self.train_loader.loader.batch_sampler.set_position(self.epoch)

    def preprocess_batch(self, batch: dict) -> dict:
        self.files = batch["im_file"]
        return super().preprocess_batch(batch)

    def optimizer_step(self) -> None:
        """A step when nbs images are gathered (fewer during warm-up, as ultralytics has it) and at the end of an epoch,
        so that no gradient is left over that a resumed run would not have."""
        bad = [name for name, value in self.loss_items.items() if not torch.isfinite(value).all()]
        if bad:
            raise NonFiniteLoss(f"epoch {self.epoch + 1}: not finite: {', '.join(bad)}; files: "
                                f"{', '.join(self.files[:16])}")
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
        self.scores, self.records = evaluate(self.ema.ema, self.samples["val"], self.args.imgsz)
        fitness = self.scores["map50_95"]
        self.is_best = self.best_fitness is None or fitness > self.best_fitness
        self.best_fitness = fitness if self.is_best else self.best_fitness
        keys = {"precision": "precision", "recall": "recall", "mAP50": "map50", "mAP50-95": "map50_95"}
        return {f"metrics/{theirs}(B)": self.scores[ours] for theirs, ours in keys.items()}, fitness

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
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "scaler": None,
                "ema": {"model": self.ema.ema.state_dict(), "updates": self.ema.updates},
                "scheduler": {"epoch": self.epoch + 1}, "rng": {"seed": self.args.seed},
                "results_csv": self.csv.read_text(encoding="utf-8")}

    def resume_from(self, checkpoint: dict) -> None:
        """Continue from training_state() and a `progress` {epoch, step, best_score, best_epoch} when train() starts."""
        self.start_from = checkpoint
        self.csv.write_text(checkpoint["results_csv"], encoding="utf-8")

    def resume_training(self, ckpt) -> None:
        if self.start_from is None:
            return
        checkpoint, progress = self.start_from, self.start_from["progress"]
        self.model.load_state_dict(checkpoint["model"])
        self.ema.ema.load_state_dict(checkpoint["ema"]["model"])
        self.ema.updates = checkpoint["ema"]["updates"]
        self.optimizer.load_state_dict(checkpoint["optimizer"])
        self.start_epoch, self.steps = progress["epoch"], progress["step"]
        self.best_fitness = self.stopper.best_fitness = progress["best_score"]
        self.stopper.best_epoch = progress["best_epoch"]
        if hasattr(self.model.model[-1], "one2one_cv2"):  # YOLO26 shifts weight between its two heads by the epoch
            self.model.criterion = self.model.init_criterion()
            self.model.criterion.updates = self.start_epoch - 1
            self.model.criterion.update()

    def final_eval(self) -> None:
        """ultralytics' curves, confusion matrix and sample pages, once, for the best weights."""
        best, _ = load_model(self.best, "cpu")
        self.ema.ema.load_state_dict(best.state_dict())
        self.stopper.possible_stop = True  # what makes the validator draw
        self.validator(self)


def provide_fonts() -> None:
    """A font under the names that ultralytics looks for before it asks a host."""
    folder = ultralytics.utils.USER_CONFIG_DIR
    missing = [folder / name for name in ("Arial.ttf", "Arial.Unicode.ttf") if not (folder / name).is_file()]
    if missing:
        faces = find_fonts()
        source = next((face.path for face in faces if face.korean and not face.bold), faces[0].path)
        for path in missing:
            write_replacing(path, lambda temporary: shutil.copyfile(source, temporary))
