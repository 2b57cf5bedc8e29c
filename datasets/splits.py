"""Splits of a folder that has none: by group, seeded, written down once and used ever after.

    DIR/images/ and its labels      in place of DIR/train/, DIR/val/ and DIR/test/
    DIR/groups.tsv                  FILE<TAB>GROUP, if you like: what belongs to one document, photograph or company
    DIR/splits.tsv                  FILE<TAB>SPLIT, written at the first start; edit it, or delete it to split anew

Files of one group never come into two splits. What is split is the index of the whole folder, so that every format that
can be read can be split.
"""

import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from operator import attrgetter
from pathlib import Path
from typing import Callable, Iterable, Sequence

from datasets.crop_table import CropTable
from utils.args import require_split
from utils.charset import nfc
from utils.errors import DataError
from utils.files import replace_file

SPLITS = ("train", "val", "test")
FRACTIONS = (0.8, 0.1, 0.1)


def read_splits(args, read: Callable[[Path, float], list], names: Iterable[str] = ("train", "val"),
                path: Callable[[object], Path] = attrgetter("path")) -> dict[str, list]:
    """{split: its items} for the splits in `names`.

    read(folder, max_bad_fraction) gives the items of a folder, path(item) the file that an item was made from. args:
    the flags of utils.args.add_data_flags; with --overfit N only the first N items of a split are given. Raises
    DataError where a split is not there or is empty.
    """
    if needs_split(args.data_dir):
        parts = divide(args, read(args.data_dir, args.max_bad_fraction), names, path)
    else:
        if is_divided(args.data_dir):  # else require_split says what the folder must hold
            refuse_flags(args)
        parts = {name: read(require_split(args.data_dir, name), args.max_bad_fraction) for name in names}
    return {name: part[: args.overfit] for name, part in parts.items()}


def splits_to_read(args) -> tuple[str, ...]:
    """What a training looks at: train and val, and for preflight test where there is one; with --overfit only train."""
    if args.overfit:
        return SPLITS[:1]
    if args.no_preflight:
        return SPLITS[:2]
    if not needs_split(data_folder(args)):
        return SPLITS if (args.data_dir / "test").is_dir() else SPLITS[:2]
    place = split_file(args)
    known = set(read_table(place)[0].values()) if place.is_file() else set()
    return SPLITS if "test" in known or (not known and (args.split_fractions or FRACTIONS)[2]) else SPLITS[:2]


def needs_split(folder: Path) -> bool:
    """Whether a data folder holds images/ in place of split folders."""
    return not is_divided(folder) and (folder / "images").is_dir()


def is_divided(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in SPLITS)


def split_file(args) -> Path:
    return args.split_file or data_folder(args) / "splits.tsv"


def data_folder(args) -> Path:
    """--data-dir, which may name a data.yaml."""
    return args.data_dir.parent if args.data_dir.is_file() else args.data_dir


def divide(args, items: Sequence, names: Iterable[str], path: Callable[[object], Path]) -> dict[str, list]:
    """The items of each split in `names`, as splits.tsv says; writes it, or adds files that are new."""
    files = [file_key(file) for file in (items.paths() if isinstance(items, CropTable) else map(path, items))]
    table = find_splits(args, set(files))
    places = {name: [place for place, file in enumerate(files) if table[file] == name] for name in names}
    parts = {name: items.take(chosen) if isinstance(items, CropTable) else [items[place] for place in chosen]
             for name, chosen in places.items()}
    for name, part in parts.items():
        if not part:
            there = ", ".join(sorted(set(table.values())))
            raise DataError(f"{split_file(args)}: gives no file to {name} ({there} have some); take another --split, "
                            "or delete the file and set --split-fractions")
    return parts


def refuse_flags(args) -> None:
    """Flags about splitting do nothing where there are split folders."""
    for flag in ("group_regex", "split_fractions", "split_file"):
        if getattr(args, flag) is not None:
            raise DataError(f"{args.data_dir}: is split already; --{flag.replace('_', '-')} is for an undivided folder")


def file_key(path: Path) -> str:
    """What a file is called in splits.tsv: its name, composed, since some systems take names apart when they copy."""
    return nfc(path.name)


def find_splits(args, files: set[str]) -> dict[str, str]:
    """{file: split} of all `files`, from splits.tsv and for what it does not name from the groups."""
    place = split_file(args)
    known, rule = read_table(place) if place.is_file() else ({}, {})
    given = {"group_regex": args.group_regex, "fractions": args.split_fractions and list(args.split_fractions)}
    for flag, name in (("--group-regex", "group_regex"), ("--split-fractions", "fractions")):
        if rule and given[name] is not None and given[name] != rule[name]:
            raise DataError(f"{place}: was made with another {flag} ({rule[name] or 'none'}): leave the flag out, or "
                            "delete the file to split anew")
    by_hand = bool(known) and not rule
    rule = rule or {"group_regex": given["group_regex"], "fractions": given["fractions"] or list(FRACTIONS),
                    "seed": args.seed}
    groups = group_files(data_folder(args), files, rule["group_regex"])
    _check_groups(place, groups, known)
    if new := files - known.keys():
        known |= assign(groups, known, rule["fractions"], rule["seed"], new)
        rows = [f"# {json.dumps(rule, ensure_ascii=False)}", *(f"{file}\t{known[file]}" for file in sorted(known))]
        replace_file(place, "\n".join(rows) + "\n")
    print(f"{place}: {describe(groups, known)}" + (f"; {len(new)} files were new" if new else ""))
    if rule["group_regex"] is None and not (data_folder(args) / "groups.tsv").is_file() and not by_hand:
        print(f"warning: {args.data_dir}: each file is a group of its own; where several show one document, photograph "
              "or company, name what they share by --group-regex or groups.tsv, or scores will flatter",
              file=sys.stderr)
    return {file: known[file] for file in files}


def describe(groups: dict[str, str], splits: dict[str, str]) -> str:
    """'train 40 files of 12 groups, ...'"""
    files, parts = Counter(splits[file] for file in groups), defaultdict(set)
    for file, group in groups.items():
        parts[splits[file]].add(group)
    return ", ".join(f"{name} {files[name]} files of {len(parts[name])} groups" for name in SPLITS if files[name])


def group_files(folder: Path, files: Iterable[str], regex: str | None) -> dict[str, str]:
    """{file: group} by the regular expression (its first group, or else the whole match, anywhere in the file's name),
    or by groups.tsv, or each file by itself. Raises DataError for files that they do not cover."""
    files = sorted(files)
    table = folder / "groups.tsv"
    if regex is not None:
        pattern = re.compile(regex)
        matches = {file: pattern.search(file) for file in files}
        groups = {file: match[1 if pattern.groups else 0] for file, match in matches.items() if match}
        source = f"--group-regex {regex}"
    elif table.is_file():
        groups, source = read_table(table)[0], str(table)
    else:
        return {file: file for file in files}
    missing = [file for file in files if not groups.get(file)]
    if missing:
        raise DataError(f"{source}: gives {len(missing)} of {len(files)} files no group, first {missing[0]}")
    return {file: groups[file] for file in files}


def assign(groups: dict[str, str], known: dict[str, str], fractions: Sequence[float], seed: int,
           new: set[str]) -> dict[str, str]:
    """{file: split} for the files in `new`. A group that has a split keeps it; the others are taken in an order that
    depends on seed and name alone, each to the split that lacks most files, and no split is left without a group.

    groups: of all files. fractions: of the files, for train, val and test; a split of 0 gets none.
    """
    members, split_of = defaultdict(list), {}
    for file, group in groups.items():
        members[group].append(file)
        if file in known:
            split_of[group] = known[file]
    wanted = {name: fraction * len(groups) for name, fraction in zip(SPLITS, fractions) if fraction}
    held = Counter(known[file] for file in groups if file in known)
    waiting = sorted(members.keys() - split_of.keys(),
                     key=lambda group: hashlib.sha256(f"{seed}\0{group}".encode()).digest())
    if len(waiting) + len(set(split_of.values())) < len(wanted):
        raise DataError(f"{len(waiting)} group{'s' * (len(waiting) != 1)} cannot fill {len(wanted)} splits "
                        f"({', '.join(wanted)}): name finer groups, " +
                        ("or set test's share in --split-fractions to 0" if "test" in wanted else "or add files"))
    for place, group in enumerate(waiting):
        empty = [name for name in wanted if not held[name]]
        choices = empty if len(waiting) - place <= len(empty) else list(wanted)
        split_of[group] = max(choices, key=lambda name: wanted[name] - held[name])
        held[split_of[group]] += len(members[group])
    return {file: split_of[groups[file]] for file in new}


def read_table(path: Path) -> tuple[dict[str, str], dict]:
    """({file: value}, settings) of a file of FILE<TAB>VALUE lines; settings: the JSON of a first line that begins with
    #, if any. Raises DataError for lines without a tab and for files named twice."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not readable as UTF-8 text ({error})") from None
    table, settings = {}, {}
    for number, line in enumerate(lines, start=1):
        file, tab, value = (part.strip() for part in line.partition("\t"))
        if number == 1 and line.startswith("# {"):
            try:
                settings = {name: json.loads(line[1:])[name] for name in ("group_regex", "fractions", "seed")}
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}, line 1: does not hold the settings of the split; restore or remove the line"
                                ) from None
        elif line.strip() and not (number == 1 and file == "file"):
            if not value:
                raise DataError(f"{path}, line {number}: is not FILE, tab, word")
            if table.setdefault(nfc(file), value) != value:
                raise DataError(f"{path}, line {number}: names {file} a second time, with another word")
    return table, settings


def _check_groups(place: Path, groups: dict[str, str], known: dict[str, str]) -> None:
    """Raises DataError where splits.tsv knows other splits than ours or parts a group."""
    strange = sorted(set(known.values()) - set(SPLITS))
    if strange:
        raise DataError(f"{place}: {strange[0]} is no split ({', '.join(SPLITS)})")
    first: dict[str, str] = {}
    for file in sorted(file for file in groups if file in known):
        other = first.setdefault(groups[file], file)
        if known[other] != known[file]:
            raise DataError(f"{place}: {other} ({known[other]}) and {file} ({known[file]}) are of one group, "
                            f"{groups[file]}; mend the file, or delete it to split anew")
