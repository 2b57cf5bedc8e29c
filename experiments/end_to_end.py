"""How well documents are read from picture to text: what inference.py wrote against detection labels (docmarks).

    python inference.py --source SROIE/test/images --output results --tasks text
    python -m experiments.end_to_end results --data-dir SROIE --split test

Each labelled line takes the box that overlaps it most, if by an IoU of more than 0.5 and not taken by a line before it.
It is read exactly if the text is the same, spaces and case aside. Lines that nobody is asked to read (###) do not count,
nor do boxes whose centres lie on them. The last line on stdout is one JSON object, with 95 % bootstrap intervals over pages.
"""

import json
from pathlib import Path

from shapely import Polygon

from datasets.detection import Page, read_split
from utils.args import new_parser
from utils.bootstrap import intervals
from utils.errors import DataError, exit_cleanly

IOU = 0.5


def folded(text: str) -> str:
    return text.replace(" ", "").upper()


def overlap(a: Polygon, b: Polygon) -> float:
    shared = a.intersection(b).area
    return shared / (a.area + b.area - shared) if shared else 0.0


def count_page(page: Page, found: list[dict]) -> dict[str, int]:
    """Lines, boxes, pairs and lines read exactly. found: "text" of a page of inference.py's JSON."""
    areas = [Polygon(points).buffer(0) for points in page.polygons]
    unread = [area for area, ignored in zip(areas, page.ignored) if ignored]
    boxes = [(Polygon(box["polygon"]).buffer(0), box["text"] or "") for box in found]
    boxes = [(area, text) for area, text in boxes if not any(area.centroid.within(other) for other in unread)]
    counts, taken = {"lines": 0, "boxes": len(boxes), "pairs": 0, "exact": 0}, set()
    for area, text, ignored in zip(areas, page.texts, page.ignored):
        if ignored:
            continue
        counts["lines"] += 1
        score, best = max(((overlap(area, box), number) for number, (box, _) in enumerate(boxes)
                           if number not in taken), default=(0.0, 0))
        if score > IOU:
            taken.add(best)
            counts["pairs"] += 1
            counts["exact"] += folded(boxes[best][1]) == folded(text)
    return counts


def scores(rows: list[dict[str, int]]) -> dict[str, float]:
    total = {name: sum(row[name] for row in rows) for name in rows[0]}
    precision, recall = total["pairs"] / max(total["boxes"], 1), total["pairs"] / max(total["lines"], 1)
    return {"exact": total["exact"] / max(total["lines"], 1), "precision": precision, "recall": recall,
            "hmean": 2 * precision * recall / max(precision + recall, 1e-12)}


def read_results(folder: Path) -> dict[str, list[dict]]:
    """{name of the image without its suffix: text of its first page}. Raises DataError where there is none."""
    index = folder / "results.json"
    if not index.is_file():
        raise DataError(f"{index}: no such file; python inference.py --source IMAGES --output {folder} --tasks text "
                        "writes it")
    found = {}
    for document in json.loads(index.read_text(encoding="utf-8"))["documents"]:
        record = json.loads((folder / document["output"]).read_text(encoding="utf-8"))
        found[Path(record["source"]).stem] = record["pages"][0]["text"] if record["pages"] else []
    return found


def main(argv=None):
    parser = new_parser(__doc__)
    parser.add_argument("results", type=Path, help="the --output of inference.py")
    parser.add_argument("--data-dir", type=Path, required=True, help="folder with train/, val/ and test/")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    args = parser.parse_args(argv)
    found, pages = read_results(args.results), read_split(args.data_dir / args.split, 0.0)
    if missing := [page.path.name for page in pages if page.path.stem not in found]:
        raise DataError(f"{args.results}: has nothing of {len(missing)} of {len(pages)} pages, such as {missing[0]}")
    rows = [count_page(page, found[page.path.stem]) for page in pages]
    result = intervals(lambda drawn: scores([rows[number] for number in drawn]), [page.path.name for page in pages])
    for name, (value, low, high) in result.items():
        print(f"{name:10} {value:.4f}   {low:.4f} to {high:.4f}")
    print(json.dumps({"n_images": len(rows), "n_lines": sum(row["lines"] for row in rows)} | result))


if __name__ == "__main__":
    exit_cleanly(main)
