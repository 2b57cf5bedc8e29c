"""Files that two splits share: the same file by another path, or the same content under another name.

Only files of one size can be alike, so only those are hashed, and a hash is kept in the user's cache folder until the
file changes its size or its time of modification.
"""

import hashlib
import json
import os
from collections import defaultdict
from pathlib import Path
from typing import Iterable

from utils.errors import DataError
from utils.files import replace_file


def cache_file() -> Path:
    """$XDG_CACHE_HOME/docmarks/hashes.json, by default in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "docmarks" / "hashes.json"


class HashCache:
    """SHA-256 of files, kept in a JSON file between starts: {path: [size, modification time in ns, hash]}.

    A cache that cannot be read or written costs time and nothing else.
    """

    def __init__(self, file: Path):
        self.file, self.hashed = file, 0
        try:
            known = json.loads(file.read_text(encoding="utf-8"))
            self.known = {path: row for path, row in known.items() if isinstance(row, list) and len(row) == 3}
        except (OSError, ValueError, AttributeError):
            self.known = {}

    def hash_of(self, path: Path) -> str:
        key, status = os.path.abspath(path), path.stat()
        stamp = [status.st_size, status.st_mtime_ns]
        if self.known.get(key, [])[:2] != stamp:
            with open(path, "rb") as file:
                self.known[key] = [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
            self.hashed += 1
        return self.known[key][2]

    def save(self) -> None:
        """Write what is new; files that are gone are forgotten."""
        if self.hashed:
            kept = {path: row for path, row in self.known.items() if os.path.exists(path)}
            try:
                replace_file(self.file, json.dumps(kept, ensure_ascii=False))
            except DataError:
                pass  # a home that cannot be written to


def find_shared(splits: dict[str, Iterable[Path]], cache: HashCache) -> list[tuple[str, Path, str, Path, str]]:
    """(split, file, other split, its file, "is" or "has the content of") for each file of a later split that an earlier
    one holds too. Links count as the file they lead to."""
    of_size = defaultdict(list)
    for split, paths in splits.items():
        for path in sorted(set(paths)):
            of_size[path.stat().st_size].append((split, path))
    shared = []
    for group in of_size.values():
        if len({split for split, _ in group}) < 2:
            continue
        first: dict[str, tuple[str, Path]] = {}
        for split, path in group:
            other, other_path = first.setdefault(cache.hash_of(path), (split, path))
            if other != split:
                relation = "is" if path.samefile(other_path) else "has the content of"
                shared.append((split, path, other, other_path, relation))
    return sorted(shared, key=lambda row: row[1])


def check_shared(splits: dict[str, Iterable[Path]], file: Path | None = None) -> str:
    """A line for the console; raises DataError, naming pairs, where two splits share a file or its content.

    file: the cache, by default the user's.
    """
    splits = {split: set(paths) for split, paths in splits.items()}
    cache = HashCache(file or cache_file())
    shared = find_shared(splits, cache)
    cache.save()
    if shared:
        named = "; ".join(f"{path} ({split}) {relation} {other_path} ({other})"
                          for split, path, other, other_path, relation in shared[:3])
        raise DataError(f"preflight: splits share {len(shared)} files, so that scores on them mean nothing: {named}"
                        f"{'; ...' if len(shared) > 3 else ''}; take them out of one split; --no-preflight goes on all "
                        "the same")
    counts = ", ".join(f"{split} {len(paths)}" for split, paths in splits.items())
    return f"no file and no content in two splits (files: {counts})"
