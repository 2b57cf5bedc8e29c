"""A file of YOLO weights that lies about its network: refused in one line, before anything is built, run or fetched."""

import copy
import json

import pytest
import torch
import torchvision

from models import yolo
from models.yolo_config import vocabulary
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import DataError

NAMES = {0: "qr", 1: "signature", 2: "stamp"}
SHIPPED = yolo.Path(yolo.ultralytics.__file__).parent / "cfg/models"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return yolo.start_model("yolo11n.yaml", NAMES)[0].eval()


@pytest.fixture
def checkpoint(network):
    config = {"yaml": copy.deepcopy(network.yaml), "names": dict(NAMES), "img_size": 64}
    return {"task": "yolo", "config": config, "args": {}, "model": network.state_dict(), "ema": None}


def first_layer(*layer):
    return lambda checkpoint: checkpoint["config"]["yaml"]["backbone"].__setitem__(0, list(layer))


def architecture(**changes):
    return lambda checkpoint: checkpoint["config"]["yaml"].update(changes)


def config(**changes):
    return lambda checkpoint: checkpoint["config"].update(changes)


CODE = "__import__('os').system('true')"


@pytest.mark.parametrize(("change", "reason"), [
    (first_layer(-1, 1, "TorchVision", [16, "resnet18", "DEFAULT", True, 2]), "a layer 'TorchVision', which no"),
    (first_layer(-1, 1, "attempt_download_asset", ["http://example.org/y.pt"]), "'attempt_download_asset', which no"),
    (first_layer(-1, 1, "nn.Linear", [10**6, 10**6]), "'nn.Linear', which no"),
    (first_layer(-1, 1, "torchvision.ops.Permute", [[0, 1, 2, 3]]), "'torchvision.ops.Permute', which no"),
    (first_layer(-1, 1, "Conv", [CODE, 3, 2]), "a layer Conv with what no"),
    (first_layer(-1, 10**9, "Conv", [64, 3, 2]), "a layer Conv with what no"),
    (first_layer(-1, 1, "Conv", [10**6, 3, 2]), "a layer Conv with what no"),
    (first_layer(-1, 1, "Conv", [8192, 100, 2]), "builds no network .it takes"),
    (first_layer(7, 1, "Conv", [64, 3, 2]), "builds no network"),
    (first_layer(-1, 1, "Concat", []), "builds no network"),
    (first_layer(-1, 1, "Conv"), "not .from, repeats, module, arguments"),
    (architecture(activation=CODE), "an activation .*, which no"),
    (architecture(activation=[CODE]), "an activation .*, which no"),
    (architecture(scales={"n": [1e9, 1, 1024]}), "its scales are not"),
    (architecture(depth_multiple=1e9), "depth_multiple: 1000000000.0"),
    (architecture(kpt_shape=[17, 3]), "kpt_shape"),
    (architecture(scale="z"), "builds no network"),
    (architecture(head=[[-1, 1, "Classify", ["nc"]]]), "does not detect boxes"),
    (architecture(backbone=3), "a backbone and a head"),
    (config(yaml=3), "a backbone and a head"),
    (config(foo=1), "its config does not hold"),
    (lambda checkpoint: checkpoint["config"].pop("yaml"), "its config does not hold"),
    (lambda checkpoint: checkpoint["config"].pop("img_size"), "its config does not hold"),
    (lambda checkpoint: checkpoint.pop("config"), "its config does not hold"),
    (config(names=["qr", "signature", "stamp"]), "its class names are not numbered"),
    (config(names={0: "qr", 1: 2, 2: "stamp"}), "its class names are not numbered"),
    (config(img_size="64"), "its image size is 64"),
    (config(img_size=10**9), "its image size is 1000000000"),
    (lambda checkpoint: checkpoint.pop("model"), "holds no weights"),
    (lambda checkpoint: checkpoint.update(model={"a": 3}), "holds no weights"),
    (lambda checkpoint: checkpoint.update(ema=3), "holds no weights"),
])
def test_a_checkpoint_that_lies_is_refused_in_one_line(change, reason, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(torchvision.models, "get_model", lambda *_, **__: pytest.fail("weights were asked for"))
    path = tmp_path / "best.pt"
    change(checkpoint)
    save_checkpoint(path, checkpoint)
    for read in (yolo.load_model, lambda path, _: yolo.network_of(load_checkpoint(path), path),
                 lambda path, _: yolo.start_model(str(path), NAMES)):
        with pytest.raises(DataError, match=reason) as error:
            read(path, "cpu")
        assert str(error.value).startswith(f"{path}: ") and "\n" not in str(error.value)


@pytest.mark.parametrize(("change", "reason"), [
    (lambda model: model.yaml["backbone"].__setitem__(0, [-1, 1, "TorchVision", [16, "resnet18", "DEFAULT", True, 2]]),
     "a layer 'TorchVision', which no"),
    (lambda model: model.yaml.update(activation=CODE), "an activation .*, which no"),
    (lambda model: setattr(model, "names", None), "not a whole ultralytics checkpoint"),
    (lambda model: setattr(model, "names", {0: "qr", 2: "stamp"}), "its class names are not numbered"),
    (lambda model: setattr(model, "yaml", None), "a backbone and a head"),
])
def test_so_is_a_file_of_ultralytics(change, reason, network, tmp_path):
    model = copy.deepcopy(network)
    change(model)
    torch.save({"model": model, "train_args": {"imgsz": 64}}, tmp_path / "best.pt")
    with pytest.raises(DataError, match=reason) as error:
        yolo.load_model(tmp_path / "best.pt", "cpu")
    assert str(error.value).startswith(f"{tmp_path}/best.pt: ") and "\n" not in str(error.value)


def test_an_architecture_of_the_user_is_looked_at_too(network, tmp_path):
    content = copy.deepcopy(network.yaml) | {"backbone": [[-1, 1, "TorchVision", [16, "resnet18"]]]}
    (tmp_path / "mine.yaml").write_text(json.dumps(content))
    with pytest.raises(DataError, match="--model .*mine.yaml: names a layer 'TorchVision'"):
        yolo.start_model(str(tmp_path / "mine.yaml"), NAMES)


@pytest.mark.parametrize("name", ["yolo11s", "yolo12n", "yolo26n", "yolov8n-p2", "yolov9t", "yolov5n", "yolov6n",
                                  "yolov3-tiny"])
def test_what_ultralytics_brings_along_is_built(name):
    assert yolo.build_model(yolo.YoloConfig(yolo.yaml_model_load(f"{name}.yaml"), NAMES)).names == NAMES


def test_the_vocabulary_is_that_of_detection():
    known = vocabulary(SHIPPED)
    assert {"Conv", "C3k2", "Detect", "nn.Upsample"} <= known.layers
    assert not known.layers & {"TorchVision", "Classify", "Segment", "RTDETRDecoder", "WorldDetect"}
    assert known.words == {"None", "nearest", "nc"} and known.activations == {None, "torch.nn.ReLU()"}


def test_a_start_without_weights_says_which_network_it_is(network, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="--model yolo11: comes in sizes; name one: yolo11n, yolo11s, yolo11m, "):
        yolo.start_model("yolo11", NAMES)
    with pytest.raises(DataError, match="name one: yolov8n-p2.yaml, "):
        yolo.start_model("yolov8-p2.yaml", NAMES)
    assert yolo.start_model("yolo11n.yaml", NAMES)[1] == "random weights: yolo11n.yaml is an architecture alone"
    (tmp_path / "mine.yaml").write_text(json.dumps(network.yaml))
    (tmp_path / "odd.yaml").write_text(json.dumps(network.yaml | {"scales": 3}))
    with pytest.raises(DataError, match="--model odd.yaml: its scales are not"):
        yolo.start_model("odd.yaml", NAMES)
    model, source, _ = yolo.start_model("mine.yaml", NAMES)
    assert source.endswith("mine.yaml is an architecture alone, in its first size, n, of n, s, m, l, x")
    assert model.state_dict().keys() == network.state_dict().keys()


@pytest.mark.parametrize("architecture", ["yolo11n.yaml", "yolo26n.yaml"])
def test_classes_keep_what_is_known_of_their_name_whatever_their_number(tmp_path, architecture):
    source = yolo.start_model(architecture, NAMES)[0]
    with torch.no_grad():
        for head in (source.model[-1].cv3, getattr(source.model[-1], "one2one_cv3", None) or []):
            for branch in head:
                branch[-1].bias.copy_(torch.tensor([-10.0, -20.0, -30.0]))
    save_checkpoint(tmp_path / "marks.pt", {"task": "yolo", "config": {"yaml": source.yaml, "names": NAMES, "img_size": 64},
                                            "args": {}, "model": source.state_dict(), "ema": None})
    page = torch.rand(1, 3, 64, 64)

    def scores(names):
        torch.manual_seed(0)
        model, where, _ = yolo.start_model(str(tmp_path / "marks.pt"), names)
        return model.eval()(page)[0][0, 4:] if architecture == "yolo11n.yaml" else model.model[-1], where

    same, where = scores(dict(NAMES))
    assert where == f"weights of {tmp_path / 'marks.pt'}"
    swapped, where = scores({0: "stamp", 1: "QR", 2: "signature"})
    assert where.endswith("; by name: stamp, QR, signature")
    more, said = scores({0: "logo", 1: "stamp", 2: "qr", 3: "seal"})
    assert said.endswith("; by name: stamp, qr; from random weights: logo, seal")
    none, nothing = scores({0: "a", 1: "b", 2: "c"})
    assert nothing.endswith("; by name: no class; from random weights: a, b, c")
    if architecture == "yolo11n.yaml":
        assert torch.equal(swapped, same[[2, 0, 1]]) and torch.equal(more[[1, 2]], same[[2, 0]])
        return
    for head in (same, swapped, more, none):
        assert all((branch[-1].bias[0] < -9).item() == (head is not more and head is not none)
                   for branch in [*head.cv3, *head.one2one_cv3])
    assert swapped.one2one_cv3[0][-1].bias.tolist() == [-30.0, -10.0, -20.0] == swapped.cv3[1][-1].bias.tolist()
