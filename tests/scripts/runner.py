"""Scripts run as a person runs them: in a process of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent.parent
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


def run_script(name: str, *flags, cwd: Path | None = None, status: int = 0) -> subprocess.CompletedProcess:
    """Run `python NAME.py FLAGS`; the exit status must be `status`, and an error must be one line without traceback."""
    done = subprocess.run([sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)], cwd=cwd or ROOT, text=True,
                          capture_output=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    if status == 2:
        assert "Traceback" not in done.stderr
    return done


def run_module(name: str, *flags, status: int = 0) -> subprocess.CompletedProcess:
    """Run `python -m NAME FLAGS` from the project's folder."""
    done = subprocess.run([sys.executable, "-m", name, *map(str, flags)], cwd=ROOT, text=True, capture_output=True,
                          timeout=300, env=ENVIRONMENT)
    assert done.returncode == status, f"exit status {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def last_json(done: subprocess.CompletedProcess) -> dict:
    """The JSON object on the last line of stdout."""
    return json.loads(done.stdout.strip().splitlines()[-1])


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def without_time(metrics: list[dict]) -> list[dict]:
    """metrics.jsonl without what a clock measured."""
    return [{k: v for k, v in row.items() if k != "seconds" and not k.startswith("perf/")} for row in metrics]


def outcome(folder: Path):
    """All that a resumed run must have in common with the run that was never stopped."""
    checkpoint = torch.load(folder / "last.pt", weights_only=True)
    checkpoint["progress"].pop("seconds")
    kept = ("model", "ema", "optimizer", "scheduler", "scaler", "progress", "thresholds", "temperature")
    best = torch.load(folder / "best.pt", weights_only=True)["model"]
    return {name: checkpoint.get(name) for name in kept}, best, without_time(rows(folder / "metrics.jsonl"))


def equal(a, b) -> bool:
    """Bit for bit, in nested dicts and lists of tensors and plain values."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal, a, b))
    return a == b


def stop_when(name: str, flags: list, condition, signal_number: int = signal.SIGTERM, cwd: Path | None = None) -> int:
    """Start a script, send it a signal once condition() holds, and return its exit status."""
    process = subprocess.Popen([sys.executable, str(ROOT / f"{name}.py"), *map(str, flags)], cwd=cwd or ROOT,
                               env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 240
    while not condition() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal_number)
    return process.wait(timeout=120)
