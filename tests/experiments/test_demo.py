"""Which folders the demo fills; what it runs there is left out."""

import pytest

from experiments import demo
from utils.errors import DataError


class Begun(Exception):
    """Raised in place of the first command."""


@pytest.fixture(autouse=True)
def no_commands(monkeypatch):
    def begin(*words, capture=False):
        raise Begun

    monkeypatch.setattr(demo, "python", begin)


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path):
    """Also one with a data/ in it, as a demo has it."""
    own = tmp_path / "mine/data/detection/train/labels/a.txt"
    own.parent.mkdir(parents=True)
    own.write_text("labelled by hand")
    with pytest.raises(DataError, match="mine: is not empty, and no demo made it .* another --out"):
        demo.main(["--out", str(tmp_path / "mine"), "--quick"])
    assert own.read_text() == "labelled by hand" and len(list((tmp_path / "mine").iterdir())) == 1


def test_a_new_folder_an_empty_one_and_one_of_its_own_are_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        for _ in range(2):  # the second time over what an interrupted demo left
            with pytest.raises(Begun):
                demo.main(["--out", str(tmp_path / name), "--quick"])
            (tmp_path / name / "data").mkdir(exist_ok=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file/below"):
        with pytest.raises(DataError, match="file"):
            demo.main(["--out", str(path), "--quick"])
    assert (tmp_path / "file").read_text() == "mine"
