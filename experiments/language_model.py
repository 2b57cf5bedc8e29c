"""Learn from labels and texts what lines are like, for inference.py --language-model (docmarks).

    python -m experiments.language_model --data-dir SROIE LINES --texts corpus.txt --out weights/language.arpa.gz

Counts the characters of the labels in the train split of each --data-dir (detection or recognition data; `###` apart) and
of the texts in --texts, letters as capitals, and writes an n-gram model in ARPA format. The last line on stdout is one JSON
object: labels, texts, bytes, n-grams of each order, and, where a --data-dir has a val split, the perplexity per character
on it: about so many characters are as likely as the one that follows.
"""

import json
from collections import Counter
from pathlib import Path

from datasets.lines.corpus import read_corpus
from datasets.recognition import read_split
from models.language import estimate, write_arpa
from utils.args import new_parser, positive_int
from utils.errors import DataError, exit_cleanly
from utils.weights import list_hash, read_hashes


def labels(folder: Path) -> list[str]:
    """Those of a split that are to be read: neither empty nor ###. Raises DataError where there are none."""
    found = [crop.text for crop in read_split(folder, 1.0) if crop.text]
    if not found:
        raise DataError(f"{folder}: has no label to learn from")
    return found


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("--data-dir", type=Path, nargs="+", action="extend", default=[],
                        help="folders with train/ and, if you like, val/")
    parser.add_argument("--texts", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
                        help="texts that are no labels: .txt, a text a line in UTF-8, or message catalogues, .mo")
    parser.add_argument("--out", type=Path, required=True, help="file to write, NAME.arpa or NAME.arpa.gz")
    parser.add_argument("--order", type=positive_int, default=5,
                        help="characters of the longest n-grams (default: %(default)s)")
    args = parser.parse_args(argv)
    if not args.data_dir and not args.texts:
        parser.error("name what to learn from: --data-dir, --texts, or both")
    for flag, paths in (("--data-dir", args.data_dir), ("--texts", args.texts)):
        if twice := [path for path, times in Counter(path.resolve() for path in paths).items() if times > 1]:
            parser.error(f"{flag}: {twice[0]} is named twice, and would count twice")
    if not args.out.name.endswith((".arpa", ".arpa.gz")):  # or it takes the place of a text that it learns from
        parser.error(f"--out {args.out} must end in .arpa or .arpa.gz")
    lines = [label for folder in args.data_dir for label in labels(folder / "train")]
    texts = read_corpus(args.texts)
    held_out = [label for folder in args.data_dir if (folder / "val").is_dir() for label in labels(folder / "val")]
    language = estimate(lines + texts, args.order)
    write_arpa(args.out, language)
    if args.out.name in read_hashes(args.out.parent):
        list_hash(args.out)
    found = {"file": str(args.out), "labels": len(lines), "texts": len(texts), "bytes": args.out.stat().st_size,
             "ngrams": [sum(len(gram) == length for gram in language.log10) for length in range(1, language.order + 1)]}
    if held_out:
        found["val_perplexity"] = round(language.perplexity(held_out), 3)
    print(json.dumps(found))


if __name__ == "__main__":
    exit_cleanly(main)
