"""--overfit over a small sweep of rates: a network that cannot learn a few samples at one rate may do so at another, and
only one that can at none is broken."""

from argparse import Namespace
from pathlib import Path
from typing import Callable

from utils.distributed import from_rank_zero
from utils.run_folder import run_folder

FACTORS = (1.0, 1 / 3, 3.0)  # of --lr, in this order


def sweep_rates(task: str, train: Callable[..., int], args, *where) -> int:
    """train(args, *where) with --lr, a third and three times of it, until one returns 0; the exit status.

    The first run is in --output-dir, as ever, and the others in a folder of their rate inside it."""
    folder = Path(from_rank_zero(str(run_folder(task, args))))
    status, tried = 1, []
    for factor in FACTORS:
        rate = args.lr * factor
        tried.append(f"{rate:.3g}")
        place = folder if factor == 1 else folder / f"lr_{rate:.3g}"
        status = train(Namespace(**vars(args) | {"lr": rate, "output_dir": place}), *where)
        if status == 0:
            break
    if where[1] == 0:
        print(f"overfit sweep: rates tried {', '.join(tried)}: " + ("learnt at the last" if status == 0 else
              "none learns the samples; look for what is wrong with labels, crops or sizes"))
    return status
