"""Fonts found on this machine, what they can write, and which split may use them.

Found without importing matplotlib: the Nanum Gothic family inside the koreanize_matplotlib package, the DejaVu and STIX
text fonts inside the matplotlib package (or DejaVu in the system's folders), and every font in a folder of the user's.
"""

import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

from utils.errors import DataError

FONT_SUFFIXES = (".ttf", ".otf", ".ttc")
SYSTEM_FOLDERS = ("/usr/share/fonts/truetype/dejavu", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
# Unassigned to any character, so what a font draws here is its notdef glyph.
NOTDEF = "\U0010ffff"
# Families kept out of training so that validation and test read fonts that were never seen, with the variants whose
# names begin alike (NanumMyeongjo Eco draws the letters of NanumMyeongjo). All others are training's.
HELD_OUT = {
    "val": {"dejavuserif", "nanummyeongjo", "undotum", "liberationsansnarrow"},
    "test": {"dejavuserif", "nanumsquareround", "unbatang", "liberationserif", "notoserifcjkkr"},
}


@dataclass(frozen=True)
class FontFace:
    """One face of a font file: family and style as the file names them, `index` inside a collection."""

    path: Path
    family: str
    style: str
    index: int = 0

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The face at `size` pixels per em, cached."""
        return _load(str(self.path), self.index, size)

    def has(self, text: str) -> bool:
        """Whether every character has a glyph of its own here, not the notdef glyph and not an empty one."""
        return all(_has_glyph(str(self.path), self.index, character) for character in text)

    @property
    def korean(self) -> bool:
        return self.has("가나다원")

    @property
    def bold(self) -> bool:
        return "bold" in self.style.lower() or "black" in self.style.lower()

    @property
    def italic(self) -> bool:
        return "italic" in self.style.lower() or "oblique" in self.style.lower()

    @property
    def mono(self) -> bool:
        return any(word in self.family.lower() for word in ("mono", "coding", "courier", "typewriter"))


def find_fonts(font_dir: Path | None = None) -> list[FontFace]:
    """Every usable face, one for each family and style, sorted by family and style.

    Usable: it opens and has Latin letters and digits. Raises DataError where `font_dir` is no folder or holds no usable
    font, and where no font was found at all.
    """
    files = _package_files("koreanize_matplotlib", "fonts", ("Nanum",))
    files += _package_files("matplotlib", "mpl-data/fonts/ttf", ("DejaVuSans", "DejaVuSerif", "STIXGeneral"))
    if not any(path.name.startswith("DejaVu") for path in files):
        files += [path for folder in SYSTEM_FOLDERS for path in sorted(Path(folder).glob("DejaVu*.ttf"))]
    if font_dir is not None:
        if not Path(font_dir).is_dir():
            raise DataError(
                f"{font_dir}: no such folder of fonts; way out: name a folder that holds .ttf or .otf files"
            )
        added = sorted(p for p in Path(font_dir).rglob("*") if p.suffix.lower() in FONT_SUFFIXES)
        if not any(_faces_of(path) for path in added):
            raise DataError(f"{font_dir}: holds no usable font; way out: put .ttf or .otf files there")
        files = added + files  # the user's file wins over a packaged one of the same family and style
    faces: dict[tuple[str, str], FontFace] = {}
    for path in files:
        for face in _faces_of(path):
            faces.setdefault((face.family, face.style), face)
    if not faces:
        raise DataError(
            "no fonts were found; way out: pip install koreanize-matplotlib, or name a folder by --font-dir"
        )
    return [faces[key] for key in sorted(faces)]


def fonts_of_split(faces: list[FontFace], split: str) -> list[FontFace]:
    """The faces that a split ("train", "val" or "test") may draw with.

    Held-out families go to the splits that HELD_OUT names, all others to training. Where that leaves a split without a
    font for Korean, or without one for Latin only, it borrows training's, since a page needs both.
    """
    held_out = tuple(set().union(*HELD_OUT.values()))
    free = [face for face in faces if not _plain(face.family).startswith(held_out)] or faces
    if split == "train":
        return free
    own = [face for face in faces if _plain(face.family).startswith(tuple(HELD_OUT[split]))]
    for wanted in (True, False):
        if not any(face.korean == wanted for face in own):
            own += [face for face in free if face.korean == wanted]
    return own


def _plain(family: str) -> str:
    return family.replace(" ", "").lower()


def _package_files(package: str, folder: str, prefixes: tuple[str, ...]) -> list[Path]:
    spec = importlib.util.find_spec(package)  # locates the package without running it
    if spec is None or not spec.submodule_search_locations:
        return []
    files = sorted((Path(spec.submodule_search_locations[0]) / folder).glob("*.ttf"))
    return [path for path in files if path.name.startswith(prefixes) and "Display" not in path.name]


def _faces_of(path: Path) -> list[FontFace]:
    faces = []
    for index in range(16 if path.suffix.lower() == ".ttc" else 1):
        try:
            family, style = _load(str(path), index, 32).getname()
        except OSError:  # not a font, or past the collection's last face
            break
        face = FontFace(path, family or path.stem, style or "Regular", index)
        # A CJK collection repeats itself for each country; Korean shapes are in the KR faces.
        if ("CJK" not in face.family or face.family.endswith("KR")) and face.has("AZaz09"):
            faces.append(face)
    return faces


@lru_cache(maxsize=512)
def _load(path: str, index: int, size: int) -> ImageFont.FreeTypeFont:
    # The basic layout engine gives the same positions whether or not libraqm is installed.
    return ImageFont.truetype(path, size, index=index, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=1 << 18)
def _has_glyph(path: str, index: int, character: str) -> bool:
    if character.isspace():
        return True
    font = _load(path, index, 32)
    glyph = font.getmask(character)
    return glyph.getbbox() is not None and (
        glyph.size != _notdef(path, index)[0] or bytes(glyph) != _notdef(path, index)[1]
    )


@lru_cache(maxsize=512)
def _notdef(path: str, index: int) -> tuple[tuple[int, int], bytes]:
    glyph = _load(path, index, 32).getmask(NOTDEF)
    return glyph.size, bytes(glyph)
