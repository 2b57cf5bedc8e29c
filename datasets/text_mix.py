"""Several sources of crops in one training, each with its share of every epoch.

A weight is the number of a source's samples for each sample of --data-dir: `--mix made:1 more/:0.5` trains, in an epoch,
on every crop of --data-dir once, on as many made lines, and on half as many crops of more/. A folder is dealt like a deck
of cards: all of its crops before any a second time, going on from epoch to epoch. Made lines are new in every epoch.
"""

import argparse
import math
from collections import Counter
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Callable, Iterable, NamedTuple

import numpy as np
from torch.utils.data import Dataset

from datasets.crop_table import CropTable
from datasets.recognition import LabelTable, RecognitionDataset, fit_labels, read_split
from datasets.splits import SPLITS, read_splits
from datasets.text_lines import TextLines
from utils.args import SWITCH
from utils.charset import Charset, build_charset, name_character, unigram_entropy
from utils.dataloading import Key
from utils.drawing import font_line
from utils.errors import DataError
from utils.files import fingerprint

MADE = {"made": "both", "made-korean": "korean", "made-latin": "latin"}


class Source(NamedTuple):
    name: str  # of MADE, or a folder
    weight: float


def add_crop_flags(group) -> None:
    """What is trained on; group: that of the data."""
    group.add_argument("--polygon-labels", action=SWITCH,
                       help="lines of labels/*.txt are x1,y1,...,xn,yn,TEXT with polygons of any length")
    group.add_argument("--mix", type=mix_source, nargs="*", default=[], metavar="SOURCE:WEIGHT",
                       help="train on more than --data-dir: a folder, or lines made without end (made, made-korean, "
                            "made-latin), with the number of samples for each one of --data-dir, as in made:1")
    group.add_argument("--font-dir", type=Path, help="folder with more fonts for made lines")
    group.add_argument("--caseless", nargs="*", default=[], metavar="DIR",
                       help="folders of --data-dir and --mix whose labels are capitals whatever the picture shows, as "
                            "SROIE's: their letters are learnt as either case, and the others teach the case; best.pt "
                            "is then better chosen by --fold case")
    group.add_argument("--charset", default="ksx1001", metavar="data|ksx1001|hangul|FILE",
                       help="characters beside Latin, digits, punctuation, space and ₩€£¥: those of the training labels, "
                            "2350 or all 11172 Hangul syllables; or just those of a text file (default: %(default)s)")


def mix_source(text: str) -> str:
    """The type of an argument of --mix, SOURCE:WEIGHT."""
    name, _, weight = text.rpartition(":")
    try:
        valid = bool(name) and 0 < float(weight) < float("inf")
    except ValueError:
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"{text} is not SOURCE:WEIGHT with a weight above 0, as in made:1 or DIR:0.5")
    return text


def parse_mix(texts: Iterable[str]) -> list[Source]:
    return [Source(name, float(weight)) for name, _, weight in (text.rpartition(":") for text in texts)]


def read_mix(texts: Iterable[str], max_bad_fraction: float) -> list[tuple[Source, CropTable]]:
    """The folders among the sources, with the crops of their train/, or of the folder itself where it holds no splits.
    Raises DataError where a folder is not there, cannot be read, or holds splits without a train/."""
    found = []
    for source in parse_mix(texts):
        if source.name not in MADE:
            folder = Path(source.name)
            if not folder.is_dir():
                raise DataError(f"{folder}: no such folder to mix in; --mix takes folders and {', '.join(MADE)}")
            there = [name for name in SPLITS if (folder / name).is_dir()]
            if there and "train" not in there:
                raise DataError(f"{folder}: holds {there[0]}/ and no train/, so that --mix would learn from {there[0]}/; "
                                f"name that folder itself, as in --mix {folder / there[0]}:1, where it is meant")
            found.append((source, read_split(folder / "train" if there else folder, max_bad_fraction)))
    return found


@dataclass
class TextData:
    """What a training reads: label tables of the splits and of the folders mixed in, and the charset of them all."""

    charset: Charset
    tables: dict[str, LabelTable]
    mixed: list[tuple[Source, LabelTable]]

    @property
    def all_tables(self) -> list[LabelTable]:
        return [*self.tables.values(), *(table for _, table in self.mixed)]

    @property
    def checked(self) -> dict[str, LabelTable]:
        """By split, what is mixed in counted as training's."""
        return self.tables | {"train": sum((table for _, table in self.mixed), self.tables["train"])}

    @cached_property
    def token_counts(self) -> Counter:
        """Of labels that are learnt; made lines have none before they are made."""
        return self.checked["train"].kept.token_counts()

    @property
    def numbers(self) -> dict[str, float]:
        """What a model that sees nothing would lose: for equal chances, and knowing how frequent the characters are."""
        return {"chance_loss": math.log(self.charset.size - 2),
                "unigram_entropy": unigram_entropy(self.token_counts)}

    def facts(self, charset: str) -> dict[str, str]:
        """Lines for the card; charset: the flag."""
        numbers, strange = self.numbers, [name_character(c) for c in self.charset.suspicious]
        warning = (f"; warning: {len(strange)} of them suspicious, as left behind by damage or not to be seen: "
                   f"{', '.join(strange[:5])}{', ...' if len(strange) > 5 else ''}" if strange else "")
        return {"Charset": f"{len(self.charset)} characters ({charset}), {self.charset.digest}{warning}",
                "Loss of a model that sees nothing":
                    f"{numbers['chance_loss']:.2f} for equal chances, "
                    f"{numbers['unigram_entropy']:.2f} knowing how frequent the characters are",
                "Font of pictures": font_line(self.charset.characters),
                "Labels": "; ".join(map(str, self.all_tables)),
                "Data": ", ".join(f"{table.split} {fingerprint((table.kept + table.unfit).files())}"
                                  for table in self.all_tables)}


def read_text_data(args, names: Iterable[str], ctc_frames: Callable[[np.ndarray], np.ndarray] | None = None) -> TextData:
    """args: --mix, --charset, --max-label-length, sizes, and the flags of utils.args.add_data_flags; names: of the splits.
    ctc_frames(widths in pixels of resized crops) -> their CTC frames, where a CTC head is trained."""
    def frames(table: CropTable) -> np.ndarray:
        return ctc_frames(table.widths_at(args.img_height, args.img_width, args.stretch))

    crops = read_splits(args, partial(read_split, polygon_labels=args.polygon_labels), names)
    mixed = read_mix(args.mix, args.max_bad_fraction)
    learnt = [crops["train"], *(part for _, part in mixed)]
    charset = build_charset(args.charset, (character for part in learnt for character in part.token_counts()))
    fit = partial(fit_labels, charset=charset, max_label_length=args.max_label_length, ctc_frames=ctc_frames and frames,
                  ctc_alone=args.decoder_weight == 0)
    return TextData(charset, {name: fit(name, part) for name, part in crops.items()},
                    [(source, fit(source.name, part)) for source, part in mixed])


class MadeCrops(Dataset):
    """Made lines as samples of a RecognitionDataset, `like` which they are resized, augmented and encoded."""

    def __init__(self, lines: TextLines, like: RecognitionDataset):
        self.lines, self.like = lines, like

    def __len__(self) -> int:
        return len(self.lines)

    def widths_in(self, epoch: int) -> np.ndarray:
        if self.like.stretch:
            return np.full(len(self), self.like.max_width)
        return np.clip(self.lines.aspects(epoch) * self.like.height, 1, self.like.max_width).astype(int)

    def largest(self) -> list[dict]:
        text = self.like.charset.characters[-1] * self.lines.texts.max_length
        return [self.like.blank(self.like.max_width, text)]

    def __getitem__(self, key: Key) -> dict:
        image, text = self.lines[key]
        # Apart from the stream of the line's own making, which ends with the index.
        rng = np.random.default_rng((self.lines.seed, *key, 1))
        return self.like.sample(image, text, f"made line {key[0]}/{key[1]}", rng)


class DealtCrops(Dataset):
    """`count` crops of a RecognitionDataset an epoch: all of them before any a second time."""

    def __init__(self, crops: RecognitionDataset, count: int):
        self.crops, self.count = crops, count

    def __len__(self) -> int:
        return self.count

    def _dealt(self, epoch: int, index: int) -> Key:
        deck, place = divmod(epoch * self.count + index, len(self.crops))
        return deck, int(_shuffled(self.crops.seed, deck, len(self.crops))[place])

    def widths_in(self, epoch: int) -> np.ndarray:
        first, size = epoch * self.count, len(self.crops)
        decks = range(first // size, (first + self.count - 1) // size + 1)
        dealt = np.concatenate([_shuffled(self.crops.seed, deck, size) for deck in decks])[first % size :]
        return self.crops.widths[dealt[: self.count]]

    def largest(self) -> list[dict]:
        return self.crops.largest()

    def __getitem__(self, key: Key) -> dict:
        return self.crops[self._dealt(*key)]  # augmented as its deck wants it, so that two in one epoch differ


class MixedCrops(Dataset):
    """Parts one after the other; keys (epoch, index) as everywhere."""

    def __init__(self, parts: list[MadeCrops | DealtCrops]):
        self.parts = parts
        self.ends = np.cumsum([len(part) for part in parts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def widths_in(self, epoch: int) -> np.ndarray:
        """(length,) pixels of each resized crop, of made lines about, without opening or making any."""
        return np.concatenate([part.widths_in(epoch) for part in self.parts])

    def largest(self) -> list[dict]:
        """Samples of which each is the largest in something, as of a RecognitionDataset."""
        return [sample for part in self.parts for sample in part.largest()]

    def __getitem__(self, key: Key) -> dict:
        epoch, index = key
        part = int(np.searchsorted(self.ends, index, side="right"))
        return self.parts[part][epoch, index - int(self.ends[part - 1]) if part else index]

    def collate(self, samples: list[dict]) -> dict:
        return self.parts[0].crops.collate(samples)

    def __str__(self) -> str:
        made = [str(part.lines) for part in self.parts if isinstance(part, MadeCrops)]
        dealt = [f"{part.count} an epoch of {len(part.crops)} crops" for part in self.parts
                 if isinstance(part, DealtCrops)]
        return "; ".join([*dealt, *made])


@lru_cache(maxsize=8)
def _shuffled(seed: int, deck: int, size: int) -> np.ndarray:
    return np.random.default_rng((seed, deck, 1 << 22)).permutation(size)


def mix(base: RecognitionDataset, folders: Iterable[tuple[Source, RecognitionDataset]], texts: Iterable[str],
        max_label_length: int, font_dir: Path | None) -> MixedCrops:
    """base: the crops of --data-dir; folders: those that `texts`, the arguments of --mix, name, read."""
    def count(weight: float) -> int:
        return max(round(weight * len(base)), 1)

    parts: list[MadeCrops | DealtCrops] = [DealtCrops(base, len(base))]
    parts += [DealtCrops(crops, count(source.weight)) for source, crops in folders]
    parts += [MadeCrops(TextLines(count(source.weight), base.charset, max_label_length, base.seed, "train",
                                  MADE[source.name], font_dir), base)
              for source in parse_mix(texts) if source.name in MADE]
    return MixedCrops(parts)
