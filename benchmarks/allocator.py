"""What it brings on the CPU to keep freed memory (utils.allocator): DBNet's training step and its look at a page.

    python -m benchmarks.allocator
    OMP_NUM_THREADS=1 python -m benchmarks.allocator --rounds 9

Prints one JSON object as its last line. A heap that has grown stays so, and so each measurement is a process of its own;
they take turns, and the ratios are between neighbours.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch

from benchmarks.loop import made_batch, make_model_and_step
from utils.allocator import keep_freed_memory
from utils.args import new_parser, positive_int

SIDE, BATCH, PAGE = 320, 4, 1280
REPEATS = 6


def measure(keep: bool) -> dict:
    """Seconds of one training step and of one page, and the process's peak memory."""
    if keep and not keep_freed_memory(torch.device("cpu")):
        raise SystemExit("this C library has no mallopt: nothing to measure")
    model, step = make_model_and_step("detection", SIDE)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    batch, page = made_batch("detection", BATCH, SIDE, 0, False), torch.randn(1, 3, PAGE, PAGE)

    def train():
        optimizer.zero_grad(set_to_none=True)
        step(model.train(), batch)[0]["loss"].backward()
        optimizer.step()

    @torch.inference_mode()
    def look():
        model.eval()(page)

    found = {}
    for name, run in (("training_step_s", train), ("page_s", look)):
        run()
        times = []
        for _ in range(REPEATS):
            begun = time.perf_counter()
            run()
            times.append(time.perf_counter() - begun)
        found[name] = statistics.median(times)
    return found | {"peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--rounds", type=positive_int, default=5, help="(default: %(default)s)")
    parser.add_argument("--measure", choices=("keep", "give-back"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.measure:
        print(json.dumps(measure(args.measure == "keep")))
        return
    rows = []
    for number in range(args.rounds):  # the order alternates, so that a machine that slows down favours neither
        row = {}
        for way in ("keep", "give-back")[:: 1 if number % 2 else -1]:
            done = subprocess.run([sys.executable, "-m", "benchmarks.allocator", "--measure", way], check=True,
                                  stdout=subprocess.PIPE, text=True)
            row[way] = json.loads(done.stdout.splitlines()[-1])
        rows.append(row)
    report = {"threads": torch.get_num_threads(), "rounds": args.rounds}
    for name in rows[0]["keep"]:
        ratios = [row["give-back"][name] / row["keep"][name] for row in rows]
        report[name] = {way: statistics.median(row[way][name] for row in rows) for way in ("keep", "give-back")} | {
            "ratio": statistics.median(ratios), "ratios": ratios}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
