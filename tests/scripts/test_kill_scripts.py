"""Each plain-PyTorch script, killed by SIGKILL at random moments and resumed, ends bit for bit as if it had never been."""

import random
import shutil
import signal
import time

import pytest
from runner import equal, outcome
from tiny import FLAGS, SHARED, Starter, make_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny") / "data"
    make_data(folder)
    return folder


@pytest.fixture(scope="module")
def starter():
    starter = Starter()
    yield starter
    starter.close()


def survive(task: str, kills: int, data, folder, starter, moments: random.Random, workers=(0,)) -> None:
    def start(name, kill_after=None, more=""):
        return starter.start(task, f"{FLAGS[task]} {SHARED} --data-dir {data / task} --output-dir {folder / name} {more} "
                                   f"--num-workers {moments.choice(workers)}", kill_after)

    begun = time.monotonic()
    assert start("straight") == 0
    seconds, expected = time.monotonic() - begun, outcome(folder / "straight")
    done = resumed = 0
    while done < kills or not resumed:
        # On a machine that has become slower all kills may come before the first checkpoint: later ones follow.
        moment = moments.uniform(0.1, 0.7) if done < kills else moments.uniform(0.7, 1.5)
        status = start("killed", moment * seconds, "--resume auto")
        assert status in (0, -signal.SIGKILL)
        done += status != 0
        resumed += status != 0 and (folder / "killed" / "last.pt").is_file()
        if status == 0:  # it got to its end before it was killed
            assert equal(outcome(folder / "killed"), expected)
            shutil.rmtree(folder / "killed")
    assert start("killed", more="--resume auto") == 0
    assert equal(outcome(folder / "killed"), expected)


@pytest.mark.parametrize("task", FLAGS)
def test_three_kills_change_nothing(task, data, starter, tmp_path):
    survive(task, 3, data, tmp_path, starter, random.Random(1))


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", FLAGS)
def test_many_kills_with_any_number_of_workers_change_nothing(task, data, starter, tmp_path):
    survive(task, 40, data, tmp_path, starter, random.Random(2), workers=(0, 0, 1, 2))
