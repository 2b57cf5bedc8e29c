"""check_masks on drawn pages: missing labels and merged strokes are counted and shown, good masks are not blamed."""

import json

import cv2
import numpy as np
import pytest

from datasets import check_masks
from datasets.segmentation import StrokePage
from utils.drawing import text_tile
from utils.errors import DataError


def drawn():
    """(mask (200, 300) uint8 of 0 and 255): a straight line, a squiggle, and two lines five pixels apart."""
    mask = np.zeros((200, 300), np.uint8)
    cv2.line(mask, (20, 20), (280, 30), 255, 2)
    x = np.arange(20, 280)
    cv2.polylines(mask, [np.stack([x, 80 + 20 * np.sin(x / 12)], 1).astype(np.int32)], False, 255, 2)
    for y in (150, 158):
        cv2.line(mask, (20, y), (280, y), 255, 2)
    return mask


def page(folder, mask, seen=None, name="a"):
    rng = np.random.default_rng(0)
    paper = np.where((drawn() if seen is None else seen)[..., None] > 0, 70, 220) + rng.normal(0, 4, (200, 300, 3))
    for part, array in (("images", np.clip(paper, 0, 255).astype(np.uint8)), ("masks", mask)):
        (folder / part).mkdir(exist_ok=True, parents=True)
        cv2.imwrite(str(folder / part / f"{name}.png"), array)
    return StrokePage(folder / "images" / f"{name}.png", folder / "masks" / f"{name}.png")


def test_good_masks_are_not_blamed(tmp_path):
    counts, findings = check_masks.check_page(page(tmp_path, drawn()))
    assert counts["curved_seen"] == counts["curved_labelled"] >= 1
    assert counts["straight_seen"] == counts["straight_labelled"] >= 3
    assert counts["close_pairs_seen"] == 1 and counts["close_pairs_merged"] == 0 and not findings


def test_a_squiggle_without_a_label_is_found(tmp_path):
    mask = drawn()
    mask[50:110] = 0
    counts, findings = check_masks.check_page(page(tmp_path, mask))
    assert counts["curved_labelled"] < counts["curved_seen"] and counts["straight_labelled"] == counts["straight_seen"]
    assert {finding.kind for finding in findings} == {"curved stroke without a label"}
    assert 50 < findings[0].centre[1] < 110
    red = (check_masks.picture_of(findings[0]) == (225, 30, 40)).all(2)
    assert red[:, 160:].sum() > 100 and not red[:, :160].any()


def test_what_runs_to_the_border_or_all_along_the_page_is_no_stroke(tmp_path):
    seen = drawn()
    cv2.rectangle(seen, (8, 8), (291, 191), 255, 3)  # the frame of a board
    cv2.line(seen, (0, 130), (60, 130), 255, 2)  # and what comes in from beside the page
    for y, x in ((0, 0), (0, 285), (185, 0), (185, 285), (0, 100), (185, 200), (100, 285)):
        seen[y : y + 15, x : x + 15] = 0  # the frame is seen in parts
    counts, findings = check_masks.check_page(page(tmp_path, drawn(), seen))
    assert counts == check_masks.check_page(page(tmp_path / "plain", drawn()))[0] and not findings


def test_qr_codes_are_no_strokes(tmp_path):
    code = cv2.QRCodeEncoder.create().encode("https://example.org/some/page")
    seen = np.zeros((200, 300), np.uint8)
    code = np.kron(code == 0, np.ones((4, 4), np.uint8)) * 255
    seen[20 : 20 + len(code), 30 : 30 + len(code)] = code
    cv2.line(seen, (180, 60), (280, 70), 255, 2)
    counts, findings = check_masks.check_page(page(tmp_path, np.where(np.arange(300) > 170, seen, 0).astype(np.uint8), seen))
    assert counts["straight_seen"] == counts["straight_labelled"] == 1 and counts["curved_seen"] == 0 and not findings


def test_empty_full_and_inverted_masks_are_named(tmp_path, capsys):
    blank, mask = np.zeros((200, 300), np.uint8), drawn()
    for name, some in (("a", mask), ("b", blank), ("c", blank + 255), ("d", 255 - mask)):
        page(tmp_path / "train", some, name=name)
    check_masks.main([str(tmp_path / "train")])
    lines = [line for line in capsys.readouterr().out.splitlines() if "masks" in line and not line.startswith("{")]
    assert [line.split("masks/")[1].split(";")[0] for line in lines] == [
        "b.png: is empty", "c.png: is all ink", "d.png: covers more than half of the page"]


def test_strokes_that_grow_together_in_the_mask_are_found(tmp_path):
    mask = drawn()
    mask[150:158, 140:160] = 255
    counts, findings = check_masks.check_page(page(tmp_path, mask))
    assert (counts["close_pairs_seen"], counts["close_pairs_merged"]) == (1, 1)
    assert [finding.kind for finding in findings] == ["merged strokes"]


def test_empty_pages_and_masks(tmp_path):
    blank = np.zeros((200, 300), np.uint8)
    counts, findings = check_masks.check_page(page(tmp_path, blank, seen=blank))
    assert not any(counts.values()) and not findings
    counts, findings = check_masks.check_page(page(tmp_path, blank))
    assert counts["straight_labelled"] == counts["curved_labelled"] == 0 < counts["straight_seen"] and findings


def test_the_command_writes_its_table_and_sheet(tmp_path, capsys):
    mask = drawn()
    mask[50:110] = 0
    page(tmp_path / "train", mask)
    page(tmp_path / "train", drawn(), name="b")
    check_masks.main([str(tmp_path / "train"), "--worst", "2"])
    out = capsys.readouterr().out
    report = json.loads(out.splitlines()[-1])
    assert report["pages"] == 2 and "close strokes: 0 of 2 pairs" in out
    rows = (tmp_path / "train_check" / "check.tsv").read_text().splitlines()
    assert len(rows) == 3 and rows[1].startswith("a.png\t")
    sheet = cv2.imread(str(tmp_path / "train_check" / "check.jpg"))
    assert sheet.shape == (160, 960, 3)
    name = 255 - text_tile("a.png", check_masks.CAPTION, 312)
    strip = sheet[: name.shape[0], 4 : 4 + name.shape[1]].mean(2)
    assert np.corrcoef(strip[1:-1].ravel(), name[1:-1].ravel())[0, 1] > 0.9  # less the frame; JPEG
    with pytest.raises(DataError, match="no such folder"):
        check_masks.main([str(tmp_path / "nowhere")])
