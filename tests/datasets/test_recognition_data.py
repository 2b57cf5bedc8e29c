import unicodedata
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from datasets.augment_recognition import OPERATIONS, augment_crop
from datasets.crop_table import CropTable
from datasets.detection import Page
from datasets.recognition import (Crop, RecognitionDataset, WidthEpochBatches, WidthEveryBatch, fit_labels, page_crops,
                                  read_split)
from utils.charset import Charset, build_charset
from utils.errors import DataError
from utils.text_crops import bucket_width, resize_crop, stack_crops, turn_left, turn_right


def write_words(folder: Path, words: list[str], table: str | None = None) -> Path:
    (folder / "images").mkdir(parents=True)
    for number, word in enumerate(words):
        image = np.full((32, 16 * max(len(word), 1), 3), 255, np.uint8)
        cv2.putText(image, word, (2, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2)
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    lines = "".join(f"{number}.png\t{word}\n" for number, word in enumerate(words))
    (folder / "labels.tsv").write_text(lines if table is None else table, encoding="utf-8")
    return folder


# ---- the index


def test_words_and_their_table(tmp_path):
    nfd = unicodedata.normalize("NFD", "é")
    folder = write_words(tmp_path, ["one", "a"], f"\ufeff0.png\tone, two\tthree\r\n\n1.png\t {nfd} \n")
    crops = read_split(folder, 0.0)
    assert [crop.text for crop in crops] == ["one, two\tthree", "é"]
    assert (crops[0].height, crops[0].width) == (32, 48) and crops[0].name == str(folder / "images" / "0.png")


@pytest.mark.parametrize("table, words", [
    ("0.png\ta\n", r"1.png: has no line in labels.tsv"),
    ("0.png\ta\n1.png\tb\n2.png\tc\n", r"2.png: no such file"),
    ("0.png a\n1.png\tb\n", r"labels.tsv line 1: has no tab"),
    ("0.png\ta\n1.png\tb\n0.png\tc\n", r"line 3: labels 0.png a second time"),
    ("", r"0.png: has no line"),
])
def test_bad_tables_are_refused(tmp_path, table, words):
    folder = write_words(tmp_path, ["a", "b"], table)
    with pytest.raises(DataError, match=words):
        read_split(folder, 0.01)


def test_a_bad_share_under_the_limit_is_left_out_and_told(tmp_path, capsys):
    folder = write_words(tmp_path, list("abcde"))
    (folder / "images" / "2.png").write_bytes(b"no image")
    assert [crop.text for crop in read_split(folder, 0.2)] == ["a", "b", "d", "e"]
    assert "2.png: not a readable image" in capsys.readouterr().err
    with pytest.raises(DataError, match="2.png"):
        read_split(folder, 0.19)


def test_neither_layout_and_bad_bytes(tmp_path):
    (tmp_path / "images").mkdir()
    with pytest.raises(DataError, match="neither labels.tsv"):
        read_split(tmp_path, 0.0)
    (tmp_path / "labels.tsv").write_bytes(b"a.png\t\xff\n")
    with pytest.raises(DataError, match="not UTF-8"):
        read_split(tmp_path, 0.0)


def write_page(folder: Path) -> np.ndarray:
    """A page of noise with coloured boxes: an upright line, one on its side, one tilted, one to leave out, one without area."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    page = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    cv2.imwrite(str(folder / "images" / "p.png"), page[:, :, ::-1])
    lines = ["10,20,110,20,110,50,10,50,Total, 10", "200,20,230,20,230,120,200,120,side",
             "20,150,32,150,32,180,20,180,1", "50,100,100,120,92,140,42,120,tilt", "10,60,60,60,60,80,10,80,###",
             "5,5,5,5,5,5,5,5,none"]
    (folder / "labels" / "p.txt").write_text("\n".join(lines), encoding="utf-8")
    return page


def test_crops_straight_from_detection_data(tmp_path):
    page = write_page(tmp_path)
    *crops, nothing = read_split(tmp_path, 0.0)
    assert [crop.text for crop in crops] == ["Total, 10", "side", "1", "tilt"]
    assert [crop.degenerate for crop in (*crops, nothing)] == [False] * 4 + [True]
    table = fit_labels("train", [*crops, nothing], build_charset("data"), 25)
    assert table.kept == crops and table.degenerate == 1 and "0 empty, 1 without area; longest" in str(table)
    assert [crop.turned for crop in crops] == [False, True, False, False]  # one character may be high
    assert crops[1].name.endswith("p.png#2")
    total, side, one, tilt = (crop.load() for crop in crops)
    np.testing.assert_allclose(total.astype(int), page[20:50, 10:110], atol=1)
    np.testing.assert_allclose(side.astype(int), np.rot90(page[20:120, 200:230]), atol=1)
    assert one.shape == (30, 12, 3)
    for crop, image in zip(crops, (total, side, one, tilt)):
        expected = (crop.width, crop.height) if crop.turned else (crop.height, crop.width)
        assert image.shape[:2] == expected  # the index knows the size without opening the page
        assert crop.width_at(32, 64) == resize_crop(image, 32, 64).shape[1]


def test_the_corner_order_of_a_label_tells_its_direction():
    """A line that runs down the page, its corners given from its own top left: the crop is upright, not turned."""
    down = np.float32([[60, 10], [60, 90], [40, 90], [40, 10]])
    crop, = page_crops(Page(Path("p.png"), 100, 100, [down], ["text"]))
    assert (crop.height, crop.width, crop.turned) == (20, 80, False)
    anticlockwise = np.float32([[10, 10], [10, 30], [90, 30], [90, 10]])
    crop, = page_crops(Page(Path("p.png"), 100, 100, [anticlockwise], ["text"]))
    assert (crop.height, crop.width) == (20, 80) and crop.quad[:2] == (10, 10)


# ---- labels against a charset


def make_crops(texts: list[str]) -> list[Crop]:
    return [Crop(Path(f"{i}.png"), text, 32, 100) for i, text in enumerate(texts)]


def test_no_label_vanishes_without_a_word():
    table = fit_labels("train", make_crops(["ab", "aé", "éé", "", "abcdef", "b", "éabcdef"]), Charset("abcdef"), 5)
    assert [crop.text for crop in table.kept] == ["ab", "b"]
    assert [crop.text for crop in table.unfit] == ["aé", "éé", "abcdef", "éabcdef"]
    assert table.unknown == Counter({"é": 3})
    assert str(table) == ("train: 2 kept, 3 with unknown characters (é (U+00E9 LATIN SMALL LETTER E WITH ACUTE) in 3), "
                          "1 too long, 1 empty; longest label 7")
    with pytest.raises(DataError, match="--charset that holds them, --max-label-length 7"):
        table.settle(0.7)
    table.settle(0.72)


def frames_of(table):
    """One for every 4 pixels of a crop as wide as it is."""
    return table.widths // 4


def test_labels_longer_than_their_ctc_frames_are_named_and_not_learnt_by_ctc_alone():
    crops = [Crop(Path(f"{i}.png"), text, 32, 12) for i, text in enumerate(["abc", "abb", "aab", "bbb", "ab", "", "abcé"])]
    alone = fit_labels("train", crops, Charset("abc"), 5, frames_of)
    assert [crop.text for crop in alone.kept] == ["abc", "ab"]  # two b side by side want a blank between them
    assert [crop.text for crop in alone.unfit] == ["abb", "aab", "bbb", "abcé"] and alone.beyond_ctc == 3
    assert str(alone) == ("train: 2 kept, 1 with unknown characters (é (U+00E9 LATIN SMALL LETTER E WITH ACUTE) in 1), "
                          "0 too long, 3 with more characters than CTC frames, 1 empty; longest label 4")
    with pytest.raises(DataError, match="a larger --img-width"):
        alone.settle(0.1)
    helped = fit_labels("train", crops, Charset("abc"), 5, frames_of, ctc_alone=False)
    assert [crop.text for crop in helped.kept] == ["abc", "abb", "aab", "bbb", "ab"] and helped.beyond_ctc == 3
    assert "1 empty, 3 kept with more characters than CTC frames, for the decoder alone; longest" in str(helped)
    assert (alone + alone).beyond_ctc == (helped + helped).beyond_ctc == 6


@pytest.mark.parametrize("block", [1, 3, 1000])
def test_repeats_are_counted_within_each_text(monkeypatch, block):
    monkeypatch.setattr("datasets.crop_table.BLOCK", block)
    table = CropTable.of(make_crops(["aab", "", "b", "bb", "가가가", "abab", "a"]))
    assert table.repeats.tolist() == [1, 0, 0, 1, 2, 0, 0]
    assert (table[::-1] + table[:1]).repeats.tolist() == [0, 0, 2, 1, 0, 0, 1, 1]
    assert CropTable.of([]).repeats.tolist() == []


def test_a_test_is_told_what_helps_a_test():
    table = fit_labels("test", make_crops(["ab", "aé"]), Charset("ab"), 5)
    with pytest.raises(DataError, match="cannot be read by these weights; raise --max-bad-fraction") as error:
        table.settle(0.1, learning=False)
    assert "--charset" not in str(error.value) and "--max-label-length" not in str(error.value)
    table.settle(0.5, learning=False)


def test_a_split_of_which_nothing_is_left_is_refused():
    with pytest.raises(DataError, match="0 kept"):
        fit_labels("val", make_crops(["é"]), Charset("a"), 5).settle(1.0)


# ---- samples and batches


def make_dataset(tmp_path, training: bool, seed: int = 0) -> RecognitionDataset:
    words = ["one", "a", "longer words", "two"]
    crops = read_split(write_words(tmp_path / f"{training}{seed}", words), 0.0)
    return RecognitionDataset(crops, build_charset("data", words), 32, 64, 16, seed, training)


def test_a_training_batch(tmp_path):
    dataset = make_dataset(tmp_path, True)
    batch = dataset.collate([dataset[(0, index)] for index in range(4)])
    assert batch["image"].shape == (4, 3, 32, 64) and batch["image"].dtype == torch.float32
    assert batch["width"].tolist() == [48, 16, 64, 48] and dataset.widths.tolist() == [48, 16, 64, 48]
    assert batch["image"].abs().max() <= 1 and (batch["image"][1, :, :, 16:] == 0).all()
    charset = dataset.charset
    assert batch["tokens"].shape == (4, 14)
    for row, text in zip(batch["tokens"].tolist(), batch["text"]):
        assert row[0] == charset.bos and charset.decode(row[1:]) == text
        assert set(row[len(text) + 2 :]) <= {charset.pad}


def test_samples_depend_on_seed_epoch_and_index_alone(tmp_path):
    dataset, other = make_dataset(tmp_path, True), make_dataset(tmp_path, True, seed=1)
    same = [np.array_equal(dataset[(e, 2)]["crop"], dataset[(e, 2)]["crop"]) for e in range(6)]
    assert all(same)
    assert any(not np.array_equal(dataset[(0, 2)]["crop"], dataset[(e, 2)]["crop"]) for e in range(1, 6))
    assert any(not np.array_equal(dataset[(e, 2)]["crop"], other[(e, 2)]["crop"]) for e in range(6))


def test_evaluation_sees_the_picture_as_it_is(tmp_path):
    dataset = make_dataset(tmp_path, False)
    sample = dataset[(3, 0)]
    assert np.array_equal(sample["crop"], cv2.imread(sample["file"])[:, :, ::-1])
    assert "tokens" not in dataset.collate([sample])


def test_every_operation_keeps_shape_and_type_and_does_something():
    rng = np.random.default_rng(0)
    smooth = cv2.GaussianBlur(rng.integers(20, 230, (32, 200, 3), np.uint8), (0, 0), 3)
    for size in ((32, 200), (1, 1), (3, 400), (40, 10)):
        crop = np.ascontiguousarray(cv2.resize(smooth, size[::-1]))
        kept = crop.copy()
        for operation in OPERATIONS:
            changed = operation(crop, np.random.default_rng(1))
            assert changed.shape == crop.shape and changed.dtype == np.uint8, operation
            assert np.array_equal(crop, kept), operation
            assert size != (32, 200) or not np.array_equal(changed, crop), operation
        for seed in range(20):
            assert augment_crop(crop, np.random.default_rng(seed)).shape == crop.shape


def test_a_long_line_stays_in_its_crop():
    line = np.full((32, 800, 3), 255, np.uint8)
    line[12:20, 20:780] = 0
    for operation in OPERATIONS:
        if operation.__name__ in ("rotate", "shear_y", "translate_x", "translate_y"):
            changed = operation(line, np.random.default_rng(0))
            assert (changed[:, 30:770] < 64).any(axis=(0, 2)).all(), operation  # ink in every column


# ---- batches of like width


def test_epoch_batches_hold_every_sample_once_and_like_widths():
    widths = np.random.default_rng(0).integers(8, 512, 1003)
    batches = WidthEpochBatches(lambda epoch: widths, 20, seed=3)
    batches.set_position(2)
    keys = list(batches)
    assert len(keys) == len(batches) == 51 and len(keys[-1]) == 3
    assert sorted(index for batch in keys for _, index in batch) == list(range(1003))
    assert {epoch for batch in keys for epoch, _ in batch} == {2}
    spread = np.mean([np.ptp(widths[[i for _, i in batch]]) for batch in keys[:-1]])
    assert spread < 40
    assert np.corrcoef([widths[batch[0][1]] for batch in keys[:-1]], range(50))[0, 1] < 0.5  # not from short to long
    assert list(batches) == keys
    batches.set_position(2, 7)
    assert list(batches) == keys[7:]
    batches.set_position(3)
    assert list(batches) != keys


@pytest.mark.parametrize("size", [64, 65, 83])
def test_ranks_share_the_batches_of_one_process(size):
    widths = np.random.default_rng(0).integers(8, 512, size)
    whole = list(WidthEpochBatches(lambda epoch: widths, 8, seed=0))
    ranks = [WidthEpochBatches(lambda epoch: widths, 4, 0, rank, 2) for rank in range(2)]
    for number, (one, *split) in enumerate(zip(whole, *ranks, strict=True)):
        assert all(split)
        assert sorted(one) == sorted(key for r, part in zip(ranks, split) if number not in r.fillers() for key in part)


def test_evaluation_batches_hold_every_sample_once():
    widths = np.random.default_rng(0).integers(8, 512, 103)
    for world in (1, 2, 3):
        keys = [key for rank in range(world) for batch in WidthEveryBatch(widths, 10, rank, world) for key in batch]
        assert sorted(keys) == [(0, index) for index in range(103)]
    assert len(list(WidthEveryBatch(widths, 10))) == len(WidthEveryBatch(widths, 10)) == 11
    assert list(WidthEveryBatch(widths[:1], 10, 1, 2)) == []


# ---- crops


def test_resizing_keeps_the_aspect_ratio_up_to_the_limit():
    for height, width, expected in ((16, 20, 40), (64, 20, 10), (10, 400, 128), (32, 1, 1), (100, 1, 1)):
        crop = np.full((height, width, 3), 77, np.uint8)
        resized = resize_crop(crop, 32, 128)
        assert resized.shape == (32, expected, 3) and (resized == 77).all()


def test_turns():
    crop = np.arange(6, dtype=np.uint8).reshape(3, 2, 1).repeat(3, 2)  # 0 1 / 2 3 / 4 5
    assert turn_left(crop)[:, :, 0].tolist() == [[1, 3, 5], [0, 2, 4]]
    assert turn_right(crop)[:, :, 0].tolist() == [[4, 2, 0], [5, 3, 1]]


def test_buckets_and_padding():
    assert [bucket_width(w, 64, 200) for w in (1, 64, 65, 128, 129, 199, 200)] == [64, 64, 128, 128, 192, 200, 200]
    images, widths = stack_crops([np.full((32, 10, 3), 255, np.uint8), np.zeros((32, 70, 3), np.uint8)], 64, 200)
    assert images.shape == (2, 3, 32, 128) and widths.tolist() == [10, 70]
    assert (images[0, :, :, :10] == 1).all() and (images[1, :, :, :70] == -1).all()
    assert (images[0, :, :, 10:] == 0).all()


def test_without_augmentation_training_sees_what_evaluation_sees(tmp_path):
    words = ["one", "longer words"]
    crops, charset = read_split(write_words(tmp_path, words), 0.0), build_charset("data", words)
    learnt = RecognitionDataset(crops, charset, 12, 64, 16, 0, True, augment=False)  # crops are over twice as high
    shown = RecognitionDataset(crops, charset, 12, 64, 16, 0, False)
    for index in range(2):
        samples = [learnt[(epoch, index)] for epoch in range(4)]
        assert all(np.array_equal(sample["crop"], shown[(0, index)]["crop"]) for sample in samples)
        assert charset.decode(samples[0]["tokens"][1:]) == words[index]


@pytest.mark.parametrize("label", ["a b", " a  b ", "a\u3000b", "a\u00a0 b\t", "\ta\u2003b"])
def test_a_label_holds_a_gap_as_one_space_as_it_will_be_read(label):
    crop = Crop(Path("a.png"), label, 32, 100)
    assert crop.text == "a b" and crop.label == label
    assert Crop(Path("a.png"), "a\tb", 32, 100).text == "a\tb"  # three columns in a table of two: named as unknown
