"""Debug sessions: the files, what is kept of old ones, and that nothing else is touched."""

import argparse
import fcntl
import io
import json
import sys
import tarfile
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from utils import debugging
from utils.debugging import Tee, contact_sheet, debug_session, describe_batch, missing_predictions, record, tidy

NOW = datetime(2026, 3, 1, 12)


def flags(**changes):
    return argparse.Namespace(**({"debug": True, "hypothesis": "", "lr": 0.1, "sizes": (1, 2), "out": Path("x")} | changes))


def rows(folder):
    return [json.loads(line) for line in (folder / "debug.jsonl").read_text(encoding="utf-8").splitlines()]


def test_a_session_holds_exactly_what_it_should(tmp_path):
    with debug_session("detection", flags(hypothesis="왜?"), 0, tmp_path) as session:
        print("영수증")
        print("careful", file=sys.stderr)
        record("epoch", metrics={"val/hmean": 0.5})
        session.save_rows([{"file": "a", "n_truth": 3, "n_pred": 0, "tp": 0}], 7)
        session.save_window([{"image": torch.rand(2, 3, 8, 8), "file": ["a", "b"]}], 1)
    assert {p.relative_to(session.folder).as_posix() for p in session.folder.rglob("*") if p.parent == session.folder
            or p.is_dir()} == {"debug.jsonl", "training.log", "config_dump.yaml", "git_status.txt", "system_info.txt",
                               "artifacts", "artifacts/profiler_traces", "artifacts/model_outputs",
                               "artifacts/data_samples"}
    assert debugging.NAME.fullmatch(session.folder.name)
    log = (session.folder / "training.log").read_text(encoding="utf-8")
    assert "영수증" in log and "careful" in log
    found = rows(session.folder)
    assert all({"time", "level", "event", "message"} <= set(row) for row in found)
    assert all(datetime.fromisoformat(row["time"]).tzinfo for row in found)
    assert [row["metrics"] for row in found if "metrics" in row] == [{"val/hmean": 0.5}]
    assert any(row["level"] == "WARNING" and "Missing predictions" in row["message"] for row in found)
    assert found[0]["hypothesis"] == found[-1]["hypothesis"] == "왜?"
    text = (session.folder / "config_dump.yaml").read_text(encoding="utf-8")
    assert yaml.safe_load(text) == {"debug": True, "hypothesis": "왜?", "lr": 0.1, "out": "x", "sizes": [1, 2]}
    assert [line.split(":")[0] for line in text.splitlines() if line[0].isalpha()] == ["debug", "hypothesis", "lr", "out",
                                                                                      "sizes"]
    assert list((session.folder / "artifacts" / "data_samples").glob("step_000001_image.png"))
    assert debugging.current is None


def test_errors_are_told_and_the_streams_come_back(tmp_path):
    out, handlers = sys.stdout, list(debugging.log.handlers)
    with pytest.raises(ValueError), debug_session("detection", flags(), 0, tmp_path):
        raise ValueError("the disk is on fire")
    folder = next(tmp_path.iterdir())
    last = rows(folder)[-1]
    assert last["level"] == "ERROR" and "on fire" in last["message"] and "Traceback" in last["traceback"]
    assert "on fire" in (folder / "training.log").read_text(encoding="utf-8")
    assert sys.stdout is out and debugging.log.handlers == handlers


@pytest.mark.parametrize("args, rank", [(flags(debug=False), 0), (flags(), 1)])
def test_nothing_is_written_without_the_flag_or_off_rank_0(args, rank, tmp_path):
    with debug_session("detection", args, rank, tmp_path) as session:
        record("epoch", metrics={})
    assert session is None and not list(tmp_path.iterdir())


def make_session(root, age, name=None):
    folder = root / (name or (NOW - age).strftime("%Y-%m-%d_%H-%M-%S_debug"))
    (folder / "artifacts").mkdir(parents=True)
    (folder / "debug.jsonl").write_text('{"a": 1}\n')
    return folder


def test_ten_stay_older_ones_are_packed_and_those_over_30_days_go(tmp_path):
    recent = [make_session(tmp_path, timedelta(days=day)) for day in range(13)]
    old = [make_session(tmp_path, timedelta(days=day)) for day in (31, 90)]
    archive = tmp_path / (NOW - timedelta(days=40)).strftime("%Y-%m-%d_%H-%M-%S_debug.tar.gz")
    archive.write_bytes(b"old")
    others = [make_session(tmp_path, None, name) for name in ("my_notes", "2020-01-01_00-00-00", "2020-02-31_00-00-00_debug",
                                                              "x2020-01-01_00-00-00_debug", "2020-01-01_00-00-00_debugging")]
    file = tmp_path / "2020-01-01_00-00-00_debug.txt"
    file.write_text("mine")
    elsewhere = make_session(tmp_path / "outside", None, "target")
    link = tmp_path / (NOW - timedelta(days=20)).strftime("%Y-%m-%d_%H-%M-%S_debug")
    link.symlink_to(elsewhere)
    tidy(tmp_path, NOW)
    assert all(path.is_dir() for path in recent[:10]) and not any(path.exists() for path in [*recent[10:], *old, archive])
    for path in recent[10:]:
        with tarfile.open(f"{path}.tar.gz") as packed:
            assert packed.extractfile(f"{path.name}/debug.jsonl").read() == b'{"a": 1}\n'
    assert all((path / "debug.jsonl").is_file() for path in [*others, elsewhere]) and link.is_symlink() and file.is_file()
    assert not (tmp_path / f"{link.name}.tar.gz").exists()
    before = sorted(tmp_path.iterdir())
    tidy(tmp_path, NOW)
    assert sorted(tmp_path.iterdir()) == before


def test_a_session_in_use_stays_and_a_packed_rest_is_only_removed(tmp_path):
    folders = [make_session(tmp_path, timedelta(days=day)) for day in range(12)]
    whole = Path(f"{folders[11]}.tar.gz")
    whole.write_bytes(b"whole")  # a process was killed after packing and while removing
    with open(folders[10] / "debug.jsonl") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        tidy(tmp_path, NOW)
    assert folders[10].is_dir() and not folders[11].exists() and whole.read_bytes() == b"whole"


def test_progress_bars_leave_no_trace_in_the_log():
    shown, kept = io.StringIO(), io.StringIO()
    tee = Tee(shown, kept)
    for text in ("\repoch 1:  10%", "\repoch 1:  50%", "\r        \r", "epoch 1/2: loss 3\n", "\r 5%\rdone\r\n", "end"):
        tee.write(text)
    tee.finish()
    assert kept.getvalue() == "epoch 1/2: loss 3\ndone\nend\n" and shown.getvalue().startswith("\repoch 1:  10%")


def test_facts_of_a_batch_and_its_picture():
    image = torch.zeros(2, 1, 4, 6)
    image[0, 0, 0, 0], image[1, 0, 3, 5] = 2.0, float("nan")
    facts = describe_batch({"image": image, "file": ["a"], "empty": torch.zeros(0)})
    assert facts["image"] == {"shape": [2, 1, 4, 6], "dtype": "float32", "not_finite": 1, "min": 0.0, "max": 2.0,
                              "mean": pytest.approx(2 / 47)}
    assert facts["empty"]["shape"] == [0] and facts["file"] == ["a"]
    sheet = contact_sheet(image)
    assert sheet.shape == (4, 12) and sheet[0, 0] == 255 and sheet.max() == 255 and sheet[3, 11] == 0
    assert contact_sheet(torch.rand(3, 3, 4, 5)).shape == (4, 15, 3) and contact_sheet(torch.ones(1, 4, 4)).dtype == np.uint8


def test_missing_predictions_of_every_task():
    assert missing_predictions([{"file": "a", "n_truth": 2, "n_pred": 0}, {"file": "b", "n_truth": 0, "n_pred": 0},
                                {"file": "c", "n_truth": 2, "n_pred": 1}]) == ["a"]
    assert missing_predictions([{"file": "a", "truth": [0], "detections": []}]) == ["a"]
    assert missing_predictions([{"file": "a", "truth": "x", "text": "", "char_length": 1}]) == ["a"]
    assert missing_predictions([{"file": "a", "tp": 0, "fp": 0, "fn": 3}, {"file": "b", "tp": 0, "fp": 1, "fn": 3}]) == ["a"]
