"""Texts from files, and pieces of them as made lines."""

import gettext
import struct
import unicodedata

import pytest

from datasets import text_lines
from datasets.lines.corpus import MOST_WORDS, CorpusTexts, read_corpus
from datasets.recognition import read_split
from datasets.text_lines import TextLines
from utils.charset import build_charset
from utils.errors import DataError

KSX = build_charset("ksx1001")


HEADER = "Content-Type: text/plain; charset={}\nPlural-Forms: nplurals=1; plural=0;\n"


def catalogue(messages: dict[str, str], order: str = "<", charset: str = "UTF-8", header: str | None = HEADER) -> bytes:
    """As the GNU gettext manual lays it out: header, the table of messages, that of translations, and all of their bytes."""
    messages = ({} if header is None else {"": header.format(charset)}) | messages
    keys, values = ([text.encode(charset) for text in texts] for texts in (messages, messages.values()))
    start, tables, body = 28 + 16 * len(keys), b"", b""
    for strings in (keys, values):
        for string in strings:
            tables += struct.pack(f"{order}2I", len(string), start + len(body))
            body += string + b"\0"
    return struct.pack(f"{order}7I", 0x950412DE, 0, len(keys), 28, 28 + 8 * len(keys), 0, start) + tables + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("charset", ["UTF-8", "EUC-KR"])
def test_a_catalogue_gives_the_parts_of_its_translations(tmp_path, order, charset):
    path = tmp_path / "a.mo"
    messages = {"file": "파일 %s을(를) 읽을 수 없음\n  다음 줄", "day\0days": "하루\0%d일", "q": "", "x": "파일 %-10.3lu을"}
    path.write_bytes(catalogue(messages | {"y": "%s  파일", "z": "파일"}, order, charset))
    found = read_corpus([path, path])
    assert found == ["파일", "을(를) 읽을 수 없음", "다음 줄", "하루", "일", "을"]  # each once
    with path.open("rb") as file:
        assert gettext.GNUTranslations(file).gettext("file").startswith("파일 %s")  # Python's own reader takes it too


def test_values_that_programs_put_in_part_a_message(tmp_path):
    path = tmp_path / "a.MO"
    path.write_bytes(catalogue({"a": "a %(count)d b {name} c {} d %1$s e 100% (f)", "b": "50%", "c": "7%%complete, %%s"}))
    assert read_corpus([path]) == ["a", "b", "c", "d", "e 100% (f)", "50%", "7%complete, %s"]


def test_only_the_translation_of_nothing_is_the_header(tmp_path):
    path = tmp_path / "a.mo"
    path.write_bytes(catalogue({"a": "first; charset=utf-8", "b": "second"}, header=None))
    assert read_corpus([path]) == ["first; charset=utf-8", "second"]
    path.write_bytes(catalogue({"a": "가"}, header="Project-Id-Version: x\n"))
    assert read_corpus([path]) == ["가"]
    (tmp_path / "empty.mo").write_bytes(catalogue({"a": ""}))
    assert read_corpus([tmp_path / "empty.mo", path]) == ["가"]  # programs bring such


def test_lines_of_a_text_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(("\ufeff" + unicodedata.normalize("NFD", "합계") + "\t 12\u00a0 3\r\n\r\n \r\nb\r\nb\r\n").encode())
    assert read_corpus([path]) == ["합계 12 3", "b", "b"]
    assert read_corpus([]) == []
    assert read_corpus([path, path]) == ["합계 12 3", "b", "b"] * 2


def broken() -> dict[str, bytes]:
    whole = catalogue({"a": "가나다"})
    korean = catalogue({"a": "가나다"}, charset="EUC-KR")
    table = 28 + 8 * 40  # of forty translations, which all are the bytes of the whole file
    heap = struct.pack("<7I", 0x950412DE, 0, 40, 28, table, 0, 0) + struct.pack("<2I", 1, 0) * 40
    heap += struct.pack("<2I", len(heap) + 8 * 40, 0) * 40
    return {"(No such file": None, "no catalogue begins so": b'msgid ""', "(its end is missing)": whole[:-9],
            "(unpack_from requires": whole[:14], "buffer of at least": struct.pack("<7I", 0x950412DE, 0, 2**31, 28, 28, 0, 28),
            "can't decode": korean.replace(b"EUC-KR", b"UTF-8 "), "unknown encoding": whole.replace(b"UTF-8", b"XYZ-8"),
            "one upon the other": heap, "surrogates not allowed": catalogue({"a": "+2AA-"}).replace(b"UTF-8", b"utf-7")}


@pytest.mark.parametrize("message", broken())
def test_a_catalogue_that_cannot_be_read_is_named(tmp_path, message):
    path, content = tmp_path / "a.mo", broken()[message]
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_corpus([path])
    assert str(error.value).startswith(f"{path}: not a readable message catalogue (") and message in str(error.value)


@pytest.mark.parametrize("content, message", [(None, "No such file"), (b"\xff\xfe", "UTF-8"), (b" \n\n", "no text in there")])
def test_a_text_file_that_cannot_be_read_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=f"a.txt: .*{message}"):
        read_corpus([tmp_path / "a.txt"])


def test_the_source_of_a_catalogue_is_no_text(tmp_path):
    with pytest.raises(DataError, match=r"a.po: is the source of a catalogue; way out: msgfmt a.po -o a.mo"):
        read_corpus([tmp_path / "a.po"])


def test_pieces_are_words_in_a_row():
    texts = ["one two three four five six seven eight nine ten", "합계 12", "x" * 30, "has a \u2603"]
    corpus = CorpusTexts(texts, KSX.characters, 20, seed=3)
    pieces = [corpus.text(0, index) for index in range(400)]
    assert corpus.left_out == 1 and set("".join(pieces)) - {" "} == set(corpus.deck)
    for piece in pieces:
        assert 1 <= len(piece) <= 20 and piece == piece.strip() and any(piece in text for text in texts)
        assert len(piece.split()) <= MOST_WORDS
    assert len({piece for piece in pieces if piece[0] != "x"}) > 20 and "x" * 20 in pieces and "합계 12" in pieces
    again = CorpusTexts(texts, KSX.characters, 20, seed=3)
    assert [again.text(0, index) for index in range(400)] == pieces != [again.text(1, index) for index in range(400)]
    with pytest.raises(DataError, match="none of 4 texts"):
        CorpusTexts(texts, "q", 20, seed=3)


def test_a_set_of_ones_own_texts(tmp_path, capsys):
    source = tmp_path / "t.txt"
    source.write_text("영수증 합계\nplain words\nsnow \u2603\n", "utf-8")
    flags = ["--lines", "12", "--seed", "1", "--texts", str(source)]
    for language, allowed in (("both", {"영수증 합계", "영수증", "합계", "plain words", "plain", "words"}),
                              ("korean", {"영수증 합계", "영수증", "합계"}), ("latin", {"plain words", "plain", "words"})):
        assert text_lines.main(["--out", str(tmp_path / language), "--language", language, *flags]) == 0
        found = {crop.text for crop in read_split(tmp_path / language / "train", 0.0)}
        assert found <= allowed and (found == allowed or language != "both" or len(found) > 3)
    said = capsys.readouterr().err
    assert "; 2 texts; left out: 1 with characters that cannot be written, 0 of another language" in said
    assert "; 1 texts; left out: 0 with characters that cannot be written, 2 of another language" in said
    lines = TextLines(12, KSX, 60, 1, corpus=(source,))
    assert [lines[(0, index)][1] for index in range(12)] == [
        crop.text for crop in read_split(tmp_path / "both" / "train", 0.0)]
    (tmp_path / "latin.txt").write_text("abc\n")
    with pytest.raises(DataError, match="--language korean: none of the 1 texts is; take --language both"):
        TextLines(12, KSX, 60, 1, language="korean", corpus=(tmp_path / "latin.txt",))
