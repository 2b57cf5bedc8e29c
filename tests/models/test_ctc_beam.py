"""Prefix beam search against the sum over all paths."""

import itertools
import math
from collections import defaultdict

import numpy as np
import pytest
import torch

from models import ctc_beam
from models.ctc import likely
from models.ctc_beam import log_add
from models.language import END, START, Language, estimate, folded

SILENT = Language(1, {}, {})  # knows no character, and so says nothing
LANGUAGE = estimate(["ABBA", "AB", "B A", "BOOK"], 3)


def sparse(frames, least=ctc_beam.LEAST):
    return likely(torch.from_numpy(np.log(np.maximum(frames, 1e-30)))[None], [len(frames)], least)[0]


def beam_search(frames, characters, language, least=ctc_beam.LEAST):
    return ctc_beam.beam_search(sparse(frames, least), characters, language)


def all_paths(frames, characters, language):
    """{folded text: share} by its definition."""
    sums = defaultdict(float)
    for path in itertools.product(range(frames.shape[1]), repeat=len(frames)):
        letters = "".join("-" if place == 0 else folded(characters[place - 1]) for place in path)
        text = "".join(letter for letter, _ in itertools.groupby(letters)).replace("-", "")
        sums[text] += math.prod(float(frame[place]) for frame, place in zip(frames, path))
    found = {text: value * math.exp(sum(language.bonus(START + text[:place], character)
                                        for place, character in enumerate(text + END))) for text, value in sums.items()}
    return {text: value / sum(found.values()) for text, value in found.items()}


def make_frames(count, classes, seed, sharp=1.5):
    logits = np.random.default_rng(seed).normal(0, sharp, (count, classes))
    return (np.exp(logits) / np.exp(logits).sum(1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("language", [SILENT, LANGUAGE], ids=["silent", "language"])
@pytest.mark.parametrize("characters, count, seed", [("AB", 5, 0), ("AB", 6, 1), ("Aab", 5, 2), ("aAbB", 4, 3), ("A한", 5, 4)])
def test_shares_are_those_of_all_paths(monkeypatch, characters, count, seed, language):
    monkeypatch.setattr(ctc_beam, "WIDTH", 10**6)
    frames = make_frames(count, len(characters) + 1, seed)
    expected, found = all_paths(frames, characters, language), beam_search(frames, characters, language, 0.0)
    assert {"".join(map(folded, text)) for text in found} == expected.keys() and len(found) == len(expected)
    for text, share in found.items():
        assert share == pytest.approx(expected["".join(map(folded, text))], rel=1e-4)


@pytest.mark.parametrize("seed", range(8))
def test_a_narrow_beam_finds_the_best_of_sharp_frames(seed):
    frames = make_frames(6, 4, seed, sharp=3)
    expected, found = all_paths(frames, "ABC", LANGUAGE), beam_search(frames, "ABC", LANGUAGE)
    assert len(found) <= ctc_beam.WIDTH and max(found, key=found.get) == max(expected, key=expected.get)
    assert sum(found.values()) == pytest.approx(1)


def one_hot(text, characters, blank="-"):
    return np.array([[letter == other for other in blank + characters] for letter in text], np.float32)


@pytest.mark.parametrize("path, text", [("A-A", "AA"), ("AA", "A"), ("--B-", "B"), ("-", ""), ("", ""), ("ABBA", "ABA"),
                                        ("A----------B", "AB"), ("A---A---A", "AAA")])
def test_sure_frames_say_one_thing(path, text):
    frames = one_hot(path, "AB").reshape(-1, 3)
    found = beam_search(frames, "AB", LANGUAGE)
    assert max(found, key=found.get) == text and found[text] == pytest.approx(1.0, abs=1e-3)


def test_the_language_decides_where_the_picture_does_not():
    """Twice a letter O or a nought."""
    frames = one_hot("B-O-O-K", "BO0K")
    frames[2] = frames[4] = [0, 0, 0.45, 0.55, 0]
    for language, text in ((SILENT, "B00K"), (estimate(["BOOK", "B00", "10"], 3), "BOOK")):
        found = beam_search(frames, "BO0K", language)
        assert max(found, key=found.get) == text


def test_a_letter_torn_between_its_cases_is_read_in_the_likelier_one():
    frames = np.array([[0.4, 0.35, 0.25], [0.4, 0.15, 0.45]], np.float32)  # blank, A, a: blank is the best of both frames
    found = beam_search(frames, "Aa", SILENT)
    assert max(found, key=found.get) == "a" and set(found) == {"", "a"}


def test_cases_without_a_blank_between_them_are_one_letter():
    for path, text in (("Aa", "A"), ("A-a", "Aa")):
        found = beam_search(one_hot(path, "Aa"), "Aa", SILENT)
        assert max(found, key=found.get) == text


def test_blank_frames_cost_nothing():
    frames = make_frames(4, 3, 0)
    quiet = np.tile(np.float32([[1, 0, 0]]), (50, 1))
    found = beam_search(np.concatenate([quiet, frames, quiet]), "AB", LANGUAGE)
    expected = beam_search(frames, "AB", LANGUAGE)
    assert found.keys() == expected.keys()
    assert all(found[text] == pytest.approx(expected[text], rel=1e-5) for text in found)
    assert len(ctc_beam.steps(sparse(np.concatenate([quiet, frames, quiet])), "AB")) == 6


def test_log_add():
    assert log_add(math.log(0.25), math.log(0.5)) == pytest.approx(math.log(0.75))
    assert log_add(-math.inf, 1.0) == log_add(1.0, -math.inf) == 1.0 and log_add(-math.inf, -math.inf) == -math.inf


def test_likely_leaves_out_padding_and_what_is_improbable():
    frames = np.float32([[[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [[0.5, 0.5, 0], [1, 0, 0]]])
    first, second = likely(torch.from_numpy(np.log(frames + 1e-9)), [2, 1], 0.15)
    assert [[place for place, _ in frame.characters] for frame in first] == [[1], [1, 2]] and len(second) == 1
    assert second[0].blank == pytest.approx(0.5) and second[0].characters == [(1, pytest.approx(0.5))]
