"""The stroke benchmark runs, and what it prints fits together."""

import json

from benchmarks import segmentation


def test_it_prints_one_report(capsys):
    segmentation.main("--side 128 --tile 64 --rounds 1 --pages 1".split())
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert set(report) == {"metrics", "postprocessing", "prediction", "data"}
    times = report["metrics"]["ms"]
    assert min(times["all"], times["pixels_and_edges"]) > 0 and 0.01 < report["metrics"]["ink"] < 0.5
    assert [row["side"] for row in report["postprocessing"]] == [128, 256]
    assert {"close", "connect", "straighten", "separate", "plain_closing"} == set(report["postprocessing"][0]["ms"])
    assert set(report["prediction"]["ms"]) == set(report["prediction"]["added_mb"])
    assert all(rate > 0 for rate in report["data"]["samples_per_s"].values())
