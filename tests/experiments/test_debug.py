"""experiments.debug diff, on folders, names and archives."""

import json
import tarfile

import pytest

from experiments import debug
from utils.errors import DataError


def session(root, name, lr, hmean, **extra):
    folder = root / f"{name}_debug"
    folder.mkdir(parents=True)
    (folder / "config_dump.yaml").write_text(f"lr: {lr}\nseed: 0\n")
    lines = [{"event": "start", "level": "INFO", "hypothesis": extra.get("hypothesis", "")},
             {"event": "epoch", "level": "INFO", "metrics": {"val/hmean": hmean, "perf/cpu_percent": 3.0}},
             {"event": "missing predictions", "level": "WARNING", "message": "Missing predictions"},
             {"event": "end", "level": "INFO", "message": "end"}]
    (folder / "debug.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[: extra.get("lines", 4)]))
    (folder / "git_status.txt").write_text(f"commit {name}\n")
    (folder / "system_info.txt").write_text(f"Memory: {hmean} GB\ntorch: 2\n")
    return folder


def test_what_changed_is_said(tmp_path, capsys):
    a, b = session(tmp_path, "a", 0.1, 0.5, hypothesis="too fast"), session(tmp_path, "b", 0.2, 0.75, lines=3)
    debug.main(["diff", str(a), str(b)])
    text = capsys.readouterr().out
    assert "| --lr | 0.1 | 0.2 |" in text and "--seed" not in text and "too fast" in text
    assert "| val/hmean | 0.5 | 0.75 | +0.25 |" in text and "perf/" not in text
    assert "-commit a" in text and "+commit b" in text and "Memory" not in text
    assert "still running, or killed" in text and "A: WARNING: Missing predictions" in text


def test_archives_and_names_are_found(tmp_path, monkeypatch):
    root = tmp_path / "logs" / "debugging_sessions"
    folder = session(root, "a", 0.1, 0.5)
    monkeypatch.chdir(tmp_path)
    by_name = debug.read_session(debug.Path("a_debug"))
    with tarfile.open(root / "a_debug.tar.gz", "w:gz") as archive:
        archive.add(folder, arcname=folder.name)
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    packed = debug.read_session(debug.Path("a_debug"))
    assert packed.config == by_name.config == {"lr": 0.1, "seed": 0} and packed.events == by_name.events
    assert not folder.exists()  # nothing is unpacked


def test_what_is_no_session_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such session"):
        debug.read_session(tmp_path / "nothing")
    with pytest.raises(DataError, match="is this a session"):
        debug.read_session(tmp_path)
    (tmp_path / "x_debug.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DataError, match="no whole archive"):
        debug.read_session(tmp_path / "x_debug.tar.gz")
