"""Flags of all training scripts: values that are refused before anything starts."""

import argparse
import subprocess
import sys

import pytest

from utils.args import add_run_flags, seed


def test_flags_are_read_without_torch():
    """datasets.synthetic and its processes start in a tenth of the time that it takes to import."""
    code = "import sys, utils.args, datasets.synthetic; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_seed_is_what_every_generator_takes():
    assert seed("0") == 0 and seed("4294967295") == 2**32 - 1
    for text in ("99999999999999", "4294967296", "-1"):
        with pytest.raises(argparse.ArgumentTypeError, match=f"{text} is not 0 to 4294967295"):
            seed(text)


def test_the_scripts_refuse_another_one(capsys):
    parser = argparse.ArgumentParser()
    add_run_flags(parser, "yolo")
    with pytest.raises(SystemExit):
        parser.parse_args(["--seed", "99999999999999"])
    assert "argument --seed: 99999999999999 is not 0 to 4294967295" in capsys.readouterr().err


@pytest.mark.parametrize("command, name", [(["-m", "experiments.intervals"], "python -m experiments.intervals"),
                                           (["inference.py"], "inference.py")])
def test_usage_errors_name_the_command_as_it_was_typed(command, name):
    done = subprocess.run([sys.executable, *command, "--no-such-flag"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.endswith(f"; {name} --help lists the flags\n")
