"""--from-run: every flag of every script comes back from args.json, and what is given wins."""

import argparse
import importlib
import json
from pathlib import Path

import pytest

from utils.args import plain_args
from utils.errors import DataError
from utils.lineage import base_of, flags_off, inherited

GIVEN = {
    "train_detection": ["--scale-range", "0.7", "1.3", "--rotate", "-3", "--use-amp", "--lr", "1e-4", "--box-thresh", "0.3",
                        "--data-dir", "my data", "--split-fractions", "0.8,0.2,0", "--group-regex", "^(.+)_[a-z]"],
    "train_recognition": ["--arch", "parseq-ti", "--stem", "conv", "--mix", "made:1", "more:0.5", "--scale-positions"],
    "train_segmentation": ["--ink-levels", "85,170", "--freeze-bn", "--encoder-depth", "4", "--decoder-channels",
                           "128,64,32,16", "--patience", "3", "--oversample", "small_text=3,curves=2"],
    "train_yolo": ["--no-cos-lr", "--freeze", "0", "--lr0", "0.01", "--warmup-bias-lr", "0.001"],
}
OWN_FLAGS = ["--notes", "why", "--resume", "auto", "--output-dir", "out"]


def save(folder: Path, flags: dict) -> Path:
    folder.mkdir()
    (folder / "args.json").write_text(json.dumps(flags))
    return folder


@pytest.fixture(scope="module", params=GIVEN)
def script(request):
    return importlib.import_module(request.param)


def test_flags_come_back_and_given_ones_win(script, tmp_path):
    given = script.parse_args([*GIVEN[script.__name__], *OWN_FLAGS])
    run = save(tmp_path / "parent", plain_args(given))
    child = script.parse_args(["--from-run", str(run), "--seed", "7"])
    expected = json.loads(json.dumps(plain_args(given))) | {
        "seed": 7, "from_run": str(run), "notes": "", "resume": None, "output_dir": None}
    assert json.loads(json.dumps(plain_args(child))) == expected
    assert type(child.data_dir) is type(given.data_dir)
    grandchild = script.parse_args(["--from-run", str(save(tmp_path / "child", plain_args(child)))])
    assert grandchild.seed == 7


def test_a_run_goes_on_with_its_own_flags(script, tmp_path):
    given = script.parse_args([*GIVEN[script.__name__], "--notes", "why"])
    run = save(tmp_path / "run", plain_args(given) | {"of_an_older_version": 3})
    asked = ["--resume", "auto", "--output-dir", str(run)]
    assert script.parse_args([*asked, "--seed", "7"]) == script.parse_args(["--seed", "7", *asked])
    assert script.parse_args(asked).data_dir == script.parse_args([]).data_dir  # it holds no checkpoint: nothing goes on
    (run / "last.pt").touch()
    own = plain_args(given) | {"resume": "auto", "output_dir": str(run)}
    assert plain_args(script.parse_args(asked)) == own
    assert plain_args(script.parse_args([*asked, "--seed", "7"])) == own | {"seed": 7}
    by_path = ["--resume", str(run / "last.pt")]
    assert plain_args(script.parse_args(by_path)) == own | {"resume": by_path[1], "output_dir": None}


def test_what_a_resumed_run_does_not_do_again(tmp_path):
    script = importlib.import_module("train_detection")
    run = save(tmp_path / "run", plain_args(script.parse_args(["--init-from", "gone.pt", "--notes", "why", "--lr", "0.5",
                                                               "--profile", "1:2", "--device", "cuda:7"])))
    (run / "best.pt").touch()
    again = script.parse_args(["--resume", "auto", "--output-dir", str(run)])
    assert again.init_from is None and again.profile is None and (again.lr, again.notes) == (0.5, "why")
    assert again.device == "auto"
    (run / "args.json").write_text("{")
    with pytest.raises(DataError, match="--resume .*cannot be read"):
        script.parse_args(["--resume", "auto", "--output-dir", str(run)])


def test_a_batch_size_that_was_found_is_not_multiplied_by_the_one_that_was_asked_for(tmp_path):
    script = importlib.import_module("train_detection")
    asked = ["--batch-size", "64", "--find-batch-size"]
    stored = plain_args(script.parse_args(asked)) | {"batch_size": 16, "accumulation_steps": 4}
    run = save(tmp_path / "run", stored)
    (run / "last.pt").touch()
    for flags in (["--resume", "auto", "--output-dir", str(run)], ["--from-run", str(run)]):
        again, short = script.parse_args([*asked, *flags]), script.parse_args(flags)
        assert (again.batch_size, again.accumulation_steps) == (64, 1)
        assert (short.batch_size, short.accumulation_steps) == (16, 4)


def test_a_switch_can_be_switched_off_again(script, tmp_path):
    given = script.parse_args(["--use-amp", "--deterministic"])
    run = save(tmp_path / "parent", plain_args(given))
    child = script.parse_args(["--from-run", str(run), "--no-use-amp"])
    assert child.deterministic and not child.use_amp


def test_a_bound_can_be_lifted_again(script, tmp_path):
    run = save(tmp_path / "parent", plain_args(script.parse_args(["--limit-batches", "3"])))
    (run / "last.pt").touch()
    for flags in (["--from-run", str(run)], ["--resume", "auto", "--output-dir", str(run)]):
        assert script.parse_args(flags).limit_batches == 3
        assert script.parse_args([*flags, "--limit-batches", "0"]).limit_batches is None


def test_bad_parents_are_named_in_one_line(script, tmp_path, capsys):
    plain = plain_args(script.parse_args([]))
    for run, said in ((tmp_path / "none", "no such run folder"),
                      (save(tmp_path / "old", plain | {"warp_speed": 9}), "flags that this script does not have: --warp-speed"),
                      (save(tmp_path / "check", plain | {"overfit": 8}), "overfit check"),
                      (save(tmp_path / "list", [1]), "no flags")):
        with pytest.raises(DataError, match=said):
            script.parse_args(["--from-run", str(run)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no args.json"):
        script.parse_args(["--from-run", str(tmp_path / "empty")])
    (tmp_path / "empty" / "args.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read"):
        script.parse_args(["--from-run", str(tmp_path / "empty")])
    run = save(tmp_path / "wrong", plain | {"batch_size": "many"})
    for flags in (["--from-run", str(run)], ["--from-run", str(run), "--test-only", "--weights", "w"],
                  ["--from-run", str(run), "--resume", "last.pt"]):
        with pytest.raises(SystemExit) as stopped:
            script.parse_args(flags)
        assert stopped.value.code == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_what_the_card_compares_with(tmp_path):
    parent = save(tmp_path / "parent", {"lr": 0.1, "scale": [1, 2], "data_dir": "d", "notes": "x"})
    args = argparse.Namespace(from_run=parent, lr=0.2, scale=(1, 2), data_dir=Path("d"), notes="y", new=None)
    words, flags = base_of(args, tmp_path / "cards" / "card.md", {"lr": 9, "new": None})
    assert words == "the flags of its parent, [parent](../parent/card.md)"
    assert flags_off(flags, args) == {"--lr": 0.2}
    (parent / "args.json").unlink()
    words, flags = base_of(args, tmp_path / "card.md", {"lr": 0.2})
    assert "is gone" in words and "--lr" not in flags_off(flags, args)
    args.from_run = None
    assert base_of(args, tmp_path / "card.md", {"lr": 0.2}) == ("the defaults of the training script", {"lr": 0.2})


def test_flags_without_a_value_are_not_repeated(tmp_path):
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", type=int)
    parser.add_argument("--fast", action="store_true")
    parser.add_argument("--turn", type=float, default=0.0)
    run = save(tmp_path / "run", {"limit": None, "fast": True, "turn": -0.5})
    assert inherited(parser, run) == ["--fast", "--turn=-0.5"]


def test_lists_can_be_emptied_again(tmp_path):
    script = importlib.import_module("train_recognition")
    given = script.parse_args(["--data-dir", "d", "--mix", "made:1", "more:1", "--caseless", "more", "--fold", "case"])
    run = save(tmp_path / "parent", plain_args(given))
    child = script.parse_args(["--from-run", str(run), "--mix", "--caseless", "--fold"])
    assert child.mix == child.caseless == child.fold == []
    grandchild = script.parse_args(["--from-run", str(save(tmp_path / "child", plain_args(child)))])
    assert grandchild.mix == grandchild.caseless == grandchild.fold == []
    assert script.parse_args(["--from-run", str(run), "--mix", "--caseless", "--overfit", "4"]).overfit == 4
    assert flags_off(plain_args(given), child)["--mix"] == []
