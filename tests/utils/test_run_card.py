"""The card of a run from plan to end, and what TensorBoard is given, by way of utils.tracking.Run."""

import json
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_tracking import arguments, epochs, new_state

from utils.cards import start_card
from utils.errors import DataError
from utils.tracking import Run

BLOCK = re.compile(r"<!-- docmarks:\w+ -->.*?<!-- docmarks:end -->", re.DOTALL)


def run_with(folder, facts=None, **changes):
    args = arguments(folder, **({"card": None, "from_run": None, "num_workers": 0} | changes))
    return Run("detection", args, 0, best="hmean", defaults=vars(arguments(None)), facts=facts or {"Data": "made"},
               numbers={"classes": []})


def text_of(path):
    return path.read_text(encoding="utf-8")


def test_words_written_between_epochs_stay(tmp_path):
    run, state, card = run_with(tmp_path), new_state(), tmp_path / "card.md"
    with run.recording(state):
        epochs(run, state, [0.3])
        text = text_of(card).replace("## 4.", "Looked at page 7: 도장.\n\n## 4.").replace("# Experiment:", "# My title:")
        card.write_text(text.replace("* [ ] **Hypothesis 1:**", "* [x] **Hypothesis 1:**"), encoding="utf-8")
        mine = BLOCK.sub("", text_of(card))
        epochs(run, state, [0.4])
        assert BLOCK.sub("", text_of(card)) == mine and "Last (epoch 2)" in text_of(card)
    after = text_of(card)
    assert BLOCK.sub("", after) == mine and "도장" in mine and "* [x]" in mine
    assert "**Status:** Completed" in after


def test_a_stopped_run_says_by_what_and_where(tmp_path):
    run, state = run_with(tmp_path), new_state()
    with pytest.raises(SystemExit), run.recording(state):
        epochs(run, state, [0.3])
        run.stop_request.number = signal.SIGTERM
        epochs(run, state, [0.4])
    assert "**Status:** Stopped by SIGTERM at epoch 3, step 6" in text_of(tmp_path / "card.md")


def test_patience_and_findings_are_on_card_and_console(tmp_path, capsys):
    run, state = run_with(tmp_path, epochs=9, patience=2), new_state()
    with run.recording(state):
        epochs(run, state, [0.0])
        assert "Scores of exactly 0" not in text_of(tmp_path / "card.md")  # precision and recall are not 0 yet
        for _ in range(2):
            state.epoch, state.step = state.epoch + 1, state.step + 3
            run.finish_epoch(state, {"loss": 0.5}, {"hmean": 0.0, "precision": 0.0, "recall": 0.0},
                             [{"file": "a", "tp": 0, "n_pred": 0, "n_truth": 3}])
        assert run.out_of_patience(state)
    card, console = text_of(tmp_path / "card.md"), capsys.readouterr().out
    assert "**Status:** Completed, stopped by --patience 2 after epoch 3" in card
    assert "* **Scores of exactly 0:** hmean, precision, recall are all 0 in epoch 3\n  * **Try:** `--overfit 8`" in card
    assert "finding: Scores of exactly 0" in console


def test_a_plan_is_filled_where_it_lies(tmp_path):
    plan, folder = tmp_path / "cards" / "plan.md", tmp_path / "runs" / "a"
    start_card(plan, "detection", "t", "my question")
    run, state = run_with(folder, card=plan), new_state()
    with run.recording(state):
        epochs(run, state, [0.3])
    card = text_of(plan)
    assert "my question" in card and "**Status:** Completed" in card
    assert "[best.pt](../runs/a/best.pt)" in card and "[../runs/a](../runs/a)" in card and "--card" not in overrides(card)
    assert text_of(folder / "card.md") == "The card of this run is [../../cards/plan.md](../../cards/plan.md).\n"

    again, state = run_with(folder, resume="auto"), new_state()  # the card need not be named again
    with again.recording(state):
        epochs(again, state, [0.5])
    assert "Last (epoch 2)" in text_of(plan) and "The card of this run" in text_of(folder / "card.md")
    with pytest.raises(DataError, match="tells of a run already"):
        run_with(tmp_path / "runs" / "b", card=plan)
    assert not (tmp_path / "runs" / "b").exists()
    run_with(folder, card=plan, overwrite=True).close()
    assert "**Status:** Running" in text_of(plan)


def overrides(card: str) -> str:
    return card.split("**Key overrides:**")[1].split("**Full command:**")[0]


def test_a_child_names_its_parent_and_only_what_differs(tmp_path):
    run_with(tmp_path / "parent", epochs=7, batch_size=4, notes="first").close()
    run = run_with(tmp_path / "child", from_run=tmp_path / "parent", epochs=7, batch_size=8, notes="second")
    state = new_state()
    with run.recording(state):
        epochs(run, state, [0.3])
    card = text_of(tmp_path / "child" / "card.md")
    assert "the flags of its parent, [parent](../parent/card.md)" in card
    assert overrides(card).split() == ["```", "--batch-size:", "8", "```", "*"]
    again = run_with(tmp_path / "child", resume="auto", epochs=7, batch_size=8)
    again.close()
    assert "the flags of its parent" in text_of(tmp_path / "child" / "card.md")


def test_the_card_of_a_resumed_run_tells_of_all_its_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["train_x.py", "--lr", "1"])
    run, state = run_with(tmp_path, {"Weights": "started from a.pt"}, init_from=Path("a.pt")), new_state()
    with run.recording(state):
        epochs(run, state, [0.3])
    for command, size in (("--resume auto", 8), ("--resume auto", 16), ("--resume auto --epochs 9", 16)):
        monkeypatch.setattr("sys.argv", ["train_x.py", *command.split()])
        again, state = run_with(tmp_path, resume="auto", init_from=None, batch_size=size), new_state()
        with again.recording(state):
            epochs(again, state, [0.5])
    card = text_of(tmp_path / "card.md")
    assert "* **Weights:** started from a.pt" in card and "--init-from: a.pt" in overrides(card)
    assert "  python train_x.py --lr 1\n  python train_x.py --resume auto\n  python train_x.py --resume auto --epochs 9" in card
    assert "* **Changed on the way:** from step 3 on --batch-size 2 -> 8; from step 6 on --batch-size 8 -> 16" in card


def test_a_card_that_is_taken_away_ends_nothing(tmp_path, capsys):
    run, state = run_with(tmp_path), new_state()
    with run.recording(state):
        (tmp_path / "card.md").unlink()
        epochs(run, state, [0.3, 0.4])
    assert capsys.readouterr().err.count("is gone and is not written any more") == 1
    assert not (tmp_path / "card.md").exists() and (tmp_path / "best.pt").is_file()


def test_facts_are_kept_for_later(tmp_path):
    run_with(tmp_path, {"Data": "12 pages"}).close()
    facts = json.loads(text_of(tmp_path / "facts.json"))
    assert (facts["task"], facts["best"], facts["facts"]["Data"]) == ("detection", "hmean", "12 pages")
    assert facts["numbers"]["cpus"] >= 1 and facts["numbers"]["classes"] == []


def test_tensorboard_has_scores_pictures_curves_and_a_sortable_table(tmp_path):
    run, state = run_with(tmp_path, epochs=2), new_state()
    with run.recording(state):
        for score in (0.7, 0.6):
            state.epoch, state.step = state.epoch + 1, state.step + 3
            run.show(state, lambda: [np.zeros((8, 9, 3), np.uint8)] * 2)
            run.finish_epoch(state, {"loss": 0.5}, {"hmean": score, "curve": [(0.3, 0.5, 0.9, 0.6), (0.6, 0.9, 0.5, 0.6)]},
                             [])
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"val/hmean", "table/hmean", "table/minutes"} <= set(events.Tags()["scalars"])
    assert [event.value for event in events.Scalars("table/hmean")] == [pytest.approx(0.7)]
    assert set(events.Tags()["images"]) == {"samples/1", "samples/2", "curves/threshold"}
    table = events.PluginTagToContent("hparams")
    assert {"_hparams_/experiment", "_hparams_/session_start_info", "_hparams_/session_end_info"} <= set(table)
    assert b"batch_size" in table["_hparams_/session_start_info"]


def test_pictures_are_made_now_and_then_only(tmp_path):
    run = run_with(tmp_path, epochs=100)
    due = [epoch for epoch in range(1, 101) if run.wants_pictures(epoch)]
    run.close()
    assert due[0] == 1 and due[-1] == 100 and 15 <= len(due) <= 25
    assert not run.wants_pictures(100)  # closed, as on every rank but the first
