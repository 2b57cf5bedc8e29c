"""Intervals of one run's scores, from the rows that its evaluation left."""

import json

import pytest

from experiments import intervals
from test_compare import detection_row
from utils.errors import DataError


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def last_line(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_pages_that_are_alike_leave_no_doubt_and_others_do(tmp_path, capsys):
    alike = write_rows(tmp_path / "a.jsonl", [detection_row(number, 9) for number in range(20)])
    intervals.main([str(alike)])
    said = last_line(capsys)
    assert said["hmean"] == [pytest.approx(0.9)] * 3 and said["n_images"] == 20 and said["task"] == "detection"
    varied = write_rows(tmp_path / "b.jsonl", [detection_row(number, 10 - 2 * (number % 2)) for number in range(20)])
    intervals.main([str(varied), "--resamples", "500"])
    value, low, high = last_line(capsys)["hmean"]
    assert value == pytest.approx(0.9) and 0.84 < low < 0.88 < 0.92 < high < 0.96
    intervals.main([str(varied), "--only", "/003"])
    assert last_line(capsys)["hmean"] == [pytest.approx(0.8)] * 3


def test_one_class_of_marks_alone(tmp_path, capsys):
    rows = [{"file": f"{number}.jpg", "truth": [0, 2], "detections": [[0, 0.9, "1" * 10], [2, 0.8, "0" * 10]]}
            for number in range(6)]
    file = write_rows(tmp_path / "marks.jsonl", rows)
    found = {}
    for flags in ([], ["--class-id", "0"], ["--class-id", "2"]):
        intervals.main([str(file), *flags])
        found[" ".join(flags)] = last_line(capsys)["map50"][0]
    assert found["--class-id 0"] > 0.99 and found["--class-id 2"] == 0
    assert found[""] == pytest.approx((found["--class-id 0"] + found["--class-id 2"]) / 2)


def test_few_resamples_are_refused(tmp_path, capsys):
    file = write_rows(tmp_path / "a.jsonl", [detection_row(number, 5 + number % 5) for number in range(20)])
    with pytest.raises(SystemExit) as stopped:
        intervals.main([str(file), "--resamples", "1"])
    assert stopped.value.code == 2 and "--resamples: 1 is not 200 or more" in capsys.readouterr().err


def test_few_images_are_warned_of(tmp_path, capsys):
    for count, said in ((1, "warning: of 1 image only"), (19, "warning: of 19 images only"), (20, "")):
        file = write_rows(tmp_path / "a.jsonl", [detection_row(number, 5 + number % 5) for number in range(count)])
        intervals.main([str(file)])
        error = capsys.readouterr().err
        assert error.startswith(said) and error.count("\n") == bool(said)


@pytest.mark.parametrize("flags, message", [(["a.jsonl", "--class-id", "1"], "has no classes"),
                                            (["missing.jsonl"], "missing.jsonl: no such file; a training writes"),
                                            (["a.jsonl", "--only", "signatures/"], "no image's name holds 'signatures/'"),
                                            (["empty.jsonl"], "holds no counts of images")])
def test_refused(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "a.jsonl", [detection_row(1, 9)])
    write_rows(tmp_path / "empty.jsonl", [])
    with pytest.raises(DataError, match=message):
        intervals.main(flags)
