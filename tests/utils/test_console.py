"""Scripts whose output nobody reads, or finds no room, or is shown by a console that knows few characters."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SAYING = """
import sys
from pathlib import Path
from utils.errors import DataError, exit_cleanly

def main():
    for number in range(10 if "few" in sys.argv else 20_000):
        print(number, "영수증")
    print("said", file=sys.stderr)
    Path(sys.argv[1]).touch()  # so far it came
    if "fail" in sys.argv:
        raise DataError("bad data")
    if "help" in sys.argv:
        sys.exit(0)

exit_cleanly(main)
"""


def say(command: str, tmp_path, *flags, **environment) -> subprocess.CompletedProcess:
    """`command`, in which PYTHON is a script that prints much and then touches tmp_path/done."""
    python = shlex.join([sys.executable, "-c", SAYING, str(tmp_path / "done"), *flags])
    command = command.replace("PYTHON", python) + '; exit "${PIPESTATUS[0]}"'
    return subprocess.run(["bash", "-c", command], cwd=ROOT, env=os.environ | environment, text=True, capture_output=True,
                          timeout=60)


@pytest.mark.parametrize("flags, status, said", [
    ([], 0, ["said"]), (["help"], 0, ["said"]), (["fail"], 2, ["said", "error: bad data"])])
@pytest.mark.parametrize("command", ["PYTHON | true", "PYTHON | head -c 1 >/dev/null", "PYTHON >&-", "PYTHON | sleep 0.3"])
def test_work_goes_on_when_nobody_listens(command, flags, status, said, tmp_path):
    done = say(command, tmp_path, *flags)
    assert (done.returncode, done.stderr.splitlines()) == (status, said) and (tmp_path / "done").exists()


def test_work_goes_on_unbuffered_as_under_torchrun(tmp_path):
    done = say("PYTHON | head -n 2 >&2", tmp_path, PYTHONUNBUFFERED="1")
    assert done.returncode == 0 and (tmp_path / "done").exists()
    assert sorted(done.stderr.splitlines()) == ["0 영수증", "1 영수증", "said"]


def test_processes_that_share_a_console_write_whole_lines_to_it(tmp_path):
    done = say("(PYTHON & PYTHON & PYTHON & wait)", tmp_path, PYTHONUNBUFFERED="1")
    assert done.returncode == 0 and done.stderr == "said\n" * 3
    assert sorted(done.stdout.splitlines()) == sorted(f"{number} 영수증" for number in range(20_000) for _ in range(3))


@pytest.mark.parametrize("command", ["PYTHON 2>&1 | true", "PYTHON >/dev/null 2>/dev/full", "PYTHON >/dev/null 2>&-"])
def test_work_goes_on_when_nobody_hears_of_errors(command, tmp_path):
    assert say(command, tmp_path).returncode == 0 and (tmp_path / "done").exists()


@pytest.mark.parametrize("flags", [[], ["few"], ["help"], ["few", "help"]])
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
def test_standard_output_on_a_full_disk_is_one_line(flags, tmp_path):
    done = say("PYTHON >/dev/full", tmp_path, *flags)
    errors = [line for line in done.stderr.splitlines() if line != "said"]
    assert errors == ["error: standard output: cannot be written (No space left on device)"] and done.returncode == 2


def test_characters_that_the_console_cannot_show(tmp_path):
    done = say("PYTHON", tmp_path, PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and done.stdout.startswith("0 \\uc601\\uc218\\uc99d\n") and done.stderr == "said\n"
    assert say("PYTHON", tmp_path, PYTHONIOENCODING="utf-8").stdout.startswith("0 영수증\n1 ")
