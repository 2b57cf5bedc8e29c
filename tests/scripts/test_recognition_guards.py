"""The faults that have cost trainings before, each put in on purpose, and what notices it."""

import json
import shutil
from argparse import Namespace

import cv2
import numpy as np
import pytest
import torch
from runner import rows
from test_train_recognition import SMALL, complain, data, draw  # noqa: F401  (data is a fixture)

import train_recognition
from models.parseq_loss import caseless_samples, parseq_loss
from parseq_reference import CHARACTERS, encode, make_images, make_model
from utils import drawing
from utils.args import plain_args
from utils.charset import Charset
from utils.findings import find_all
from utils.fonts import find_fonts
from utils.overfit import sweep_rates
from utils.recorded import Recorded


def evaluated(model, count=12):
    """(scores, rows) of train_recognition.evaluate over crops of noise."""
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list(CHARACTERS), 1 + i % 5)) for i in range(count)]
    batch = {"image": make_images(count), "width": torch.full((count,), 64), "text": texts,
             "file": [str(i) for i in range(count)]}
    args = Namespace(decode="ar", refine_iters=1, use_amp=False, limit_batches=None, fold=[])
    return train_recognition.evaluate(model, [batch], torch.device("cpu"), args)


def test_a_reader_that_repeats_one_character_is_named():
    model = make_model()
    with torch.no_grad():
        model.head.weight.zero_(), model.head.bias.zero_()
        model.head.bias[3] = 9
    scores, per_image = evaluated(model)
    assert (scores["repeated_share"], scores["no_eos_share"]) == (1, 1) and scores["distinct_ratio"] < 0.2
    run = Recorded("recognition", "exact", {"epochs": 9, "max_label_length": 8}, [{"epoch": 1, "val/exact": 0.0,
                   "val/ned": 0.1}], per_image)
    titles = {finding.title for finding in find_all(run)}
    assert {"Readings repeat a character", "Readings do not end", "The same reading again and again"} <= titles
    healthy = [row | {"text": row["truth"]} for row in per_image]
    titles = {finding.title for finding in find_all(Recorded(**vars(run) | {"per_image": healthy}))}
    assert not {title for title in titles if title.startswith(("Readings", "The same"))}


def test_a_model_that_ignores_the_image_is_named():
    """The shuffle test: with a memory of zeros, other crops' images do as well."""
    model, texts = make_model(), ["abcdefg", "한글abc", "gfedcba", "bad"]
    images = make_images(4) + torch.linspace(-2, 2, 4)[:, None, None, None]  # from dark to bright
    batch = {"image": images, "width": torch.full((4,), 64), "tokens": encode(model, texts), "step_seed": 0,
             "file": list("1234")}
    with torch.no_grad():
        model.decoder.layers[0].cross_attn.out_proj.weight.mul_(20)  # random weights hardly look
        seeing, _ = train_recognition.validation_step(model, batch)
        whole = model.encoder.forward
        model.encoder.forward = lambda images, widths: (0 * whole(images, widths)[0], whole(images, widths)[1])
        blind, _ = train_recognition.validation_step(model, batch)
    assert seeing["shuffled_cross_entropy"] != pytest.approx(float(seeing["cross_entropy"]), rel=1e-3)
    assert blind["shuffled_cross_entropy"] == pytest.approx(float(blind["cross_entropy"]), rel=1e-5)
    row = {"epoch": 1, "val/exact": 0.1, "val/ned": 0.1} | {f"val/{k}": float(v) for k, v in blind.items()}
    run = Recorded("recognition", "exact", {"epochs": 9}, [row])
    assert "The image is ignored" in {finding.title for finding in find_all(run)}


def test_a_cls_token_left_in_is_an_error():
    model = make_model()
    whole = model.encoder.forward
    model.encoder.forward = lambda *inputs: (torch.cat([torch.zeros(1, 1, 48), whole(*inputs)[0]], 1), None)
    with pytest.raises(AssertionError, match="65 memory tokens for 64 patches: is a CLS token left in"):
        model(make_images(1), torch.tensor([64]), encode(model, ["abc"]), 0)


def test_ids_outside_the_head_cannot_be_learnt_or_read():
    """Vocabulary 100 against 1027: a label of another charset does not fit the embedding; BOS and PAD have no logit."""
    model = make_model()
    outputs = model(make_images(1), torch.tensor([64]), encode(model, ["abc"]), 0)
    assert outputs["logits"].shape[1] == model.charset.size - 2 == model.charset.bos
    with pytest.raises(IndexError):
        tokens = encode(model, ["abc"])
        tokens[0, 2] = model.charset.size + 5
        parseq_loss(model(make_images(1), torch.tensor([64]), tokens, 0))


def test_pictures_without_a_korean_font_are_warned_of(data, tmp_path, capsys, monkeypatch):  # noqa: F811
    faces = tuple(face for face in find_fonts() if not face.korean)
    monkeypatch.setattr(drawing, "label_faces", lambda: faces)
    train_recognition.main(list(map(str, ["--data-dir", data, *SMALL, "--charset", "ksx1001", "--epochs", 1,
                                          "--limit-batches", 1, "--output-dir", tmp_path / "run"])))
    out = capsys.readouterr().out
    assert "Font of pictures: warning: no font here has 23" in out  # 2350 syllables
    assert "Loss of a model that sees nothing: 7.80 for equal chances" in out  # ln V beside the loss
    assert "effective batch: 8 a step" in out and "--scale-lr would make it 2.19e-05" in out
    assert "Font of pictures" in (tmp_path / "run" / "card.md").read_text("utf-8")


def test_validation_crops_copied_from_training_are_an_error(data, tmp_path, capsys):  # noqa: F811
    for split, name in (("train", "a.png"), ("val", "other_name.png")):
        (tmp_path / split / "images").mkdir(parents=True)
        cv2.imwrite(str(tmp_path / split / "images" / name), draw("ABC"))
        (tmp_path / split / "labels.tsv").write_text(f"{name}\tABC\n")
    assert "splits share 1 files" in complain(capsys, "--data-dir", tmp_path, *SMALL, "--output-dir", tmp_path / "run")
    (tmp_path / "val" / "images" / "other_name.png").unlink()
    cv2.imwrite(str(tmp_path / "val" / "images" / "other_name.png"), draw("ABC", 250))
    # and crops that --mix brings in count as training's
    copy = tmp_path / "more"
    (copy / "images").mkdir(parents=True)
    cv2.imwrite(str(copy / "images" / "b.png"), draw("ABC", 250))
    (copy / "labels.tsv").write_text("b.png\tABC\n")
    assert "splits share 1 files" in complain(capsys, "--data-dir", tmp_path, *SMALL, "--mix", f"{copy}:1",
                                              "--output-dir", tmp_path / "run")


def test_a_mixture_with_made_lines_trains_and_is_calibrated(data, tmp_path, capsys):  # noqa: F811
    run = tmp_path / "run"
    train_recognition.main(list(map(str, [
        "--data-dir", data, *SMALL, "--charset", "data", "--mix", "made:0.5", f"{data}:0.25", "--epochs", 1,
        "--scale-lr", "--average-from", 0.5, "--output-dir", run])))
    assert "2.19e-05 = 0.0007 x 0.0312 by --scale-lr" in capsys.readouterr().out
    checkpoint = torch.load(run / "best.pt", weights_only=True)
    assert checkpoint["temperature"] == 1.0  # there is too little to fit it to
    assert checkpoint["ema"]["updates"] == 6  # 24 crops, 12 made ones and 6 in batches of 8


def test_a_folder_without_case_is_learnt_with_one_that_has_it(data, tmp_path, capsys):  # noqa: F811
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    losses = []
    for number, caseless in enumerate(([], ["--caseless", f"{copy}"])):
        train_recognition.main(list(map(str, ["--data-dir", data, *SMALL, "--mix", f"{copy}:1", *caseless, "--epochs", 1,
                                              "--ctc-weight", 1, "--no-preflight", "--output-dir", tmp_path / str(number)])))
        losses.append(json.loads((tmp_path / str(number) / "metrics.jsonl").read_text().splitlines()[-1]))
    assert losses[1]["train/loss"] < losses[0]["train/loss"]  # more ways to be right
    assert json.loads((tmp_path / "1" / "args.json").read_text())["caseless"] == [str(copy)]


@pytest.mark.parametrize("works_at, status, tried", [(3e-3, 0, 3), (1e-3, 0, 1), (None, 1, 3)])
def test_overfitting_is_tried_at_three_rates(works_at, status, tried, tmp_path, capsys):
    folders = []

    def train(args, device, rank, world):
        folders.append(args.output_dir.relative_to(tmp_path).as_posix())
        return 0 if works_at and args.lr == pytest.approx(works_at) else 1

    args = Namespace(lr=1e-3, output_dir=tmp_path / "run", resume=None)
    assert sweep_rates("recognition", train, args, "cpu", 0, 1) == status
    assert folders == ["run", "run/lr_0.000333", "run/lr_0.003"][:tried]
    out = capsys.readouterr().out
    assert ("learnt at the last" if status == 0 else "none learns the samples") in out and args.lr == 1e-3


def test_flags_that_do_nothing_are_refused(capsys):
    assert "--mix is for a whole training" in complain(capsys, "--mix", "made:1", "--overfit", 4)
    assert "--font-dir is for lines made" in complain(capsys, "--font-dir", ".")
    assert "--caseless is for training" in complain(capsys, "--caseless", "a", "--test-only", "--weights", "x.pt")
    assert "--caseless a: is neither --data-dir nor" in complain(capsys, "--data-dir", "b", "--caseless", "a", "b")
    assert "two averages" in complain(capsys, "--average-from", 0.75, "--ema-decay", 0.9)


def test_folding_is_an_option_of_the_evaluation_and_is_written_down(data, tmp_path, capsys):  # noqa: F811
    run = tmp_path / "run"
    train_recognition.main(list(map(str, ["--data-dir", data, *SMALL, "--epochs", 1, "--limit-batches", 1,
                                          "--output-dir", run])))
    for flags, told in (([], []), (["--fold", "case", "width"], ["case", "width"])):
        train_recognition.main(list(map(str, ["--data-dir", data, "--test-only", "--weights", run / "best.pt", "--device",
                                              "cpu", "--num-workers", 0, *flags])))
        scores = json.loads((run / "test_metrics.json").read_text())
        assert scores["fold"] == told and set(scores["by_class"]) <= {"latin", "digit", "space", "punctuation"}
        assert len(rows(run / "test_per_image.jsonl")) == 7


def test_labels_that_ctc_has_no_frames_for_are_told_and_not_learnt(tmp_path, capsys):
    for split, paper in (("train", 255), ("val", 250)):
        (tmp_path / split / "images").mkdir(parents=True)
        for number, word in enumerate(("ABC", "AAAAA", "CAB", "B1")):  # 16 x 28 pixels are 8 frames, at 8 wide two
            image = draw("ABC", paper - number)
            cv2.imwrite(str(tmp_path / split / "images" / f"{number}.png"), image[:, : 20 if word == "AAAAA" else None])
        (tmp_path / split / "labels.tsv").write_text("0.png\tABC\n1.png\tAAAAA\n2.png\tCAB\n3.png\tB1\n")
    flags = ["--data-dir", tmp_path, *SMALL, "--ctc-weight", 1, "--epochs", 1, "--no-preflight"]
    said = complain(capsys, *flags, "--decoder-weight", 0, "--output-dir", tmp_path / "run")
    assert "1 with more characters than CTC frames" in said and "a larger --img-width" in said
    train_recognition.main(list(map(str, [*flags, "--decoder-weight", 0, "--output-dir", tmp_path / "run",
                                          "--max-bad-fraction", 0.5])))
    assert "train: 3 kept, 0 with unknown characters, 0 too long, 1 with more characters than CTC" in capsys.readouterr().out
    assert len(rows(tmp_path / "run" / "per_image.jsonl")) == 4  # it counts in evaluation
    train_recognition.main(list(map(str, [*flags, "--output-dir", tmp_path / "both"])))  # the decoder learns it
    assert "1 kept with more characters than CTC frames, for the decoder alone" in capsys.readouterr().out


def test_a_width_whose_ctc_frames_cannot_hold_the_longest_label_is_refused(capsys):
    flags = ("--stem", "conv", "--img-width", 128, "--max-label-length", 60)
    assert "32 CTC frames" in complain(capsys, *flags, "--ctc-weight", 1, "--decoder-weight", 0)
    said = complain(capsys, *flags, "--ctc-weight", 1)
    assert "--img-width 256" in said and "--max-label-length 32" in said
    train_recognition.parse_args(list(map(str, flags)))  # without the head there is nothing to hold


@pytest.mark.parametrize("written", ["./words", "words/", "words", "./words/."])
def test_a_folder_without_case_may_be_written_in_any_way(written, monkeypatch):
    args = train_recognition.parse_args(["--data-dir", "words", "--caseless", written])
    files = ["words/train/images/a.png", "wordsmith/train/images/a.png", "more/words/a.png"]
    assert caseless_samples(files, args.caseless, Charset("aA"), "cpu").samples.tolist() == [True, False, False]
    assert caseless_samples(["train/a.png"], ["."], Charset("aA"), "cpu").samples.tolist() == [True]


def test_a_decoder_that_was_not_trained_is_not_read_by(data, tmp_path, capsys):  # noqa: F811
    train_recognition.main(list(map(str, ["--data-dir", data, *SMALL, "--epochs", 1, "--limit-batches", 1, "--ctc-weight", 1,
                                          "--decoder-weight", 0, "--output-dir", tmp_path / "run"])))
    testing = ["--data-dir", data, "--test-only", "--weights", tmp_path / "run" / "best.pt", "--device", "cpu",
               "--num-workers", 0]
    for flags in (("--decode", "ar"), ("--decode", "nar"), ("--refine-iters", 1)):
        said = complain(capsys, *testing, *flags)
        assert "best.pt: its decoder was not trained" in said and "--decode ctc --refine-iters 0" in said
    train_recognition.main(list(map(str, [*testing, "--decode", "ctc", "--refine-iters", 0])))


def test_a_test_says_what_helps_a_test(data, tmp_path, capsys):  # noqa: F811
    train_recognition.main(list(map(str, ["--data-dir", data, *SMALL, "--epochs", 1, "--limit-batches", 1,
                                          "--output-dir", tmp_path / "run"])))
    (tmp_path / "test" / "images").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "test" / "images" / "a.png"), draw("ABCABC"))
    (tmp_path / "test" / "labels.tsv").write_text("a.png\tABCABC\n")
    capsys.readouterr()
    said = complain(capsys, "--data-dir", tmp_path, "--test-only", "--weights", tmp_path / "run" / "best.pt", "--device",
                    "cpu", "--charset", "hangul")
    assert "warning: --charset hangul does nothing in a test" in said
    assert "raise --max-bad-fraction, and they count as mistakes" in said and "--max-label-length" not in said


def test_flags_of_another_run_can_be_taken_out(data, tmp_path, capsys):  # noqa: F811
    (tmp_path / "run").mkdir()
    args = train_recognition.parse_args(["--data-dir", str(data), "--mix", "more:1", "--caseless", "more"])
    (tmp_path / "run" / "args.json").write_text(json.dumps(plain_args(args)))
    said = complain(capsys, "--from-run", tmp_path / "run", "--overfit", 4)
    assert "--mix is for a whole training" in said and "an empty --mix" in said
    said = complain(capsys, "--from-run", tmp_path / "run", "--overfit", 4, "--mix")
    assert "--caseless more: is neither" in said and "an empty --caseless" in said
    args = train_recognition.parse_args(["--data-dir", str(data), "--mix", "made:1", "--font-dir", "fonts"])
    (tmp_path / "run" / "args.json").write_text(json.dumps(plain_args(args)))
    assert train_recognition.parse_args(["--from-run", str(tmp_path / "run"), "--mix"]).font_dir is None
    assert train_recognition.parse_args(["--from-run", str(tmp_path / "run")]).font_dir == args.font_dir


def test_what_damage_leaves_in_labels_is_named(data, tmp_path, capsys):  # noqa: F811
    shutil.copytree(data, tmp_path / "data")
    for split in ("train", "val"):
        table = tmp_path / "data" / split / "labels.tsv"
        lines = table.read_text("utf-8").splitlines()
        table.write_text("\n".join([lines[0][:-1] + "\ufffd", *lines[1:]]) + "\n", "utf-8")
    train_recognition.main(list(map(str, ["--data-dir", tmp_path / "data", *SMALL, "--epochs", 1, "--limit-batches", 1,
                                          "--output-dir", tmp_path / "run"])))
    line, = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Charset: ")]
    assert "warning: 1 of them suspicious" in line and "U+FFFD REPLACEMENT CHARACTER" in line


def test_a_test_folds_its_table_of_classes_too():
    model = make_model(characters="ABCabc", ctc=True)
    batch = {"image": make_images(2), "width": torch.full((2,), 64), "text": ["ABC", "AB"], "file": ["0", "1"]}
    args = Namespace(decode="ctc", refine_iters=0, use_amp=False, limit_batches=None, fold=["case"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train_recognition, "read_raw", lambda *_, **__: [("abc", 0.9), (" " * 9, 0.9)])
        scores, per_image = train_recognition.evaluate(model, [batch], torch.device("cpu"), args)
    assert scores["by_class"]["latin"]["error"] == pytest.approx(2 / 5) and scores["exact"] == 0.5
    assert [pair for pair in scores["confusions"] if pair[1]] == []
    assert scores["no_eos_share"] == 0.5 and [row["spaces_cut"] for row in per_image] == [0, 9]
    assert [row["text"] for row in per_image] == ["abc", ""]
