"""The three plain-PyTorch scripts made small enough to be started, killed and resumed often: data, flags, and one process
that has paid for the imports and forks a child for each start.

    python tests/scripts/tiny.py     serves lines "TASK FLAGS" on stdin; answers each with the child's process id
"""

import importlib
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SHARED = ("--epochs 2 --num-workers 0 --device cpu --deterministic --no-preflight --save-every-steps 1 --ema-decay 0.9 "
          "--accumulation-steps 2 --log-every 1 --patience 0")
FLAGS = {
    "detection": "--encoder tu-mobilenetv3_small_050 --encoder-weights none --pyramid-channels 8 --img-height 64 "
                 "--img-width 64 --test-long-side 96 --batch-size 2",
    "recognition": "--arch parseq-ti --depth 1 --img-height 16 --img-width 64 --max-label-length 5 --charset data "
                   "--batch-size 3 --perm-num 2",
    "segmentation": "--encoder tu-mobilenetv3_small_050 --encoder-weights none --arch linknet --img-height 64 "
                    "--img-width 64 --batch-size 2"}


def make_data(folder: Path) -> None:
    """FOLDER/TASK/{train,val}: 5 and 2 pages of three words, or the words themselves."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 5), ("val", 2)):
        for task, part in (("detection", "labels"), ("recognition", "."), ("segmentation", "masks")):
            (folder / task / split / "images").mkdir(parents=True)
            (folder / task / split / part).mkdir(exist_ok=True)
        table = []
        for number in range(count):
            page, lines = np.full((96, 80, 3), 225 + number, np.uint8), []
            for row in range(3):
                word, x, y = "".join(rng.choice(list("AB12"), 3)), int(rng.integers(2, 20)), 4 + 32 * row
                cv2.putText(page, word, (x, y + 18), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (20, 20, 20), 2)
                lines.append(f"{x},{y},{x + 46},{y},{x + 46},{y + 24},{x},{y + 24},{word}")
                crop = folder / "recognition" / split / "images" / f"{number}_{row}.png"
                cv2.imwrite(str(crop), page[y : y + 24, x : x + 46])
                table.append(f"{number}_{row}.png\t{word}\n")
            mask = (page[..., 0] < 128).astype(np.uint8) * 255
            for task in ("detection", "segmentation"):
                cv2.imwrite(str(folder / task / split / "images" / f"{number}.png"), page)
            cv2.imwrite(str(folder / "segmentation" / split / "masks" / f"{number}.png"), mask)
            (folder / "detection" / split / "labels" / f"{number}.txt").write_text("\n".join(lines))
        (folder / "recognition" / split / "labels.tsv").write_text("".join(table))


class Starter:
    """Starts TASK with FLAGS in a child of a process that has imported everything."""

    def __init__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True, env=environment, cwd=ROOT)
        assert self.process.stdout.readline() == "ready\n"

    def start(self, task: str, flags: str, kill_after: float | None = None) -> int:
        """The exit status, negative after a signal. kill_after: seconds until SIGKILL."""
        print(task, flags, file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if kill_after is not None:
            time.sleep(kill_after)
            os.kill(child, signal.SIGKILL)  # not reaped before it is asked for below, so it is still this child
        print("wait", file=self.process.stdin, flush=True)
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(timeout=60)


def serve() -> None:
    sys.path.insert(0, str(ROOT))
    import torch
    from models.parseq import ARCHS
    ARCHS["parseq-ti"] = ARCHS["parseq-ti"] | {"dim": 48, "heads": 2, "decoder_heads": 2}
    scripts = {task: importlib.import_module(f"train_{task}") for task in FLAGS}
    cv2.setNumThreads(0)
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])  # imports what it needs at first use
    from utils.errors import exit_cleanly
    print("ready", flush=True)
    for line in sys.stdin:
        task, *flags = shlex.split(line)
        child = os.fork()
        if child == 0:
            quiet = os.open(os.environ.get("TINY_LOG", os.devnull), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            status = 1
            try:
                exit_cleanly(lambda: scripts[task].main(flags))
            except SystemExit as left:
                status = left.code or 0
            except BaseException:
                import traceback
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(status)
        print(child, flush=True)
        sys.stdin.readline()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
