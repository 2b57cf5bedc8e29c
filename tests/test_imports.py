"""The arrows between the rooms, read from the source itself."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = {"train_detection", "train_recognition", "train_segmentation", "train_yolo", "inference"}
FORBIDDEN = {"utils": {"models", "datasets", "experiments", "benchmarks"} | SCRIPTS,
             "datasets": {"models", "experiments", "benchmarks"} | SCRIPTS,
             "models": {"datasets", "experiments", "benchmarks"} | SCRIPTS}
MAY_USE_ULTRALYTICS = {"train_yolo.py", "models/yolo.py"}
BANNED = {"pytorch_lightning", "lightning", "hydra", "omegaconf", "fitz", "pymupdf", "wandb"}


def sources():
    folders = ["utils", "datasets", "models", "experiments", "benchmarks"]
    return sorted([p for folder in folders for p in (ROOT / folder).rglob("*.py")]
                  + [ROOT / f"{name}.py" for name in SCRIPTS])


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("path", sources(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_arrows_point_one_way(path):
    room = path.relative_to(ROOT).parts[0]
    found = imported(path)
    assert not found & FORBIDDEN.get(room, set())
    if path.parent == ROOT:
        assert not found & (SCRIPTS - {path.stem}), "a script imports another script"
    assert not found & BANNED
    if path.relative_to(ROOT).as_posix() not in MAY_USE_ULTRALYTICS:
        assert "ultralytics" not in found, "ultralytics (AGPL-3.0) stays in its two files"


def test_all_scripts_are_there():
    assert all((ROOT / f"{name}.py").is_file() for name in SCRIPTS)


def test_no_room_is_a_drawer_for_everything():
    names = {p.stem for p in sources()}
    assert not names & {"misc", "helpers", "common", "util"}
