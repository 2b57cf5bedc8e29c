import math
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from utils.charset import BASE_CHARACTERS, EOS, Charset, build_charset, token_counts, unigram_entropy
from utils.errors import DataError


def test_ids_are_those_of_the_published_model():
    charset = Charset("ab가")
    assert charset.size == 6 and len(charset) == 3
    assert (EOS, charset.ids, charset.bos, charset.pad) == (0, {"a": 1, "b": 2, "가": 3}, 4, 5)
    assert charset.encode("b가") == [4, 2, 3, 0]
    assert charset.decode([2, 3, 0, 1, 1]) == "b가"
    assert charset.decode([2, 3]) == "b가" and charset.decode([0]) == ""


@given(st.text(alphabet="ab가힣 ₩1"))
def test_decode_inverts_encode(text):
    charset = build_charset("hangul")
    ids = charset.encode(text)
    assert len(ids) == len(text) + 2 and max(ids[1:]) < charset.size - 2  # the head can answer every label
    assert charset.decode(ids[1:]) == text


def test_labels_are_composed_but_not_folded():
    charset = Charset("é가①")
    assert charset.decode(charset.encode(unicodedata.normalize("NFD", "é가"))[1:]) == "é가"
    assert charset.decode(charset.encode("①")[1:]) == "①"  # NFKC would make it 1
    assert charset.unknown("é1가1") == ["1", "1"]
    with pytest.raises(KeyError):
        charset.encode("1")


def test_ks_x_1001_and_all_syllables():
    common, every = build_charset("ksx1001"), build_charset("hangul")
    assert len(common) == len(BASE_CHARACTERS) + 2350 and len(every) == len(BASE_CHARACTERS) + 11172
    syllables = common.characters[len(BASE_CHARACTERS):]
    assert syllables[0] == "가" and syllables[-1] == "힝" and "뷁" not in syllables and "똠" not in syllables
    assert set(syllables) < set(every.characters)
    for charset in (common, every):
        assert not charset.unknown(" ₩12,300 Total: AZaz~!@#")


def test_from_the_data():
    charset = build_charset("data", ["합계 ₩1,000", "힣é", unicodedata.normalize("NFD", "계é")])
    assert charset.characters == BASE_CHARACTERS + "é계합힣"
    assert build_charset("data", []).characters == BASE_CHARACTERS
    assert build_charset("data", ["힣합", "계"]) == build_charset("data", ["계합", "힣"])


def test_from_a_file(tmp_path):
    path = tmp_path / "chars.txt"
    path.write_text("\ufeff다나가\r\n \nab", encoding="utf-8")
    assert build_charset(str(path)).characters == "다나가 ab"


@pytest.mark.parametrize("content, words", [
    (b"", "no characters"), (b"aba", "repeats a "), ("e\u0301가".encode(), None), ("a\u2126".encode(), "U\\+2126"),
    (b"\xff\xfe\xff", "not a readable UTF-8"), (b"a\tb", "U\\+0009"),
])
def test_a_bad_file_is_refused_by_name(tmp_path, content, words):
    path = tmp_path / "chars.txt"
    path.write_bytes(content)
    if words is None:  # a combining mark of its own is a character
        assert len(build_charset(str(path))) == 3
        return
    with pytest.raises(DataError, match=f"chars.txt: .*{words}"):
        build_charset(str(path))


def test_a_missing_file_names_the_choices():
    with pytest.raises(DataError, match="ksx1001, hangul"):
        build_charset("korean")


def test_the_digest_names_characters_and_their_order():
    assert Charset("abc").digest == Charset("abc").digest != Charset("acb").digest
    assert len(Charset("abc").digest) == 16


def test_shared_rows():
    new, old = Charset("xba"), Charset("abc")
    here, there = new.shared_rows(old)
    assert dict(zip(here, there)) == {0: 0, 2: 2, 3: 1, new.bos: old.bos, new.pad: old.pad}


def test_unigram_entropy_by_hand():
    # tokens: a a b EOS EOS
    expected = -(2 * 0.4 * math.log(0.4) + 0.2 * math.log(0.2))
    assert unigram_entropy(token_counts(["aa", "b"])) == pytest.approx(expected)
    assert unigram_entropy(token_counts([])) == 0


def test_characters_that_damage_leaves_behind_are_suspicious():
    strange = "\u200b\u200e\ufeff\ufffd\ue000\u00ad"
    charset = build_charset("data", ["합계 ₩1①é", strange])
    assert set(charset.suspicious) == set(strange)
    assert build_charset("hangul").suspicious == build_charset("data").suspicious == ""
