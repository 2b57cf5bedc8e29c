"""The detection benchmark runs, what it compares is equal, and what it prints fits together; no speed is asked."""

import statistics

import numpy as np
from runner import last_json, run_module

from benchmarks import detection, detection_plain
from models.dbnet import DBNet, DBNetConfig


def test_it_prints_one_report_that_fits_together():
    report = last_json(run_module("benchmarks.detection", "--rounds", "1", "--step-side", "64", "--step-batch", "1",
                                  "--step-rounds", "1", "--pages", "2", "--seconds", "1"))
    assert set(report) == {"rounds", "targets", "targets_of_skewed_quads", "matching", "decode", "growth_ms", "samples",
                           "step"}
    for name in ("targets", "targets_of_skewed_quads", "matching", "decode"):
        part = report[name]
        assert part["times"] == statistics.median(part["times_of_each_round"]) > 0
    for name in ("targets", "targets_of_skewed_quads"):
        assert max(report[name]["mean_difference"].values()) < 1e-3
    assert report["matching"]["equal"] and report["matching"]["boxes"] == 200
    assert report["decode"]["found"] == [300, 300] and report["decode"]["largest_corner_distance"] < 2
    assert report["step"]["overhead_share"] > -1
    for name in ("targets", "decode", "matching"):
        assert set(report["growth_ms"][name]["words"]) == {"10", "100", "1000"}
        assert set(report["growth_ms"][name]["side"]) == {"640", "1280", "2560"}
    assert {"load", "transform", "targets"} <= set(report["samples"]["cpu_ms_per_sample"])
    assert set(report["samples"]["samples_per_s"]) == {"1", "2"}


def test_the_plain_network_is_the_same_network():
    import torch
    torch.manual_seed(0)
    model = DBNet(DBNetConfig("resnet18", "fpn", 16)).train()
    image = torch.randn(2, 3, 64, 64)
    prob, thresh = detection_plain.PlainDBNet(model)(image)
    out = model(image)
    assert torch.allclose(prob, out["prob"], atol=1e-5) and torch.allclose(thresh, out["thresh"], atol=1e-5)
    maps = {name: torch.from_numpy(np.stack([value] * 2)) for name, value in
            detection.make_targets(list(detection.made_quads(4, 64)), [False] * 4, 64, 64).items()}
    ours = detection.train_detection.step(lambda _: out, maps | {"image": image})[0]["loss"]
    assert torch.isclose(ours, detection_plain.loss((prob, thresh), maps), rtol=0.02)  # both images are the same page
