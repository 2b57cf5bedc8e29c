"""The benchmarks run, and what they print fits together; how fast anything is, is not asked here."""

import json
import math

import pytest
from runner import last_json, run_module

from benchmarks import data

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
    report = last_json(run_module("benchmarks.loop", "--side", "64", "--batch-size", "2", "--steps", "1",
                                  "--rounds", "1", "--device", "cpu"))
    assert (report["device"], report["side"], report["batch_size"], report["use_amp"]) == ("cpu", 64, 2, False)
    assert len(report["overhead_share_of_each_round"]) == 1
    assert report["overhead_share_median"] == report["overhead_share_of_each_round"][0] > -1
    assert min(report[key] for key in ("bare_s_per_step", "images_per_s", "images_per_s_accumulating_2")) > 0
    # a step of one batch: its time through the loop is the bare one with the overhead on top
    through_loop = report["bare_s_per_step"] * (1 + report["overhead_share_median"])
    assert 2 / report["images_per_s"] == pytest.approx(through_loop)
