"""Files are whole or absent: written beside, flushed to the disk, renamed over the old one."""

import hashlib
import json
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Iterable

from utils.errors import DataError


TEMPORARY = re.compile(r"\..+\.[a-z0-9_]{8}\.tmp")  # as write_replacing names what is not finished
LEFT_BEHIND = 24 * 3600  # seconds: no process is still writing what nothing was added to for so long


def read_utf8(path: Path) -> str:
    """A text file, with or without a byte order mark. Raises DataError where it is in another encoding."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 (byte {error.start}); save it as UTF-8") from None


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises DataError where it cannot be parsed, OSError where it is missing."""
    try:
        return json.loads(read_utf8(path))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot be read as JSON ({error}); mend or remove it") from None


def read_object(path: Path) -> dict:
    """What a JSON file holds that is one object. Raises DataError and OSError as read_json, and DataError for anything else."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: cannot be read: it holds no JSON object; mend or remove it")
    return content


def read_jsonl(path: Path) -> list:
    """What each line of a file of JSON lines holds; none of a file that is missing. Raises DataError where a line cannot be
    parsed."""
    if not path.is_file():
        return []
    try:
        return [json.loads(line) for line in read_utf8(path).split("\n") if line.strip()]  # str.splitlines knows more ends
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is damaged, or not a file of JSON lines ({error})") from None


def write_replacing(path: Path, write: Callable[[Path], Any]) -> None:
    """write(temporary) fills a file beside `path`, which then takes its place in one step.

    A full disk, a kill or an error leaves what was there before. Raises DataError where the place cannot be written.
    """
    path = Path(path)
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:80]}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def remove_file(path: Path) -> bool:
    """Whether there was one. Raises DataError where it cannot be removed."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise DataError(f"{path}: cannot be removed ({error.strerror})") from None
    return True


def remove_unfinished(folder: Path) -> int:
    """Remove what write_replacing left below `folder` where it was killed a day ago or longer; returns how many files."""
    removed = 0
    for place, _, names in os.walk(folder):
        for path in (Path(place) / name for name in names if TEMPORARY.fullmatch(name)):
            with suppress(OSError):  # another process was faster, or it is somebody else's
                if path.is_file() and time.time() - path.stat().st_mtime > LEFT_BEHIND:
                    path.unlink()
                    removed += 1
    return removed


def replace_file(path: Path, data: bytes | str) -> None:
    """Write bytes, or text as UTF-8, whole or not at all."""
    payload = data.encode("utf-8") if isinstance(data, str) else data
    write_replacing(path, lambda temporary: temporary.write_bytes(payload))


def write_json(path: Path, value: Any) -> None:
    """Indented UTF-8 JSON, whole or not at all."""
    replace_file(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n")


def file_hash(path: Path) -> str:
    """SHA-256 of its content, in hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[Path]) -> str:
    """12 hexadecimal digits that change when a file is added, removed, renamed or changes its size."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(f"{path.name}\0{path.stat().st_size}\n".encode())
    return digest.hexdigest()[:12]


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
