"""Sources found, names for outputs, and pages of images, TIFFs and PDFs, whole and broken."""

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.documents import LONGEST_NAME, Source, find_sources, open_document, output_stems
from utils.errors import DataError


def save(path: Path, width: int = 40, height: int = 30, value: int = 200, mode: str = "RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).convert(mode).save(path, **options)
    return path


def make_pdf(path: Path, sizes: list[tuple[int, int]], dpi: float = 72.0) -> Path:
    pages = [Image.new("RGB", size, (250, 20 * number, 0)) for number, size in enumerate(sizes)]
    pages[0].save(path, save_all=True, append_images=pages[1:], resolution=dpi)
    return path


def bare_pdf(path: Path, media_box: str = "0 0 100 50", extra: str = "", trailer: str = "") -> Path:
    """A PDF with one empty page, written by hand."""
    objects = ["<</Type/Catalog/Pages 2 0 R>>", "<</Type/Pages/Kids[3 0 R]/Count 1>>",
               f"<</Type/Page/Parent 2 0 R/MediaBox[{media_box}]{extra}>>"]
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, start=1):
        places.append(len(body))
        body += f"{number} 0 obj{content}endobj\n"
    table = "".join(f"{place:010d} 00000 n \n" for place in places)
    path.write_text(f"{body}xref\n0 4\n0000000000 65535 f \n{table}trailer<</Size 4/Root 1 0 R{trailer}>>\n"
                    f"startxref\n{len(body)}\n%%EOF")
    return path


def names(sources: list[Source]) -> list[str]:
    return [source.name for source in sources]


# finding -------------------------------------------------------------------------------------------------------------


def test_folder_is_searched_with_its_sub_folders(tmp_path):
    for name in ("b.png", "a.PDF", "sub/deep/c.jpg", ".hidden.png", "._d.jpg", "notes.txt", "sub/e.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)  # must neither be followed nor hang
    (tmp_path / "folder.png").mkdir()
    found = find_sources([str(tmp_path)], tmp_path / "results")
    assert names(found) == ["a.PDF", "b.png", "sub/deep/c.jpg", "sub/e.tiff"]
    assert [source.stem for source in found] == ["a", "b", "sub/deep/c", "sub/e"]
    assert all(source.path.is_absolute() and source.path.is_file() for source in found)


def test_files_patterns_and_folders_share_one_root(tmp_path, monkeypatch):
    for name in ("one/a.png", "two/a.png", "two/sub/a.pdf", "two/b.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    assert names(find_sources(["one/a.png"], Path("out"))) == ["a.png"]
    assert names(find_sources(["two/b.txt"], Path("out"))) == ["b.txt"]  # a file that is named is taken by its content
    assert names(find_sources(["*/a.png"], Path("out"))) == ["one/a.png", "two/a.png"]
    assert names(find_sources(["two/**/*"], Path("out"))) == ["a.png", "sub/a.pdf"]
    everything = find_sources(["one", "two", "two/a.png", "./two/a.png"], Path("out"))
    assert names(everything) == ["one/a.png", "two/a.png", "two/sub/a.pdf"]  # each once
    assert names(find_sources(["two/a.png", "../" + tmp_path.name + "/one"], Path("out"))) == ["one/a.png", "two/a.png"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    save(tmp_path / "scan [1].png")
    assert names(find_sources([str(tmp_path / "scan [1].png")], tmp_path / "out")) == ["scan [1].png"]


def test_results_are_not_read_as_sources(tmp_path):
    save(tmp_path / "a.png")
    save(tmp_path / "results" / "a_p1_overlay.jpg")
    assert names(find_sources([str(tmp_path)], tmp_path / "results")) == ["a.png"]
    (tmp_path / "link").symlink_to(tmp_path / "results")
    assert names(find_sources([str(tmp_path)], tmp_path / "link")) == ["a.png"]
    for output in (tmp_path, tmp_path.parent):
        with pytest.raises(DataError, match="inside the output folder"):
            find_sources([str(tmp_path)], output)


def test_results_of_earlier_runs_are_passed_by_and_that_is_said(tmp_path, capsys):
    for name in ("a.png", "old/a_p1_overlay.jpg", "old/a.json", "old/sub/b_p1_overlay.jpg", "new/a_p1_overlay.jpg",
                 "more/old/c.png", "kept/d.png"):
        save(tmp_path / name) if not name.endswith("json") else (tmp_path / name).write_text("{}")
    for name in ("old", "more/old", "new"):
        (tmp_path / name / ".docmarks").mkdir()
        (tmp_path / name / ".docmarks" / "a.note.json").write_text("{}")
    assert names(find_sources([str(tmp_path)], tmp_path / "new")) == ["a.png", "kept/d.png"]
    assert capsys.readouterr().out == "passed by: 2 folders with results of earlier runs (more/old, old)\n"
    assert names(find_sources([f"{tmp_path}/**/*.*"], tmp_path / "new")) == ["a.png", "kept/d.png"]
    assert "passed by: 2 folders with results" in capsys.readouterr().out
    # who names it wants it
    assert names(find_sources([str(tmp_path / "old")], tmp_path / "out")) == ["a_p1_overlay.jpg", "sub/b_p1_overlay.jpg"]
    assert names(find_sources([f"{tmp_path}/old/*.jpg"], tmp_path / "out")) == ["a_p1_overlay.jpg"]
    assert names(find_sources([str(tmp_path / "old" / "sub")], tmp_path / "out")) == ["b_p1_overlay.jpg"]
    assert "folder" not in capsys.readouterr().out
    with pytest.raises(DataError, match="more: holds no documents .*; results of earlier runs are passed by"):
        find_sources([str(tmp_path / "more")], tmp_path / "out")


def test_files_of_other_types_are_counted_by_type(tmp_path, capsys):
    for name in ("a.png", "b.HEIC", "sub/c.heic", "d.gif", "README", ".hidden", ".git/objects", ".git/e.gif", "out/a.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(find_sources([str(tmp_path)], tmp_path / "out")) == ["a.png"]
    assert capsys.readouterr().out == "passed by: 2 .heic, 1 .gif, 1 without an ending\n"
    find_sources([f"{tmp_path}/*.*"], tmp_path / "out")
    assert capsys.readouterr().out == "passed by: 1 .gif, 1 .heic\n"
    find_sources([str(tmp_path), str(tmp_path / "b.HEIC"), str(tmp_path / "README")], tmp_path / "out")
    assert capsys.readouterr().out == "passed by: 1 .gif, 1 .heic\n"
    for number in range(12):
        (tmp_path / f"x.t{number}").touch()
    find_sources([str(tmp_path)], tmp_path / "out")
    assert capsys.readouterr().out.endswith(", and 10 of other types\n")
    (tmp_path / "a.png").rename(tmp_path / "sub" / "a.png")
    find_sources([str(tmp_path / "sub" / "a.png")], tmp_path / "out")
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    save(tmp_path / "closed" / "b.png")
    scandir = os.scandir

    def refusing(path):  # the tests may run as root, who may look into everything
        if os.path.basename(path) == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "scandir", refusing)
        found = find_sources([str(tmp_path)], tmp_path / "out")
        assert names(found) == ["a.png", "closed"]
        with pytest.raises(DataError, match="closed: cannot be read .Permission denied"):
            open_document(found[1].path)
        with pytest.raises(DataError, match="closed: the folder cannot be read .Permission denied"):
            find_sources([str(tmp_path / "closed")], tmp_path / "out")


@pytest.mark.parametrize("source", ["missing", "missing.png", "missing/*.png", "empty"])
def test_sources_that_hold_nothing(tmp_path, source):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=f"{source.split('/')[0]}.*: (no such|holds no)"):
        find_sources([str(tmp_path / source)], tmp_path / "out")


@pytest.mark.parametrize("given_names, stems", [
    (["a.png", "b.pdf"], ["a", "b"]),
    (["a.png", "a.jpg", "sub/a.png"], ["a.png", "a.jpg", "sub/a"]),
    (["a.png", "a.jpg", "a.png.jpg"], ["a.png", "a.jpg", "a.png.jpg"]),  # the third would have been a.png
    (["A.png", "a.jpg"], ["A.png", "a.jpg"]),  # one name on file systems that ignore case
    (["results.png", "sub/results.png"], ["results.png", "sub/results"]),  # results.json is the run's
    (["v1.2.png", ".config.png"], ["v1.2", ".config"]),
    (["영수증.png", "file"], ["영수증", "file"]),
])
def test_stems(given_names, stems):
    assert output_stems([Path(name) for name in given_names]) == stems


def test_stem_of_what_cannot_be_told_apart():
    case = output_stems([Path("A.png"), Path("a.png")])
    assert len({stem.casefold() for stem in case}) == 2 and all("-" in stem for stem in case)
    broken = output_stems([Path(os.fsdecode(b"\xff.png")), Path(os.fsdecode(b"\xfe.png"))])
    assert len(set(broken)) == 2
    assert all(stem.encode("utf-8") for stem in broken)
    assert output_stems([Path("results")]) != ["results"]


NAMES = st.lists(st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=90)
                 .filter(lambda s: s not in (".", "..")).flatmap(
                     lambda s: st.sampled_from([s, s + ".png", s + ".jpg", s + ".PNG", "sub/" + s + ".png", s * 3])),
                 min_size=1, max_size=8, unique=True)


@settings(deadline=None, max_examples=200)
@given(NAMES)
def test_stems_are_unique_short_and_stay_below_the_output(given_names):
    stems = output_stems([Path(name) for name in given_names])
    assert len({stem.casefold() for stem in stems}) == len(given_names)
    for stem in stems:
        assert "results" != stem.casefold()
        assert stem.isprintable() and not stem.startswith("/")
        for ending in (".json", "_p1_overlay.jpg"):
            parts = f"{stem}{ending}".split("/")
            assert ".." not in parts and all(len(part.encode()) <= 255 for part in parts)
        assert len(stem.rpartition("/")[2].encode()) <= LONGEST_NAME + 9


# reading -------------------------------------------------------------------------------------------------------------


def read(path: Path, **options) -> list:
    document = open_document(path, **options)
    pages = list(document.pages)
    assert [page.number for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        assert (page.image is None) == (page.error is not None)
        if page.image is not None:
            assert page.image.dtype == np.uint8 and page.image.ndim == 3 and page.image.shape[2] == 3
    return pages


@pytest.mark.parametrize("name, mode", [("a.png", "RGB"), ("a.jpg", "L"), ("a.jpg", "CMYK"), ("a.png", "RGBA"),
                                        ("a.png", "P"), ("a.png", "1"), ("a.webp", "RGB"), ("a.bmp", "RGB"),
                                        ("a.tif", "CMYK")])
def test_images_of_all_kinds(tmp_path, name, mode):
    page, = read(save(tmp_path / name, value=255, mode=mode))
    assert page.image.shape == (30, 40, 3) and page.image.min() >= 250


def test_sixteen_bits(tmp_path):
    Image.fromarray(np.full((30, 40), 40000, np.uint16)).save(tmp_path / "a.png")
    page, = read(tmp_path / "a.png")
    assert abs(int(page.image[0, 0, 0]) - 40000 / 257) <= 1


def test_content_decides_and_not_the_name(tmp_path):
    save(tmp_path / "a.png").rename(tmp_path / "a.pdf")
    make_pdf(tmp_path / "b.pdf", [(20, 10)] * 2).rename(tmp_path / "b")
    assert len(read(tmp_path / "a.pdf")) == 1 and len(read(tmp_path / "b", dpi=72)) == 2


def test_exif_orientation_is_applied_once(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.zeros((30, 40, 3), np.uint8)
    pixels[:10, :10] = 255  # the stored top left is the upright top right
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, quality=95)
    page, = read(tmp_path / "a.jpg")
    assert page.image.shape == (40, 30, 3)
    assert page.image[:8, -8:].min() > 200 and page.image[:8, :8].max() < 50


@pytest.mark.parametrize("dpi, known", [((300, 300), 300), ((72, 72), None), ((96, 96), None), ((204, 98), None),
                                        ((0, 0), None), (None, None)])
def test_resolution_of_images(tmp_path, dpi, known):
    page, = read(save(tmp_path / "a.jpg", **({"dpi": dpi} if dpi else {})))
    assert page.dpi == (pytest.approx(known, rel=0.01) if known else None)


def test_tiff_of_many_pages(tmp_path):
    frames = [Image.new("L", (40 + number, 30), 50 * number) for number in range(4)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:], compression="tiff_lzw", dpi=(200, 200))
    pages = read(tmp_path / "a.tif")
    assert [page.image.shape for page in pages] == [(30, 40 + number, 3) for number in range(4)]
    assert [int(page.image[0, 0, 0]) for page in pages] == [0, 50, 100, 150] and pages[0].dpi == 200
    document = open_document(tmp_path / "a.tif", max_pages=2)
    assert document.page_count == 4 and len(list(document.pages)) == 2
    too_large = read(tmp_path / "a.tif", max_pixels=41 * 30)
    assert [page.error is None for page in too_large] == [True, True, False, False]
    assert "over the limit" in too_large[2].error


def test_animations_are_one_page(tmp_path):
    frames = [Image.new("RGB", (20, 10), (i * 80, 0, 0)) for i in range(3)]
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True)
    assert len(read(tmp_path / "a.webp")) == 1


def test_pdf_pages_at_their_resolution(tmp_path):
    make_pdf(tmp_path / "a.pdf", [(72, 144), (144, 72), (72, 72)])  # inches, at 72 pixels each
    pages = read(tmp_path / "a.pdf")
    assert [page.image.shape for page in pages] == [(400, 200, 3), (200, 400, 3), (200, 200, 3)]
    assert all(page.dpi == 200 for page in pages)
    assert pages[2].image[50, 50].tolist() == pytest.approx([250, 40, 0], abs=3)  # red stays red
    assert read(tmp_path / "a.pdf", dpi=50)[0].image.shape == (100, 50, 3)
    document = open_document(tmp_path / "a.pdf", max_pages=1)
    assert document.page_count == 3 and len(list(document.pages)) == 1


def test_pdf_page_that_is_turned(tmp_path):
    page, = read(bare_pdf(tmp_path / "a.pdf", extra="/Rotate 90"), dpi=72)
    assert page.image.shape == (100, 50, 3)


def test_pdf_page_size_is_checked_before_rendering(tmp_path):
    page, = read(bare_pdf(tmp_path / "a.pdf", "0 0 14400 14400"))  # 40000 x 40000 pixels: 4.8 GB
    assert "40000 x 40000 pixels at 200 DPI" in page.error and "--dpi" in page.error
    page, = read(tmp_path / "a.pdf", dpi=1, max_pixels=40_000)
    assert page.image.shape == (200, 200, 3)


def test_pdf_with_a_password(tmp_path):
    locked = "/ID[<00><00>]/Encrypt<</Filter/Standard/V 1/R 2/P -4/O<{0}>/U<{0}>>>".format("ab" * 32)
    with pytest.raises(DataError, match="a.pdf: is locked with a password"):
        open_document(bare_pdf(tmp_path / "a.pdf", trailer=locked))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("content", [b"", b"%PDF-1.4", b"%PDF-1.4\n%%EOF", b"not an image",
                                     b"\x89PNG\r\n\x1a\n" + bytes(40), b"II*\0\x08\0\0\0"])
def test_broken_files_say_so_in_one_line(tmp_path, content):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DataError) as error:
        list(open_document(tmp_path / "a.png").pages)
    assert str(error.value).startswith(f"{tmp_path / 'a.png'}: ") and "\n" not in str(error.value)


NOISE = np.random.default_rng(0).integers(0, 255, (200, 200, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_an_image_that_is_cut_short(tmp_path, name):
    Image.fromarray(NOISE).save(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) // 2])
    page, = read(tmp_path / name)
    assert page.error.startswith(f"{tmp_path / name}: not a readable image") and "\n" not in page.error


def test_one_broken_page_of_a_tiff_leaves_the_others(tmp_path):
    frames = [Image.fromarray(np.roll(NOISE, number)) for number in range(3)]
    frames[0].save(tmp_path / "a.tif", save_all=True, append_images=frames[1:], compression="tiff_adobe_deflate")
    with Image.open(tmp_path / "a.tif") as image:
        image.seek(1)
        place = image.tag_v2[273][0]  # where the second page's pixels are
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[place : place + 200] = b"\xff" * 200
    (tmp_path / "a.tif").write_bytes(data)
    pages = read(tmp_path / "a.tif")
    assert [page.error is None for page in pages] == [True, False, True]
    assert (pages[2].image == np.asarray(frames[2])).all()


def test_paths_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")  # reading it would wait for ever
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    for name, reason in (("pipe.png", "not a regular file"), ("gone.png", "no such file"), (".", "not a regular file")):
        with pytest.raises(DataError, match=reason):
            open_document(tmp_path / name)


def test_arrays_are_documents_of_one_page():
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    page, = open_document(grey).pages
    assert page.image.shape == (3, 4, 3) and (page.image == grey[..., None]).all() and page.dpi is None
    page, = open_document(page.image).pages
    assert page.image.shape == (3, 4, 3)
    for wrong in (grey.astype(float), *(np.zeros(shape, np.uint8) for shape in ((3, 4, 4), (0, 4, 3), (3,)))):
        with pytest.raises(DataError, match="is no page"):
            open_document(wrong)
