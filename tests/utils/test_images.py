"""One loader: orientation once, any depth, and a clear line for what cannot be read."""

import struct
import unicodedata
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from utils.errors import DataError
from utils.images import (IMAGENET_MEAN, IMAGENET_STD, image_size, list_images, load_image, load_mask, save_image,
                          to_tensor, to_uint8)

PICTURE = np.zeros((6, 9, 3), np.uint8)
PICTURE[:2, :3] = (255, 0, 0)
PICTURE[4:, 6:] = (0, 0, 255)
# How the stored picture must be laid out so that orientation N shows PICTURE.
STORED = {1: PICTURE, 2: PICTURE[:, ::-1], 3: PICTURE[::-1, ::-1], 4: PICTURE[::-1], 5: PICTURE.transpose(1, 0, 2),
          6: np.rot90(PICTURE, 1), 7: np.rot90(PICTURE, 2).transpose(1, 0, 2), 8: np.rot90(PICTURE, -1)}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix, options", [(".png", {}), (".tif", {}), (".tif", {"compression": "tiff_lzw"})])
def test_every_exif_orientation_is_applied_once(tmp_path, orientation, suffix, options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"p{suffix}"
    Image.fromarray(np.ascontiguousarray(STORED[orientation])).save(path, exif=exif, **options)
    assert np.array_equal(load_image(path), PICTURE)
    assert image_size(path) == PICTURE.shape[:2]


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    grey = Image.fromarray(np.full((4, 5), 255, np.uint8))
    image = Image.fromarray(np.full((4, 5), 65535, np.uint16)) if mode == "I;16" else grey.convert(mode)
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    image.save(path)
    loaded = load_image(path)
    assert loaded.shape == (4, 5, 3) and loaded.dtype == np.uint8 and loaded.min() >= 250


def test_sixteen_bit_grey_is_scaled_not_cut(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(np.uint16([[0, 32896, 65535]])).save(path)
    assert load_image(path)[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("stored, grey", [
    (np.uint16([[0, 510, 1020]]), [0, 127, 254]),  # 10 bits in a container of 16
    (np.uint16([[0, 2048, 4095]]), [0, 128, 255]), (np.uint16([[0, 8192, 16000]]), [0, 128, 249]),
    (np.uint16([[0, 20000, 40000]]), [0, 78, 156]),  # a page without white
    (np.uint16([[0, 1, 200]]), [0, 1, 200]), (np.uint16([[300, 300, 300]]), [75, 75, 75]),
    (np.int32([[0, 510, 1020]]), [0, 127, 254]), (np.int32([[-1023, 0, 1023]]), [0, 128, 255]),
    (np.int32([[0, 100_000, 200_000]]), [0, 128, 255]),
    (np.float32([[0, 0.5, 1]]), [0, 128, 255]), (np.float32([[0, 0.5, 1.04]]), [0, 128, 255]),
    (np.float32([[0, 100, 250]]), [0, 100, 250]), (np.float32([[0, 32768, 65535]]), [0, 128, 255]),
    (np.float32([[0, 5e5, 1e6]]), [0, 128, 255]), (np.float32([[np.nan, 0.5, np.inf]]), [0, 128, 0]),
    (np.float32([[0, 0, 0]]), [0, 0, 0])])
def test_every_depth_keeps_its_range(tmp_path, stored, grey):
    """A page is no darker than its greys, whatever container they come in."""
    path = tmp_path / "p.tif"
    Image.fromarray(stored).save(path)
    assert load_image(path)[0, :, 0].tolist() == grey and load_mask(path)[0].tolist() == grey
    if stored.dtype == np.uint16:
        Image.fromarray(stored).save(tmp_path / "p.png")
        assert load_image(tmp_path / "p.png")[0, :, 0].tolist() == grey


def test_ten_bit_colour_keeps_its_range(tmp_path):
    path = tmp_path / "p.png"
    cv2.imwrite(str(path), np.uint16([[[0, 510, 1020]]]))  # blue, green, red
    assert load_image(path).tolist() == [[[254, 127, 0]]]


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


NOISE = np.random.default_rng(0).integers(0, 255, (200, 150, 3), np.uint8)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
def test_a_png_that_is_damaged_in_its_middle_is_named_not_shown_half_black(tmp_path, mode):
    path = tmp_path / "p.png"
    Image.fromarray(NOISE).convert(mode).save(path)
    whole = path.read_bytes()
    assert load_image(path).shape == (200, 150, 3)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(300) + whole[middle + 300 :])
    for read in (load_image, load_mask):
        with pytest.raises(DataError, match="p.png: not a readable .*IDAT.*damaged"):
            read(path)
        with pytest.raises(DataError, match="p.png: not a readable .*IDAT.*damaged"):
            load_image("p.png", data=path.read_bytes())


@pytest.mark.parametrize("length", [b"\0\0\x09\x99", b"\x7f\xff\xff\xff"])
def test_a_length_in_a_png_that_leads_astray_costs_no_pixels_unseen(tmp_path, length):
    path = tmp_path / "p.png"
    pixels = np.tile(NOISE, (2, 2, 1))  # several parts of 64 KB
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    place = whole.index(b"IDAT") - 4
    path.write_bytes(whole[:place] + length + whole[place + 4 :])
    for read in (load_image, load_mask):
        with pytest.raises(DataError, match="p.png: not a readable"):
            read(path)


def test_what_a_png_says_beside_its_pixels_may_be_damaged(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(NOISE).save(path)
    whole = path.read_bytes()
    note = bytearray(png_chunk(b"tEXt", b"Software\0ours"))
    note[-1] ^= 1
    path.write_bytes(whole[:-12] + note + whole[-12:])
    assert np.array_equal(load_image(path), NOISE)
    path.write_bytes(whole[:-12])  # only its end marker is missing
    assert np.array_equal(load_image(path), NOISE)


def test_what_is_no_image_is_said_in_words(tmp_path):
    path = tmp_path / "p.jpg"
    path.write_bytes(b"nothing that can be read")
    with pytest.raises(DataError, match=r"p.jpg: not a readable image \(not a JPEG, PNG, BMP, TIFF or WebP") as error:
        load_image(path)
    assert "MPO" not in str(error.value)


def test_photos_with_a_second_picture_open(tmp_path):
    path = tmp_path / "p.jpg"
    first = Image.fromarray(np.full((8, 8, 3), 200, np.uint8))
    first.save(path, format="MPO", save_all=True, append_images=[Image.fromarray(np.zeros((4, 4, 3), np.uint8))])
    with Image.open(path) as image:
        assert image.format == "MPO"
    assert np.abs(load_image(path).astype(int) - 200).max() < 3 and image_size(path) == (8, 8)


def test_transparency_is_laid_on_white(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(np.uint8([[[9, 9, 9, 0], [9, 9, 9, 255]]]), "RGBA").save(path)
    assert load_image(path)[0].tolist() == [[255] * 3, [9] * 3]


def test_sixteen_bit_colour_keeps_its_range(tmp_path):
    path = tmp_path / "p.png"
    cv2.imwrite(str(path), np.uint16([[[0, 32896, 65535]]]))  # blue, green, red
    assert load_image(path).tolist() == [[[255, 128, 0]]]


@pytest.mark.parametrize("ink, rgb", [((0, 0, 0, 0), 255), ((0, 0, 0, 255), 0), ((255, 255, 255, 0), 0)])
def test_printers_inks(tmp_path, ink, rgb):
    path = tmp_path / "p.jpg"
    Image.new("CMYK", (8, 8), ink).save(path)
    assert np.abs(load_image(path).astype(int) - rgb).max() < 40


@pytest.mark.parametrize("name", ["영수증 1.png", unicodedata.normalize("NFD", "영수증.png"), "領収書.jpg", "قائمة.png",
                                  "счёт № 7.webp", "🧾.png", "a'b\"c;$(d).png"])
def test_names_in_any_script(tmp_path, name):
    path = tmp_path / name
    save_image(path, np.full((5, 6, 3), 200, np.uint8))
    assert np.abs(load_image(path).astype(int) - 200).max() < 3 and list_images(tmp_path) == [path]
    assert image_size(path) == (5, 6)


@pytest.mark.parametrize("content, reason", [(b"", "not a readable image"), (b"\xff\xd8\xff no", "not a readable image")])
def test_broken_files_are_named(tmp_path, content, reason):
    path = tmp_path / "p.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"p.jpg: {reason}"):
        load_image(path)


def test_formats_that_start_programs_are_refused(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")
    with pytest.raises(DataError, match="not a readable image"):
        load_image(path)


def test_a_truncated_jpeg_is_refused_not_filled_with_grey(tmp_path):
    path = tmp_path / "p.jpg"
    save_image(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    path.write_bytes(path.read_bytes()[:-900])
    for read in (load_image, image_size):
        with pytest.raises(DataError, match="p.jpg: not a readable image"):
            read(path)


def test_bytes_behind_the_end_do_not_make_a_file_bad(tmp_path):
    """Some telephones append a second picture."""
    path = tmp_path / "p.jpg"
    save_image(path, np.full((8, 8, 3), 77, np.uint8))
    path.write_bytes(path.read_bytes() + b"\0" * 5000)
    assert image_size(path) == (8, 8) and load_image(path).shape == (8, 8, 3)


def test_size_is_checked_before_decoding(tmp_path):
    path = tmp_path / "p.png"
    save_image(path, PICTURE)
    with pytest.raises(DataError, match="9 x 6 pixels are over the limit of 50"):
        load_image(path, max_pixels=50)


def test_masks_and_tensors(tmp_path):
    mask = np.uint8([[0, 85], [170, 255]])
    save_image(tmp_path / "m.png", mask)
    assert np.array_equal(load_mask(tmp_path / "m.png"), mask)
    tensor = to_tensor(PICTURE)
    assert tensor.dtype == torch.float32 and tensor.shape == (3, 6, 9)
    assert tensor[0, 0, 0] == pytest.approx((1 - 0.485) / 0.229, rel=1e-5)
    assert np.array_equal(to_uint8(tensor), PICTURE)


@pytest.mark.parametrize("shape", [(1, 1), (256, 3), (61, 40)])
def test_a_tensor_has_the_bits_of_the_formula(shape):
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    image[:, 0] = np.resize(np.arange(256), (shape[0], 1))  # every byte, where it is high enough
    mean, std = np.float32(IMAGENET_MEAN) * 255, np.float32(IMAGENET_STD) * 255
    for view in (image, image[::-1, ::-1], image[..., ::-1]):  # of any memory layout
        expected = torch.from_numpy((view.astype(np.float32) - mean) * (1 / std)).permute(2, 0, 1)
        assert torch.equal(to_tensor(view), expected) and to_tensor(view).is_contiguous()


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(DataError, match="no images"):
        list_images(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        list_images(tmp_path / "x")
