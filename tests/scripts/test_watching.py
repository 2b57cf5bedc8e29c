"""--debug, --profile, --hypothesis and --cache-targets as a person uses them."""

import json
import subprocess
import sys

import cv2
import numpy as np
import pytest
from runner import ENVIRONMENT, ROOT, rows, run_script

from experiments import compare


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for split, number in (("train", 3), ("val", 2)):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for index in range(number):
            image = rng.integers(200, 255, (96, 96, 3), np.uint8)
            cv2.rectangle(image, (10, 20), (80, 50), (0, 0, 0), -1)
            cv2.imwrite(str(root / split / "images" / f"{split}{index}.png"), image)
            (root / split / "labels" / f"{split}{index}.txt").write_text("10,20,80,20,80,50,10,50,text\n")
    return root


def test_a_debugged_profiled_and_cached_run_and_its_comparison(data, tmp_path, capsys):
    small = ("--data-dir", data, "--epochs", 2, "--batch-size", 3, "--img-height", 64, "--img-width", 64, "--test-long-side",
             96, "--pyramid-channels", 16, "--num-workers", 0, "--no-preflight", "--device", "cpu")
    run_script("train_detection", *small, "--output-dir", "a", "--debug", "--hypothesis", "boxes first", "--profile", "0:1",
               "--cache-targets", cwd=tmp_path)
    run_script("train_detection", *small, "--output-dir", "b", "--lr", "2e-3", cwd=tmp_path)
    session = next((tmp_path / "logs" / "debugging_sessions").iterdir())
    card = (tmp_path / "a" / "card.md").read_text(encoding="utf-8")
    assert "boxes first" in card and session.name in card and "**Target cache:**" in card
    for row in rows(tmp_path / "a" / "metrics.jsonl"):
        assert {"perf/images_per_s", "perf/data_wait_share", "perf/cpu_percent", "perf/memory_gb"} <= set(row)
    for folder in (tmp_path / "a" / "profiler_traces", session / "artifacts" / "profiler_traces"):
        assert json.loads((folder / "steps_1_to_1.json").read_text())["traceEvents"]
    assert "run folder: a" in (session / "training.log").read_text(encoding="utf-8")
    # the user's own command, as it stands in their notes
    script = ("import json, glob\nlogs = glob.glob('logs/debugging_sessions/*/*.jsonl')\nfor log in logs[-5:]:\n"
              "    with open(log) as f:\n        for line in f:\n            data = json.loads(line)\n"
              "            if 'metrics' in data:\n                print(f'{log}: {data[\"metrics\"]}')\n")
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0 and done.stdout.count("val/hmean") == 2
    compare.main([str(tmp_path / "a"), str(tmp_path / "b")])
    text = capsys.readouterr().out
    assert "--lr (flag)" in text and "--debug" not in text and "not distinguishable with 2 images" in text


@pytest.mark.parametrize("flags, message", [
    (("--profile", "5"), "START:STEPS"), (("--cache-limit", "3"), "nothing without --cache-targets"),
    (("--test-only", "--weights", "x.pt", "--profile", "1:1"), "nothing with --test-only"),
    (("--test-only", "--weights", "x.pt", "--cache-targets"), "nothing with --test-only"),
    (("--test-only", "--weights", "x.pt", "--hypothesis", "y"), "add --debug")])
def test_flags_that_would_do_nothing_are_refused(flags, message, capsys):
    sys.path.insert(0, str(ROOT))
    import train_detection
    with pytest.raises(SystemExit) as stop:
        train_detection.parse_args(list(flags))
    assert stop.value.code == 2 and message in capsys.readouterr().err
