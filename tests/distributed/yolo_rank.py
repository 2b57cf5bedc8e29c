"""train_yolo.py as one rank of many; each writes which files it trained on, and a sum of the weights it ended with."""

import json
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

import train_yolo  # noqa: E402
from models.yolo import MarksTrainer  # noqa: E402

out, seen = Path(sys.argv[1]), []
torch.set_num_threads(1)


class WatchedTrainer(MarksTrainer):
    def preprocess_batch(self, batch):
        batch = super().preprocess_batch(batch)
        seen.append((self.epoch, [Path(file).name for file in self.files]))
        return batch

    def final_eval(self):
        weights = [parameter.double().abs().sum().item() for parameter in self.model.module.parameters()]
        evaluated = [value.double().abs().sum().item() for value in self.ema.ema.state_dict().values()]
        (out / f"rank{self.rank}.json").write_text(json.dumps({"seen": seen, "weights": weights, "evaluated": evaluated}))
        super().final_eval()


train_yolo.MarksTrainer = WatchedTrainer
sys.exit(train_yolo.main(sys.argv[2:]))
