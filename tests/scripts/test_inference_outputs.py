"""What inference.py writes and passes by, with stand-ins for the models that find known things."""

import csv
import io
import json
import os
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import pypdfium2
import pytest
from PIL import Image
from runner import ROOT

import inference
import models.reader
from inference import DocumentReader
from utils.errors import DataError
from utils.exports.pdf import SearchablePdf

SCHEMA = json.loads((ROOT / "utils" / "document.schema.json").read_text(encoding="utf-8"))
WORDS = [("영수증 합계", 0.97), ("<script>alert(1)</script>", 0.3), ("12,000원", 0.6)]
PLACES = [(20, 20, 120, 20), (20, 60, 200, 20), (20, 100, 80, 20)]  # x, y, width, height


def stand_in(calls: list):
    """open_model for models that find WORDS at PLACES, a stamp and ink at the top left, in every image."""
    def open_model(name, path, device, use_amp=False, **options):
        def detection(images):
            calls.extend(image.shape for image in images)
            quads = np.array([[[x, y], [x + w, y], [x + w, y + h], [x, y + h]] for x, y, w, h in PLACES], np.float32)
            return [(quads, np.full(len(quads), 0.9)) for _ in images]

        def segmentation(image):
            ink = np.zeros(image.shape[:2], bool)
            ink[:10, :10] = True
            return ink

        def yolo(image, conf, tta, tile):
            return [{"class_name": "stamp", "class_id": 2, "confidence": 0.5, "box": [10.0, 10.0, 60.0, 50.0]}]

        yolo.names = {0: "qr", 1: "signature", 2: "stamp"}
        return {"detection": detection, "segmentation": segmentation, "yolo": yolo,
                "recognition": lambda crops: [WORDS[number % len(WORDS)] for number in range(len(crops))]}[name]
    return open_model


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(*flags) -> exit status, over tmp_path/source into tmp_path/out; run.calls are the sizes of pages looked at."""
    calls = []
    monkeypatch.setattr(models.reader, "open_model", stand_in(calls))
    for name in ("detection", "recognition", "segmentation", "yolo"):
        (tmp_path / "weights").mkdir(exist_ok=True)
        (tmp_path / "weights" / f"{name}.pt").write_text(name)

    def start(*flags):
        calls.clear()
        return inference.main(["--source", str(tmp_path / "source"), "--output", str(tmp_path / "out"), "--weights-dir",
                               str(tmp_path / "weights"), "--workers", "1", *flags])

    start.calls = calls
    (tmp_path / "source").mkdir()
    return start


def page(path: Path, width: int = 240, more: int = 0, **options) -> None:
    image = Image.fromarray(np.random.default_rng(width).integers(200, 255, (160, width, 3), np.uint8))
    image.save(path, **({"save_all": True, "append_images": [image] * more} if more else {}), **options)


class Tags(HTMLParser):
    """Everything of a page by tag, and its text."""

    def __init__(self, text: str):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)

    def of(self, tag: str, **wanted) -> list[dict]:
        return [found for name, found in self.tags
                if name == tag and all(found.get(key) == value for key, value in wanted.items())]


def test_every_format(run, tmp_path):
    page(tmp_path / "source" / "two.tif", more=1, dpi=(100, 100))
    assert run("--formats", "json,txt,csv,hocr,pdf", "--no-overlays") == 0
    out = tmp_path / "out"
    record = json.loads((out / "two.json").read_text(encoding="utf-8"))
    jsonschema.validate(record, SCHEMA)
    assert [text["text"] for text in record["pages"][1]["text"]] == [text for text, _ in WORDS]
    assert (out / "two.txt").read_text(encoding="utf-8").split("\f")[0].split("\n\n")[0] == WORDS[0][0]

    rows = list(csv.DictReader(io.StringIO((out / "two.csv").read_text(encoding="utf-8-sig"))))
    assert [(row["page"], row["kind"], row["text"]) for row in rows] == [
        (number, kind, text) for number in "12" for kind, text in [("text", text) for text, _ in WORDS] + [("mark", "stamp")]]
    assert [float(rows[1][side]) for side in ("x1", "y1", "x2", "y2")] == [20, 60, 220, 80]

    tree = ElementTree.parse(out / "two.hocr")  # whole XML, with what looks like a script as text
    of_class = {name: [node for node in tree.iter() if node.get("class") == name]
                for name in ("ocr_page", "ocr_par", "ocr_line", "ocrx_word")}
    assert [len(nodes) for nodes in of_class.values()] == [2, 6, 6, 8]
    assert of_class["ocr_page"][1].get("title") == 'image "two.tif"; bbox 0 0 240 160; ppageno 1; scan_res 100 100'
    assert [node.text for node in of_class["ocrx_word"][:4]] == ["영수증", "합계", *(text for text, _ in WORDS[1:])]
    assert ["".join(node.itertext()) for node in of_class["ocr_line"][:3]] == [text for text, _ in WORDS]
    assert of_class["ocrx_word"][2].get("title") == "bbox 20 60 220 80; x_wconf 30"


def test_searchable_pdf(run, tmp_path):
    page(tmp_path / "source" / "a.png", dpi=(100, 100))
    run("--formats", "pdf", "--no-overlays", "--tasks", "text")
    data = (tmp_path / "out" / "a.pdf").read_bytes()
    assert len(data) < 200_000 and re.search(rb"/BaseFont /[A-Z]{6}\+Nanum", data)  # a subset of the font's 2 MB
    document = pypdfium2.PdfDocument(data)
    assert document[0].get_size() == pytest.approx((240 * 0.72, 160 * 0.72), abs=0.1)
    text = document[0].get_textpage()
    for (said, _), (x, y, width, height) in zip(WORDS, PLACES):
        search = text.search(said, match_case=True)
        start, count = search.get_next()
        rectangles = np.array([text.get_rect(number) for number in range(text.count_rects(start, count))]) / 0.72
        left, bottom, right, top = *rectangles[:, :2].min(0), *rectangles[:, 2:].max(0)
        assert left == pytest.approx(x, abs=3) and right == pytest.approx(x + width, abs=6), said
        assert y - 2 <= 160 - top and 160 - bottom <= y + height + 2, said
    # the text lies there unseen: black letters would be darker than anything on the page
    assert np.asarray(document[0].render(scale=100 / 72).to_pil()).min() > 130
    assert not (tmp_path / "out" / "a.txt").exists() and (tmp_path / "out" / "a.json").exists()


def test_words_in_a_box_without_length_can_be_searched_for_all_the_same(tmp_path):
    quad = [[20, 20], [20, 20], [20, 40], [20, 40]]
    texts = [{"text": "hello world", "polygon": [[20, 20], [120, 20], [120, 40], [20, 40]],
              "words": [{"text": "hello", "polygon": [[20, 20], [120, 20], [120, 40], [20, 40]]},
                        {"text": "world", "polygon": quad}]}]
    pdf = SearchablePdf("a")
    pdf.add(np.full((160, 240, 3), 255, np.uint8), {"dpi": 100, "text": texts})
    pdf.save(tmp_path / "a.pdf")
    with pypdfium2.PdfDocument(tmp_path / "a.pdf") as document:
        assert document[0].get_textpage().get_text_range() == "hello world"


def test_documents_of_an_earlier_version_are_read_again(run, tmp_path, monkeypatch):
    page(tmp_path / "source" / "a.png")
    with monkeypatch.context() as earlier:
        earlier.setattr(inference, "VERSION", 1)
        run()
    assert run("--resume") == 0 and run.calls
    assert run("--resume") == 0 and not run.calls


def test_report(run, tmp_path):
    page(tmp_path / "source" / "영수증 <1>.png")
    page(tmp_path / "source" / "two.tif", more=1)
    (tmp_path / "source" / "broken.png").write_bytes(b"nothing")
    assert run("--report", "--no-overlays") == 1
    text = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    found = Tags(text)
    names = {tag["id"] for tag in found.of("section") if "id" in tag}
    assert len(names) == 3 and {tag["href"] for tag in found.of("a") if tag.get("href", "").startswith("#d")} >= {
        f"#{name}" for name in names}
    # every layer has its switch, and every page its layers
    assert {tag["id"] for tag in found.of("input", type="checkbox")} == {f"show-{layer}" for layer in (
        "page", "strokes", "boxes", "words", "raw", "grouped", "qr")}
    for switch in ("page", "strokes", "raw", "grouped", "qr"):
        assert f"#show-{switch}:not(:checked)" in text
    assert [len(found.of("img", **{"class": layer})) for layer in ("page", "strokes")] == [3, 3]
    assert len(found.of("g", **{"class": "mark grouped"})) == 3
    # text that can be selected stands where it was read
    words = found.of("text", **{"class": "word"})
    assert len(words) == 9 and words[0]["textlength"] == "120.0"
    assert "영수증 합계" in found.text
    # what is doubtful comes first: the error, then by score
    scores = [part for part in found.text if re.fullmatch(r"!|[01]\.\d\d", part)]
    assert scores == ["!"] + ["0.30"] * 3 + ["0.50"] * 3 + ["0.60"] * 3 + ["0.97"] * 3
    # one file by itself, in which nothing that was read is run
    assert len(found.of("script")) == 1 and "<script>alert" not in text and "<1>" not in text
    sources = [tag[key] for _, tag in found.tags for key in ("src", "href") if key in tag]
    assert all(source.startswith(("data:image/", "#")) or (tmp_path / "out" / "two.json").exists()
               and not re.match(r"[a-z]+:|//", source) for source in sources)
    assert "default-src 'none'" in found.of("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def dom(url: str, folder: Path) -> str:
    return subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}",
                           "--dump-dom", url], capture_output=True, text=True, timeout=120).stdout


def test_report_searches(run, tmp_path):
    """The script of the page: in a browser where there is one, else by what its source says."""
    page(tmp_path / "source" / "a.png")
    run("--report", "--no-overlays")
    url = (tmp_path / "out" / "index.html").as_uri()
    if CHROMIUM is None:
        assert 'classList.toggle("found"' in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
        return
    everything, searched = dom(url, tmp_path / "b"), dom(f"{url}?q=%EC%98%81%EC%88%98%EC%A6%9D", tmp_path / "b")
    assert "4 items, the least certain first" in everything and 'class="text found"' not in everything
    assert "1 of 4 found" in searched and searched.count("hidden") - everything.count("hidden") == 3
    assert searched.count('class="text found"') == 1


def test_resume_reads_only_what_changed(run, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    for number in range(3):
        page(source / f"a{number}.png", 240 + number)
    (source / "broken.png").write_bytes(b"nothing")
    flags = ("--formats", "json,pdf", "--report", "--tasks", "text")
    assert run(*flags) == 1 and len(run.calls) == 3
    first = {path.name: path.read_bytes() for path in (out / "index.html", out / "results.json", out / "a1.pdf")}
    assert run(*flags, "--resume") == 1 and not run.calls  # the broken one is tried again: it might have been a full disk
    assert "passed by: 3 of 4 documents" in capsys.readouterr().out
    assert first == {name: (out / name).read_bytes() for name in first}

    page(source / "a1.png", 250)
    assert run(*flags, "--resume") == 1 and run.calls == [(160, 250, 3)]
    (out / "a0.pdf").unlink()
    (out / "a2.json").write_text((out / "a2.json").read_text()[:100])
    assert run(*flags, "--resume") == 1 and len(run.calls) == 2
    capsys.readouterr()
    assert run(*flags, "--resume", "--dpi", "150") == 1 and len(run.calls) == 3
    assert "read again: 3 of 4 documents, because flags or weights differ" in capsys.readouterr().out
    (tmp_path / "weights" / "recognition.pt").write_text("other weights")
    assert run(*flags, "--resume", "--dpi", "150") == 1 and len(run.calls) == 3
    assert run(*flags, "--resume", "--dpi", "150") == 1 and not run.calls
    assert run(*flags, "--dpi", "150") == 1 and len(run.calls) == 3  # without the flag all are read


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_nothing_stays_of_an_earlier_reading_of_a_document(run, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    page(source / "a.tif", more=2)
    page(source / "b.png")
    assert run("--formats", "json,txt,csv", "--report") == 0
    mine = out / "a.mine.txt"
    mine.write_text("not of a run")
    assert "removed" not in capsys.readouterr().out
    page(source / "a.tif")  # one page in place of three, and another format
    assert run("--formats", "json,hocr") == 0
    files = files_of(out)
    assert {name for name in files if name.startswith("a")} == {
        "a.json", "a.hocr", "a_p1_overlay.jpg", "a_p1_strokes.png", "a.mine.txt"}
    assert {"b.json", "b.hocr", "b.txt", "b.csv"} <= set(files)  # the same document: its other formats still say what it says
    # txt, csv, report and two of each picture
    assert "removed: 7 files of an earlier reading of documents that have changed" in capsys.readouterr().out
    (source / "a.tif").write_bytes(b"nothing")
    assert run("--formats", "json,hocr", "--resume") == 1
    files = files_of(out)
    assert {name for name in files if "a" in name and "b" not in name} >= {"a.json", "a.hocr", "a.mine.txt"}
    assert not {"a_p1_overlay.jpg", "a_p1_strokes.png", ".docmarks/a.note.json"} & files
    assert json.loads((out / "a.json").read_text())["error"] and ".docmarks/b.note.json" in files
    assert mine.read_text() == "not of a run"


def test_what_lies_beside_another_reading_is_said(run, tmp_path, capsys):
    page(tmp_path / "source" / "a.png")
    assert run("--formats", "json,txt") == 0 and run("--formats", "json,csv", "--report") == 0
    assert "left:" not in capsys.readouterr().out  # another format of the same reading
    assert run("--formats", "json,csv", "--tasks", "marks") == 0
    assert "left: 1 file of earlier readings with other flags or weights, such as a_p1_strokes.png" in capsys.readouterr().out
    assert (tmp_path / "out" / "a_p1_strokes.png").is_file()
    assert run("--formats", "json,csv", "--tasks", "marks", "--conf", "0.5", "--no-overlays") == 0
    assert "such as a_p1_overlay.jpg" in capsys.readouterr().out


def test_a_note_that_was_tampered_with_removes_nothing_elsewhere(run, tmp_path):
    page(tmp_path / "source" / "a.png")
    page(tmp_path / "source" / "b.png")
    assert run("--tasks", "text") == 0
    note = tmp_path / "out" / ".docmarks" / "a.note.json"
    content = json.loads(note.read_text()) | {"source": "another"}
    (tmp_path / "precious.txt").write_text("mine")
    (tmp_path / "out" / "a").symlink_to(tmp_path)
    for name in ("../precious.txt", str(tmp_path / "precious.txt"), "a/precious.txt", "a/../../precious.txt", "b.json", "a"):
        content["files"][name] = 1
    note.write_text(json.dumps(content))
    assert run("--tasks", "text") == 0
    assert (tmp_path / "precious.txt").read_text() == "mine" and (tmp_path / "out" / "b.json").is_file()
    note.write_text("[]")
    assert run("--tasks", "text") == 0 and json.loads(note.read_text())["files"]


@pytest.mark.parametrize("flags, message", [
    (("--tasks", "marks", "--formats", "txt,csv,hocr,pdf"), "--formats txt,hocr: for text, and none is read"),
    (("--tasks", "strokes", "--formats", "csv"), "--formats csv: for text and marks, and neither is looked for"),
    (("--tasks", "text,strokes", "--tile", "640"), "--tile does nothing where no marks are looked for"),
    (("--tasks", "text", "--tta", "--conf", "0.3"), "--conf, --tta do nothing where no marks are looked for"),
    (("--tasks", "text", "--grouping", "none"), "--grouping does nothing"),
    (("--tasks", "text", "--class-conf", "stamp=0.5"), "--class-conf does nothing"),
    (("--tasks", "text", "--group-dist", "40", "--group-iou", "0.1"), "--group-dist, --group-iou do nothing"),
])
def test_what_would_do_nothing_is_refused(run, tmp_path, flags, message):
    page(tmp_path / "source" / "a.png")
    with pytest.raises(DataError, match=message):
        run(*flags)
    assert not run.calls and not (tmp_path / "out").exists()


def test_marks_alone_are_written_as_a_table(run, tmp_path):
    page(tmp_path / "source" / "a.png")
    assert run("--tasks", "marks", "--formats", "csv,pdf", "--no-overlays") == 0
    out = tmp_path / "out"
    assert {name for name in files_of(out) if "docmarks" not in name} == {"a.csv", "a.json", "a.pdf", "results.json"}
    rows = list(csv.DictReader(io.StringIO((out / "a.csv").read_text(encoding="utf-8-sig"))))
    assert [(row["kind"], row["text"]) for row in rows] == [("mark", "stamp")]
    assert run("--tasks", "marks", "--no-overlays") == 0  # what is written where no format is named asks for nothing
    assert not (out / "a.txt").exists()


def test_an_output_that_is_a_file_is_noticed_first(run, tmp_path, monkeypatch):
    page(tmp_path / "source" / "a.png")
    (tmp_path / "out").write_text("mine")
    monkeypatch.setattr(inference, "find_sources", None)  # nothing else is looked at
    with pytest.raises(DataError, match=r"^--output .*out is a file; way out: a folder"):
        run()
    assert (tmp_path / "out").read_text() == "mine"


def test_what_killed_runs_left_is_removed_once_it_is_old(run, tmp_path, capsys):
    page(tmp_path / "source" / "a.png")
    out = tmp_path / "out"
    (out / "sub").mkdir(parents=True)
    old, new = out / "sub" / ".a.json.x_8abcde.tmp", out / ".a_p1_overlay.jpg.12345678.tmp"
    others = out / "a.json.x_8abcde.tmp", out / ".a.json.tmp", out / "sub" / ".a.json.x_8abcde.tmp2"
    for path in (old, new, *others):
        path.write_text("half")
    for path in (old, *others):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert run("--tasks", "text") == 0 and old.exists()  # until then nothing says that the folder is one of ours
    assert "unfinished" not in capsys.readouterr().out
    assert run("--tasks", "text") == 0
    assert not old.exists() and new.exists() and all(path.exists() for path in others)
    assert "removed: 1 unfinished file of a run that was killed" in capsys.readouterr().out


def test_results_never_leave_the_output_folder(run, tmp_path):
    page(tmp_path / "source" / "a.png")
    (tmp_path / "source" / "sub").mkdir()
    page(tmp_path / "source" / "sub" / "b.png")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="a link leads it out"):
        run("--tasks", "text")
    assert not list((tmp_path / "elsewhere").iterdir())


def test_sources_from_standard_input_and_links_that_loop(run, tmp_path, monkeypatch):
    source = tmp_path / "source"
    page(source / "a.png")
    os.symlink(source / "loop.png", source / "loop.png")
    os.symlink(source, source / "again")
    given = f"{source / 'a.png'}\n\n{source}/../source/loop.png\n".encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(given)))
    status = inference.main(["--source", "-", "--output", str(tmp_path / "out"), "--weights-dir",
                             str(tmp_path / "weights"), "--tasks", "text", "--workers", "1"])
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert status == 1 and [(d["source"], d["error"]) for d in results["documents"]] == [
        ("a.png", None), ("loop.png", "no such file")]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    with pytest.raises(DataError, match="standard input names no files"):
        run("--source", "-")


def test_no_good_document_is_lost_among_broken_ones(run, tmp_path):
    """Whole documents between damaged ones, through the whole script; and names that are hard on file systems."""
    source, rng = tmp_path / "source", np.random.default_rng(0)
    good = {"a.png": 0, "m.tif": 2, "z.pdf": 1, "x" * 250 + ".png": 0, "a\nb.png": 0, "a..b.png": 0, "-rf.png": 0}
    for name, more in good.items():
        page(source / name, more=more)
    whole = {suffix: (source / name).read_bytes() for suffix, name in (("png", "a.png"), ("tif", "m.tif"), ("pdf", "z.pdf"))}
    for number in range(60):
        suffix = ("png", "tif", "pdf")[number % 3]
        data = bytearray(whole[suffix])
        for place in rng.integers(0, len(data), 1 + number // 4):
            data[place] = rng.integers(0, 256)
        (source / f"{number:02}.{suffix}").write_bytes(data[: rng.integers(1, len(data))] if number % 4 == 0 else data)
    assert run("--formats", "json,txt,csv,hocr,pdf", "--no-overlays", "--report", "--timeout", "60") == 1
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert len(results["documents"]) == 60 + len(good) and results["summary"]["failed_documents"] >= 15
    records = {}
    for entry in results["documents"]:
        record = json.loads((tmp_path / "out" / entry["output"]).read_text(encoding="utf-8"))
        jsonschema.validate(record, SCHEMA)
        records[record["source"]] = record
    for name, more in good.items():
        record = records[name.replace("\n", "\ufffd")]
        assert record["error"] is None and [(p["error"], len(p["text"])) for p in record["pages"]] == [(None, 3)] * (more + 1)
    assert {path.name for path in tmp_path.iterdir()} == {"source", "out", "weights"}  # nothing was written elsewhere


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_pages_are_turned_upright(tmp_path, monkeypatch, turn):
    """A page with a dark square at the top left of each line's box, which is what reads well in this world."""
    upright = np.full((300, 400, 3), 255, np.uint8)
    for row in range(6):
        upright[40 + 40 * row : 60 + 40 * row, 30:330] = 200
        upright[40 + 40 * row : 60 + 40 * row, 30:40] = 0
    image = np.ascontiguousarray(np.rot90(upright, -turn // 90))  # turned clockwise

    def open_model(name, path, device, use_amp=False, **options):
        def detection(images):
            found = []
            for image in images:
                marked = (image[..., 0] < 220).astype(np.uint8)
                boxes = np.array(list(boxes_of(marked)), np.float32)
                found.append((boxes, np.full(len(boxes), 0.9)))
            return found
        return {"detection": detection, "recognition": lambda crops: [
            ("text", 0.9) if crop[:, : max(crop.shape[1] // 40, 1)].mean() < 120 else ("txet", 0.2) for crop in crops]}[name]

    def boxes_of(marked):
        for x, y, w, h, _ in cv2.connectedComponentsWithStats(marked)[2][1:]:
            yield [[x, y], [x + w, y], [x + w, y + h], [x, y + h]]

    monkeypatch.setattr(models.reader, "open_model", open_model)
    for name in ("detection", "recognition"):
        (tmp_path / f"{name}.pt").write_text(name)
    reader = DocumentReader(tmp_path, ["text"])
    reading, = reader.read_pages(list(models.reader.open_document(image).pages), ["a"])
    jsonschema.validate(reading.record, SCHEMA["$defs"]["page"] | {"$defs": SCHEMA["$defs"]})
    assert reading.record["rotation"] == (360 - turn) % 360
    assert (reading.record["width"], reading.record["height"]) == (400, 300) and (reading.image == upright).all()
    assert [text["text"] for text in reading.record["text"]] == ["text"] * 6
    # what the schema says of the way back
    width, height = 400, 300
    x, y = reading.record["text"][0]["polygon"][0]
    back = {0: (x, y), 90: (y, width - x), 180: (width - x, height - y), 270: (height - y, x)}[reading.record["rotation"]]
    corner = image[max(int(back[1]) - 4, 0) : int(back[1]) + 4, max(int(back[0]) - 4, 0) : int(back[0]) + 4]
    assert corner.min() == 0 and corner.max() == 255  # the dark square's corner
    assert DocumentReader(tmp_path, ["text"], keep_orientation=True).read(image)["pages"][0]["rotation"] is None
