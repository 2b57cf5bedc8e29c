"""inference.py as a person runs it, on made documents and small networks; its JSON against the published schema."""

import io
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import jsonschema
import numpy as np
import psutil
import pytest
import segno
import torch
from PIL import Image
from runner import ENVIRONMENT, ROOT, run_script
from small_models import make_weights, page

import inference
from inference import DocumentReader
from utils.documents import Page
from utils.errors import DataError
from utils.images import load_image
from utils.records import run_record, summary_line

SCHEMA = json.loads((ROOT / "utils" / "document.schema.json").read_text(encoding="utf-8"))
USERS_FLAGS = ("--conf", "0.15", "--group-dist", "50", "--group-iou", "0.2")


def code(text):
    """A picture of a QR code."""
    buffer = io.BytesIO()
    segno.make(text, error="m").save(buffer, kind="png", scale=5, border=4)
    return Image.open(buffer).convert("RGB")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return make_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "test_images"
    (folder / "sub").mkdir(parents=True)
    page().save(folder / "a.png")
    page(200, 120).save(folder / "a.jpg", dpi=(300, 300))
    page().save(folder / "sub" / "a.png")
    page().save(folder / "sub" / "영수증 1.png")
    page().save(folder / "results.png")
    page().save(folder / ("x" * 250 + ".png"))
    page().save(folder / "scan.tif", save_all=True, append_images=[page(100, 90)])
    page().save(folder / "letter.pdf", save_all=True, append_images=[page(), page()], resolution=100)
    code("지급: 12,000원").save(folder / "code.png")
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    (folder / "junk.jpg").write_bytes(b"nothing that can be read")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing else")
    (folder / "notes.txt").write_text("not a document")
    return folder


@pytest.fixture(scope="module")
def run(weights, source, tmp_path_factory):
    """One run over everything: (folder of the results, the process)."""
    output = tmp_path_factory.mktemp("run") / "results"
    before = {path: path.stat().st_mtime_ns for path in source.rglob("*")}
    done = run_script("inference", "--source", f"{source}/", "--output", output, *USERS_FLAGS, "--weights-dir", weights,
                      status=1)
    assert {path: path.stat().st_mtime_ns for path in source.rglob("*")} == before, "the source folder was written to"
    return output, done


def records(output: Path) -> dict:
    """Every document's record by its source, each valid under the schema."""
    found = {}
    for path in output.rglob("*.json"):
        if path == output / "results.json" or ".docmarks" in path.parts:
            continue
        record = json.loads(path.read_text(encoding="utf-8"))
        jsonschema.validate(record, SCHEMA)
        found[record["source"]] = record
    return found


def test_schema_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


def test_every_document_has_its_record(run, source):
    output, done = run
    found = records(output)
    assert set(found) == {"a.png", "a.jpg", "sub/a.png", "sub/영수증 1.png", "results.png", "x" * 250 + ".png",
                          "scan.tif", "letter.pdf", "code.png", "broken.png", "broken.pdf", "junk.jpg"}
    assert {name: len(record["pages"]) for name, record in found.items() if len(record["pages"]) != 1} \
        == {"scan.tif": 2, "letter.pdf": 3, "broken.pdf": 0, "junk.jpg": 0}
    assert all(record["tasks"] == ["marks", "text", "strokes"] for record in found.values())
    assert [p["width"] for p in found["scan.tif"]["pages"]] == [220, 100]
    first = found["letter.pdf"]["pages"][0]
    assert (first["width"], first["height"], first["dpi"]) == (440, 320, 200)
    assert found["a.jpg"]["pages"][0]["dpi"] == 300 and found["a.png"]["pages"][0]["dpi"] is None


def test_broken_documents_do_not_cost_the_others(run):
    output, done = run
    found = records(output)
    assert "not a readable PDF" in found["broken.pdf"]["error"]
    assert "not a readable image" in found["broken.png"]["pages"][0]["error"]
    failed = {name for name, r in found.items() if r["error"] or any(p["error"] for p in r["pages"])}
    assert failed == {"broken.png", "broken.pdf", "junk.jpg"}
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 3 and "Traceback" not in done.stderr
    assert not any(str(output.parent) in json.dumps(r) or "/test_images" in json.dumps(r) for r in found.values())


def test_files_have_names_of_their_own_in_the_folders_of_the_source(run):
    output, _ = run
    files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()
             and ".docmarks" not in path.parts}
    for stem, pages in (("a.png", 1), ("a.jpg", 1), ("sub/a", 1), ("sub/영수증 1", 1), ("results.png", 1), ("code", 1),
                        ("scan", 2), ("letter", 3)):
        assert {f"{stem}.json", f"{stem}.txt"} <= files
        for number in range(1, pages + 1):
            assert {f"{stem}_p{number}_overlay.jpg", f"{stem}_p{number}_strokes.png"} <= files
    assert {name for name in files if name.startswith("broken.png")} == {"broken.png.json", "broken.png.txt"}
    assert len([name for name in files if name.startswith("xxx")]) == 4
    assert {path.name for path in output.parent.iterdir()} == {"results"}
    assert not [name for name in files if name.endswith(".tmp")]


def test_text_marks_and_strokes(run, source):
    output, _ = run
    found = records(output)
    for record in found.values():
        for read in record["pages"]:
            if read["error"]:
                assert not read["text"] and read["strokes"] is None
                continue
            text, = read["text"]
            points = np.array(text["polygon"])
            assert points.min() >= 0 and (points.max(0) <= (read["width"], read["height"])).all()
            words = text["words"]
            assert [word["text"] for word in words] == text["text"].split()
            corners = np.array([word["polygon"] for word in words]).reshape(-1, 2)
            assert corners.min(initial=0) >= 0 and (corners <= (read["width"], read["height"])).all()
            assert set(text["text"]) <= set("ABC123가나") and text["line"] == 0 and text["box_score"] > 0.9
            raw, grouped = read["marks"]["raw"], read["marks"]["grouped"]
            assert raw and len(grouped) < len(raw) and {mark["class_name"] for mark in raw} == {"qr"}
            assert sum(mark["merged_count"] for mark in grouped) <= len(raw)
            assert {member for mark in grouped for member in mark["member_ids"]} <= {mark["id"] for mark in raw}
            for mark in raw + grouped:
                x1, y1, x2, y2 = mark["box"]
                assert 0 <= x1 <= x2 <= read["width"] and 0 <= y1 <= y2 <= read["height"] and mark["confidence"] > 0.15
    strokes = cv2.imread(str(output / "scan_p2_strokes.png"), cv2.IMREAD_UNCHANGED)
    assert strokes.shape == (90, 100) and set(np.unique(strokes)) <= {0, 255}
    assert found["scan.tif"]["pages"][1]["strokes"] == "scan_p2_strokes.png"
    text = found["letter.pdf"]["pages"]
    assert (output / "letter.txt").read_text(encoding="utf-8") == "\f".join(p["text"][0]["text"] + "\n" for p in text)
    assert load_image(output / "letter_p1_overlay.jpg").shape[1] > 2 * 440


def test_qr_codes_say_what_they_hold_or_that_they_cannot_be_read(run):
    found = records(run[0])
    code, *others = [c for c in found["code.png"]["pages"][0]["qr"] if c["status"] == "decoded"]
    assert code["payload"] == "지급: 12,000원" and not others
    blank = found["a.png"]["pages"][0]
    assert blank["marks"]["raw"] and not blank["marks"]["grouped"] and not blank["qr"]  # what it saw looks like no code


def test_results_json_is_the_sum(run):
    output, done = run
    results = json.loads((output / "results.json").read_text(encoding="utf-8"))
    found, summary = records(output), results["summary"]
    pages = [p for record in found.values() for p in record["pages"]]
    assert summary["documents"] == 12 == len(results["documents"]) and summary["failed_documents"] == 3
    assert summary["pages"] == len(pages) == 13 and summary["failed_pages"] == 1 and summary["text_boxes"] == 12
    assert summary["raw_detections"] == len(results["raw_detections"]) == sum(len(p["marks"]["raw"]) for p in pages)
    assert summary["merged_detections"] == len(results["merged_detections"]) == summary["merged_by_class"]["qr"]
    assert summary["qr_codes"] - summary["unreadable_qr_codes"] == 1
    assert all(mark["merged_count"] >= 1 and mark["source"] in found for mark in results["merged_detections"])
    assert all((output / entry["output"]).is_file() for entry in results["documents"])
    failed = {entry["source"] for entry in results["documents"] if entry["error"] or entry["failed_pages"]}
    assert failed == {"broken.png", "broken.pdf", "junk.jpg"}
    assert results["settings"] == {"tasks": ["marks", "text", "strokes"], "conf": 0.15, "grouping": "components",
                                   "group_dist": 50.0, "group_iou": 0.2, "dpi": 200.0}
    assert "12 documents (3 with errors), 13 pages" in done.stdout


def test_python_api_equals_the_json(run, weights, source):
    output, _ = run
    reader = DocumentReader(weights)
    for name, file in (("letter.pdf", "letter.json"), ("scan.tif", "scan.json"), ("broken.pdf", "broken.pdf.json")):
        assert reader.read(source / name) == json.loads((output / file).read_text(encoding="utf-8")), name
    from_file = reader.read(str(source / "code.png"))
    from_array = reader.read(load_image(source / "code.png"))
    jsonschema.validate(from_array, SCHEMA)
    without_names = [{key: value for key, value in p.items() if key != "strokes"} for p in from_file["pages"]]
    assert without_names == [{key: value for key, value in p.items() if key != "strokes"} for p in from_array["pages"]]
    assert "is no page" in reader.read(np.zeros((5, 5)))["error"]
    assert "no such file" in reader.read(source / "missing.png")["error"]


def torchrun(*flags, launcher: tuple[str, ...] = ("--nproc-per-node", "2"), port: int | None = None) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-m", "torch.distributed.run", *launcher, "--master-port",
                             str(port or free_port()), str(ROOT / "inference.py"), *map(str, flags)], cwd=ROOT,
                            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_read_each_document_once_and_what_a_killed_one_left(weights, tmp_path):
    for number in range(16):
        page(160 + number).save(tmp_path / f"{number:02}.png")
    flags = ("--source", tmp_path, "--output", tmp_path / "out", "--weights-dir", weights, "--tasks", "text", "--workers",
             "1", "--no-overlays", "--formats", "json", "--batch-pages", "1")
    process = torchrun(*flags)
    notes = tmp_path / "out" / ".docmarks"
    deadline = time.monotonic() + 200
    while not (finished := list(notes.glob("*.note.json"))) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    ranks = [child for child in psutil.Process(process.pid).children() if "inference.py" in " ".join(child.cmdline())]
    assert len(ranks) == 2 and finished
    ranks[1].kill()
    said = process.communicate(timeout=200)[0]
    assert process.returncode != 0, said
    before = {path.name: path.stat().st_mtime_ns for path in notes.glob("*.note.json")}
    assert len(before) < 16 and not (tmp_path / "out" / "results.json").exists()

    process = torchrun(*flags, "--resume")
    said = process.communicate(timeout=200)[0]
    assert process.returncode == 0, said
    assert "by torch on cpu, 2 processes" in said and said.count("16 documents (0 with errors), 16 pages") == 1
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [d["source"] for d in results["documents"]] == [f"{number:02}.png" for number in range(16)]
    after = {path.name: path.stat().st_mtime_ns for path in notes.glob("*.note.json")}
    assert len(after) == 16 and before.items() <= after.items()  # what was whole was not read again


def test_two_machines_share_the_documents_out(weights, tmp_path):
    """Each machine has a torchrun of its own; here both are this one."""
    for number in range(5):
        page(160 + number).save(tmp_path / f"{number}.png")
    flags = ("--source", tmp_path, "--output", tmp_path / "out", "--weights-dir", weights, "--tasks", "text", "--workers",
             "1", "--no-overlays", "--formats", "json")
    port = free_port()
    machines = [torchrun(*flags, port=port, launcher=("--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1",
                                                      "--master-addr", "127.0.0.1")) for number in range(2)]
    said = [machine.communicate(timeout=200)[0] for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], said
    assert "2 processes" in said[0] and "5 documents (0 with errors), 5 pages" in said[0] and "documents" not in said[1]
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert [d["source"] for d in results["documents"]] == [f"{number}.png" for number in range(5)]


def test_sixteen_bits_are_asked_of_every_model_of_torch(weights, source, monkeypatch):
    asked = []
    reader = DocumentReader(weights, use_amp=True)
    forward = torch.nn.Module.__call__
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda module, *args, **kwargs: (
        asked.append((type(module).__module__, torch.is_autocast_enabled("cpu"))), forward(module, *args, **kwargs))[1])
    found = reader.read(source / "a.png")
    assert {"models.dbnet", "models.strokes"} <= {name for name, _ in asked}
    assert all(on for _, on in asked) and found["error"] is None
    asked.clear()
    DocumentReader(weights).read(source / "a.png")
    assert asked and not any(on for _, on in asked)


def test_the_summary_counts_in_words():
    empty, one = run_record({}), run_record({})
    one["summary"] |= {"documents": 1, "pages": 1, "text_boxes": 1, "qr_codes": 1}
    assert summary_line(one) == "1 document (0 with errors), 1 page: 1 text box, 0 raw marks grouped to 0, 1 QR code"
    assert "0 documents (0 with errors), 0 pages: 0 text boxes" in summary_line(empty)
    one["summary"] |= {"qr_codes": 35, "unreadable_qr_codes": 33}
    assert summary_line(one).endswith(", 35 QR codes (33 unreadable)")


def test_the_users_command_runs_where_all_is_well(weights, source, tmp_path):
    folder = tmp_path / "test_images"
    folder.mkdir()
    page().save(folder / "a.png")
    done = run_script("inference", "--source", "test_images/", "--output", "results/", *USERS_FLAGS, "--weights-dir",
                      weights, "--tasks", "text,marks", "--no-overlays", cwd=tmp_path)
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"a.json", "a.txt", "results.json", ".docmarks"}
    assert records(tmp_path / "results")["a.png"]["tasks"] == ["marks", "text"] and "error" not in done.stderr
    bad = run_script("inference", "--source", "test_images/", "--weights-dir", tmp_path, cwd=tmp_path, status=2)
    assert bad.stderr.startswith("error: ") and "--weights-dir weights" in bad.stderr and len(bad.stderr.strip().splitlines()) == 1
    assert "train_detection.py" in bad.stderr


def test_text_without_recognition_weights(weights, tmp_path):
    page().save(tmp_path / "a.png")
    status = inference.main(["--source", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--tasks", "text",
                             "--weights-dir", str(tmp_path), "--detection-weights", str(weights / "detection.pt")])
    text, = records(tmp_path / "out")["a.png"]["pages"][0]["text"]
    assert status == 0 and text["text"] is None and text["score"] == text["box_score"] and text["words"] == []
    assert not (tmp_path / "out" / "a.txt").exists()


def sees(marks):
    """A model of marks that finds the same ones everywhere."""
    def look(image, conf, **views):
        return marks

    look.names = {0: "qr", 1: "signature", 2: "stamp"}
    return look


def test_distance_is_scaled_by_the_pages_resolution(weights, monkeypatch):
    reader = DocumentReader(weights, ["marks"], group_iou=1.0)
    boxes = [[10, 10, 50, 50], [70, 10, 110, 50]]  # centres 60 pixels apart
    marks = [{"class_name": "stamp", "class_id": 2, "confidence": 0.9, "box": box} for box in boxes]
    monkeypatch.setitem(reader.models, "yolo", sees(marks))
    image = np.full((120, 120, 3), 255, np.uint8)
    readings = reader.read_pages([Page(1, image, dpi) for dpi in (None, 200, 400)], ["a", "b", "c"])
    assert [len(reading.record["marks"]["grouped"]) for reading in readings] == [2, 2, 1]


def test_a_signature_over_a_stamp_stays_a_mark_of_its_own(weights, monkeypatch):
    reader = DocumentReader(weights, ["marks"])
    marks = [{"class_name": name, "class_id": number, "confidence": score, "box": box} for name, number, score, box in (
        ("stamp", 2, 0.9, [20, 20, 100, 100]), ("stamp", 2, 0.5, [24, 22, 104, 98]),
        ("signature", 1, 0.7, [30, 50, 110, 80]), ("signature", 1, 0.4, [28, 52, 90, 82]))]
    monkeypatch.setitem(reader.models, "yolo", sees(marks))
    grouped = reader.read(np.full((120, 120, 3), 255, np.uint8))["pages"][0]["marks"]["grouped"]
    assert [(mark["class_name"], mark["member_ids"]) for mark in grouped] == [("stamp", [0]), ("signature", [2])]


def test_classes_may_have_a_confidence_of_their_own(weights, monkeypatch, tmp_path):
    def look(image, conf, **views):
        asked.append(conf)
        return [mark for mark in marks if mark["confidence"] > conf]

    look.names, asked = {0: "qr", 1: "signature", 2: "stamp"}, []
    marks = [{"class_name": look.names[number], "class_id": number, "confidence": score, "box": [at, 20, at + 30, 50]}
             for number, score, at in ((2, 0.6, 0), (2, 0.4, 100), (1, 0.4, 200), (1, 0.1, 300), (0, 0.2, 400))]
    for conf, own, kept in ((0.15, {"stamp": 0.5, "signature": 0.05}, [0.6, 0.4, 0.1, 0.2]), (0.3, {}, [0.6, 0.4, 0.4]),
                            (0.3, {"qr": 0.15}, [0.6, 0.4, 0.4, 0.2])):
        reader = DocumentReader(weights, ["marks"], conf=conf, class_conf=own)
        monkeypatch.setitem(reader.models, "yolo", look)
        page = reader.read(np.full((120, 500, 3), 255, np.uint8))["pages"][0]
        assert [mark["confidence"] for mark in page["marks"]["raw"]] == kept
    assert asked == [0.05, 0.3, 0.15]
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", np.full((40, 40), 255, np.uint8))[1].tobytes())
    inference.main(["--source", str(tmp_path / "a.png"), "--output", str(tmp_path / "out"), "--weights-dir", str(weights),
                    "--tasks", "marks", "--class-conf", "stamp=0.5", "qr=0.25", "--tile", "64"])
    settings = json.loads((tmp_path / "out" / "results.json").read_text())["settings"]
    assert settings["class_conf"] == {"stamp": 0.5, "qr": 0.25} and settings["tile"] == 64 and "tta" not in settings
    with pytest.raises(DataError, match=r"^--class-conf seal: .*yolo.pt knows qr, signature, stamp"):
        DocumentReader(weights, ["marks"], class_conf={"seal": 0.5})
    with pytest.raises(DataError, match="^--class-conf stamp: does nothing where no marks are looked for"):
        DocumentReader(weights, ["text"], class_conf={"stamp": 0.5})


def test_a_decoded_code_is_a_certain_mark_and_raw_marks_stay_as_they_were(weights, monkeypatch):
    """The network saw the first of two codes weakly and as a stamp, and the second not at all."""
    reader, (first, second) = DocumentReader(weights, ["marks"]), (np.asarray(code(text)) for text in ("first", "second"))
    side = first.shape[0]
    page = np.full((200, 500, 3), 255, np.uint8)
    page[20 : 20 + side, 20 : 20 + side], page[20 : 20 + side, 300 : 300 + side] = first, second
    marks = [{"class_name": name, "class_id": number, "confidence": score, "box": [36.0, 36.0, side + 4.0, side + 4.0]}
             for name, number, score in (("stamp", 2, 0.6), ("qr", 0, 0.2))]
    monkeypatch.setitem(reader.models, "yolo", sees(marks))
    record = reader.read(page)
    jsonschema.validate(record, SCHEMA)
    read, = record["pages"]
    assert [found["payload"] for found in read["qr"]] == ["first", "second"]
    raw = [(mark["class_name"], mark["confidence"]) for mark in read["marks"]["raw"]]
    assert raw == [("stamp", 0.6), ("qr", 0.2), ("qr", 1)]
    assert sorted((mark["class_name"], mark["confidence"], mark["member_ids"]) for mark in read["marks"]["grouped"]) == [
        ("qr", 1, [1]), ("qr", 1, [2])]


def seen_on_a_blank_page(weights, monkeypatch, *codes):
    """The page's record, where the network takes places (confidence, box) for QR codes."""
    reader = DocumentReader(weights, ["marks"])
    marks = [{"class_name": "qr", "class_id": 0, "confidence": score, "box": box} for score, box in codes]
    monkeypatch.setitem(reader.models, "yolo", sees(marks))
    return reader.read(np.full((120, 200, 3), 255, np.uint8))["pages"][0]


def test_what_looks_like_no_code_is_neither_a_mark_nor_an_unreadable_code(weights, monkeypatch):
    read = seen_on_a_blank_page(weights, monkeypatch, (0.9, [20.0, 20.0, 60.0, 60.0]), (0.5, [100.0, 20.0, 160.0, 80.0]))
    assert [mark["confidence"] for mark in read["marks"]["raw"]] == [0.9, 0.5]  # the network's own
    assert [(mark["confidence"], mark["member_ids"]) for mark in read["marks"]["grouped"]] == [(0.5625, [0])]
    assert [(code["status"], code["corners"][0]) for code in read["qr"]] == [("unreadable", [20.0, 20.0])]
    assert read["qr"][0]["payload"] is None


def test_every_code_that_cannot_be_read_is_a_mark_and_the_other_way_round(weights, monkeypatch):
    """Two marks are one group at first; the weaker is then doubted away, and the record is of what is left."""
    read = seen_on_a_blank_page(weights, monkeypatch, (0.9, [20.0, 20.0, 60.0, 60.0]), (0.3, [55.0, 20.0, 95.0, 60.0]))
    assert [mark["box"] for mark in read["marks"]["grouped"]] == [[20, 20, 60, 60]]
    assert [(code["corners"][0], code["corners"][2]) for code in read["qr"]] == [([20, 20], [60, 60])]


def test_marks_are_looked_for_on_the_page_put_level(weights, monkeypatch):
    reader, looks = DocumentReader(weights, ["marks"]), []
    page = np.full((700, 560, 3), 235, np.uint8)
    page[60:640:42, 40:500] = 40
    turned = cv2.warpAffine(page, cv2.getRotationMatrix2D((280, 350), -15, 1), (560, 700), borderValue=(235,) * 3)
    level = sees([])

    def look(image, conf, **views):
        looks.append(image.shape)
        return level(image, conf)

    look.names = level.names
    monkeypatch.setitem(reader.models, "yolo", look)
    reader.read(page)
    assert looks == [(700, 560, 3)]
    reader.read(turned)
    assert looks[1] == (700, 560, 3) and looks[2][0] > 700 and len(looks) == 3


def test_a_page_that_upsets_a_model_does_not_cost_the_others(weights, source, monkeypatch):
    reader = DocumentReader(weights, ["text"])
    find_boxes = reader.models["detection"]

    def second_fails(images):
        if any(image.shape == (60, 50, 3) for image in images):
            raise RuntimeError("out of\nmemory")
        return find_boxes(images)

    monkeypatch.setitem(reader.models, "detection", second_fails)
    pages = [Page(number, np.full((side, 50, 3), 250, np.uint8)) for number, side in ((1, 50), (2, 60), (3, 70))]
    records = [reading.record for reading in reader.read_pages(pages, ["a"] * 3)]
    assert [p["error"] for p in records] == [None, "RuntimeError: out of memory", None]
    assert [len(p["text"]) for p in records] == [1, 0, 1]


def test_a_page_that_takes_too_long_does_not_cost_the_others(weights, monkeypatch):
    reader = DocumentReader(weights, ["text"], timeout=0.5)
    find_boxes = reader.models["detection"]
    find_boxes([np.full((50, 50, 3), 250, np.uint8)])  # the first call sets things up

    def slow(images):
        while any(image.shape == (60, 50, 3) for image in images):
            time.sleep(0.01)
        return find_boxes(images)

    monkeypatch.setitem(reader.models, "detection", slow)
    monkeypatch.setitem(reader.models, "recognition", lambda crops: [("x", 0.9)] * len(crops))
    pages = [Page(number, np.full((side, 50, 3), 250, np.uint8)) for number, side in ((1, 50), (2, 60))]
    first, second = (reading.record for reading in reader.read_pages(pages, ["a"] * 2))
    assert first["error"] is None and first["text"] and not second["text"]
    assert second["error"] == "TookTooLong: took longer than 0.5 s; way out: a higher --timeout"


def test_limits(weights, source):
    reader = DocumentReader(weights, ["text"], max_pages=2, max_pixels=220 * 160)
    record = reader.read(source / "letter.pdf")
    jsonschema.validate(record, SCHEMA)
    assert "has 3 pages, of which the first 2 were read" in record["error"] and record["page_count"] == 3
    assert len(record["pages"]) == 2 and all("over the limit" in p["error"] for p in record["pages"])
    assert reader.read(source / "a.png")["pages"][0]["error"] is None


def test_only_what_a_task_needs_is_imported(weights, source):
    code = ("import sys; from inference import DocumentReader; "
            f"DocumentReader({str(weights)!r}, ['text']).read({str(source / 'a.png')!r}); "
            "sys.exit('ultralytics' in sys.modules or 'models.strokes' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=ENVIRONMENT, timeout=120).returncode == 0


@pytest.mark.parametrize("flags", [("--tasks", "ocr"), ("--conf", "1.5"), ("--class-conf", "0.5"), ("--class-conf", "stamp=2"),
                                   ("--class-conf", "=0.5"), ("--class-conf", "stamp=0.5,qr=0.3"),
                                   ("--class-conf", "stamp=0.5", "stamp=0.6"), ("--dpi", "0"), ("--grouping", "kmeans"),
                                   ("--group-dist", "-1"), ("--max-pages", "0"), ("--formats", "docx"), ("--timeout", "0"),
                                   ("--engine", "tea"), ("--workers", "0"), ("--batch-pages", "0"), ("--unknown", "1"), ("--tasks", "")])
def test_flags_that_are_refused(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        inference.main(["--source", "x", *flags])
    assert stop.value.code == 2 and flags[0] in capsys.readouterr().err


@pytest.mark.parametrize("flags, message", [
    (["--source", "missing"], "missing: no such file or folder"),
    (["--output", "."], "inside the output folder"),
    (["--weights-dir", "."], "way out: --weights-dir weights for those that come"),
    (["--recognition-weights", "gone.pt"], "gone.pt: no such checkpoint"),
    (["--recognition-weights", "a.png"], "a.png: "),
    (["--detection-weights", "yolo.pt"], "yolo.pt: holds a model for yolo, not for detection"),
    (["--yolo-weights", "yolo.pt", "--tasks", "text"], "which the tasks text do not use"),
    (["--device", "abacus"], "is none of auto, cpu, cuda"),
    (["--engine", "onnx"], "detection.onnx: no such weights.*python -m models.export"),
    (["--engine", "onnx", "--detection-weights", "a.pt"], "a.pt: is no file for --engine onnx"),
    (["--int8"], "no MODEL.int8.onnx for --int8"),
    (["--output", "a.png/deeper"], "cannot be written"),
])
def test_bad_input(weights, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    page().save(tmp_path / "a.png")
    os.symlink(weights / "yolo.pt", tmp_path / "yolo.pt")
    with pytest.raises(DataError, match=message):
        inference.main(["--source", "a.png", "--output", "out", "--tasks", "text", "--weights-dir", str(weights),
                        *flags])
