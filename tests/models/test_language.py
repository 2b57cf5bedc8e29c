"""The n-gram model against a slow recursion, by hand, and in files of this and of other programs."""

import gzip
import math
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import language
from models.language import END, LENGTH, START, WEIGHT, Language, estimate, folded, read_arpa, write_arpa
from utils.errors import DataError

LINES = ["TOTAL 12.50", "TOTAL 3.00", "Total (RM) 7.90", "CASH", "합계 12", "A" * 9]


def slow(lines, order, context, character):
    """Witten and Bell's interpolation by its definition, counted anew for each question; n-grams of four and more
    characters seen once are none, and leave their share to the shorter ones."""
    def share(context):
        after = Counter(text[place] for text in (START + "".join(map(folded, line)) + END for line in lines)
                        for place in range(1, len(text)) if text[:place].endswith(context))
        shorter = share(context[1:]) if context else 1 / len(after)
        kept = sum(count for count in after.values() if count > 1 or len(context) < 3)
        own = after[character] if after[character] > 1 or len(context) < 3 else 0
        left = len(after) + sum(after.values()) - kept
        return (own + left * shorter) / (kept + left) if after else shorter
    return share(context[-(order - 1):] if order > 1 else "")


def characters(model):
    return [gram for gram in model.log10 if len(gram) == 1 and gram != START]


def test_by_hand():
    """AB and A: three characters seen in five places; after A either B or the end, once each."""
    model = estimate(["AB", "A"], 2)
    alone = {"A": (2 + 3 / 3) / (5 + 3), "B": (1 + 1) / 8, END: (2 + 1) / 8}
    for character, value in alone.items():
        assert model.log_probability("", character) == pytest.approx(math.log(value))
    assert model.log_probability("A", "B") == pytest.approx(math.log((1 + 2 * alone["B"]) / (2 + 2)))
    assert model.log_probability("A", "A") == pytest.approx(math.log(2 / (2 + 2) * alone["A"]))  # by its backoff
    assert model.log_probability(START, "A") == pytest.approx(math.log((2 + alone["A"]) / (2 + 1)))
    assert model.log_probability("A", "Z") is None and model.bonus("A", "Z") == 0.0
    assert model.bonus("A", "B") == pytest.approx(WEIGHT * (math.log((1 + 2 / 4) / 4) + LENGTH))


def test_long_n_grams_seen_once_are_left_out(tmp_path):
    model = estimate(["ABCDE", "XABCD"], 5)
    assert {gram for gram in model.log10 if len(gram) > 3} == {"ABCD"} and "ABC" in model.backoff
    assert "ABCD" not in model.backoff  # only E and the end came after it, once each
    assert model.log_probability("ABCD", "E") == model.log_probability("BCD", "E") == model.log_probability("CD", "E")
    write_arpa(tmp_path / "l.arpa", model)
    assert read_arpa(tmp_path / "l.arpa").order == 4  # that of the longest that is left
    lines = ["ABCD", "ABCD", "ABCE"]  # after ABC, E was seen once and is left out: its share goes to what is shorter
    model, shorter = estimate(lines, 4), estimate(lines, 3)
    after = math.exp(shorter.log_probability("ABC", "D"))
    assert model.log_probability("ABC", "D") == pytest.approx(math.log((2 + 3 * after) / 5))
    for context in ("ABC", "ABCD", START + "ABC"):
        assert sum(math.exp(model.log_probability(context, c)) for c in characters(model)) == pytest.approx(1)


@settings(deadline=None, max_examples=60)
@given(lines=st.lists(st.text("aB1 합", max_size=6), min_size=1, max_size=5), order=st.integers(1, 5),
       context=st.text("AB1 합Z", max_size=5), at_start=st.booleans())
def test_equals_the_definition_and_sums_to_one(lines, order, context, at_start):
    model = estimate(lines, order)
    context = START * at_start + context
    found = {character: math.exp(model.log_probability(context, character)) for character in characters(model)}
    assert sum(found.values()) == pytest.approx(1)
    for character, value in found.items():
        assert value == pytest.approx(slow(lines, order, context, character))


def test_what_was_seen_is_foreseen():
    model = estimate(LINES, 4)
    assert model.perplexity(LINES) < 4 < model.perplexity(["ZEBRA QUILT", "LATOT"])
    assert model.perplexity(["total 12.50"]) == model.perplexity(["TOTAL 12.50"])  # cases are one
    assert folded("ß") == "ß" and folded("é") == "É" and folded("한") == "한"


def test_answers_are_remembered_up_to_a_number(monkeypatch):
    monkeypatch.setattr(language, "REMEMBERED", 3)
    model = estimate(LINES, 3)
    asked = [model.bonus("TO"[:n % 3], "T") for n in range(20)]
    assert asked[:3] == asked[3:6] and len(model.known) <= 3
    assert model.bonus("xxxxTO", "T") == model.bonus("yyTO", "T")


@pytest.mark.parametrize("name", ["a.arpa", "a.arpa.gz"])
def test_files_keep_the_model(tmp_path, name):
    model = estimate(LINES, 4)
    write_arpa(tmp_path / name, model)
    loaded = read_arpa(tmp_path / name)
    assert loaded.order == 4 and loaded.log10.keys() == model.log10.keys() and loaded.backoff.keys() == model.backoff.keys()
    for context in (START, START + "TO", "L 1", "합계", "never"):
        for character in characters(model):
            assert loaded.log_probability(context, character) == pytest.approx(
                model.log_probability(context, character), abs=3e-3)
    before = (tmp_path / name).read_bytes()
    write_arpa(tmp_path / name, estimate(LINES, 4))
    assert (tmp_path / name).read_bytes() == before


def test_a_file_of_another_program(tmp_path):
    (tmp_path / "k.arpa").write_text("\\data\\\nngram 1=5\nngram 2=2\n\n\\1-grams:\n-1.5\t<unk>\t0\n0\t<s>\t-0.3\n-0.6\t</s>\t0\n"
                                     "-0.5\tA\t-0.2\n-0.7\t▁\t0\n\n\\2-grams:\n-0.1\t<s> A\n-0.4\tA ▁\n\n\\end\\\n", "utf-8")
    model = read_arpa(tmp_path / "k.arpa")
    ten = math.log(10)
    assert model.order == 2 and model.log_probability(START, "A") == pytest.approx(-0.1 * ten)
    assert model.log_probability("A", " ") == pytest.approx(-0.4 * ten)
    assert model.log_probability("A", END) == pytest.approx((-0.2 - 0.6) * ten)
    assert model.log_probability("A", "B") is None


@pytest.mark.parametrize("change", [("\n", "\r\n"), ("\t", "  "), ("\\data\\", "made\tby\thand\n\\data\\"),
                                    ("\\2-grams:\n", "\\2-grams:\n-0.2\tA <unk>\n-0.2\t<UNK> A\n"), ("-0.5\tA", "-0.5\tA")])
def test_other_ways_of_writing_the_same(tmp_path, change):
    text = "\\data\\\nngram 1=3\nngram 2=1\n\n\\1-grams:\n-99\t<s>\t-0.3\n-0.6\t</s>\n-0.5\tA\t-0.2\n\n\\2-grams:\n-0.1\t<s> A\n\n\\end\\\n"
    (tmp_path / "a.arpa").write_text(text, "utf-8")
    (tmp_path / "b.arpa").write_bytes(text.replace(*change).encode())
    one, other = read_arpa(tmp_path / "a.arpa"), read_arpa(tmp_path / "b.arpa")
    assert (one.order, one.log10, one.backoff) == (other.order, other.log10, other.backoff)
    assert one.order == 2 and len(one.log10) == 4 and one.backoff == {START: -0.3, "A": -0.2}


def test_what_a_file_cannot_hold_is_passed_over(tmp_path):
    model = estimate(["A\tB", "A\u2581B", "A B", "A\nB\r", START + "A" + END], 3)
    assert set(characters(model)) == {"A", "B", " ", END}
    write_arpa(tmp_path / "a.arpa", model)
    assert read_arpa(tmp_path / "a.arpa").log10.keys() == model.log10.keys()
    assert model.bonus("A", "\t") == model.bonus("A", "\u2581") == model.bonus("A", "\x03") == 0.0


GOOD = "\\data\\\nngram 1=1\n\n\\1-grams:\n-1\tA\n\n\\end\\\n"


@pytest.mark.parametrize("content, message", [
    (b"", "is no ARPA file, or not all of one"), (GOOD[:-6].encode(), "not all of one"),
    (gzip.compress(GOOD.encode(), mtime=0)[:-9], "not a readable language model"),
    (gzip.compress(GOOD.encode(), mtime=0)[:12] + b"\0" * 30, "not a readable language model"), (b"\xff\xfe\\data\\", "not a readable"),
    (GOOD.replace("-1\t", "one\t").encode(), "line 5: could not convert"),
    (GOOD.replace("\tA", "\tABC").encode(), "line 5: 'ABC' is not one character, <s>"),
    (GOOD.replace("\tA", "\ta").encode(), "line 5: 'a' is a small letter"),
    (GOOD.replace("-1\tA", "").encode(), "holds no n-grams"),
    (GOOD.replace("-1", "nan").encode(), "line 5: 'nan A' holds no logarithms"),
    (GOOD.replace("-1", "9").encode(), "line 5: '9 A' holds no logarithms"),
    (GOOD.replace("\tA", "\tA\tinf").encode(), "line 5: '-1 A inf' holds no logarithms"),
    (GOOD.replace("\tA", "\tA\tx").encode(), "line 5: could not convert"),
    (GOOD.replace("\tA", "\tA\t1\t2").encode(), "line 5: '-1 A 1 2' is no n-gram of 1 characters")])
def test_bad_files_are_named(tmp_path, content, message):
    (tmp_path / "bad.arpa").write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_arpa(tmp_path / "bad.arpa")
    assert str(caught.value).startswith(str(tmp_path / "bad.arpa"))


def test_minus_infinity_is_never(tmp_path):
    (tmp_path / "a.arpa").write_text(GOOD.replace("-1\tA", "-1\tA\t-inf\n-inf\tB"), "utf-8")
    model = read_arpa(tmp_path / "a.arpa")
    assert model.log10["B"] == model.backoff["A"] == -99.0 and math.isfinite(model.bonus("A", "B"))


def test_no_file_and_no_lines(tmp_path):
    with pytest.raises(DataError, match="no such language model; python -m experiments.language_model"):
        read_arpa(tmp_path / "none.arpa")
    with pytest.raises(ValueError, match="no lines"):
        estimate([], 3)
    assert math.exp(estimate([""], 3).log_probability(START, END)) == pytest.approx(1)
    assert Language(1, {"A": -1.0}, {}).perplexity([]) == 1.0
