"""Made lines: what they say, that every character is seen, that seeds decide everything, and mixing by weight."""

import argparse
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datasets import text_lines
from datasets.lines.draw import FontChoice, draw_line
from datasets.lines.picture import PRINTS, legible, make_crop
from datasets.lines.text import BALANCED_EVERY, LineTexts
from datasets.recognition import RecognitionDataset, WidthEpochBatches, read_split
from datasets.text_lines import TextLines
from datasets.text_mix import DealtCrops, MixedCrops, mix, mix_source, read_mix
from utils.charset import Charset, build_charset
from utils.errors import DataError
from utils.fonts import find_fonts, fonts_of_split
from utils.text_crops import resized_width

KSX = build_charset("ksx1001")


def texts_of(lines: LineTexts, epoch: int = 0) -> list[str]:
    return [lines.text(epoch, i, np.random.default_rng((lines.seed, epoch, i))) for i in range(lines.length)]


def test_every_character_is_seen_and_dealt_equally_often():
    lines = LineTexts(KSX.characters, 60, 2500, seed=1)
    texts = [text for epoch in (0, 1) for text in texts_of(lines, epoch)]
    assert set("".join(texts)) == set(KSX.characters)
    dealt = Counter("".join(lines.dealt(epoch, index) for epoch in (0, 1) for index in range(2500)))
    assert set(dealt) == set(KSX.characters) - {" "}
    assert max(dealt.values()) - min(dealt.values()) <= 1  # decks go on from one epoch to the next
    for index, text in enumerate(texts_of(lines)):
        assert lines.dealt(0, index) in text
        assert bool(lines.dealt(0, index)) == (index % BALANCED_EVERY == 0)


@pytest.mark.parametrize("longest", [1, 2, 5, 25, 60])
def test_texts_are_one_line_of_the_charset_and_of_every_length(longest):
    for characters in ("AaBb 019.:가각합계₩", "AB01", KSX.characters):
        charset = Charset(characters)
        texts = texts_of(LineTexts(characters, longest, 900, seed=2))
        lengths = Counter(map(len, texts))
        assert min(lengths) == 1 and 0.9 * longest < max(lengths) <= longest
        for text in texts:
            assert not charset.unknown(text) and text == " ".join(text.split()) == unicodedata.normalize("NFC", text)


def test_languages():
    latin = TextLines(200, KSX, 30, 0, language="latin")
    assert not any("가" <= c <= "힣" for i in range(200) for c in latin.texts.text(0, i, np.random.default_rng(i)))
    korean = TextLines(200, KSX, 30, 0, language="korean")
    assert sum(any("가" <= c <= "힣" for c in korean.texts.text(0, i, np.random.default_rng(i))) for i in range(200)) > 100
    with pytest.raises(DataError, match="no Hangul"):
        TextLines(10, Charset("abc"), 30, 0, language="korean")
    with pytest.raises(DataError, match="no character of the charset"):
        TextLines(10, Charset("\ue000"), 30, 0)  # for private use: no font has it


def test_characters_without_a_glyph_are_never_drawn_and_named():
    lines = TextLines(30, Charset("ab\ue000"), 5, 0)
    assert lines.left_out == "\ue000" and "no font has 1" in str(lines) and "U+E000" in str(lines)
    assert all("\ue000" not in lines[(0, index)][1] for index in range(30))


def test_a_charset_in_hangul_without_a_korean_font_is_an_error(monkeypatch):
    monkeypatch.setattr(text_lines, "find_fonts", lambda folder: [face for face in find_fonts() if not face.korean])
    with pytest.raises(DataError, match="Hangul; name a folder with a Korean font by --font-dir"):
        TextLines(10, KSX, 30, 0)
    TextLines(10, KSX, 30, 0, language="latin")  # asks for none


def test_a_line_depends_on_seed_epoch_and_index_alone():
    one, other = (TextLines(50, KSX, 40, 7) for _ in range(2))
    for key in ((0, 3), (1, 3), (0, 4)):
        (image, text), (again, same) = one[key], other[key]
        assert text == same and np.array_equal(image, again)
    assert one[(0, 3)][1] != one[(1, 3)][1] or not np.array_equal(one[(0, 3)][0], one[(1, 3)][0])
    assert one[(0, 3)][1] != TextLines(50, KSX, 40, 8)[(0, 3)][1]


def test_every_kind_of_print_draws_what_can_be_read(monkeypatch):
    faces = fonts_of_split(find_fonts(), "train")
    for kind in range(len(PRINTS)):
        monkeypatch.setattr("datasets.lines.picture.SHARES", np.eye(len(PRINTS))[kind])
        for seed, text in enumerate(("TOTAL 12.50", "합계: 12,000원", ".", "뷁")):
            crop = make_crop(text, FontChoice(faces), np.random.default_rng(seed))
            assert crop.dtype == np.uint8 and crop.shape[2] == 3 and 11 <= crop.shape[0] <= 64 and crop.shape[1] >= 3
            assert np.ptp(crop.astype(int)) > 40, PRINTS[kind]


def test_what_cannot_be_read_is_noticed():
    ink = np.zeros((24, 60), np.float32)
    ink[6:18, 10:14] = ink[6:18, 30:50] = 1
    crop = np.repeat(np.uint8(240 - 200 * ink)[..., None], 3, 2)
    assert legible(crop, ink) and legible(255 - crop, ink)  # white on black too
    assert not legible(np.full_like(crop, 255), ink)
    assert not legible(np.uint8(250 - 20 * ink[..., None].repeat(3, 2)), ink)  # too faint
    assert not legible(np.random.default_rng(0).integers(0, 256, crop.shape, np.uint8), ink)


def test_a_face_that_lacks_a_character_borrows_it():
    faces = fonts_of_split(find_fonts(), "train")
    latin = next(face for face in faces if not face.has("가") and face.family.startswith("DejaVu"))
    runs = FontChoice(faces).runs("ab가b", latin, np.random.default_rng(0))
    assert [text for _, text in runs] == ["ab", "가", "b"] and runs[0][0] == latin and runs[1][0].has("가")
    line = draw_line("ab가b", latin, FontChoice(faces), 30, np.random.default_rng(0))
    ink = np.argwhere(line.coverage > 60)
    assert line.top - 1 <= ink[:, 0].min() and ink[:, 0].max() <= line.bottom + 1
    assert line.left - 1 <= ink[:, 1].min() and ink[:, 1].max() <= line.right + 1


def test_widths_are_known_before_a_line_is_made():
    lines = TextLines(120, KSX, 40, 3)
    told = lines.aspects(0)
    made = [lines[(0, i)][0] for i in range(120)]
    assert np.corrcoef(told, [image.shape[1] / image.shape[0] for image in made])[0, 1] > 0.75


def test_the_written_set_is_read_back_and_its_fonts_are_not_training_s(tmp_path):
    flags = ["--out", str(tmp_path), "--lines", "6", "--seed", "3", "--split", "test", "--max-label-length", "20"]
    assert text_lines.main(flags) == 0
    crops = read_split(tmp_path / "test", 0.0)
    lines = TextLines(6, KSX, 20, 3, "test")
    for index, crop in enumerate(crops):
        image, text = lines[(0, index)]
        assert crop.text == text and np.array_equal(crop.load(), image)
    train = {face.family for face in TextLines(6, KSX, 20, 3).fonts.faces if not face.korean}
    assert not train & {face.family for face in lines.fonts.faces if not face.korean}
    with pytest.raises(DataError, match="not empty"):
        text_lines.main(flags)
    before = (tmp_path / "test" / "labels.tsv").read_text("utf-8")
    assert text_lines.main([*flags, "--overwrite", "--workers", "2"]) == 0
    assert (tmp_path / "test" / "labels.tsv").read_text("utf-8") == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test"]


# ---- several sources


def dataset(folder: Path, count: int, seed: int = 0) -> RecognitionDataset:
    text_lines.main(["--out", str(folder), "--lines", str(count), "--seed", str(seed), "--max-label-length", "8"])
    return RecognitionDataset(read_split(folder / "train", 0.0), KSX, 32, 128, 64, seed, training=True)


def test_weights_are_samples_for_each_one_of_the_data(tmp_path):
    base, more = dataset(tmp_path / "a", 6), dataset(tmp_path / "b", 4, 1)
    texts = ["made:0.5", f"{tmp_path / 'b'}:1.5"]
    (source, crops), = read_mix(texts, 0.0)
    assert source.weight == 1.5 and len(crops) == 4
    mixed = mix(base, [(source, more)], texts, 8, None)
    assert [len(part) for part in mixed.parts] == [6, 9, 3] and len(mixed) == 18
    seen = [[mixed[(epoch, index)]["file"] for index in range(18)] for epoch in range(4)]
    for files in seen:  # every crop of --data-dir once in every epoch
        assert sorted(files[:6]) == sorted(crop.name for crop in base.crops)
    dealt = Counter(file for files in seen for file in files[6:15])
    assert set(dealt.values()) == {9}  # 4 epochs of 9 from 4 crops
    assert len({file for files in seen for file in files[15:]}) == 12  # made lines are new each time
    epoch = [mixed[(0, index)] for index in range(18)]
    twice = [s["crop"] for s in epoch[6:15] if s["file"] == Counter(s["file"] for s in epoch[6:15]).most_common(1)[0][0]]
    assert len(twice) > 1 and not np.array_equal(twice[0], twice[1])  # augmented in another way
    batch = mixed.collate(epoch)
    assert batch["image"].shape[0] == 18 and batch["tokens"].shape[0] == 18
    assert np.array_equal(mixed[(2, 16)]["crop"], mix(base, [(source, more)], texts, 8, None)[(2, 16)]["crop"])


def test_batches_of_a_mixture_follow_the_widths_of_their_epoch(tmp_path):
    base = dataset(tmp_path / "a", 5)
    mixed = mix(base, [], ["made-latin:3"], 8, None)
    assert mixed.widths_in(0).shape == (20,) and not np.array_equal(mixed.widths_in(0), mixed.widths_in(1))
    for epoch in (0, 1):
        dealt = [mixed.parts[0]._dealt(epoch, index)[1] for index in range(5)]
        assert mixed.widths_in(epoch)[:5].tolist() == base.widths[dealt].tolist()
        for index, crop in enumerate(base.crops):
            assert base.widths[index] == resized_width(crop.height, crop.width, 32, 128)
    batches = WidthEpochBatches(mixed.widths_in, 4, seed=0)
    batches.set_position(1)
    keys = [key for batch in batches for key in batch]
    assert sorted(keys) == [(1, index) for index in range(20)]


def test_one_more_than_a_deck_has():
    class Ten:
        seed = 0
        widths = np.arange(10)

        def __len__(self):
            return 10

        def __getitem__(self, key):
            return key

    mixed = MixedCrops([DealtCrops(Ten(), 25)])
    for epoch in range(3):
        assert [mixed[(epoch, index)][1] for index in range(25)] == mixed.widths_in(epoch).tolist()
    everything = Counter(mixed[(epoch, index)] for epoch in range(4) for index in range(25))
    assert len(everything) == 100  # (deck, crop) pairs are all different, so is their augmentation


@pytest.mark.parametrize("charset", ["data", "korean", "ksx1001,hangul", ""])
def test_a_charset_that_a_written_set_cannot_have_is_refused(tmp_path, capsys, monkeypatch, charset):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(SystemExit) as stopped:
        text_lines.main(["--out", str(tmp_path / "lines"), "--lines", "2", "--charset", charset])
    assert stopped.value.code == 2 and not (tmp_path / "lines").exists()
    assert f"argument --charset: {charset or 'nothing'} is not ksx1001, hangul or a file" in capsys.readouterr().err


def test_a_charset_of_a_file(tmp_path):
    (tmp_path / "abc.txt").write_text("abc 12")
    text_lines.main(["--out", str(tmp_path / "lines"), "--lines", "9", "--charset", str(tmp_path / "abc.txt")])
    assert set("".join(crop.text for crop in read_split(tmp_path / "lines/train", 0.0))) <= set("abc 12")


@pytest.mark.parametrize("text", ["made", "made:", "made:0", "made:-1", ":2", "made:x", "made:nan", "made:inf"])
def test_bad_weights_are_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="SOURCE:WEIGHT"):
        mix_source(text)


def test_a_folder_that_is_not_there():
    with pytest.raises(DataError, match="no such folder to mix in"):
        read_mix(["nowhere:1"], 0.0)


@pytest.mark.parametrize("split", ["val", "test"])
def test_what_is_for_scoring_is_not_mixed_in_unasked(tmp_path, split):
    text_lines.main(["--out", str(tmp_path / "more"), "--lines", "2", "--max-label-length", "8", "--split", split])
    with pytest.raises(DataError, match=f"more: holds {split}/ and no train/.* --mix .*more/{split}:1"):
        read_mix([f"{tmp_path / 'more'}:1"], 0.0)
    (_, crops), = read_mix([f"{tmp_path / 'more' / split}:1"], 0.0)
    assert len(crops) == 2
