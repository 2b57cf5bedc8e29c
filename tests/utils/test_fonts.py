"""Fonts are found without matplotlib, and missing glyphs are known."""

import subprocess
import sys
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.fonts import HELD_OUT, FontFace, find_fonts, fonts_of_split

ROOT = Path(__file__).resolve().parents[2]


def test_korean_and_latin_faces_are_found_in_the_packages():
    faces = find_fonts()
    assert any(face.korean for face in faces)
    assert any(not face.korean for face in faces)
    assert all(face.has("AZaz09") for face in faces)
    assert len({(face.family, face.style) for face in faces}) == len(faces)


def test_neither_matplotlib_nor_the_font_package_is_imported():
    code = (
        "import sys; from utils.fonts import find_fonts; find_fonts(); "
        "sys.exit('matplotlib' in sys.modules or 'koreanize_matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_notdef_and_empty_glyphs_do_not_count():
    faces = find_fonts()
    korean = next(face for face in faces if face.korean)
    latin = next(face for face in faces if not face.korean)
    assert korean.has("가힣 A1,₩")
    assert not korean.has("\U0001f600")  # drawn as the notdef box
    assert not korean.has("\U0010ffff") and not latin.has("가")
    assert latin.has("") and latin.has(" ")


def test_font_dir_adds_faces_and_wins_over_the_packages(tmp_path):
    source = next(face for face in find_fonts() if face.korean)
    copy = tmp_path / "deeper" / "mine.ttf"
    copy.parent.mkdir()
    copy.write_bytes(source.path.read_bytes())
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    faces = find_fonts(tmp_path)
    assert [face.path for face in faces if (face.family, face.style) == (source.family, source.style)] == [copy]


@pytest.mark.parametrize("content", [None, b"no font"])
def test_a_folder_without_fonts_is_named(tmp_path, content):
    folder = tmp_path / "fonts"
    if content is not None:
        folder.mkdir()
        (folder / "broken.ttf").write_bytes(content)
    with pytest.raises(DataError, match=str(folder)):
        find_fonts(folder)


def test_held_out_families_stay_out_of_training_and_every_split_writes_korean():
    faces = find_fonts()
    held_out = {name for names in HELD_OUT.values() for name in names}
    train = {face.family.replace(" ", "").lower() for face in fonts_of_split(faces, "train")}
    assert train and not train & held_out
    for split in ("train", "val", "test"):
        own = fonts_of_split(faces, split)
        assert any(face.korean for face in own)
        assert any(not face.korean for face in own)
    test = {face.family.replace(" ", "").lower() for face in fonts_of_split(faces, "test") if not face.korean}
    assert test <= HELD_OUT["test"]


def test_one_family_serves_all_splits():
    only = [face for face in find_fonts() if face.korean]
    assert all(fonts_of_split(only, split) == only for split in ("train", "val", "test"))
    assert fonts_of_split([FontFace(Path("x.ttf"), "DejaVu Serif", "Book")], "train")


def test_a_variant_of_a_held_out_family_is_held_out_too():
    faces = [FontFace(Path(f"{name}.ttf"), name, "Regular") for name in ("NanumMyeongjo Eco", "NanumGothic Eco")]
    assert fonts_of_split(faces, "train") == faces[1:]
