"""What ultralytics' training loop is given of ours: a loader, randomness that repeats, and a loss that knows what is
labelled. Nothing here imports ultralytics."""

import contextlib
import itertools
import random
import shutil
from pathlib import Path
from typing import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from utils.checkpoint import save_checkpoint
from utils.dataloading import make_loader, sample_rng
from utils.distributed import gather_lists
from utils.errors import NonFiniteLoss
from utils.files import write_replacing
from utils.fonts import find_fonts


@contextlib.contextmanager
def global_randomness(seed: int, epoch: int, index: int) -> Iterator[None]:
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


def paste_onto(label: dict, paste: Callable) -> None:
    """Lay marks on an ultralytics label: `img` (H, W, 3) uint8 BGR, `cls` (N, 1), `bboxes` (N, 4) as in a label file.
    paste: as datasets.paste_marks.MarkPaster."""
    rng = np.random.default_rng(random.getrandbits(64))
    image, classes, label["bboxes"] = paste(label["img"][..., ::-1], label["cls"][:, 0], label["bboxes"], rng)
    label["img"], label["cls"] = np.ascontiguousarray(image[..., ::-1]), classes[:, None]


def places_alike(samples: list) -> dict[frozenset | None, list[int]]:
    """{classes labelled: the places of the samples that have these labelled}"""
    places: dict = {}
    for place, sample in enumerate(samples):
        places.setdefault(sample.labelled, []).append(place)
    return places


class MaskedCrossEntropy(nn.Module):
    """Binary cross-entropy of each place and class, 0 where there is no mark and none would have been labelled.

    Set `labelled`, (B, classes) bool, before each call.
    """

    def forward(self, scores: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """scores (logits) and target (0 to 1): (B, places, classes), as is the answer."""
        loss = functional.binary_cross_entropy_with_logits(scores, target, reduction="none")
        return loss * (self.labelled[:, None] | (target > 0))


def check_finite(losses: dict[str, torch.Tensor], epoch: int, files: list[str]) -> None:
    """Raises NonFiniteLoss where a loss of this batch is not finite; epoch counts from 0."""
    bad = [name for name, value in losses.items() if not torch.isfinite(value).all()]
    if bad:
        raise NonFiniteLoss(f"epoch {epoch + 1}: not finite: {', '.join(bad)}; files: {', '.join(files[:16])}")


class Order:
    """What ultralytics asks of a sampler. The epoch comes with each sample's key, so there is none to be told."""

    def __init__(self, size: int):
        self.size = size

    def __len__(self) -> int:
        return self.size

    def set_epoch(self, epoch: int) -> None:
        pass


class LoopLoader:
    """The shared loader with what ultralytics' loop asks of its own kind."""

    drop_last = False

    def __init__(self, dataset, batches, batch_size: int, workers: int, device, limit: int | None):
        self.loader = make_loader(dataset, batches, workers, device, dataset.collate_fn)
        self.dataset, self.batch_size, self.num_workers, self.limit = dataset, batch_size, workers, limit
        self.sampler = Order(len(dataset))

    def __len__(self) -> int:
        return min(len(self.loader), self.limit or len(self.loader))

    def __iter__(self):
        return itertools.islice(iter(self.loader), len(self))

    def reset(self) -> None:
        """ultralytics restarts its workers to end mosaics; ours know by the epoch."""


def mean_over_ranks(sums: dict[str, float], count: int) -> dict[str, float]:
    """Each rank's sums, added up and divided by all ranks' counts; a rank with none to add has an empty dict."""
    shares = gather_lists([(sums, count)])
    total, names = sum(number for _, number in shares), max((found for found, _ in shares), key=len)
    return {name: sum(share.get(name, 0.0) for share, _ in shares) / total for name in names}


class State:
    """What utils.tracking.Run asks of a training, answered by ultralytics' trainer."""

    micro_split, bad_steps, skipped_steps = 1, 0, 0  # the shared loop's remedies; ultralytics has its own

    def __init__(self, trainer, fields):
        self.trainer, self.fields = trainer, fields
        self.epoch, self.step, self.best_score, self.best_epoch, self.seconds = 0, 0, None, 0, 0.0

    @property
    def optimizer(self):
        return self.trainer.optimizer

    def state_dict(self):
        progress = {name: getattr(self, name) for name in ("epoch", "step", "best_score", "best_epoch", "seconds")}
        return self.fields | self.trainer.training_state() | {"progress": progress | {"batch": 0}}

    def load_state_dict(self, checkpoint):
        if not (best := self.trainer.save_dir.parent / "best.pt").is_file():
            checkpoint = self._without_best(checkpoint, best)
        self.trainer.resume_from(checkpoint)
        vars(self).update(checkpoint["progress"])

    def _without_best(self, checkpoint: dict, best: Path) -> dict:
        """A last.pt that came alone: nothing has the weights of its best score, so what is better is asked anew."""
        epoch = checkpoint["progress"]["epoch"]
        over = epoch >= self.trainer.epochs
        if self.trainer.rank == 0:
            print(f"warning: {best}: is not there; " + ("the weights resumed from take its place" if over else
                                                       "the best is looked for among the epochs that are left"))
            if over:
                save_checkpoint(best, checkpoint)
        forgotten = {} if over else {"best_score": None, "best_epoch": epoch}
        return checkpoint | {"progress": checkpoint["progress"] | forgotten}


def provide_fonts(folder: Path) -> None:
    """A font under the names that ultralytics looks for in `folder` before it asks a host."""
    missing = [folder / name for name in ("Arial.ttf", "Arial.Unicode.ttf") if not (folder / name).is_file()]
    if missing:
        faces = find_fonts()
        source = next((face.path for face in faces if face.korean and not face.bold), faces[0].path)
        for path in missing:
            write_replacing(path, lambda temporary: shutil.copyfile(source, temporary))
