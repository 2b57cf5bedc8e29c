"""Reading from picture to text, against hand-made results."""

import json

import cv2
import numpy as np
import pytest

from experiments import end_to_end
from utils.errors import DataError


def square(x: int, y: int, width: int = 40) -> list[list[int]]:
    return [[x, y], [x + width, y], [x + width, y + 20], [x, y + 20]]


def make(folder, found: list[tuple[list, str | None]]):
    """A page with TOTAL, 1.00, "A B" and a place nobody is asked to read; what was found on it."""
    for part in ("images", "labels"):
        (folder / "data" / "test" / part).mkdir(parents=True)
    cv2.imwrite(str(folder / "data/test/images/a.png"), np.full((200, 200, 3), 255, np.uint8))
    lines = [(square(10, 10), "TOTAL"), (square(100, 10), "1.00"), (square(10, 60), "A B"), (square(100, 60), "###")]
    (folder / "data/test/labels/a.txt").write_text(
        "\n".join(",".join(map(str, [*np.ravel(points), text])) for points, text in lines))
    (folder / "results").mkdir()
    (folder / "results/results.json").write_text(json.dumps({"documents": [{"source": "a.png", "output": "a.json"}]}))
    text = [{"polygon": points, "text": text} for points, text in found]
    (folder / "results/a.json").write_text(json.dumps({"source": "a.png", "pages": [{"text": text}]}))
    return [str(folder / "results"), "--data-dir", str(folder / "data")]


def test_lines_count_where_boxes_overlap_and_every_character_is_right(tmp_path, capsys):
    flags = make(tmp_path, [(square(10, 12), "total"), (square(125, 10), "1.60"), (square(12, 60), "AB"),
                            (square(100, 60), "noise"), (square(10, 150), "nothing"), (square(100, 10), "1.00")])
    end_to_end.main(flags)
    out, error = capsys.readouterr()
    assert error.startswith("warning: of 1 image only")
    said = json.loads(out.splitlines()[-1])
    assert said["n_lines"] == 3 and said["n_images"] == 1
    # 1.60 covers too little of its line: a false alarm, as the box on nothing is
    assert said["recall"][0] == 1 and said["precision"][0] == pytest.approx(3 / 5)
    assert said["exact"][0] == 1


@pytest.mark.parametrize("rotation", [0, 90, 180, 270, None])
def test_pages_that_were_turned_are_compared_where_their_labels_are(tmp_path, capsys, rotation):
    """The labels' page is 200 pixels wide and 300 high; the reader has turned it clockwise."""
    flags = make(tmp_path, [])
    cv2.imwrite(str(tmp_path / "data/test/images/a.png"), np.full((300, 200, 3), 255, np.uint8))
    turned = {0: lambda x, y: [x, y], 90: lambda x, y: [300 - y, x], 180: lambda x, y: [200 - x, 300 - y],
              270: lambda x, y: [y, 200 - x]}[rotation or 0]
    lines = [{"polygon": [turned(x, y) for x, y in points], "text": text}
             for points, text in ((square(10, 10), "TOTAL"), (square(100, 10), "1.00"), (square(10, 60), "A B"))]
    width, height = (300, 200) if rotation in (90, 270) else (200, 300)
    page = {"rotation": rotation, "width": width, "height": height, "text": lines}
    (tmp_path / "results/a.json").write_text(json.dumps({"source": "a.png", "pages": [page]}))
    end_to_end.main(flags)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exact"][0] == 1


def test_nothing_found_is_nothing_read(tmp_path, capsys):
    end_to_end.main(make(tmp_path, []))
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exact"] == [0, 0, 0]
    (tmp_path / "second").mkdir()
    end_to_end.main(make(tmp_path / "second", [(square(10, 10), None), (square(100, 26), "1.00")]))  # unread; too low
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["recall"][0] == pytest.approx(1 / 3) and said["exact"][0] == 0


@pytest.mark.parametrize("text", ["{}", "[]", "{half", '{"documents": 1}'])
def test_results_that_are_none_are_named_in_one_line(tmp_path, text):
    flags = make(tmp_path, [])
    (tmp_path / "results/results.json").write_text(text)
    with pytest.raises(DataError, match=r"results\.json: (cannot be read|lists no documents)"):
        end_to_end.main(flags)


def test_pages_without_results_are_named(tmp_path):
    flags = make(tmp_path, [])
    (tmp_path / "results/results.json").write_text(json.dumps({"documents": []}))
    with pytest.raises(DataError, match="has nothing of 1 of 1 pages, such as a.png"):
        end_to_end.main(flags)
    (tmp_path / "results/results.json").unlink()
    with pytest.raises(DataError, match="results.json: no such file; python inference.py --source"):
        end_to_end.main(flags)
