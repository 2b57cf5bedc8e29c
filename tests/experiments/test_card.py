"""python -m experiments.card, and two real runs by way of --card and --from-run."""

import json
import re
import shlex
import subprocess
import sys
from datetime import date

import pytest
from runner import ENVIRONMENT, ROOT, run_module, run_script
from test_train_detection import SMALL, make_pages

from experiments import card
from utils.cards import check_plan
from utils.errors import DataError


def test_a_plan_for_each_task(tmp_path, capsys):
    for task in card.TASKS:
        card.main(["new", "--task", task, "--objective", "  Does   도장 help? ", "--out", str(tmp_path / f"{task}.md")])
        check_plan(tmp_path / f"{task}.md", task, False)
        text = (tmp_path / f"{task}.md").read_text(encoding="utf-8")
        assert "Does 도장 help?" in text and "**Status:** Planned" in text and "{{" not in text
        assert f"--card {tmp_path / task}.md" in capsys.readouterr().out


def test_bad_plans_are_one_line(tmp_path):
    (tmp_path / "there.md").write_text("mine")
    done = run_module("experiments.card", "new", "--task", "yolo", "--objective", "x", "--out", tmp_path / "there.md", status=2)
    assert "is there already" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert (tmp_path / "there.md").read_text() == "mine"
    with pytest.raises(DataError, match="--objective is empty"):
        card.write_plan("yolo", "  ", None, tmp_path / "a.md")
    with pytest.raises(SystemExit):
        card.main(["new", "--task", "yolo"])


def test_the_command_that_is_said_can_be_pasted(tmp_path, capsys):
    plan = tmp_path / "my plan; it's.md"
    command = ["new", "--task", "yolo", "--objective", "x", "--out", str(plan)]
    card.main(command)
    said = capsys.readouterr().out.split("fill it by: ")[1]
    assert shlex.split(said) == ["python", "train_yolo.py", "--card", str(plan), "..."]
    with pytest.raises(DataError) as error:
        card.main(command)
    assert shlex.split(str(error.value).split("fill it by ")[1]) == ["--card", str(plan)]


def test_the_docstring_shows_the_file_that_its_command_writes():
    objective = re.search(r'--objective "(.+?)"', card.__doc__)[1]
    day, name = re.search(r"--card experiments/(\S+?)_(\S+)", card.__doc__).groups()
    assert card.plan_path(objective).name == f"{date.today().isoformat()}_{name}" and len(day) == 10


def test_the_default_place_is_named_by_the_objective():
    path = card.plan_path("Does a box_thresh of 0.3 / 도장 mend the recall?")
    assert path.parent.resolve() == ROOT / "experiments" and path.name.endswith("_does-a-box_thresh-of-0.md")
    assert card.plan_path("../..?").parent == path.parent


def test_a_plan_lies_below_the_current_folder_and_where_is_said(tmp_path):
    command = [sys.executable, "-m", "experiments.card", "new", "--task", "yolo", "--objective", "Does it help?"]
    said = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT | {"PYTHONPATH": str(ROOT)}, text=True,
                          capture_output=True).stdout
    plan, = (tmp_path / "experiments").iterdir()
    assert str(plan) in said and f"--card experiments/{plan.name} " in said


def test_a_planned_run_and_its_child(tmp_path):
    for seed, split in enumerate(("train", "val")):
        make_pages(tmp_path / "data" / split, 3, seed)
    plan = tmp_path / "plan.md"
    card.write_plan("detection", "what does the rate do?", None, plan)
    parent, child = tmp_path / "parent", tmp_path / "child"
    run_script("train_detection", *SMALL, "--data-dir", tmp_path / "data", "--epochs", "1", "--use-amp",
               "--output-dir", parent, "--card", plan)
    text = plan.read_text(encoding="utf-8")
    assert "**Status:** Completed" in text and "what does the rate do?" in text and "[best.pt](parent/best.pt)" in text
    assert "images a second" in text and "**Peak memory:**" in text and "truth scores" in text
    rows = [json.loads(line) for line in (parent / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["val/prob"] > 0 and 0 <= rows[0]["perf/data_wait_share"] <= 1

    run_script("train_detection", "--from-run", parent, "--lr", "3e-4", "--no-use-amp", "--output-dir", child)
    flags = json.loads((child / "args.json").read_text())
    assert flags["lr"] == 3e-4 and flags["pyramid_channels"] == 16 and flags["card"] is None and not flags["use_amp"]
    text = (child / "card.md").read_text(encoding="utf-8")
    changed = text.split("**Key overrides:**")[1].split("**Full command:**")[0]
    assert changed.split() == ["```", "--lr:", "0.0003", "--use-amp:", "False", "```", "*"]
    assert "its parent, [parent](../parent/card.md)" in text
    found = run_module("experiments.card", "findings", child).stdout
    assert all(f"* **{line.split(':')[0]}:**" in text for line in found.splitlines()) and found
