import re

import pytest

from utils.cards import TEMPLATES, markdown_table, start_card, update_card

TASKS = ("detection", "recognition", "segmentation", "yolo")


@pytest.mark.parametrize("task", TASKS)
def test_templates_have_what_people_copy(task, tmp_path):
    path = tmp_path / "card.md"
    start_card(path, task, "a title", "")
    text = path.read_text(encoding="utf-8")
    assert "{{" not in text
    for part in ("**Date:**", "**Author:**", "**Status:**", "Objective", "Configuration", "**Base:**", "Key overrides",
                 "Full command", "Results", "Analysis & Learnings", "Next Steps", "* [ ]"):
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
