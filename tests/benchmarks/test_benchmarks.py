"""The benchmarks run, and what they print fits together; how fast anything is, is not asked here."""

import json
import math
import os
import time

import numpy as np
import pytest
import torch
from runner import last_json, run_module

from benchmarks import data, loop, words

STAGES = {"detection": {"load", "transform", "targets", "to_tensor", "collate"},
          "recognition": {"load", "transform", "tokens", "collate"},
          "segmentation": {"load", "transform", "to_tensor", "collate"},
          "yolo": {"load", "transform", "to_tensor", "collate"}}


def test_data_prints_one_report_that_fits_together():
    report = json.loads(run_module("benchmarks.data", "--pages", "2", "--seconds", "0.01", "--gpu-images-per-s",
                                   "detection=1e9", "recognition=1e-9").stdout)
    assert set(report) == {"cpu_cores", "seconds", "generator", "tasks"}

    made = report["generator"]
    assert set(made["pages_per_s_in_memory"]) == {"receipt", "letter", "form", "whiteboard", "mixed"}
    assert all(rate > 0 for rate in made["pages_per_s_in_memory"].values())
    assert made["pages_per_s_written"] > 0
    assert made["written_over_in_memory"] == pytest.approx(
        made["pages_per_s_written"] / made["pages_per_s_in_memory"]["mixed"])
    assert (made["n_pages"], made["size"]) == (2, [1000, 1400])

    assert set(report["tasks"]) == set(STAGES)
    for task, found in report["tasks"].items():
        rates, times, gpu = found["samples_per_s"], found["cpu_ms_per_sample"], found["assumed_gpu_images_per_s"]
        assert set(rates) == {"1", "2"} and min(rates.values()) > 0
        assert found["second_worker_gains"] == pytest.approx(rates["2"] / rates["1"])
        assert set(times) == STAGES[task] | {"other", "total"}
        assert min(times.values()) > 0  # a stage that is never entered would be missing, or 0
        assert times["total"] == pytest.approx(sum(times.values()) - times["total"])
        assert found["gpu_would_wait"] == {workers: rate < gpu for workers, rate in rates.items()}
        assert found["workers_that_keep_up"] == math.ceil(gpu / rates["1"]) >= 1
        assert found["batch_size"] <= found["n_samples"]
    assert [report["tasks"][task]["n_samples"] for task in ("detection", "segmentation", "yolo")] == [2, 2, 2]
    assert report["tasks"]["detection"]["gpu_would_wait"] == {"1": True, "2": True}
    assert report["tasks"]["recognition"]["gpu_would_wait"] == {"1": False, "2": False}


@pytest.mark.parametrize("flag", ["detections=5", "detection", "detection=0"])
def test_data_refuses_a_gpu_speed_that_says_nothing(flag, capsys):
    with pytest.raises(SystemExit) as stop:
        data.main(["--gpu-images-per-s", flag])
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and not out


def test_stages_inside_stages_are_counted_once(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(data.time, "process_time", lambda: now[0])

    def spend(seconds):
        now[0] += seconds

    clock = data.StageClock()
    load = clock.timed(lambda: spend(3), "load")

    def mosaic():
        spend(1)
        load()
        load()
        spend(0.5)

    spend(0.25)
    clock.timed(mosaic, "transform")()
    load()
    clock.charge()
    assert clock.seconds == {"other": 0.25, "transform": 1.5, "load": 9}


def test_the_stages_of_a_sample_are_given_back_as_they_were():
    class Dataset:
        def __getitem__(self, key):
            return self.load(key)

        def load(self, key):
            return {"image": sum(range(20_000))}

    dataset = Dataset()
    source = data.Source(dataset, data.EpochBatches(3, 2, 0), lambda samples: samples, [(dataset, "load", "load")])
    times = data.stage_times(source, 0.001)
    assert set(times) == {"load", "collate", "other", "total"} and times["load"] > 0
    assert dataset.load.__func__ is Dataset.load


def test_loop_prints_one_report_that_fits_together():
    report = last_json(run_module("benchmarks.loop", "--workload", "detection", "segmentation", "--side", "64",
                                  "--batch-size", "2", "--steps", "2", "--rounds", "2", "--device", "cpu"))
    assert report["device"] == "cpu" and set(report["workloads"]) == {"detection", "segmentation"}
    for found in report["workloads"].values():
        assert (found["side"], found["batch_size"]) == (64, 2) and "gpu_utilisation_percent" not in found
        each = found["overhead_share_of_each_round"]
        assert len(each) == 2 and min(each) > -1 and found["overhead_share_median"] == pytest.approx(sum(each) / 2)
        assert found["overhead_share_interval"] == sorted(each)
        assert min(found[key] for key in ("bare_s_per_step", "images_per_s", "images_per_s_accumulating_2")) > 0
        # two steps of two images: the time through the loop lies between the bare one with either round's overhead on top
        assert 2 / found["images_per_s"] == pytest.approx(
            found["bare_s_per_step"] * (1 + found["overhead_share_median"]), rel=max(each) - min(each) + 0.5)


def test_the_interval_of_a_median_is_that_of_the_published_table():
    tenths = [number / 10 for number in (3, 9, 1, 7, 5, 2, 8, 4, 10, 6)]
    assert loop.median_interval(tenths) == [0.2, 0.9]  # ranks 2 and 9 of 10: 97.9 %
    assert loop.median_interval([4.0]) == [4.0, 4.0]
    assert loop.median_interval([float(number) for number in range(1, 41)]) == [14.0, 27.0]  # 96.2 %


def test_loop_reads_the_gpus_utilisation_from_nvidia_smi(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho \"$@\" > \"$0.asked\"\necho 90\necho '[N/A]'\necho 70\nexec sleep 30\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with loop.Utilisation(torch.device("cuda", 1)) as seen:
        time.sleep(1)
    assert seen.mean == 80 and "--id=1" in (tmp_path / "nvidia-smi.asked").read_text()
    with loop.Utilisation(torch.device("cpu")) as seen:
        pass
    assert seen.mean is None


def test_loop_refuses_a_batch_that_cannot_be_halved(capsys):
    with pytest.raises(SystemExit):
        loop.main(["--batch-size", "3"])
    assert "must be even" in capsys.readouterr().err


def test_words_prints_one_report_that_fits_together():
    report = last_json(run_module("benchmarks.words", "--lines", "25"))
    assert report["lines"] == 25 and report["words"] >= 50 and report["faces"] > 0
    for way in ("by_gaps", "by_lengths_alone"):
        assert 0 <= report[way]["whole_lines_right"] <= 1 and 0 <= report[way]["words_right"] <= 1
    assert report["by_gaps"]["words_right"] > report["by_lengths_alone"]["words_right"]
    assert set(report["ms_by_words_in_a_line"]) == {"2", "8", "32"} and report["ms_a_line_median"] > 0


def test_the_error_of_a_word_is_that_of_its_worse_end():
    line = np.zeros((20, 200, 3), np.uint8)
    spans, truth = np.array([[0.0, 0.4], [0.5, 1.0]]), np.array([[0.0, 0.3], [0.52, 0.99]])
    assert words.errors(spans, truth, line) == pytest.approx([1.0, 0.2])  # 20 and 4 pixels of 20
    assert words.by_lengths(["aa", "aa"]).ravel() == pytest.approx([0, 1.1 / 2.5, 1.4 / 2.5, 1])
