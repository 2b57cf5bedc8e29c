"""Splits by group: seeded, written once, used ever after; and the same through each script's index."""

import json
import random
import shutil
import unicodedata
from argparse import Namespace
from collections import defaultdict
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import detection, recognition, segmentation, yolo
from datasets.splits import (SPLITS, assign, find_splits, group_files, needs_split, read_splits, read_table,
                             splits_to_read)
from utils.args import add_data_flags, new_parser
from utils.errors import DataError
from utils.images import save_image

NAMES = [f"doc{document}_page{page}.png" for document in range(12) for page in range(3)]


def flags(folder: Path, *given, seed=7, no_preflight=False) -> Namespace:
    parser = new_parser("")
    add_data_flags(parser, "detection")
    args = parser.parse_args(["--data-dir", str(folder), *given])
    args.seed, args.no_preflight = seed, no_preflight
    return args


def by_document(names):
    return {name: name.split("_")[0] for name in names}


# ---- the rule


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=3, max_size=30), st.integers(0, 1000), st.randoms(use_true_random=False))
def test_groups_stay_whole_whatever_their_sizes_and_order(sizes, seed, shuffler: random.Random):
    groups = {f"{group}_{number}": f"g{group}" for group, size in enumerate(sizes) for number in range(size)}
    splits = assign(groups, {}, (0.8, 0.1, 0.1), seed, set(groups))
    assert splits.keys() == groups.keys() and set(splits.values()) == set(SPLITS)
    of_group = defaultdict(set)
    for file, group in groups.items():
        of_group[group].add(splits[file])
    assert all(len(found) == 1 for found in of_group.values())
    mixed = list(groups.items())
    shuffler.shuffle(mixed)
    assert assign(dict(mixed), {}, (0.8, 0.1, 0.1), seed, set(groups)) == splits


def test_shares_and_seeds():
    groups = {str(i): str(i) for i in range(200)}
    splits = [assign(groups, {}, (0.8, 0.1, 0.1), seed, set(groups)) for seed in (0, 1)]
    assert splits[0] != splits[1]
    for found in splits:
        assert [list(found.values()).count(name) for name in SPLITS] == [160, 20, 20]
    assert set(assign(groups, {}, (0.9, 0.1, 0), 0, set(groups)).values()) == {"train", "val"}


def test_too_few_groups():
    with pytest.raises(DataError, match="2 groups cannot fill 3 splits"):
        assign({"a": "x", "b": "x", "c": "y"}, {}, (0.8, 0.1, 0.1), 0, set("abc"))
    with pytest.raises(DataError) as error:
        assign({"a": "x", "b": "x"}, {}, (0.9, 0.1, 0), 0, set("ab"))
    assert "1 group cannot fill 2 splits (train, val): " in str(error.value) and "test" not in str(error.value)


@pytest.mark.parametrize("regex, expected", [(r"^(.+)_page", by_document(NAMES)), (r"doc\d+", by_document(NAMES))])
def test_a_regex_names_groups_by_its_first_group_or_by_the_whole_match(tmp_path, regex, expected):
    assert group_files(tmp_path, NAMES, regex) == expected


def test_files_that_no_group_covers_are_named(tmp_path):
    with pytest.raises(DataError, match="--group-regex doc: gives 1 of 3 files no group, first other.png"):
        group_files(tmp_path, ["doc1.png", "doc2.png", "other.png"], "doc")
    with pytest.raises(DataError, match="gives 1 of 1 files no group"):
        group_files(tmp_path, ["doc1.png"], "doc(x)?")
    (tmp_path / "groups.tsv").write_text("file\tgroup\na.png\tone\n")
    assert group_files(tmp_path, ["a.png"], None) == {"a.png": "one"}
    with pytest.raises(DataError, match="groups.tsv: gives 1 of 2 files no group, first b.png"):
        group_files(tmp_path, ["a.png", "b.png"], None)


# ---- the file


def test_written_once_and_used_ever_after(tmp_path, capsys):
    args = flags(tmp_path, "--group-regex", "^(doc.+?)_")
    first = find_splits(args, set(NAMES))
    assert "train" in capsys.readouterr().out
    table, rule = read_table(tmp_path / "splits.tsv")
    assert table == first and rule == {"group_regex": "^(doc.+?)_", "fractions": [0.8, 0.1, 0.1], "seed": 7}
    written = (tmp_path / "splits.tsv").read_bytes()
    assert find_splits(flags(tmp_path, seed=8), set(reversed(NAMES))) == first  # another seed is another training
    assert (tmp_path / "splits.tsv").read_bytes() == written
    assert "a group of its own" not in capsys.readouterr().err
    for given, word in ((["--group-regex", "doc"], "regex"), (["--split-fractions", "0.5,0.3,0.2"], "fractions")):
        with pytest.raises(DataError, match=f"splits.tsv: was made with another .*{word}"):
            find_splits(flags(tmp_path, *given), set(NAMES))


def test_new_pages_of_an_old_document_come_to_it(tmp_path, capsys):
    args = flags(tmp_path, "--group-regex", "^(.+)_")
    first = find_splits(args, set(NAMES))
    more = {*NAMES, *(f"doc{document}_page9.png" for document in range(12)), "doc99_page0.png"} - {NAMES[0]}
    capsys.readouterr()
    second = find_splits(flags(tmp_path), more)
    assert "13 files were new" in capsys.readouterr().out
    assert all(second[name] == first[name] for name in NAMES[1:])
    assert all(second[f"doc{d}_page9.png"] == first[f"doc{d}_page1.png"] for d in range(12))
    assert read_table(tmp_path / "splits.tsv")[0][NAMES[0]] == first[NAMES[0]]  # a file may come back


def test_a_file_by_hand_and_what_is_wrong_with_others(tmp_path, capsys):
    place = tmp_path / "splits.tsv"
    place.write_text("file\tsplit\na.png\ttrain\nb.png\tval\n")
    assert find_splits(flags(tmp_path), {"a.png", "b.png"}) == {"a.png": "train", "b.png": "val"}
    assert not capsys.readouterr().err
    for content, words in (("a.png\ttrain\nb.png\tdev\n", "dev is no split"),
                           ("a.png train\n", "line 1: is not FILE, tab"),
                           ("a.png\ttrain\na.png\tval\n", "line 2: names a.png a second time"),
                           ("# {]\na.png\ttrain\n", "line 1: does not hold the settings")):
        place.write_text(content)
        with pytest.raises(DataError, match=words):
            find_splits(flags(tmp_path), {"a.png", "b.png"})
    place.write_text("a1.png\ttrain\na2.png\tval\n")
    with pytest.raises(DataError, match=r"a1.png \(train\) and a2.png \(val\) are of one group, a"):
        find_splits(flags(tmp_path, "--group-regex", "^."), {"a1.png", "a2.png"})


def test_files_without_groups_are_warned_about_each_time(tmp_path, capsys):
    for _ in range(2):
        find_splits(flags(tmp_path), set(NAMES))
        assert "each file is a group of its own" in capsys.readouterr().err


def test_a_split_that_is_kept_elsewhere(tmp_path):
    (tmp_path / "data").mkdir()
    found = find_splits(flags(tmp_path / "data", "--split-file", str(tmp_path / "mine.tsv")), set(NAMES))
    assert read_table(tmp_path / "mine.tsv")[0] == found and not list((tmp_path / "data").iterdir())


def test_korean_names_that_a_mac_took_apart(tmp_path):
    names = {f"영수증{i}.png" for i in range(6)}
    found = find_splits(flags(tmp_path), names)
    parts = [Namespace(path=Path(unicodedata.normalize("NFD", name))) for name in names]
    (tmp_path / "images").mkdir()
    split = read_splits(flags(tmp_path), lambda folder, bad: parts, SPLITS)
    assert {unicodedata.normalize("NFC", item.path.name): name for name in SPLITS for item in split[name]} == found


@pytest.mark.parametrize("text", ["0.8,0.2", "0.8,0.1,0.2", "1,0,0", "0,0.5,0.5", "a,b,c", "0.9,0.2,-0.1"])
def test_shares_that_are_none(tmp_path, text):
    with pytest.raises(SystemExit):
        flags(tmp_path, "--split-fractions", text)


def test_a_regex_that_is_none(tmp_path):
    with pytest.raises(SystemExit):
        flags(tmp_path, "--group-regex", "(")


# ---- through the index of each task


def write_pages(folder: Path, count: int = 12) -> Path:
    """Undivided pages with labels for detection, masks, words and marks; documents of two pages."""
    rng = np.random.default_rng(0)
    for number in range(count):
        name = f"d{number // 2}-{number}"
        image = rng.integers(0, 255, (40, 60, 3), np.uint8)
        save_image(folder / "images" / f"{name}.png", image)
        save_image(folder / "masks" / f"{name}.png", (image[..., 0] > 250).astype(np.uint8) * 255)
        (folder / "labels").mkdir(exist_ok=True)
        (folder / "labels" / f"{name}.txt").write_text("5,5,40,5,40,20,5,20,text\n5,25,40,25,40,38,5,38,more\n")
    return folder


def documents(paths) -> set[str]:
    return {path.name.split("-")[0] for path in paths}


@pytest.mark.parametrize("read, attribute, count", [
    (detection.read_split, "path", 12), (recognition.read_split, "path", 24), (segmentation.read_split, "image", 12)])
def test_every_index_can_be_split(tmp_path, read, attribute, count):
    folder = write_pages(tmp_path)
    args = flags(folder, "--group-regex", "^(d.+)-", "--split-fractions", "0.5,0.25,0.25")
    assert needs_split(folder) and splits_to_read(args) == SPLITS
    parts = read_splits(args, read, SPLITS, attrgetter(attribute))
    assert sum(map(len, parts.values())) == count
    groups = [documents(getattr(item, attribute) for item in part) for part in parts.values()]
    assert all(groups) and sum(map(len, groups)) == len(set.union(*groups)) == 6
    again = read_splits(flags(folder), read, ("val",), attrgetter(attribute))["val"]
    assert list(map(attrgetter(attribute), again)) == list(map(attrgetter(attribute), parts["val"]))
    with pytest.raises(DataError, match="gives no file to dev"):
        read_splits(flags(folder), read, ("dev",), attrgetter(attribute))


def test_words_with_a_table(tmp_path):
    for number in range(9):
        save_image(tmp_path / "images" / f"{number}.png", np.full((8, 20), number, np.uint8))
    (tmp_path / "labels.tsv").write_text("".join(f"{number}.png\tword{number}\n" for number in range(9)))
    parts = read_splits(flags(tmp_path), recognition.read_split, SPLITS)
    assert sorted(crop.text for part in parts.values() for crop in part) == [f"word{n}" for n in range(9)]
    assert all(parts.values())


def test_marks_whose_data_yaml_names_no_split(tmp_path):
    folder = write_pages(tmp_path)
    for label in (folder / "labels").iterdir():
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (folder / "data.yaml").write_text("names: [qr]\n")
    args = flags(folder, "--group-regex", "^(d.+)-")
    parts = yolo.read_marks(args, yolo.read_data_yaml(folder))
    assert set(parts) == set(SPLITS) and sum(map(len, parts.values())) == 12
    again = flags(folder / "data.yaml")  # the file itself may be named too
    assert list(map(str, yolo.read_marks(again, yolo.read_data_yaml(again.data_dir), ("test",))["test"])) == \
        list(map(str, parts["test"]))


def test_folders_win_and_flags_about_splitting_are_refused_there(tmp_path):
    folder = write_pages(tmp_path / "pages")
    for name in ("train", "val"):
        shutil.copytree(folder, tmp_path / "split" / name)
    args = flags(tmp_path / "split")
    assert not needs_split(args.data_dir) and splits_to_read(args) == ("train", "val")
    assert len(read_splits(args, detection.read_split)["val"]) == 12 and not (args.data_dir / "splits.tsv").exists()
    with pytest.raises(DataError, match="is split already; --split-fractions is for an undivided folder"):
        read_splits(flags(tmp_path / "split", "--split-fractions", "0.5,0.3,0.2"), detection.read_split)
    with pytest.raises(DataError, match="test: no such folder"):
        read_splits(args, detection.read_split, ("test",))
    with pytest.raises(DataError, match="python -m datasets.synthetic"):
        read_splits(flags(tmp_path / "nowhere"), detection.read_split)


def test_a_folder_that_is_neither_divided_nor_undivided(tmp_path):
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/letter.pdf").write_bytes(b"%PDF")
    for name, reason in (("pages", "pages/train: no such folder; .*pages must hold train/, val/ and test/, or images/ to be"),
                         ("nowhere", "nowhere: no such folder")):
        with pytest.raises(DataError, match=reason):
            read_splits(flags(tmp_path / name, "--group-regex", "^(d.+)-"), detection.read_split)
    (tmp_path / "pages/data.yaml").write_text("names: [qr]\n")
    args = flags(tmp_path / "pages", "--group-regex", "^(d.+)-")
    with pytest.raises(DataError, match="data.yaml: has no train: key"):
        yolo.read_marks(args, yolo.read_data_yaml(args.data_dir))


def test_a_training_reads_test_for_its_preflight_only(tmp_path):
    folder = write_pages(tmp_path)
    assert splits_to_read(flags(folder, no_preflight=True)) == ("train", "val")
    assert splits_to_read(flags(folder, "--split-fractions", "0.7,0.3,0")) == ("train", "val")
    read_splits(flags(folder, "--split-fractions", "0.7,0.3,0"), detection.read_split)
    assert json.loads((folder / "splits.tsv").read_text().splitlines()[0][1:])["fractions"] == [0.7, 0.3, 0.0]
    assert splits_to_read(flags(folder)) == ("train", "val")


@pytest.mark.parametrize("divided", [True, False])
def test_an_overfit_check_reads_the_first_of_train_alone(tmp_path, divided):
    write_pages(tmp_path / "train" if divided else tmp_path)
    args = flags(tmp_path, "--overfit", "3")
    assert splits_to_read(args) == ("train",)
    few = read_splits(args, detection.read_split, splits_to_read(args))
    args.overfit = None
    assert few.keys() == {"train"} and len(few["train"]) == 3
    whole = read_splits(args, detection.read_split, ["train"])["train"]
    assert [page.path for page in few["train"]] == [page.path for page in whole][:3] and len(whole) > 3
