"""The run folder: whole files, a card that tells how it ended, and rows that match the checkpoint."""

import argparse
import json
from types import SimpleNamespace

import pytest
import torch

from utils.checkpoint import save_checkpoint
from utils.errors import DataError
from utils.files import read_jsonl
from utils.test_report import report_test
from utils.tracking import Run, newest_checkpoint


def arguments(folder, **changes):
    values = dict(output_dir=folder, resume=None, overwrite=False, notes="why", device="cpu", patience=2, log_every=1,
                  save_every_steps=None, epochs=5, batch_size=2, limit_batches=None, seed=0, overfit=None)
    return argparse.Namespace(**(values | changes))


class State(SimpleNamespace):
    def state_dict(self):
        names = ("epoch", "batch", "step", "best_score", "best_epoch", "world")
        return self.fields | {"model": {"w": torch.ones(1)}, "progress": {name: getattr(self, name) for name in names}}

    def load_state_dict(self, checkpoint):
        self.__dict__.update(checkpoint["progress"])


def new_state():
    optimizer = SimpleNamespace(param_groups=[{"lr": 0.1}])
    return State(epoch=0, batch=0, step=0, best_score=None, best_epoch=0, seconds=1.0, micro_split=1, bad_steps=0,
                 skipped_steps=0, world=1, optimizer=optimizer, fields={"config": {"encoder": "resnet18", "channels": 64}})


def new_run(args, **network):
    return Run("detection", args, 0, best="hmean", defaults=vars(arguments(None)), facts={"Data": "made"}, **network)


def epochs(run, state, scores):
    for score in scores:
        state.epoch, state.step = state.epoch + 1, state.step + 3
        run.finish_epoch(state, {"loss": 0.5}, {"hmean": score, "n_images": 2}, [{"file": "a", "tp": score}])


def test_best_last_rows_and_patience(tmp_path):
    run, state = new_run(arguments(tmp_path)), new_state()
    with run.recording(state):
        epochs(run, state, [0.3, 0.7, 0.6])
        assert not run.out_of_patience(state)
        epochs(run, state, [0.7])
        assert run.out_of_patience(state)  # an equal score is not a better one
    load = lambda name: torch.load(tmp_path / name, weights_only=True)["progress"]["epoch"]  # noqa: E731
    assert (load("best.pt"), load("last.pt")) == (2, 4)
    assert [row["val/hmean"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0.3, 0.7, 0.6, 0.7]
    assert read_jsonl(tmp_path / "per_image.jsonl") == [{"file": "a", "tp": 0.7}]
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "**Status:** Completed" in card and "Best (epoch 2)" in card and "why" in card
    assert not list(tmp_path.glob("*.tmp"))


def test_the_card_names_what_differs_from_the_defaults(tmp_path):
    new_run(arguments(tmp_path, epochs=7)).close()
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "--epochs: 7" in card and "--batch-size" not in card.split("Full command")[0]


def test_an_error_is_on_the_card(tmp_path):
    run = new_run(arguments(tmp_path))
    with pytest.raises(ValueError), run.recording(new_state()):
        raise ValueError("the disk\nis on fire")
    assert "**Status:** Failed: the disk is on fire" in (tmp_path / "card.md").read_text(encoding="utf-8")


def test_resume_cuts_the_rows_back_to_the_checkpoint(tmp_path):
    run, state = new_run(arguments(tmp_path)), new_state()
    with run.recording(state):
        epochs(run, state, [0.1, 0.2])
    with open(tmp_path / "metrics.jsonl", "a") as file:  # the process was killed between the row and last.pt
        file.write(json.dumps({"epoch": 3, "step": 9, "val/hmean": 0.9}) + "\n")
    again, state = new_run(arguments(tmp_path, resume="auto")), new_state()
    with again.recording(state):
        assert (state.epoch, state.step, state.best_score) == (2, 6, 0.2)
        epochs(again, state, [0.3])
    assert [row["epoch"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 2, 3]


@pytest.mark.parametrize("name, text", [("facts.json", "[]"), ("facts.json", "{half"), ("micro_split.json", '"a"')])
def test_damaged_files_of_a_resumed_run_are_named(tmp_path, name, text):
    run, state = new_run(arguments(tmp_path)), new_state()
    with run.recording(state):
        run.finish_epoch(state, {"loss": 1.0}, {"hmean": 0.5}, [])
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=rf"{name}: (cannot be read|holds no number)"):
        again = new_run(arguments(tmp_path, resume="auto"))
        with again.recording(new_state()):
            pass


def test_what_cannot_be_resumed_leaves_the_run_as_it_was(tmp_path):
    run, state = new_run(arguments(tmp_path), config={"encoder": "resnet18"}), new_state()
    with run.recording(state):
        epochs(run, state, [0.1])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for changes, config, world, said in (({"batch_size": 9}, {"encoder": "resnet34"}, 1, "trained with another encoder"),
                                         ({"overfit": 4}, {}, 1, "overfit check")):
        with pytest.raises(DataError, match=said):
            new_run(arguments(tmp_path, resume="auto", **changes), config=config, world=world)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    new_run(arguments(tmp_path, resume="auto"), config={"encoder": "resnet18"}).close()


def test_a_damaged_last_falls_back_to_best_and_says_so(tmp_path, capsys):
    run, state = new_run(arguments(tmp_path)), new_state()
    with run.recording(state):
        epochs(run, state, [0.5, 0.4])
    (tmp_path / "last.pt").write_bytes((tmp_path / "last.pt").read_bytes()[:200])
    assert newest_checkpoint(tmp_path, "detection")["progress"]["epoch"] == 1
    assert "going on from best.pt" in capsys.readouterr().err
    (tmp_path / "best.pt").unlink()
    with pytest.raises(DataError, match="last.pt"):
        newest_checkpoint(tmp_path, "detection")


def test_a_folder_with_a_run_is_refused_and_overwrite_removes_only_the_run(tmp_path):
    (tmp_path / "card.md").write_text("x")
    with pytest.raises(DataError, match="already holds"):
        new_run(arguments(tmp_path))
    (tmp_path / "my_notes.md").write_text("mine")
    new_run(arguments(tmp_path, overwrite=True)).close()
    assert (tmp_path / "my_notes.md").read_text() == "mine"


def test_a_changed_batch_size_within_an_epoch_is_refused(tmp_path):
    run, state = new_run(arguments(tmp_path)), new_state()
    state.batch = 3
    run.save(state, "last.pt")
    run.close()
    with pytest.raises(DataError, match="same --batch-size .2."):
        new_run(arguments(tmp_path, resume="auto", batch_size=4))


def test_another_network_is_refused(tmp_path):
    run, state = new_run(arguments(tmp_path)), new_state()
    run.save(state, "last.pt")
    run.close()
    with pytest.raises(DataError, match="another channels; --init-from"):
        new_run(arguments(tmp_path, resume="auto"), config=state.fields["config"] | {"channels": 128})


def test_a_run_goes_on_in_its_own_folder(tmp_path):
    run, state = new_run(arguments(tmp_path / "a")), new_state()
    run.save(state, "last.pt")
    run.close()
    with pytest.raises(DataError, match="its own folder"):
        new_run(arguments(tmp_path / "b", resume=str(tmp_path / "a" / "last.pt")))
    again = new_run(arguments(None, resume=str(tmp_path / "a" / "last.pt")))
    assert again.folder == tmp_path / "a"
    again.close()


def test_restarts_need_a_folder_they_can_find_again(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(DataError, match="needs --output-dir"):
        new_run(arguments(None))


def test_another_number_of_processes_is_refused_within_an_epoch(tmp_path):
    run, state = new_run(arguments(tmp_path)), new_state()
    state.batch, state.world = 3, 2
    run.save(state, "last.pt")
    run.close()
    with pytest.raises(DataError, match="by 2 processes"):
        new_run(arguments(tmp_path, resume="auto"))
    new_run(arguments(tmp_path, resume="auto"), world=2).close()


def test_bad_batches_and_memory_are_remembered(tmp_path):
    run, state = new_run(arguments(tmp_path)), new_state()
    for state.bad_steps in (1, 2, 3, 4):
        run.keep_bad_batch(state, [{"image": torch.ones(2), "file": ["a", "b"], "page": object()}])
    run.keep_micro_split(4)
    run.close()
    assert len(list(tmp_path.glob("bad_batch_*.pt"))) == 3
    again, state = new_run(arguments(tmp_path, resume="auto")), new_state()
    with again.recording(state):
        assert state.micro_split == 4
        epochs(again, state, [0.1])


def test_report_is_one_json_line_and_a_file(tmp_path, capsys):
    weights = tmp_path / "w.pt"
    save_checkpoint(weights, {"task": "detection"})
    report_test(argparse.Namespace(output_dir=None, weights=weights), {"hmean": 0.5}, [{"file": "영수증"}])
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"hmean": 0.5}
    assert json.loads((tmp_path / "test_metrics.json").read_text()) == {"hmean": 0.5}
    assert read_jsonl(tmp_path / "test_per_image.jsonl") == [{"file": "영수증"}]


def curve(folder, tag):
    """[(step, value)] of all event files, in the order they were written."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
    from tensorboard.util.tensor_util import make_ndarray
    files = sorted((folder / "tensorboard").glob("events.*"), key=lambda path: path.stat().st_mtime)
    return [(event.step, float(make_ndarray(value.tensor))) for path in files for event in EventFileLoader(str(path)).Load()
            for value in event.summary.value if value.tag == tag]


def test_the_schedule_is_drawn_before_the_first_step_and_goes_on_after_a_resume(tmp_path, capsys):
    def start(schedule, **changes):
        run, state = new_run(arguments(tmp_path, lr=0.5, **changes)), new_state()
        state.schedule, state.total_steps = schedule, 15
        with run.recording(state):
            found = curve(tmp_path, "schedule/lr")
            epochs(run, state, [0.5] if changes else [0.3, 0.4])
        return found

    drawn = start(lambda step: 1 - step / 15)
    assert drawn == [(step, pytest.approx(0.5 * (1 - step / 15), abs=1e-6)) for step in range(15)]
    out = capsys.readouterr().out
    assert "learning rate: first 0.5, highest 0.5, last 0.0333 over 15 steps" in out and "does not decay" not in out
    again = start(lambda step: 1.0, resume="auto")  # resumed at step 6, with another schedule
    assert again == drawn + [(step, 0.5) for step in range(6, 15)]
    assert "does not decay" in capsys.readouterr().out
