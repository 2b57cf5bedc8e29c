"""One loader for images: EXIF orientation applied once, any bit depth, sizes checked before anything is decoded."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from utils.errors import DataError
from utils.files import replace_file

if TYPE_CHECKING:
    import torch  # takes seconds to import: processes that only decode go without it

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# (3, 256): what the bytes of each channel become.
NORMALISED = np.ascontiguousarray(((np.arange(256, dtype=np.float32)[:, None] - np.float32(IMAGENET_MEAN) * 255)
                                   * (1 / (np.float32(IMAGENET_STD) * 255))).T)
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
# Named, since others (EPS) start programs to be read. MPO, two photographs in one file, is opened as the JPEG it is too.
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP")
# What the last bytes of a whole file hold.
ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
# What a file's greys go up to, by the number of its bits, whatever container they come in; for floats by habit.
INTEGER_SCALES = (255, 1023, 4095, 16383, 65535)
FLOAT_SCALES = (1, 255, 65535)
# An A3 page at 600 DPI has 70 million pixels.
MAX_PIXELS = 200_000_000

Image.MAX_IMAGE_PIXELS = None  # our own limit is checked on the header, with a message that says what to do


def list_images(folder: Path) -> list[Path]:
    """Image files directly inside `folder`, sorted by name. Raises DataError where there are none."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))
    if not files:
        raise DataError(f"{folder}: holds no images ({' '.join(IMAGE_SUFFIXES)})")
    return files


def open_header(path: Path | str, max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> Image.Image:
    """The image opened but not decoded. Raises DataError where it is unreadable, empty or too large.

    data: its bytes where it is no file of its own but lies in an archive; `path` then only names it in messages. The
    same holds for image_size and load_image.
    """
    try:
        image = Image.open(path if data is None else io.BytesIO(data), formats=FORMATS)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (UnidentifiedImageError, ModuleNotFoundError):  # ultralytics has Pillow look for a reader of HEIF, too
        raise DataError(f"{path}: not a readable image (not a JPEG, PNG, BMP, TIFF or WebP, or damaged where it "
                        "begins)") from None
    except Exception as error:  # Pillow's decoders raise whatever they meet in a broken file
        raise DataError(f"{path}: not a readable image ({_first_words(error)})") from None
    image.filename = ""  # Pillow would map an uncompressed TIFF into memory, and then turn it wrongly
    width, height = image.size
    if width < 1 or height < 1:
        raise DataError(f"{path}: the image is empty ({width} x {height})")
    if width * height > max_pixels:
        raise DataError(f"{path}: {width} x {height} pixels are over the limit of {max_pixels}")
    return image


def image_size(path: Path | str, data: bytes | None = None) -> tuple[int, int]:
    """(height, width) as load_image would return it, from the header; a file that seems cut short is decoded, so that
    it is found out now and not in the middle of an epoch."""
    with open_header(path, data=data) as image:
        if image.format in ENDS and ENDS[image.format] not in _tail(path, data):
            return load_image(path, data=data).shape[:2]
        width, height = image.size
        # Pillow turns TIFF files by itself, the size in the header included.
        turned = image.format != "TIFF" and _orientation(image) >= 5
        return (width, height) if turned else (height, width)


def exif_orientation(path: Path) -> int:
    """1 to 8, from the header alone; 1, as it stands, where there is no tag."""
    with open_header(path) as image:
        return _orientation(image)


def load_image(path: Path | str, max_pixels: int = MAX_PIXELS, data: bytes | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB with the EXIF orientation applied. Transparent pixels are laid on white.

    Other depths are scaled to it from 0 and the next usual white that holds their brightest pixel: 1023 for 10 bits in a
    container of 16, 1.0 for floats. So a page of 16 bits on which nothing is brighter than a quarter comes out brighter.
    Raises DataError where the file is missing, unreadable, damaged (JPEG tells only where it is cut short) or larger than
    `max_pixels`.
    """
    with open_header(path, max_pixels, data) as image:
        return image_to_rgb(image, path, data)


def image_to_rgb(image: Image.Image, path: Path | str, data: bytes | None = None) -> np.ndarray:
    """(H, W, 3) uint8 RGB of an opened Pillow image; `path` is for messages and for OpenCV's faster decoder."""
    try:
        # OpenCV fills what is missing or damaged with grey or black and says nothing; Pillow refuses it.
        if _is_whole(image.format, path, data) and image.format in ("JPEG", "PNG", "BMP") and image.mode in ("RGB", "L") \
                and "transparency" not in image.info and _orientation(image) == 1:
            encoded = np.fromfile(path, np.uint8) if data is None else np.frombuffer(data, np.uint8)
            decoded = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | cv2.IMREAD_ANYDEPTH)
            if decoded is not None:
                return decoded if decoded.dtype == np.uint8 else _scaled_to_uint8(decoded)
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith(("I", "F")):
            return cv2.cvtColor(_scaled_to_uint8(np.asarray(image)), cv2.COLOR_GRAY2RGB)
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a readable image ({_first_words(error)})") from None


def load_mask(path: Path) -> np.ndarray:
    """(H, W) uint8 grey values as stored, EXIF orientation applied; other depths are scaled, and DataError is raised, as
    load_image does; raised too where the alpha channel alone tells pixels apart."""
    with open_header(path) as image:
        try:
            _is_whole(image.format, path)
            image = ImageOps.exif_transpose(image)
            if image.mode == "P":
                return np.array(image.convert("L"))
            if image.mode.startswith(("I", "F")):
                return _scaled_to_uint8(np.asarray(image))
            grey, extremes = np.array(image.convert("L")), image.getextrema()
        except Exception as error:
            raise DataError(f"{path}: not a readable mask ({_first_words(error)})") from None
    if image.mode in ("RGBA", "LA"):
        *colours, (least, most) = extremes
        if least < most and all(low == high for low, high in colours):
            raise DataError(f"{path}: is drawn in its alpha channel alone, all else is of one colour; save it as a grey "
                            "mask, ink = 255")
    return grey


def save_image(path: Path, image: np.ndarray, jpeg_quality: int = 90) -> None:
    """Write (H, W, 3) uint8 RGB or (H, W) uint8 grey, whole or not at all. The suffix decides the format."""
    path = Path(path)
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if image.ndim == 3 else image
    options = [cv2.IMWRITE_JPEG_QUALITY, jpeg_quality] if path.suffix.lower() in (".jpg", ".jpeg") else []
    done, data = cv2.imencode(path.suffix, bgr, options)
    if not done:
        raise DataError(f"{path}: cannot be encoded as {path.suffix}")
    replace_file(path, data.tobytes())


def to_tensor(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) uint8 RGB -> (3, H, W) float32, ImageNet-normalised."""
    import torch
    out = np.empty((3, *image.shape[:2]), np.float32)
    # A table of the 256 values of each channel gives the bits of the formula in a tenth of its time.
    for channel, table, normalised in zip(cv2.split(np.ascontiguousarray(image)), NORMALISED, out):
        cv2.LUT(channel, table, normalised)
    return torch.from_numpy(out)


def to_uint8(tensor: torch.Tensor) -> np.ndarray:
    """The inverse of to_tensor, for looking at what the network was given."""
    image = tensor.detach().float().cpu().numpy().transpose(1, 2, 0) * IMAGENET_STD + np.array(IMAGENET_MEAN)
    return np.clip(image * 255 + 0.5, 0, 255).astype(np.uint8)


def _is_whole(kind: str, path: Path | str, data: bytes | None = None) -> bool:
    """False where a file is cut short, as far as its format tells; a PNG is looked through. Raises ValueError where one
    of its checksums does not fit; those of its notes do not matter."""
    if kind != "PNG":
        return ENDS.get(kind, b"") in _tail(path, data)
    data = Path(path).read_bytes() if data is None else data
    place = len(b"\x89PNG\r\n\x1a\n")
    while place + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if name[:1].isupper() and zlib.crc32(data[place + 4 : end]) != int.from_bytes(data[end : end + 4]) \
                and end + 4 <= len(data):
            raise ValueError(f"its {name.decode('ascii', 'replace')} part is damaged: the checksum does not fit")
        if name == b"IEND":
            return True
        place = end + 4
    return False


def _tail(path: Path | str, data: bytes | None = None) -> bytes:
    if data is not None:
        return data[-1024:]
    with open(path, "rb") as file:
        file.seek(max(file.seek(0, 2) - 1024, 0))
        return file.read()


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block is no reason to lose the picture
        return 1


def _scaled_to_uint8(values: np.ndarray) -> np.ndarray:
    """Greys or colours of any number type as uint8, by load_image's rule. What is no number becomes black."""
    is_float = values.dtype.kind == "f"
    values = np.nan_to_num(values.astype(np.float32), copy=False, nan=0.0, posinf=0.0, neginf=0.0)
    low, high = float(values.min(initial=0)), float(values.max(initial=0))
    if is_float:  # resizing goes a little over white
        high = next((scale for scale in FLOAT_SCALES if high <= 1.1 * scale), high)
    else:
        high = next((scale for scale in INTEGER_SCALES if high <= scale), high)
    values -= low  # in place: a page may have 100 million pixels
    values /= high - low
    values *= 255
    values += 0.5
    return np.clip(values, 0, 255, out=values).astype(np.uint8)


def _first_words(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:120]
