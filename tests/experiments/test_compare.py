"""Comparing runs: every task's rows, the verdict in words, what differs, and pages that are not the same."""

import argparse
import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments import compare
from experiments.compare_report import _axis, curve_svg
from experiments.compare_runs import TASKS, cause_in_words, changes, pair_rows, read_runs
from utils.bootstrap import Difference
from utils.errors import DataError
from utils.metrics.detection import scores_of_counts
from utils.metrics.marks import mark_scores
from utils.metrics.recognition import count_edits, recognition_scores
from utils.metrics.segmentation import summarise
from utils.test_report import report_test

FACTS = {"Data": "train 9 pages (abc), val 3 pages (def)", "Commit": "1234567", "Device": "x86_64 CPU"}


def detection_row(number, tp, n_pred=10, n_truth=10):
    return {"file": f"/data/val/images/{number:03}.jpg", "tp": tp, "n_pred": n_pred, "n_truth": n_truth}


def write_run(folder, rows, flags=None, facts=None, epochs=None, name="per_image.jsonl"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "args.json").write_text(json.dumps({"lr": 0.001, "seed": 0, "data_dir": "data", "output_dir": str(folder)}
                                                 | (flags or {})))
    (folder / "facts.json").write_text(json.dumps({"task": "x", "facts": FACTS | (facts or {})}))
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    epochs = epochs or [{"epoch": e, "step": 10 * e, "train/loss": 1 / e, "val/hmean": 0.1 * e, "val/f1": 0.1,
                         "val/exact": 0.1, "val/map50_95": 0.1, "train/lr": 0.001, "seconds": 60.0 * e} for e in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in epochs))
    return folder


def two_runs(tmp_path, gains, n=40, **second):
    rng = np.random.default_rng(0)
    base = [int(rng.integers(3, 8)) for _ in range(n)]
    a = write_run(tmp_path / "a", [detection_row(i, tp) for i, tp in enumerate(base)])
    b = write_run(tmp_path / "b", [detection_row(i, int(np.clip(tp + gains(rng), 0, 10))) for i, tp in enumerate(base)],
                  **({"flags": {"lr": 0.002}} | second))
    return a, b


def output(capsys, *arguments):
    compare.main([*map(str, arguments), "--resamples", "300"])
    return capsys.readouterr().out


def test_better_worse_and_not_distinguishable(tmp_path, capsys):
    a, b = two_runs(tmp_path, lambda rng: 1)
    assert "B against A, hmean" in (text := output(capsys, a, b)) and "better, as far as 40 images tell" in text
    assert "worse, as far as 40 images tell" in output(capsys, b, a)
    a, b = two_runs(tmp_path / "n", lambda rng: rng.integers(-2, 3))
    text = output(capsys, a, b)
    needed = int(re.search(r"not distinguishable with 40 images; if it is as large as it looks .*?, about (\d+) would",
                           text)[1])
    assert needed > 40
    assert output(capsys, a, b) == text  # seeded


def test_two_tests_of_one_model_are_compared(tmp_path, capsys):
    rows = [detection_row(number, 5 + number % 3) for number in range(40)]
    for name, gain, flags in (("plain", 0, {"tta": False}), ("tta", 1, {"tta": True}), ("other", 1, {"weights": "o.pt"})):
        args = argparse.Namespace(**({"output_dir": tmp_path / name, "weights": Path("w.pt"), "data_dir": Path("d"),
                                      "split": "test", "tta": False} | flags))
        report_test(args, {"hmean": 0.5}, [row | {"tp": row["tp"] + gain} for row in rows])
    capsys.readouterr()
    text = output(capsys, tmp_path / "plain", tmp_path / "tta", "--html", tmp_path / "page.html")
    assert "better, as far as 40 images tell" in text and "The only recorded difference is --tta" in text
    assert "test_per_image.jsonl" in text and (tmp_path / "page.html").is_file()
    assert "The only recorded difference is Weights" in output(capsys, tmp_path / "plain", tmp_path / "other")
    with pytest.raises(DataError, match="is no run folder .* it holds a test alone"):
        output(capsys, tmp_path / "plain", tmp_path / "other", "--on", "val")
    run = write_run(tmp_path / "run", rows, {"lr": 0.5}, name="test_per_image.jsonl")  # tested in its own folder
    with pytest.raises(DataError, match="holds neither a run .* nor a test with its flags"):
        output(capsys, tmp_path / "plain", run, "--on", "test")
    commit = json.loads((tmp_path / "plain/test_args.json").read_text())["commit"]
    for name in ("run", "twin"):
        write_run(tmp_path / name, rows, name="test_per_image.jsonl")
        flags = {"weights": "w.pt", "data_dir": "d", "split": "test", "tta": name == "twin"}
        (tmp_path / name / "test_args.json").write_text(json.dumps({"flags": flags, "commit": commit}))
    assert "The only recorded difference is --tta" in output(capsys, tmp_path / "run", tmp_path / "twin")
    assert "The only recorded difference is --tta" in output(capsys, tmp_path / "plain", tmp_path / "twin")


def test_the_same_counts_and_a_lone_image_say_nothing(tmp_path, capsys):
    a, b = two_runs(tmp_path, lambda rng: 0)
    assert "not distinguishable with 40 images: the difference is the same whichever" in output(capsys, a, b)
    a, b = two_runs(tmp_path / "one", lambda rng: 2, n=1)
    text = output(capsys, a, b)
    assert "not distinguishable with 1 image" in text and "better" not in text


def test_lower_is_better_for_error_rates():
    found = Difference(0.5, 0.4, -0.15, -0.05, 0.02, 100, 0.95)
    assert compare.verdict_of(found)[0] == "worse" and compare.verdict_of(found, falling=True)[0] == "better"


def test_the_cause_is_named_only_where_one_thing_differs(tmp_path):
    a, b = two_runs(tmp_path, lambda rng: 1)
    runs = read_runs([a, b])
    found = changes(runs)
    assert [(change.kind, change.name, change.values) for change in found] == [("flag", "--lr", ("0.001", "0.002"))]
    assert "The only recorded difference is --lr." in cause_in_words(found, runs)
    write_run(b, runs[1].rows, {"lr": 0.002, "seed": 5}, {"Data": "train 12 pages (fff), val 3 pages (def)"})
    runs = read_runs([a, b])
    found = changes(runs)
    assert [change.name for change in found] == ["--lr", "--seed", "Data"]
    words = cause_in_words(found, runs)
    assert "3 things differ" in words and "cannot be told" in words and "only recorded difference" not in words
    write_run(b, runs[1].rows, {"data_dir": "/elsewhere", "new_switch": False, "num_workers": 7})
    assert changes(read_runs([a, b])) == []  # other folder, same files; a switch that is off; nothing that matters
    write_run(b, runs[1].rows, facts={"Commit": "1234567 with uncommitted changes"})
    runs = read_runs([a, b])
    assert "not committed" in cause_in_words(changes(runs), runs)


def test_another_machine_is_shown_but_no_cause(tmp_path):
    a, b = two_runs(tmp_path, lambda rng: 1, facts={"Device": "H100"})
    runs = read_runs([a, b])
    assert ("machine", "Device") in [(change.kind, change.name) for change in changes(runs)]
    assert "only recorded difference is --lr" in cause_in_words(changes(runs), runs)


def test_other_pages_are_refused_unless_forced(tmp_path, capsys):
    a, b = two_runs(tmp_path, lambda rng: 1)
    rows = read_runs([a, b])[1].rows
    write_run(b, rows[5:] + [detection_row(900 + i, 3) for i in range(3)])
    with pytest.raises(DataError, match="8 images were scored by one of them only.*--force"):
        compare.main([str(a), str(b)])
    text = output(capsys, a, b, "--force")
    assert "compared on the 35 that are alike" in text and "35 images" in text
    write_run(b, [row | {"n_truth": 11} for row in rows])
    with pytest.raises(DataError, match="40 images of the same name have another truth"):
        compare.main([str(a), str(b)])
    write_run(b, [row | {"file": f"/x/{n}.png"} for n, row in enumerate(rows)])
    assert "each is drawn by itself" in output(capsys, a, b, "--force")


def test_the_same_pages_in_another_folder_are_the_same_pages(tmp_path):
    a, b = two_runs(tmp_path, lambda rng: 1)
    rows = read_runs([a, b])[1].rows
    write_run(b, [row | {"file": row["file"].replace("/data", "/mnt/copy")} for row in rows])
    pairs, fault = pair_rows(*read_runs([a, b]))
    assert fault == "" and pairs == [(i, i) for i in range(40)]


@pytest.mark.parametrize("flags, said", [
    (["--resamples", "2"], "--resamples: 2 is not 200 or more"), (["--resamples", "199"], "199 is not 200 or more"),
    (["--html", "b/card.md"], "--html b/card.md must end in .html or .htm")])
def test_flags_that_would_mislead_are_refused(tmp_path, capsys, flags, said):
    a, b = two_runs(tmp_path, lambda rng: 1)
    with pytest.raises(SystemExit) as stopped:
        compare.main([str(a), str(b), *flags])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and said in error and error.count("\n") == 1


def test_other_tasks_and_folders_that_are_no_runs_are_refused(tmp_path):
    a, b = two_runs(tmp_path, lambda rng: 1)
    write_run(b, [{"file": "x", "tp": 1, "fp": 0, "fn": 0, "edge_intersection": 1, "edge_union": 1}])
    with pytest.raises(DataError, match="is a run of segmentation"):
        read_runs([a, b])
    with pytest.raises(DataError, match="is no run folder"):
        read_runs([a, tmp_path])
    with pytest.raises(DataError, match="test_per_image.jsonl: no such file"):
        read_runs([a], "test")
    (b / "per_image.jsonl").write_text('{"file": "x", "half')
    with pytest.raises(DataError, match="not a file of JSON lines"):
        read_runs([a, b])
    with pytest.raises(SystemExit):
        compare.main([str(a), str(a)])


@pytest.mark.parametrize("text", ["[]", "{half", "null", '"a"', "\xff", '{"facts": 1}'])
@pytest.mark.parametrize("name", ["args.json", "facts.json"])
def test_damaged_files_of_a_run_are_named_in_one_line(tmp_path, capsys, name, text):
    a, b = two_runs(tmp_path, lambda rng: 1)
    (b / name).write_bytes(text.encode("latin-1"))
    if (name, text) == ("args.json", '{"facts": 1}'):
        assert read_runs([a, b])  # flags of another version
        return
    with pytest.raises(DataError, match=f"{name}: (cannot be read|is not)"):
        read_runs([a, b])


@pytest.mark.parametrize("text", ["{}", "[]", "{half", '{"flags": {}, "commit": "a"}', '{"flags": 1, "commit": "a"}'])
def test_a_test_without_its_flags_is_one_line(tmp_path, text):
    rows = [detection_row(number, 5) for number in range(9)]
    run = write_run(tmp_path / "run", rows, name="test_per_image.jsonl")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (run / "test_per_image.jsonl").rename(tmp_path / name / "test_per_image.jsonl")
        write_run(run, rows, name="test_per_image.jsonl")
        (tmp_path / name / "test_args.json").write_text(text)
    with pytest.raises(DataError, match="a/test_args.json: holds no flags of a test; .* --test-only"):
        read_runs([tmp_path / "a", tmp_path / "b"])


@pytest.mark.parametrize("text", ["{}", "{half", '{"flags": 1}'])
def test_a_run_with_a_test_without_its_flags_is_one_line(tmp_path, text):
    run = write_run(tmp_path / "run", [detection_row(1, 5)], name="test_per_image.jsonl")
    (run / "test_args.json").write_text(text)
    with pytest.raises(DataError, match="run/test_args.json: holds no flags of a test; .* --test-only"):
        read_runs([run], "test")


def test_tests_are_preferred_where_every_run_has_them(tmp_path, capsys):
    a, b = two_runs(tmp_path, lambda rng: 1)
    write_run(a, [detection_row(i, 9) for i in range(8)], name="test_per_image.jsonl")
    assert read_runs([a, b])[0].source == "per_image.jsonl"
    write_run(b, [detection_row(i, 9) for i in range(8)], name="test_per_image.jsonl")
    assert len(read_runs([a, b])[0].rows) == 8 and len(read_runs([a, b], "val")[0].rows) == 40
    assert "validation, on which" not in output(capsys, a, b)


def sample_rows(task, rng):
    if task == "detection":
        return [detection_row(i, int(rng.integers(3, 9))) for i in range(12)]
    if task == "recognition":
        return [{"file": f"p{i // 3}.png#{i % 3 + 1}", "truth": "abc de", "text": "x"} |
                count_edits("abc de"[: int(rng.integers(3, 7))], "abc de") for i in range(12)]
    if task == "segmentation":
        return [{"file": f"{i}", "tp": int(tp := rng.integers(40, 90)), "fp": int(rng.integers(0, 30)), "fn": int(90 - tp),
                 "edge_intersection": 3, "edge_union": 9} for i in range(12)]
    return [{"file": f"{i}", "truth": [0, 1], "detections": [
        [c, float(rng.random()), "1" * int(k) + "0" * (10 - int(k))] for c, k in zip((0, 1, 1), rng.integers(0, 11, 3))]}
        for i in range(12)]


@pytest.mark.parametrize("task", TASKS)
def test_scores_of_draws_are_those_of_the_metrics(task):
    """Against the task's own function on the repeated rows."""
    rows = sample_rows(task, np.random.default_rng(1))
    slow = {"detection": scores_of_counts, "recognition": recognition_scores, "segmentation": summarise,
            "yolo": lambda some: mark_scores(some, {0: "a", 1: "b"})}[task]
    drawn = np.random.default_rng(2).integers(0, 12, 12)
    expected = slow([rows[i] for i in drawn])
    assert TASKS[task].scorer(rows)(drawn) == pytest.approx({name: expected[name] for name in TASKS[task].shown})
    assert TASKS[task].metric in TASKS[task].shown


@pytest.mark.parametrize("task", TASKS)
def test_every_task_is_compared_into_a_page_that_asks_no_network(task, tmp_path, capsys):
    rng = np.random.default_rng(0)
    a = write_run(tmp_path / "<a>", sample_rows(task, rng))
    b = write_run(tmp_path / "b", sample_rows(task, rng) if task != "segmentation" else sample_rows(task, rng))
    page = tmp_path / "report.html"
    compare.main([str(a), str(b), "--html", str(page), "--resamples", "200", "--force"])
    text = page.read_text(encoding="utf-8")
    assert "<a>" not in text and "&lt;a&gt;" in text
    assert not re.search(r"https?:|src=|href=|<script|@import|url\(", text)
    assert "<h2>Curves</h2>" in text and text.count("<svg") >= 3
    assert "against A" in text and "against A" in capsys.readouterr().out


def test_crops_of_a_page_are_one_image(tmp_path):
    run = read_runs([write_run(tmp_path / "r", sample_rows("recognition", np.random.default_rng(0)))])[0]
    assert len(set(run.images)) == 4 and len(run.rows) == 12


def test_several_comparisons_share_the_false_alarms(tmp_path, capsys):
    a, b = two_runs(tmp_path, lambda rng: 1)
    c = write_run(tmp_path / "c", read_runs([a])[0].rows)
    text = output(capsys, a, b, c)
    assert "97.5 % interval" in text and "C against A" in text


def test_a_curve_with_gaps_and_one_point():
    svg = curve_svg("val/hmean", [("A", [(10, 0.5)]), ("B", [])], [10, None])
    assert svg.count("<circle") == 1 and 'r="5"' in svg
    assert curve_svg("val/x", [("A", [])], [None]) == ""
    for values in ([0.0], [1, 1, 1], [-3e-9, 2e-9], [0, 1616], [0.85, 0.97]):
        axis = _axis(values)
        assert axis[0] <= min(values) + 1e-15 and axis[-1] >= max(values) - 1e-15 and 2 <= len(axis) <= 8
        assert np.allclose(np.diff(axis), np.diff(axis)[0])
