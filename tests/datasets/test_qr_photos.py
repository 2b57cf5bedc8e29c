"""Made photographs of QR codes: boxes lie where the modules are, seeds decide everything, and the files train."""

import numpy as np
import pytest
import zxingcpp

from datasets import qr_photos
from datasets.qr_photos import Label, bend_by, decoy, lay, make_photo, placement, qr_label
from datasets.yolo import read_data_yaml
from utils.errors import DataError


def black_box(rng) -> Label:
    """A white label with one black rectangle, whose outline is known."""
    label = qr_label(rng)
    x1, y1 = label.outline.min(0).astype(int)
    x2, y2 = label.outline.max(0).astype(int)
    label.image[...] = 255
    label.image[y1:y2, x1:x2] = 0
    return label


def bounds(dark: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(dark)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])


@pytest.mark.parametrize("seed", range(12))
def test_outline_stays_on_the_modules_bent_and_laid(seed):
    rng = np.random.default_rng(seed)
    label = bend_by(black_box(rng), rng.uniform(0.4, 1.3), rng.uniform(-0.25, 0.25))
    outline = np.concatenate([label.outline.min(0), label.outline.max(0)])
    outline = np.clip(outline, 0, [*label.image.shape[1::-1]] * 2)
    assert np.abs(bounds(label.image[..., 0] < 128) - outline).max() < 2.5
    picture = np.full((640, 640, 3), 200, np.uint8)
    matrix = placement(label, 200, np.array([320, 320]), rng)
    lay(picture, label, matrix)
    points = qr_photos.moved(label.outline, matrix)
    assert np.abs(bounds(picture[..., 0] < 60) - np.concatenate([points.min(0), points.max(0)])).max() < 3


def test_codes_are_read_where_their_boxes_are_and_decoys_are_not():
    found = 0
    for seed in range(20):
        label = qr_label(np.random.default_rng(seed))
        codes = zxingcpp.read_barcodes(label.image, zxingcpp.BarcodeFormat.QRCode)
        if codes:
            corners = [codes[0].position.top_left, codes[0].position.top_right, codes[0].position.bottom_left]
            seen = np.array([[c.x, c.y] for c in corners])
            assert np.abs(seen.min(0) - label.outline.min(0)).max() < 12
            assert np.abs(seen.max(0) - label.outline.max(0)).max() < 12
            found += 1
    assert found >= 14  # scratches and logos spoil some
    for seed in range(10):
        assert not zxingcpp.read_barcodes(decoy(np.random.default_rng(seed)).image, zxingcpp.BarcodeFormat.QRCode)


def test_boxes_are_inside_and_most_pictures_have_codes():
    counts = []
    for seed in range(8):
        image, boxes = make_photo([], np.random.default_rng(seed))
        height, width = image.shape[:2]
        assert image.dtype == np.uint8 and max(height, width) == qr_photos.LONGER_SIDE
        assert (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [width, height]).all() and (boxes[:, 2:] > boxes[:, :2]).all()
        counts.append(len(boxes))
    assert np.mean(np.array(counts) > 0) > 0.7 and max(counts) > 1


def test_same_seed_same_files_whatever_the_workers(tmp_path):
    qr_photos.main(["--out", str(tmp_path / "scenes"), "--images", "2", "--seed", "9"])
    for name, workers in (("a", "1"), ("b", "2")):
        qr_photos.main(["--out", str(tmp_path / name), "--images", "4", "--seed", "3", "--workers", workers,
                        "--backgrounds", str(tmp_path / "scenes" / "train" / "images")])
    files = {name: {p.relative_to(tmp_path / name): p.read_bytes() for p in (tmp_path / name).rglob("*") if p.is_file()}
             for name in "ab"}
    assert files["a"] == files["b"] and len(files["a"]) == 9
    assert read_data_yaml(tmp_path / "a").names == {0: "qr"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "scenes"]


def test_refusals(tmp_path):
    with pytest.raises(DataError, match="is there already"):
        qr_photos.main(["--out", str(tmp_path), "--images", "1"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        qr_photos.main(["--out", str(tmp_path / "new"), "--images", "1", "--backgrounds", str(tmp_path / "empty")])
    assert not (tmp_path / "new").exists()
    with pytest.raises(SystemExit):
        qr_photos.parse_args(["--out", "x", "--images", "0"])
