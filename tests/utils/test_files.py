import os
import signal

import pytest
import torch

from utils.checkpoint import init_from, load_checkpoint, save_checkpoint, weights_of
from utils.errors import BadSamples, DataError, NonFiniteLoss, exit_cleanly
from utils.files import (fingerprint, read_json, read_jsonl, read_object, remove_unfinished, replace_file, write_json,
                         write_replacing)
from utils.run_folder import write_jsonl


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "a.txt"
    replace_file(path, "old")

    def half(temporary):
        temporary.write_text("ne")
        raise OSError(28, "No space left on device")

    with pytest.raises(DataError, match="a.txt: cannot be written .No space left"):
        write_replacing(path, half)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_killed_writers_left_is_removed_when_it_is_old(tmp_path):
    def killed(temporary):
        temporary.write_text("half")
        os.link(temporary, temporary.parent / temporary.name.replace(".tmp", ".kept"))

    replace_file(tmp_path / "sub" / "a.txt", "whole")
    for name in ("a.txt", "x" * 200):  # whose temporary name is cut
        write_replacing(tmp_path / "sub" / name, killed)
    for path in (tmp_path / "sub").glob(".*.kept"):  # as a kill leaves them
        path.rename(path.with_suffix(".tmp"))
    left = list((tmp_path / "sub").glob(".*.tmp"))
    assert len(left) == 2 and remove_unfinished(tmp_path) == 0  # another process may be writing them
    for path in [*left, tmp_path / "sub" / "a.txt"]:
        os.utime(path, (1_000_000, 1_000_000))
    assert remove_unfinished(tmp_path) == 2 and sorted(os.listdir(tmp_path / "sub")) == ["a.txt", "x" * 200]


def test_mode_follows_the_umask(tmp_path):
    before = os.umask(0o022)
    try:
        replace_file(tmp_path / "a", b"x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o644


def test_fingerprint_follows_names_and_sizes(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    first = fingerprint(tmp_path.iterdir())
    assert first == fingerprint(sorted(tmp_path.iterdir(), reverse=True)) and len(first) == 12
    (tmp_path / "b").write_text("bb")
    assert fingerprint(tmp_path.iterdir()) != first


def test_checkpoint_round_trip_prefers_the_moving_average(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"task": "detection", "model": {"w": torch.ones(2)}, "ema": {"model": {"w": torch.zeros(2)}}})
    assert torch.equal(weights_of(load_checkpoint(path, "detection"))["w"], torch.zeros(2))
    save_checkpoint(path, {"task": "detection", "model": {"w": torch.ones(2)}, "ema": None})
    assert torch.equal(weights_of(load_checkpoint(path, "detection"))["w"], torch.ones(2))
    with pytest.raises(DataError, match="for detection, not for yolo"):
        load_checkpoint(path, "yolo")


def test_checkpoints_never_run_code(tmp_path):
    trace = tmp_path / "trace"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {trace}",)

    path = tmp_path / "evil.pt"
    torch.save({"format": "docmarks-1", "task": "detection", "model": Evil()}, path)
    with pytest.raises(DataError, match="would run code"):
        load_checkpoint(path, "detection")
    assert not trace.exists()


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut short"])
def test_broken_checkpoints_are_named(tmp_path, content):
    path = tmp_path / "c.pt"
    path.write_bytes(content)
    with pytest.raises(DataError, match="c.pt"):
        load_checkpoint(path, "detection")


def test_a_truncated_checkpoint_is_named(tmp_path):
    path = tmp_path / "c.pt"
    save_checkpoint(path, {"task": "detection", "model": {"w": torch.ones(1000)}})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(DataError, match="not a whole checkpoint"):
        load_checkpoint(path, "detection")
    with pytest.raises(DataError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt", "detection")


def test_an_exported_model_is_not_taken_for_a_damaged_checkpoint(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"graph")
    with pytest.raises(DataError, match="model.onnx: is an exported model; give the checkpoint"):
        load_checkpoint(tmp_path / "model.onnx")


def test_init_from_takes_what_fits(tmp_path):
    path = tmp_path / "c.pt"
    source, target = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    save_checkpoint(path, {"task": "t", "model": source.state_dict() | {"bias": torch.zeros(7)}, "ema": None})
    bias = target.bias.clone()
    line = init_from(target, path, "t")
    assert torch.equal(target.weight, source.weight) and torch.equal(target.bias, bias)
    assert "1 of 2 tensors" in line and "bias" in line
    with pytest.raises(DataError, match="none of its weights"):
        init_from(torch.nn.Linear(5, 5), path, "t")


def test_init_from_of_another_network_names_the_flags_of_its_own(tmp_path):
    path = tmp_path / "c.pt"
    source = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 8))
    target = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 8))  # one bias of four tensors fits
    config = {"arch": "unet", "encoder": "tu-resnet18", "encoder_depth": 4, "decoder_channels": (128, 64), "height": 384,
              "norm": "batch", "deformable": False}
    save_checkpoint(path, {"task": "t", "model": source.state_dict(), "ema": None, "config": config})
    before = [value.clone() for value in target.parameters()]
    with pytest.raises(DataError) as caught:
        init_from(target, path, "t")
    assert str(caught.value) == (
        f"{path}: only 1 of this model's 4 tensors would be taken from it, for it is another network; give its own flags: "
        "--arch unet --encoder tu-resnet18 --encoder-depth 4 --decoder-channels 128,64 --norm batch")
    assert all(torch.equal(one, other) for one, other in zip(before, target.parameters()))


@pytest.mark.parametrize("error, status", [(DataError("a\nb: c"), 2), (NonFiniteLoss("nan"), 3), (None, 0)])
def test_exit_status(error, status, capsys):
    def main():
        if error:
            raise error

    with pytest.raises(SystemExit) as left:
        exit_cleanly(main)
    assert left.value.code == status
    assert capsys.readouterr().err == (f"error: {' '.join(str(error).split())}\n" if error else "")


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError("x.png: cut short; replace it")


def test_an_error_in_a_loader_worker_is_one_line_too(capfd):
    with pytest.raises(SystemExit) as left:
        exit_cleanly(lambda: list(torch.utils.data.DataLoader(Broken(), num_workers=1)) and None)
    assert left.value.code == 2 and capfd.readouterr().err == "error: x.png: cut short; replace it\n"


class Dying(torch.utils.data.Dataset):
    """A worker that is lost, or finds no room, as it happens to those of a container with a small /dev/shm."""

    def __init__(self, what):
        self.what = what

    def __len__(self):
        return 1

    def __getitem__(self, index):
        if isinstance(self.what, str):
            raise RuntimeError(self.what)
        os.kill(os.getpid(), self.what)


@pytest.mark.parametrize("what, words", [
    (signal.SIGBUS, "no shared memory left: take fewer with --num-workers (0 needs none), or give the container more"),
    ("unable to open shared memory object </torch_7_1> in read-write mode: No space left on device (28)", "--shm-size"),
    ("unable to write to file </torch_12_345>", "--shm-size"),
    ("unable to open shared memory object </torch_7_1> in read-write mode: Too many open files (24)", "ulimit -n"),
    ("received 0 items of ancdata", "ulimit -n"),
    (signal.SIGKILL, "most likely since the machine ran out of memory")])
def test_what_the_machine_runs_out_of_is_one_line_with_the_way_out(what, words, capfd):
    with pytest.raises(SystemExit) as left:
        exit_cleanly(lambda: list(torch.utils.data.DataLoader(Dying(what), num_workers=1)) and None)
    error = capfd.readouterr().err
    ours = [line for line in error.replace("\0", "\n").splitlines() if line.startswith("error: ")]  # torch adds its own
    assert left.value.code == 2 and len(ours) == 1 and words in ours[0] and "Traceback" not in error


def test_memory_of_the_gpu_in_evaluation_is_one_line_and_other_errors_keep_their_traceback(capfd):
    def fail(error):
        raise error

    with pytest.raises(SystemExit):
        exit_cleanly(lambda: fail(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")))
    assert "--find-batch-size" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="shape"):
        exit_cleanly(lambda: fail(RuntimeError("shape mismatch")))


def test_bad_samples_are_reported_up_to_a_share(capsys):
    bad = BadSamples(0.1)
    bad.settle(10)
    bad.add("x.jpg", "has no label")
    bad.settle(10)
    assert "1 of 10 samples are left out: x.jpg: has no label" in capsys.readouterr().err
    bad.settle(10, named=True)
    assert capsys.readouterr().err == "warning: 1 of 10 samples are left out\n"
    bad.add("y.jpg", "has no label")
    with pytest.raises(DataError, match="y.jpg: has no label .2 of 10"):
        bad.settle(10)


def test_nothing_left_is_an_error_whatever_the_share():
    bad = BadSamples(1.0)
    bad.add("x.jpg", "unreadable")
    with pytest.raises(DataError):
        bad.settle(1)


def test_json_comes_back_as_it_was_written(tmp_path):
    rows = [{"file": "a\u2028b\x85c", "text": "줄\r\n"}, {"n": 1.5}, {}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_jsonl(tmp_path / "rows.jsonl") == rows and read_jsonl(tmp_path / "none.jsonl") == []
    write_json(tmp_path / "a.json", rows)
    assert read_json(tmp_path / "a.json") == rows
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "none.json")


@pytest.mark.parametrize("data", [b"", b"{", b"\xff{}", b"[" * 100_000])
def test_damaged_json_is_named_with_the_way_out(tmp_path, data):
    path = tmp_path / "a.json"
    path.write_bytes(data)
    for read in (read_json, read_object, *([read_jsonl] if data else [])):
        with pytest.raises(DataError, match=r"a\.json: .*(mend|remove|save it|not a file of JSON lines)"):
            read(path)
    path.write_text("[1]")
    with pytest.raises(DataError, match="a.json: cannot be read: it holds no JSON object; mend or remove it"):
        read_object(path)
