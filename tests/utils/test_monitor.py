"""The monitor's means, peaks and rates; the profiler's files; a machine that hides something."""

import argparse
import json
import time
from pathlib import Path

import pytest
import torch

from utils import monitor
from utils.args import step_range
from utils.monitor import Monitor, ResourceReader, rates
from utils.step_profiler import StepProfiler


def wait_for(condition):
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    assert condition()


def test_means_peaks_and_rates_of_an_epoch():
    values, points = iter([(10.0, 1.0), (30.0, 5.0), (20.0, 3.0)]), []

    def read():
        cpu, memory = next(values)
        return {"perf/cpu_percent": cpu, "perf/memory_gb": memory}

    watched = Monitor(read, lambda *point: points.append(point), interval=1000)
    for step in (1, 2):
        watched.count_step(step, 4, 0.5, 0.1)
        watched._look()
    assert watched.finish_epoch() == {"perf/images_per_s": 8.0, "perf/data_wait_share": pytest.approx(0.2),
                                      "perf/cpu_percent": 20.0, "perf/memory_gb": 5.0}
    assert ("perf/cpu_percent", 30.0, 2) in points and ("perf/data_wait_share", pytest.approx(0.2), 1) in points
    assert watched.counts == (0, 0.0, 0.0)
    watched.close()
    assert not watched.thread.is_alive()


def test_the_thread_looks_and_survives_what_it_cannot_read():
    calls = []

    def read():
        calls.append(1)
        if len(calls) < 3:
            raise OSError("hidden")
        return {"perf/cpu_percent": 1.0}

    watched = Monitor(read, lambda *point: None, interval=0.005)
    wait_for(lambda: watched.samples)
    watched.close()
    assert len(calls) >= 3 and watched.seconds_of_work > 0


def test_this_machine_is_read(tmp_path):
    found = ResourceReader("cpu", tmp_path).read()
    assert {"perf/cpu_percent", "perf/memory_gb", "perf/disk_free_gb"} <= set(found)
    assert found["perf/memory_gb"] > 0.01 and not any("gpu" in name for name in found)


def test_gpu_values_and_a_driver_that_does_not_tell(tmp_path, monkeypatch):
    reader = ResourceReader("cpu", tmp_path)
    reader.device, reader.utilisation = torch.device("cuda"), True
    monkeypatch.setattr(monitor.torch.cuda, "mem_get_info", lambda device: (2 * monitor.GB, 8 * monitor.GB))
    monkeypatch.setattr(monitor.torch.cuda, "utilization", lambda device: 40)
    assert reader._gpu() == {"perf/gpu_memory_gb": 6.0, "perf/gpu_memory_share": 0.75, "perf/gpu_percent": 40.0}

    def refuse(device):
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(monitor.torch.cuda, "utilization", refuse)
    assert "perf/gpu_percent" not in reader._gpu() and not reader.utilisation


def test_rates_of_no_time():
    assert rates((0, 0.0, 0.0)) == {}
    assert rates((4, 2.0, 3.0))["perf/data_wait_share"] == 1.0


def test_the_profiler_records_its_steps_into_every_folder(tmp_path):
    folders = [tmp_path / "run", tmp_path / "session"]
    profiler = StepProfiler.from_flag("1:2", folders)
    profiler.begin()
    for _ in range(5):
        torch.ones(4, 4) @ torch.ones(4, 4)
        profiler.step()
    profiler.close()
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == ["steps_2_to_3.json", "steps_2_to_3.txt"]
        events = json.loads((folder / "steps_2_to_3.json").read_text())["traceEvents"]
        assert sum(event.get("name") == "aten::mm" for event in events) == 2
        assert "aten::mm" in (folder / "steps_2_to_3.txt").read_text()


def test_a_training_that_ends_early_keeps_what_there_is_or_says_so(tmp_path, capsys):
    profiler = StepProfiler(0, 5, [tmp_path])
    profiler.begin()
    profiler.step()
    profiler.close()
    assert (tmp_path / "steps_1_to_1.json").is_file()
    late = StepProfiler(9, 1, [tmp_path / "none"])
    late.begin()
    late.step()
    late.close()
    assert "ended after 1 steps" in capsys.readouterr().err and not Path(tmp_path / "none").exists()


def test_the_flag():
    assert step_range("10:5") == "10:5"
    for text in ("10", "a:5", "10:", "10:0", "-1:5"):
        with pytest.raises(argparse.ArgumentTypeError):
            step_range(text)
