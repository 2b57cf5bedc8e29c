"""train_recognition.py as a person runs it, on words drawn with OpenCV."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import train_recognition
from models.language import estimate, write_arpa
from runner import last_json, rows, run_script, without_time
from utils.errors import exit_cleanly

SMALL = ["--arch", "parseq-ti", "--img-height", "16", "--img-width", "64", "--max-label-length", "5",
         "--charset", "data", "--batch-size", "8", "--num-workers", "0", "--device", "cpu", "--log-every", "1"]


def draw(word: str, paper: int = 255) -> np.ndarray:
    """paper: grey of the background, so that a word looks another way in each split."""
    image = np.full((32, 16 * len(word) + 6, 3), paper, np.uint8)
    return cv2.putText(image, word, (3, 25), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("words"), np.random.default_rng(0)
    for paper, (split, count) in enumerate((("train", 24), ("val", 6), ("test", 7)), start=250):
        (folder / split / "images").mkdir(parents=True)
        words = ["".join(rng.choice(list("ABC123"), rng.integers(1, 6))) for _ in range(count)]
        for number, word in enumerate(words):
            cv2.imwrite(str(folder / split / "images" / f"{number}.png"), draw(word, paper))
        table = "".join(f"{number}.png\t{word}\n" for number, word in enumerate(words))
        (folder / split / "labels.tsv").write_text(table, "utf-8")
    return folder


def complain(capsys, *arguments) -> str:
    """What the script says on stderr when it refuses, in this process."""
    with pytest.raises(SystemExit) as leaving:
        exit_cleanly(lambda: train_recognition.main([str(argument) for argument in arguments]))
    assert leaving.value.code == 2
    return capsys.readouterr().err


def test_train_resume_and_test(data, tmp_path):
    flags = ["--data-dir", data, *SMALL, "--scheduler", "constant", "--stem", "conv", "--ctc-weight", "0.5",
             "--accumulation-steps", "2", "--ema-decay", "0.9", "--refine-iters", "2"]
    whole = run_script("train_recognition", *flags, "--epochs", "2", "--output-dir", tmp_path / "whole")
    assert "train: 24 kept, 0 with unknown characters, 0 too long, 0 empty" in whole.stdout
    for name in ("last.pt", "best.pt", "args.json", "metrics.jsonl", "per_image.jsonl", "card.md", "tensorboard"):
        assert (tmp_path / "whole" / name).exists(), name
    card = (tmp_path / "whole" / "card.md").read_text("utf-8")
    assert "--stem: conv" in card and "val/exact" in card and "Charset" in card and "**Status:** Completed" in card

    for epochs in ("1", "2"):
        part = run_script("train_recognition", *flags, "--epochs", epochs, "--output-dir", tmp_path / "parts",
                          "--resume", "auto")
    assert "1 epochs and 2 steps are done" in part.stdout
    one, two = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "parts"))
    assert one["progress"]["step"] == two["progress"]["step"] == 4
    for key, value in one["model"].items():
        assert torch.equal(value, two["model"][key]), key
    histories = [without_time(rows(tmp_path / name / "metrics.jsonl")) for name in ("whole", "parts")]
    assert histories[0] == histories[1]
    assert one["reading"] == {"decode": "ar", "refine_iters": 2}
    assert len(one["charset_digest"]) == 16 and one["config"]["characters"].startswith(" !")

    scores = last_json(run_script("train_recognition", "--data-dir", data, "--test-only", "--weights",
                                  tmp_path / "whole" / "best.pt", "--num-workers", 0, "--device", "cpu",
                                  "--decode", "nar", "--refine-iters", 0))
    assert set(scores) == {"exact", "exact_folded", "ned", "cer", "wer", "n", "ece", "fold", "repeated_share",
                           "no_eos_share", "distinct_ratio", "by_length", "by_class", "confusions"} and scores["n"] == 7
    assert scores == json.loads((tmp_path / "whole" / "test_metrics.json").read_text())


def test_lines_of_detection_pages_and_a_start_from_other_weights(tmp_path, capsys, monkeypatch):
    """Pages instead of words, unknown characters in validation, and fine-tuning with a smaller charset."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "val"):
        for name in ("images", "labels"):
            (tmp_path / "pages" / split / name).mkdir(parents=True)
        paper = 250 if split == "train" else 255
        page, lines = np.full((200, 120, 3), paper, np.uint8), []
        for number, word in enumerate(("AB1", "C2", "###", "B3A")):
            crop = draw(word, paper)
            page[40 * number : 40 * number + 32, : crop.shape[1]] = crop
            x, y0, y1 = crop.shape[1], 40 * number, 40 * number + 32
            lines.append(f"0,{y0},{x},{y0},{x},{y1},0,{y1},{word if split == 'train' or number else 'é'}")
        cv2.imwrite(str(tmp_path / "pages" / split / "images" / "p.png"), page)
        (tmp_path / "pages" / split / "labels" / "p.txt").write_text("\n".join(lines), "utf-8")
    (tmp_path / "chars.txt").write_text("ABC123", "utf-8")
    flags = ["--data-dir", "pages", *SMALL, "--epochs", "1"]
    assert "1 with unknown characters (é (U+00E9" in complain(capsys, *flags, "--output-dir", "first")
    assert not Path("first").exists()

    flags += ["--max-bad-fraction", "0.5"]
    train_recognition.main([*flags, "--output-dir", "first", "--perm-num", "2"])
    read = {row["truth"]: row for row in rows(Path("first/per_image.jsonl"))}
    assert sorted(read) == ["B3A", "C2", "é"]  # what cannot be learnt is scored all the same
    assert not read["é"]["exact"]
    train_recognition.main([*flags, "--output-dir", "second", "--charset", "chars.txt", "--init-from", "first/best.pt"])
    assert "6 of 6 characters are known to it" in Path("second/card.md").read_text("utf-8")
    message = complain(capsys, *flags, "--output-dir", "second", "--resume", "auto")
    assert "trained with another characters" in message


def test_encoder_and_ctc_head_alone(data, tmp_path, monkeypatch, capsys):
    """The decoder stays as it was, validation is of what is trained, and inference reads by what has learnt."""
    monkeypatch.chdir(tmp_path)
    flags = ["--data-dir", str(data), *SMALL, "--epochs", "1", "--ctc-weight", "1"]
    train_recognition.main([*flags, "--output-dir", "both"])
    train_recognition.main([*flags, "--output-dir", "alone", "--decoder-weight", "0", "--init-from", "both/last.pt"])
    both, alone = (torch.load(f"{name}/last.pt", weights_only=True) for name in ("both", "alone"))
    assert both["reading"] == {"decode": "ar", "refine_iters": 1}
    assert alone["reading"] == {"decode": "ctc", "refine_iters": 0}
    same = {name.split(".")[0] for name, value in both["model"].items() if torch.equal(value, alone["model"][name])}
    assert {"decoder", "head", "text_embed", "pos_queries"} <= same and "ctc_head" not in same
    row = rows(Path("alone/metrics.jsonl"))[-1]
    assert row["val/ctc"] > 0 and row["val/shuffled_ctc"] > 0 and "val/cross_entropy" not in row
    capsys.readouterr()
    testing = [*flags[:2], "--test-only", "--split", "val", "--device", "cpu", "--num-workers", "0"]
    train_recognition.main([*testing, "--weights", "alone/best.pt"])
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [scores[name] for name in ("exact", "cer", "n")] == [row[f"val/{name}"] for name in ("exact", "cer", "n")]
    # An untrained head is sure of nothing: the language has the last word.
    write_arpa(Path("l.arpa"), estimate(["CAB"] * 9, 4))
    train_recognition.main([*testing, "--weights", "alone/best.pt", "--language-model", "l.arpa", "--output-dir", "read"])
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n"] == row["val/n"]
    texts = {row["text"] for row in rows(Path("read/test_per_image.jsonl"))}
    train_recognition.main([*testing, "--weights", "alone/best.pt", "--output-dir", "unhelped"])
    assert texts != {row["text"] for row in rows(Path("unhelped/test_per_image.jsonl"))}
    said = complain(capsys, *testing, "--weights", "both/best.pt", "--language-model", "l.arpa")
    assert "best.pt: does not read by CTC alone, which l.arpa is for" in said
    said = complain(capsys, *testing, "--weights", "alone/best.pt", "--refine-iters", 1, "--language-model", "l.arpa")
    assert "best.pt: does not read by CTC alone" in said
    assert "no such language model" in complain(capsys, *testing, "--weights", "alone/best.pt", "--language-model", "no.arpa")
    assert "--language-model is for reading, with --test-only" in complain(capsys, *flags, "--language-model", "l.arpa")
    train_recognition.main([*flags[:-2], "--output-dir", "none"])
    said = complain(capsys, *testing, "--weights", "none/best.pt", "--decode", "ctc")
    assert "best.pt: has no CTC head to --decode ctc by" in said


def test_bad_data_ends_in_one_line_and_status_2(data, tmp_path):
    (tmp_path / "train" / "images").mkdir(parents=True)
    (tmp_path / "train" / "images" / "a.png").write_bytes(b"no image")
    (tmp_path / "train" / "labels.tsv").write_text("a.png\tword\n")
    done = run_script("train_recognition", "--data-dir", tmp_path, *SMALL, status=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert "a.png: not a readable image" in done.stderr


def test_bad_usage(data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "python -m datasets.synthetic" in complain(capsys, *SMALL)
    assert "too few to read 60" in complain(capsys, "--max-label-length", 60, "--img-width", 64)
    assert "even number" in complain(capsys, "--perm-num", 5)
    assert "--decode ctc needs a CTC head" in complain(capsys, "--decode", "ctc")
    assert "--decode ctc needs a CTC head" in complain(capsys, "--decoder-weight", 0)
    for flag in (("--decode", "ar"), ("--refine-iters", 1)):
        assert "leaves a decoder that cannot read" in complain(capsys, "--ctc-weight", 1, "--decoder-weight", 0, *flag)
    assert "--patch-height is not for --stem resnet" in complain(capsys, "--stem", "resnet", "--patch-height", 4)
    assert "not a multiple" in complain(capsys, "--img-width", 100)
    assert "unrecognized arguments" in complain(capsys, "--img-widht", 100)
    assert "too long" in complain(capsys, "--data-dir", data, *SMALL, "--max-label-length", 3)
    assert "no such charset file" in complain(capsys, "--data-dir", data, *SMALL, "--charset", "korean")
    assert "no such checkpoint" in complain(capsys, "--data-dir", data, *SMALL, "--test-only", "--weights", "none.pt")


def test_labels_of_other_images_are_noticed_before_the_first_step(tmp_path, capsys):
    for split in ("train", "val"):
        (tmp_path / split / "images").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / split / "images" / "a.png"), draw("A", len(split)))
        (tmp_path / split / "labels.tsv").write_text("a.png\tABCDEABC\n")
    flags = ["--data-dir", tmp_path, *SMALL, "--max-label-length", 8, "--output-dir", tmp_path / "run"]
    message = complain(capsys, *flags)
    assert "do the labels belong to these images" in message
    assert not (tmp_path / "run").exists()


def test_the_users_command_is_understood():
    args = train_recognition.parse_args("--batch-size 448 --use-amp --epochs 20".split())
    assert (args.batch_size, args.use_amp, args.epochs, args.lr, args.weight_decay, args.scheduler) == (
        448, True, 20, 7e-4, 0.0, "onecycle")
    assert (str(args.data_dir), args.charset) == ("data/recognition", "ksx1001")
