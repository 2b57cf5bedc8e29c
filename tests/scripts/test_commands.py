"""The commands that people have in their notes and in the README, held word for word."""

import importlib
import re
import shlex

import pytest
from runner import ROOT, run_module, run_script

from experiments.demo import TRAININGS
from utils.errors import DataError

USERS = [
    "train_detection.py --encoder resnet34 --decoder pan --optimizer adam --lr 1e-3 --weight-decay 1e-4 --batch-size 4 "
    "--epochs 29 --accumulation-steps 1 --gradient-clip-max-norm 5.0 --seed 42 --box-thresh 0.3",
    "train_recognition.py --batch-size 448 --use-amp --epochs 20",
    "train_segmentation.py --img-height 1536 --img-width 1536 --batch-size 1 --accumulation-steps 2 --lr 2e-4 "
    "--epochs 150 --patience 15 --use-amp --gradient-clip-max-norm 1.0 --output-dir models-ultra-high-res",
    "train_segmentation.py --img-height 1280 --img-width 1280 --batch-size 2 --lr 2e-4 --epochs 150 --patience 15 "
    "--use-amp --output-dir models-high-res-1280",
    "train_yolo.py --epochs 60 --batch-size 16 --img-size 1024 --freeze 10",
    "inference.py --source test_images/ --output results/ --conf 0.15 --group-dist 50 --group-iou 0.2",
]
TRAINING = ("train_detection", "train_recognition", "train_segmentation", "train_yolo")


@pytest.mark.parametrize("command", USERS, ids=lambda c: c[:40])
def test_the_users_commands_are_understood_and_say_what_is_missing(command, tmp_path, monkeypatch):
    """In an empty folder each gets as far as its data: the flags are known, and the error names the way out."""
    monkeypatch.chdir(tmp_path)
    script, *flags = shlex.split(command)
    module = importlib.import_module(script.removesuffix(".py"))
    with pytest.raises(DataError) as error:
        module.main(flags)
    expected = "test_images" if script == "inference.py" else "python -m datasets.synthetic"
    assert expected in str(error.value) and not list(tmp_path.iterdir())


def test_the_users_commands_stand_in_the_readme():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    for command in USERS[:3] + USERS[4:]:
        assert command in readme, command


@pytest.mark.parametrize("script", TRAINING)
def test_docstring_commands_are_understood(script):
    """The commands that each script's --help begins with."""
    module = importlib.import_module(script)
    commands = re.findall(rf"^ +python {script}\.py (.*)$", module.__doc__, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        module.parse_args(shlex.split(command))


@pytest.mark.parametrize("script", TRAINING)
def test_a_flag_is_the_same_word_everywhere(script):
    flags = {option for action in importlib.import_module(script).make_parser()._actions
             for option in action.option_strings if option.startswith("--")}
    shared = {"--data-dir", "--split", "--output-dir", "--epochs", "--batch-size", "--optimizer", "--patience", "--use-amp",
              "--num-workers", "--seed", "--deterministic", "--device", "--resume", "--overwrite", "--test-only",
              "--weights", "--limit-batches", "--log-every", "--no-preflight", "--notes", "--max-bad-fraction"}
    assert shared <= flags and all(re.fullmatch(r"--[a-z0-9-]+", flag) for flag in flags)


def test_help_is_worth_reading():
    said = run_script("train_detection", "--help").stdout
    assert "python train_detection.py" in said and "training:" in said and "(default: 100)" in said


@pytest.mark.parametrize("training", TRAININGS, ids=lambda t: t.task)
def test_the_demos_flags_are_understood(training):
    module = importlib.import_module(training.script.removesuffix(".py"))
    for flags in (training.flags, training.quick):
        module.parse_args([*shlex.split(f"{training.model} {flags}"), *map(str, training.start)])


def test_the_readmes_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text(encoding="utf-8")):
        assert target.startswith("http") or (ROOT / target).exists(), target


def test_the_users_recognition_command_runs_on_made_pages(tmp_path):
    """As the README has it, but for the number of steps and the size of the network."""
    made = tmp_path / "data"
    run_module("datasets.synthetic", "--out", made, "--pages", "6", "--size", "600x840", "--splits", "0.6,0.2,0.2")
    run_script("train_recognition", "--batch-size", "448", "--use-amp", "--epochs", "1", "--data-dir",
               made / "recognition", "--output-dir", tmp_path / "run", "--arch", "parseq-ti", "--limit-batches", "1",
               "--batch-size", "8", "--perm-num", "2")
