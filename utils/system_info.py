"""The state of code and machine as text, for debugging sessions and cards."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import psutil
import torch

from utils.distributed import device_names

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "segmentation-models-pytorch", "timm", "ultralytics",
            "shapely", "pyclipper", "pillow")
# Others may hold what is nobody's business.
VARIABLES = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "PYTHONPATH", "WORLD_SIZE", "LOCAL_RANK", "XDG_CACHE_HOME")
LONGEST_DIFF = 200_000  # characters


def git_report() -> str:
    """Status, the last ten commits and the uncommitted changes of the code's own checkout."""
    parts = ["=== Git Status ===", _output("git", "status"), "=== Last Commits ===",
             _output("git", "log", "--oneline", "-10"), "=== Uncommitted Changes ===",
             _output("git", "diff", "HEAD")[:LONGEST_DIFF]]
    return "\n".join(part.rstrip() for part in parts) + "\n"


def system_report() -> str:
    """Versions, processor, memory, disk, GPU and the few environment variables that change what a run does."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    lines = ["=== Environment ===", f"Python: {platform.python_version()} ({sys.executable})",
             f"System: {platform.platform()}",
             f"CPU: {platform.processor() or platform.machine()}, {os.cpu_count()} cores",
             f"Memory: {memory.total / 2**30:.1f} GB, {memory.available / 2**30:.1f} GB free",
             f"Disk: {disk.free / 2**30:.1f} GB free", f"CUDA of PyTorch: {torch.version.cuda}", "=== Packages ==="]
    for name in PACKAGES:
        try:
            lines.append(f"{name}: {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            lines.append(f"{name}: not installed")
    lines += ["=== Variables ===", *(f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ),
              "=== GPU ===", _output("nvidia-smi") if shutil.which("nvidia-smi") else "No GPU"]
    return "\n".join(lines).rstrip() + "\n"


def device_name(device: str) -> str:
    """The processor or GPU that a run is on, for its card; device: what --device asks for."""
    if device_names(device)[0].startswith("cuda"):
        return f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} visible"
    return f"{platform.processor() or platform.machine()} CPU, {os.cpu_count()} cores"


def _output(*words: str) -> str:
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=20, errors="replace")
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"({words[0]}: {error})"
    return done.stdout if done.returncode == 0 else f"({done.stderr.strip()})"
