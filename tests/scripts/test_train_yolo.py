"""train_yolo.py as a person runs it: train, stop, resume, test, and what it says to bad input."""

import json
import pickle
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
import yaml
from runner import ENVIRONMENT, last_json, rows, run_script, stop_when, without_time

import train_yolo
from models.yolo import MarksTrainer, evaluate
from utils.errors import NonFiniteLoss

SMALL = ["--model", "yolo11n", "--img-size", "64", "--batch-size", "2", "--nbs", "4", "--num-workers", "0"]
# Read by Python at its start from PYTHONPATH: any look-up or connection beyond this machine ends the process.
NO_NETWORK = '''
import os, socket
connect, look_up = socket.socket.connect, socket.getaddrinfo
def local(host):
    return host in (None, "", "localhost", "127.0.0.1", "::1", socket.gethostname())
def guarded_connect(self, address):
    if self.family != socket.AF_UNIX and not local(address[0]):
        print(f"connection to {address}", flush=True)
        os._exit(99)
    return connect(self, address)
def guarded_look_up(host, *rest, **more):
    if not local(host):
        print(f"look-up of {host}", flush=True)
        os._exit(99)
    return look_up(host, *rest, **more)
socket.socket.connect, socket.getaddrinfo = guarded_connect, guarded_look_up
'''


class Bomb:
    def __reduce__(self):
        return (exec, ("import os; os._exit(98)",))


def make_marks(folder, counts):
    rng = np.random.default_rng(0)
    for split, count in counts.items():
        (folder / split / "images").mkdir(parents=True)
        (folder / split / "labels").mkdir()
        for number in range(count):
            image, lines = np.full((90, 64, 3), 255, np.uint8), []
            for class_id, colour in enumerate([(0, 0, 0), (160, 0, 0), (0, 0, 200)]):
                (w, h), x = rng.integers(18, 27, 2).tolist(), int(rng.integers(2, 36))
                y = 30 * class_id + int(rng.integers(1, 30 - h))
                inked = rng.random((h, w)) < 0.5  # texture to the very edge, as a mark has and paper has not
                inked[[0, -1]], inked[:, [0, -1]] = True, True
                image[y : y + h, x : x + w][inked] = colour
                lines.append(f"{class_id} {(x + w / 2) / 64} {(y + h / 2) / 90} {w / 64} {h / 90}\n")
            cv2.imwrite(str(folder / f"{split}/images/{number}.png"), image)
            (folder / f"{split}/labels/{number}.txt").write_text("".join(lines))
        (folder / split / "labels.cache").write_bytes(pickle.dumps(Bomb()))
    (folder / "data.yaml").write_text("".join(f"{split}: {split}/images\n" for split in counts)
                                      + "names: [qr, signature, stamp]\n")
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_marks(tmp_path_factory.mktemp("marks"), {"train": 4, "val": 2, "test": 2})


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Two epochs with the network cut off and with an empty cache folder, where ultralytics would ask for most."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    (folder.parent / "sitecustomize.py").write_text(NO_NETWORK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENVIRONMENT, "PYTHONPATH", str(folder.parent))
        patch.setitem(ENVIRONMENT, "YOLO_CONFIG_DIR", str(folder.parent / "cache"))
        done = run_script("train_yolo", "--data-dir", data, *SMALL, "--epochs", "2", "--close-mosaic", "1",
                          "--output-dir", folder)
    assert "random weights: yolo11n.pt is neither here" in done.stdout
    return folder


def test_the_run_folder_holds_what_it_should(trained, data):
    for name in ("last.pt", "best.pt", "args.json", "metrics.jsonl", "per_image.jsonl", "card.md", "tensorboard"):
        assert (trained / name).exists(), name
    metrics = rows(trained / "metrics.jsonl")
    assert [row["epoch"] for row in metrics] == [1, 2]
    assert {"train/loss", "train/box", "train/cls", "train/dfl", "train/lr", "val/map50", "val/map50_95",
            "val/precision", "val/recall", "val/map50/qr"} <= metrics[0].keys()
    assert all(np.isfinite(row["train/loss"]) for row in metrics)
    assert [len(row["truth"]) for row in rows(trained / "per_image.jsonl")] == [3, 3]
    card = (trained / "card.md").read_text()
    for words in ("Completed", "the first 0 of 24 modules frozen", "nbs 4 at batch 2: 2 batches", "One missed mark",
                  "qr 50.0", "map50_95"):
        assert words in card, words
    for name in ("results.csv", "results.png", "args.yaml", "confusion_matrix.png", "BoxPR_curve.png",
                 "weights/best.pt"):
        assert (trained / "ultralytics" / name).is_file(), name
    # Whoever replaces them has read them first.
    assert all((data / split / "labels.cache").read_bytes() == pickle.dumps(Bomb()) for split in ("train", "val"))


def test_the_curves_have_the_agreed_names(trained):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    events = EventAccumulator(str(trained / "tensorboard"))
    events.Reload()
    tags = set(events.Tags()["scalars"])
    assert {"train/loss", "train/box", "train/lr", "train/grad_norm", "val/map50_95", "perf/images_per_s",
            "perf/data_wait"} <= tags
    assert [event.step for event in events.Scalars("val/map50")] == [
        row["step"] for row in rows(trained / "metrics.jsonl")]


def test_test_only_prints_one_json_object_last(trained, data, capsys):
    done = run_script("train_yolo", "--data-dir", data, "--test-only", "--weights", trained / "best.pt")
    scores = last_json(done)
    assert {"map50", "map50_95", "precision", "recall", "per_class"} <= scores.keys()
    assert set(scores["per_class"]) == {"qr", "signature", "stamp"} and scores["n_images"] == 2
    assert set(scores["count_error"]) == {"components", "seed", "none"} and scores["per_folder"] == {}
    assert json.loads((trained / "test_metrics.json").read_text()) == scores
    flags = ["--data-dir", data, "--test-only", "--split", "val", "--output-dir", trained.parent / "again",
             "--weights", trained / "ultralytics/weights/best.pt", "--device", "cpu", "--tta", "--tile", "48", "--bare"]
    assert run(*flags) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["n_truth"] == 6
    assert (trained.parent / "again/test_metrics.json").is_file()


@pytest.mark.parametrize("flags", [[], ["--bare"]])
def test_test_only_scores_what_inference_delivers_unless_bare(trained, data, monkeypatch, flags):
    asked = []
    monkeypatch.setattr(train_yolo, "evaluate", lambda *args, **options: asked.append(args[4]) or evaluate(*args, **options))
    assert run("--data-dir", data, "--test-only", "--weights", trained / "best.pt", "--device", "cpu", "--output-dir",
               trained.parent / "bare", *flags) == 0
    assert asked == [bool(flags)]


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(data, tmp_path):
    flags = ["--data-dir", data, *SMALL, "--epochs", "6", "--close-mosaic", "2", "--mixup", "0.3", "--paste-marks",
             "0.5"]
    run_script("train_yolo", *flags, "--output-dir", tmp_path / "whole")
    cut = [*flags, "--output-dir", tmp_path / "cut", "--resume", "auto"]
    status = stop_when("train_yolo", cut, lambda: (tmp_path / "cut/metrics.jsonl").is_file()
                       and len(rows(tmp_path / "cut/metrics.jsonl")) >= 2)
    assert status == 128 + signal.SIGTERM
    assert len(rows(tmp_path / "cut/metrics.jsonl")) < 6 and "Stopped" in (tmp_path / "cut/card.md").read_text()
    run_script("train_yolo", *cut)
    whole, resumed = (torch.load(tmp_path / name / "last.pt", weights_only=True) for name in ("whole", "cut"))
    for part in ("model", "ema"):
        states = [state[part]["model"] if part == "ema" else state[part] for state in (whole, resumed)]
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert without_time(rows(tmp_path / "whole/metrics.jsonl")) == without_time(rows(tmp_path / "cut/metrics.jsonl"))
    tables = [(tmp_path / name / "ultralytics/results.csv").read_text().splitlines() for name in ("whole", "cut")]
    assert [len(table) for table in tables] == [7, 7]


def test_a_finished_run_takes_more_epochs(trained, data, tmp_path, capsys):
    folder = tmp_path / "more"
    shutil.copytree(trained, folder)
    flags = ["--data-dir", data, *SMALL, "--output-dir", folder]
    assert run(*flags, "--epochs", "3") == 2 and "already holds a run" in capsys.readouterr().err
    shutil.copytree(data, tmp_path / "marks")
    names = (data / "data.yaml").read_text().replace("[qr, signature, stamp]", "[qr, stamp, signature]")
    (tmp_path / "marks/data.yaml").write_text(names)
    assert run("--output-dir", folder, "--resume", "auto", "--data-dir", tmp_path / "marks", "--no-preflight") == 2
    assert "trained with another classes (data.yaml)" in capsys.readouterr().err
    assert (folder / "args.json").read_bytes() == (trained / "args.json").read_bytes()
    run_script("train_yolo", *flags, "--epochs", "3", "--close-mosaic", "1", "--resume", folder / "last.pt")
    metrics = rows(folder / "metrics.jsonl")
    assert [row["epoch"] for row in metrics] == [1, 2, 3]
    assert metrics[:2] == rows(trained / "metrics.jsonl")


@pytest.mark.parametrize(("epochs", "words"), [
    ("3", "the best is looked for among the epochs that are left"), ("2", "the weights resumed from take its place")])
def test_a_last_checkpoint_that_came_alone_ends_with_a_best_one(epochs, words, trained, data, tmp_path, capsys):
    folder = tmp_path / "moved"
    folder.mkdir()
    shutil.copyfile(trained / "last.pt", folder / "last.pt")
    assert run("--data-dir", data, *SMALL, "--device", "cpu", "--epochs", epochs, "--close-mosaic", "1", "--resume",
               folder / "last.pt") == 0
    told = capsys.readouterr().out
    assert f"warning: {folder}/best.pt: is not there; {words}" in told
    best, last = (torch.load(folder / name, weights_only=True) for name in ("best.pt", "last.pt"))
    assert all(torch.equal(best["ema"]["model"][name], value) for name, value in last["ema"]["model"].items())
    assert (folder / "ultralytics/confusion_matrix.png").is_file() == (epochs == "3")
    if epochs == "3":
        assert "at epoch 3; weights:" in told and best["progress"]["best_epoch"] == 3


def test_the_flag_decides_on_loader_processes_and_they_on_nothing(data, tmp_path, monkeypatch):
    """On a CPU too, where ultralytics itself takes none."""
    follow, seen = train_yolo.follow, []

    def look(trainer, *rest):
        trainer.add_callback("on_train_epoch_start", lambda trainer: seen.append(trainer.train_loader.num_workers))
        follow(trainer, *rest)

    monkeypatch.setattr(train_yolo, "follow", look)
    for workers in ("0", "1"):
        assert run("--data-dir", data, *SMALL[:-1], workers, "--device", "cpu", "--epochs", "1", "--mixup", "0.5",
                   "--output-dir", tmp_path / workers) == 0
    assert seen == [0, 1]
    states = [torch.load(tmp_path / workers / "last.pt", weights_only=True)["model"] for workers in ("0", "1")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.parametrize("label", ["", "0 0.5 0.5 0.4 0.4\n"])
def test_a_mark_or_none_is_trained_on_without_a_stray_line(label, tmp_path, caplog):
    data = make_marks(tmp_path / "marks", {"train": 1, "val": 1})
    (data / "train/labels/0.txt").write_text(label)
    assert run("--data-dir", data, *SMALL, "--device", "cpu", "--epochs", "1", "--output-dir", tmp_path / "run") == 0
    assert not [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def run(*flags):
    """In this process; returns the exit status."""
    with pytest.raises(SystemExit) as error:
        train_yolo.exit_cleanly(lambda: train_yolo.main([str(flag) for flag in flags]))
    return error.value.code


@pytest.mark.parametrize(("flags", "words"), [
    (["--img-size", "100"], "multiple of 32"),
    (["--warmup-bias-lr", "0.1"], "above --lr0"),
    (["--copy-paste", "0.5"], "unrecognized"),
    (["--optimizer", "auto"], "invalid choice"),
    (["--test-only"], "needs --weights"),
    (["--tta"], "go with --test-only"),
    (["--bare"], "go with --test-only"),
    (["--paste-onto", "receipts"], "needs --paste-marks"),
    (["--resume", "auto"], "needs --output-dir"),
    (["--fliplr", "1.5"], "not between 0 and 1"),
    (["--data-dir", "nowhere"], "nowhere: no such folder; name one with --data-dir"),
    (["--model", "yolo99"], "neither a file"),
    (["--freeze", "99", "--model", "WEIGHTS"], "24 modules"),
    (["--test-only", "--weights", "nowhere.pt"], "nowhere.pt: no such"),
    (["--test-only", "--weights", "WEIGHTS", "--split", "dev"], "has no dev: key"),
])
def test_bad_usage_is_one_line_and_status_2(flags, words, trained, data, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = [trained / "best.pt" if flag == "WEIGHTS" else flag for flag in flags]
    assert run("--data-dir", data, "--device", "cpu", *flags) == 2
    error = capsys.readouterr().err
    assert words in error and "Traceback" not in error
    assert not (tmp_path / "runs").exists()


def test_bad_data_is_named(data, trained, tmp_path):
    shutil.copytree(data, tmp_path / "marks")
    (tmp_path / "marks/val/labels/0.txt").write_text("0 0.5 0.5 2 2\n")
    error = run_script("train_yolo", "--data-dir", tmp_path / "marks", *SMALL, "--output-dir", tmp_path / "run",
                       status=2).stderr
    assert "val/labels/0.txt: line 1: the box reaches outside the image" in error
    assert len([line for line in error.splitlines() if line.startswith("error:")]) == 1
    assert not (tmp_path / "run").exists()


def test_weights_for_other_classes_are_refused(data, trained, tmp_path, capsys):
    shutil.copytree(data, tmp_path / "marks")
    (tmp_path / "marks/data.yaml").write_text("test: test/images\nnames: [qr, stamp, signature]\n")
    assert run("--data-dir", tmp_path / "marks", "--test-only", "--weights", trained / "best.pt") == 2
    assert "'signature'" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_ends_the_run_by_name(data, tmp_path, monkeypatch, capsys):
    original = MarksTrainer.optimizer_step

    def poisoned(trainer):
        trainer.loss_items["cls_loss"] = torch.tensor(float("nan"))
        original(trainer)

    monkeypatch.setattr(MarksTrainer, "optimizer_step", poisoned)
    with pytest.raises(NonFiniteLoss, match=r"epoch 1: not finite: cls_loss; files: .*\.png"):
        train_yolo.main(["--data-dir", str(data), *SMALL, "--device", "cpu", "--output-dir", str(tmp_path / "run")])
    assert "Failed: epoch 1: not finite" in (tmp_path / "run/card.md").read_text()


def test_the_preset_reaches_ultralytics_in_full(trained):
    """The values of the user's own run, where flags left them alone, and what is fixed for the sake of others."""
    written = yaml.safe_load((trained / "ultralytics/args.yaml").read_text())
    preset = {"optimizer": "sgd", "lr0": 0.001, "lrf": 0.01, "momentum": 0.937, "weight_decay": 0.0005, "cos_lr": True,
              "warmup_epochs": 3.0, "warmup_bias_lr": 0.001, "seed": 0, "deterministic": True, "mosaic": 1.0,
              "degrees": 10.0, "translate": 0.1, "scale": 0.5, "hsv_h": 0.015, "hsv_s": 0.7, "hsv_v": 0.4, "box": 7.5,
              "cls": 0.5, "dfl": 1.5, "mixup": 0.0, "copy_paste": 0.0, "perspective": 0.0, "shear": 0.0, "fliplr": 0.0,
              "flipud": 0.0, "patience": 20, "amp": False, "freeze": 0, "imgsz": 64, "nbs": 4}
    assert {key: written[key] for key in preset} == preset
    defaults = train_yolo.parse_args([])
    assert (defaults.model, defaults.img_size, defaults.batch_size, defaults.epochs, defaults.freeze, defaults.nbs,
            defaults.close_mosaic, defaults.num_workers) == ("yolo11s", 1024, 16, 60, 10, 64, 10, 8)
    args = train_yolo.parse_args("--epochs 60 --batch-size 16 --img-size 1024 --freeze 10".split())
    assert args == defaults


def test_who_wants_other_weights_is_sent_to_the_flag_that_is_there(trained, data, capsys, tmp_path):
    assert run("--data-dir", data, *SMALL, "--weights", trained / "best.pt") == 2
    assert "to start from a checkpoint's weights take --model" in capsys.readouterr().err
    assert run("--data-dir", data, *SMALL, "--resume", trained / "last.pt", "--output-dir", tmp_path) == 2
    assert "--model starts a new run from its weights" in capsys.readouterr().err
    shutil.copytree(trained, tmp_path / "run")
    assert run("--data-dir", data, *SMALL, "--img-size", "96", "--output-dir", tmp_path / "run", "--resume", "auto",
               "--device", "cpu") == 2
    assert "another img_size; --model starts a new run from its weights" in capsys.readouterr().err
