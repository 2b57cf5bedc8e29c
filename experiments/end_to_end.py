"""How well documents are read from picture to text: what inference.py wrote against detection labels (docmarks).

    python inference.py --source SROIE/test/images --output results --tasks text
    python -m experiments.end_to_end results --data-dir SROIE --split test

Boxes are matched as ICDAR does it, at an IoU of 0.5; a line is read exactly if the text of its box is the same, spaces
and case aside. Lines that nobody is asked to read (###) do not count, nor do boxes on them. The last line on stdout is
one JSON object, with 95 % bootstrap intervals over pages.
"""

import json
from pathlib import Path

from datasets.detection import read_split
from utils.args import new_parser
from utils.bootstrap import intervals, warn_of_few
from utils.errors import DataError, exit_cleanly
from utils.files import read_json, read_object
from utils.metrics.end_to_end import count_page, end_to_end_scores


def read_results(folder: Path) -> dict[str, list[tuple[list, str]]]:
    """{name of the image without its suffix: (polygon, text) of each line of its first page}. Raises DataError without
    results."""
    index = folder / "results.json"
    if not index.is_file():
        raise DataError(f"{index}: no such file; python inference.py --source IMAGES --output {folder} --tasks text "
                        "writes it")
    found = {}
    for document in _documents(index):
        record = read_json(folder / document["output"])
        found[Path(record["source"]).stem] = [(before_turning(line["polygon"], page), line["text"] or "")
                                              for page in record["pages"][:1] for line in page["text"]]
    return found


def _documents(index: Path) -> list[dict]:
    documents = read_object(index).get("documents")
    if not isinstance(documents, list):
        raise DataError(f"{index}: lists no documents; python inference.py writes it anew")
    return documents


def before_turning(points: list[list[float]], page: dict) -> list[list[float]]:
    """Points of a page that inference.py has turned upright, in pixels of its image (utils/document.schema.json)."""
    if not page.get("rotation"):
        return points
    width, height = page["width"], page["height"]
    place = {90: lambda x, y: [y, width - x], 180: lambda x, y: [width - x, height - y], 270: lambda x, y: [height - y, x]}
    return [place[page["rotation"]](x, y) for x, y in points]


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("results", type=Path, help="the --output of inference.py")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with train/, val/ and test/")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    found, pages = read_results(args.results), read_split(args.data_dir / args.split, 0.0)
    if missing := [page.path.name for page in pages if page.path.stem not in found]:
        raise DataError(f"{args.results}: has nothing of {len(missing)} of {len(pages)} pages, such as {missing[0]}")
    rows = [count_page(page.polygons, page.texts, page.ignored, found[page.path.stem]) for page in pages]
    warn_of_few(len(rows))
    result = intervals(lambda drawn: end_to_end_scores([rows[number] for number in drawn]),
                       [page.path.name for page in pages])
    for name, (value, low, high) in result.items():
        print(f"{name:10} {value:.4f}   {low:.4f} to {high:.4f}")
    print(json.dumps({"n_images": len(rows), "n_lines": sum(row["n_truth"] for row in rows)} | result))


if __name__ == "__main__":
    exit_cleanly(main)
