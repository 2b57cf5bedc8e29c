"""Endless lines of text in real fonts: a source to train on, and a command that writes a labelled set.

    python -m datasets.text_lines --out data/lines --lines 2000 --seed 7 --split test --font-dir /usr/share/fonts
    python -m datasets.text_lines --out data/lines --lines 500 --seed 8 --split val --language korean
    python train_recognition.py --data-dir data/recognition --mix made:1

Receipts' and forms' content in Korean and Latin, degraded as by printers, scanners and cameras. Every third line holds
characters dealt evenly from the whole charset, so that each of them is seen. A line depends on (seed, epoch, index) and
on nothing else, whatever the number of workers, as long as the fonts and the libraries are the same. Each split draws in
fonts of its own (utils/fonts.py): `--split test` writes lines in families that training never sees. Give each written
set a seed of its own, other than the training's.

    python -m datasets.text_lines --out data/lines --lines 500 --texts corpus.txt /usr/share/locale/ko/LC_MESSAGES/*.mo

draws pieces of your own texts instead: a text a line (UTF-8), or message catalogues of programs.
"""

import argparse
import multiprocessing
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Sequence

import cv2
import numpy as np
from tqdm import tqdm

from datasets.lines.corpus import CorpusTexts, read_corpus
from datasets.lines.draw import FontChoice
from datasets.lines.picture import make_crop
from datasets.lines.text import LineTexts
from utils.args import new_parser, non_negative_int, positive_int
from utils.charset import Charset, build_charset, name_character
from utils.errors import DataError, exit_cleanly
from utils.fonts import find_fonts, fonts_of_split

SPLITS = ("train", "val", "test")
LANGUAGES = {"both": 0.5, "korean": 1.0, "latin": 0.0}  # share of lines with Korean content
WIDE, NARROW = 0.95, 0.55  # about what a Hangul syllable and a Latin letter take of the crop's height


class TextLines:
    """A map from a key (epoch, index) to (crop (h, w, 3) uint8 RGB, its text), without a disk.

    `length` is only what an epoch is called. Texts hold 1 to max_length characters of the charset; with the language
    "latin" no Hangul. corpus: files of texts (datasets.lines.corpus) whose pieces are drawn instead of made content; with
    a language those with Hangul, or those without. Raises DataError where the charset and the language leave nothing to
    write, or where `language` or the charset asks for Hangul that no font of the split can draw.
    """

    def __init__(self, length: int, charset: Charset, max_length: int, seed: int, split: str = "train",
                 language: str = "both", font_dir: Path | None = None, corpus: Sequence[Path] = ()):
        self.length, self.seed = length, seed
        faces = fonts_of_split(find_fonts(font_dir), split)
        wanted = [c for c in charset.characters if language != "latin" or not _is_hangul(c)]
        drawn = [c for c in wanted if any(face.has(c) for face in faces)]
        self.left_out = "".join(sorted(set(wanted) - set(drawn)))
        if any(map(_is_hangul, self.left_out)) and not any(map(_is_hangul, drawn)):
            raise DataError(f"{font_dir or 'the packaged fonts'}: no font of the split {split} has Hangul; name a "
                            "folder with a Korean font by --font-dir")
        if language == "korean" and not any(map(_is_hangul, drawn)):
            raise DataError("Korean lines: the charset holds no Hangul; take --charset ksx1001 or hangul")
        if not any(not c.isspace() for c in drawn):
            raise DataError("made lines: no character of the charset can be written; take another --charset")
        if corpus:
            texts = read_corpus(corpus)
            wanted = [text for text in texts if language == "both" or (language == "korean") == any(map(_is_hangul, text))]
            if not wanted:
                raise DataError(f"--language {language}: none of the {len(texts)} texts is; take --language both")
            self.texts = CorpusTexts(wanted, "".join(drawn), max_length, seed)
            self.other_language = len(texts) - len(wanted)
        else:
            self.texts = LineTexts("".join(drawn), max_length, length, seed, LANGUAGES[language])
        self.fonts = FontChoice(faces)

    def __len__(self) -> int:
        return self.length

    def aspects(self, epoch: int) -> np.ndarray:
        """(length,) float: about how many times wider than high each line of made content will be, without making it."""
        lengths, korean = self.texts.plan(epoch)
        return lengths * np.where(korean, WIDE, NARROW)

    def __getitem__(self, key: tuple[int, int]) -> tuple[np.ndarray, str]:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        text = self.texts.text(epoch, index, rng)
        return make_crop(text, self.fonts, rng), text

    def __str__(self) -> str:
        lacking = ", ".join(map(name_character, self.left_out[:5])) + (", ..." if len(self.left_out) > 5 else "")
        return (f"made lines: {self.length} an epoch, {len(self.fonts.faces)} faces, {len(self.texts.deck)} characters"
                + (f"; no font has {len(self.left_out)} of the charset: {lacking}" if self.left_out else "")
                + (f"; {len(self.texts.words)} texts; left out: {self.texts.left_out} with characters that cannot be written, "
                   f"{self.other_language} of another language" if isinstance(self.texts, CorpusTexts) else ""))


def _is_hangul(character: str) -> bool:
    return "가" <= character <= "힣"


# a written set --------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def _lines(*arguments) -> TextLines:
    lines, charset, *others = arguments
    return TextLines(lines, build_charset(charset), *others)


def _write(job: tuple[int, Path, tuple]) -> str:
    """Write line number job[0] into the folder job[1]; its row of labels.tsv. Runs in a worker."""
    index, folder, arguments = job
    cv2.setNumThreads(0)
    crop, text = _lines(*arguments)[(0, index)]
    name = f"{index:06}.png"
    done, data = cv2.imencode(".png", crop[..., ::-1])
    if not done:
        raise DataError(f"{folder / name}: could not be encoded")
    (folder / "images" / name).write_bytes(data)
    return f"{name}\t{text}\n"


def write_set(folder: Path, arguments: tuple, workers: int) -> None:
    """images/ and labels.tsv in `folder`; arguments: those of _lines, the number of lines first."""
    (folder / "images").mkdir(parents=True)
    jobs = [(index, folder, arguments) for index in range(arguments[0])]
    if workers <= 1:
        rows = [_write(job) for job in tqdm(jobs, desc="lines", unit="line", disable=None)]
    else:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            rows = list(tqdm(pool.map(_write, jobs, chunksize=64), total=len(jobs), desc="lines", unit="line",
                             disable=None))
    (folder / "labels.tsv").write_text("".join(rows), encoding="utf-8")


def charset_source(text: str) -> str:
    """What build_charset takes, but for "data": here is none to take characters from."""
    if text not in ("ksx1001", "hangul") and (text == "data" or not Path(text).is_file()):
        raise argparse.ArgumentTypeError(f"{text or 'nothing'} is not ksx1001, hangul or a file")
    return text


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = new_parser(__doc__)
    parser.add_argument("--out", type=Path, required=True, help="data folder; the lines go to OUT/SPLIT")
    parser.add_argument("--lines", type=positive_int, required=True, help="number of lines")
    parser.add_argument("--seed", type=non_negative_int, default=0, help="the same seed makes the same lines (default 0)")
    parser.add_argument("--split", choices=SPLITS, default="train",
                        help="whose fonts, and the folder's name (default train)")
    parser.add_argument("--language", choices=LANGUAGES, default="both", help="of the content (default both, half each)")
    parser.add_argument("--texts", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
                        help="draw pieces of these texts instead of made content: .txt, a text a line, or .mo; --language "
                             "takes those with Hangul, or those without")
    parser.add_argument("--charset", type=charset_source, default="ksx1001", metavar="ksx1001|hangul|FILE",
                        help="(default ksx1001)")
    parser.add_argument("--max-label-length", type=positive_int, default=60, help="characters (default 60)")
    parser.add_argument("--font-dir", type=Path, help="folder with more fonts, searched with its subfolders")
    parser.add_argument("--workers", type=positive_int, default=1, help="processes (default 1); does not change the lines")
    parser.add_argument("--overwrite", action="store_true", help="replace a split folder that holds something")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    target = args.out / args.split
    if target.exists() and not args.overwrite and (not target.is_dir() or any(target.iterdir())):
        raise DataError(f"{target}: is not empty; --overwrite replaces it, or take another --out")
    arguments = (args.lines, args.charset, args.max_label_length, args.seed, args.split, args.language, args.font_dir,
                 tuple(args.texts))
    print(_lines(*arguments), file=sys.stderr)  # says at once what is wrong with fonts or charset
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        # Beside its final place, so that the folder is moved there by a rename: whole or not at all.
        with tempfile.TemporaryDirectory(prefix=".making-", dir=args.out) as folder:
            write_set(Path(folder) / "new", arguments, args.workers)
            if target.exists():
                target.rename(Path(folder) / "old")
            (Path(folder) / "new").rename(target)
    except OSError as error:
        raise DataError(f"{args.out}: cannot be written ({error.strerror or error})") from None
    print(f"{target}: {args.lines} lines of text")
    return 0


if __name__ == "__main__":
    exit_cleanly(main)
