"""The published model's weights: their layout, their conversion, and the same logits as a plain reference."""

from dataclasses import asdict

import cv2
import numpy as np
import pytest
import torch

from models.parseq import load_model
from models.read_lines import recognise
from models.parseq_weights import convert, init_from
from parseq_published import PUBLISHED_CHARACTERS, PublishedPARSeq, published_weights
from parseq_reference import make_model
from utils.checkpoint import save_checkpoint
from utils.errors import DataError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(model, path of its checkpoint): PARSeq-Ti in the published layout."""
    model, folder = published_weights(), tmp_path_factory.mktemp("weights")
    torch.save(model.state_dict(), folder / "in.pt")
    convert(folder / "in.pt", folder / "out.pt")
    return model, folder / "out.pt"


def test_the_reference_has_the_published_layout():
    """As published for PARSeq-S (vit: patch 4 x 8, 12 blocks; one decoder layer), from the paper and its weights."""
    shapes = {name: tuple(value.shape) for name, value in PublishedPARSeq(384, 6, 12).state_dict().items()}
    assert len(shapes) == 175 and sum(np.prod(shape) for shape in shapes.values()) == pytest.approx(23.83e6, abs=5e4)
    layer = "decoder.layers.0."
    for name, shape in {
            "pos_queries": (1, 26, 384), "text_embed.embedding.weight": (97, 384), "head.weight": (95, 384),
            "encoder.pos_embed": (1, 128, 384), "encoder.patch_embed.proj.weight": (384, 3, 4, 8),
            "encoder.blocks.11.attn.qkv.weight": (1152, 384), "encoder.blocks.11.mlp.fc1.weight": (1536, 384),
            "encoder.norm.weight": (384,), layer + "self_attn.in_proj_weight": (1152, 384),
            layer + "cross_attn.out_proj.weight": (384, 384), layer + "linear1.weight": (1536, 384),
            layer + "linear2.weight": (384, 1536), layer + "norm1.weight": (384,), layer + "norm2.weight": (384,),
            layer + "norm_q.weight": (384,), layer + "norm_c.weight": (384,), "decoder.norm.weight": (384,)}.items():
        assert shapes[name] == shape, name


@pytest.mark.parametrize("decode, refine_iters", [("ar", 0), ("ar", 1), ("ar", 3), ("nar", 0), ("nar", 2)])
def test_converted_weights_give_the_published_logits(published, decode, refine_iters):
    reference, path = published
    model, _ = load_model(path, CPU)
    images = torch.randn(3, 3, 32, 128, generator=torch.Generator().manual_seed(4))
    expected = reference.read(images, decode, refine_iters)
    with torch.no_grad():
        logits = model.decode(model.encoder(images)[0], None, decode, refine_iters)
    assert logits.shape == expected.shape and logits.std() > 0.1
    assert (logits - expected).abs().max() < 1e-4
    assert torch.equal(logits.argmax(-1), expected.argmax(-1))
    assert len({tuple(row) for row in expected.argmax(-1).tolist()}) == 3  # the images are told apart


def test_crops_are_stretched_as_in_the_published_training(published):
    """32 x 128 whatever the aspect ratio, normalised to [-1, 1]; read without padding."""
    reference, path = published
    model, _ = load_model(path, CPU)
    assert model.config.stretch and model.config.characters == PUBLISHED_CHARACTERS
    crop = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    wide = cv2.resize(crop, (128, 32), interpolation=cv2.INTER_CUBIC)
    image = torch.from_numpy(wide.transpose(2, 0, 1).copy())[None] / 255 * 2 - 1
    expected = model.charset.decode(reference.read(image, "ar", 1)[0].argmax(-1).tolist())
    assert recognise(model, [crop], CPU)[0][0] == expected


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {f"model.{k}": v for k, v in s.items()},
                                  lambda s: {"state_dict": {f"model.{k}": v for k, v in s.items()}, "epoch": 3},
                                  lambda s: {f"module.{k}": v for k, v in s.items()}])
def test_wrapped_state_dicts_are_unwrapped(wrap, tmp_path):
    weights = published_weights(depth=1, dim=64, heads=1, decoder_heads=2).state_dict()
    torch.save(wrap(weights), tmp_path / "in.ckpt")
    convert(tmp_path / "in.ckpt", tmp_path / "out.pt")
    found = load_model(tmp_path / "out.pt", CPU)[0].state_dict()
    assert found.keys() == weights.keys() and all(torch.equal(value, weights[name]) for name, value in found.items())


def test_other_sizes_and_charsets(tmp_path):
    model = published_weights(depth=2, characters=5, longest=7)
    torch.save(model.state_dict(), tmp_path / "in.pt")
    with pytest.raises(DataError, match="5 characters, which it does not name; give them by --charset"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")
    (tmp_path / "four.txt").write_text("가나다a", "utf-8")
    with pytest.raises(DataError, match="5 characters, and .*four.txt holds 4"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt", tmp_path / "four.txt")
    (tmp_path / "five.txt").write_text("가나다ab", "utf-8")
    config = convert(tmp_path / "in.pt", tmp_path / "out.pt", tmp_path / "five.txt")
    assert (config.characters, config.depth, config.max_label_length) == ("가나다ab", 2, 7)
    assert not list(tmp_path.glob("*.tmp*"))


class Code:
    def __reduce__(self):
        return print, ("code was run",)


@pytest.mark.parametrize("content, words", [
    ({"a": Code()}, "would run code"), ([1, 2], "no state dict"), ({"a": 1}, "no state dict"),
    ({"a": torch.zeros(1)}, "no published PARSeq")])
def test_other_files_are_refused_and_nothing_in_them_is_run(content, words, tmp_path, capsys):
    torch.save(content, tmp_path / "in.pt")
    with pytest.raises(DataError, match=words):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")
    assert "code was run" not in capsys.readouterr().out and not (tmp_path / "out.pt").exists()


def test_missing_damaged_and_coarse_weights(tmp_path, published):
    with pytest.raises(DataError, match="no such file"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")
    (tmp_path / "in.pt").write_bytes(b"cut")
    with pytest.raises(DataError, match="in.pt: "):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")
    weights = published[0].state_dict()
    del weights["decoder.layers.0.norm_c.bias"]
    torch.save(weights, tmp_path / "in.pt")
    with pytest.raises(DataError, match="do not fit.*norm_c.bias"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")
    weights |= {"encoder.patch_embed.proj.weight": torch.zeros(192, 3, 16, 16), "encoder.pos_embed": torch.zeros(1, 16, 192)}
    torch.save(weights, tmp_path / "in.pt")
    with pytest.raises(DataError, match="too coarse"):
        convert(tmp_path / "in.pt", tmp_path / "out.pt")


def test_a_training_starts_from_published_weights(published):
    model = make_model(dim=192, depth=12, img_width=128, characters="ab가", max_label_length=25)
    assert "2 of 3 characters are known" in init_from(model, published[1])
    a = PUBLISHED_CHARACTERS.index("a") + 1
    assert torch.equal(model.head.weight[1], published[0].head.weight[a])


def test_checkpoints_from_before_a_config_field_are_read(tmp_path):
    model = make_model()
    config = {name: value for name, value in asdict(model.config).items() if name != "stretch"}
    save_checkpoint(tmp_path / "old.pt", {"task": "recognition", "config": config, "ema": None,
                                          "charset_digest": model.charset.digest, "model": model.state_dict()})
    assert load_model(tmp_path / "old.pt", CPU)[0].config == model.config
