"""PARSeq's parameters: the published layout, sizes that are refused, checkpoints, and starting from other weights."""

from dataclasses import asdict, replace

import pytest
import torch

from models.parseq import ARCHS, PARSeq, PARSeqConfig, build_model, load_model
from models.parseq_loss import parseq_loss
from models.parseq_weights import init_from, start_from_frequencies
from parseq_reference import CHARACTERS, TINY, encode, make_images, make_model
from utils.charset import EOS, Charset, build_charset, token_counts, unigram_entropy
from utils.checkpoint import save_checkpoint
from utils.errors import DataError


@pytest.mark.parametrize("arch, dim, million", [("parseq-s", 384, 23.8), ("parseq-ti", 192, 6.0)])
def test_state_dict_has_the_published_names_and_shapes(arch, dim, million):
    characters = "".join(chr(code) for code in range(33, 127))  # the published 94 characters
    model = build_model(PARSeqConfig(characters, **ARCHS[arch]))
    expected = {"pos_queries": (1, 26, dim), "text_embed.embedding.weight": (97, dim), "head.weight": (95, dim),
                "head.bias": (95,), "encoder.pos_embed": (1, 128, dim),
                "encoder.patch_embed.proj.weight": (dim, 3, 4, 8), "encoder.patch_embed.proj.bias": (dim,)}

    def add(prefix: str, *shape: int) -> None:
        expected.update({f"{prefix}.weight": shape, f"{prefix}.bias": shape[:1]})

    for block in range(12):
        start = f"encoder.blocks.{block}."
        add(start + "norm1", dim), add(start + "norm2", dim)
        add(start + "attn.qkv", 3 * dim, dim), add(start + "attn.proj", dim, dim)
        add(start + "mlp.fc1", 4 * dim, dim), add(start + "mlp.fc2", dim, 4 * dim)
    layer = "decoder.layers.0."
    for attention in ("self_attn", "cross_attn"):
        expected[f"{layer}{attention}.in_proj_weight"] = (3 * dim, dim)
        expected[f"{layer}{attention}.in_proj_bias"] = (3 * dim,)
        add(f"{layer}{attention}.out_proj", dim, dim)
    add(layer + "linear1", 4 * dim, dim), add(layer + "linear2", dim, 4 * dim)
    for norm in ("norm1", "norm2", "norm_q", "norm_c"):
        add(layer + norm, dim)
    add("encoder.norm", dim), add("decoder.norm", dim)
    assert {name: tuple(value.shape) for name, value in model.state_dict().items()} == expected
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(million, abs=0.05)


def test_ids_and_sizes():
    model = make_model()
    size = len(CHARACTERS) + 3
    assert (EOS, model.charset.bos, model.charset.pad) == (0, size - 2, size - 1)
    assert model.head.out_features == size - 2 and model.text_embed.embedding.num_embeddings == size


@pytest.mark.parametrize("changes, words", [
    ({"img_width": 8, "bucket": 8}, "too few"),
    ({"patch_height": 16, "patch_width": 16, "max_label_length": 2}, "too coarse"),
    ({"img_width": 60}, "not a multiple"),
    ({"bucket": 4}, "not a multiple"),
    ({"perm_num": 3}, "even number"),
    ({"perm_num": 0}, "even number"),
    ({"stem": "conv", "patch_height": 2}, "conv stem"),
])
def test_sizes_that_cannot_work_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **changes)


def test_scaled_positions_are_another_model():
    plain, scaled = make_model(), make_model(scale_positions=True)
    tokens = encode(plain, ["abc"])[:, :-1]
    a, b = plain.context(tokens)[0], scaled.context(tokens)[0]
    torch.testing.assert_close(a[:, :, 0], b[:, :, 0])  # BOS has no position
    assert not torch.allclose(a[:, :, 1:], b[:, :, 1:])


def save(model, path, **changes) -> None:
    checkpoint = {"task": "recognition", "config": asdict(model.config), "charset_digest": model.charset.digest,
                  "model": model.state_dict(), "ema": None}
    save_checkpoint(path, checkpoint | changes)


def test_a_checkpoint_rebuilds_its_model(tmp_path):
    model = make_model(stem="conv", ctc=True)
    save(model, tmp_path / "a.pt")
    loaded, checkpoint = load_model(tmp_path / "a.pt", torch.device("cpu"))
    assert loaded.config == model.config and not loaded.training and checkpoint["task"] == "recognition"
    for decode in ("ar", "nar"):
        assert torch.equal(loaded.read(make_images(), decode=decode)[0], model.read(make_images(), decode=decode)[0])


def test_a_checkpoint_with_another_charset_is_refused(tmp_path):
    model = make_model()
    save(model, tmp_path / "a.pt", config=asdict(model.config) | {"characters": "gfedcba한글"})
    with pytest.raises(DataError, match="charset"):
        load_model(tmp_path / "a.pt", torch.device("cpu"))
    save(model, tmp_path / "b.pt", config=asdict(model.config) | {"characters": "abc"},
         charset_digest=Charset("abc").digest)
    with pytest.raises(DataError, match="do not fit"):
        load_model(tmp_path / "b.pt", torch.device("cpu"))


def test_fine_tuning_keeps_what_both_charsets_share(tmp_path):
    old = make_model()
    save(old, tmp_path / "old.pt")
    new = make_model(seed=1, characters="글xgab", max_label_length=10, img_width=128)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    line = init_from(new, tmp_path / "old.pt")
    assert "4 of 5 characters" in line
    for character in "글gab":
        a, b = new.charset.ids[character], old.charset.ids[character]
        assert torch.equal(new.head.weight[a], old.head.weight[b]) and torch.equal(new.head.bias[a], old.head.bias[b])
        assert torch.equal(new.text_embed.embedding.weight[a], old.text_embed.embedding.weight[b])
    new_words, old_words = new.text_embed.embedding.weight, old.text_embed.embedding.weight
    assert torch.equal(new_words[[EOS, new.charset.pad]], old_words[[EOS, old.charset.pad]])
    assert torch.equal(new.head.weight[new.charset.ids["x"]], before["head.weight"][new.charset.ids["x"]])
    assert torch.equal(new.pos_queries[:, :9], old.pos_queries)
    assert torch.equal(new.encoder.pos_embed.view(8, 16, -1)[:, :8], old.encoder.pos_embed.view(8, 8, -1))
    assert torch.equal(new.encoder.blocks[0].attn.qkv.weight, old.encoder.blocks[0].attn.qkv.weight)


def test_the_same_charset_starts_equal_and_another_network_is_refused(tmp_path):
    old = make_model(ctc=True)
    save(old, tmp_path / "old.pt")
    new = make_model(seed=1, ctc=True)
    init_from(new, tmp_path / "old.pt")
    for name, value in new.state_dict().items():
        assert torch.equal(value, old.state_dict()[name]), name
    with pytest.raises(DataError, match="another network"):
        init_from(make_model(dim=96), tmp_path / "old.pt")
    conv = make_model(seed=2, stem="conv")
    assert "encoder.patch_embed" in init_from(conv, tmp_path / "old.pt")


def test_a_ctc_head_keeps_the_characters_that_both_know_in_each_of_its_frames(tmp_path):
    old = make_model(ctc=True)
    save(old, tmp_path / "old.pt")
    new = make_model(seed=1, characters="글xgab", ctc=True)
    before = {name: value.clone() for name, value in new.state_dict().items()}
    assert "left at random" not in init_from(new, tmp_path / "old.pt")
    assert new.config.ctc_frames == 2
    for name in ("ctc_head.weight", "ctc_head.bias"):
        mine, theirs, random = (rows.unflatten(0, (2, -1)) for rows in (
            new.state_dict()[name], old.state_dict()[name], before[name]))
        for here, there in [(EOS, EOS), *((new.charset.ids[c], old.charset.ids[c]) for c in "글gab")]:  # EOS is blank
            assert torch.equal(mine[:, here], theirs[:, there]), (name, here)
        assert torch.equal(mine[:, new.charset.ids["x"]], random[:, new.charset.ids["x"]])


def test_other_arithmetic_is_refused_by_the_flag_that_sets_it(tmp_path):
    old = make_model(scale_positions=True)
    save(old, tmp_path / "old.pt")
    with pytest.raises(DataError, match="scale_positions is True, not False; take --scale-positions$"):
        init_from(make_model(), tmp_path / "old.pt")
    save(make_model(), tmp_path / "old.pt")
    for changes, way_out in (({"scale_positions": True}, "--no-scale-positions"), ({"depth": 3}, "--depth 2"),
                             ({"img_height": 64}, "--img-height 32"), ({"patch_height": 8}, "--patch-height 4"),
                             ({"dim": 96}, "--arch")):
        with pytest.raises(DataError, match=f"another network: .*; take .*{way_out}"):
            init_from(make_model(**changes), tmp_path / "old.pt")
    for other, arch in ((make_model(**ARCHS["parseq-ti"]), "parseq-ti"),):
        save(other, tmp_path / "old.pt")
        with pytest.raises(DataError, match=f"take --arch {arch}$"):
            init_from(make_model(), tmp_path / "old.pt")
    resnet = {"stem": "resnet", "patch_height": 32, "patch_width": 4}
    save(make_model(**resnet), tmp_path / "old.pt")
    with pytest.raises(DataError, match="take --stem resnet$"):
        init_from(make_model(), tmp_path / "old.pt")
    save(make_model(), tmp_path / "old.pt")
    with pytest.raises(DataError, match="take --stem patch$"):
        init_from(make_model(**resnet), tmp_path / "old.pt")
    said = init_from(make_model(stretch=True), tmp_path / "old.pt")
    assert "warning: it was trained without --stretch" in said
    assert "warning" not in init_from(make_model(), tmp_path / "old.pt")


def test_a_model_knows_whether_its_decoder_was_trained(tmp_path):
    for args, trained in (({"decoder_weight": 0.0}, False), ({"decoder_weight": 1.0}, True), ({}, True)):
        save(make_model(ctc=True), tmp_path / "a.pt", args=args)
        assert load_model(tmp_path / "a.pt", torch.device("cpu"))[0].decoder_trained is trained


def test_a_new_model_begins_at_the_entropy_of_the_labels():
    texts = ["가나나", "ab가", "b", "가가가가"] * 5
    torch.manual_seed(0)
    model = PARSeq(PARSeqConfig(build_charset("ksx1001", []).characters, dim=48, depth=1, heads=3, decoder_heads=3,
                                dropout=0.0, ctc=True))
    images, widths = torch.zeros(len(texts), 3, 32, 128), torch.full((len(texts),), 128)
    rows = [model.charset.encode(text) for text in texts]
    tokens = torch.tensor([row + [model.charset.pad] * (6 - len(row)) for row in rows])

    def loss():
        outputs = model(images, widths, tokens, 0)
        return parseq_loss(outputs, 1.0)[0]["cross_entropy"].item(), outputs["ctc_logits"].softmax(-1)

    before, _ = loss()
    start_from_frequencies(model, token_counts(texts))
    after, frames = loss()
    assert before > 7 and after == pytest.approx(unigram_entropy(token_counts(texts)), abs=0.4)  # EOS is no target of other orders
    assert frames[..., 0].mean().item() == pytest.approx(0.8, abs=0.05)
    torch.testing.assert_close(frames.sum(-1), torch.ones(frames.shape[:2]))
    start_from_frequencies(model, {})  # no label at all: equal chances
    torch.testing.assert_close(model.head.bias, model.head.bias[:1].expand(len(model.head.bias)))
