"""Reading by guess and check against the plain loop that recomputes everything in each step."""

import random
from types import SimpleNamespace

import pytest
import torch

from models import parseq_autoregressive
from models.parseq_autoregressive import AT_ONCE, Passes, decode_autoregressive, reading_length
from parseq_reference import make_images, make_model, reference_read
from utils.charset import EOS

LENGTH = 30  # two windows


def long_reader(seed: int, eos_bias: float = 0.0):
    model = make_model(seed, max_label_length=LENGTH)
    with torch.no_grad():
        model.head.bias[EOS] += eos_bias
    return model


@pytest.fixture
def counted(monkeypatch):
    """[(places asked, first)] of the passes made."""
    calls, forward = [], Passes.__call__

    def count(self, tokens, first, end):
        calls.append((end - first, first))
        return forward(self, tokens, first, end)

    monkeypatch.setattr(Passes, "__call__", count)
    return calls


@torch.no_grad()
def read(model, images, guess):
    memory, visible = model.encoder(images, torch.full((len(images),), images.shape[3]))
    return decode_autoregressive(model, model.memory_keys_values(memory), visible, guess), memory


@pytest.mark.parametrize("eos_bias", [-100.0, -2.0, 0.0, 1.0])
@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("guess", [True, False])
def test_the_answers_are_those_of_the_recomputing_loop(guess, rows, eos_bias):
    lengths = []
    for seed in (0, 1, 2, 8, 41):
        model = long_reader(seed, eos_bias)
        logits, memory = read(model, make_images(rows), guess)
        expected = reference_read(model, memory, "ar", 0)
        within = reading_length(expected.argmax(-1))
        lengths += within.sum(1).tolist()
        assert logits.shape[1] == within.sum(1).max()
        within = within[:, : logits.shape[1]]
        torch.testing.assert_close(logits[within], expected[:, : logits.shape[1]][within], rtol=1e-4, atol=1e-5)
    assert len(set(lengths)) > 1 or eos_bias < -1


class MadeUpPasses:
    """Answers that are a made-up function of the row, the place and, more or less often, of one token before it: so a
    guess may be right where what it was guessed by was wrong."""

    def __init__(self, model, *_):
        self.seed, self.rows, self.places, self.memory = model.seed, model.rows, model.places, model.memory
        self.queries, self.head, self.asked = torch.zeros(1), (range(6),), model.asked
        self.kept = [[] for _ in range(self.rows)]

    def __call__(self, tokens, first, end):
        assert tokens.shape[0] == self.rows and 1 <= tokens.shape[1] <= end - first and end <= self.places
        logits = torch.zeros(self.rows, end - first, 6)
        for row, new in enumerate(tokens.tolist()):
            self.kept[row][first:] = new
            for place in range(first, end):
                logits[row, place - first, self.answer(row, place, tuple(self.kept[row][: place + 1]))] = 1
        self.asked.append(end - first)
        return logits

    def answer(self, row, place, seen):
        told = random.Random(f"{self.seed} {row} {place}")
        if told.random() < self.memory:
            asked = told.randint(0, place)
            told = random.Random(f"{self.seed} {row} {place} {seen[asked] if asked < len(seen) else None}")
        return EOS if told.random() < 0.02 else told.randint(1, 5)

    def step_by_step(self, row):
        text = [9]
        while len(text) <= self.places and (len(text) == 1 or text[-1] != EOS):
            text.append(self.answer(row, len(text) - 1, tuple(text)))
        return text[1:]


def test_made_up_answers_are_read_as_step_by_step(monkeypatch):
    """Windows grow and shrink here, with right and wrong guesses of characters and of ends beyond them."""
    monkeypatch.setattr(parseq_autoregressive, "Passes", MadeUpPasses)
    draw, fewer = random.Random(0), 0
    for seed in range(600):
        model = SimpleNamespace(seed=seed, rows=draw.randint(1, 4), places=draw.choice([1, 3, 12, 60]),
                                memory=draw.choice([0.0, 0.2, 0.5, 0.8, 1.0]), asked=[], charset=SimpleNamespace(bos=9))
        ids = decode_autoregressive(model, None, None, True).argmax(-1)
        expected = [MadeUpPasses(model).step_by_step(row) for row in range(model.rows)]
        assert [row[:n] for row, n in zip(ids.tolist(), reading_length(ids).sum(1).tolist())] == expected, seed
        assert ids.shape[1] == max(map(len, expected)) and len(model.asked) <= ids.shape[1]
        fewer += len(model.asked) < ids.shape[1]
    assert fewer > 100


def test_no_rows():
    model = long_reader(0)
    assert read(model, make_images(1)[:0], None)[0].shape[:2] == (0, 0)


def test_a_pass_settles_at_least_what_a_step_does(counted):
    for seed in range(10):
        counted.clear()
        logits, _ = read(long_reader(seed, -100.0), make_images(1), True)
        assert logits.shape[1] == LENGTH + 1 and len(counted) <= LENGTH + 1
        firsts = [first for _, first in counted]
        assert firsts == sorted(set(firsts))


def test_a_text_that_follows_from_the_image_alone_takes_a_guess_and_a_check_a_window(counted):
    model = long_reader(0, -100.0)
    with torch.no_grad():  # what was read before says nothing
        model.decoder.layers[0].self_attn.out_proj.weight.zero_()
    read(model, make_images(1), True)
    assert len(counted) < 8 and max(places for places, _ in counted) > 1
    counted.clear()
    read(model, make_images(1), False)
    assert [places for places, _ in counted] == [1] * (LENGTH + 1)


def test_no_more_is_asked_than_the_guessed_end(counted):
    model = long_reader(0)
    with torch.no_grad():
        model.head.bias[EOS] = 100
    logits, _ = read(model, make_images(2), True)
    assert logits.shape[1] == 1 and counted == [(AT_ONCE["cpu"] // 2, 0)]


def test_large_batches_are_read_a_step_a_character(counted):
    read(long_reader(0, -100.0), make_images(5), None)
    assert {places for places, _ in counted} == {1}
    counted.clear()
    read(long_reader(0, -100.0), make_images(4), None)
    assert len(counted) < LENGTH


def test_labels_shorter_than_a_window(counted):
    short = make_model(0, max_label_length=3)
    logits, _ = read(short, make_images(1), True)
    assert logits.shape[1] <= 4 and max(places for places, _ in counted) <= 4
