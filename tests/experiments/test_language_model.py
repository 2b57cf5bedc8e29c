"""The command that learns a language from labels."""

import json

import numpy as np
import pytest

from experiments.language_model import main
from models.language import read_arpa
from utils.errors import DataError
from utils.images import save_image
from utils.weights import list_hash, read_hashes


def write_split(folder, labels):
    (folder / "images").mkdir(parents=True)
    for number in range(len(labels)):
        save_image(folder / "images" / f"{number}.png", np.full((20, 60, 3), 200, np.uint8))
    (folder / "labels.tsv").write_text("".join(f"{n}.png\t{text}\n" for n, text in enumerate(labels)), "utf-8")


def run(capsys, *flags):
    main([*map(str, flags)])
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def test_writes_a_model_and_says_how_well_it_foresees(tmp_path, capsys):
    write_split(tmp_path / "data" / "train", ["Total 12", "TOTAL 3", "", "합계 9"])
    out = tmp_path / "w" / "language.arpa.gz"
    out.parent.mkdir()
    found = run(capsys, "--data-dir", tmp_path / "data", "--out", out)
    assert found["labels"] == 3 and found["bytes"] == out.stat().st_size and "val_perplexity" not in found
    assert read_hashes(out.parent) == {}  # no list, nothing listed
    language = read_arpa(out)
    assert language.order == 5 and found["ngrams"][0] == len([gram for gram in language.log10 if len(gram) == 1])
    assert "T" in language.log10 and "t" not in language.log10 and "합" in language.log10
    out.write_bytes(b"older")
    list_hash(out)
    write_split(tmp_path / "data" / "val", ["total 13", "xyz"])
    again = run(capsys, "--data-dir", tmp_path / "data", "--out", out, "--order", 2)
    assert len(again["ngrams"]) == 2 and 1 < again["val_perplexity"] < 30
    assert read_hashes(out.parent)[out.name] != "" and read_arpa(out).order == 2
    from utils.weights import check_hash
    check_hash(out)


def test_lines_cut_from_pages_and_what_nobody_reads(tmp_path, capsys):
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "labels").mkdir()
    save_image(tmp_path / "train" / "images" / "a.png", np.full((90, 90, 3), 200, np.uint8))
    (tmp_path / "train" / "labels" / "a.txt").write_text("1,1,80,1,80,20,1,20,CASH\n1,40,80,40,80,60,1,60,###\n", "utf-8")
    assert run(capsys, "--data-dir", tmp_path, "--out", tmp_path / "l.arpa")["labels"] == 1
    assert "#" not in read_arpa(tmp_path / "l.arpa").log10


def test_nothing_to_learn_from(tmp_path):
    write_split(tmp_path / "train", ["", ""])
    with pytest.raises(DataError, match="train: has no label to learn from"):
        main(["--data-dir", str(tmp_path), "--out", str(tmp_path / "l.arpa")])
    write_split(tmp_path / "b" / "train", ["A"])
    write_split(tmp_path / "b" / "val", [""])
    with pytest.raises(DataError, match="val: has no label to learn from"):
        main(["--data-dir", str(tmp_path / "b"), "--out", str(tmp_path / "l.arpa")])
    assert not (tmp_path / "l.arpa").exists()


def test_several_folders_and_texts(tmp_path, capsys):
    for name, labels in (("a", ["AB"]), ("b", ["CD", "EF"])):
        write_split(tmp_path / name / "train", labels)
    write_split(tmp_path / "b" / "val", ["CD"])
    (tmp_path / "t.txt").write_text("합계\n부가세\n합계 1\n", "utf-8")
    found = run(capsys, "--data-dir", tmp_path / "a", "--data-dir", tmp_path / "b", "--texts", tmp_path / "t.txt",
                "--out", tmp_path / "l.arpa")
    assert (found["labels"], found["texts"]) == (3, 3) and found["val_perplexity"] > 1
    assert {"AB", "CD", "합계", "부가세"} <= read_arpa(tmp_path / "l.arpa").log10.keys()
    only = run(capsys, "--texts", tmp_path / "t.txt", "--out", tmp_path / "l.arpa")
    assert (only["labels"], only["texts"]) == (0, 3) and "A" not in read_arpa(tmp_path / "l.arpa").log10


@pytest.mark.parametrize("name", ["corpus.txt", "model.gz", "arpa"])
def test_other_endings_than_those_of_a_model_are_refused(tmp_path, capsys, name):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("AB\nCD\n", "utf-8")
    with pytest.raises(SystemExit) as stopped:
        main(["--texts", str(corpus), "--out", str(tmp_path / name)])
    assert stopped.value.code == 2 and f"{name} must end in .arpa or .arpa.gz" in capsys.readouterr().err
    assert corpus.read_text("utf-8") == "AB\nCD\n" and len(list(tmp_path.iterdir())) == 1


def test_what_is_named_twice_is_refused(tmp_path, capsys):
    """It would count twice; also where it is written in another way."""
    write_split(tmp_path / "a" / "train", ["AB"])
    (tmp_path / "t.txt").write_text("CD\n", "utf-8")
    for flags in (["--data-dir", tmp_path / "a", tmp_path / "b/../a"],
                  ["--data-dir", tmp_path / "a", "--texts", tmp_path / "t.txt", "--texts", tmp_path / "t.txt"]):
        with pytest.raises(SystemExit) as stopped:
            main([*map(str, flags), "--out", str(tmp_path / "l.arpa")])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and "is named twice" in error and error.count("\n") == 1
    assert not (tmp_path / "l.arpa").exists()


def test_something_to_learn_from_is_needed(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--out", str(tmp_path / "l.arpa")])
    assert stopped.value.code == 2 and "--data-dir, --texts, or both" in capsys.readouterr().err
