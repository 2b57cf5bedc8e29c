"""The benchmarks of monitors and cache run, and what they print fits together."""

import json

from benchmarks import cache, monitors


def test_monitors_print_one_report(capsys):
    monitors.main(["--side", "64", "--batch-size", "1", "--seconds", "0.01", "--rounds", "2", "--device", "cpu"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(report["overhead_share_of_each_round"]) == 2 and report["count_us_per_step"] > 0
    assert report["overhead_share"] >= 1e-6 * report["count_us_per_step"] / report["step_s"] * 0.999


def test_cache_prints_every_kind(capsys, monkeypatch):
    monkeypatch.setattr(cache, "SIDE", 64)
    monkeypatch.setattr(cache, "MOST_EPOCHS", 2)
    cache.main(["--pages", "2", "--workers", "0", "--rounds", "1"])
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    for kind in cache.KINDS:
        found = report[kind]
        assert found["without_s"] > 0 and found["hot_gain"] > 0 and found["spent_share"] >= 0 and found["line"]
        low, high = found["cold_cost_interval"]
        assert -1 < low <= found["cold_cost"] <= high
        assert found["noise_interval"][0] <= found["noise"] <= found["noise_interval"][1]
