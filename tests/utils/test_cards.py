import re
import subprocess

import pytest

from utils import cards
from utils.cards import (TEMPLATES, check_plan, configuration_block, findings_block, link, markdown_table, results_block,
                         start_card, update_card)
from utils.errors import DataError
from utils.recorded import Finding

TASKS = ("detection", "recognition", "segmentation", "yolo")


@pytest.mark.parametrize("task", TASKS)
def test_templates_have_what_people_copy(task, tmp_path):
    path = tmp_path / "card.md"
    start_card(path, task, "a title", "")
    text = path.read_text(encoding="utf-8")
    assert "{{" not in text
    for part in ("**Date:**", "**Author:**", "**Status:**", "Objective", "Configuration", "**Base:**", "Key overrides",
                 "Full command", "Results", "Findings", "Analysis & Learnings", "Next Steps", "* [ ]"):
        assert part in text
    assert (TEMPLATES / f"{task}.md").is_file()


def test_what_a_person_wrote_is_never_touched(tmp_path):
    path = tmp_path / "card.md"
    start_card(path, "detection", "t", "why")
    text = path.read_text(encoding="utf-8").replace("## 4.", "My own words, 한글 and \\1 too.\n\n## 4.")
    path.write_text(text, encoding="utf-8")
    assert update_card(path, {"status": "* **Status:** Running", "results": "| a |\n\\g<1> \\1"}) == []
    assert update_card(path, {"status": "* **Status:** Completed"}) == []
    after = path.read_text(encoding="utf-8")
    outside = re.compile(r"<!-- docmarks:\w+ -->.*?<!-- docmarks:end -->", re.DOTALL)
    assert outside.sub("", after) == outside.sub("", text)
    assert "Status:** Completed" in after and "Running" not in after and "\\g<1> \\1" in after


def test_a_block_that_was_deleted_is_reported_not_put_back(tmp_path):
    path = tmp_path / "card.md"
    path.write_text("only words\n")
    assert update_card(path, {"results": "x"}) == ["results"] and path.read_text() == "only words\n"


def test_table():
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| :--- | :--- |\n| 1 | 2 |"
    assert markdown_table(["a"], [["x|y"]]).endswith("| x\\|y |")


def test_bytes_outside_the_blocks_stay_as_they_are(tmp_path):
    path = tmp_path / "card.md"
    start_card(path, "yolo", "t", "why")
    own = b"\r\nlatin-1: caf\xe9, Windows' line ends\r\n"
    before = path.read_bytes().replace(b"\n", b"\r\n") + own
    path.write_bytes(b"\xef\xbb\xbf" + before)
    assert update_card(path, {"status": "* **Status:** Running", "findings": "none"}) == []
    after = path.read_bytes()
    assert after.startswith(b"\xef\xbb\xbf<!-- docmarks:card yolo -->\r\n") and after.endswith(own)
    assert b"Running" in after and b"Planned" not in after
    assert update_card(path, {"status": "* **Status:** Running", "findings": "none"}) == []
    assert path.read_bytes() == after


def test_words_behind_a_deleted_marker_are_not_swallowed(tmp_path):
    path = tmp_path / "card.md"
    start_card(path, "detection", "t", "why")
    text = path.read_text().replace("Planned\n<!-- docmarks:end -->", "Planned\nmy words")
    path.write_text(text)
    assert update_card(path, {"status": "x", "results": "y"}) == ["status"]
    assert "my words" in path.read_text() and "## 1. Objective\n\nwhy" in path.read_text()


def test_a_marker_in_what_a_run_writes_does_not_end_its_block(tmp_path):
    path = tmp_path / "card.md"
    start_card(path, "detection", "t", "a <!-- docmarks:end --> b")
    for body in ("<!-- docmarks:end --> longer", "short"):
        assert update_card(path, {"status": body, "configuration": body}) == []
    assert "longer" not in path.read_text() and path.read_text().count("short") == 2


def test_plans_that_a_run_cannot_fill_are_refused(tmp_path):
    path = tmp_path / "plan.md"
    with pytest.raises(DataError, match="experiments.card new --task detection"):
        check_plan(path, "detection", False)
    start_card(path, "yolo", "t", "why")
    with pytest.raises(DataError, match="card for yolo, not for detection"):
        check_plan(path, "detection", False)
    check_plan(path, "yolo", False)
    update_card(path, {"status": "* **Status:** Completed"})
    with pytest.raises(DataError, match="tells of a run already"):
        check_plan(path, "yolo", False)
    check_plan(path, "yolo", True)
    path.write_text("only words")
    with pytest.raises(DataError, match="no block"):
        check_plan(path, "yolo", False)


def test_results_tell_time_throughput_and_memory():
    rows = [{"epoch": 1, "step": 5, "seconds": 30.0, "val/f1": 0.9, "train/loss": 1.0, "train/lr": 1e-3,
             "perf/images_per_s": 10.0, "perf/memory_gb": 1.5},
            {"epoch": 2, "step": 10, "seconds": 180.0, "val/f1": 0.5, "train/loss": 0.5, "train/lr": 1e-4,
             "perf/images_per_s": 20.0, "perf/memory_gb": 2.5}]
    text = results_block(rows, "f1", ["* **Files:** none"])
    assert "| val/f1 | 0.9000 | 0.5000 |" in text and "Best (epoch 1)" in text and "Last (epoch 2)" in text
    assert "3.0 min, 10 steps" in text and "15.0 images a second" in text and "2.50 GB, process and workers" in text
    assert text.endswith("* **Files:** none") and "train/lr" not in text
    on_gpu = [row | {"perf/gpu_memory_gb": 7.0, "perf/gpu_memory_share": 0.5} for row in rows]
    assert "7.00 GB on the GPU (50 % of it)" in results_block(on_gpu, "f1", [])
    assert results_block([], "f1", ["x"]) == "*No epoch has finished yet.*\nx"


def test_blocks_and_links(tmp_path):
    text = configuration_block({}, "the defaults", ["python x.py", "python x.py --resume auto"], {"Data": "d"})
    assert "**Key overrides:** none" in text and "* **Data:** d" in text
    assert "  --lr: 0.1" in configuration_block({"--lr": 0.1}, "the defaults", ["python x.py"], {})
    assert "stands out" in findings_block([])
    assert "* **T:** e\n  * **Try:** a" == findings_block([Finding("T", "e", "a")])
    card = tmp_path / "experiments" / "card.md"
    assert link(tmp_path / "runs" / "a b" / "best.pt", card) == "[../runs/a b/best.pt](../runs/a%20b/best.pt)"
    assert link(tmp_path / "experiments" / "x.md", card, "shown") == "[shown](x.md)"


def test_what_is_no_code_is_no_uncommitted_change(tmp_path, monkeypatch):
    """A new plan, or a folder of scans, changes nothing that a run does."""
    monkeypatch.setattr(cards, "TEMPLATES", tmp_path / "experiments" / "templates")
    cards.TEMPLATES.mkdir(parents=True)
    (tmp_path / "train.py").write_text("")
    assert cards.git_state() == "no git"
    who = ("-c", "user.name=a", "-c", "user.email=a@b.example")
    for words in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "code")):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    committed = cards.git_state()
    assert re.fullmatch("[0-9a-f]+", committed)
    for name in ("experiments/plan.md", "scans/a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    assert cards.git_state() == committed
    (tmp_path / "models" / "new").mkdir(parents=True)
    (tmp_path / "models/new/net.py").write_text("")
    assert cards.git_state() == f"{committed} with uncommitted changes"
    (tmp_path / "models/new/net.py").unlink()
    (tmp_path / "train.py").write_text("other")
    assert cards.git_state() == f"{committed} with uncommitted changes"
