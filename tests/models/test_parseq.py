"""PARSeq against slow, obvious references: the paper's loops, torch's own attention, timm's ViT."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.ctc import BLANK, path_logits
from models.parseq import build_model, read_texts, sample_permutations, visible_keys
from models.parseq_loss import caseless_samples, parseq_loss
from parseq_reference import CHARACTERS, TINY, ReferenceDecoder, encode, make_images, make_model, reference_read
from utils.charset import EOS, Charset
from utils.text_crops import stack_crops


PATCHES = {"resnet": (32, 4)}  # (height, width) in pixels of a stem's tokens, where it is not the published one


def upto_eos(ids: torch.Tensor) -> list[list[int]]:
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in ids.tolist()]


@pytest.mark.parametrize("decode, refine_iters", [("ar", 0), ("ar", 1), ("ar", 2), ("nar", 0), ("nar", 1)])
def test_reading_equals_the_recomputing_reference(decode, refine_iters):
    for seed in range(3):
        model, images = make_model(seed), make_images()
        memory, _ = model.encoder(images)
        expected = reference_read(model, memory, decode, refine_iters)
        with torch.no_grad():
            logits = model.decode(memory, None, decode, refine_iters)
        assert upto_eos(logits.argmax(-1)) == upto_eos(expected.argmax(-1))
        steps = logits.shape[1]
        if refine_iters == 0:
            torch.testing.assert_close(logits, expected[:, :steps], rtol=1e-4, atol=1e-5)
        else:
            assert steps == expected.shape[1]
            # the context of a refinement ends at EOS, so stopping early changes nothing at any position
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_reading_stops_when_every_row_has_ended():
    model = make_model()
    with torch.no_grad():
        model.head.bias[EOS] = 100
    ids, probabilities = model.read(make_images(), refine_iters=0)
    assert ids.tolist() == [[EOS]] * 5 and probabilities.shape == (5, 1)


def test_reading_without_eos_goes_to_the_full_length():
    model = make_model()
    with torch.no_grad():
        model.head.bias[EOS] = -100
    ids, _ = model.read(make_images())
    assert ids.shape == (5, 9) and not (ids == EOS).any()


# ---- training on permutations


def loop_over_permutations(model, images, tokens, orders) -> tuple[float, int]:
    """The published training step: one decoder pass a permutation, masks filled in cell by cell."""
    decoder, pad = ReferenceDecoder(model), model.charset.pad
    with torch.no_grad():
        memory, _ = model.encoder(images)
    read, targets = tokens[:, :-1], tokens[:, 1:]
    padding = (read == pad) | (read == EOS)
    query = model.pos_queries[:, : read.shape[1]].expand(len(tokens), -1, -1)
    total, count = 0.0, 0
    for number, order in enumerate(orders.tolist()):
        hidden = torch.zeros(len(order), len(order), dtype=torch.bool)
        for place, reader in enumerate(order):
            for unread in order[place:]:
                hidden[reader, unread] = True
        logits = decoder(memory, read, query, hidden[1:, :-1], padding)
        if number == 2:
            targets = torch.where(targets == EOS, pad, targets)
        total += F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=pad, reduction="sum").item()
        count += int((targets != pad).sum())
    return total / count, count


@pytest.mark.parametrize("texts", [["abcdefg", "ab", "한글abc"], ["abcde"], ["abcd", "a"], ["abc", "ba"], ["ab"],
                                   ["a", "b"]])
def test_batched_permutations_equal_the_loop(texts):
    model = make_model()
    images, tokens = make_images(len(texts)), encode(model, texts)
    widths = torch.full((len(texts),), 64)
    orders = sample_permutations(tokens.shape[1] - 2, model.config, seed=3)
    expected, count = loop_over_permutations(model, images, tokens, orders)
    parts, weight = parseq_loss(model(images, widths, tokens, 3))
    assert weight == count
    assert parts["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_leaving_places_out_changes_no_gradient():
    """Places behind a label's end are not computed; with them, and their losses ignored, all gradients are the same."""
    model = make_model()
    tokens, images = encode(model, ["abcdefg", "a", "한글abc", ""]), make_images(4)
    orders = sample_permutations(tokens.shape[1] - 2, model.config, seed=3)
    memory = model.encoder(images)[0].detach().requires_grad_()

    def gradients(loss):
        return torch.autograd.grad(loss, [memory, model.pos_queries, *model.decoder.parameters()])

    packed = gradients(parseq_loss(model.permuted(memory, None, tokens, orders))[0]["loss"])
    everywhere = torch.ones(4, len(orders), tokens.shape[1] - 1, dtype=torch.bool)
    logits = model.head(model.decode_permutations(memory, None, tokens, orders, everywhere))
    targets = tokens[:, None, 1:].repeat(1, len(orders), 1)
    targets[:, 2:][targets[:, 2:] == EOS] = model.charset.pad
    plain = gradients(F.cross_entropy(logits, targets.flatten(), ignore_index=model.charset.pad))
    for one, other in zip(packed, plain):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_permutations_of_longer_words():
    config = TINY
    orders = sample_permutations(8, config, seed=7)
    assert orders.shape == (6, 10)
    assert orders[0].tolist() == list(range(10))
    assert orders[1].tolist() == [0, 9, 8, 7, 6, 5, 4, 3, 2, 1]  # right to left, EOS with an empty context
    for number, order in enumerate(orders.tolist()):
        assert sorted(order) == list(range(10)) and order[0] == 0
        assert number == 1 or order[-1] == 9
    for forward, mirrored in (orders[2:4].tolist(), orders[4:6].tolist()):
        assert forward[1:-1] == mirrored[1:-1][::-1]
    assert not torch.equal(orders, sample_permutations(8, config, seed=8))
    assert torch.equal(orders, sample_permutations(8, config, seed=7))


@pytest.mark.parametrize("length, rows", [(1, 1), (2, 2), (3, 6), (4, 6)])
def test_short_words_draw_from_all_orders_without_repetition(length, rows):
    for seed in range(20):
        orders = sample_permutations(length, TINY, seed)
        inner = [tuple(p for p in order if 0 < p <= length) for order in orders.tolist()]
        assert len(orders) == rows and len(set(inner)) == rows
        assert set(inner) <= set(itertools.permutations(range(1, length + 1)))


def test_micro_batches_of_one_step_share_the_orders_of_their_common_places():
    long, short = (sample_permutations(length, TINY, seed=5) for length in (8, 5))
    for row_long, row_short in zip(long.tolist()[2:], short.tolist()[2:]):
        assert [p for p in row_long if 1 <= p <= 5] == [p for p in row_short if 1 <= p <= 5]


def test_masks_from_ranks():
    order = torch.tensor([[0, 2, 1, 3]])  # reads place 2, then 1, then EOS
    assert visible_keys(order)[0].tolist() == [[True, False, True], [True, False, False], [True, True, True]]


def test_left_to_right_loss_does_not_look_ahead():
    """The fault of a missing shift: the logits for place t must ignore the targets from t on."""
    model = make_model()
    images = make_images(1)
    memory, _ = model.encoder(images)
    orders = sample_permutations(6, model.config, seed=0)[:1]
    for t in range(6):
        one, other = encode(model, ["abcdef", "abcdef"[:t] + "gggggg"[t:]]).split(1)
        everywhere = torch.ones(1, 1, 7, dtype=torch.bool)
        a, b = (model.decode_permutations(memory, None, tokens, orders, everywhere) for tokens in (one, other))
        torch.testing.assert_close(a[: t + 1], b[: t + 1])
        assert t == 5 or not torch.allclose(a[t + 1], b[t + 1])


def test_accumulated_micro_batches_equal_the_large_batch():
    model = make_model(ctc=True)
    texts = ["abcdefg", "ab", "한글abc", "gfedcba"]
    images, widths, tokens = make_images(4), torch.tensor([64, 16, 40, 60]), encode(model, texts)
    whole, weight = parseq_loss(model(images, widths, tokens, 11), 0.5)
    parts = [parseq_loss(model(images[s], widths[s], encode(model, texts[s]), 11), 0.5)
             for s in (slice(0, 1), slice(2, 4))] + [parseq_loss(model(images[1:2], widths[1:2], tokens[1:2], 11), 0.5)]
    assert sum(w for _, w in parts) == weight
    for name in whole:
        joined = sum(part[name] * w for part, w in parts) / weight
        torch.testing.assert_close(joined, whole[name])


# ---- encoder


def test_encoder_equals_timms_vision_transformer():
    from timm.models.vision_transformer import VisionTransformer

    model = make_model()
    reference = VisionTransformer((32, 64), (4, 8), embed_dim=48, depth=2, num_heads=3, num_classes=0, global_pool="",
                                  class_token=False).eval()
    reference.load_state_dict(model.encoder.state_dict())
    memory, visible = model.encoder(make_images())
    assert visible is None and memory.shape == (5, 8 * 8, 48)  # one token a patch: no CLS among them
    torch.testing.assert_close(memory, reference.forward_features(make_images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stem", ["patch", "conv", "resnet"])
def test_padding_changes_nothing(stem):
    high, wide_patch = PATCHES.get(stem, (4, 8))
    model = make_model(stem=stem, patch_height=high, patch_width=wide_patch)
    crop = np.random.default_rng(0).integers(0, 256, (32, 21, 3), np.uint8)
    wide = np.random.default_rng(1).integers(0, 256, (32, 60, 3), np.uint8)
    alone, width = stack_crops([crop], 8, 64)
    together, widths = stack_crops([crop, wide], 16, 64)
    assert alone.shape[3] == 24 and together.shape[3] == 64
    memory, _ = model.encoder(alone, width)
    padded, visible = model.encoder(together, widths)
    rows, columns, used = 32 // high, 64 // wide_patch, 24 // wide_patch
    grid = padded[0].view(rows, columns, -1)
    torch.testing.assert_close(grid[:, :used], memory[0].view(rows, used, -1), rtol=1e-4, atol=1e-5)
    assert visible[0, 0, 0].view(rows, columns).int().tolist() == [[1] * used + [0] * (columns - used)] * rows
    assert visible[1].sum() == rows * math.ceil(60 / wide_patch)
    one, many = read_texts(model, alone, width, "ar", 1), read_texts(model, together, widths, "ar", 1)
    assert one[0][0] == many[0][0] and one[0][1] == pytest.approx(many[0][1], rel=1e-4)


def test_the_resnet_stem_wants_whole_columns_of_pixels():
    for sizes in ({"patch_height": 8, "patch_width": 8}, {"patch_height": 32, "patch_width": 8},
                  {"img_height": 40, "patch_height": 40, "patch_width": 4}):
        with pytest.raises(ValueError, match="the resnet stem makes a token of 4 columns of pixels"):
            replace(TINY, stem="resnet", **sizes)
    tall = make_model(stem="resnet", img_height=48, patch_height=48, patch_width=4)
    memory, _ = tall.encoder(torch.zeros(2, 3, 48, 64))
    assert memory.shape == (2, 16, 48)


# ---- the auxiliary CTC head


@pytest.mark.parametrize("stem, widths, frames", [("conv", [16, 9], [4, 4]), ("resnet", [16, 9], [4, 3])])
def test_the_ctc_head_emits_a_frame_every_four_pixels(stem, widths, frames):
    high, wide = PATCHES.get(stem, (4, 8))
    model = make_model(stem=stem, patch_height=high, patch_width=wide, ctc=True)
    outputs = model(make_images(2, 16), torch.tensor(widths), encode(model, ["ab", "a"]), 0)
    assert outputs["ctc_lengths"].tolist() == frames and outputs["ctc_logits"].shape[:2] == (2, 4)


def test_ctc_is_the_textbook_sum_over_alignments():
    model = make_model(ctc=True)
    images, widths, tokens = make_images(2, 16), torch.tensor([16, 8]), encode(model, ["ab", "a"])
    outputs = model(images, widths, tokens, 0)
    assert outputs["ctc_lengths"].tolist() == [4, 2] and outputs["ctc_logits"].shape == (2, 4, len(CHARACTERS) + 1)
    parts, weight = parseq_loss(outputs, 1.0)
    probabilities = outputs["ctc_logits"].softmax(-1).tolist()
    total = 0.0
    for row, label, frames in ((0, [1, 2], 4), (1, [1], 2)):
        likelihood = 0.0
        for path in itertools.product(range(len(CHARACTERS) + 1), repeat=frames):
            if [symbol for symbol, _ in itertools.groupby(path) if symbol] == label:
                likelihood += math.prod(probabilities[row][frame][symbol] for frame, symbol in enumerate(path))
        total -= math.log(likelihood)
    assert parts["ctc"].item() == pytest.approx(total * outputs["perm_num"] / weight, rel=1e-4)
    assert parts["loss"].item() == pytest.approx(parts["cross_entropy"].item() + parts["ctc"].item(), rel=1e-5)


def test_labels_without_case_sum_over_all_ways_to_write_them():
    model = make_model(characters="aAbB1", ctc=True)
    images, widths, tokens = make_images(3, 16), torch.tensor([16, 16, 16]), encode(model, ["AB1", "AB1", "ab1"])
    outputs = model(images, widths, tokens, 0)
    caseless = caseless_samples(["d/a.png", "made:7", "dd/a.png"], ["d"], model.charset, "cpu")
    assert caseless.samples.tolist() == [True, False, False] and caseless.pairs.tolist() == [[2, 4], [1, 3]]
    parts, weight = parseq_loss(outputs, 1.0, 1.0, caseless)
    probabilities = outputs["ctc_logits"].softmax(-1).double()
    total, folded = 0.0, probabilities[0].clone()
    folded[:, [1, 3]], folded[:, [2, 4]] = 0, probabilities[0][:, [1, 3]] + probabilities[0][:, [2, 4]]
    for frames, label in ((folded, [2, 4, 5]), (probabilities[1], [2, 4, 5]), (probabilities[2], [1, 3, 5])):
        likelihood = sum(math.prod(frames[place][symbol].item() for place, symbol in enumerate(path))
                         for path in itertools.product(range(6), repeat=4)
                         if [symbol for symbol, _ in itertools.groupby(path) if symbol] == label)
        total -= math.log(likelihood)
    assert parts["ctc"].item() == pytest.approx(total * outputs["perm_num"] / weight, rel=1e-4)
    answers = outputs["logits"].softmax(-1).double()
    expected = [(answer[[target, target - 1]].sum() if sample == 0 and target in (2, 4) else answer[target]).log()
                for answer, target, sample in zip(answers, outputs["targets"].tolist(), outputs["samples"].tolist())]
    assert parts["cross_entropy"].item() == pytest.approx(-sum(expected).item() / weight, rel=1e-5)
    assert caseless_samples(["d/a.png"], [], model.charset, "cpu") is None


def test_a_label_too_long_for_the_ctc_frames_costs_nothing_there():
    model = make_model(ctc=True)
    parts, _ = parseq_loss(model(make_images(1, 8), torch.tensor([8]), encode(model, ["abcdefg"]), 0), 1.0)
    assert parts["ctc"].item() == 0 and torch.isfinite(parts["loss"])


def frame_by_frame(frames: torch.Tensor, case_pairs: list[tuple[int, int]]) -> list[int]:
    """What models/ctc.py says of a line (F, V), frame by frame, then collapsed."""
    ids = []
    for frame in frames.softmax(-1).tolist():
        for capital, small in case_pairs:
            loser, winner = sorted((capital, small), key=lambda letter: frame[letter])
            frame[winner], frame[loser] = frame[winner] + frame[loser], 0.0
        ids.append(EOS if frame[EOS] > BLANK else max(range(1, len(frame)), key=lambda symbol: frame[symbol]))
    return [symbol for symbol, _ in itertools.groupby(ids) if symbol != EOS]


def test_the_path_is_the_collapsed_choice_of_each_frame():
    """Of random frames, more or less sure; what lies in the padding is not read."""
    generator = torch.Generator().manual_seed(0)
    for blank in (-3.0, 0.0, 2.0, 30.0):
        for pairs in ([], [(1, 3)], [(1, 3), (4, 2)]):
            frames = torch.randn(50, 12, 6, generator=generator) * 3
            frames[..., EOS] += blank
            used = torch.randint(1, 13, (50,), generator=generator).tolist()
            logits = path_logits(frames, used, 13, pairs)
            assert torch.isfinite(logits).all()
            for row, end, ours in zip(frames, used, logits.argmax(-1).tolist()):
                assert (ours + [EOS])[: (ours + [EOS]).index(EOS)] == frame_by_frame(row[:end], pairs)
    assert path_logits(frames[:0], [], 13, []).shape[0] == 0
    torn = torch.tensor([[0.0, logit] for logit in torch.linspace(-1, -0.7, 400).tolist()]).to(torch.bfloat16)
    read = path_logits(torn[:, None], [1] * 400, 3, []).argmax(-1)[:, 0]
    rounded = torn.softmax(-1)[:, EOS] > BLANK  # of the probabilities in 16 bits
    assert torch.equal(read == EOS, rounded) and 0 < rounded.sum() < 400
    cut = path_logits(torch.eye(4)[None, [1, 2, 3, 1, 2]] * 9, [5], 3, []).argmax(-1)
    assert cut.tolist() == [[1, 2, 3]]  # no longer than the longest label and its end


def test_a_letter_torn_between_its_cases_or_two_frames_is_read():
    """By hand: A and a, ids 1 and 2, beside a blank of 0.4; then id 3 in two frames of 0.35, their blanks at 0.6."""
    shares = torch.tensor([[.4, .31, .27, .02], [.97, .01, .01, .01], [.6, .03, .02, .35], [.6, .03, .02, .35]])
    logits = path_logits(shares.log()[None], [4], 9, [(1, 2)])
    assert logits.argmax(-1).tolist() == [[1, 3, EOS]]
    a, three, end = logits.softmax(-1).amax(-1)[0].tolist()
    assert a == pytest.approx(.58) and end == pytest.approx(.97, abs=1e-3)
    assert three == pytest.approx(.35 / (.35 + .35 + .05), abs=1e-3)  # no more sure than the blank that was passed over


def test_a_path_is_as_sure_as_its_surest_frames_and_its_least_sure_blank():
    shares = torch.tensor([[.6, .3, .1], [.2, .7, .1], [.05, .9, .05], [.8, .1, .1], [.3, .1, .6]])
    logits = path_logits(shares.log()[None], [5], 9, [])
    assert logits.argmax(-1).tolist() == [[1, 2, EOS]]
    assert logits.softmax(-1).amax(-1)[0].tolist() == pytest.approx([.9, .6, .8])
    without_blank = path_logits(shares.log()[None, [1, 4]], [2], 9, [])
    assert without_blank.argmax(-1).tolist() == [[1, 2, EOS]]
    assert without_blank.softmax(-1).amax(-1)[0].tolist() == pytest.approx([.7, .6, 1])


def test_without_the_decoder_only_the_ctc_head_and_the_encoder_learn():
    model = make_model(ctc=True).train()
    model.keep_decoder()
    images, widths, tokens = make_images(2, 16), torch.tensor([16, 8]), encode(model, ["ab", "a"])
    alone = model(images, widths, tokens, 0, decoder=False)
    parts, weight = parseq_loss(alone, 2.0, 0.0)
    parts["loss"].backward()
    both = model(images, widths, tokens, 0)
    whole, tokens_read = parseq_loss(both, 2.0, 0.5)
    assert weight == 2 + 1 + 2  # characters and ends
    assert parts["ctc"].item() * 5 == pytest.approx(whole["ctc"].item() * tokens_read / both["perm_num"], rel=1e-4)
    assert parts["loss"].item() == pytest.approx(2 * parts["ctc"].item())
    assert whole["loss"].item() == pytest.approx(0.5 * whole["cross_entropy"].item() + 2 * whole["ctc"].item(), rel=1e-5)
    learnt = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learnt == {"encoder", "ctc_head"}


# ---- learning and reading


def draw_words(count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
    """Images in which each character is a column of noise of its own, one patch wide; their widths and texts."""
    patterns = torch.randn(len(CHARACTERS), 3, 16, 8, generator=torch.Generator().manual_seed(5))
    images, widths, texts = torch.zeros(count, 3, 16, 48), [], []
    for image in images:
        length = int(torch.randint(1, 7, (1,), generator=generator))
        ids = torch.randint(len(CHARACTERS), (length,), generator=generator)
        image[:, :, : 8 * len(ids)] = torch.cat([patterns[i] for i in ids], dim=2)
        widths.append(8 * len(ids))
        texts.append("".join(CHARACTERS[i] for i in ids))
    return images, torch.tensor(widths), texts


def learn_words(model, steps: int, rate: float, generator: torch.Generator, **loss) -> None:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], rate, weight_decay=0)
    for step in range(steps):
        images, widths, texts = draw_words(16, generator)
        outputs = model(images, widths, encode(model, texts), step, decoder=loss.get("decoder_weight", 1) > 0)
        parts, _ = parseq_loss(outputs, **loss)
        optimizer.zero_grad()
        parts["loss"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 20)
        optimizer.param_groups[0]["lr"] = rate * min(1, (step + 1) / 30) * (1 - step / steps)
        optimizer.step()
    model.eval()


WORDS = replace(TINY, img_height=16, img_width=48, bucket=8, max_label_length=6, dropout=0.0)


def test_it_learns_to_read_words_it_has_never_seen_in_every_mode():
    torch.manual_seed(0)
    generator, model = torch.Generator().manual_seed(0), build_model(WORDS)
    learn_words(model, 220, 3e-3, generator)
    images, widths, texts = draw_words(64, generator)
    for decode, refine_iters in (("ar", 0), ("ar", 1), ("nar", 0), ("nar", 2)):
        readings = read_texts(model, images, widths, decode, refine_iters)
        assert sum(text == truth for (text, _), truth in zip(readings, texts)) >= 58, (decode, refine_iters)


def test_encoder_and_ctc_head_learn_to_read_by_themselves():
    torch.manual_seed(0)
    generator, model = torch.Generator().manual_seed(0), build_model(replace(WORDS, ctc=True))
    model.keep_decoder()
    learn_words(model, 220, 3e-3, generator, ctc_weight=1.0, decoder_weight=0.0)
    images, widths, texts = draw_words(64, generator)
    readings = read_texts(model, images, widths, "ctc", 0)
    assert sum(text == truth for (text, _), truth in zip(readings, texts)) >= 58


def test_score_is_the_product_up_to_and_with_eos():
    model = make_model()
    images, widths = make_images(3), torch.full((3,), 64)
    ids, probabilities = model.read(images, widths, "ar", 1)
    readings = read_texts(model, images, widths, "ar", 1)
    for (text, score), row, values in zip(readings, ids.tolist(), probabilities.tolist()):
        used = row.index(EOS) + 1 if EOS in row else len(row)
        assert len(text) == len([i for i in row[:used] if i != EOS])
        assert score == pytest.approx(math.prod(values[:used]), rel=1e-5)


def test_a_wide_gap_is_one_space(monkeypatch):
    model = make_model()
    monkeypatch.setattr(model, "charset", Charset("ab "))
    ids = torch.tensor([[3, 1, 3, 3, 2, 3, EOS, 3], [3, 3, EOS, 1, 1, 1, 1, 1]])
    monkeypatch.setattr(model, "read", lambda *_: (ids, torch.full((2, 8), 0.5)))
    readings = read_texts(model, make_images(2), torch.tensor([64, 64]), "ctc", 0)
    assert readings == [("a b", 0.5**7), ("", 0.5**3)]
